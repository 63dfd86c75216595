"""The page in a real Chromium, on the real engine and the mini pack; and its rules, alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from engine.config import SEED_LIMIT
from engine.errors import Message
from studio.cli.main import main
from studio.jobs.spec import PENDING, Entry, Queue, Work
from studio.jobs.table import JobTable
from studio.language.catalogue import Speaker
from studio.language.vocabulary import Unknown
from studio.media import sidecars
from studio.media.thumbnails import WIDTH
from studio.media.video import read_metadata, read_mp4
from studio.page import html as stage
from studio.page import server
from studio.page.desk import Desk, Ruler
from studio.system.paths import ASSETS, default_pack
from studio.system.settings import change, load

pytest_plugins = ["served"]
PATIENCE = 180_000  # ms: for the engine, on a busy machine

PROMPT = "a red ball <b>jumps</b> ${1 + 1} {{value}} `on` the grass"


def made(clips: Path) -> set[Path]:
    return set(clips.glob("*.mp4")) if clips.exists() else set()


def test_a_prompt_becomes_a_clip_in_the_tab(
    browser: Browser, address: str, clips: Path, contacted: list[str], tmp_path: Path
) -> None:
    page = browser.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.set_default_timeout(PATIENCE)
    page.locator("#ruler .ruler").wait_for()

    page.fill("#prompt textarea", PROMPT)
    page.click("#draw")
    frame = page.locator(".stage > img")
    frame.wait_for(timeout=PATIENCE)
    assert frame.get_attribute("alt") == PROMPT
    look = page.input_value("#look input")

    page.keyboard.press("Control+Enter")
    page.locator(".stage > video").wait_for(timeout=PATIENCE)
    video = "document.querySelector('.stage > video')"
    page.wait_for_function(f"{video}.readyState === 4 && {video}.currentTime > 0")
    assert page.evaluate(f"[{video}.duration, {video}.loop, {video}.muted]") == [
        pytest.approx(49 / 24, abs=1e-3),
        True,
        True,
    ]
    (clip,) = made(clips)
    metadata = read_metadata(clip)
    assert metadata["prompt"] == PROMPT
    # The same look, because its first frame was on the stage.
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
    again, _ = read_mp4(tmp_path / "clip.mp4")
    assert np.array_equal(again, read_mp4(clip)[0])

    own = address.rstrip("/")
    assert [url for url in requests if not url.startswith((own, "data:", "blob:"))] == []
    assert {host for host in contacted if host not in ("127.0.0.1", "localhost")} == set()
    assert errors == []
    page.close()


def test_nine_takes_are_picked_by_key_and_only_the_picks_move(
    page: Page, desk: Desk, clips: Path
) -> None:
    before = made(clips)
    page.uncheck("#upscale input")
    page.fill("#prompt textarea", "a green star on the snow")
    page.click("#cast")
    expect(page.locator(".cell > img")).to_have_count(9, timeout=PATIENCE)
    cast = [job for job in desk.table.jobs() if job.work.prompt == "a green star on the snow"]
    assert len({job.work.look_seed for job in cast}) == 9
    page.locator("header").click()
    for key in "838":  # faster than the page answers; 8 is thought better of
        page.keyboard.press(key)
    expect(page.locator(".cell[aria-pressed=true]")).to_have_count(1)
    page.click("#animate")
    page.locator(".stage > video").wait_for(timeout=PATIENCE)
    (clip,) = made(clips) - before
    assert read_metadata(clip)["look_seed"] == cast[2].work.look_seed


def test_a_reload_keeps_draft_and_stage_and_a_second_tab_has_them_too(
    browser: Browser, page: Page, address: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.fill("#prompt textarea", "a blue boat on the sea")
    page.fill("#motion input", "7")
    page.check("#motion-lock input")
    page.wait_for_timeout(1500)
    kept: list[str] = []
    keep = desk.keep_draft

    def spy(**values: Any) -> None:
        if "controls" in values:
            kept.append(values["controls"]["prompt"])
        keep(**values)

    monkeypatch.setattr(desk, "keep_draft", spy)
    page.reload()
    expect(page.locator("#prompt textarea")).to_have_value(
        "a blue boat on the sea", timeout=PATIENCE
    )
    expect(page.locator("#motion input")).to_have_value("7")
    expect(page.locator("#motion-lock input")).to_be_checked()
    page.locator(".stage > video").wait_for(timeout=PATIENCE)  # the last take
    second = browser.new_page()
    second.goto(address)
    expect(second.locator("#prompt textarea")).to_have_value(
        "a blue boat on the sea", timeout=PATIENCE
    )
    second.locator(".stage > video").wait_for(timeout=PATIENCE)
    second.close()
    assert set(kept) <= {"a blue boat on the sea"}  # not what a tab shows before the draft is there
    page.uncheck("#motion-lock input")


def test_a_mistake_is_one_sentence(page: Page) -> None:
    page.fill("#prompt textarea", "")
    page.click("#animate")
    failure = page.locator("#message .failure")
    failure.wait_for()
    assert failure.inner_text().startswith("Write a prompt first.")
    page.fill("#prompt textarea", PROMPT)
    page.fill("#look input", "-5")
    page.click("#draw")
    expect(failure).to_contain_text("Use a whole number from 0 to 4294967295.")
    page.fill("#look input", "5")


def test_the_ruler_shows_what_no_encoder_reads(page: Page) -> None:
    page.fill("#prompt textarea", "a red ball " * 20 + "zebra")
    expect(page.locator(".ruler .over s").first).to_have_attribute("title", re.compile("zebra"))
    page.fill("#prompt textarea", "a red ball")
    expect(page.locator(".ruler .over")).to_have_count(0)


def test_the_ruler_marks_what_the_model_was_not_taught(page: Page) -> None:
    page.fill("#prompt textarea", "a red dragon jumps on two balls")
    unknown = page.locator("#ruler .unknown")
    expect(unknown).to_contain_text("dragon")
    expect(unknown).to_contain_text("balls → ball")
    page.get_by_text("What this model knows").click()
    expect(page.locator("#knows")).to_contain_text("mushroom")
    page.fill("#prompt textarea", "a red ball jumps on the grass")
    expect(unknown).to_have_count(0)


def test_no_selector_has_a_comma_in_brackets() -> None:
    """Gradio cuts selectors at every comma to put its own in front, and loses such a rule."""
    css = re.sub(r"/\*.*?\*/", "", (ASSETS / "page.css").read_text(encoding="utf-8"), flags=re.S)
    selectors = [found for found in re.findall(r"([^{};]+)\{", css) if "@" not in found]
    assert len(selectors) > 100
    assert not [one for one in selectors if re.search(r":\w+\([^()]*(\([^()]*\)[^()]*)*,", one)]


def test_a_clip_can_be_stopped_and_the_worker_goes_on(page: Page, desk: Desk, clips: Path) -> None:
    before = made(clips)
    slow = Work(
        "a purple mushroom", 1, 2, pack=str(desk.pack.path), backend="cpu", steps=(100, 100, 100)
    )
    (number,) = desk.ask([slow])
    page.locator(f"#strip [data-do=show][data-id='{number}']").click()
    page.locator("#progress .doing").wait_for(timeout=PATIENCE)
    inside = """() => {
        const [stage, doing] = ["#stage .stage", "#progress .doing"].map(
            (one) => document.querySelector(one).getBoundingClientRect());
        return doing.top > stage.top && doing.bottom < stage.bottom;
    }"""
    assert page.evaluate(inside)  # and not on the player below it
    page.keyboard.press("Escape")
    page.locator(".strip .cancelled.shown").wait_for(timeout=PATIENCE)
    assert made(clips) == before
    page.fill("#prompt textarea", "a purple mushroom jumps")
    page.click("#draw")  # nothing else waits: the queue goes on
    page.locator(".stage > img").wait_for(timeout=PATIENCE)


def test_what_waits_is_taken_back_and_edited(page: Page, desk: Desk) -> None:
    slow = Work("a red ball", 1, 2, pack=str(desk.pack.path), backend="cpu", steps=(100, 100, 100))
    waits = replace(slow, prompt="an orange fish", look_seed=77, steps=None, upscale=False)
    first, second = desk.table.add([Entry(slow, "slow"), Entry(waits, "waits")])
    page.locator(f"#strip [data-do=edit][data-id='{second}']").click()
    expect(page.locator("#prompt textarea")).to_have_value("an orange fish")
    expect(page.locator("#look input")).to_have_value("77")
    expect(page.locator("#upscale input")).not_to_be_checked()
    page.locator(f"#strip [data-id='{second}']").first.wait_for(state="detached")
    assert [job.id for job in desk.table.jobs(PENDING)] == []
    page.click("#skip")
    page.locator(f"#strip .skipped [data-id='{first}']").first.wait_for()


def test_before_and_after_the_upscaler(page: Page) -> None:
    page.fill("#prompt textarea", "a yellow house zooms in the snow")
    page.check("#upscale input")
    page.click("#animate")
    page.locator(".stage > video").wait_for(timeout=PATIENCE)
    page.locator(".stage > canvas.before").wait_for(state="attached")
    page.locator(".stage .compare").fill("40")
    page.wait_for_function(
        "document.querySelector('canvas.before').style.clipPath.includes('60%')"
        " && document.querySelector('canvas.before').width * 2"
        "    === document.querySelector('.stage > video').videoWidth"
    )


def reach(page: Page, selector: str) -> None:
    """Press Tab until the focus is there."""
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate(f"document.activeElement.matches({selector!r})"):
            return
    raise AssertionError(f"Tab never comes to {selector}")


def test_all_of_it_by_keyboard(browser: Browser, address: str, clips: Path) -> None:
    before = made(clips)
    page = browser.new_page()
    page.goto(address)
    page.set_default_timeout(PATIENCE)
    page.locator("#ruler .ruler").wait_for()
    reach(page, "#prompt textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type("a pink heart rises above the city")
    reach(page, "#cast")
    page.keyboard.press("Enter")
    expect(page.locator(".cell > img")).to_have_count(9)
    page.keyboard.press("5")
    expect(page.locator(".cell[aria-pressed=true]")).to_have_count(1)
    page.keyboard.press("Control+Enter")
    page.locator(".stage > video").wait_for()
    (clip,) = made(clips) - before
    page.keyboard.press("Alt+3")
    page.locator("#viewer video").wait_for()
    page.keyboard.press("5")
    expect(page.locator("#grid .shown span")).to_contain_text("★★★★★")
    assert sidecars.read(clip)["marks"]["stars"] == 5
    reach(page, "#export")
    page.keyboard.press("Enter")
    expect(page.locator("#library-message .notice")).to_contain_text("Exported")
    page.close()


def test_a_pack_is_installed_checked_and_removed(page: Page, desk: Desk, mini_pack: Path) -> None:
    page.get_by_role("tab", name="Models").click()
    expect(page.locator("#packs li")).to_have_count(1)
    expect(page.locator("#packs li b")).to_have_text("in use")
    page.click("#install")
    expect(page.locator("#models-message .failure")).to_contain_text("Choose a folder or .zip")
    page.fill("#pack-source textarea, #pack-source input", str(mini_pack / "portable"))
    page.click("#install")
    expect(page.locator("#install-progress .failure")).to_contain_text("There is no pack")
    page.fill("#pack-source textarea, #pack-source input", str(mini_pack))
    page.click("#install")
    expect(page.locator("#install-progress .notice")).to_contain_text("installed and verified")
    expect(page.locator("#packs li")).to_have_count(2)
    (target,) = (desk.data / "packs").iterdir()
    (target / "portable/upscaler.onnx").write_bytes(b"")
    page.locator("#packs li").nth(1).locator("[data-do=check]").click()
    expect(page.locator("#models-message .failure")).to_contain_text("upscaler.onnx")
    page.locator("#packs li").nth(1).locator("[data-do=remove]").click()
    expect(page.locator("#packs li")).to_have_count(1)
    assert not target.exists()
    page.click("#examine")
    expect(page.locator("#doctor li")).to_have_count(15)
    expect(page.locator("#doctor")).to_contain_text("D12 ok")


def test_settings_are_kept(page: Page, desk: Desk) -> None:
    page.get_by_role("tab", name="Settings").click()
    page.uncheck("#set-notify input")
    expect(page.locator("#settings-message .notice")).to_have_text("Saved.")
    page.check("#set-language input[value=de]")
    expect(page.locator("#settings-message .notice")).to_contain_text("after a restart")
    page.check("#set-theme input[value=dark]")
    expect(page.locator("#settings-message .notice")).to_have_text("Saved.")
    settings, _ = load(desk.data / "settings.json")
    assert (settings.notify, settings.theme) == (False, "dark")
    page.get_by_label("Folder for clips").fill("no/whole/path")
    page.get_by_label("Folder for clips").blur()
    expect(page.locator("#settings-message .failure")).to_contain_text(
        "no/whole/path takes no files"
    )
    assert load(desk.data / "settings.json")[0].clips is None
    page.click("#quit")
    expect(page.locator("#settings-message .notice")).to_contain_text("closed")
    assert desk.quit.wait(PATIENCE / 1000)


@contextmanager
def started(env: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An app of its own, and its address."""
    with subprocess.Popen(
        [sys.executable, "-m", "studio.cli.main", "ui", "--no-browser"],
        env=env,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split(" at ")[1].split(" ")[0]
        finally:
            process.kill()


def test_an_app_that_was_killed_goes_on_where_it_was(browser: Browser, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    change(data / "settings.json", clips=str(tmp_path / "clips"), awake=False, notify=False)
    env = os.environ | {"NEODRAGON_DATA": str(data)}
    own = Work("a red ball", 1, 2, pack=str(default_pack()), backend="cpu", upscale=False)
    with JobTable(data / "jobs.sqlite") as table:
        with started(env) as (process, _):
            table.add([Entry(replace(own, look_seed=n), str(n)) for n in range(4)])
            while sum(job.state == "done" for job in table.jobs()) < 2:
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
        whole = {path: path.read_bytes() for path in made(tmp_path / "clips")}
        assert len(whole) >= 2
        with started(env) as (process, at):
            page = browser.new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(at)
            page.locator("#banner [data-do=resume]").click()
            expect(page.locator("#strip .done")).to_have_count(4)
            page.close()
            os.killpg(process.pid, signal.SIGTERM)
        assert {path: path.read_bytes() for path in whole} == whole
        assert len(made(tmp_path / "clips")) == 4


def test_a_batch_goes_on_without_a_tab(
    browser: Browser, address: str, desk: Desk, clips: Path
) -> None:
    before = made(clips)
    page = browser.new_page()
    page.goto(address)
    page.set_default_timeout(PATIENCE)
    page.locator("#ruler .ruler").wait_for()  # the draft is there
    page.get_by_role("tab", name="Batch").click()
    prompts = [f"a red ball, number {n}" for n in range(18)] + ["a blue star", "a green boat"]
    rows = "prompt,upscale,steps\n,no,\n" + "".join(f"'{p}',no,\"1,1,1\"\n" for p in prompts)
    page.fill("#rows textarea", rows.replace("'", '"'))
    page.click("#check")
    expect(page.locator("#plan")).to_contain_text("20 clips")
    expect(page.locator("#plan .bad")).to_contain_text("2")
    page.click("#enqueue")
    expect(page.locator("#sheet .strip li")).to_have_count(20)
    page.close()
    deadline = time.monotonic() + 10 * PATIENCE / 1000
    while len(made(clips) - before) < 20 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert {read_metadata(path)["prompt"] for path in made(clips) - before} == set(prompts)
    page = browser.new_page()
    page.goto(address)
    page.get_by_role("tab", name="Batch").click()
    expect(page.locator("#sheet .strip .done")).to_have_count(20, timeout=PATIENCE)
    with page.expect_download() as download:
        page.locator("#sheet .links a").first.click()
    with Image.open(download.value.path()) as sheet:
        assert sheet.format == "JPEG" and sheet.width > 4 * WIDTH
    with page.expect_download() as download:
        page.locator("#sheet .links a").last.click()
    assert download.value.path().read_text("utf-8-sig").count(",done,") == 20
    page.close()


def test_a_dropped_clip_restores_every_control(page: Page, clips: Path) -> None:
    clip = max(made(clips))
    metadata = read_metadata(clip)
    page.fill("#prompt textarea", "something else")
    page.get_by_text("Load settings from a clip").click()
    page.set_input_files("#restore input[type=file]", clip)
    expect(page.locator("#prompt textarea")).to_have_value(metadata["prompt"])
    expect(page.locator("#look input")).to_have_value(str(metadata["look_seed"]))
    expect(page.locator("#motion input")).to_have_value(str(metadata["motion_seed"]))
    expect(page.locator("#upscale input")).to_be_checked(checked=metadata["upscale"])


def test_the_library_is_searched_and_culled_by_keyboard(page: Page, clips: Path) -> None:
    here = made(clips)
    page.get_by_role("tab", name="Library").click()
    page.check("#kind input[value=clip]")
    expect(page.locator("#grid li")).to_have_count(len(here), timeout=PATIENCE)
    page.fill("#words textarea, #words input", "green star")
    expect(page.locator("#grid li")).to_have_count(1)
    (clip,) = [path for path in here if "green star" in read_metadata(path)["prompt"]]
    page.locator("#viewer video").wait_for()
    page.locator("header").click()
    page.keyboard.press("4")
    expect(page.locator("#grid .film span")).to_contain_text("★★★★")
    assert sidecars.read(clip)["marks"]["stars"] == 4
    page.keyboard.press("x")
    expect(page.locator("#grid li")).to_have_count(0)
    assert not clip.exists() and list((clips / "Bin").rglob(clip.name))
    page.check("#bin input")
    expect(page.locator("#grid li")).to_have_count(1)
    page.keyboard.press("p")
    expect(page.locator("#grid li")).to_have_count(0)
    assert clip.is_file()
    page.uncheck("#bin input")
    page.fill("#words textarea, #words input", "")
    expect(page.locator("#grid li")).to_have_count(len(here))
    page.locator("header").click()
    for key, left in (("x", len(here) - 2), ("z", len(here))):
        page.keyboard.press(key)
        page.keyboard.press(key)  # before the page has answered
        expect(page.locator("#grid li")).to_have_count(left)


def test_clips_are_compared_in_step_and_taken_along(page: Page, desk: Desk, clips: Path) -> None:
    pack = str(desk.pack.path)
    ids = desk.ask(
        [Work("a blue star", seed, 2, pack=pack, backend="cpu", upscale=False) for seed in (1, 2)]
    )
    deadline = time.monotonic() + PATIENCE / 100
    while any(job.state != "done" for job in desk.jobs(ids)) and time.monotonic() < deadline:
        time.sleep(0.2)
    page.get_by_role("tab", name="Library").click()
    page.check("#kind input[value=clip]")
    for number in (0, 1):
        page.locator("#grid [data-do=choose]").nth(number).click()
        expect(page.locator("#grid [aria-pressed=true]")).to_have_count(number + 1)
    expect(page.locator(".sync video")).to_have_count(2)
    expect(page.locator(".sync")).to_be_in_viewport(ratio=1)  # or Chromium does not start them
    together = """() => {
      const [one, two] = document.querySelectorAll('.sync video');
      return one.currentTime > 0.2 && Math.abs(one.currentTime - two.currentTime) < 0.1;
    }"""
    page.wait_for_function(together)
    page.hover(".sync video >> nth=1")
    page.evaluate("document.querySelectorAll('.sync video')[1].pause()")
    page.wait_for_function("[...document.querySelectorAll('.sync video')].every(v => v.paused)")
    page.check("#taking input[value=webp]")
    page.click("#export")
    expect(page.locator("#library-message .notice")).to_contain_text("Exported", timeout=PATIENCE)
    assert len(list((clips / "Exports").glob("*.webp"))) == 2


def test_other_programs_ask_and_watch(address: str, desk: Desk) -> None:
    client = Client(address, verbose=False)
    job = client.predict("a red ball", 1, 2, "frame", api_name="/submit")
    assert job["prompt"] == "a red ball" and job["kind"] == "frame"
    deadline = time.monotonic() + PATIENCE / 1000
    while desk.table.job(job["id"]).state != "done" and time.monotonic() < deadline:
        time.sleep(0.1)
    told = client.predict(job["id"], api_name="/status")
    assert told["state"] == "done" and Path(told["file"]).is_file()
    assert job["id"] in [row["id"] for row in client.predict(api_name="/queue")]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "example.org"}, 400),
        ({"Origin": "http://example.org"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_only_this_machines_page_may_ask(
    address: str, headers: dict[str, str], status: int
) -> None:
    assert httpx.get(address + "config", headers=headers).status_code == status


def test_files_outside_the_library_are_refused(address: str, clips: Path, desk: Desk) -> None:
    inside = max(made(clips))
    for path, status in {
        inside: 200,
        Path("/etc/passwd"): 403,
        desk.data / "jobs.sqlite": 403,
        inside.parent / ".." / "data" / "draft.json": 403,
    }.items():
        got = httpx.get(f"{address}gradio_api/file={path.as_posix()}").status_code
        assert (got == 200) == (status == 200), path


def test_the_page_is_for_this_machine_only(address: str) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)


def test_next_seed() -> None:
    from studio.page.create import fresh_seed, next_seed  # noqa: PLC0415  after the environment is set

    assert next_seed(5, used=None, locked=False) == 5
    assert next_seed(5, used=4, locked=False) == 5
    assert next_seed(5, used=5, locked=True) == 5
    assert next_seed(5, used=5, locked=False) != 5
    assert 0 <= next_seed(None, used=None, locked=True) < SEED_LIMIT
    assert len({fresh_seed() for _ in range(50)}) == 50


def test_words_of_the_user_are_escaped(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>'
    say = Speaker("en")
    work = Work(evil, 1, 2, pack="pack", backend="cpu", negative_prompt=evil)
    with JobTable(tmp_path / "jobs.sqlite") as table:
        number = table.add([Entry(work, "key")])[0]
        said = Message(evil)
        job = replace(table.job(number), error=said, state="failed", notices=(said,))
        result = tmp_path / f"{evil.replace('/', '')}.mp4"
        done = replace(job, state="done", error=Message(""), result=result)
    assert done.result is not None
    done.result.touch()
    texts = [
        *(stage.wall([row, row], tmp_path, 8, say) for row in (job, done)),
        *(stage.caption(row, say) for row in (job, done)),
        stage.strip([job, done], tmp_path, [], say),
        *(stage.banner(Queue(True, said), 1, trouble, say) for trouble in (None, said)),
        stage.ruler([Ruler("CLIP", 90, 77, evil)], [Unknown(evil, evil)], say),
        stage.vocabulary({"subjects": [evil]}, say),
        stage.header(evil, say),
        stage.notice(evil),
        stage.failure(evil),
    ]
    assert not any("<script" in text or '""' in text for text in texts)


def test_a_taken_port_is_one_sentence(desk: Desk, address: str, tmp_path: Path) -> None:
    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(server.ServerError, match="choose another with --port"):
        server.launch(desk, tmp_path, port)
