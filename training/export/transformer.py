"""The transformer's graphs: its modulation, and its blocks in parts, with and without a memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor

from builder.published import TRANSFORMER
from engine.latents import history, image_pyramid
from engine.tokens import transformer_inputs
from engine.transformer import waves
from training.export.source import Source, Traced, sample, widen_
from training.export.text import TextEncoder
from training.models.joint_blocks import TIME_CHANNELS, KeysValues
from training.models.mmdit import PyramidMMDiT

TABLES = ("rope_cos", "rope_sin", "mask")


def modulation(source: Source, suffix: str) -> Traced:
    """What the transformer's norms are moved and scaled by at a time, from waves and CLIP."""
    net = source.load(PyramidMMDiT, f"{TRANSFORMER}{suffix}")
    pooled = source.pooled
    inputs = {"waves": torch.from_numpy(waves(744.0, TIME_CHANNELS)), "pooled": pooled}

    def reference() -> Tensor:
        whole = source.load(PyramidMMDiT, f"{TRANSFORMER}{suffix}")
        return cast(Tensor, whole.modulate(torch.tensor([744.0]), pooled)[0])

    for block in net.transformer_blocks:  # most of the weights
        block.attn = block.ff = block.ff_context = None
    return Traced(
        widen_(net.half_split_()),
        lambda net, *x: net.modulate_by(net.time_text_embed.of_waves(*x))[0],
        inputs,
        ("modulation",),
        reference,
    )


def conditions(source: Source, suffix: str, stage: int) -> tuple[Tensor, Tensor]:
    """Context tokens of the sample prompt, and the rows of modulation at a stage's first step."""
    if (suffix, stage) not in source.conditions:
        net = source.load(PyramidMMDiT, f"{TRANSFORMER}{suffix}")
        texts, time = TextEncoder(source, suffix), (1000.0, 744.0, 386.0)[stage % 3]
        ids, pooled = source.t5_ids(), source.pooled
        source.conditions[suffix, stage] = source.sketch(
            lambda: (texts(*ids), net.modulate(torch.tensor([time]), pooled)[0])
        )
    return source.conditions[suffix, stage]


def transformer_sample(
    source: Source, suffix: str, unit: int, stage: int, padded: bool, longest: int | None = None
) -> dict[str, Tensor]:
    """Inputs of the transformer at `unit` and `stage`: sample prompt, unit-variance latents.

    With `padded` the history is padded to that of unit `longest`, the last where it is None, and
    the text to its full length, as static graphs need it.
    """
    g = source.geometry
    context, rows = conditions(source, suffix, stage)
    context = context.numpy()
    real = source.t5_ids()[1][0].numpy() != 0
    latents = sample(
        "history", (g.latent_channels, g.units, g.latent_height, g.latent_width)
    ).numpy()
    past = history(image_pyramid(latents, g.stages), unit, stage)
    current = sample("current", (g.latent_channels, 1, *g.stage_size(stage))).numpy()
    patch = source.transformer_config.patch_size
    tokens = source.static_tokens(stage, longest) - current[0].size // patch**2
    if not padded:
        context, real = context[real], real[real]
    made = transformer_inputs(
        past, current, real, source.transformer_config, tokens if padded else None
    )
    names = ("patches", "positions", "rope_cos", "rope_sin", "mask")
    arrays = {name: torch.from_numpy(getattr(made, name)) for name in names}
    return arrays | {"context": torch.from_numpy(context), "modulation": rows}


class Part:
    """Some blocks of the transformer, and what is before the first or behind the last.

    static_stage: with inputs as the graph of that stage has them, else those of an early unit.
    form: "first" also gives keys and values of text and the oldest frame, "later" takes those and
    gives its own; both are what `engine.transformer` says.
    """

    def __init__(
        self, source: Source, suffix: str, part: int, static_stage: int | None, form: str
    ) -> None:
        self.source, self.suffix, self.part, self.form = source, suffix, part, form
        stage, last_unit = static_stage, source.geometry.units - 1
        if stage is None:
            unit, stage = last_unit if form == "later" else min(2, last_unit), 1
            self.sample = transformer_sample(source, suffix, unit, stage, padded=False)
        else:
            unit = source.forgetful(stage) if form == "first" else last_unit
            self.sample = transformer_sample(source, suffix, unit, stage, True, longest=unit)
        self.first, self.last = part == 0, part == source.parts - 1
        self.later = form == "later"
        self.known = source.known_tokens(unit, stage) if self.later else 0
        self.past = len(self.sample["context"]) + self.known if self.later else 0
        self.net = self.blocks_alone()

    def blocks_alone(self) -> Any:
        """The network with this part's blocks."""
        net = self.source.load(PyramidMMDiT, f"{TRANSFORMER}{self.suffix}")
        start = self.part * self.source.blocks
        net.transformer_blocks = net.transformer_blocks[start : start + self.source.blocks]
        return net

    def inputs(self) -> dict[str, Tensor]:
        """What this part is given on the sample prompt: what the parts before it make of it."""
        net = self.source.load(PyramidMMDiT, f"{TRANSFORMER}{self.suffix}")
        return cast(dict[str, Tensor], self.source.sketch(lambda: self._inputs(net)))

    def _inputs(self, net: Any) -> dict[str, Tensor]:
        source, sample = self.source, self.sample
        tables = {name: sample[name] for name in TABLES}
        rows, text = sample["modulation"], sample["context"]
        image = net.embed(sample["patches"], sample["positions"])
        blocks, seen = net.transformer_blocks, list[KeysValues]()
        for number in range(self.part + 1):
            net.transformer_blocks = blocks[number * source.blocks : (number + 1) * source.blocks]
            own, rows = rows.split(
                [(n := sum(b.rows for b in net.transformer_blocks)), len(rows) - n]
            )
            if number < self.part:
                image, text = net.blocks(image, text, own, *tables.values())
        if self.later:
            net.blocks(image, text, own, *tables.values(), own=seen)
        if self.last:
            own = torch.cat([own, rows])
        texts = {} if self.later else {"context" if self.first else "text": text}
        names = ("patches", "positions") if self.first else ()
        inputs = {name: sample[name][self.known :] for name in names}
        inputs |= {} if self.first else {"image": image[self.known :]}
        inputs |= {name: table[self.past :] for name, table in tables.items()} | texts
        inputs |= {"modulation": own}
        if self.later:
            kinds = zip(("past_keys", "past_values"), zip(*seen, strict=True), strict=True)
            inputs |= {name: torch.stack([x[:, : self.past] for x in pair]) for name, pair in kinds}
        return inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what this part gives."""
        passed_on = ("next_image",) if self.later else ("next_image", "next_text")
        return (("flow",) if self.last else passed_on) + (("keys", "values") if self.form else ())

    def run(self, net: Any, **inputs: Tensor) -> Any:
        """The part's outputs from its inputs by name."""
        image = net.embed(inputs["patches"], inputs["positions"]) if self.first else inputs["image"]
        text, rows = inputs.get("context" if self.first else "text"), inputs["modulation"]
        if self.last:
            rows, end = rows.split([len(rows) - 2, 2], -2)
        made: list[KeysValues] = []
        before = None
        if self.later:
            before = zip(inputs["past_keys"], inputs["past_values"], strict=True)
        kept = self.source.oldest_tokens + (0 if text is None else text.shape[-2])
        image, text = net.blocks(image, text, rows, *(inputs[n] for n in TABLES), before, made)
        result = [net.project(image, end)] if self.last else [image, text]
        if self.later and not self.last:
            result = [image]
        if self.form:
            pairs = zip(*made, strict=True)
            result += [torch.stack([x.narrow(1, 0, kept) for x in pair]) for pair in pairs]
        return tuple(result)

    def dynamic(self, names: Iterable[str]) -> dict[str, tuple[str | None, ...]]:
        """Names of the dynamic dimensions of these inputs and outputs."""
        sizes: dict[str, tuple[str | None, ...]] = {
            **dict.fromkeys(("patches", "positions", "image", "next_image", "flow"), ("T", None)),
            **dict.fromkeys(("context", "text", "next_text"), ("N", None)),
            **dict.fromkeys(("rope_cos", "rope_sin"), ("T" if self.later else "A", None)),
            "mask": ("T", "A") if self.later else ("A", "A"),
            **dict.fromkeys(("past_keys", "past_values"), (None, None, "P", None)),
            **dict.fromkeys(("keys", "values"), (None, None, None if self.later else "K", None)),
        }
        return {name: sizes[name] for name in names if name in sizes}


def transformer(
    source: Source, suffix: str, part: int = 0, static_stage: int | None = None, form: str = ""
) -> Traced:
    """The transformer, or one part of it, see `Part`."""
    one = Part(source, suffix, part, static_stage, form)
    inputs = one.inputs()
    names = list(inputs)

    def run(net: Any, *tensors: Tensor) -> Any:
        return one.run(net, **dict(zip(names, tensors, strict=True)))

    rearranged = widen_(one.net.half_split_())
    rearranged.time_text_embed = None
    return Traced(
        rearranged,
        run,
        inputs,
        one.outputs,
        lambda: run(one.blocks_alone(), *inputs.values()),
        one.dynamic((*inputs, *one.outputs)),
        opset=23,
    )
