"""The examples in docstrings are correct."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import rollforge

SOURCE = Path(rollforge.__file__).parent
SEPARATE = "rollforge.compat."  # importing it changes how `import qlib` is resolved in this process
NOT_RUN = ("rollforge.testing", "rollforge.compat.qlib._site", "rollforge.compat.qlib.__main__")


def modules() -> list[str]:
    """Return the names of modules with examples, without importing them."""
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        name = ".".join(("rollforge", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        if not name.startswith(NOT_RUN) and ">>>" in file.read_text(encoding="utf-8"):
            found.append(name)
    return found


@pytest.mark.parametrize("name", [n for n in modules() if not n.startswith(SEPARATE)])
def test_examples_in_docstrings_are_correct(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example prints the output that is shown, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted > 0
    assert done.failed == 0


@pytest.mark.parametrize("name", [n for n in modules() if n.startswith(SEPARATE)])
def test_examples_of_the_import_layer_are_correct(name: str, tmp_path: Path) -> None:
    """They are run in a separate process, because importing the layer changes how ``import qlib`` is resolved."""
    code = f"import doctest, importlib; print(doctest.testmod(importlib.import_module({name!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "failed=0" in done.stdout
    assert "attempted=0" not in done.stdout
