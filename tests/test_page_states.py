"""Every state that a tab comes into by use, looked at by axe-core in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

pytest_plugins = ["served"]
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.timeout(900),
]
PATIENCE = 180_000  # ms: for the engine, on a busy machine
ROWS = "a {red|blue} ball stands still, upscale=no\n"


def create(page: Page) -> Iterator[str]:
    page.locator("#presets").get_by_role("button").first.click()
    page.fill("#preset-name input, #preset-name textarea", "Evening")
    page.click("#keep")
    page.locator("#preset-list li").first.wait_for()
    yield "a preset"
    page.fill("#prompt textarea", "")
    page.click("#draw")
    page.locator("#message .failure").wait_for()
    yield "a mistake"
    page.fill("#prompt textarea", "a red ball stands still")
    page.uncheck("#upscale input")
    page.click("#animate")
    page.locator("#stage .player").wait_for()
    yield "a clip that is being made"
    page.locator("#stage .stage > video").wait_for()
    yield "a clip"
    page.click("#queue-button")
    yield "the queue"
    page.click("#queue-button")


def batch(page: Page) -> Iterator[str]:
    page.keyboard.press("Alt+2")
    page.fill("#rows textarea", ROWS)
    page.click("#enqueue")
    page.locator("#sheet .strip .done").nth(1).wait_for()
    yield "tiles"
    page.locator("#sheet .film").first.click()
    page.locator("#opened .stage > video").wait_for()
    yield "an open tile"


def library(page: Page) -> Iterator[str]:
    page.keyboard.press("Alt+3")
    page.locator("#viewer .stage").wait_for()
    page.locator("#cut").get_by_role("button").first.click()
    page.check("#preset input[value=square]")
    page.locator("#part .frame").wait_for()
    yield "a part to export"
    for number in (0, 1):
        page.locator("#grid [data-do=choose]").nth(number).click()
        page.locator("#grid .chosen").nth(number).wait_for()
    yield "two beside each other"
    page.locator("#viewer [data-do=film]").first.click()
    page.locator("#library-message .notice").wait_for()
    page.keyboard.press("Alt+4")
    page.locator("#shots li").first.wait_for()
    yield "a film"


def machine(page: Page) -> Iterator[str]:
    page.keyboard.press("Alt+5")
    page.click("#install")
    page.locator("#models-message .failure").wait_for()
    yield "a failed installation"
    if page.locator("#farm-switch").count():
        page.check("#farm-switch input")
        page.wait_for_timeout(3000)
        yield "a farm"
        page.uncheck("#farm-switch input")
    page.locator("header h1").click()
    page.keyboard.press("?")
    yield "the keys"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state_is_accessible(browser: Browser, address: str, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.locator("#ruler .ruler").wait_for()
    found = {}
    for part in (create, batch, library, machine):
        for state in part(page):
            page.wait_for_timeout(400)
            for violation in Axe().run(page).response["violations"]:
                found[state, violation["id"]] = violation["nodes"][0]["html"][:120]
    page.close()
    assert not found
