"""What is taken back or kept on the page, in a real Chromium: mistakes, prompts, presets, lists."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Browser, Page, expect

from studio.page.desk import Desk

pytest_plugins = ["served"]
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
MINUTE = 60_000  # ms: for the engine, on a busy machine
WIDTHS = pytest.mark.parametrize("width", [400, 1280])
ROWS = "a {red|blue} ball stands still, upscale=no\na yellow star stands still, upscale=no\n"


def prompt_of(page: Page, text: str) -> None:
    expect(page.locator("#prompt textarea")).to_have_value(text)


def press(page: Page, selector: str) -> None:
    """Use something by keyboard alone."""
    page.locator(selector).first.focus()
    page.keyboard.press("Enter")


def test_an_empty_prompt_and_a_bad_seed_are_told_until_they_are_mended(page: Page) -> None:
    told = page.locator("#message .failure")
    page.fill("#prompt textarea", "")
    page.click("#draw")
    expect(told).to_have_count(1)
    page.fill("#look input", "1.5")
    page.click("#draw")
    expect(told).to_contain_text("The look seed is 1.5.")
    page.fill("#look input", "15")
    expect(told).not_to_contain_text("look seed")  # the prompt is still empty
    page.fill("#prompt textarea", "a red ball")
    expect(told).to_have_count(0)


def test_a_failed_install_goes_when_another_is_named(browser: Browser, page: Page) -> None:
    page.get_by_role("tab", name="Models").click()
    page.click("#install")
    expect(page.locator("#models-message .failure")).to_have_count(1)
    page.fill("#pack-source textarea, #pack-source input", "/nowhere")
    expect(page.locator("#models-message .failure")).to_have_count(0)
    page.click("#install")
    expect(page.locator("#install-progress .failure")).to_have_count(1)
    page.fill("#pack-source textarea, #pack-source input", "/elsewhere")
    expect(page.locator("#install-progress .failure")).to_have_count(0)


@WIDTHS
def test_a_prompt_is_taken_back_by_button_and_key(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.fill("#prompt textarea", "a red ball")
    page.wait_for_timeout(1500)  # what is typed without a pause is one step
    page.fill("#prompt textarea", "a blue boat")
    page.locator("#examples [data-do=example]").first.click()
    expect(page.locator("#prompt textarea")).not_to_have_value("a blue boat")
    example = page.input_value("#prompt textarea")
    expect(page.locator("[data-history=undo]")).to_be_enabled()
    page.click("[data-history=undo]")
    prompt_of(page, "a blue boat")
    page.locator("#prompt textarea").focus()
    page.keyboard.press("Control+z")
    prompt_of(page, "a red ball")
    page.keyboard.press("Control+Shift+Z")
    page.keyboard.press("Control+y")
    prompt_of(page, example)
    expect(page.locator("[data-history=redo]")).to_be_disabled()
    expect(page.locator("#ruler")).to_contain_text("CLIP")


@WIDTHS
def test_a_preset_is_saved_used_and_deleted_by_keyboard(page: Page, desk: Desk, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    name = f"Evening {width}"
    page.fill("#prompt textarea", "a red ball")
    page.uncheck("#upscale input")
    page.fill("#look input", "77")
    page.check("#look-lock input")
    press(page, "#presets button")
    press(page, "#keep")
    expect(page.locator("#preset-message .failure")).to_have_count(1)
    page.fill("#preset-name input, #preset-name textarea", name)
    expect(page.locator("#preset-message .failure")).to_have_count(0)
    page.locator("#preset-prompt input").focus()
    page.keyboard.press(" ")
    press(page, "#keep")
    expect(page.locator("#preset-list")).to_contain_text(name)
    page.fill("#prompt textarea", "something else")
    page.check("#upscale input")
    page.fill("#look input", "1")
    page.uncheck("#look-lock input")
    press(page, f"#preset-list [data-do=set]:text-is('{name}')")
    prompt_of(page, "a red ball")
    expect(page.locator("#upscale input")).not_to_be_checked()
    expect(page.locator("#look input")).to_have_value("77")
    expect(page.locator("#look-lock input")).to_be_checked()
    remove = f"#preset-list [aria-label='Delete {name}']"
    press(page, remove)
    expect(page.locator(remove)).to_have_count(0)
    press(page, "#preset-message [data-do=bring]")
    expect(page.locator(remove)).to_have_count(1)
    kept = json.loads((desk.data / "presets.json").read_text("utf-8"))
    assert [one["name"] for one in kept.values() if not one.get("deleted")].count(name) == 1
    press(page, remove)
    expect(page.locator(remove)).to_have_count(0)
    page.uncheck("#look-lock input")


def test_a_batch_is_opened_played_and_there_after_a_reload(page: Page) -> None:
    page.get_by_role("tab", name="Batch").click()
    page.fill("#rows textarea", ROWS)
    page.click("#enqueue")
    tiles = page.locator("#sheet .strip li")
    expect(page.locator("#sheet .strip .done")).to_have_count(3, timeout=5 * MINUTE)
    expect(tiles.first.locator(".prompt")).to_have_text("a red ball stands still")
    tiles.first.locator(".film").hover()
    expect(tiles.first.locator("video")).to_have_count(1)
    tiles.first.locator(".film").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#opened .stage > video")).to_have_count(1)
    expect(page.locator("#opened .prompt")).to_have_text("a red ball stands still")
    page.locator("header").click()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#opened .prompt")).to_have_text("a blue ball stands still")
    page.reload()
    page.get_by_role("tab", name="Batch").click()
    expect(page.locator("#rows textarea")).to_have_value(ROWS)
    expect(page.locator("#sheet .strip .done")).to_have_count(3)
    page.set_viewport_size({"width": 400, "height": 800})
    press(page, "#sheet .strip li:last-child .film")
    expect(page.locator("#opened .prompt")).to_have_text("a yellow star stands still")
    press(page, "#opened [data-do=create]")
    prompt_of(page, "a yellow star stands still")
    expect(page.locator(".stage > video").first).to_be_visible()


def test_a_dropped_list_stays_and_says_that_it_counts(page: Page) -> None:
    page.get_by_role("tab", name="Batch").click()
    page.fill("#rows textarea", "a red ball")
    given = {"name": "my list.txt", "mimeType": "text/plain", "buffer": b"a green house\n"}
    page.set_input_files("#list-file input[type=file]", given)  # type: ignore[arg-type]
    expect(page.locator("#list-file")).to_contain_text("my list")
    page.click("#check")
    expect(page.locator("#plan")).to_contain_text("my list.txt is used, not the text")
    expect(page.locator("#plan .sample")).to_contain_text("a green house")
    page.reload()
    page.get_by_role("tab", name="Batch").click()
    expect(page.locator("#list-file")).to_contain_text("my list")
    page.click("#check")
    expect(page.locator("#plan .sample")).to_contain_text("a green house")
    page.locator("#rows textarea").press_sequentially(" and a white star")
    expect(page.locator("#plan .sample")).to_have_count(0)
