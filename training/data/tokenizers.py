"""Make the mini model's tokenizers from its captions, in the published folders: `python -m
training.data.tokenizers`.

CLIP's two (`tokenizer`, `tokenizer_2`) are byte-level BPE with `</w>`, T5's (`tokenizer_3`) a
unigram model with byte fallback, so any text is read; only the words of its world mean something to
the mini model.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from training.data.worlds import open_world

CONFIG = Path(__file__).parents[1] / "configs" / "mini.json"
CAPTIONS = 20000


def clip_tokenizer(captions: list[str]) -> Tokenizer:
    """Lower-cased byte-level BPE; the start and end tokens are the last two ids, as in CLIP."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=20,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    # CLIP's vocabulary also holds every byte as the end of a word, then start and end.
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    pieces += [letter + "</w>" for letter in alphabet if letter + "</w>" not in model["vocab"]]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    tokenizer.model = models.BPE(
        vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[(t, vocab[t]) for t in ("<|startoftext|>", "<|endoftext|>")],
    )
    return tokenizer


def t5_tokenizer(captions: list[str]) -> Tokenizer:
    """Unigram with byte fallback; pad 0, end 1, unknown 2, as in T5."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    # Every caption word is a piece by its frequency; other words fall to letters, other characters
    # to bytes.
    counts = Counter(word for text in captions for word in text.split())
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [
        ("▁" + word, math.log(count / len(captions))) for word, count in sorted(counts.items())
    ]
    vocab += [(piece, -12.0) for piece in ("▁", *map(chr, range(33, 127)))]
    vocab += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    tokenizer.model = models.Unigram(vocab, unk_id=2, byte_fallback=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, config: dict[str, object]) -> None:
    """Write `tokenizer.json`, the vocabulary files of a BPE model, and `tokenizer_config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if isinstance(tokenizer.model, models.BPE):
        tokenizer.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/mini"))
    parser.add_argument("--config", type=Path, default=CONFIG, help="world and sizes, JSON")
    options = parser.parse_args()
    checkpoint, config = options.checkpoint, json.loads(options.config.read_text(encoding="utf-8"))
    # All subjects, so that more of them can be learned later with the same vocabulary.
    world = open_world(
        **config["world"] | ({"subjects": None} if "subjects" in config["world"] else {})
    )
    rng = np.random.default_rng(0)
    captions = []
    for i in range(CAPTIONS):
        captions.append(world.caption(world.scene(rng, test=i % 8 == 0), rng, test=i % 8 == 1))
    clip = clip_tokenizer(captions)
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "model_max_length": config["text"]["clip_length"],
    }
    save(
        clip,
        checkpoint / "tokenizer",
        special | {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>"},
    )
    save(
        clip,
        checkpoint / "tokenizer_2",
        special | {"tokenizer_class": "CLIPTokenizer", "pad_token": "!"},
    )
    for name in ("tokenizer", "tokenizer_2"):  # the first frame's copies
        target = checkpoint / f"ssd_1b_{name}"
        target.mkdir(exist_ok=True)
        for file in (checkpoint / name).iterdir():
            (target / file.name).write_bytes(file.read_bytes())
    t5 = {
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": config["text"]["t5_length"],
    }
    save(
        t5_tokenizer(captions), checkpoint / "tokenizer_3", t5 | {"tokenizer_class": "T5Tokenizer"}
    )


if __name__ == "__main__":
    main()
