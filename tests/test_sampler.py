"""The sampling loop: its order and events here, its numbers against the published pipeline."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.config import ModeConfig, ScheduleConfig
from engine.noise import SeededNoise
from engine.sampler import Evaluated, UnitLatent, evaluations, sample_latents
from engine.scheduler import stage_schedule

Floats = NDArray[np.float32]

SHAPE = (2, 1, 8, 16)
BORDERS = (0, 1 / 3, 2 / 3, 1)
HYBRID = ModeConfig(None, (1, 1, 1), None, 1.0)
MONOLITHIC = ModeConfig((2, 1, 3), (1, 2, 1), 7.0, 5.0)
STAGES = stage_schedule(ScheduleConfig(1000, 1 / 3, BORDERS, {"hybrid": HYBRID}))
FIRST = np.ones(SHAPE, np.float32)


class Recorder:
    """A network that notes its calls and answers with a constant flow for each prompt."""

    def __init__(self, flow: Callable[[bool], float] = lambda negative: 0.0) -> None:
        self.calls: list[tuple[int, int, float, bool, list[tuple[int, ...]]]] = []
        self.flow = flow

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
        shapes = [part.shape for part in history]
        self.calls.append((unit, stage, timestep, negative, shapes))
        return np.full_like(current, self.flow(negative))


def noise(look: int = 1, motion: int = 2) -> SeededNoise:
    return SeededNoise(look, motion, SHAPE, 1 / 3)


def latents(events: list[Evaluated | UnitLatent]) -> list[Floats]:
    return [event.latent for event in events if isinstance(event, UnitLatent)]


def test_hybrid_continues_the_first_latent() -> None:
    network = Recorder()
    events = list(sample_latents(network, noise(), STAGES, HYBRID, 3, FIRST))
    assert [type(event) for event in events] == [UnitLatent] + 2 * (3 * [Evaluated] + [UnitLatent])
    assert events[0].latent is FIRST  # type: ignore[union-attr]
    assert [call[:4] for call in network.calls] == [
        (unit, stage, timestep, False)
        for unit in (1, 2)
        for stage, timestep in enumerate((1000.0, 744.0, 386.0))
    ]
    assert network.calls[-1][4] == [(2, 1, 4, 8), (2, 1, 8, 16)]
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert [event.done for event in evaluated] == [1, 2, 3, 4, 5, 6]
    assert {event.total for event in evaluated} == {evaluations(HYBRID, 3, True)} == {6}
    assert all(latent.shape == SHAPE and latent.dtype == np.float32 for latent in latents(events))


def test_monolithic_asks_the_negative_prompt_first() -> None:
    network = Recorder()
    events = list(sample_latents(network, noise(), STAGES, MONOLITHIC, 2))
    expected = [
        (unit, stage, negative)
        for unit, steps in enumerate(((2, 1, 3), (1, 2, 1)))
        for stage, count in enumerate(steps)
        for _ in range(count)
        for negative in (True, False)
    ]
    assert [(unit, stage, negative) for unit, stage, _, negative, _ in network.calls] == expected
    assert network.calls[0][4] == []
    assert len(expected) == evaluations(MONOLITHIC, 2, False) == 20
    assert len(latents(events)) == 2


def test_monolithic_can_continue_a_given_first_latent() -> None:
    network = Recorder()
    events = list(sample_latents(network, noise(), STAGES, MONOLITHIC, 2, FIRST))
    assert latents(events)[0] is FIRST
    assert {call[0] for call in network.calls} == {1}
    assert len(network.calls) == evaluations(MONOLITHIC, 2, True) == 8


def test_guidance_moves_away_from_the_negative_prompt() -> None:
    guided = list(
        sample_latents(
            Recorder(lambda negative: 0.1 if negative else 0.3), noise(), STAGES, MONOLITHIC, 2
        )
    )
    for unit, guidance in ((0, 7.0), (1, 5.0)):
        mode = ModeConfig(MONOLITHIC.first_steps, MONOLITHIC.steps, 1.0, 1.0)
        flow = 0.1 + guidance * 0.2
        plain = list(sample_latents(Recorder(lambda _, f=flow: f), noise(), STAGES, mode, 2))
        np.testing.assert_allclose(latents(guided)[unit], latents(plain)[unit], atol=1e-5)


def test_hybrid_needs_a_first_latent() -> None:
    with pytest.raises(ValueError, match="first unit"):
        list(sample_latents(Recorder(), noise(), STAGES, HYBRID, 2))


def test_steps_must_match_the_stages() -> None:
    mode = ModeConfig(None, (1, 1), None, 1.0)
    with pytest.raises(ValueError, match="stages"):
        list(sample_latents(Recorder(), noise(), STAGES, mode, 2, FIRST))


def test_seeds_repeat_and_re_roll_apart() -> None:
    def run(look: int, motion: int) -> list[Floats]:
        return latents(list(sample_latents(Recorder(), noise(look, motion), STAGES, MONOLITHIC, 3)))

    one, again, moved = run(1, 2), run(1, 2), run(1, 3)
    for unit in range(3):
        np.testing.assert_array_equal(one[unit], again[unit])
    np.testing.assert_array_equal(one[0], moved[0])
    assert not np.array_equal(one[1], moved[1])
    assert not np.array_equal(one[0], run(5, 2)[0])


def test_the_loop_can_be_closed_at_any_event() -> None:
    network = Recorder()
    events = sample_latents(network, noise(), STAGES, HYBRID, 7, FIRST)
    next(events)
    next(events)
    events.close()
    assert len(network.calls) == 1
