"""Fingerprints of code: they depend on everything that determines a computed value, and on nothing else."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import rollforge
from rollforge import code_marks
from rollforge.code_marks import code_files, code_mark, code_version
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import QlibDataLoader
from rollforge.features.panel_cache import list_panels
from rollforge.features.processor import Processor
from rollforge.market.filters import BaseDFilter, NameDFilter
from rollforge.session import Session, using

FOLDERS = [Path(rollforge.__file__).parent / room for room in ("market", "expressions", "features")]
PACKAGE = Path(rollforge.__file__).parent
# Modules that the computing ones import, and that do not affect the values of a panel: errors, the session's settings
# (such as folders and threads), building objects from definitions, storing them in files, canonical text.
COMPUTES_NOTHING = {
    "rollforge",
    "arguments",
    "build",
    "confidential",
    "description",
    "disk",
    "errors",
    "kinds",
    "limits",
    "moved",
    "paths",
    "qlib_imports",
    "qlib_names",
    "safe_pickle",
    "pickler",
    "pickling",
    "plugins",
    "session",
    "task",
    "trust",
}


def imported(file: Path) -> set[Path]:
    """Return the files of the package that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        for name in names:
            if name.split(".")[0] == "rollforge":
                path = PACKAGE.joinpath(*name.split(".")[1:])
                found.update(p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file())
    return found


def test_all_code_that_computes_is_part_of_the_version() -> None:
    """The version of the code includes every file of the three rooms, and every other file that these import, except
    for the ground."""
    counted = set(code_files())
    assert counted >= {file for room in FOLDERS for file in room.glob("*.py")}
    missing = {f for file in counted for f in imported(file)} - counted
    assert {(f.stem if f.stem != "__init__" else f.parent.name) for f in missing} <= COMPUTES_NOTHING
    assert PACKAGE / "features" / "handler.py" in counted  # it applies the processors


def test_a_change_of_any_file_is_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels are rebuilt after a change of a comment in one file, or with another release of pandas."""
    copies = [tmp_path / f.parent.name / f.name for f in code_files()]
    for copy, file in zip(copies, code_files(), strict=True):
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
    monkeypatch.setattr(code_marks, "code_files", lambda: copies)
    versions = [code_version.__wrapped__()]
    assert versions == [code_version()]
    for copy in copies:
        copy.write_text(copy.read_text() + "# edited\n")
        versions.append(code_version.__wrapped__())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99" if name == "pandas" else "1")
    versions.append(code_version.__wrapped__())
    assert len(set(versions)) == len(versions)


SOURCE = """
import math
import own_helpers
from own_helpers import scaled, Tool

LIMIT = 3
TABLE = {"a": 1, "names": {"x", "y"}}
TOOL = Tool(5)

def twice(x):
    return x * 2

class Base:
    shift = 1

    def size(self):
        return 1

class Own(Base):
    factor = 4

    def __init__(self, n=7):
        self.n = n

    @staticmethod
    def root(x):
        return math.sqrt(x)

    @property
    def half(self):
        return 0.5

    def __call__(self, x):
        import own_inner
        kept = [v for v in x if v in ("p", "q")]
        return scaled(twice(x)) + LIMIT + TABLE["a"] + TOOL.n + own_helpers.offset(x) + own_inner.f(x) + (lambda y: y + 11)(x)
"""
HELPERS = """
BASE = 100

def deeper(x):
    return x + 21

def scaled(x):
    return deeper(x) * 9

def offset(x):
    return x - BASE

def unused(x):
    return x

class Tool:
    def __init__(self, n):
        self.n = n
"""
INNER = "def f(x):\n    return x\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """A function that writes three modules of a user and imports the first one again."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # otherwise edits within a second would not be noticed
    names = ("own_code", "own_helpers", "own_inner")

    def written(source: str = SOURCE, helpers: str = HELPERS, inner: str = INNER) -> ModuleType:
        for name, text in zip(names, (source, helpers, inner), strict=True):
            (tmp_path / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("own_code")

    yield written
    for name in names:
        sys.modules.pop(name, None)


EDITS = {
    "an instruction": ("x * 2", "x + 2", "source"),
    "a constant of the module": ("LIMIT = 3", "LIMIT = 4", "source"),
    "a table of the module": ('"a": 1', '"a": 2', "source"),
    "a member of a set": ('{"x", "y"}', '{"x", "z"}', "source"),
    "an object of the module": ("Tool(5)", "Tool(6)", "source"),
    "an attribute of the class": ("factor = 4", "factor = 5", "source"),
    "an attribute of a base class": ("shift = 1", "shift = 2", "source"),
    "a method of a base class": ("return 1", "return 2", "source"),
    "a default": ("n=7", "n=8", "source"),
    "a static method": ("math.sqrt", "math.cbrt", "source"),
    "a property": ("return 0.5", "return 0.25", "source"),
    "an inner function": ("y + 11", "y + 12", "source"),
    "a comparison": ('("p", "q")', '("p", "r")', "source"),
    "a function of another module": ("deeper(x) * 9", "deeper(x) * 8", "helpers"),
    "a function that it calls": ("x + 21", "x + 22", "helpers"),
    "a function accessed through its module": ("x - BASE", "x + BASE", "helpers"),
    "a constant that it refers to": ("BASE = 100", "BASE = 200", "helpers"),
    "a class of another module": ("self.n = n", "self.n = -n", "helpers"),
    "a module imported in a function": ("return x", "return -x", "inner"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_that_may_change_a_value_changes_the_mark(write: Any, edit: str) -> None:
    """The mark changes with edits of anything that the class uses, directly or indirectly."""
    old, new, file = EDITS[edit]
    texts = {"source": SOURCE, "helpers": HELPERS, "inner": INNER}
    assert texts[file].count(old) == 1
    before = code_mark(write().Own)
    assert code_mark(write().Own) == before
    texts[file] = texts[file].replace(old, new)
    assert code_mark(write(**texts).Own) != before


def test_comments_and_positions_do_not_matter(write: Any) -> None:
    """Moving a function or editing its comments does not change its mark."""
    before = code_mark(write().twice)
    assert (
        code_mark(write("# a comment\n\n\n" + SOURCE.replace("    return x * 2", "    # why\n    return x * 2")).twice)
        == before
    )


def test_marks_are_the_same_in_every_process(tmp_path: Path) -> None:
    """Marks do not depend on the order of sets, on addresses of objects, or on cached bytecode."""
    for name, text in (("own_code", SOURCE), ("own_helpers", HELPERS), ("own_inner", INNER)):
        (tmp_path / f"{name}.py").write_text(text)
    command = (
        "import own_code; from rollforge.code_marks import code_mark; print(code_mark(own_code.Own, own_code.twice))"
    )
    path = os.pathsep.join([str(tmp_path), str(PACKAGE.parent)])
    marks = {
        subprocess.run(
            [sys.executable, "-c", command], env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(marks) == 1


def test_code_that_refers_to_itself_has_a_mark() -> None:
    """Computing it ends for recursive functions, objects that refer to themselves, and all of pandas."""

    def down(n: int) -> int:
        return down(n - 1) if n else 0

    class Cycle:
        def __init__(self) -> None:
            self.me = self

    cycle = Cycle()
    for value in (down, Cycle, cycle, pd, pd.DataFrame, pd.DataFrame.rank, len, sum, [down, [down]], {"a": cycle}):
        assert code_mark(value) == code_mark(value)


# -- panels ------------------------------------------------------------------------------------------------------------

FIELDS = {"feature": (["$close", "$volume"], ["CLOSE", "VOLUME"])}


@pytest.fixture
def session(small_market: Path, tmp_path: Path) -> Iterator[Session]:
    """A session with its own cache."""
    opened = Session(provider_uri=str(small_market), cache=str(tmp_path / "cache"), threads=1)
    with using(opened):
        yield opened


def processed(*processors: Any, instruments: Any = "all") -> pd.DataFrame:
    frame: pd.DataFrame = DataHandlerLP(
        instruments, "2022-01-03", "2022-03-31", QlibDataLoader(FIELDS), infer_processors=list(processors)
    ).fetch(col_set="feature", data_key="infer")
    return frame


class Times(Processor):
    """A user's processor, with attributes that in other processors have the names of fitted parameters."""

    def __init__(self, scale: float, _own: int = 0) -> None:
        self.scale = scale
        self._own = _own

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return df * self.scale + self._own


def test_all_attributes_distinguish_processors(session: Session) -> None:
    """`scale`, `shift` and private attributes of a user's processor are part of the key."""
    once = processed(Times(1))
    pd.testing.assert_frame_equal(processed(Times(2)), once * 2)
    pd.testing.assert_frame_equal(processed(Times(1, _own=3)), once + 3)
    assert len(list_panels(session.cache)) == 4  # the raw panel and three processed ones


MODULE = """
import own_helpers
from rollforge.market.filters import BaseDFilter
from rollforge.features.processor import Processor

class Own(Processor):
    def __call__(self, df):
        return own_helpers.scaled(df)

class Few(BaseDFilter):
    def apply(self, codes, days, evaluate):
        _, there = evaluate("$close")
        there[own_helpers.COUNT:] = False
        return there
"""


def test_edited_code_of_a_processor_is_used(session: Session, write: Any) -> None:
    """After an edit of code that a processor calls in another file, panels of the old code are not used."""
    helpers = "COUNT = 5\ndef scaled(df):\n    return df * 2\n"
    first = processed(write(MODULE, helpers).Own())
    pd.testing.assert_frame_equal(processed(write(MODULE, helpers).Own()), first)
    assert len(list_panels(session.cache)) == 2
    second = processed(write(MODULE, helpers.replace("* 2", "* 6")).Own())
    pd.testing.assert_frame_equal(second, first * 3)


def test_the_code_and_settings_of_filters_are_part_of_the_key(session: Session, write: Any) -> None:
    """A filter may be an object or a definition; with other settings or other code the universe is a different one."""
    helpers = "COUNT = 3\ndef scaled(df):\n    return df\n"

    def members(one: BaseDFilter | dict[str, Any]) -> int:
        frame = processed(instruments={"market": "all", "filter_pipe": [one]})
        return int(frame.index.get_level_values("instrument").nunique())

    own = write(MODULE, helpers).Few
    assert members(own()) == members({"class": own}) == 2  # one of three is listed later
    assert len(list_panels(session.cache)) == 1
    assert members(write(MODULE, helpers.replace("3", "1")).Few()) == 1
    assert (
        members(NameDFilter("D000[123]")) == members({"filter_type": "NameDFilter", "name_rule_re": "D000[123]"}) == 2
    )
    assert members(NameDFilter("D0001")) == 1
    assert len(list_panels(session.cache)) == 4


def test_the_order_of_groups_is_part_of_the_key(session: Session) -> None:
    """With the same columns and another order of groups the panel is a different one."""
    one, other = ({k: (["$close"], [k]) for k in order} for order in (("feature", "label"), ("label", "feature")))
    for config in (one, other, one):
        frame = DataHandlerLP("all", "2022-01-03", "2022-02-28", QlibDataLoader(config)).fetch(data_key="raw")
        assert list(frame.columns.get_level_values(0)) == list(config)


def kernels(cache: Path) -> list[str]:
    """Return the folder in which a new process stores compiled code, and the mark of the kernels' code."""
    command = (
        "from rollforge.expressions.jit import cache_folder, kernel_version; print(cache_folder(), kernel_version())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    return subprocess.run(
        [sys.executable, "-c", command], env={**environment, "ROLLFORGE_CACHE": str(cache)}, umask=0,
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip


def test_compiled_kernels_are_stored_by_their_code(tmp_path: Path) -> None:
    """The folder is named after the kernels' code and the compiler, and only its owner has access."""
    folder, mark = kernels(tmp_path)
    assert folder == str(tmp_path / "kernels" / mark)
    assert os.stat(folder).st_mode & 0o077 == 0


def test_compiled_code_is_not_loaded_from_a_folder_writable_by_others(tmp_path: Path) -> None:
    """Compiled code is executed, so files that others may have written are deleted, and a folder of another user is not
    used: the process then compiles for itself and removes the result when it exits.
    """
    folder, _ = kernels(tmp_path)
    (Path(folder) / "planted.nbi").touch()
    assert kernels(tmp_path)[0] == folder
    assert (Path(folder) / "planted.nbi").exists()
    os.chmod(folder, 0o775)
    assert kernels(tmp_path)[0] == folder
    assert os.stat(folder).st_mode & 0o022 == 0
    assert not list(Path(folder).iterdir())
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
        os.chmod(folder, 0o755)
        own, _ = kernels(tmp_path)
        assert own != folder
        assert not os.path.exists(own)  # it was removed with its process


def test_parameters_of_a_named_estimator_are_part_of_the_mark() -> None:
    """The mark covers those of an estimator inside another one, but not what pickling caches in a class."""

    def marks(estimator: object) -> str:
        def use() -> object:
            return estimator

        return code_mark(use)

    made = [make_pipeline(StandardScaler(), Ridge(alpha=alpha)) for alpha in (1.0, 2.0, 1.0)]
    assert marks(made[0]) == marks(made[2]) != marks(made[1])

    class Own:
        pass

    before = code_mark(Own)
    Own().__reduce_ex__(2)
    assert code_mark(Own) == before
