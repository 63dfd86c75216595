"""The page in a real Chromium, on the real engine and the mini pack; and its rules, alone."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from engine.config import SEED_LIMIT
from engine.pack import Pack, open_pack
from studio import server, stage
from studio.cli import main
from studio.video import read_metadata

PROMPT = "a red ball <b>jumps</b> ${1 + 1} {{value}} `on` the grass"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
MINUTE = 60_000  # ms: for the engine, on a busy machine


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
def address(
    mini_pack: Path, clips: Path, contacted: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Of a page that is being served."""
    with open_pack(mini_pack) as pack:
        blocks, address = server.launch(pack, "cpu", clips, tmp_path_factory.mktemp("temporary"))
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
    page.goto(address)
    page.set_default_timeout(MINUTE)
    expect(page.locator("#animate")).to_be_visible(timeout=MINUTE)
    yield page
    page.close()


def test_a_prompt_becomes_a_clip_in_the_tab(
    browser: Browser, address: str, clips: Path, contacted: list[str], tmp_path: Path
) -> None:
    page = browser.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.set_default_timeout(MINUTE)

    page.fill("#prompt textarea", PROMPT)
    page.click("#draw")
    frame = page.locator(".stage img")
    frame.wait_for()
    assert frame.get_attribute("alt") == f"First frame: {PROMPT}"
    expect(page.locator("#draw")).to_be_visible()
    look = page.input_value("#look input")

    page.keyboard.press("Control+Enter")
    page.locator(".stage video").wait_for()
    video = "document.querySelector('.stage video')"
    page.wait_for_function(f"{video}.readyState === 4 && {video}.currentTime > 0")
    assert page.evaluate(f"[{video}.duration, {video}.loop, {video}.muted]") == [
        pytest.approx(49 / 24, abs=1e-3),
        True,
        True,
    ]
    expect(page.locator("#animate")).to_be_enabled()

    (clip,) = clips.iterdir()
    metadata = read_metadata(clip)
    assert metadata["prompt"] == PROMPT
    assert str(metadata["look_seed"]) == look == page.input_value("#look input")
    assert str(metadata["motion_seed"]) == page.input_value("#motion input")
    caption = page.locator(".caption").inner_text()
    assert str(metadata["look_seed"]) in caption
    assert str(metadata["motion_seed"]) in caption
    assert clip.name in caption
    with page.expect_download() as download:
        page.click(".download")
    assert download.value.suggested_filename == clip.name
    assert download.value.path().read_bytes() == clip.read_bytes()

    seeds = ["--look-seed", look, "--motion-seed", str(metadata["motion_seed"])]
    arguments = ["render", PROMPT, "-o", str(tmp_path / "clip.mp4"), *seeds]
    assert main([*arguments, "--backend", "cpu"]) == 0
    assert (tmp_path / "clip.mp4").read_bytes() == clip.read_bytes()

    own = address.rstrip("/")
    assert [url for url in requests if not url.startswith((own, "data:", "blob:"))] == []
    assert {host for host in contacted if host not in ("127.0.0.1", "localhost")} == set()
    assert errors == []
    page.close()


def test_used_seeds_give_way_and_locked_ones_stay(page: Page, clips: Path) -> None:
    page.fill("#prompt textarea", "a blue boat on the sea")
    page.uncheck("#upscale input")
    page.fill("#motion input", "7")
    page.check("#motion-lock input")
    before = set(clips.iterdir()) if clips.exists() else set()
    for count in (1, 2):
        page.click("#animate")
        expect(page.locator("#stop")).to_be_visible()
        expect(page.locator("#stop")).to_be_hidden(timeout=MINUTE)
        made = [read_metadata(path) for path in set(clips.iterdir()) - before]
        assert len(made) == count
    # The same look, because its first frame was on the stage; the locked motion again.
    assert made[0]["look_seed"] == made[1]["look_seed"]
    assert [clip["motion_seed"] for clip in made] == [7, 7]
    page.click("#draw")
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#stop")).to_be_hidden(timeout=MINUTE)
    assert page.input_value("#look input") != str(made[0]["look_seed"])
    assert page.input_value("#motion input") == "7"


def test_a_mistake_is_one_sentence(page: Page) -> None:
    page.click("#animate")
    failure = page.locator(".failure")
    failure.wait_for()
    assert failure.inner_text().startswith("The prompt must be some text")
    expect(page.locator("#animate")).to_be_enabled()
    page.fill("#prompt textarea", PROMPT)
    page.fill("#look input", "-5")
    page.click("#draw")
    expect(failure).to_contain_text("The look seed must be a whole number")


def test_a_clip_can_be_stopped(page: Page, clips: Path) -> None:
    before = set(clips.iterdir()) if clips.exists() else set()
    page.fill("#prompt textarea", PROMPT)
    page.click("#animate")
    page.locator(".stage img").wait_for()
    page.keyboard.press("Escape")
    expect(page.locator(".notice")).to_have_text("Stopped.", timeout=MINUTE)
    expect(page.locator("#animate")).to_be_enabled()
    assert page.locator(".stage img").get_attribute("alt") == f"First frame: {PROMPT}"
    assert (set(clips.iterdir()) if clips.exists() else set()) == before


def test_the_page_is_for_this_machine_only(address: str) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)


def test_next_seed() -> None:
    from studio.page import fresh_seed, next_seed  # noqa: PLC0415  after the environment is set

    assert next_seed(5, used=None, locked=False) == 5
    assert next_seed(5, used=4, locked=False) == 5
    assert next_seed(5, used=5, locked=True) == 5
    assert next_seed(5, used=5, locked=False) != 5
    assert 0 <= next_seed(None, used=None, locked=True) < SEED_LIMIT
    assert len({fresh_seed() for _ in range(50)}) == 50


def test_words_of_the_user_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    texts = [
        stage.clip(Path(f"/clips/{evil}.mp4"), evil),
        stage.picture(np.zeros((2, 2, 3), np.uint8), evil),
        stage.caption({evil: evil}, evil, Path(evil)),
        stage.header(evil),
        stage.notice(evil),
        stage.failure(evil),
    ]
    assert not any("<script" in text or '""' in text for text in texts)


def test_proxies_are_kept_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    server.prepare_environment(tmp_path)
    server.prepare_environment(tmp_path)
    assert [server.os.environ[name] for name in ("NO_PROXY", "no_proxy")] == [
        "example.org,127.0.0.1,localhost",
        "127.0.0.1,localhost",
    ]


@pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning")  # Gradio's
def test_a_taken_port_is_one_sentence(pack: Pack, address: str, tmp_path: Path) -> None:
    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(server.ServerError, match="choose another with --port"):
        server.launch(pack, "cpu", tmp_path, tmp_path, port)
