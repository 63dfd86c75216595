"""What SECURITY.md promises of the page, against a real studio and a real Chromium."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from studio.language.catalogue import Speaker
from studio.page.guard import ALWAYS
from studio.system import session
from studio.system.settings import change

if TYPE_CHECKING:  # Windows' Python of the Wine box has no browser, and most tests need none
    from playwright.sync_api import Browser, BrowserContext, Page

ROOT = Path(__file__).parents[1]
PATIENCE = 120.0  # seconds
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ASKED = {"data": ["a ball", 1, 2, "frame", "hybrid", False]}


@dataclass
class Studio:
    """One that runs: its page, its token, its data and its clips."""

    process: subprocess.Popen[str]
    page: str
    token: str
    data: Path
    clips: Path

    @property
    def address(self) -> str:
        return f"{self.page}?token={self.token}"

    @property
    def port(self) -> int:
        return int(self.page.rstrip("/").rpartition(":")[2])

    def ask(self, path: str, method: str = "GET", **named: Any) -> httpx.Response:
        headers = {"X-Token": self.token} | named.pop("headers", {})
        return httpx.request(
            method, self.page + path, headers=headers, trust_env=False, timeout=60, **named
        )

    def jobs(self) -> list[Any]:
        told: list[Any] = self.ask("gradio_api/run/queue", "POST", json={"data": []}).json()["data"]
        return list(told[0])


@contextmanager
def running(data: Path, *arguments: str, **env: str) -> Iterator[Studio]:
    data.mkdir(parents=True, exist_ok=True)
    change(data / "settings.json", clips=str(data.parent / "clips"), awake=False)
    (data.parent / "clips").mkdir(exist_ok=True)
    if not (data / "session.json").exists():
        # Started again it wants its port back: none that other tests get meanwhile (7860 up), nor
        # one that the system gives to a connection (32768 up).
        own = random.randrange(20_000, 32_000)
        session.keep(data, session.Session(port=own))
    command = [sys.executable, "-m", "studio.launcher", "ui", *(arguments or ["--no-browser"])]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"NEODRAGON_DATA": str(data)} | env,
    )
    try:
        assert process.stdout is not None
        words = process.stdout.readline()
        assert " at " in words, words
        page, _, token = words.split(" at ")[1].split()[0].partition("?token=")
        yield Studio(process, page, token, data, data.parent / "clips")
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    with running(tmp_path_factory.mktemp("security") / "Daten é") as studio:
        yield studio


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed; on Debian: apt-get install -y chromium")
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.set_default_timeout(PATIENCE * 1000)
    yield context
    context.close()


def opened(context: BrowserContext, address: str) -> Page:
    page = context.new_page()
    page.goto(address)
    page.locator("#ruler .ruler").wait_for()
    return page


class Stranger(BaseHTTPRequestHandler):
    """A program on another port of this machine: it serves a page and notes what it is sent."""

    heard: list[dict[str, str]]

    def do_GET(self) -> None:  # noqa: N802
        type(self).heard.append(dict(self.headers))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>stranger</title><iframe id=f></iframe>")

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[dict[str, str]]]]:
    Stranger.heard = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", Stranger.heard
        server.shutdown()


def test_what_the_page_is_made_of_comes_compressed(studio: Studio, context: BrowserContext) -> None:
    answers: list[Any] = []
    context.on("response", lambda answer: answers.append(answer))
    opened(context, studio.address)
    ours = [each for each in answers if each.request.resource_type in ("document", "script")]
    how = {each.url: each.headers.get("content-encoding") for each in ours if each.status == 200}
    large = [kind for url, kind in how.items() if re.search(r"/(assets/index-[^/]*)?$", url)]
    assert large == ["br"] * 2
    kept = [each.headers for each in ours if "/assets/" in each.url]
    assert all(headers["cache-control"] == "max-age=31536000" for headers in kept)


def test_a_page_of_another_port_gets_reads_asks_and_frames_nothing(
    studio: Studio, context: BrowserContext, stranger: tuple[str, list[dict[str, str]]]
) -> None:
    """The promises "another page of this machine": no cookie, no read, no submit, no frame."""
    address, heard = stranger
    own = opened(context, studio.address)
    inside = own.url  # a stranger cannot know it; even so:
    before = len(studio.jobs())
    page = context.new_page()
    page.goto(address)
    assert [name for told in heard for name in told if name.lower() == "cookie"] == []
    assert page.evaluate("document.cookie") == ""
    tried = page.evaluate(
        """async ([roots, asked]) => {
          const out = [];
          for (const root of roots) {
            for (const path of ['config', 'gradio_api/info', 'gradio_api/app_id', 'theme.css']) {
              for (const mode of ['cors', 'no-cors']) {
                try {
                  const got = await fetch(root + path, {credentials: 'include', mode});
                  out.push([path, mode, got.type, (await got.text()).length]);
                } catch (error) { out.push([path, mode, 'refused', 0]); }
              }
            }
            for (const mode of ['cors', 'no-cors']) {
              for (const type of ['application/json', 'text/plain']) {
                try {
                  const got = await fetch(root + 'gradio_api/run/submit', {credentials: 'include',
                    mode, method: 'POST', headers: {'Content-Type': type}, body: asked});
                  out.push(['submit', mode, got.type, (await got.text()).length]);
                } catch (error) { out.push(['submit', mode, 'refused', 0]); }
              }
            }
            try { await fetch(root + 'quit', {method: 'POST', mode: 'no-cors',
              credentials: 'include'}); } catch (error) { }
            await new Promise(done => {
              const image = new Image();
              image.onload = () => { out.push(['image', '', 'shown', 1]); done(); };
              image.onerror = done;
              image.src = root + 'favicon.ico';
            });
          }
          return out;
        }""",
        [[studio.page, inside], json.dumps(ASKED)],
    )
    assert len(tried) == 2 * (4 * 2 + 2 * 2)
    assert {(kind, size) for _, _, kind, size in tried} <= {("refused", 0), ("opaque", 0)}
    for root in (studio.page, inside, studio.address):
        framed = page.evaluate(
            """root => new Promise(done => {
              const frame = document.getElementById('f');
              frame.onload = () => setTimeout(() => {
                try { done(frame.contentDocument === null ? 'blocked' : 'empty'); }
                catch (error) { done('blocked'); }
              }, 300);
              frame.src = root;
            })""",
            root,
        )
        assert framed in ("blocked", "empty")
        inner = [frame for frame in page.frames if frame is not page.main_frame]
        assert not any("gradio" in frame.content() for frame in inner)
    # A form that is posted, and a link that is followed, reach a small page and no more.
    page.goto(address)
    page.evaluate(
        """root => { const form = document.createElement('form');
          form.method = 'post'; form.action = root + 'gradio_api/run/submit';
          document.body.append(form); form.submit(); }""",
        inside,
    )
    page.wait_for_url(inside + "**")
    assert "Another website" in page.content()
    assert len(studio.jobs()) == before
    assert studio.process.poll() is None
    page.goto(address)
    page.evaluate("root => { location = root; }", inside)
    page.wait_for_url(inside)
    page.locator("a").click()  # the user himself
    page.locator("#ruler .ruler").wait_for()


def test_the_browser_names_no_violation_of_the_policy(
    studio: Studio, context: BrowserContext
) -> None:
    said: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(studio.address)
    page.locator("#ruler .ruler").wait_for()
    page.fill("#prompt textarea", "a blue ball")
    page.click("#draw")
    page.locator(".stage > img").wait_for()
    page.click("#animate")
    page.locator(".stage > video").wait_for()
    for tab in ("Batch", "Library", "Models", "Settings"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(500)
    page.get_by_role("tab", name="Library").click()
    page.locator("#grid img").first.wait_for()
    assert [words for words in said if not words.startswith("info: Autofocus")] == []
    injected = page.evaluate(
        """() => { window.hit = 0; const p = document.createElement('p');
          p.innerHTML = '<img src=x onerror="window.hit = 1">';
          document.body.append(p);
          const s = document.createElement('script'); s.textContent = 'window.hit = 2';
          document.head.append(s);
          return new Promise(done => setTimeout(() => done(window.hit), 500)); }"""
    )
    assert injected == 0


ROUTES = [
    *("", "config", "gradio_api/info", "gradio_api/nothing", "assets/nothing.js", "theme.css"),
    *("gradio_api/file=/etc/passwd", "gradio_api/file=http://example.org/a.png", "thumbnail"),
    *("gradio_api/queue/data?session_hash=x", "gradio_api/heartbeat/x", "?token=x"),
    *(
        "favicon.ico",
        "static/img/logo.svg",
        "manifest.json",
        "robots.txt",
        "gradio_api/openapi.json",
    ),
    *("gradio_api/mcp/", "gradio_api/proxy=http://example.org/", "monitoring", "gradio_api/runs"),
]


@pytest.mark.parametrize("route", ROUTES)
def test_every_answer_has_the_headers(studio: Studio, route: str) -> None:
    policies = []
    for known in (True, False):
        for method in ("GET", "POST", "OPTIONS", "PUT"):
            with httpx.stream(
                method,
                studio.page + route,
                headers={"Origin": studio.page.rstrip("/"), "Accept": "text/html"}
                | ({"X-Token": studio.token} if known else {}),
                trust_env=False,
                timeout=60,
            ) as answer:
                for name, value in ALWAYS.items():
                    assert answer.headers.get_list(name.decode()) == [value.decode()], method
                policies += answer.headers.get_list("content-security-policy")
                assert not [name for name in answer.headers if name.startswith("access-control")]
                assert "server" not in answer.headers
                if not known and route != "favicon.ico":
                    assert answer.status_code in (401, 405)
    assert len(policies) == 8
    assert all("default-src 'none'" in each for each in policies)
    assert all("frame-ancestors 'none'" in each for each in policies)
    assert not any("*" in each for each in policies)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "OWN"}, 200),
        ({"Referer": "OWN/x?y"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "OWN.example.org"}, 403),
        ({"Origin": "https://127.0.0.1:PORT"}, 403),
        ({"Origin": "http://localhost:PORT"}, 403),  # it is not the name that is asked
        ({"Host": "localhost:PORT", "Origin": "http://localhost:PORT"}, 200),
        ({"Referer": "http://127.0.0.1:1/"}, 403),
        ({"Referer": "http://["}, 403),
        ({"Referer": "http://[::1"}, 403),
        ({"Referer": "//"}, 403),
        ({"Referer": ""}, 403),
        ({"Referer": "OWN@example.org/"}, 403),
        ({"Referer": "http://localhost:PORT/"}, 403),
        ({"Host": "example.org"}, 400),
        ({"Host": "example.org:PORT"}, 400),
        ({"Host": "127.0.0.1"}, 400),
        ({"Host": "127.0.0.1:1"}, 400),
        ({"Host": "127.0.0.1.nip.io:PORT"}, 400),
        ({"Host": "0.0.0.0:PORT"}, 400),
        ({"Host": "[::1]:PORT"}, 400),
        ({"X-Forwarded-Host": "example.org", "X-Forwarded-Proto": "https"}, 200),
    ],
)
@pytest.mark.parametrize("route", ["config", "gradio_api/heartbeat/x", "gradio_api/mcp/"])
def test_who_asks_is_compared_whole(
    studio: Studio, headers: dict[str, str], status: int, route: str
) -> None:
    own = studio.page.rstrip("/")
    told = {
        name: value.replace("OWN", own).replace("PORT", str(studio.port))
        for name, value in headers.items()
    }
    with httpx.stream(
        "GET", studio.page + route, headers={"X-Token": studio.token} | told, trust_env=False
    ) as answer:
        if status == 200:
            assert answer.status_code not in (400, 401, 403)
        else:
            assert answer.status_code == status
        if route == "config" and status == 200:
            assert "example.org" not in answer.read().decode()


def test_a_websocket_is_not_opened(studio: Studio) -> None:
    with socket.create_connection(("127.0.0.1", studio.port)) as line:
        line.sendall(
            f"GET /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1:{studio.port}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: eA==\r\n\r\n".encode()
        )
        assert line.recv(100).startswith(b"HTTP/1.1 401")


def test_the_cookie_is_a_value_of_its_own_and_only_sent_to_the_page(studio: Studio) -> None:
    told = [httpx.get(studio.address, trust_env=False).headers["set-cookie"] for _ in range(2)]
    found = [re.fullmatch(r"(neodragon-\d+)=(\S+); Path=(/\w+/); (.*)", each) for each in told]
    (name, one, path, rest), (_, other, _, _) = [match.groups() for match in found if match]
    assert name == f"neodragon-{studio.port}"
    assert one != other and studio.token not in one + path
    assert rest == "HttpOnly; SameSite=Strict" and len(path) >= 22

    def status(path: str, value: str) -> int:
        headers = {"Cookie": f"x=1; {name}=wrong; {name}={value}"}
        return httpx.get(studio.page + path, headers=headers, trust_env=False).status_code

    assert status(path[1:] + "config", one) == 200
    assert status("config", one) == 401  # the secret path is part of it
    assert status(path[1:] + "config", one[:-1] + ("0" if one[-1] != "0" else "1")) == 401
    assert status(path[1:] + "config", studio.token) == 401
    assert status(path[1:] + "config", session.signed("another key", 60)) == 401
    known = json.loads((studio.data / "session.json").read_text("utf-8"))
    assert status(path[1:] + "config", session.signed(known["secret"], -1)) == 401


def test_a_ticket_is_good_once_and_not_for_long(studio: Studio) -> None:
    def opens(ticket: str) -> int:
        address = f"{studio.page}?token={ticket}"
        return httpx.get(address, trust_env=False).status_code

    ticket = session.signed(studio.token, 60)
    assert httpx.get(studio.page + "config", headers={"X-Token": ticket}).status_code == 401
    assert httpx.head(f"{studio.page}?token={ticket}", trust_env=False).status_code == 401
    assert [opens(ticket) for _ in range(2)] == [303, 401]
    assert opens(session.signed(studio.token, -1)) == 401
    assert opens(session.signed("another token", 60)) == 401
    for odd in ("", ".", "..", "a.b.c", ticket[:-1], "é", "\N{FULLWIDTH DIGIT ONE}"):
        assert opens(odd) == 401, odd


@pytest.mark.skipif(sys.platform == "win32", reason="the browser here is a shell's script")
def test_what_starts_the_browser_shows_no_token(tmp_path: Path) -> None:
    """The arguments of a process are anybody's: they have a ticket, which soon says nothing."""
    seen = tmp_path / "seen"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho "$1" >> "{seen}"\n', encoding="utf-8")
    program.chmod(0o755)
    with running(tmp_path / "data", "--backend", "cpu", BROWSER=str(program)) as studio:
        told = json.loads((studio.data / "studio.json").read_text("utf-8"))["address"]
        token = told.partition("?token=")[2]
        again = subprocess.run(
            [sys.executable, "-m", "studio.launcher", "ui"],
            env=os.environ | {"NEODRAGON_DATA": str(studio.data), "BROWSER": str(program)},
            capture_output=True,
            timeout=PATIENCE,
        )
        assert again.returncode == 0
        deadline = time.monotonic() + PATIENCE
        while not seen.exists() or len(seen.read_text("utf-8").split()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        shown = seen.read_text("utf-8").split()
        assert studio.token != token  # a ticket as well
        assert len({*shown, studio.address, told}) == 4
        for address in shown:
            ticket = address.partition("?token=")[2]
            assert token not in address
            assert httpx.get(studio.page, headers={"X-Token": ticket}).status_code == 401
            assert [httpx.get(address).status_code for _ in range(2)] == [303, 401]


def test_an_open_tab_finds_the_studio_that_was_started_again(
    tmp_path: Path, context: BrowserContext
) -> None:
    with running(tmp_path / "data") as first:
        page = opened(context, first.address)
        page.evaluate("window.old = true")
        first.process.kill()
        first.process.wait()
    with running(tmp_path / "data") as second:
        assert (second.page, second.token != first.token) == (first.page, True)
        page.wait_for_function("window.old === undefined", timeout=PATIENCE * 1000)
        page.locator("#ruler .ruler").wait_for()
        assert httpx.get(first.address, trust_env=False).status_code == 401  # the old token


@pytest.mark.parametrize("hanging", ["**/gradio_api/run/**", "**/assets/**"])
def test_a_tab_whose_requests_hang_finds_it_too(
    tmp_path: Path, context: BrowserContext, hanging: str
) -> None:
    """Its look at the queue, or the page itself that was still loading: then nothing breaks."""
    with running(tmp_path / "data") as first:
        page = context.new_page()
        page.route(hanging, lambda route: None)
        page.goto(first.address, wait_until="commit")
        page.wait_for_function("window.gradio_config")
        page.evaluate("window.old = true")
        page.unroute(hanging)
        first.process.kill()
        first.process.wait()
    with running(tmp_path / "data") as second:
        assert second.page == first.page
        page.wait_for_function("window.old === undefined", timeout=PATIENCE * 1000)
        page.locator("#ruler .ruler").wait_for()


def test_a_studio_that_ended_knows_its_old_cookies_no_more(
    tmp_path: Path, context: BrowserContext
) -> None:
    """Whoever gets the port meanwhile hears the cookie of an open tab: it is worth nothing then."""
    with running(tmp_path / "data") as first:
        page = opened(context, first.address)
        page.evaluate("window.old = true")
        (cookie,) = context.cookies(page.url)
        headers = {"Cookie": f"{cookie['name']}={cookie['value']}"}
        assert httpx.get(f"{page.url}config", headers=headers).status_code == 200
    with running(tmp_path / "data") as second:
        assert second.page == first.page
        assert httpx.get(f"{page.url}config", headers=headers).status_code == 401
        opened(context, second.address)  # as a start does: then the old tab goes on as well
        page.wait_for_function("window.old === undefined", timeout=PATIENCE * 1000)
        page.locator("#ruler .ruler").wait_for()


def test_a_tab_that_is_not_let_in_says_one_thing_to_do(
    studio: Studio, context: BrowserContext
) -> None:
    page = context.new_page()
    answer = page.goto(studio.page)
    assert answer is not None and answer.status == 401
    assert "Start Neodragon Studio again" in page.inner_text("p")
    assert page.locator("a, button, input").count() == 0


@pytest.mark.parametrize("suffix", [".html", ".svg", ".htm", ".xml", ".xhtml", ".js", ".pdf", ""])
def test_a_file_that_we_do_not_make_is_not_handed_out(studio: Studio, suffix: str) -> None:
    path = studio.clips / f"planted{suffix}"
    path.write_text("<script>alert(1)</script>")
    assert studio.ask(f"gradio_api/file={path.as_posix()}").status_code == 404


@pytest.mark.parametrize(
    ("suffix", "kind", "how"),
    [
        (".mp4", "video/mp4", "inline"),
        (".png", "image/png", "inline"),
        (".webp", "image/webp", "inline"),
        (".json", "application/octet-stream", "attachment"),
        (".csv", "application/octet-stream", "attachment"),
    ],
)
def test_a_file_is_what_its_name_says(studio: Studio, suffix: str, kind: str, how: str) -> None:
    path = studio.clips / f"clip é{suffix}"
    path.write_text("<script>alert(1)</script>")
    for headers in ({}, {"Range": "bytes=0-3"}):
        answer = studio.ask(f"gradio_api/file={path.as_posix()}", headers=headers)
        assert answer.status_code in (200, 206)
        assert answer.headers["content-type"] == kind
        assert answer.headers["content-disposition"].startswith(how)


@pytest.mark.parametrize("way", ["run", "api", "call", "call/v2"])
@pytest.mark.parametrize(
    "asked",
    [
        *("", "{", "[]", "1", "null", "{}", '{"data": 5}', '{"data": {}}', '{"data": []}'),
        *('{"data": ["a", 1]}', '{"data": ["a", 1, 2, "clip", "hybrid", true, 7]}'),
        *('{"data": ["a", "1", 2]}', '{"data": ["a", 1.5, 2]}', '{"data": ["a", -1, 2]}'),
        *('{"data": ["a", true, 2]}', '{"data": ["a", 4294967296, 2]}', '{"data": [null, 1, 2]}'),
        *('{"data": ["a", 1, 2, "film"]}', '{"data": ["a", 1, 2, "clip", "none"]}'),
        *('{"data": ["a", 1, 2, "clip", "hybrid", "yes"]}', '{"data": [["a"], 1, 2]}'),
        *('{"prompt": "a", "look_seed": 1}', '{"data": ["\\ud800", 1, 2]}', "[" * 100_000),
    ],
)
def test_a_mistake_is_400_and_one_sentence(studio: Studio, way: str, asked: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = studio.ask(f"gradio_api/{way}/submit", "POST", content=asked, headers=headers)
    assert answer.status_code == 400, answer.text
    told = answer.json()["error"]
    assert told.endswith(".") and "\n" not in told and "Traceback" not in told


@pytest.mark.parametrize("whose", ["5", "{}", "[]", "true", "1e400", '"\\ud800"'])
@pytest.mark.parametrize("way", ["run", "api", "call"])
def test_whose_it_is_is_text_or_nothing(studio: Studio, way: str, whose: str) -> None:
    asked = '{"data": ["whose", 1, 2, "frame"], "session_hash": ' + whose + "}"
    headers = {"Content-Type": "application/json"}
    answer = studio.ask(f"gradio_api/{way}/submit", "POST", content=asked, headers=headers)
    if whose.startswith('"'):
        assert answer.status_code == 200
        return
    assert answer.status_code == 400
    assert "The value of session_hash is" in answer.json()["error"]


@pytest.mark.parametrize("extra", ['"fn_index": "x"', '"fn_index": 1e400', '"event_id": 7'])
def test_fields_of_gradios_own_are_left_out(studio: Studio, extra: str) -> None:
    asked = '{"data": ["left out", 1, 2, "frame"], ' + extra + "}"
    headers = {"Content-Type": "application/json"}
    answer = studio.ask("gradio_api/run/submit", "POST", content=asked, headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "asked",
    [
        *("", "[]", "{", '{"fn_index": "x", "data": 5}', '{"data": []}'),
        *('{"fn_index": 9999, "data": []}', '{"fn_index": -1, "data": [], "session_hash": "a"}'),
    ],
)
@pytest.mark.parametrize("path", ["run/predict", "queue/join", "cancel", "reset"])
def test_what_gradio_cannot_read_is_one_sentence(studio: Studio, path: str, asked: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = studio.ask(f"gradio_api/{path}", "POST", content=asked, headers=headers)
    assert answer.status_code not in (422, 500) and "Traceback" not in answer.text
    assert '"loc"' not in answer.text


def test_what_is_right_is_queued(studio: Studio) -> None:
    named = {"prompt": "named", "look_seed": 1, "motion_seed": 2, "kind": "frame"}
    for asked in ({"data": ["short", 1, 2, "frame"]}, ASKED, named):
        answer = studio.ask("gradio_api/run/submit", "POST", json=asked)
        assert answer.status_code == 200, answer.text
    assert {"short", "a ball", "named"} <= {job["prompt"] for job in studio.jobs()}
    assert studio.ask("gradio_api/run/status", "POST", json={"data": [10**9]}).status_code == 400
    assert studio.ask("gradio_api/run/nothing", "POST", json={"data": []}).status_code == 404


def test_an_upload_has_a_limit_of_size_and_number(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from studio.page import intake  # noqa: PLC0415

    def post(content: Any, **headers: str) -> httpx.Response:
        return studio.ask("gradio_api/upload", "POST", content=content, headers=headers)

    assert studio.ask("gradio_api/upload", "POST", files={"files": b"ok"}).status_code == 200
    with socket.create_connection(("127.0.0.1", studio.port)) as line:  # it is not read first
        line.sendall(
            f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1:{studio.port}\r\n"
            f"X-Token: {studio.token}\r\nContent-Length: {intake.UPLOAD + 1}\r\n\r\n".encode()
        )
        assert b"HTTP/1.1 413" in line.recv(100)
    assert post(iter([b"a", b"b"])).status_code == 413  # of no known size
    said = post(iter([b"a"])).text
    assert said == "The file is larger than 256 MB; choose a smaller one."
    guard = intake.Intake(None, {}, tmp_path, Speaker("en"))
    monkeypatch.setattr(intake, "FILES", 2)
    scope = {"headers": [(b"content-length", b"9")]}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "one").touch()
    assert guard._too_much(scope) == ""
    (tmp_path / "two").touch()
    assert guard._too_much(scope).startswith("The studio has reached its limit of 2 uploaded files")


def test_the_page_says_that_an_upload_is_too_large(
    studio: Studio, context: BrowserContext, tmp_path: Path
) -> None:
    from studio.page import intake  # noqa: PLC0415

    large = tmp_path / "large.png"
    with large.open("wb") as stream:
        stream.truncate(intake.UPLOAD + 1)
    page = opened(context, studio.address)
    page.locator("#begin button").first.click()
    page.locator("#begin input[type=file]").first.set_input_files(large)
    page.get_by_text(re.compile("256|maximum|MB at most")).first.wait_for()


@pytest.mark.skipif(os.name != "posix", reason="Windows gives AppData to its user alone")
def test_the_data_are_this_users_alone(studio: Studio, tmp_path: Path) -> None:
    assert studio.data.stat().st_mode & 0o777 == 0o700
    names = ("jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite.log", "session.json", "studio.json")
    for name in names:
        assert (studio.data / name).stat().st_mode & 0o077 == 0, name
    old = tmp_path / "old"
    old.mkdir(mode=0o755)
    (old / "jobs.sqlite").touch(0o644)
    with running(old):
        assert old.stat().st_mode & 0o777 == 0o700
        assert (old / "jobs.sqlite").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("known", ["", "{", "[]", '{"secret": "short", "port": 1}', "\0"])
def test_a_damaged_session_begins_anew(tmp_path: Path, known: str) -> None:
    (tmp_path / "session.json").write_text(known)
    made = session.session(tmp_path)
    assert len(made.secret) >= 32 and len(made.path) == 33 and made.port is None
    session.end(tmp_path)
    assert session.session(tmp_path).path != made.path  # there was nothing to keep
    session.keep(tmp_path, replace(made, port=5))
    assert session.session(tmp_path) == replace(made, port=5)
    session.end(tmp_path)
    after = session.session(tmp_path)
    assert (after.path, after.port) == (made.path, 5) and after.secret != made.secret


def test_quit_ends_the_studio_for_who_is_let_in(tmp_path: Path) -> None:
    with running(tmp_path / "data") as studio:
        assert studio.ask("quit").status_code == 405
        assert httpx.post(studio.page + "quit", trust_env=False).status_code == 401
        elsewhere = {"Origin": "http://127.0.0.1:1"}
        assert studio.ask("quit", "POST", headers=elsewhere).status_code == 403
        assert studio.process.poll() is None
        assert studio.ask("quit", "POST").status_code == 202
        assert studio.process.wait(PATIENCE) == 0
        assert not (studio.data / "studio.json").exists()


def test_every_promise_names_a_test_that_is_there() -> None:
    table = re.findall(
        r"^\|.*`(tests/\w+\.py)::(\w+)`.*\|$", (ROOT / "SECURITY.md").read_text("utf-8"), re.M
    )
    assert len(table) > 15
    for file, name in table:
        assert f"def {name}(" in (ROOT / file).read_text("utf-8"), f"{file}::{name}"
