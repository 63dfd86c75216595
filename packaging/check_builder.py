"""Packs built on the page and used: `python packaging/check_builder.py WEIGHTS SHOTS PROGRAM ..`.

PROGRAM is the frozen `nds`, or a Python with `-m studio.launcher`. In Chromium, from the empty
stage on: the card of the full-size model, its weights (WEIGHTS, put where a download would leave
them), licence, build, *Use*. One pack for any machine and one in 8 bits for any PC, with a clip of
each on the CPU, and one compiled for X Elite, with a clip on the emulated NPU. That pack's build
is begun by `nds model build --unshared`, since the emulation loads no graphs that share weights;
the page shows it to its end. The first build sees its tab closed and the studio killed. SHOTS: a
folder for a picture of every step; ONLY in the environment: some of the targets. Prints JSON:
packs, clips, and the clicks of a new user; ends with 1 where something was not.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect, sync_playwright

PATIENCE = 3600.0  # seconds that a build for the NPU may take
TARGETS = ("portable", "cpu", "x-elite")
LICENCE = "Stands for the licence that comes with the published weights.\n"


class Walk:
    """A page, a picture of it after every click, and how many there were."""

    def __init__(self, page: Page, shots: Path) -> None:
        self.page, self.shots, self.clicks = page, shots, 0

    def click(self, what: Locator) -> None:
        what.click()
        self.clicks += 1
        self.shot()

    def shot(self) -> None:
        self.page.wait_for_timeout(700)
        taken = len(list(self.shots.glob("*.png")))
        self.page.screenshot(path=self.shots / f"{taken + 1:02}.png")


@contextmanager
def studio(program: list[str], backend: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The studio, and its address with the token."""
    command = [*program, "ui", "--no-browser", "--backend", backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as app:
        assert app.stdout is not None
        words = app.stdout.readline()
        if " at " not in words:
            sys.exit(f"The studio says {words!r} and not where it is.")
        try:
            yield app, words.split(" at ")[1].split()[0]
        finally:
            if app.poll() is None:
                subprocess.run([*program, "quit"], check=False, stdout=subprocess.DEVNULL)


def build(walk: Walk, target: str) -> None:
    """From the empty stage, or from the tab, to a build that runs; X Elite's does already."""
    page = walk.page
    page.locator("#ruler .ruler").wait_for()
    start = page.locator(".stage [data-card=full-size]")
    walk.click(start if start.is_visible() else page.get_by_role("tab", name="Models"))
    if not page.locator("#full-build").is_visible():
        walk.click(page.locator("#full-size > button"))
    expect(page.locator("#full-licence summary")).to_have_count(1)
    if target == "x-elite":
        page.locator("#full-built progress").wait_for()
        return
    agree = page.locator("#full-agree input")
    if not agree.is_checked():
        walk.click(agree)
    if target != "cpu":  # which a PC has chosen
        page.locator("#full-for input").click()
        page.get_by_role("option").filter(has_text="16 bits").click()
    walk.click(page.locator("#full-build"))
    page.locator("#full-built progress").wait_for()


def begin(program: list[str], data: Path) -> None:
    """The build for X Elite with graphs that the emulation loads, which goes on by itself."""
    command = [*program, "model", "build", str(data / "weights"), "--target", "x-elite"]
    subprocess.Popen([*command, "--unshared"], stdout=subprocess.DEVNULL)
    status = data / "build.json"
    while not status.exists() or "x-elite" not in status.read_text(encoding="utf-8"):
        time.sleep(0.5)


def built(walk: Walk, target: str) -> None:
    """Until it is, then in use."""
    page = walk.page
    shown = page.locator("#full-built").filter(has_text=f"neodragon-{target} is built")
    shown.wait_for(timeout=PATIENCE * 1000)
    walk.shot()
    packs = page.locator("#packs li")
    newest = packs.filter(has=page.locator("[data-do=use]")).last
    walk.click(newest.locator("[data-do=use]"))
    page.locator("#models-message .notice").wait_for()
    page.close()


def clip(walk: Walk, prompt: str) -> None:
    """A clip of the pack that is used after a restart."""
    page = walk.page
    page.locator("#ruler .ruler").wait_for()
    page.fill("#prompt textarea", prompt)
    walk.click(page.locator("#animate"))
    page.locator(".stage > video").wait_for(timeout=PATIENCE * 1000)
    walk.shot()
    page.close()


def main() -> None:
    weights, shots, *program = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    data = Path(os.environ["NEODRAGON_DATA"])
    shutil.copytree(weights, data / "weights")
    (data / "weights" / "LICENSE").write_text(LICENCE, encoding="utf-8")
    clips = data / "clips"
    subprocess.run([*program, "settings", "clips", str(clips)], check=True)
    report: dict[str, Any] = {}
    targets = os.environ.get("ONLY", " ".join(TARGETS)).split()
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for number, target in enumerate(targets):
            folder = shots / target
            folder.mkdir(parents=True)
            started = time.monotonic()

            def opened(address: str, folder: Path = folder) -> Walk:
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                page.set_default_timeout(120_000)
                page.goto(address)
                return Walk(page, folder)

            with studio(program, "cpu") as (app, address):
                if target == "x-elite":
                    begin(program, data)
                walk = opened(address)
                build(walk, target)
                if number == 0:  # its tab is closed, then the whole studio is killed
                    walk.page.close()
                    app.send_signal(signal.SIGKILL)
                    app.wait()
                else:
                    built(walk, target)
            clicks = walk.clicks
            if number == 0:
                with studio(program, "cpu") as (_, address):
                    walk = opened(address)
                    walk.page.get_by_role("tab", name="Models").click()
                    walk.page.locator("#full-size > button").click()
                    built(walk, target)
                    clicks += walk.clicks
            took = time.monotonic() - started
            report[target] = {"build_seconds": round(took, 1)}
            with studio(program, "npu-emulated" if target == "x-elite" else "cpu") as (_, address):
                walk = opened(address)
                clip(walk, "a red ball jumps on the meadow")
            clicks += walk.clicks
            made = max(clips.glob("*.mp4"), key=lambda path: path.stat().st_mtime)
            told = json.loads(made.with_suffix(".json").read_text(encoding="utf-8"))
            report[target] |= {
                "clicks": clicks,
                "pack": told["pack"]["hash"][:12],
                "backend": told["backend"],
                "clip_seconds": told["seconds"],
            }
            print(target, report[target], file=sys.stderr, flush=True)
        browser.close()
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
