"""Published tokenizers: `tokenizer.json`, T5's pieces, or the two files that CLIP had before."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import RobertaProcessing

from builder.errors import BuildError
from engine.errors import NeodragonError, first_line
from engine.sentencepieces import load_sentencepieces

START, END = "<|startoftext|>", "<|endoftext|>"
# What CLIP takes for one word before pairs of bytes are merged.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in `folder`; raises BuildError where there is none."""
    whole, pieces, merges = (
        folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt")
    )
    try:
        if whole.is_file():
            return Tokenizer.from_buffer(whole.read_bytes().removeprefix(codecs.BOM_UTF8))
        if (folder / "spiece.model").is_file():
            return load_sentencepieces(folder / "spiece.model")
        if pieces.is_file() and merges.is_file():
            return _clip(pieces, merges)
    except NeodragonError:
        raise
    except Exception as error:  # tokenizers raises nothing narrower
        raise BuildError(
            "The tokenizer in {folder} cannot be read ({reason}); copy the folder again.",
            folder=folder,
            reason=first_line(error),
        ) from error
    raise BuildError(
        "{folder} has no tokenizer.json; copy the folder again.",
        folder=folder,
    )


def _clip(pieces: Path, merges: Path) -> Tokenizer:
    """CLIP's: lower case, bytes, merged in pairs; a word's last piece ends in `</w>`."""
    vocabulary = json.loads(pieces.read_text(encoding="utf-8-sig"))
    lines = merges.read_text(encoding="utf-8-sig").splitlines()
    pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    tokenizer = Tokenizer(
        BPE(
            vocabulary,
            [(a, b) for a, b in pairs],
            unk_token=END,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([START, END])
    ends = ((END, vocabulary[END]), (START, vocabulary[START]))
    tokenizer.post_processor = RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    return tokenizer
