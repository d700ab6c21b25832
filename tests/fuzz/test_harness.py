"""The harness detects broken promises of every kind."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzzing import WORDS, Target, TooMuchMemory, TooSlow, all_targets, check, mutate

from rollforge.errors import ConfigError, RollforgeError


def _target(run: Callable[[bytes, Path], Any]) -> Target:
    return Target("own", run, [b"seed"])


def test_a_result_and_an_error_are_both_accepted() -> None:
    assert check(_target(lambda data, folder: len(data)), b"abc") == 3

    def refuse(data: bytes, folder: Path) -> None:
        raise ConfigError("no", path="here")

    assert isinstance(check(_target(refuse), b""), ConfigError)


def test_any_other_exception_is_not_accepted() -> None:
    with pytest.raises(ZeroDivisionError):
        check(_target(lambda data, folder: 1 / len(data)), b"")


def test_endless_work_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzing.SECONDS", 0.1)

    def run(data: bytes, folder: Path) -> None:
        while True:
            try:
                time.process_time()
            except Exception:  # noqa: BLE001 - as readers do
                continue

    with pytest.raises(TooSlow, match="no end"):
        check(_target(run), b"")


def test_slow_work_is_noticed_although_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzing.SECONDS", 0.1)

    def run(data: bytes, folder: Path) -> None:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        raise RollforgeError("at last")

    with pytest.raises(TooSlow):
        check(_target(run), b"")


def test_memory_use_is_noticed_even_if_it_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzing.MEMORY", 50 * 2**20)
    with pytest.raises(TooMuchMemory):
        check(_target(lambda data, folder: len(bytearray(100 * 2**20))), b"")


def test_a_message_that_is_too_long_or_not_printable_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Raw(RollforgeError):
        text = "x" * 3000

        def __str__(self) -> str:
            return self.text

    def run(data: bytes, folder: Path) -> None:
        raise Raw

    with pytest.raises(AssertionError, match="3000 characters"):
        check(_target(run), b"")
    monkeypatch.setattr(Raw, "text", "\x1b[31m")
    with pytest.raises(AssertionError, match="cannot be printed"):
        check(_target(run), b"")


def test_files_left_by_a_failure_are_noticed() -> None:
    def run(data: bytes, folder: Path) -> None:
        (folder / "out" / "half").write_text("x")
        raise ConfigError("no")

    with pytest.raises(AssertionError, match="half"):
        check(_target(run), b"")


def test_mutations_are_the_same_for_the_same_seed_and_do_change_something() -> None:
    seed = b"a: [1, 2020-01-01]\nb: 'x'\n"
    made = [mutate(seed, n, [b"word"]) for n in range(300)]
    assert made == [mutate(seed, n, [b"word"]) for n in range(300)]
    assert len(set(made)) > 150
    assert sum(b"word" in m for m in made) > 20
    assert len(WORDS) > 100


def test_targets_have_names_of_their_own() -> None:
    assert len(all_targets()) >= 40
