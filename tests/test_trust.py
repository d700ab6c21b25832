"""Trust: what a definition refers to is checked, by its origin, before it is imported or called."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.documents.command_line import run as rollforge

from rollforge import safe_pickle, trust
from rollforge.build import build, locate
from rollforge.errors import (
    BuildError,
    CodeNotAllowed,
    ConfigError,
    RequirementsNotMet,
    RollforgeError,
    UntrustedPickle,
)
from rollforge.kinds import DATASET, HANDLER, INST_PROCESSOR, MODEL, PROCESSOR, RECORD
from rollforge.plan import make_plan
from rollforge.run.job import Job
from rollforge.run.trainer import TrainerR
from rollforge.run.worker import Worker
from rollforge.run.worker_pool import WorkerPool
from rollforge.session import Session, using
from rollforge.store.base import open_store
from rollforge.store.codec import decode_definition
from rollforge.store.manager import TaskManager
from rollforge.task import Cause, Status, digest, encode
from rollforge.trust import Origin, from_origin
from rollforge.workflow import load_workflow


def attacks(marker: Path) -> dict[str, dict[str, Any]]:
    """Return definitions that create the marker file when they are called, by kind."""
    touch = f"touch {marker}"
    local = marker.parent / "hostile.py"
    local.write_text(
        f"open({str(marker)!r}, 'w').close()\nclass Thing:\n    fit = predict = prepare = fetch = load = generate = None\n"
    )
    return {
        "function": {"class": "system", "module_path": "os", "kwargs": {"command": touch}},
        "dotted": {"class": "os.system", "kwargs": {"command": touch}},
        "class": {"class": "subprocess.Popen", "kwargs": {"args": ["touch", str(marker)]}},
        "builtin": {"class": "open", "module_path": "builtins", "kwargs": {"file": str(marker), "mode": "w"}},
        "library class": {"class": "FileHandler", "module_path": "logging", "kwargs": {"filename": str(marker)}},
        "name imported by a module": {
            "class": "tempfile", "module_path": "rollforge.track.artifact",
            "kwargs": {},
        },
        "name exported by a missing module": {
            "class": "ZipFile", "module_path": "rollforge.testing.hostile_reexport", "kwargs": {"file": str(marker)},
        },
        "other library": {
            "class": "memmap", "module_path": "numpy",
            "kwargs": {"filename": str(marker), "mode": "w+", "shape": [4]},
        },
        "other function": {
            "class": "save", "module_path": "numpy", "kwargs": {"file": str(marker), "arr": [1]},
        },
        "rollforge class of another kind": {
            "class": "SQLiteStore", "module_path": "rollforge.store.sqlite", "kwargs": {"uri": f"sqlite:///{marker}"},
        },
        "qlib function": {
            "class": "get_or_create_path", "module_path": "qlib.utils", "kwargs": {"path": str(marker)},
        },
        "name with a null character": {"class": "_wrap_close", "module_path": "os\0", "kwargs": {"stream": 1, "proc": 2}},
        "object": {"class": {"class": "system", "module_path": "os"}, "module_path": "os", "kwargs": {"command": touch}},
    }  # fmt: skip


def template(market: Path | None = None) -> dict[str, Any]:
    """Return a harmless task with an object in every place."""
    handler: dict[str, Any] = {
        "instruments": {"market": "all", "filter_pipe": [{"class": "NameDFilter", "kwargs": {"name_rule_re": ".*"}}]},
        "start_time": "2022-01-03", "end_time": "2023-09-29",
        "data_loader": {
            "class": "NestedDataLoader",
            "kwargs": {"dataloader_l": [{"class": "QlibDataLoader", "kwargs": {"config": {
                "feature": [["$close"], ["C"]], "label": [["Ref($close,-2)/Ref($close,-1)-1"], ["L"]]}}}]},
        },
        "shared_processors": [], "infer_processors": [{"class": "Fillna"}], "learn_processors": [{"class": "DropnaLabel"}],
    }  # fmt: skip
    strategy = {"class": "TopkDropoutStrategy", "kwargs": {"signal": "<PRED>", "topk": 2, "n_drop": 1}}
    return {
        "model": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear"},
        "dataset": {
            "class": "DatasetH", "module_path": "qlib.data.dataset",
            "kwargs": {
                "handler": {"class": "DataHandlerLP", "module_path": "qlib.data.dataset.handler", "kwargs": handler},
                "segments": {"train": ["2022-01-03", "2022-12-28"], "test": ["2023-01-02", "2023-09-29"]},
            },
        },
        "record": [
            {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
            {"class": "PortAnaRecord", "module_path": "qlib.workflow.record_temp", "kwargs": {"config": {
                "strategy": strategy, "executor": {"class": "SimulatorExecutor", "kwargs": {"time_per_step": "day"}},
                "backtest": {"account": 10000, "benchmark": None}}}},
        ],
    }  # fmt: skip


_HANDLER = ("dataset", "kwargs", "handler")
_CONFIG = ("record", 1, "kwargs", "config")
PLACES: dict[str, tuple[Any, ...]] = {
    "model": ("model",),
    "dataset": ("dataset",),
    "handler": _HANDLER,
    "loader": (*_HANDLER, "kwargs", "data_loader"),
    "nested loader": (*_HANDLER, "kwargs", "data_loader", "kwargs", "dataloader_l", 0),
    "processor": (*_HANDLER, "kwargs", "infer_processors", 0),
    "filter": (*_HANDLER, "kwargs", "instruments", "filter_pipe", 0),
    "record": ("record", 0),
    "strategy": (*_CONFIG, "strategy"),
    "executor": (*_CONFIG, "executor"),
    "signal": (*_CONFIG, "strategy", "kwargs", "signal"),
    "reweighter": ("reweighter",),
}


def put(task: dict[str, Any], place: tuple[Any, ...], what: Any) -> dict[str, Any]:
    made = copy.deepcopy(task)
    node: Any = made
    for part in place[:-1]:
        node = node[part]
    node[place[-1]] = what
    return made


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


# -- the user's own file: any class of the right kind ------------------------------------------------------------------


def test_a_harmless_template_is_planned(small_market: Path, tmp_path: Path) -> None:
    """The template for the attacks below is valid, so that the attack is what is refused."""
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"rollforge": {"data": str(small_market)}, "task": template()}))
    assert len(make_plan(load_workflow(file)).tasks) == 1


@pytest.mark.parametrize("place", PLACES)
def test_plan_calls_no_object_of_another_kind(place: str, small_market: Path, marker: Path, tmp_path: Path) -> None:
    """In the user's own file, an object is called only if it is of the kind that its place requires."""
    file = tmp_path / "own.yaml"
    for name, attack in attacks(marker).items():
        document = {"rollforge": {"data": str(small_market)}, "task": put(template(), PLACES[place], attack)}
        file.write_text(yaml.safe_dump(document))
        try:
            make_plan(load_workflow(file))
        except ConfigError:
            pass
        else:
            assert place == "signal", f"{name} as {place} was accepted"  # a signal is built when the backtest runs
        assert not marker.exists(), f"{name} as {place}"


def test_the_command_reports_an_object_of_another_kind(small_market: Path, marker: Path, tmp_path: Path) -> None:
    """``rollforge plan`` exits with code 2 and one message, without a traceback."""
    file = tmp_path / "own.yaml"
    task = put(template(), ("model",), attacks(marker)["function"])
    file.write_text(yaml.safe_dump({"rollforge": {"data": str(small_market)}, "task": task}))
    done = rollforge("plan", file, cwd=tmp_path)
    assert done.returncode == 2
    assert "task.model: system is not a model: os belongs to the standard library" in done.stderr
    assert "Traceback" not in done.stderr
    assert not marker.exists()


@pytest.mark.parametrize(
    ("kind", "name"),
    [(MODEL, "not a model: it has no fit()"), (DATASET, "not a dataset"), (HANDLER, "not a handler"),
     (PROCESSOR, "not a processor"),
     (RECORD, "not a record")],
)  # fmt: skip
def test_kinds_are_checked_before_a_class_is_called(kind: Any, name: str, tmp_path: Path) -> None:
    """The error for a class of another kind says what it lacks; a function is not a class."""
    (tmp_path / "own_kinds.py").write_text(
        "class Other:\n    def __init__(self):\n        raise SystemError\ndef make():\n    raise SystemError\n"
    )
    path = str(tmp_path / "own_kinds.py")
    with pytest.raises(BuildError, match=f"Other is {name.replace('(', '.').replace(')', '.')}"):
        build({"class": "Other", "module_path": path}, kind=kind)
    with pytest.raises(BuildError, match=r"make is not a .* but a function"):
        build({"class": "make", "module_path": path}, kind=kind)


def test_methods_of_the_metaclass_do_not_count() -> None:
    """Every class can be called, but that does not mean that its instances are processors."""
    with pytest.raises(BuildError, match=r"not a processor of single instruments: it has no __call__\(\)"):
        build({"class": "rollforge.features.dataset.DatasetH", "kwargs": {}}, kind=INST_PROCESSOR)


# -- a pool: Rollforge, the libraries of models, and allowed packages --------------------------------------------------

MINE = """
    open({marker!r}, "a").close()
    import pandas as pd
    from rollforge.models.base import Model


    class Mean(Model):
        def fit(self, dataset, **kwargs):
            self.value = 1.0

        def predict(self, dataset, segment="test"):
            return pd.Series(self.value, index=dataset.prepare(segment, col_set="feature").index)
"""


@pytest.fixture
def mine(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, in which importing ``my_model`` creates the marker file."""
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "my_model.py").write_text(textwrap.dedent(MINE).format(marker=str(marker)))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delitem(sys.modules, "my_model", raising=False)
    return folder


def worker(store: str, *options: str, cwd: Path, data: Path | None = None, **env: str) -> Any:
    where = ["--data", str(data)] if data is not None else ["--no-data"]
    command = ["worker", "-t", "p", "--store", store, "--exit-when-empty", "-j", "1", *where, *options]
    return rollforge(*command, "--tracking", f"folder:{cwd / 'runs'}", cwd=cwd, env=env)


@pytest.mark.slow
def test_a_worker_runs_nothing_that_was_not_allowed(
    tmp_path: Path, small_market: Path, marker: Path, mine: Path
) -> None:
    """Attacks in every place, written to the pool by someone else, are neither called nor imported."""
    uri = f"sqlite:///{tmp_path / 'tasks.db'}"
    some = attacks(marker)
    rows = [put(template(), PLACES[place], some[name]) for place in PLACES for name in ("function", "class")]
    rows += [put(template(), ("model",), {"class": "Mean", "module_path": path})
             for path in ("my_model", str(mine / "my_model.py"), str(marker.parent / "hostile.py"))]  # fmt: skip
    rows += [{"class": {"$ref": "os:system"}}, {**template(), "x": {"y": 1}}]
    open_store(uri).create("p", rows)
    done = worker(uri, cwd=tmp_path, data=small_market)
    assert done.returncode == 7, done.stderr
    assert not marker.exists()
    assert "Traceback" not in done.stderr
    left = [t for t in open_store(uri).query("p") if t.cause is Cause.REQUIREMENTS_NOT_MET]
    assert left
    assert all(t.status is Status.WAITING and t.attempt == 0 for t in left)


@pytest.mark.slow
def test_a_task_that_is_not_allowed_waits_for_a_worker_that_allows_it(
    tmp_path: Path, small_market: Path, marker: Path, mine: Path
) -> None:
    """The worker reports the package and the two ways to allow it. A worker that allows the package or file, by an
    option or by the variable, runs the task. The trained model can only be loaded where its package is allowed."""
    uri = f"sqlite:///{tmp_path / 'tasks.db'}"
    task = {**template(), "record": []}
    open_store(uri).create("p", [put(task, ("model",), {"class": "Mean", "module_path": "my_model"})])
    done = worker(uri, cwd=tmp_path, data=small_market)
    assert done.returncode == 7, done.stderr
    assert "belongs to 'my_model', which this worker is not allowed to run" in done.stderr
    assert "--allow my_model or ROLLFORGE_ALLOW=my_model" in done.stderr
    (row,) = open_store(uri).query("p")
    assert (row.status, row.attempt, row.cause) == (Status.WAITING, 0, Cause.REQUIREMENTS_NOT_MET)
    assert not marker.exists()
    done = worker(uri, "--allow", "my_model", cwd=tmp_path, data=small_market)
    assert done.returncode == 0, done.stderr
    (row,) = open_store(uri).query("p")
    assert row.status is Status.DONE
    assert marker.exists()
    read = (
        "import sys; from rollforge.track.base import open_reference; import json\n"
        "print(type(open_reference(json.loads(sys.argv[1])).load_object('params.pkl')).__name__)\n"
    )
    argv = [sys.executable, "-c", read, json.dumps(row.result["recorder"])]
    refused = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    assert "my_model.Mean, which is not on the list" in refused.stderr
    allowed = subprocess.run(
        argv, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "ROLLFORGE_ALLOW": "my_model"}
    )
    assert allowed.stdout.strip() == "Mean", allowed.stderr
    for n, (options, env) in enumerate(
        [((), {"ROLLFORGE_ALLOW": "other, my_model"}), (("--allow", str(mine / "my_model.py")), {}),
         (("--allow", "lib/my_model.py"), {})]
    ):  # fmt: skip
        path = ("my_model", str(mine / "my_model.py"), "lib/my_model.py")[n]
        changed = {**put(task, ("model",), {"class": "Mean", "module_path": path}), "n": n}
        open_store(uri).create("p", [changed])
        done = worker(uri, *options, cwd=tmp_path, data=small_market, **env)
        assert done.returncode == 0, done.stderr
    assert open_store(uri).count("p") == {Status.DONE: 4}


def built(task: dict[str, Any]) -> str:
    """Build the model of a task, as the task function of a script."""
    return type(build(task["model"], kind=MODEL)).__name__


@pytest.mark.parametrize("in_process", [False, True], ids=["processes", "in process"])
def test_tasks_submitted_by_a_script_may_use_its_own_code(
    tmp_path: Path, mine: Path, marker: Path, in_process: bool
) -> None:
    """Tasks created by this process may use any module of the user; other tasks in the pool may not, nor may a
    definition that someone has replaced."""
    uri = f"sqlite:///{tmp_path / 'tasks.db'}"
    session = Session(store_uri=uri, threads=1)
    store = open_store(uri)
    own = {"model": {"class": "Mean", "module_path": "my_model"}, "of": "user"}
    theirs = {"model": {"class": "Mean", "module_path": "my_model"}, "of": "someone else"}
    store.create("p", [theirs])

    def run() -> None:
        job = Job("p", built)
        worker_pool: Any = Worker(store, job) if in_process else WorkerPool(store, job, session, 1)
        with using(session), pytest.raises(RequirementsNotMet, match="my_model"):
            worker_pool.run()

    run()
    assert not marker.exists()
    (own_id,) = TaskManager("p", session=session).create_task([own])
    run()
    assert store.get("p", own_id).status is Status.DONE
    assert store.get("p", digest(theirs)).status is Status.WAITING
    changed = {"model": {"class": "Mean", "module_path": "my_model"}, "of": "allegedly the user"}
    (tampered,) = TaskManager("p", session=session).create_task([{**own, "n": 2}])
    import sqlite3

    with closing(sqlite3.connect(tmp_path / "tasks.db")) as raw, raw:
        raw.execute("UPDATE tasks SET definition = ? WHERE id = ?", (encode(changed), tampered))
    raw.close()
    run()
    assert store.get("p", tampered).status is Status.WAITING


@pytest.mark.slow
def test_a_class_of_a_notebook_is_sent_to_worker_processes(tmp_path: Path) -> None:
    """A class of a program without a file is sent to the worker processes together with the task, not through the
    pool."""
    script = textwrap.dedent(
        """
        import pandas as pd
        from rollforge.build import build
        from rollforge.kinds import MODEL
        from rollforge.models.base import Model
        from rollforge.run.executor import LocalProcesses
        from rollforge.run.job import Job
        from rollforge.session import Session, init
        from rollforge.store.manager import TaskManager
        from rollforge.testing_of_trust import name_of

        FACTOR = 3

        class Mine(Model):
            def fit(self, dataset): pass
            def predict(self, dataset, segment="test"): return FACTOR

        session = init(store="sqlite:///tasks.db", threads=1)
        manager = TaskManager("p")
        manager.create_task([{"model": {"class": "Mine", "module_path": "__main__"}}])
        LocalProcesses(1).run(Job("p", name_of), session)
        print([t["res"] for t in manager.query()])
        from rollforge.run.interactive import main_classes
        print(main_classes('{"item":{"recorder":{}}}') is not None, main_classes('{"item":1}'))
        """
    ).replace("rollforge.testing_of_trust", "names_models")
    (tmp_path / "names_models.py").write_text(
        "from rollforge.build import build\nfrom rollforge.kinds import MODEL\n"
        "def name_of(task):\n    made = build(task['model'], kind=MODEL)\n    return [type(made).__name__, made.predict(None)]\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=120
    )
    assert done.stdout.split("\n")[:2] == ["[['Mine', 3]]", "True None"], done.stderr


def test_trainers_may_use_their_own_code_in_processes(tmp_path: Path, mine: Path) -> None:
    """``TrainerR(jobs=…)`` uses no pool, so all its tasks are the user's own."""
    session = Session(tracking_uri=f"folder:{tmp_path / 'runs'}", threads=1)
    with using(session):
        (recorder,) = TrainerR("e", made_recorder, jobs=1)([{"model": {"class": "Mean", "module_path": "my_model"}}])
        assert recorder.list_tags()["made"] == "Mean"


def made_recorder(task: dict[str, Any], experiment_name: str, recorder_name: str | None = None) -> Any:
    from rollforge.session import current_session
    from rollforge.track.base import get_experiment, open_tracker

    experiment = get_experiment(open_tracker(current_session().tracking_uri), experiment_name=experiment_name)
    recorder = experiment.create_recorder()
    recorder.set_tags(made=type(build(task["model"], kind=MODEL)).__name__)
    recorder.end_run()
    return recorder


# -- the rules themselves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [Origin.POOL, Origin.READ])
@pytest.mark.parametrize(
    ("name", "module"),
    [("system", "os"), ("Popen", "subprocess"), ("eval", "builtins"), ("Thing", "antigravity"), ("Thing", "this"),
     ("Mean", "my_model"), ("Thing", "__main__"), ("Thing", "__mp_main__"), ("run", "rollforge.__main__"),
     ("main", "rollforge.compat.qlib.__main__"), ("Thing", "./hostile.py"), ("DataFrame", "pandas"),
     ("ZipFile", "rollforge.track.artifact"), ("Path", "rollforge.build"), ("os", "rollforge.session"),
     ("import_file", "rollforge.build"), ("popen", "os\0"), ("__loader__", "rollforge.build"), ("__dict__", "rollforge.build")],
)  # fmt: skip
def test_a_pool_may_not_refer_to_other_code(origin: Origin, name: str, module: str, mine: Path, marker: Path) -> None:
    """The standard library, functions, main programs, files and other packages, also as names in another module."""
    before = set(sys.modules)
    with from_origin(origin), pytest.raises(RollforgeError):
        locate(name, module)
    assert not marker.exists()
    assert not {"antigravity", "this", "my_model"} & (set(sys.modules) - before)


def test_a_pool_may_refer_to_classes_of_rollforge() -> None:
    """Rollforge's classes, by their own names and by Qlib's."""
    with from_origin(Origin.POOL):
        ours = locate("LGBModel", "qlib.contrib.model.gbdt")
        assert locate("rollforge.models.lightgbm.LGBModel") is ours


def test_allowing_a_package_allows_only_its_own_classes(monkeypatch: pytest.MonkeyPatch, mine: Path) -> None:
    """Names that it imports, functions, and a package with the same prefix are not allowed."""
    (mine / "my_pkg").mkdir()
    (mine / "my_pkg" / "__init__.py").write_text("from subprocess import Popen\nfrom my_pkg_2 import Two\n")
    (mine / "my_pkg" / "inner.py").write_text("class One:\n    pass\ndef make():\n    pass\n")
    (mine / "my_pkg_2.py").write_text("class Two:\n    pass\n")
    monkeypatch.setenv("ROLLFORGE_ALLOW", "my_pkg")
    with from_origin(Origin.POOL):
        assert locate("One", "my_pkg.inner").__name__ == "One"
        for name, module in (("Popen", "my_pkg"), ("Two", "my_pkg"), ("Two", "my_pkg_2"), ("make", "my_pkg.inner")):
            with pytest.raises(CodeNotAllowed):
                locate(name, module)
    for name in ("Popen", "Two"):
        data = b"cmy_pkg\n" + name.encode() + b"\n."
        with pytest.raises(UntrustedPickle):
            safe_pickle.loads(data)


@pytest.mark.parametrize(
    "name", ["os", "os.path", "subprocess", "builtins", "posix", "__main__", "my-package", "mine,os"]
)
def test_python_itself_cannot_be_allowed(name: str, monkeypatch: pytest.MonkeyPatch, marker: Path) -> None:
    """Neither by the variable nor by a session, for tasks or pickles: it is an error, and nothing is called."""
    popen = pickle.dumps(CallOf(subprocess.Popen, (["touch", str(marker)],)))
    monkeypatch.setenv("ROLLFORGE_ALLOW", name)
    for attempt in (
        lambda: safe_pickle.loads(popen),
        lambda: trust.checked_plugins((), path="plugins"),
        lambda: trust.is_allowed_module("os"),
    ):
        with pytest.raises(ConfigError, match="ROLLFORGE_ALLOW: "):
            attempt()
    monkeypatch.delenv("ROLLFORGE_ALLOW")
    with using(Session(plugins=(name.rpartition(",")[2],))):
        for attempt in (lambda: safe_pickle.loads(popen), lambda: trust.is_allowed_module("os")):
            with pytest.raises(ConfigError, match="plugins: "):
                attempt()
    assert not marker.exists()


class CallOf:
    """An object that is pickled as a call."""

    def __init__(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def test_commands_report_that_python_itself_cannot_be_allowed(small_market: Path, tmp_path: Path) -> None:
    """``plan`` and ``worker`` exit with an error before they do anything else."""
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"rollforge": {"data": str(small_market)}, "task": template()}))
    store = f"sqlite:///{tmp_path}/tasks.db"
    for command, environment in (
        (["plan", str(file)], {"ROLLFORGE_ALLOW": "os"}),
        (["worker", "-t", "p", "--store", store, "--exit-when-empty"], {"ROLLFORGE_ALLOW": "os"}),
        (["worker", "-t", "p", "--store", store, "--exit-when-empty", "--allow", "os"], {}),
    ):
        done = rollforge(*command, env=environment)
        assert done.returncode == 2
        assert "'os' cannot be allowed, because it belongs to the standard library" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "tasks.db").exists()


@pytest.mark.parametrize(
    ("reference", "allowed"),
    [("builtins:float", True), ("numpy:float32", True), ("collections:OrderedDict", True),
     ("rollforge.models.linear:LinearModel", True), ("builtins:eval", False), ("builtins:type", False),
     ("os:system", False), ("subprocess:Popen", False), ("numpy:load", False), ("my_model:Mean", False),
     ("rollforge.build:import_file", False), ("rollforge.session:os.environ", False),
     ("rollforge.track.artifact:zipfile.ZipFile", False), ("json:decoder.scanner", False),
     ("rollforge.models.linear:LinearModel.__init__.__globals__", False)],
)  # fmt: skip
def test_references_in_a_task_are_checked(reference: str, allowed: bool, mine: Path, marker: Path) -> None:
    """A class of values or of Rollforge may be an argument; a function, or an attribute of a class or module, may
    not."""
    text = json.dumps({"x": {"$ref": reference}})
    with from_origin(Origin.POOL):
        if allowed:
            assert isinstance(decode_definition(text)["x"], type)
        else:
            with pytest.raises(CodeNotAllowed):
                decode_definition(text)
    assert not marker.exists()


def test_listing_a_pool_shows_references_as_text(tmp_path: Path) -> None:
    """A reference to something other than a class is shown as text, so that contents of modules do not appear in
    reports."""
    store = open_store("memory://looking")
    uri = f"sqlite:///{tmp_path / 'tasks.db'}"
    store = open_store(uri)
    (made,) = store.create("p", [{"x": 1}])
    import sqlite3

    with closing(sqlite3.connect(tmp_path / "tasks.db")) as raw, raw:
        raw.execute("UPDATE tasks SET definition = ?", (json.dumps({"x": {"$ref": "os:environ"}}),))
    raw.close()
    assert store.get("p", made.id).definition == {"x": "os.environ"}


def test_plugins_of_a_workflow_are_checked(small_market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages and files are recorded in the session; a missing file and the standard library are errors."""
    (tmp_path / "local.py").write_text("")
    (tmp_path / "lib" / "plugged_pkg").mkdir(parents=True)
    (tmp_path / "lib" / "plugged_pkg" / "models.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    file = tmp_path / "own.yaml"
    document = {"rollforge": {"data": str(small_market)}, "task": template()}
    file.write_text(yaml.safe_dump({**document, "plugins": ["plugged_pkg.models", "./local.py"]}))
    assert load_workflow(file).session.plugins == ("plugged_pkg.models", str(tmp_path / "local.py"))
    for wrong, message in (("./nothing.py", "does not exist"), ("os", "standard library"), ("a-b", "is not a package")):
        file.write_text(yaml.safe_dump({**document, "plugins": [wrong]}))
        with pytest.raises(ConfigError, match=message):
            load_workflow(file)


def test_the_users_own_classes_can_be_loaded(tmp_path: Path, mine: Path) -> None:
    """When the user's own definition has named a class, it can be loaded from a pickle in this process."""
    import pickle

    import my_model  # type: ignore[import-not-found]

    data = pickle.dumps(my_model.Mean())
    with pytest.raises(UntrustedPickle):
        safe_pickle.loads(data)
    build({"class": "Mean", "module_path": "my_model"}, kind=MODEL)
    assert type(safe_pickle.loads(data)) is my_model.Mean


# -- files and pools written by others ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["filter", "processor of a group", "processor"])
def test_a_stored_handler_cannot_add_code(where: str, small_market: Path, marker: Path, tmp_path: Path) -> None:
    """A handler in a file is data: planning with it, or fetching data from it, imports nothing that the user's own
    definitions do not refer to."""
    from rollforge.features.dataset import DatasetH
    from rollforge.features.handler import DataHandlerLP
    from rollforge.features.loader import QlibDataLoader

    attacks(marker)
    evil = {"class": "Thing", "module_path": str(marker.parent / "hostile.py")}
    loader = QlibDataLoader({"feature": (["$close"], ["C"]), "label": (["Ref($close,-2)/Ref($close,-1)-1"], ["L"])})
    handler = DataHandlerLP("all", "2022-01-03", "2023-09-29", loader, learn_processors=["DropnaLabel"])
    if where == "filter":
        handler.instruments = {"market": "all", "filter_pipe": [evil]}
    else:
        loader.inst_processors = [evil] if where == "processor" else {"feature": [evil]}
    handler.to_pickle(tmp_path / "handler.pkl", dump_all=True)
    task = template()
    task["dataset"]["kwargs"]["handler"] = f"file://{tmp_path / 'handler.pkl'}"
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"rollforge": {"data": str(small_market)}, "task": task}))
    if where == "filter":
        with pytest.raises(ConfigError, match="An object read from a file names Thing"):
            make_plan(load_workflow(file))
    else:
        make_plan(load_workflow(file))  # no data are computed
    with using(Session(provider_uri=str(small_market))):
        dataset = DatasetH(task["dataset"]["kwargs"]["handler"], task["dataset"]["kwargs"]["segments"])
        with pytest.raises(CodeNotAllowed, match=r"allow it: ROLLFORGE_ALLOW="):
            dataset.prepare("train")
    assert not marker.exists()


@pytest.mark.slow
def test_a_run_does_not_build_replaced_definitions(
    tmp_path: Path, small_market: Path, marker: Path, mine: Path
) -> None:
    """If definitions were changed between two calls of ``rollforge run``, they are not built by the program, by its
    processes or by a report, with or without the workflow file."""
    file = tmp_path / "own.yaml"
    document = {
        "rollforge": {"data": str(small_market), "store": "sqlite:///tasks.db", "tracking": "folder:runs"},
        "experiment_name": "p", "task": template(),
        "rolling": {"step": 60},
    }  # fmt: skip
    del document["experiment_name"]
    document["rollforge"]["experiment"] = "p"  # type: ignore[index]
    file.write_text(yaml.safe_dump(document))

    done: Any = None

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return rollforge(*command, cwd=tmp_path)

    assert run("run", str(file), "--jobs", "1").returncode == 0
    import sqlite3

    evil = {"class": "Mean", "module_path": "my_model"}
    for place, others in (
        ("handler", ["collect"]),
        ("strategy", ["report", str(file)]),
        ("executor", []),
        ("signal", []),
    ):
        raw = sqlite3.connect(tmp_path / "tasks.db")
        changed = encode(put(template(), PLACES[place], evil))
        raw.execute("UPDATE tasks SET definition = ?", (changed,))
        raw.commit()
        raw.close()
        stores = ["--store", "sqlite:///tasks.db", "--tracking", "folder:runs"]
        for command in (
            ["report", "p", *stores],
            [*others, *(["p", "--allow-gaps", *stores] if others == ["collect"] else [])],
        ):
            done = run(*command) if command else done
            assert "Traceback" not in done.stderr, done.stderr
        assert not marker.exists(), place
    raw = sqlite3.connect(tmp_path / "tasks.db")
    raw.execute(
        "UPDATE tasks SET definition = ?, status = 'waiting'", (encode(put(template(), PLACES["handler"], evil)),)
    )
    raw.commit()
    raw.close()
    done = run("run", str(file), "--jobs", "1")
    assert done.returncode == 7, done.stderr
    assert not marker.exists()


def test_a_following_task_may_only_use_names_of_the_templates(tmp_path: Path) -> None:
    """Someone who can write to the tracking store cannot add code to the next training."""
    with pytest.raises(CodeNotAllowed, match="names 'Evil' of 'evil'"):
        trust.check_names({"model": {"class": "Evil", "module_path": "evil"}}, [template()], "The task of recorder 1")
    for harmless in (template(), {"model": {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt"}}):
        trust.check_names(harmless, [template()], "The task of recorder 1")
    mine = {"model": {"class": "Mine", "module_path": "my_pkg.models"}}
    trust.check_names(mine, [{**template(), "reweighter": {"class": "my_pkg.models.Other"}}], "The task of recorder 1")


@pytest.mark.slow
def test_submitted_plugins_are_allowed_in_the_users_own_pool(
    tmp_path: Path, small_market: Path, marker: Path, mine: Path
) -> None:
    """``rollforge submit`` records the plugins of the workflow; a worker allows them if only its user can write to the
    pool, and not if a group can."""
    file = tmp_path / "own.yaml"
    task = {**put(template(), ("model",), {"class": "Mean", "module_path": "my_model"}), "record": []}
    where = {"store": "sqlite:///own/tasks.db", "tracking": f"folder:{tmp_path / 'runs'}", "experiment": "p"}
    (tmp_path / "own").mkdir(mode=0o700)
    document = {"rollforge": {"data": str(small_market), **where}, "plugins": ["my_model"], "task": task}
    file.write_text(yaml.safe_dump(document))
    done = rollforge("submit", file, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    marker.unlink()  # planning the user's own file imports its plugins
    (tmp_path / "own" / "tasks.db").chmod(0o660)
    done = worker("sqlite:///own/tasks.db", cwd=tmp_path, data=small_market)
    assert done.returncode == 7, done.stderr
    assert "ROLLFORGE_ALLOW=my_model" in done.stderr
    assert not marker.exists()
    (tmp_path / "own" / "tasks.db").chmod(0o600)
    done = worker("sqlite:///own/tasks.db", cwd=tmp_path, data=small_market)
    assert done.returncode == 0, done.stderr
    assert open_store(f"sqlite:///{tmp_path / 'own' / 'tasks.db'}").count("p") == {Status.DONE: 1}


@pytest.mark.parametrize(
    "reference",
    [{"tracking": "sqlite:///{new}/runs.db"}, {"tracking": "folder:{new}/runs"}, {"tracking": "{new}/mlruns"},
     {"tracking": {"a": 1}}, {"tracking": None}, {"recorder_id": 7}, {"recorder_id": "../../../etc"}, {"host": ["x"]}],
)  # fmt: skip
def test_references_to_recorders_in_a_pool_create_no_files(reference: dict[str, Any], tmp_path: Path) -> None:
    """A result that refers to a missing tracking store, or is not a reference, raises an error and creates nothing; a
    second stage that needs it fails, and the worker continues."""
    from rollforge.run.references import recorder_of

    new = tmp_path / "new"
    kept = {"tracking": "folder:{new}/runs", "experiment_id": "1", "recorder_id": "a1", **reference}
    kept = {k: v.replace("{new}", str(new)) if isinstance(v, str) else v for k, v in kept.items()}
    with pytest.raises(RollforgeError):
        recorder_of({"recorder": kept}).list_tags()
    assert not new.exists()
    store = open_store(f"sqlite:///{tmp_path / 'tasks.db'}")
    store.create("p", [{"x": 1}], max_attempts=1)
    (claimed,) = store.claim("p", worker="w", lease=60.0)
    store.commit(claimed, {"recorder": kept}, Status.PART_DONE)
    job = Job("p", lambda recorder: recorder.list_tags(), before=Status.PART_DONE)
    Worker(store, job).run()
    (row,) = store.query("p", results=False)
    assert (row.status, row.cause) == (Status.FAILED, Cause.RAISED)
    assert not new.exists()


# -- single checks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("mine.models", r"--allow mine or ROLLFORGE_ALLOW=mine\."),
        ("/home/me/mine.py", r"--allow /home/me/mine\.py or"),
        ("mine.__main__", "cannot be named by a task of a pool"),
        ("__main__", "cannot be named by a task of a pool"),
        ("lightgbm.__main__", "cannot be named by a task of a pool"),
    ],
)
def test_the_error_suggests_to_allow_a_package_only_if_possible(module: str, message: str) -> None:
    """The error names the package or the file; a main program can never be allowed."""
    with from_origin(Origin.POOL), pytest.raises(CodeNotAllowed, match=message):
        trust.check_import("Thing", module)


def test_a_reference_is_a_value_class_or_a_library_class() -> None:
    """Functions, and other classes of the standard library, are refused, whichever module they are found in."""
    import collections

    import sklearn.base
    from sklearn.linear_model import Lasso

    with from_origin(Origin.POOL):
        for fine in (int, dict, collections.OrderedDict, Path, Lasso):
            trust.check_reference(fine, "m", "n")
        for bad in (subprocess.Popen, type, property, json.loads, sklearn.base.clone, build):
            with pytest.raises(CodeNotAllowed, match="cannot be named by a task of a pool"):
                trust.check_reference(bad, "m", "n")
        for bad in (eval, open, os.system, 3, None):
            with pytest.raises(CodeNotAllowed, match="m:n"):
                trust.check_reference(bad, "m", "n")
        with pytest.raises(CodeNotAllowed, match="cannot be named by a task of a pool"):
            trust.check_reference(subprocess.Popen, "numpy", "Popen")
    trust.check_reference(subprocess.Popen, "subprocess", "Popen")  # allowed in the user's own file


def test_a_report_builds_only_objects_of_a_backtest() -> None:
    """Strategies are built; models and other objects are not."""
    from rollforge.models.linear import LinearModel
    from rollforge.record.strategy import TopkDropoutStrategy

    trust.check_built(LinearModel, "LinearModel")
    with from_origin(Origin.READ):
        trust.check_built(TopkDropoutStrategy, "TopkDropoutStrategy")
        with pytest.raises(CodeNotAllowed, match="LinearModel"):
            trust.check_built(LinearModel, "LinearModel")
    with from_origin(Origin.POOL):
        trust.check_built(LinearModel, "LinearModel")


def test_a_module_belongs_to_the_file_it_was_loaded_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module belongs to the file it was loaded from under any name; a module of another file does not."""
    import types

    files = [tmp_path / "one.py", tmp_path / "two.py"]
    for file in files:
        file.write_text("")
    monkeypatch.setenv("ROLLFORGE_ALLOW", os.pathsep.join(map(str, files)))
    for name, made_of in (("as_two", str(files[1])), ("as_three", str(tmp_path / "three.py"))):
        module = types.ModuleType(name)
        module.__rollforge_file__ = (made_of, 0)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    assert trust.allowed_file("as_two") == str(files[1])
    assert trust.allowed_file("as_three") is None
    assert trust.allowed_file("json") is None
    assert trust.is_allowed_module("as_two")
    assert not trust.is_allowed_module("as_three")


@pytest.mark.parametrize("name", ["no\0path.py", "~nobody has this name/mine.py"])
def test_a_name_that_is_not_a_path_allows_no_file(name: str) -> None:
    """A name that is not a path does not prevent that another name allows one either."""
    with using(Session(allow=(name,))), from_origin(Origin.POOL), pytest.raises(CodeNotAllowed):
        trust.check_import("Mean", "/home/me/mine.py", where="model")
    with using(Session(allow=(name, "/home/me/mine.py"))), from_origin(Origin.POOL):
        trust.check_import("Mean", "/home/me/mine.py", where="model")


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("rollforge.models.linear", {Origin.OWN, Origin.POOL, Origin.FILE, Origin.READ}),
        ("qlib.contrib.model", {Origin.OWN, Origin.POOL, Origin.FILE, Origin.READ}),
        ("lightgbm.sklearn", {Origin.OWN, Origin.POOL, Origin.FILE}),
        ("permitted.models", {Origin.OWN, Origin.POOL, Origin.FILE}),
        ("named_before", {Origin.OWN, Origin.FILE}),
        ("unknown", {Origin.OWN}),
        ("os", set()),
    ],
)
@pytest.mark.parametrize("origin", list(Origin))
def test_what_each_origin_may_name(
    origin: Origin, module: str, allowed: set[Origin], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the import by the name of the module, and after it by the module in which the class is defined."""
    monkeypatch.setenv("ROLLFORGE_ALLOW", "permitted")
    monkeypatch.setattr(trust, "_remembered", set())
    trust.remember("named_before")
    with from_origin(Origin.POOL):
        trust.remember("unknown")  # a definition of the pool does not count
    trust.remember("lightgbm.sklearn")  # nor do libraries, which keep their own rules
    thing = type("Thing", (), {"__module__": module})
    for check in (
        lambda: trust.check_import("Thing", module, where="model"),
        lambda: trust.check_defined(thing, "Thing", where="model"),
    ):
        refusal = BuildError if origin is Origin.OWN else CodeNotAllowed
        expected = contextlib.nullcontext() if origin in allowed else pytest.raises(refusal, match=r"^model: ")
        with from_origin(origin), expected:
            check()
    assert trust.loads_back(module) is (module in ("permitted.models", "named_before"))


def test_only_classes_are_called_for_others() -> None:
    """The user's own definition may name a function; no definition may name a module or a value."""

    def made() -> None: ...

    made.__module__ = "rollforge.models.linear"
    trust.check_defined(made, "made")
    for origin in (Origin.POOL, Origin.FILE, Origin.READ):
        with from_origin(origin), pytest.raises(CodeNotAllowed, match="made is not a class"):
            trust.check_defined(made, "made")
    for value in (json, 3, type("Called", (), {"__call__": print, "__module__": 3})()):
        with pytest.raises(BuildError, match="'value' is not a model but"):
            trust.check_defined(value, "value", noun="model")


def test_libraries_need_no_permission() -> None:
    """No permission is needed for the package of a library and its modules, but for a file or subpackage of the same name."""
    for name in ("lightgbm", "lightgbm.sklearn", "rollforge.models", "qlib"):
        assert trust.is_library(name)
    for name in ("mine", "mine.lightgbm", "lightgbm.py", "lightgbmx", ""):
        assert not trust.is_library(name)


def test_definitions_in_a_restored_object_come_from_a_file() -> None:
    """In the user's own program they do; in a pool they still belong to the pool, and other objects are the user's
    own."""

    class Restored:
        _restored = True

    with trust.of_restored(Restored()):
        assert trust.current_origin() is Origin.FILE
    with trust.of_restored(object()):
        assert trust.current_origin() is Origin.OWN
    with from_origin(Origin.POOL), trust.of_restored(Restored()):
        assert trust.current_origin() is Origin.POOL
