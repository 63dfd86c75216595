"""The export of a checkpoint to a portable pack, every graph beside its torch module."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from builder import layout, plans, storage, tokenizers
from builder.plans import (
    Plan,
    form_of,
    htp_variant,
    remembering,
    write_licences,
    write_tokenizers,
)
from builder.published import MULTISTEP, MULTISTEP_T2V
from engine.measures import snr_db
from engine.pack import MANIFEST, Graph, open_pack
from engine.session import Backend, available, load_graph
from training.export.graphs import traced
from training.export.source import ExportError, Source, Traced
from training.export.trace import write
from training.export.transformer import transformer_sample

FLOOR_DB = 60.0  # float32 sums at full size leave 84; the mini has 119 and more
HTP_FLOOR_DB = 35.0
RECORD = "export.json"  # in the checkpoint: what was exported from which weights

Report = Callable[[str], None]


def fidelity(
    reference: Sequence[np.ndarray],
    graph: Graph,
    path: Path,
    inputs: Mapping[str, Tensor],
    backend: Backend,
) -> float:
    """The worst output's signal-to-noise ratio against `reference`, in dB."""
    with load_graph(graph, path, backend, torch.get_num_threads()) as session:
        outputs = session.run(**{name: tensor.numpy() for name, tensor in inputs.items()})
    ratios = [snr_db(a, b) for a, b in zip(reference, outputs.values(), strict=True)]
    return round(min(ratios), 1)


def arrays(outputs: Any) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in (outputs if isinstance(outputs, tuple) else (outputs,))]


def export_portable(source: Source, plan: Plan, pack: Path) -> dict[str, Any]:
    """Write one portable graph, measure it and return its manifest entry; raises ExportError."""
    return export_traced(traced(source, plan), plan, pack)


def is_large(call: Traced) -> bool:
    """Whether a graph's weights go to a file of their own."""
    weights = sum(weight.numel() for weight in call.module.parameters())
    return 4 * weights > storage.EXTERNAL_ABOVE


def export_traced(call: Traced, plan: Plan, pack: Path) -> dict[str, Any]:
    """The same of a call."""
    path = pack / plan.file
    model, files = write(call, path, is_large(call))
    entry = storage.graph_entry(model, files, pack)
    del model
    with torch.no_grad():
        if call.reference is None:
            outputs = call.function(call.module, *call.inputs.values())
        else:
            outputs = call.reference()
    graph = storage.graph_of(plan.graph, entry)
    entry["fidelity_db"] = fidelity(arrays(outputs), graph, path, call.inputs, "cpu")
    if entry["fidelity_db"] < FLOOR_DB:
        raise ExportError(
            f"{plan.graph} is within {entry['fidelity_db']} dB of its module, and {FLOOR_DB} dB"
            " are needed; correct how it is traced."
        )
    return entry


def measure_htp(
    source: Source, component: str, name: str, entry: Mapping[str, Any], pack: Path
) -> float:
    """An NPU graph in emulation, nothing on the CPU, against the portable one, in dB."""
    suffix = MULTISTEP_T2V if component.endswith(MULTISTEP) else ""
    if not name.startswith("transformer_"):
        every = plans.plans(source)
        (plan,) = [p for p in every if (p.component, p.graph) == (component, name)]
        inputs = traced(source, plan).inputs
    else:
        stage, last = int(name.rsplit("_", 1)[1]), source.geometry.units - 1
        inputs = transformer_sample(source, suffix, unit=last, stage=stage, padded=True)
    graph, path = storage.graph_of(name, entry), pack / entry["file"]
    with load_graph(graph, path, "cpu", torch.get_num_threads()) as session:
        expected = session.run(**{key: tensor.numpy() for key, tensor in inputs.items()})
    return fidelity(list(expected.values()), graph, path, inputs, "npu-emulated")


def fingerprint(source: Source, plan: Plan) -> str:
    """What a graph depends on: its folders' files, the settings and the exporter."""
    files = [file for folder in plan.folders for file in sorted((source.root / folder).iterdir())]
    files += [Path(module.__file__) for module in (layout, plans, storage, tokenizers)]
    files += sorted(Path(__file__).parent.glob("*.py"))
    files += sorted((Path(__file__).parents[1] / "models").glob("*.py"))
    settings = ("geometry", "transformer", "first_frame", "vae", "prompt", "tokenizers")
    digest = hashlib.sha256(json.dumps([source.manifest[key] for key in settings]).encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def unchanged(entry: Mapping[str, Any] | None, pack: Path) -> bool:
    """Whether a recorded graph is still in the pack, byte for byte."""
    if entry is None:
        return False
    files = [entry, *entry.get("data", [])]
    return all(
        (pack / file["file"]).is_file()
        and storage.file_entry(pack / file["file"], pack)["sha256"] == file["sha256"]
        for file in files
    )


def _check_room(source: Source, pack: Path, compiled: bool) -> None:
    """Raise ExportError where disk or memory will not do; factors as measured at full size."""
    folders = [source.weights(path.name) for path in source.root.iterdir() if path.is_dir()]
    home = next(path for path in (pack.absolute(), *pack.absolute().parents) if path.exists())
    there = sum(file.stat().st_size for file in pack.rglob("*") if file.is_file())
    room = {
        "free disk": (sum(folders) * (5.5 if compiled else 1.5) - there, disk_usage(home).free),
        "memory": (max(folders) * (6.0 if compiled else 4.0), _memory()),
    }
    for what, (wanted, free) in room.items():
        if free < wanted:
            raise ExportError(
                f"The export to {pack} needs {wanted / 1e9:.1f} GB of {what}, and"
                f" {free / 1e9:.1f} GB are there; use another disk or machine."
            )


def _memory() -> int:
    """Bytes of memory the machine has."""
    return int(psutil.virtual_memory().total)


@dataclass
class _Export:
    """One run: `record` is what earlier ones have noted by graph and what it depends on."""

    source: Source
    pack: Path
    report: Report
    record: dict[str, Any] = field(default_factory=dict)

    def portable(self, every: Sequence[Plan]) -> dict[tuple[str, str], dict[str, Any]]:
        """The entries of these graphs by component and name, each made or kept."""
        begun, done, kept_weights, entries = time.monotonic(), 0, 0, {}
        weights = [sum(map(self.source.weights, plan.folders[:1])) for plan in every]
        for plan, size in zip(every, weights, strict=True):
            key, mark = f"{plan.component}/{plan.graph}", fingerprint(self.source, plan)
            started, entry = time.monotonic(), self.record.get(key, {}).get(mark)
            if entry is None or not unchanged(entry, self.pack):
                entry = export_portable(self.source, plan, self.pack)
                gc.collect()
                done += size
                left = sum(weights) - kept_weights - done
                minutes = math.ceil((time.monotonic() - begun) * left / max(done, 1) / 60)
                files = (entry["size"] + sum(f["size"] for f in entry.get("data", []))) / 1e6
                spent = f"{time.monotonic() - started:.0f} s; about {minutes} min left"
                self.report(f"{key}: {entry['fidelity_db']} dB, {files:.1f} MB, {spent}")
            else:
                kept_weights += size
                self.report(f"{key}: kept")
            self.note(key, mark, entry)
            entries[plan.component, plan.graph] = entry
        return entries

    def htp(self, component: str, portable: Mapping[str, Any], emulate: bool) -> dict[str, Any]:
        """The NPU's graphs of a component, measured in emulation or as they were before."""
        graphs = htp_variant(self.source, component, portable)
        for name, entry in graphs.items():
            key = f"{component}/htp/{name}"
            mark = json.dumps([entry["sha256"], entry.get("dimensions")])
            measured = self.record.get(key, {}).get(mark)
            if measured is None and emulate and "_part" not in name and not form_of(name):
                started = time.monotonic()
                measured = measure_htp(self.source, component, name, entry, self.pack)
                spent = f"{time.monotonic() - started:.0f} s"
                self.report(f"{key}: {measured} dB in emulation, {spent}")
                if measured < HTP_FLOOR_DB:
                    raise ExportError(
                        f"{name} keeps {measured} dB on the emulated NPU, and {HTP_FLOOR_DB} dB"
                        " are needed; use other weights."
                    )
                self.note(key, mark, measured)
            entry["fidelity_db"] = measured
        return graphs

    def note(self, key: str, mark: str, made: Any) -> None:
        self.record[key] = {mark: made}
        (self.source.root / RECORD).write_text(json.dumps(self.record, indent=1))


def export_pack(
    root: Path,
    pack: Path,
    emulate: bool = True,
    report: Report = print,
    remember: bool = False,
    multistep: bool = True,
    blocks: int = layout.BLOCKS,
) -> None:
    """Export the checkpoint at `root` to the folder `pack`; raises ExportError.

    emulate: also measure the NPU's graphs where their emulation is available. remember: give the
    NPU graphs of its own for the transformer, which take more disk. multistep: with the monolithic
    mode's own weights. blocks: of the transformer in one graph.
    """
    source = Source(root, multistep, blocks)
    noted = root / RECORD
    run = _Export(
        source, pack, report, json.loads(noted.read_text("utf-8")) if noted.exists() else {}
    )
    tokenizers_of_pack = write_tokenizers(source, pack)
    _check_room(source, pack, compiled=remember)
    shown = list(plans.plans(source))
    entries = run.portable([*shown, *(remembering(source) if remember else [])])
    components: dict[str, Any] = {}
    for plan in shown:
        part = components.setdefault(
            plan.component, {"optional": plan.optional, "variants": {"portable": {"graphs": {}}}}
        )
        entry = entries[plan.component, plan.graph]
        part["variants"]["portable"]["graphs"][plan.graph] = entry
    emulate = emulate and "npu-emulated" in available()
    for component, part in components.items():
        own = {graph: entry for (name, graph), entry in entries.items() if name == component}
        if graphs := run.htp(component, own, emulate):
            part["variants"]["htp"] = {"graphs": graphs}
    manifest = source.manifest | write_licences(source, pack)
    manifest |= {"tokenizers": tokenizers_of_pack, "components": components}
    (pack / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    with open_pack(pack) as opened:
        named = {pack / file.name for file in opened.files}
        for file in (*pack.glob("portable/*"), *pack.glob("npu/*")):  # of an earlier export
            if file not in named:
                file.unlink()
        size = sum(file.size for file in opened.files)
        title = f"{opened.name} {opened.version}"
        report(f"{pack}: {title}, {size / 1e6:.1f} MB, pack {opened.pack_hash[:12]}")
