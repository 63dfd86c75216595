"""What can go wrong; every message is one sentence: what was expected, what was got, what to do."""


class NeodragonError(Exception):
    """Base of every error the engine raises on purpose."""


class RequestError(NeodragonError):
    """The request cannot be carried out as asked; the user can correct it."""


class WithheldError(RequestError):
    """The safety checker withholds the clip."""


class PackError(NeodragonError):
    """The pack is damaged, of another format, or lacks what was asked of it."""


class BackendError(NeodragonError):
    """The backend could not load or run a graph."""
