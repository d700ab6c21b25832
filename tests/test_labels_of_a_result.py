"""The number of days that a label spans, from the task to the figures of the report, for one model and several."""

from __future__ import annotations

import html
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from definitions import SMALL_MARKET, alpha158, lightgbm, task_definition, write_workflow
from rollforge import pipeline
from rollforge.generate.label import LABEL_TAG, Label, labels_to_text
from rollforge.market.folder_writer import write_folder
from rollforge.plan import make_plan
from rollforge.report.summary import Summary
from rollforge.run.references import to_reference
from rollforge.session import Session
from rollforge.store.base import open_store
from rollforge.track.base import get_experiment, open_tracker
from rollforge.workflow import load_workflow

CODES = tuple("ABCDEFGHIJ")
CALENDAR = pd.bdate_range("2019-01-01", "2020-06-30").to_numpy().astype("datetime64[D]")
WINDOWS = (("2020-01-01", "2020-02-28"), ("2020-03-02", "2020-04-30"))
ONE, FIVE = "Ref($close, -2)/Ref($close, -1) - 1", "Ref($close, -6)/Ref($close, -1) - 1"
WINDOW = "Mean(Ref($close, -5), 5)/$close - 1"


def task(
    window: tuple[str, str], label: Any, depth: int = 4, train_end: str = "2019-11-29", **kwargs: Any
) -> dict[str, Any]:
    given = {**kwargs, **({} if label is None else {"label": [label] if isinstance(label, str) else label})}
    handler = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": given}
    segments = {"train": ("2019-01-01", train_end), "test": window}
    dataset = {"class": "DatasetH", "kwargs": {"handler": handler, "segments": segments}}
    return {"model": {"class": "LGBModel", "kwargs": {"depth": depth}}, "dataset": dataset}


class Experiment:
    """A pool and its runs, with predictions and labels made by the test."""

    def __init__(self, folder: Path) -> None:
        write_folder(folder / "data", CALENDAR, {}, {"all": {c: [(CALENDAR[0], CALENDAR[-1])] for c in CODES}})
        self.folder = folder
        self.session = Session(
            provider_uri=str(folder / "data"), store_uri=f"sqlite:///{folder}/tasks.db", tracking_uri=f"folder:{folder}/runs",
            experiment_name="mine", threads=1,
        )  # fmt: skip
        self.store = open_store(self.session.store_uri)
        self.runs = get_experiment(open_tracker(self.session.tracking_uri), experiment_name="mine")

    def add(self, definition: dict[str, Any], recorded: Sequence[Label] = (), *, fails: bool = False) -> pd.DataFrame:
        """Store a task and its result; return its prediction and label in one frame.

        If the task's record has a `label_col`, the label is the second of three columns.
        """
        column = next((r["kwargs"]["label_col"] for r in definition.get("record", ())), None)
        (made,) = self.store.create("mine", [definition], max_attempts=1)
        (claim,) = self.store.claim("mine", worker="w", lease=60, query={"_id": made.id})
        random = np.random.default_rng(zlib.crc32(str(definition).encode()))
        start, end = (np.datetime64(d) for d in definition["dataset"]["kwargs"]["segments"]["test"])
        days = pd.DatetimeIndex(
            pd.Index(CALENDAR)[np.searchsorted(CALENDAR, start) : np.searchsorted(CALENDAR, end, "right")]
        )
        index = pd.MultiIndex.from_product([days, CODES], names=["datetime", "instrument"])
        both = pd.DataFrame({"score": random.normal(size=len(index))}, index)
        both["LABEL0"] = 0.01 * both["score"] + random.normal(0, 0.02, len(index))
        if fails:
            self.store.fail(claim, "Traceback\nValueError: no")
            return both[:0]
        with self.runs.create_recorder() as recorder:
            other = both["LABEL0"].rename("OTHER")[::-1].set_axis(both.index)
            label = (
                both[["LABEL0"]]
                if column is None
                else pd.concat([other, both["LABEL0"], -other.rename("MORE")], axis=1)
            )
            recorder.save_objects(**{"pred.pkl": both[["score"]], "label.pkl": label})
            if recorded:
                recorder.set_tags(**{LABEL_TAG: labels_to_text(recorded)})
        self.store.commit(claim, to_reference(recorder))
        return both

    def report(self, **kwargs: Any) -> Summary:
        collected = pipeline.collect(self.session, "mine", allow_gaps=True, **kwargs)
        self.parts = pipeline.by_label(collected, self.session, "mine", **kwargs)
        return pipeline.write_results(
            collected, name="mine", session=self.session, config="", folder=self.folder / "results", parts=self.parts
        )

    @property
    def page(self) -> str:
        return (self.folder / "results" / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(tmp_path)


def annual_spread(both: pd.DataFrame, days: int) -> float:
    """Return the annualized mean spread between the highest and the lowest fifth."""
    spreads = []
    for _, rows in both.groupby(level="datetime"):
        ranked = rows.sort_values("score")["LABEL0"].to_numpy()
        spreads.append(ranked[-2:].mean() - ranked[:2].mean())
    return float(np.mean(spreads)) / days * 252


@pytest.mark.parametrize(
    ("label", "recorded", "declared", "shown", "days"),
    [
        (None, (), None, ONE, 1),
        (FIVE, (), None, FIVE, 5),
        (FIVE, (), 6, FIVE, 5),
        (WINDOW, (), None, WINDOW, None),
        (WINDOW, (), 5, WINDOW, 5),
        (None, (Label(FIVE, 5),), None, FIVE, 5),
        (None, (Label(FIVE, 5), Label(ONE, 1)), None, FIVE, 5),
        (None, (Label("Own($close)", None),), 3, "Own($close)", 3),
    ],
    ids=[
        "default of the class",
        "derived",
        "derived and declared",
        "unknown",
        "declared",
        "recorded by the run",
        "two columns",
        "both",
    ],
)
def test_the_report_uses_the_days_of_the_label(
    experiment: Experiment,
    label: str | None,
    recorded: tuple[Label, ...],
    declared: int | None,
    shown: str,
    days: int | None,
) -> None:
    """The days of a label are derived from the task's label, or from the label that the run recorded; declared days are
    used if they cannot be derived."""
    both = pd.concat([experiment.add(task(window, label), recorded) for window in WINDOWS])
    headline = experiment.report(label_days=declared).headline
    assert (headline.label_text, headline.label_days) == (shown, days)
    if days is None:
        assert np.isnan(headline.long_short_return or 0.0)
        assert np.isnan(headline.ic_t or 0.0)
    else:
        assert headline.long_short_return == pytest.approx(annual_spread(both, days))


@pytest.mark.parametrize("column", [1, -2])
def test_the_record_selects_the_column_of_a_label_with_several(experiment: Experiment, column: int) -> None:
    """Values, expression and days are those of ``label_col``, as in the figures of each window."""
    record = [{"class": "SigAnaRecord", "kwargs": {"label_col": column}}]
    label = [[ONE, FIVE, WINDOW], ["OTHER", "LABEL0", "MORE"]]
    definitions = [{**task(window, label), "record": record} for window in WINDOWS]
    both = pd.concat([experiment.add(d) for d in definitions])
    headline = experiment.report().headline
    assert (headline.label_text, headline.label_days) == (FIVE, 5)
    assert headline.long_short_return == pytest.approx(annual_spread(both, 5))


@pytest.mark.parametrize("column", [0, -3, 3, -4])
def test_a_label_without_the_column_has_no_description(experiment: Experiment, column: int) -> None:
    """Days that were declared apply to it, as to any other label without a known number of days."""
    record = [{"class": "SigAnaRecord", "kwargs": {"label_col": column}}]
    label = [[FIVE, ONE, WINDOW], ["OTHER", "LABEL0", "MORE"]]
    experiment.add({**task(WINDOWS[0], label), "record": record})
    headline = experiment.report(label_days=7).headline
    assert (headline.label_text, headline.label_days) == ((FIVE, 5) if column in (0, -3) else ("", 7))


def test_each_model_is_evaluated_with_its_own_label(experiment: Experiment) -> None:
    """Each model is evaluated with its own label and the average with that of the first model; a failed window is
    omitted."""
    first = [experiment.add(task(WINDOWS[0], ONE)), experiment.add(task(WINDOWS[1], ONE), fails=True)]
    second = [experiment.add(task(window, FIVE, depth=8)) for window in WINDOWS]
    summary = experiment.report()
    assert [(m.label_text, m.label_days) for m in summary.models] == [(ONE, 1), (FIVE, 5)]
    for model, parts, days in zip(summary.models, (first, second), (1, 5), strict=True):
        both = pd.concat(parts)
        assert model.annual(model.long_short) == pytest.approx(annual_spread(both, days))
        assert len(model.ic) == both.index.get_level_values("datetime").nunique()
    assert (summary.headline.label_text, summary.headline.label_days) == (ONE, 1)
    assert any("different labels" in w for w in summary.warnings)
    assert list(summary.parts) == ["All models", *(model.name for model in summary.models)]
    for title, part in list(summary.parts.items())[1:]:
        (own,) = (model for model in summary.models if model.name == title)
        assert part.headline.ic == pytest.approx(own.ic.mean())
        assert f"<h2>{html.escape(title)}</h2>" in experiment.page
    assert "The models have different labels" in experiment.page
    assert FIVE in experiment.page


def test_warnings_about_the_plan_are_in_the_report(experiment: Experiment) -> None:
    """Leaks, shared days and labels with an unknown number of days are shown, in addition to the coverage."""
    experiment.add(task(WINDOWS[0], WINDOW, train_end="2019-12-31"))
    experiment.add(task(WINDOWS[1], WINDOW, train_end="2020-03-31"))
    summary = experiment.report()
    leak = "the labels of the last 5 days of 'train' reach into 'test'. Use trunc_days: auto, or end it earlier."
    shared = "22 of 44 days of 'test' are in 'train' too: the model is tested on days to which it was fitted."
    for text in (leak, shared):
        (warning,) = [w for w in summary.warnings if text in w]
        assert warning.startswith("In 1 of 2 tasks (window ")
    assert any(
        w.startswith(f"In 2 of 2 tasks the number of days that the label {WINDOW} spans") for w in summary.warnings
    )
    assert "Notes on this result" in experiment.page
    assert html.escape(leak) in experiment.page


def _workflow(data: Path, extra: dict[str, int], handler: dict[str, int]) -> dict[str, object]:
    segments = {"train": ["2022-01-03", "2022-12-20"], "test": ["2023-01-03", "2023-12-29"]}
    label = ["Mean(Ref($close, -5), 5)/$close - 1"]
    definition = task_definition(
        alpha158(**SMALL_MARKET, label=label, **handler), segments, model=lightgbm(), record=[]
    )
    return {"rollforge": {"data": str(data)}, **extra, "task": definition}


@pytest.mark.parametrize(
    ("extra", "handler", "warnings", "days"),
    [({}, {}, 1, None), ({"label_days": 5}, {}, 0, 5), ({}, {"label_days": 5}, 0, None)],
    ids=["unknown", "in the workflow", "in the handler"],
)
def test_a_workflow_can_declare_days_that_cannot_be_derived(
    extra: dict[str, int], handler: dict[str, int], warnings: int, days: int | None, small_market: Path, tmp_path: Path
) -> None:
    """The number of days is declared at the top level of the workflow, which does not change the tasks, or in the
    handler, as part of the tasks."""
    file = write_workflow(tmp_path / "mine.yaml", _workflow(small_market, extra, handler))
    workflow = load_workflow(file)
    plan = make_plan(workflow)
    assert workflow.label_days == days
    assert len([w for w in plan.warnings if "cannot be determined" in w]) == warnings
    if extra:
        write_workflow(file, _workflow(small_market, {}, {}))
        assert make_plan(load_workflow(file)).ids == plan.ids
