"""Intraday bars: calendars with times, windows of days and of bars, purging in bars, reports, tables of the user."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings, strategies as st
from sklearn.linear_model import LinearRegression
from tests.documents.command_line import run

import rollforge
from rollforge import session
from rollforge.cli.exit_codes import Exit
from rollforge.compat.qlib.config import init
from rollforge.compat.qlib.storage import FileFeatureStorage
from rollforge.errors import ConfigError, DataError, DataNotFound, SegmentError
from rollforge.features.api import D
from rollforge.features.handler import DataHandlerLP
from rollforge.features.inst_processor import InstProcessor
from rollforge.features.loader import QlibDataLoader, StaticDataLoader
from rollforge.features.timeseries import TSDatasetH
from rollforge.frequency import frequency
from rollforge.generate.calendar import TimeAdjuster
from rollforge.generate.calendar_windows import CalendarGen
from rollforge.generate.cross_validation import PurgedKFoldGen
from rollforge.generate.leakage import static_checks
from rollforge.generate.multi_horizon import MultiHorizonGen
from rollforge.generate.rolling import RollingGen
from rollforge.generate.segments import intervals
from rollforge.generate.task_view import TaskView
from rollforge.market.append import append_table
from rollforge.market.folder_writer import write_folder
from rollforge.market.importer import import_table
from rollforge.market.provider import Provider, open_provider
from rollforge.online.strategy import RollingStrategy
from rollforge.record.periods import periods_per_year
from rollforge.session import Session, using

DAYS = pd.bdate_range("2024-01-02", periods=60)
HOURS = ("10:30", "11:30", "14:30", "15:30")
BARS = pd.DatetimeIndex([pd.Timestamp(f"{day:%Y-%m-%d} {hour}") for day in DAYS for hour in HOURS])
CODES = [f"S{i}" for i in range(7)]
LABEL = "Ref($close, -3)/Ref($close, -1) - 1"


def closes(bars: pd.DatetimeIndex = BARS) -> pd.DataFrame:
    """Return prices with a little momentum, one column per instrument."""
    rng = np.random.default_rng(5)
    moves = rng.normal(0, 0.01, (len(bars), len(CODES)))
    return pd.DataFrame(100 * np.exp(np.cumsum(moves, axis=0)), bars, CODES).astype(np.float32)


NIGHTS = pd.date_range("2024-01-01", "2024-01-13 23:00", freq="h")


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Return a session whose data folder has the hours of a market that never closes."""
    place = tmp_path_factory.mktemp("nights")
    series = {code: (0, {"close": np.arange(len(NIGHTS), dtype=np.float32) + 1}) for code in ("A", "B")}
    everyone = {"all": {code: [(NIGHTS[0], NIGHTS[-1])] for code in series}}
    write_folder(place / "data", NIGHTS.to_numpy(), series, everyone, "60min")
    return Session(provider_uri=str(place / "data"), cache=str(place / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder that has hourly bars only."""
    path = tmp_path_factory.mktemp("hourly") / "data"
    prices = closes()
    series = {c: (0, {"close": prices[c].to_numpy(), "volume": np.full(len(BARS), 1000.0)}) for c in CODES}
    write_folder(path, BARS.to_numpy(), series, {"all": {c: [(DAYS[0], DAYS[-1])] for c in CODES}}, "1h")
    return path


def template(**handler: Any) -> dict[str, Any]:
    config = {"feature": [["$close/Ref($close, 1) - 1", "$close/Mean($close, 5) - 1"], ["one", "five"]]}
    config |= {"label": [[LABEL], ["LABEL0"]]}
    loader = {"class": "QlibDataLoader", "kwargs": {"config": config, "freq": "60min"}}
    return {
        "model": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear", "kwargs": {"estimator": "ols"}},
        "dataset": {
            "class": "DatasetH",
            "module_path": "qlib.data.dataset",
            "kwargs": {
                "handler": {
                    "class": "DataHandlerLP",
                    "module_path": "qlib.data.dataset.handler",
                    "kwargs": {
                        "instruments": "all",
                        "data_loader": loader,
                        "learn_processors": [{"class": "DropnaLabel"}, {"class": "DropnaProcessor"}],
                        **handler,
                    },
                },
                "segments": {"train": ["2024-01-03", "2024-02-09"], "test": ["2024-02-12", "2024-03-15"]},
            },
        },
        "record": [{"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}],
    }


# -- calendars ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freq", ["60min", "1h", "1 hour", "60 minutes", None])
def test_a_calendar_has_the_times_of_the_bars(folder: Path, freq: str | None) -> None:
    """A calendar has the times of the bars whatever its frequency is called; a folder's only frequency need not be
    named."""
    provider = Provider(folder)
    assert (provider.calendar(freq) == BARS.to_numpy()).all()
    assert provider.freq == "60min"
    assert (folder / "calendars" / "60min.txt").read_text().splitlines()[0] == "2024-01-02 10:30:00"
    with pytest.raises(DataNotFound, match=r"no calendar 'day' in .* Known: 60min"):
        provider.calendar("day")


class AtHour(InstProcessor):
    """The bar of an hour as the value of the day."""

    def __init__(self, hour: int, keep_time: bool = False) -> None:
        self.hour, self.keep_time = hour, keep_time

    def __call__(self, df: pd.DataFrame, instrument: str, *args: Any, **kwargs: Any) -> pd.DataFrame:
        chosen = df[df.index.hour == self.hour]
        return chosen if self.keep_time else chosen.set_axis(chosen.index.normalize())


def test_features_of_hours_with_a_label_of_days(folder: Path, tmp_path: Path) -> None:
    """The rows are days; each frequency is in a folder of its own. What processors leave must be days, too."""
    prices = closes()
    last = prices.groupby(prices.index.normalize()).last()
    series = {c: (0, {"close": last[c].to_numpy()}) for c in CODES}
    write_folder(tmp_path / "days", DAYS.to_numpy(), series, {"all": {c: [(DAYS[0], DAYS[-1])] for c in CODES}})
    hour = ["$close/Ref($close, 1)"], ["BAR"]
    config = {"hour": hour, "day": (["$close"], ["CLOSE"]), "label": (["Ref($close, -1)"], ["NEXT"])}
    freq = {"hour": "60min", "day": "day", "label": "day"}
    folders = {"day": str(tmp_path / "days"), "60min": str(folder)}
    with using(Session.from_mapping({"provider_uri": folders, "cache": str(tmp_path / "cache")})):
        loader = QlibDataLoader(config, freq=freq, inst_processors={"hour": [AtHour(11)]})
        handler = DataHandlerLP("all", "2024-01-08", "2024-02-01", loader)
        handler.check()
        found = handler.fetch(col_set="__raw")
        for options, said in (({"keep_time": True}, "2024-01-02 11:30"), ({"hour": 12}, "leave no rows")):
            given = {"hour": 11, **options}
            with pytest.raises(DataError, match=said):
                QlibDataLoader(config, freq=freq, inst_processors={"hour": [AtHour(**given)]}).load("all")
        with pytest.raises(DataNotFound, match="no field"):
            QlibDataLoader({**config, "hour": ["$vol"]}, freq=freq, inst_processors={"hour": [AtHour(11)]}).check(
                "all", open_provider(tmp_path / "days")
            )
    task = {"dataset": {"kwargs": {"handler": {"class": "Alpha158", "kwargs": {"freq": freq}}}}}
    assert TaskView(task).freq == "day"
    wanted = DAYS[(DAYS >= "2024-01-08") & (DAYS <= "2024-02-01")]
    assert found.index.get_level_values("datetime").unique().equals(wanted.rename("datetime"))
    one = found.xs("S3", level="instrument")
    bars = prices["S3"]
    np.testing.assert_allclose(
        one["hour"]["BAR"], (bars / bars.shift(1))[bars.index.hour == 11][wanted[0] :][: len(wanted)], rtol=1e-6
    )
    np.testing.assert_array_equal(one["day"]["CLOSE"], last["S3"][wanted])
    np.testing.assert_array_equal(one["label"]["NEXT"], last["S3"].shift(-1)[wanted])


def test_a_folder_may_have_several_frequencies(tmp_path: Path) -> None:
    """Days are what is meant by default; files may be named 1h or 60min."""
    prices = closes()
    last = prices.groupby(prices.index.normalize()).last()
    everyone = {"all": {"S0": [(DAYS[0], DAYS[-1])]}}
    write_folder(tmp_path, DAYS.to_numpy(), {"S0": (0, {"close": last["S0"].to_numpy()})}, everyone)
    write_folder(tmp_path, BARS.to_numpy(), {"S0": (0, {"close": prices["S0"].to_numpy()})}, everyone, "60min")
    (tmp_path / "calendars" / "60min.txt").rename(tmp_path / "calendars" / "1h.txt")
    (tmp_path / "features" / "s0" / "close.60min.bin").rename(tmp_path / "features" / "s0" / "close.1h.bin")
    provider = Provider(tmp_path)
    assert (provider.freq, len(provider.calendar()), len(provider.calendar("60min"))) == ("day", len(DAYS), len(BARS))
    with using(Session(provider_uri=str(tmp_path))):
        hourly = D.features(["S0"], ["$close"], freq="60min")
        daily = D.features(["S0"], ["$close"])
    assert (hourly["$close"].to_numpy() == prices["S0"].to_numpy()).all()
    assert (daily["$close"].to_numpy() == last["S0"].to_numpy()).all()


def test_expressions_count_bars_and_ranges_may_end_within_a_day(folder: Path) -> None:
    """A day is the whole day; a text with a time of day is that bar."""
    with using(Session(provider_uri=str(folder))):
        found = D.features("all", ["Ref($close, 3)"], "2024-01-04", "2024-01-05", freq="60min").iloc[:, 0]
        early = D.features("all", ["$close"], "2024-01-04 11:00", "2024-01-05 14:30", freq="60min")
        at_midnight = D.features("all", ["$close"], pd.Timestamp("2024-01-04"), pd.Timestamp("2024-01-04"), freq="1h")
    by_hand = closes().shift(3).loc["2024-01-04":"2024-01-05"]  # type: ignore[misc]
    assert (found.unstack("instrument") == by_hand).all(axis=None)
    times = early.index.get_level_values("datetime").unique()
    assert list(times) == list(BARS[(BARS >= "2024-01-04 11:30") & (BARS <= "2024-01-05 14:30")])
    assert at_midnight.index.get_level_values("datetime").nunique() == len(HOURS)


@pytest.fixture(scope="module")
def daily(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder of the days of the same market, without its last instrument."""
    path = tmp_path_factory.mktemp("daily") / "data"
    last = closes().groupby(BARS.normalize()).last()
    series = {c: (0, {"close": last[c].to_numpy()}) for c in CODES[:-1]}
    write_folder(path, DAYS.to_numpy(), series, {"all": {c: [(DAYS[0], DAYS[-1])] for c in series}})
    return path


@pytest.mark.parametrize("by", ["qlib.init", "rollforge.init"])
def test_each_frequency_may_have_a_folder(folder: Path, daily: Path, by: str) -> None:
    """Calendars, universes and values are those of its folder, also up to a day and for an expression or a file."""
    folders = {"1h": str(folder), "day": str(daily)}
    try:
        init(provider_uri=folders) if by == "qlib.init" else session.init(folders)
        for freq, days, codes in (("60min", BARS, CODES), ("1h", BARS, CODES), ("day", DAYS, CODES[:-1])):
            assert list(D.calendar(freq=freq)) == list(days)
            assert D.list_instruments(D.instruments("all"), freq=freq, as_list=True) == codes
            prices = closes().loc[:, codes].groupby(BARS if freq != "day" else BARS.normalize()).last()
            found = D.features(D.instruments("all"), ["$close"], freq=freq)["$close"].unstack("instrument")
            assert (found == prices).all(axis=None)
            with session.bounded("2024-01-31"):
                until = D.features("all", ["$close"], freq=freq)["$close"].unstack("instrument")
            assert (until == prices.loc[:"2024-01-31 23:59"]).all(axis=None)  # type: ignore[misc]
            assert (D.expression("S0", "$close", freq=freq) == prices["S0"].to_numpy()).all()
            loader = QlibDataLoader({"feature": (["$close"], ["close"])}, freq=freq)
            assert len(DataHandlerLP("all", data_loader=loader).fetch()) == prices.size
            assert FileFeatureStorage("S0", "close", frequency(freq))[3][1] == prices["S0"].iloc[3]
        assert (TimeAdjuster(freq="60min").by_bars, TimeAdjuster().by_bars) == (True, False)
        with pytest.raises(DataNotFound, match=r"no data folder for the frequency '5min'\. .* folders for: 60min, day"):
            D.features("all", ["$close"], freq="5min")
    finally:
        session.init()


@pytest.mark.slow
def test_a_worker_is_given_the_folder_of_each_frequency(folder: Path, daily: Path, tmp_path: Path) -> None:
    """Copies of both folders have the data of the submission; with the daily one alone, nothing is claimed."""
    file = tmp_path / "hourly.yaml"
    own = {"data": {"day": str(daily), "1h": str(folder)}, "store": f"sqlite:///{tmp_path}/tasks.db", "freq": "1h",
           "tracking": f"folder:{tmp_path}/runs"}  # fmt: skip
    file.write_text(yaml.safe_dump({"rollforge": own, "task": template(), "rolling": {"step": 10}}), encoding="utf-8")
    assert run("submit", str(file), "--limit", "1").returncode == 0
    days, hours = (shutil.copytree(one, tmp_path / name) for one, name in ((daily, "days"), (folder, "hours")))
    worker = ("worker", "-t", "hourly", "--store", own["store"], "--exit-when-empty", "--jobs", "1", "--data")
    alone = run(*worker, str(days))
    assert alone.returncode == Exit.REQUIREMENTS_NOT_MET, alone.stderr
    both = run(*worker, f"day={days}", "--data", f"60min={hours}")
    assert both.returncode == Exit.DONE, both.stderr
    assert run("pool", "--store", own["store"], "-t", "hourly", "task-stat").stdout == '{"done": 1}\n'


@pytest.mark.parametrize("freq", ["1s", "10 seconds", "tick"])
def test_a_minute_is_the_shortest_frequency(folder: Path, freq: str) -> None:
    """There is no calendar of ticks."""
    with pytest.raises(DataError, match=f"frequency '{freq}' is shorter than a minute"):
        Provider(folder).calendar(freq)


# -- windows -----------------------------------------------------------------------------------------------------------


def positions(task: dict[str, Any], bars: np.ndarray) -> dict[str, tuple[int, int]]:
    segments = task["dataset"]["kwargs"]["segments"]
    return {name: intervals(name, segment)[0].positions(bars) for name, segment in segments.items()}


@given(
    per_day=st.lists(st.integers(1, 6), min_size=25, max_size=40).filter(lambda counts: max(counts) > 1),
    opens=st.integers(0, 3),
    horizon=st.integers(0, 9),
    step=st.integers(1, 5),
    by_bars=st.booleans(),
    sliding=st.booleans(),
    ends_within=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_no_label_reaches_into_the_next_segment(
    per_day: list[int], opens: int, horizon: int, step: int, by_bars: bool, sliding: bool, ends_within: bool
) -> None:
    """Whatever the sessions look like, also if the first bar is that of midnight and a segment ends with it.

    With windows of bars, not one bar too many is left out; with windows of days, the
    next day would be one too many for some window of the calendar."""
    days = pd.bdate_range("2024-01-02", periods=len(per_day))
    bars = np.array(
        [d + pd.Timedelta(hours=opens + 4 * k) for d, n in zip(days, per_day, strict=True) for k in range(n)], "M8[s]"
    )
    segments: dict[str, Any] = {
        "train": (days[0], days[11]),
        "valid": (days[12], days[17]),
        "test": (days[18], days[-1]),
    }
    if by_bars and ends_within:
        segments["train"] = (days[0], f"{days[12]:%Y-%m-%d} 0{opens}:00")
        segments["valid"] = (f"{days[12]:%Y-%m-%d} 0{opens}:01", days[17])
    handler = {
        "class": "DataHandlerLP",
        "kwargs": {"label_horizon": horizon, "freq": "240min", "data_loader": {"class": "Own"}},
    }
    task = {"model": {}, "dataset": {"class": "DatasetH", "kwargs": {"handler": handler, "segments": segments}}}
    generator = RollingGen(
        step, "sliding" if sliding else "expanding", trunc_days="auto", calendar=bars, freq="4h" if by_bars else None
    )
    try:
        made = generator.generate(task)
    except SegmentError:
        return  # the horizon leaves nothing of a segment
    tested = []
    for one in made:
        places = positions(one, bars)
        for earlier, later in (("train", "valid"), ("valid", "test")):
            reach = places[earlier][1] - 1 + horizon
            assert reach < places[later][0]
            if by_bars and places[earlier][1] > places[earlier][0] + 1:
                assert reach == places[later][0] - 1 or horizon == 0
        tested += range(*places["test"])
    assert tested == list(range(tested[0], len(bars)))
    assert not [check for check in static_checks(made, bars) if check.subject == "label" and check.result == "leak"]


def test_a_bar_at_midnight_is_not_its_whole_day() -> None:
    """In a market that never closes, a window may end with the first bar of a day."""
    bars = pd.date_range("2024-01-01", "2024-01-20 23:00", freq="h").to_numpy().astype("M8[s]")
    segments = {"train": ("2024-01-01", "2024-01-05"), "test": ("2024-01-06", "2024-01-20")}
    task = {"dataset": {"kwargs": {"segments": segments}}}
    made = RollingGen(25, "sliding", calendar=bars, freq="60min").generate(task)
    tests = [positions(one, bars)["test"] for one in made]
    assert [b - a for a, b in tests[:-1]] == [25] * (len(tests) - 1)
    assert all(stop == start for (_, stop), (start, _) in pairwise(tests))
    ends = [one["dataset"]["kwargs"]["segments"]["test"][1] for one in made]
    assert "2024-01-07 00:00:00" in ends


@given(
    start=st.integers(0, 24 * 9),
    length=st.integers(0, 60),
    forms=st.tuples(*[st.sampled_from(["bar", "day", "date", "Timestamp", "datetime64"])] * 2),
    own_start=st.integers(0, 24 * 9),
)
@settings(max_examples=30, deadline=None)
def test_a_handler_selects_the_bars_that_a_segment_has(
    nights: Session, start: int, length: int, forms: tuple[str, str], own_start: int
) -> None:
    """In a market that never closes, in every notation of a bound: of a panel, of a frame, of samples of several bars, and
    within the handler's own range, which is one of bars too."""
    ends = tuple(as_written(NIGHTS[place], form) for place, form in zip((start, start + length), forms, strict=True))
    own = as_written(NIGHTS[own_start], "bar"), as_written(NIGHTS[own_start + 70], "bar")
    wanted = set(NIGHTS[slice(*intervals("test", ends)[0].positions(NIGHTS.to_numpy().astype("M8[s]")))])
    with using(nights):
        frame = D.features("all", ["$close"], freq="60min").swaplevel().sort_index()
        loaders = (QlibDataLoader(["$close"], freq="60min"), StaticDataLoader(frame))
        for loader in loaders:
            whole, part = DataHandlerLP("all", data_loader=loader), DataHandlerLP("all", *own, data_loader=loader)
            assert set(part.days()) == set(NIGHTS[own_start : own_start + 71])
            for handler in (whole, part):
                inside = wanted & set(handler.days())
                assert set(handler.fetch(slice(*ends)).index.unique("datetime")) == inside
                if inside:
                    dataset = TSDatasetH(handler=handler, segments={"test": ends}, step_len=3)
                    assert set(dataset.prepare("test").get_index().unique("datetime")) == inside


@pytest.mark.parametrize("form", ["bar", "Timestamp"])
def test_a_single_bar_is_selected_by_its_time(nights: Session, form: str) -> None:
    """A handler of bars returns that bar; a day selects all of its bars."""
    with using(nights):
        frame = D.features("all", ["$close"], freq="60min").swaplevel().sort_index()
        handler = DataHandlerLP("all", data_loader=StaticDataLoader(frame))
        assert handler.fetch(as_written(NIGHTS[31], form)).index.unique("datetime").tolist() == [NIGHTS[31]]
        for day in ("2024-01-02", pd.Timestamp("2024-01-02")):
            assert handler.fetch(day).index.unique("datetime").tolist() == list(NIGHTS[24:48])


def as_written(bar: pd.Timestamp, form: str) -> object:
    """Return a bar, or its day, in a notation."""
    if form == "datetime64":
        return bar.to_datetime64().astype("M8[s]")
    if form == "Timestamp":
        return bar
    return bar.date() if form == "date" else f"{bar:%Y-%m-%d}" if form == "day" else f"{bar:%Y-%m-%d %H:%M}"


@pytest.mark.parametrize("generator", ["RollingGen", "CalendarGen", "MultiHorizonGen", "PurgedKFoldGen"])
def test_windows_of_days_do_not_begin_within_a_day(generator: str) -> None:
    """The rest of the day would be in two segments."""
    segments = {"train": ("2024-01-02", "2024-02-09 11:30"), "test": ("2024-02-09 13:00", "2024-03-15")}
    task = {**template(), "dataset": {**template()["dataset"]}}
    task["dataset"]["kwargs"] = {**task["dataset"]["kwargs"], "segments": segments}
    made: dict[str, Any] = {
        "RollingGen": lambda: RollingGen(5, calendar=BARS.to_numpy()),
        "CalendarGen": lambda: CalendarGen("month", calendar=BARS.to_numpy()),
        "MultiHorizonGen": lambda: MultiHorizonGen(
            [1], label="Ref($close, -{horizon}) / $close - 1", calendar=BARS.to_numpy()
        ),
        "PurgedKFoldGen": lambda: PurgedKFoldGen(4, calendar=BARS.to_numpy()),
    }
    with pytest.raises(SegmentError, match=r"train: 2024-02-09 11:30 is within a day, but whole days are needed here"):
        made[generator]().generate(task)


# -- from the workflow file to the report ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workflow(folder: Path, daily: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("workflow")
    own = {
        "data": {"day": str(daily), "1h": str(folder)},
        "tracking": f"folder:{place}/runs",
        "store": f"sqlite:///{place}/tasks.db",
    }
    document = {"rollforge": {**own, "cache": str(place / "cache")}, "task": template(), "rolling": {"step": 5}}
    (place / "hourly.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return place / "hourly.yaml"


def test_a_workflow_trains_and_evaluates_bars(workflow: Path) -> None:
    """Windows of five days; every prediction is that of a model fitted by hand; IC is the mean over bars."""
    ran = run("run", workflow, "--jobs", "0", cwd=workflow.parent)
    assert ran.returncode == 0, ran.stderr
    prices = closes()
    features = {"one": prices / prices.shift(1) - 1, "five": prices / prices.rolling(5).mean() - 1}
    label = prices.shift(-3) / prices.shift(-1) - 1
    rows = pd.concat({name: frame.stack() for name, frame in {**features, "label": label}.items()}, axis=1)
    made = pd.read_parquet(workflow.parent / "results" / "hourly" / "prediction.parquet")
    scores = made["score"] if "score" in made else made.iloc[:, 0]
    tested = pd.DatetimeIndex(scores.index.get_level_values("datetime").unique()).sort_values()
    assert list(tested) == list(BARS[(BARS >= "2024-02-12") & (BARS < "2024-03-16")])
    days = tested.normalize().unique()
    expected = []
    for start in range(0, len(days), 5):
        window = days[start : start + 5]
        before = DAYS[window[0] > DAYS]
        # The label of the last bar of the day before looks three bars ahead: one day is left out.
        train = rows.loc["2024-01-03" : f"{before[-2]:%Y-%m-%d} 23:59"].dropna()  # type: ignore[misc]
        model = LinearRegression(fit_intercept=False).fit(train[["one", "five"]], train["label"])
        test = rows.loc[f"{window[0]:%Y-%m-%d}" : f"{window[-1]:%Y-%m-%d} 23:59", ["one", "five"]]  # type: ignore[misc]
        expected.append(pd.Series(model.predict(test), test.index))
    np.testing.assert_allclose(scores.sort_index(), pd.concat(expected).sort_index(), rtol=1e-3, atol=1e-7)
    known = pd.concat([scores.rename("score"), rows["label"].rename_axis(scores.index.names)], axis=1).dropna()
    ic = known.groupby("datetime").apply(lambda bar: bar["score"].corr(bar["label"])).mean()
    text = ran.stdout
    assert re.search(rf"^IC +{ic:.4f} +mean of 100 bars", text, re.MULTILINE), text
    assert "Ref($close, -1) - 1, over 2 bars" in " ".join(text.split())
    assert "looks 3 60min bars ahead" in " ".join(text.split())
    page = (workflow.parent / "results" / "hourly" / "report.html").read_text(encoding="utf-8")
    assert "1,008 bars" in page  # 252 days of four bars
    assert "2024-02-12 10:30" in page


@pytest.mark.parametrize("freq", [None, "5min"])
def test_a_frequency_that_the_data_lack_is_an_error_that_names_theirs(
    workflow: Path, folder: Path, freq: str | None
) -> None:
    """Without freq a handler reads days, as in Qlib. No demo market is offered where there are data."""
    document = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    document["rollforge"]["data"] = str(folder)
    loader = document["task"]["dataset"]["kwargs"]["handler"]["kwargs"]["data_loader"]["kwargs"]
    loader.pop("freq") if freq is None else loader.update(freq=freq)
    file = workflow.parent / "other.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(
        DataNotFound, match=r"Known: 60min\. Set freq to '60min' \(of a handler or its loader, or the argument\)\.$"
    ):
        rollforge.make_plan(rollforge.load_workflow(file))


def test_a_plan_shows_times(workflow: Path) -> None:
    """The table and the time axis have the first and the last bar."""
    shown = " ".join(run("plan", workflow, cwd=workflow.parent).stdout.split())
    assert "2024-02-12 10:30 …" in shown
    assert "bars" in shown


def test_measured_checks_change_the_bars_after_a_bar(workflow: Path) -> None:
    """Nothing of a bar depends on later ones, and the label's reach is measured in bars."""
    ran = run("check", workflow, "--json", cwd=workflow.parent)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout)
    assert not [check for check in found if check["result"] == "leak"]
    assert [check for check in found if check["method"] == "measured" and check["result"] == "clean"]


def test_windows_of_bars_from_a_workflow(workflow: Path) -> None:
    """``freq`` under rolling counts bars."""
    document = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    document["rolling"] = {"step": 30, "freq": "1h", "rtype": "sliding", "clip_test_end": True}
    file = workflow.parent / "bars.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    plan = rollforge.make_plan(rollforge.load_workflow(file))
    tests = [window.segments["test"] for window in plan.windows]
    assert [span.days for span in tests] == [30, 30, 30, 10]
    gap = np.searchsorted(BARS.to_numpy(), [plan.windows[0].segments["train"].end, tests[0].start])
    assert gap[1] - gap[0] == 4  # the three bars between are left out


def test_a_backtest_of_bars_is_refused_before_training(workflow: Path) -> None:
    """The message says what to leave out."""
    document = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    signal = {"topk": 2, "n_drop": 1, "signal": "<PRED>"}
    strategy = {"class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy", "kwargs": signal}
    config = {"strategy": strategy, "backtest": {"start_time": None, "end_time": None, "benchmark": None}}
    backtest = {"class": "PortAnaRecord", "module_path": "qlib.workflow.record_temp", "kwargs": {"config": config}}
    document["task"]["record"].append(backtest)
    file = workflow.parent / "backtest.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"trades once a day, but the data have the frequency '60min'. Leave out PortAnaRecord"
    ):
        rollforge.make_plan(rollforge.load_workflow(file))


def test_a_service_needs_daily_data() -> None:
    """A service decides once a day."""
    with pytest.raises(ConfigError, match=r"needs daily data; the frequency of these is '60min'"):
        RollingStrategy("hourly", template(), RollingGen(step=5))


# -- importing ---------------------------------------------------------------------------------------------------------


def test_a_table_of_bars_is_imported_as_such(tmp_path: Path) -> None:
    """Several rows a day of an instrument are bars; the calendar is named by their distance."""
    table = closes().rename_axis("datetime").reset_index().melt("datetime", var_name="symbol", value_name="close")
    table["datetime"] = table["datetime"].astype(str)
    table.to_csv(tmp_path / "t.csv", index=False)
    made = import_table(tmp_path / "t.csv", tmp_path / "data")
    assert str(made).startswith("7 instruments x 240 bars of 60min, 2024-01-02 10:30 to 2024-03-25 15:30")
    provider = open_provider(tmp_path / "data")
    assert (provider.calendar() == BARS.to_numpy()).all()
    values = provider.read("close", ["S3"], 0, len(BARS), "60min").values[0]
    np.testing.assert_allclose(values, closes()["S3"], rtol=1e-6)
    with pytest.raises(DataError, match=r"several rows a day of an instrument.*daily data only"):
        append_table(tmp_path / "t.csv", tmp_path / "data")


MINUTES = pd.DatetimeIndex([day + pd.Timedelta(hours=9, minutes=35 + 5 * k) for day in DAYS[:9] for k in range(6)])


@pytest.mark.parametrize(
    "written",
    [
        {"trade_time": "%Y-%m-%d %H:%M:%S"},
        {"date": "%Y-%m-%d", "time": "%Y%m%d%H%M%S000"},
        {"trade_date": "%Y%m%d", "trade_time": "%H:%M"},
        {"date": "%Y%m%d", "time": "%H%M%S000"},
        {"datetime": "%Y-%m-%d %H:%M:%S-05:00"},
    ],
    ids=str,
)
def test_bars_are_recognized_in_the_forms_of_their_sources(written: dict[str, str], tmp_path: Path) -> None:
    """The day and the time in one column or in two. One more row between two bars does not change the frequency; a note
    names it, and a note names an instrument's bars on a Saturday."""
    stray = [pd.Timestamp("2024-01-05 09:36"), pd.Timestamp("2024-01-06 10:00")]
    rows = [(code, time) for code in "ABC" for time in MINUTES] + [("A", time) for time in stray]
    table = pd.DataFrame({"code": [code for code, _ in rows], "close": 5.0})
    for name, form in written.items():
        table[name] = [time.strftime(form) for _, time in rows]
    made = import_table(table, tmp_path / "data")
    assert (made.freq, made.fields) == ("5min", ("close", "factor"))
    assert (open_provider(tmp_path / "data").calendar() == np.sort([*MINUTES, *stray])).all()
    notes = "; ".join(made.notes)
    assert "bars with only a few instruments: 2024-01-05 09:36 (1 of 3: A), 2024-01-06 10:00 (1 of 3: A)" in notes


def test_a_second_row_of_a_day_does_not_make_bars_of_daily_data(tmp_path: Path) -> None:
    """The second row is the same duplicate as before, whatever its time is."""
    table = pd.DataFrame({"symbol": "A", "datetime": [f"{day:%Y-%m-%d} 16:00" for day in DAYS], "close": 5.0})
    twice = pd.concat([table, table.iloc[[7]].replace("16:00", "17:30", regex=True)])
    with pytest.raises(DataError, match=r"more than one row per instrument and day: A on 2024-01-11 \(row 61\)"):
        import_table(twice, tmp_path / "data")
    assert import_table(table, tmp_path / "data").freq == "day"


@pytest.mark.parametrize(
    ("times", "text"),
    [
        (
            pd.date_range("2024-01-02 09:30", periods=30, freq="10s"),
            "are 10 seconds apart, but the shortest frequency is '1min'",
        ),
        ([*MINUTES, pd.Timestamp("2042-01-08 09:35")], "2042-01-08 09:35 in row 55 is years away from all other bars"),
        (
            pd.date_range("2024-10-26", periods=60, freq="h", tz="Europe/Berlin").tz_localize(None),
            "A on 2024-10-27 02:00 .*an hour that is repeated when daylight saving time ends, and all other times, in UTC",
        ),
    ],
)
def test_bars_that_cannot_be_imported(times: Any, text: str, tmp_path: Path) -> None:
    """The message says what to do about them."""
    with pytest.raises(DataError, match=text):
        import_table(pd.DataFrame({"symbol": "A", "datetime": times, "close": 5.0}), tmp_path / "data")


def test_a_bar_given_twice_is_refused(tmp_path: Path) -> None:
    """The message has its time."""
    table = pd.DataFrame(
        {"symbol": "A", "datetime": ["2024-01-02 10:30", "2024-01-02 11:30", "2024-01-02 10:30"], "close": 1.0}
    )
    with pytest.raises(DataError, match=r"more than one row per instrument and time: A on 2024-01-02 10:30 \(row 3\)"):
        import_table(table, tmp_path / "data")


# -- a table of the user -----------------------------------------------------------------------------------------------


def sensors(zone: str | None = None) -> pd.DataFrame:
    """Return two months of hours of three sensors."""
    rng = np.random.default_rng(8)
    times = pd.date_range("2024-10-01", "2024-11-20 23:00", freq="h", tz=zone)
    index = pd.MultiIndex.from_product([times, ["north", "south", "west"]], names=["hour", "sensor"])
    frame = pd.DataFrame(rng.normal(size=(len(index), 3)), index, ["a", "b", "c"])
    return frame.assign(y=frame["a"] - 0.5 * frame["b"] + rng.normal(0, 0.3, len(index)))


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@pytest.mark.parametrize("step", ["week", 100])
def test_predictions_of_hours_equal_a_loop_by_hand(zone: str | None, step: str | int, tmp_path: Path) -> None:
    """Predictions of hours are equal over the night on which an hour is repeated, too; the index comes back with its
    time zone."""
    frame = sensors(zone)
    own = Session(tracking_uri=f"folder:{tmp_path}/runs", store_uri=f"sqlite:///{tmp_path}/t.db", cache=str(tmp_path))
    result = rollforge.walk_forward(
        LinearRegression(), frame, label="y", train="20D", step=step, horizon=6, jobs=0, session=own
    )
    assert result.prediction.index.names == ["hour", "sensor"]
    assert result.prediction.index.isin(frame.index).all()
    times = frame.index.get_level_values("hour")
    plain = times.tz_convert("UTC").tz_localize(None) if zone else times
    tested = []
    for window in result.windows.itertuples():
        train = frame[(plain >= window.train_start) & (plain <= window.train_end)]
        test = (plain >= window.test_start) & (plain <= window.test_end)
        model = LinearRegression().fit(train[["a", "b", "c"]], train["y"])
        by_hand = model.predict(frame[test][["a", "b", "c"]])
        assert (result.prediction.loc[frame.index[test]].to_numpy() == by_hand).all()
        tested.append(frame.index[test])
        before = plain.unique()
        gap = before.get_loc(window.test_start) - before.get_loc(window.train_end)
        assert gap == 7  # the six hours between are left out
    assert sum(map(len, tested)) == len(result.prediction)
    ic = pd.DataFrame({"p": result.prediction, "y": result.label}).groupby("hour").apply(lambda h: h["p"].corr(h["y"]))
    assert result.metrics["ic"] == pytest.approx(ic.mean())
    assert result.summary.headline.per_year == 8760


def test_a_year_has_as_many_bars_as_its_sessions() -> None:
    """Futures trade from Monday's morning to Saturday's early hours: 252 sessions, although the calendar has Saturdays."""
    days = pd.bdate_range("2023-01-02", "2023-12-29")
    hours = [day + pd.Timedelta(hours=h) for day in days for h in (9, 10, 11, 13, 14, 21, 22, 23, 24, 25)]
    assert periods_per_year(hours) == pytest.approx(2520, rel=0.01)
    shop = pd.date_range("2023-01-02", "2023-12-30 23:00", freq="h")
    assert periods_per_year(shop[shop.day_of_week < 6]) == 302 * 24
    assert [periods_per_year(days[:n]) for n in (2, 4, 8, 19, 23)] == [252] * 5


def test_the_annual_figures_of_weeks_use_52_a_year(tmp_path: Path) -> None:
    """A year has as many periods as the calendar has, not 252."""
    rng = np.random.default_rng(3)
    weeks = pd.date_range("2018-01-05", periods=200, freq="W-FRI")
    index = pd.MultiIndex.from_product([weeks, list("abcdefgh")], names=["week", "store"])
    frame = pd.DataFrame(rng.normal(size=(len(index), 2)), index, ["x", "y"])
    own = Session(tracking_uri=f"folder:{tmp_path}/runs", store_uri=f"sqlite:///{tmp_path}/t.db", cache=str(tmp_path))
    result = rollforge.walk_forward(
        LinearRegression(), frame, label="y", train=100, step=50, horizon=2, label_periods=1, jobs=0, session=own
    )
    assert "The label looks 2 periods ahead (declared)" in " ".join(check.text for check in result.summary.checks)
    headline, table = result.summary.headline, result.summary.quantile_table
    assert table is not None
    assert headline.per_year == 52
    assert headline.long_short_return == pytest.approx(52 * table.loc["5 - 1", "label"])
    assert headline.period == "week"
