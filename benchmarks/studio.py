"""The overhead of the studio: `python -m benchmarks.studio WHAT`, JSON on stdout.

library: seconds until the tab shows 2,000 items, and until a word has filtered them, beside 20;
answer: the share of a clip's time until the first preview grows, and how long after a cancel the
worker is at the next job; memory: RSS of app and worker over 200 clips, a tab watching; list:
seconds to read a list of 1,000 rows, beside 100. The real page, worker and pack, in a real
Chromium, in a temporary folder. All of them, one after the other, where WHAT is absent.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Page, expect, sync_playwright

from engine.pack import open_pack
from studio.batch import lists as batch
from studio.jobs.spec import Work
from studio.jobs.table import JobTable
from studio.page import server
from studio.page.desk import Desk
from studio.system.paths import default_pack

PATIENCE = 120_000  # ms
MEGABYTE = 1e6


@contextmanager
def desk(home: Path) -> Iterator[Desk]:
    with (
        open_pack(default_pack()) as pack,
        Desk(pack, "cpu", home / "Videos", home / "data", home / "cache") as desk,
    ):
        yield desk


@contextmanager
def tab(address: str) -> Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.locator("#ruler .ruler").wait_for()
        yield page
        browser.close()


def work(**changes: Any) -> Work:
    """A clip as the page asks for it."""
    own = Work("a red ball jumps on the meadow", 1, 2, pack=str(default_pack()), backend="cpu")
    return replace(own, **changes)


def until(met: Callable[[], Any]) -> float:
    """The time when `met` is true."""
    while not met():
        time.sleep(0.01)
    return time.monotonic()


def library(home: Path, items: int = 2000) -> dict[str, Any]:
    """Medians of five; every clip is a hard link of one, its sidecar is its own."""
    with desk(home) as open_desk:
        (number,) = open_desk.ask([work()])
        until(lambda: open_desk.table.job(number).state == "done")
        first = open_desk.table.job(number).result
        assert first is not None
        beside = json.loads(first.with_suffix(".json").read_text("utf-8"))
        for number in range(1, items):
            path = first.with_name(f"{number}.mp4")
            os.link(first, path)
            content = beside | {"prompt": f"a ball, number {number}", "look_seed": number}
            path.with_suffix(".json").write_text(json.dumps(content | {"file": path.name}))
        blocks, address = server.launch(open_desk, home)
        opened, again, filtered = [], [], []
        tile = "#grid .strip li"
        with closing(blocks), tab(address) as page:
            for turn in range(5):
                page.get_by_role("tab", name="Create").click()
                started = time.monotonic()
                page.get_by_role("tab", name="Library").click()
                page.locator(tile).first.wait_for()
                (again if turn else opened).append(time.monotonic() - started)
                last = items - 1 - turn
                started = time.monotonic()
                page.fill("#words textarea, #words input", f"number {last}")
                expect(page.locator(tile)).to_have_count(1)
                filtered.append(time.monotonic() - started)
                page.fill("#words textarea, #words input", "")
                expect(page.locator(tile).nth(1)).to_be_visible()
    return {
        "items": items,
        "first_seconds": round(opened[0], 2),  # the index is made then
        "open_seconds": round(statistics.median(again), 2),
        "filter_seconds": round(statistics.median(filtered), 2),
    }


def answer(home: Path, turns: int = 5) -> dict[str, Any]:
    """Of clips with the upscaler, without the first, while the models load."""
    shares, cancels = [], []
    with desk(home) as open_desk:
        table = open_desk.table

        def job(number: int) -> Any:
            return table.job(number)

        for turn in range(turns + 1):
            (number,) = open_desk.ask([work(motion_seed=turn)])
            started = until(lambda n=number: job(n).state == "running")
            grown = until(lambda n=number: job(n).units > 0) - started
            ended = until(lambda n=number: job(n).state == "done") - started
            if turn:
                shares.append(grown / ended)
        for turn in range(turns):
            seeds = (100 + 2 * turn, 101 + 2 * turn)
            first, second = open_desk.table.add(
                [batch.Entry(work(motion_seed=seed), str(seed)) for seed in seeds]
            )
            until(lambda n=first, k=turn: job(n).fraction > 0.15 * (k + 1))
            started = time.monotonic()
            table.skip(first)
            cancels.append(until(lambda n=second: job(n).state == "running") - started)
            until(lambda n=second: job(n).state == "done")
    return {
        "first_preview_share": round(statistics.median(shares), 2),
        "cancel_to_next_seconds": round(statistics.median(cancels), 2),
        "cancel_to_next_worst_seconds": round(max(cancels), 2),
    }


def memory(home: Path, clips: int = 200) -> dict[str, Any]:
    """A tab watches; the app is its own process, the worker another."""
    environment = os.environ | {"NEODRAGON_DATA": str(home / "data"), "HOME": str(home)}
    environment |= {"XDG_CONFIG_HOME": str(home), "XDG_DATA_HOME": str(home)}
    command = [sys.executable, "-m", "studio.cli.main", "ui", "--no-browser"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, encoding="utf-8"
    ) as app:
        assert app.stdout is not None
        address = app.stdout.readline().split(" at ")[1].split(" ")[0]
        shown = []
        with tab(address) as page, closing(JobTable(home / "data" / "jobs.sqlite")) as table:
            works = [work(motion_seed=n, prompt=f"a red ball, number {n}") for n in range(clips)]
            table.add([batch.Entry(one, str(number)) for number, one in enumerate(works)])
            process = psutil.Process(app.pid)
            for count in range(10, clips + 1, 10):
                until(lambda c=count: sum(j.state == "done" for j in table.jobs(["done"])) >= c)
                page.locator("#strip .strip").wait_for()
                (worker,) = [
                    child
                    for child in process.children(recursive=True)
                    if "studio.jobs.worker" in " ".join(child.cmdline())
                ]
                memory = [round(p.memory_info().rss / MEGABYTE, 1) for p in (process, worker)]
                shown.append([count, *memory])
                print(shown[-1], file=sys.stderr, flush=True)
        app.terminate()
    at = {count: rest for count, *rest in shown}
    half = clips // 2
    return {
        "clips": clips,
        "app_mb": {str(count): at[count][0] for count in (10, half, clips)},
        "worker_mb": {str(count): at[count][1] for count in (10, half, clips)},
        "all": shown,
    }


def prompt_list(rows: int) -> dict[str, Any]:
    """One row in twenty is broken."""
    broken = ["x,-2", '"x,1', "a\x00b,1", "é" * 102_400 + ",1", "__con__,1", "{a,1", "x,one"]
    lines = [f"a red ball {n},{n}" for n in range(rows)]
    for n in range(rows // 20):
        lines[20 * n + 7] = broken[n % len(broken)]
    with tempfile.TemporaryDirectory() as folder, open_pack(default_pack()) as pack:
        path = Path(folder, "list.csv")
        path.write_text("prompt,look_seed\n" + "\n".join(lines), encoding="utf-8")
        started = time.monotonic()
        listed = batch.read(path, pack, "cpu")
        seconds = time.monotonic() - started
    return {"rows": len(listed.rows), "bad": len(listed.bad), "seconds": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("library", "answer", "memory", "list"))
    parser.add_argument("--clips", type=int, default=200)
    options = parser.parse_args()
    runs: dict[str, Callable[[Path], Any]] = {
        "library": lambda home: [library(home / "few", 20), library(home / "many")],
        "answer": answer,
        "memory": lambda home: memory(home, options.clips),
        "list": lambda _: [prompt_list(100), prompt_list(1000)],
    }
    report = {}
    for name in [options.what] if options.what else runs:
        with tempfile.TemporaryDirectory() as home:
            report[name] = runs[name](Path(home))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
