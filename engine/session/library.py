"""Where QNN's libraries are, copied to a folder of plain letters where their own has others.

The NPU's driver loads parts of the runtime by a path of its own and takes plain letters only: a
studio under `C:\\Users\\Jürgen` finds no NPU.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from engine.errors import BackendError, Message, reason_of

NOT_LOADED = (".py", ".pyc", ".pdf", ".txt", ".md")


def is_installed() -> bool:
    """Whether onnxruntime-qnn is there."""
    return importlib.util.find_spec("onnxruntime_qnn") is not None


def sdk() -> str:
    """The version of the QNN SDK that onnxruntime-qnn carries, "" without it."""
    if not is_installed():
        return ""
    return str(importlib.import_module("onnxruntime_qnn.build_and_package_info").qnn_version)


@cache
def libraries() -> tuple[str, str]:
    """Paths of ONNX Runtime's QNN provider and of QNN's library for the NPU; raises BackendError.

    Both lie in one folder with all that they load.
    """
    package = importlib.import_module("onnxruntime_qnn")
    provider, htp = Path(package.get_library_path()), Path(package.get_qnn_htp_path())
    folder = plain_folder(provider.parent)
    return str(folder / provider.name), str(folder / htp.relative_to(provider.parent))


def plain_folder(source: Path) -> Path:
    """`source` where its path has plain letters only, else a whole copy of it in such a place.

    A folder of libraries beside it, named `.libs` as wheels name it, goes with it. A copy is
    compared with the source, byte for byte, every time. Raises BackendError.
    """
    if str(source).isascii():
        return source
    folders = (source, source.with_name(source.name + ".libs"))
    files = sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in NOT_LOADED
    )
    wanted = _digest(source.parent, files)
    name = f"qnn-{wanted[:16]}"
    reason: object = Message("no such folder")
    for parent in _plain_parents():
        target = parent / name
        try:
            if not target.is_dir():
                _copy(source.parent, files, target)
            copies = [target / path.relative_to(source.parent) for path in files]
            if _digest(target, copies) == wanted:
                return target / source.name
            reason = Message("its copy has been changed")
        except OSError as error:
            reason = reason_of(error)
    raise BackendError(
        "The NPU's runtime is in {folder}, whose name has letters other than A to Z, and copying "
        "it failed ({reason}); install the studio in a folder such as C:\\Neodragon.",
        folder=str(source),
        reason=reason,
    )


def _plain_parents() -> Iterator[Path]:
    folders = [os.environ.get(name, "") for name in ("LOCALAPPDATA", "ProgramData", "PUBLIC")]
    for folder in (*folders, tempfile.gettempdir()):
        if folder and folder.isascii():
            yield Path(folder) / "Neodragon"


def _copy(source: Path, files: list[Path], target: Path) -> None:
    """All of the files or nothing."""
    staged = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        for path in files:
            copy = staged / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        staged.replace(target)
    except OSError:
        if not target.is_dir():  # where another process was first, its copy serves
            raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _digest(folder: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
