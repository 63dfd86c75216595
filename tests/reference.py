"""Reference vectors: inputs, outputs and settings of the published implementation, and its weights.

The folder is that of the environment variable REFERENCE_VECTORS; its README.md describes the files.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(os.environ.get("REFERENCE_VECTORS", Path(__file__).with_name("reference_vectors")))
BUFFERS = {"pos_embed.pos_embed"}  # keep the values that the model gives them
# One tensor with two names: the vectors were made with the values that follow from the second.
TIED = {"encoder.shared.weight": "encoder.encoder.embed_tokens.weight"}


def load(name: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays of `name`.npz and its `meta`."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads(str(arrays.pop("meta")))


def official(name: str) -> dict[str, Any]:
    """`official_configs` or `official_state_dicts`."""
    result: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return result


def weights(
    shapes: Mapping[str, Sequence[int]], rule: Mapping[str, Any]
) -> dict[str, NDArray[np.float32]]:
    """Parameters by name for the `keys` and `weight_rule` of a file's meta, buffers left out."""
    result = {}
    for name, shape in shapes.items():
        if name in BUFFERS:
            continue
        seed = zlib.crc32((rule["key_prefix"] + TIED.get(name, name)).encode())
        array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        if len(shape) >= 2:
            array *= rule["gain"] / math.sqrt(math.prod(shape[1:]))
        else:
            array = 0.1 * array + name.endswith("weight")
        result[name] = array.astype(np.float32)
    return result
