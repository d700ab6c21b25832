"""Filters that restrict a universe day by day: by name, by an expression, or by a custom rule.

As in Qlib they are given as a pipe, ``{"market": "all", "filter_pipe": [NameDFilter("SH.*"), …]}``. A row is kept if
every filter keeps it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import read_day, start_position, stop_position
from rollforge.errors import ConfigError
from rollforge.kinds import Kind

__all__ = ["BaseDFilter", "ExpressionDFilter", "NameDFilter", "SeriesDFilter", "build_filters"]

Evaluate = Callable[[str], tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""Expression -> its values and a mask of the existing rows, both (instruments, days)."""


class BaseDFilter(ABC):
    """Base class of filters, which decide on which days an instrument stays in a universe."""

    @abstractmethod
    def apply(self, codes: Sequence[str], days: NDArray[np.datetime64], evaluate: Evaluate) -> NDArray[np.bool_]:
        """Return a mask of the days to keep.

        Parameters
        ----------
        codes : sequence of str, (N,)
            Members of the universe.
        days : array of datetime64[D], (T,)
            Requested trading days.
        evaluate : callable
            Returns the values of an expression for these members and days, see :data:`Evaluate`.

        Returns
        -------
        bool array, (N, T)
        """

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> BaseDFilter:
        """Return the filter that an entry of a ``filter_pipe`` describes, such as the result of ``to_config()``.

        Without a ``filter_type`` it is one of this class.

        Raises
        ------
        ConfigError
            If it does not describe a filter.
        """
        return build_filters([{"filter_type": cls, **config}])[0]


class SeriesDFilter(BaseDFilter):
    """Base class of rules that apply to a range of days; days outside it are kept.

    Parameters
    ----------
    fstart_time, fend_time : date, optional
        First and last day on which the filter applies; by default all days.
    keep : bool
        Whether to keep an instrument without data in the range.
    """

    def __init__(self, fstart_time: object = None, fend_time: object = None, keep: bool = False) -> None:
        self.filter_start_time = read_day(fstart_time, "fstart_time") if fstart_time else None
        self.filter_end_time = read_day(fend_time, "fend_time") if fend_time else None
        self.keep = keep

    def _span(self) -> dict[str, str | None]:
        days = {"filter_start_time": self.filter_start_time, "filter_end_time": self.filter_end_time}
        return {name: None if day is None else str(day) for name, day in days.items()}

    @abstractmethod
    def rule(self, codes: Sequence[str], days: NDArray[np.datetime64], evaluate: Evaluate) -> NDArray[np.bool_]:
        """Return an (N, T) mask of where the rule holds; called only with the days of the filter's range."""

    def apply(self, codes: Sequence[str], days: NDArray[np.datetime64], evaluate: Evaluate) -> NDArray[np.bool_]:
        """Return where the rule holds, and True outside the filter's range."""
        inside = np.ones(len(days), bool)
        if self.filter_start_time is not None:
            inside[: start_position(days, self.filter_start_time)] = False
        if self.filter_end_time is not None:
            inside[stop_position(days, self.filter_end_time) :] = False
        kept = np.ones((len(codes), len(days)), bool)
        if inside.any():

            def there(expression: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
                values, exists = evaluate(expression)
                return values[:, inside], exists[:, inside]

            kept[:, inside] = self.rule(codes, days[inside], there)
        return kept


class NameDFilter(SeriesDFilter):
    """Keeps the instruments whose code matches a regular expression at its start.

    Raises
    ------
    ConfigError
        If `name_rule_re` is not a valid regular expression.
    """

    def __init__(self, name_rule_re: str, fstart_time: object = None, fend_time: object = None) -> None:
        super().__init__(fstart_time, fend_time)
        try:
            re.compile(name_rule_re)
        except (re.error, TypeError, OverflowError, RecursionError) as exc:
            raise ConfigError(f"name_rule_re {name_rule_re!r} is not a valid regular expression: {exc}.") from exc
        self.name_rule_re = name_rule_re

    def to_config(self) -> dict[str, object]:
        """Return the filter as plain data in Qlib's form, which ``filter_pipe`` accepts."""
        return {"filter_type": "NameDFilter", "name_rule_re": self.name_rule_re, **self._span()}

    def rule(self, codes: Sequence[str], days: NDArray[np.datetime64], evaluate: Evaluate) -> NDArray[np.bool_]:
        """Return True for all days of the codes that match."""
        matches = np.array([re.match(self.name_rule_re, code) is not None for code in codes], bool)
        return np.repeat(matches[:, None], len(days), axis=1)


class ExpressionDFilter(SeriesDFilter):
    """Keeps the days on which an expression, such as ``$close > 5``, is not 0.

    A comparison with a missing value is false. If the expression is a number rather than a condition, a missing value
    counts as true, as in Qlib.
    """

    def __init__(
        self, rule_expression: str, fstart_time: object = None, fend_time: object = None, keep: bool = False
    ) -> None:
        super().__init__(fstart_time, fend_time, keep)
        self.rule_expression = rule_expression

    def to_config(self) -> dict[str, object]:
        """Return the filter as plain data in Qlib's form, which ``filter_pipe`` accepts."""
        rule = {"rule_expression": str.__str__(self.rule_expression), "keep": self.keep}
        return {"filter_type": "ExpressionDFilter", **rule, **self._span()}

    def rule(self, codes: Sequence[str], days: NDArray[np.datetime64], evaluate: Evaluate) -> NDArray[np.bool_]:
        """Return True where the expression is not 0."""
        values, exists = evaluate(self.rule_expression)
        kept: NDArray[np.bool_] = values != 0
        kept[~exists.any(axis=1)] = self.keep
        return kept


def build_filters(pipe: Sequence[object]) -> list[BaseDFilter]:
    """Return the filters that a ``filter_pipe`` describes.

    Parameters
    ----------
    pipe : sequence
        Filters, ``{class, module_path, kwargs}``, or Qlib's ``{"filter_type": "NameDFilter", "name_rule_re": …}``.

    Raises
    ------
    ConfigError
        If an entry does not describe a filter; the message has its position.
    """
    from rollforge.build import build

    if not isinstance(pipe, (list, tuple)):
        raise ConfigError(f"expected a list of filters, found a {type(pipe).__name__}.", path="filter_pipe")
    kind = Kind("filter", base=BaseDFilter)
    made: list[BaseDFilter] = []
    for i, entry in enumerate(pipe):
        config = entry
        if isinstance(entry, Mapping) and "filter_type" in entry:  # Qlib's other form of a class and its arguments
            arguments = {k: v for k, v in entry.items() if k != "filter_type"}
            renamed = {"filter_start_time": "fstart_time", "filter_end_time": "fend_time"}
            config = {"class": entry["filter_type"], "kwargs": {renamed.get(k, k): v for k, v in arguments.items()}}
        one = build(config, kind=kind, accept_types=BaseDFilter, default_module=__name__, where=f"filter_pipe.{i}")
        made.append(one)
    return made
