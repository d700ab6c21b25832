"""Every parameter that takes a date accepts every spelling with the same result, and raises one error otherwise."""

from __future__ import annotations

import ast
import datetime as dt
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rollforge
from rollforge.collect.task_collector import TaskCollector
from rollforge.compat.qlib.days import get_date_by_shift, transform_end_date
from rollforge.errors import RollforgeError
from rollforge.features.alpha import Alpha158
from rollforge.features.api import D
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import QlibDataLoader, StaticDataLoader
from rollforge.features.processor import ZScoreNorm
from rollforge.generate.calendar import TimeAdjuster
from rollforge.generate.rolling import RollingGen
from rollforge.generate.segments import validate_segments
from rollforge.market.filters import ExpressionDFilter
from rollforge.online.manager import OnlineManager
from rollforge.online.strategy import OnlineStrategy
from rollforge.record.backtest import run_backtest
from rollforge.session import Session, using
from rollforge.yaml12 import read_yaml

TOKYO = dt.timezone(dt.timedelta(hours=9))
SPELLINGS: dict[str, Any] = {
    "slashes": "2023/3/15",
    "points": "2023.03.15",
    "compact": "20230315",
    "number": 20230315,
    "words": "15 Mar 2023",
    "time": "2023-03-15 09:30:00",
    "offset": "2023-03-15T00:00:00+09:00",
    "spaces": " 2023-03-15 ",
    "date": dt.date(2023, 3, 15),
    "datetime": dt.datetime(2023, 3, 15, 16, 0),
    "zoned": dt.datetime(2023, 3, 15, 0, 0, tzinfo=TOKYO),
    "timestamp": pd.Timestamp("2023-03-15"),
    "zoned timestamp": pd.Timestamp("2023-03-15", tz="Asia/Tokyo"),
    "numpy": np.datetime64("2023-03-15"),
    "numpy seconds": np.datetime64("2023-03-15T09:30:00"),
}
PLAIN = "2023-03-15"


@pytest.fixture(autouse=True)
def session(small_market: Path, tmp_path: Path) -> Iterator[None]:
    with using(Session(provider_uri=str(small_market), tracking_uri=f"folder:{tmp_path / 'runs'}")):
        yield


def _handler(**kwargs: Any) -> DataHandlerLP:
    loader = QlibDataLoader({"feature": ["$close"], "label": ["Ref($close, -1)/$close-1"]})
    return DataHandlerLP("all", data_loader=loader, **kwargs)


def _frame(days: str = "2023-03-10") -> pd.DataFrame:
    index = pd.MultiIndex.from_product([pd.bdate_range(days, periods=8), ["A", "B"]], names=["datetime", "instrument"])
    return pd.DataFrame({("feature", "x"): np.arange(16.0)}, index)


def _normed(day: Any) -> Any:
    norm = ZScoreNorm("2023-03-10", day, "feature")
    norm.fit(_frame())
    return norm(_frame()).to_numpy().tolist()


def _rolled(day: Any) -> Any:
    segments = {"train": ("2022-01-03", day), "test": ("2023-03-16", "2023-06-30")}
    return RollingGen(step=20).generate({"dataset": {"kwargs": {"segments": segments}}})


def _following(day: Any) -> Any:
    segments = {"train": ("2022-01-03", "2022-12-30"), "test": ("2023-01-02", "2023-01-13")}
    return list(RollingGen(step=10).gen_following_tasks({"dataset": {"kwargs": {"segments": segments}}}, day))


def _traded(**span: Any) -> Any:
    close = D.features("all", ["$close"], "2023-03-01", "2023-03-31")["$close"]
    strategy = {"class": "TopkDropoutStrategy", "module_path": "rollforge.record.backtest",
                "kwargs": {"signal": close, "topk": 3, "n_drop": 1}}  # fmt: skip
    return run_backtest(strategy, account=1e6, **span).report["return"].tolist()


class _RecordingStrategy(OnlineStrategy):
    def prepare_tasks(self, cur_time: Any, **kwargs: Any) -> list[dict[str, Any]]:
        self.seen = cur_time
        return []

    def prepare_online_models(self, trained_models: list[Any], cur_time: Any = None) -> list[Any]:
        return []

    def first_tasks(self) -> list[dict[str, Any]]:
        return []


def _routine(day: Any) -> Any:
    strategy = _RecordingStrategy("recording")
    manager = OnlineManager(strategy, begin_time="2023-01-02")
    manager.prepare_signals = lambda **kwargs: None  # type: ignore[method-assign]
    strategy.tool.update_online_pred = lambda *args: None  # type: ignore[method-assign]
    manager.routine(day)
    return strategy.seen, manager.cur_time, list(manager.history)


def _following_online(day: Any) -> Any:
    from rollforge.online import strategy

    return strategy._last_day(day)


PARAMETERS: dict[str, Callable[[Any], Any]] = {
    "features start": lambda day: D.features("all", ["$close"], day, "2023-03-20"),
    "features end": lambda day: D.features("all", ["$close"], "2023-03-10", day),
    "calendar start": lambda day: D.calendar(day, "2023-03-20"),
    "calendar end": lambda day: D.calendar("2023-03-10", day),
    "list_instruments": lambda day: D.list_instruments(D.instruments("all"), "2023-03-10", day),
    "spans of codes": lambda day: D.features({"D0001": [("2023-03-10", day)]}, ["$close"], "2023-03-01", "2023-03-31"),
    "filter": lambda day: D.list_instruments(
        D.instruments("all", [ExpressionDFilter("$close>50", fend_time=day)]), "2023-03-10", "2023-03-20"
    ),
    "handler start": lambda day: _handler(start_time=day, end_time="2023-03-20").fetch(),
    "handler end": lambda day: _handler(start_time="2023-03-10", end_time=day).fetch(),
    "handler config": lambda day: (h := _handler(start_time="2023-03-10"), h.config(end_time=day), h.fetch())[-1],
    "handler fetch": lambda day: _handler().fetch(slice(day, "2023-03-20")),
    "handler fetch a day": lambda day: _handler().fetch(day),
    "segments": lambda day: DatasetH(_handler(), {"test": (day, "2023-03-20")}).prepare("test"),
    "prepare": lambda day: DatasetH(_handler(), {"test": ("2023-03-01", "2023-03-20")}).prepare(slice(day, "2023-03-20")),
    "fit window": _normed,
    "alpha fit window": lambda day: Alpha158(
        "all", "2023-03-01", "2023-03-20", fit_start_time="2023-03-01", fit_end_time=day,
        infer_processors=[{"class": "ZScoreNorm", "kwargs": {"fields_group": "label"}}],
    ).fetch(col_set="label"),
    "static loader": lambda day: StaticDataLoader(_frame()).load(None, day, "2023-03-20"),
    "static loader end": lambda day: StaticDataLoader(_frame()).load(None, "2023-03-10", day),
    "adjuster end": lambda day: TimeAdjuster(end_time=day).max(),
    "adjuster start": lambda day: TimeAdjuster().align_time(day),
    "adjuster segment": lambda day: TimeAdjuster().align_seg((day, "2023-03-20")),
    "adjuster shift": lambda day: TimeAdjuster().shift((day, "2023-03-20"), 2),
    "adjuster truncate": lambda day: TimeAdjuster().truncate(("2022-01-03", "2023-06-30"), day, 2),
    "adjuster calendar": lambda day: TimeAdjuster(calendar=["2023-03-13", "2023-03-14", day]).max(),
    "rolling": _rolled,
    "following tasks": _following,
    "online begin": lambda day: OnlineManager(_RecordingStrategy("recording"), begin_time=day).begin_time,
    "online routine": _routine,
    "online strategy": _following_online,
    "backtest start": lambda day: _traded(start_time=day, end_time="2023-03-20"),
    "backtest end": lambda day: _traded(start_time="2023-03-10", end_time=day),
    "qlib shift": lambda day: get_date_by_shift(day, 3),
    "qlib end date": transform_end_date,
}  # fmt: skip


def _plain(result: Any) -> Any:
    """Return a result in a form that can be compared."""
    if isinstance(result, (pd.DataFrame, pd.Series)):
        return result.reset_index().astype(str).to_numpy().tolist()
    return str(result)


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_every_parameter_accepts_every_spelling(parameter: str) -> None:
    """The result is that for 2023-03-15."""
    expected = _plain(PARAMETERS[parameter](PLAIN))
    for name, value in SPELLINGS.items():
        assert _plain(PARAMETERS[parameter](value)) == expected, name


NOT_DATES = ["soon", "2023-02-30", "2023-03", 20231301, ("2023", "03"), float("nan")]
# Rows are selected as in pandas, where a month stands for all its days.
SELECTING = ("handler fetch", "handler fetch a day", "segments", "prepare")


@pytest.mark.parametrize(
    ("parameter", "value"), [(d, v) for d in PARAMETERS for v in NOT_DATES if not (v == "2023-03" and d in SELECTING)]
)
def test_every_parameter_refuses_a_value_that_is_not_a_date(parameter: str, value: Any) -> None:
    """The error is a RollforgeError with a short message."""
    if parameter == "handler fetch a day" and isinstance(value, tuple):
        value = ("2023", "03", "15")
    with pytest.raises(RollforgeError) as caught:
        PARAMETERS[parameter](value)
    assert len(str(caught.value)) < 300


def test_a_day_beyond_the_years_of_timestamps_is_an_open_end() -> None:
    """An end such as 9999-12-31 means the end of the calendar."""
    for parameter in (
        "features end",
        "calendar end",
        "handler end",
        "adjuster end",
        "online strategy",
        "qlib end date",
    ):
        assert _plain(PARAMETERS[parameter]("9999-12-31")) == _plain(PARAMETERS[parameter]("2023-12-29")), parameter


def test_segments_in_any_spelling_are_checked() -> None:
    """Overlap and order are checked for days in any spelling."""
    task = {
        "dataset": {"kwargs": {"segments": {"train": ("20220103", "2022/12/30"), "test": (20221230, "2023-03-31")}}}
    }
    with pytest.raises(RollforgeError, match="overlaps with 'test'"):
        validate_segments(task, D.calendar())


def test_latest_records_are_found_by_day() -> None:
    """Two spellings of a day are the same day when the latest windows are selected."""

    class StoredRecorder:
        def __init__(self, day: Any) -> None:
            self.task = {"dataset": {"kwargs": {"segments": {"test": (day, None)}}}}

        def load_object(self, name: str) -> Any:
            return self.task

    collector = TaskCollector("demo")
    recorders = {
        "a": StoredRecorder("2023/03/15"),
        "b": StoredRecorder(pd.Timestamp("2023-03-15")),
        "c": StoredRecorder("20230102"),
    }
    collector.list_recorders = lambda **kwargs: recorders  # type: ignore[method-assign, assignment, return-value]
    assert list(collector.collect_latest_records()) == ["a", "b"]


@pytest.mark.parametrize("text", ["2020-02-30", "2020-13-01 00:00:00"])
def test_a_nonexistent_date_in_yaml_is_an_error(text: str) -> None:
    """YAML parses dates itself; for one that does not exist the error contains its line."""
    with pytest.raises(RollforgeError, match=r"line 2, column 6.* is not a date"):
        read_yaml(f"a: 1\nend: {text}\n")


OTHER_READERS = ("pd.Timestamp", "pd.Period", "to_datetime", "fromisoformat", "strptime", "dateutil", "parse_dates")
CONVERSIONS = {
    ("check/compare.py", "_place"): "of an index's times",
    ("compat/qlib/clock.py", "concat_date_time"): "from numbers",
    ("compat/qlib/days.py", "_days"): "of the calendar's days",
    ("compat/qlib/resample.py", "resam_calendar"): "of a calendar's times",
    ("dates.py", "as_timestamp"): "of a datetime64",
    ("features/api.py", "_timestamps"): "of datetime64",
    ("ledger/entry.py", "_day"): "a ledger's canonical form; any other is refused",
    ("pickled_pandas.py", "_timestamp"): "of a datetime64",
    ("record/account.py", "enter"): "of a trading day",
    ("record/context.py", "__init__"): "of trading days",
    ("record/context.py", "get_step_time"): "of trading days",
    ("record/exchange.py", "__init__"): "of trading days",
    ("task.py", "_from_tag"): "a definition's canonical form, not a spelling",
    ("track/experiment.py", "_times"): "from numbers",
}
"""(file, function) -> what it converts to a time without parsing what users write."""


def readers_of_days(code: str) -> Iterator[tuple[str, str]]:
    """(function, text) of each call that can parse a day; constants are not input."""
    tree = ast.parse(code)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if not isinstance(node, ast.Call) or (
                    all(isinstance(a, ast.Constant) for a in node.args) and node.args
                ):
                    continue
                called = ast.unparse(node.func)
                if called.endswith(OTHER_READERS) or (called == "map" and "pd.Timestamp" in ast.unparse(node)):
                    yield function.name, ast.unparse(node)


def test_no_other_module_parses_dates() -> None:
    """Dates are parsed in one module, because a second parser would come to differ."""
    source = Path(rollforge.__file__).parent
    marks = re.compile(r"to_datetime\(|\[:10\]|datetime64\(str\(")
    cut = [
        f"{file.relative_to(source)}:{number}"
        for file in sorted(source.rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line) and file.name not in {"dates.py", "task.py"}
    ]
    assert cut == []
    found = {
        (str(file.relative_to(source)), function): call
        for file in sorted(source.rglob("*.py"))
        for function, call in readers_of_days(file.read_text(encoding="utf-8"))
    }
    assert {place: call for place, call in found.items() if place not in CONVERSIONS} == {}
    assert CONVERSIONS.keys() <= found.keys()


@pytest.mark.parametrize(
    "call",
    [
        "pd.Timestamp(day)", "pandas.to_datetime(day)", "pd.to_datetime(day)", "dt.date.fromisoformat(day)",
        "dt.datetime.strptime(day, '%Y')", "pd.Period(day)", "list(map(pd.Timestamp, days))",
    ],
)  # fmt: skip
def test_another_reader_of_days_is_found(call: str) -> None:
    """A second reader of days is found whatever it is built on."""
    assert [name for name, _ in readers_of_days(f"def f(day, days):\n    return {call}\n")][:1] == ["f"]
