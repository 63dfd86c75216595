"""The whole generation, top to bottom: a prompt and two seeds to the frames of a clip.

`generate` is a generator of events. The caller draws progress, keeps the frames and closes the
generator to cancel. A graph is loaded when its turn comes and given back after its last use, so
without a cache at most the transformer, the video decoder and the upscaler are in memory at once.
A unit is decoded, and its frames become bytes and larger, in threads beside the next unit's graphs.
What a single graph or step does is in the modules imported here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from contextvars import copy_context
from functools import partial
from threading import Lock, Semaphore
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine import first_frame, safety, upscaler, vae
from engine.canary import require_sound
from engine.config import Request
from engine.errors import BackendError
from engine.events import (
    Event,
    Finished,
    FirstFrame,
    Progress,
    StageDone,
    Truncated,
    UnitFrames,
)
from engine.first_frame import ClipEmbeds, embed
from engine.graph_cache import GraphCache, Key
from engine.modes import weights_of
from engine.pack import Pack
from engine.plan import Plan, planned
from engine.recall import Content, key_of
from engine.sampler import UnitLatent, evaluations, sample_latents
from engine.session import Array, Backend, Clock, OrtSession, Session, owner, require
from engine.text import PromptTokenizers, Tokens
from engine.transformer import Conditioning, Forked, Transformer, modulate, timesteps

DECODED = 3  # units at most whose frames wait to be finished

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Item = TypeVar("Item")
Watch = Callable[[str, str, dict[str, Array], dict[str, Array]], None]


def generate(
    pack: Pack,
    request: Request,
    backend: Backend = "cpu",
    threads: int | None = None,
    *,
    checked: bool = True,
    watch: Watch | None = None,
    cache: GraphCache | None = None,
) -> Generator[Event, None, None]:
    """Generate a clip, yielding events in the order it comes to be; close it to cancel.

    The frames of the clip are those of the seven `UnitFrames` in order. The same request gives the
    same bytes on the same backend. threads: of the CPU, None for all cores; checked: ask the pack's
    safety checker, if it has one, before the first frame is shown; watch: is told every graph's
    component and name, inputs and outputs, which calibration needs; cache: keeps graphs for the
    next clip, and none after a failure; an NPU is tried with a small graph before its first clip.
    Raises RequestError (its WithheldError where the checker objects), PackError, BackendError.
    """
    cache = cache or GraphCache(budget=0)
    owning = ExitStack()
    run = _Run(pack, require(backend), threads, checked, watch, cache)
    try:
        if backend == "npu":
            owning.enter_context(owner.held())
        if backend != "cpu" and (pack.pack_hash, backend) not in cache.sound:
            require_sound(pack, backend)
            cache.sound.add((pack.pack_hash, backend))
        with closing(_events(run, request)) as events:
            run.work.start()
            for event in events:
                run.work.stop()
                yield event
                run.work.start()
    except BackendError:
        cache.clear()
        raise
    finally:
        owning.close()


def prewarm(pack: Pack, backend: Backend, threads: int | None, cache: GraphCache) -> Iterator[str]:
    """Load the graphs of a hybrid clip in the order of their use, until `cache` is full.

    Yields the role of each. Raises as `generate` does.
    """
    roles = {
        "clip_l": ["clip_l"],
        "clip_g": ["clip_g"],
        "first_frame": ["unet", "first_frame_decoder"],
        "video_encoder": ["video_encoder"],
        "text_encoder": ["text_encoder"],
        "transformer": ["modulation", "transformer"],
        "video_decoder": ["video_decoder"],
        "upscaler": ["upscaler"],
    }
    for component in filter(pack.has, roles):
        for role in roles[component]:
            if not cache.prewarm(pack, component, role, backend, threads):
                return
            yield role


class _Run:
    """The loaded graphs of one generation, and its clocks: of work, which stands while the caller
    alone is busy, and of graphs.
    """

    def __init__(
        self,
        pack: Pack,
        backend: Backend,
        threads: int | None,
        checked: bool,
        watch: Watch | None,
        cache: GraphCache,
    ) -> None:
        self.pack = pack
        self.backend = backend
        self.threads = threads
        self.watch = watch
        self.cache = cache
        self.checked = checked and pack.has("safety_checker")
        self.load_seconds = 0.0
        self.work, self.graphs = Clock(), Clock()
        self._stages: dict[str, float] = {}
        self._lock = Lock()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time of a block towards `stage`."""
        started = self.work.seconds
        try:
            yield
        finally:
            with self._lock:
                spent = self.work.seconds - started
                self._stages[stage] = self._stages.get(stage, 0.0) + spent

    def each(self, stage: str, items: Iterator[Item]) -> Iterator[Item]:
        """The items, the time they take to come counted towards `stage`."""
        while True:
            with self.timed(stage):
                item = next(items, None)
            if item is None:
                return
            yield item

    def done(self, stage: str) -> StageDone:
        """The event of a finished stage."""
        return StageDone(stage, self._stages[stage])

    def load(self, stack: ExitStack, component: str, role: str | None = None) -> dict[str, Session]:
        """A component's graphs whose names start with `role`; given back when `stack` closes."""
        started = time.perf_counter()
        role = role or component
        key, opened = self.cache.take(self.pack, component, role, self.backend, self.threads)
        self.load_seconds += time.perf_counter() - started
        stack.callback(self._give_back, key, opened)
        for session in opened.values():
            session.seconds, session.clock = 0.0, self.graphs
            session.watch = self.watch and partial(self.watch, component)
        return dict(opened)

    def _give_back(self, key: Key, opened: dict[str, OrtSession]) -> None:
        """Freeing graphs counts as loading them."""
        started = time.perf_counter()
        self.cache.give_back(key, opened)
        self.load_seconds += time.perf_counter() - started

    def key(self, *content: Content) -> bytes:
        """What `content` is kept under in the cache's `recall`."""
        return key_of(self.pack.pack_hash, self.backend, self.threads or 0, *content)

    def made(
        self,
        component: str,
        role: str,
        do: Callable[..., tuple[Array, ...]],
        contents: Sequence[tuple[Content, ...]],
    ) -> list[tuple[Array, ...]]:
        """`do(graph, *content)` for each content asked for, or what an earlier clip has of it.

        The graph is only loaded where one is new.
        """
        recall = self.cache.recall
        keys = [self.key(component, role, *content) for content in contents]
        known = {key: kept for key in keys if (kept := recall.get(key)) and self.watch is None}
        if len(known) < len(set(keys)):
            with ExitStack() as stack:
                graph = self.load(stack, component, role)[role]
                for key, content in zip(keys, contents, strict=True):
                    if key not in known:
                        known[key] = do(graph, *content)
                        recall.keep(key, known[key])
        return [known[key] for key in keys]

    def check(self, image: Bytes) -> Iterator[StageDone]:
        """Raise WithheldError where the pack's safety checker objects to a first frame."""
        if self.checked:
            with self.timed("safety"), ExitStack() as stack:
                safety.check(self.load(stack, "safety_checker")["safety_checker"], image)
            yield self.done("safety")


def _events(run: _Run, request: Request) -> Generator[Event, None, None]:
    plan = planned(run.pack, request)
    with run.timed("clip"):
        tokenize = PromptTokenizers(run.pack)
        texts = [*plan.prompts, *([] if plan.negative is None else [plan.negative])]
        tokens = [tokenize(text) for text in texts]
        for cut in dict.fromkeys(cut for t in tokens for cut in t.cut):
            yield Truncated(*cut)
        clips = _clip(run, tokens)
        look = [clips[0], clips[-1]]
        own = run.pack.has("first_frame_clip_l") or run.pack.has("first_frame_clip_g")
        if plan.draws_first and own:
            look = _clip(run, [tokens[0], tokens[-1]], own="first_frame_")
    yield run.done("clip")
    first_latent = (yield from _first_latent(run, plan, look)) if plan.first_given else None
    guided = tokens if plan.guided else tokens[: len(plan.prompts)]
    conditionings = _conditionings(run, plan, guided, clips)
    yield run.done("text")
    yield from _units(run, plan, conditionings, first_latent)
    yield Finished(run.work.seconds, run.graphs.seconds, run.load_seconds)


def _first_latent(
    run: _Run, plan: Plan, look: Sequence[ClipEmbeds]
) -> Generator[Event, None, Floats]:
    """The first frame, checked and shown, then its normalised latent [C, 1, h, w]."""
    geometry = run.pack.geometry
    if plan.request.image is None:
        image = yield from _first_frame(run, plan.request, look)
    else:
        image = vae.fit(plan.request.pixels, geometry.height, geometry.width)
    yield from run.check(image)
    yield FirstFrame(image)
    with run.timed("video_encoder"):
        image = vae.fit(image, geometry.height, geometry.width)
        ((moments,),) = run.made("video_encoder", "video_encoder", vae.moments, [(image,)])
        latent = vae.draw(moments, plan.noise.posterior(), run.pack.vae)
    yield run.done("video_encoder")
    return latent


def _conditionings(
    run: _Run, plan: Plan, tokens: Sequence[Tokens], clips: Sequence[ClipEmbeds]
) -> list[Conditioning]:
    """What the transformer is told about each prompt, timed as the stage `text`."""
    mode, pack = plan.request.mode, run.pack
    steps = timesteps(plan.stages, plan.mode, plan.first_given)
    with run.timed("text"):
        contexts = run.made(
            *(weights_of(pack, "text_encoder", mode), "text_encoder"),
            lambda graph, ids, mask: (graph.run(ids=ids, mask=mask)["context"],),
            [(t.t5, t.t5_mask) for t in tokens],
        )
        modulations = run.made(
            *(weights_of(pack, "transformer", mode), "modulation"),
            lambda graph, pooled, *steps: tuple(modulate(graph, pooled, steps).values()),
            [(_pooled(clip), *steps) for clip in clips[: len(tokens)]],
        )
        return [
            Conditioning(context, t.t5_mask[0], dict(zip(steps, rows, strict=True)))
            for (context,), t, rows in zip(contexts, tokens, modulations, strict=True)
        ]


def _units(
    run: _Run, plan: Plan, conditionings: Sequence[Conditioning], first_latent: Floats | None
) -> Generator[Event, None, None]:
    """Unit by unit: its latent, its frames, larger frames."""
    pack, mode, units = run.pack, plan.mode, run.pack.geometry.units
    transformer = weights_of(pack, "transformer", plan.request.mode)
    larger: Session | None = None
    with ExitStack() as stack:
        with run.timed("transformer"):
            graphs = run.load(stack, transformer, "transformer")
            negative = conditionings[-1] if plan.guided else None
            flows = [
                Transformer(graphs, pack.transformer, one, negative)
                for one in conditionings[: len(plan.prompts)]
            ]
            flow = Forked(flows, plan.prompt_of)
        with run.timed("video_decoder"):
            decoder = vae.VideoDecoder(run.load(stack, "video_decoder")["video_decoder"], pack.vae)
        if plan.request.upscale and pack.has("upscaler"):
            with run.timed("upscaler"):
                larger = run.load(stack, "upscaler")["upscaler"]
        yield Progress("transformer", 0, evaluations(mode, units, plan.first_given))
        sampled = sample_latents(flow, plan.noise, plan.stages, mode, units, first_latent)
        finishing = stack.enter_context(_Finishing(run, decoder, larger))
        for event in run.each("transformer", sampled):
            if isinstance(event, UnitLatent):
                finishing.add(event.unit, event.latent)
                if event.unit == 0 and not plan.first_given:
                    first = finishing.first()
                    yield from run.check(first)
                    yield FirstFrame(first)
            else:
                yield Progress("transformer", event.done, event.total)
            yield from finishing.done()
        yield from finishing.done(wait=True)
    for stage in ("transformer", "video_decoder", *(("upscaler",) if larger else ())):
        yield run.done(stage)


class _Finishing:
    """Units to frames, bytes and larger frames, in threads of their own, in order.

    One decodes, as each unit follows from the one before, and is at most a few units ahead of the
    two that finish frames: when the last unit is decoded, no core is idle while frames wait for
    their turn.
    """

    def __init__(self, run: _Run, decoder: vae.VideoDecoder, larger: Session | None) -> None:
        self.run, self.decoder, self.larger = run, decoder, larger
        self._decoding = ThreadPoolExecutor(1, "decoding")
        self._threads = ThreadPoolExecutor(2, "finishing")
        self._room = Semaphore(DECODED)
        self._units: deque[Future[Future[UnitFrames]]] = deque()

    def add(self, unit: int, latent: Floats) -> None:
        """A unit's normalised latent [C, 1, h, w]; at once where graphs are watched."""
        context = copy_context()
        self._units.append(self._decoding.submit(context.run, self._decode, unit, latent))
        if self.run.watch is not None and self._units[-1].exception() is None:
            self._units[-1].result().exception()

    def first(self) -> Bytes:
        """The first frame of the first unit [H, W, 3], when it is there."""
        image: Bytes = self._units[0].result().result().plain[0]
        return image

    def done(self, wait: bool = False) -> Iterator[UnitFrames]:
        """The next units that are finished; with `wait`, all. Raises what went wrong in one."""
        while self._units and (wait or self._units[0].done()):
            frames = self._units[0].result()
            if not wait and not frames.done():
                return
            self._units.popleft()
            yield frames.result()

    def _decode(self, unit: int, latent: Floats) -> Future[UnitFrames]:
        self._room.acquire()
        try:
            with self.run.work, self.run.timed("video_decoder"):
                decoded = self.decoder.decode(latent)
            return self._threads.submit(copy_context().run, self._finish, unit, decoded)
        except BaseException:
            self._room.release()
            raise

    def _finish(self, unit: int, decoded: Floats) -> UnitFrames:
        try:
            with self.run.work:
                frames = plain = vae.to_bytes(decoded)
                if self.larger is not None:
                    with self.run.timed("upscaler"):
                        frames = upscaler.upscale(self.larger, plain)
        finally:
            self._room.release()
        return UnitFrames(unit, frames, plain)

    def __enter__(self) -> _Finishing:
        return self

    def __exit__(self, *error: object) -> None:
        self._decoding.shutdown(cancel_futures=True)
        self._threads.shutdown(cancel_futures=True)


def _clip(run: _Run, tokens: Sequence[Tokens], own: str = "") -> list[ClipEmbeds]:
    """CLIP's embeddings of each prompt; by encoders named `own` in front where the pack has them,
    whose weights then differ from the others'.
    """
    outputs = []
    for component in ("clip_l", "clip_g"):
        name = own + component if run.pack.has(own + component) else component
        ids = [(getattr(t, component),) for t in tokens]
        outputs.append(run.made(name, name, embed, ids))
    return [
        ClipEmbeds(np.concatenate([hidden_l, hidden_g], axis=-1), pooled_l, pooled_g)
        for (hidden_l, pooled_l), (hidden_g, pooled_g) in zip(*outputs, strict=True)
    ]


def _pooled(clip: ClipEmbeds) -> Floats:
    """The pooled conditioning of the transformer, float32 [1, D_l + D_g]."""
    return np.concatenate([clip.pooled_l, clip.pooled_g], axis=-1)


def _first_frame(
    run: _Run, request: Request, clips: Sequence[ClipEmbeds]
) -> Generator[Event, None, Bytes]:
    """Generate the first frame, uint8 [H, W, 3], at its own size."""
    config = run.pack.first_frame
    assert config is not None, "checked before the first graph was loaded"
    total = len(config.timesteps)
    latent = np.empty(0, np.float32)
    embeds = [part for c in (clips[0], clips[-1]) for part in (c.hidden, c.pooled_g)]
    key = run.key("first_frame", request.look_seed, *embeds)
    kept = run.cache.recall.get(key)
    if kept and run.watch is None:
        with run.timed("first_frame"):
            yield Progress("first_frame", total, total)
        yield run.done("first_frame")
        return kept[0].copy()
    with run.timed("first_frame"):
        with ExitStack() as stack:
            unet = run.load(stack, "first_frame", "unet")["unet"]
            steps = first_frame.sample(
                unet, config, run.pack.geometry, clips[0], clips[-1], request.look_seed
            )
            for done, denoised in enumerate(steps, 1):
                latent = denoised
                yield Progress("first_frame", done, total)
        with ExitStack() as stack:
            decoder = run.load(stack, "first_frame", "first_frame_decoder")["first_frame_decoder"]
            image = first_frame.decode(decoder, latent, config)
        run.cache.recall.keep(key, (image.copy(),))
    yield run.done("first_frame")
    return image
