"""The published weights over the hub's protocol, from a server of our own, and its faults."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session

from studio.model import download
from studio.model.download import DownloadError
from tests.hub import COMMIT, Hub, served

WEIGHTS = "text_encoder/model.safetensors"
NEEDED = {
    WEIGHTS: os.urandom(300_000),
    "text_encoder/config.json": b"{}",
    "tokenizer/vocab.json": b'{"a": 1}',
    "tokenizer/merges.txt": b"#version\na b\n",
    "LICENSE.txt": b"licence",
}
OTHERS = {
    "diffusion_transformer_320p_multistep_t2v/diffusion_pytorch_model.safetensors": bytes(9),
    "assets/teaser.mp4": bytes(99),
    "text_encoder/flax_model.msgpack": bytes(9),
    "vbench/results.json": b"{}",
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No connection of another test, nor what the environment said then."""
    close_session()
    yield
    close_session()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with served(NEEDED | OTHERS) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield hub


def get(folder: Path, multistep: bool = False) -> list[str]:
    reports = []

    def report(done: int, total: int, name: str) -> None:
        assert 0 <= done <= total
        reports.append((done, total))

    names = [file.name for file in download.download(folder, report, multistep)]
    assert reports[-1][0] == reports[-1][1]
    return names


def test_only_what_is_needed_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    assert set(get(tmp_path / "weights")) == set(NEEDED)
    for name, content in NEEDED.items():
        assert (tmp_path / "weights" / name).read_bytes() == content
    asked = {line.split(f"/resolve/{COMMIT}/")[-1] for line in hub.asked if "/resolve/" in line}
    assert asked == set(NEEDED)
    hub.asked.clear()
    get(tmp_path / "weights")
    assert len(hub.asked) == 1, "what is there is only compared with its hash"


def test_the_monolithic_modes_weights_only_when_asked(hub: Hub, tmp_path: Path) -> None:
    assert any("multistep" in name for name in get(tmp_path, multistep=True))


def test_what_was_cut_off_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.files[WEIGHTS] = os.urandom(24_000_000)  # the library writes 10 MB at a time
    hub.cut[WEIGHTS] = 22_000_000
    for _ in range(2):  # the library may go on by itself
        try:
            get(tmp_path)
            break
        except DownloadError as error:
            assert "\n" not in str(error)
    assert (tmp_path / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert hub.ranges and int(hub.ranges[-1].split("bytes=")[1].split("-")[0]) >= 10_000_000


def test_a_wrong_hash_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.wrong.add(WEIGHTS)
    with pytest.raises(DownloadError, match="model.safetensors does not have the published hash"):
        get(tmp_path)
    assert not (tmp_path / WEIGHTS).exists()
    hub.wrong.clear()
    get(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == NEEDED[WEIGHTS]


@pytest.mark.parametrize("code", [401, 403, 404, 429])
def test_a_refusal_is_one_sentence_with_a_way_out(
    hub: Hub, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.code = code
    with pytest.raises(DownloadError, match=rf"\({code}\)") as error:
        get(tmp_path)
    assert "\n" not in str(error.value)


def test_a_token_is_sent_where_there_is_one(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    get(tmp_path)
    assert "Bearer hf_of_a_test" in hub.tokens


def test_a_full_disk_is_said_before_a_byte_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: full)
    with pytest.raises(DownloadError, match="GB of free disk, and 1.0 GB are free"):
        get(tmp_path)
    assert not [line for line in hub.asked if "/resolve/" in line]


@pytest.mark.skipif(os.name != "posix", reason="Windows limits no file's size")
def test_a_disk_that_fills_up_on_the_way(hub: Hub, tmp_path: Path) -> None:
    import resource  # noqa: PLC0415  POSIX' alone

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(DownloadError, match="cannot be written"):
            get(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    get(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == NEEDED[WEIGHTS]


def test_a_proxy_is_used(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("HTTP_PROXY", hub.url)
    monkeypatch.setenv("NO_PROXY", "")
    assert set(get(tmp_path)) == set(NEEDED)


def test_without_a_network_it_says_what_to_do_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(
        DownloadError, match="or download the weights by hand and choose their folder"
    ):
        get(tmp_path)
