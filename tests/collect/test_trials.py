"""The variants tried in an experiment: which ones count, their returns, and the notes about undefined figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from definitions import LINEAR, alpha158, stores, task_definition, write_workflow
from rollforge.collect.coverage import Coverage
from rollforge.collect.outcomes import TaskOutcome
from rollforge.collect.result import Collected, ModelResult
from rollforge.collect.trials import Trials, make_trials
from rollforge.errors import CoverageError
from rollforge.generate.label import Label
from rollforge.generate.naming import trial_of
from rollforge.generate.timeline import make_schedule
from rollforge.pipeline import collect, keep_result, with_trials, write_results
from rollforge.plan import make_plan
from rollforge.record.analysis import quantile_returns
from rollforge.record.overfitting import backtest_overfitting, deflated_sharpe
from rollforge.report.summary import result_metrics, summarise
from rollforge.store.manager import TaskManager
from rollforge.task import Status, TaskRecord, digest

DAYS = pd.bdate_range("2020-01-01", periods=120)
INDEX = pd.MultiIndex.from_product([DAYS, [f"s{i:02}" for i in range(20)]], names=["datetime", "instrument"])
TRUTH = pd.DataFrame({"label": np.random.default_rng(0).normal(size=len(INDEX)) * 0.01}, INDEX)


def definition(depth: int, *, step: int = 0, **more: Any) -> dict[str, Any]:
    """Return a task of a variant; `step` moves its test segment."""
    test = (str(DAYS[step].date()), str(DAYS[step + 50].date()))
    return {
        "model": {"class": "LGBModel", "kwargs": {"depth": depth}},
        "dataset": {"kwargs": {"segments": {"train": ("2019-01-01", "2019-12-31"), "test": test}}},
        **more,
    }


def outcome(task: dict[str, Any], model: str = "", status: Status = Status.DONE) -> TaskOutcome:
    """Return a finished task without a recorder."""
    record = TaskRecord(id=digest(task), pool="p", definition=task, status=status, model_name=model)
    return TaskOutcome(record, None, model)


def result(outcomes: Sequence[TaskOutcome], skill: dict[str, float], days: int | None = 1) -> Collected:
    """Return a result in which each model predicts the label with some skill."""
    models = []
    for i, (name, strength) in enumerate(skill.items()):
        noise = np.random.default_rng(i + 1).normal(size=len(INDEX)) * 0.01
        score = pd.DataFrame({"score": TRUTH["label"] * strength + noise, "further": 0.0}, INDEX)
        models.append(ModelResult(name, score, TRUTH.assign(further=0.0), Label("x", days)))
    schedule = make_schedule([o.task.definition for o in outcomes], DAYS.to_numpy().astype("datetime64[D]"))
    first = models[0].prediction
    return Collected(tuple(outcomes), schedule, first, TRUTH, Label("x", days), Coverage(), models=tuple(models))


def never(_: Sequence[TaskOutcome]) -> Collected:
    """Fail: there is nothing else to collect."""
    raise AssertionError("nothing else was to be collected")


def trials_of(
    collected: Collected, others: Sequence[TaskOutcome] = (), collect: Any = never, recorded: Sequence[str] = ()
) -> Trials | None:
    """Return the variants of a result and further tasks."""
    return make_trials(collected, [o.task for o in (*collected.outcomes, *others)], others, collect, recorded)


def test_windows_and_records_do_not_make_another_variant() -> None:
    """Only the model, the data and their processing do."""
    assert trial_of(definition(4)) == trial_of(definition(4, step=20))
    assert trial_of(definition(4)) == trial_of(definition(4, record=[{"class": "SigAnaRecord"}]))
    assert trial_of(definition(4)) != trial_of(definition(8))


def test_one_variant_has_no_figures() -> None:
    """However many windows and records it has."""
    outcomes = [outcome(definition(4, step=s)) for s in (0, 20)]
    collected = result(outcomes, {"": 0.1})
    assert trials_of(collected, [outcome(definition(4, record=[{"class": "SigAnaRecord"}]))]) is None


def test_the_figures_are_those_of_the_quintile_spreads() -> None:
    """The figures equal figures computed by hand from the predictions."""
    outcomes = [outcome(definition(d), f"d{d}") for d in (1, 2, 3)]
    collected = result(outcomes, {"d1": 0.0, "d2": 0.2, "d3": 0.1})
    made = trials_of(collected)
    assert made is not None
    spreads = {}
    for model in collected.models:
        assert model.prediction is not None
        returns = quantile_returns(model.prediction["score"], TRUTH["label"])
        spreads[model.name] = returns[5] - returns[1]
    frame = pd.DataFrame(spreads)
    pd.testing.assert_frame_equal(made.returns, frame, check_freq=False)
    assert (made.tried, made.notes, made.deflated) == (3, (), deflated_sharpe(frame))
    assert made.overfitting is not None
    assert made.overfitting.probability == backtest_overfitting(frame).probability
    assert made.deflated is not None
    assert made.deflated.name == "d2"
    assert made.sharpes()["d2"] == pytest.approx(frame["d2"].mean() / frame["d2"].std() * 252**0.5)


def test_a_variant_is_evaluated_by_its_own_label() -> None:
    """A variant's own label counts if it is of the same kind as that of the result; otherwise the result's does, so
    that returns are comparable."""
    outcomes = [outcome(definition(d), f"d{d}") for d in (1, 2, 3, 4)]
    collected = result(outcomes, {"d1": 0.0, "d2": 0.2, "d3": 0.2, "d4": 0.2})
    first, *rest = collected.models
    opposite, same = -TRUTH, Label("x", 1)
    labels = ((opposite, same), (opposite, Label("y", 1)), (None, same))
    others = [
        replace(model, prediction=rest[0].prediction, label=label, target=target)
        for model, (label, target) in zip(rest, labels, strict=True)
    ]
    made = trials_of(replace(collected, models=(first, *others)))
    assert made is not None
    plain = trials_of(collected)
    assert plain is not None
    np.testing.assert_allclose(made.returns["d2"], -plain.returns["d2"])
    for name in ("d3", "d4"):
        np.testing.assert_allclose(made.returns[name], plain.returns["d2"])


def test_definitions_with_live_objects_have_no_figures() -> None:
    """Definitions with live objects are never stored, so that earlier variants are unknown."""
    outcomes = [outcome(definition(d), f"d{d}") for d in (1, 2)]
    collected = result(outcomes, {"d1": 0.0, "d2": 0.2})
    live = TaskRecord(id="live", pool="p", definition={"model": object()}, status=Status.DONE)
    assert make_trials(collected, [*(o.task for o in outcomes), live], [], never) is None


def test_variants_without_varying_returns_have_no_figures() -> None:
    """The notes say which figures are not defined, and why."""
    outcomes = [outcome(definition(d), f"d{d}") for d in (1, 2)]
    collected = result(outcomes, {"d1": 0.0, "d2": 0.2})
    constant = tuple(replace(m, label=TRUTH * 0.0) for m in collected.models)
    made = trials_of(replace(collected, models=constant))
    assert made is not None
    assert made.deflated is None
    assert made.notes == (
        "A deflated Sharpe ratio needs at least 2 variants with 3 different returns; there are 0.",
        *made.notes[1:],
    )
    assert not any("not defined" in note for note in made.notes)


def test_labels_over_several_days_are_used_without_overlap() -> None:
    """Every fifth day of a label over five days, per day of holding."""
    outcomes = [outcome(definition(d), f"d{d}") for d in (1, 2)]
    daily, weekly = (trials_of(result(outcomes, {"d1": 0.0, "d2": 0.2}, days)) for days in (1, 5))
    assert daily is not None
    assert weekly is not None
    np.testing.assert_allclose(weekly.returns, daily.returns.iloc[::5] / 5)
    assert weekly.periods == 252 / 5
    assert weekly.overfitting is None
    assert "needs at least 32 observations" in weekly.notes[0]
    unknown = trials_of(result(outcomes, {"d1": 0.0, "d2": 0.2}, None))
    assert unknown is not None
    assert (unknown.deflated, unknown.overfitting) == (None, None)
    assert "label_days" in unknown.notes[0]


def test_variants_of_earlier_submissions_count() -> None:
    """Those with a result are evaluated; those whose result was deleted still count, and unreadable ones are listed."""
    collected = result([outcome(definition(1), "d1")], {"d1": 0.1})
    idle = outcome(definition(9), "d9", Status.FAILED)
    earlier = [outcome(definition(d, step=s), f"d{d}") for d in (2, 3, 4, 5) for s in (0, 20)]

    def again(chosen: Sequence[TaskOutcome]) -> Collected:
        assert len(chosen) == 2
        name = chosen[0].model
        if name == "d3":
            raise CoverageError("its files are gone.")
        found = result(chosen, {name: 0.0})
        if name == "d4":
            found = replace(found, models=(replace(found.models[0], prediction=None),))
        if name == "d5":  # its first name has no result
            found = replace(found, models=(replace(found.models[0], name="old", prediction=None), *found.models))
        return found

    made = trials_of(collected, [idle, *earlier], again)
    assert made is not None
    assert made.tried == 5
    assert list(made.returns) == ["d1", "d2", "d5"]
    assert made.deflated is not None
    assert made.deflated.trials == 5, "two of them are no longer known, but could have been chosen"
    assert made.deflated == deflated_sharpe(made.returns, 5)
    assert made.deflated.expected_max > deflated_sharpe(made.returns).expected_max
    assert made.notes == (
        "The variant 'd3' is left out: its files are gone.",
        "1 variant does not count as a trial: failed or not trained in all windows, so there was no result to choose.",
        "2 variants of 5 have no returns any more, because tasks, runs or predictions are missing, but count as trials.",
    )


def test_variants_without_any_result_do_not_count() -> None:
    """Neither failed nor waiting ones; a variant of which only some windows failed does."""
    outcomes = [outcome(definition(d), f"d{d}") for d in (1, 2)]
    partly = [outcome(definition(3, step=s), "d3", status) for s, status in ((0, Status.DONE), (20, Status.FAILED))]
    collected = result([*outcomes, *partly], {"d1": 0.0, "d2": 0.2, "d3": 0.1})
    idle = [
        outcome(definition(d), f"d{d}", status)
        for d, status in ((4, Status.FAILED), (5, Status.WAITING), (6, Status.RUNNING), (7, Status.PART_DONE))
    ]
    made = trials_of(collected, idle)
    assert made is not None
    assert made.deflated is not None
    assert (made.tried, made.deflated.trials, list(made.returns)) == (3, 3, ["d1", "d2", "d3"])
    assert made.notes == (
        "4 variants do not count as trials: failed or not trained in all windows, so there was no result to choose.",
    )
    alone = result([outcome(definition(1), "d1")], {"d1": 0.1})
    assert trials_of(alone, [outcome(definition(2), "d2", Status.FAILED)]) is None, "of one result, none was chosen"


def test_variants_whose_tasks_were_removed_count() -> None:
    """A finished run names its variant; also that of a task which is waiting to be trained again."""
    collected = result([outcome(definition(d), f"d{d}") for d in (1, 2)], {"d1": 0.0, "d2": 0.2})
    again = [outcome(definition(3), "d3", Status.WAITING)]
    gone = [trial_of(definition(d)) for d in (2, 3)]

    def nothing(chosen: Sequence[TaskOutcome]) -> Collected:
        return replace(result(chosen, {"d3": 0.0}), models=(ModelResult("d3", None, None, Label("x", 1)),))

    made = trials_of(collected, again, nothing, gone)
    assert made is not None
    assert made.deflated is not None
    assert (made.tried, made.deflated.trials) == (3, 3)
    assert made.notes == (
        "1 variant of 3 has no returns any more, because tasks, runs or predictions are missing, but counts as a trial.",
    )


def test_each_seed_is_a_trial() -> None:
    """The best seed could have been chosen, which a note explains."""

    def seeded(depth: int, seed: int) -> dict[str, Any]:
        task = definition(depth)
        task["model"]["kwargs"] |= {"seed": seed, "bagging_seed": seed}
        return task

    outcomes = [outcome(seeded(d, s), f"d{d}s{s}") for d in (1, 2) for s in (1, 2)]
    made = trials_of(result(outcomes, {o.model: 0.1 * i for i, o in enumerate(outcomes)}))
    assert made is not None
    assert made.tried == 4
    assert made.notes == (
        "4 variants are 2 apart from their seeds. Each seed counts as a trial, because the best one could have been chosen.",
    )
    made = trials_of(result(outcomes[:2], {"d1s1": 0.1, "d1s2": 0.2}))
    assert made is not None
    assert made.notes[0].startswith("2 variants only differ in their seeds. ")


def test_a_variant_of_other_days_is_left_out_of_the_comparison() -> None:
    """A variant of other days still counts as a trial."""
    collected = result([outcome(definition(d), f"d{d}") for d in (1, 2)], {"d1": 0.1, "d2": 0.0})

    def again(chosen: Sequence[TaskOutcome]) -> Collected:
        found = result(chosen, {"d3": 0.3})
        short = found.models[0].prediction
        assert short is not None
        return replace(found, models=(replace(found.models[0], prediction=short.loc[: DAYS[59]]),))

    made = trials_of(collected, [outcome(definition(3), "d3")], again)
    assert made is not None
    assert made.deflated is not None
    assert (made.deflated.trials, made.deflated.observations) == (3, 60)
    assert made.overfitting is not None
    assert made.overfitting.trials == 2
    assert "without 'd3', which lacks" in made.notes[0]


def test_a_variant_of_more_days_is_compared_on_those_of_the_result() -> None:
    """An earlier variant does not make the current ones lack days."""
    whole = result([outcome(definition(d), f"d{d}") for d in (1, 2)], {"d1": 0.1, "d2": 0.0})
    first = whole.models[0].prediction
    assert first is not None
    models = tuple(replace(m, prediction=first.loc[: DAYS[59]]) for m in whole.models)
    made = trials_of(replace(whole, models=models), [outcome(definition(3), "d3")], lambda c: result(c, {"d3": 0.3}))
    assert made is not None
    assert made.overfitting is not None
    assert (made.overfitting.trials, made.overfitting.observations) == (3, 60)
    assert made.notes == ()


def write_grid(folder: Path, market: Path, alphas: list[float]) -> Path:
    """Write a workflow with a ridge regression for each penalty."""
    fillna = {"class": "Fillna", "kwargs": {"fields_group": "feature"}}
    handler = alpha158(instruments="all", start_time="2022-06-01", end_time="2023-10-31", infer_processors=[fillna])
    segments = {"train": ["2023-01-03", "2023-06-30"], "test": ["2023-07-03", "2023-10-31"]}
    model = {**LINEAR, "kwargs": {"estimator": "ridge", "alpha": 1.0}}
    document = {
        "rollforge": stores(market, folder, "grid"),
        "task": task_definition(handler, segments, model=model),
        "rolling": {"step": 50, "rtype": "sliding"},
        "grid": {"model.kwargs.alpha": alphas},
    }
    return write_workflow(folder / "grid.yaml", document)


@pytest.mark.slow
def test_from_a_workflow_to_the_report(small_market: Path, tmp_path: Path) -> None:
    """Two submissions to one experiment: the second result knows the variants of the first."""
    from rollforge import pipeline
    from rollforge.workflow import load_workflow

    def run(alphas: list[float]) -> tuple[Any, Collected]:
        plan = make_plan(load_workflow(str(write_grid(tmp_path, small_market, alphas))))
        pipeline.submit(plan)
        pipeline.train(plan, jobs=0)
        session = plan.workflow.session
        return session, with_trials(collect(session, "grid", plan.ids, plan=plan), session, "grid")

    session, first = run([1.0])
    assert first.trials is None
    assert not any("fitted to later days" in w for w in first.warnings)
    session, second = run([100.0, 10000.0])
    assert second.trials is not None
    assert second.trials.tried == 3
    assert sorted(second.trials.returns) == ["alpha=1.0", "alpha=100.0", "alpha=10000.0"]
    summary = write_results(second, name="grid", session=session, config="", folder=tmp_path / "out")
    metrics = result_metrics(summary)
    assert metrics["trials"] == 3
    assert 0 <= metrics["deflated Sharpe"] <= 1
    assert 0 <= metrics["PBO"] <= 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "probability of overfitting" in page
    assert "alpha=1.0" in page
    recorder = keep_result(second, summary, session=session, pool="grid")
    assert recorder is not None
    assert recorder.list_metrics()["PBO"] == metrics["PBO"]

    # The first variant's tasks are removed: its runs, one per window, show that it was tried.
    manager = TaskManager("grid", session=session)
    assert manager.remove({"_id": {"$in": [o.task.id for o in first.outcomes]}}) == 2
    third = with_trials(second, session, "grid").trials
    assert third is not None
    assert third.deflated is not None
    assert (third.tried, third.deflated.trials, len(third.returns.columns)) == (3, 3, 2)


def test_without_variants_the_metrics_have_no_such_figures() -> None:
    """The report of one model is unchanged."""
    from rollforge.report.inputs import ReportInputs

    assert not {"trials", "PBO"} & set(result_metrics(summarise(ReportInputs("t", (), None, None))))
