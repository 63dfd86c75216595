"""Signed values that give access to the page, and which of them outlive one launch.

`session.json` in the data folder has the page's path and port, so that an open tab finds a studio
that was started again, and the secret that signs the tabs' cookies, which a crash leaves as it is.
A ticket is signed by the launch's token.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from studio.system.files import partial

DAYS = 30 * 86_400.0  # seconds that a tab's cookie is good for
MINUTE = 60.0  # seconds that a ticket is


@dataclass(frozen=True)
class Session:
    """What launches share: the page's own path, the secret that signs, the port it was on.

    No other page can guess the path, and the cookie is sent nowhere else.
    """

    path: str = field(default_factory=lambda: f"/{secrets.token_hex(16)}")
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    port: int | None = None


def session(data: Path) -> Session:
    """The last launch's, or a new one where there is none that can be read."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads((data / "session.json").read_text(encoding="utf-8"))
        kept = Session(known["path"], known["secret"], known["port"])
        whole = re.fullmatch(r"/[0-9a-f]{32}", kept.path) and len(kept.secret) >= 32
        if whole and type(kept.port) is int and 0 < kept.port < 65536:
            return kept
    return Session()


def keep(data: Path, known: Session) -> None:
    """Remember it for the next launch; readable by this user alone."""
    file = data / "session.json"
    part = partial(file)
    with suppress(OSError):  # the next launch begins anew
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            json.dump(asdict(known), stream)
        part.replace(file)


def end(data: Path) -> None:
    """Of a studio that ends as it should no cookie is good any more.

    Whoever has the port then hears them from a tab that was left open.
    """
    known = session(data)
    if known.port:
        keep(data, Session(known.path, port=known.port))


def signed(key: str, seconds: float) -> str:
    """A new value that `is_signed` by the key for so long."""
    value = f"{time.time() + seconds:.0f}.{secrets.token_urlsafe(16)}"
    return f"{value}.{_mac(key, value)}"


def is_signed(key: str, value: str) -> bool:
    """Whether it was signed with this key and is still good."""
    start, _, mac = value.rpartition(".")
    if not hmac.compare_digest(mac.encode(), _mac(key, start).encode()):
        return False
    return float(start.partition(".")[0]) > time.time()


def _mac(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), "sha256").hexdigest()
