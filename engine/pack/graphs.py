"""What a pack is made of: files, tensors, graphs, components, tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PackFile:
    """A file of the pack: its name relative to the manifest, size in bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class TensorSpec:
    """Type and shape of a graph's input or output; a dynamic dimension is its name."""

    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Context:
    """What a graph was compiled for: Qualcomm's number of the SoC, its Hexagon, the QNN SDK used.

    shared: its weights are those of the other graphs of its variant, in one file; driver: the
    oldest version of the NPU's driver it was seen to load with, "" where nobody has tried.
    """

    soc_model: int
    htp_arch: int
    sdk: str
    shared: bool
    driver: str = ""


@dataclass(frozen=True)
class Graph:
    """One graph: its file, weights kept outside it, sizes fixed on load and what goes in and out.

    fidelity_db: signal-to-noise ratio against the network it was exported from, in dB; context:
    None for ONNX, which any processor's runtime compiles itself; expected: by output, what a
    compiled graph has given in emulation, see `engine.canary`.
    """

    name: str
    file: PackFile
    data: tuple[PackFile, ...]
    dimensions: Mapping[str, int]
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    fidelity_db: float | None
    context: Context | None = None
    expected: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def files(self) -> tuple[PackFile, ...]:
        """The graph's own file and its weights."""
        return (self.file, *self.data)


@dataclass(frozen=True)
class Component:
    """A network and its variants, each graphs by name.

    `portable` runs on the CPU; for the NPU there are `htp` (the same files with sizes fixed),
    `context` (compiled) and `context-shared` (compiled, its graphs sharing one file of weights).
    """

    name: str
    optional: bool
    variants: Mapping[str, Mapping[str, Graph]]

    @property
    def files(self) -> tuple[PackFile, ...]:
        """Every file of every variant, each once."""
        graphs = [graph for variant in self.variants.values() for graph in variant.values()]
        return tuple(dict.fromkeys(file for graph in graphs for file in graph.files))


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer and the number of tokens its encoders read."""

    file: PackFile
    length: int


def version_numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version such as 2.51.0, to compare it; () for ""."""
    return tuple(int(part) for part in version.split(".") if part)
