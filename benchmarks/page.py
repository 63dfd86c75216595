"""Load and response times of the page: `python -m benchmarks.page [CLIPS]`.

The real page, worker and mini pack, in a real Chromium. Prints JSON: the first load and a reload
(seconds until the prompt can be typed in, requests, bytes), requests a second of an idle page, long
tasks and layout shift while a clip is made, and the milliseconds of a step in a library of CLIPS
(5,000).
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from engine.pack import open_pack
from studio.media import sidecars
from studio.page import server
from studio.page.desk import Desk
from studio.system.paths import default_pack

PATIENCE = 600_000  # ms
IDLE = 20  # seconds
STEPS = 30
TOKEN = "of-this-benchmark"
WATCH = """() => {
  window.seen = {long: [], shift: 0};
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) window.seen.long.push(entry.duration);
  }).observe({type: "longtask", buffered: true});
  new PerformanceObserver((list) => {
    for (const {hadRecentInput, value} of list.getEntries()) {
      if (!hadRecentInput) window.seen.shift += value;
    }
  }).observe({type: "layout-shift", buffered: true});
}"""


@contextmanager
def counted(page: Page) -> Iterator[dict[str, float]]:
    """What goes over the wire meanwhile; what the browser's cache answers is not counted."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    found: dict[str, float] = {"requests": 0, "bytes": 0}
    cached: set[str] = set()

    def answered(event: dict[str, Any]) -> None:
        if event["response"].get("fromDiskCache") or event["requestId"] in cached:
            return
        found["requests"] += not event["response"]["url"].startswith("data:")

    def loaded(event: dict[str, Any]) -> None:
        found["bytes"] += event["encodedDataLength"]

    session.on("Network.requestServedFromCache", lambda event: cached.add(event["requestId"]))
    session.on("Network.responseReceived", answered)
    session.on("Network.loadingFinished", loaded)
    yield found
    session.detach()


def load(page: Page, address: str) -> dict[str, float]:
    """Open the page, or open it again."""
    with counted(page) as found:
        began = time.perf_counter()
        page.goto(address)
        page.locator("#prompt textarea").wait_for()
        found["seconds"] = round(time.perf_counter() - began, 2)
        page.locator("#ruler .ruler").wait_for()
        page.wait_for_timeout(1500)
    return found


def idle(page: Page) -> float:
    """Requests a second of a page that nobody touches."""
    page.wait_for_timeout(2000)
    with counted(page) as found:
        page.wait_for_timeout(IDLE * 1000)
    return found["requests"] / IDLE


def clip(page: Page) -> dict[str, float]:
    """What the browser is busy with while a clip is made."""
    page.evaluate(WATCH)
    page.evaluate("window.seen.long = []")
    page.fill("#prompt textarea", "a red ball rolls right over a green meadow")
    with counted(page) as found:
        page.click("#animate")
        page.locator(".stage > video").wait_for(timeout=PATIENCE)
    seen = page.evaluate("window.seen")
    return found | {
        "long_tasks": len(seen["long"]),
        "longest_ms": round(max(seen["long"], default=0)),
        "layout_shift": round(seen["shift"], 4),
    }


def shelve(desk: Desk, count: int) -> None:
    """Fill the library with so many copies of its first clip, each with a sidecar of its own."""
    (clip, *_) = desk.clips.glob("*.mp4")
    content = sidecars.read(clip)
    for number in range(count):
        folder = desk.clips / f"{number // 500:02}"
        folder.mkdir(exist_ok=True)
        copy = folder / f"clip-{number:05}.mp4"
        copy.hardlink_to(clip)
        created = f"2026-01-{1 + number % 28:02}T{number % 24:02}:{number % 60:02}:00+00:00"
        named = {"file": copy.name, "created": created, "look_seed": number}
        # As `sidecars.write`, but 5,000 of these need not survive a loss of power.
        sidecars.candidates(copy)[0].write_text(json.dumps(content | named))


def steps(page: Page) -> dict[str, float]:
    """Milliseconds from a key until the library's next clip is open, and until it is seen.

    *Next* and *Keep*, which goes on as well, in turn, as fast as the clips come.
    """
    page.reload()
    page.locator("#ruler .ruler").wait_for()
    began = time.perf_counter()
    page.locator("#tabs [data-tab-id=library]").click()
    page.locator("#grid .shown img").wait_for()
    opened = time.perf_counter() - began
    page.locator("header").click()
    found = [
        page.evaluate(
            """(key) => new Promise((done) => {
              const film = () => document.querySelector("#viewer .stage video");
              const open = () => document.querySelector("#grid .shown img").dataset.film;
              const before = open();
              const began = performance.now();
              let opened;
              const look = () => {
                if (open() !== before) opened ??= performance.now() - began;
                const there = film()?.getAttribute("src") === open() && film().readyState > 1;
                if (opened && there) done([opened, performance.now() - began]);
                else setTimeout(look, 1);
              };
              document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
              look();
            })""",
            key,
        )
        for key in [" ", "p"] * (STEPS // 2)
    ]
    return {
        "open_seconds": round(opened, 2),
        "step_ms": round(statistics.median(one for one, _ in found)),
        "slowest_ms": round(max(one for one, _ in found)),
        "seen_ms": round(statistics.median(one for _, one in found)),
    }


def told(what: str, found: dict[str, Any]) -> None:
    """Say on stderr how far it is."""
    print(what, json.dumps(found), file=sys.stderr, flush=True)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with (
        tempfile.TemporaryDirectory() as home,
        open_pack(default_pack()) as pack,
        Desk(pack, "cpu", Path(home, "Videos"), Path(home, "data"), Path(home, "cache")) as desk,
        sync_playwright() as playwright,
    ):
        blocks, address = server.launch(desk, Path(home), 0, token=TOKEN)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(PATIENCE)
        found: dict[str, Any] = {"pack": pack.pack_hash}
        found["first"] = load(page, f"{address}?token={TOKEN}")
        found["reload"] = load(page, page.url)
        told("first load and reload", found)
        found["idle_requests_per_second"] = idle(page)
        found["clip"] = clip(page)
        told("idle, a clip", found)
        shelve(desk, count)
        found["library"] = {"clips": count} | steps(page)
        print(json.dumps(found, indent=1))
        browser.close()
        blocks.close()


if __name__ == "__main__":
    main()
