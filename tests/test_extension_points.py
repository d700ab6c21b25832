"""Adding something to Rollforge changes a limited number of files, and no table is forgotten."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from rollforge.drivers import STORES, TRACKERS
from rollforge.expressions.operators import is_built_in, operator_names

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "rollforge"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
_spec = spec_from_file_location("tables_of_rollforge", ROOT / "tests" / "tables.py")
assert _spec is not None
assert _spec.loader is not None
tables = module_from_spec(_spec)
_spec.loader.exec_module(tables)

# -- adding one of each kind to a copy of the package ------------------------------------------------------------------

MODEL = '''
"""A model of a new library."""

from rollforge.models.base import Model

__all__ = ["NewModel"]

LIBRARY = "newlib"


class NewModel(Model):
    def fit(self, dataset, reweighter=None):
        import newlib

    def predict(self, dataset, segment="test"):
        return dataset.prepare(segment, col_set="feature").iloc[:, 0]
'''
PROCESSOR = '''

class NewProcessor(Processor):
    """Doubles everything."""

    def __call__(self, df):
        return df * 2
'''
GENERATOR = """
from rollforge.generate.base import TaskGen

__all__ = ["NewGen"]


class NewGen(TaskGen):
    def generate(self, task):
        return [task, task]
"""
STORE = """
from rollforge.store.memory import MemoryStore


class NewStore(MemoryStore):
    pass
"""
LOADER = '''

class NewLoader(DataLoader):
    """Loads nothing."""

    def load(self, instruments, start_time=None, end_time=None):
        return pd.DataFrame()
'''
RECORD = """
from rollforge.record.base import RecordTemp

__all__ = ["NewRecord"]


class NewRecord(RecordTemp):
    def generate(self, **kwargs):
        return None
"""
ENSEMBLE = """
from rollforge.collect.ensemble import Ensemble

__all__ = ["NewEnsemble"]


class NewEnsemble(Ensemble):
    def __call__(self, ensemble_dict, *args, **kwargs):
        return list(ensemble_dict)
"""
LEDGER = """
from rollforge.ledger.memory import MemoryLedger


class NewLedger(MemoryLedger):
    pass
"""
TRACKER = """
from rollforge.track.folder import FolderTracker


class NewTracker(FolderTracker):
    def __init__(self, uri):
        super().__init__("folder:" + uri.partition(":")[2])
        self.uri = uri
"""
Edit = tuple[str, str, str]
"""A file, a text in it (empty for a new file), and the text to insert before it."""
ADDED: dict[str, list[Edit]] = {
    "a model": [("models/newlib.py", "", MODEL)],
    "an operator": [
        ("expressions/formulas.py", "def elementwise(", "def thrice(series, x):\n    return 3 * x\n\n\n"),
        ("expressions/operators.py", "_BUILT_IN = ", '_add("Thrice", formulas.thrice, "x")\n'),
    ],
    "a processor": [("features/processor.py", "\n\nclass DropnaProcessor(", PROCESSOR)],
    "a task generator": [
        ("generate/new.py", "", GENERATOR),
        ("generate/__init__.pyi", "from .rolling import", "from .new import NewGen as NewGen\n"),
    ],
    "a loader": [
        ("features/loader.py", "\n\nclass StaticDataLoader(", LOADER),
        ("features/__init__.pyi", "    NestedDataLoader as", "    NewLoader as NewLoader,\n"),
    ],
    "a record": [
        ("record/new.py", "", RECORD),
        ("record/__init__.pyi", "from .segments import", "from .new import NewRecord as NewRecord\n"),
    ],
    "an ensemble": [
        ("collect/new.py", "", ENSEMBLE),
        ("collect/__init__.pyi", "from .group import", "from .new import NewEnsemble as NewEnsemble\n"),
    ],
    "a ledger": [
        ("ledger/newledger.py", "", LEDGER),
        (
            "drivers.py",
            '        "memory": "rollforge.ledger',
            '        "new": "rollforge.ledger.newledger:NewLedger",\n',
        ),
    ],
    "a tracking store": [
        ("track/newtracker.py", "", TRACKER),
        (
            "drivers.py",
            '        "folder": "rollforge.track',
            '        "new": "rollforge.track.newtracker:NewTracker",\n',
        ),
    ],
    "a task store": [
        ("store/newstore.py", "", STORE),
        ("drivers.py", '        "memory": "rollforge.store', '        "new": "rollforge.store.newstore:NewStore",\n'),
    ],
}
USES = """
import json
from rollforge import open_store
from rollforge.build import build
from rollforge.collect import NewEnsemble
from rollforge.expressions.expression import parse
from rollforge.generate import NewGen
from rollforge.kinds import LOADER, MODEL, PROCESSOR, RECORD
from rollforge.ledger.base import open_ledger
from rollforge.run.requirements import Admission
from rollforge.run.submission import submission_info
from rollforge.session import Session
from rollforge.track import open_tracker

model = {"class": "NewModel", "module_path": "rollforge.models"}
build(model, kind=MODEL)
build({"class": "NewProcessor"}, kind=PROCESSOR, default_module="rollforge.features.processor")
build({"class": "NewLoader", "module_path": "rollforge.features"}, kind=LOADER)
build({"class": "NewRecord", "module_path": "rollforge.record", "kwargs": {"recorder": None}}, kind=RECORD)
parse("Thrice($close)")
store = open_store("new://x")
info = submission_info([{"model": model}], Session())
store.create("p", [{"model": model}], submission=store.keep_submission("p", info))
notes = Admission(store, "p", Session(), ("tracking_uri",), needs_data=False).check_pool(exit_when_empty=True)
opened = [type(one).__name__ for one in (store, open_ledger("new://x"), open_tracker("new:runs"))]
print(json.dumps([len(NewGen()({})), NewEnsemble()({"a": 1}), opened, info["models"], notes]))
"""


def apply(edit: Edit, source: Path) -> None:
    file, before, text = edit
    path = source / file
    if not before:
        path.write_text(text)
        return
    known = path.read_text(encoding="utf-8")
    assert known.count(before) == 1, (file, before)
    path.write_text(known.replace(before, text + before), encoding="utf-8")


def test_each_kind_of_addition_needs_the_documented_number_of_files(tmp_path: Path) -> None:
    """Including its test, the number of files is that stated in CONTRIBUTING and docs/extending.md, and at most three.

    The addition can then be used everywhere: it is exported, built from a definition, opened by its scheme, accepted by
    a worker. ``make tables`` generates the rest. A model with a library needs pyproject.toml as a third file, for its
    extra.
    """
    source = tmp_path / "rollforge"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "newlib.py").write_text("")
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "docs/extending.md")]
    for kind, edits in ADDED.items():
        for edit in edits:
            apply(edit, source)
        rows = [re.findall(rf"^\| {kind} \|.*?\| ([^|]*) \|$", page, re.MULTILINE) for page in pages]
        count = len({file for file, _, _ in edits}) + 1
        assert count <= 3
        for (text,) in rows:
            assert text.startswith(str(count)), (kind, text)
    (source / "models" / "__init__.pyi").write_text(tables.stub(source / "models"))
    done = subprocess.run(
        [sys.executable, "-c", USES], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "ROLLFORGE_TRACKING": f"folder:{tmp_path}/runs"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    opened = ["NewStore", "NewLedger", "NewTracker"]
    assert json.loads(done.stdout) == [2, ["a"], opened, {"NewModel": {"newlib": ""}}, []]


# -- nothing is forgotten ----------------------------------------------------------------------------------------------


def classes(folder: str, base: str) -> dict[str, Path]:
    """Return the classes of a room that derive, directly or not, from a base class, with their files."""
    bases: dict[str, tuple[set[str], Path]] = {}
    for path in sorted((SOURCE / folder).glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                bases[node.name] = ({ast.unparse(b).rpartition(".")[2] for b in node.bases}, path)
    found: dict[str, Path] = {}
    grown = True
    while grown:
        new = {n: path for n, (above, path) in bases.items() if n not in found and above & {base, *found}}
        grown = bool(new)
        found |= new
    return {name: path for name, path in found.items() if not name.startswith("_") and path.stem != "base"}


def text_of_tests(*folders: str) -> str:
    """Return the text of the tests in some folders."""
    return "\n".join(
        p.read_text(encoding="utf-8") for folder in folders for p in sorted((ROOT / "tests" / folder).glob("*.py"))
    )


def is_tested(name: str, text: str) -> bool:
    return re.search(rf"\b{name}\b", text) is not None


def test_generated_files_are_up_to_date() -> None:
    """If this fails, run ``make tables``."""
    assert (SOURCE / "models" / "__init__.pyi").read_text(encoding="utf-8") == tables.stub(SOURCE / "models")


def test_every_model_is_public_and_tested() -> None:
    """Every model is in ``__all__`` of its file, and its name is in tests/models. Abstract classes are not models."""
    text = text_of_tests("models")
    models = {
        name: path
        for name, path in classes("models", "Model").items()
        if not inspect.isabstract(getattr(import_module(f"rollforge.models.{path.stem}"), name))
    }
    assert len(models) >= 4
    for name, path in models.items():
        assert name in tables.public_names(path), name
        assert is_tested(name, text), name


def test_a_models_library_is_an_extra() -> None:
    """The extra has the same name, is part of `dev` or `all`, and mypy ignores the missing types of the library.

    PyTorch is in neither, because it can be gigabytes.
    """
    extras = PROJECT["project"]["optional-dependencies"]
    overrides = PROJECT["tool"]["mypy"]["overrides"][0]["module"]
    for path in (SOURCE / "models").glob("*.py"):
        for library in re.findall(r'^LIBRARY = "(\w+)"$', path.read_text(encoding="utf-8"), re.MULTILINE):
            assert library in extras, f"pyproject.toml: an extra {library}"
            assert library == "torch" or library in " ".join(extras["dev"] + extras["all"]), (
                f"pyproject.toml: {library} in dev or all"
            )
            assert f"{library}.*" in overrides, f"pyproject.toml: {library}.* in mypy's overrides"


@pytest.mark.parametrize(
    ("folder", "base", "least"),
    [("generate", "TaskGen", 3), ("record", "RecordTemp", 5)],
    ids=["generators", "records"],
)
def test_every_generator_and_record_is_public_and_tested(folder: str, base: str, least: int) -> None:
    """Every generator and every record is in the stub of its room, and its name is in the tests."""
    stub = (SOURCE / folder / "__init__.pyi").read_text(encoding="utf-8")
    found = classes(folder, base)
    assert len(found) >= least
    text = text_of_tests(folder, "generate", "compat", "golden", ".")
    for name in found:
        assert f"{name} as {name}" in stub, name
        assert is_tested(name, text), name


def test_every_processor_is_public_and_tested() -> None:
    """Every processor is in ``__all__`` of its file, so that a definition needs no module, and its name is in the
    tests."""
    public = tables.public_names(SOURCE / "features" / "processor.py")
    text = text_of_tests("features", "parity", "compat")
    found = {n: p for n, p in classes("features", "Processor").items() if p.stem == "processor" and n != "Adapted"}
    assert len(found) > 10
    for name in found:
        assert name in public, name
        assert is_tested(name, text), name


def test_every_operator_is_tested() -> None:
    """The name of every operator is in the tests of expressions or in the reference values."""
    text = text_of_tests("expressions", "parity", "compat") + (ROOT / "tests/golden/operators/make.py").read_text()
    assert [n for n in operator_names() if is_built_in(n) and not is_tested(n, text)] == []


@pytest.mark.parametrize(
    ("drivers", "folder", "method", "suite"),
    [
        (STORES, "store", "claim", "store/test_conformance.py"),
        (TRACKERS, "track", "create_run", "track/test_trackers.py"),
    ],
    ids=["stores", "trackers"],
)
def test_every_store_has_a_scheme_and_runs_the_suite(drivers: object, folder: str, method: str, suite: str) -> None:
    """Each store and tracker class can be opened by a scheme, and is named in the file that runs the suite."""
    assert isinstance(drivers, type(STORES))
    targets = {driver.target.partition(":")[2] for driver in drivers._built_in.values()}
    found = set()
    for path in (SOURCE / folder).rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Store", "Tracker")):
                found.add(node.name)
    protocols = {"TaskStore", "Tracker", "SQLStore"}
    assert found - protocols == targets
    text = (ROOT / "tests" / suite).read_text(encoding="utf-8")
    assert {name for name in targets if not is_tested(name, text)} <= {"FolderTracker", "MLflowTracker"}
