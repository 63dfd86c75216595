"""The library in a real Chromium: several at once, forks as a tree, exports, sending elsewhere."""

from __future__ import annotations

import asyncio
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import pytest
from gradio.state_holder import SessionState
from playwright.sync_api import Page, Route, expect
from served import mark

from engine.config import Fork
from studio.jobs.spec import PENDING, RUNNING, Work
from studio.library.store import EXPORTS
from studio.media import sidecars
from studio.media.video import read_mp4
from studio.page import library as library_page
from studio.page.desk import Desk
from studio.page.events import IN_TURN, InTurn

pytest_plugins = ["served"]
# Gradio leaves a picture's file to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
PROMPT = "a red ball rolls right over a green meadow"
DEADLINE = 300  # seconds


@pytest.fixture(scope="module")
def shelf(desk: Desk) -> list[Path]:
    """A clip, two forks of it, a fork of one of these, and another clip."""
    common = {"pack": str(desk.pack.path), "backend": "cpu", "upscale": False}
    forks: list[tuple[Fork, ...]] = [(), (Fork(3, 7),), (Fork(3, 8),), (Fork(3, 7), Fork(5, 9))]
    works = [Work(PROMPT, 1, 2, forks=each, **common) for each in forks]  # type: ignore[arg-type]
    ids = [*desk.ask(works), *desk.ask([Work("a blue star", 1, 2, **common)])]  # type: ignore[arg-type]
    deadline = time.monotonic() + DEADLINE
    while desk.table.count((*RUNNING, *PENDING)) and time.monotonic() < deadline:
        time.sleep(0.2)
    found = [job.result for job in desk.jobs(ids)]
    return [path for path in found if path is not None]


@pytest.fixture
def library(page: Page, shelf: list[Path]) -> Page:
    assert len(shelf) == 5
    page.get_by_role("tab", name="Library").click()
    expect(page.locator("#grid li")).to_have_count(5)
    page.locator("#viewer video").first.wait_for()
    return page


def marks(path: Path) -> dict[str, object]:
    found = sidecars.read(path).get("marks", {})
    assert isinstance(found, dict)
    return found


def test_forks_are_a_tree(library: Page) -> None:
    library.fill("#words input, #words textarea", "red ball")
    expect(library.locator("#grid li")).to_have_count(4)
    expect(library.locator("#grid .film i")).to_have_count(3)
    tree = library.locator("#viewer > div > .tree, #viewer .tree").first
    expect(tree.locator(":scope > li")).to_have_count(1)
    expect(tree.locator(":scope > li > ul > li")).to_have_count(2)
    deepest = tree.locator("ul ul button")
    expect(deepest).to_contain_text("from unit 5")
    deepest.focus()
    library.keyboard.press("Enter")
    expect(library.locator(".tree ul ul [aria-current=true]")).to_have_count(1)
    library.fill("#words input, #words textarea", "star")
    expect(library.locator("#viewer .tree")).to_have_count(0)
    library.fill("#words input, #words textarea", "")


@pytest.mark.parametrize("width", [400, 1280])
def test_several_are_marked_at_once(library: Page, shelf: list[Path], width: int) -> None:
    library.set_viewport_size({"width": width, "height": 800})
    tiles = library.locator("#grid .film")
    tiles.nth(0).click()
    expect(library.locator("#grid li.shown").first).to_be_visible()
    tiles.nth(2).click(modifiers=["Shift"])
    expect(library.locator("#grid .chosen")).to_have_count(3)
    tiles.nth(1).click(modifiers=["Control"])
    expect(library.locator("#grid .chosen")).to_have_count(2)
    library.locator("#counts").click(position={"x": 1, "y": 1})
    library.keyboard.press("3")
    expect(library.locator("#grid .chosen span", has_text="★★★")).to_have_count(2)
    assert sum(marks(path).get("stars") == 3 for path in shelf) == 2
    for _ in range(2):
        library.keyboard.press("z")
    expect(library.locator("#grid span", has_text="★")).to_have_count(0)
    library.locator("#counts [data-do=all]").click()
    expect(library.locator("#grid .chosen")).to_have_count(5)
    expect(library.locator("#viewer .caption")).to_contain_text("5 selected")
    library.keyboard.press("x")
    expect(library.locator("#grid li")).to_have_count(0)
    assert not any(path.exists() for path in shelf)
    for count in range(1, 6):
        library.keyboard.press("z")
        expect(library.locator("#grid li")).to_have_count(count)
    assert all(path.exists() for path in shelf)
    library.keyboard.press("Escape")


def test_every_key_of_many_counts(library: Page, shelf: list[Path]) -> None:
    asked: list[str] = []
    library.on("request", lambda request: asked.append(request.url))
    library.locator("header").click()
    for key, left in (("x", 0), ("z", 5)):
        for _ in shelf:  # faster than the page answers
            library.keyboard.press(key)
        expect(library.locator("#grid li")).to_have_count(left)
    assert all(path.exists() for path in shelf)
    assert not [url for url in asked if "/queue/" in url]  # its stream loses answers


def test_a_step_is_taken_before_the_studio_answers(library: Page) -> None:
    held: list[Route] = []
    library.locator("header").click()
    library.route("**/run/predict*", lambda route: held.append(route), times=2)
    for _ in range(2):
        library.keyboard.press(" ")
    expect(library.locator("#grid li").nth(2)).to_have_class("shown")
    film = library.locator("#grid li img").nth(2).get_attribute("data-film")
    assert library.locator("#viewer .stage video").get_attribute("src") == film
    deadline = time.monotonic() + DEADLINE
    while not held and time.monotonic() < deadline:
        library.wait_for_timeout(50)
    for route in reversed(held):  # one overtakes the other
        route.continue_()
    cull = library.locator("#viewer .cull:not(.ahead)")
    expect(cull).to_have_attribute("data-open", film or "")
    assert cull.locator("video").get_attribute("src") == film
    assert Path(film or "").name in (cull.locator(".caption").text_content() or "")


def test_what_is_asked_during_steps_is_of_the_clip_that_is_open(
    library: Page, shelf: list[Path]
) -> None:
    library.locator("header").click()
    films = [image.get_attribute("data-film") or "" for image in library.locator("#grid img").all()]
    names = [Path(film).name for film in films]
    open_ = library.locator("#viewer .cull:not(.ahead)")
    for key in ("p", " ", "p", "p"):  # faster than the page answers
        library.keyboard.press(key)
    expect(library.locator("#grid .kept")).to_have_count(3)
    expect(open_).to_have_attribute("data-open", films[4])
    kept = {path.name for path in shelf if marks(path).get("keep")}
    assert kept == {names[0], names[2], names[3]}
    for left in (2, 1, 0):
        library.keyboard.press("z")
        expect(library.locator("#grid .kept")).to_have_count(left)
    library.keyboard.press("ArrowLeft")
    library.click("#export")
    expect(library.locator("#library-message .notice")).to_contain_text(Path(names[3]).stem)
    library.locator("#grid .film").first.click()
    for key in ("x", " ", "p"):  # Space clicks the tile that has the focus, whose clip has left
        library.keyboard.press(key)
    expect(library.locator("#grid li")).to_have_count(4)
    assert not any(path.exists() and marks(path).get("keep") for path in shelf)
    library.keyboard.press("z")
    expect(library.locator("#grid li")).to_have_count(5)
    library.locator("#grid .film").first.click()
    library.locator("header").click()
    for key in ("x", " ", "p"):  # the list is one shorter before the first is answered
        library.keyboard.press(key)
    expect(library.locator("#grid li")).to_have_count(4)
    expect(open_).to_have_attribute("data-open", films[3])
    assert [path.name for path in shelf if path.exists() and marks(path).get("keep")] == [names[2]]
    assert not (shelf[0].parent / names[0]).exists()
    library.keyboard.press("z")
    expect(library.locator("#grid .kept")).to_have_count(0)
    library.keyboard.press("z")
    expect(library.locator("#grid li")).to_have_count(5)


def test_what_is_drawn_anew_plays_on_with_its_marks(library: Page) -> None:
    held: list[Route] = []
    library.route("**/run/predict*", lambda route: held.append(route), times=1)
    library.locator("#grid .film").nth(1).click()  # the studio answers late
    library.wait_for_function("document.querySelector('#viewer video')?.readyState > 1")
    bar = library.locator("#viewer .player")
    mark(bar, 10, 29)
    deadline = time.monotonic() + DEADLINE
    while not held and time.monotonic() < deadline:
        library.wait_for_timeout(50)
    held[0].continue_()
    library.locator("#viewer .cull:not(.ahead)").wait_for()
    library.locator("#viewer [data-do=star]").nth(2).click()
    expect(library.locator("#grid .shown span", has_text="★★★")).to_have_count(1)
    assert library.evaluate("neodragonMarks()") == '{"in":10,"out":29}'
    assert library.evaluate("document.querySelector('#viewer video').paused")
    expect(bar.locator("output")).to_have_text("29 / 48")
    library.get_by_role("tab", name="Settings").click()
    library.get_by_role("tab", name="Library").click()  # searches anew
    library.locator("#viewer [data-do=star]").nth(2).click()
    expect(library.locator("#grid .shown span", has_text="★")).to_have_count(0)
    expect(library.locator("#grid li").nth(1)).to_have_class("shown")


def test_an_empty_library_is_searched_again(library: Page) -> None:
    failed: list[str] = []
    library.on("response", lambda it: failed.append(it.url) if it.status >= 400 else None)
    library.fill("#words input, #words textarea", "nothing of the kind")
    expect(library.locator("#grid li")).to_have_count(0)
    library.get_by_role("tab", name="Settings").click()
    with library.expect_response("**/run/predict*"):
        library.get_by_role("tab", name="Library").click()
    library.wait_for_timeout(1000)  # its search is answered
    library.fill("#words input, #words textarea", "")
    expect(library.locator("#grid li")).to_have_count(5)
    assert not failed


def test_more_is_offered_where_there_is_more(
    library: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = library.locator("#library-more")
    expect(more).to_have_count(0)
    monkeypatch.setattr(library_page, "PAGE", 3)
    for sort, count in (("oldest first", 3), ("newest first", 3)):
        library.click("#sort input")
        library.get_by_role("option", name=sort).click()
        expect(library.locator("#grid li")).to_have_count(count)
    more.click()
    expect(library.locator("#grid li")).to_have_count(5)
    expect(more).to_have_count(0)


def test_reduced_motion_lets_clips_rest(library: Page) -> None:
    library.emulate_media(reduced_motion="reduce")
    library.reload()
    library.locator("#ruler .ruler").wait_for()
    library.get_by_role("tab", name="Library").click()
    library.wait_for_function("document.querySelector('#viewer video')?.readyState > 1")
    for _ in range(2):
        library.wait_for_timeout(500)
        assert library.evaluate("document.querySelector('#viewer video').paused")
        library.keyboard.press(" ")
    library.wait_for_function("document.querySelector('#viewer .cull:not(.ahead) video')")
    library.locator("#viewer [data-play=toggle]").click()
    library.wait_for_function("!document.querySelector('#viewer video').paused")


def test_events_in_turn_see_what_the_last_left() -> None:
    def one_more(count: int) -> int:
        time.sleep(0.05)
        return count + 1

    async def at_once() -> int:
        with InTurn() as blocks:
            count = gr.State(0)
            gr.Button().click(one_more, count, count, **IN_TURN)
        session = SessionState(blocks)
        await asyncio.gather(*(blocks.process_api(0, [None], session) for _ in range(5)))
        return int(session[count._id])

    with ThreadPoolExecutor() as threads:  # in this one Chromium's loop runs
        assert threads.submit(asyncio.run, at_once()).result() == 5


def test_an_event_that_overtook_another_waits_for_it() -> None:
    order: list[int] = []

    def note(event: gr.EventData) -> None:
        order.append(event.count)

    async def at_once() -> None:
        with InTurn() as blocks:
            gr.HTML().click(note, None, None, **IN_TURN)
        session = SessionState(blocks)
        await asyncio.gather(
            *(
                blocks.process_api(
                    0, [], state=session, event_data=gr.EventData(None, {"count": count})
                )
                for count in (3, 1, 2, 5)  # the fourth was lost
            )
        )

    with ThreadPoolExecutor() as threads:
        threads.submit(asyncio.run, at_once()).result()
    assert order == [1, 2, 3, 5]


def test_collections_and_order(library: Page, shelf: list[Path]) -> None:
    library.locator("#grid [data-do=choose]").nth(0).click()
    expect(library.locator("#grid .chosen")).to_have_count(1)
    library.locator("#grid [data-do=choose]").nth(1).click()
    expect(library.locator("#grid .chosen")).to_have_count(2)
    library.fill("#collect input, #collect textarea", "Trailer")
    library.press("#collect input, #collect textarea", "Enter")
    expect(library.locator("#collect input, #collect textarea")).to_have_value("")
    assert sum(marks(path).get("collection") == "Trailer" for path in shelf) == 2
    library.get_by_role("tab", name="Settings").click()
    library.get_by_role("tab", name="Library").click()
    library.click("#collection input")
    library.get_by_role("option", name="Trailer").click()
    expect(library.locator("#grid li")).to_have_count(2)
    library.click("#collection input")
    library.get_by_role("option", name="all").click()
    expect(library.locator("#grid li")).to_have_count(5)
    library.click("#sort input")
    library.get_by_role("option", name="by prompt").click()
    expect(library.locator("#grid .film").first).to_have_attribute("title", "a blue star")
    expect(library.locator("#counts")).to_contain_text("Clips: 5 · first frames: 0 · kept: 0")


def test_a_part_of_a_clip_is_exported(library: Page, desk: Desk) -> None:
    library.locator("#grid .film").first.click()
    bar = library.locator("#viewer .player")
    bar.wait_for()
    library.wait_for_function("document.querySelector('#viewer video').readyState > 1")
    mark(bar, 10, 29)
    library.locator("#cut").get_by_role("button").first.click()
    library.check("#preset input[value=square]")
    frame = library.locator("#part .frame")
    frame.wait_for()
    expect(library.locator("#aspect input[value='1:1']")).to_be_checked()
    expect(library.locator("#taking input[value=mp4]")).to_be_checked()
    library.wait_for_function("parseFloat(document.querySelector('#part .frame').style.width) < 90")
    frame.focus()
    for _ in range(80):
        library.keyboard.press("ArrowLeft")
    library.wait_for_function("document.querySelector('#part .crop').dataset.across == 0")
    library.wait_for_timeout(1000)  # until it is sent
    library.locator("#how input").first.check()  # twice the frames a second
    library.click("#export")
    expect(library.locator("#library-message .notice")).to_contain_text("_f10-29_1x1_2x-fps.mp4")
    (made,) = (desk.clips / EXPORTS).glob("*_f10-29_1x1_2x-fps.mp4")
    shown, fps = read_mp4(made)
    assert shown.shape == (40, 128, 128, 3) and fps == 48
    assert sidecars.inside(made)["export"]["across"] == 0


def test_clips_are_joined_and_sent_elsewhere(library: Page, desk: Desk) -> None:
    for number in (0, 1):
        library.locator("#grid [data-do=choose]").nth(number).click()
        expect(library.locator("#grid .chosen")).to_have_count(number + 1)
    library.locator("#viewer [data-do=join]").click()
    expect(library.locator("#library-message .notice")).to_contain_text("_joined.mp4")
    (made,) = (desk.clips / EXPORTS).glob("*_joined.mp4")
    assert len(read_mp4(made)[0]) == 98
    library.keyboard.press("Escape")
    library.locator("#viewer [data-do=batch]").click()
    expect(library.locator("#rows textarea")).to_have_value(PROMPT)
    library.get_by_role("tab", name="Library").click()
    library.locator("#viewer [data-do=fork]").click()
    expect(library.locator("#branch .chip")).to_contain_text("frames 0 to")
    expect(library.locator("#prompt textarea")).to_have_value(PROMPT)
    library.get_by_role("tab", name="Library").click()
    library.locator("#viewer [data-do=begin]").click()
    library.locator("#chip .chip").wait_for()
    library.locator("#chip [data-do=remove]").click()


def test_a_clip_is_shown_in_its_folder(
    library: Page, shelf: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, told = tmp_path / "xdg-open", tmp_path / "told"
    program.write_text(f'#!/bin/sh\necho "$1" > "{told}"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    library.locator("#viewer [data-do=folder]").click()
    deadline = time.monotonic() + DEADLINE
    while not (told.is_file() and told.read_text("utf-8")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert told.read_text("utf-8").strip() == str(shelf[0].parent)
