"""A checkpoint as the published classes write it, with no `neodragon.json` and T5's tokenizer as
SentencePiece writes it: from its own key names to a pack and a clip; damage in one sentence.
"""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from random_pack import CLIP

from builder.errors import BuildError
from engine import Request, UnitFrames, generate, open_pack
from engine.errors import PackError
from engine.sentencepieces import load_sentencepieces
from training.export.pack import export_pack
from training.export.source import Source
from training.random_checkpoint import save

NEGATIVE = (
    "cartoon style, worst quality, low quality, blurry, absolute black, absolute white, low res,"
    " extra limbs, extra digits, misplaced objects, mutated anatomy, monochrome, horror"
)
WORDS = (
    "a red kite drifts over the green meadow slowly ball rolls café naïve 你好 世界 龙 猫 ひらがな"
    " １２３ ﬁsh ½ Ω тест blurry low quality ' \" ! ? , . - — … 100% 3.5"
).split()
SMALL = {
    "text_encoder": CLIP,
    "text_encoder_2": CLIP,
    "text_encoder_3": {"num_layers": 1, "vocab_size": 512},
    "diffusion_transformer_320p": {"num_layers": 1, "pooled_projection_dim": 64},
    "ssd_1b_unet": {
        "block_out_channels": [16, 32, 32],
        "attention_head_dim": [2, 2, 2],
        "norm_num_groups": 8,
        "cross_attention_dim": 64,
        "projection_class_embeddings_input_dim": 32 + 6 * 32,
    },
    "ssd_1b_vae": {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 4},
    "upscaler": {"num_channels": 16},
}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `spiece.model` as T5's: unigrams, Unicode's NFKC, `<pad>` 0, `</s>` 1, `<unk>` 2."""
    chance, model = random.Random(0), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(chance.choices(WORDS, k=8)) for _ in range(3000)),
        model_writer=model,
        **{"vocab_size": 200, "hard_vocab_limit": False, "model_type": "unigram"},
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
        normalization_rule_name="nmt_nfkc",
    )
    path = tmp_path_factory.mktemp("pieces") / "spiece.model"
    path.write_bytes(model.getvalue())
    return path


def test_the_ids_are_sentencepieces(pieces: Path) -> None:
    ours, theirs = load_sentencepieces(pieces), sentencepiece.SentencePieceProcessor(str(pieces))
    chance = random.Random(1)
    letters = [*"abc déÜ 你猫ﬁ１ \u3000\u00a0\t\u200b.,'①🐉", "e\u0301"]
    texts = ["", "   ", "  two  spaces   here ", "你好世界", "a\tb\nc", "A—b…", "\ufeffbom", *WORDS]
    texts += ["".join(chance.choices(letters, k=chance.randrange(1, 40))) for _ in range(2000)]
    for text in texts:
        assert ours.encode(text).ids == [*theirs.encode(text), 1], repr(text)
    assert ours.get_vocab_size() == theirs.get_piece_size() + 100
    assert ours.token_to_id("<extra_id_99>") == theirs.get_piece_size()
    assert ours.token_to_id("<extra_id_0>") == theirs.get_piece_size() + 99


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "bits", "bytes", "folder"])
def test_a_damaged_model_is_one_sentence(pieces: Path, tmp_path: Path, damage: str) -> None:
    content, path = pieces.read_bytes(), tmp_path / "spiece.model"
    if damage == "folder":
        path.mkdir()
    elif damage == "bits":
        path.write_bytes(bytes(255 - byte for byte in content))
    elif damage == "bytes":
        path.write_bytes(content.replace(b"<unk>\x15", b"<unk>\x16"))
    else:
        path.write_bytes(
            {"empty": b"", "text": b"version https://git", "cut": content[:-9]}[damage]
        )
    with pytest.raises(
        PackError, match=r"spiece.model cannot be read .* copy it again\.$"
    ) as error:
        load_sentencepieces(path)
    assert "\n" not in str(error.value)


def published(root: Path, pieces: Path) -> Path:
    """A tiny checkpoint in the published layout."""
    save(root, SMALL)
    (root / "neodragon.json").unlink()
    shutil.rmtree(root / "tokenizer_3")
    (root / "tokenizer_3").mkdir()
    shutil.copy(pieces, root / "tokenizer_3" / "spiece.model")
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "pad_token": "<pad>"}
    (root / "tokenizer_3" / "tokenizer_config.json").write_text(json.dumps(config))
    return root


def test_the_published_layout_becomes_a_clip(pieces: Path, tmp_path: Path) -> None:
    checkpoint = published(tmp_path / "checkpoint", pieces)
    (checkpoint / "LICENSE").write_text("Use it well.")
    (checkpoint / "Notice.txt").write_text("It was trained.")
    export_pack(checkpoint, tmp_path / "pack", emulate=False, report=lambda line: None)
    with open_pack(tmp_path / "pack") as pack:
        assert [file.name for file in pack.licences] == ["licences/LICENSE", "licences/Notice.txt"]
        assert (tmp_path / "pack" / "licences" / "LICENSE").read_text("utf-8") == "Use it well."
        assert (pack.geometry.height, pack.geometry.width, pack.geometry.frames) == (320, 512, 49)
        assert pack.prompt.negative == NEGATIVE and pack.tokenizers["t5"].length == 128
        request = Request("a red kite drifts slowly", 1, 2, upscale=False)
        units = [e for e in generate(pack, request, checked=False) if isinstance(e, UnitFrames)]
    frames = np.concatenate([unit.frames for unit in units])
    assert frames.shape == (49, 320, 512, 3) and frames.std() > 1


def test_a_tokenizer_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    for folder in ("diffusion_transformer_320p", "tokenizer_3"):
        (tmp_path / folder).mkdir()
    with pytest.raises(BuildError, match=r"tokenizer_3 has no .* copy the folder again\.$"):
        Source(tmp_path).tokenizer("tokenizer_3")
