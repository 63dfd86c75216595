"""Who is let in: values that this studio signed, and what of them outlives one launch.

`session.json` in the data folder has the secret that signs the tabs' cookies and the last port, so
that an open tab finds a studio that was started again. A ticket is signed by the launch's token.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from studio.system.paths import partial

DAYS = 30 * 86_400.0  # seconds that a tab's cookie is good for
MINUTE = 60.0  # seconds that a ticket is


@dataclass(frozen=True)
class Session:
    """What the launches share: the secret that signs, and the port that the page was on."""

    secret: str
    port: int | None = None

    @property
    def path(self) -> str:
        """The page's own path, which no other page can guess: its cookie is sent only there."""
        return f"/{_mac(self.secret, 'path')[:22]}"


def session(data: Path) -> Session:
    """The last launch's, or a new one where there is none that can be read."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads((data / "session.json").read_text(encoding="utf-8"))
        secret, port = known["secret"], known["port"]
        if isinstance(secret, str) and len(secret) >= 32 and isinstance(port, int):
            return Session(secret, port if 0 < port < 65536 else None)
    return Session(secrets.token_urlsafe(32))


def keep(data: Path, known: Session) -> None:
    """Remember it for the next launch; readable by this user alone."""
    file = data / "session.json"
    part = partial(file)
    with suppress(OSError):  # the next launch begins anew
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            json.dump({"secret": known.secret, "port": known.port}, stream)
        part.replace(file)


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


def _mac(key: str, words: str) -> str:
    return hmac.new(key.encode(), words.encode(), "sha256").hexdigest()
