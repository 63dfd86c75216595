"""Environment variables: those that were meant for other programs are removed.

Variables that other programs left (proxies, certificates, Gradio's, Python's) are taken out once,
as soon as `studio` is imported, before any library reads them; children inherit what is left. The
browser gets them back (`as_found`): a proxy is the user's own there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Of other programs, by their first letters; `NAMES` whole.
PREFIXES = (
    *("GRADIO_", "UVICORN_", "HYPERCORN_", "GUNICORN_", "STARLETTE_", "FASTAPI_", "FASTMCP_"),
    *("MCP_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "SPACE_", "SPACES_", "OAUTH_", "OPENID_"),
    *("IMAGEIO_", "IMAGEMAGICK_", "FFMPEG_", "FFPLAY_", "FFREPORT", "AV_LOG_", "MOVIEPY_"),
    *("PYTHON", "PYDANTIC_", "ANYIO_", "HTTPX_", "TQDM_", "NUMPY_", "NPY_", "NPX_", "MPL"),
    *("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "GOTO_", "BLIS_", "NUMEXPR_", "VECLIB_"),
    *("TYPER_", "_TYPER_", "RICH_", "KAGGLE_", "COLAB_", "VITE_", "TOKENIZERS_", "RAYON_"),
)
NAMES = {
    *("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "SOCKS_PROXY", "WS_PROXY"),
    *("WSS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    *("CURL_CA_BUNDLE", "SSLKEYLOGFILE", "OPENSSL_CONF", "OPENSSL_MODULES"),
    *("FORWARDED_ALLOW_IPS", "WEB_CONCURRENCY", "SYSTEM", "NODE_PATH", "NODE_OPTIONS"),
}
# These say how many cores the user gives us, where they say it well.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")

_removed: dict[str, str] = {}


def clean() -> None:
    """Take out of the environment, and of this Python, what was meant for others."""
    if "PYTHONWARNINGS" in os.environ:  # a warning of a library is no error of ours
        import warnings  # noqa: PLC0415

        sys.warnoptions.clear()
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
    home = _forget(os.environ.get("PYTHONPATH", "").split(os.pathsep))
    for name in [name for name in os.environ if _is_foreign(name)]:
        _removed[name] = os.environ.pop(name)
    if home:
        os.environ["PYTHONPATH"] = home  # for the workers


def _is_foreign(name: str) -> bool:
    upper = name.upper()
    if upper in THREADS:
        value = os.environ[name]
        return not (value.isascii() and value.isdigit() and 0 < int(value) < 1024)
    return upper in NAMES or upper.startswith(PREFIXES)


def _forget(named: list[str]) -> str:
    """Take these folders, and the one we stand in, from where Python looks for modules.

    But for the one this program comes from, which is returned where Python would not find it.
    """
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    foreign = {_absolute(path) for path in named if path} - {home}
    if sys.argv[:1] == ["-m"]:  # as while `python -m studio..` looks for it, in this folder too
        foreign |= set(sys.path[:1]) - {home}
    sys.path[:] = [path for path in sys.path if not {path, _absolute(path)} & foreign]
    return home if home in sys.path and not home.endswith("-packages") else ""


def _absolute(path: str) -> str:
    """The whole path; as it is where the folder we stand in was removed."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        return path


@contextmanager
def as_found() -> Iterator[None]:
    """The user's own environment meanwhile, for another program to start in."""
    environment = {name: value for name, value in _removed.items() if not name.startswith("PYTHON")}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name in environment:
            os.environ.pop(name, None)


def temporary_folder(spare: str | os.PathLike[str]) -> str:
    """The folder for temporary files; where the system's takes none, `spare`, for children too."""
    import tempfile  # noqa: PLC0415

    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        os.makedirs(spare, mode=0o700, exist_ok=True)  # noqa: PTH103
        tempfile.tempdir = os.fspath(spare)
        for name in ("TMPDIR", "TEMP", "TMP"):
            os.environ[name] = tempfile.tempdir
        return tempfile.tempdir
