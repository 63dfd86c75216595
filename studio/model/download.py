"""Download the published weights, when the user has pressed the button.

Only the files that a pack is made of, one by one. An interrupted file continues, and
the hash of every file is compared with the published one. `HF_ENDPOINT`, `HF_HOME`, a token and
a proxy are honoured, by huggingface_hub. No other module of the studio contacts any address.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.published import LICENCES
from engine.errors import NeodragonError

REPOSITORY = "Qualcomm-AI-Research/Neodragon"
PAGE = f"https://huggingface.co/{REPOSITORY}"
MULTISTEP = "_multistep_t2v"
FOLDERS = (
    "tokenizer tokenizer_2 tokenizer_3 text_encoder text_encoder_2 text_encoder_3 context_adapter"
    " diffusion_transformer_320p causal_video_vae ssd_1b_vae ssd_1b_unet ssd_1b_text_encoder"
    " ssd_1b_text_encoder_2 upscaler safety_checker"
).split()
MONOLITHIC = tuple(f"{name}{MULTISTEP}" for name in ("context_adapter", FOLDERS[7]))
KEPT_FREE = 10**9  # bytes of the disk
BLOCK = 2**20

Report = Callable[[int, int, str], None]  # bytes that are there, bytes in all, the file


class DownloadError(NeodragonError):
    """The weights cannot be fetched; what is there stays, and the next try goes on from it."""


@dataclass(frozen=True)
class File:
    """A published file: its name in the repository, its bytes and hash, SHA-256 or git's own."""

    name: str
    size: int
    sha256: str
    blob: str

    def is_sound(self, path: Path) -> bool:
        """Whether the file at `path` is this one."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        if self.sha256:
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest() == self.sha256
        content = path.read_bytes()
        digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return digest.hexdigest() == self.blob


def wanted(name: str, multistep: bool) -> bool:
    """Whether a published file is needed: of the folders in use, or a licence."""
    folder, _, rest = name.rpartition("/")
    if not folder:
        return rest.upper().startswith(LICENCES)
    known = folder in FOLDERS or (multistep and folder in MONOLITHIC)
    return known and rest.endswith((".safetensors", ".json", ".txt", ".model"))


def listed(multistep: bool = False) -> tuple[str, list[File]]:
    """The published revision and the files to fetch; asks the repository. Raises DownloadError."""
    from huggingface_hub import HfApi  # noqa: PLC0415

    def ask() -> Any:
        return HfApi(_endpoint()).model_info(REPOSITORY, files_metadata=True, timeout=30)

    info = _one_sentence(ask)
    files = [
        File(one.rfilename, int(one.size or 0), one.lfs.sha256 if one.lfs else "", one.blob_id)
        for one in info.siblings or ()
        if wanted(one.rfilename, multistep)
    ]
    if not files:
        raise DownloadError(
            "{repository} lists no weights; download them by hand and choose their folder.",
            repository=REPOSITORY,
        )
    return str(info.sha), files


def download(folder: Path, report: Report, multistep: bool = False) -> Iterator[File]:
    """Fetch the weights to `folder`; yields each file that is there, whole. Raises DownloadError.

    Stop it at any time; what `report` raises ends it. A file that was cut off goes on.
    """
    revision, files = listed(multistep)
    total = sum(file.size for file in files)
    folder.mkdir(parents=True, exist_ok=True)
    sound = [file for file in files if file.is_sound(folder / file.name)]
    missing = total - sum(file.size for file in sound)
    free = shutil.disk_usage(folder).free
    if missing and free - KEPT_FREE < missing - _cut_off(folder):
        raise DownloadError(
            "The weights need {wanted} GB of free disk, and {found} GB are free; free some or "
            "choose another folder.",
            wanted=round((missing + KEPT_FREE) / 1e9, 1),
            found=round(free / 1e9, 1),
        )
    done = 0
    for file in files:
        if file not in sound:
            before, name = done, file.name

            def tell(got: int, before: int = before, name: str = name) -> None:
                report(before + got, total, name)

            _fetch(file, revision, folder, tell)
        done += file.size
        report(done, total, file.name)
        yield file


def _cut_off(folder: Path) -> int:
    """Bytes of files that an earlier download left unfinished."""
    return sum(path.stat().st_size for path in folder.glob(".cache/**/*.incomplete"))


def _fetch(file: File, revision: str, folder: Path, report: Callable[[int], None]) -> None:
    """One file, compared with its hash; a wrong one is removed."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415

    class Bar(tqdm):
        """Says where a file is instead of drawing it."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **{**named, "disable": True})  # type: ignore[no-untyped-call]
            self.got = int(named.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            """More bytes are there."""
            self.got += int(n or 0)
            report(self.got)
            return None

    def fetch() -> None:
        hf_hub_download(
            REPOSITORY,
            file.name,
            revision=revision,
            endpoint=_endpoint(),
            local_dir=folder,
            force_download=(folder / file.name).exists(),
            tqdm_class=Bar,
        )

    _one_sentence(fetch)
    if not file.is_sound(folder / file.name):
        (folder / file.name).unlink(missing_ok=True)
        raise DownloadError(
            "{name} does not have the published hash; download it again.",
            name=file.name,
        )


def _endpoint() -> str | None:
    """Another server than the usual one, where the environment names one."""
    return os.environ.get("HF_ENDPOINT") or None


def _one_sentence(ask: Callable[[], Any]) -> Any:
    """What `ask` gives, or DownloadError with what went wrong and what to do."""
    from huggingface_hub import errors  # noqa: PLC0415

    try:
        return ask()
    except errors.HfHubHTTPError as error:
        response = getattr(error, "response", None)
        code = getattr(response, "status_code", 0)
        raise DownloadError(*_REASONS.get(code, _REASONS[0]), code=code) from error
    except (errors.LocalEntryNotFoundError, errors.HTTPError, ConnectionError) as error:  # type: ignore[attr-defined]
        raise DownloadError(
            "{repository} cannot be reached ({reason}); check the connection and the proxy, or "
            "download the weights by hand and choose their folder.",
            repository=REPOSITORY,
            reason=_line(error),
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DownloadError(
                "The disk is full, so the weights cannot be written; free some space and download"
                " again."
            ) from error
        raise DownloadError(
            "The weights cannot be written ({reason}); choose another folder.",
            reason=_line(error),
        ) from error


_REASONS: dict[int, tuple[str]] = {
    401: (
        "The server gives the weights only to known users (401); accept"
        " their licence on the server and put your token in HF_TOKEN.",
    ),
    403: (
        "The server refuses to give the weights (403); accept their licence"
        " on the server, or use another token.",
    ),
    404: (
        "The server has no weights of that name (404); download them by hand and choose"
        " their folder.",
    ),
    429: ("The server had too many requests (429); wait some minutes, then download again.",),
    0: ("The server fails ({code}); try again later, the files downloaded so far are kept.",),
}


def _line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200].rstrip(". ")
