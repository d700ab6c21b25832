"""Collectors and coverage: the result is complete, or reports that it is not."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from rollforge.collect import (
    Collector,
    MergeCollector,
    RecorderCollector,
    RollingEnsemble,
    RollingGroup,
)
from rollforge.collect.coverage import ExpectedWindow, check_coverage
from rollforge.collect.outcomes import TaskOutcome, with_windows
from rollforge.collect.parquet_stream import write_stream
from rollforge.collect.task_collector import TaskCollector
from rollforge.errors import ArtifactUnreadable, ConfigError, CoverageError, ExperimentNotFound
from rollforge.session import Session, using
from rollforge.task import TaskRecord, digest
from rollforge.track.base import Experiment, get_experiment, open_tracker

CALENDAR = np.arange(np.datetime64("2020-01-01"), np.datetime64("2020-03-01"))


def frame(start: str, days: int = 3) -> pd.DataFrame:
    index = pd.MultiIndex.from_product(
        [pd.date_range(start, periods=days), ["A", "B"]], names=["datetime", "instrument"]
    )
    return pd.DataFrame({"score": np.arange(2.0 * days)}, index=index)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """Three finished recorders, each with its window, and a failed one."""
    made = get_experiment(open_tracker(f"folder:{tmp_path}/runs"), experiment_name="mine")
    for i, start in enumerate(["2020-01-07", "2020-01-01", "2020-01-04"]):
        recorder = made.create_recorder(f"r{i}")
        recorder.set_tags(start=start)
        recorder.save_objects(**{"pred.pkl": frame(start)})
        recorder.end_run()
    made.create_recorder("bad").end_run("FAILED")
    return made


def by_window(recorder: object) -> tuple[str, str]:
    return "model", recorder.list_tags()["start"]  # type: ignore[attr-defined]


def test_windows_become_one_prediction(experiment: Experiment) -> None:
    """Sorted, without gaps or duplicates; only finished recorders count, and their runs are known."""
    collector = RecorderCollector(experiment, RollingGroup(), rec_key_func=by_window)
    (prediction,) = collector()["pred"].values()
    assert list(prediction.index.get_level_values("datetime").unique()) == list(pd.date_range("2020-01-01", periods=9))
    assert not prediction.index.has_duplicates
    assert sorted(key[1] for key in collector.recorders) == ["2020-01-01", "2020-01-04", "2020-01-07"]


def test_a_key_may_be_a_list(experiment: Experiment) -> None:
    """For example the parts of a name; it is treated as a tuple."""
    collector = RecorderCollector(experiment, RollingGroup(), rec_key_func=lambda r: list(by_window(r)))
    assert list(collector()["pred"]) == [("model",)]


def test_a_filter_selects_recorders(experiment: Experiment) -> None:
    """A filter can use any property of a recorder."""
    collector = RecorderCollector(
        experiment, rec_key_func=by_window, rec_filter_func=lambda r: r.list_tags()["start"] > "2020-01-02"
    )
    assert len(collector()["pred"]) == 2


def test_arguments_of_one_call_do_not_affect_the_next(experiment: Experiment) -> None:
    """Neither a filter nor another artifact name."""
    collector = RecorderCollector(experiment, rec_key_func=by_window)
    before = dict(vars(collector))
    assert len(collector.collect()["pred"]) == 3
    assert len(collector.collect(rec_filter_func=lambda r: False)["pred"]) == 0
    assert collector.recorders == {}
    assert len(collector.collect()["pred"]) == 3
    only_one = RecorderCollector(experiment, rec_key_func=by_window, rec_filter_func=lambda r: r.name == "r0")
    assert len(only_one.collect(rec_filter_func=lambda r: r.name != "r0")["pred"]) == 2
    assert len(only_one.collect()["pred"]) == 1
    collector.collect(artifacts_key=RecorderCollector.ART_KEY_RAW)
    results = ("missing", "unfinished", "recorders")
    assert {k: v for k, v in vars(collector).items() if k not in results} == {
        k: v for k, v in before.items() if k not in results
    }


def test_an_unfinished_stream_does_not_affect_the_next_collection(experiment: Experiment) -> None:
    """What it later finds missing is recorded separately."""
    experiment.create_recorder("empty").end_run()
    collector = RecorderCollector(experiment, coverage="allow_gaps", jobs=1)
    stream = collector.stream()
    next(stream)
    assert len(collector.collect()["pred"]) == 3
    missing = list(collector.missing)
    list(stream)
    assert collector.missing == missing
    assert len(missing) == 1


def test_an_artifact_that_the_collector_does_not_know_is_refused(experiment: Experiment) -> None:
    """The message suggests the nearest known name."""
    with pytest.raises(ConfigError, match="Did you mean 'pred'"):
        RecorderCollector(experiment, artifacts_key="prd")()


def test_a_missing_artifact_is_an_error_or_a_recorded_gap(experiment: Experiment) -> None:
    """A missing artifact is never dropped silently."""
    experiment.create_recorder("empty").end_run()
    with pytest.raises(CoverageError, match="1 results are missing"):
        RecorderCollector(experiment)()
    collector = RecorderCollector(experiment, coverage="allow_gaps")
    assert len(collector()["pred"]) == 3
    assert len(collector.missing) == 1


def test_an_unreadable_artifact_is_always_an_error(experiment: Experiment, tmp_path: Path) -> None:
    """An unreadable artifact exists, so leaving it out would be wrong."""
    file = next(iter(tmp_path.rglob("pred.pkl.*")))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ArtifactUnreadable):
        RecorderCollector(experiment, coverage="allow_gaps")()


def test_two_recorders_of_one_key_are_an_error(experiment: Experiment) -> None:
    """One would overwrite the other."""
    with pytest.raises(CoverageError, match="same key"):
        RecorderCollector(experiment, rec_key_func=lambda r: "same")()


class Fixed(Collector):
    def collect(self) -> dict[str, dict[str, int]]:
        return {"a": {"x": 1}}


def test_collectors_can_be_merged() -> None:
    """Keys become pairs of names, or the result of `merge_func`."""
    both = {"one": Fixed(), "two": Fixed(process_list=lambda d: sum(d.values()))}
    assert MergeCollector(both)() == {("one", "a"): {"x": 1}, ("two", "a"): 1}
    assert set(MergeCollector(both, merge_func=lambda c, n: f"{c}.{n}")()) == {"one.a", "two.a"}


def window(key: str, start: str, end: str, state: str = "done", group: str = "") -> ExpectedWindow:
    return ExpectedWindow(key, np.datetime64(start), np.datetime64(end), state, group)


def days(start: str, end: str) -> np.ndarray:
    return np.arange(np.datetime64(start), np.datetime64(end) + np.timedelta64(1, "D"))


FIRST, SECOND = window("w1", "2020-01-01", "2020-01-10"), window("w2", "2020-01-11", "2020-01-20")
FOUND = {"w1": days("2020-01-01", "2020-01-10"), "w2": days("2020-01-11", "2020-01-20")}


@pytest.mark.parametrize(
    ("windows", "found", "note"),
    [
        ([FIRST, window("w2", "2020-01-11", "2020-01-20", "failed")], FOUND, "w2 is failed"),
        ([FIRST, window("w2", "2020-01-11", "2020-01-20", "waiting")], FOUND, "w2 is waiting"),
        ([FIRST, window("w2", "2020-01-09", "2020-01-20")], FOUND, "w1 and w2 overlap"),
        ([FIRST, window("w2", "2020-01-15", "2020-01-20")], FOUND, "4 trading days lie between w1 and w2"),
        ([FIRST, SECOND], {"w1": FOUND["w1"]}, "w2 is done but has no prediction"),
        ([FIRST, SECOND], {**FOUND, "w2": FOUND["w2"][3:]}, "w2 has no prediction for 3 days"),
        ([FIRST, SECOND], {**FOUND, "w2": days("2020-01-11", "2020-01-22")}, "w2 predicts 2 days outside"),
    ],
)
def test_problems_of_coverage_are_named(windows: list[ExpectedWindow], found: dict[str, np.ndarray], note: str) -> None:
    """Missing, failed, overlapping, gaps, missing days, stray days: one sentence each, and an error if completeness is
    required.
    """
    coverage = check_coverage(windows, CALENDAR, found)
    assert any(note in n for n in coverage.notes)
    with pytest.raises(CoverageError, match="--allow-gaps") as said:
        coverage.raise_if_incomplete()
    assert ("reset-status waiting" in str(said.value)) is ("is done but" in note), "it is not trained again by a run"


def test_whole_windows_are_complete_and_models_may_overlap() -> None:
    """No notes; windows of different models are checked separately."""
    assert check_coverage([SECOND, FIRST], CALENDAR, FOUND).complete
    other = [window("v1", "2020-01-01", "2020-01-10", group="b"), window("v2", "2020-01-11", "2020-01-20", group="b")]
    also = {"v1": FOUND["w1"], "v2": FOUND["w2"]}
    assert check_coverage([FIRST, SECOND, *other], CALENDAR, {**FOUND, **also}).complete


def test_unfinished_tasks_are_named(experiment: Experiment) -> None:
    """A result collected while tasks run contains the finished ones, and lists the others."""
    running = experiment.create_recorder("busy")
    collector = RecorderCollector(experiment, rec_key_func=by_window)
    assert len(collector()["pred"]) == 3
    assert any(running.id in text and "RUNNING" in text for text in collector.unfinished)
    assert len(collector.unfinished) == 2


def test_results_can_be_streamed(experiment: Experiment) -> None:
    """The same objects under the same keys, without holding all of them at once."""
    collector = RecorderCollector(experiment, rec_key_func=by_window, jobs=2)
    whole = collector()["pred"]
    streamed = dict(collector.stream())
    assert list(streamed) == list(whole)
    for key, value in streamed.items():
        pd.testing.assert_frame_equal(value, whole[key])


def test_a_result_of_other_level_names_is_written_too(experiment: Experiment, tmp_path: Path) -> None:
    """Windows with other index names, saved by a user's record, are joined in the file like any others."""
    for start, names in (("2021-01-04", [None, None]), ("2021-01-01", ["date", "code"])):
        recorder = experiment.create_recorder(start)
        recorder.set_tags(start=start)
        recorder.save_objects(**{"own.pkl": frame(start).rename_axis(index=names)})
        recorder.end_run()
    collector = RecorderCollector(
        lambda: [r for r in experiment.list_recorders().values() if r.list_tags().get("start", "").startswith("2021")],
        rec_key_func=by_window, artifacts_path={"own": "own.pkl"},
    )  # fmt: skip
    write_stream(collector, tmp_path / "own.parquet", name="own")
    written = pd.read_parquet(tmp_path / "own.parquet")
    pd.testing.assert_frame_equal(written, pd.concat([frame("2021-01-01"), frame("2021-01-04")]), check_freq=False)


def test_a_result_larger_than_memory_is_written_window_by_window(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has what RollingEnsemble would return, with overlaps resolved in the same way."""
    late = experiment.create_recorder("overlaps")
    late.set_tags(start="2020-01-05")
    late.save_objects(**{"pred.pkl": frame("2020-01-05").query("instrument == 'A'") + 100})
    late.end_run()
    collector = RecorderCollector(experiment, RollingGroup(), rec_key_func=by_window)
    (expected,) = collector()["pred"].values()
    with monkeypatch.context() as patched:
        # When the file gets its name, it is complete.
        patched.setattr(Path, "replace", lambda draft, target: (pd.read_parquet(draft), os.replace(draft, target))[1])
        rows = write_stream(collector, tmp_path / "all.parquet")
    written = pd.read_parquet(tmp_path / "all.parquet")
    assert rows == len(written) == len(expected)
    pd.testing.assert_frame_equal(written, expected)
    assert [p.name for p in tmp_path.glob("*.draft")] == []
    experiment.create_recorder("empty").end_run()
    with_gaps = RecorderCollector(
        experiment, rec_key_func=lambda r: r.list_tags().get("start", "2021"), coverage="allow_gaps"
    )
    assert write_stream(with_gaps, tmp_path / "gaps.parquet") == rows
    assert len(with_gaps.missing) == 1
    strict = RecorderCollector(experiment, rec_key_func=with_gaps.rec_key_func)
    # If a window is missing, the file is not replaced by a part of the result.
    with pytest.raises(CoverageError, match="1 results are missing"):
        write_stream(strict, tmp_path / "gaps.parquet")
    assert len(pd.read_parquet(tmp_path / "gaps.parquet")) == rows
    assert [p.name for p in tmp_path.iterdir() if "draft" in p.name] == []
    nothing = RecorderCollector(lambda: [], rec_key_func=by_window)
    with pytest.raises(CoverageError, match="no windows"):
        write_stream(nothing, tmp_path / "none.parquet")


def test_collecting_by_task(experiment: Experiment, tmp_path: Path) -> None:
    """The collector of Qlib's earlier documentation passes the task to keys and filters."""
    for i, recorder in enumerate(experiment.list_recorders(status="FINISHED").values()):
        start = recorder.list_tags()["start"]
        kind = "A" if i < 2 else "B"
        recorder.save_objects(
            task={"model": {"class": kind}, "dataset": {"kwargs": {"segments": {"test": (start, None)}}}}
        )
    with using(Session(tracking_uri=f"folder:{tmp_path}/runs")):
        collector = TaskCollector("mine")
        assert collector.exp_name == "mine"
        predictions = collector.collect_predictions(lambda task: task["model"]["class"])
        assert {k: len(v) for k, v in predictions.items()} == {"A": 12, "B": 6}
        only = collector.collect_predictions(lambda task: 0, lambda task: task["model"]["class"] == "B")
        assert len(only[0]) == 6
        (latest,) = collector.collect_latest_records().values()
        assert latest.list_tags()["start"] == "2020-01-07"
        assert len(collector.list_recorders(only_finished=False)) == 4
        assert (
            len(collector.list_recorders())
            == len(collector.list_recorders(only_finished=False, only_have_task=True))
            == 3
        )
        assert [r.name for r in collector.list_recorders(lambda r: r.name != "r2").values()] == ["r1", "r0"]
        assert [r.name for r in collector.list_recorders(lambda r: r.name != "r1").values()] == ["r2", "r0"]
        (b,) = collector.list_recorders(task_filter_func=lambda task: task["model"]["class"] == "B").values()
        assert b.load_object("task")["model"]["class"] == "B"
        # A run without a task, such as one that a user logged, is in neither result.
        experiment.create_recorder("by hand").end_run()
        assert len(collector.list_recorders()) == 4
        again = collector.collect_predictions(lambda task: task["model"]["class"])
        assert {k: len(v) for k, v in again.items()} == {"A": 12, "B": 6}
        assert list(collector.collect_latest_records().values()) == [latest]
        for unknown in (TaskCollector("unknown").list_recorders, lambda: RecorderCollector("unknown")):
            with pytest.raises(ExperimentNotFound):
                unknown()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_the_fast_join_equals_the_slow_one(data: st.DataObject) -> None:
    """Windows in order, with gaps, with other instruments, unsorted or overlapping: the same result."""
    parts, day = {}, 0
    for i in range(data.draw(st.integers(1, 5))):
        day += data.draw(st.integers(-1, 3))
        days = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True))
        codes = data.draw(st.lists(st.sampled_from("ABCD"), min_size=1, max_size=4, unique=True))
        rows = [(pd.Timestamp("2020-01-01") + pd.Timedelta(days=day + d), c) for d in days for c in codes]
        rows = rows if data.draw(st.booleans()) else sorted(rows)
        index = pd.MultiIndex.from_tuples(rows, names=["datetime", "instrument"])
        part = pd.DataFrame({"score": np.arange(len(rows)) + 100.0 * i}, index=index)
        parts[i] = part.iloc[1:] if data.draw(st.booleans()) and len(part) > 1 else part
        day += 5
    joined = RollingEnsemble()(parts)
    ordered = sorted(parts.values(), key=lambda p: p.index.get_level_values(0).sort_values()[[0, -1]].tolist())
    slow = pd.concat(ordered)
    slow = slow[~slow.index.duplicated(keep="last")].sort_index()
    pd.testing.assert_frame_equal(joined.sort_index().reset_index(), slow.reset_index())
    assert joined.index.is_monotonic_increasing
    assert joined.index.is_unique


def test_tasks_without_readable_windows_are_left_out() -> None:
    """Tasks without readable windows are not left out if there is no other one; without any task there is nothing to
    leave out."""

    def outcome(segments: dict[str, object]) -> TaskOutcome:
        definition = {"dataset": {"kwargs": {"segments": segments}}}
        return TaskOutcome(TaskRecord(id=digest(definition), pool="p", definition=definition), None, "")

    good, bad = outcome({"test": ["2020-01-01", "2020-01-31"]}), outcome({"test": ["2020-01-32", None]})
    kept, errors = with_windows((bad, good))
    assert kept == (good,)
    assert len(errors) == 1
    assert bad.task.id in errors[0]
    assert with_windows((good,)) == ((good,), [])
    assert with_windows(()) == ((), [])
    with pytest.raises(ConfigError, match="2020-01-32"):
        with_windows((bad, bad))
