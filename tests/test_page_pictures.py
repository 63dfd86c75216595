"""Pictures that are dropped on the page, in a real Chromium: read by us, not by Gradio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from studio.page.desk import Desk

pytest_plugins = ["served"]


# Gradio leaves the uploaded file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dropped_picture_keeps_its_values(page: Page, desk: Desk, tmp_path: Path) -> None:
    deep, clear = tmp_path / "deep.png", tmp_path / "clear.png"
    Image.fromarray(np.full((128, 192), 0x4000, np.uint16)).save(deep)
    Image.new("RGBA", (192, 128), (0, 0, 0, 0)).save(clear)
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    page.locator("#begin").get_by_role("button").first.click()
    shown = set()
    for path, value in ((deep, 0x40), (clear, 255)):
        page.locator("#begin input[type=file]").first.set_input_files(path)
        page.locator("#chip .chip img").wait_for()
        kept = set((desk.data / "pictures").glob("*.png")) - shown
        assert len(kept) == 1
        with Image.open(*kept) as picture:
            assert picture.convert("RGB").getextrema() == ((value, value),) * 3
        shown |= kept
        page.locator("#chip [data-do=remove]").click()
        expect(page.locator("#chip .chip")).to_have_count(0)
    page.locator("#begin input[type=file]").first.set_input_files(tmp_path / "photo.heic")
    expect(page.locator("#message")).to_contain_text("HEIC")
