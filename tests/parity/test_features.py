"""Alpha158, Alpha360, their label after the learn processors, and each infer processor compared with pyqlib 0.9.7."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.features.alpha import Alpha158, Alpha360, alpha158_fields, alpha360_fields
from rollforge.session import Session, using

GOLDEN = Path(__file__).parents[1] / "golden"
PROCESSORS: dict[str, Any] = json.loads((GOLDEN / "processors" / "processors.json").read_text())
RANGE = {
    "start_time": "2013-02-08",
    "end_time": "2018-02-07",
    "fit_start_time": "2013-02-08",
    "fit_end_time": "2014-12-31",
}


@pytest.fixture(scope="module", params=["golden", "golden-sp500"])
def folder(request: pytest.FixtureRequest) -> Path:
    """Return the reference values of the synthetic market, and of the S&P table if it is available."""
    if request.param == "golden":
        return GOLDEN
    shared: Path = request.getfixturevalue("shared_folder")
    return shared / "golden-sp500"


@pytest.fixture(scope="module")
def session(
    folder: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Session]:
    """Return a session with the market on which the values were computed."""
    market = request.getfixturevalue("golden_market" if folder == GOLDEN else "sp500_market")
    opened = Session(provider_uri=str(market), cache=str(tmp_path_factory.mktemp("panels")))
    with using(opened):
        yield opened


def instruments(folder: Path) -> list[str]:
    learn = pd.read_parquet(folder / "features" / "alpha158_label_learn.parquet")
    return sorted(learn.index.get_level_values("instrument").unique())


def close(ours: pd.DataFrame, theirs: pd.DataFrame, atol: float, rtol: float = 1e-5) -> None:
    """Assert the same missing values and the same numbers."""
    aligned = ours.reindex(theirs.index)
    for column in theirs.columns:
        np.testing.assert_array_equal(aligned[column].isna(), theirs[column].isna(), err_msg=column)
        np.testing.assert_allclose(aligned[column], theirs[column], rtol=rtol, atol=atol, err_msg=column)


def test_the_columns_are_pyqlibs() -> None:
    """Names and order of the 158 and the 360 features."""
    names = json.loads((GOLDEN / "features" / "alpha158_columns.json").read_text())
    assert alpha158_fields()[1] == names[:158]
    assert alpha360_fields()[1] == json.loads((GOLDEN / "features" / "alpha360_columns.json").read_text())[:360]


def without_calm(
    ours: pd.DataFrame, theirs: pd.DataFrame, session: Session, calm_to_pyqlib: Any, columns: list[str]
) -> pd.DataFrame:
    """Remove our values that pyqlib lacks because it treats a series as flat, and no others."""
    expressions = dict(zip(*reversed(alpha158_fields()), strict=True))
    ours = ours.copy()
    for name in columns:
        more = ours[name].notna() & theirs[name].reindex(ours.index, fill_value=0).isna()
        if more.any():
            assert calm_to_pyqlib(Path(str(session.provider_uri)), expressions[name], ours.index[more]).all(), name
            ours[name] = ours[name].mask(more)
    return ours


def test_alpha158_has_pyqlibs_values(folder: Path, session: Session, calm_to_pyqlib: Any) -> None:
    """All 158 features and the label. Correlations, whose denominators cancel, to 2e-5; the rest to float32 rounding."""
    theirs = pd.read_parquet(folder / "features" / "alpha158_raw.parquet")
    ours = Alpha158(instruments(folder), **RANGE).fetch(data_key="raw")
    correlated = [c for c in theirs.columns if c.startswith(("CORR", "CORD"))]
    # In pyqlib, R squared near zero is a difference of large sums with rounding errors of values that left the window.
    fits = [c for c in theirs.columns if c.startswith("RSQR")]
    plain = [c for c in theirs.columns if c not in correlated and c not in fits]
    smooth = theirs.index.get_level_values("instrument") != "X017"  # a level of 3,000 with changes in the last digits
    close(ours[plain], theirs.loc[smooth, plain], atol=1e-7)
    close(without_calm(ours, theirs, session, calm_to_pyqlib, correlated)[correlated], theirs[correlated], atol=2e-5)
    close(ours[fits], theirs.loc[smooth, fits], atol=2e-5)
    assert len(plain) + len(correlated) + len(fits) == 159


def test_the_label_after_learning_processors_is_pyqlibs(folder: Path, session: Session) -> None:
    """Rows without a label are dropped, the others are standardised within each day."""
    theirs = pd.read_parquet(folder / "features" / "alpha158_label_learn.parquet")
    ours = Alpha158(instruments(folder), **RANGE).fetch(col_set="label", data_key="learn")
    assert ours.index.equals(theirs.index)
    close(ours, theirs, atol=1e-6)


def test_alpha360_has_pyqlibs_values(folder: Path, session: Session) -> None:
    """All 360 features of the instruments for which values are stored."""
    theirs = pd.read_parquet(folder / "features" / "alpha360_raw_every7th.parquet")
    codes = sorted(theirs.index.get_level_values("instrument").unique())
    ours = Alpha360(codes, **RANGE, infer_processors=[]).fetch(col_set="feature", data_key="raw")
    close(ours, theirs[[c for c in theirs.columns if c in ours.columns]], atol=1e-7)


@pytest.mark.parametrize("name", list(PROCESSORS))
def test_a_processor_has_pyqlibs_values(name: str, folder: Path, session: Session, calm_to_pyqlib: Any) -> None:
    """Ten columns of Alpha158 after a single processor, with its fit window."""
    theirs = pd.read_parquet(folder / "processors" / f"{name}.parquet")
    handler = Alpha158(
        instruments(folder),
        **{**RANGE, "fit_end_time": "2015-12-31"},
        infer_processors=PROCESSORS[name]["processors"],
    )
    ours = handler.fetch(col_set="feature", data_key="infer")
    columns = list(theirs.columns)
    # Correlations: the processor's result for those that pyqlib has, without series that it treats as flat.
    correlated = [c for c in columns if c.startswith(("CORR", "CORD", "RSQR"))]
    raw = handler.fetch(col_set=["feature"], data_key="raw")[[("feature", c) for c in correlated]].copy()
    expressions = dict(zip(*reversed(alpha158_fields()), strict=True))
    for c in correlated:
        calm = calm_to_pyqlib(Path(str(session.provider_uri)), expressions[c], raw.index)
        raw[("feature", c)] = raw[("feature", c)].mask(calm.to_numpy())
    for processor in handler.infer_processors if correlated else []:
        processor.fit(raw)
        raw = processor(raw)
    close(raw.droplevel(0, axis=1), theirs[correlated], atol=5e-5)
    columns = [c for c in columns if c not in correlated]
    if folder == GOLDEN and name != "Fillna":
        # pyqlib has Std = 0.0083 over windows of X011 in which every value is zero (a remainder of the last other
        # value), so WVMA is 8e9 there, which affects means and ranks of the column. The exact value is 0, as ours.
        columns = [c for c in columns if not c.startswith("WVMA")]
        flat = handler.fetch(col_set="feature", data_key="raw")["WVMA30"].xs("X011", level="instrument")
        assert flat.max() < 1e3
    close(ours[columns], theirs[columns], atol=5e-5)
