"""The card of the full-size model in a real Chromium, with the mini model's weights."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, TimeoutError, expect

from engine.pack import open_pack
from studio.model import build
from studio.system import packs, paths, settings

pytest_plugins = ["served"]
CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "mini"


@pytest.fixture(scope="module", autouse=True)
def weights(clips: Path) -> Iterator[Path]:
    """Where a download would have left them."""
    data = clips.parent / "data"
    shutil.copytree(CHECKPOINT, data / "weights")
    (data / "weights" / "LICENSE").write_text("May be used.\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.DATA_VARIABLE, str(data))
        yield data / "weights"


def choose(page: Page, target: str) -> None:
    """An answer that comes late may close the list; a user would open it again."""
    for _ in range(5):
        page.locator("#full-for input").click()
        try:
            page.get_by_role("option").filter(has_text=target).click(timeout=10_000)
            break
        except TimeoutError:
            page.locator("#full-for input").blur()
    expect(page.locator("#full-for input")).to_have_value(re.compile(target))


def test_a_pack_is_built_and_used(page: Page, weights: Path) -> None:
    page.locator(".stage [data-card=full-size]").click()
    page.locator("#full-build").wait_for()
    pause = page.locator("#full-pause")
    for idle in (pause, page.locator("#full-stop")):
        expect(idle).to_be_disabled()
    expect(page.locator("#full-licence summary")).to_have_text("LICENSE")
    choose(page, "16 bits")
    page.locator("#full-build").click()
    expect(page.locator("#full-built")).to_contain_text("accept the licence of the weights first")
    page.locator("#full-agree input").check()
    page.locator("#full-build").click()
    page.locator("#full-built progress").wait_for()
    expect(pause).to_be_enabled()
    status = build.status()
    assert status is not None
    psutil.Process(status.pid).kill()
    page.reload()
    page.get_by_role("tab", name="Models").click()
    page.locator("#full-size > .label-wrap").click()
    expect(page.locator("#full-agree input")).to_be_checked()
    shown = page.locator("#full-built")
    expect(shown).to_contain_text("was interrupted")
    expect(pause).to_be_disabled()
    page.locator("#full-build").click()
    expect(shown).to_contain_text("neodragon-portable is built")
    expect(pause).to_be_disabled()
    shown.locator("summary").click()
    expect(shown.locator("pre")).to_contain_text("transformer/transformer: ")
    page.locator("#packs [data-do=use]").last.click()
    expect(page.locator("#models-message")).to_contain_text("will be used after a restart")
    chosen = settings.pack_path()
    assert chosen == packs.home() / "neodragon-portable"
    with open_pack(chosen) as pack:
        assert pack.has("transformer")


def test_a_pack_that_is_there_is_not_built_over(page: Page, weights: Path) -> None:
    """At 400 pixels, by keyboard alone."""
    there = packs.home() / "neodragon-cpu"
    there.mkdir(parents=True)
    (there / "kept").touch()
    page.set_viewport_size({"width": 400, "height": 800})
    page.locator(".stage [data-card=full-size]").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#full-size > .label-wrap")).to_be_focused()
    choose(page, "8 bits")
    agree = page.locator("#full-agree input")
    agree.focus()
    if not agree.is_checked():
        page.keyboard.press("Space")
    page.locator("#full-build").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#full-built .failure")).to_contain_text("neodragon-cpu exists already")
    assert [path.name for path in there.iterdir()] == ["kept"]
