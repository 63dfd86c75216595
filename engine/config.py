"""What a user asks for (`Request`) and the parts of a pack's manifest, all checked when built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from engine.errors import Message, PackError, RequestError

Mode = Literal["hybrid", "monolithic"]
MODES: tuple[str, ...] = get_args(Mode)
SEED_LIMIT = 2**32
STEP_LIMIT = 100
LARGEST = 2**24  # of the numbers in a manifest; the full-size model's largest is 1,024
STAGE_LIMIT = 8
OLD_NAMES = {"negative": "negative_prompt", "picture": "image"}  # of version 0.2.0


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a number that a float can hold, no infinity, NaN or truth value."""
    if _is_int(value):
        return abs(value) < 2**63  # type: ignore[arg-type]
    return isinstance(value, float | np.floating) and bool(np.isfinite(value))


@dataclass(frozen=True)
class Fork:
    """From `unit` on a clip goes on otherwise: with another motion seed, and prompt unless None.

    The units before it stay as they are without the fork. Raises RequestError.
    """

    unit: int
    motion_seed: int
    prompt: str | None = None

    def __post_init__(self) -> None:
        if not _is_int(self.unit) or self.unit < 1:
            raise RequestError(
                "A fork begins at unit {unit!r}; use a whole number from 1.", unit=self.unit
            )
        object.__setattr__(self, "unit", int(self.unit))
        object.__setattr__(self, "motion_seed", _seed(Message("motion seed"), self.motion_seed))
        if self.prompt is not None and (
            not isinstance(self.prompt, str) or not self.prompt.strip()
        ):
            raise RequestError("Write a prompt first.")


@dataclass(frozen=True, eq=False)
class Request:
    """One clip as the user asks for it: the one list of what can be asked for.

    prompt: what to show, not blank. look_seed drives the first frame, motion_seed everything after
    it, 0 to 2**32 - 1. steps: network steps per stage for the units after the first, coarse to
    fine, 1 to 100 each, None for the pack's own. negative_prompt: what to avoid, None for the
    pack's own. image: a picture to continue instead of a generated first frame, as pixels, uint8
    [H, W, 3], or as the path of a file that is still to be read. upscale: double the frame size
    where the pack can. suffix: add the pack's own words. forks: units from which on the clip is
    drawn anew, in order. Raises RequestError.

    `to_dict` and `from_dict` are the only conversion: whatever stores or sends a request uses them.
    """

    prompt: str
    look_seed: int
    motion_seed: int
    mode: Mode = "hybrid"
    steps: tuple[int, int, int] | None = None
    negative_prompt: str | None = None
    image: NDArray[np.uint8] | Path | None = None
    upscale: bool = True
    suffix: bool = True
    forks: tuple[Fork, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise RequestError("Write a prompt first.")
        for name in ("look_seed", "motion_seed"):
            seed = _seed(Message(name.replace("_", " ")), getattr(self, name))
            object.__setattr__(self, name, seed)
        if self.mode not in MODES:
            raise RequestError(
                "The mode is {mode!r}; choose one of {modes}.",
                mode=self.mode,
                modes=", ".join(MODES),
            )
        if self.steps is not None:
            object.__setattr__(self, "steps", _request_steps(self.steps))
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise RequestError(
                "The negative prompt is {got!r}; write text, or leave it out.",
                got=self.negative_prompt,
            )
        if self.image is not None and not isinstance(self.image, Path):
            _check_image(self.image)
        for name in ("upscale", "suffix"):
            value = getattr(self, name)
            if not isinstance(value, bool | np.bool_):
                raise RequestError(
                    "{name} is {value!r}; choose true or false.",
                    name=name,
                    value=value,
                )
            object.__setattr__(self, name, bool(value))
        object.__setattr__(self, "forks", _forks(self.forks))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The request that a mapping of plain values describes.

        Names that are no field are ignored and absent ones get their default, so that what other
        versions wrote can be read. Raises RequestError.
        """
        named = {OLD_NAMES.get(name, name): value for name, value in values.items()}
        known: dict[str, Any] = {
            field.name: named.get(field.name)
            for field in fields(cls)
            if field.name in named or field.default is MISSING
        }
        if isinstance(image := known.get("image"), str):
            known["image"] = Path(image)
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON can hold it; raises TypeError for pixels, which no JSON holds."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.image, np.ndarray):
            raise TypeError("a request with pixels cannot be written; keep the path of its image")
        return values | {
            "image": None if self.image is None else str(self.image),
            "steps": None if self.steps is None else list(self.steps),
            "forks": tuple(asdict(fork) for fork in self.forks),
        }

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The image, uint8 [H, W, 3]; raises RequestError where it was not read."""
        if not isinstance(self.image, np.ndarray):
            raise RequestError("The image {image} was not read; read its pixels.", image=self.image)
        return self.image


def _seed(name: Message, seed: Any) -> int:
    if not _is_int(seed) or not 0 <= seed < SEED_LIMIT:
        raise RequestError(
            "The {name} is {seed!r}; use a whole number from 0 to {limit}.",
            name=name,
            seed=seed,
            limit=SEED_LIMIT - 1,
        )
    return int(seed)


def _forks(value: Any) -> tuple[Fork, ...]:
    try:
        forks = tuple(fork if isinstance(fork, Fork) else Fork(**fork) for fork in value or ())
    except TypeError as error:
        raise RequestError(
            "The forks are {got!r}; give each a unit, a motion seed and, if it changes, a prompt.",
            got=str(value)[:80],
        ) from error
    if any(a.unit >= b.unit for a, b in pairwise(forks)):
        raise RequestError(
            "The forks begin at units {units}; put them in order, at most one per unit.",
            units=", ".join(str(fork.unit) for fork in forks),
        )
    return forks


def _request_steps(steps: Any) -> tuple[int, ...]:
    valid = isinstance(steps, tuple | list) and len(steps) == 3
    if not valid or not all(_is_int(n) and 1 <= n <= STEP_LIMIT for n in steps):
        raise RequestError(
            "The steps are {steps!r}; use three whole numbers from 1 to {limit}, such as 1, 1, 1.",
            steps=steps,
            limit=STEP_LIMIT,
        )
    return tuple(int(n) for n in steps)


def _check_image(image: Any) -> None:
    array = isinstance(image, np.ndarray)
    got = f"{image.dtype} {list(image.shape)}" if array else f"a {type(image).__name__}"
    valid = array and image.dtype == np.uint8 and image.ndim == 3
    if not valid or image.shape[2] != 3 or 0 in image.shape:
        raise RequestError(
            "The image is {got}; use an RGB picture, uint8 [height, width, 3].", got=got
        )


def _require(valid: bool, expected: str, got: object) -> None:
    """Raise PackError unless `valid`; expected: a formula, which reads alike in every language."""
    if not valid:
        raise PackError(
            "pack.json says {got}, and {expected} was expected; get the pack again or export it"
            " anew.",
            expected=expected,
            got=f"{got!r:.80}",
        )


def _positive(part: object, *names: str) -> None:
    """Raise PackError unless every named field is a positive whole number below LARGEST."""
    for name in names:
        value = getattr(part, name)
        fits = _is_int(value) and 0 < value < LARGEST
        _require(fits, f"0 < {name} < {LARGEST}", value)


def _numbers(part: object, *names: str) -> None:
    """Raise PackError unless every named field is a finite number."""
    for name in names:
        value = getattr(part, name)
        _require(is_number(value), f"{name}: number", value)


@dataclass(frozen=True)
class Geometry:
    """Sizes of frames in pixels and of latents in cells; raises PackError."""

    height: int
    width: int
    frames: int
    fps: int
    spatial_stride: int
    temporal_stride: int
    latent_channels: int
    stages: int
    first_frame_height: int
    first_frame_width: int
    first_frame_stride: int
    first_frame_channels: int
    upscale: int

    def __post_init__(self) -> None:
        _positive(self, *self.__dataclass_fields__)
        _require(self.stages <= STAGE_LIMIT, f"stages <= {STAGE_LIMIT}", self.stages)
        for name in ("height", "width"):
            step = self.spatial_stride * 2 ** (self.stages - 1)
            size = getattr(self, name)
            _require(size % step == 0, f"{name} % {step} == 0", size)
            size = getattr(self, f"first_frame_{name}")
            step = self.first_frame_stride
            _require(size % step == 0, f"first_frame_{name} % {step} == 0", size)
        whole = (self.frames - 1) % self.temporal_stride == 0
        _require(whole, f"(frames - 1) % {self.temporal_stride} == 0", self.frames)

    @property
    def units(self) -> int:
        """Number of latent frames of a clip."""
        return (self.frames - 1) // self.temporal_stride + 1

    @property
    def latent_height(self) -> int:
        """Rows of a latent at the finest stage."""
        return self.height // self.spatial_stride

    @property
    def latent_width(self) -> int:
        """Columns of a latent at the finest stage."""
        return self.width // self.spatial_stride

    def stage_size(self, stage: int) -> tuple[int, int]:
        """Rows and columns of a latent at `stage`, 0 coarse to `stages - 1` fine."""
        factor = 2 ** (self.stages - 1 - stage)
        return self.latent_height // factor, self.latent_width // factor


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes the host needs to prepare the transformer's inputs; raises PackError.

    width: of a token; head_dim: of an attention head; patch_size: latent cells per token side;
    pos_embed_max_size: side of the position table in tokens; sample_size: side in latent cells
    that the table's coordinates are scaled to.
    """

    width: int
    head_dim: int
    patch_size: int
    pos_embed_max_size: int
    sample_size: int

    def __post_init__(self) -> None:
        _positive(self, *self.__dataclass_fields__)
        _require(self.width % 4 == 0, "width % 4 == 0", self.width)
        _require(self.head_dim % 2 == 0, "head_dim % 2 == 0", self.head_dim)
        heads = self.width % self.head_dim == 0
        _require(heads, f"width % head_dim {self.head_dim} == 0", self.width)
        fits = self.sample_size % self.patch_size == 0
        _require(fits, f"sample_size % patch_size {self.patch_size} == 0", self.sample_size)


@dataclass(frozen=True)
class ModeConfig:
    """Steps and guidance of one mode; raises PackError.

    first_steps and first_guidance are for the first unit, None where the mode does not generate
    it; a guidance of 1.0 means no second network pass.
    """

    first_steps: tuple[int, ...] | None
    steps: tuple[int, ...]
    first_guidance: float | None
    guidance: float

    def __post_init__(self) -> None:
        for name in ("first_steps", "steps"):
            steps = getattr(self, name)
            if name == "first_steps" and steps is None:
                continue
            valid = isinstance(steps, tuple | list) and len(steps) > 0
            valid = valid and all(_is_int(n) and 0 < n <= STEP_LIMIT for n in steps)
            _require(valid, f"0 < {name} <= {STEP_LIMIT}", steps)
            object.__setattr__(self, name, tuple(int(n) for n in steps))
        _numbers(self, "guidance")
        both = (self.first_steps is None) == (self.first_guidance is None)
        _require(both, "first_steps + first_guidance", self.first_guidance)
        if self.first_guidance is not None:
            _numbers(self, "first_guidance")


@dataclass(frozen=True)
class ScheduleConfig:
    """The pyramid's noise schedule and its modes; raises PackError.

    gamma: anti-correlation of the block noise, in (0, 1/3]; stage_range: stages + 1 borders from 0
    to 1, rising.
    """

    train_timesteps: int
    gamma: float
    stage_range: tuple[float, ...]
    modes: dict[str, ModeConfig]

    def __post_init__(self) -> None:
        _positive(self, "train_timesteps")
        _numbers(self, "gamma")
        _require(0 < self.gamma <= 1 / 3 + 1e-9, "0 < gamma <= 1/3", self.gamma)
        borders = self.stage_range
        valid = isinstance(borders, tuple | list) and len(borders) >= 2
        valid = valid and all(is_number(border) for border in borders)
        valid = valid and borders[0] == 0 and borders[-1] == 1
        valid = valid and all(low < high for low, high in pairwise(borders))
        _require(valid, "0 = stage_range[0] < stage_range[1] < … = 1", borders)
        object.__setattr__(self, "stage_range", tuple(float(border) for border in borders))
        known = len(self.modes) > 0 and set(self.modes) <= set(MODES)
        _require(known, f"modes: {', '.join(MODES)}", list(self.modes))
        for mode in self.modes.values():
            for steps in (mode.first_steps, mode.steps):
                valid = steps is None or len(steps) == len(borders) - 1
                _require(valid, f"len(steps) == {len(borders) - 1}", steps)

    @property
    def stages(self) -> int:
        """Number of pyramid stages."""
        return len(self.stage_range) - 1


@dataclass(frozen=True)
class FirstFrameConfig:
    """How the first frame is sampled; raises PackError.

    sampler: `lcm` or `ddim`; timesteps: falling, below train_timesteps; guidance: 1.0 means no
    second pass; prediction: `epsilon` or `v_prediction`; beta_start, beta_end: scaled-linear betas;
    latent_scale: the decoder's input is latent / latent_scale.
    """

    sampler: str
    timesteps: tuple[int, ...]
    guidance: float
    prediction: str
    train_timesteps: int
    beta_start: float
    beta_end: float
    latent_scale: float

    def __post_init__(self) -> None:
        _require(self.sampler in ("lcm", "ddim"), "sampler: lcm | ddim", self.sampler)
        known = self.prediction in ("epsilon", "v_prediction")
        _require(known, "prediction: epsilon | v_prediction", self.prediction)
        _positive(self, "train_timesteps")
        _numbers(self, "guidance", "beta_start", "beta_end", "latent_scale")
        steps = self.timesteps
        valid = isinstance(steps, tuple | list) and len(steps) > 0
        valid = valid and all(_is_int(t) and 0 <= t < self.train_timesteps for t in steps)
        valid = valid and all(high > low for high, low in pairwise(steps))
        _require(valid, f"{self.train_timesteps} > timesteps[0] > timesteps[1] > …", steps)
        object.__setattr__(self, "timesteps", tuple(int(t) for t in steps))
        betas = 0 < self.beta_start <= self.beta_end < 1
        _require(betas, "0 < beta_start <= beta_end < 1", (self.beta_start, self.beta_end))
        _require(self.latent_scale > 0, "latent_scale > 0", self.latent_scale)


@dataclass(frozen=True)
class VaeConfig:
    """Latent statistics: normalised = (latent - shift) * scale, first unit and later ones apart."""

    first_scale: float
    first_shift: float
    scale: float
    shift: float

    def __post_init__(self) -> None:
        _numbers(self, *self.__dataclass_fields__)
        positive = self.first_scale > 0 and self.scale > 0
        _require(positive, "first_scale, scale > 0", (self.first_scale, self.scale))


@dataclass(frozen=True)
class PromptConfig:
    """Prompt conventions: text appended to every prompt, default negative prompt, pad token ids."""

    suffix: str
    negative: str
    clip_l_pad: int
    clip_g_pad: int

    def __post_init__(self) -> None:
        for name in ("suffix", "negative"):
            _require(isinstance(getattr(self, name), str), f"{name}: string", getattr(self, name))
        for name in ("clip_l_pad", "clip_g_pad"):
            value = getattr(self, name)
            _require(_is_int(value) and value >= 0, f"{name} >= 0", value)
