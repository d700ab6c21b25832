"""Copies of a data folder: what is kept, what is replaced, and which instruments are chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rollforge.check.market_copy import TURNS, Change, choose_instruments, write_copy
from rollforge.market.provider import Provider, write_folder

DAYS = np.arange("2024-01-01", "2024-01-11", dtype="datetime64[D]")
CODES = ["A", "B", "C", "D", "E", "F"]


@pytest.fixture
def source(tmp_path: Path) -> Provider:
    """Six instruments of ten days; F is listed on the fourth day, and E is suspended on the third and the eighth."""
    series: dict[str, tuple[int, dict[str, np.ndarray]]] = {}
    for i, code in enumerate(CODES):
        first = 3 if code == "F" else 0
        close = np.arange(1.0, 11.0 - first) + 10 * i
        close[[2, 7] if code == "E" else []] = np.nan
        series[code] = first, {"close": close, "volume": np.zeros(len(close))}
    whole = {code: [(DAYS[0], DAYS[-1])] for code in CODES}
    write_folder(tmp_path / "data", DAYS, series, {"all": whole, "few": {"B": whole["B"]}})
    return Provider(tmp_path / "data")


def values(path: Path, name: str = "close", codes: list[str] = CODES) -> np.ndarray:
    return Provider(path).read(name, codes, 0, len(DAYS)).values


@pytest.mark.parametrize("turn", range(TURNS))
def test_values_up_to_the_day_are_kept_bit_for_bit(turn: int, source: Provider, tmp_path: Path) -> None:
    """And the values after it all differ, except those that were missing and those of zero that fall."""
    write_copy(source, tmp_path / "copy", Change(DAYS[5], turn))
    before, after = values(source.path), values(tmp_path / "copy")
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (before[:, 6:] == after[:, 6:]).sum() == 0


def test_every_instrument_gets_every_kind_of_change(source: Provider, tmp_path: Path) -> None:
    """Values rise, fall and become missing, in turns."""
    kinds: list[set[str]] = [set() for _ in CODES]
    for turn in range(TURNS):
        write_copy(source, tmp_path / str(turn), Change(DAYS[5], turn))
        before, after = values(source.path), values(tmp_path / str(turn))
        for i in range(len(CODES)):
            new, old = after[i, 8:], before[i, 8:]
            kinds[i].add("up" if (new > old).all() else "down" if (new < old).all() else "missing")
            assert np.isnan(new).all() or not np.isnan(new).any()
    assert kinds == [{"up", "down", "missing"}] * len(CODES)


def test_a_series_that_begins_later_is_replaced_as_a_whole(source: Provider, tmp_path: Path) -> None:
    """Its file keeps its first day."""
    write_copy(source, tmp_path / "copy", Change(DAYS[1], removes=False))
    after = values(tmp_path / "copy")[5]
    assert np.isnan(after[:3]).all()
    assert (after[3:] != values(source.path)[5, 3:]).all()


def test_only_the_chosen_instruments_are_copied(source: Provider, tmp_path: Path) -> None:
    """Universes are restricted; one without any of them keeps its members. The source is unchanged."""
    mark = source.fingerprint()
    write_copy(source, tmp_path / "copy", None, ["C", "D"], ["C", "D"])
    copy = Provider(tmp_path / "copy")
    assert list(copy.instruments("all")) == ["C", "D"]
    assert list(copy.instruments("few")) == ["B"]
    assert sorted(p.name for p in (tmp_path / "copy" / "features").iterdir()) == ["c", "d"]
    np.testing.assert_array_equal(values(copy.path, codes=["C", "D"]), values(source.path, codes=["C", "D"]))
    assert Provider(source.path).fingerprint() == mark


def test_chosen_instruments_have_data_in_all_spans_and_some_have_gaps(source: Provider) -> None:
    """The choice is the same each time; F has no data in the first span."""
    spans = [(DAYS[0], DAYS[2]), (DAYS[3], DAYS[9])]
    assert choose_instruments(source, CODES, spans, 4) == ["A", "B", "C", "E"]
    assert choose_instruments(source, ["F", "B"], spans, 4) == ["B", "F"]


def test_other_files_are_linked(source: Provider, tmp_path: Path) -> None:
    """Code may read them, at any depth; what depends on them is then not known."""
    (source.path / "financial").mkdir()
    (source.path / "financial" / "a.csv").write_text("1")
    (source.path / "features" / "a" / "notes.txt").write_text("2")
    write_copy(source, tmp_path / "copy", None, ["A"], ["A"])
    assert (tmp_path / "copy" / "financial" / "a.csv").read_text() == "1"
    assert (tmp_path / "copy" / "features" / "a" / "notes.txt").read_text() == "2"
    assert not (tmp_path / "copy" / "features" / "a" / "close.day.bin").is_symlink()
