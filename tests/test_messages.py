"""Messages carry a template and values; words are made where they are shown."""

from __future__ import annotations

import copy
import pickle

from engine.errors import Message, NeodragonError, RequestError


def test_a_message_says_its_values() -> None:
    error = RequestError(
        "The seed {seed!r} is too large; choose one below {limit}.", seed=9, limit=5
    )
    assert str(error) == "The seed 9 is too large; choose one below 5."
    assert error.message.values == {"seed": 9, "limit": 5}


def test_without_values_braces_stay() -> None:
    assert str(NeodragonError("write {red|blue}")) == "write {red|blue}"
    assert str(Message("{}")) == "{}"


def test_errors_cross_processes() -> None:
    error = RequestError("Got {got}.", got=1)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == str(copy.copy(error))
    assert again.message == error.message
