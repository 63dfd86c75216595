"""A list's bytes to its text: the encodings that spreadsheets and editors write, else chardet's.

A file that is not text is refused with its kind named.
"""

from __future__ import annotations

import codecs
import io
import locale
import re
import unicodedata
import zipfile
from dataclasses import dataclass

import chardet

from engine.errors import Message, NeodragonError

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins like the one of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LEGACY = (
    *("gb18030", "big5hkscs", "cp932", "euc-jp", "cp949"),
    *("windows-1252", "windows-1251", "windows-1253", "koi8-r"),
)
WIDE = {"gb18030", "gbk", "gb2312", "cp936", "big5", "big5hkscs", "cp950", "cp932", "shift_jis"}
WIDE |= {"euc_jp", "cp949", "euc_kr"}
SURE = 0.1  # chardet's confidence above which it overrules a one-byte code page of the system
MANY_ZEROS = 0.3  # of the bytes: it is UTF-16, not text with a stray zero
SIGNATURES = {
    b"%PDF-": "a PDF document",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a workbook or document of old Office (.xls, .doc)",
    b"{\\rtf": "a document in Rich Text Format",
    b"\x89PNG\r\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"RIFF": "a picture, sound or video",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!\x1a": "a RAR archive",
    b"BZh9": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"SQLite format 3\0": "an SQLite database",
    b"PAR1": "a Parquet table",
    b"\x7fELF": "a program",
    b"MZ\x90\0": "a program",
}
INSIDE = (  # of a zip
    ("xl/", "an Excel workbook"),
    ("word/", "a Word document"),
    ("ppt/", "a PowerPoint presentation"),
    ("content.xml", "an OpenDocument file"),
    ("Index/", "an Apple Numbers or Pages file"),
)
MARKUP = re.compile(r"\s*<(\?xml|!doctype|html|table|[a-z]+>\s*<)", re.IGNORECASE)


class BatchError(NeodragonError):
    """A prompt list as a whole cannot be used."""


@dataclass(frozen=True)
class Text:
    """A text, and a sentence on its encoding where that had to be assumed."""

    content: str
    assumed: Message | None = None


def decode(source: bytes) -> Text:
    """The text in the bytes, U+FFFD where a byte makes no sense; raises BatchError."""
    for bom, encoding in BOMS:
        if source.startswith(bom):
            text = Text(source.removeprefix(bom).decode(encoding, "replace"))
            break
    else:
        _refuse(_kind(source))
        text = _unmarked(source)
    if MARKUP.match(text.content):
        _refuse("an HTML or XML page")
    return text


def _refuse(kind: str | None) -> None:
    if kind:
        raise BatchError(
            "The list is {kind}, and only text can be read; open it in the program that made it "
            "and save it as CSV (UTF-8) or as plain text.",
            kind=Message(kind),
        )


def _kind(source: bytes) -> str | None:
    """What kind of file this is where it is none of text."""
    if source.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        try:
            with zipfile.ZipFile(io.BytesIO(source)) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
            names = []
        kinds = (kind for part, kind in INSIDE if any(name.startswith(part) for name in names))
        return next(kinds, "a zip archive")
    if source[4:8] == b"ftyp":
        return "a video or picture"
    return next((kind for start, kind in SIGNATURES.items() if source.startswith(start)), None)


def _unmarked(source: bytes) -> Text:
    """The text of bytes that do not begin with a byte order mark; raises BatchError."""
    wide = _wide(source)
    if wide:
        template = "The list has no byte order mark and was read as {encoding}."
        return Text(source.decode(wide, "replace"), Message(template, {"encoding": wide}))
    try:
        return Text(source.decode())
    except UnicodeDecodeError:
        pass
    lines = re.split(rb"(\r\n|\n|\r)", source)
    foreign = [line for line in lines if not _is_utf8(line)]
    ours = sum(not line.isascii() for line in lines) - len(foreign)
    encoding = _legacy(b"\n".join(foreign))
    if ours < len(foreign):
        foreign = lines
    strange = set(foreign)
    text = "".join(
        line.decode(encoding if line in strange else "utf-8", "replace") for line in lines
    )
    controls = sum(unicodedata.category(c) == "Cc" and c not in "\t\r\n" for c in text[:10_000])
    if controls > 2 and controls > len(text[:10_000]) / 50:
        _refuse("a file of bytes that no text has")
    return Text(
        text,
        Message(
            "The list is not UTF-8 and was read as {encoding}; where words look wrong, save it as"
            " UTF-8.",
            {"encoding": encoding},
        ),
    )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
        return True
    except UnicodeDecodeError:
        return False


def _wide(source: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark; None for anything else."""
    zeros = source.count(b"\0")
    if not zeros:
        return None
    if len(source) % 4 == 0:
        for encoding in ("utf-32-le", "utf-32-be"):
            try:
                if _readable(source.decode(encoding)):
                    return encoding
            except UnicodeDecodeError:
                continue
    even, odd = source[::2].count(0), source[1::2].count(0)
    encoding = "utf-16-le" if odd >= even else "utf-16-be"
    if zeros / len(source) >= MANY_ZEROS:
        return encoding if min(even, odd) <= zeros / 10 else None
    if min(even, odd) == 0 and not _is_utf8(source):  # few zeros: no Latin letters
        try:
            return encoding if _readable(source.decode(encoding)) else None
        except UnicodeDecodeError:
            return None
    return None


def _readable(text: str) -> bool:
    """Whether every character is one that people write."""
    return all(c in "\t\r\n" or unicodedata.category(c)[0] != "C" for c in text)


def _legacy(source: bytes) -> str:
    """The encoding of bytes that are no UTF-8: the system's, unless they speak against it."""
    detected = chardet.detect(source, include_encodings=LEGACY)
    name = _python_name(detected["encoding"] or "cp1252")
    system = _python_name(locale.getencoding())
    if system in ("utf-8", "ascii") or (name in WIDE and detected["confidence"] >= SURE):
        return name if system not in WIDE or not _fits(source, system) else system
    return system if _fits(source, system) else name


def _fits(source: bytes, encoding: str) -> bool:
    try:
        return _readable(source.decode(encoding))
    except UnicodeDecodeError:
        return False


def _python_name(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        return "cp1252"
