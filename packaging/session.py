"""A whole session with the studio, as a user has it: `python packaging/session.py [-b] PROGRAM ..`.

PROGRAM is the frozen `nds`, or a Python with `-m studio.launcher`. It starts the studio, asks for a
first frame and a clip, renders a list of five, exports a clip, and ends it; with `-b` all of it in
a real Chromium but the export, with `--start-only` none of it. Everything goes to $NEODRAGON_DATA.
Prints what was made and the seconds as JSON; ends with 1 where something was not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

PATIENCE = 300.0  # seconds
ROWS = ["a red ball jumps", "a blue star", "a green boat", "a yellow house", "a pink heart"]


def api(address: str, token: str, name: str, *data: Any) -> Any:
    """What one of the page's endpoints answers."""
    with httpx.Client(headers={"X-Token": token}, timeout=60, trust_env=False) as client:
        url = f"{address}gradio_api/run/{name}"
        return client.post(url, json={"data": data}).raise_for_status().json()["data"][0]


def until_done(address: str, token: str, count: int) -> None:
    """Wait until so many jobs are done and none is left."""
    deadline = time.monotonic() + PATIENCE
    while True:
        states = [job["state"] for job in api(address, token, "queue")]
        if states.count("done") >= count:
            return
        if time.monotonic() > deadline or "failed" in states:
            sys.exit(f"{count} jobs should be done, but they are {states}.")
        time.sleep(0.2)


def by_api(address: str, token: str) -> None:
    for number, (kind, prompt) in enumerate([("frame", ROWS[0]), ("clip", ROWS[0])]):
        api(address, token, "submit", prompt, number, 2, kind, "hybrid", True)
    for number, prompt in enumerate(ROWS):
        api(address, token, "submit", prompt, 10 + number, 2, "clip", "hybrid", False)
    until_done(address, token, 7)


def in_browser(address: str, token: str) -> None:
    from playwright.sync_api import expect, sync_playwright  # noqa: PLC0415

    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(f"{address}?token={token}")
        page.locator("#ruler .ruler").wait_for()
        page.fill("#prompt textarea", ROWS[0])
        page.click("#draw")
        page.locator(".stage > img").wait_for()
        page.click("#animate")
        page.locator(".stage > video").wait_for()
        page.get_by_role("tab", name="Batch").click()
        page.fill("#rows textarea", "\n".join(ROWS))
        page.click("#enqueue")
        expect(page.locator("#sheet .strip .done")).to_have_count(len(ROWS))
        browser.close()


def main() -> None:
    browser, empty = sys.argv[1] == "-b", sys.argv[1] == "--start-only"
    program = sys.argv[1 + (browser or empty) :]
    data = Path(os.environ["NEODRAGON_DATA"])
    data.mkdir(parents=True, exist_ok=True)
    clips = data / "clips"
    subprocess.run(
        [*program, "settings", "clips", str(clips)], check=True, stdout=subprocess.DEVNULL
    )
    started = time.monotonic()
    command = [*program, "ui", "--no-browser", "--backend", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as app:
        assert app.stdout is not None
        words = app.stdout.readline()
        if " at " not in words:
            sys.exit(f"The studio should say where it is, but it says {words!r}.")
        address, _, token = words.split(" at ")[1].split()[0].partition("?token=")
        page = httpx.get(address, headers={"X-Token": token}, timeout=60, trust_env=False)
        page.raise_for_status()
        usable = time.monotonic() - started
        if not empty:
            (in_browser if browser else by_api)(address, token)
        subprocess.run([*program, "quit"], check=True, stdout=subprocess.DEVNULL)
        code = app.wait(PATIENCE)
    if empty:
        print(json.dumps({"usable_seconds": round(usable, 2), "code": code}))
        return
    made = sorted(clips.glob("*.mp4"))
    export = [*program, "export", str(made[0]), "--format", "gif", "-o", str(data / "a.gif")]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    report = {
        "usable_seconds": round(usable, 2),
        "clips": len(made),
        "frames": len(list(clips.glob("*.png"))),
        "gif": (data / "a.gif").stat().st_size > 0,
        "code": code,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(report))
    if (report["clips"], report["frames"], code) != (6, 1, 0):
        sys.exit(1)


if __name__ == "__main__":
    main()
