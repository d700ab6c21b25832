"""The examples in docstrings are correct."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import re
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


def test_examples_of_the_import_layer_are_correct(tmp_path: Path) -> None:
    """The examples are run in a separate process, because importing the layer changes how ``import qlib`` is
    resolved."""
    names = [name for name in modules() if name.startswith(SEPARATE)]
    code = "import doctest, importlib, sys\nfor name in sys.argv[1:]: print(name, doctest.testmod(importlib.import_module(name)))"
    done = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    results = re.findall(r"^(\S+) TestResults\(failed=(\d+), attempted=(\d+)", done.stdout, re.MULTILINE)
    assert [name for name, failed, attempted in results if failed == "0" and attempted != "0"] == names, done.stdout


@functools.cache
def described(file: Path) -> list[tuple[type[ast.AST], str, str]]:
    """Return the kind, the name and the docstring of the module, the classes and the functions in a file."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
    return [(type(node), getattr(node, "name", ""), ast.get_docstring(node) or "") for node in nodes]


def test_modules_and_classes_are_described_by_what_they_are() -> None:
    """Docstrings of modules and classes begin with a noun phrase or a verb, not with an indirect question such as "How
    a command ended"."""
    question = re.compile(r"(What|How|Why|Who|Whose|Where|Which|Whether|When)\b")
    root = Path(__file__).parents[1]
    found = []
    for file in sorted(file for folder in ("src", "tests", "benchmarks") for file in (root / folder).rglob("*.py")):
        for kind, _, text in described(file):
            if kind is not ast.FunctionDef and question.match(text):
                found.append(f"{file.relative_to(root)}: {text.splitlines()[0]}")
    assert found == []


def docstrings_of_tests() -> list[tuple[str, str]]:
    """Return the place and the docstring of each test."""
    root = Path(__file__).parent
    return [
        (f"{file.relative_to(root)}: {name}", text)
        for file in sorted(root.rglob("*.py"))
        for kind, name, text in described(file)
        if kind is ast.FunctionDef and name.startswith("test")
    ]


def test_docstrings_of_tests_are_sentences() -> None:
    """Docstrings of tests do not continue the name of the test with a fragment such as "Also in a condition"."""
    fragment = re.compile(
        r"(Also|And|But|Nor|Or|Not|Even|Such as|So that|Unless|Of|Whose|Which)\b(?! all| many| each| of)"
    )
    found = [
        f"{place}: {text.splitlines()[0]}"
        for place, text in docstrings_of_tests()
        if fragment.match(text) and ", " not in text.partition(".")[0]
    ]
    assert found == []


def test_docstrings_of_tests_name_what_they_are_about() -> None:
    """A docstring of a test does not begin with a pronoun whose noun is only in the name of the test."""
    pronoun = re.compile(r"(It|They|Its|Their|This|These|That)\b")
    assert [f"{place}: {text.splitlines()[0]}" for place, text in docstrings_of_tests() if pronoun.match(text)] == []
