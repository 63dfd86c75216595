"""Torch weights in the published folder layout: `config.json` beside one safetensors file."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from builder.errors import BuildError
from builder.weights import Weights
from engine.errors import NeodragonError, first_line

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


class CheckpointError(NeodragonError):
    """A checkpoint folder lacks something, or holds something else than its model."""


class Checkpoint:
    """Gives an `nn.Module` the published folder layout.

    The module keeps the arguments of its constructor, the keys of `config.json`, in `config`.
    """

    config: dict[str, Any]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and the weights, in their own type, to `folder` (made if missing)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"_class_name": type(self).__name__, **self.config}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        state = cast(nn.Module, self).state_dict()
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Build the module from `config.json` and load its weights on the CPU, in the file's type.

        Keys of `config.json` that start with an underscore are notes of the library that wrote it.
        Raises CheckpointError for a file, setting or tensor that is missing, unknown or misshapen.
        """
        folder = Path(folder)
        config = folder / CONFIG
        if not config.is_file() or not next(folder.glob("*.safetensors"), None):
            missing = folder / WEIGHTS if config.is_file() else config
            raise CheckpointError(
                f"{missing} is missing; choose a folder with {CONFIG} and {WEIGHTS}."
            )
        try:
            settings = {**json.loads(config.read_text(encoding="utf-8-sig"))}
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{config} cannot be read ({error}); copy the checkpoint again."
            ) from error
        state = tensors_of(folder)
        settings = {key: value for key, value in settings.items() if not key.startswith("_")}
        known = inspect.signature(cls)
        if unknown := settings.keys() - known.parameters.keys():
            raise CheckpointError(
                f"{config} sets {min(unknown)}, which {cls.__name__} does not have; remove it."
            )
        try:
            known.bind(**settings)
        except TypeError as error:
            raise CheckpointError(f"{config} has {error}; copy the checkpoint again.") from error
        with torch.device("meta"):
            model = cls(**settings)
        load_weights(cast(nn.Module, model), state, str(folder))
        return model


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """A folder's tensors, of one file or of those its index lists; raises CheckpointError."""
    try:
        whole = folder / WEIGHTS
        files = [whole] if whole.is_file() else Weights(folder).files
        return {name: tensor for file in files for name, tensor in load_file(file).items()}
    except (BuildError, OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} cannot be read ({first_line(error)}); copy the checkpoint again."
        ) from error


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Make the tensors of `state` the weights of `model`; names and shapes must be the same.

    `source` says in the CheckpointError where the tensors are from.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in expected.items():
        if name not in state:
            raise CheckpointError(
                f"{source} lacks the tensor {name} of shape {shape}; copy it again."
            )
        if tuple(state[name].shape) != shape:
            got = tuple(state[name].shape)
            raise CheckpointError(
                f"{source} holds {name} of shape {got}, and {shape} was expected; check {CONFIG}."
            )
    for name in state:
        if name not in expected:
            raise CheckpointError(
                f"{source} holds the tensor {name}, which {type(model).__name__} does not have;"
                f" check {CONFIG}."
            )
    model.load_state_dict(state, assign=True)
