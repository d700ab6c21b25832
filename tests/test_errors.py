"""Error messages are short and printable, whatever value they refer to."""

from __future__ import annotations

import time

import pytest

from rollforge.errors import MAX_MESSAGE_LENGTH, ConfigError, DataError, ExpressionError, RollforgeError, nearest, shown
from rollforge.expressions.expression import parse


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    message = str(DataError(f"{'x' * 10**6!r} is not a size. Write it as 512M."))
    assert len(message) <= MAX_MESSAGE_LENGTH
    assert message.startswith("'xxx")
    assert "omitted" in message
    assert message.endswith("is not a size. Write it as 512M.")


@pytest.mark.parametrize("text", ["\x1b[31mred", "half \ud800", "\x00", "\u202ereversed", "\x9b31m", "\r"])
def test_a_message_can_be_printed_and_encoded(text: str) -> None:
    for error in (RollforgeError(text), ConfigError(text, path=text)):
        assert str(error).isprintable()
        str(error).encode()


def test_line_breaks_in_a_message_are_kept() -> None:
    assert str(RollforgeError("two mistakes:\n\tone\n\ttwo")) == "two mistakes:\n\tone\n\ttwo"


def test_the_path_of_an_error_is_bounded_too() -> None:
    error = ConfigError("y" * 10**6, path="x" * 10**6)
    assert len(error.path) <= 300
    assert len(error.message) <= MAX_MESSAGE_LENGTH
    assert len(str(error)) <= MAX_MESSAGE_LENGTH


def test_an_error_in_a_long_expression_shows_its_position() -> None:
    text = " + ".join(f"$field{i}" for i in range(500))
    with pytest.raises(ExpressionError) as caught:
        parse(f"{text} + § + {text}")
    message = str(caught.value)
    first, line, caret = message.split("\n")
    assert len(message) < 400
    assert "unexpected character '§'" in first
    assert line[len(caret) - 1] == "§"
    assert caret.endswith("^")


def test_a_very_long_expression_is_refused_at_once_and_not_quoted() -> None:
    began = time.process_time()
    with pytest.raises(ExpressionError) as caught:
        parse("$close + " * 120_000)
    assert time.process_time() - began < 0.5
    assert len(str(caught.value)) < 400


def test_the_position_is_right_after_unprintable_characters() -> None:
    with pytest.raises(ExpressionError) as caught:
        parse("$close\n+ \x00 + Mean($close, 5")
    _, line, caret = str(caught.value).split("\n")
    assert line[len(caret) - 1 :].startswith("\\x00 + Mean")


def test_finding_the_nearest_name_is_fast_for_long_names() -> None:
    began = time.process_time()
    assert nearest("a" * 10**6, ["alpha", "b" * 10**6]) == ""
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, 10**10_000, list(range(10**5)), {"a": [{"b": [[[[1]]]]}]}, b"x" * 10**6],
    ids=["text", "integer", "list", "nested", "bytes"],
)
def test_a_value_in_a_message_is_bounded(value: object) -> None:
    assert len(shown(value)) <= 200


def test_a_value_without_a_repr_is_shown_by_its_type() -> None:
    class WithoutRepr:
        def __repr__(self) -> str:
            raise ValueError("no")

    assert "WithoutRepr" in shown(WithoutRepr())
