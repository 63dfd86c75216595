"""The export of a full-size checkpoint for Snapdragon X Elite, and what it left of every graph.

`python -m benchmarks.full_size CHECKPOINT WORK -o docs/full_size.json`, with the checkpoint by
`python -m training.random_checkpoint CHECKPOINT --full`, runs `python -m training.export CHECKPOINT
-o WORK/pack --target snapdragon-x-elite --patience inf` to its end and reads what that noted: each
graph beside its torch module, compiled, and in emulation beside itself on the CPU, which takes
hours. Two blocks of the transformer's largest stage are emulated besides. A run that was cut off
goes on; `--read` only reads what there is; `--table FILE` prints a file as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import cost_graphs
from benchmarks.cost import disk, memory, rows, stored
from builder.contexts.compiler import compile_graphs
from builder.quantise.quantiser import Quantiser
from builder.storage import graph_entry, graph_of
from engine.latents import history, image_pyramid
from engine.measures import snr_db
from engine.session import Array, load_graph, qnn_sdk
from engine.tokens import transformer_inputs
from training.export.pack import RECORD
from training.export.source import Traced
from training.export.trace import write
from training.models.mmdit import PyramidMMDiT

Found = dict[str, Any]
Values = dict[str, Array]
NOISES = 4  # that show how large activations become; of one, ranges are too narrow by 10 dB
DB = ("emulated_db", "cpu_db")


def run(checkpoint: Path, pack: Path, *more: str) -> Found:
    """The whole command; its seconds and the most memory that one of its processes had."""
    command = ["training.export", str(checkpoint), "-o", str(pack), *more]
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", *command, "--target", "snapdragon-x-elite"], stdout=sys.stderr
    )
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"the export ended with {os.waitstatus_to_exitcode(status)}")
    seconds = round(time.perf_counter() - started)
    return {"seconds": seconds, "peak_gb": round(used.ru_maxrss * 1024 / 1e9, 2)}


@torch.no_grad()
def two_blocks(stage: int, folder: Path) -> Found:
    """Two blocks of the published width over what a unit does not remember.

    Ranges are those of some noise, the dB those of another, beside torch in float32.
    """
    torch.manual_seed(0)
    net = PyramidMMDiT(num_layers=2).half_split_().eval()
    for weight in net.parameters():
        weight.copy_((torch.randn_like(weight) * 0.02).half())
    *others, call = [_block_inputs(net, stage, seed) for seed in range(NOISES + 1)]
    path, names = folder / "later.onnx", ("flow", "tokens")
    model, files = write(Traced(net, _later, call, names, opset=23), path, external=True)
    entry = graph_entry(model, files, folder)
    expected = dict(zip(names, _arrays(_later(net, *call.values())), strict=True))
    samples = [dict(zip(other, _arrays(other.values()), strict=True)) for other in others]
    inputs = dict(zip(call, _arrays(call.values()), strict=True))
    return _in_emulation(entry, samples, inputs, expected, folder)


def _arrays(tensors: Iterable[Tensor]) -> list[Array]:
    return [tensor.numpy() for tensor in tensors]


def _in_emulation(
    entry: Found, samples: list[Values], inputs: Values, expected: Values, folder: Path
) -> Found:
    """What 8 bits and half precision leave of a graph in `folder`."""
    with Quantiser(folder / entry["file"], {}, samples, folder) as quantiser:
        quantised = quantiser.write()
    (compiled,) = compile_graphs([(quantised, {}, folder / "context.onnx")], shared=False)
    started = time.perf_counter()
    with load_graph(graph_of("part", entry), compiled.files[0], "npu-emulated") as session:
        outputs = session.run(**inputs)
    db = min(snr_db(value, outputs[name]) for name, value in expected.items())
    return {
        "precision": "w8a16",
        "nodes": compiled.nodes,
        "compile_s": compiled.seconds,
        "compile_peak_gb": round(compiled.peak / 1e9, 2),
        "context_mb": round(compiled.files[1].stat().st_size / 1e6, 1),
        "emulated_db": {"w8a16": round(db, 1)},
        "emulated_s": round(time.perf_counter() - started),
    }


def _later(
    net: PyramidMMDiT, patches: Tensor, positions: Tensor, *others: Tensor
) -> tuple[Tensor, ...]:
    *tables, rows, keys, values = others
    before = list(zip(keys, values, strict=True))
    tokens, _ = net.blocks(net.embed(patches, positions), None, rows[:-2], *tables, before)
    return net.project(tokens, rows[-2:]), tokens


def _block_inputs(net: PyramidMMDiT, stage: int, seed: int) -> dict[str, Tensor]:
    """Noise for the last unit, whose history is full."""
    config, g = net.token_config, cost_graphs.GEOMETRY
    shape, unit = (g.latent_channels, g.units, g.latent_height, g.latent_width), g.units - 1
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    pyramid = image_pyramid(rng.standard_normal(shape, np.float32), g.stages)
    made = transformer_inputs(
        history(pyramid, unit, stage),
        rng.standard_normal(pyramid[stage][:, :1].shape, np.float32),
        np.ones(cost_graphs.TEXT),
        config,
    )
    past = cost_graphs.past_tokens(unit, stage)
    image = past - cost_graphs.TEXT
    rows = torch.randn(net.modulation_rows, config.width, generator=noise)
    size = (2, 2, net.config["num_attention_heads"], past, config.head_dim)
    keys, values = torch.randn(size, generator=noise)
    return {
        "patches": torch.from_numpy(made.patches[image:]),
        "positions": torch.from_numpy(made.positions[image:]),
        "rope_cos": torch.from_numpy(made.rope_cos[past:]),
        "rope_sin": torch.from_numpy(made.rope_sin[past:]),
        "mask": torch.from_numpy(made.mask[past:]),
        "modulation": rows,
        "past_keys": keys,
        "past_values": values,
    }


def in_part(work: Path) -> dict[str, Found]:
    """The transformer's largest stage by two of its blocks."""
    last = cost_graphs.GEOMETRY.stages - 1
    with tempfile.TemporaryDirectory(dir=work) as folder:
        return {f"transformer_{last}_later, two blocks": two_blocks(last, Path(folder))}


def noted(file: Path) -> dict[str, Found]:
    """What the export wrote down of each graph, by component and graph."""
    return {
        key: next(iter(marks.values()))
        for key, marks in json.loads(file.read_text("utf-8")).items()
    }


def size(entry: Found) -> int:
    return int(entry["size"]) + sum(int(file["size"]) for file in entry.get("data", []))


def graphs(checkpoint: Path, pack: Path) -> dict[str, Found]:
    """Every graph's figures, the portable ones and those of its context."""
    found: dict[str, Found] = {}
    for key, entry in noted(checkpoint / RECORD).items():
        if isinstance(entry, dict):
            found[key] = {
                "portable_db": entry["fidelity_db"],
                "portable_mb": round(size(entry) / 1e6, 1),
            }
    found |= {key: found.get(key, {}) | told for key, told in contexts_of(pack).items()}
    return found


def contexts_of(pack: Path) -> dict[str, Found]:
    """The figures of every compiled graph."""
    found: dict[str, Found] = {}
    for key, entry in noted(pack.with_name(f"{pack.name}.portable") / "compiled.json").items():
        shared = key.endswith(" shared")
        every = list(entry.values()) if shared else [entry]
        one = every[0]
        told: Found = {"precision": one["precision"]}
        if "nodes" in one:
            files = {file["file"]: size(e) for e in every for file in e["data"]}
            told |= {
                "nodes": sum(e["nodes"] for e in every),
                "compile_s": one["seconds"],
                "compile_peak_gb": round(one["peak"] / 1e9, 2),
                "context_mb": round(sum(files.values()) / 1e6, 1),
            }
        if not shared:
            told |= {"emulated_db" if one["emulated"] else "cpu_db": one["tried"]}
            told |= {"spent_s": round(one["spent"]), "eight_bit": round(one["eight_bit"], 3)}
        found[key] = told
    return found


def table(told: Found) -> str:
    """Markdown of the file."""
    columns = {
        "portable_db": "portable, dB",
        "portable_mb": "MB",
        "precision": "compiled as",
        "nodes": "nodes, all on the NPU",
        "context_mb": "context, MB",
        "compile_s": "compiled in, s",
        "compile_peak_gb": "GB of it",
        "emulated_db": "emulated, dB",
        "cpu_db": "on the CPU, dB",
    }
    lines = [f"| graph | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for name, one in (told["graphs"] | told["in_part"]).items():
        tried = {key: ", ".join(map(_tried, one.get(key, {}).items())) for key in DB}
        cells = [str((one | tried).get(key, "")) for key in columns]
        lines.append(f"| {name.split('/')[-1]} | {' | '.join(cells)} |")
    found = rows(stored(told))
    held, most = disk(found)["stored_bytes"] / 1e9, memory(found)["peak_bytes"] / 1e9
    hours, peak = told["seconds"] / 3600, told["peak_gb"]
    lines += ["", f"A pack's graphs: {held:.2f} GB. Held at most, activations too: {most:.2f} GB."]
    lines += [f"The whole export took {hours:.1f} hours, with {peak:.1f} GB at most."]
    return "\n".join(lines)


def _tried(scheme: tuple[str, float | None]) -> str:
    return f"{scheme[1]} ({scheme[0]})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, help="print this file as Markdown, nothing else")
    parser.add_argument("checkpoint", type=Path, nargs="?", default=Path())
    parser.add_argument("work", type=Path, nargs="?", default=Path())
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--clips", type=int, default=6, help="to calibrate with")
    parser.add_argument("--read", action="store_true", help="do not run the export")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.table.read_text("utf-8"))))
        return
    pack = options.work / "pack"
    told: Found = {"seconds": 0, "peak_gb": 0.0}
    if options.output.exists():
        told |= json.loads(options.output.read_text("utf-8"))
    if not options.read:
        options.work.mkdir(parents=True, exist_ok=True)
        more = "--clips", str(options.clips), "--patience", "inf"
        spent = run(options.checkpoint, pack, *more)
        told["seconds"] += spent["seconds"]
        told["peak_gb"] = max(told["peak_gb"], spent["peak_gb"])
        told["in_part"] = in_part(options.work)
    told |= {"qnn": qnn_sdk(), "clips": options.clips}
    told["graphs"] = graphs(options.checkpoint, pack)
    options.output.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
