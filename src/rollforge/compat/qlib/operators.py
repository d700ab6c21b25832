"""Adding operators that are written as Qlib classes to the language."""

from __future__ import annotations

import ast
import functools
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.build import locate
from rollforge.compat.qlib.formulas import Expression, Formula, at_work, signature_of
from rollforge.errors import ConfigError, DataError, RollforgeError
from rollforge.expressions.formulas import Lifespans
from rollforge.expressions.operators import Operator, add_operator, unregister_operator
from rollforge.expressions.tree import Call, Expression as Tree, Field, Number, Text
from rollforge.session import amend, current_session

__all__ = ["Operators", "OpsWrapper", "as_operator", "register_all_ops"]


log = logging.getLogger(__name__)


class _Given(Formula):
    """An argument of a running operator, with its values on one instrument."""

    _code: str
    _values: pd.Series[Any]

    def load(self, instrument: str, start_index: int | None, end_index: int | None, *args: Any) -> pd.Series[Any]:
        """Return the values; for another instrument than the current one, compute them."""
        if str(instrument).upper() != self._code:
            return super().load(instrument, start_index, end_index, *args)
        return self._values.loc[start_index:end_index].copy()


def as_operator(kind: type) -> Operator:
    """Return the description of a class for the language.

    Raises
    ------
    ConfigError
        If it is not a Qlib operator.
    """
    if not (isinstance(kind, type) and issubclass(kind, Expression)):
        raise ConfigError(
            f"{getattr(kind, '__name__', kind)!r} is no operator: derive it from a class of qlib.data.ops, such as "
            "ElemOperator. Where pyqlib is installed, import rollforge.compat.qlib before qlib."
        )
    if next(k for k in kind.__mro__ if "_load_internal" in vars(k) or "load" in vars(k)) is Expression:
        raise ConfigError(f"The operator {kind.__name__} must define _load_internal(), which computes it.")
    return Operator(
        kind.__name__, functools.partial(_run, kind), "*", "all", signature=signature_of(kind),
        reach=functools.partial(_reach, kind),
    )  # fmt: skip


def _plain(argument: Tree) -> Any:
    """Return an argument in the form passed to the class before anything is computed."""
    return argument.value if isinstance(argument, (Number, Text)) else Formula(str(argument))


def _reach(kind: type[Expression], tree: Call) -> tuple[float, int]:
    """Return the days that it needs: all earlier ones, so that values do not depend on the range, and its own look-ahead."""
    try:
        _, after = kind(*map(_plain, tree.args)).get_extended_window_size()
        return math.inf, max(0, int(after))
    except RollforgeError:
        raise
    except Exception as exc:
        raise ConfigError(
            f"The operator {kind.__name__} does not say how far it looks, in get_extended_window_size(): "
            f"{type(exc).__name__}: {exc}"
        ) from exc


def _run(kind: type[Expression], series: Lifespans, tree: Call, *arguments: Any) -> NDArray[Any]:
    """Apply the operator to a group of instruments, one after another."""
    place = series.place
    if place is None:
        raise DataError(f"{kind.__name__} computes on instruments of a data folder.")
    shape = next(a.shape for a in arguments if isinstance(a, np.ndarray))
    found: list[tuple[int, slice, NDArray[Any]]] = []
    token = at_work.set(place)
    try:
        for row, code in enumerate(place.codes):
            begin, end = int(series.begin[row]), int(series.end[row])
            if end > begin:
                days = pd.RangeIndex(place.first + begin, place.first + end)
                given = [_given(t, a, row, code, begin, end, days) for t, a in zip(tree.args, arguments, strict=True)]
                values = _computed(kind, given, code, days, place.freq)
                found.append((row, slice(begin, end), _aligned(kind, values, days)))
    finally:
        at_work.reset(token)
    kinds = {values.dtype for _, _, values in found}
    out = (
        np.zeros(shape, bool)
        if kinds == {np.dtype(bool)}
        else np.full(shape, np.nan, np.result_type(*kinds, np.float32))
    )
    for row, span, values in found:
        out[row, span] = values
    return out


def _given(argument: Tree, values: Any, row: int, code: str, begin: int, end: int, days: pd.RangeIndex) -> Any:
    if not isinstance(argument, (Field, Call)):
        return values
    given = _Given(str(argument))
    given._code, given._values = code, pd.Series(values[row, begin:end], index=days, name=str(argument))
    return given


def _computed(kind: type[Expression], given: Sequence[Any], code: str, days: pd.RangeIndex, freq: str) -> Any:
    try:
        return kind(*given).load(code, days[0], days[-1], freq)
    except RollforgeError:
        raise
    except Exception as exc:
        raise DataError(f"The operator {kind.__name__} failed on {code}: {type(exc).__name__}: {exc}") from exc


def _aligned(kind: type[Expression], values: Any, days: pd.RangeIndex) -> NDArray[Any]:
    """Align an operator's result with the days of the instrument."""
    if isinstance(values, pd.Series) and values.index.is_unique and pd.api.types.is_integer_dtype(values.index.dtype):
        result = (values if values.index.equals(days) else values.reindex(days)).to_numpy()
    else:
        result = np.asarray(values)
        if isinstance(values, pd.Series) or result.shape != (len(days),):
            raise DataError(
                f"The operator {kind.__name__} must return a series indexed like those of its arguments, by places in the "
                f"calendar, found {type(values).__name__} of {len(result) if result.ndim else 1} values."
            )
    return result if result.dtype.kind in "bf" else result.astype(np.float64)


class OpsWrapper:
    """Qlib's ``Operators``: the operators by name, and the registration of custom ones."""

    def __init__(self) -> None:
        self._own: dict[str, type[Expression]] = {}

    def register(self, ops_list: Sequence[type[Expression] | Mapping[str, Any]]) -> None:
        """Add operators to the language, in this process and the processes that it starts.

        Parameters
        ----------
        ops_list : sequence
            Classes, or ``{"class": name, "module_path": module or .py file}``.

        Raises
        ------
        ConfigError
            If one is not a Qlib operator, or has the name of a built-in operator.
        """
        for place, one in enumerate(ops_list):
            kind: Any = one
            path: str | None = None
            if isinstance(one, Mapping):
                path = one.get("module_path")
                kind = locate(one["class"], path, noun="operator", where=f"custom_ops.{place}")
            add_operator(as_operator(kind))
            self._own[kind.__name__] = kind
            path = path or _module(kind)
            if path is not None:
                others = [o for o in current_session().operators if o[0] != kind.__name__]
                amend(operators=(*others, (kind.__name__, path)))

    def reset(self) -> None:
        """Remove all custom operators."""
        for name in list(self._own):
            unregister_operator(name)
            del self._own[name]
        amend(operators=())

    def __getattr__(self, name: str) -> Any:
        from rollforge.compat.qlib import formulas

        if name in self._own:
            return self._own[name]
        if name in formulas.__all__:
            return getattr(formulas, name)
        raise AttributeError(f"There is no operator {name!r}.")


def _module(kind: type) -> str | None:
    """Return where other processes find a class: its module or the script's file; None if they cannot."""
    if "<locals>" in kind.__qualname__:
        return None
    if kind.__module__ not in ("__main__", "__mp_main__"):
        return kind.__module__
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is None or not Path(file).is_file():
        return None
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    if any(isinstance(n, ast.If) and "__name__" in ast.dump(n.test) for n in tree.body):
        return str(Path(file).absolute())
    log.warning(
        "Processes that are started do not know the operator %s: loading %s would do its work again. Put that under "
        "if __name__ == '__main__', or the class into a module.",
        kind.__name__, file,
    )  # fmt: skip
    return None


Operators = OpsWrapper()


def register_all_ops(C: Any) -> None:  # noqa: N803 - Qlib's name
    """Register the operators in Qlib's setting ``custom_ops``; built-in operators are always available."""
    Operators.register(C.get("custom_ops") or [])
