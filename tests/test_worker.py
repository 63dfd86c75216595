"""The worker in a process of its own, on the real engine and the mini pack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state
from PIL import Image
from random_pack import strict
from stderr import ours

from engine import session
from engine.events import UnitFrames
from engine.pack import Graph, Pack
from engine.pipeline import generate
from engine.session import placement
from studio.jobs import worker
from studio.jobs.spec import PENDING, Entry, Job, State, Work, content_key
from studio.jobs.table import JobTable
from studio.language.catalogue import Speaker
from studio.media import sidecars
from studio.media.pictures import write_png
from studio.media.video import read_metadata
from studio.page import html
from studio.system.settings import change, settings_file

PATIENCE = 600.0  # seconds, on a machine that is busy with other things
THREADS = ["--threads", "1"]


class Dying:
    """`OrtSession.run` and `Stream.step` of a device that goes away in the middle of a clip."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, runs: int) -> None:
        self.left, step = runs, session.Stream.step

        def lost(_: Any) -> None:
            raise ort_state.EPFail("[ONNXRuntimeError] : 11 : EP_FAIL : QNN device lost\nx")

        def stepped(stream: Any, **inputs: Any) -> Any:
            self.left -= 1
            if self.left:
                return step(stream, **inputs)
            stream.graph.work(lost)

        monkeypatch.setattr(session.Stream, "step", stepped)


class Refusing:
    """ONNX Runtime's session of a graph that some NPU runs no more."""

    def run(self, *_: Any) -> None:
        raise ort_state.EPFail("Error code: 1100")


class Place:
    """A table, the folders of a worker, and work for it that takes little time."""

    def __init__(self, root: Path, pack: Pack) -> None:
        self.root = root
        self.pack = pack
        self.clips = root / "Videos é"
        self.cache = root / "cache"
        self.table = JobTable(root / "jobs.sqlite")
        self.work = Work(
            *("a red ball bounces", 3, 4),
            pack=str(pack.path),
            backend="cpu",
            steps=(1, 1, 1),
            upscale=False,
        )

    def add(self, *works: Work) -> list[int]:
        return self.table.add(Entry(work, content_key(work, self.pack)) for work in works)

    def command(self, *more: str) -> list[str]:
        folders = ["--clips", str(self.clips), "--cache", str(self.cache)]
        jobs = ["--jobs", str(self.table.path)]
        return [sys.executable, "-m", "studio.jobs.worker", *jobs, *folders, *THREADS, *more]

    def drain(self, *more: str) -> subprocess.CompletedProcess[str]:
        """Run a worker until it has nothing to take."""
        return subprocess.run(
            self.command("--drain", *more), capture_output=True, encoding="utf-8", timeout=PATIENCE
        )

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        """A worker as the page starts it."""
        process = worker.start(self.table.path, self.clips, self.cache, threads=1)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    def until(self, job_id: int, reached: Callable[[Job], bool]) -> Job:
        """The job as soon as it is so."""
        deadline = time.monotonic() + PATIENCE
        while not reached(job := self.table.job(job_id)):
            assert time.monotonic() < deadline, job
            time.sleep(0.01)
        return job

    def states(self) -> list[State]:
        return [job.state for job in self.table.jobs()]


@pytest.fixture
def place(tmp_path: Path, pack: Pack) -> Iterator[Place]:
    place = Place(tmp_path, pack)
    yield place
    place.table.close()


def test_jobs_become_files(place: Place) -> None:
    picture = place.root / "mine.png"
    Image.new("RGB", (30, 20), "red").save(picture)
    bad = replace(place.work, pack=str(place.root))
    frame = replace(place.work, kind="frame", prompt="a ball " * 100)
    given = replace(place.work, image=picture)
    place.table.add([Entry(bad, "?")])
    place.add(place.work, frame, given)
    run = place.drain()
    assert (run.returncode, ours(run.stderr)) == (0, "")
    refused, clip, still, continued = place.table.jobs()
    assert refused.state == "failed" and str(refused.error).endswith(".") and not refused.notices
    assert [job.state for job in (clip, still, continued)] == ["done"] * 3

    assert clip.result is not None and clip.result.parent == place.clips.absolute()
    metadata = read_metadata(clip.result)
    assert metadata["key"] == clip.key == content_key(place.work, place.pack)
    beside = json.loads(clip.result.with_suffix(".json").read_text("utf-8"))
    assert {name: beside[name] for name in metadata} == metadata
    assert (beside["file"], beside["kind"], beside["prompt"]) == (
        *(clip.result.name, "clip", place.work.prompt),
    )
    assert beside["seconds"] > 0 and "T" in beside["created"]
    assert clip.size == clip.result.stat().st_size and clip.fraction == 1
    assert {"clip", "first_frame", "transformer", "video_decoder", "file"} <= set(clip.stages)
    assert "upscaler" not in clip.stages

    with Image.open(place.cache / str(clip.id) / "first.png") as image:
        first = np.asarray(image)
    assert still.result is not None and still.result.suffix == ".png"
    assert "_motion" not in still.result.name and "did not read" in str(still.notices[0])
    assert json.loads(still.result.with_suffix(".json").read_text("utf-8"))["kind"] == "frame"
    with Image.open(still.result) as image:
        assert first.shape == np.asarray(image).shape
    assert continued.result is not None
    assert read_metadata(continued.result)["image"] == "mine.png"
    assert not list(place.root.rglob("*.part"))


def test_a_withheld_row_ends_no_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEODRAGON_DATA", str(place.root / "data"))
    withheld = replace(place.work, pack=str(strict()), kind="frame")
    frame = replace(place.work, kind="frame")
    place.table.add([Entry(withheld, "?")])
    place.add(frame)
    assert place.drain().returncode == 0
    row, made = place.table.jobs()
    assert (row.state, made.state) == ("failed", "done")
    assert "safety check withholds" in str(row.error) and "settings" in str(row.error)
    assert not list((place.cache / str(row.id)).glob("*.png")), "it is not shown either"
    place.table.retry([row.id])
    assert place.table.job(row.id).state == "waiting"
    assert place.table.job(made.id).state == "done", "only what failed is tried again"
    change(settings_file(), safety=False)
    assert place.drain().returncode == 0
    assert place.states() == ["done", "done"]


def test_a_clip_is_what_the_engine_makes(
    place: Place, decode: Callable[[Path], np.ndarray]
) -> None:
    (job_id,) = place.add(place.work)
    assert place.drain().returncode == 0
    result = place.table.job(job_id).result
    assert result is not None
    events = generate(place.pack, place.work, "cpu", 1)
    frames = np.concatenate([e.frames for e in events if isinstance(e, UnitFrames)])
    shown = decode(result)
    assert shown.shape == frames.shape
    assert np.abs(shown.astype(int) - frames).mean() < 4  # H.264


def test_a_killed_worker_loses_nothing(place: Place) -> None:
    first, second, third = place.add(
        *(replace(place.work, look_seed=seed) for seed in range(3)),
    )
    with place.started() as process:
        place.until(second, lambda job: job.units > 1)
        process.kill()
        process.wait()
    assert place.states() == ["done", "running", "waiting"]
    kept = place.table.job(first).result
    assert kept is not None and list(place.clips.glob("*.mp4")) == [kept]
    whole = kept.read_bytes()
    with place.started():
        job = place.until(second, lambda job: job.state != "running")
        assert (job.state, job.attempts) == ("interrupted", 1)
        assert place.table.queue().paused and "resume" in str(place.table.queue().reason)
        place.table.resume()
        place.until(third, lambda job: job.state == "done")
    assert place.states() == ["done"] * 3
    assert place.table.job(second).attempts == 2
    assert len(list(place.clips.glob("*.mp4"))) == len(list(place.clips.glob("*.json"))) == 3
    assert kept.read_bytes() == whole


def test_a_clip_that_was_whole_is_not_made_again(place: Place) -> None:
    (job_id,) = place.add(place.work)
    assert place.drain().returncode == 0
    before = place.table.job(job_id)
    assert before.result is not None
    # As it is when the worker is killed between the clip and its sidecar.
    before.result.with_suffix(".json").unlink()
    other = JobTable(place.root / "other.sqlite")
    place.table.close()
    place.table = other
    (again,) = place.add(place.work)
    with other.lease():
        other.claim()
        other.announce(again, before.result, before.key)
    assert place.drain().returncode == 0
    assert place.states() == ["done"] and other.queue().paused
    assert json.loads(before.result.with_suffix(".json").read_text("utf-8"))["key"] == before.key
    assert len(list(place.clips.glob("*.mp4"))) == 1


def test_giving_up_a_job_frees_the_worker(place: Place) -> None:
    slow = replace(place.work, steps=(100, 100, 100))
    first, second, third = place.add(slow, replace(slow, look_seed=9), place.work)
    with place.started() as process:
        job = place.until(first, lambda job: job.units > 0)
        with Image.open(place.cache / str(first) / "unit-0.jpg") as strip:
            assert strip.size == (place.pack.geometry.width, place.pack.geometry.height)
        assert 0 < job.fraction < 1 and job.stage
        place.table.skip(first)
        place.until(second, lambda job: job.state == "running" and job.fraction > 0.3)
        assert place.table.job(first).state == "skipped"
        assert (place.cache / str(first) / "first.png").is_file()
        place.table.stop_all()
        place.until(second, lambda job: job.state == "cancelled")
        assert process.poll() is None
        assert place.states() == ["skipped", "cancelled", "waiting"]
        place.table.resume()
        place.until(third, lambda job: job.state == "running")
        place.table.pause()  # stop after this
        place.add(place.work)
        place.until(third, lambda job: job.state == "done")
        # Closed by whoever started it: it ends by itself.
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    assert place.states() == ["skipped", "cancelled", "done", "waiting"]


def test_a_terminated_worker_puts_its_job_back(place: Place) -> None:
    (job_id,) = place.add(replace(place.work, steps=(100, 100, 100)))
    with subprocess.Popen(place.command()) as process:
        place.until(job_id, lambda job: job.fraction > 0)
        process.terminate()
        process.wait(PATIENCE)
    job = place.table.job(job_id)
    if os.name == "posix":
        assert (job.state, job.attempts, process.returncode) == ("waiting", 0, 128 + 15)


def test_a_full_disk_pauses_the_queue(place: Place) -> None:
    place.add(place.work, place.work)
    assert place.drain("--floor", str(10**18)).returncode == 0
    assert place.states() == ["waiting", "waiting"]
    assert place.table.queue().paused
    assert str(place.table.queue().reason).startswith("The disk of ")
    place.table.resume()
    place.clips.rmdir()
    place.clips.write_text("a file where the folder should be")
    assert place.drain().returncode == 0
    assert place.states() == ["interrupted", "waiting"]
    assert place.table.queue().paused
    assert "takes no new file" in str(place.table.queue().reason)


def test_what_a_full_disk_interrupts_is_taken_up_again(place: Place, tmp_path: Path) -> None:
    place.clips.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "disk", str(place.clips)]
    if os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        (place.clips / "fill").write_bytes(bytes(56 * 1024))
        (job_id,) = place.add(replace(place.work, kind="frame"))
        assert place.drain("--floor", "0").returncode == 0
        job, queue = place.table.job(job_id), place.table.queue()
        assert (job.state, job.attempts, queue.paused) == ("interrupted", 0, True)
        assert "cannot be written (No space left on device)" in str(queue.reason)
        assert [path.name for path in place.clips.iterdir()] == ["fill"]
        (place.clips / "fill").unlink()
        place.table.resume()
        assert place.drain("--floor", "0").returncode == 0
        assert place.states() == ["done"] and len(list(place.clips.iterdir())) == 2
    finally:
        subprocess.run(["umount", str(place.clips)], check=True)


def test_what_appears_under_the_name_of_a_clip_is_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job_id,) = place.add(replace(place.work, kind="frame"))
    there = []

    def late(path: Path, *rest: Any, **options: Any) -> Path:
        if path.name != "first.png":
            there.extend([path, path.with_name(f"{path.stem}-2.json")])
            there[0].write_text("mine")
            content = {"software": "Neodragon Studio 0.2.0", "kind": "frame", "marks": {"stars": 5}}
            there[1].write_text(json.dumps(content))
        return write_png(path, *rest, **options)

    monkeypatch.setattr(worker, "write_png", late)
    worker.Worker(place.table, place.clips, place.cache, 1).run(drain=True)
    job = place.table.job(job_id)
    assert job.state == "done" and job.result == there[0].with_stem(f"{there[0].stem}-3")
    assert there[0].read_text("utf-8") == "mine" and "stars" in there[1].read_text("utf-8")
    beside = json.loads(job.result.with_suffix(".json").read_text("utf-8"))
    assert beside["file"] == job.result.name and "marks" not in beside
    assert len(list(place.clips.iterdir())) == 4


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="becomes another user")
def test_a_folder_without_rights_pauses_the_queue(place: Place) -> None:
    place.add(replace(place.work, kind="frame"))
    with tempfile.TemporaryDirectory(prefix="rights-") as name:
        data = Path(name)
        data.chmod(0o777)
        clips = data / "clips"
        clips.mkdir(mode=0o700)
        place.table.close()
        for file in place.root.glob("jobs.sqlite*"):
            copy = Path(shutil.copy(file, data))
            copy.chmod(0o666)
        folders = ["--clips", str(clips), "--cache", str(data / "cache")]
        script = (
            "import os, sys\n"
            "from wakepy import keep\n"  # what another user may not read here
            "from studio.jobs.worker import main\n"
            "os.setgid(65534)\n"
            "os.setuid(65534)\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        command = [sys.executable, "-c", script, "--jobs", str(data / "jobs.sqlite"), "--drain"]
        run = subprocess.run(
            [*command, *folders], capture_output=True, encoding="utf-8", timeout=PATIENCE
        )
        assert run.returncode == 0, run.stderr
        with JobTable(data / "jobs.sqlite") as table:
            assert [job.state for job in table.jobs()] == ["interrupted"]
            assert table.queue().paused and "Permission denied" in str(table.queue().reason)


def test_a_mistake_of_ours_costs_one_job(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = place.add(place.work, replace(place.work, kind="frame"))

    def broken(*_: object, **__: object) -> None:
        raise KeyError("nobody thought of it")

    monkeypatch.setattr(worker, "write_mp4", broken)
    worker.Worker(place.table, place.clips, place.cache, 1).run(drain=True)
    assert place.states() == ["failed", "done"]
    assert "The studio made a mistake (KeyError: 'nobody" in str(place.table.job(first).error)
    assert "Traceback" in capsys.readouterr().err
    assert place.table.job(second).result


def test_a_second_worker_is_refused(place: Place) -> None:
    with place.table.lease():
        run = place.drain()
    assert run.returncode == worker.FAILED
    said = ours(run.stderr)
    assert said.startswith("worker: Another worker has ") and said.count("\n") == 1
    assert not place.table.jobs(PENDING)


def test_a_device_that_goes_away_costs_one_row(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first frame stays, the row says why, and the next one starts from a fresh load."""
    Dying(monkeypatch, runs=3)
    lost, made = place.add(place.work, replace(place.work, look_seed=5))
    worker.Worker(place.table, place.clips, place.cache, threads=1).run(drain=True)
    first = place.table.job(lost)
    assert first.state == "failed" and first.error
    assert "video_decoder failed" in str(first.error)
    assert "\n" not in str(first.error)
    assert (place.cache / str(lost) / "first.png").is_file()
    assert place.table.job(made).state == "done"
    assert len(list(place.clips.glob("*.mp4"))) == 1
    assert not list(place.clips.glob("*.part"))


def test_what_the_engine_says_of_a_load_is_on_the_row_and_in_the_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = placement.load_graph

    def tired(graph: Graph, *rest: Any, **options: Any) -> session.OrtSession:
        """A graph whose first run asks for a fresh load, as some NPUs do."""
        opened = load(graph, *rest, **options)
        if graph.name == "clip_l":
            whole, opened._session = opened._session, Refusing()
            opened._reload = lambda: whole
        return opened

    monkeypatch.setattr(placement, "load_graph", tired)
    (number,) = place.add(replace(place.work, kind="frame"))
    worker.Worker(place.table, place.clips, place.cache, threads=1).run(drain=True)
    job = place.table.job(number)
    sentence = "The graph clip_l failed on the NPU (Error code: 1100); it is loaded again."
    assert (job.state, [str(notice) for notice in job.notices]) == ("done", [sentence])
    assert job.result is not None
    assert json.loads(job.result.with_suffix(".json").read_text("utf-8"))["notices"] == [sentence]
    assert sidecars.inside(job.result)["notices"] == [sentence]
    assert sentence in html.caption(job, Speaker("en"))


@pytest.mark.skipif("npu-emulated" not in session.available(), reason="no NPU emulation here")
def test_a_worker_loads_before_it_has_work(place: Place) -> None:
    """And a job of another backend is done while it does."""
    process = worker.start(
        *(place.table.path, place.clips, place.cache),
        threads=1,
        warm=(place.pack.path, "npu-emulated"),
    )
    try:
        (job,) = place.add(place.work)
        place.until(job, lambda job: job.state == "done")
    finally:
        process.kill()
        process.communicate()
