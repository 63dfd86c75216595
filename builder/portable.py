"""A checkpoint's portable graphs, each filled into its template; what is done is not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import BuildError
from builder.layout import Layout
from builder.plans import (
    Plan,
    htp_variant,
    plans,
    remembering,
    write_licences,
    write_tokenizers,
)
from builder.templates import Filled, Templates, home_of
from engine.pack import MANIFEST

RECORD = "filled.json"
# What decides a graph beside names and shapes, where a config says it.
STRUCTURE = (
    "num_attention_heads attention_head_dim num_heads num_layers num_hidden_layers patch_size"
    " norm_num_groups hidden_act feed_forward_proj transformer_layers_per_block d_kv"
    " layers_per_block act_fn"
).split()


@dataclass(frozen=True)
class Filling:
    """One graph of a pack about to be filled: what it is of, and the bytes its weights have."""

    plan: Plan
    weights: int

    @property
    def key(self) -> str:
        """Its name in records and reports."""
        return f"{self.plan.component}/{self.plan.graph}"


class Portable:
    """The portable pack of a checkpoint, made in `pack`; safe to stop and to start again.

    remember: also the NPU's own forms of the transformer.
    """

    def __init__(self, layout: Layout, templates: Templates, pack: Path, remember: bool) -> None:
        """Checks every folder that is used; raises BuildError before anything is written."""
        self.layout, self.templates, self.pack = layout, templates, pack
        self.filled = Filled(layout.root, templates)
        self.shown = list(plans(layout))
        self.own = remembering(layout) if remember else []
        check(layout, templates, self.filled, [*self.shown, *self.own])
        self.record: dict[str, Any] = {}
        if (pack / RECORD).exists():
            self.record = json.loads((pack / RECORD).read_text(encoding="utf-8"))

    def fillings(self) -> list[Filling]:
        """Every graph, in the order they are filled."""
        return [Filling(p, self.filled.folder(p.folders[0]).size) for p in self.every]

    @property
    def every(self) -> list[Plan]:
        """The pack's plans."""
        return [*self.shown, *self.own]

    def is_done(self, filling: Filling) -> bool:
        """Whether a graph is there already, of these weights and this template."""
        entry = self.record.get(filling.key, {}).get(self._mark(filling.plan))
        return entry is not None and all(
            (self.pack / file["file"]).is_file()
            and (self.pack / file["file"]).stat().st_size == file["size"]
            for file in [entry, *entry.get("data", [])]
        )

    def fill(self, filling: Filling) -> dict[str, Any]:
        """Fill one graph, or keep it; its entry in the manifest."""
        mark = self._mark(filling.plan)
        if not self.is_done(filling):
            entry = self.filled.fill(filling.plan, self.layout.blocks, self.pack)
            self.record[filling.key] = {mark: entry | {"fidelity_db": None}}
            partial = self.pack / f"{RECORD}.part"
            partial.write_text(json.dumps(self.record, indent=1), encoding="utf-8")
            partial.replace(self.pack / RECORD)
        made: dict[str, Any] = self.record[filling.key][mark]
        return made

    def finish(self) -> dict[str, Any]:
        """Write the manifest, which is returned, when every graph is filled."""
        entries = {(f.plan.component, f.plan.graph): self.fill(f) for f in self.fillings()}
        components: dict[str, Any] = {}
        for plan in self.shown:
            part = components.setdefault(
                plan.component,
                {"optional": plan.optional, "variants": {"portable": {"graphs": {}}}},
            )
            entry = entries[plan.component, plan.graph]
            part["variants"]["portable"]["graphs"][plan.graph] = entry
        for component, part in components.items():
            own = {graph: entry for (name, graph), entry in entries.items() if name == component}
            graphs = htp_variant(self.layout, component, own)
            if graphs:
                part["variants"]["htp"] = {"graphs": graphs}
        manifest = self.layout.manifest | {
            "tokenizers": write_tokenizers(self.layout, self.pack),
            **write_licences(self.layout, self.pack),
            "components": components,
        }
        text = json.dumps(manifest, indent=1) + "\n"
        (self.pack / MANIFEST).write_text(text, encoding="utf-8")
        return manifest

    def _mark(self, plan: Plan) -> str:
        """What a filled graph depends on: its template, and size and time of the weights' files."""
        home = home_of(plan, self.layout.blocks)
        inputs: list[Any] = [self.templates.digest(home)]
        for folder in plan.sources:
            for file in self.filled.folder(folder).files:
                status = file.stat()
                inputs.append([str(file.relative_to(self.layout.root)), status.st_size])
                inputs[-1].append(status.st_mtime_ns)
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def check(layout: Layout, templates: Templates, filled: Filled, every: Iterable[Plan]) -> None:
    """Raise BuildError unless the checkpoint is what the templates were derived from.

    Every tensor of the folders used by name and shape, what configs say of a graph's structure,
    and the sizes that graphs have.
    """
    every = list(every)
    made = templates.layout["manifest"]
    for name, expected in made.items():
        if json.loads(json.dumps(layout.manifest[name])) != expected:
            raise BuildError(
                "The {name} of {root} is not that of the published model; export it with "
                "training.export.",
                root=layout.root,
                name=name,
            )
    for plan in every:
        if not templates.has(plan, layout.blocks):
            templates.read(plan, layout.blocks)  # says so
    used = {folder: plan.suffix for plan in every for folder in plan.sources}
    for folder, suffix in used.items():
        templates.check(folder, filled.folder(folder), suffix)
        known = templates.layout["folders"][templates.known(folder, suffix)]["config"]
        config = layout.config(folder)
        for key in STRUCTURE:
            if key in known and key in config and config[key] != known[key]:
                raise BuildError(
                    "{key} in config.json of {folder} is {got} instead of {wanted}; copy the "
                    "weights again.",
                    folder=folder,
                    key=key,
                    wanted=known[key],
                    got=config[key],
                )


def choose(layout: Layout, paths: Sequence[Path]) -> Templates:
    """The first set of templates that a checkpoint fits; raises the last set's BuildError."""
    problem = BuildError("The templates are missing; install the studio again.")
    for path in paths:
        try:
            templates = Templates(path)
            check(layout, templates, Filled(layout.root, templates), plans(layout))
        except BuildError as error:
            problem = error
        else:
            return templates
    raise problem
