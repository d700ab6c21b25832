"""Mutation testing: check that the fast tests of a room detect small changes ("mutants") of its code.

    python tests/mutants.py                              # 100 mutants of each room
    python tests/mutants.py --room generate --sample 300
    python tests/mutants.py --file generate/leakage.py --sample 0      # all mutants of one file
    python tests/mutants.py --room generate --only 3f2a91c0            # a single mutant

Mutants are made by the operators of Cosmic Ray and by three operators below. Operators whose mutants usually raise a
TypeError, such as ``a // b`` of two frames, are not used, because any test detects them. A sample is chosen by a
hash of the seed and the mutant, so that it stays the same while other code changes.

``rooms`` in ``tests/mutants.toml`` lists which tests have to detect the mutants of which files. The examples in the
docstrings of these files count as tests. The repository is copied to a temporary folder and mutated there. The tests
run once to record which lines each of them executes. Then each mutant is run against the tests that execute its line,
until one fails. A mutant whose line is not executed by any test is run against all of them.

A mutant that changes only the body of a function is first tried in a fork of a process that has already collected the
tests, in which the code of the function is replaced: the imports and the collection would take most of the time. Changes
of other code, and those of functions that are also called while the tests are imported and that no test detects in such a
fork, are tried in a process that imports the changed file.

Mutants that make no difference to a caller are listed under ``equivalent`` in ``tests/mutants.toml``, each with the
reason, and are not counted. A mutant whose tests use too much processor time, or none for a minute, is a timeout and
counts as detected.

The exit code is 1 if a room is below the minimum share of detected mutants, and 2 if its tests fail without a mutant.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import hashlib
import importlib
import inspect
import itertools
import json
import marshal
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import parso
import psutil
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".toml")
PACKAGE = Path("src") / "rollforge"
COPIED = ("src", "tests", "docs", "examples", "pyproject.toml", "README.md")
HEAVY = ("numpy", "pandas", "pyarrow.parquet", "pydantic", "hypothesis", "numba", "lightgbm", "mlflow", "pytest")
DOCSTRINGS = "tests/test_docstrings.py::test_examples_in_docstrings_are_correct"
MINIMUM = 90.0
WAITING = 60.0
"""Seconds after which tests that do not use the processor are considered to wait forever, for a lock for example."""


class DeleteCall(Operator):
    """Replace a statement that is only a call with ``pass``."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "simple_stmt" and _is_call(node.children[0]) and not node.get_code().strip().startswith("log."):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[0] = parso.parse(node.children[0].get_first_leaf().prefix + "pass")
        return node

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        return ()


class NegateMembership(Operator):
    """Replace ``in`` with ``not in`` and vice versa."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "comparison":
            yield from ((op.start_pos, op.end_pos) for op in self._operators(node))

    def mutate(self, node: Any, index: int) -> Any:
        old = list(self._operators(node))[index]
        at = next(i for i, child in enumerate(node.children) if child is old)
        node.children[at] = parso.parse(" in" if old.get_code().split() == ["not", "in"] else " not in")
        return node

    @staticmethod
    def _operators(node: Any) -> Iterator[Any]:
        return (op for op in node.children[1::2] if op.get_code().split() in (["in"], ["not", "in"]))

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        return ()


class NegateFilter(Operator):
    """Negate the condition of a comprehension."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type == "comp_if":
            yield node.children[1].start_pos, node.children[1].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[1] = parso.parse(f" not ({node.children[1].get_code()})")
        return node

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        return ()


def _is_call(node: Any) -> bool:
    return node.type in ("atom_expr", "power") and node.children[-1].get_first_leaf().value == "("


_COMPARISONS = ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Is_IsNot", "IsNot_Is")
_BINARY = (
    "Add_Sub",
    "Sub_Add",
    "Mul_Div",
    "Div_Mul",
    "FloorDiv_Mul",
    "Mod_Mul",
    "Pow_Mul",
    "BitAnd_BitOr",
    "BitOr_BitAnd",
)
_CORE = (
    *(f"ReplaceComparisonOperator_{pair}" for pair in _COMPARISONS),
    *(f"ReplaceBinaryOperator_{pair}" for pair in _BINARY),
    *(f"ReplaceUnaryOperator_{pair}" for pair in ("USub_UAdd", "Delete_Not", "Delete_Invert")),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer"),
    *("RemoveDecorator", "ZeroIterationForLoop"),
)
OPERATORS: dict[str, Operator] = {
    **{name: get_operator(f"core/{name}")() for name in _CORE},
    **{kind.__name__: kind() for kind in (DeleteCall, NegateMembership, NegateFilter)},
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file."""

    file: str
    """Relative to the package."""
    operator: str
    occurrence: int
    """Index among all places in the file that the operator can change."""
    where: str
    """Function or class that contains the change."""
    lines: range
    """Lines of the statement."""
    code: str
    """The first line that the operator changes, without indentation."""
    key: str
    """Hash of everything that identifies the mutant independently of its line number."""


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Return all mutants of a file, except for code without an effect at run time."""
    tree, lines, silent = get_ast(source), source.splitlines(), _silent_lines(source)
    found, seen = [], Counter[str]()
    for name, operator in OPERATORS.items():
        places = [(node, at) for node in ast_nodes(tree) for at in operator.mutation_positions(node)]
        for occurrence, (node, ((line, _), (last, _))) in enumerate(places):
            if _has_no_effect(node) or line in silent:
                continue
            where, code = _definition(node), lines[line - 1].strip()
            identity = f"{file}|{where}|{name}|{code}"
            key = hashlib.sha256(f"{identity}|{seen[identity]}".encode()).hexdigest()[:8]
            seen[identity] += 1
            found.append(Mutant(file, name, occurrence, where, range(line, max(line, last) + 1), code, key))
    return found


def _silent_lines(source: str) -> set[int]:
    """Return the lines of overloads, abstract methods, ``if TYPE_CHECKING``, and the decorators of dataclasses."""
    silent: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        decorators = getattr(node, "decorator_list", [])
        names = [ast.unparse(d).partition("(")[0].rpartition(".")[2] for d in decorators]
        if {"overload", "abstractmethod"} & set(names):
            silent.update(range(decorators[0].lineno, node.end_lineno + 1))
        silent.update(d.lineno for d, name in zip(decorators, names, strict=True) if name == "dataclass")
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            silent.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return silent


def _has_no_effect(node: Any) -> bool:
    """Return whether a node is part of an annotation, a ``*`` or ``/`` among parameters, or the ``strict`` of
    ``zip``."""
    if node.type == "operator" and node.parent.type in ("parameters", "param", "lambdef"):
        return True
    if node.type == "keyword" and node.parent.type == "argument" and node.parent.children[0].value == "strict":
        return True  # an assertion, which always holds in correct code
    while node.parent is not None:
        above = node.parent
        if above.type == "annassign" and node is above.children[1]:
            return True
        if above.type == "tfpdef" or (above.type == "param" and node is not above.default and node.type != "operator"):
            return True
        if above.type == "funcdef" and node is above.annotation:
            return True
        node = above
    return False


def _definition(node: Any) -> str:
    names = []
    while node is not None:
        if node.type in ("funcdef", "classdef"):
            names.append(node.name.value)
        node = node.parent
    return ".".join(reversed(names))


def ranked(mutants: Sequence[Mutant], seed: int) -> list[Mutant]:
    """Return the mutants in the order in which a sample is taken."""
    return sorted(mutants, key=lambda m: hashlib.sha256(f"{seed}|{m.key}".encode()).hexdigest())


def mutated(mutant: Mutant, source: str) -> str | None:
    """Return the source of a mutant; None if it is not valid Python."""
    text: str | None = mutate_code(source, OPERATORS[mutant.operator], mutant.occurrence)
    try:
        compile(text or "", mutant.file, "exec")
    except SyntaxError:
        return None
    return text


# -- running the tests of a room in forked processes -------------------------------------------------------------------


class Selection:
    """Runs only the given tests, in the given order, and records the first failure."""

    def __init__(self, wanted: Sequence[str] | None) -> None:
        self.wanted, self.failed, self.seconds = wanted, "", {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.wanted is not None:
            place = {name: i for i, name in enumerate(self.wanted)}
            items[:] = sorted((i for i in items if i.nodeid in place), key=lambda i: place[i.nodeid])

    def pytest_collectreport(self, report: Any) -> None:
        self.pytest_runtest_logreport(report)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + getattr(report, "duration", 0.0)
        if report.failed and not self.failed:
            self.failed = report.nodeid


class Lines:
    """Records which test executes which line of some files."""

    def __init__(self, files: Sequence[Path]) -> None:
        import coverage

        self.measured = coverage.Coverage(data_file=None, config_file=False, include=[str(f) for f in files])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.measured.switch_context(nodeid)

    def by_line(self) -> dict[str, dict[int, list[str]]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are none
            data = self.measured.get_data()
        return {file: data.contexts_by_lineno(file) for file in data.measured_files()}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of running tests in a forked process."""

    status: str
    """"passed", "failed" or "timeout"."""
    failed: str = ""
    """First test that failed."""
    seconds: float = 0.0
    by_test: Mapping[str, float] | None = None
    by_line: Mapping[str, Mapping[str, list[str]]] | None = None
    at_import: Mapping[str, list[int]] | None = None
    """File -> lines executed while the tests were collected."""


@dataclass(frozen=True, slots=True)
class Room:
    """The files of a room that are mutated, and the tests that have to detect the mutants."""

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]
    keyword: str = ""

    @classmethod
    def of(cls, name: str, entry: Mapping[str, Any]) -> Room:
        files: list[str] = []
        for given in entry["files"]:
            path = ROOT / PACKAGE / given
            found = sorted(p for p in path.rglob("*.py") if p.name != "__init__.py") if path.is_dir() else [path]
            files += [p.relative_to(ROOT / PACKAGE).as_posix() for p in found]
        tests = (*entry["tests"], *_docstrings(files))
        return cls(name, tuple(files), tests, entry.get("keyword", ""))


def _docstrings(files: Sequence[str]) -> list[str]:
    """Return the tests that run the examples in the docstrings of some files."""
    names = [
        f"rollforge.{f.removesuffix('.py').replace('/', '.')}"
        for f in files
        if ">>>" in (ROOT / PACKAGE / f).read_text()
    ]
    return [f"{DOCSTRINGS}[{name}]" for name in names]


def forked(copy: Path, room: Room, wanted: Sequence[str], limit: float) -> Outcome:
    """Run tests of a room in a process that imports the copy of the repository, until one fails."""
    (copy / "outcome.json").unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _limit_processor_time(limit)
        _run_here(copy, room, wanted, None)
    return _outcome(child, copy, limit)


def _limit_processor_time(limit: float) -> None:
    """End this process after `limit` seconds of processor time: on a busy machine, a mutant must not appear to hang."""
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit) + 5))


def _outcome(child: int, copy: Path, limit: float) -> Outcome:
    """Wait for a process that runs tests; one that only waits, or that takes too long, is ended."""
    report, began = copy / "outcome.json", time.monotonic()
    process, used, active, seen = psutil.Process(child), 0.0, began, began
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        now = time.monotonic()
        if now > seen + 1:
            total, seen = _processor_time(process), now
            if abs(total - used) > 0.2:  # less is used by threads that only look for work now and then
                used, active = total, now
        if now > active + WAITING or now > began + 20 * limit:
            _end(process)
            os.waitpid(child, 0)
            return Outcome("timeout", seconds=time.monotonic() - began)
        time.sleep(0.02)
    status = os.waitstatus_to_exitcode(done[1])
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # processes that its tests left behind
    if status == -signal.SIGXCPU:
        return Outcome("timeout", seconds=time.monotonic() - began)
    if not report.exists():
        return Outcome("failed", f"the process exited with {status}", time.monotonic() - began)
    found = json.loads(report.read_text())
    return Outcome("failed" if found.pop("code") else "passed", seconds=time.monotonic() - began, **found)


def _processor_time(process: psutil.Process) -> float:
    """Return the processor time of a process and its descendants, including those that have ended."""
    total = 0.0
    with contextlib.suppress(psutil.Error):  # a process that ends meanwhile
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += sum(one.cpu_times()[:4])
    return total


def _end(process: psutil.Process) -> None:
    """End a process and its descendants, including those with a session of their own."""
    with contextlib.suppress(psutil.Error):
        for one in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.Error):
                one.kill()


class Collection:
    """A process that has collected the tests of a room and runs them in forks of itself."""

    def __init__(self, copy: Path, room: Room) -> None:
        self._here, there = multiprocessing.Pipe()
        self._process = os.fork()
        if self._process == 0:
            self._here.close()
            _run_here(copy, room, None, Requests(copy, room, there))
        there.close()

    def run(self, wanted: Sequence[str] | None, limit: float, changes: bytes = b"", *, record: bool = False) -> Outcome:
        """Run tests until one fails, with the code of some functions replaced."""
        try:
            self._here.send((wanted, limit, changes, record))
            return Outcome(**self._here.recv())
        except (EOFError, OSError):
            return Outcome("failed", "the tests cannot be collected")

    def close(self) -> None:
        self._here.close()
        os.waitpid(self._process, 0)


class Requests:
    """Waits for requests when the tests are collected; in a fork for each request, pytest continues and runs them."""

    def __init__(self, copy: Path, room: Room, requests: Connection) -> None:
        self.copy, self.room, self.requests = copy, room, requests
        self.lines: Lines | None = None
        self.at_import: dict[str, list[int]] = {}
        self._importing = Lines([copy / PACKAGE / f for f in room.files])

    def begin(self) -> None:
        """Record the lines that are executed from now on until the tests are collected."""
        self._importing.measured.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self.lines:
            self.lines.measured.switch_context(nodeid)

    def pytest_collection_finish(self, session: Any) -> None:
        self._importing.measured.stop()
        self.at_import = {file: sorted(lines) for file, lines in self._importing.by_line().items()}
        files = {str(self.copy / PACKAGE / f) for f in self.room.files}
        functions = [f for f in gc.get_objects() if type(f) is FunctionType and f.__code__.co_filename in files]
        gc.freeze()  # or else each fork copies the memory of all objects
        while True:
            try:
                wanted, limit, changes, record = self.requests.recv()
            except EOFError:
                os._exit(0)
            (self.copy / "outcome.json").unlink(missing_ok=True)
            child = os.fork()
            if child == 0:
                break
            self.requests.send(asdict(_outcome(child, self.copy, limit)))
        try:
            os.setsid()
            _limit_processor_time(limit)
            _write_no_bytecode()
            _replace(changes, functions)
            if wanted is not None:
                items = {item.nodeid: item for item in session.items}
                session.items[:] = [items[name] for name in wanted]
            if record:
                self.lines = Lines([self.copy / PACKAGE / f for f in self.room.files])
                self.lines.measured.start()
        except BaseException:  # noqa: BLE001 - an error here is not a failed test
            os._exit(71)


def _run_here(copy: Path, room: Room, wanted: Sequence[str] | None, requests: Requests | None) -> None:
    """Run tests, or serve requests to run them, and exit."""
    try:
        code, plugin = _pytest(copy, room, wanted, requests)
        found = {"code": int(code), "failed": plugin.failed, "by_test": plugin.seconds}
        if requests and requests.lines:
            requests.lines.measured.stop()
            found["by_line"] = requests.lines.by_line()
            found["at_import"] = requests.at_import
        (copy / "outcome.json").write_text(json.dumps(found))
        os._exit(0)
    except BaseException:  # noqa: BLE001 - this process must not continue with the parent's code
        (copy / "output.txt").write_text(traceback.format_exc())
    finally:
        os._exit(70)


def _pytest(copy: Path, room: Room, wanted: Sequence[str] | None, requests: Requests | None) -> tuple[int, Selection]:
    import pytest
    from hypothesis import HealthCheck, settings

    # Examples that are slow on a busy machine are not failures, which would count as detected mutants.
    settings.register_profile("mutants", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("mutants")
    # Worker processes started by the tests import the main module, which has to be that of "python -m pytest".
    sys.modules["__main__"] = importlib.import_module("pytest.__main__")
    os.setsid()
    os.chdir(copy)
    with (copy / "output.txt").open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.path[:0] = [str(copy), str(copy / "src")]
    os.environ["PYTHONPATH"] = str(copy / "src")
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(copy / ".hypothesis")
    if not requests:
        _write_no_bytecode()
    files = list(dict.fromkeys(name.partition("::")[0] for name in wanted or ())) or list(room.tests)
    plugin = Selection(wanted)
    arguments = [
        "-x",
        "-q",
        "-m",
        "not slow",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
        "--hypothesis-seed=0",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(copy / "tmp"),
    ]
    if room.keyword:
        arguments += ["-k", f"({room.keyword}) or {DOCSTRINGS.rpartition('::')[2]}"]
    if requests:
        requests.begin()  # before pytest imports the first conftest.py
    return pytest.main([*arguments, *files], plugins=[plugin, *([requests] if requests else [])]), plugin


def _write_no_bytecode() -> None:
    """The bytecode of a mutant must not be used by the next one."""
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def changes_of_functions(path: Path, before: str, after: str) -> bytes | None:
    """Return the code of the outermost functions that differ, before and after; None if other code differs as well."""
    pairs = _changed(compile(before, str(path), "exec"), compile(after, str(path), "exec"))
    return None if pairs is None else marshal.dumps(pairs)


def _changed(old: CodeType, new: CodeType) -> list[tuple[CodeType, CodeType]] | None:
    if old == new:
        return []
    if old.co_flags & inspect.CO_OPTIMIZED:
        return [(old, new)] if old.co_freevars == new.co_freevars else None
    if _without_inner(old) != _without_inner(new):
        return None
    inner = [[c for c in code.co_consts if isinstance(c, CodeType)] for code in (old, new)]
    parts = [_changed(*pair) for pair in zip(*inner, strict=True)]
    return None if None in parts else [pair for part in parts for pair in part or ()]


def _without_inner(code: CodeType) -> CodeType:
    return code.replace(co_consts=tuple(None if isinstance(c, CodeType) else c for c in code.co_consts))


def _replace(changes: bytes, functions: Sequence[FunctionType]) -> None:
    """Replace the code of functions in this process."""
    for old, new in marshal.loads(changes) if changes else ():  # from :func:`changes_of_functions`
        those = [f for f in functions if f.__code__.co_filename == old.co_filename and f.__code__ == old]
        for function in those:
            function.__code__ = new
        # A module that only a test imports is read from the changed file.
        imported = any(getattr(m, "__file__", None) == old.co_filename for m in tuple(sys.modules.values()))
        if imported and not those:
            raise LookupError(f"no function has the code of {old.co_qualname}")


class Trial:
    """The tests of a room in a copy of the repository, run once to record which test executes which line."""

    def __init__(self, copy: Path, room: Room) -> None:
        self.copy, self.room = copy, room
        self.collection = Collection(copy, room)
        self.clean = self.collection.run(None, 3600, record=True)
        # Without those of collecting files and the session, whose name is empty as that of no failed test is.
        times = {t: seconds for t, seconds in (self.clean.by_test or {}).items() if "::" in t}
        self._tests: dict[tuple[str, int], set[str]] = {}
        for file, lines in (self.clean.by_line or {}).items():
            for line, tests in lines.items():
                self._tests[self._name(file), int(line)] = {t for t in tests if t in times}
        self._at_import = {
            (self._name(file), line) for file, lines in (self.clean.at_import or {}).items() for line in lines
        }
        self._all = sorted(times, key=lambda t: times[t])
        self._times = times
        self._detected: dict[str, Counter[str]] = {}

    def _name(self, file: str) -> str:
        return Path(file).relative_to(self.copy / PACKAGE).as_posix()

    def run(self, mutant: Mutant, source: str) -> Outcome:
        """Run the tests that execute the lines of a mutant, with the mutant in place."""
        target = self.copy / PACKAGE / mutant.file
        original, stat = target.read_bytes(), target.stat()
        tests = set().union(*(self._tests.get((mutant.file, n), ()) for n in mutant.lines))
        # First those that detected other mutants of the file, then the fastest.
        found = self._detected.setdefault(mutant.file, Counter())
        wanted = sorted((t for t in self._all if t in tests), key=lambda t: (-found[t], self._times[t])) or self._all
        limit = 30 + 5 * sum(self._times[t] for t in wanted)
        changes = changes_of_functions(target, original.decode(), source)
        target.write_text(source, encoding="utf-8")
        # Bytecode is looked up by time stamp (in seconds) and size, so each version of the file gets its own time.
        os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns - random.randrange(10**9, 10**16)))
        try:
            outcome = self.collection.run(wanted, limit, changes) if changes is not None else None
            imported = any((mutant.file, n) in self._at_import for n in mutant.lines)
            survives = outcome is not None and outcome.status == "passed" and not imported
            if outcome is None or not (survives or outcome.failed in self._times):
                outcome = forked(self.copy, self.room, wanted, limit)
            found.update([outcome.failed] if outcome.failed in self._times else [])
            return outcome
        finally:
            target.write_bytes(original)
            os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def copied(folder: Path) -> Path:
    """Copy the parts of the repository that the tests need into a folder, and compile them."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name)  # with the bytecode, which remains valid
        else:
            shutil.copy2(source, folder / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", folder / "src"], check=True)
    return folder


# -- the table and the report ------------------------------------------------------------------------------------------


def change_of(source: str, changed: str) -> tuple[str, str]:
    """Return the lines that differ, before and after the change, without indentation."""
    before, after = source.splitlines(), changed.splitlines()
    head = _common_prefix(before, after)
    tail = _common_prefix(before[head:][::-1], after[head:][::-1])
    return _joined(before[head : len(before) - tail]), _joined(after[head : len(after) - tail])


def _common_prefix(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the number of equal lines at the beginning."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _joined(lines: Sequence[str]) -> str:
    return " ".join(" ".join(lines).split())


def is_listed(mutant: Mutant, change: tuple[str, str], listed: Sequence[Mapping[str, str]]) -> bool:
    """Return whether a mutant is listed as equivalent."""
    given = (mutant.file, *change)
    return any((e["file"], _joined([e["before"]]), _joined([e["after"]])) == given for e in listed)


def run_room(
    room: Room,
    queue: Sequence[Mutant],
    size: int,
    copy: Path,
    listed: Sequence[Mapping[str, str]],
    *,
    verbose: bool,
) -> Counter[str] | None:
    """Run the first `size` valid mutants and print those that survive; None if the tests fail without a mutant."""
    trial = Trial(copy, room)
    if trial.clean.status != "passed":
        shown = (copy / "output.txt").read_text(errors="replace")
        print(f"{room.name}: the tests fail without a mutant: {trial.clean.failed}\n{shown[-3000:]}", file=sys.stderr)
        return None
    print(f"{room.name}: {len(queue)} mutants; the tests without mutants take {trial.clean.seconds:.0f} s", flush=True)
    counts: Counter[str] = Counter()
    for mutant in queue:
        source = (copy / PACKAGE / mutant.file).read_text(encoding="utf-8")
        changed = mutated(mutant, source)
        if changed is None:
            continue
        if counts["mutants"] == size:
            break
        counts["mutants"] += 1
        change = change_of(source, changed)
        if is_listed(mutant, change, listed):
            counts["equivalent"] += 1
            continue
        outcome = trial.run(mutant, changed)
        counts[{"passed": "survived", "failed": "killed", "timeout": "timeout"}[outcome.status]] += 1
        if verbose:
            print(f"  {mutant.key} {outcome.status} {outcome.seconds:.1f} s {outcome.failed}", flush=True)
        if outcome.status == "passed":
            print(f"  survived: {mutant.key} {mutant.file}:{mutant.lines[0]} in {mutant.where or 'the module'}")
            print(f"      - {change[0]}\n      + {change[1]}", flush=True)
    trial.collection.close()
    return counts


def share(counts: Mapping[str, int]) -> float:
    """Return the percentage of mutants that were detected; a timeout counts as detected."""
    counted = counts["killed"] + counts["timeout"] + counts["survived"]
    return 100.0 * (counts["killed"] + counts["timeout"]) / counted if counted else 100.0


def main() -> int:
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    rooms = {name: Room.of(name, entry) for name, entry in table["rooms"].items()}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--room", action="append", choices=rooms, help="only this room; can be repeated")
    parser.add_argument("--file", action="append", default=[], help="mutate only this file, such as generate/label.py")
    parser.add_argument("--sample", type=int, default=100, help="number of mutants per room; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--only", action="append", default=[], help="only the mutant with this key")
    parser.add_argument("--verbose", action="store_true", help="print every mutant, with the test that detected it")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in HEAVY:
        __import__(name)
    totals: dict[str, Counter[str] | None] = {}
    for room in [rooms[name] for name in options.room or rooms]:
        files = [f for f in room.files if not options.file or f in options.file]
        found = [m for f in files for m in mutants_of(f, (ROOT / PACKAGE / f).read_text(encoding="utf-8"))]
        queue = [m for m in ranked(found, options.seed) if not options.only or m.key in options.only]
        if not queue:
            continue
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            size = options.sample or len(queue)
            totals[room.name] = run_room(
                room, queue, size, copied(Path(folder)), table["equivalent"], verbose=options.verbose
            )
    print(
        f"{'room':12} {'mutants':>8} {'equivalent':>11} {'killed':>7} {'timeouts':>9} {'survived':>9} {'detected':>8}"
    )
    for name, counts in totals.items():
        if counts is not None:
            columns = f"{counts['mutants']:8} {counts['equivalent']:11} {counts['killed']:7} {counts['timeout']:9}"
            print(f"{name:12} {columns} {counts['survived']:9} {share(counts):7.1f}%")
    if None in totals.values():
        return 2
    return 1 if any(share(counts) < MINIMUM for counts in totals.values() if counts is not None) else 0


if __name__ == "__main__":
    sys.exit(main())
