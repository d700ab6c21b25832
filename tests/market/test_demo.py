"""The demo market: identical on all machines, with the irregularities of a real market and a signal to find."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import DataError
from rollforge.features.engine import features
from rollforge.market.demo import INDEX, make_demo
from rollforge.market.provider import open_provider
from rollforge.record.analysis import calc_ic
from rollforge.session import Session


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "market"
    make_demo(folder, instruments=150, years=4)
    return folder


def _digest(folder: Path) -> str:
    mark = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        mark.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return mark.hexdigest()


def _frame(folder: Path, instruments: object, fields: list[str]) -> pd.DataFrame:
    return features(instruments, fields, session=Session(provider_uri=str(folder)))


def test_the_same_arguments_make_the_same_bytes(tmp_path: Path) -> None:
    """A small market has the same bytes as when this test was written, on every machine."""
    make_demo(tmp_path / "a", instruments=12, years=1, seed=3)
    make_demo(tmp_path / "b", instruments=12, years=1, seed=4)
    assert _digest(tmp_path / "a") == "5870bcd3a7fadc02be9c583b889e206897b11bad4904f25cc08946111a0c8d30"
    assert _digest(tmp_path / "a") != _digest(tmp_path / "b")


def test_calendar_has_weekdays_up_to_the_end(tmp_path: Path) -> None:
    """The calendar has the weekdays of the years before the end day, without New Year and Christmas."""
    made = make_demo(tmp_path / "m", instruments=3, years=2, end="2020-02-29")
    days = open_provider(tmp_path / "m").calendar()
    assert str(days[0]) == "2018-03-01"
    assert str(days[-1]) == "2020-02-28"
    assert np.is_busday(days).all()
    assert np.datetime64("2018-12-25") not in days
    assert (made.days, made.instruments) == (len(days), 4)


def test_universes_change_and_leave_the_index_out(market: Path) -> None:
    """`all` has every instrument except the index; `demo100` never has more than 100 members, and they change."""
    provider = open_provider(market)
    assert provider.markets() == ["all", "demo100", "demo300"]
    assert INDEX not in provider.instruments("all")
    members = provider.instruments("demo100")
    days = provider.calendar()
    count = sum(((days >= a) & (days <= b)).astype(int) for spans in members.values() for a, b in spans)
    assert count.max() == 100
    assert len(members) > 100
    lives = provider.instruments("all")
    assert all(lives[c][0][0] <= a and b <= lives[c][0][1] for c, spans in members.items() for a, b in spans)


def test_bars_are_consistent(market: Path) -> None:
    """Low <= open, close, vwap <= high, all positive, on each day with trades."""
    bars = _frame(market, "all", ["$open", "$high", "$low", "$close", "$vwap", "$volume", "$factor"]).dropna()
    bars.columns = ["open", "high", "low", "close", "vwap", "volume", "factor"]
    assert (bars > 0).all().all()
    assert (bars["low"] <= bars[["open", "close", "vwap"]].min(axis=1)).all()
    assert (bars["high"] >= bars[["open", "close", "vwap"]].max(axis=1)).all()


def test_market_has_the_irregularities_of_a_real_one(market: Path) -> None:
    """Some instruments are listed late, delisted or suspended; factors change; returns have fat tails."""
    provider = open_provider(market)
    days = provider.calendar()
    lives = [spans[0] for spans in provider.instruments("all").values()]
    assert any(a > days[0] for a, _ in lives)
    assert any(b < days[-1] for _, b in lives)
    frame = _frame(market, "all", ["$close/Ref($close, 1)-1", "$factor"])
    assert 0.001 < frame.isna().any(axis=1).mean() < 0.02
    returns = frame.iloc[:, 0].dropna()
    assert 0.015 < returns.std() < 0.03
    assert returns.kurt() > 2
    assert (frame.iloc[:, 1].groupby(level="instrument").nunique() > 1).mean() > 0.9


def test_benchmark_moves_with_the_market(market: Path) -> None:
    """The index has no gaps, and its returns correlate with the mean of all instruments."""
    index = _frame(market, [INDEX], ["$close/Ref($close, 1)-1"]).droplevel("instrument").iloc[1:, 0]
    everyone = _frame(market, "all", ["$close/Ref($close, 1)-1"]).iloc[:, 0].groupby(level="datetime").mean().iloc[1:]
    assert not index.isna().any()
    assert np.corrcoef(index, everyone)[0, 1] > 0.9


def test_planted_signal_is_there_and_weak(market: Path) -> None:
    """Each of the two built-in effects has a daily IC with the label of Alpha158 between 0.015 and 0.12, in each
    half."""
    label = "Ref($close, -2)/Ref($close, -1)-1"
    fallen = "-($close/Ref($close, 5)-1)"
    busy = "$volume/Mean($volume, 20)"
    frame = _frame(market, "all", [label, fallen, busy])
    for signal in (fallen, busy):
        daily, _ = calc_ic(frame[signal].swaplevel().sort_index(), frame[label].swaplevel().sort_index())
        for half in np.array_split(daily.dropna().to_numpy(), 2):
            assert 0.015 < half.mean() < 0.12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"instruments": 1}, "2 to 9999 instruments, found 1"),
        ({"years": 0}, "1 to 50 years, found 0"),
        ({"seed": -1}, "must not be negative, found -1"),
        ({"end": "soon"}, "end: 'soon' is not a date"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path: Path, arguments: dict[str, object], words: str) -> None:
    """An invalid argument gives one message, and no folder."""
    with pytest.raises(DataError, match=words):
        make_demo(tmp_path / "m", **arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    """A data folder is replaced only on request; anything else is never replaced."""
    folder = tmp_path / "m"
    make_demo(folder, instruments=2, years=1)
    before = _digest(folder)
    with pytest.raises(DataError, match="already exists"):
        make_demo(folder, instruments=3, years=1)
    assert _digest(folder) == before
    make_demo(folder, instruments=3, years=1, overwrite=True)
    assert len(open_provider(folder).instruments("all")) == 3
    assert {p.name for p in tmp_path.iterdir()} - {".m.lock"} == {"m"}
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(DataError, match="not a data folder, so it is not replaced"):
        make_demo(tmp_path / "home", instruments=2, years=1, overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "irreplaceable"
