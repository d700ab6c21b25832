"""Invalid input is reported with one clear message, and nothing is stored, trained or partly written."""

from __future__ import annotations

import importlib.readers  # noqa: F401 - a user without access to the interpreter's folder could not import it later
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from rollforge.errors import RollforgeError
from rollforge.features.engine import features
from rollforge.market.provider import open_provider
from rollforge.plan import Plan, make_plan
from rollforge.session import Session, using
from rollforge.workflow import load_workflow

Document = dict[str, Any]


def workflow(market: Path, folder: Path) -> Document:
    """Return a small valid workflow."""
    handler = {
        "class": "Alpha158",
        "module_path": "qlib.contrib.data.handler",
        "kwargs": {
            "instruments": "all",
            "start_time": "2022-01-03",
            "end_time": "2023-12-29",
            "fit_start_time": "2022-01-03",
            "fit_end_time": "2022-10-31",
        },
    }
    segments = {
        "train": ["2022-01-03", "2022-10-31"],
        "valid": ["2022-11-01", "2022-12-30"],
        "test": ["2023-01-02", "2023-12-29"],
    }
    return {
        "rollforge": {
            "data": str(market),
            "store": f"sqlite:///{folder}/tasks.db",
            "tracking": f"folder:{folder}/runs",
            "experiment": "small",
        },
        "task": {
            "model": {
                "class": "LinearModel",
                "module_path": "qlib.contrib.model.linear",
                "kwargs": {"estimator": "ols"},
            },
            "dataset": {
                "class": "DatasetH",
                "module_path": "qlib.data.dataset",
                "kwargs": {"handler": handler, "segments": segments},
            },
            "record": [{"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}],
        },
        "rolling": {"step": 60, "rtype": "sliding"},
    }


def put(path: str, value: Any) -> Callable[[Document], None]:
    """Return a function that sets one key of a workflow, or deletes it if the value is None."""

    def change(document: Document) -> None:
        *parents, last = path.split(".")
        node: Any = document
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        if value is None:
            del node[last]
        else:
            node[last] = value

    return change


def backtest(benchmark: Any = None, topk: Any = 5) -> Document:
    strategy = {"class": "TopkDropoutStrategy", "kwargs": {"signal": "<PRED>", "topk": topk, "n_drop": 1}}
    return {"strategy": strategy, "backtest": {"benchmark": benchmark, "account": 1e6}}


SEGMENTS = "task.dataset.kwargs.segments"
HANDLER = "task.dataset.kwargs.handler"
CASES: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "step of zero": ("rolling.step", 0, ("rolling.step", "at least 1", "0")),
    "negative step": ("rolling.step", -5, ("rolling.step", "at least 1", "-5")),
    "unknown rolling type": ("rolling.rtype", "slidng", ("rolling.rtype", "Did you mean 'sliding'")),
    "inverted segment": (f"{SEGMENTS}.train", ["2022-10-31", "2022-01-03"], (f"{SEGMENTS}.train", "inverted")),
    "overlapping segments": (f"{SEGMENTS}.valid", ["2022-10-01", "2022-12-30"], (SEGMENTS, "overlaps with 'valid'")),
    "missing segment": (f"{SEGMENTS}.train", None, (SEGMENTS, "no segment 'train'")),
    "segment not a pair": (f"{SEGMENTS}.test", "2023-01-02", (f"{SEGMENTS}.test", "(first day, last day)")),
    "segment without a date": (
        f"{SEGMENTS}.test",
        ["soon", "2023-12-29"],
        (f"{SEGMENTS}.test.0", "'soon' is not a date"),
    ),
    "segment before the calendar": (
        f"{SEGMENTS}.train",
        ["2001-01-01", "2002-01-01"],
        ("no trading day", "the calendar has 20"),
    ),
    "segment after the calendar": (f"{SEGMENTS}.test", ["2031-01-01", "2032-01-01"], ("no trading day", "2023-12-29")),
    "unknown class": ("task.model.class", "LinaerModel", ("task.model", "Did you mean 'LinearModel'")),
    "unknown module": ("task.model.module_path", "rollforge.modls", ("task.model", "Did you mean 'rollforge.models'")),
    "unsupported module of qlib": (
        "task.model.module_path",
        "qlib.contrib.tuner.tuner",
        ("task.model", "qlib.contrib.tuner", "pyqlib is not installed"),
    ),
    "unknown argument": ("task.model.kwargs", {"alhpa": 1.0}, ("task.model.kwargs", "Did you mean 'alpha'")),
    "incompatible arguments": (
        "task.model.kwargs",
        {"estimator": "nnls", "fit_intercept": True},
        ("workflow.yaml, line ", "task.model: nnls does not support an intercept"),
    ),
    "misspelt key": ("task.modle", {}, ("task.modle", "Did you mean 'model'")),
    "unknown record": ("task.record.0.class", "SignalRecrod", ("task.record.0", "Did you mean 'SignalRecord'")),
    "record without a signal record": (
        "task.record.0.class",
        "SigAnaRecord",
        ("task.record.0", "SigAnaRecord needs the results of a SignalRecord. Add one before it"),
    ),
    "benchmark without data": (
        "task.record",
        [{"class": "SignalRecord"}, {"class": "PortAnaRecord", "kwargs": {"config": backtest(benchmark="SH000300")}}],
        ("task.record.1.kwargs.config.backtest.benchmark", "no data for the benchmark 'SH000300'"),
    ),
    "strategy with an invalid number": (
        "task.record",
        [{"class": "SignalRecord"}, {"class": "PortAnaRecord", "kwargs": {"config": backtest(topk="two")}}],
        ("topk: must be a whole number, at least 1; found 'two'",),
    ),
    "unknown processor": (
        f"{HANDLER}.kwargs.infer_processors",
        [{"class": "ZScoreNrom"}],
        ("Did you mean 'ZScoreNorm'",),
    ),
    "processor without a fit window": (
        f"{HANDLER}.kwargs",
        {"instruments": "all", "infer_processors": [{"class": "ZScoreNorm"}]},
        ("ZScoreNorm", "fit_start_time"),
    ),
    "handler dates out of order": (f"{HANDLER}.kwargs.start_time", "2024-06-01", ("inverted",)),
    "unknown universe": (f"{HANDLER}.kwargs.instruments", "al", ("no universe 'al'", "Did you mean 'all'")),
    "field without data": (f"{HANDLER}.kwargs.label", ["Ref($clsoe, -1)"], ("no field $clsoe", "'close'")),
    "incomplete expression": (f"{HANDLER}.kwargs.label", ["Ref($close, -2)/Ref($close, -1"], ("position", "^")),
}


def plan(document: Document, folder: Path) -> Plan:
    file = folder / "workflow.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return make_plan(load_workflow(file))


def test_the_workflow_without_changes_is_valid(small_market: Path, tmp_path: Path) -> None:
    """The document that the cases below modify is valid without changes."""
    made = plan(workflow(small_market, tmp_path), tmp_path)
    assert len(made.tasks) == 5
    assert made.warnings == ()


@pytest.mark.parametrize("case", list(CASES))
def test_a_mistake_in_a_workflow_is_named_and_nothing_is_written(case: str, small_market: Path, tmp_path: Path) -> None:
    """The message names the place and the value, and suggests the nearest name; no store, run or cache is created."""
    path, value, expected = CASES[case]
    document = workflow(small_market, tmp_path)
    put(path, value)(document)
    with pytest.raises(RollforgeError) as caught:
        plan(document, tmp_path)
    for text in expected:
        assert text in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["workflow.yaml"]


def copy_of(market: Path, folder: Path) -> Path:
    copy = folder / "copy"
    shutil.copytree(market, copy)
    return copy


@pytest.mark.parametrize(
    ("instruments", "fields", "expected"),
    [
        ("demo30", ["$close"], ("no universe 'demo30'", "Did you mean 'demo300'", "demo100")),
        ([], ["$close"], ("list of instruments is empty",)),
        (["UNKNOWN"], ["$close"], ("UNKNOWN",)),
        ("all", ["$clsoe"], ("no field $clsoe", "Did you mean 'close'", "$volume")),
        ("all", ["Maen($close, 5)"], ("unknown operator 'Maen'", "Did you mean 'Mean'", "position 1")),
        ("all", ["Mean($close)"], ("Mean takes 2 arguments, found 1",)),
        ("all", ["Mean($close, 2.5)"], ("integer number of days",)),
        ("all", ["$close +"], ("is incomplete", "position 9")),
        ("all", ["$close ? 2"], ("'?'", "not supported", "position 8")),
        ("all", ["close"], ("fields are written $close",)),
    ],
)
def test_a_mistake_in_a_query_is_named(
    small_market: Path, instruments: Any, fields: list[str], expected: tuple[str, ...]
) -> None:
    """For unknown universes, instruments and fields, and invalid expressions, the message says what was found and
    where, and which names exist."""
    with pytest.raises(RollforgeError) as caught:
        features(instruments, fields, session=Session(provider_uri=str(small_market)))
    for text in expected:
        assert text in str(caught.value)


def test_an_empty_universe_is_named(small_market: Path, tmp_path: Path) -> None:
    """Either the list of instruments is empty, or its members have no data in the date range."""
    folder = copy_of(small_market, tmp_path)
    (folder / "instruments" / "none.txt").write_text("")
    session = Session(provider_uri=str(folder))
    with pytest.raises(RollforgeError, match="universe 'none' is empty"):
        features("none", ["$close"], session=session)
    (folder / "instruments" / "late.txt").write_text("D0001\t2030-01-01\t2031-01-01\n")
    with pytest.raises(RollforgeError, match="has no data between"):
        features("late", ["$close"], session=session)


def test_codes_without_data_on_the_days_have_no_rows(small_market: Path, tmp_path: Path) -> None:
    """As in Qlib, so that a script can look at one code after another; a list with others has the rows of these."""
    folder = copy_of(small_market, tmp_path)
    session = Session(provider_uri=str(folder))
    both = features(["D0001"], ["$close", "$open"], session=session)
    for path in (folder / "features" / "d0001").glob("*.day.bin"):
        values = np.fromfile(path, "<f4")
        np.r_[values[0] + 100, values[101:]].astype("<f4").tofile(path)  # listed 100 days later
    days = both.index.get_level_values("datetime")
    none = features(["D0001"], ["$close", "$open"], days[0], days[20], session=session)
    assert none.empty
    assert (none.index.names, list(none.columns)) == (both.index.names, ["$close", "$open"])
    assert (none.index.levels[1].dtype, set(none.dtypes)) == (both.index.levels[1].dtype, set(both.dtypes))
    codes = [f"D{i:04}" for i in range(1, 9)]
    some = features(codes, ["$close", "$open"], days[0], days[20], session=session)
    pd.testing.assert_frame_equal(some, features(codes[1:], ["$close", "$open"], days[0], days[20], session=session))
    with pytest.raises(RollforgeError, match="has no data between"):
        features({"market": codes[:1], "filter_pipe": []}, ["$close"], days[0], days[20], session=session)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda b: b[:-3], "is truncated"),
        (lambda b: b"", "is empty"),
        (lambda b: np.float32(5000).tobytes() + b[4:], "does not fit the calendar"),
        (lambda b: b + b, "does not fit the calendar"),
    ],
)
def test_a_damaged_data_file_is_named(
    small_market: Path, tmp_path: Path, damage: Callable[[bytes], bytes], expected: str
) -> None:
    """A file that is truncated, empty, or does not fit the calendar is named, and not used."""
    folder = copy_of(small_market, tmp_path)
    file = folder / "features" / "d0003" / "close.day.bin"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RollforgeError, match=expected) as caught:
        features("all", ["$close"], session=Session(provider_uri=str(folder)))
    assert "d0003/close.day.bin" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "contains no days"),
        ("2022-01-03\nsoon\n", "line 2: .soon. is not a date"),
        ("2022-01-04\n2022-01-03\n", "ascending order"),
    ],
)
def test_an_invalid_calendar_is_named(small_market: Path, tmp_path: Path, text: str, expected: str) -> None:
    """The file of an empty, unreadable or unordered calendar is named."""
    folder = copy_of(small_market, tmp_path)
    (folder / "calendars" / "day.txt").write_text(text)
    with pytest.raises(RollforgeError, match=expected):
        open_provider(folder).calendar()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The message says how to create one; a folder without a calendar is not a data folder."""
    with pytest.raises(RollforgeError, match="rollforge data demo"):
        open_provider(tmp_path / "nowhere")
    with pytest.raises(RollforgeError, match=r"no calendars/day\.txt"):
        open_provider(tmp_path)


@pytest.mark.parametrize("uri", ["sqlite:///", "sqlit:///x.db", "redis://ann:secret@db/tasks", "tasks.db"])
def test_an_invalid_store_uri_is_named(uri: str) -> None:
    """The URI is shown without its password, with the form that is expected."""
    from rollforge.store.base import open_store

    with pytest.raises(RollforgeError, match="sqlite:///") as caught:
        open_store(uri)
    assert "secret" not in str(caught.value)


def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """A file that is not a database is refused and unchanged."""
    from rollforge.store.base import open_store

    file = tmp_path / "tasks.db"
    file.write_bytes(b"this is no database at all, and long enough to be looked at" * 20)
    before = file.read_bytes()
    with pytest.raises(RollforgeError, match="is not a task store"):
        open_store(f"sqlite:///{file}")
    assert file.read_bytes() == before


def as_other_user(work: Callable[[], None]) -> str:
    """Call `work` in a child process of another user, who may not write files of root; return its error."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        error = "none"
        try:
            os.setgid(65534)
            os.setuid(65534)
            work()
        except RollforgeError as exc:
            error = f"{type(exc).__name__}: {exc}"
        except BaseException as exc:  # noqa: BLE001 - any other exception is reported too
            error = f"a bare {type(exc).__name__}: {exc}"
        finally:
            os.write(write, error.encode())
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as handle:
        return handle.read()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become a user who may not write")
@pytest.mark.parametrize("what", ["store", "tracking", "report"])
def test_a_read_only_folder_is_named(what: str, tmp_path: Path) -> None:
    """A task store, tracking folder or report in a folder that is not writable raises one error with the path."""
    from rollforge.report.html import write_report
    from rollforge.report.inputs import ReportInputs
    from rollforge.report.summary import summarise
    from rollforge.store.base import open_store
    from rollforge.track.base import open_tracker

    pytest.importorskip("plotly.offline")  # imported before this process loses access to it
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    target = tmp_path / "locked"
    target.mkdir(mode=0o755)
    work: dict[str, Callable[[], Any]] = {
        "store": lambda: open_store(f"sqlite:///{target}/tasks.db"),
        "tracking": lambda: open_tracker(f"folder:{target}/runs").prepare(),
        "report": lambda: write_report(summarise(ReportInputs("x", [], None, None)), target / "report.html"),
    }
    said = as_other_user(work[what])
    assert str(target) in said
    assert "bare" not in said
    assert list(target.iterdir()) == []


def test_an_existing_data_folder_is_not_replaced(small_market: Path) -> None:
    """Existing data are not overwritten or changed."""
    from rollforge.market.demo import make_demo

    before = sorted(p.name for p in small_market.rglob("*"))
    with pytest.raises(RollforgeError, match="overwrite"):
        make_demo(small_market, instruments=5, years=1)
    assert sorted(p.name for p in small_market.rglob("*")) == before


def test_a_session_without_data_says_how_to_set_the_folder() -> None:
    """Without a data folder the message names the variable."""
    with using(Session()), pytest.raises(RollforgeError, match="ROLLFORGE_DATA"):
        features("all", ["$close"])
