"""A small window that says the studio is starting: on Windows, where its page takes seconds.

Windows' own `STATIC` window in a thread of its own: nothing to import, so it is there at once.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIZE = (420, 120)  # at 96 dots per inch
WINDOW = 0x80000000 | 0x10000000 | 0x00800000 | 0x201  # popup, visible, border; text in the centre
SET_FONT = 0x0030  # WM_SETFONT


@contextmanager
def shown(text: str) -> Iterator[Callable[[], None]]:
    """Show `words` until the yielded function is called, or the block ends."""
    if sys.platform != "win32":
        yield lambda: None
        return
    done = threading.Event()
    thread = threading.Thread(target=_window, args=[text, done], daemon=True)
    thread.start()
    try:
        yield done.set
    finally:
        done.set()
        thread.join(2)


def _window(text: str, done: threading.Event) -> None:
    """A window in the middle of the screen, drawn and asked after until `done`."""
    if sys.platform != "win32":
        return
    import ctypes  # noqa: PLC0415  Windows' alone
    from ctypes import wintypes  # noqa: PLC0415

    user, graphics = ctypes.WinDLL("user32"), ctypes.WinDLL("gdi32")
    user.CreateWindowExW.restype = wintypes.HWND
    graphics.CreateFontW.restype = wintypes.HANDLE
    dots = user.GetDpiForSystem()
    width, height = (size * dots // 96 for size in SIZE)
    left = (user.GetSystemMetrics(0) - width) // 2
    top = (user.GetSystemMetrics(1) - height) // 2
    window = user.CreateWindowExW(
        0, "STATIC", text, WINDOW, left, top, width, height, None, None, None, None
    )
    if not window:
        return
    handle = wintypes.HWND(window)
    font = graphics.CreateFontW(-dots * 12 // 72, 0, 0, 0, 400, 0, 0, 0, 1, 0, 0, 5, 0, "Segoe UI")
    user.SendMessageW(handle, SET_FONT, wintypes.WPARAM(font or 0), wintypes.LPARAM(1))
    message = wintypes.MSG()
    while user.IsWindow(handle):
        while user.PeekMessageW(ctypes.byref(message), None, 0, 0, 1):
            user.TranslateMessage(ctypes.byref(message))
            user.DispatchMessageW(ctypes.byref(message))
        if done.wait(0.02):
            user.DestroyWindow(handle)
