"""A text that cannot be a path is one message, wherever it comes from."""

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

UNFIT = {
    "no such user": "~nobody_of_that_name/data",
    "NUL": "data\0",
    "name of 256 bytes": "x" * 256,
    "name of 256 bytes in other letters": "é" * 128,
    "path of 5,000 bytes": "/abc" * 1_250,
    "lone surrogate": "data\ud800",
}


@pytest.mark.parametrize("text", UNFIT.values(), ids=UNFIT)
def test_what_cannot_be_a_path_is_refused_by_every_reader(
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
def test_a_variable_that_holds_no_path_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "~nobody_of_that_name")
    with pytest.raises(ConfigError, match=f"{name}: '~nobody_of_that_name' cannot be a path: there is no user"):
        Session()


def test_a_name_of_255_bytes_is_one() -> None:
    assert read_path("x" * 255).name == "x" * 255


def test_bytes_of_argv_that_are_no_text_are_a_path() -> None:
    assert read_path("data\udcff") == Path("data\udcff")


def test_the_home_folder_is_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert read_path("~/data") == Path("/home/ann/data")
