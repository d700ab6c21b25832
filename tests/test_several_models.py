"""Several models in one experiment: the figures of the joined result, computed by hand, also with failed windows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.documents.command_line import call

from rollforge import pipeline
from rollforge.cli.exit_codes import Exit
from rollforge.collect import AverageEnsemble, RecorderCollector
from rollforge.errors import CoverageError, DataError
from rollforge.market.content import mark_of_days, session_content
from rollforge.market.folder_writer import write_folder
from rollforge.market.universe import session_provider
from rollforge.run.execute import DATA_TAG
from rollforge.run.references import to_reference
from rollforge.session import Session
from rollforge.store.base import open_store
from rollforge.store.manager import TaskManager
from rollforge.track.base import get_experiment, open_tracker

POOL = "grid"
CALENDAR = np.arange(np.datetime64("2020-01-01"), np.datetime64("2020-02-01"))
WINDOWS = ((1, 4), (5, 8), (9, 12))
CODES = ("A", "B", "C")
# The labels of every day.
TRUTH = (1.0, 2.0, 4.0)


def day(number: int) -> np.datetime64:
    return CALENDAR[number - 1]


def dates(window: tuple[int, int]) -> tuple[str, str]:
    return str(day(window[0])), str(day(window[1]))


def task(
    model: Any, window: tuple[int, int], label: str = "Ref($close,-2)/Ref($close,-1)-1", **segments: Any
) -> dict[str, Any]:
    """Return a task that is never trained; its prediction is made by the test."""
    segments = {"train": ("2019-01-01", "2019-12-31"), "test": dates(window), **segments}
    handler = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": {"label": [label]}}
    dataset = {"class": "DatasetH", "kwargs": {"handler": handler, "segments": segments}}
    return {"model": {"class": "LGBModel", "kwargs": {"depth": model}}, "dataset": dataset}


def frame(window: tuple[int, int], values: Sequence[float], column: str, codes: Sequence[str] = CODES) -> pd.DataFrame:
    """Return a frame with the same values on each day of a window."""
    days = pd.DatetimeIndex(CALENDAR[window[0] - 1 : window[1]])
    index = pd.MultiIndex.from_product([days, codes], names=["datetime", "instrument"])
    return pd.DataFrame({column: list(values) * len(days)}, index, dtype=float)


class Experiment:
    """A pool and its runs, made by the test."""

    def __init__(self, folder: Path, pool: str = POOL) -> None:
        self.pool = pool
        if not (folder / "data").exists():
            write_folder(folder / "data", CALENDAR, {}, {"all": {c: [(CALENDAR[0], CALENDAR[-1])] for c in CODES}})
        self.session = Session(
            provider_uri=str(folder / "data"), store_uri=f"sqlite:///{folder}/tasks.db", tracking_uri=f"folder:{folder}/runs",
            experiment_name=pool, threads=1,
        )  # fmt: skip
        self.store = open_store(self.session.store_uri)
        self.runs = get_experiment(open_tracker(self.session.tracking_uri), experiment_name=pool)

    def add(
        self,
        definition: dict[str, Any],
        scores: Sequence[float] | None = None,
        truth: Sequence[float] | None = TRUTH,
        codes: Sequence[str] = CODES,
        labelled: Sequence[str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Store a task that is done with these scores on each of its days or, without scores, has failed.

        The labels have the instruments of the scores, or those that are `labelled`.
        """
        (made,) = self.store.create(self.pool, [definition], max_attempts=1)
        (claim,) = self.store.claim(self.pool, worker="w", lease=60, query={"_id": made.id})
        if scores is None:
            self.store.fail(claim, "Traceback\nValueError: no")
            return made.id
        segment = definition["dataset"]["kwargs"]["segments"]["test"]
        windows = [(int(a[-2:]), int(b[-2:])) for a, b in (segment if isinstance(segment, list) else [segment])]
        pred = pd.concat([frame(window, scores, "score", codes) for window in windows])
        with self.runs.create_recorder(tags=dict(tags or {})) as recorder:
            recorder.save_objects(**{"pred.pkl": pred})
            if truth is not None:
                label = pd.concat([frame(window, truth, "LABEL0", labelled or codes) for window in windows])
                recorder.save_objects(**{"label.pkl": label})
        self.store.commit(claim, to_reference(recorder))
        return made.id

    def collect(self, **kwargs: Any) -> pipeline.Collected:
        return pipeline.collect(self.session, POOL, **kwargs)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(tmp_path)


def test_labels_cover_the_days_of_every_model(experiment: Experiment) -> None:
    """The first model failed in one of three windows and the second in none: there are labels for all twelve days."""
    for i, window in enumerate(WINDOWS):
        experiment.add(task(4, window), (1, 2, 3) if i != 1 else None)
    for window in WINDOWS:
        experiment.add(task(8, window), (3, 2, 1))
    collected = experiment.collect(allow_gaps=True)
    assert collected.label is not None
    assert collected.label.index.get_level_values("datetime").nunique() == 12
    assert list(collected.label["LABEL0"]) == list(TRUTH) * 12
    assert collected.model_names == ("depth=4", "depth=8")
    first, second = collected.models
    assert first.prediction is not None
    assert second.prediction is not None
    assert (len(first.prediction), len(second.prediction)) == (24, 36)


def test_a_task_that_is_done_without_a_recorder_is_named(experiment: Experiment) -> None:
    """The window of the task is missing, and the others are collected."""
    for i, window in enumerate(WINDOWS):
        experiment.add(task(4, window), (1, 2, 3) if i != 1 else None)
    TaskManager(POOL, store=experiment.store).reset_status({"status": "failed"}, "done")
    with pytest.raises(CoverageError, match=r"window 2 .* is done but has no prediction"):
        experiment.collect()
    collected = experiment.collect(allow_gaps=True)
    assert collected.prediction is not None
    assert len(collected.prediction) == 24


def test_the_average_is_of_the_models_with_a_prediction(experiment: Experiment) -> None:
    """Where both have predictions, opposite scores cancel; where one failed, the other's scores are used, and a note
    names it."""
    for i, window in enumerate(WINDOWS):
        experiment.add(task(4, window), (1, 2, 3) if i != 1 else None)
        experiment.add(task(8, window), (3, 2, 1))
    with pytest.raises(CoverageError, match=r"depth=4, window 2 .* is failed"):
        experiment.collect()
    collected = experiment.collect(allow_gaps=True)
    assert collected.prediction is not None
    scores = collected.prediction["score"].to_numpy().reshape(12, 3)
    assert (scores[:4] == 0).all()
    assert (scores[4:8] == [1, 0, -1]).all()
    assert collected.coverage.notes == (
        "depth=4, window 2 (2020-01-05 to 2020-01-08) is failed",
        "On 4 days (2020-01-05 to 2020-01-08) the average is of depth=8 alone: depth=4 has no prediction",
    )


def test_windows_have_the_same_number_in_all_models(experiment: Experiment) -> None:
    """Windows have the same number even if a model has no window for some days, and in any order of creation."""
    for window in (WINDOWS[2], WINDOWS[0]):
        experiment.add(task(8, window), (3, 2, 1))
    for window in WINDOWS:
        experiment.add(task(4, window))
    notes = experiment.collect(allow_gaps=True).coverage.notes
    assert [n for n in notes if "failed" in n] == [
        f"depth=4, window {i} ({day(a)} to {day(b)}) is failed" for i, (a, b) in enumerate(WINDOWS, 1)
    ]
    assert "depth=8 has no window for 2020-01-05 to 2020-01-08 (4 trading days), which depth=4 tests" in notes


def test_the_scores_of_a_single_model_are_unchanged(experiment: Experiment) -> None:
    """The scores of a single model are not standardized, and no name is shown."""
    for window in WINDOWS:
        experiment.add(task(4, window), (10, 20, 30))
    collected = experiment.collect()
    assert collected.prediction is not None
    assert list(collected.prediction["score"]) == [10, 20, 30] * 12
    assert collected.model_names == ("",)
    assert collected.coverage.complete
    assert collected.warnings == ()


def test_models_with_different_labels_are_reported(experiment: Experiment) -> None:
    """The joined result is evaluated with the label of the first model, and each model with its own label."""
    five = "Ref($close,-6)/Ref($close,-1)-1"
    experiment.add(task(4, WINDOWS[0]), (1, 2, 3))
    experiment.add(task(8, WINDOWS[0], five), (1, 2, 3), truth=(5, 5, 6))
    experiment.add(task(8, WINDOWS[1], five), (1, 2, 3), truth=(5, 5, 6))
    collected = experiment.collect(allow_gaps=True)
    assert collected.label is not None
    assert list(collected.label["LABEL0"]) == list(TRUTH) * 4
    (warning,) = [w for w in collected.warnings if "different labels" in w]
    first, second = collected.model_names
    assert warning.endswith(f"by the label of {first!r}, which {second!r} does not share.")
    assert collected.models[1].label is not None
    assert set(collected.models[1].label["LABEL0"]) == {5.0, 6.0}


def test_the_same_label_may_be_written_differently(experiment: Experiment) -> None:
    """Spaces in the expression are ignored; different expressions with equal values count as the same label."""
    experiment.add(task(4, WINDOWS[0]), (1, 2, 3))
    experiment.add(task(4, WINDOWS[1]))
    experiment.add(task(8, WINDOWS[0], "Ref($close, -2) / Ref($close, -1) - 1"), (1, 2, 3))
    experiment.add(task(8, WINDOWS[1], "Ref($close, -2) / Ref($close, -1) - 1"), (1, 2, 3))
    experiment.add(task(9, WINDOWS[0], "-1 + Ref($close,-2)/Ref($close,-1)"), (1, 2, 3))
    experiment.add(task(9, WINDOWS[2], "-1 + Ref($close,-2)/Ref($close,-1)"), (1, 2, 3))
    collected = experiment.collect(allow_gaps=True)
    assert collected.label is not None
    assert collected.label.index.get_level_values("datetime").nunique() == 12
    assert not any("different labels" in w for w in collected.warnings)


def test_a_model_with_some_of_the_instruments_is_named(experiment: Experiment) -> None:
    """For the other half the average is that of one model; labels exist for all instruments."""
    experiment.add(task(4, WINDOWS[0]), (1,), truth=TRUTH[:1], codes=CODES[:1])
    experiment.add(task(8, WINDOWS[0]), (3, 2, 1))
    collected = experiment.collect(allow_gaps=True)
    (note,) = collected.coverage.notes
    assert note.startswith("depth=4 lacks 66.7% of the rows that other models predict on the same days: 2 of 3")
    assert collected.prediction is not None
    # A single score on a day is standardized to 0, so that of A is the mean of 0 and the other model's 1.
    assert list(collected.prediction["score"]) == [0.5, 0, -1] * 4
    assert collected.label is not None
    assert list(collected.label["LABEL0"]) == list(TRUTH) * 4


def test_missing_scores_are_not_a_prediction(experiment: Experiment) -> None:
    """A window with only NaN counts as empty, even if another column has values; the first column is the score."""
    experiment.add(task(4, WINDOWS[0]), (float("nan"),) * 3)
    experiment.add(task(4, WINDOWS[1]), (1, 2, 3))
    second, first = experiment.runs.list_recorders("list")
    for recorder, other in ((first, 1.0), (second, float("nan"))):
        recorder.save_objects(**{"pred.pkl": recorder.load_object("pred.pkl").assign(other=other)})
    assert experiment.collect(allow_gaps=True).coverage.notes == (
        "window 1 (2020-01-01 to 2020-01-04) is done but has no prediction",
    )


def test_two_tasks_for_the_same_days_are_two_windows(experiment: Experiment) -> None:
    """If one model has two tasks for the same days, a note says that they overlap; collecting them does not fail."""
    first, second = task(4, WINDOWS[0]), task(4, WINDOWS[0])
    second["dataset"]["kwargs"]["segments"]["train"] = ("2018-01-01", "2019-12-31")
    experiment.add(first, (1, 2, 3))
    other = experiment.add(second, (1, 2, 3))
    (note,) = experiment.collect(allow_gaps=True).coverage.notes
    assert note.startswith("window 1 (2020-01-01 to 2020-01-04) and window 1")
    assert f"of task {other[:8]} overlap" in note


def test_a_task_without_a_trading_day_is_named(experiment: Experiment) -> None:
    """The segment of a task without a trading day is after the end of the calendar, so its run is not part of the
    result. The others are."""
    experiment.add(task(4, WINDOWS[0]), (1, 2, 3))
    task_id = experiment.add(task(4, WINDOWS[0], test=("2031-01-01", "2031-01-04")))
    experiment.add(task(4, WINDOWS[1]), (1, 2, 3))
    collected = experiment.collect(allow_gaps=True)
    assert collected.coverage.notes == (f"task {task_id[:8]} is failed, and no trading day is in its test segment",)
    assert collected.prediction is not None
    assert len(collected.prediction) == 24


# The labels 1, 2, 4 have the deviations -4/3, -1/3, 5/3, whose squares sum to 14/3.
SPREAD = (14 / 3) ** 0.5
UP = 3 / (2**0.5 * SPREAD)  # scores 1, 2, 3
TURNED = -1 / (2**0.5 * SPREAD)  # scores 3, 1, 2
AVERAGE = 1 / (0.5**0.5 * SPREAD)  # the mean of both, standardised: 0, -1/2, 1/2


@pytest.fixture
def incomplete(experiment: Experiment) -> Experiment:
    """Two named models, of which the first failed in the second of three windows."""
    for i, window in enumerate(WINDOWS):
        experiment.add(task(4, window), (1, 2, 3) if i != 1 else None)
        experiment.add(task(8, window), (3, 1, 2))
    definitions = [t.definition for t in experiment.store.query(POOL)]
    experiment.store.create(POOL, definitions, model_names=["shallow", "deep"] * 3)
    return experiment


def results(experiment: Experiment, folder: Path) -> tuple[pipeline.Collected, Any]:
    collected = experiment.collect(allow_gaps=True)
    summary = pipeline.write_results(collected, name=POOL, session=experiment.session, config="", folder=folder)
    return collected, summary


def test_the_figures_of_several_models_agree_with_hand_calculation(incomplete: Experiment, tmp_path: Path) -> None:
    """The average covers twelve days, eight of them with both models; each model is evaluated on its own days."""
    _, summary = results(incomplete, tmp_path)
    headline = summary.headline
    assert (headline.days, headline.rows, headline.ic_days) == (12, 36, 12)
    assert headline.ic == pytest.approx((8 * AVERAGE + 4 * TURNED) / 12)
    assert headline.rank_ic == pytest.approx((8 * 0.5 + 4 * -0.5) / 12)
    assert headline.statuses == {"done": 5, "failed": 1}
    by_name = {model.name: model for model in summary.models}
    assert list(by_name) == ["shallow", "deep"]
    assert (len(by_name["shallow"].ic), len(by_name["deep"].ic)) == (8, 12)
    assert by_name["shallow"].ic.mean() == pytest.approx(UP)
    assert by_name["deep"].ic.mean() == pytest.approx(TURNED)
    assert by_name["shallow"].rank_ic.mean() == pytest.approx(1.0)
    assert by_name["deep"].rank_ic.mean() == pytest.approx(-0.5)
    apart = summary.comparison.differences.xs("IC", level="figure")
    assert apart["days"].to_dict() == {"shallow": 8, "deep": 12}
    assert apart["difference"].tolist() == pytest.approx([UP - AVERAGE, 8 * (TURNED - AVERAGE) / 12])
    section = (tmp_path / "report.html").read_text(encoding="utf-8").split('<section id="models"')[1]
    assert f"{UP - AVERAGE:+.4f}".replace("-", "−") in section.split("</section>")[0]


def test_the_page_names_the_models(incomplete: Experiment, tmp_path: Path) -> None:
    """Models are named in the windows, their dates, the failures, the notes and the table of models."""
    results(incomplete, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    sections = {part.partition('"')[0]: part for part in page.split('<section id="')[1:]}
    assert sections["windows"].count("<td>shallow</td>") == 6, "in the table of windows and in that of dates"
    assert "shallow, window 2" in page
    assert "deep done; shallow failed" in sections["windows"] or "shallow failed; deep done" in sections["windows"]
    assert "shallow" in sections["failed"]
    assert {
        f"{name}</td>" in sections["models"] or f"{name}</th>" in sections["models"] for name in ("shallow", "deep")
    } == {True}
    assert "the average is of deep alone: shallow has no prediction" in page


def test_experiments_are_compared_on_their_common_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One experiment has twelve days and the other, whose second window failed, eight: the difference is that of eight,
    on the page, as Markdown and in the data of the figure; values of the definitions that differ are listed."""
    first, other = Experiment(tmp_path), Experiment(tmp_path, "deeper")
    monkeypatch.setenv("ROLLFORGE_DATA", str(tmp_path / "data"))
    for i, window in enumerate(WINDOWS):
        first.add(task(4, window), (1, 2, 3))
        other.add(task(8, window), (3, 1, 2) if i != 1 else None)
    where = ("--store", first.session.store_uri, "--tracking", first.session.tracking_uri, "--output", tmp_path / "out")
    for form in ("html", "md"):
        done = call("report", POOL, "deeper", *where, "--format", form, "--csv", tmp_path / "csv")
        assert done.exit_code == Exit.FAILED, done.stdout + done.stderr
        assert "Tasks failed in: deeper" in done.stdout
        text = (tmp_path / "out" / f"comparison.{form}").read_text(encoding="utf-8")
        apart = f"{TURNED - UP:+.4f}"
        assert apart in done.stdout
        assert apart.replace("-", "−") in text
    assert "| deeper | 8 | " in text
    assert "| model.kwargs.depth | 4 | 8 |" in text
    assert "3 of 3 done" in text
    assert "2 of 3 done" in text
    found = json.loads(call("report", POOL, "deeper", *where, "--json").stdout)
    assert found["differences"]["deeper"]["IC"] == {
        "days": 8,
        **dict.fromkeys(("difference", "low", "high"), pytest.approx(TURNED - UP)),
        "t": None,
    }
    assert found["experiments"][POOL]["Net return"] is None
    data = pd.read_csv(tmp_path / "csv" / "differences.csv")
    assert data[["y", "x"]].to_numpy().tolist() == [["deeper", pytest.approx(TURNED - UP, abs=1e-5)]]
    curves = pd.read_csv(tmp_path / "csv" / "compared.csv").set_index(["series", "x"])["y"]
    assert curves["deeper"].dropna().tolist() == pytest.approx([TURNED * n for n in range(1, 9)], abs=1e-5)
    assert curves[POOL, "2020-01-12"] == pytest.approx(12 * UP, abs=1e-5)


def test_a_report_for_a_pull_request_has_the_tables_of_the_page(
    incomplete: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Markdown contains the figures, models, windows and failures as tables and lists, and no HTML."""
    monkeypatch.setenv("ROLLFORGE_DATA", str(tmp_path / "data"))
    where = ("--store", incomplete.session.store_uri, "--tracking", incomplete.session.tracking_uri)
    done = call("report", POOL, *where, "--output", tmp_path, "--format", "md")
    assert done.exit_code == Exit.FAILED, done.stdout + done.stderr
    assert not (tmp_path / "report.html").exists()
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"- IC: {(8 * AVERAGE + 4 * TURNED) / 12:.4f} mean of 12 days, Pearson" in text
    assert "| shallow | 8 | " in text
    assert "- Window 2" in text or "ValueError: no" in text
    assert "<" not in text.replace("\\<", "")


def test_the_metrics_of_a_window_are_those_of_its_model(incomplete: Experiment, tmp_path: Path) -> None:
    """If no record has logged metrics, they are computed from the model's own prediction, not from the average."""
    _, summary = results(incomplete, tmp_path)
    found = {(t.model, t.window.index): t.metrics.get("IC") for t in summary.tasks}
    for i in range(3):
        assert found["deep", i] == pytest.approx(TURNED)
        assert found["shallow", i] == (pytest.approx(UP) if i != 1 else None)


def test_the_joined_result_is_a_separate_run(incomplete: Experiment, tmp_path: Path) -> None:
    """The joined run has the figures of the report, for the average and for each model; collecting again updates it."""
    for _ in range(2):
        collected, summary = results(incomplete, tmp_path)
        kept = pipeline.keep_result(collected, summary, session=incomplete.session, pool=POOL)
    assert kept is not None
    (recorder,) = [r for r in incomplete.runs.list_recorders("list", joined=True) if r.name == "joined result"]
    assert recorder == kept
    metrics = recorder.list_metrics()
    assert metrics["IC"] == pytest.approx((8 * AVERAGE + 4 * TURNED) / 12)
    assert (metrics["shallow/IC"], metrics["deep/IC"]) == (pytest.approx(UP), pytest.approx(TURNED))
    assert (metrics["IC days"], metrics["shallow/IC days"], metrics["deep/IC days"]) == (12, 8, 12)
    tags = recorder.list_tags()
    assert tags["rollforge.models"] == "shallow, deep"
    assert tags["rollforge.windows"] == "5 of 6 done"
    assert "shallow, window 2 (2020-01-05 to 2020-01-08) is failed" in tags["rollforge.coverage"]
    assert (tags["rollforge.first_day"], tags["rollforge.last_day"]) == ("2020-01-01", "2020-01-12")
    pd.testing.assert_frame_equal(recorder.load_object("pred.pkl"), collected.prediction)
    children = incomplete.runs.list_recorders("list", tags={"mlflow.parentRunId": recorder.id})
    assert len(children) == 5
    assert {r.list_tags()["rollforge.model"] for r in children} == {"shallow", "deep"}


def test_renaming_a_model_renames_its_runs(incomplete: Experiment, tmp_path: Path) -> None:
    """Nothing is trained again; the joined run and its children are renamed."""
    collected, summary = results(incomplete, tmp_path)
    pipeline.keep_result(collected, summary, session=incomplete.session, pool=POOL)
    definitions = [t.definition for t in incomplete.store.query(POOL)]
    incomplete.store.create(POOL, definitions, model_names=["flat", "deep"] * 3)
    collected, summary = results(incomplete, tmp_path)
    kept = pipeline.keep_result(collected, summary, session=incomplete.session, pool=POOL)
    assert kept is not None
    assert kept.list_tags()["rollforge.models"] == "flat, deep"
    metrics = kept.list_metrics()
    assert metrics["flat/IC"] == pytest.approx(UP)
    assert np.isnan(metrics["shallow/IC"])
    children = incomplete.runs.list_recorders("list", tags={"mlflow.parentRunId": kept.id})
    assert {r.list_tags()["rollforge.model"] for r in children} == {"flat", "deep"}


def test_a_collector_of_all_runs_ignores_the_joined_run(incomplete: Experiment, tmp_path: Path) -> None:
    """Code that lists the runs of the experiment finds only the windows."""
    collected, summary = results(incomplete, tmp_path)
    pipeline.keep_result(collected, summary, session=incomplete.session, pool=POOL)
    assert len(RecorderCollector(incomplete.runs)()["pred"]) == 5


def test_no_joined_run_is_created_without_predictions(experiment: Experiment, tmp_path: Path) -> None:
    """If all windows failed, there is a report and no joined run."""
    experiment.add(task(4, WINDOWS[0]))
    experiment.add(task(8, WINDOWS[0]))
    collected, summary = results(experiment, tmp_path)
    assert pipeline.keep_result(collected, summary, session=experiment.session, pool=POOL) is None
    assert experiment.runs.list_recorders(joined=True) == {}


# -- other data, later data and test segments of several intervals -----------------------------------------------------


def test_an_invalid_prediction_is_named(experiment: Experiment) -> None:
    """The message has its window."""
    experiment.add(task(4, WINDOWS[0]), (1, 2, 3))
    (recorder,) = experiment.runs.list_recorders("list")
    recorder.save_objects(**{"pred.pkl": recorder.load_object("pred.pkl").astype(str)})
    with pytest.raises(DataError, match=r"The pred of window 1 \(2020-01-01 to 2020-01-04\)"):
        experiment.collect()


def test_rows_of_the_data_that_are_not_predicted_are_a_warning(experiment: Experiment) -> None:
    """The result is complete."""
    experiment.add(task(4, WINDOWS[0]), (1,), codes=CODES[:1], labelled=CODES)
    collected = experiment.collect()
    assert collected.warnings == ("window 1 (2020-01-01 to 2020-01-04) leaves out up to 67% of the rows of the data",)


def test_tasks_that_were_trained_on_other_data_are_counted(experiment: Experiment, tmp_path: Path) -> None:
    """Days added since do not count, and neither do runs of earlier versions, which did not record their data; a changed
    member does."""

    def write(days: int, start: int = 0) -> str:
        members = {c: [(CALENDAR[start if c == "B" else 0], CALENDAR[days - 1])] for c in CODES}
        shutil.rmtree(tmp_path / "data")
        write_folder(tmp_path / "data", CALENDAR[:days], {}, {"all": members})
        session_provider(experiment.session).refresh()
        content = session_content(experiment.session)
        assert content is not None
        return mark_of_days(content)

    for start, mark in enumerate([None, write(20), write(30), write(25, start=3)], 1):
        experiment.add(task(4, (start, start)), (1, 2, 3), tags={} if mark is None else {DATA_TAG: mark})
    write(31)
    (warning,) = experiment.collect().warnings
    assert warning.startswith(
        f"1 of 4 windows were trained on data that differ from those now in {experiment.session.provider_uri}. "
    )
    assert f" {POOL} " in warning


def test_tasks_of_earlier_versions_are_counted_apart(experiment: Experiment) -> None:
    """The marks of their data do not tell added days from changed ones; those of the current data do not count."""
    content, provider = session_content(experiment.session), session_provider(experiment.session)
    assert content is not None
    for start, mark in enumerate(["other", provider.fingerprint(), content.mark], 1):
        experiment.add(task(4, (start, start)), (1, 2, 3), tags={DATA_TAG: mark})
    (warning,) = experiment.collect().warnings
    assert warning.startswith("1 of 3 windows were trained by an earlier version, which did not record the last day")
    (warning,) = experiment.collect(ids=[t.id for t in experiment.store.query(POOL)][:1]).warnings
    assert warning.startswith("1 of 1 windows")


@pytest.mark.parametrize("segment", ["train", "valid"])
def test_tasks_that_are_fitted_to_later_days_are_counted(experiment: Experiment, segment: str) -> None:
    """Cross-validation has such tasks; a task whose last day of fitting is its first day of testing does not count."""
    first, second, third = WINDOWS
    experiment.add(task(4, first, **{segment: dates(third)}), (1, 2, 3))
    experiment.add(task(4, second, **{segment: dates((1, second[0]))}), (1, 2, 3))
    experiment.add(task(4, third), (1, 2, 3))
    experiment.add(task(4, third, test=("2031-01-01", "2031-01-04")))
    (warning,) = [w for w in experiment.collect(allow_gaps=True).warnings if "fitted" in w]
    assert warning.startswith("In 1 of 4 tasks the model is fitted to later days than it predicts")


def test_the_parts_of_combinatorial_splits_become_paths(experiment: Experiment) -> None:
    """Each path predicts every day once, and the model's prediction is their average; other models have no paths."""
    a, b, c = WINDOWS
    scores = {(a, b): (1, 2, 3), (a, c): (3, 1, 2), (b, c): (2, 3, 1)}
    for parts, values in scores.items():
        (train,) = {a, b, c} - set(parts)
        experiment.add(task(4, a, train=dates(train), test=[dates(part) for part in parts]), values)
    for window in WINDOWS:
        experiment.add(task(8, window), (5, 6, 7))
    collected = experiment.collect()
    assert [(path.model, path.number) for path in collected.paths] == [("depth=4", 1), ("depth=4", 2)]
    for path, splits in zip(collected.paths, ([(a, b), (a, b), (a, c)], [(a, c), (b, c), (b, c)]), strict=True):
        assert list(path.prediction["score"]) == [score for split in splits for score in scores[split] * 4]
    first, second = collected.models
    average = AverageEnsemble()({path.number: path.prediction for path in collected.paths})
    assert first.prediction is not None
    assert second.prediction is not None
    pd.testing.assert_series_equal(first.prediction["score"], average, check_names=False)
    assert list(second.prediction["score"]) == [5, 6, 7] * 12
    assert collected.ensembles == {
        "windows": "RollingEnsemble", "models": "AverageEnsemble", "paths": "AverageEnsemble",
    }  # fmt: skip
    (warning,) = collected.warnings
    assert warning.startswith("In 2 of 6 tasks the model is fitted to later days")


def test_a_fold_of_several_intervals_is_not_a_path(experiment: Experiment) -> None:
    """Each day is tested once; an interval that lacks a prediction is named."""
    a, b, c = WINDOWS
    experiment.add(task(4, a, test=[dates(a), dates(c)]), (1, 2, 3))
    experiment.add(task(4, b), (4, 5, 6))
    collected = experiment.collect()
    assert collected.paths == ()
    assert collected.ensembles == {"windows": "RollingEnsemble"}
    assert collected.prediction is not None
    assert list(collected.prediction["score"]) == [1, 2, 3] * 4 + [4, 5, 6] * 4 + [1, 2, 3] * 4
    (recorder,) = [o.recorder for o in collected.outcomes if o.task.definition["dataset"] != task(4, b)["dataset"]][:1]
    assert recorder is not None
    recorder.save_objects(**{"pred.pkl": frame(a, (1, 2, 3), "score")})
    notes = experiment.collect(allow_gaps=True).coverage.notes
    assert notes == ("window 1 (2020-01-09 to 2020-01-12) is done but has no prediction",)
