"""Adding rows to a data folder: the result is the folder that importing all rows at once gives."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rollforge.errors import DataError, DataNotFound
from rollforge.market.append import append_table
from rollforge.market.content import read_content
from rollforge.market.folder_writer import write_folder
from rollforge.market.importer import import_table
from rollforge.market.provider import open_provider

DAYS = pd.bdate_range("2021-03-01", periods=8)


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of all files of a folder, by their paths."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def bars(codes: str = "ABC", days: pd.DatetimeIndex = DAYS, *, seed: int = 1) -> pd.DataFrame:
    """Return bars of some instruments on all days, with prices around 10."""
    index = pd.MultiIndex.from_product([list(codes), days], names=["instrument", "datetime"])
    rng = np.random.default_rng(seed)
    close = 10 + rng.normal(0, 0.1, len(index)).round(2)
    frame = pd.DataFrame({"open": close - 0.02, "high": close + 0.3, "low": close - 0.3, "close": close}, index)
    frame["volume"] = rng.integers(100, 1000, len(index))
    return frame.reset_index()


def split(frame: pd.DataFrame, day: pd.Timestamp) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows before a day, and those from it on."""
    return frame[frame["datetime"] < day], frame[frame["datetime"] >= day]


FORMS = ("plain", "adj_close", "adj_factor", "factor", "amount", "percent", "money")


def in_form(frame: pd.DataFrame, form: str) -> pd.DataFrame:
    """Return bars with the columns of one of several sources."""
    frame = frame.copy()
    rng = np.random.default_rng(3)
    by_code = frame.groupby("instrument")
    step = np.where(by_code.cumcount() >= 4, 2.0, 1.0) * 1.37  # a split on the fifth row of each instrument
    if form == "adj_close":
        frame["adj_close"] = frame["close"] * step
        frame.loc[rng.random(len(frame)) < 0.2, "adj_close"] = np.nan
    elif form == "adj_factor":
        frame["adj_factor"] = step
        frame[["open", "high", "low", "close"]] = frame[["open", "high", "low", "close"]].div(step, axis=0)
    elif form == "factor":
        frame["factor"] = step
    elif form == "amount":
        frame["amount"] = frame["close"] * frame["volume"] * 100
        frame.loc[rng.random(len(frame)) < 0.2, "amount"] = 0.0
    elif form in ("percent", "money"):
        change = frame["close"] - by_code["close"].shift()
        frame["change"] = change if form == "money" else 100 * change / by_code["close"].shift()
    return frame


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_appending_in_parts_equals_importing_at_once(data: st.DataObject) -> None:
    """Random tables with suspensions, listings, delistings and corrections, in several parts: the same files, bit for
    bit.
    """
    form = data.draw(st.sampled_from(FORMS))
    frame = in_form(bars("ABCDEF"), form)
    rows = data.draw(st.sets(st.integers(0, len(frame) - 1), min_size=len(frame) // 2))
    frame = frame.iloc[sorted(rows | set(range(8)))]  # A is complete
    if form == "adj_close":  # before an instrument's first factor an import uses the next one, which later days provide
        begins = ~frame["instrument"].duplicated()
        frame["adj_close"] = frame["adj_close"].fillna(frame["close"] * 1.37).where(begins, frame["adj_close"])
    cuts = sorted(data.draw(st.sets(st.integers(5, 7), min_size=1, max_size=3)))
    edges = [DAYS[0], *(DAYS[c] for c in cuts), DAYS[-1] + pd.Timedelta(days=1)]
    parts = [frame[(frame["datetime"] >= a) & (frame["datetime"] < b)] for a, b in itertools.pairwise(edges)]
    late: list[pd.DataFrame] = []
    first = parts[0]
    for i in sorted(data.draw(st.sets(st.integers(0, len(first) - 1), max_size=4))):
        wrong = first.iloc[[i]]
        if wrong["instrument"].iloc[0] == "A":
            continue
        late.append(wrong)
        if data.draw(st.booleans()):
            first = first.assign(open=first["open"].where(first.index != wrong.index[0], 9.5))
    missing = [i for wrong in late for i in wrong.index if data.draw(st.booleans())]
    if form not in ("percent", "money", "adj_close"):  # these compare rows with those before
        first = first.drop(index=missing)
    later = [*parts[1:]]
    later[-1] = pd.concat([later[-1], *late])
    with tempfile.TemporaryDirectory() as place:
        import_table(frame, Path(place) / "whole", universes={"some": ["A"]})
        import_table(first, Path(place) / "parts", universes={"some": ["A"]})
        for part in later:
            append_table(part.sample(frac=1, random_state=1), Path(place) / "parts", rescale=False)
        assert tree(Path(place) / "parts") == tree(Path(place) / "whole")
        assert read_content(Path(place) / "parts").mark == read_content(Path(place) / "whole").mark
        before = tree(Path(place) / "parts")
        for part in later:
            assert not append_table(part, Path(place) / "parts", rescale=False).changed
        assert tree(Path(place) / "parts") == before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the first five days of three instruments."""
    import_table(split(bars(), DAYS[5])[0], tmp_path / "data")
    return tmp_path / "data"


def test_the_summary_says_what_changed(folder: Path) -> None:
    """Days with their share, new, ended and resumed instruments, gaps, corrections, and rows that were there
    already."""
    _, rest = split(bars("ABCDEF"), DAYS[6])
    rest = rest[rest["instrument"].isin(["A", "D"]) & (rest["datetime"] == DAYS[6])]
    known = bars().set_index(["instrument", "datetime"])
    fix = known.loc[[("A", DAYS[0]), ("B", DAYS[1])]].reset_index()
    fix.loc[0, "close"] = 10.25
    table = pd.concat([rest, fix])
    trial = append_table(table, folder, dry_run=True)
    before = tree(folder)
    made = append_table(table, folder)
    assert before != tree(folder)
    assert str(trial) == str(made).replace("1 day added", "would change: 1 day added")
    assert [(str(d.day), d.instruments, round(d.share, 2)) for d in made.days] == [("2021-03-09", 2, 0.5)]
    assert (made.listed, made.ended, made.resumed) == (("D",), ("B", "C"), ())
    assert [str(d) for d in made.gaps] == ["2021-03-08"]
    assert made.corrections == 2  # close, and vwap, which is computed from it
    found = made.first_corrections[0]
    assert (found.instrument, str(found.day), found.field, found.new) == ("A", "2021-03-01", "close", 10.25)
    assert made.unchanged_rows == 1
    assert made.to_plain()["days"] == [{"day": "2021-03-09", "instruments": 2, "share": 0.5}]
    again = append_table(split(bars("B"), DAYS[7])[1], folder)
    assert (again.resumed, again.ended) == (("B",), ("A", "D"))
    values = open_provider(folder).read("close", ["B"], 0, 7).values[0]
    assert list(np.isnan(values)) == [False] * 5 + [True, False]


def test_days_on_weekends_are_reported(folder: Path) -> None:
    """Also by a dry run, unless the folder's own calendar announces them or trading on weekends is usual."""
    rows = [bars("ABC", pd.DatetimeIndex([day])) for day in ("2021-03-08", "2021-03-13", "2021-03-14", "2021-03-15")]
    trial = append_table(pd.concat(rows), folder, dry_run=True)
    assert [str(day) for day in trial.weekends] == ["2021-03-13", "2021-03-14"] == trial.to_plain()["weekends"]
    assert append_table(rows[0], folder).weekends == ()
    (folder / "calendars" / "day_future.txt").write_text(
        (folder / "calendars" / "day.txt").read_text() + "2021-03-13\n2021-03-15\n"
    )
    made = append_table(pd.concat(rows), folder)
    assert "trading days on weekends: 2021-03-14" in str(made)
    saturday = bars("ABC", pd.DatetimeIndex(["2021-03-20"]))
    assert append_table(saturday, folder).weekends == ()  # two of nine days were on a weekend


def test_a_new_field_for_some_days(folder: Path) -> None:
    """A table with an additional column changes nothing else; all instruments get the field."""
    table = bars("A")[["instrument", "datetime"]].assign(pe=11.5).iloc[2:4]
    before = tree(folder)
    made = append_table(table, folder)
    after = tree(folder)
    assert (made.fields, made.corrections) == (("pe",), 0)
    assert {k: v for k, v in after.items() if "pe.day" not in k and k != "conversion.json"} == {
        k: v for k, v in before.items() if k != "conversion.json"
    }
    values = open_provider(folder).read("pe", ["A", "B"], 0, 5).values
    np.testing.assert_array_equal(values[0], np.float32([np.nan, np.nan, 11.5, 11.5, np.nan]))
    assert np.isnan(values[1]).all()


INVALID = {
    "early": (lambda t: t.assign(datetime=pd.Timestamp("2021-02-26")), "1 day before 2021-03-01"),
    "twice": (lambda t: pd.concat([t, t]), "more than one row per instrument and day"),
    "years": (lambda t: t.assign(datetime=pd.Timestamp("2031-03-06")), "is years after 2021-03-05"),
    "factor": (lambda t: t.assign(adj_factor=2.0), "has a column 'adj_factor'.*imported without it"),
    "scale": (lambda t: t.assign(close=t["close"] * 10), "a different scale.*by a factor of 9.95"),
    "negative": (lambda t: t.assign(close=-1.0), "close of A on 2021-03-08 is negative"),
    "same days, other scale": (
        lambda t: pd.concat([t, bars().iloc[3:5]]).assign(
            open=lambda f: f["open"] / 2, high=lambda f: f["high"] / 2, low=lambda f: f["low"] / 2,
            close=lambda f: f["close"] / 2,
        ),
        r"1 instrument .*\(A\).* 2 times as high.*--rescale",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", ["given", "product"])
def test_a_table_without_factor_keeps_the_factor(tmp_path: Path, form: str) -> None:
    """A field is added to days that have a factor, with which prices were adjusted or not."""
    frame = in_form(bars(), "factor")
    if form == "product":
        frame["adj_close"] = frame["close"] * frame["factor"]
    import_table(frame, tmp_path / "data")
    before = tree(tmp_path / "data")
    summary = append_table(frame[["instrument", "datetime"]].assign(pe=15.0), tmp_path / "data")
    assert (summary.fields, summary.corrections) == (("pe",), 0)
    after = tree(tmp_path / "data")
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {*(f"features/{c}/pe.day.bin" for c in "abc"), "conversion.json"}


@pytest.mark.parametrize("form", ["given", "product", "raw"])
def test_a_new_day_without_prices_has_the_factor_of_an_import_at_once(tmp_path: Path, form: str) -> None:
    """The latest one, if prices are multiplied by it; the table also has a row of the day of a split."""
    frame = in_form(bars(), "factor").rename(columns={"factor": "adj_factor" if form == "raw" else "factor"})
    if form == "product":
        frame["adj_close"] = frame["close"] * frame["factor"]
    import_table(split(frame, DAYS[5])[0], tmp_path / "data")
    more = frame[frame["datetime"].isin(DAYS[4:6])][["instrument", "datetime"]].assign(pe=15.0)
    append_table(more, tmp_path / "data")
    factor = open_provider(tmp_path / "data").read("factor", ["A"], 0, 6).values[0]
    last = np.nan if form == "given" else 2 * 1.37
    np.testing.assert_array_equal(factor, np.float32([1.37] * 4 + [2 * 1.37, last]))


def test_a_table_without_vwap_keeps_the_given_one(tmp_path: Path) -> None:
    """Bars are corrected, in a folder whose vwap was a column."""
    frame = bars()
    import_table(frame.assign(vwap=frame["close"] + 0.01), tmp_path / "data")
    append_table(frame[frame["datetime"] == DAYS[3]].assign(open=frame["close"]), tmp_path / "data")
    vwap = open_provider(tmp_path / "data").read("vwap", ["A"], 0, 8).values[0]
    np.testing.assert_array_equal(vwap, np.float32(frame["close"][:8] + 0.01))


@pytest.mark.parametrize("case", INVALID)
def test_invalid_tables_change_nothing(folder: Path, case: str) -> None:
    """One message states the problem, and all files stay unchanged."""
    change, message = INVALID[case]
    table = change(split(bars("A"), DAYS[5])[1].iloc[:1])
    before = tree(folder)
    with pytest.raises(DataError, match=message):
        append_table(table, folder)
    assert tree(folder) == before
    assert sorted(p.name for p in folder.parent.iterdir()) == sorted(
        {".data.lock", "data"} & set(os.listdir(folder.parent))
    )


@pytest.mark.parametrize(("codes", "factor", "refused"), [
    ("ABCDE", 1.6, True), ("ABCDE", 1.4, False), ("ABCD", 1.6, False), ("ABCD", 4.0, False), ("ABCD", 6.0, True),
])  # fmt: skip
def test_the_typical_jump_shows_another_scale(tmp_path: Path, codes: str, factor: float, refused: bool) -> None:
    """A median factor above 1.5 is another scale; with fewer than five instruments, which may all split, above 5."""
    first, later = split(bars(codes), DAYS[5])
    import_table(first, tmp_path / "data")
    later = later.assign(**{name: later[name] * factor for name in ("open", "high", "low", "close")})
    if refused:
        with pytest.raises(DataError, match="a different scale"):
            append_table(later, tmp_path / "data")
    else:
        append_table(later, tmp_path / "data")


def test_a_day_is_not_inserted(tmp_path: Path) -> None:
    """A day between those of the calendar is refused, and the message says what to do."""
    table = bars()
    import_table(table[table["datetime"] != DAYS[2]], tmp_path / "data")
    before = tree(tmp_path / "data")
    with pytest.raises(
        DataError, match=r"1 day that the calendar .* lacks.*2021-03-03\. A day cannot be inserted.*new folder"
    ):
        append_table(table, tmp_path / "data")
    assert tree(tmp_path / "data") == before


def test_other_bars_are_refused(folder: Path) -> None:
    """Weekly bars do not continue a folder of daily bars."""
    with pytest.raises(DataError, match="bars of another length: its days are 7 days apart"):
        append_table(bars("A", pd.date_range("2021-03-12", periods=4, freq="7D")), folder)


def test_a_path_that_is_not_a_data_folder_is_refused(tmp_path: Path) -> None:
    """The path is named, and nothing is created."""
    with pytest.raises(DataNotFound, match="no data folder"):
        append_table(bars(), tmp_path / "nothing")
    assert not list(tmp_path.iterdir())


def test_rescaled_prices_continue_the_folder(folder: Path) -> None:
    """After a 2:1 split the source has halved all past prices: with rescale=True, returns are those of the source. If
    the table has all rows of an instrument, its history is replaced.
    """
    table = bars()[lambda f: f["instrument"].isin(["A", "B"])].iloc[3:]
    names = ["open", "high", "low", "close"]
    table[names] /= 2
    table["volume"] *= 2
    before = open_provider(folder).read("close", ["A"], 0, 5).values
    made = append_table(table, folder, rescale=True)
    provider = open_provider(folder)
    np.testing.assert_array_equal(provider.read("close", ["A"], 0, 5).values, before)
    expected = bars().iloc[:8]
    np.testing.assert_allclose(provider.read("close", ["A"], 0, 8).values[0], expected["close"], rtol=1e-6)
    np.testing.assert_allclose(provider.read("volume", ["A"], 0, 8).values[0], expected["volume"], rtol=1e-6)
    np.testing.assert_allclose(provider.read("factor", ["A"], 0, 8).values[0], [1] * 5 + [2] * 3, rtol=1e-6)
    assert made.corrections == 5 * 6  # five days of B: four prices, volume, vwap
    np.testing.assert_allclose(provider.read("close", ["B"], 0, 8).values[0], bars()["close"].iloc[8:16] / 2, rtol=1e-6)
    assert any("A x 2" in note for note in made.notes)


def test_a_folder_of_other_tools(tmp_path: Path) -> None:
    """Days are added to a folder without conversion.json: fields, universes and future days continue."""
    close = np.float32([1, 1.01, 1.02])
    series = {"SH1": (0, {"close": close, "factor": close * 0 + 0.5}), "IDX": (1, {"close": close[:2] * 100})}
    days = ["2021-03-01", "2021-03-02", "2021-03-03"]
    universes = {
        "all": {"SH1": [(days[0], days[2])]},
        "csi": {"SH1": [(days[1], days[2])], "SH2": [(days[0], days[1])]},
        "open": {"SH1": [(days[1], "2099-12-31")]},
    }
    write_folder(tmp_path, days, series, universes)
    folder = tmp_path
    (folder / "calendars" / "day_future.txt").write_text("".join(f"{d}\n" for d in [*days, "2021-03-05", "2021-03-08"]))
    (folder / "notes.txt").write_text("mine")
    table = pd.DataFrame({"symbol": ["SH1", "IDX", "SH3"], "date": "2021-03-05", "close": [1.03, 103, 7]})
    made = append_table(table, folder)
    provider = open_provider(folder)
    assert made.gaps == ()  # the folder's own calendar has no 2021-03-04
    np.testing.assert_array_equal(provider.read("close", ["SH1"], 0, 4).values[0], np.float32([1, 1.01, 1.02, 1.03]))
    np.testing.assert_array_equal(provider.read("factor", ["SH1"], 0, 4).values[0], np.float32([0.5] * 4))
    assert made.listed == ("SH3",)
    assert list(provider.instruments("all")) == ["SH1", "SH3"]
    assert [str(d) for d in provider.instruments("csi")["SH1"][0]] == ["2021-03-02", "2021-03-05"]
    assert [str(d) for d in provider.instruments("csi")["SH2"][0]] == ["2021-03-01", "2021-03-02"]
    assert [str(d) for d in provider.instruments("open")["SH1"][0]] == ["2021-03-02", "2099-12-31"]
    assert [str(d) for d in provider.calendar(future=True)] == [*days, "2021-03-05", "2021-03-08"]
    assert (folder / "notes.txt").read_text() == "mine"
    assert "universe csi: 1 membership that ended on 2021-03-03 is extended to 2021-03-05" in made.notes


def test_days_that_few_instruments_have(folder: Path) -> None:
    """Rows without values do not count; the summary lists the day with the share of the instruments."""
    table = split(bars(), DAYS[5])[1]
    table.loc[
        (table["datetime"] == DAYS[6]) & (table["instrument"] != "A"), ["open", "high", "low", "close", "volume"]
    ] = np.nan
    made = append_table(table, folder)
    assert [round(d.share, 2) for d in made.days] == [1.0, 0.33, 1.0]
    assert "days that only a few instruments have: 2021-03-09 (1 instrument, 33%)" in str(made)


def test_fields_without_values_on_a_new_day(folder: Path) -> None:
    """A column that is missing or empty on a day is named; a value of a single instrument, or a day without rows, is
    not."""
    table = split(bars(), DAYS[5])[1]
    on = [table["datetime"] == day for day in DAYS[5:8]]
    table.loc[on[0], "close"] = np.nan
    table.loc[on[1] & (table["instrument"] != "B"), "close"] = np.nan
    made = append_table(table[~on[2]].drop(columns="volume"), folder)
    day, next_day = (str(d.date()) for d in DAYS[5:7])
    expected = {("close", day), ("vwap", day), ("volume", day), ("volume", next_day)}
    assert {(name, str(d)) for name, d in made.empty} == expected
    assert f"close on {day}" in str(made)
    assert "fields without values: " in str(made)
    assert {"field": "close", "day": day} in made.to_plain()["empty"]
    again = append_table(table[on[2]].drop(columns="volume"), folder)
    assert again.empty == (), "nobody had a volume on the day before either"


def test_a_day_in_the_future_is_refused(tmp_path: Path) -> None:
    """Otherwise the days before it could no longer be added. Data that begin in the future, as synthetic data may, can
    be extended."""
    today = pd.Timestamp(dt.datetime.now(dt.UTC).date())
    import_table(bars("A", pd.bdate_range(end=today, periods=8)), tmp_path / "data")
    before = tree(tmp_path / "data")
    row = bars("A").iloc[:1]
    with pytest.raises(DataError, match=f"{(today + pd.Timedelta(days=4)).date()} is in the future; today is"):
        append_table(row.assign(datetime=today + pd.Timedelta(days=4)), tmp_path / "data")
    assert tree(tmp_path / "data") == before
    append_table(row.assign(datetime=today + pd.Timedelta(days=1)), tmp_path / "data")  # tomorrow has begun elsewhere
    days = pd.bdate_range(today + pd.Timedelta(days=10), periods=8)
    first, later = split(bars("AB", days), days[5])
    import_table(first, tmp_path / "synthetic")
    assert len(append_table(later, tmp_path / "synthetic").days) == 3


def test_codes_that_share_a_folder(folder: Path) -> None:
    """The folder of CON is _qlib_con, which an instrument of that name would share."""
    day = split(bars(), DAYS[7])[1]
    made = append_table(day.assign(instrument=["CON", "A", "B"]), folder)
    assert made.listed == ("CON",)
    with pytest.raises(DataError, match="'CON' and '_QLIB_CON' would have the same folder"):
        append_table(day.assign(instrument=["_QLIB_CON", "A", "B"]), folder)


@pytest.mark.parametrize(
    "file", ["conversion.json", "calendars/day.txt", "instruments/all.txt", "features/b/open.day.bin"]
)
def test_a_damaged_folder_is_not_changed(folder: Path, file: str) -> None:
    """One message names the file."""
    (folder / file).write_text("x")
    before = tree(folder)
    with pytest.raises(DataError, match=file):
        append_table(bars(), folder)
    assert tree(folder) == before


@pytest.mark.parametrize("form", ["percent", "money", "share"])
def test_a_new_column_of_changes_on_one_day(folder: Path, form: str) -> None:
    """The unit of a new column is determined by the folder's last closes, since a single day has no other."""
    closes = open_provider(folder).read("close", ["A", "B", "C"], 4, 5).values[:, 0].astype(float)
    table = bars()[lambda f: f["datetime"] == DAYS[5]]
    expected = table["close"].to_numpy() / closes - 1
    table["change"] = {"percent": 100 * expected, "share": expected, "money": table["close"].to_numpy() - closes}[form]
    append_table(table, folder)
    found = open_provider(folder).read("change", ["A", "B", "C"], 0, 6).values
    np.testing.assert_allclose(found[:, 5], expected, rtol=1e-4)
    assert np.isnan(found[:, :5]).all()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_place_gives_one_message(folder: Path) -> None:
    """The folder next to which the copy would be made cannot be written."""
    folder.parent.chmod(0o555)
    try:
        with pytest.raises(DataError, match="cannot be changed: Permission denied"):
            append_table(bars(), folder)
    finally:
        folder.parent.chmod(0o755)


def test_a_correction_without_amount_keeps_a_vwap_from_amount(tmp_path: Path) -> None:
    """vwap stays what amount and volume gave, unless it is not a price of the corrected bar; new rows have the mean."""
    rows = bars("AB").assign(amount=lambda f: (f["close"] + 0.1) * f["volume"])
    early, late = split(rows, DAYS[6])
    import_table(early, tmp_path / "data")
    before = open_provider(tmp_path / "data").read("vwap", ["A"], 0, 6).values[0]
    prices = ["instrument", "datetime", "open", "high", "low", "close"]
    fix = early[(early["instrument"] == "A") & early["datetime"].isin(DAYS[[1, 2]])][prices].copy()
    fix["close"] += 0.01
    fix.loc[fix["datetime"] == DAYS[2], ["open", "high", "low", "close"]] += 5.0
    append_table(fix, tmp_path / "data", rescale=False)
    append_table(late[late["datetime"] == DAYS[6]][prices], tmp_path / "data")
    found = open_provider(tmp_path / "data").read("vwap", ["A"], 0, 7).values[0]
    moved = fix[fix["datetime"] == DAYS[2]][["open", "high", "low", "close"]].to_numpy()
    new = late[(late["datetime"] == DAYS[6]) & (late["instrument"] == "A")][["open", "high", "low", "close"]].to_numpy()
    np.testing.assert_array_equal(found[[0, 1, 3, 4, 5]], before[[0, 1, 3, 4, 5]])
    np.testing.assert_allclose(found[[2, 6]], [moved.mean(), new.mean()], rtol=1e-6)
    append_table(late[late["datetime"] == DAYS[7]], tmp_path / "data")  # with amount again
    (last,) = late[(late["datetime"] == DAYS[7]) & (late["instrument"] == "A")]["close"]
    assert open_provider(tmp_path / "data").read("vwap", ["A"], 7, 8).values[0, 0] == pytest.approx(last + 0.1)


@pytest.mark.parametrize(("form", "column"), [("adj_factor", "adj_factor"), ("adj_close", "adj_close")])
def test_a_factor_needs_the_prices_that_it_adjusts(tmp_path: Path, form: str, column: str) -> None:
    """Another factor for a day of the folder, without its prices, is refused; the folder is unchanged."""
    early, _ = split(in_form(bars(), form), DAYS[6])
    import_table(early, tmp_path / "data")
    before = tree(tmp_path / "data")
    table = early.loc[early["datetime"] == DAYS[3], ["instrument", "datetime", column]].assign(pe=10.0)
    table[column] *= 3
    with pytest.raises(DataError, match=r"changes the factor of A on 2021-03-04.*no close|but no close"):
        append_table(table, tmp_path / "data")
    assert tree(tmp_path / "data") == before
    if column == "adj_factor":
        append_table(table.assign(adj_factor=table[column] / 3), tmp_path / "data")  # the same factor as there
        assert open_provider(tmp_path / "data").fields()[-3] == "pe"
