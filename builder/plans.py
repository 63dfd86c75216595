"""Which graphs a checkpoint gives, the folders each is made of, and the NPU's forms of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import BuildError
from builder.layout import Layout
from builder.published import CLIPS, LICENCES, MULTISTEP, MULTISTEP_T2V, TRANSFORMER, without
from builder.storage import file_entry


@dataclass(frozen=True)
class Plan:
    """A graph of a component, and the folders it is made of, that of its own weights first.

    suffix: which ends the names of the folders of the monolithic mode's own weights; part: of the
    transformer; form: "first" also gives keys and values of text and the oldest frame, "later"
    takes those, see `engine.transformer`.
    """

    component: str
    graph: str
    folders: tuple[str, ...]
    optional: bool = False
    suffix: str = ""
    part: int = 0
    form: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """The folders whose weights are in the graph itself."""
        return self.folders[: 2 if self.graph == "text_encoder" else 1]

    @property
    def file(self) -> str:
        """The name of its file in the pack."""
        multistep = MULTISTEP if self.component.endswith(MULTISTEP) else ""
        return f"{'npu' if self.form else 'portable'}/{self.graph}{multistep}.onnx"


def plans(layout: Layout) -> Iterator[Plan]:
    """The graphs this checkpoint can give, in the order of use."""
    for component, folder in zip(("clip_l", "clip_g"), CLIPS, strict=True):
        twin = f"ssd_1b_{folder}"
        yield Plan(component, component, (folder, *filter(layout.has, [twin])))
        if not layout.copies.get(twin, True):
            own = f"first_frame_{component}"
            yield Plan(own, own, (twin,))
    if layout.has("ssd_1b_unet"):
        yield Plan("first_frame", "unet", ("ssd_1b_unet", *CLIPS))
        yield Plan("first_frame", "first_frame_decoder", ("ssd_1b_vae",))
    if layout.has("safety_checker"):
        yield Plan("safety_checker", "safety_checker", ("safety_checker",), optional=True)
    yield Plan("video_encoder", "video_encoder", ("causal_video_vae",))
    for suffix, short in (("", ""), (MULTISTEP_T2V, MULTISTEP)):
        net, adapter = f"{TRANSFORMER}{suffix}", f"context_adapter{suffix}"
        if not layout.has(net):
            continue
        texts, more = ("text_encoder_3", adapter), bool(suffix)
        yield Plan(f"text_encoder{short}", "text_encoder", texts, more, suffix)
        yield Plan(f"transformer{short}", "modulation", (net, *CLIPS), more, suffix)
        yield from transformer_plans(layout, suffix, f"transformer{short}")
    yield Plan("video_decoder", "video_decoder", ("causal_video_vae",))
    if layout.has("upscaler"):
        yield Plan("upscaler", "upscaler", ("upscaler",), optional=True)


def transformer_plans(
    layout: Layout, suffix: str = "", component: str = "transformer", form: str = ""
) -> Iterator[Plan]:
    """The transformer's graphs in order, or those of a `form` that remembers."""
    folders = (f"{TRANSFORMER}{suffix}", "text_encoder_3", f"context_adapter{suffix}", *CLIPS)
    name = "transformer" + (f"_{form}" if form else "")
    for part in range(layout.parts):
        graph = f"{name}_part{part}" if layout.parts > 1 else name
        yield Plan(component, graph, folders, bool(suffix), suffix, part, form)


def remembering(layout: Layout) -> list[Plan]:
    """Graphs for the NPU that take the transformer's place there: a unit's own tokens alone.

    For the one component whose modes may have a step a stage; with many steps and guidance there
    would be too much to remember.
    """
    if not layout.oldest_tokens:
        return []
    return [p for form in ("first", "later") for p in transformer_plans(layout, form=form)]


def htp_variant(layout: Layout, component: str, portable: Mapping[str, Any]) -> dict[str, Any]:
    """The NPU's graphs of a component: the portable files, at no cost of disk, with sizes fixed."""
    graphs = {
        name: without(entry, "fidelity_db")
        for name, entry in portable.items()
        if not name.startswith("transformer")
    }
    if component.removesuffix(MULTISTEP) != "transformer":
        return graphs
    forms = {whole: form_of(whole) for whole in portable if whole.startswith("transformer")}
    for stage in range(layout.geometry.stages):
        for whole, form in forms.items():
            if any(forms.values()) and not form:
                continue
            name = whole.replace("transformer", f"transformer_{stage}")
            graphs[name] = _fixed(portable[whole], _sizes(layout, stage, form))
    return graphs


def _sizes(layout: Layout, stage: int, form: str) -> dict[str, int]:
    """The dynamic sizes of the transformer at a stage, by name."""
    text = layout.manifest["tokenizers"]["t5"]["length"]
    known = layout.known_tokens(layout.geometry.units - 1, stage)
    past = text + known if form == "later" else 0
    tokens = layout.static_tokens(stage, layout.forgetful(stage) if form == "first" else None)
    tokens -= past - text if past else 0
    sizes = {"T": tokens, "N": text, "A": tokens + (past or text)}
    return sizes | {"P": past, "K": text + layout.oldest_tokens}


def _fixed(dynamic: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """A graph's entry with those of these sizes that it has."""
    sides = ("inputs", "outputs")
    named = {n for side in sides for spec in dynamic[side].values() for n in spec["shape"]}
    sizes = {name: size for name, size in sizes.items() if name in named}
    entry = without(dynamic, "fidelity_db") | {"dimensions": sizes}
    for side in sides:
        entry[side] = {
            name: spec | {"shape": [sizes.get(size, size) for size in spec["shape"]]}
            for name, spec in entry[side].items()
        }
    return entry


def form_of(graph: str) -> str:
    """Which of the transformer's forms a graph is of: "", first or later."""
    return next((form for form in ("first", "later") if f"_{form}" in graph), "")


def write_tokenizers(layout: Layout, pack: Path) -> dict[str, Any]:
    """Copy the tokenizers to the pack and return their manifest entries; raises BuildError."""
    if layout.tokenizer("tokenizer").get_vocab() != layout.tokenizer("tokenizer_2").get_vocab():
        raise BuildError(
            "tokenizer and tokenizer_2 have different vocabularies; copy the weights again."
        )
    entries = {}
    for name, folder in (("clip", "tokenizer"), ("t5", "tokenizer_3")):
        path = pack / "tokenizers" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(layout.tokenizer(folder).to_str(), encoding="utf-8")
        length = layout.manifest["tokenizers"][name]["length"]
        entries[name] = file_entry(path, pack) | {"length": length}
    return entries


def write_licences(layout: Layout, pack: Path) -> dict[str, Any]:
    """Copy what came with the weights on their licence; the manifest's `licences`, if any did."""
    entries = []
    for file in sorted(layout.root.iterdir()):
        if file.name.upper().startswith(LICENCES) and file.is_file():
            path = pack / "licences" / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, path)
            entries.append(file_entry(path, pack))
    return {"licences": entries} if entries else {}
