"""The flow network of the sampling loop: the modulation and transformer graphs behind one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.config import ModeConfig, TransformerConfig
from engine.scheduler import Stage
from engine.session import Session
from engine.tokens import TransformerInputs, patchify, transformer_inputs

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What one prompt tells the transformer.

    context: float32 [N, W]; text_mask: int64 [N], 1 for real tokens;
    modulation: float32 [M, W] at every timestep of the schedule.
    """

    context: Floats
    text_mask: Ints
    modulation: Mapping[float, Floats]

    def trimmed(self) -> Conditioning:
        """The same without padding tokens, which no real token sees: the flow does not change."""
        real = self.text_mask != 0
        return Conditioning(self.context[real], self.text_mask[real], self.modulation)


def modulate(
    modulation: Session, pooled: Floats, timesteps: Iterable[float]
) -> dict[float, Floats]:
    """All AdaLN shifts, scales and gates, float32 [M, W] per timestep, for `pooled` [1, D].

    They depend on prompt and timestep only, so the graph is done before the loop starts.
    """
    rows = {}
    for timestep in timesteps:
        size = modulation.inputs["waves"].shape[1]
        assert isinstance(size, int), "static, as its weights are"
        rows[timestep] = modulation.run(waves=waves(timestep, size), pooled=pooled)["modulation"]
    return rows


def waves(timestep: float, size: int) -> Floats:
    """The sinusoidal embedding of a timestep 0..1000, float32 [1, size]: cosines, then sines.

    On the host, since half precision cannot hold the angles.
    """
    half = size // 2
    angles = timestep * 10000.0 ** (-np.arange(half) / half)
    return np.concatenate([np.cos(angles), np.sin(angles)])[None].astype(np.float32)


def timesteps(stages: Sequence[Stage], mode: ModeConfig, first_given: bool) -> list[float]:
    """Every timestep the loop will ask for, each once."""
    steps = [mode.steps]
    if not first_given and mode.first_steps is not None:
        steps.append(mode.first_steps)
    asked = [
        float(timestep)
        for counts in steps
        for stage, count in zip(stages, counts, strict=True)
        for timestep in stage.timesteps(count)
    ]
    return list(dict.fromkeys(asked))


class Transformer:
    """A `Flow` for `sampler.sample_latents`.

    graphs: `transformer` for every stage, or `transformer_0`.. of static size, one per stage; each
    may be in parts, `.._part0` and on, that hand image and text tokens from one to the next.
    """

    def __init__(
        self,
        graphs: Mapping[str, Session],
        config: TransformerConfig,
        prompt: Conditioning,
        negative: Conditioning | None = None,
    ) -> None:
        self.graphs = graphs
        self.config = config
        first = next(graph for graph in graphs.values() if "context" in graph.inputs)
        static = isinstance(first.inputs["context"].shape[0], int)
        self.conditioning = {
            is_negative: conditioning if static or conditioning is None else conditioning.trimmed()
            for is_negative, conditioning in ((False, prompt), (True, negative))
        }
        self._key: tuple[int, int] | None = None
        self._inputs: dict[bool, TransformerInputs] = {}

    def __call__(
        self,
        history: Sequence[Floats],
        current: Floats,
        timestep: float,
        *,
        unit: int,
        stage: int,
        negative: bool,
    ) -> Floats:
        """The flow of `current` [C, 1, h, w] after `history`, for a timestep 0..1000."""
        parts = self._parts(stage)
        conditioning = self.conditioning[negative]
        assert conditioning is not None, "a guided mode needs a negative prompt"
        length = parts[0].inputs["patches"].shape[0]
        history_tokens = None
        if isinstance(length, int):
            history_tokens = length - current[0].size // self.config.patch_size**2
        if self._key != (unit, stage):
            self._key, self._inputs = (unit, stage), {}
        if negative in self._inputs:  # another step: only the current unit has changed
            inputs = self._inputs[negative]
            patches = patchify(current, self.config.patch_size)
            inputs.patches[-len(patches) :] = patches
        else:
            inputs = transformer_inputs(
                history, current, conditioning.text_mask, self.config, history_tokens
            )
            self._inputs[negative] = inputs
        given = {
            "patches": inputs.patches,
            "positions": inputs.positions,
            "rope_cos": inputs.rope_cos,
            "rope_sin": inputs.rope_sin,
            "mask": inputs.mask,
            "context": conditioning.context,
        }
        rows = conditioning.modulation[timestep]
        for part in parts:
            count = part.inputs["modulation"].shape[0]
            given["modulation"] = rows[:count] if isinstance(count, int) else rows
            rows = rows[len(given["modulation"]) :]
            given |= part.run(**{name: given[name] for name in part.inputs})
        return inputs.current_latent(given["flow"])

    def _parts(self, stage: int) -> list[Session]:
        """The graphs of a stage in order."""
        for base in ("transformer", f"transformer_{stage}"):
            if base in self.graphs:
                return [self.graphs[base]]
            names = [name for name in self.graphs if name.startswith(f"{base}_part")]
            if names:
                return [self.graphs[f"{base}_part{number}"] for number in range(len(names))]
        raise KeyError(f"transformer_{stage}")
