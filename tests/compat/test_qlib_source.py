"""Every import in Qlib's examples, tests, scripts and documentation, and every name of its modules, resolves or has a
reason.

These tests read a checkout of Qlib's repository, named by ``QLIB_SOURCE``, and are skipped without one.
``QLIB_SOURCE=CHECKOUT python tests/compat/test_qlib_source.py`` prints which imports resolve, and why the others do
not.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from rollforge.build import locate
from rollforge.qlib_names import MODULES, NOT_COVERED

PLACES = ("examples", "tests", "scripts", "docs", "README.md")
"""Folders of Qlib's repository that show how it is used."""

_IN_PROSE = re.compile(
    r"^[ \t>]*(from qlib[\w.]* import (?:\([^)]*\)|[^\n(]*(?:\\\n[^\n]*)*)|import qlib[^\n]*)", re.MULTILINE
)
_OF_A_NOTEBOOK = re.compile(r"^(\s*)[%!].*$", re.MULTILINE)  # notebook commands, which are not Python

Import = tuple[str, str]
"""A module and a name in it: empty if the module itself is imported, ``*`` for all names."""


def _statements(file: Path) -> Iterator[str]:
    if file.suffix not in (".py", ".ipynb", ".rst", ".md"):
        return
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        yield text
    elif file.suffix == ".ipynb":
        for cell in json.loads(text)["cells"]:
            if cell["cell_type"] == "code":
                yield _OF_A_NOTEBOOK.sub(r"\1pass", "".join(cell["source"]))
    else:
        for found in _IN_PROSE.finditer(text):
            yield textwrap.dedent(re.sub(r"\s+#.*", "", found[1]))


def imports(root: Path) -> dict[Import, list[str]]:
    """Return every distinct import from ``qlib``, with the files that have it."""
    found: dict[Import, list[str]] = {}
    for place in PLACES:
        files = [root / place] if (root / place).is_file() else sorted((root / place).rglob("*"))
        for file in (f for f in files if f.is_file()):
            for text in _statements(file):
                for node in ast.walk(ast.parse(text)):
                    pairs: list[Import] = []
                    if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                        pairs = [(node.module, a.name) for a in node.names]
                    elif isinstance(node, ast.Import):
                        pairs = [(a.name, "") for a in node.names]
                    for pair in pairs:
                        if pair[0].partition(".")[0] == "qlib":
                            found.setdefault(pair, []).append(str(file.relative_to(root)))
    return found


def _targets(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, (ast.Tuple, ast.List)):
        for part in node.elts:
            yield from _targets(part)


def _defined(body: Sequence[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from _targets(target)
        elif isinstance(node, ast.AnnAssign):
            yield from _targets(node.target)
        elif isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            continue  # only in the program that the module is too
        elif isinstance(node, (ast.If, ast.Try)):
            yield from _defined([*node.body, *node.orelse])
            for handler in node.handlers if isinstance(node, ast.Try) else ():
                yield from _defined(handler.body)


def modules(root: Path) -> dict[str, set[str]]:
    """Return every module of the package ``qlib``, with its public names."""
    found = {}
    for file in sorted((root / "qlib").rglob("*.py")):
        name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found[name] = {n for n in _defined(tree.body) if not n.startswith("_")}
    return found


_TRY = """
import importlib, json, sys
import rollforge.compat.qlib
answers = []
for module, name in json.load(sys.stdin):
    try:
        if name in ("", "*"):
            importlib.import_module(module)
        else:
            exec(f"from {module} import {name}", {})
        answers.append(None)
    except Exception as exc:
        answers.append(f"{type(exc).__name__}: {exc}")
print("ANSWERS" + json.dumps(answers))
"""


def resolve(pairs: Sequence[Import], python: str = sys.executable) -> dict[Import, str | None]:
    """Try imports in another process; return None for each one that resolves, else the error."""
    done = subprocess.run(
        [python, "-c", _TRY], input=json.dumps(pairs), capture_output=True, text=True, timeout=300, check=True
    )
    answers = json.loads(done.stdout.rpartition("ANSWERS")[2])
    return dict(zip(pairs, answers, strict=True))


# -- what is promised --------------------------------------------------------------------------------------------------


NOT_RESOLVED = {
    ("qlib.contrib.data.highfreq_provider", "HighFreqProvider"): "high-frequency trading",
}
"""Imports that do not resolve if pyqlib is not installed, and a part of the reason given."""


def test_imports_of_qlibs_repository_resolve(qlib_source: Path) -> None:
    """All of them, except those of reinforcement learning and one other, whose error gives the reason."""
    wanted = sorted(pair for pair in imports(qlib_source) if not pair[0].startswith("qlib.rl"))
    missing = {pair: reason for pair, reason in resolve(wanted).items() if reason is not None}
    assert len(wanted) >= 144
    assert set(missing) <= set(NOT_RESOLVED)
    for pair, reason in missing.items():
        assert " is not covered: " in reason
        assert NOT_RESOLVED[pair] in reason


def test_the_table_knows_every_name_of_every_module_of_qlibs(qlib_source: Path) -> None:
    """Each name exists, or there is a reason why not; modules that the table lacks do not exist in Qlib either."""
    for module, names in modules(qlib_source).items():
        if not uncovered(module) and not module.endswith(".__main__"):
            assert module in MODULES, module
            listed = {t.partition("=")[0] for s, text in MODULES[module].items() if s != "also" for t in text.split()}
            assert names - listed == set(), module


def test_signatures_of_pytorch_models_are_qlibs(qlib_source: Path) -> None:
    """Names and defaults of all arguments, except the number of processes that load data and defaults that are mappings."""
    compared = 0
    for module in sorted(name for name in MODULES if name.startswith("qlib.contrib.model.pytorch_")):
        file = qlib_source / (module.replace(".", "/") + ".py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if not (isinstance(node, ast.ClassDef) and "Model" in map(ast.unparse, node.bases)):
                continue
            theirs = next(f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__").args
            ours = inspect.signature(locate(node.name, module)).parameters
            given = theirs.args[len(theirs.args) - len(theirs.defaults) :]
            for argument, default in zip(given, theirs.defaults, strict=True):
                if argument.arg != "n_jobs" and isinstance(default, ast.Constant):
                    assert ours[argument.arg].default == default.value, (module, node.name, argument.arg)
                    compared += 1
    assert compared > 200


def uncovered(module: str) -> bool:
    """Return whether a module is one of which Rollforge covers nothing."""
    return any(
        module == path or module.startswith(path.removesuffix("*") if path.endswith("*") else f"{path}.")
        for path in NOT_COVERED
    )


def main() -> None:
    """Print which imports of the checkout resolve."""
    root = os.environ.get("QLIB_SOURCE")
    if not root:
        sys.exit("Name a checkout of Qlib's repository: QLIB_SOURCE=CHECKOUT")
    found = imports(Path(root))
    answers = resolve(sorted(found))
    for (module, name), reason in answers.items():
        if reason is not None:
            print(f"{module} {name}: {reason} [{', '.join(sorted(set(found[module, name])))}]")
    print(f"{sum(w is None for w in answers.values())} of {len(answers)} distinct imports resolve")


if __name__ == "__main__":
    main()
