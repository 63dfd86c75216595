"""Several processes on one training: `torchrun --nproc-per-node N -m training.recipes...`.

Each takes its own losses of an update; gradients are averaged. `ddp` keeps the whole model in each
process, `fsdp` (PyTorch's `fully_shard`) a part of it. Losses are numbered over all processes and
draw from a generator of that number, so that N processes with one loss each do what one process
does that accumulates N.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

KINDS = ("ddp", "fsdp")
BUCKET = 2**24  # gradient elements averaged at once
ENTRIES = ("modulate", "encode", "decode", "encode_image")  # called beside `forward`


@dataclass(frozen=True)
class Group:
    """This process among all of a training."""

    rank: int = 0
    count: int = 1
    sharded: bool = False

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def average(self, weights: Sequence[nn.Parameter]) -> None:
        """Make each process's gradients the mean of all; sharded ones are already."""
        if self.count == 1 or self.sharded:
            return
        for weight in weights:  # a part that took no part in this process may have in another
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        bucket: list[Tensor] = []
        for i, weight in enumerate(weights):
            assert weight.grad is not None
            bucket.append(weight.grad)
            if sum(g.numel() for g in bucket) >= BUCKET or i == len(weights) - 1:
                flat = torch.cat([gradient.flatten() for gradient in bucket])
                dist.all_reduce(flat)
                parts = (flat / self.count).split([gradient.numel() for gradient in bucket])
                for gradient, part in zip(bucket, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))
                bucket = []

    def mean(self, value: float) -> float:
        """The mean of a number over all processes."""
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        if torch.cuda.is_available() and dist.get_backend() == "nccl":
            total = total.cuda()
        dist.all_reduce(total)
        return float(total) / self.count


def join(kind: str, device: str) -> Group:
    """This process's place, by what torchrun put into the environment; alone without it.

    Raises ValueError for a kind there is not.
    """
    if kind not in KINDS:
        raise ValueError(f"the parallelism is {kind}; choose one of {', '.join(KINDS)}")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Group()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return Group(dist.get_rank(), count, kind == "fsdp")


def shard(model: nn.Module) -> None:
    """Split the weights over all processes: each block of a list of blocks by itself, then what is
    left of each part of the model.
    """
    for part in list(model.children()) or [model]:
        for stack in _stacks(part):
            for block in stack:
                if any(True for _ in block.parameters()):
                    _shard_one(block)
        _shard_one(part)


def _stacks(module: nn.Module) -> Iterator[nn.ModuleList]:
    """The outermost lists of modules."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _stacks(child)


def _shard_one(module: nn.Module) -> None:
    fully_shard(module)
    for name in ENTRIES:
        if hasattr(module, name):
            register_fsdp_forward_method(module, name)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, wherever its parts are; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """`tensor` split as `other` is."""
    if isinstance(other, DTensor):
        return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
    return tensor.to(other.device)


def whole_optimiser(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state with all tensors whole."""
    state = optimiser.state_dict()
    state["state"] = {
        index: {k: whole(v) if isinstance(v, Tensor) else v for k, v in values.items()}
        for index, values in state["state"].items()
    }
    return state


def restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what `whole_optimiser` gave, split as the weights are."""
    optimiser.load_state_dict(state)
    for weight, values in optimiser.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                values[key] = like(value, weight)
