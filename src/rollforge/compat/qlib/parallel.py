"""Calling functions in other processes and on groups of days, as in ``qlib.utils.paral``."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pandas as pd

from rollforge.compat.qlib.config import C, Config

__all__ = ["call_in_subproc", "datetime_groupby_apply"]


def datetime_groupby_apply(
    df: Any,
    apply_func: Callable[[object], object] | str,
    axis: int = 0,
    level: str = "datetime",
    resample_rule: str = "ME",
    n_jobs: int = -1,
) -> Any:
    """Apply a function (or a named method of pandas' groups) to each day of a frame, and concatenate the results.

    Parameters
    ----------
    df : DataFrame or Series
        With a level of days in its index.
    apply_func : callable or str
        The function to apply.
    axis : int
        0: the days are in the index.
    level : str
        The level of days.
    resample_rule, n_jobs
        Without effect: everything runs in one process.
    """
    groups = df.groupby(level=level, group_keys=False)
    if isinstance(apply_func, str):
        return getattr(groups, apply_func)()
    made = groups.apply(apply_func)
    return made.sort_index() if isinstance(made, (pd.DataFrame, pd.Series)) else made


class call_in_subproc:  # noqa: N801 - Qlib's name
    """Calls a function in a separate process, and returns its result.

    Parameters
    ----------
    func : callable
        The function; it and its arguments are pickled.
    qlib_config : Config, optional
        Settings for the process.
    """

    def __init__(self, func: Callable[..., object], qlib_config: Config | None = None) -> None:
        self.func, self.qlib_config = func, qlib_config

    def _call(self, *args: object, **kwargs: object) -> object:
        if self.qlib_config is not None:
            C.register_from_C(self.qlib_config)
        return self.func(*args, **kwargs)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        with ProcessPoolExecutor(max_workers=1) as pool:
            return pool.submit(self._call, *args, **kwargs).result()
