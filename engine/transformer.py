"""The flow network of the sampling loop: the modulation and transformer graphs behind one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.config import ModeConfig, TransformerConfig
from engine.scheduler import Stage
from engine.session import Session
from engine.tokens import MASKED, TransformerInputs, frame_shapes, patchify, transformer_inputs

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
    every = [
        float(timestep)
        for counts in steps
        for stage, count in zip(stages, counts, strict=True)
        for timestep in stage.timesteps(count)
    ]
    return list(dict.fromkeys(every))


@dataclass(frozen=True, eq=False)
class _Memory:
    """What of `unit` later units would compute again: keys and values of text and oldest frames.

    grids: token rows and columns of each frame of its history; keys, values: float32
    [blocks, heads, tokens, head_dim] for each part of the transformer.
    """

    unit: int
    grids: list[tuple[int, int]]
    keys: list[Floats]
    values: list[Floats]

    def image_tokens(self, text: int, unit: int, grids: Sequence[tuple[int, int]]) -> int:
        """How many tokens of a unit's history it holds; 0 where it is of no use to that unit.

        A frame that has kept its size goes through the transformer as it did for the unit before:
        no token sees a later frame, and none but itself sees the noise.
        """
        held = self.keys[0].shape[2] - text
        frames = count = 0
        while frames < len(self.grids) and count < held:
            count += self.grids[frames][0] * self.grids[frames][1]
            frames += 1
        same = count == held and self.grids[:frames] == grids[:frames]
        return held if same and unit == self.unit + 1 else 0


class Transformer:
    """A `Flow` for `sampler.sample_latents`.

    graphs: `transformer` for every stage, or `transformer_0`.. of static size, one per stage; each
    may be in parts, `.._part0` and on, that hand image and text tokens from one to the next. With
    `transformer_0_first` and `transformer_0_later` in its place, a unit for which the one before
    has left keys and values goes through the later graph, which does without those tokens.
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
        self.remembers = any("_later" in name for name in graphs)
        self._memories: dict[tuple[int, float, bool], _Memory] = {}

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
        conditioning = self.conditioning[negative]
        assert conditioning is not None, "a guided mode needs a negative prompt"
        text = len(conditioning.text_mask)
        grids = frame_shapes([latent.shape for latent in history], self.config.patch_size)
        memory = self._memories.get((stage, timestep, negative))
        known = memory.image_tokens(text, unit, grids) if memory else 0
        parts = self._parts(stage, ("_later" if known else "_first") if self.remembers else "")
        length = parts[0].inputs["patches"].shape[0]
        history_tokens = None
        if isinstance(length, int) and not known:
            history_tokens = length - current[0].size // self.config.patch_size**2
        inputs = self._prepared(history, current, unit, stage, negative, history_tokens)
        tensors = {
            "patches": inputs.patches,
            "positions": inputs.positions,
            "rope_cos": inputs.rope_cos,
            "rope_sin": inputs.rope_sin,
            "mask": inputs.mask,
            "context": conditioning.context,
        }
        room = parts[0].inputs["past_keys"].shape[2] if known else 0
        padding = room - text - known if isinstance(room, int) and known else 0
        if known:
            past = text + known
            tensors |= {name: tensors[name][known:] for name in ("patches", "positions")}
            tensors |= {name: tensors[name][past:] for name in ("rope_cos", "rope_sin", "mask")}
            wider = ((0, 0), (padding, 0))
            tensors["mask"] = np.pad(tensors["mask"], wider, constant_values=MASKED)
        past_of = memory if known else None
        flow, keys, values = _run_parts(
            parts, tensors, conditioning.modulation[timestep], past_of, padding
        )
        if self.remembers:
            self._memories[stage, timestep, negative] = _Memory(unit, grids, keys, values)
        return inputs.current_latent(flow)

    def _prepared(
        self,
        history: Sequence[Floats],
        current: Floats,
        unit: int,
        stage: int,
        negative: bool,
        history_tokens: int | None,
    ) -> TransformerInputs:
        """The inputs of a call; of a further step only those that have changed are made anew."""
        if self._key != (unit, stage):
            self._key, self._inputs = (unit, stage), {}
        if negative in self._inputs:  # another step: only the current unit has changed
            inputs = self._inputs[negative]
            patches = patchify(current, self.config.patch_size)
            inputs.patches[-len(patches) :] = patches
            return inputs
        conditioning = self.conditioning[negative]
        assert conditioning is not None
        self._inputs[negative] = transformer_inputs(
            history, current, conditioning.text_mask, self.config, history_tokens
        )
        return self._inputs[negative]

    def _parts(self, stage: int, form: str) -> list[Session]:
        """The graphs of a stage in order; form: "", or which of those that remember."""
        for base in ("transformer", f"transformer_{stage}{form}"):
            if base in self.graphs:
                return [self.graphs[base]]
            names = [name for name in self.graphs if name.startswith(f"{base}_part")]
            if names:
                return [self.graphs[f"{base}_part{number}"] for number in range(len(names))]
        raise KeyError(f"transformer_{stage}")


class Forked:
    """A `Flow` whose prompt may change from one unit to the next.

    flows: a transformer for each prompt; prompt_of: which of them each unit follows. Where graphs
    remember earlier units, the flows of later ones are run along with the others, since what they
    remember depends on their prompt.
    """

    def __init__(self, flows: Sequence[Transformer], prompt_of: Sequence[int]) -> None:
        self.flows, self.prompt_of = flows, prompt_of

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
        arguments = history, current, timestep
        if negative:  # the same for all
            return self.flows[0](*arguments, unit=unit, stage=stage, negative=True)
        own = self.prompt_of[unit]
        for later in set(self.prompt_of[unit + 1 :]) - {own}:
            if self.flows[later].remembers:
                self.flows[later](*arguments, unit=unit, stage=stage, negative=False)
        return self.flows[own](*arguments, unit=unit, stage=stage, negative=False)


def _run_parts(
    parts: Sequence[Session],
    inputs: Mapping[str, Floats],
    modulation: Floats,
    memory: _Memory | None,
    padding: int,
) -> tuple[Floats, list[Floats], list[Floats]]:
    """The flow, and each part's keys and values where its graph gives them.

    modulation: rows of all parts; memory: what the unit before has left, `padding` tokens of
    zeros being put in front of it to fill the graph.
    """
    tensors, rows = dict(inputs), modulation
    keys: list[Floats] = []
    values: list[Floats] = []
    in_front = ((0, 0), (0, 0), (padding, 0), (0, 0))
    for number, part in enumerate(parts):
        count = part.inputs["modulation"].shape[0]
        tensors["modulation"] = rows[:count] if isinstance(count, int) else rows
        rows = rows[len(tensors["modulation"]) :]
        if memory is not None:
            tensors["past_keys"] = np.pad(memory.keys[number], in_front)
            tensors["past_values"] = np.pad(memory.values[number], in_front)
        outputs = part.run(**{name: tensors[name] for name in part.inputs})
        tensors |= {name.removeprefix("next_"): array for name, array in outputs.items()}
        if "keys" in outputs:
            keys.append(tensors["keys"])
            values.append(tensors["values"])
    if memory is not None:
        keys, values = _joined(memory.keys, keys), _joined(memory.values, values)
    return tensors["flow"], keys, values


def _joined(old: Sequence[Floats], new: Sequence[Floats]) -> list[Floats]:
    return [np.concatenate(pair, axis=2) for pair in zip(old, new, strict=True)]
