"""Several predictions at once, and their autocorrelation, as in ``qlib.contrib.eva.alpha``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from rollforge.record.analysis import calc_ic

__all__ = ["calc_all_ic", "pred_autocorr", "pred_autocorr_all"]


def calc_all_ic(
    pred_dict_all: Mapping[object, pd.Series],
    label: pd.Series,
    date_col: str = "datetime",
    dropna: bool = False,
    n_jobs: int = -1,
) -> dict[object, dict[str, pd.Series]]:
    """Return ``{name: {"ic": …, "ric": …}}`` of several predictions; see :func:`rollforge.record.analysis.calc_ic`."""
    found = {name: calc_ic(pred, label, date_col, dropna) for name, pred in pred_dict_all.items()}
    return {name: {"ic": ic, "ric": rank_ic} for name, (ic, rank_ic) in found.items()}


def pred_autocorr(
    pred: pd.Series | pd.DataFrame, lag: int = 1, inst_col: str = "instrument", date_col: str = "datetime"
) -> pd.Series:
    """Return the correlation of each day's scores with those `lag` days earlier.

    Parameters
    ----------
    pred : Series or DataFrame
        Index (datetime, instrument) in any order; of a frame, the first column.
    lag : int
        Number of days.
    inst_col, date_col : str
        Names of the levels.
    """
    scores = pred.iloc[:, 0] if isinstance(pred, pd.DataFrame) else pred
    now = scores.unstack(inst_col).sort_index()
    before = now.shift(lag)
    there = now.notna() & before.notna()
    return now.where(there).corrwith(before.where(there), axis=1).rename_axis(date_col)


def pred_autocorr_all(pred_dict: Mapping[Any, pd.Series], n_jobs: int = -1, **kwargs: Any) -> dict[Any, pd.Series]:
    """Return ``{name: correlations}`` of several predictions; see :func:`pred_autocorr`."""
    return {name: pred_autocorr(pred, **kwargs) for name, pred in pred_dict.items()}
