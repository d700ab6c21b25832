"""Copies of a data folder: what is kept, what is replaced, and which instruments are chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rollforge.check.market_copy import TURNS, Change, choose_instruments, write_copy
from rollforge.market.folder_writer import write_folder
from rollforge.market.provider import Provider

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
    """The values after it all differ, except those that were missing and those of zero that fall."""
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


def test_values_change_by_factors(source: Provider, tmp_path: Path) -> None:
    """Values rise to 2 to 4 times or fall to a quarter to a half; a suspended or zero value rises to the usual
    level."""
    series: dict[int, list[np.ndarray]] = {}
    for turn in range(TURNS):
        write_copy(source, tmp_path / str(turn), Change(DAYS[0], turn, removes=False))
        for i in range(len(CODES)):
            series.setdefault(i, []).append(values(tmp_path / str(turn))[i, 1:] / values(source.path)[i, 1:])
        changed = values(tmp_path / str(turn), "volume")[:5, 1:]
        assert all(((row >= 2) & (row <= 4)).all() or (row == 0).all() for row in changed), "the usual level is 1"
        rising = [bool(row.all()) for row in changed]
        assert {True, False} == set(rising)
        close = values(tmp_path / str(turn))[4, [2, 7]]
        if rising[4]:  # E: suspended on two days
            assert ((close >= 2 * 41) & (close <= 4 * 50)).all()
        else:
            assert np.isnan(close).all()
    for made in series.values():
        factors = np.array(made)
        for row in factors:
            known = row[np.isfinite(row)]
            assert ((known >= 1.999) & (known <= 4.001)).all() or ((known >= 0.249) & (known <= 0.501)).all()
        assert len({float(x) for x in factors[np.isfinite(factors)]}) > factors.shape[1], "each day has its own factor"


def test_without_removals_no_value_is_lost(source: Provider, tmp_path: Path) -> None:
    """In all turns together each series rises and falls."""
    for turn in range(TURNS):
        write_copy(source, tmp_path / str(turn), Change(DAYS[5], turn, removes=False))
        assert (np.isnan(values(tmp_path / str(turn))) <= np.isnan(values(source.path))).all()


def test_a_change_after_the_last_day_changes_nothing(source: Provider, tmp_path: Path) -> None:
    for day in (DAYS[-1], DAYS[-1] + np.timedelta64(5, "D")):
        write_copy(source, tmp_path / str(day), Change(day))
        np.testing.assert_array_equal(values(tmp_path / str(day)), values(source.path))


def test_a_missing_series_ends_or_has_missing_values(source: Provider, tmp_path: Path) -> None:
    """Series that end and series with missing values both occur among the instruments, and all fields of an instrument
    are treated alike."""
    sizes: dict[str, set[int]] = {}
    for turn in range(TURNS):
        write_copy(source, tmp_path / str(turn), Change(DAYS[5], turn))
        for code in CODES[:4]:
            files = [tmp_path / str(turn) / "features" / code.lower() / f"{n}.day.bin" for n in ("close", "volume")]
            assert len({file.stat().st_size for file in files}) == 1
            sizes.setdefault(code, set()).add(files[0].stat().st_size // 4 - 1)
    assert {tuple(sorted(found)) for found in sizes.values()} == {(10,), (6, 10)}


def test_universes_are_restricted_in_any_spelling(source: Provider, tmp_path: Path) -> None:
    """Lines may have tabs, commas or blanks, and codes any case."""
    lists = source.path / "instruments"
    (lists / "commas.txt").write_text("b,2024-01-01,2024-01-10\nc,2024-01-01,2024-01-10\n")
    (lists / "blanks.txt").write_text("c 2024-01-01 2024-01-10\n\n  b 2024-01-01 2024-01-10\n")
    (lists / "tabs.txt").write_text("b\t2024-01-01\t2024-01-10\nC\t2024-01-01\t2024-01-10\n")
    write_copy(source, tmp_path / "copy", None, ["C"], ["C"])
    for name in ("commas", "blanks", "tabs"):
        (line,) = (tmp_path / "copy" / "instruments" / f"{name}.txt").read_text().splitlines()
        assert line.upper().startswith("C")


def test_fewer_members_than_asked_for_are_all_chosen(source: Provider) -> None:
    """The members are in the order of their names; those without data are left out."""
    spans = [(DAYS[0], DAYS[9])]
    assert choose_instruments(source, ["C", "A", "NONE"], spans, 2) == ["A", "C"]
    assert choose_instruments(source, ["C", "A", "B"], spans, 2) == ["A", "B"]
    assert choose_instruments(source, CODES, spans, 5) == ["A", "B", "C", "D", "E"]


def test_a_series_that_begins_later_is_replaced_as_a_whole(source: Provider, tmp_path: Path) -> None:
    """The file of the series keeps its first day."""
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


def test_members_leave_and_join_after_the_day(source: Provider, tmp_path: Path) -> None:
    """A third of the members in each turn; nothing about earlier days changes, nor lines without days."""
    lines = {
        "few": "A\t2024-01-01\t2024-01-10\nB\t2024-01-01\t2024-01-04\nB\t2024-01-08\t2024-01-10\nF\t2024-01-09\t2024-01-10\n",
        "codes": "A\nB\n",
    }
    for name, text in lines.items():
        (source.path / "instruments" / f"{name}.txt").write_text(text)
    day, seen = DAYS[5], set()
    for turn in range(TURNS):
        assert write_copy(source, tmp_path / str(turn), Change(day, turn))
        copy = Provider(tmp_path / str(turn))
        assert (copy.path / "instruments" / "codes.txt").read_text() == lines["codes"]
        for name in ("all", "few"):
            before, after = source.instruments(name), copy.instruments(name)
            for code in before:
                old, new = before[code] or [], after.get(code) or []
                assert [(a, min(b, day)) for a, b in old if a <= day] == [(a, min(b, day)) for a, b in new if a <= day]
                if new != old:
                    assert all(b <= day for _, b in new)
                    seen.add((name, code))
    assert seen == {("all", code) for code in CODES} | {("few", code) for code in "ABF"}
    for change in (None, Change(day, removes=False), Change(DAYS[-1])):
        assert not write_copy(source, tmp_path / repr(change), change)
