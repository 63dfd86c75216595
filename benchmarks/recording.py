"""Ten seconds of the page at work: `python -m benchmarks.recording docs/recording.webp`.

The real page, worker and mini pack, in a real Chromium: a prompt is typed, nine first frames are
drawn, one is picked and moved. All until the clip is there is shown faster, the clip itself at its
own speed. Prints how long it took.
"""

from __future__ import annotations

import argparse
import base64
import io
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, expect

from benchmarks.screenshots import PATIENCE, opened, studio

SECONDS = 10.0
CLIP = 2.5  # of them, the finished clip at its own speed
RATE = 8  # frames a second
WIDTH = 960  # pixels
PROMPT = "a yellow boat moves right on the sea at sunset"

Shot = tuple[float, bytes]  # time in seconds, JPEG


def play(page: Page) -> float:
    """Make a clip as a creator does; the time at which it is there."""
    page.locator("#prompt textarea").press_sequentially(PROMPT, delay=40)
    page.fill("#look input", "7")
    page.click("#cast")
    expect(page.locator(".cell > img")).to_have_count(9, timeout=PATIENCE)
    page.wait_for_timeout(500)
    page.locator("header").click()
    page.keyboard.press("5")
    page.locator(".cell[aria-pressed=true]").wait_for()
    page.click("#animate")
    page.locator(".stage > video").wait_for(timeout=PATIENCE)
    page.wait_for_function("document.querySelector('.stage > video').readyState > 2")
    there = time.time()
    page.wait_for_timeout(1000 * CLIP + 500)
    return there


def record(page: Page) -> tuple[list[Shot], float]:
    """Everything the browser painted meanwhile, and the time at which the clip is there."""
    shots: list[Shot] = []
    session = page.context.new_cdp_session(page)

    def painted(event: dict[str, Any]) -> None:
        shots.append((event["metadata"]["timestamp"], base64.b64decode(event["data"])))
        session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    session.on("Page.screencastFrame", painted)
    session.send("Page.startScreencast", {"format": "jpeg", "quality": 90})
    there = play(page)
    session.send("Page.stopScreencast")
    session.detach()
    return shots, there


def chosen(shots: list[Shot], there: float) -> list[bytes]:
    """The picture of each frame: what was painted last at that time."""
    begin = shots[0][0]
    quick = SECONDS - CLIP
    times = [k / RATE for k in range(round(SECONDS * RATE))]
    real = [begin + (there - begin) * t / quick if t < quick else there + t - quick for t in times]
    return [
        next(data for at, data in reversed(shots) if at <= when or at == begin) for when in real
    ]


def write(pictures: list[bytes], target: Path) -> None:
    """An animated WebP that goes on for ever; a picture that stays is one longer frame."""
    frames: list[bytes] = []
    lasting: list[int] = []
    for picture in pictures:
        if frames and frames[-1] == picture:
            lasting[-1] += 1000 // RATE
        else:
            frames.append(picture)
            lasting.append(1000 // RATE)
    small = [Image.open(io.BytesIO(frame), formats=["JPEG"]).convert("RGB") for frame in frames]
    small = [one.resize((WIDTH, WIDTH * one.height // one.width)) for one in small]
    target.parent.mkdir(parents=True, exist_ok=True)
    options = {"duration": lasting, "loop": 0, "quality": 70, "method": 4}
    small[0].save(target, save_all=True, append_images=small[1:], **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    with studio() as (desk, browser, home), opened(desk, browser, home) as page:
        shots, there = record(page)
    write(chosen(shots, there), options.target)
    size = options.target.stat().st_size / 1e6
    print(f"{there - shots[0][0]:.0f} s until the clip was there; {options.target}, {size:.1f} MB")


if __name__ == "__main__":
    main()
