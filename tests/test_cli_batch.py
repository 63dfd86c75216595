"""`nds batch` with the real engine: what it makes, says, skips, survives and refuses."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from engine.pack import Pack
from studio.batch import lists as batch
from studio.cli.main import main
from studio.jobs.spec import Job
from studio.jobs.table import JobTable
from studio.media.thumbnails import WIDTH
from studio.media.video import read_metadata
from studio.system import paths

PATIENCE = 900.0  # seconds, on a machine that is busy with other things
HEADER = "prompt,look_seed,steps,upscale,kind\n"
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty folder, on a job table of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(paths.DATA_VARIABLE, str(tmp_path / "data"))
    return tmp_path


def write(rows: str) -> bytes:
    Path("list.csv").write_text(HEADER + rows, encoding="utf-8")
    return Path("list.csv").read_bytes()


def run(*more: str) -> int:
    return main(["batch", "list.csv", "--out", "clips", *more])


def jobs() -> list[Job]:
    with JobTable(paths.jobs_file()) as table:
        return table.jobs()


def clips() -> list[Path]:
    return sorted(Path("clips").glob("*.mp4"))


def filled(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


@contextmanager
def started() -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own, its worker in it too."""
    command = [sys.executable, "-m", "studio.cli.main", "batch", "list.csv", "--out", "clips"]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def until(process: subprocess.Popen[str], reached: Callable[[list[Job]], bool]) -> None:
    """Until the jobs are so, or the command has ended."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not reached(jobs()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_list_that_may_only_be_read_is_filled_in_where_the_clips_go(
    elsewhere: Path, capsys: Said
) -> None:
    stick = Path("stick").absolute()
    stick.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "stick", str(stick)]
    if os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        (stick / "list.csv").write_text("prompt,kind\na house,frame\n")
        subprocess.run(["mount", "-o", "remount,ro", str(stick)], check=True)
        assert main(["batch", str(stick / "list.csv")]) == 2
        assert "takes no new file (Read-only file system)" in capsys.readouterr().err
        assert main(["batch", str(stick / "list.csv"), "--out", "clips"]) == 0
        assert filled("clips/list-filled.csv")[0]["status"] == "done"
        assert Path("clips/list-filled.jpg").is_file()
    finally:
        subprocess.run(["umount", str(stick)], check=True)


def test_a_list_becomes_files(elsewhere: Path, capsys: Said) -> None:
    source = write('a ball,1,"1,1,1",no,\na house,,,,frame\nx,-2,,,\n')
    assert run() == 1
    said, complaints = capsys.readouterr()
    assert said.startswith(
        "2 rows = 1 clips and 1 frames, time unknown, size unknown,"
        " 0 already exist, 0 already queued, 1 bad rows\n"
    )
    assert re.search(r"^1 of 2, line 2: clips.\S+\.mp4 \(\d+\.\d s\)$", said, re.MULTILINE)
    assert said.endswith(
        "2 of 2 are made; the list filled in is list-filled.csv\n"
        "the contact sheet is list-filled.jpg\n"
    )
    with Image.open("list-filled.jpg") as sheet:
        assert sheet.width > 2 * WIDTH and sheet.format == "JPEG"
    assert (
        complaints.startswith("line 4: The look seed (column look_seed) is '-2'")
        and complaints.count("\n") == 1
    )
    assert Path("list.csv").read_bytes() == source
    assert [row["status"] for row in filled("list-filled.csv")] == ["done", "done", "bad"]
    assert read_metadata(Path(filled("list-filled.csv")[0]["file"]))["look_seed"] == 1
    assert len(clips()) == len(list(Path("clips").glob("*.png"))) == 1
    assert len(list(Path("clips").iterdir())) == 4  # with their sidecars

    # What is made is not made again, only what has changed; an earlier answer is kept.
    write('a ball,1,"1,1,1",no,\na house,,,,frame\na star,1,,,frame\n')
    assert run("--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["existing"], told["bad"]) == (3, 2, [])
    assert [job["line"] for job in told["jobs"]] == [2, 3, 4]
    assert all(Path(job["file"]).is_file() for job in told["jobs"])
    assert told["filled"] == str(elsewhere / "list-filled-2.csv")
    assert len(jobs()) == 3
    # The filled-in list is the same work.
    assert main(["batch", "list-filled-2.csv"]) == 0
    assert len(jobs()) == 3 and Path("list-filled-3.csv").is_file()


def test_a_dry_run_makes_nothing(elsewhere: Path, capsys: Said) -> None:
    Path("list.txt").write_text("a {red|blue} ball\n# a comment\na house\n", encoding="utf-8")
    arguments = ["batch", "list.txt", "--dry-run"]
    assert main([*arguments, "--look-seeds", "1..3", "--repeats", "2"]) == 0
    assert capsys.readouterr().out.startswith("2 rows = 18 clips, ")
    assert main([*arguments, "--motion-seeds", "7", "--look-seeds", "1..3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["clips"], told["jobs"], told["filled"]) == (9, [], None)
    Path("list.txt").write_text("a {red|blue ball\na house\n", encoding="utf-8")
    assert main(arguments) == 1
    assert re.match("line 1: The prompt .*braces in pairs", capsys.readouterr().err)
    assert not jobs() and {path.name for path in elsewhere.iterdir()} == {"data", "list.txt"}


def test_a_dry_run_shows_how_rows_were_understood(capsys: Said) -> None:
    Path("list.txt").write_text("a ball, count=2\na star\na house\na boat\n", encoding="utf-8")
    assert main(["batch", "list.txt", "--dry-run", "--motion-seeds", "7,8"]) == 0
    first, *sample, rest = capsys.readouterr().out.splitlines()
    assert first == "4 rows = 10 clips, time unknown, size unknown"
    assert sample[0] == "  line 1: a ball"
    assert [line.strip()[:6] for line in sample[::2]] == ["line 1", "line 2", "line 3"]
    assert rest == "0 already exist, 0 already queued, 0 bad rows"


def test_a_dry_run_names_the_encoding(capsys: Said) -> None:
    Path("list.csv").write_bytes("prompt,look_seed\nein Häuschen,5\n".encode("cp1252"))
    assert main(["batch", "list.csv", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "was read as cp1252" in said and "ein Häuschen\n    clip, look seed 5" in said
    assert main(["batch", "list.csv", "--dry-run", "--json"]) == 0
    assert "cp1252" in json.loads(capsys.readouterr().out)["notes"][0]


def test_what_looks_like_syntax_is_told_aside(capsys: Said) -> None:
    Path("list.txt").write_text("a (red:1.2) ball\n", encoding="utf-8")
    assert main(["batch", "list.txt", "--dry-run"]) == 0
    out, aside = capsys.readouterr()
    assert aside.startswith("note: Line 1: 'a (red:1.2) ball' looks like a weight")
    assert out.startswith("1 rows = 1 clips, ")  # a pipe gets the same form for every number


PIPED = "prompt,kind,look_seed\na ball,frame,5\n"


def piped(file: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "studio.cli.main", "batch", file, *more]
    return subprocess.run(
        command, input=PIPED, capture_output=True, encoding="utf-8", timeout=PATIENCE
    )


def test_a_piped_list_comes_out_filled_in(elsewhere: Path) -> None:
    """With a folder the list goes there; without one it is all that is on standard output."""
    done = piped("-", "--out", "clips")
    assert done.returncode == 0, done.stderr
    assert "the list filled in is clips/list-filled.csv" in done.stdout.replace("\\", "/")
    assert filled("clips/list-filled.csv")[0]["status"] == "done"
    assert Path("clips/list-filled.jpg").is_file()
    done = piped("-")
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in csv.DictReader(done.stdout.splitlines())] == ["done"]
    assert "1 already exists" in done.stderr or "1 already exist" in done.stderr
    assert {path.name for path in elsewhere.iterdir()} == {"data", "clips"}


@POSIX
def test_nothing_is_written_beside_a_device_or_a_pipe(elsewhere: Path, capsys: Said) -> None:
    before = set(Path("/dev").iterdir())
    assert piped("/dev/stdin", "--dry-run").stdout.startswith("1 rows = 1 frames")
    done = piped("/dev/stdin", "--out", "clips")
    assert done.returncode == 0, done.stderr
    assert set(Path("/dev").iterdir()) == before and Path("clips/list-filled.csv").is_file()
    os.mkfifo("list.csv")
    writer = threading.Thread(target=Path("list.csv").write_text, args=(PIPED,), daemon=True)
    writer.start()
    assert main(["batch", "list.csv", "--out", "clips"]) == 0
    writer.join(PATIENCE)
    assert "clips/list-filled-2.csv" in capsys.readouterr().out
    assert {path.name for path in elsewhere.iterdir()} == {"data", "clips", "list.csv"}


def test_a_folder_is_no_list(elsewhere: Path, capsys: Said) -> None:
    assert main(["batch", "a" * 300]) == 2
    assert "cannot be read (File name too long)" in capsys.readouterr().err or os.name == "nt"
    assert main(["batch", str(elsewhere)]) == 2
    assert "is a folder; choose a list in it." in capsys.readouterr().err


def test_a_list_draws_the_same_seeds_again(pack: Pack) -> None:
    """A list that is changed keeps what its other rows drew."""

    def seeds(words: str, name: str = "list.csv") -> list[list[tuple[int, int]]]:
        Path(name).write_text(words, encoding="utf-8")
        rows = batch.read(Path(name), pack, "cpu").rows
        return [[(e.work.look_seed, e.work.motion_seed) for e in row.entries] for row in rows]

    first, second, third = before = seeds("prompt,look_seed,repeats\na,,2\na,,2\nb,5,2\n")
    assert len({*first, *second, *third}) == 6
    again = seeds("repeats,prompt,# mine,look_seed\n3,b,x,5\n1,a,,\n3,a,,\nz,,,\n")
    assert again == [[*third, again[0][2]], first[:1], [*second, again[2][2]]]
    assert seeds("prompt,look_seed,repeats\na,,2\na,,2\nb,5,2\n", "other.csv") != before


@pytest.mark.parametrize(
    ("rows", "arguments", "words"),
    [
        ("", [], "The list has no prompt"),
        ("a,-2,,,\n", [], "line 2: The look seed (column look_seed) is"),
        ("a,,,,\n", ["--look-seeds", "3..1"], "The look seed (--look-seeds) is '3..1'"),
        ("a,,,,\n", ["--motion-seeds", "x"], "The motion seed (--motion-seeds) is 'x'"),
        ("a,,,,\n", ["--repeats", "0"], "whole number from 1"),
        ("a,,,,\n", ["--out", "list.csv"], "choose another folder"),
        ("a,,,,\n", ["--pack", "missing"], "There is no pack at missing"),
        ("a,,,,\n", ["--backend", "npu"], "--backend cpu"),
        (None, [], "list.csv cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence(
    rows: str | None, arguments: list[str], words: str, elsewhere: Path, capsys: Said
) -> None:
    if rows is not None:
        write(rows)
    try:
        code = main(["batch", "list.csv", *arguments])
    except SystemExit as exit_:  # argparse
        code = int(exit_.code or 0)
    assert code == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and said.endswith(".\n")
    assert {path.name for path in elsewhere.iterdir()} <= {"list.csv", "data"}
    assert not jobs()


def test_a_failing_row_ends_nothing(capsys: Said) -> None:
    """A picture that is none, and then a folder that is gone."""
    Path("no.png").write_text("no picture", encoding="utf-8")
    Path("list.csv").write_text(
        f"{HEADER.strip()},picture\na,,,,,no.png\nb,,,,frame,\n", encoding="utf-8"
    )
    assert run() == 1
    assert [job.state for job in jobs()] == ["failed", "done"]
    assert "line 2: failed. " in capsys.readouterr().out
    rows = filled("list-filled.csv")
    assert rows[0]["error"] and rows[1]["status"] == "done"


@POSIX
def test_ctrl_c_interrupts_and_a_rerun_goes_on(capsys: Said) -> None:
    write('a,,"1,1,1",no,\nb,,"100,100,100",no,\nc,,,,frame\n')
    with started() as process:
        until(process, lambda jobs: len(jobs) == 3 and jobs[1].fraction > 0.25)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said, mistakes = process.communicate()
        assert (process.returncode, mistakes) == (130, "nds: stopped.\n"), said
    assert [job.state for job in jobs()] == ["done", "interrupted", "waiting"]
    assert jobs()[1].attempts == 0
    with JobTable(paths.jobs_file()) as table:
        assert table.queue().paused and not table.has_worker()
        table.remove([jobs()[1].id])  # too long for a test
    write('a,,"1,1,1",no,\nc,,,,frame\n')
    assert run() == 0
    assert "1 already exist, 1 already queued" in capsys.readouterr().out
    assert [job.state for job in jobs()] == ["done", "done"]


@POSIX
def test_ten_kills_lose_nothing() -> None:
    """Of app and worker at once, at random moments of a clip, or of the next."""
    source = write("".join(f'a ball {n},,"1,1,1",no,\n' for n in range(5)))
    chance = random.Random(5)
    # In clips: seven times on the way, or as one is being written; three times it is the second.
    moments = [*(chance.random() for _ in range(5)), 1.0, 1.0]
    moments += [chance.uniform(1, 2) for _ in range(3)]
    chance.shuffle(moments)
    whole: dict[Path, bytes] = {}
    for moment in moments:
        made = len(whole)
        old = {(job.id, job.attempts) for job in jobs() if job.state == "running"}

        def far_enough(jobs: list[Job]) -> bool:
            running = [job for job in jobs if job.state == "running"]
            now = [job.fraction for job in running if (job.id, job.attempts) not in old]  # noqa: B023
            done = sum(job.state == "done" for job in jobs) - made  # noqa: B023
            return bool(now) and done + now[0] >= moment  # noqa: B023

        with started() as process:
            until(process, far_enough)
            os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        for path in clips():
            assert whole.setdefault(path, path.read_bytes()) == path.read_bytes()
            assert read_metadata(path)["prompt"].startswith("a ball")
        finished = {job.result.name for job in jobs() if job.state == "done" and job.result}
        assert finished <= {path.name for path in whole}
    assert 0 in (run(), run())  # a clip that was killed twice needs to be asked for again
    assert {path: path.read_bytes() for path in whole} == whole
    assert sorted(read_metadata(path)["prompt"] for path in clips()) == [
        f"a ball {n}" for n in range(5)
    ]
    assert all(path.with_suffix(".json").is_file() for path in clips())
    assert Path("list.csv").read_bytes() == source
