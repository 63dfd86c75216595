"""What the full-size model costs on Snapdragon X Elite, before anyone has run it there:
`python -m benchmarks.cost`.

Prints JSON, with `--table` Markdown: MACs, weight and activation bytes of a run of every graph at
640x1024 and 49 frames, counted on torch modules without weights; the paper's form of it counted in
the same way, with its measured latency; and what follows for a clip of ours.

Time: a run of our graph takes what Table 7 of the paper measured for the module, times the larger
of two ratios of our form to the paper's: MACs, and bytes moved (weights read, activations written).
A time that is any sum or maximum of terms in proportion to the two cannot be more. `ms_by_macs` is
with the ratio of the MACs alone. So the paper's forms predict the paper's own seconds. Modulation,
for which the paper has no row, is measured by the coarse stage's, which holds one. Frames are
upscaled one by one, 49 times. What runs on the host is left out.

Memory: graphs in the order of `engine/pipeline.py`, each freed after its last use; weights once, as
the contexts of docs/full_size.json store them, and the activations that are alive at once in the
order of the module. Where Table 7 has the peak of a module, `as_the_paper_bytes` is that, times our
weights to the paper's.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import cost_graphs as graphs
from benchmarks.cost_graphs import GEOMETRY, Cost

# Milliseconds a run on X Elite: Table 7 of arXiv 2511.06055. The video
# decoder's row is the whole clip, here a seventh of it.
TABLE_7 = {
    "clip_l": 5.9,
    "clip_g": 43.6,
    "distil_t5": 3.0,
    "video_encoder": 941.7,
    "video_decoder": 143.0 / 7,
    "unet": 151.5,
    "first_frame_decoder": 378.6,
    "transformer_0": 54.9,
    "transformer_1": 101.4,
    "transformer_2": 590.2,
    "upscaler": 4.9,
}
UNITS = GEOMETRY.units - 1  # that the transformer makes in hybrid mode, one step a stage
LAST_STAGE = GEOMETRY.stages - 1
PAPER_RUNS = {"video_decoder": GEOMETRY.units, "unet": 4, "upscaler": GEOMETRY.frames}
PAPER_RUNS |= {f"transformer_{stage}": UNITS for stage in range(GEOMETRY.stages)}
# Most bytes held on X Elite, where Table 7 has it.
PAPER_PEAK = {"clip_g": 2.64e9, "unet": 2.57e9, "transformer_2": 3.25e9}
MEASURED = Path(__file__).parents[1] / "docs" / "full_size.json"
# What this project aims for on X Elite.
TARGET = {"seconds": 5.8, "resident_bytes": 2.2e9, "disk_bytes": 5.0e9}
# The headline of arXiv 2511.06055, and the parameters of the published weights, counted.
PUBLISHED_PARAMETERS, COUNTED_PARAMETERS = 4.945e9, 4942.3e6
PAPER_FORM = {
    "distil_t5": "without the context adapter, which is part of every step",
    "video_encoder": "3-D convolutions over two frames of zeros and the picture",
    "video_decoder": "TGrow's 1x1 convolution after the enlargement; all 56 frames, 7 dropped",
    "transformer": "context adapter and modulation in every step, all histories as the last one's",
    "precision": "8-bit weights but for text encoders and context adapter",
}
UNKNOWN = (
    "Nothing here was run on a device; no time of ours is measured.",
    "How the paper's UNet, first-frame decoder, CLIP and attention are written: taken as ours.",
    "Which QuickSRNet the paper runs: taken as Small, as ours is.",
    "Whether the paper's encoder computes on its padding: taken so, as the published code does;"
    " that is 1.1 TMAC/s, where UNet and first-frame decoder reach 8.",
    "Work between graphs, loading and the first touch of weights: left out, as Table 7 does.",
    "Table 7's rows for the first frame add up to more than the 0.82 s that the paper names.",
    "Bandwidth, tiling, fusion and spilling on the NPU: only ratios of the same kind are used.",
    "How much of its activations the NPU keeps on chip: eager order stands for it in memory.",
    "The host's own memory (Python, ONNX Runtime, frames): not derived, not in the totals.",
    "Table 7's peak memory of the other modules: not found.",
)


@dataclass(frozen=True)
class Row:
    """A graph of ours, how often a clip runs it, and the row of Table 7 it is measured by.

    paper: that row in the paper's form; held: bytes that its context adds to a clip's, the last
    stage's first form having those of all the transformer's graphs, which share them.
    """

    graph: str
    runs: int
    ours: Cost
    basis: str
    paper: Cost
    held: float = 0.0

    @property
    def macs_ratio(self) -> float:
        return self.ours.macs / self.paper.macs

    @property
    def bytes_ratio(self) -> float:
        return self.ours.moved / self.paper.moved

    @property
    def ms(self) -> float:
        """A run, by the larger ratio."""
        return TABLE_7[self.basis] * max(self.macs_ratio, self.bytes_ratio)

    @property
    def ms_by_macs(self) -> float:
        """A run, by the ratio of the MACs alone."""
        return TABLE_7[self.basis] * self.macs_ratio


def stored(told: dict[str, Any]) -> dict[str, float]:
    """Bytes of a pack's contexts by graph, from what `benchmarks.full_size` told: parts together,
    the transformer's those that share weights.
    """
    sizes: Counter[str] = Counter()
    for name, found in told["graphs"].items():
        graph = name.split("/")[1]
        kept = graph.endswith(" shared") if "transformer_" in graph else " " not in graph
        if kept:
            sizes[re.sub("_part.*", "", graph)] += found.get("context_mb", 0) * 1e6
    return dict(sizes)


def rows(sizes: dict[str, float] | None = None) -> list[Row]:
    """Every graph of a hybrid clip, in the order of use; sizes: as `stored` gives them."""
    sizes = stored(json.loads(MEASURED.read_text("utf-8"))) if sizes is None else sizes
    sizes = sizes | {f"transformer_{LAST_STAGE}_first": sizes.get("transformer", 0.0)}
    stages = range(GEOMETRY.stages)
    steps = [graphs.paper_transformer(graphs.image_tokens(UNITS, stage)) for stage in stages]

    def same(graph: str, cost: Cost) -> Row:
        return Row(graph, PAPER_RUNS.get(graph, 1), cost, graph, cost)

    text, t5 = graphs.text_encoder(), graphs.text_encoder(adapter=False)
    encoder, full_encoder = graphs.video_encoder(), graphs.paper_video_encoder()
    decoder, late_decoder = graphs.video_decoder(), graphs.video_decoder(published=True)
    clip_g = graphs.clip_encoder("clip_g", eight_bit=True)
    loop = []
    for stage in stages:
        alone = graphs.forgetful(stage)
        first = graphs.transformer(graphs.image_tokens(alone, stage))
        basis = f"transformer_{stage}"
        loop.append(Row(f"{basis}_first", alone, first, basis, steps[stage]))
        later = graphs.later_transformer(stage)
        loop.append(Row(f"{basis}_later", UNITS - alone, later, basis, steps[stage]))
    every = [
        same("clip_l", graphs.clip_encoder("clip_l")),
        Row("clip_g", 1, clip_g, "clip_g", graphs.clip_encoder("clip_g")),
        same("unet", graphs.unet()),
        same("first_frame_decoder", graphs.first_frame_decoder()),
        Row("video_encoder", 1, encoder, "video_encoder", full_encoder),
        Row("text_encoder", 1, text, "distil_t5", t5),
        Row("modulation", GEOMETRY.stages, graphs.modulation(), "transformer_0", steps[0]),
        *loop,
        Row("video_decoder", GEOMETRY.units, decoder, "video_decoder", late_decoder),
        same("upscaler", graphs.upscaler()),
    ]
    return [replace(row, held=sizes.get(row.graph, 0.0)) for row in every]


def paper_rows(found: Iterable[Row]) -> list[Row]:
    """The rows of Table 7, in the paper's forms and as often as the paper runs them."""
    return [
        replace(row, graph=row.basis, ours=row.paper) for row in found if row.graph != "modulation"
    ]


def milliseconds(found: Iterable[Row], by_macs: bool = False) -> float:
    """A whole clip."""
    return sum(row.runs * (row.ms_by_macs if by_macs else row.ms) for row in found)


def histories() -> list[dict[str, int]]:
    """The transformer at every stage and unit with nothing padded: what one evaluation costs.

    With all 128 text tokens; a shorter prompt takes fewer where sizes are dynamic.
    """
    found = []
    for stage in range(GEOMETRY.stages):
        for unit in range(1, UNITS + 1):
            tokens = graphs.image_tokens(unit, stage)
            cost = graphs.transformer(tokens)
            place = {"stage": stage, "unit": unit, "evaluations": 1, "image_tokens": tokens}
            found.append(place | asdict(cost))
    return found


def further(found: list[Row]) -> list[dict[str, Any]]:
    """What a clip takes in other forms: before the transformer remembered, and one not built."""
    padded = [
        replace(row, ours=graphs.transformer(graphs.image_tokens(UNITS, int(row.basis[-1]))))
        if row.graph.startswith("transformer")
        else row
        for row in found
    ]
    once = graphs.modulation(GEOMETRY.stages)
    forms = {
        "transformer: one graph a stage, nothing remembered": padded,
        "not built: modulation of the three stages in one run": [
            replace(row, runs=1, ours=once) if row.graph == "modulation" else row for row in found
        ],
    }
    return [
        {
            "form": name,
            "seconds": milliseconds(rows) / 1000,
            "seconds_by_macs": milliseconds(rows, by_macs=True) / 1000,
        }
        for name, rows in forms.items()
    ]


def memory(found: list[Row]) -> dict[str, Any]:
    """Bytes held in each phase of the low-memory order, and at most."""
    last = [row for row in found if row.graph.startswith("transformer")]
    last += [row for row in found if row.graph in ("video_decoder", "upscaler")]
    phases = []
    for phase in [*([row] for row in found if row not in last), last]:
        weights = sum(row.held for row in phase)
        live = max(row.ours.live for row in phase)
        told = {
            "graphs": [row.graph for row in phase],
            "weight_bytes": round(weights),
            "live_bytes": live,
            "bytes": round(weights) + live,
        }
        for row in phase:
            if (
                row.held
                and row.basis in PAPER_PEAK
                and row.graph in (row.basis, f"{row.basis}_first")
            ):
                share = sum(other.held for other in phase) / row.held
                per_weight = PAPER_PEAK[row.basis] / row.paper.weights
                told["paper_peak_to_weights"] = per_weight
                told["as_the_paper_bytes"] = round(per_weight * row.ours.weights * share)
        phases.append(told)
    return {
        "phases": phases,
        "peak_bytes": max(phase["bytes"] for phase in phases),
        "peak_as_the_paper_bytes": max(phase.get("as_the_paper_bytes", 0) for phase in phases),
    }


def disk(found: list[Row]) -> dict[str, Any]:
    """Bytes of the pack's graphs: as the precision alone has it, and stored as measured."""
    return {
        "weight_bytes": sum(row.ours.weights for row in found if row.held),
        "stored_bytes": round(sum(row.held for row in found)),
        "saved_by_8_bits": {
            name: graphs.weight_bytes([net], False)[0] - graphs.weight_bytes([net], True)[0]
            for name in ("clip_l", "clip_g", "t5", "adapter")
            for net in [graphs.built(name)]
        },
    }


def published_parameters() -> dict[str, int]:
    """Parameters of the published folders, each counted once, and their sum."""
    part = {name: graphs.parameters(graphs.built(name)) for name in graphs.MODULES}
    projection = graphs.parameters(graphs.built("clip_l").text_projection)
    folders = {
        "text_encoders": part["clip_l"] + part["clip_g"] + part["t5"],
        "context_adapter": part["adapter"],
        "transformer": part["transformer"],
        "video_vae": part["video_vae"],
        "first_frame": part["unet"]
        + part["image_vae"]
        + part["clip_l"]
        - projection
        + part["clip_g"],
    }
    return folders | {"total": sum(folders.values()), "upscaler": part["upscaler"]}


def report() -> dict[str, Any]:
    """Everything that is printed."""
    found = rows()
    seconds = milliseconds(found) / 1000
    held, files = memory(found), disk(found)
    return {
        "frames": GEOMETRY.frames,
        "size": [GEOMETRY.height * GEOMETRY.upscale, GEOMETRY.width * GEOMETRY.upscale],
        "graphs": [entry(row) for row in found],
        "histories": histories(),
        "parameters": published_parameters()
        | {"published": PUBLISHED_PARAMETERS, "counted_by_others": COUNTED_PARAMETERS},
        "time": {
            "seconds": seconds,
            "seconds_by_macs": milliseconds(found, by_macs=True) / 1000,
            "paper_seconds": milliseconds(paper_rows(found)) / 1000,
            "target_seconds": TARGET["seconds"],
            "reached": seconds <= TARGET["seconds"],
        },
        "further": further(found),
        "memory": held
        | {
            "target_bytes": TARGET["resident_bytes"],
            "reached": held["peak_bytes"] <= TARGET["resident_bytes"],
            "reached_as_the_paper": held["peak_as_the_paper_bytes"] <= TARGET["resident_bytes"],
        },
        "disk": files
        | {
            "target_bytes": TARGET["disk_bytes"],
            "reached": files["stored_bytes"] <= TARGET["disk_bytes"],
        },
        "assumptions": {
            "table_7_ms": TABLE_7,
            "paper_runs": PAPER_RUNS,
            "paper_forms": PAPER_FORM,
            "paper_peak_bytes": PAPER_PEAK,
            "stored": f"docs/{MEASURED.name}",
        },
        "unknown": UNKNOWN,
    }


def entry(row: Row) -> dict[str, Any]:
    """A row as JSON."""
    costs = {"ours": row.ours, "paper": row.paper}
    return {
        "graph": row.graph,
        "runs": row.runs,
        **{f"{whose}_{key}": n for whose, cost in costs.items() for key, n in asdict(cost).items()},
        "basis": row.basis,
        "basis_ms": TABLE_7[row.basis],
        "macs_ratio": row.macs_ratio,
        "bytes_ratio": row.bytes_ratio,
        "ms": row.ms,
        "ms_by_macs": row.ms_by_macs,
        "clip_ms": row.runs * row.ms,
        "clip_ms_by_macs": row.runs * row.ms_by_macs,
        "paper_clip_ms": 0.0 if row.graph == "modulation" else row.runs * TABLE_7[row.basis],
    }


def markdown(head: str, lines: Iterable[Iterable[Any]]) -> str:
    """A table; `head` has its columns, separated by |."""
    body = [f"| {' | '.join(map(str, cells))} |" for cells in lines]
    return "\n".join([f"| {head} |", "|---" * (head.count("|") + 1) + "|", *body])


def table(found: dict[str, Any]) -> str:
    """Markdown of a report."""
    time, memory, disk = found["time"], found["memory"], found["disk"]
    listed = [
        (
            row["graph"],
            row["runs"],
            f"{row['ours_macs'] / 1e9:.1f}",
            f"{row['ours_weights'] / 1e6:.1f}",
            f"{row['ours_activations'] / 1e6:.1f}",
            f"{row['paper_macs'] / 1e9:.1f}",
            f"{row['paper_weights'] / 1e6:.1f}",
            f"{row['paper_activations'] / 1e6:.1f}",
            f"{row['macs_ratio']:.3f}",
            f"{row['bytes_ratio']:.3f}",
            f"{row['paper_clip_ms']:.1f}",
            f"{row['clip_ms']:.1f}",
            f"{row['clip_ms_by_macs']:.1f}",
        )
        for row in found["graphs"]
    ]
    sums = (time["paper_seconds"], time["seconds"], time["seconds_by_macs"])
    listed.append(("clip", *[""] * 9, *(f"{1000 * seconds:.1f}" for seconds in sums)))
    parts = [
        markdown(
            "graph | runs | GMAC | weights MB | activations MB | paper: GMAC | weights MB"
            " | activations MB | MACs ratio | bytes ratio | paper ms | ms | ms by MACs",
            listed,
        ),
        markdown(
            "stage | unit | evaluations | image tokens | GMAC | activations MB",
            (
                (
                    *(row[key] for key in ("stage", "unit", "evaluations", "image_tokens")),
                    f"{row['macs'] / 1e9:.1f}",
                    f"{row['activations'] / 1e6:.1f}",
                )
                for row in found["histories"]
            ),
        ),
        markdown(
            "other form | seconds | seconds by MACs",
            (
                (row["form"], f"{row['seconds']:.2f}", f"{row['seconds_by_macs']:.2f}")
                for row in found["further"]
            ),
        ),
        markdown(
            "in memory together | weights GB | live activations GB | both | as the paper held it",
            (
                (
                    ", ".join(row["graphs"]),
                    *(
                        f"{row[key] / 1e9:.2f}" if key in row else ""
                        for key in ("weight_bytes", "live_bytes", "bytes", "as_the_paper_bytes")
                    ),
                )
                for row in memory["phases"]
            ),
        ),
        markdown(
            "figure | predicted | by MACs, or as the paper held it | target",
            (
                (
                    "seconds a clip",
                    *(f"{time[k]:.2f}" for k in ("seconds", "seconds_by_macs", "target_seconds")),
                ),
                (
                    "peak GB",
                    *(
                        f"{memory[key] / 1e9:.2f}"
                        for key in ("peak_bytes", "peak_as_the_paper_bytes", "target_bytes")
                    ),
                ),
                (
                    "disk GB",
                    f"{disk['stored_bytes'] / 1e9:.2f}",
                    "",
                    f"{disk['target_bytes'] / 1e9:.2f}",
                ),
            ),
        ),
        markdown(
            "linear layers in 8 bits | would save MB",
            ((name, f"{size / 1e6:.1f}") for name, size in disk["saved_by_8_bits"].items()),
        ),
        "\n".join(f"- {line}" for line in found["unknown"]),
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="Markdown instead of JSON")
    options = parser.parse_args()
    found = report()
    print(table(found) if options.table else json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
