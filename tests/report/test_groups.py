"""IC by group on the page: groups from files and universes, by hand and with mistakes."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from rich.console import Console

from rollforge.errors import ConfigError, DataError, DataNotFound
from rollforge.market.folder_writer import write_folder
from rollforge.market.provider import Provider, open_provider
from rollforge.report.groups import read_groups
from rollforge.report.html import render
from rollforge.report.inputs import ModelInputs, ReportInputs
from rollforge.report.summary import summarise
from rollforge.report.terminal import groups_table

DAYS = pd.bdate_range("2020-01-01", periods=6)
CODES = ["A", "B", "C", "D"]
INDEX = pd.MultiIndex.from_product([DAYS, CODES], names=["datetime", "instrument"])


def scores(seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(size=len(INDEX)).round(1)
    return pd.DataFrame({"score": values}, INDEX)


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    """Data with a universe that B joins on the third day, and that A leaves."""
    days = DAYS.to_numpy().astype("datetime64[D]")
    members = {"A": [(days[0], days[1])], "B": [(days[2], days[5])]}
    write_folder(tmp_path / "data", days, {}, {"all": {c: [(days[0], days[5])] for c in CODES}, "top": members})
    return open_provider(tmp_path / "data")


def groups_of(text: str, folder: Path, provider: Provider, *, name: str = "groups.csv", column: str = "") -> pd.Series:
    (folder / name).write_text(text, encoding="utf-8")
    return read_groups(f"{folder / name}{column}", scores(), provider)


def test_a_file_names_the_group_of_each_instrument(tmp_path: Path, provider: Provider) -> None:
    """Separated by commas, semicolons or tabs, or Parquet; codes in any case; an empty group is none."""
    table = pd.DataFrame({"symbol": ["a", "b ", "C", "X"], "sector": ["tech", "oil", "", "oil"]})
    for separator in ",;\t":
        found = groups_of(table.to_csv(index=False, sep=separator), tmp_path, provider)
        assert found.index.equals(INDEX)
        assert found.name == "sector"
        assert found.iloc[:4].tolist()[:2] == ["tech", "oil"]
        assert found.iloc[2:4].isna().all()
    table.assign(sector=[45, 10, 10, 10]).set_index("symbol").to_parquet(tmp_path / "g.parquet")
    assert read_groups(str(tmp_path / "g.parquet"), scores(), provider).iloc[:3].tolist() == [45, 10, 10]
    wide = table.assign(size=["small", "large", "small", "large"]).to_csv(index=False)
    assert groups_of(wide, tmp_path, provider, column=":size").iloc[:3].tolist() == ["small", "large", "small"]


def test_a_group_holds_until_the_next_one(tmp_path: Path, provider: Provider) -> None:
    """From its day on, also if that is no trading day; before the first row there is none."""
    lines = "date,code,sector\n2019-12-30,A,tech\n2020-01-04,A,oil\n2020-01-03,B,oil\n2020-01-07,B,\n"
    found = groups_of(lines, tmp_path, provider).unstack()
    assert found["A"].tolist() == ["tech", "tech", "tech", "oil", "oil", "oil"]
    assert found["B"].iloc[2:4].tolist() == ["oil", "oil"]
    assert found["B"].iloc[[0, 1, 4, 5]].isna().all()
    assert found[["C", "D"]].isna().all(axis=None)


def test_a_universe_is_a_group_by_day(provider: Provider) -> None:
    found = read_groups("top", scores(), provider).unstack()
    assert (found == "top").to_numpy().tolist() == [[True, False, False, False]] * 2 + [[False, True, False, False]] * 4
    assert set(found.to_numpy().ravel()) == {"top", "not in top"}


@pytest.mark.parametrize(
    ("text", "column", "error", "message"),
    [
        ("sector,size\ntech,1\n", "", DataError, "no column of instruments, such as instrument or symbol. It has: sector, size"),
        ("code,sector,size\nA,tech,1\n", "", ConfigError, "--group: .* must be given: .*csv:COLUMN. It has: code, sector"),
        ("code,sector,size\nA,tech,1\n", ":sctor", DataError, r"no column of groups 'sctor'\. Did you mean 'sector'\?"),
        ("code,sector\n,tech\nA,tech\na,oil\n", "", DataError, r"row 3: 'a' has a group already"),
        ("code,sector\nQ,tech\n", "", DataError, "contains no instrument .* the first one is 'Q' .* 'A' in the pred"),
        ("code,sector\n", "", DataError, "has no rows"),
        ("", "", DataError, "is empty"),
        ("code,sector\n\nA,tech\nB,oil,gas\n", "", DataError, "line 4: there are 3 cells, but 2 columns"),
        ("code,code\nA,tech\n", "", DataError, "two columns of the same name"),
        ("code,date,sector\nA,soon,tech\n", "", DataError, "row 1: "),
        ("code,date,sector\nA,2020-01-02,x\nA,2020-01-02,y\n", "", DataError, "row 2: 'A' has a group already"),
    ],
)  # fmt: skip
def test_mistakes_in_a_file_are_named(
    text: str, column: str, error: type[Exception], message: str, tmp_path: Path, provider: Provider
) -> None:
    with pytest.raises(error, match=message):
        groups_of(text, tmp_path, provider, column=column)


def test_a_missing_file_is_no_universe(tmp_path: Path, provider: Provider) -> None:
    with pytest.raises(DataNotFound, match=r"no file 'tpo', and no universe .* Did you mean 'top'\? Univ.* all, top"):
        read_groups("tpo", scores(), provider)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_groups(str(tmp_path / "bad.parquet"), scores(), provider)
    pd.DataFrame({"code": ["A"], "tags": [["x", "y"]]}).to_parquet(tmp_path / "lists.parquet")
    with pytest.raises(DataError, match=r"lists.parquet, column 'tags': .* cannot be the name of a group"):
        read_groups(str(tmp_path / "lists.parquet"), scores(), provider)


def test_a_damaged_file_is_an_error_of_the_data(tmp_path: Path, provider: Provider) -> None:
    """Whatever its bytes are, no other error escapes."""
    text, random = b"date,code,sector\n2019-12-30,A,tech\n2020-01-04,A,oil\n", np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(text)
        for place in random.integers(0, len(text), 3):
            damaged[place] = random.choice([0, 10, 34, 44, 59, 255, int(random.integers(256))])
        (tmp_path / "g.csv").write_bytes(bytes(damaged))
        with contextlib.suppress(DataError, ConfigError):
            assert len(read_groups(str(tmp_path / "g.csv"), scores(), provider)) == len(INDEX)


def test_the_page_has_the_ic_of_each_group(tmp_path: Path, provider: Provider) -> None:
    """Days with one row of a group, or with equal scores in it, do not count."""
    prediction, label = scores(), scores(1).rename(columns={"score": "label"})
    prediction.iloc[[0, 1], 0] = 0.5
    label.iloc[5, 0] = np.nan
    groups = groups_of("code,sector\nA,<i>\nB,<i>\nC,<i>\nD,solo\n", tmp_path, provider)
    summary = summarise(ReportInputs("mine", [], prediction, label, label_days=1, groups=groups))
    expected = []
    for _, rows in prediction.join(label).drop(index="D", level=1).dropna().groupby(level="datetime"):
        if rows["score"].nunique() > 1:
            expected.append(scipy.stats.pearsonr(rows["score"], rows["label"]).statistic)
    assert summary.groups is not None
    assert summary.groups.loc["<i>", "IC"] == pytest.approx(np.mean(expected))
    assert summary.groups.loc["<i>", "days"] == len(expected)
    assert summary.groups.loc["<i>", "t"] == pytest.approx(scipy.stats.ttest_1samp(expected, 0).statistic)
    assert summary.groups.loc["solo", ["days", "rows"]].tolist() == [0, 6]
    console = Console(width=100, record=True, file=io.StringIO())
    shown = groups_table(summary)
    assert shown is not None
    console.print(shown)
    (line,) = [line.split() for line in console.export_text().splitlines() if line.startswith("<i>")]
    assert line[1:3] == [f"{np.mean(expected):+.4f}", f"{summary.groups.loc['<i>', 't']:.2f}"]
    page = render(summary)
    assert 'id="groups"' in page
    assert f'class="figure">{np.mean(expected):.4f}<'.replace("-", "−") in page
    assert '<th scope="row">&lt;i&gt;</th>' in page
    assert "<i>" not in page.partition('id="groups"')[2].partition("<table")[0]
    assert 'id="groups"' not in render(summarise(ReportInputs("mine", [], prediction, label, label_days=1)))


def test_each_model_has_the_ic_of_each_group(tmp_path: Path, provider: Provider) -> None:
    """The IC is computed from its own label; the label of the joined prediction is that of the first model."""
    groups = groups_of("code,sector\nA,one\nB,one\nC,two\nD,two\n", tmp_path, provider)
    labels = {"slow": scores(1), "fast": scores(2)}
    models = [ModelInputs(name, scores(3), label, name, 1) for name, label in labels.items()]
    inputs = ReportInputs("mine", [], scores(3), labels["slow"], label_days=1, models=models, groups=groups)
    summary = summarise(inputs)
    section = render(summary).partition('id="groups"')[2].partition("</section>")[0]
    for name, label in labels.items():
        own = section.partition(f"<h3>{name}</h3>")[2].partition("</table>")[0]
        for group, codes in (("one", ["A", "B"]), ("two", ["C", "D"])):
            both = scores(3).join(label.set_axis(["label"], axis=1)).loc[(slice(None), codes), :]
            signs = [
                float(np.sign((d.iloc[0] - d.iloc[1]).prod()))
                for _, d in both.groupby(level="datetime")
                if (d.iloc[0] != d.iloc[1]).all()
            ]
            assert summary.model_groups[name].loc[group, "IC"] == pytest.approx(np.mean(signs))
            row = own.partition(f'scope="row">{group}<')[2].partition("</tr>")[0]
            assert f">{np.mean(signs):.4f}<".replace("-", "−") in row
