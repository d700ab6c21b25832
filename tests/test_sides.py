"""Comparing experiments and models of them: how they are named, and every number of a comparison by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from sklearn.linear_model import Ridge
from tests.dashboard.serving import serving
from tests.documents.command_line import call, run
from tests.test_several_models import CALENDAR, Experiment, task

from rollforge import plot, walk_forward
from rollforge.cli.exit_codes import Exit
from rollforge.errors import ConfigError
from rollforge.record.persistence import bootstrap_interval
from rollforge.run.references import to_reference
from rollforge.session import Session, using
from rollforge.sides import Side, Source, compare_sides, read_side
from rollforge.store.base import open_store
from rollforge.track.base import get_experiment, open_tracker

NAMES = st.text(st.sampled_from("ab:\\ "), min_size=1, max_size=5).filter(lambda name: name == name.strip())
CODES = ("A", "B", "C", "D", "E", "F")
LABEL = "Ref($close,-2)/Ref($close,-1)-1"
WINDOW = (1, 6)


@given(NAMES, st.none() | NAMES, st.dictionaries(NAMES, st.lists(NAMES, max_size=3), max_size=4))
def test_a_side_is_read_as_it_is_written(experiment: str, model: str | None, others: dict[str, list[str]]) -> None:
    """Whatever the names contain, and whatever other experiments there are, the text of a side names that side."""
    known = {**others, experiment: [*others.get(experiment, []), *([] if model is None else [model])]}
    side = Side(experiment, model)
    assert read_side(str(side), known.get) == side


def test_names_with_colons_need_no_backslash_if_they_are_unambiguous() -> None:
    """The whole text may be an experiment; otherwise the longest experiment with such a model is meant."""
    known = {"a": ["b:c", "x"], "a:b": ["c"], "2024-01-01 10:30": []}
    assert read_side("2024-01-01 10:30", known.get) == Side("2024-01-01 10:30")
    assert read_side("a:b:c", known.get) == Side("a:b", "c")
    assert read_side(r"a:b\:c", known.get) == Side("a", "b:c")
    assert read_side("a: x", known.get) == Side("a", "x"), "as comparisons show it"
    assert read_side("other:x", known.get) == Side("other:x"), "an unknown experiment, which the error names"
    with pytest.raises(ConfigError, match=r"'a' has no model 'y'\. Known: 'b:c', 'x'\."):
        read_side("a:y", known.get)
    with pytest.raises(ConfigError, match="has a single model without a name"):
        read_side("2024-01-01 10:30:x", known.get)


# -- experiments -------------------------------------------------------------------------------------------------------


class Pools:
    """A store with experiments whose predictions and labels are made by the test."""

    def __init__(self, folder: Path) -> None:
        self.first = Experiment(folder, "unused")
        self.session = self.first.session
        self.where = ("--store", self.session.store_uri, "--tracking", self.session.tracking_uri)

    def add(
        self, pool: str, scores: pd.Series | None, truth: pd.Series | None, depth: int = 4, label: str = LABEL,
        window: tuple[int, int] = WINDOW,
    ) -> None:  # fmt: skip
        """Store a task of one window; it has failed if there are no scores."""
        store = open_store(self.session.store_uri)
        runs = get_experiment(open_tracker(self.session.tracking_uri), experiment_name=pool)
        (made,) = store.create(pool, [task(depth, window, label)], max_attempts=1)
        (claim,) = store.claim(pool, worker="w", lease=60, query={"_id": made.id})
        if scores is None:
            store.fail(claim, "Traceback\nValueError: no")
            return
        with runs.create_recorder() as recorder:
            recorder.save_objects(**{"pred.pkl": scores.to_frame("score")})
            if truth is not None:
                recorder.save_objects(**{"label.pkl": truth.to_frame("LABEL0")})
        store.commit(claim, to_reference(recorder))

    def report(self, *names: str, folder: Path, form: str = "html") -> tuple[dict[str, Any], str, str]:
        """Compare with the command; return its JSON, the page or the Markdown, and what it printed."""
        options = (*self.where, "--output", folder, "--format", form, "--csv", folder / "csv", "--json")
        done = call("report", *names, *options)
        assert done.exit_code in (Exit.DONE, Exit.FAILED), done.stderr
        text = (folder / f"comparison.{form}").read_text(encoding="utf-8")
        return json.loads(done.stdout), text, done.stderr


@pytest.fixture
def pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pools:
    monkeypatch.setenv("ROLLFORGE_DATA", str(tmp_path / "data"))
    return Pools(tmp_path)


def values(seed: int, first: int = WINDOW[0], last: int = WINDOW[1], codes: tuple[str, ...] = CODES) -> pd.Series:
    """Return random values by day and instrument."""
    days = pd.DatetimeIndex(CALENDAR[first - 1 : last])
    index = pd.MultiIndex.from_product([days, codes], names=["datetime", "instrument"])
    return pd.Series(np.random.default_rng(seed).normal(size=len(index)), index)


def correlations(scores: pd.Series, truth: pd.Series, *, rank: bool = False) -> dict[pd.Timestamp, float]:
    """Return the correlation of each day that has one, by a plain loop."""
    found = {}
    both = pd.concat({"score": scores, "label": truth}, axis=1).dropna()
    for day in both.index.unique("datetime"):
        own = both.xs(day, level="datetime")
        if rank:
            own = own.rank()
        if len(own) > 1 and own["score"].nunique() > 1 and own["label"].nunique() > 1:
            found[day] = float(np.corrcoef(own["score"], own["label"])[0, 1])
    return found


def expected(
    left: tuple[pd.Series, pd.Series], right: tuple[pd.Series, pd.Series], *, rank: bool = False
) -> dict[str, Any]:
    """Return the difference of the means of the daily correlations on common days, with its interval and t statistic."""
    a, b = (correlations(scores, truth, rank=rank) for scores, truth in (left, right))
    apart = np.array([a[day] - b[day] for day in a if day in b])
    low, high = bootstrap_interval(pd.Series(apart), 1)
    t = apart.mean() / (apart.std(ddof=1) / np.sqrt(len(apart)))
    return {
        "days": len(apart), "difference": pytest.approx(apart.mean()), "low": pytest.approx(low), "high": pytest.approx(high),
        "t": pytest.approx(t),
    }  # fmt: skip


def test_models_of_two_experiments_are_compared(pools: Pools, tmp_path: Path) -> None:
    """Scores with ties and missing values: the differences of IC and Rank IC, their intervals and t statistics, in JSON, on the
    page, in the file of the figure, on the dashboard, and in the figure for notebooks."""
    truth = values(0)
    tied, gaps, third = values(1).round(0), values(2), values(3)
    gaps.iloc[[3, 8, 9, 20]] = np.nan
    common = gaps.notna()
    pools.add("one", tied, truth)
    pools.add("two", gaps, truth)
    pools.add("two", third, truth, depth=8)
    found, page, _ = pools.report("one", "two:depth=4", "two", "two: depth=8", folder=tmp_path)
    assert list(found["experiments"]) == ["one", "two: depth=4", "two", "two: depth=8"]
    for figure, rank in (("IC", False), ("Rank IC", True)):
        first = expected((gaps[common], truth), (tied[common], truth), rank=rank)
        assert found["differences"]["two: depth=4"][figure] == first
        second = expected((third, truth), (tied, truth), rank=rank)
        assert found["differences"]["two: depth=8"][figure] == second
    apart = found["differences"]["two: depth=4"]["IC"]
    for end in (f"{apart['difference']:+.4f}", f"{apart['low']:.4f} to {apart['high']:.4f}"):
        assert end.replace("-", "−") in page
    assert (
        "two: depth=4 has 32 scores with a label and one 36; the differences are those of the 32 that both have" in page
    )
    own = found["experiments"]["two: depth=4"]
    assert own["IC"] == pytest.approx(np.mean(list(correlations(gaps, truth).values())))
    data = pd.read_csv(tmp_path / "csv" / "differences.csv").set_index("y")
    assert data.loc["two: depth=4", ["x", "low", "high"]].tolist() == pytest.approx(
        [apart[name] for name in ("difference", "low", "high")], abs=2e-5
    )
    curve = pd.read_csv(tmp_path / "csv" / "compared.csv").set_index("series").loc["two: depth=8", "y"]
    assert curve.tolist() == pytest.approx(np.cumsum(list(correlations(third, truth).values())), abs=1e-5)
    with serving(pools.session.store_uri, pools.session.tracking_uri) as served:
        text = served.get("/compare?e=one&e=two:depth%3D4&e=two&e=two:depth%3D8").text
    rows = [row.split("</tr>")[0] for row in page.split("<tbody>")[2].split("</tbody>")[0].split("<tr>")[1:]]
    assert len(rows) == 3
    assert all(row in text for row in rows), "the table of differences is the same"
    with using(pools.session):
        drawn = plot.compare(["one", "two:depth=8"])
        same = plot.compare({"one": "one", "two:depth=8": ("two", "depth=8")})
    assert list(drawn.data[1].y) == pytest.approx(np.cumsum(list(correlations(third, truth).values())), abs=1e-5)
    assert drawn.to_dict() == same.to_dict()


def test_results_of_different_universes_are_compared_on_common_instruments(pools: Pools, tmp_path: Path) -> None:
    """Half of the instruments: the difference is that of this half, and the figures remain those of each universe. Without a
    common instrument there is none."""
    truth = values(0)
    all_of_them, half, rest = values(1), values(2, codes=CODES[:3]), values(3, codes=CODES[3:])
    pools.add("all", all_of_them, truth)
    pools.add("half", half, truth[half.index])
    pools.add("rest", rest, truth[rest.index])
    found, page, warned = pools.report("all", "half", folder=tmp_path)
    assert found["differences"]["half"]["IC"] == expected((half, truth), (all_of_them[half.index], truth))
    assert found["experiments"]["all"]["IC"] == pytest.approx(np.mean(list(correlations(all_of_them, truth).values())))
    said = "On their common days half has 18 scores with a label and all 36; the differences are those of the 18 that both have."
    assert said in page
    assert said in warned
    none, page, _ = pools.report("half", "rest", folder=tmp_path)
    assert none["differences"]["rest"] == {}
    assert "rest and half have no instruments in common on their common days." in page


def test_results_of_different_data_are_compared_with_the_same_labels(pools: Pools, tmp_path: Path) -> None:
    """The same expression, but other prices on some days: both are evaluated with the labels of the first, and a note says so.
    A label that is only written differently is the same."""
    truth = values(0)
    changed = truth.copy()
    changed.iloc[:6] = values(9).iloc[:6]
    a, b = values(1), values(2)
    pools.add("first", a, truth)
    pools.add("changed", b, changed)
    pools.add("spaces", b, truth, label="Ref($close, -2) / Ref($close, -1) - 1")
    pools.add("other words", b, truth, label="-1 + Ref($close,-2)/Ref($close,-1)")
    found, page, _ = pools.report("first", "changed", "spaces", "other words", folder=tmp_path)
    same = expected((b, truth), (a, truth))
    for name in ("changed", "spaces", "other words"):
        assert found["differences"][name]["IC"] == same
    assert found["experiments"]["changed"]["IC"] == pytest.approx(np.mean(list(correlations(b, changed).values())))
    said = "6 of the 36 labels of changed differ from those of first, so their data differ; the differences are computed with the"
    assert page.count(said) == 1


def test_labels_over_different_days_are_not_subtracted(pools: Pools, tmp_path: Path) -> None:
    """A horizon of five days and one of a day: each has its figures, and a note says why there is no difference."""
    pools.add("day", values(1), values(0))
    pools.add("week", values(2), values(3), label="Ref($close,-6)/Ref($close,-1)-1")
    found, page, _ = pools.report("day", "week", folder=tmp_path)
    assert found["differences"] == {"week": {}}
    assert (
        "The signals of week and day cannot be compared: the label of week is Ref($close,-6)/Ref($close,-1)-1" in page
    )
    assert 'id="plot-differences"' not in page
    with using(pools.session):
        assert "the results have different labels" in plot.compare(["day", "week"]).layout.title.text


def test_what_has_no_ic_has_no_difference(pools: Pools, tmp_path: Path) -> None:
    """One instrument, constant scores, no labels and failed windows: one note names all of them, and each has a row. Days that
    are not common are said too, and a single common day has a difference without an interval."""
    truth, late = values(0, 1, 12), values(5, 7, 12)
    pools.add("first", values(1), truth[: 6 * 6])
    single = values(2, codes=CODES[:1])
    pools.add("single", single, truth[single.index])
    pools.add("constant", values(3) * 0, truth[: 6 * 6])
    pools.add("unlabelled", values(4), None)
    pools.add("failed", None, None)
    pools.add("late", late, truth[late.index], window=(7, 12))
    last = values(6, 6, 9)
    pools.add("touching", last, truth[last.index], window=(6, 9))
    names = ("first", "single", "constant", "unlabelled", "failed", "late", "touching")
    found, page, warned = pools.report(*names, folder=tmp_path)
    assert "single, constant, unlabelled, failed have no IC: on each day" in page
    assert "late and first have no common days with an IC." in page
    assert "Tasks failed in: failed." in warned
    assert [name for name, apart in found["differences"].items() if apart] == ["touching"]
    day = pd.Timestamp(CALENDAR[5])
    apart = found["differences"]["touching"]["IC"]
    difference = correlations(last, truth)[day] - correlations(values(1), truth)[day]
    assert apart == {"days": 1, "difference": pytest.approx(difference), "low": None, "high": None, "t": None}
    table = page.split("<tbody>")[1].split("</tbody>")[0]
    assert table.count("no days") == 4
    assert "nan" not in page.split("<main>")[1].split("<footer>")[0].lower().replace("instrument", "")


def test_equal_results_differ_by_exactly_nothing(pools: Pools, tmp_path: Path) -> None:
    """The ensemble of a single model, and the same scores in another experiment: the axis of the figure is around 0."""
    scores, truth = values(1), values(0)
    for pool in ("first", "again"):
        pools.add(pool, scores, truth)
    found, page, _ = pools.report("first", "again", folder=tmp_path)
    assert found["differences"]["again"]["IC"] == {"days": 6, "difference": 0, "low": 0, "high": 0, "t": None}
    plots = json.loads(page.split('id="plots">')[1].split("</script>")[0])
    assert plots["figures"]["differences"]["layout"]["xaxis"]["range"] == [-0.01, 0.01]
    assert "The definitions are equal." in page


def test_names_can_have_any_characters(pools: Pools, tmp_path: Path) -> None:
    """Quotes, markup, colons, Chinese and very long names are text on the page, in Markdown, in files and on the dashboard."""
    names = ["q\"u'o", "<script>alert(1)</script>", "a:b", "实验 一", "x" * 190 + "1", "x" * 190 + "2"]
    for i, name in enumerate(names):
        pools.add(name, values(i), values(0))
    found, page, _ = pools.report(*names, folder=tmp_path)
    assert list(found["experiments"]) == names
    main = page.split("<main>")[1].split("<footer>")[0]
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;</th>" in main
    assert "实验 一</th>" in main
    series = pd.read_csv(tmp_path / "csv" / "compared.csv")["series"]
    assert set(series) == set(names)
    plots = json.loads(page.split('id="plots">')[1].split("</script>")[0])
    legend = [trace["name"] for trace in plots["figures"]["compared"]["data"]]
    assert len(set(legend)) == 6
    assert max(map(len, legend)) < 40
    _, text, _ = pools.report(*names, folder=tmp_path, form="md")
    assert "\\<script\\>alert(1)\\</script\\>" in text
    with serving(pools.session.store_uri, pools.session.tracking_uri) as served:
        shown = served.get("/compare?e=%E5%AE%9E%E9%AA%8C+%E4%B8%80&e=%3Cscript%3Ealert(1)%3C/script%3E&e=a:b").text
    assert "<script>alert" not in shown
    assert "实验 一</th>" in shown


def test_mistakes_get_one_message(pools: Pools, tmp_path: Path) -> None:
    """A side that is given twice, a model that does not exist, a single model, and an unknown experiment."""
    pools.add("one", values(1), values(0))
    pools.add("two", values(1), values(0))
    pools.add("two", values(2), values(0), depth=8)
    wrong = {
        ("one", "one"): "'one' is given twice",
        ("one", "two:depth=4", "two: depth=4"): "'two:depth=4' is given twice",
        ("one", "two:dept=4"): "no model 'dept=4'. Did you mean 'depth=4'?",
        ("two:depth=4",): "A model is compared with others",
        ("one", "three:depth=4"): "no experiment 'three:depth=4'",
    }
    for names, message in wrong.items():
        done = run("report", *names, *pools.where, "--output", tmp_path / "out")
        assert done.returncode == Exit.USAGE, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "comparison.html").exists()


def test_the_dashboard_offers_the_models(pools: Pools) -> None:
    """An experiment alone is compared with its models; another reference turns the signs; each choice has a box."""
    pools.add("two", values(1), values(0))
    pools.add("two", values(2), values(0), depth=8)
    pools.add("a:b", values(3), values(0))
    with serving(pools.session.store_uri, pools.session.tracking_uri) as served:
        text = served.get("/compare?e=two").text
        assert "Each result minus two, on the days" in text
        for value in ("two", "two:depth=4", "two:depth=8"):
            assert f'<input type="checkbox" name="e" value="{value}" checked>' in text
        turned = served.get("/compare?e=two:depth%3D4&e=a%5C:b&reference=a%5C:b").text
        assert "Each result minus a:b, on the days" in turned
        assert '<option value="a\\:b" selected>a:b</option>' in turned
        alone = served.get("/compare?e=a:b")
        assert (alone.code, "Choose at least two experiments or models." in alone.text) == (200, True)
        assert served.get("/compare?e=two:depth%3D5&e=two").code == 400
        assert served.get("/compare?e=two&e=three").code == 404


def test_models_with_different_labels_are_results_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment on a table has a model for each of two labels, which are not combined: it stands for both of them, and a
    model that is named as well stands there once."""
    days = pd.bdate_range("2020-01-01", "2020-06-30")
    index = pd.MultiIndex.from_product([days, list("abcd")], names=["day", "store"])
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(len(index), 3)), index, ["x", "sold", "returned"])
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ROLLFORGE_CACHE", str(tmp_path / "cache"))
    session = Session(store_uri=f"sqlite:///{tmp_path}/tasks.db", tracking_uri=f"folder:{tmp_path}/runs", threads=1)
    for name, labels, horizons in (("both", ["sold", "returned"], [1, 5]), ("one", ["sold"], [1])):
        walk_forward(
            Ridge(), table, features=["x"], label=labels, horizon=horizons, train="3 months", experiment_name=name,
            session=session, jobs=0,
        )  # fmt: skip

    sides = [Side("one"), Side("both"), Side("both", "horizon 1")]
    found = compare_sides(sides, lambda name: Source.read(session, name)).comparison
    assert list(found.figures.index) == ["one", "both: horizon 1", "both: horizon 5"]
    apart = found.difference("both: horizon 1")
    assert apart is not None
    assert abs(apart.difference) < 1e-6
    assert found.difference("both: horizon 5") is None
    assert "both: horizon 5 is returned (days of the label: 5)" in found.notes[0]
