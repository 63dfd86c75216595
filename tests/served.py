"""A served page and a real Chromium, as fixtures; modules name it in `pytest_plugins`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, Response, expect, sync_playwright

from engine.pack import open_pack
from studio.page import server
from studio.page.desk import Desk

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
PATIENCE = 180_000  # ms: for the engine, on a busy machine
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home") / "Videos é"


@pytest.fixture(scope="module")
def contacted() -> list[str]:
    """Hosts this process connects to or looks up from here on."""
    hosts: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "socket.getaddrinfo":
            hosts.append(str(arguments[0]))
        elif event == "socket.connect" and isinstance(arguments[1], tuple):
            hosts.append(str(arguments[1][0]))

    sys.addaudithook(hook)
    return hosts


@pytest.fixture(scope="module")
def desk(mini_pack: Path, clips: Path, contacted: list[str]) -> Iterator[Desk]:
    """The page's own, with a worker."""
    with (
        open_pack(mini_pack) as pack,
        Desk(pack, "cpu", clips, clips.parent / "data", clips.parent / "cache") as desk,
    ):
        yield desk


@pytest.fixture(scope="module")
def address(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a page that is being served."""
    blocks, address = server.launch(desk, tmp_path_factory.mktemp("temporary"), 0)
    yield address
    blocks.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed; on Debian: apt-get install -y chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(PATIENCE)
    _overhear(page)
    page.goto(address)
    page.locator("#ruler .ruler").wait_for()  # the draft is there
    yield page
    page.close()


def _overhear(page: Page) -> None:
    """Print what went wrong in the page, and what became of files; pytest shows it on failure."""
    page.on("console", lambda line: print("console", line.type, line.text))
    page.on("pageerror", lambda error: print("error", error))
    page.on("requestfailed", lambda request: print("failed", request.url, request.failure))
    page.on("response", _print_answer)


def _print_answer(answer: Response) -> None:
    if not answer.ok or "/upload" in answer.url:
        print("answered", answer.status, answer.url)


def mark(bar: Locator, start: int, end: int) -> None:
    """Set the marks in and out of a player by its bar."""
    for side, number in (("in", start), ("out", end)):
        bar.locator("input").fill(str(number))
        expect(bar).to_have_attribute("data-frame", str(number))
        bar.locator(f"[data-play={side}]").click()
