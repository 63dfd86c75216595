"""Every full-size graph through the export and Qualcomm's compiler, on random weights.

`python -m benchmarks.full_size CHECKPOINT WORK -o docs/full_size.json`, with the checkpoint by
`python -m training.random_checkpoint CHECKPOINT --full`: each graph is exported and compared with
its torch module, then compiled for Snapdragon X Elite with the precision it would have in a pack,
the transformer's stages in one context for each part of its blocks; graphs of up to `--emulate`
GMAC are also run in emulation. Each step has a process of its own; what the file says already is
not done again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.cost import disk, memory, rows, stored
from engine.pack import Graph
from engine.session import load_graph, qnn_sdk
from training import contexts, export
from training.onnx_graphs import graph_of, snr_db
from training.quantise import quantise

Found = dict[str, Any]
EIGHT_BIT = ("unet", "first_frame_decoder", "modulation")


def peak() -> float:
    """The most memory this process had, in GB."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return round(int(kilobytes) * 1024 / 1e9, 2)


def plan_of(source: export.Source, name: str) -> export.Plan:
    every = [*export.plans(source), *export.remembering(source)]
    (plan,) = [p for p in every if f"{p.component}/{p.graph}" == name]
    return plan


def portable(source: export.Source, name: str, work: Path) -> Found:
    """Export one graph, compare it with its module."""
    started = time.perf_counter()
    entry = export.export_portable(source, plan_of(source, name), work)
    seconds = round(time.perf_counter() - started)
    size = entry["size"] + sum(file["size"] for file in entry.get("data", []))
    return {
        "entry": entry,
        "portable_db": entry["fidelity_db"],
        "portable_mb": round(size / 1e6, 1),
        "seconds": seconds,
        "peak_gb": peak(),
    }


def static(source: export.Source, name: str, entry: Found) -> dict[str, Found]:
    """The NPU's entries of an exported graph: itself, or one for each stage."""
    component, graph = name.split("/")
    return export.htp_variant(source, component, {graph: entry})


def traced(source: export.Source, name: str, stage: int | None) -> dict[str, Any]:
    """Inputs of a graph as the NPU has it."""
    if stage is None:
        inputs = plan_of(source, name).trace(source).inputs
    else:
        part, form = int(name.partition("_part")[2] or 0), _form(name)
        inputs = export.transformer(source, "", part, stage, form).inputs
    return {key: tensor.numpy() for key, tensor in inputs.items()}


def _form(name: str) -> str:
    return next(form for form in ("first", "later") if form in name)


def precision(graph: str) -> str:
    """How a graph is compiled, as `training.contexts` does it where the floors are kept."""
    whole = graph.partition("_part")[0]
    if whole in contexts.WEIGHTS_ALONE:
        return "w8"
    return "w8a16" if whole in EIGHT_BIT or "transformer" in whole else "fp16"


def quantised(source: export.Source, name: str, work: Path) -> Found:
    """An exported graph with 8-bit weights, for each stage; ranges of one sample."""
    started = time.perf_counter()
    entry = json.loads((work / f"{name.replace('/', '-')}.json").read_text())
    for graph, one in static(source, name, entry).items():
        stage = re.search(r"transformer_(\d)", graph)
        inputs = traced(source, name, int(stage[1]) if stage else None)
        folder = work / "quantised" / graph
        folder.mkdir(parents=True, exist_ok=True)
        samples = None if precision(graph) == "w8" else [inputs]
        quantise(work / one["file"], one.get("dimensions", {}), samples, folder)
    return {"quantise_s": round(time.perf_counter() - started), "quantise_peak_gb": peak()}


def emulated(source: export.Source, name: str, stage: int | None, work: Path) -> Found:
    """A compiled graph in emulation beside the portable one on the CPU."""
    component, graph = name.split("/")
    given = traced(source, name, stage)
    entry = json.loads((work / f"{component}-{graph}.json").read_text())
    one = graph if stage is None else graph.replace("transformer", f"transformer_{stage}")
    spec: Graph = graph_of(one, static(source, name, entry)[one])
    with load_graph(spec, work / entry["file"], "cpu") as session:
        expected = session.run(**given)
    started = time.perf_counter()
    with load_graph(spec, work / "contexts" / f"{one}.onnx", "npu-emulated") as session:
        outputs = session.run(**given)
    worst = min(snr_db(value, outputs[key]) for key, value in expected.items())
    return {"emulated_db": round(worst, 1), "emulated_s": round(time.perf_counter() - started)}


def child(*arguments: str) -> Found:
    """A step in a process of its own; what it says, or why it failed."""
    command = [sys.executable, "-m", "benchmarks.full_size", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1][:300] if lines else f"ended with {done.returncode}"}
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def compiled(name: str, entries: dict[str, Found], work: Path) -> Iterator[tuple[str, Found]]:
    """Compile what came of a graph: its stages together, and alone those that can be run here."""
    jobs = {}
    for graph, entry in entries.items():
        source, sizes = work / entry["file"], entry.get("dimensions", {})
        if precision(graph) != "fp16":
            source, sizes = work / "quantised" / graph / "quantised.onnx", {}
        jobs[graph] = (source, sizes)
    alone = [graph for graph in jobs if len(jobs) == 1 or graph.endswith("_part0")]
    for group in [[graph] for graph in alone] + ([list(jobs)] if len(jobs) > 1 else []):
        shared = len(group) > 1
        suffix = "_shared" if shared else ""
        key = f"{name} shared" if shared else f"{name.split('/')[0]}/{group[0]}"
        chosen = [(*jobs[g], work / "contexts" / f"{g}{suffix}.onnx") for g in group]
        try:
            done = contexts.compile_graphs(chosen, shared)
        except (RuntimeError, ValueError) as error:
            yield key, {"failed": str(error)[:300]}
            continue
        yield key, {"precision": precision(group[0])} | _told(done)


def _told(done: list[contexts.Compiled]) -> Found:
    sizes = {one.files[1]: one.files[1].stat().st_size for one in done}
    return {
        "htp_nodes": "all",
        "compile_s": round(sum(one.seconds for one in done), 1),
        "compile_peak_gb": round(done[-1].peak / 1e9, 2),
        "context_mb": round(sum(sizes.values()) / 1e6, 1),
    }


def table(told: Found) -> str:
    """Markdown of the file."""
    columns = {
        "portable_db": "portable, dB",
        "portable_mb": "MB",
        "seconds": "exported in, s",
        "peak_gb": "GB",
        "precision": "compiled as",
        "htp_nodes": "nodes on the NPU",
        "context_mb": "context, MB",
        "compile_s": "compiled in, s",
        "compile_peak_gb": "GB of it",
        "emulated_db": "emulated, dB",
    }
    lines = [f"| graph | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for name, one in told["graphs"].items():
        cells = [str(one.get(key, "")) for key in columns]
        if "failed" in one:
            cells[-1] = f"failed: {one['failed'][:80]}"
        lines.append(f"| {name.removeprefix('transformer/')} | {' | '.join(cells)} |")
    found = rows(stored(told))
    size, held = disk(found)["stored_bytes"] / 1e9, memory(found)["peak_bytes"] / 1e9
    lines += ["", f"A pack's graphs: {size:.2f} GB. Held at most, activations too: {held:.2f} GB."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, help="print this file as Markdown, nothing else")
    parser.add_argument("checkpoint", type=Path, nargs="?", default=Path())
    parser.add_argument("work", type=Path, nargs="?", default=Path())
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--emulate", type=float, default=100, help="up to so many GMAC")
    parser.add_argument("--graphs", nargs="+", help="only these, as component/graph")
    parser.add_argument("--one", help="(a child) export this graph")
    parser.add_argument("--quantise", help="(a child) give this graph 8-bit weights")
    parser.add_argument("--run", nargs=2, help="(a child) run this graph and stage in emulation")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text())))
        return
    source = export.Source(options.checkpoint)
    if options.one:
        found = portable(source, options.one, options.work)
        path = options.work / f"{options.one.replace('/', '-')}.json"
        path.write_text(json.dumps(found.pop("entry")))
        print(json.dumps(found))
        return
    if options.quantise:
        print(json.dumps(quantised(source, options.quantise, options.work)))
        return
    if options.run:
        name, stage = options.run
        number = None if stage == "-" else int(stage)
        print(json.dumps(emulated(source, name, number, options.work)))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    told: Found = {"qnn": qnn_sdk(), "graphs": {}}
    if options.output.exists():
        told = json.loads(options.output.read_text())
    graphs = told["graphs"]

    def tell(name: str, found: Found) -> None:
        kept = {key: value for key, value in graphs.get(name, {}).items() if key != "failed"}
        graphs[name] = kept | found
        options.output.write_text(json.dumps(told, indent=1) + "\n")
        print(name, found, flush=True)

    macs = {row.graph: row.ours.macs / 1e9 for row in rows({})}
    paths = (str(options.checkpoint), str(options.work))
    groups: dict[str, dict[str, Found]] = {}
    for plan in [*export.plans(source), *export.remembering(source)]:
        name = f"{plan.component}/{plan.graph}"
        if options.graphs and name not in options.graphs:
            continue
        if "portable_db" not in graphs.get(name, {}):
            tell(name, child(*paths, "--one", name))
        path = options.work / f"{plan.component}-{plan.graph}.json"
        if "failed" in graphs[name] or not path.exists():
            continue
        if re.search(r"/transformer(_part|$)", name):
            continue  # the CPU's form
        entries = static(source, name, json.loads(path.read_text()))
        if (
            any(precision(graph) != "fp16" for graph in entries)
            and "quantise_s" not in graphs[name]
        ):
            tell(name, child(*paths, "--quantise", name))
        together = re.sub("_(first|later)", "", name)
        groups[together] = groups.get(together, {}) | entries
        if "_first" in name:
            continue  # compiled with the later form
        entries = groups[together]
        if "context_mb" not in graphs.get(f"{together} shared" if len(entries) > 1 else name, {}):
            for key, found in compiled(together, entries, options.work):
                tell(key, found)
        for graph in entries:
            key, whole = f"{plan.component}/{graph}", graph.partition("_part")[0]
            parts = source.decoder_parts if whole == "first_frame_decoder" else source.parts
            cost = macs[whole] / (parts if "_part" in graph else 1)
            wanted = cost <= options.emulate and "context_mb" in graphs.get(key, {})
            if wanted and "emulated_db" not in graphs[key]:
                stage = re.search(r"transformer_(\d)", graph)
                dynamic = re.sub(r"transformer_\d", "transformer", graph)
                source_name = f"{plan.component}/{dynamic}"
                tell(key, child(*paths, "--run", source_name, stage[1] if stage else "-"))


if __name__ == "__main__":
    main()
