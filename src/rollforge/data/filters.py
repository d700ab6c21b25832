"""Filters that narrow a universe: by name, or by an expression that must hold on the day."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.errors import ConfigError

__all__ = ["BaseDFilter", "ExpressionDFilter", "NameDFilter"]


class BaseDFilter:
    """Says on which days an instrument of a universe stays in it.

    Parameters
    ----------
    fstart_time, fend_time : date, optional
        Outside these days the filter does nothing.
    """

    def __init__(self, fstart_time: Any = None, fend_time: Any = None) -> None:
        self.fstart_time = None if fstart_time is None else np.datetime64(str(fstart_time)[:10], "D")
        self.fend_time = None if fend_time is None else np.datetime64(str(fend_time)[:10], "D")

    def keep(self, codes: Sequence[str], days: NDArray[np.datetime64], evaluate: Any) -> NDArray[np.bool_]:
        """Return the days to keep, (instruments, days)."""
        raise NotImplementedError(f"{type(self).__name__} must say which days it keeps.")

    def apply(self, codes: Sequence[str], days: NDArray[np.datetime64], evaluate: Any) -> NDArray[np.bool_]:
        """Return :meth:`keep`, with True outside the filter's own days."""
        kept = self.keep(codes, days, evaluate).copy()
        if self.fstart_time is not None:
            kept[:, days < self.fstart_time] = True
        if self.fend_time is not None:
            kept[:, days > self.fend_time] = True
        return kept


class NameDFilter(BaseDFilter):
    """Keeps the instruments whose code matches a regular expression."""

    def __init__(self, name_rule_re: str, fstart_time: Any = None, fend_time: Any = None) -> None:
        super().__init__(fstart_time, fend_time)
        try:
            self.rule = re.compile(name_rule_re)
        except re.error as exc:
            raise ConfigError(f"name_rule_re {name_rule_re!r} is no regular expression: {exc}.") from exc

    def keep(self, codes: Sequence[str], days: NDArray[np.datetime64], evaluate: Any) -> NDArray[np.bool_]:
        """Return True for all days of the codes that match."""
        matches = np.array([self.rule.match(code) is not None for code in codes], bool)
        return np.repeat(matches[:, None], len(days), axis=1)


class ExpressionDFilter(BaseDFilter):
    """Keeps the days on which a condition holds, such as ``$close > 5``; `keep_missing` keeps those without an answer."""

    def __init__(
        self, rule_expression: str, fstart_time: Any = None, fend_time: Any = None, keep: bool = False
    ) -> None:
        super().__init__(fstart_time, fend_time)
        self.rule_expression = rule_expression
        self.keep_missing = keep

    def keep(self, codes: Sequence[str], days: NDArray[np.datetime64], evaluate: Any) -> NDArray[np.bool_]:
        """Return True where the condition holds."""
        values = evaluate(self.rule_expression)
        missing = np.isnan(values)
        kept: NDArray[np.bool_] = np.where(missing, self.keep_missing, np.nan_to_num(values) != 0)
        return kept


def build_filters(pipe: Sequence[Any]) -> list[BaseDFilter]:
    """Return the filters that a ``filter_pipe`` describes, in Qlib's forms."""
    from rollforge.build import build

    made = []
    for i, entry in enumerate(pipe):
        config = entry
        if isinstance(entry, Mapping) and "filter_type" in entry:  # Qlib's other spelling of a class and its arguments
            arguments = {k: v for k, v in entry.items() if k != "filter_type"}
            renamed = {"filter_start_time": "fstart_time", "filter_end_time": "fend_time"}
            config = {"class": entry["filter_type"], "kwargs": {renamed.get(k, k): v for k, v in arguments.items()}}
        made.append(build(config, accept_types=BaseDFilter, default_module=__name__, where=f"filter_pipe.{i}"))
    return made
