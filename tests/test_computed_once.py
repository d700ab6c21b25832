"""Windows, warnings and the calendar are computed in the plan and passed on to the report."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from rollforge import pipeline
from rollforge.generate import leakage, timeline
from rollforge.generate.findings import warning_texts
from rollforge.generate.timeline import make_schedule
from rollforge.market.provider import Provider
from rollforge.plan import Plan, make_plan
from rollforge.run.execute import task_train
from rollforge.run.job import Job
from rollforge.run.worker_pool import WorkerPool
from rollforge.store.base import open_store
from rollforge.task import Status
from rollforge.workflow import load_workflow


class Calls(Counter[str]):
    """Counts calls of the functions that read the calendar and compute windows and warnings."""

    def watch(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        func = getattr(owner, name)

        def counting(*args: object, **kwargs: object) -> object:
            self[name] += 1
            return func(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    made = Calls()
    made.watch(monkeypatch, Provider, "calendar")
    made.watch(monkeypatch, timeline, "windows")
    made.watch(monkeypatch, timeline, "static_checks")
    return made


@pytest.fixture
def plan(tmp_path: Path, small_market: Path, calls: Calls) -> Plan:
    """A plan of two models with three windows each, whose training labels reach into the test segments."""
    fields = {"feature": [["$close/Ref($close,1)"], ["RET"]], "label": [["Ref($close,-2)/Ref($close,-1)-1"], ["L"]]}
    handler = {
        "class": "DataHandlerLP",
        "module_path": "qlib.data.dataset.handler",
        "kwargs": {
            "instruments": "all",
            "start_time": "2023-01-03",
            "end_time": "2023-12-01",
            "data_loader": {"class": "QlibDataLoader", "kwargs": {"config": fields}},
            "learn_processors": [{"class": "DropnaLabel"}],
            "infer_processors": [{"class": "Fillna"}],
        },
    }
    segments = {"train": ["2023-01-03", "2023-05-31"], "test": ["2023-06-01", "2023-11-30"]}
    record = [{"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}]
    model = {"class": "LinearModel", "module_path": "qlib.contrib.model.linear"}
    dataset = {"class": "DatasetH", "module_path": "qlib.data.dataset"}
    document = {
        "rollforge": {
            "data": str(small_market),
            "store": f"sqlite:///{tmp_path}/tasks.db",
            "tracking": f"folder:{tmp_path}/runs",
            "experiment": "once",
        },
        "task": {
            "model": model,
            "dataset": {**dataset, "kwargs": {"handler": handler, "segments": segments}},
            "record": record,
        },
        "models": {"ols": {}, "ridge": {"model": {"kwargs": {"estimator": "ridge", "alpha": 0.1}}}},
        "rolling": {"step": 50, "rtype": "sliding", "trunc_days": 0},
        "leakage": "warn",
    }
    (tmp_path / "once.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return make_plan(load_workflow(tmp_path / "once.yaml"))


def collect(plan: Plan, planned: Plan | None) -> pipeline.Collected:
    return pipeline.collect(plan.workflow.session, "once", plan.ids, plan=planned)


def test_windows_and_warnings_are_computed_once(plan: Plan, calls: Calls, tmp_path: Path) -> None:
    """After training, the calendar is not read again; the result is the same as without the plan."""
    assert (calls["windows"], calls["static_checks"]) == (1, 1)
    session = plan.workflow.session
    pipeline.submit(plan)
    pipeline.train(plan, jobs=0)
    assert (calls["windows"], calls["static_checks"]) == (1, 1)
    calls.clear()
    collected = collect(plan, plan)
    summary = pipeline.write_results(collected, name="once", session=session, config="", folder=tmp_path / "out")
    assert not calls
    assert [row.window for row in summary.tasks] == list(plan.windows)
    assert collected.plan_warnings == plan.warnings
    assert len(plan.warnings) == 1

    recomputed = collect(plan, None)
    other = pipeline.write_results(recomputed, name="once", session=session, config="", folder=tmp_path / "other")
    assert dict(calls) == {"calendar": 1, "windows": 1}, "the results of the checks are in the pool"
    assert recomputed.schedule == collected.schedule
    np.testing.assert_array_equal(recomputed.schedule.calendar, collected.schedule.calendar)
    assert (other.headline, other.warnings, other.tasks) == (summary.headline, summary.warnings, summary.tasks)


@pytest.mark.slow
def test_worker_processes_do_not_check_the_tasks_again(plan: Plan) -> None:
    """A worker that is given tasks of others does, so that its log tells what the results may be worth."""
    warning, session = "labels of the last", plan.workflow.session
    store = open_store(session.store_uri)
    assert warning in plan.warnings[0]
    pipeline.submit(plan)
    pipeline.train(plan, jobs=2)
    assert not [task.id for task in store.query("once") if warning in task.log]

    store.set_status("once", None, Status.WAITING)
    WorkerPool(store, Job("once", task_train, kwargs={"experiment_name": "once"}, own=True), session, jobs=2).run()
    assert [task.id for task in store.query("once") if warning in task.log]


def test_the_plan_of_other_tasks_is_not_used(plan: Plan, calls: Calls) -> None:
    """If only some of the tasks are collected, the result has only their windows."""
    pipeline.submit(plan)
    pipeline.train(plan, jobs=0)
    calls.clear()
    some = pipeline.collect(plan.workflow.session, "once", plan.ids[:3], plan=plan)
    assert calls["windows"] == 1
    assert some.schedule.windows == tuple(plan.windows[:3])


def test_a_schedule_contains_windows_and_warnings() -> None:
    calendar = np.arange("2023-01-02", "2023-03-01", dtype="datetime64[D]")
    segments = {"train": ["2023-01-02", "2023-01-31"], "test": ["2023-02-01", None]}
    tasks = [{"dataset": {"kwargs": {"segments": segments}}}]
    schedule = make_schedule(tasks, calendar, ["m"])
    assert schedule.windows == tuple(timeline.windows(tasks, calendar, ["m"]))
    assert schedule.checks == leakage.static_checks(tasks, calendar, ["m, window 1"])
    assert schedule.warnings == tuple(warning_texts(schedule.checks, 1))
