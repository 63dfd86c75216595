"""The page in German and Chinese, in a real Chromium: no English sentence on any tab."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from engine.pack import open_pack
from studio.jobs.spec import Entry, Work
from studio.page import server
from studio.page.desk import Desk
from studio.system import paths

pytest_plugins = ["served"]
PATIENCE = 180_000  # ms: for the engine, on a busy machine

# Everything that is shown, or read out by a screen reader: lines, labels, hints.
TEXTS = """() => [document.body.innerText, ...[...document.querySelectorAll('*')]
  .filter(element => element.checkVisibility())
  .flatMap(element => ['aria-label', 'placeholder', 'title', 'alt']
  .map(name => element.getAttribute(name)))]
  .filter(Boolean).join('\\n').split('\\n')"""
# Words of English sentences that are none in German; names and paths have no spaces around them.
ENGLISH = re.compile(
    r"(?<![\w/.-])(the|is|are|be|with|without|of|to|from|and|or|not|no|this|that|your|you|for|it|its"
    r"|click|drop|upload|choose|reset|slider|input|complete|textbox|loading)(?![\w/.-])",
    re.IGNORECASE,
)
ROWS = "prompt,look_seed,mode\na red ball,1,\na star,x,\na boat,2,quick\n{a,3,\n"
# What stays English: prompts, which the model reads, and what the tests typed.
PROMPTS = (*paths.ASSETS.joinpath("examples.txt").read_text(encoding="utf-8").splitlines(),)
PROMPTS += ("a {red|blue} boat sails to the right at night", "a red ball jumps", "a red ball")


def english(page: Page) -> set[str]:
    """Lines on the page that are English and none of the prompts."""
    lines = {line.strip() for line in page.evaluate(TEXTS)}
    return {
        line
        for line in lines
        if ENGLISH.search(line) and not any(prompt and prompt in line for prompt in PROMPTS)
    }


@contextmanager
def studio(pack: Path, folder: Path, language: str) -> Iterator[str]:
    """The address of a page in a language, with a clip in its library and a job that fails."""
    clips = folder / "clips"
    clips.mkdir()
    shutil.copyfile(paths.ASSETS / "golden.mp4", clips / "golden.mp4")
    with (
        open_pack(pack) as opened,
        Desk(opened, "cpu", clips, folder / "data", folder / "cache") as desk,
    ):
        picture = folder / "gone.png"
        work = Work("a red ball", 1, 2, image=picture, pack=str(pack), backend="cpu")
        desk.table.add([Entry(work, "key")])
        blocks, address = server.launch(desk, folder / "temporary", 0, language)
        try:
            yield address
        finally:
            blocks.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("language", ["de", "zh"])
def test_no_english_reaches_the_page(
    browser: Browser, mini_pack: Path, tmp_path: Path, language: str
) -> None:
    with studio(mini_pack, tmp_path, language) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900}, locale="en-US")
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.locator("#ruler .ruler").wait_for()
        page.locator(".failed, .failure").first.wait_for()  # the job whose picture is gone
        assert not english(page)
        tabs = page.get_by_role("tab")
        for number in range(tabs.count()):
            tabs.nth(number).click()
            if page.locator("#rows textarea").is_visible():
                page.fill("#rows textarea", ROWS)
                page.click("#check")
                page.locator("#plan .bad").wait_for()
            page.wait_for_timeout(1500)  # what the tab loads when it is opened
            assert not english(page), tabs.nth(number).inner_text()
            if page.locator("#examine").is_visible() and language == "de":
                page.click("#examine")
                page.locator("ul.doctor:not([aria-busy])").wait_for(timeout=PATIENCE)
                assert not english(page)
        page.close()
