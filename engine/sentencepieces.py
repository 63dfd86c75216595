"""T5's `spiece.model`, as SentencePiece writes it, as a tokenizer of the `tokenizers` library.

The file is one protobuf message; the few fields that are read here are those of SentencePiece's
`sentencepiece_model.proto`. What comes out gives the ids that SentencePiece gives,
but for a letter with several separate accents, which the two libraries fold in another order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from tokenizers.processors import TemplateProcessing

from engine.errors import PackError

PIECES, TRAINER, NORMALIZER = 1, 2, 3  # fields of the model
PIECE, SCORE, KIND = 1, 2, 3  # of a piece
MODEL_TYPE, BYTE_FALLBACK = 3, 35  # of the trainer
CHARSMAP, PREFIX, SQUEEZE = 2, 3, 4  # of the normalizer
UNIGRAM = 1
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # kinds of a piece
SPACE = "\u2581"
END = "</s>"
Value = int | float | bytes


def load_sentencepieces(path: Path, extra_ids: int = 100) -> Tokenizer:
    """The tokenizer of a T5's `spiece.model`, ending each text in `</s>`; raises PackError.

    extra_ids: how many `<extra_id_..>` follow the pieces, the last first.
    """
    try:
        model = _message(path.read_bytes())
        trainer = _first(model, TRAINER)
        if trainer.get(MODEL_TYPE, [UNIGRAM])[0] != UNIGRAM or any(trainer.get(BYTE_FALLBACK, ())):
            raise ValueError("it is no unigram model without bytes")
        pieces = [_piece(value) for value in model[PIECES]]
        unknown = next(n for n, (_, _, kind) in enumerate(pieces) if kind == UNKNOWN)
        vocabulary = [(text, score) for text, score, _ in pieces]
        normalizer = _first(model, NORMALIZER)
    except (KeyError, StopIteration, ValueError, struct.error, IndexError, OSError) as error:
        raise PackError(
            "{file} cannot be read as a SentencePiece model of T5 ({reason}); copy it again.",
            file=path,
            reason=error,
        ) from error
    extra = [f"<extra_id_{number}>" for number in reversed(range(extra_ids))]
    tokenizer = Tokenizer(Unigram([*vocabulary, *((name, 0.0) for name in extra)], unknown, False))
    tokenizer.normalizer = _normalizer(normalizer)
    prefix = "always" if normalizer.get(PREFIX, [1])[0] else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=prefix)
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=prefix)
    special = [text for text, _, kind in pieces if kind in (UNKNOWN, CONTROL)] + extra
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    defined = [text for text, _, kind in pieces if kind == USER_DEFINED]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in defined])
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, end)]
    )
    return tokenizer


def _normalizer(fields: dict[int, list[Value]]) -> normalizers.Normalizer:
    """SentencePiece's own table of characters, then its treatment of spaces."""
    steps: list[normalizers.Normalizer] = []
    charsmap = fields.get(CHARSMAP, [b""])[0]
    if charsmap:
        steps.append(normalizers.Precompiled(charsmap))  # type: ignore[arg-type]
    if fields.get(SQUEEZE, [1])[0]:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), SPACE)]
    return normalizers.Sequence(steps)


def _piece(value: Value) -> tuple[str, float, int]:
    """Text, score and kind of a piece; raises ValueError."""
    if not isinstance(value, bytes):
        raise ValueError("a piece is no message")
    fields = _message(value)
    text, score, kind = fields[PIECE][0], fields.get(SCORE, [0.0])[0], fields.get(KIND, [1])[0]
    if not (isinstance(text, bytes) and isinstance(score, float) and isinstance(kind, int)):
        raise ValueError("a piece has other fields")
    return text.decode("utf-8"), score, kind


def _first(fields: dict[int, list[Value]], number: int) -> dict[int, list[Value]]:
    """The message that a field holds, empty where it is missing; raises ValueError."""
    value = fields.get(number, [b""])[0]
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is no message")
    return _message(value)


def _message(data: bytes) -> dict[int, list[Value]]:
    """A protobuf message's values by field; raises ValueError, IndexError, struct.error."""
    fields: dict[int, list[Value]] = {}
    for number, value in _fields(data):
        fields.setdefault(number, []).append(value)
    return fields


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        value: Value
        if wire == 0:
            value, place = _varint(data, place)
        elif wire == 5:
            (value,) = struct.unpack_from("<f", data, place)
            place += 4
        elif wire == 1:
            (value,) = struct.unpack_from("<d", data, place)
            place += 8
        elif wire == 2:
            length, place = _varint(data, place)
            if place + length > len(data):
                raise ValueError("it ends early")
            value, place = data[place : place + length], place + length
        else:
            raise ValueError(f"it has a value of kind {wire}")
        yield number, value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
        if shift > 63:
            raise ValueError("it has a number without end")
