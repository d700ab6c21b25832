"""Interpretation of a table's columns: raw and adjusted prices, vwap from amounts, changes in money; and implausible
days.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from rollforge.errors import DataError
from rollforge.features.api import D
from rollforge.market.importer import import_table
from rollforge.market.new_folder import FolderSummary
from rollforge.market.numbers import read_numbers
from rollforge.market.provider import open_provider
from rollforge.session import Session, using

DAYS = pd.bdate_range("2021-03-01", periods=30)


def walk(seed: int, days: pd.DatetimeIndex = DAYS, start: float = 10.0) -> pd.DataFrame:
    """Return bars of one instrument, with prices rounded to two decimals."""
    rng = np.random.default_rng(seed)
    close = np.round(start * np.exp(np.cumsum(rng.normal(0, 0.02, len(days)))), 2)
    frame = pd.DataFrame({"date": days, "open": close, "high": close * 1.01, "low": close * 0.99, "close": close})
    return frame.assign(volume=np.round(rng.uniform(1e5, 1e6, len(days))))


def market(count: int = 4, days: pd.DatetimeIndex = DAYS) -> pd.DataFrame:
    return pd.concat([walk(i, days).assign(symbol="ABCDEFGH"[i]) for i in range(count)], ignore_index=True)


def import_csv(table: pd.DataFrame, tmp_path: Path) -> FolderSummary:
    table.to_csv(tmp_path / "t.csv", index=False)
    return import_table(tmp_path / "t.csv", tmp_path / "data", overwrite=True)


def read(tmp_path: Path, *fields: str, code: str = "A") -> list[np.ndarray]:
    with using(Session(provider_uri=str(tmp_path / "data"))):
        frame = D.features([code], list(fields))
    return [frame[f].to_numpy() for f in fields]


# -- adjusted prices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Adj Close", "Adj. Close", "adjclose", "adjusted_close", "5. adjusted close"])
def test_an_adjusted_close_adjusts_the_bar(tmp_path: Path, name: str) -> None:
    """If a table has an adjusted close besides close, prices are adjusted by it, and close / factor is the raw
    price."""
    split = np.where(np.arange(30) < 10, 0.5, 1.0)  # two-for-one split on the eleventh day
    raw = walk(1).assign(symbol="A")
    for price in ("open", "high", "low", "close"):
        raw[price] /= split
    made = import_csv(raw.assign(**{name: raw["close"] * split}), tmp_path)
    close, open_, volume, factor, back = read(tmp_path, "$close", "$open", "$volume", "$factor", "$close/$factor")
    np.testing.assert_allclose(close, raw["close"] * split, rtol=1e-6)
    np.testing.assert_allclose(open_, raw["open"] * split, rtol=1e-6)
    np.testing.assert_allclose(volume, raw["volume"] / split, rtol=1e-6)
    np.testing.assert_allclose(factor, split, rtol=1e-6)
    np.testing.assert_allclose(back, raw["close"], rtol=1e-6)
    assert any("multiplied by" in note and "volume was divided by it" in note for note in made.notes)
    assert not any(f.startswith(("adj", "5_adj")) for f in made.fields)


def test_a_cumulative_factor_adjusts_raw_prices(tmp_path: Path) -> None:
    """tushare's adj_factor multiplies raw prices, so the return over a split is the holder's return."""
    factor = np.where(np.arange(30) < 10, 3.0, 6.0)
    smooth = walk(1).assign(symbol="A")
    raw = smooth.assign(adj_factor=factor)
    for price in ("open", "high", "low", "close"):
        raw[price] = smooth[price] / factor
    made = import_csv(raw, tmp_path)
    close, found, returns = read(tmp_path, "$close", "$factor", "$close/Ref($close,1)-1")
    np.testing.assert_allclose(close, smooth["close"], rtol=1e-6)
    np.testing.assert_allclose(found, factor)
    assert np.nanmax(np.abs(returns)) < 0.1
    assert any("multiplied by adj_factor" in note for note in made.notes)


def test_adjusted_prices_are_unchanged(tmp_path: Path) -> None:
    """Prices that do not jump when adj_factor does are already adjusted; the factor is kept unchanged."""
    table = walk(1).assign(symbol="A", adj_factor=np.where(np.arange(30) < 10, 3.0, 6.0))
    made = import_csv(table, tmp_path)
    close, factor = read(tmp_path, "$close", "$factor")
    np.testing.assert_allclose(close, table["close"], rtol=1e-6)
    np.testing.assert_allclose(factor, table["adj_factor"])
    assert any("already adjusted" in note for note in made.notes)


def test_a_factor_that_was_not_applied_is_noted(tmp_path: Path) -> None:
    """A factor in Qlib's sense is already contained in the prices; if prices jump against it, a note says so."""
    factor = np.where(np.arange(30) < 10, 1.0, 2.0)
    table = walk(1).assign(symbol="A", factor=factor)
    assert not any("factor" in note for note in import_csv(table, tmp_path).notes)
    for price in ("open", "high", "low", "close"):
        table[price] /= factor
    assert any("--column factor=adj_factor" in note for note in import_csv(table, tmp_path).notes)


def test_gaps_in_a_factor(tmp_path: Path) -> None:
    """A missing factor is filled from the previous day, at the start from the next day; without any values it is 1."""
    a, b = walk(1).assign(symbol="A"), walk(2).assign(symbol="B")
    a["adj_factor"] = np.where(np.arange(30) < 10, 2.0, 2.1)
    a.loc[[0, 15], "adj_factor"] = np.nan
    made = import_csv(pd.concat([a, b]), tmp_path)
    assert read(tmp_path, "$factor")[0].tolist() == np.float32([2.0] * 10 + [2.1] * 20).tolist()
    assert read(tmp_path, "$factor", code="B")[0].tolist() == [1.0] * 30
    note = next(n for n in made.notes if "adj_factor" in n)
    assert "1 for B, which has none" in note
    assert "in 32 rows without it" in note
    a.loc[3, "adj_factor"] = 0.0
    with pytest.raises(DataError, match="adj_factor of A on 2021-03-04 is 0, but a factor must be positive"):
        import_csv(a, tmp_path)


def test_an_adjusted_close_alone_is_the_close(tmp_path: Path) -> None:
    """In a table without another close, the adjusted close is the close."""
    table = walk(1)[["date", "close"]].rename(columns={"close": "Adj Close"}).assign(symbol="A")
    made = import_csv(table, tmp_path)
    np.testing.assert_allclose(read(tmp_path, "$close")[0], table["Adj Close"], rtol=1e-6)
    assert "adj_close was used as close, because the table has no other; factor was set to 1" in made.notes


def test_with_a_factor_and_two_closes_close_is_raw(tmp_path: Path) -> None:
    """If adj_close is close x factor, close is raw, although a close in a table with a factor is assumed to be
    adjusted.
    """
    raw = walk(1).assign(symbol="A", factor=0.5)
    import_csv(raw.assign(adj_close=raw["close"] * 0.5), tmp_path)
    close, volume, back = read(tmp_path, "$close", "$volume", "$close/$factor")
    np.testing.assert_allclose(close, raw["close"] * 0.5, rtol=1e-6)
    np.testing.assert_allclose(volume, raw["volume"] / 0.5, rtol=1e-6)
    np.testing.assert_allclose(back, raw["close"], rtol=1e-6)
    import_csv(raw.assign(adj_close=raw["close"]), tmp_path)
    np.testing.assert_allclose(read(tmp_path, "$close")[0], raw["close"], rtol=1e-6)


@pytest.mark.parametrize(("factor", "reported"), [(0.5, True), (1.0, False)])
def test_splits_that_prices_show_are_reported(tmp_path: Path, factor: float, reported: bool) -> None:
    """A table with splits whose closes jump on those days is reported as not adjusted; one without jumps is not."""
    table = walk(1).assign(symbol="A", **{"Stock Splits": np.where(np.arange(30) == 10, 2.0, 0.0)})
    table.loc[10:, ["open", "high", "low", "close"]] *= factor
    assert any("close jumps where stock_splits has a split" in n for n in import_csv(table, tmp_path).notes) is reported


def test_inconsistent_prices_of_a_bar_are_reported(tmp_path: Path) -> None:
    """A close outside low and high, or a low above the high, is reported as an error of the source; rounding is not."""
    table = walk(1).assign(symbol="A")
    assert not any("above the high" in n for n in import_csv(table, tmp_path).notes)
    table.loc[3, "close"] *= 100
    table.loc[[5, 6], ["low", "high"]] = table.loc[[5, 6], ["high", "low"]].to_numpy()
    note = next(n for n in import_csv(table, tmp_path).notes if "above the high" in n)
    assert note.startswith(
        "3 rows have a low above the high, or an open or close outside that range: the first is A on 2021-03-04"
    )


def test_a_duplicate_column_is_refused(tmp_path: Path) -> None:
    """Which of the two columns to use cannot be determined."""
    (tmp_path / "t.csv").write_text("date,symbol,close,close\n2021-03-01,A,1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="has the column 'close' more than once"):
        import_table(tmp_path / "t.csv", tmp_path / "data")


# -- vwap ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "volume", "words"),
    [
        (1, 1, "vwap was computed as amount / volume"),
        (1, 100, "volume in lots of 100"),
        (1000, 100, "10 x amount / volume (amount in thousands, volume in lots of 100)"),
        (1000, 1, "1000 x amount / volume"),
        (10000, 1, "10000 x amount / volume"),
    ],
)
def test_vwap_is_amount_over_volume_in_its_unit(tmp_path: Path, amount: float, volume: float, words: str) -> None:
    """Whatever the units of amount and volume, their quotient is a price of the day; the unit is reported."""
    table = market(2)
    vwap = table["close"] * np.random.default_rng(0).uniform(0.992, 1.008, len(table))
    table = table.assign(amount=table["volume"] * vwap / amount, volume=table["volume"] / volume)
    made = import_csv(table, tmp_path)
    np.testing.assert_allclose(read(tmp_path, "$vwap")[0], vwap[:30], rtol=1e-5)
    assert any(words in note for note in made.notes)


def test_vwap_is_that_of_raw_prices_adjusted(tmp_path: Path) -> None:
    """Amount and volume refer to raw prices; their quotient is adjusted like the other prices."""
    factor = np.where(np.arange(30) < 10, 1.0, 2.0)
    table = walk(1).assign(symbol="A", adj_factor=factor)
    for price in ("open", "high", "low", "close"):
        table[price] /= factor
    import_csv(table.assign(amount=table["volume"] * table["close"] * 1.002), tmp_path)
    np.testing.assert_allclose(read(tmp_path, "$vwap/$close")[0], 1.002, rtol=1e-5)
    # also with prices and factor in Qlib's form and a raw volume
    smooth = walk(1).assign(symbol="A", factor=factor)
    import_csv(smooth.assign(amount=smooth["volume"] * smooth["close"] / factor * 1.002), tmp_path)
    np.testing.assert_allclose(read(tmp_path, "$vwap/$close")[0], 1.002, rtol=1e-5)


def test_vwap_if_amounts_are_inconsistent_with_prices(tmp_path: Path) -> None:
    """A quotient that is not a price in any unit is not used; single days without a quotient use the mean of their
    bar."""
    table = market(2)
    nonsense = table.assign(amount=np.random.default_rng(0).uniform(1, 1e9, len(table)))
    assert any("is not a price between low and high" in n for n in import_csv(nonsense, tmp_path).notes)
    np.testing.assert_allclose(read(tmp_path, "$vwap/$close")[0], 1.0, rtol=1e-6)
    halted = table.assign(amount=table["volume"] * table["close"] * 1.002)
    halted.loc[[3, 4], ["volume", "amount"]] = 0
    made = import_csv(halted, tmp_path)
    expected = np.full(30, 1.002)
    expected[[3, 4]] = 1.0
    np.testing.assert_allclose(read(tmp_path, "$vwap/$close")[0], expected, rtol=1e-5)
    assert any("in 2 rows" in n for n in made.notes)


# -- change --------------------------------------------------------------------------------------------------------------


def _with_change(kind: str, decimals: int, price: float) -> pd.DataFrame:
    table = pd.concat([walk(i, start=price).assign(symbol="AB"[i]) for i in range(2)], ignore_index=True)
    before = table.groupby("symbol")["close"].shift(1)
    change = {"share": table["close"] / before - 1, "percent": 100 * (table["close"] / before - 1)}
    return table.assign(change=(change | {"money": table["close"] - before})[kind].round(decimals))


@settings(max_examples=20, deadline=None)
@given(price=st.sampled_from([1.0, 5.0, 10.0, 99.0, 101.0, 2500.0]))
@pytest.mark.parametrize(("kind", "decimals"), [("share", 4), ("percent", 2), ("percent", 4), ("money", 2)])
def test_change_becomes_a_fraction(
    tmp_path_factory: pytest.TempPathFactory, kind: str, decimals: int, price: float
) -> None:
    """A change in money or percent becomes a fraction of the previous close, at any price level, and a note says so."""
    folder = tmp_path_factory.mktemp("change")
    made = import_csv(_with_change(kind, decimals, price), folder)
    change, expected = read(folder, "$change", "$close/Ref($close,1)-1")
    np.testing.assert_allclose(change[1:], expected[1:], atol=1e-4 if price > 2 else 5e-3)
    said = [n for n in made.notes if n.startswith("change")]
    assert len(said) == (0 if kind == "share" else 1)


def test_change_in_money_without_previous_closes(tmp_path: Path) -> None:
    """With a column of previous closes, the first day has a change too; a column of zeros or a single day counts as
    fractions.
    """
    table = _with_change("money", 2, 50.0)
    table["pre_close"] = (table["close"] - table["change"]).fillna(table["close"])
    table["change"] = (table["close"] - table["pre_close"]).round(2)
    import_csv(table, tmp_path)
    assert read(tmp_path, "$change")[0][0] == 0
    import_csv(walk(1).assign(symbol="A", change=0.0, close=10.0), tmp_path)
    assert not read(tmp_path, "$change")[0].any()
    assert "change" in import_csv(walk(1)[:1].assign(symbol="A", change=0.01), tmp_path).fields


def test_a_change_that_is_not_a_change_of_close_is_left_out(tmp_path: Path) -> None:
    """A column that is not a change of close, or is empty, is left out: it would make price limits wrong."""
    made = import_csv(market().assign(change=np.random.default_rng(0).normal(size=120)), tmp_path)
    assert "change" not in made.fields
    assert any(n.startswith("change was left out, because it is not the change of close") for n in made.notes)
    made = import_csv(market().assign(change=np.nan, vwap=np.nan), tmp_path)
    assert "change was left out, because it has no values" in made.notes
    assert "change" not in made.fields
    assert not np.isnan(read(tmp_path, "$vwap")[0]).any()


# -- days ----------------------------------------------------------------------------------------------------------------


def test_a_day_that_few_instruments_have_is_reported(tmp_path: Path) -> None:
    """A Saturday that one of five instruments has, and a holiday that two of eight have, are reported; an ordinary
    table is not.
    """
    index = walk(9, DAYS.append(pd.DatetimeIndex(["2021-03-13"])).sort_values()).assign(symbol="INDEX")
    made = import_csv(pd.concat([market(), index]), tmp_path)
    assert any("2021-03-13 (1 of 5: INDEX)" in n for n in made.notes)
    table = market(8)
    holiday = (table["date"] == DAYS[10]) & ~table["symbol"].isin(["A", "B"])
    assert any(f"{DAYS[10].date()} (2 of 8: A, B)" in n for n in import_csv(table[~holiday], tmp_path).notes)
    assert not any("few instruments" in n for n in import_csv(table, tmp_path).notes)


@pytest.mark.parametrize("day", ["2021-02-27", "2021-02-26", "2021-04-10", "2021-04-12"])
def test_a_stray_day_at_either_end_is_reported(tmp_path: Path, day: str) -> None:
    """The day is reported before the first and after the last day of all others."""
    stray = DAYS.append(pd.DatetimeIndex([day])).sort_values()
    made = import_csv(pd.concat([market(), walk(9, stray).assign(symbol="INDEX")]), tmp_path)
    assert any(f"{day} (1 of 5: INDEX)" in n for n in made.notes)


def test_a_rare_weekend_is_reported(tmp_path: Path) -> None:
    """A Saturday among weekdays is reported even if all instruments have it; a market that trades every day is not."""
    stray = DAYS.append(pd.DatetimeIndex(["2021-03-13"])).sort_values()
    assert "there are trading days on weekends: 2021-03-13" in import_csv(market(4, stray), tmp_path).notes
    assert (
        "there are trading days on weekends: 2021-03-13"
        in import_csv(walk(1, stray).assign(symbol="A"), tmp_path).notes
    )
    always = pd.date_range("2021-03-01", periods=40)
    assert not any("trading days" in n for n in import_csv(market(3, always), tmp_path).notes)


def test_two_markets_in_one_table_are_reported(tmp_path: Path) -> None:
    """If half of a table's instruments trade at weekends, the weekends are reported."""
    every = pd.date_range("2021-03-01", periods=42)
    coins = pd.concat([walk(i, every).assign(symbol=f"COIN{i}") for i in range(4)])
    made = import_csv(pd.concat([market(), coins]), tmp_path)
    assert any("2021-03-06 (4 of 8)" in n and "more; the others" in n for n in made.notes)


def test_rows_without_values_do_not_count(tmp_path: Path) -> None:
    """A table converted from wide form has a row for each instrument on the stray day, without values; the day is
    reported.
    """
    stray = pd.DataFrame({"symbol": list("ABCD"), "date": pd.Timestamp("2021-03-13"), "close": [np.nan] * 3 + [7.0]})
    assert any("2021-03-13 (1 of 4: D)" in n for n in import_csv(pd.concat([market(), stray]), tmp_path).notes)


def test_listings_and_delistings_are_not_odd(tmp_path: Path) -> None:
    """A single instrument before the others are listed, or after they are delisted, is not reported."""
    table = market()
    alone = (table["symbol"] != "A") & ((table["date"] < DAYS[8]) | (table["date"] > DAYS[20]))
    assert not any("few instruments" in n for n in import_csv(table[~alone], tmp_path).notes)


@pytest.mark.parametrize("day", ["2201-03-15", "1921-03-15", "2012-03-15"])
def test_a_mistyped_year_is_refused(tmp_path: Path, day: str) -> None:
    """A row that is years away from all others is reported with its line, and nothing is written."""
    table = market()
    table["date"] = table["date"].dt.strftime("%Y-%m-%d")
    table.loc[40, "date"] = day
    with pytest.raises(DataError, match=rf"{day} in line 42 is years away from all other days.* Correct the year"):
        import_csv(table, tmp_path)
    assert not (tmp_path / "data").exists()


def test_years_that_timestamps_cannot_represent_are_refused(tmp_path: Path) -> None:
    """The error has the line."""
    table = walk(1).assign(symbol="A")
    table["date"] = table["date"].dt.strftime("%Y-%m-%d")
    table.loc[0, "date"] = "2921-03-01"
    with pytest.raises(DataError, match=r"line 2: 2921-03-01 is outside 1678-01-01 to 2261-12-31"):
        import_csv(table, tmp_path)


def test_long_gaps_are_reported(tmp_path: Path) -> None:
    """Several months without any day are reported; monthly data are not full of gaps."""
    late = walk(1, pd.bdate_range("2021-09-01", periods=30)).assign(symbol="A")
    assert any(
        "the calendar has gaps: 2021-04-09 to 2021-09-01" in n
        for n in import_csv(pd.concat([market(), late]), tmp_path).notes
    )
    months = walk(1, pd.date_range("2015-01-31", periods=60, freq="ME")).assign(symbol="A")
    assert not any("no trading days" in n for n in import_csv(months, tmp_path).notes)


# -- files of other forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", ["+08:00", "+05:30", "+09:00", "+11:00", "+01:00", "-05:00", ""])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_offsets_from_utc_do_not_move_days(tmp_path: Path, offset: str, form: str) -> None:
    """The bar of 1 March remains that of 1 March, east and west of Greenwich."""
    table = walk(1).assign(symbol="A")
    if form == "csv":
        table["date"] = table["date"].dt.strftime("%Y-%m-%d 00:00:00") + offset
        table.to_csv(tmp_path / "t.csv", index=False)
    else:
        table["date"] = table["date"].dt.tz_localize(f"UTC{offset}" if offset else None)
        table.to_parquet(tmp_path / "t.parquet")
    made = import_table(tmp_path / f"t.{form}", tmp_path / "data")
    assert [str(d) for d in open_provider(tmp_path / "data").calendar()] == [str(d.date()) for d in DAYS]
    assert not any("UTC" in n for n in made.notes)


def test_offsets_may_change_within_a_column(tmp_path: Path) -> None:
    """Offsets change at the start and end of daylight saving time."""
    days = pd.bdate_range("2021-01-04", "2021-12-31")
    table = walk(1, days).assign(symbol="A")
    table["date"] = [str(d) for d in days.tz_localize("Europe/Berlin")]
    import_csv(table, tmp_path)
    assert len(open_provider(tmp_path / "data").calendar()) == len(days)


@pytest.mark.parametrize("form", ["text", "zoned", "epoch"])
def test_times_in_utc_are_noted(tmp_path: Path, form: str) -> None:
    """Midnight in Shanghai, written in UTC, is on the previous day. The file cannot show this, so a note mentions
    it."""
    table = walk(1).assign(symbol="A")
    days = DAYS.tz_localize("Asia/Shanghai").tz_convert("UTC")
    table["date"] = {"text": [str(d) for d in days], "zoned": days, "epoch": days.as_unit("s").asi8}[form]
    table.to_parquet(tmp_path / "t.parquet")
    made = import_table(tmp_path / "t.parquet", tmp_path / "data")
    assert any("days are those of UTC, because there are times such as 16:00 UTC" in n for n in made.notes)


@pytest.mark.parametrize(
    "times",
    [
        ["2021-03-01 09:31", "2021-03-01 09:32"],
        ["2021-03-01T09:31:00+08:00", "2021-03-01T09:32:00+08:00"],
        ["20210301093100", "20210301093200"],
        ["1614562260", "1614562320"],
    ],
)
def test_minute_bars_are_imported_as_such(tmp_path: Path, times: list[str]) -> None:
    """However their times are written; the calendar has them and is named by their distance."""
    pd.DataFrame({"symbol": "A", "datetime": times, "close": 1.0}).to_csv(tmp_path / "t.csv", index=False)
    import_table(tmp_path / "t.csv", tmp_path / "data")
    lines = (tmp_path / "data" / "calendars" / "1min.txt").read_text().split("\n")
    assert [line[-5:] for line in lines[:2]] == ["31:00", "32:00"]


AKSHARE = "日期,股票代码,开盘,收盘,最高,最低,成交量,成交额,涨跌幅,涨跌额\n"
AKSHARE += "2021-03-01,600000,10.0,10.1,10.2,9.9,1000,1010000,1,.1\n"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (AKSHARE, {}),
        (AKSHARE.replace(",", ";"), {}),
        (AKSHARE.replace(",", "\t"), {}),
        (AKSHARE, {"encoding": "gbk"}),
        ("\ufeff" + AKSHARE, {}),
        ("A;B;C;D;E;F;G\n2021-03-01;10.0;10.1;10.2;9.9;1000;1,010,000\n",
         {"columns": dict(zip("ABCDEFG", ["datetime", "open", "close", "high", "low", "volume", "amount"], strict=True))}),
        ("2021-03-01,10.0,10.1,10.2,9.9,1000,1010000\n", {"names": ["date", "open", "close", "high", "low", "vol", "amount"]}),
        ("1614556800000,10.0,10.1,10.2,9.9,1000,1010000\n",
         {"names": ["open_time", "open", "close", "high", "low", "volume", "amount"]}),
    ],
    ids=["akshare", "semicolons", "tabs", "gbk", "mark", "columns", "headless", "binance"],
)  # fmt: skip
def test_tables_in_other_formats(tmp_path: Path, text: str, options: dict[str, object]) -> None:
    """Chinese columns, other separators and encodings, thousands separators, no header: the result is the same bar."""
    (tmp_path / "files").mkdir()
    encoding = str(options.get("encoding", "utf-8"))
    (tmp_path / "files" / "600000.csv").write_text(text, encoding=encoding)
    import_table(tmp_path / "files", tmp_path / "data", **options)  # type: ignore[arg-type]
    row = [float(v[0]) for v in read(tmp_path, "$open", "$close", "$high", "$low", "$vwap", code="600000")]
    np.testing.assert_allclose(row, [10.0, 10.1, 10.2, 9.9, 10.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("when,close\n2021-03-01,1\n", {}, r"no column of days.*It has: when, close.*--column 'NAME=datetime'"),
        ("2021-03-01,10.0\n2021-03-02,10.1\n", {}, "no header line: its first line is 2021-03-01, 10.0.*--names"),
        (
            "date,close\n2021-03-01,1\n",
            {"names": ["date"]},
            "has 2 columns, but the number of names given for them is 1",
        ),
        ("date,close\n2021-03-01,1\n", {"names": ["date", "close"]}, "line 1|row 1"),
        ("date,close\n2021-03-01,1\n", {"encoding": "klingon"}, "Unknown encoding 'klingon'"),
        ("date,volume\n2021-03-01,5,629,000\n", {}, "more values than its header"),
        ("Date,date,close\n2021-03-01,2021-03-01,1\n", {}, "would both become 'datetime'"),
    ],
)
def test_errors_name_the_option_that_helps(tmp_path: Path, text: str, options: dict[str, object], words: str) -> None:
    """A table that is not understood gives one message, with the option that helps."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "A.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        import_table(tmp_path / "t", tmp_path / "data", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12.5", 12.5), ("5,629,000", 5629000.0), ("1,234.5", 1234.5), ("$121.41", 121.41), ("-$3", -3.0), ("+3", 3.0),
        ("153.7M", 153.7e6), ("1.2 K", 1200.0), ("2B", 2e9), ("1e3", 1000.0), ("1.5%", None), ("12a", None), ("1,23", None),
        ("-", np.nan), ("NA", np.nan), ("", np.nan),
    ],
)  # fmt: skip
def test_notations_of_numbers(text: str, value: float | None) -> None:
    """Thousands separators, currencies and units are parsed; invalid values are distinguished from missing ones."""
    numbers, bad = read_numbers(pd.Series([text]))
    assert bad[0] == (value is None)
    assert value is None or numbers[0] == value or (np.isnan(value) and np.isnan(numbers[0]))


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["10,5", "10,125"], [10.5, 10.125]),
        (["1.234,50", "3,125", "7"], [1234.5, 3.125, 7.0]),
        (["10,125", "11,250"], None),
        (["1,010,000", "7"], [1010000.0, 7.0]),
        (["10.5", "1,000"], None),
        (["10.5", "10,5"], None),
    ],
)
def test_decimal_commas(texts: list[str], values: list[float] | None) -> None:
    """In a file separated by semicolons, a comma may be the decimal mark; an ambiguous column is refused."""
    numbers, bad = read_numbers(pd.Series(texts), semicolons=True)
    if values is None:
        assert bad.any()
    else:
        assert numbers.tolist() == values


def test_a_column_of_times_is_not_a_field(tmp_path: Path) -> None:
    """Times of day in their own column do not become a field; several times on one day are bars."""
    head = "<TICKER>,<PER>,<DATE>,<TIME>,<CLOSE>\n"
    (tmp_path / "t.csv").write_text(f"{head}A,D,20210301,000000,1\nA,D,20210302,000000,2\n")
    assert import_table(tmp_path / "t.csv", tmp_path / "data").fields == ("close", "factor")
    (tmp_path / "t.csv").write_text(f"{head}A,5,20210301,93500,1\nA,5,20210301,94000,2\n")
    assert import_table(tmp_path / "t.csv", tmp_path / "other").freq == "5min"


def test_the_advice_uses_the_columns_name_in_the_file(tmp_path: Path) -> None:
    """The option that leaves a column out works as printed."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "A.csv").write_text("Date,Close,Open Price\n2021-03-01,1,2\n2021-03-02,1,dear\n")
    with pytest.raises(DataError, match="--column 'Open Price='"):
        import_table(tmp_path / "t", tmp_path / "data")
    assert "open_price" not in import_table(tmp_path / "t", tmp_path / "data", columns={"Open Price": ""}).fields


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """The message names the option for the encoding, unless the header is a known one in GBK."""
    (tmp_path / "t.csv").write_bytes("date,symbol,close,größe\n2021-03-01,A,1,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"is not utf-8 text.*--encoding gbk"):
        import_table(tmp_path / "t.csv", tmp_path / "data")


def test_a_folder_with_a_file_per_day(tmp_path: Path) -> None:
    """The instrument of a row comes from the column of codes, not from the file's name."""
    (tmp_path / "days").mkdir()
    for day, rows in market(2).groupby("date"):
        rows.to_csv(tmp_path / "days" / f"{day.date()}.csv", index=False)
    made = import_table(tmp_path / "days", tmp_path / "data")
    assert (made.instruments, made.days) == (2, 30)
    assert list(open_provider(tmp_path / "data").instruments("all")) == ["A", "B"]
