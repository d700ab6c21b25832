"""``from rollforge import …``: the public names, and their types as seen by type checkers and editors."""

from __future__ import annotations

import ast
import dataclasses
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
from rollforge.session import SHORT_NAMES, Session, SessionOptions

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
    assert_type(TrainerRM("experiment", executor=rollforge.Ray("head:6379", jobs=200, cpus=4)).train(tasks), list[Recorder])
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
import pandas as pd
import rollforge
from rollforge import (
    AverageEnsemble, CalendarGen, ChainGen, CombinatorialPurgedGen, D, DataHandlerLP, DatasetH, DelayTrainerRM, Experiment,
    GridGen, Group, LGBModel, ModelUpdater, MultiHorizonGen, OnlineManager, OnlineToolR, PortAnaRecord, PurgedKFold,
    PurgedKFoldGen, R, Recorder, RecorderCollector, RollingEnsemble, RollingGen, RollingSplit, RollingStrategy, SeedGen,
    Session, SigAnaRecord, SignalRecord, Status, TaskCollector, TaskManager, TaskRecord, TimeAdjuster, Tracker, TrainerR,
    TrainerRM, WalkForward, XGBModel, init, load_workflow, make_plan, open_store, open_tracker, register_operator,
    register_store, run_task, task_generator, task_train, using, walk_forward,
)
from rollforge.features.alpha import Alpha158, Alpha360


def use(result: WalkForward, recorder: Recorder, tracker: Tracker, record: TaskRecord, updater: ModelUpdater) -> None:
    TaskManager("p").creat_task([])  # "TaskManager" has no attribute "creat_task"
    TaskManager("p").create_task(5)  # incompatible type "int"
    TaskManager("p").task_stat(5)  # incompatible type "int"
    TaskManager("p").wait(timeout="x")  # Unexpected keyword argument "timeout"
    RollingGen(stepp=20)  # Unexpected keyword argument "stepp"
    CalendarGen(trian="2y")  # Unexpected keyword argument "trian"
    GridGen({"model.kwargs.x": 3})  # incompatible type "str": "int"
    SeedGen("three")  # incompatible type "str"
    PurgedKFoldGen(folds="five")  # Unexpected keyword argument "folds"
    CombinatorialPurgedGen(5, tests="x")  # Unexpected keyword argument "tests"
    MultiHorizonGen(horizons="5")  # Unexpected keyword argument "horizons"
    ChainGen(3)  # incompatible type "int"
    PurgedKFold(n_split=5)  # Unexpected keyword argument "n_split"
    RollingSplit(stepp=3)  # Unexpected keyword argument "stepp"
    task_generator({"model": {}}, [3])  # incompatible type "int"; expected "TaskGen"
    Session(thread=3)  # Unexpected keyword argument "thread"
    Session().provider  # "Session" has no attribute "provider"
    init(provider="x")  # Unexpected keyword argument "provider"
    init("demo", threads="2")  # Argument "threads" to "init" has incompatible type "str"
    with using("session"):  # incompatible type "str"; expected "Session"
        pass
    make_plan("workflow.yaml")  # incompatible type "str"; expected "Workflow"
    load_workflow("workflow.yaml").sesion  # "Workflow" has no attribute "sesion"
    load_workflow(3)  # incompatible type "int"
    make_plan(load_workflow("x")).task  # "Plan" has no attribute "task"
    D.feature(["A"], ["$close"])  # has no attribute "feature"
    D.features(["A"], ["$close"], start="2020")  # Unexpected keyword argument "start"
    DatasetH(handler=3, segments=5)  # Argument "segments" to "DatasetH" has incompatible type "int"
    DatasetH(handler={}, segments={}).prepare("train", colset="x")  # "prepare" of "DatasetH"
    DataHandlerLP(instruments="all", data_loder=1)  # Unexpected keyword argument "data_loder"
    Alpha158(label_hoizon=3)  # Unexpected keyword argument "label_hoizon"
    Alpha360(learn_procesors=[])  # Unexpected keyword argument "learn_procesors"
    LGBModel(loss=3)  # incompatible type "int"
    XGBModel().fit("dataset")  # incompatible type "str"; expected "DatasetH"
    TimeAdjuster().shift("2020-01-01")  # Missing positional argument "step"
    register_operator("x", 3)  # incompatible type "int"
    register_store(1, "a:b")  # incompatible type "int"
    open_store(3)  # incompatible type "int"
    open_tracker(3)  # incompatible type "int"
    TrainerRM(3)  # incompatible type "int"
    DelayTrainerRM("e", pool="p")  # Unexpected keyword argument "pool"
    DelayTrainerRM("e", stor=1)  # Unexpected keyword argument "stor"
    TrainerR("e").trian([])  # "TrainerR" has no attribute "trian"
    rollforge.Ray("head:6379", job=2)  # Unexpected keyword argument "job"
    rollforge.Dask(jobs="2")  # Argument "jobs" to "Dask" has incompatible type "str"
    rollforge.Slurm(option={})  # Unexpected keyword argument "option"
    TrainerR("e", jobs="2")  # Argument "jobs" to "TrainerR" has incompatible type "str"
    run_task("f", "p")  # incompatible type "str"
    run_task(print, "p", before_status=3)  # Argument "before_status" to "run_task" has incompatible type "int"
    task_train([], "e")  # Argument 1 to "task_train" has incompatible type
    R.get_recorder().lod_object("pred.pkl")  # "Recorder" has no attribute "lod_object"
    R.log_metric(a=1)  # "QlibRecorder" has no attribute "log_metric"
    with R.start(experiment=3):  # Unexpected keyword argument "experiment"
        pass
    recorder.log_metrics({"a": 1})  # incompatible type "dict[str, int]"
    recorder.save_objects(3)  # incompatible type "int"
    tracker.create(3)  # "Tracker" has no attribute "create"
    record.statuss  # "TaskRecord" has no attribute "statuss"
    Status("done").x  # "Status" has no attribute "x"
    PortAnaRecord(recorder, confg={})  # Unexpected keyword argument "confg"
    SigAnaRecord("recorder")  # incompatible type "str"
    SignalRecord(None, LGBModel())  # Argument 2 to "SignalRecord" has incompatible type "LGBModel"
    RecorderCollector("e", 3)  # Argument 2 to "RecorderCollector" has incompatible type "int"
    RecorderCollector(experiment=7)  # Argument "experiment" to "RecorderCollector" has incompatible type "int"
    RollingEnsemble().combine()  # "RollingEnsemble" has no attribute "combine"
    AverageEnsemble(3)  # Too many arguments for "AverageEnsemble"
    Group(3)  # incompatible type "int"
    TaskCollector(3)  # incompatible type "int"
    OnlineManager("x")  # incompatible type "str"
    OnlineManager.load("x").rotine()  # "OnlineManager" has no attribute "rotine"
    RollingStrategy("e", {"model": {}}, 20)  # Argument 3 to "RollingStrategy" has incompatible type "int"
    OnlineToolR(3)  # incompatible type "int"
    updater.online()  # "ModelUpdater" has no attribute "online"
    walk_forward(1, 2, label="y", trian="2y")  # Unexpected keyword argument "trian"
    walk_forward(LGBModel(), None, label="y", train="2y", step=pd.Timestamp("2020"))  # incompatible type "Timestamp"
    result.predictions  # "WalkForward" has no attribute "predictions"
    result.report(3.5)  # incompatible type "float"
    result.plot.icc()  # "ResultPlots" has no attribute "icc"
    rollforge.plot.icc(3)  # Module has no attribute "icc"
    rollforge.plot.ic(3)  # Argument 1 to "ic" has incompatible type "int"
    rollforge.plot.equity(3.5)  # Argument 1 to "equity" has incompatible type "float"


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
            found.setdefault(int(match[2]), match[3])
    expected = {
        number: line.partition("  # ")[2]
        for number, line in enumerate(WRONG.lstrip().splitlines(), start=1)
        if "  # " in line
    }
    assert set(found) == set(expected), done.stdout + done.stderr
    for number, message in expected.items():
        assert message in found[number]


def test_the_options_of_init_are_the_fields_of_a_session() -> None:
    """Type checkers know each field of a session, and its short names, as arguments of ``init``."""
    fields = {field.name for field in dataclasses.fields(Session)}
    assert set(SessionOptions.__annotations__) == fields - {"provider_uri"} | set(SHORT_NAMES)


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
    """Every class that the README names can be imported from ``rollforge`` or the package in its row."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| the same(?:, from `(rollforge\.\w+)`)?", text, re.MULTILINE)
    found = [(name, package or "rollforge") for row, package in rows for name in re.findall(r"`(\w+)", row)]
    assert len(found) > 25
    missing = [(name, package) for name, package in found if name not in importlib.import_module(package).__all__]
    assert missing == []
    modules = re.findall(r"^(?:from|import) (rollforge[\w.]*)", text, re.MULTILINE)
    assert set(modules) == {"rollforge"}


def test_the_page_of_errors_is_complete() -> None:
    """The page names each error, with the classes that it can also be caught by, and no other."""
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
    "DatasetH.get_max_time": "a bound of a segment, as the user wrote it",
    "DatasetH.get_min_time": "a bound of a segment, as the user wrote it",
    "DatasetH.prepare": "for a tuple, which is a list of names or a pair of days, as in Qlib",
    "Model.fit": "what the user's fit() returns; LinearModel returns itself, as in Qlib",
    "Ensemble.__call__": "what the user's class makes of the objects",
    "SingleKeyEnsemble.__call__": "the only value in a dict of any objects",
    "Group.reduce": "what the ensemble returns",
    "TaskView.handler": "a description, the address of a file, or an object",
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
        "ray",
        "distributed",
        "dask",
        "dask_jobqueue",
    }
    assert not heavy & set(out.split())


def test_describing_an_executor_imports_no_engine() -> None:
    """Ray and Dask are imported only when tasks run there."""
    code = (
        "import sys, rollforge; rollforge.Ray('head:6379', jobs=2).target(); rollforge.Dask(jobs=2).target(); "
        "rollforge.Slurm(jobs=2).target(); print(*sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"ray", "distributed", "dask", "dask_jobqueue"} & set(out.split())
    assert "rollforge.engine.executors" in out.split()


@pytest.mark.parametrize("first", ["import rollforge.walk_forward", "from rollforge.walk_forward import WalkForward"])
def test_a_function_is_not_replaced_by_the_module_of_its_name(first: str) -> None:
    """Importing the module ``rollforge.walk_forward`` leaves ``rollforge.walk_forward`` the function."""
    code = f"{first}; import rollforge; print(callable(rollforge.walk_forward))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
