"""What other programs left in the environment: the page opens, clips are made, nothing is run."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from stderr import ours

from studio.cli import console
from studio.cli.console import Bar, Plain, print_json
from studio.cli.main import main
from studio.jobs.spec import Entry, Work
from studio.jobs.table import JobTable
from studio.system import environment, paths
from studio.system.settings import change

PATIENCE = 150.0  # seconds
CLI = [sys.executable, "-m", "studio.cli"]
# Where nobody can make anything, root neither.
NOWHERE = "/proc/nowhere" if os.name == "posix" else r"Q:\nowhere"
SOCKS, CLOSED = "socks5://127.0.0.1:9", "http://127.0.0.1:9"
PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy", "https_proxy")
FOREIGN = (
    dict.fromkeys(PROXIES, SOCKS)
    | {"NO_PROXY": "*://", "no_proxy": "[", "SSL_CERT_FILE": NOWHERE, "SSL_CERT_DIR": NOWHERE}
    | {"REQUESTS_CA_BUNDLE": NOWHERE, "CURL_CA_BUNDLE": NOWHERE, "SSLKEYLOGFILE": NOWHERE}
    | {"GRADIO_ROOT_PATH": "/foo", "GRADIO_SERVER_PORT": "x", "GRADIO_SERVER_NAME": "0.0.0.0"}
    | {"GRADIO_SHARE": "True", "GRADIO_DEBUG": "yes", "GRADIO_ANALYTICS_ENABLED": "True"}
    | {"GRADIO_TEMP_DIR": NOWHERE, "GRADIO_SSR_MODE": "True", "GRADIO_NODE_PATH": NOWHERE}
    | {"GRADIO_NUM_PORTS": "none", "GRADIO_NUM_WORKERS": "two", "GRADIO_WATCH_DIRS": "."}
    | {"GRADIO_ALLOWED_PATHS": "/", "GRADIO_MCP_SERVER": "True", "GRADIO_VIBE_MODE": "1"}
    | {"GRADIO_HEARTBEAT_INTERVAL": "x", "GRADIO_DEFAULT_CONCURRENCY_LIMIT": "x"}
    | {"GRADIO_ANALYTICS_MAX_EVENTS": "x", "GRADIO_LOCAL_DEV_MODE": "1", "SYSTEM": "spaces"}
    | {"SPACE_ID": "a/b", "KAGGLE_KERNEL_RUN_TYPE": "x", "UVICORN_PORT": "x"}
    | {"FORWARDED_ALLOW_IPS": "*", "WEB_CONCURRENCY": "x", "UVICORN_LOG_LEVEL": "x"}
    | {"IMAGEIO_FFMPEG_EXE": "/bin/false", "FFMPEG_BINARY": "/bin/false", "FFREPORT": "file=/"}
    | {"HF_HUB_DOWNLOAD_TIMEOUT": "x", "HF_HUB_ETAG_TIMEOUT": "x", "HF_HOME": NOWHERE}
    | {"HF_ENDPOINT": "x", "MPLBACKEND": "none", "MPLCONFIGDIR": NOWHERE, "FASTMCP_PORT": "x"}
    | {"OMP_NUM_THREADS": "0", "KMP_AFFINITY": "x", "OPENBLAS_NUM_THREADS": "x"}
    | {"GOMP_CPU_AFFINITY": "999", "OMP_PROC_BIND": "x", "RAYON_NUM_THREADS": "x"}
    | {"PYTHONWARNINGS": "error", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    | {"PYTHONOPTIMIZE": "2", "PYTHONUNBUFFERED": "1", "PYTHONDEVMODE": "1"}
    | {"PYTHONASYNCIODEBUG": "1", "PYTHONDONTWRITEBYTECODE": "1", "TQDM_DISABLE": "x"}
    | {"LC_ALL": "garbage", "LANG": "C", "LANGUAGE": "xx", "TERM": "dumb", "NO_COLOR": "1"}
    | {"COLUMNS": "5", "XDG_RUNTIME_DIR": NOWHERE, "XDG_CONFIG_DIRS": NOWHERE, "DISPLAY": ":99"}
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    change(data / "settings.json", clips=str(tmp_path / "clips"), awake=False)
    return data


def served(data: Path, *arguments: str, **env: str) -> tuple[int, str]:
    """What the page answers, and its text; it ends as `nds quit` ends it."""
    process = subprocess.Popen(
        [*CLI, "ui", "--no-browser", *arguments],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        cwd=data.parent,
        env=os.environ | {"NEODRAGON_DATA": str(data)} | env,
    )
    try:
        assert process.stdout is not None
        words = process.stdout.readline()
        assert " at " in words, words
        address = words.split(" at ")[1].split()[0]
        with httpx.Client(follow_redirects=True, trust_env=False, timeout=60) as browser:
            answer = browser.get(address)
            page = str(answer.url)
            assert browser.get(page + "config").json()["root"] == page.rstrip("/")
            root, _, token = address.partition("?token=")
            assert browser.post(f"{root}quit", headers={"X-Token": token}).status_code == 202
        assert process.wait(PATIENCE) == 0
        return answer.status_code, address
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def ran(data: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run([*CLI, *arguments], data, **env)


def run(command: list[str], data: Path, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env=os.environ | {"NEODRAGON_DATA": str(data)} | env,
        cwd=data.parent,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=PATIENCE,
    )
    done.stderr = ours(done.stderr)
    return done


def may_serve(port: int) -> bool:
    """Whether the system lets us: a low port needs root on Linux, and on Wine, not on Windows."""
    with socket.socket() as other:
        try:
            other.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_what_others_left_in_the_environment_changes_nothing(data: Path) -> None:
    """All at once: the page opens, and the worker makes a clip as it does without them."""
    lines = "".join(f"{name}={value}\n" for name, value in FOREIGN.items())
    (data.parent / ".env").write_text(lines)
    (data.parent / "list.txt").write_text("a red bäll\n", encoding="utf-8")
    assert served(data, **FOREIGN)[0] == 200
    done = ran(data, "batch", "list.txt", "--json", **FOREIGN)
    assert done.returncode == 0, done.stderr
    assert len(list((data.parent / "clips").glob("*.mp4"))) == 1
    assert "\033" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted({name for name in FOREIGN if name.isupper()}))
def test_each_of_them_is_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {"LC_ALL", "LANG", "LANGUAGE", "TERM", "NO_COLOR", "COLUMNS", "DISPLAY"}
    monkeypatch.setenv(name, FOREIGN[name])
    environment.clean()
    assert (name in os.environ) == (name in ours or name.startswith("XDG_"))


def test_cores_that_the_user_gives_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, kept in {"2": True, "0": False, "-1": False, "": False, "x": False}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        environment.clean()
        assert ("OMP_NUM_THREADS" in os.environ) == kept, value


def test_the_browser_gets_its_proxy_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", CLOSED)
    environment.clean()
    assert "HTTPS_PROXY" not in os.environ
    with environment.as_found():
        assert os.environ["HTTPS_PROXY"] == CLOSED
        assert not any(name.startswith("PYTHONW") for name in os.environ)
    assert "HTTPS_PROXY" not in os.environ


def test_modules_that_lie_about_are_not_run(data: Path) -> None:
    """Those of PYTHONPATH, and of the folder that the command is run in."""
    for name in ("random", "numpy", "json", "argparse", "html", "gradio", "sqlite3", "PIL"):
        (data.parent / f"{name}.py").write_text("raise SystemExit('it was run')")
    (data.parent / "list.txt").write_text("a ball\n")
    done = ran(data, "batch", "list.txt", PYTHONPATH=str(data.parent))
    assert done.returncode == 0, done.stderr
    assert served(data, PYTHONPATH=str(data.parent))[0] == 200


@pytest.mark.parametrize("port", ["0", "-1", "65536", "99999999999999999999", "low", "x", "8.5"])
def test_any_port_is_served_or_a_sentence(data: Path, port: str) -> None:
    if port == "0":
        code, address = served(data, "--port", port)
        assert code == 200 and not address.startswith("http://127.0.0.1:0")
        return
    if port == "low":
        port = str(random.randrange(1, 1024))  # another clone's tests may have any one
        if may_serve(int(port)):
            assert served(data, "--port", port)[0] == 200
            return
    done = ran(data, "ui", "--no-browser", "--port", port)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("nds: ")


@pytest.mark.parametrize(
    "env",
    [
        {"TMPDIR": NOWHERE, "TEMP": NOWHERE, "TMP": NOWHERE},
        {"TMPDIR": "/dev/full", "TEMP": "/dev/full", "TMP": "/dev/full"},
        {"TMPDIR": "{here}/Zwischenablage é 中文"},
        {"HOME": ""},
        {"HOME": NOWHERE, "XDG_CACHE_HOME": NOWHERE, "XDG_CONFIG_HOME": NOWHERE},
        {"HOME": "relative"},
    ],
    ids=str,
)
def test_odd_folders_are_no_obstacle(data: Path, env: dict[str, str]) -> None:
    folder = data.parent / "Zwischenablage é 中文"
    folder.mkdir()
    env = {name: value.format(here=data.parent) for name, value in env.items()}
    assert served(data, **env)[0] == 200
    done = ran(data, "render", "a ball", "-o", str(data.parent / "clip.mp4"), **env)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps a folder that somebody stands in")
@pytest.mark.parametrize("command", ["queue", "library", "frame ball", "batch -"])
def test_a_folder_that_was_removed_is_a_sentence(tmp_path: Path, command: str) -> None:
    (tmp_path / "gone").mkdir()
    script = f"cd {tmp_path}/gone && rmdir ../gone && exec {sys.executable} -m studio.cli {command}"
    environ = os.environ | {"NEODRAGON_DATA": str(tmp_path / "data")}
    done = subprocess.run(
        ["sh", "-c", script], env=environ, capture_output=True, encoding="utf-8", timeout=PATIENCE
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "nds: The current folder was removed; go to another one.\n"


HOMES = ["XDG_DATA_HOME", "HOME"] if os.name == "posix" else []  # Windows tells by no variable


@pytest.mark.parametrize("name", ["NEODRAGON_DATA", *HOMES])
def test_data_that_cannot_be_kept_are_a_sentence(data: Path, name: str) -> None:
    env = {name: NOWHERE}
    if name != "NEODRAGON_DATA":
        env |= {"NEODRAGON_DATA": ""}
    done = ran(data, "ui", "--no-browser", **env)
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert "nowhere" in done.stderr


def test_no_folder_for_temporary_files_is_made_up_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, NOWHERE)
    monkeypatch.setattr("tempfile.gettempdir", none)
    monkeypatch.setattr("tempfile.tempdir", None)
    assert environment.temporary_folder(tmp_path / "spare") == str(tmp_path / "spare")
    assert os.environ["TMPDIR"] == str(tmp_path / "spare")


def test_whatever_the_launch_raises_is_a_sentence(data: Path) -> None:
    """Such as a Gradio that fails where nobody thought of it."""
    script = (
        "import gradio, sys\n"
        "def broken(*_, **__): raise ZeroDivisionError('first line\\nsecond')\n"
        "gradio.mount_gradio_app = broken\n"
        "from studio.cli.main import main\n"
        "sys.exit(main(['ui', '--no-browser']))\n"
    )
    done = run([sys.executable, "-c", script], data)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "ZeroDivisionError: first line second" in done.stderr


EVIL = "\033]0;owned\a\033[2J\x9b31mred\x7f\r\u202egnirts\x00"


def test_what_comes_from_a_file_cannot_command_the_terminal(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEODRAGON_DATA", str(data))
    pack = data.parent / "pack"
    shutil.copytree(paths.ASSETS / "mini", pack)
    manifest = json.loads((pack / "pack.json").read_text("utf-8"))
    manifest["provenance"] = f"made{EVIL}up"
    (pack / "pack.json").write_text(json.dumps(manifest), encoding="utf-8")
    with JobTable(paths.jobs_file()) as table:
        work = Work(f"a{EVIL}b".replace("\0", ""), 1, 2, pack="pack", backend="cpu")
        table.add([Entry(work, "key")])
    clips = data.parent / "clips"
    clips.mkdir()
    assert main(["frame", f"c{EVIL}d".replace("\0", ""), "-o", str(clips / "a.png")]) == 0
    for command in (["pack", "info", str(pack)], ["queue"], ["library"]):
        for json_too in ([], ["--json"]):
            main([*command, *json_too])
    main(["pack", "info", str(data.parent / f"none{EVIL}".replace("\0", ""))])
    out, err = capsys.readouterr()
    assert "owned" in out and "owned" in err
    for text in (out, err):
        assert set(text) & {chr(code) for code in environment_controls()} == set()


def test_a_name_of_several_lines_is_told_in_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", "info", "a\nnds: all is well"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["library", "mark", "x\r\ny.mp4", "--keep"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def environment_controls() -> list[int]:
    return [*range(9), *range(11, 32), *range(127, 160), 0x202E]


def test_json_keeps_every_character(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"prompt": EVIL + "ü中\n"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"prompt": EVIL + "ü中\n"}
    assert "\x9b" not in out and "\u202e" not in out and "ü中" in out


def test_the_bar_alone_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", Plain(stream))
    monkeypatch.setattr(console, "is_drawn_on", lambda stream: True)  # Windows asks its console
    Bar().draw("a\033[2Jb", 0.5, "left")
    print("\033[2J", file=sys.stderr)
    assert stream.getvalue().startswith("\r\033[Ka\N{REPLACEMENT CHARACTER}[2Jb")
    assert stream.getvalue().count("\033") == 1
