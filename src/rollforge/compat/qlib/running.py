"""Run an operator that is written as a Qlib class, one instrument after another.

The expression classes depend on this module, so it receives the classes of the arguments (:class:`Forms`).
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rollforge.errors import ConfigError, DataError, RollforgeError
from rollforge.expressions.formulas import Lifespans, SeriesSource
from rollforge.expressions.operators import Operator
from rollforge.expressions.tree import Call, Expression as Tree, Field

__all__ = ["Forms", "current_source", "described"]

current_source: ContextVar[SeriesSource | None] = ContextVar("current_source", default=None)
"""The data source while a custom operator computes; None means the current session's folder."""


@dataclass(frozen=True, slots=True)
class Forms:
    """The forms in which an operator's class is given the expressions among its arguments."""

    text: Callable[[str], object]
    """Made from the text, before anything is computed."""
    values: Callable[[str, str, pd.Series], object]
    """Made from the text, the instrument and its values."""


def described(kind: type, signature: inspect.Signature, forms: Forms) -> Operator:
    """Return the description of an operator's class for the language.

    Parameters
    ----------
    kind : type
        A subclass of :class:`~rollforge.compat.qlib.formulas.Expression`.
    signature : Signature
        Its parameters.
    forms : Forms
        The forms of its arguments.
    """
    return Operator(
        kind.__name__, functools.partial(_run, kind, forms), "*", "all", signature=signature,
        reach=functools.partial(_reach, kind, forms),
    )  # fmt: skip


def _plain(argument: Tree, forms: Forms) -> object:
    """Return an argument in the form passed to the class before anything is computed."""
    return forms.text(str(argument)) if isinstance(argument, (Field, Call)) else argument.value


def _reach(kind: type, forms: Forms, tree: Call) -> tuple[float, int]:
    """Return the days that an operator needs: all earlier ones, so that values do not depend on the range, and its own
    look-ahead."""
    try:
        _, after = kind(*(_plain(a, forms) for a in tree.args)).get_extended_window_size()
        return math.inf, max(0, int(after))
    except RollforgeError:
        raise
    except Exception as exc:
        raise ConfigError(
            f"The operator {kind.__name__} does not report how many days it needs: its "
            f"get_extended_window_size() raised {type(exc).__name__}: {exc}"
        ) from exc


def _run(kind: type, forms: Forms, series: Lifespans, tree: Call, *arguments: object) -> np.ndarray:
    """Apply the operator to a group of instruments, one after another."""
    place = series.place
    if place is None:
        raise DataError(f"{kind.__name__} can only be computed on the instruments of a data folder.")
    shape = next(a.shape for a in arguments if isinstance(a, np.ndarray))
    pieces: list[tuple[int, slice, np.ndarray]] = []
    token = current_source.set(place)
    try:
        for row, code in enumerate(place.codes):
            begin, end = int(series.begin[row]), int(series.end[row])
            if end > begin:
                days = pd.RangeIndex(place.first + begin, place.first + end)
                given = [
                    _given(forms, t, a, row, code, begin, end, days) for t, a in zip(tree.args, arguments, strict=True)
                ]
                values = _computed(kind, given, code, days, place.freq)
                pieces.append((row, slice(begin, end), _aligned(kind, values, days)))
    finally:
        current_source.reset(token)
    kinds = {values.dtype for _, _, values in pieces}
    out = (
        np.zeros(shape, bool)
        if kinds == {np.dtype(bool)}
        else np.full(shape, np.nan, np.result_type(*kinds, np.float32))
    )
    for row, span, values in pieces:
        out[row, span] = values
    return out


def _given(
    forms: Forms, argument: Tree, values: Any, row: int, code: str, begin: int, end: int, days: pd.RangeIndex
) -> object:
    if not isinstance(argument, (Field, Call)):
        return values
    return forms.values(str(argument), code, pd.Series(values[row, begin:end], index=days, name=str(argument)))


def _computed(kind: type, given: Sequence[object], code: str, days: pd.RangeIndex, freq: str) -> object:
    try:
        return kind(*given).load(code, days[0], days[-1], freq)
    except RollforgeError:
        raise
    except Exception as exc:
        raise DataError(f"The operator {kind.__name__} failed on {code}: {type(exc).__name__}: {exc}") from exc


def _aligned(kind: type, values: object, days: pd.RangeIndex) -> np.ndarray:
    """Align an operator's result with the days of the instrument."""
    if isinstance(values, pd.Series) and values.index.is_unique and pd.api.types.is_integer_dtype(values.index.dtype):
        result = (values if values.index.equals(days) else values.reindex(days)).to_numpy()
    else:
        result = np.asarray(values)
        if isinstance(values, pd.Series) or result.shape != (len(days),):
            raise DataError(
                f"The operator {kind.__name__} must return a series indexed like those of its arguments, by "
                f"positions in the calendar, found {type(values).__name__} of "
                f"{len(result) if result.ndim else 1} values."
            )
    if result.dtype.kind in "bf":
        return result
    try:
        if result.dtype.kind in "mMc":  # numpy would convert dates to nanoseconds, and drop imaginary parts
            raise TypeError(f"found {result.dtype}")
        return result.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as exc:
        raise DataError(f"The operator {kind.__name__} must return a series of numbers: {exc}.") from exc
