"""Pictures of the page for the docs: `python -m benchmarks.screenshots docs/screenshots`.

With `--every` also of every state in four sizes (1024 px in dark) and three languages, to be looked
at. The real page, worker and mini pack, in a real Chromium; made in a temporary folder.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from engine.pack import open_pack
from studio.language.catalogue import LANGUAGES
from studio.page import server
from studio.page.desk import Desk
from studio.system.paths import default_pack

PATIENCE = 600_000  # ms
SIZES = ((1280, 800), (1920, 1080), (1024, 700), (400, 800))
TABS = ("create", "batch", "library", "film", "models", "settings")
LIST = """a {red|blue} boat sails to the right at night
a yellow star rises above the sand, count=2
a green house stands still in the snow
"""


def shoot(page: Page, folder: Path, name: str, whole: bool = False) -> None:
    page.screenshot(path=folder / f"{name}.jpg", type="jpeg", quality=80, full_page=whole)
    print(folder / f"{name}.jpg", flush=True)


def create(page: Page, folder: Path) -> None:
    shoot(page, folder, "create-idle")
    page.fill("#prompt textarea", "a yellow boat sails to the right at sunset")
    page.click("#draw")
    page.locator(".stage > img").wait_for()
    shoot(page, folder, "create-first-frame")
    page.fill("#prompt textarea", "a red rocket rises above the meadow in daylight")
    page.fill("#look input", "7")
    page.click("#cast")
    expect(page.locator(".cell > img")).to_have_count(9, timeout=PATIENCE)
    for key in "269":
        page.keyboard.press("Escape")  # leaves the number field; nothing runs
        page.locator("header").click()
        page.keyboard.press(key)
    expect(page.locator(".cell[aria-pressed=true]")).to_have_count(3)
    shoot(page, folder, "create-casting")
    page.click("#animate")
    for _ in range(3):  # until one is caught growing
        page.locator("canvas.growing").wait_for(timeout=PATIENCE)
        page.wait_for_timeout(300)
        shoot(page, folder, "create-running")
    expect(page.locator(".cell > video")).to_have_count(3, timeout=PATIENCE)
    page.locator(".cell").first.click()
    page.locator(".stage > video").wait_for(timeout=PATIENCE)
    page.wait_for_function("document.querySelector('.stage > video')?.currentTime > 1")
    shoot(page, folder, "create-done")
    page.fill("#prompt textarea", "")
    page.click("#animate")
    page.locator("#message .failure").wait_for()
    shoot(page, folder, "error")


def batch(page: Page, folder: Path) -> None:
    page.get_by_role("tab", name="Batch").click()
    page.fill("#rows textarea", LIST)
    page.click("#enqueue")
    expect(page.locator("#sheet .strip .done")).to_have_count(4, timeout=PATIENCE)
    shoot(page, folder, "batch")


def library(page: Page, folder: Path) -> None:
    page.get_by_role("tab", name="Library").click()
    page.check("#kind input[value=clip]")
    page.locator("#viewer .stage > video").wait_for()
    page.locator("header").click()
    page.keyboard.press("4")
    page.locator("#grid .shown", has_text="★★★★").wait_for()
    page.wait_for_timeout(1500)
    shoot(page, folder, "library-cull")
    page.check("#kind input[value=all]")
    page.wait_for_timeout(1500)
    shoot(page, folder, "library-grid")
    page.check("#kind input[value=clip]")
    page.wait_for_timeout(1500)
    for number in range(4):
        page.locator("#grid [data-do=choose]").nth(number).click()
        expect(page.locator("#grid [aria-pressed=true]")).to_have_count(number + 1)
    page.wait_for_timeout(2000)
    shoot(page, folder, "library-compare")


def machine(page: Page, folder: Path) -> None:
    page.get_by_role("tab", name="Models").click()
    page.click("#examine")
    page.locator("[data-copy]").wait_for()
    page.wait_for_timeout(1000)
    shoot(page, folder, "models")
    page.get_by_role("tab", name="Settings").click()
    page.locator("#quit").wait_for()
    page.wait_for_timeout(500)
    shoot(page, folder, "settings")


def every(page: Page, folder: Path, name: str) -> None:
    """The states of a page that has work behind it."""
    page.locator(".stage video").first.wait_for()
    page.wait_for_function("document.querySelector('.stage video').readyState > 1")
    shoot(page, folder, f"{name}-create")
    page.locator("#stage [data-do=film]").click()
    page.fill("#look input", "1.5")
    page.click("#draw")
    page.locator("#message .failure").wait_for()
    shoot(page, folder, f"{name}-error")
    page.fill("#look input", "7")
    page.click("#queue-button")
    page.wait_for_timeout(500)
    shoot(page, folder, f"{name}-queue")
    page.click("#queue-button")
    page.locator("header h1").click()
    page.keyboard.press("?")
    page.locator("#keys[open]").wait_for()
    shoot(page, folder, f"{name}-keys")
    page.keyboard.press("Escape")
    for place, tab in enumerate(TABS):
        page.keyboard.press(f"Alt+{place + 1}")
        page.wait_for_timeout(2500)
        if tab == "batch":
            page.locator("#sheet .film").first.click()
            page.locator("#opened .stage").wait_for()
            page.wait_for_timeout(1000)
        if tab != "create":
            shoot(page, folder, f"{name}-{tab}")
        closed = page.locator("button.label-wrap:not(.open):visible")
        if closed.count():
            while closed.count():
                closed.first.click()
            page.wait_for_timeout(700)
            shoot(page, folder, f"{name}-{tab}-open", whole=True)


@contextmanager
def studio() -> Iterator[tuple[Desk, Browser, Path]]:
    """A desk in a temporary folder and a browser."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with (
        tempfile.TemporaryDirectory() as home,
        open_pack(default_pack()) as pack,
        Desk(pack, "cpu", Path(home, "Videos"), Path(home, "data"), Path(home, "cache")) as desk,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield desk, browser, Path(home)
        browser.close()


@contextmanager
def opened(
    desk: Desk,
    browser: Browser,
    home: Path,
    language: str = "en",
    size: tuple[int, int] = SIZES[0],
    scheme: Literal["light", "dark"] = "light",
) -> Iterator[Page]:
    """The page in a language, a size and colours, with its draft."""
    blocks, address = server.launch(desk, home, 0, language)
    viewport: ViewportSize = {"width": size[0], "height": size[1]}
    page = browser.new_page(viewport=viewport, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.locator("#ruler .ruler").wait_for()
    yield page
    page.close()
    blocks.close(verbose=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--every",
        nargs="*",
        metavar="LANGUAGE-WIDTH",
        help="four sizes, three languages; or only these, as de-400",
    )
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    with studio() as (desk, browser, home):
        with opened(desk, browser, home) as page:
            create(page, folder)
            batch(page, folder)
            library(page, folder)
            machine(page, folder)
        with opened(desk, browser, home, scheme="dark") as page:
            page.locator(".stage video").first.wait_for()
            shoot(page, folder, "dark")
        for language, size in product(LANGUAGES, SIZES) if options.every is not None else ():
            name = f"{language}-{size[0]}"
            if options.every and name not in options.every:
                continue
            scheme: Literal["light", "dark"] = "dark" if size[0] == 1024 else "light"
            with opened(desk, browser, home, language, size, scheme) as page:
                every(page, folder, name)


if __name__ == "__main__":
    main()
