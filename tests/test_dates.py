"""Reading dates in all spellings, as used for files, workflows, commands and the API."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from rollforge.dates import (
    as_timestamp,
    read_clock,
    read_column,
    read_day,
    read_days,
    read_moment,
    read_span,
    read_time,
    read_timestamp,
)
from rollforge.errors import ConfigError, DataError, DateError
from rollforge.market.provider import Provider

SHANGHAI = dt.timezone(dt.timedelta(hours=8))

SPELLINGS: list[tuple[Any, str]] = [
    # separators
    ("2021-03-05", "2021-03-05"),
    ("2021/03/05", "2021-03-05"),
    ("2021/3/5", "2021-03-05"),
    ("2021-3-5", "2021-03-05"),
    ("2021.03.05", "2021-03-05"),
    ("20210305", "2021-03-05"),
    (20210305, "2021-03-05"),
    (20210305.0, "2021-03-05"),
    (np.int64(20210305), "2021-03-05"),
    (np.str_("2021/03/05"), "2021-03-05"),
    # characters that editors and spreadsheets add to a date
    ("  2021-03-05  ", "2021-03-05"),
    ("2021-03-05\r", "2021-03-05"),
    ("\ufeff2021-03-05", "2021-03-05"),
    ("\xa02021-03-05\u200b", "2021-03-05"),
    ("2021/3/5 0:00", "2021-03-05"),
    # names of months
    ("5-Mar-2021", "2021-03-05"),
    ("05 March 2021", "2021-03-05"),
    ("Mar 5, 2021", "2021-03-05"),
    ("March 5th, 2021", "2021-03-05"),
    ("2021-Mar-05", "2021-03-05"),
    ("2021\u5e743\u67085\u65e5", "2021-03-05"),
    # a time of day does not change the day
    ("2021-03-05 00:00:00", "2021-03-05"),
    ("2021-03-05T00:00", "2021-03-05"),
    ("2021-03-05 23:59:59.999999999", "2021-03-05"),
    ("20210305T153000", "2021-03-05"),
    ("20210305153000", "2021-03-05"),
    ("20210305153000000", "2021-03-05"),
    ("2021-03-05 3:30 PM", "2021-03-05"),
    # nor does a UTC offset, before and after a change to daylight saving time
    ("2021-03-05 00:00:00+08:00", "2021-03-05"),
    ("2021-03-05 00:00:00+0530", "2021-03-05"),
    ("2021-03-05T00:00:00+11", "2021-03-05"),
    ("2021-03-05 00:00:00-05:00", "2021-03-05"),
    ("2021-03-05T23:00:00-05:00", "2021-03-05"),
    ("2021-03-05T16:00:00Z", "2021-03-05"),
    ("2021-03-05 00:00:00 UTC", "2021-03-05"),
    ("2021-03-14 00:00:00-05:00", "2021-03-14"),
    ("2021-03-15 00:00:00-04:00", "2021-03-15"),
    ("2021-03-05+08:00", "2021-03-05"),
    # objects
    (dt.date(2021, 3, 5), "2021-03-05"),
    (dt.datetime(2021, 3, 5, 23, 59), "2021-03-05"),
    (dt.datetime(2021, 3, 5, 0, 0, tzinfo=SHANGHAI), "2021-03-05"),
    (dt.datetime(2021, 3, 14, 3, 30, tzinfo=ZoneInfo("America/New_York")), "2021-03-14"),
    (pd.Timestamp("2021-03-05"), "2021-03-05"),
    (pd.Timestamp("2021-03-05 01:00", tz="Asia/Tokyo"), "2021-03-05"),
    (pd.Period("2021-03-05", "D"), "2021-03-05"),
    (np.datetime64("2021-03-05"), "2021-03-05"),
    (np.datetime64("2021-03-05T12:00:00.000000001"), "2021-03-05"),
    # years outside the range of nanoseconds, such as an open end in a list of instruments
    ("9999-12-31", "9999-12-31"),
    ("2262-04-12", "2262-04-12"),
    ("1602-03-20", "1602-03-20"),
    (dt.date(9999, 12, 31), "9999-12-31"),
    (np.datetime64("1600-01-01"), "1600-01-01"),
    ("2020-02-29", "2020-02-29"),
]

NOT_DAYS: list[tuple[Any, str]] = [
    ("soon", "'soon' is not a date. Write a day as 2015-06-30"),
    ("", "missing"),
    ("  ", "missing"),
    (None, "None is not a date"),
    (True, "True is not a date"),
    (float("nan"), "missing"),
    (float("inf"), "inf is not a date"),
    (20210305.5, "20210305.5 is not a date"),
    (pd.NaT, "missing"),
    (np.datetime64("NaT", "D"), "missing"),
    ("NaT", "'NaT' is not a date"),
    ("2020-02-30", "February 2020 has days 1 to 29"),
    ("2021-02-29", "February 2021 has days 1 to 28"),
    ("2021-13-01", "there is no month 13"),
    ("2021-00-10", "there is no month 0"),
    ("2021-04-00", "has days 1 to 30"),
    ("0000-01-01", "there is no year 0"),
    ("2021-03-05 25:00", "time of day"),
    ("44256", "is a number by which spreadsheets store a day, 2021-03-01"),
    ("44256.0", "is a number by which spreadsheets store a day, 2021-03-01"),
    ("20216", "is a month, not a day. Write its first day as 2021-06-01"),
    ("2021-03", "is a month, not a day. Write its first day as 2021-03-01 and its last day as 2021-03-31"),
    ("202102", "its last day as 2021-02-28"),
    ("2021", "is a year, not a day"),
    (2021, "is a year, not a day"),
    (np.datetime64("2021-03"), "is a duration"),
    (pd.Period("2021-03", "M"), "a Period is not a date"),
    ("03/05/2021", "either number could be the month"),
    ("5.3.21", "either number could be the month"),
    ("2021-03/05", "is not a date"),
    ("20210305x", "is not a date"),
    ("5-Foo-2021", "'Foo' is not a month"),
    (1614902400, "is a Unix timestamp"),
    (-20210305, "is not a date"),
    (10**30, "is not a date"),
    (["2021-03-05"], "a list is not a date"),
    (pd.DataFrame({"a": [1]}), "a DataFrame is not a date"),
    ("x" * 500, "x…' is not a date"),
]


@pytest.mark.parametrize(("value", "day"), SPELLINGS, ids=[repr(v)[:40] for v, _ in SPELLINGS])
def test_every_spelling_of_a_day_is_read(value: Any, day: str) -> None:
    """Each spelling is read as the local day of its author, also as a Timestamp."""
    assert read_day(value) == np.datetime64(day)
    assert read_day(value).dtype == np.dtype("datetime64[D]")
    stamp = read_timestamp(value)
    assert (stamp.tz, stamp.date()) == (None, dt.date.fromisoformat(day))


@pytest.mark.parametrize(("value", "text"), NOT_DAYS, ids=[repr(v)[:40] for v, _ in NOT_DAYS])
def test_a_value_that_is_not_a_day_is_refused(value: Any, text: str) -> None:
    """A value that is not a day, or is ambiguous, raises one short error with its position; nothing is guessed."""
    with pytest.raises(DateError) as caught:
        read_day(value, "handler.start_time")
    message = str(caught.value)
    assert message.startswith("handler.start_time: ")
    assert text in message
    assert len(message) < 160
    assert "\n" not in message
    assert isinstance(caught.value, ConfigError)
    assert isinstance(caught.value, DataError)


@given(st.dates(), st.sampled_from(["%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%Y.%m.%d"]), st.integers(-14 * 60, 14 * 60))
def test_every_day_is_read_in_every_format(day: dt.date, form: str, minutes: int) -> None:
    """For any day, format and offset, the result is the day as written."""
    text = f"{day.year:04d}" + day.strftime(form.removeprefix("%Y"))
    assert read_day(text).item() == day
    sign, size = "-" if minutes < 0 else "+", abs(minutes)
    moment = read_moment(f"{text} 00:00:00{sign}{size // 60:02d}:{size % 60:02d}")
    assert (moment.day, moment.seconds, moment.offset) == (day, 0, minutes)


def test_a_column_is_read_like_single_values() -> None:
    """A column of strings, dates, numbers or timestamps is read to days, with the reason for each row without one."""
    readable = [(v, d) for v, d in SPELLINGS if not isinstance(v, float)]
    found = read_column(pd.Series([v for v, _ in readable] + ["soon", None], dtype=object))
    assert [str(d) for d in found.days[:-2]] == [d for _, d in readable]
    assert np.isnat(found.days[-2:]).all()
    assert sorted(found.reason) == [len(readable), len(readable) + 1]


def test_a_column_with_a_time_zone_keeps_its_days() -> None:
    """Midnight in Shanghai is read as the day in Shanghai; times in UTC are flagged as such."""
    days = pd.date_range("2021-03-01", periods=2, tz="Asia/Shanghai")
    assert [str(d) for d in read_column(days.to_series()).days] == ["2021-03-01", "2021-03-02"]
    assert not read_column(days.to_series()).utc.any()
    in_utc = read_column(days.tz_convert("UTC").to_series())
    assert [str(d) for d in in_utc.days] == ["2021-02-28", "2021-03-01"]
    assert in_utc.utc.all()
    assert in_utc.seconds.tolist() == [16 * 3600] * 2


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
def test_a_column_may_contain_unix_times(factor: int) -> None:
    """Seconds, milli-, micro- and nanoseconds since 1970, as numbers or strings, are read as days in UTC."""
    counts = [1614902400 * factor, 1614988800 * factor]
    for column in (pd.Series(counts), pd.Series([str(c) for c in counts])):
        found = read_column(column)
        assert [str(d) for d in found.days] == ["2021-03-05", "2021-03-06"]
        assert found.utc.all()


@pytest.mark.parametrize(
    ("texts", "days", "order"),
    [
        (["02/03/2021", "13/03/2021"], ["2021-03-02", "2021-03-13"], "day first"),
        (["3/2/2021 16:00", "3/13/2021 16:00"], ["2021-03-02", "2021-03-13"], "month first"),
        (["13.03.2021", "2021-03-14"], ["2021-03-13", "2021-03-14"], "day first"),
        (["02/03/2021", "03/03/2021"], None, ""),
        (["13/03/2021", "03/13/2021"], None, ""),
        (["13/03/21"], None, "day first"),
    ],
)
def test_the_order_of_day_and_month_is_derived_from_the_column(
    texts: list[str], days: list[str] | None, order: str
) -> None:
    """One day above 12 determines the order for the whole column; without one, or with both orders, it is an error."""
    found = read_column(pd.Series(texts))
    assert found.year_last == order
    if days is None:
        assert sorted(found.reason) == list(range(len(texts)))
        assert all("either number could be the month" in reason for reason in found.reason.values())
    else:
        assert [str(d) for d in found.days] == days


def test_a_sequence_of_days_is_read() -> None:
    """Arrays, indexes and lists are read to days, which a time zone does not shift; months are refused."""
    days = np.array(["2021-03-01", "2021-03-02"], "datetime64[D]")
    index = pd.DatetimeIndex(days)
    for given_days in (days, index, index.tz_localize("Asia/Tokyo"), list(index), ["20210301", "2021/3/2"], list(days)):
        assert read_days(given_days).tolist() == days.tolist()
    with pytest.raises(DateError):
        read_days(np.array(["2021-03"], "datetime64[M]"))
    with pytest.raises(DateError):
        read_days(np.array(["2021-03-01", "NaT"], "datetime64[D]"))


def test_timestamps_are_in_nanoseconds_if_possible() -> None:
    """Timestamps can therefore be used in the index of a frame; years outside the range of nanoseconds can still be
    compared."""
    assert as_timestamp(np.datetime64("2021-03-05")).unit == "ns"
    assert as_timestamp(np.datetime64("9999-12-31")) > as_timestamp(np.datetime64("2261-12-31"))


# -- manually edited files ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("calendars", "instruments", "features/a", "features/b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "calendars" / "day.txt").write_text("2021-03-01\n2021-03-02\n2021-03-03\n")
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff2021-03-01\n2021-03-02\n2021-03-03\n",
        "20210301\n20210302\n20210303",
        "2021/3/1\r\n2021/3/2\r\n\r\n2021/3/3\r\n",
        "2021-03-01 00:00:00\n2021-03-02 00:00:00\n2021-03-03 00:00:00\n",
        "2021-03-01  \n 2021-03-02\n2021-03-03\t\n\n",
        "2021-03-01T00:00:00+08:00\n2021-03-02T00:00:00+08:00\n2021-03-03T00:00:00+08:00\n",
        "2021-03-01 15:00:00\n2021-03-02 15:00:00\n2021-03-03 15:00:00\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_manually_edited_calendar_is_read(folder: Path, text: str, encoding: str) -> None:
    """A byte order mark, other separators, spaces, empty lines and times of day do not change the calendar."""
    (folder / "calendars" / "day.txt").write_bytes(text.encode(encoding))
    assert [str(d) for d in Provider(folder).calendar()] == ["2021-03-01", "2021-03-02", "2021-03-03"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"2021-03-01\n2021-02-30\n", r"day\.txt, line 2: '2021-02-30' is not a date: February 2021 has days 1 to 28"),
        (b"date\n2021-03-01\n", r"day\.txt, line 1: 'date' is not a date"),
        (b"2021-03-01\n2021-03\n", r"line 2: '2021-03' is a month"),
        (b"2021-03-01\n2301-03-02\n", "2301-03-02 is outside 1678-01-01 to 2261-12-31"),
        (
            b"2021-03-01 09:30\n2021-03-01 09:31\n",
            r"several times of 2021-03-01, but a calendar of this name has one line per day. Bars .* calendars/60min.txt",
        ),
        (b"2021-03-01\xff\n", "is not UTF-8 text"),
        (b"\xef\xbb\xbf\n", "contains no days"),
    ],
)
def test_an_invalid_calendar_file_is_named(folder: Path, text: bytes, error: str) -> None:
    """The error names the file and the line."""
    (folder / "calendars" / "day.txt").write_bytes(text)
    with pytest.raises(DataError, match=error):
        Provider(folder).calendar()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffA\t2021-03-01\t2021-03-02\nB\t2021-03-02\t9999-12-31\n",
        "A\t20210301\t20210302\nB\t20210302\t99991231\n",
        "a \t 2021/3/1 \t 2021/3/2 \r\n\r\nb\t2021/3/2\t9999/12/31\r\n",
        "A\t2021-03-01 00:00:00\t2021-03-02 00:00:00\nB\t2021-03-02 00:00:00\t9999-12-31 00:00:00\n",
        "A,2021-03-01,2021-03-02\nB,2021-03-02,9999-12-31\n",
        "A  2021-03-01  2021-03-02\nB  2021-03-02  9999-12-31",
        "A\t\t2021-03-01\t2021-03-02\textra\nB\t2021-03-02\t9999-12-31\n",
    ],
)
def test_a_manually_edited_universe_is_read(folder: Path, text: str) -> None:
    """No member is lost, and 20210302 is not read as a year."""
    (folder / "instruments" / "mine.txt").write_text(text, encoding="utf-8")
    spans = {code: [tuple(map(str, s)) for s in days] for code, days in Provider(folder).instruments("mine").items()}
    assert spans == {"A": [("2021-03-01", "2021-03-02")], "B": [("2021-03-02", "9999-12-31")]}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("A\t2021-03-01\n", r"mine\.txt, line 1: expected a code, its first day and its last day"),
        ("A\t2021-03-01\t\n", "line 1: expected a code"),
        ("A\t2021-03-01\t2021-03-02\nB\t2021-03-01\t2021-02-29\n", "line 2: '2021-02-29' is not a date"),
        ("A\t2021-03-01\tnan\n", "'nan' is not a date"),
    ],
)
def test_an_invalid_universe_file_is_named(folder: Path, text: str, error: str) -> None:
    """For a truncated line, or one without a date, the error contains the line number."""
    (folder / "instruments" / "mine.txt").write_text(text)
    with pytest.raises(DataError, match=error):
        Provider(folder).instruments("mine")


def test_members_without_effect_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A warning names spans that end before they begin, and codes without data, which would otherwise be dropped
    silently."""
    (folder / "instruments" / "mine.txt").write_text("A\t2021-03-02\t2021-03-01\nAA\t2021-03-01\t2021-03-02\n")
    with caplog.at_level("WARNING"):
        Provider(folder).instruments("mine")
    assert "1 of its spans end before they begin and contain no day (the first in line 1)" in caplog.text
    assert "contains instruments without data" in caplog.text
    assert "AA" in caplog.text


def test_a_time_of_day_stays_with_its_day() -> None:
    """A time of day stays for any spelling; an offset from UTC moves neither."""
    at = pd.Timestamp("2021-03-05 09:30:01")
    for value in ("2021/3/5 9:30:01", "20210305093001", "2021-03-05T09:30:01+08:00", at, at.tz_localize("Asia/Tokyo")):
        assert read_time(value) == at
    assert read_time("2021-03-05 23:59:59.999999") == pd.Timestamp("2021-03-05 23:59:59.999999")
    assert read_time("1500-01-01 12:00").hour == 12
    with pytest.raises(DateError, match=r"start: .*25:00"):
        read_time("2021-03-05 25:00", "start")


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ("2021", "2021-01-01", "2021-12-31"), ("2024-02", "2024-02-01", "2024-02-29"), ("2023-2", "2023-02-01", "2023-02-28"),
        ("2021-12", "2021-12-01", "2021-12-31"), ("1500", "1500-01-01", "1500-12-31"), ("20210305", "2021-03-05", "2021-03-05"),
        (dt.date(2021, 3, 5), "2021-03-05", "2021-03-05"),
    ],
)  # fmt: skip
def test_the_days_of_a_year_or_a_month(value: Any, first: str, last: str) -> None:
    """The days of a year or month are the first and the last one; for a day, both are the day itself."""
    assert read_span(value) == (np.datetime64(first), np.datetime64(last))


@pytest.mark.parametrize("value", ["2021-13", "2021-0", "0000", "21", "2021-03-32", "", None])
def test_what_names_neither_a_day_nor_a_month_nor_a_year(value: Any) -> None:
    """One error, with its place."""
    with pytest.raises(DateError, match="start: "):
        read_span(value, "start")


def test_a_time_of_day_alone() -> None:
    """Hours and minutes, with or without seconds; the bounds are those of a clock."""
    assert [read_clock(text) for text in ("9:30", " 09:30 ", "23:59:59", "0:00")] == [
        dt.time(9, 30), dt.time(9, 30), dt.time(23, 59, 59), dt.time(0)
    ]  # fmt: skip
    assert read_clock(dt.time(8)) == dt.time(8)
    for text in ("24:00", "9:60", "9:30:60", "9", "9.30", "", "2021-03-05"):
        with pytest.raises(DateError, match=r"end: .*not a time of day"):
            read_clock(text, "end")
