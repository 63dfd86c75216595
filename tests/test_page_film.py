"""The tab *Film* in a real Chromium: shots from the stage, put in order, trimmed, joined."""

from __future__ import annotations

import time
import wave
from contextlib import suppress
from pathlib import Path

import pytest
from playwright.sync_api import Error, Page, expect
from served import mark

from studio.jobs.spec import PENDING, RUNNING, Work
from studio.library.store import EXPORTS
from studio.media.video import read_mp4
from studio.page.desk import Desk
from studio.page.film import add, keep, kept

pytest_plugins = ["served"]
DEADLINE = 300  # seconds


@pytest.fixture(scope="module")
def made(desk: Desk) -> list[Path]:
    """Two clips."""
    pack = str(desk.pack.path)
    works = [Work("a blue star", n, 2, pack=pack, backend="cpu", upscale=False) for n in (1, 2)]
    ids = desk.ask(works)
    deadline = time.monotonic() + DEADLINE
    while desk.table.count((*RUNNING, *PENDING)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [job.result for job in desk.jobs(ids) if job.result]


def titles(page: Page) -> list[str]:
    return [one.input_value() for one in page.locator("#shots [data-field=title]").all()]


def give(page: Page, sound: Path) -> None:
    """Choose a sound, again where nothing came of it: on a busy machine one such was lost once."""
    shown = page.get_by_text(sound.name).first
    page.set_input_files("#sound input[type=file]", sound)
    with suppress(Error):
        shown.wait_for(timeout=60_000)
        return
    page.set_input_files("#sound input[type=file]", sound)
    shown.wait_for()


def test_a_clip_goes_from_the_stage_to_the_film(page: Page, desk: Desk, made: list[Path]) -> None:
    keep(desk, [])
    page.locator("#strip .film").first.click()
    page.wait_for_function("document.querySelector('.stage > video')?.readyState > 1")
    bar = page.locator("#stage .player:not([inert])")
    mark(bar, 5, 20)
    page.locator("#stage [data-do=film]").click()
    expect(page.locator("#message .notice")).to_contain_text("1 shot")
    (shot,) = kept(desk)
    assert (shot.start, shot.end) == (5, 20) and shot.clip in made
    page.get_by_role("tab", name="Film").click()
    expect(page.locator("#shots [data-field=start]")).to_have_value("5")


@pytest.mark.parametrize("width", [400, 1280])
def test_shots_are_put_in_order_trimmed_and_joined(
    page: Page, desk: Desk, made: list[Path], tmp_path: Path, width: int
) -> None:
    keep(desk, [])
    for clip in (made[0], made[1], made[0]):
        add(desk, clip, 0, -1)
    page.get_by_role("tab", name="Film").click()
    page.set_viewport_size({"width": width, "height": 800})
    rows = page.locator("#shots li")
    expect(rows).to_have_count(3)
    for number, title in enumerate(("one", "two", "three")):
        page.locator("#shots [data-field=title]").nth(number).fill(title)
        page.keyboard.press("Tab")
        page.wait_for_function(
            "([n, t]) => document.querySelectorAll('#shots [data-field=title]')[n].value === t",
            arg=[number, title],
        )
        while [shot.title for shot in kept(desk)][number] != title:
            page.wait_for_timeout(50)
    rows.nth(2).locator("img").drag_to(rows.nth(0).locator("img"))
    page.wait_for_function("document.querySelector('#shots [data-field=title]').value === 'three'")
    page.locator("#shots [data-do=later]").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#shots [data-field=title]').value === 'one'")
    assert titles(page) == ["one", "three", "two"]
    page.locator("#shots [data-do=remove]").nth(2).click()
    expect(rows).to_have_count(2)
    page.locator("#shots [data-field=end]").first.fill("11")
    page.keyboard.press("Tab")
    expect(page.locator("[data-reel]")).to_contain_text("2.5 s")
    page.locator("[data-reel]").click()
    page.wait_for_function("document.querySelector('.reel').dataset.at === '1'")
    page.wait_for_function("document.querySelector('.reel').dataset.at === '2'")
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes(bytes(96_000))
    give(page, sound)
    page.click("#make-film")
    expect(page.locator("#film-message .notice")).to_contain_text(".edl")
    page.locator("#reel video[controls]").wait_for()
    newest = max((desk.clips / EXPORTS).glob("*_film*.mp4"), key=lambda path: path.stat().st_mtime)
    assert len(read_mp4(newest)[0]) == 12 + 49
    assert list((desk.clips / EXPORTS).glob("*.fcpxml"))
    page.reload()
    page.locator("#ruler .ruler").wait_for()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.get_by_role("tab", name="Film").click()
    expect(rows).to_have_count(2)


def test_an_empty_film_is_said(page: Page, desk: Desk) -> None:
    keep(desk, [])
    page.get_by_role("tab", name="Film").click()
    expect(page.locator("#shots")).to_contain_text("Add clips with")
    page.click("#make-film")
    expect(page.locator("#film-message .failure")).to_contain_text("no shots")
