"""A checkpoint whose weights say where they are from: labels, and how they are read back.

A label is an odd number, the second time negative, that is what is left of an element's number by
one of two periods. The two together name the element. Labels repeat, so all tensors are views of
one short file that is mapped again and again: they take no room, however large the checkpoint.
"""

from __future__ import annotations

import copy
import ctypes
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from builder.layout import PREFIX
from builder.published import CLIPS
from builder.weights import Weights
from training.export.source import Source

PAGE = mmap.PAGESIZE // 4  # labels, float32
# Whole pages, so that they can be mapped again and again; that far elements' numbers are told apart
# (1.7e10), and no further.
PERIODS = (4096 * PAGE, 4093 * PAGE)
# A label is an odd number from BINADE on below twice that, so that a power of two by which it was
# multiplied shows in the exponent alone.
BINADE, EXPONENT = 2**23, 24
WIDTHS = range(8, 513, 8)  # that heads may have, whose roots attention is divided by
GAP = 2**21  # elements at most between tensors, drawn, so that no two parts look the same


class Repeated:
    """`count` labels from number `start` on, as an array interface over a private mapping."""

    def __init__(self, file: Path, period: int, start: int, count: int) -> None:
        """The file holds one period; raises OSError where the system does not map it."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._unmap = libc.munmap
        first, last = start // PAGE * PAGE, -(-(start + count) // PAGE) * PAGE
        self.size = 4 * (last - first)
        private, fixed = mmap.MAP_PRIVATE, 0x10
        both = mmap.PROT_READ | mmap.PROT_WRITE
        self.address = libc.mmap(None, self.size, 0, private | mmap.MAP_ANONYMOUS, -1, 0)
        with file.open("rb") as stream:
            at = first
            while at < last:
                length = min(period - at % period, last - at)
                where = self.address + 4 * (at - first)
                place = 4 * (at % period)
                got = libc.mmap(where, 4 * length, both, private | fixed, stream.fileno(), place)
                if got != where:
                    raise OSError(ctypes.get_errno(), f"{file} could not be mapped")
                at += length
        data = (self.address + 4 * (start - first), False)
        self.__array_interface__ = {"version": 3, "typestr": "<f4", "shape": (count,), "data": data}

    def __del__(self) -> None:
        self._unmap(self.address, self.size)


class Labelled(Source):
    """A checkpoint whose modules have labels for weights, of the first trace or the second."""

    def __init__(self, root: Path, blocks: int, work: Path) -> None:
        super().__init__(root, blocks=blocks)
        self.second = False
        self.work = work
        self.starts: dict[tuple[str, str], int] = {}
        self.shapes: dict[tuple[str, str], tuple[int, ...]] = {}
        self.read: dict[Any, Any] = {}
        self.ties: dict[str, set[tuple[str, ...]]] = {}
        count, gaps = 0, np.random.default_rng(0)
        for folder in sorted({path.parent.name for path in root.glob("*/*.safetensors")}):
            for name, place in Weights(root / folder).places.items():
                count += int(gaps.integers(GAP))
                self.starts[folder, name] = count
                self.shapes[folder, name] = place.shape
                count += int(np.prod(place.shape))
        assert count < PERIODS[0] * PERIODS[1] // PAGE, "more elements than have labels"
        self.order = np.array(list(self.starts.values()))
        self.owners = list(self.starts)

    def load(self, kind: Any, folder: str) -> Any:
        """The module of a folder in float32, every tensor that its file holds made of labels."""
        module = self.bare(kind, folder)
        state = module.state_dict(keep_vars=True)
        names: dict[int, list[str]] = {}
        for name, tensor in state.items():
            names.setdefault(tensor.data_ptr(), []).append(name)
        for same in names.values():
            known = [n for name in same for n in (name, PREFIX + name)]
            stored = [name for name in known if (folder, name) in self.starts]
            if not stored:
                continue  # a table that the module makes itself
            self.ties.setdefault(folder, set()).update([tuple(same)] if len(same) > 1 else [])
            flat = torch.from_numpy(self.labels((folder, stored[0]), self.second))
            label = nn.Parameter(flat.reshape(state[same[0]].shape), False)
            for name in same:  # a new tensor: that of a table may be a view of a larger one
                home, _, leaf = name.rpartition(".")
                owner = module.get_submodule(home)
                if leaf in owner._parameters:
                    owner._parameters[leaf] = label
                else:
                    owner._buffers[leaf] = label.data
        return module

    def bare(self, kind: Any, folder: str) -> Any:
        """A copy of a folder's module, which is read once: only its tensors' shapes count."""
        if (kind, folder) not in self.read:
            module = super().load(kind, folder)
            for layer in module.modules():  # what runs from 16 bits would no longer show
                vars(layer).pop("forward", None)
            self.read[kind, folder] = module
        module = self.read[kind, folder]
        tensors = (*module.parameters(), *module.buffers())
        return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})

    def labels(self, tensor: tuple[str, str], second: bool) -> NDArray[np.float32]:
        """A tensor's labels in the order of its elements; writing to them changes no others."""
        period, file = PERIODS[second], self.work / f"{int(second)}.labels"
        count = int(np.prod(self.shapes[tensor]))
        if not count:
            return np.zeros(0, np.float32)
        if not file.exists():
            ones = (2 * np.arange(period) + BINADE + 1).astype(np.float32)
            self.work.mkdir(parents=True, exist_ok=True)
            (-ones if second else ones).tofile(file)
        return np.asarray(Repeated(file, period, self.starts[tensor], count))

    def sketch(self, compute: Callable[[], Any]) -> Any:
        """Zeros of the shapes that `compute` would give: labels are not worth computing with."""
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
            shapes = tree_map(lambda t: (tuple(t.shape), t.dtype), compute())
        return tree_map(
            lambda spec: torch.zeros(spec[0], dtype=spec[1]),
            shapes,
            is_leaf=lambda spec: isinstance(spec, tuple) and isinstance(spec[-1], torch.dtype),
        )

    @property
    def copies(self) -> dict[str, bool]:  # type: ignore[override]
        """The first frame's own copies of CLIP have templates of their own."""
        return {f"ssd_1b_{folder}": False for folder in CLIPS if self.has(f"ssd_1b_{folder}")}

    def owner(self, number: int) -> int:
        """Which tensor an element is of."""
        return int(np.searchsorted(self.order, number, side="right")) - 1


def numbered(first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[np.int64], float] | None:
    """The elements' numbers, and the factor that labels were multiplied by.

    None where both traces have the same, which makes a constant of them; raises ValueError where
    they are neither that nor labels. A factor is a power of two, which shows in the exponent, or
    what attention is scaled by.
    """
    if np.array_equal(first, second):
        return None
    shown = 2.0 ** (int(np.frexp(first.flat[0])[1]) - EXPONENT)
    one, other = (period // PAGE for period in PERIODS)
    for factor in (shown, *(width**-0.5 for width in WIDTHS)):
        a, b = (_rest(x, factor, p) for x, p in zip((first, -second), PERIODS, strict=True))
        if a is not None and b is not None and not ((b - a) % PAGE).any():
            whole = (b - a) // PAGE * pow(one, -1, other) % other
            return a + PERIODS[0] * whole, factor
    raise ValueError


def is_label(weights: NDArray[Any]) -> bool:
    """Whether these look like labels, or like labels that were divided or multiplied by little."""
    if not weights.size or weights.dtype != np.float32 or np.abs(weights).min() < 2.0**17:
        return False
    shown = 2.0 ** (int(np.frexp(weights.flat[0])[1]) - EXPONENT)
    return any(
        _rest(sign * weights, factor, PERIODS[0]) is not None
        for sign in (1, -1)
        for factor in (shown, *(width**-0.5 for width in WIDTHS))
    )


def _rest(labels: NDArray[Any], factor: float, period: int) -> NDArray[np.int64] | None:
    """What is left of the elements' numbers, None where these are no labels times `factor`."""
    rest = np.rint((labels.astype(np.float64) / factor - BINADE - 1) / 2)
    if not ((rest >= 0) & (rest < period)).all():
        return None
    again = (2 * rest + BINADE + 1).astype(np.float32) * np.float32(factor)
    return rest.astype(np.int64) if np.array_equal(again, labels) else None
