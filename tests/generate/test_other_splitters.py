"""The same rows as those of skfolio and purgedcv, where their splits have the same meaning; 'make splits' installs
both.

Where they differ, docs/windows.md says how.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings, strategies as st

from rollforge import CombinatorialPurgedSplit, PurgedKFold, RollingSplit
from rollforge.errors import SegmentError

WHY = "not installed: make splits"


def rows(count: int) -> pd.DataFrame:
    """Return one row a day."""
    return pd.DataFrame({"x": np.zeros(count)}, pd.bdate_range("2020-01-01", periods=count))


def pairs(splits: Any) -> list[tuple[list[int], list[int]]]:
    """Return training and test positions as lists; skfolio gives the tested groups of a split one by one."""
    made = []
    for train, test in splits:
        joined = np.concatenate(test) if isinstance(test, list) else test
        made.append((np.sort(train).tolist(), np.sort(joined).tolist()))
    return made


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 4), st.booleans(), st.booleans(), st.integers(30, 70))
def test_rolling_windows_are_skfolios_walk_forward(
    train: int, test: int, purge: int, expanding: bool, drop: bool, count: int
) -> None:
    """Sizes in days, purge, sliding and expanding, and the last window shortened or dropped."""
    selection = pytest.importorskip("skfolio.model_selection", reason=WHY)
    theirs = selection.WalkForward(
        test_size=test, train_size=train, purged_size=purge, expand_train=expanding, reduce_test=not drop
    )
    ours = RollingSplit(train, test, expanding=expanding, purge=purge, drop_last=drop)
    assert pairs(ours.split(rows(count))) == pairs(theirs.split(rows(count)))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 20), st.integers(1, 12), st.integers(0, 4), st.booleans(), st.sampled_from(["ABC", "A"]), st.data()
)
def test_panels_are_split_as_their_days(
    train: int, test: int, purge: int, expanding: bool, codes: str, data: st.DataObject
) -> None:
    """skfolio and purgedcv count rows; ours count days, whatever the number and order of the rows of a day."""
    selection = pytest.importorskip("skfolio.model_selection", reason=WHY)
    days = rows(70).index
    wide = pd.MultiIndex.from_product([days, list(codes)], names=["datetime", "instrument"])
    kept = data.draw(st.sets(st.integers(0, len(wide) - 1), max_size=40))
    panel = pd.DataFrame(index=wide.delete(sorted(kept))).sample(frac=1, random_state=len(kept))
    own = panel.index.get_level_values("datetime").unique().sort_values()
    theirs = selection.WalkForward(
        test_size=test, train_size=train, purged_size=purge, expand_train=expanding, reduce_test=True
    )
    ours = RollingSplit(train, test, expanding=expanding, purge=purge).split(panel)
    found = [
        tuple(sorted(own.get_indexer(panel.index[part].get_level_values("datetime").unique())) for part in pair)
        for pair in ours
    ]
    assert found == pairs(theirs.split(pd.DataFrame(index=own)))


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 7), st.integers(2, 4), st.integers(0, 3), st.integers(0, 3), st.integers(6, 12))
def test_combinatorial_splits_are_skfolios(groups: int, tested: int, purge: int, embargo: int, size: int) -> None:
    """The splits are those of skfolio where the groups are of equal size: a remainder of days is in skfolio's last
    group, here in the first ones."""
    selection = pytest.importorskip("skfolio.model_selection", reason=WHY)
    assume(tested < groups)
    size += 2 * purge + embargo
    theirs = selection.CombinatorialPurgedCV(
        n_folds=groups, n_test_folds=tested, purged_size=purge, embargo_size=embargo
    )
    frame = rows(groups * size)
    ours = CombinatorialPurgedSplit(groups, tested, purge, embargo)
    assert [t for t, _ in pairs(ours.split(frame))] == [t for t, _ in pairs(theirs.split(frame))]
    # skfolio yields the tested groups in the order of the paths to which they belong.
    tests = [np.flatnonzero(theirs.index_train_test_[:, i] == 1) for i in range(theirs.n_splits)]
    for (_, own), other in zip(pairs(ours.split(frame)), theirs.test_set_index, strict=True):
        assert own == [p for group in other for p in range(group * size, (group + 1) * size)]
    assert len(tests) == ours.get_n_splits()


def horizons(count: int, ahead: int) -> tuple[pd.Series, pd.Series]:
    """Return when each label is predicted, and when it is known.

    purgedcv excludes the moment at which a label is known. A label that looks 2 days ahead contains the whole second
    day, and is known when the third begins.
    """
    predicted = pd.Series(pd.date_range("2020-01-01", periods=count, freq="D"))
    return predicted, predicted + pd.Timedelta(days=ahead + 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 7), st.integers(1, 4), st.integers(0, 4), st.integers(0, 4), st.integers(40, 90))
def test_purged_folds_are_those_of_purgedcv(folds: int, tested: int, ahead: int, embargo: int, count: int) -> None:
    """The embargo of PurgedCV begins with the row after the test, ours and skfolio's after the purge."""
    purgedcv = pytest.importorskip("purgedcv", reason=WHY)
    tested = min(tested, folds - 1)
    predicted, known = horizons(count, ahead)
    options: dict[str, Any] = {
        "prediction_times": predicted,
        "evaluation_times": known,
        "embargo_observations": ahead + embargo,
    }
    frame = rows(count)
    try:
        ours = pairs(CombinatorialPurgedSplit(folds, tested, ahead, embargo).split(frame))
    except SegmentError:
        return
    theirs = purgedcv.CombinatorialPurgedCV(n_splits=folds, n_test_groups=tested, **options)
    assert ours == pairs(theirs.split(frame))
    if tested == 1:
        single = purgedcv.PurgedKFold(n_splits=folds, **options)
        assert pairs(PurgedKFold(folds, ahead, embargo).split(frame)) == pairs(single.split(frame))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 4), st.integers(1, 15), st.booleans())
def test_rolling_windows_are_those_of_purgedcv(test: int, splits: int, ahead: int, train: int, expanding: bool) -> None:
    """The tests of PurgedCV end with the last row, so ours begin where the number of rows is train + purge + a multiple
    of test."""
    purgedcv = pytest.importorskip("purgedcv", reason=WHY)
    count = train + ahead + test * splits
    predicted, known = horizons(count, ahead)
    theirs = purgedcv.WalkForwardSplit(
        n_splits=splits, test_size=test, prediction_times=predicted, evaluation_times=known,
        window="expanding" if expanding else "sliding", train_size=None if expanding else train,
    )  # fmt: skip
    ours = RollingSplit(train, test, expanding=expanding, purge=ahead)
    assert pairs(ours.split(rows(count))) == pairs(theirs.split(rows(count)))


def test_rows_that_are_not_pandas_objects() -> None:
    """Rows of polars, in which the days of the rows are a series, are an example."""
    polars = pytest.importorskip("polars", reason=WHY)
    frame = rows(60)
    days = frame.index
    table = polars.DataFrame({"x": frame["x"].to_numpy()})
    expected = [(a.tolist(), b.tolist()) for a, b in PurgedKFold(4, 2, 1).split(frame)]
    series = polars.Series(list(days.date))
    for groups in (series, series.cast(polars.Datetime), series.to_list(), series.to_numpy()):
        found = PurgedKFold(4, 2, 1).split(table, groups=groups)
        assert [(a.tolist(), b.tolist()) for a, b in found] == expected
