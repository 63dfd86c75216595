"""The queue's panel on every tab, in a real Chromium: order, failures, title, and no asking."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from engine.errors import Message
from studio.jobs.spec import PENDING, Entry, Work, content_key
from studio.page.desk import Desk

pytest_plugins = ["served"]


@pytest.fixture
def waiting(desk: Desk, mini_pack: Path) -> list[int]:
    """Four jobs that wait in a paused queue."""
    desk.table.pause()
    desk.table.remove(desk.table.ids(PENDING))
    works = [
        Work(f"panel {n}", n, n, pack=str(mini_pack), backend="cpu", kind="frame") for n in range(4)
    ]
    return desk.table.add([Entry(work, content_key(work, desk.pack)) for work in works])


def order(page: Page) -> list[int]:
    rows = page.locator("#queue-rows li")
    return [int(row.get_attribute("data-id") or 0) for row in rows.all()]


@pytest.mark.parametrize("width", [400, 1280])
def test_what_waits_is_put_into_another_order(page: Page, waiting: list[int], width: int) -> None:
    a, b, c, d = waiting
    page.get_by_role("tab", name="Settings").click()
    page.set_viewport_size({"width": width, "height": 800})
    page.locator("header").click(position={"x": 5, "y": 5})
    page.keyboard.press("q")
    rows = page.locator("#queue-rows li")
    expect(rows).to_have_count(4)
    expect(rows.first).to_be_visible()
    assert order(page) == waiting
    box = page.locator("#queue").bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width
    rows.nth(3).drag_to(rows.nth(0))
    page.wait_for_function(f"document.querySelector('#queue-rows li').dataset.id == {d}")
    assert order(page) == [d, a, b, c]
    later = page.locator(f"#queue-rows [data-do=later][data-id='{d}']")
    later.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelector('#queue-rows li').dataset.id == {a}")
    page.locator(f"#queue-rows [data-do=remove][data-id='{b}']").click()
    expect(rows).to_have_count(3)
    assert order(page) == [a, d, c]
    page.wait_for_function("document.title.startsWith('+3 ·')")
    page.keyboard.press("q")
    expect(page.locator("#queue")).to_be_hidden()


def test_a_failure_is_a_red_card_to_retry_or_put_aside(page: Page, desk: Desk) -> None:
    desk.table.pause()
    desk.table.remove(desk.table.ids(PENDING))
    work = Work("it fails", 1, 1, pack=str(desk.pack.path), backend="cpu", kind="frame")
    numbers = desk.table.add([Entry(work, f"failing {n}") for n in range(2)])
    for number in numbers:
        desk.table.fail(number, Message("The clip came to nothing."))
    page.click("#queue-button")
    cards = page.locator("#queue-rows .failure")
    expect(cards).to_have_count(2)
    expect(cards.first).to_contain_text("it failsThe clip came to nothing.")
    page.wait_for_function("document.title.includes('⚠ 2')")
    assert "%23c2473d" in (page.locator("link[rel~=icon]").first.get_attribute("href") or "")
    page.locator(f"#queue-rows [data-do=retry][data-id='{numbers[1]}']").click()
    expect(cards).to_have_count(1)
    assert desk.table.job(numbers[1]).state == "waiting"
    page.locator(f"#queue-rows [data-do=dismiss][data-id='{numbers[0]}']").click()
    expect(cards).to_have_count(0)
    page.reload()
    page.locator("#queue-rows li").first.wait_for(state="attached")
    expect(cards).to_have_count(0)
    desk.table.remove([numbers[1]])
    page.wait_for_function("document.title === 'Neodragon Studio'")


def test_the_running_job_shows_in_panel_title_and_stops(page: Page, desk: Desk) -> None:
    desk.table.remove(desk.table.ids(PENDING))
    desk.table.resume()
    expect(page.locator("#stop")).to_be_disabled()
    page.fill("#prompt textarea", "a white house stands on a hill")
    page.click("#animate")
    page.wait_for_function("/^[0-9]+ % · /.test(document.title)")
    expect(page.locator("#stop")).to_be_enabled()
    page.locator(".stage > video").wait_for()
    page.wait_for_function("document.title === 'Neodragon Studio'")
    expect(page.locator("#stop")).to_be_disabled()


def test_an_idle_page_asks_for_nothing(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for _ in range(20):  # until all that a fresh page asks for is there
        page.wait_for_timeout(3000)
        if len(asked) <= 2:  # whether the studio is still the same, every three seconds
            break
        asked.clear()
    asked.clear()
    page.wait_for_timeout(10_000)
    assert len(asked) <= 5, asked
