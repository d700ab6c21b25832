"""Codes that tables of numbers have written without their leading zeros: 1 for 000001."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError, DataError, DataNotFound
from rollforge.features.api import D
from rollforge.market.append import append_table
from rollforge.market.importer import import_table
from rollforge.market.lost_zeros import short_codes_note, with_lost_zeros
from rollforge.market.provider import open_provider
from rollforge.market.universe_import import import_universe
from rollforge.record.backtest import check_benchmark, run_backtest
from rollforge.record.strategy import TopkDropoutStrategy
from rollforge.report.groups import read_groups
from rollforge.session import Session, using

DAYS = pd.bdate_range("2021-03-01", periods=4)


def table(codes: dict[Any, list[float]], days: pd.DatetimeIndex) -> pd.DataFrame:
    """Return bars with the same close all day, and a column of codes of the type of the keys."""
    rows = [(code, day, close) for code, closes in codes.items() for day, close in zip(days, closes, strict=True)]
    frame = pd.DataFrame(rows, columns=["code", "date", "close"])
    return frame.assign(open=frame["close"], high=frame["close"], low=frame["close"], volume=100.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two instruments and an index, on three days."""
    closes = {"000001": [1.0, 2, 3], "600000": [4.0, 5, 6], "000300": [100.0, 110, 121]}
    import_table(table(closes, DAYS[:3]), tmp_path / "data")
    return tmp_path / "data"


def test_only_one_known_code_is_taken() -> None:
    """A code is recognized by its zeros alone: not if several have the same number, or if it is no number."""
    known = {"000001", "00002", "000002", "600000"}.__contains__
    assert [with_lost_zeros(code, known) for code in ("1", "2", "3", "600000", "A", "²")] == ["000001", *[None] * 5]


def test_an_import_says_that_codes_may_have_lost_zeros(tmp_path: Path) -> None:
    """Numbers of different lengths are imported as they are, with a note; codes of one length, and few numbers, have none."""
    found = import_table(table({1: [1.0] * 4, 600000: [2.0] * 4}, DAYS), tmp_path / "data")
    assert "such as 000001, the table has lost them" in " ".join(found.notes)
    assert not short_codes_note(["000001", "600000", "AAPL"])
    assert not short_codes_note(["1", "20", "300"])
    assert not short_codes_note(["0050", "2330", "00878", "006208"])


def test_appended_rows_belong_to_the_instruments_of_the_folder(folder: Path) -> None:
    """A table of numbers adds the new day to 000001, and a note says so; a new number is a new instrument."""
    found = append_table(table({1: [9.0], 600000: [7.0], 300: [133.0], 5: [1.0]}, DAYS[3:]), folder)
    assert "2 codes without leading zeros were read as in the folder: 1 as 000001, 300 as 000300" in found.notes
    assert found.listed == ("5",)
    with using(Session(provider_uri=str(folder))):
        last = D.features(D.instruments("all"), ["$close"], DAYS[3], DAYS[3])["$close"].droplevel("datetime")
    assert last.to_dict() == {"000001": 9, "000300": 133, "5": 1, "600000": 7}


def test_members_of_a_universe_are_the_instruments_of_the_folder(folder: Path, tmp_path: Path) -> None:
    """A member 1 is 000001 instead of an instrument without data."""
    (tmp_path / "members.csv").write_text("code,start,end\n1,2021-03-01,\n600000,2021-03-02,\n")
    found = import_universe("index", tmp_path / "members.csv", folder)
    assert list(open_provider(folder).instruments("index")) == ["000001", "600000"]
    assert found.notes[0] == "1 code without leading zeros was read as in the folder: 1 as 000001"


def test_two_codes_of_one_instrument(folder: Path, tmp_path: Path) -> None:
    """The periods of both are those of a member of a universe; their rows cannot be appended, as days would occur twice."""
    (tmp_path / "members.csv").write_text("code,start,end\n1,2021-03-01,2021-03-01\n01,2021-03-03,2021-03-03\n")
    import_universe("index", tmp_path / "members.csv", folder)
    spans = open_provider(folder).instruments("index")["000001"]
    assert [tuple(map(str, span)) for span in spans or ()] == [("2021-03-01",) * 2, ("2021-03-03",) * 2]
    with pytest.raises(DataError, match=r"The codes .* are both 000001 in the folder"):
        append_table(table({"1": [9.0], "01": [8.0]}, DAYS[3:]), folder)


def test_groups_are_those_of_the_instruments(folder: Path, tmp_path: Path) -> None:
    """A group of 1 is that of 000001."""
    (tmp_path / "sectors.csv").write_text("code,sector\n1,bank\n600000,energy\n")
    index = pd.MultiIndex.from_product([DAYS[:1], ["000001", "600000"]], names=["datetime", "instrument"])
    found = read_groups(str(tmp_path / "sectors.csv"), pd.Series(0.0, index), open_provider(folder))
    assert found.tolist() == ["bank", "energy"]


def test_an_unknown_code_suggests_the_one_with_zeros(folder: Path) -> None:
    """The error for a number names the code that the folder has."""
    with (
        using(Session(provider_uri=str(folder))),
        pytest.raises(DataNotFound, match="Did you mean '000001', in quotes"),
    ):
        D.features(cast(Any, [1]), ["$close"])


def test_a_benchmark_may_be_a_number(folder: Path) -> None:
    """The code 600000, which YAML reads as a number, is a benchmark; one without data is an error before anything is trained."""
    session = Session(provider_uri=str(folder))
    check_benchmark(600000, session=session, where="benchmark")
    with pytest.raises(ConfigError, match="no data for the benchmark '300'"):
        check_benchmark(300, session=session, where="benchmark")
    for wrong in (False, True, 0, "", [], ["600000", None]):
        with pytest.raises(ConfigError, match="must be a code, a list of codes, or null for none"):
            check_benchmark(wrong, session=session, where="benchmark")
    index = pd.MultiIndex.from_product([DAYS[:3], ["000001"]], names=["datetime", "instrument"])
    strategy = TopkDropoutStrategy(signal=pd.Series(1.0, index), topk=1, n_drop=0)
    found = run_backtest(strategy, start_time=DAYS[0], benchmark=600000, session=session)
    np.testing.assert_allclose(found.report["bench"], [0, 0.25, 0.2], rtol=1e-6)
