"""Leaks planted in workflow files: what ``plan``, ``run``, ``submit``, ``collect`` and the report show about them."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.documents.command_line import call, run

from rollforge import pipeline
from rollforge.check.proof import Proof
from rollforge.cli.check import keep_results
from rollforge.cli.exit_codes import Exit, exit_code
from rollforge.errors import ConfigError, LeakageError
from rollforge.expressions.operators import unregister_operator
from rollforge.generate.checks import NOT_CHECKED, Check, CheckMethod, CheckResult
from rollforge.plan import make_plan
from rollforge.run.submission import load_checks, store_checks, submissions_of
from rollforge.store.base import open_store
from rollforge.store.memory import MemoryStore
from rollforge.workflow import load_workflow

FIELDS = {"feature": [["$close/Ref($close, 5)"], ["MOM"]], "label": [["Ref($close, -2)/Ref($close, -1) - 1"], ["L"]]}
CODE = """\
from rollforge.data import Processor
from rollforge.expressions.operators import register_operator
from rollforge.features.loader import DataLoader
import numpy as np

def tomorrow(series, x):
    return np.roll(x, -1, axis=1)


register_operator("Tomorrow", tomorrow)


class Loader(DataLoader):
    pass


class Shift(Processor):
    def __call__(self, df):
        return df
"""


def document(tmp_path: Path, data: Path) -> dict[str, Any]:
    """A workflow in Rollforge's format without leaks."""
    kwargs = {
        "instruments": {"market": "all"}, "start_time": "2022-01-03", "end_time": "2023-12-29",
        "data_loader": {"class": "QlibDataLoader", "kwargs": {"config": copy.deepcopy(FIELDS)}},
        "infer_processors": [{"class": "Fillna", "kwargs": {"fields_group": "feature"}}],
        "learn_processors": [{"class": "DropnaLabel"}],
    }  # fmt: skip
    handler = {"class": "DataHandlerLP", "module_path": "rollforge.data", "kwargs": kwargs}
    segments = {"train": ["2022-01-03", "2022-12-30"], "test": ["2023-01-02", "2023-06-30"]}
    return {
        "rollforge": {
            "data": str(data), "store": f"sqlite:///{tmp_path}/tasks.db", "tracking": f"folder:{tmp_path}/runs",
            "experiment": "leaky",
        },
        "task": {
            "model": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear"},
            "dataset": {
                "class": "DatasetH", "module_path": "qlib.data.dataset",
                "kwargs": {"handler": handler, "segments": segments},
            },
            "record": [{"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}],
        },
        "rolling": {"step": 60, "rtype": "expanding"},
    }  # fmt: skip


def handler_of(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
    return found


def config_of(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = handler_of(made)["data_loader"]["kwargs"]["config"]
    return found


@pytest.fixture
def write(tmp_path: Path, small_market: Path) -> Callable[..., Path]:
    """Write the workflow after a change."""

    def written(change: Callable[[dict[str, Any]], object] = lambda made: None, **more: Any) -> Path:
        made = {**document(tmp_path, small_market), **more}
        (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")
        change(made)
        file = tmp_path / "leaky.yaml"
        file.write_text(yaml.safe_dump(made, sort_keys=False), encoding="utf-8")
        return file

    return written


@pytest.fixture(autouse=True)
def _without_operator() -> Iterator[None]:
    yield
    with contextlib.suppress(ConfigError):
        unregister_operator("Tomorrow")


def feature(expression: str) -> Callable[[dict[str, Any]], object]:
    return lambda made: config_of(made).update(feature=[[expression], ["F"]])


def fit(end: str) -> Callable[[dict[str, Any]], object]:
    window = {"fit_start_time": "2022-01-03", "fit_end_time": end, "fields_group": "feature"}
    return lambda made: handler_of(made).update(infer_processors=[{"class": "ZScoreNorm", "kwargs": window}])


def filtered(made: dict[str, Any]) -> None:
    rule = {"filter_type": "ExpressionDFilter", "rule_expression": "Ref($close, -5) > $close"}
    handler_of(made)["instruments"]["filter_pipe"] = [rule]


LEAKS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "Ref": (feature("Ref($close, -1)"), "features: The feature F = Ref($close, -1) looks 1 trading day ahead."),
    "Delta": (feature("Delta($close, -3)"), "features: The feature F = Delta($close, -3) looks 3 trading days ahead."),
    "Slope": (
        feature("Slope(Ref($close, -4), 5)"),
        "features: The feature F = Slope(Ref($close, -4), 5) looks 4 trading",
    ),
    "fit window": (
        fit("2023-06-30"),
        "fit window: For example in window 1, the processor ZScoreNorm learns until 2023-06-30",
    ),
    "filter": (filtered, "filters: The filter Ref($close, -5) > $close looks 5 trading days ahead."),
    "label": (
        lambda made: made["rolling"].update(trunc_days=0),
        "label: The labels of the last 2 days of 'train' reach into 'test'.",
    ),
    "order": (
        lambda made: (
            made.pop("rolling"),
            made["task"]["dataset"]["kwargs"].update(
                segments={"train": ["2023-01-02", "2023-06-30"], "test": ["2022-01-03", "2022-12-20"]}
            ),
        ),
        "segments: 252 of 252 days of 'test' are before the end of 'train' on 2023-06-30",
    ),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_stops_plan_before_anything_is_stored(name: str, write: Callable[..., Path], tmp_path: Path) -> None:
    """One error lists it; it is a warning if the file or the option says so, and nothing is checked if it is off."""
    change, line = LEAKS[name]
    file = write(change)
    for command in ("plan", "submit", "run"):
        refused = call(command, file)
        assert isinstance(refused.exception, LeakageError)
        assert exit_code(refused.exception) is Exit.FAILED
        subject, _, said = line.partition(": ")
        assert re.search(
            rf"^  {subject} \([^)]*\d{{4}}-\d\d-\d\d[^)]*\): {re.escape(said)}", str(refused.exception), re.M
        )
    assert not (tmp_path / "tasks.db").exists()
    warned = call("plan", file, "--leakage", "warn")
    assert warned.exit_code == 0
    assert line.partition(": ")[2].partition(" ")[2][:40] in warned.stderr  # without the capital letter
    assert re.search(r"(In 3 of 3 tasks \(window 1, |From )\d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d", warned.stderr)
    silent = call("plan", file, "--leakage", "off")
    assert (silent.exit_code, "leak" in silent.stderr) == (0, False)
    assert call("plan", write(change, leakage="warn")).exit_code == 0


TESTED = ("2023-03-24", "2023-06-16", "2023-09-08")  # last day of each window

UNKNOWN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "operator": (feature("Mean(Tomorrow($close), 5)"), "operator Tomorrow"),
    "processor": (
        lambda made: handler_of(made).update(infer_processors=[{"class": "Shift", "module_path": "mine.py"}]),
        "processor Shift",
    ),
    "loader": (
        lambda made: handler_of(made).update(data_loader={"class": "Loader", "module_path": "mine.py"}),
        "loaded by Loader",
    ),
    "universe": (lambda made: handler_of(made).update(instruments=["D0001", "D0002"]), "survivorship is not checked"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_result_is_a_warning_even_with_leakage_error(
    name: str, write: Callable[..., Path], small_market: Path
) -> None:
    """The number of tasks and the cause are named."""
    change, word = UNKNOWN[name]

    def changed(made: dict[str, Any]) -> None:
        change(made)
        made["plugins"] = ["./mine.py"]
        made["label_horizon"] = 2
        if name == "universe":
            codes = sorted(p.name.upper() for p in (small_market / "features").iterdir())[:2]
            handler_of(made)["instruments"] = codes

    planned = call("plan", write(changed))
    assert planned.exit_code == 0, planned.output
    assert word in planned.stderr
    days = "; ".join(f"window {i}, 2022-01-03 to {day}" for i, day in enumerate(TESTED, 1))
    assert f"In 3 of 3 tasks ({days}) " in planned.stderr


def test_the_command_ends_with_one_message_and_code_1(write: Callable[..., Path]) -> None:
    """There is no traceback, and every leak is listed with what to do about it."""

    def both(made: dict[str, Any]) -> None:
        feature("Ref($close, -1)")(made)
        made["rolling"]["trunc_days"] = 0

    ended = run("plan", write(both))
    assert ended.returncode == Exit.FAILED
    assert "2 leaks found, so nothing was stored or trained:" in ended.stderr
    assert "Shift it so that it reads only earlier days, or remove it." in ended.stderr
    assert (
        "label (window 1, 2022-12-29 to 2022-12-30; window 2, 2023-03-23 to 2023-03-24; window 3, 2023-06-15 to 2023-06-16): "
        "The labels of the last 2 days"
    ) in ended.stderr
    assert "Use trunc_days: auto, or end it earlier." in ended.stderr
    assert "--leakage warn" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_default_is_that_of_the_format(write: Callable[..., Path], small_market: Path) -> None:
    """A leak is an error in Rollforge's format and a warning in Qlib's; another word is a mistake with the line."""
    leak = LEAKS["Ref"][0]

    def in_qlib_format(made: dict[str, Any]) -> None:
        leak(made)
        made.pop("rollforge")
        made["qlib_init"] = {"provider_uri": str(small_market)}

    assert load_workflow(write(leak)).leakage.value == "error"
    file = write(in_qlib_format)
    assert load_workflow(file).leakage.value == "warn"
    assert call("plan", file).exit_code == 0
    assert isinstance(call("plan", file, "--leakage", "error").exception, LeakageError)
    with pytest.raises(ConfigError, match=r"line \d+: leakage: must be 'error', 'warn' or 'off'"):
        load_workflow(write(leakage="none"))
    with pytest.raises(ConfigError, match="--leakage: must be one of error, warn, off, found 'wran'"):
        load_workflow(write(), leakage="wran")


def test_checks_travel_to_the_result_and_the_report(write: Callable[..., Path], tmp_path: Path) -> None:
    """Checks go from the plan through the pool to a report without the file; their texts are escaped."""
    expression = "$close<Ref($close, -1)"
    file = write(feature(expression), leakage="warn")
    plan = make_plan(load_workflow(file))
    assert {one.result for one in plan.checks} >= {CheckResult.LEAK, CheckResult.CLEAN}
    pipeline.submit(plan)
    pipeline.train(plan, jobs=0)
    session = plan.workflow.session
    store = open_store(session.store_uri)
    text = "<script>alert(1)</script> changes before 2022-06-30."
    measured = Check(
        "features", CheckResult.LEAK, CheckMethod.MEASURED, text, "Remove it.", ("window 1",), ("2022-06-30",)
    )
    store_checks(store, "leaky", [Check("label", CheckResult.CLEAN, CheckMethod.MEASURED, "Old.")], plan.titles)
    store_checks(store, "leaky", [measured], plan.titles)
    store_checks(store, "leaky", [Check("x", CheckResult.LEAK, CheckMethod.MEASURED, "Others.")], {"0" * 64: "other"})
    collected = pipeline.collect(session, "leaky")
    assert collected.checks == (*plan.checks, measured)
    assert pipeline.collect(session, "leaky", plan.ids, plan=plan).checks == collected.checks
    assert len(submissions_of(store, "leaky")) == 1

    out = tmp_path / "out"
    named = call("report", "leaky", "--store", session.store_uri, "--tracking", session.tracking_uri, "--output", out)
    assert named.exit_code == 0, named.output
    assert "what was checked" in named.stdout
    assert "looks 1 trading day ahead" in " ".join(named.stdout.split())
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "What was checked" in page
    assert "The feature F = $close&lt;Ref($close, -1) looks 1 trading day ahead." in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; changes before" in page
    assert "<script>alert(1)" not in page
    assert "measured" in page


def test_a_report_says_that_nothing_was_checked(write: Callable[..., Path], tmp_path: Path) -> None:
    """The report says so if ``leakage`` is off; there is no warning."""
    plan = make_plan(load_workflow(write(LEAKS["Ref"][0], leakage="off")))
    assert plan.checks == (NOT_CHECKED,)
    assert plan.warnings == ()
    pipeline.submit(plan)
    collected = pipeline.collect(plan.workflow.session, "leaky", allow_gaps=True)
    assert collected.checks == (NOT_CHECKED,)
    pipeline.write_results(collected, name="leaky", session=plan.workflow.session, config="", folder=tmp_path / "out")
    assert "No checks were made, because leakage is off." in (tmp_path / "out" / "report.html").read_text(
        encoding="utf-8"
    )


def test_stored_checks_are_read_as_data(write: Callable[..., Path]) -> None:
    """Data of another form that were written to the pool are left out, and long texts are shortened."""
    plan = make_plan(load_workflow(write()))
    pipeline.submit(plan)
    store = open_store(plan.workflow.session.store_uri)
    tasks = list(store.query("leaky", results=False))
    good = {"subject": "s", "result": "leak", "method": "measured", "cure": "", "text": "\x1b[31m" + "x" * 10_000}
    store.keep_submission("leaky", {"checked": [t.id for t in tasks], "checks": [good, 7, None, {"subject": []}]})
    store.keep_submission("leaky", {"checked": 5, "checks": "nothing"})
    *static, one = load_checks(store, "leaky", tasks)
    assert tuple(static) == plan.checks
    assert len(one.text) <= 2000
    assert "\x1b" not in one.text


def test_the_clean_workflow_has_no_finding(write: Callable[..., Path]) -> None:
    """Every static check of it is clean."""
    planned = call("plan", write())
    assert (planned.exit_code, planned.stderr) == (0, "")
    assert {one.result for one in make_plan(load_workflow(write())).checks} == {CheckResult.CLEAN}


def test_the_latest_checks_of_a_task_are_reported(write: Callable[..., Path]) -> None:
    """Including tasks that were done when they were submitted again; a submission without checks replaces no
    results."""
    leak, off = LEAKS["Ref"][0], "off"
    plan = make_plan(load_workflow(write(leak, leakage=off)))
    session = plan.workflow.session
    pipeline.submit(plan)
    pipeline.train(plan, jobs=0)
    assert pipeline.collect(session, "leaky").checks == (NOT_CHECKED,)
    checked = make_plan(load_workflow(write(leak, leakage="warn")))
    assert pipeline.submit(checked).done == 3
    assert checked.ids == plan.ids
    assert pipeline.collect(session, "leaky").checks == checked.checks
    pipeline.submit(plan)
    assert pipeline.collect(session, "leaky").checks == checked.checks
    assert pipeline.collect(session, "leaky", plan.ids, plan=plan).checks == checked.checks


def test_each_task_has_the_checks_that_were_made_of_it(write: Callable[..., Path]) -> None:
    """A later submission of some tasks replaces the results about these only."""
    plan = make_plan(load_workflow(write(leakage="off")))
    pipeline.submit(plan)
    some = make_plan(load_workflow(write(leakage="warn")), limit=1)
    assert some.ids == plan.ids[:1]
    pipeline.submit(some)
    session = plan.workflow.session
    stored = open_store(session.store_uri)
    tasks = {task.id: task for task in stored.query("leaky", results=False)}
    assert load_checks(stored, "leaky", tasks.values()) == (*some.checks, NOT_CHECKED)
    assert load_checks(stored, "leaky", [tasks[plan.ids[0]]]) == some.checks
    assert load_checks(stored, "leaky", [tasks[plan.ids[1]]]) == (NOT_CHECKED,)


def test_results_about_replaced_tasks_are_left_out() -> None:
    """A result about other tasks than those for which it is the latest one is not reported."""
    store = MemoryStore()
    first, second = store.create("p", [{"x": 1}, {"x": 2}])

    def leak(text: str, *titles: str) -> Check:
        return Check("label", CheckResult.LEAK, CheckMethod.MEASURED, text, tasks=titles)

    titles = {first.id: "window 1", second.id: "window 2"}
    store_checks(store, "p", [leak("a", "window 1"), leak("b", "window 2"), leak("c")], titles)
    store_checks(store, "p", [leak("d", "window 1")], {first.id: "window 1"})
    assert {one.text for one in load_checks(store, "p", store.query("p"))} == {"b", "c", "d"}
    assert {one.text for one in load_checks(store, "p", store.query("p", {"x": 1}))} == {"d"}


@pytest.mark.parametrize("scheme", ["memory", "sqlite"])
def test_measured_results_stay_as_long_as_their_tasks(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing other tasks long afterwards does not delete them."""
    monkeypatch.setattr(f"rollforge.store.{'sql' if scheme == 'sqlite' else scheme}.SUBMISSION_SECONDS", -1.0)
    store = MemoryStore() if scheme == "memory" else open_store(f"sqlite:///{tmp_path}/tasks.db")
    kept, gone = store.create("p", [{"x": 1}, {"x": 2}])
    measured = Check("label", CheckResult.CLEAN, CheckMethod.MEASURED, "Clean.")
    store_checks(store, "p", [measured], {kept.id: "window 1", gone.id: "window 2"})
    store.remove("p", {"x": 2})
    assert load_checks(store, "p", store.query("p")) == (measured,)
    store.remove("p")
    assert store.submissions("p") == {}


def test_results_that_were_measured_before_the_tasks_are_submitted_are_reported(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The results are reported if there is a store; a new one is not created for them."""
    plan = make_plan(load_workflow(write()))
    uri = plan.workflow.session.store_uri
    measured = Check("label", CheckResult.CLEAN, CheckMethod.MEASURED, "Clean.")
    keep_results(Proof(plan, (measured,), as_written=True))
    assert not Path(uri.removeprefix("sqlite:///")).exists()
    open_store(uri).create("other", [{"x": 1}])
    keep_results(Proof(plan, (measured,), as_written=True))
    assert "experiment leaky, which are not submitted yet" in capsys.readouterr().err
    assert open_store(uri).pools() == ["other"]
    pipeline.submit(plan)
    assert pipeline.collect(plan.workflow.session, "leaky", allow_gaps=True).checks == (*plan.checks, measured)
