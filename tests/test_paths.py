"""A string that cannot be a path raises one error, whichever function takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollforge.build import build
from rollforge.errors import ConfigError
from rollforge.market.importer import import_table
from rollforge.market.provider import open_provider
from rollforge.paths import read_path
from rollforge.session import Session
from rollforge.store.base import open_store
from rollforge.track.base import open_tracker
from rollforge.workflow import load_workflow

INVALID = {
    "unknown user": "~no_such_user/data",
    "NUL": "data\0",
    "name of 256 bytes": "x" * 256,
    "name of 256 bytes in UTF-8": "é" * 128,
    "path of 5,000 bytes": "/abc" * 1_250,
    "lone surrogate": "data\ud800",
}


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
def test_every_function_refuses_a_string_that_cannot_be_a_path(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = [
        read_path,
        open_provider,
        load_workflow,
        lambda t: import_table(t, tmp_path / "out"),
        lambda t: open_store(f"sqlite:///{t}"),
        lambda t: open_tracker(f"folder:{t}"),
        lambda t: open_tracker(f"file:{t}"),
        lambda t: build(f"file://{t}"),
    ]
    for reader in readers:
        with pytest.raises(ConfigError, match="cannot be a path"):
            reader(text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ROLLFORGE_HOME", "ROLLFORGE_CACHE"])
def test_a_variable_that_is_not_a_path_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "~no_such_user")
    with pytest.raises(ConfigError, match=f"{name}: '~no_such_user' cannot be a path: there is no user"):
        Session()


def test_a_name_of_255_bytes_is_accepted() -> None:
    assert read_path("x" * 255).name == "x" * 255


def test_undecodable_bytes_of_argv_are_accepted() -> None:
    assert read_path("data\udcff") == Path("data\udcff")


def test_the_tilde_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert read_path("~/data") == Path("/home/ann/data")
