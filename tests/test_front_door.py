"""``from rollforge import …``: the public names, and their types as seen by type checkers and editors."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_overloads

import pytest

import rollforge
from rollforge import errors

ROOT = Path(__file__).parents[1]
STUB = Path(rollforge.__file__).with_suffix(".pyi")

CORRECT = """
from __future__ import annotations

from typing import Any, assert_type

import numpy as np
import pandas as pd

import rollforge
from rollforge import (
    Collector, D, DatasetH, DelayTrainerR, Experiment, LGBModel, MergeCollector, Model, OnlineManager, OnlineToolR,
    Plan, PredUpdater, R, Recorder, RollforgeError, RollingEnsemble, RollingGen, RollingStrategy, Session, SigAnaRecord,
    SignalRecord, Status, StoreUnavailable, TaskCollector, TaskManager, TaskStore, TimeAdjuster, Tracker, TrainerR,
    TrainerRM, TSDatasetH, Workflow, current_session, load_workflow, make_plan, open_store, open_tracker, run_task,
    task_generator, task_train,
)
from rollforge.collect.result import Collected
from rollforge.features.timeseries import TSDataSampler
from rollforge.pipeline import Submission, collect, submit, train

Moment = pd.Timestamp | None


def use(dataset: DatasetH, experiment: Experiment, manager: OnlineManager, record: SignalRecord, quick: bool) -> None:
    workflow = load_workflow("workflow.yaml")
    assert_type(workflow, Workflow)
    assert_type(make_plan(workflow), Plan)
    with rollforge.using(workflow.session):
        tasks = RollingGen(step=20, rtype=RollingGen.ROLL_SD)(dict(workflow.template))
        assert_type(tasks, list[dict[str, Any]])
    try:
        assert_type(TaskManager("p").create_task(tasks), list[str])
    except StoreUnavailable as exc:
        print(exc)
    except (rollforge.CoverageError, RollforgeError):
        raise
    assert_type(task_train(tasks[0], "experiment"), Recorder)
    assert_type(TrainerR("experiment").train(tasks), list[Recorder])
    assert_type(R.get_recorder(), Recorder)
    assert_type(R.search_records(), pd.DataFrame)
    assert_type(experiment.list_recorders(), dict[str, Recorder])
    assert_type(experiment.list_recorders(rtype="list"), list[Recorder])
    assert_type(experiment.list_recorders(Experiment.RT_L, status="FINISHED"), list[Recorder])
    assert_type(dataset.prepare("train"), pd.DataFrame)
    assert_type(dataset.prepare(["train", "valid"], col_set="feature"), list[pd.DataFrame])
    assert_type(dataset.handler.fetch(slice("2020", None), col_set="label"), pd.DataFrame)
    assert_type(D.features(["A"], ["$close"]), pd.DataFrame)
    assert_type(D.list_instruments("all", as_list=True), list[str])
    assert_type(D.instruments("csi300"), dict[str, Any])
    assert_type(D.list_instruments("all"), dict[str, list[tuple[pd.Timestamp, pd.Timestamp]]])
    assert_type(TimeAdjuster().align_seg(("2020-01-01", "2020-02-01")), tuple[Moment, Moment])
    assert_type(TimeAdjuster().align_seg({"test": ("2020-01-01", None)}), dict[str, tuple[Moment, Moment]])
    assert_type(record.list(), list[str])
    assert_type(dataset.prepare(slice("2020", None)), pd.DataFrame)
    assert_type(open_store("memory://"), TaskStore)
    assert_type(open_tracker("folder:runs"), Tracker)
    assert_type(current_session(), Session)
    signals = manager.get_signals()
    if signals is not None:
        print(signals.index)


def train_and_collect(recorder: Recorder, model: Model, dataset: DatasetH, series: TSDatasetH, plan: Plan) -> None:
    tasks = task_generator({"model": {}}, [RollingGen(step=20)])
    assert_type(tasks, list[dict[str, Any]])
    assert_type(RollingGen(step=20).generate(tasks[0]), list[dict[str, Any]])
    assert_type(recorder.list_artifacts(), list[str])
    assert_type(recorder.list_metrics(), dict[str, float])
    assert_type(recorder.load_object("pred.pkl"), Any)
    assert_type(LGBModel().predict(dataset), pd.Series)
    assert_type(model.predict(dataset, "test"), pd.Series | pd.DataFrame)
    assert_type(series.prepare("train"), TSDataSampler)
    assert_type(series.prepare(["train", "valid"]), list[TSDataSampler])
    assert_type(TrainerRM("experiment", "pool").train(tasks), list[Recorder])
    assert_type(DelayTrainerR("experiment").end_train([recorder]), list[Recorder])
    assert_type(run_task(print, "pool"), bool)
    assert_type(submit(plan), Submission)
    train(plan, jobs=1)
    assert_type(collect(Session(), "pool"), Collected)
    assert_type(SigAnaRecord(recorder).generate(), dict[str, Any] | None)


def serve(collector: Collector, merged: MergeCollector, manager: OnlineManager, strategy: RollingStrategy) -> None:
    assert_type(collector(), dict[str, Any])
    assert_type(merged(), dict[Any, Any])
    frames = {1: pd.DataFrame(), 2: pd.DataFrame()}
    assert_type(RollingEnsemble()(frames), pd.DataFrame)
    assert_type(RollingEnsemble()({1: pd.Series([1.0])}), pd.Series)
    assert_type(TaskCollector("experiment").collect_predictions(str), dict[str, pd.DataFrame])
    assert_type(manager.get_signals(), pd.Series | pd.DataFrame | None)
    assert_type(manager.get_collector(), MergeCollector)
    assert_type(strategy.first_tasks(), list[dict[str, Any]])
    assert_type(OnlineToolR("experiment").online_models(), list[Recorder])


def manage(manager: TaskManager, recorder: Recorder) -> None:
    assert_type(manager.task_stat(), dict[Status, int])
    for task in manager.query({"status": Status.DONE}):
        assert_type(task, dict[str, Any])
    assert_type(manager.fetch_task(), dict[str, Any] | None)
    assert_type(manager.list(), list[str])
    assert_type(PredUpdater(recorder).rmdl.get_model(), Model)
"""

WRONG = """
from rollforge import TaskManger  # has no attribute "TaskManger"
from rollforge import D, Experiment, R, RollingGen, Session, TaskManager, load_workflow, make_plan
TaskManager("p").creat_task([])  # "TaskManager" has no attribute "creat_task"
TaskManager("p").create_task(5)  # incompatible type "int"
RollingGen(stepp=20)  # Unexpected keyword argument "stepp"
Session(thread=3)  # Unexpected keyword argument "thread"
make_plan("workflow.yaml")  # incompatible type "str"; expected "Workflow"
load_workflow("workflow.yaml").sesion  # "Workflow" has no attribute "sesion"
D.feature(["A"], ["$close"])  # has no attribute "feature"
R.get_recorder().lod_object("pred.pkl")  # "Recorder" has no attribute "lod_object"


def ids(experiment: Experiment) -> list[str]:
    return list(experiment.list_recorders(rtype="lst"))  # No overload variant of "list_recorders"
"""


def test_types_survive_the_lazy_import(tmp_path: Path) -> None:
    """With ``mypy --strict`` a correct program has no errors, and each error of a wrong program is found in its
    line."""
    for name, text in (("correct.py", CORRECT), ("wrong.py", WRONG)):
        (tmp_path / name).write_text(text.lstrip(), encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", f"--cache-dir={ROOT / '.mypy_cache'}",
            *(str(tmp_path / name) for name in ("correct.py", "wrong.py")),
        ],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(STUB.parents[1])},  # these sources, whatever is installed
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip
    found: dict[int, str] = {}
    for line in done.stdout.splitlines():
        match = re.match(r".*?(correct|wrong)\.py:(\d+): error: (.+)", line)
        if match:
            assert match[1] == "wrong", line
            found[int(match[2])] = match[3]
    expected = {
        number: line.partition("  # ")[2]
        for number, line in enumerate(WRONG.lstrip().splitlines(), start=1)
        if "  # " in line
    }
    assert set(found) == set(expected), done.stdout + done.stderr
    for number, message in expected.items():
        assert message in found[number]


def test_the_stub_lists_the_public_names() -> None:
    """The names that type checkers see are those that can be imported, from the modules given in the stub."""
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    listed = {alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(rollforge.__all__) == {"__version__", *listed}
    for name, module in listed.items():
        value = getattr(rollforge, name)
        if module is None:  # the name of a module
            assert value is importlib.import_module(f"rollforge.{name}")
            continue
        assert value is getattr(__import__(f"rollforge.{module}", fromlist=[name]), name)
        assert getattr(value, "__module__", "rollforge.").startswith("rollforge.")


def test_every_error_is_public() -> None:
    """Each error of ``rollforge.errors`` is exported by ``rollforge``, and its docstring says when it is raised."""
    raised = [v for v in vars(errors).values() if inspect.isclass(v) and issubclass(v, Exception)]
    assert len(raised) > 20
    for error in raised:
        assert issubclass(error, errors.RollforgeError)
        assert error.__doc__
        assert getattr(rollforge, error.__name__) is error


def test_names_in_the_readme_can_be_imported_from_rollforge() -> None:
    """Every class that the README names can be imported from ``rollforge``, as its own examples do."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| the same", text, re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert len(names) > 25
    assert names <= set(rollforge.__all__), names - set(rollforge.__all__)
    modules = re.findall(r"^(?:from|import) (rollforge[\w.]*)", text, re.MULTILINE)
    assert set(modules) == {"rollforge"}


def test_the_page_of_errors_is_complete() -> None:
    """It names each error, with the classes that it can also be caught by, and no other."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", page, re.MULTILINE))
    raised = {n: v for n, v in vars(errors).items() if inspect.isclass(v) and issubclass(v, Exception)}
    assert rows.keys() == raised.keys()
    for name, error in raised.items():
        bases = {base.__name__ for base in error.__bases__}
        listed = set(re.findall(r"`(\w+)`", rows[name]))
        assert bases - {"StoreError", "TrackingError", "RollforgeError"} <= listed <= bases, name


OF_ANY_TYPE = {
    "BaseModel.__call__": "what the user's predict() returns",
    "DataHandler.fetch": "with squeeze=True a frame, a series or a number, as in Qlib",
    "DatasetH.prepare": "for a tuple, which is a list of names or a pair of days, as in Qlib",
    "Ensemble.__call__": "what the user's class makes of the objects",
    "SingleKeyEnsemble.__call__": "the only value in a dict of any objects",
    "Group.reduce": "what the ensemble returns",
    "RecordTemp.load": "a saved object",
    "Recorder.load_object": "a saved object",
    "QlibRecorder.load_object": "a saved object",
}
"""Public functions that can return an object of any type, and why."""


def test_what_is_returned_has_a_type() -> None:
    """No public function of the front door returns Any, except where the object is a user's or Qlib's rule says so."""
    found = set()
    for name in rollforge.__all__:
        value = getattr(rollforge, name)
        kind = value if inspect.isclass(value) or inspect.isfunction(value) else type(value)
        functions = [kind] if inspect.isfunction(kind) else [inspect.getattr_static(kind, n) for n in dir(kind)]
        for function in (f.fget if isinstance(f, property) else getattr(f, "__func__", f) for f in functions):
            if not inspect.isfunction(function) or not function.__module__.startswith("rollforge"):
                continue
            if function.__name__.startswith("_") and function.__name__ != "__call__":
                continue
            for one in get_overloads(function) or [function]:
                if one.__annotations__.get("return") in ("Any", "object"):
                    found.add(function.__qualname__)
    assert found == set(OF_ANY_TYPE)


@pytest.mark.parametrize("statement", ["import rollforge", "from rollforge import RollforgeError, StoreUnavailable"])
def test_importing_rollforge_loads_no_large_library(statement: str) -> None:
    """Importing the package, or an error to catch, does not import any large library."""
    code = f"import sys; {statement}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {
        "numpy",
        "pandas",
        "numba",
        "pyarrow",
        "lightgbm",
        "mlflow",
        "plotly",
        "sqlalchemy",
        "yaml",
        "pydantic",
        "typer",
    }
    assert not heavy & set(out.split())
