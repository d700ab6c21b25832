"""Data that end on a day: what is read up to a bound is what a folder whose data end there contains."""

from __future__ import annotations

import pickle
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rollforge.errors import DataError, DataNotFound, DateError, RollforgeError
from rollforge.features.api import D
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import QlibDataLoader, StaticDataLoader
from rollforge.generate.calendar import TimeAdjuster
from rollforge.market.content import read_content, session_content
from rollforge.market.folder_writer import write_folder
from rollforge.market.importer import import_table
from rollforge.market.provider import Provider, open_provider
from rollforge.market.universe import session_provider
from rollforge.session import Session, bounded, current_session, using

DAYS = pd.bdate_range("2021-03-01", periods=9)
EXPRESSIONS = ["$close", "Ref($close, -2)/Ref($close, -1)-1", "Mean($close, 3)", "Sum($volume, 0)", "Ref($close, 2)"]
FILTERED = {
    "market": "all",
    "filter_pipe": [
        {"filter_type": "ExpressionDFilter", "rule_expression": "$close > 10", "filter_start_time": None,
         "filter_end_time": None, "keep": False},
    ],
}  # fmt: skip


def bars(codes: str = "ABCDE") -> pd.DataFrame:
    """Return bars of some instruments on all days."""
    index = pd.MultiIndex.from_product([list(codes), DAYS], names=["instrument", "datetime"])
    rng = np.random.default_rng(1)
    close = 10 + rng.normal(0, 0.1, len(index)).round(2)
    frame = pd.DataFrame({"open": close, "high": close + 0.3, "low": close - 0.3, "close": close}, index)
    frame["volume"] = rng.integers(100, 1000, len(index))
    return frame.reset_index()


def handler(universe: Any) -> DataHandlerLP:
    return DataHandlerLP(
        instruments=universe,
        data_loader=QlibDataLoader({"feature": (EXPRESSIONS[2:], ["a", "b", "c"]), "label": (EXPRESSIONS[1:2], ["y"])}),
        infer_processors=["CSRankNorm", {"class": "Fillna", "kwargs": {"fields_group": "feature"}}],
        learn_processors=["DropnaLabel", {"class": "CSZScoreNorm", "kwargs": {"fields_group": "label"}}],
    )


def answer(question: Any) -> Any:
    """Return the result, or the class of the error."""
    try:
        return question()
    except RollforgeError as exc:
        return type(exc)


def everything() -> dict[str, Any]:
    """Return what can be read through the current session."""
    provider = session_provider()
    found: dict[str, Any] = {
        "calendar": provider.calendar().tolist(), "future": provider.calendar(future=True).tolist(),
        "markets": provider.markets(), "fields": provider.fields(), "content": session_content(current_session()),
        "has": [code for code in "ABCDEF" if provider.has(code)], "adjuster": TimeAdjuster().cals.tolist(),
    }  # fmt: skip
    for universe in ("all", FILTERED, ["A", "B"]):
        found[f"{universe}"] = answer(lambda u=universe: D.list_instruments(u))
        found[f"{universe} features"] = answer(lambda u=universe: D.features(u, EXPRESSIONS))
        for stage in ("raw", "infer", "learn"):
            found[f"{universe} {stage}"] = answer(lambda u=universe, s=stage: handler(u).fetch(data_key=s))
    for universe in ("all", "some"):
        found[f"members of {universe}"] = answer(lambda u=universe: provider.instruments(u))
    return found


def assert_equal(found: Any, wanted: Any, name: str = "") -> None:
    assert type(found) is type(wanted), f"{name}: {found} {wanted}"
    if isinstance(found, dict):
        assert list(found) == list(wanted), name
        for key in found:
            assert_equal(found[key], wanted[key], f"{name}/{key}")
    elif isinstance(found, pd.DataFrame):
        pd.testing.assert_frame_equal(found, wanted, check_exact=True, obj=name)
    else:
        assert found == wanted, name


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_a_bound_equals_a_folder_that_ends_there(data: st.DataObject) -> None:
    """Random tables with suspensions, listings and delistings: calendars, members, fields, features with look-ahead,
    filters, content, and all stages of handlers are equal, bit for bit.
    """
    frame = bars()
    rows = data.draw(st.sets(st.integers(0, len(frame) - 1), min_size=len(frame) // 2))
    frame = frame.iloc[sorted(rows | set(range(9)))]  # A is complete
    last = data.draw(st.integers(1, 8))
    early = frame[frame["datetime"] <= DAYS[last]]
    with tempfile.TemporaryDirectory() as place:
        import_table(
            frame, Path(place) / "whole", universes={"some": [c for c in "AB" if c in set(frame["instrument"])]}
        )
        import_table(
            early, Path(place) / "early", universes={"some": [c for c in "AB" if c in set(early["instrument"])]}
        )
        opened = Session(cache=f"{place}/cache", threads=1)
        with using(opened.with_(provider_uri=f"{place}/early")):
            wanted = everything()
        with using(opened.with_(provider_uri=f"{place}/whole")):
            everything()  # data loaded without the bound are not used under it
            with bounded(DAYS[last]):
                assert_equal(everything(), wanted)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine days; B until the fourth, C from the sixth, `volume` from the seventh; an index with dates and open ends."""
    days = DAYS.to_numpy().astype("datetime64[D]")
    series = {
        "A": (0, {"close": np.arange(10.0, 19.0)}),
        "B": (0, {"close": np.arange(20.0, 24.0)}),
        "C": (5, {"close": np.arange(30.0, 34.0)}),
        "D": (0, {"close": np.array([1.0, 2, np.nan, np.nan, 5, 6, 7, 8, 9])}),
    }
    series["A"][1]["volume"] = np.arange(9.0)
    write_folder(
        tmp_path / "data", days, series,
        {
            "all": {c: [(days[f], days[f + len(v["close"]) - 1])] for c, (f, v) in series.items()},
            "index": {"A": [(days[0], "2099-12-31")], "C": [(days[6], "2099-12-31")], "B": [(days[0], days[5])]},
            "later": {"C": [(days[6], days[8])]},
        },
    )  # fmt: skip
    (tmp_path / "data" / "calendars" / "day_future.txt").write_text(
        "".join(f"{d.date()}\n" for d in pd.bdate_range(DAYS[0], periods=14))
    )
    return tmp_path / "data"


def test_members_and_their_days(folder: Path) -> None:
    """Memberships that begin later do not exist; open ends and later ends are the last day; suspended instruments
    end."""
    early = open_provider(folder).bounded(DAYS[3])
    days = early.calendar()
    assert early.instruments("all") == {"A": [(days[0], days[3])], "B": [(days[0], days[3])], "D": [(days[0], days[1])]}
    assert early.instruments("index") == {"A": [(days[0], days[3])], "B": [(days[0], days[3])]}
    with pytest.raises(DataError, match=r"universe 'later' has no members up to 2021-03-04"):
        early.instruments("later")
    assert [early.has(c) for c in "ABCD"] == [True, True, False, True]
    assert early.read("close", ["D"], 0, 4).end.tolist() == [2]
    with (
        pytest.raises(DataNotFound, match="no data for 'C'"),
        using(Session(provider_uri=str(folder))),
        bounded(DAYS[3]),
    ):
        D.features(["C"], ["$close"])


def test_an_instrument_that_is_listed_later_is_not_part_of_the_content(folder: Path) -> None:
    """An instrument that is listed later does not count until its first day."""
    assert [sorted(read_content(folder, None, DAYS[last]).instruments) for last in (4, 5, 8)] == [
        ["a", "b", "d"],
        ["a", "b", "c", "d"],
        ["a", "b", "c", "d"],
    ]


def test_a_bound_on_any_day(folder: Path) -> None:
    """A holiday means the trading day before it, a day after the end all days, one before the beginning an error."""
    provider = open_provider(folder)
    assert str(provider.bounded("2021-03-07").calendar()[-1]) == "2021-03-05"
    assert len(provider.bounded("2030-01-01").calendar(future=True)) == 9
    assert (
        provider.bounded("2021-03-07") is provider.bounded(DAYS[4]) is provider.bounded("2030-01-01").bounded(DAYS[4])
    )
    with pytest.raises(DataError, match=r"no data up to 2021-02-28: the calendar of .* starts on 2021-03-01"):
        provider.bounded("2021-02-28")
    with (
        using(Session(provider_uri=str(folder))),
        bounded("2021-02-28"),
        pytest.raises(DataError, match="no data up to"),
    ):
        D.calendar()


@pytest.mark.parametrize("day", ["soon", None, pd.NaT, 7, "2021-03", True, object()])
def test_what_is_not_a_day(day: Any) -> None:
    """A bound that is not a day is refused with a message that names it."""
    with pytest.raises(DateError, match=r"^day: "), bounded(day):
        pass


def test_a_bound_with_a_time_zone() -> None:
    """As everywhere, a time of day and an offset from UTC do not move the day."""
    for day in (pd.Timestamp("2021-03-03 23:00", tz="Asia/Tokyo"), "2021-03-03T01:00:00+08:00", 20210303):
        with bounded(day) as session:
            assert session.data_until == "2021-03-03"


def test_nested_bounds(folder: Path) -> None:
    """The earlier bound holds, and the outer one again afterwards."""
    with using(Session(provider_uri=str(folder))):
        with bounded(DAYS[5]), bounded(DAYS[7]):
            assert D.calendar()[-1] == DAYS[5]
        with bounded(DAYS[7]):
            with bounded(DAYS[5]):
                assert D.calendar(future=True)[-1] == DAYS[5]
            assert D.calendar()[-1] == DAYS[7]
        assert D.calendar()[-1] == DAYS[8]


def test_a_handler_with_data_does_not_show_them_under_a_bound(folder: Path, tmp_path: Path) -> None:
    """A handler that was used without a bound is computed again, and afterwards has all days again."""
    with using(Session(provider_uri=str(folder), cache=str(tmp_path / "cache"))):
        made = handler("all")
        assert made.fetch(data_key="infer").index.levels[0][-1] == DAYS[8]
        with bounded(DAYS[4]):
            found = made.fetch(data_key="infer")
            assert found.index.get_level_values("datetime").max() == DAYS[4]
            assert made.get_range_selector(DAYS[4], 2).stop == DAYS[4]
            pd.testing.assert_frame_equal(found, handler("all").fetch(data_key="infer"))
        assert made.fetch(data_key="infer").index.get_level_values("datetime").max() == DAYS[8]


def test_frames_have_no_later_rows(folder: Path) -> None:
    """A loader of a frame gives the rows up to the bound, also if the handler's own end is later."""
    frame = bars("AB").set_index(["datetime", "instrument"])[["close"]].sort_index()
    with using(Session(provider_uri=str(folder))), bounded(DAYS[2]):
        for end in (None, DAYS[1], DAYS[7]):
            found = DataHandlerLP(end_time=end, data_loader=StaticDataLoader(frame)).fetch()
            assert found.index.get_level_values("datetime").max() == min(DAYS[2], end or DAYS[2])


def last_day(session: Session) -> str:
    with using(session):
        return str(D.calendar()[-1].date())


def test_other_processes_have_the_bound(folder: Path) -> None:
    """The bound is part of the session and of a pickled provider."""
    with using(Session(provider_uri=str(folder))), bounded(DAYS[4]) as session:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            assert pool.submit(last_day, session).result() == "2021-03-05"
        provider: Provider = pickle.loads(pickle.dumps(session_provider()))
    assert str(provider.calendar()[-1]) == "2021-03-05"
    assert provider.fingerprint() == open_provider(folder).bounded(DAYS[4]).fingerprint()
    assert provider.fingerprint() != open_provider(folder).fingerprint()


def test_fields_that_begin_later_do_not_exist(tmp_path: Path) -> None:
    """A field without values up to the bound is unknown; required fields are an error, as in a folder without them."""
    days = DAYS.to_numpy().astype("datetime64[D]")
    write_folder(
        tmp_path / "data", days, {"A": (0, {"close": np.arange(9.0)}), "B": (6, {"close": np.arange(3.0), "pe": np.arange(3.0)})},
        {"all": {"A": [(days[0], days[8])]}},
    )  # fmt: skip
    provider = open_provider(tmp_path / "data")
    assert provider.fields() == ["close", "pe"]
    assert provider.bounded(DAYS[5]).fields() == ["close"]
    assert provider.bounded(DAYS[6]).fields() == ["close", "pe"]
    with pytest.raises(DataNotFound, match=r"no field \$pe"):
        provider.bounded(DAYS[5]).read("pe", ["A", "B"], 0, 6)
    assert read_content(tmp_path / "data", None, DAYS[5]).fields == ("close",)
    assert read_content(tmp_path / "data", None, DAYS[5]).last_day == "2021-03-08"
