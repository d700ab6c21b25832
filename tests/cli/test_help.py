"""``--help`` of every command has an example that can be typed, and says units and defaults."""

from __future__ import annotations

import functools
import inspect
import re
import shlex
from typing import Any, get_args

import pytest
from tests.documents.command_line import call

from rollforge.cli.examples import EXAMPLES, commands
from rollforge.cli.main import app

COMMANDS = dict(commands(app))
UNIT = re.compile(r"\b(number|seconds|cores|gpus|threads|port|seed|version|days)\b", re.IGNORECASE)


def numbers(name: str) -> dict[str, tuple[str, Any]]:
    """Return the help and the default of each option whose value is a number."""
    callback = COMMANDS[name].callback
    assert callback is not None
    found = {}
    for parameter in inspect.signature(callback, eval_str=True).parameters.values():
        annotation = get_args(parameter.annotation)
        if annotation and type(annotation[1]).__name__ == "OptionInfo":
            kinds = get_args(annotation[0]) or (annotation[0],)
            if {int, float} & set(kinds):
                found[parameter.name] = (annotation[1].help or "", parameter.default)
    return found


def test_every_command_has_an_example() -> None:
    """A command without one is added to the table with the others."""
    assert set(COMMANDS) - set(EXAMPLES) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_is_shown_and_can_be_typed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options and arguments of the example are those of the command."""
    text = call(*name.split(), "--help").stdout
    assert f"Example: rollforge {EXAMPLES[name]}" in " ".join(text.split())
    called = []

    def recorded(one: str, function: Any) -> Any:
        @functools.wraps(function)
        def record(*args: object, **kwargs: object) -> None:
            called.append(one)

        return record

    for one, info in COMMANDS.items():
        monkeypatch.setattr(info, "callback", recorded(one, info.callback))
    done = call(*shlex.split(EXAMPLES[name]))
    assert (done.exit_code, called) == (0, [name]), done.stderr


@pytest.mark.parametrize("name", [name for name in COMMANDS if numbers(name)])
def test_numbers_have_a_unit_and_a_default(name: str) -> None:
    """Typer shows a default that is not None; otherwise the text says what applies."""
    for option, (text, default) in numbers(name).items():
        assert UNIT.search(text), f"{name} --{option}: {text}"
        assert default is not None or "default" in text.lower(), f"{name} --{option}: {text}"
