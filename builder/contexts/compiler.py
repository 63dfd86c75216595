"""Graphs compiled for the NPU, each in its own process, so that its memory is freed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from builder.errors import BuildError
from engine.session import CHIPS, Chip


@dataclass(frozen=True)
class Compiled:
    """files: the small .onnx and its binary; nodes, all on the NPU; seconds and peak bytes of the
    compilation.
    """

    files: tuple[Path, Path]
    nodes: int
    seconds: float
    peak: int


def compile_graphs(
    graphs: Sequence[tuple[Path, Mapping[str, int], Path]], shared: bool, chip: Chip = CHIPS[0]
) -> list[Compiled]:
    """Compile graphs (file, sizes, the .onnx to write) in a process of their own.

    shared: their weights are kept once. Raises BuildError with the compiler's words.
    """
    job = [[str(path), dict(sizes), str(target)] for path, sizes, target in graphs]
    for _, _, target in graphs:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
    answer = json.loads(_compiler(json.dumps([job, shared, chip.options])).splitlines()[-1])
    return [
        Compiled((target, _binary(target)), _nodes(path), seconds, answer["peak"])
        for (path, _, target), seconds in zip(graphs, answer["seconds"], strict=True)
    ]


def _compiler(job: str) -> str:
    """What the compiler's process says, which ends with this one, however that ends."""
    command = [sys.executable, "-m", "builder.contexts.compile_context"]
    if getattr(sys, "frozen", False):  # no Python to call there: the program is its own compiler
        command = [sys.executable, "--compile-context"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as child:
        try:
            output, errors = child.communicate(job)
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        lines = errors.strip().splitlines() or [f"its process ended with {child.returncode}"]
        raise BuildError(
            "The graphs do not compile for the NPU ({reason}); close other programs and start the"
            " build again.",
            reason=lines[-1],
        )
    return output


def _binary(target: Path) -> Path:
    """The file that a context's .onnx reads, which must be all it is."""
    model = onnx.load(target)
    kinds = {node.op_type for node in model.graph.node}
    if kinds != {"EPContext"} or len(model.graph.node) != 1:
        raise BuildError(
            "The NPU cannot run all of {target}: it has {kinds} instead of one context; use other"
            " weights.",
            target=target.name,
            kinds=", ".join(sorted(kinds)),
        )
    (name,) = [a.s for a in model.graph.node[0].attribute if a.name == "ep_cache_context"]
    return target.with_name(name.decode())


def _nodes(path: Path) -> int:
    """Nodes of a graph that compute something anew when it runs."""
    graph = onnx.load(path, load_external_data=False).graph
    constant, count = {"", *(tensor.name for tensor in graph.initializer)}, 0
    for node in graph.node:
        if set(node.input) <= constant:
            constant |= set(node.output)
        else:
            count += 1
    return count
