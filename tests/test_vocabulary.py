"""What a small model knows: marked in the prompt, offered, and written by its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import PackError
from engine.pack import open_pack
from engine.pack.manifest import knows_of
from studio.language.vocabulary import Unknown, unknown_words
from training.recipes.configuration import FOLDER, Configuration

KNOWS = {"subjects": ("ball", "teddy bear"), "motions": ("moves left",), "other": ("a", "on")}


def test_unknown_words_come_once_with_the_nearest_known() -> None:
    assert unknown_words("A ball moves left on a teddy bear", KNOWS) == []
    assert unknown_words("a BALLS move xyzzy, balls!", KNOWS) == [
        Unknown("balls", "ball"),
        Unknown("move", "moves"),
        Unknown("xyzzy", ""),
    ]
    assert unknown_words("two dragons", KNOWS) == [Unknown("two", ""), Unknown("dragons", "")]
    assert unknown_words("ein Bär aus 3 t-rex", {}) == []
    assert [one.word for one in unknown_words("ein Bär, 3 t-rex", KNOWS)] == ["ein", "bär", "t-rex"]


@pytest.mark.parametrize("config", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_world_knows_every_word_of_its_captions(config: Path) -> None:
    configuration = Configuration.read(config)
    world, rng = configuration.world, np.random.default_rng(5)
    knows = {kind: tuple(phrases) for kind, phrases in world.knows.items()}
    for number in range(3000):
        test = number % 3 == 0
        text = world.caption(world.scene(rng, test=test), rng, test=test)
        assert unknown_words(text, knows) == [], text
    for prompt in configuration["pack"]["examples"]:
        assert unknown_words(prompt, knows) == []
    assert unknown_words("a green submarine", knows)[0].word == "submarine"


def test_the_shipped_pack_says_what_it_knows(mini_pack: Path) -> None:
    with open_pack(mini_pack) as pack:
        assert "mushroom" in pack.knows["subjects"]
        assert pack.examples and not [p for p in pack.examples if unknown_words(p, pack.knows)]


@pytest.mark.parametrize("value", [["ball"], {"subjects": "ball"}, {"subjects": ["a\nb"]}, 3])
def test_a_damaged_vocabulary_is_one_sentence(value: object) -> None:
    with pytest.raises(PackError, match="knows.* was expected"):
        knows_of({"knows": value})
