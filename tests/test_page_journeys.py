"""What a creator does on the page, in a real Chromium: takes, start pictures, keys, colours."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from studio.jobs.spec import Work
from studio.language import catalogue
from studio.page.desk import Desk

pytest_plugins = ["served"]
PATIENCE = 180_000  # ms: for the engine, on a busy machine


def ask(page: Page, prompt: str, button: str) -> None:
    page.fill("#prompt textarea", prompt)
    page.click(button)


def frames(desk: Desk, prompt: str) -> list[Work]:
    return [job.work for job in desk.table.jobs() if job.work.prompt == prompt]


def test_what_is_on_the_stage_is_animated(page: Page, desk: Desk) -> None:
    ask(page, "a red star stands still", "#draw")
    page.locator(".stage > img").wait_for()
    first = page.input_value("#look input")
    page.fill("#look input", "41")
    page.click("#draw")
    page.locator("#strip .takes").wait_for()
    page.fill("#prompt textarea", "something else entirely")
    page.locator("#strip .takes .film").click()
    expect(page.locator(".stage .cell > img")).to_have_count(2)
    page.keyboard.press("1")
    page.click("#animate")
    page.locator(".stage > video").wait_for()
    (clip,) = [work for work in frames(desk, "a red star stands still") if work.kind == "clip"]
    assert str(clip.look_seed) == first


def test_showing_a_clip_fills_the_controls_and_keeps_its_look(page: Page, desk: Desk) -> None:
    page.locator("#strip li:not(.takes) .film").first.click()
    page.locator(".stage > video").wait_for()
    (clip,) = [work for work in frames(desk, "a red star stands still") if work.kind == "clip"]
    expect(page.locator("#prompt textarea")).to_have_value(clip.prompt)
    expect(page.locator("#look input")).to_have_value(str(clip.look_seed))
    page.click("#animate")
    page.wait_for_function(
        "seed => document.querySelector('#motion input').value !== seed", arg=str(clip.motion_seed)
    )
    expect(page.locator("#look input")).to_have_value(str(clip.look_seed))
    page.locator("#facts [data-do=takes]").wait_for()
    page.locator("#facts [data-do=takes]").click()
    expect(page.locator(".stage .cell > img")).to_have_count(2)


def test_seeds_that_change_nothing_say_so(page: Page) -> None:
    page.check("#look-lock input")
    ask(page, "a blue boat stands still", "#draw")
    page.locator(".stage > img").wait_for()
    page.locator("#facts .caption").wait_for()
    page.click("#draw")
    expect(page.locator("#message .notice")).to_contain_text("Unlock a seed")
    page.uncheck("#look-lock input")


# Gradio leaves the uploaded file to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_start_picture_is_shown_removed_and_varied_in_motion(
    page: Page, desk: Desk, tmp_path: Path
) -> None:
    picture = tmp_path / "photo.png"
    Image.new("RGB", (300, 200), (200, 60, 30)).save(picture)
    page.locator("#begin").get_by_role("button").first.click()
    page.set_input_files("#begin input[type=file]", picture)
    page.locator("#chip .chip img").wait_for()
    ask(page, "a green ball jumps", "#cast")
    expect(page.locator(".stage .cell")).to_have_count(9)
    works = frames(desk, "a green ball jumps")
    assert {work.kind for work in works} == {"clip"}
    assert len({work.motion_seed for work in works}) == 9
    desk.table.stop_all()
    page.locator("#chip [data-do=remove]").click()
    expect(page.locator("#chip .chip")).to_have_count(0)
    desk.table.resume()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_part_of_a_picture_is_dragged(page: Page, tmp_path: Path) -> None:
    picture = tmp_path / "wide.png"
    wide = Image.new("RGB", (600, 200), (200, 60, 30))
    wide.paste((30, 60, 200), (300, 0, 600, 200))  # red on the left, blue on the right
    wide.save(picture)
    page.locator("#begin").get_by_role("button").first.click()
    page.set_input_files("#begin input[type=file]", picture)
    frame = page.locator("#crop .frame")
    frame.wait_for()
    page.wait_for_function(
        "parseFloat(document.querySelector('#crop .frame').style.width) < 60"  # 300 of 600 pixels
    )
    chip = page.locator("#chip .chip img")
    chip.wait_for()
    middle = chip.get_attribute("src")
    page.locator("#crop .crop").scroll_into_view_if_needed()
    box = page.locator("#crop .crop").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"], box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    expect(chip).not_to_have_attribute("src", middle or "")
    colour = (
        "() => { const canvas = document.createElement('canvas'); const context ="
        " canvas.getContext('2d'); context.drawImage(document.querySelector('#chip img'), 0, 0);"
        " return [...context.getImageData(5, 5, 1, 1).data]; }"
    )
    page.wait_for_function(f"({colour})()[2] > 150")  # loaded a moment after its address is there
    assert page.evaluate(colour)[0] < 150
    moved = chip.get_attribute("src")
    frame.focus()
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    expect(chip).not_to_have_attribute("src", moved or "")
    page.wait_for_function(f"({colour})()[0] > 150")
    page.locator("#chip [data-do=remove]").click()
    expect(page.locator("#crop .frame")).to_have_count(0)


def test_a_seed_is_quoted_as_it_was_typed(page: Page) -> None:
    for seed in ("1.5", "12345678901234567890", "x"):
        page.fill("#look input", seed)
        page.click("#draw")
        expect(page.locator("#message .failure")).to_contain_text(f"The look seed is {seed}.")
    page.fill("#look input", "7")


def test_keys_belong_to_the_control_that_has_the_focus(page: Page) -> None:
    for seed in ("501", "502"):
        page.fill("#look input", seed)
        ask(page, "a white star stands still", "#draw")
        page.wait_for_function(
            "seed => document.querySelector('#facts').innerText.includes(seed)", arg=seed
        )
    page.get_by_role("tab", name="Library").click()
    page.locator("#viewer .caption").wait_for()
    before = page.locator("#grid .shown img").get_attribute("src")
    same = page.locator(f'#grid .shown img[src="{before}"]')
    page.locator("#bin input").focus()
    page.keyboard.press(" ")
    expect(page.locator("#bin input")).to_be_checked()
    expect(same).to_have_count(0)
    page.keyboard.press(" ")
    expect(page.locator("#bin input")).not_to_be_checked()
    expect(same).to_have_count(1)
    page.locator("header").click()
    page.keyboard.press(" ")
    page.wait_for_function(
        "before => ![before, undefined].includes(document.querySelector('#grid .shown img')?.src)",
        arg=page.evaluate("before => new URL(before, location).href", before),
    )


@pytest.mark.parametrize("language", ["en", "de", "zh"])
@pytest.mark.parametrize("width", [400, 1280])
def test_no_button_is_too_narrow_for_its_words(page: Page, language: str, width: int) -> None:
    words = [catalogue.string(f"verb.{verb}", language) for verb in ("draw", "cast", "animate")]
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate(
        "words => ['draw', 'cast', 'animate'].forEach((id, n) => {"
        " document.getElementById(id).textContent = words[n]; })",
        words,
    )
    for verb in ("draw", "cast", "animate"):
        assert page.locator(f"#{verb}").evaluate(
            "button => button.scrollWidth <= button.clientWidth"
            " && button.getBoundingClientRect().right <= innerWidth"
        )


def test_the_ruler_begins_at_a_word(page: Page) -> None:
    page.fill("#prompt textarea", "a wonderful rocket " * 20)
    cut = page.locator("#ruler .over s").first
    cut.wait_for()
    title = cut.get_attribute("title") or ""
    assert title.split()[0] in ("a", "wonderful", "rocket")


def test_a_question_mark_lists_the_keys(page: Page) -> None:
    page.locator("header").click()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    assert page.locator("#keys").evaluate("sheet => sheet.scrollTop") == 0
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).not_to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_apply_at_once(browser: Browser, address: str, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.locator("#ruler .ruler").wait_for()  # what was saved is there
    page.get_by_role("tab", name="Settings").click()
    for choice, is_dark in (("dark", True), ("light", False), ("system", scheme == "dark")):
        page.check(f"#set-theme input[value={choice}]")
        page.wait_for_function(
            "dark => document.body.classList.contains('dark') === dark", arg=is_dark
        )
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_is_accessible(browser: Browser, address: str, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.locator("#ruler .ruler").wait_for()
    ask(page, "a red ball stands still", "#draw")
    page.locator("#strip li").first.wait_for()
    page.locator(".stage img").first.wait_for()
    for name in ("More", "begin"):
        page.locator(f"#{name.lower()}").get_by_role("button").first.click()
    found = {}
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.wait_for_timeout(500)
        for violation in Axe().run(page).response["violations"]:
            html = violation["nodes"][0]["html"][:120]
            found[tab.inner_text(), violation["id"]] = html
    page.close()
    assert not found
