"""Prompts to token ids and masks, and what of a prompt was too long to be read.

The only file that imports tokenizers. CLIP's two encoders share one tokenizer and differ in the id
they pad with; T5 comes with a mask. It knows nothing of the encoders themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from engine.errors import PackError
from engine.pack import Pack

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of one prompt: CLIP int64 [1, L] each, T5 and its mask (1 real, 0 padding) [1, N].

    cut: for each tokenizer that could not take the whole prompt, its name and the part left out.
    """

    clip_l: Ints
    clip_g: Ints
    t5: Ints
    t5_mask: Ints
    cut: tuple[tuple[str, str], ...]


class PromptTokenizers:
    """A pack's tokenizers; raises PackError where a file is damaged."""

    def __init__(self, pack: Pack) -> None:
        self.pads = (pack.prompt.clip_l_pad, pack.prompt.clip_g_pad)
        self.lengths = {name: entry.length for name, entry in pack.tokenizers.items()}
        self.clip = _load(pack, "clip")
        self.t5 = _load(pack, "t5")

    def __call__(self, text: str) -> Tokens:
        """Tokens of `text`; what does not fit is cut from the end, keeping the end token."""
        clip, clip_cut = _encode(self.clip, text, self.lengths["clip"])
        t5, t5_cut = _encode(self.t5, text, self.lengths["t5"])
        mask = np.zeros((1, self.lengths["t5"]), np.int64)
        mask[:, : len(t5)] = 1
        cut = [(name, part) for name, part in (("CLIP", clip_cut), ("T5", t5_cut)) if part]
        return Tokens(
            clip_l=_padded(clip, self.lengths["clip"], self.pads[0]),
            clip_g=_padded(clip, self.lengths["clip"], self.pads[1]),
            t5=_padded(t5, self.lengths["t5"], 0),
            t5_mask=mask,
            cut=tuple(cut),
        )


def _load(pack: Pack, name: str) -> Tokenizer:
    file = pack.tokenizers[name].file
    content = pack.verified(file).read_bytes()
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers raises nothing narrower
        raise PackError(
            "{name} cannot be read as a tokenizer; get the pack again or export it anew.",
            name=file.name,
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A prompt is text: "<|endoftext|>" in it is not an instruction.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _encode(tokenizer: Tokenizer, text: str, length: int) -> tuple[list[int], str]:
    """At most `length` ids and the part of `text` they do not cover."""
    text = text.encode("utf-8", "replace").decode()  # lone surrogates
    encoding = tokenizer.encode(text)
    if len(encoding.ids) <= length:
        return encoding.ids, ""
    start = encoding.offsets[length - 1][0]
    return [*encoding.ids[: length - 1], encoding.ids[-1]], text[start:].strip()


def _padded(ids: Sequence[int], length: int, pad: int) -> Ints:
    """Ids padded at the end: int64 [1, length]."""
    return np.array([[*ids, *[pad] * (length - len(ids))]], np.int64)
