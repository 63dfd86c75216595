"""The bar under a clip, in a real Chromium: frames, in and out, and going on from a frame."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from studio.export.formats import read_shot
from studio.jobs.spec import Job, is_finished
from studio.library.store import EXPORTS
from studio.media.pictures import read_picture
from studio.media.video import read_mp4
from studio.page.desk import Desk

pytest_plugins = ["served"]
# Gradio leaves a picture's file to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
PROMPT = "a red ball rolls right over a green meadow"


def clips(desk: Desk) -> list[Job]:
    return [job for job in desk.table.jobs() if job.work.kind == "clip" and is_finished(job)]


@pytest.fixture
def shown(page: Page, desk: Desk) -> Page:
    """The page with a clip on its stage."""
    if not clips(desk):
        page.fill("#prompt textarea", PROMPT)
        page.click("#animate")
    elif page.locator(".stage > video").count() == 0:
        page.locator("#strip .film").last.click()
    page.locator("#stage .player:not([inert])").wait_for()
    wait_for_clip(page)
    page.locator("header").click()
    return page


def wait_for_clip(page: Page) -> None:
    page.wait_for_function("document.querySelector('.stage > video')?.readyState > 1")


def frame(page: Page) -> int:
    return int(page.locator("#stage .player").get_attribute("data-frame") or -1)


def wait_for_frame(page: Page, number: int) -> None:
    page.wait_for_function(
        "n => document.querySelector('#stage .player output').textContent === `${n} / 48`"
        " && document.querySelector('#stage .player').dataset.frame === `${n}`",
        arg=number,
    )


@pytest.mark.parametrize("width", [400, 1280])
def test_frames_are_stepped_through_by_key_and_by_slider(shown: Page, width: int) -> None:
    shown.set_viewport_size({"width": width, "height": 800})
    slider = shown.locator("#stage .player input")
    slider.fill("20")
    wait_for_frame(shown, 20)
    shown.locator("header").click()
    for key, number in ((".", 21), (".", 22), (",", 21)):
        shown.keyboard.press(key)
        wait_for_frame(shown, number)
    shown.locator("#stage [data-play=on]").click()
    wait_for_frame(shown, 22)
    assert shown.locator("#stage .player").evaluate("bar => bar.scrollWidth <= innerWidth")


def test_it_plays_between_in_and_out_and_backwards(shown: Page) -> None:
    slider = shown.locator("#stage .player input")
    for key, number in (("i", 10), ("o", 20)):
        slider.fill(str(number))
        wait_for_frame(shown, number)
        shown.locator("header").click()
        shown.keyboard.press(key)
    shown.keyboard.press("k")
    shown.wait_for_function(
        "() => { window.seen ??= new Set();"
        " window.seen.add(+document.querySelector('#stage .player').dataset.frame);"
        " return window.seen.size > 8; }"
    )
    seen = shown.evaluate("[...window.seen]")
    assert min(seen) >= 9 and max(seen) <= 22  # a frame or two until it is noticed
    shown.keyboard.press("k")
    slider.fill("19")
    wait_for_frame(shown, 19)
    shown.locator("header").click()
    shown.keyboard.press("j")
    shown.wait_for_function("+document.querySelector('#stage .player').dataset.frame < 15")
    shown.keyboard.press("k")
    assert shown.evaluate("document.querySelector('.stage > video').paused")


def test_a_frame_is_saved_and_begins_the_next_clip(shown: Page, desk: Desk) -> None:
    (first, *_) = clips(desk)
    assert first.result is not None
    shown.locator("#stage .player input").fill("24")
    wait_for_frame(shown, 24)
    shown.locator("#stage [data-do=still]").click()
    expect(shown.locator("#message .notice")).to_contain_text("_frame24.png")
    (still,) = (desk.clips / EXPORTS).glob("*_frame24.png")
    assert np.array_equal(read_picture(still), read_mp4(first.result)[0][24])
    shown.locator("#stage [data-do=begin]").click()
    shown.locator("#chip .chip").wait_for()
    shown.locator("#chip [data-do=remove]").click()
    expect(shown.locator("#chip .chip")).to_have_count(0)


def test_a_clip_is_forked_at_a_frame(shown: Page, desk: Desk) -> None:
    before = clips(desk)
    parent = before[0]
    shown.locator("#stage .player input").fill("20")
    wait_for_frame(shown, 20)
    shown.locator("#stage [data-do=fork]").click()
    expect(shown.locator("#branch .chip")).to_contain_text("frames 0 to 16")
    motion = shown.input_value("#motion input")
    shown.reload()
    expect(shown.locator("#branch .chip")).to_contain_text("frames 0 to 16")
    shown.keyboard.press("Control+Enter")
    shown.wait_for_function(
        "seed => document.querySelector('#facts').innerText.includes(`→ ${seed}`)", arg=motion
    )
    (fork,) = [job for job in clips(desk) if job not in before]
    assert [(f.unit, str(f.motion_seed)) for f in fork.work.forks] == [(3, motion)]
    assert fork.work.prompt == parent.work.prompt
    assert fork.result is not None and parent.result is not None
    kept, made = (read_shot(path).frames.astype(int) for path in (parent.result, fork.result))
    assert np.abs(kept[:9] - made[:9]).mean() < 1 < np.abs(kept[30:] - made[30:]).mean()
    # Showing it again rolls from the same unit; a cross makes whole clips again.
    shown.locator("#strip .film").last.click()
    expect(shown.locator("#branch .chip")).to_have_count(0)
    shown.locator("#strip .film").first.click()
    expect(shown.locator("#branch .chip")).to_contain_text("frames 0 to 16")
    expect(shown.locator("#motion input")).to_have_value(motion)
    shown.locator("#branch [data-do=remove]").click()
    expect(shown.locator("#branch .chip")).to_have_count(0)


def test_nine_takes_of_a_fork_differ_in_their_motion_alone(shown: Page, desk: Desk) -> None:
    shown.locator("#strip .film").last.click()
    shown.locator("#strip li:last-child.shown").wait_for()
    wait_for_clip(shown)
    expect(shown.locator("#branch .chip")).to_have_count(0)
    shown.locator("#stage .player input").fill("40")
    wait_for_frame(shown, 40)
    shown.locator("#stage [data-do=fork]").click()
    shown.locator("#branch .chip").wait_for()
    shown.fill("#prompt textarea", "a red ball jumps over a green meadow")
    shown.click("#cast")
    expect(shown.locator(".stage .cell")).to_have_count(9)
    desk.table.stop_all()
    works = [
        job.work for job in desk.table.jobs() if job.work.forks[-1:] and job.work.forks[-1].prompt
    ]
    assert len({work.forks[-1].motion_seed for work in works}) == 9
    assert {work.forks[-1].unit for work in works} == {5}
    assert {work.prompt for work in works} == {PROMPT}
    desk.table.resume()
