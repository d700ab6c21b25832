"""Examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import rollforge

SOURCE = Path(rollforge.__file__).parent
NOT_RUN = ("rollforge.__main__", "rollforge.compat.qlib.__main__", "rollforge.compat.qlib._site", "rollforge.testing")


def modules() -> list[str]:
    found = [m.name for m in pkgutil.walk_packages([str(SOURCE)], "rollforge.")]
    return [name for name in found if not name.startswith(NOT_RUN) and ">>>" in source(name)]


def source(name: str) -> str:
    file = SOURCE.joinpath(*name.split(".")[1:])
    return (file / "__init__.py" if file.is_dir() else file.with_suffix(".py")).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_are_true(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example of a module prints what it says, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted > 0
    assert done.failed == 0
