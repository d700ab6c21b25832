"""Windows by the calendar, by hand on a calendar with holidays, and their properties on any calendar."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rollforge.errors import ConfigError, SegmentError
from rollforge.generate import CalendarGen
from rollforge.generate.offsets import period_starts, read_length, read_offset
from rollforge.generate.segments import intervals
from rollforge.limits import TooLarge

HOLIDAYS = [
    "2023-01-02",
    "2023-02-20",
    "2023-03-31",
    "2023-04-07",
    "2023-05-01",
    "2023-05-29",
    "2023-07-04",
    "2023-12-25",
]
DAYS = pd.bdate_range("2020-01-02", "2023-12-29").difference(pd.DatetimeIndex(HOLIDAYS))
ALPHA = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": {"instruments": "all"}}


def template(handler: Any = None, record: Any = None, **segments: Any) -> dict[str, Any]:
    kwargs: dict[str, Any] = {"segments": segments}
    if handler is not None:
        kwargs["handler"] = handler
    return {"dataset": {"kwargs": kwargs}} | ({"record": record} if record else {})


def windows(generator: CalendarGen, task: dict[str, Any]) -> list[str]:
    """Return the segments of each window, as "first..last" in the order train, valid, test."""
    return [" ".join(map(_text, t["dataset"]["kwargs"]["segments"].values())) for t in generator.generate(task)]


def _text(segment: Any) -> str:
    if isinstance(segment, list):
        return "+".join(map(_text, segment))
    start, end = segment
    return f"{start:%y%m%d}..{'' if end is None else f'{end:%y%m%d}'}"


def test_a_model_is_trained_at_the_end_of_each_month() -> None:
    """After its last trading day (30 March, before the holiday on the 31st), and tested from the next trading day on."""
    task = template(train=("2020-01-02", "2022-12-30"), test=("2023-03-01", "2023-05-15"))
    made = windows(CalendarGen("month", train="2 months", trunc_days=None, calendar=DAYS), task)
    assert made == [
        "230103..230228 230301..230330",
        "230201..230330 230403..230428",
        "230301..230428 230502..230515",
    ]


def test_lengths_in_trading_days_count_trading_days() -> None:
    """Segments end the day before the next segment, whatever lies between."""
    task = template(train=("2020-01-02", "2022-12-30"), test=("2023-04-03", "2023-05-31"))
    made = windows(CalendarGen("ME", train=3, valid=2, trunc_days=None, calendar=DAYS), task)
    assert made == ["230324..230328 230329..230330 230403..230428", "230424..230426 230427..230428 230502..230531"]


def test_lengths_of_the_template_are_kept() -> None:
    """Lengths are kept in trading days; an expanding training segment keeps its first day."""
    task = template(
        train=("2023-02-01", "2023-02-07"), valid=("2023-02-08", "2023-02-09"), test=("2023-03-01", "2023-04-28")
    )
    sliding = windows(CalendarGen("month", trunc_days=None, calendar=DAYS), task)
    assert sliding == ["230217..230224 230227..230228 230301..230330", "230322..230328 230329..230330 230403..230428"]
    expanding = windows(CalendarGen("month", rtype="expanding", trunc_days=None, calendar=DAYS), task)
    assert expanding == ["230201..230224 230227..230228 230301..230330", "230201..230328 230329..230330 230403..230428"]


def test_an_expanding_segment_may_have_a_first_length() -> None:
    """The first day is that of the first window."""
    task = template(train=("2020-01-02", "2022-12-30"), test=("2023-03-01", "2023-05-31"))
    made = windows(CalendarGen("month", train="1 month", rtype="expanding", trunc_days=None, calendar=DAYS), task)
    assert made == ["230201..230228 230301..230330", "230201..230330 230403..230428", "230201..230428 230502..230531"]


@pytest.mark.parametrize(
    ("retrain", "tests"),
    [
        ("W-FRI", ["230315..230317", "230320..230324", "230327..230330", "230403..230406", "230410..230412"]),
        ("week", ["230315..230317", "230320..230324", "230327..230330", "230403..230406", "230410..230412"]),
        ("W-WED", ["230315..230315", "230316..230322", "230323..230329", "230330..230405", "230406..230412"]),
        ("2W", ["230315..230324", "230327..230406", "230410..230412"]),
        ("MS", ["230315..230330", "230403..230412"]),
        ("5B", ["230315..230321", "230322..230328", "230329..230404", "230405..230411", "230412..230412"]),
        ("14D", ["230315..230328", "230329..230411", "230412..230412"]),
        (pd.DateOffset(weeks=2), ["230315..230328", "230329..230411", "230412..230412"]),
        ("WOM-4MON", ["230315..230327", "230328..230412"]),
        ("quarter", ["230315..230330", "230403..230412"]),
        ("year", ["230315..230412"]),
    ],
    ids=str,
)
def test_test_segments_end_with_their_periods(retrain: Any, tests: list[str]) -> None:
    """The first begins, and the last ends, where the template's does, in the middle of a period."""
    task = template(train=("2022-01-03", "2022-12-30"), test=("2023-03-15", "2023-04-12"))
    generator = CalendarGen(retrain, train=20, trunc_days=None, calendar=DAYS)
    assert [w.split()[1] for w in windows(generator, task)] == tests
    assert generator.count(task) == len(tests)


def test_a_period_of_a_beginning_starts_on_its_date() -> None:
    """``MS`` tests from the first of a month, and ``ME`` from the day after the last: the same, unless it is one day off."""
    task = template(train=("2022-01-03", "2022-12-30"), test=("2023-01-03", "2023-03-31"))
    begin, end = (windows(CalendarGen(o, train=20, trunc_days=None, calendar=DAYS), task) for o in ("MS", "ME"))
    assert begin == end
    assert [w.split()[1] for w in windows(CalendarGen("QS-FEB", train=20, trunc_days=None, calendar=DAYS), task)] == [
        "230103..230131",
        "230201..230330",
    ]


def test_several_periods_are_counted_from_the_one_that_contains_the_first_day() -> None:
    """From February on, ``2QE`` counts the first two quarters of the year, then the others."""
    task = template(train=("2022-01-03", "2022-12-30"), test=("2023-02-15", "2023-12-29"))
    made = windows(CalendarGen("2QE", train=20, trunc_days=None, calendar=DAYS), task)
    assert [w.split()[1] for w in made] == ["230215..230630", "230703..231229"]


def test_a_period_without_trading_days_has_no_window() -> None:
    """In a week of holidays there is none: the model is trained once after it."""
    days = DAYS.difference(pd.bdate_range("2023-03-20", "2023-03-24"))
    task = template(train=("2022-01-03", "2022-12-30"), test=("2023-03-13", "2023-03-30"))
    made = windows(CalendarGen("week", train="1 week", trunc_days=None, calendar=days), task)
    assert made == ["230306..230310 230313..230317", "230313..230317 230327..230330"]
    with pytest.raises(SegmentError, match="train: has no trading day in the window that tests from 2023-03-27"):
        CalendarGen("week", train="3D", trunc_days=None, calendar=days).generate(
            template(train=("2022-01-03", "2022-12-30"), test=("2023-03-27", "2023-03-30"))
        )


def test_auto_purges_by_the_label_as_rolling_does() -> None:
    """Alpha158's label looks 2 days ahead: train ends 2 days before valid, and valid 2 days before the test."""
    task = template(ALPHA, train=("2020-01-02", "2022-12-30"), test=("2023-04-03", "2023-04-28"))
    assert windows(CalendarGen("month", train=10, valid=5, calendar=DAYS), task) == [
        "230310..230321 230324..230328 230403..230428"
    ]
    assert windows(CalendarGen("month", train=10, valid=5, trunc_days=4, calendar=DAYS), task) == [
        "230310..230323 230324..230327 230403..230428"
    ]
    unknown = template("file://handler.pkl", train=("2020-01-02", "2022-12-30"), test=("2023-04-03", "2023-04-28"))
    with pytest.raises(SegmentError, match=r"trunc_days: 'auto' needs the label's horizon.*label_horizon"):
        CalendarGen("month", train=10, calendar=DAYS).generate(unknown)
    with pytest.raises(SegmentError, match=r"segments\.valid: nothing is left"):
        CalendarGen("month", train=10, valid=2, calendar=DAYS).generate(task)


def test_prediction_periods_split_the_test_segment() -> None:
    """A model that is trained once predicts several periods; the intervals are those of the calendar."""
    task = template(train=("2020-01-02", "2022-12-30"), test=("2023-02-15", "2023-07-14"))
    made = windows(CalendarGen("quarter", train=20, predict="month", trunc_days=None, calendar=DAYS), task)
    assert [w.split()[1] for w in made] == [
        "230215..230228+230301..230330",
        "230403..230428+230502..230531+230601..230630",
        "230703..230714",
    ]
    rare = windows(CalendarGen("quarter", train=20, predict="year", trunc_days=None, calendar=DAYS), task)
    assert [w.split()[1] for w in rare] == ["230215..230330", "230403..230630", "230703..230714"]


def test_an_open_test_segment_stays_open() -> None:
    """In the last window, together with the handler's end, so that it has the days to come."""
    handler = {**ALPHA, "kwargs": {"end_time": "2023-12-29"}}
    task = template(handler, train=("2020-01-02", "2022-12-30"), test=("2023-11-01", None))
    made = CalendarGen("month", train=20, predict="W", calendar=DAYS).generate(task)
    tests = [t["dataset"]["kwargs"]["segments"]["test"] for t in made]
    assert _text(tests[0]) == "231101..231103+231106..231110+231113..231117+231120..231124+231127..231130"
    assert _text(tests[1]).endswith("+231226..")
    assert [t["dataset"]["kwargs"]["handler"]["kwargs"]["end_time"] for t in made] == ["2023-12-29", None]


def test_fit_windows_and_backtests_move_with_the_window() -> None:
    """Fit windows move if the handler has one; both can be turned off. The template is not modified."""
    handler = {**ALPHA, "kwargs": {"fit_start_time": "2020-01-02", "fit_end_time": "2022-12-30"}}
    backtest = {"start_time": "2023-03-01", "end_time": "2023-04-28", "account": 1}
    record = [{"class": "PortAnaRecord", "kwargs": {"config": {"strategy": {}, "backtest": backtest}}}]
    task = template(handler, record, train=("2020-01-02", "2022-12-30"), test=("2023-03-01", "2023-04-28"))
    before = repr(task)
    made = CalendarGen("month", train=10, calendar=DAYS).generate(task)
    fit = [t["dataset"]["kwargs"]["handler"]["kwargs"] for t in made]
    assert [_text((k["fit_start_time"], k["fit_end_time"])) for k in fit] == ["230214..230224", "230317..230328"]
    assert [t["record"][0]["kwargs"]["config"]["backtest"]["end_time"] for t in made] == [None, None]
    kept = CalendarGen("month", train=10, roll_fit_window=False, roll_backtest=False, calendar=DAYS).generate(task)
    assert kept[1]["dataset"]["kwargs"]["handler"] == handler
    assert kept[1]["record"] == record
    assert repr(task) == before
    plain = CalendarGen("month", train=10, calendar=DAYS).generate(
        template(ALPHA, train=("2020-01-02", "2022-12-30"), test=("2023-03-01", "2023-04-28"))
    )
    assert plain[0]["dataset"]["kwargs"]["handler"] == ALPHA


def test_a_segment_does_not_begin_before_the_data() -> None:
    """A segment begins on or after the first day of the data of the calendar and of the handler; a duration may begin
    some holidays earlier."""
    early = template(train=("2020-01-02", "2020-01-10"), test=("2021-01-01", "2021-01-29"))
    assert windows(CalendarGen("year", train="1 year", trunc_days=None, calendar=DAYS), early) == [
        "200102..201231 210101..210129"
    ]
    for train in ("2 years", "13 months", 263):
        with pytest.raises(SegmentError, match=r"^train: .*tests from 2021-01-01.*begin on 2020-01-02"):
            CalendarGen("year", train=train, trunc_days=None, calendar=DAYS).generate(early)
    assert windows(CalendarGen("year", train=261, trunc_days=None, calendar=DAYS), early) == [
        "200102..201231 210101..210129"
    ]
    late = template({**ALPHA, "kwargs": {"start_time": "2020-06-01"}}, **early["dataset"]["kwargs"]["segments"])
    with pytest.raises(SegmentError, match="begin on 2020-06-01"):
        CalendarGen("year", train="1 year", calendar=DAYS).generate(late)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"retrain": "mounth"}, "retrain: 'mounth' is not an offset"),
        ({"retrain": "12h"}, "retrain: must move a date forward by whole days"),
        ({"retrain": "36h"}, "retrain: must move a date forward by whole days"),
        ({"retrain": "-1ME"}, "retrain: must move a date forward"),
        ({"retrain": "0D"}, "retrain: must move a date forward"),
        ({"retrain": 20}, "retrain: must be an offset, found 20"),
        ({"retrain": "999999 years"}, "retrain: '999999 years' is too long"),
        ({"predict": "often"}, "predict: 'often' is not an offset"),
        ({"train": 0}, "train: must be at least one trading day"),
        ({"train": -5}, "train: must be a number of trading days or a duration, found -5"),
        ({"train": True}, "train: must be an offset, found True"),
        ({"train": "WOM-3FRI"}, "train: 'WOM-3FRI' is not a length"),
        ({"valid": 2.5}, "valid: must be an offset, found 2.5"),
        ({"rtype": "expand"}, "rtype: must be 'sliding' or 'expanding', found 'expand'. Did you mean 'expanding'"),
        ({"trunc_days": -1}, "trunc_days: must be 'auto' or a number of days, found -1"),
        ({"trunc_days": "all"}, "trunc_days: must be 'auto'"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CalendarGen(**arguments, calendar=DAYS)
    assert str(caught.value).startswith(said)


def test_segments_that_cannot_be_moved_are_refused() -> None:
    base = {"train": ("2020-01-02", "2022-12-30"), "test": ("2023-01-03", "2023-04-28")}
    with pytest.raises(SegmentError, match=r"pretrain: CalendarGen creates"):
        CalendarGen(calendar=DAYS).generate(template(**base, pretrain=("2020-01-02", "2020-12-31")))
    split = [("2020-01-02", "2020-12-31"), ("2022-01-03", "2022-12-30")]
    with pytest.raises(SegmentError, match=r"train: has several intervals"):
        CalendarGen(calendar=DAYS).generate(template(**base | {"train": split}))


def test_too_many_windows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLFORGE_LIMIT_TASKS", "10")
    task = template(train=("2020-01-02", "2022-12-30"), test=("2023-01-03", "2023-12-29"))
    with pytest.raises(TooLarge, match="retrain: its windows are 12 tasks"):
        CalendarGen("month", trunc_days=None, calendar=DAYS).generate(task)
    assert len(CalendarGen("2 months", train=20, trunc_days=None, calendar=DAYS).generate(task)) == 6


def test_lengths_are_durations_whatever_the_dates_of_their_offset() -> None:
    """Three year ends are three years, and two Fridays two weeks."""
    day = pd.Timestamp("2023-04-03")
    for text, years in (("3YE", 3), ("3Y", 3), ("3 years", 3), ("3YS", 3), ("3BYE", 3)):
        length = read_length(text, "train")
        assert not isinstance(length, int)
        assert day - length == day - pd.DateOffset(years=years)
    for text, months in (("2QE-FEB", 6), ("18 months", 18), ("month", 1), ("2BMS", 2)):
        length = read_length(text, "train")
        assert not isinstance(length, int)
        assert day - length == day - pd.DateOffset(months=months)
    for text, days in (("2W-FRI", 14), ("90D", 90), ("1 week", 7)):
        length = read_length(text, "train")
        assert not isinstance(length, int)
        assert day - length == day - pd.Timedelta(days=days)
    assert read_length(0, "valid") == 0


OFFSETS = [
    "W",
    "W-WED",
    "2W",
    "ME",
    "MS",
    "BME",
    "2ME",
    "QE",
    "QE-FEB",
    "YE",
    "5B",
    "20B",
    "9D",
    "SME",
    "WOM-3FRI",
    "D",
]


@st.composite
def markets(draw: st.DrawFn) -> pd.DatetimeIndex:
    """Four years of weekdays of which any can be a holiday."""
    days = pd.bdate_range("2020-01-01", "2023-12-29")
    share = draw(st.sampled_from([0.0, 0.05, 0.4]))
    kept = np.random.default_rng(draw(st.integers(0, 99))).random(len(days)) >= share
    return days[kept]


def assert_counted_from_each(retrain: str, days: pd.DatetimeIndex, bounds: list[int]) -> None:
    """The next window begins with the first period, counted from a window's first day, that leaves it a trading day."""
    cals, offset = days.to_numpy().astype("datetime64[D]"), read_offset(retrain, "")
    for start, following in itertools.pairwise(bounds):
        later = (int(np.searchsorted(cals, d)) for d in period_starts(offset, cals[start], cals[bounds[-1] - 1]))
        assert next((at for at in later if at > start), bounds[-1]) == following
        if retrain in ("5B", "9D"):
            end = int(days.searchsorted(days[start] + pd.tseries.frequencies.to_offset(retrain)))
            assert min(end, bounds[-1]) == following


@settings(max_examples=60, deadline=None)
@given(
    days=markets(),
    retrain=st.sampled_from(OFFSETS),
    predict=st.sampled_from([None, "W", "ME", "D"]),
    train=st.sampled_from([1, 30, "2 months", "90D"]),
    valid=st.sampled_from([0, 1, 12, "3 weeks"]),
    rtype=st.sampled_from(["sliding", "expanding"]),
    trunc=st.integers(0, 3),
    span=st.tuples(st.integers(150, 300), st.integers(1, 250)),
)
def test_every_test_day_is_predicted_once_by_a_model_trained_before(
    days: pd.DatetimeIndex,
    retrain: str,
    predict: str | None,
    train: Any,
    valid: Any,
    rtype: str,
    trunc: int,
    span: tuple[int, int],
) -> None:
    """The test segments cover the test days of the template without gaps and overlaps, and end where a period ends;
    train ends before valid begins, and valid before the test; the lengths are those asked for, less what is truncated."""
    first, stop = span[0], min(len(days), sum(span))
    task = template(train=(days[0], days[first - 1]), test=(days[first], days[stop - 1]))
    generator = CalendarGen(retrain, train, valid, predict, rtype, trunc or None, calendar=days)
    try:
        made = generator.generate(task)
    except SegmentError as exc:  # nothing is left of a short segment, after truncation or in weeks of holidays
        if "nothing is left" in str(exc) or "has no trading day" in str(exc):
            return
        raise
    assert generator.count(task) == len(made)
    cals = days.to_numpy().astype("datetime64[D]")
    covered: list[int] = []
    starts = []
    for one in made:
        segments = one["dataset"]["kwargs"]["segments"]
        places = {n: [p.positions(cals) for p in intervals(n, s)] for n, s in segments.items()}
        assert list(places) == (["train", "valid", "test"] if valid else ["train", "test"])
        for name, segment in segments.items():
            parts = segment if isinstance(segment, list) else [segment]
            assert all(day in days for part in parts for day in part), f"{name} lies on trading days"
        covered += [i for a, b in places["test"] for i in range(a, b)]
        test = places["test"][0][0]
        starts.append(test)
        end = test
        for name, length in (("valid", valid), ("train", train)):
            if not length:
                continue
            ((a, b),) = places[name]
            assert b <= min(end, test - trunc + (1 if trunc else 0)), f"{name} ends before the next segment, truncated"
            if isinstance(length, int) and (name == "valid" or rtype == "sliding" or one is made[0]):
                assert a == end - length, f"{name} has {length} days before truncation"
                assert b == min(end, test - trunc + 1) if trunc else b == end
            if name == "train" and rtype == "expanding":
                assert a == intervals("train", made[0]["dataset"]["kwargs"]["segments"]["train"])[0].positions(cals)[0]
            end = a
    assert covered == list(range(first, stop))
    if retrain[0].isdigit():  # several units are counted from the first trading day of each window
        assert_counted_from_each(retrain, days, [*starts, stop])
        return
    begins = {
        int(np.searchsorted(cals, d)) for d in period_starts(read_offset(retrain, ""), cals[first], cals[stop - 1])
    }
    assert set(starts) == begins | {first}


@settings(max_examples=60, deadline=None)
@given(
    offset=st.sampled_from(["W", "W-WED", "ME", "MS", "BME", "BMS", "QE-FEB", "QS", "YE", "SME", "WOM-3FRI", "B", "D"]),
    first=st.dates(pd.Timestamp("2000-01-01").date(), pd.Timestamp("2030-01-01").date()),
    length=st.integers(0, 800),
)
def test_periods_begin_where_pandas_puts_its_dates(offset: str, first: Any, length: int) -> None:
    """A period begins on each date of an offset to a beginning, and on the day after each date of another."""
    start = pd.Timestamp(first)
    end = start + pd.Timedelta(days=length)
    begins = offset in ("MS", "BMS", "QS")
    one = pd.Timedelta(days=0 if begins else 1)
    dates = pd.date_range(start - pd.Timedelta(days=1), end, freq=offset) + one
    expected = [str(d.date()) for d in dates if start < d <= end]
    found = period_starts(read_offset(offset, ""), np.datetime64(start, "D"), np.datetime64(end, "D"))
    assert [str(d) for d in found] == expected
