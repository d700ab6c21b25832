"""Evaluation plan of expression trees: the order of the operators, their arguments, and when results can be freed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.errors import DataError
from rollforge.expressions.formulas import Array, Lifespans, SeriesSource, requests
from rollforge.expressions.operators import FILLING, Operator, is_built_in, operator
from rollforge.expressions.tree import Call, Constant, Expression, Field, Number, Text
from rollforge.market.provider import FieldBlock

__all__ = ["EvaluationPlan", "OtherInstrument", "named_instrument"]

Sources = frozenset[str | Call]
"""Sources that determine on which days a value exists: fields of the instrument, and calls on another one."""


@dataclass(frozen=True, slots=True)
class OtherInstrument:
    """Result of ``Mask`` or ``ChangeInstrument`` on the given instrument: the same for all other instruments."""

    value: Array
    """(1, days)"""
    begin: int
    end: int


def named_instrument(tree: Expression) -> tuple[str, Expression] | None:
    """Return the instrument given to ``Mask`` or ``ChangeInstrument``, and the expression to compute on it."""
    if not isinstance(tree, Call):
        return None
    place = operator(tree.name).on_instrument
    if place is None:
        return None
    named = tree.args[place]
    return (named.value.upper() if isinstance(named, Text) else "", tree.args[1 - place])


@dataclass(frozen=True, slots=True)
class _Slot:
    """Index of an intermediate result, as an operator's argument."""

    at: int


@dataclass(slots=True)
class _Step:
    """One step of the plan: an operator with its arguments."""

    tree: Expression
    operator: Operator | None
    """None for a field, a constant or another instrument's value."""
    arguments: tuple[Any, ...]
    """Slots for series; numbers and strings as they are."""
    sources: Sources
    fills: bool = False
    """Whether a value may be other than missing on days on which the sources do not exist, such as a condition."""
    frees: list[int] = field(default_factory=list)
    """Slots that can be freed after this step."""


class EvaluationPlan:
    """Order in which trees are computed; each sub-expression is computed once.

    Parameters
    ----------
    trees : sequence of Expression
        The expressions to compute.

    Attributes
    ----------
    named : dict
        Calls that refer to another instrument -> (its code, the expression to compute on it).
    """

    def __init__(self, trees: Sequence[Expression]) -> None:
        self.named: dict[Call, tuple[str, Expression]] = {}
        self.shares: dict[int, set[float]] = {}
        self._windows: dict[int, dict[str, set[int]]] = {}  # slot -> operator -> windows
        self._steps: list[_Step] = []
        self._slots: dict[Expression, int] = {}
        self._ends: list[tuple[int, int]] = []  # for each tree: the number of steps done when it is ready, and its slot
        for tree in trees:
            slot = self._place(tree)
            self._ends.append((len(self._steps), slot))
        self._frees_after = self._plan_frees()

    def _place(self, tree: Expression) -> int:
        """Return the slot of a tree's value, adding steps as needed."""
        if tree not in self._slots:
            named = named_instrument(tree)
            if named is not None and isinstance(tree, Call):
                self.named[tree] = named
                step = _Step(tree, None, (), frozenset([tree]), _fills(named[1]))
            elif isinstance(tree, Call):
                step = self._call(tree)
            elif isinstance(tree, (Text, Constant)):
                raise DataError(f"{tree} is not a series.")
            else:
                step = _Step(tree, None, (), frozenset([tree.name] if isinstance(tree, Field) else []))
            self._steps.append(step)
            self._slots[tree] = len(self._steps) - 1
        return self._slots[tree]

    def _call(self, tree: Call) -> _Step:
        known = operator(tree.name)
        pairwise = known.look == "window"  # rolling windows over a constant need a series
        kinds = "*" * len(tree.args) if known.arguments == "*" else known.arguments
        arguments: list[Any] = []
        for arg, kind in zip(tree.args, kinds, strict=True):
            plain = isinstance(arg, (Text, Constant)) or (isinstance(arg, Number) and not (pairwise and kind == "v"))
            arguments.append(arg.value if plain and not isinstance(arg, (Field, Call)) else _Slot(self._place(arg)))
        if tree.name in ("Quantile", "Med"):
            n, share = (*arguments[1:], 0.5)[:2]
            self.shares.setdefault(int(n), set()).add(float(share))
        if pairwise and known.arguments == "xn":
            self._windows.setdefault(arguments[0].at, {}).setdefault(tree.name, set()).add(int(arguments[1]))
        inputs = [a.at for a, arg in zip(arguments, tree.args, strict=True) if isinstance(arg, (Field, Call))]
        sources = frozenset[str | Call]().union(*(self._steps[at].sources for at in inputs))
        given = (tree, *arguments) if known.arguments == "*" else tuple(arguments)
        return _Step(tree, known, given, sources, _fills(tree))

    def _plan_frees(self) -> list[list[int]]:
        """Record in each step, and return for each tree, the slots that can be freed after it.

        A moment is (index of the last step done, 0 within that step or 1 + index of the tree yielded after it), so that
        moments sort in the order in which `run` reaches them.
        """
        last: dict[int, tuple[int, int]] = {}
        for at, step in enumerate(self._steps):
            last[at] = (at, 0)
            for argument in step.arguments:
                if isinstance(argument, _Slot):
                    last[argument.at] = (at, 0)
        for place, (done, slot) in enumerate(self._ends):
            last[slot] = max(last[slot], (done - 1, 1 + place))
        frees: list[list[int]] = [[] for _ in self._ends]
        for slot, (at, tree) in last.items():
            if isinstance(self._steps[slot].tree, Field):
                continue  # fields are kept: results derived from them are shared by many operators
            if tree:
                frees[tree - 1].append(slot)
            else:
                self._steps[at].frees.append(slot)
        return frees

    def run(
        self,
        blocks: Mapping[str, FieldBlock],
        shape: tuple[int, int],
        other_instruments: Mapping[Call, OtherInstrument],
        place: SeriesSource | None = None,
        *,
        complete: bool = False,
    ) -> Iterator[Array]:
        """Yield the value of each tree, (instruments, days); it is valid until the next one is requested.

        Parameters
        ----------
        blocks : mapping
            Field -> its values, and the range of days on which each instrument has it.
        shape : (int, int)
            Instruments and days.
        other_instruments : mapping
            The values of the calls in `named`.
        place : SeriesSource, optional
            Source of the data, for operators that load further series.
        complete : bool
            True makes each value missing on the days on which its tree does not exist, which turns conditions into numbers.
            Otherwise values of these days have no meaning.
        """
        values: list[Any] = [None] * len(self._steps)
        shared: dict[int, tuple[Any, dict[Any, Any]]] = {}

        @functools.cache
        def lives(sources: Sources) -> Lifespans:
            begin, end = _lifespan(sources, blocks, shape[0], other_instruments)
            return Lifespans(begin, end, shared, self.shares, place)

        done = 0
        for (steps, slot), frees in zip(self._ends, self._frees_after, strict=True):
            for step in self._steps[done:steps]:
                if step.operator is None:
                    values[done] = _given(step.tree, blocks, shape, other_instruments)
                else:
                    arguments = [self._argument(step, a, values, lives) for a in step.arguments]
                    if not is_built_in(step.operator.name):  # user-defined operators may modify their arguments
                        arguments = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
                    values[done] = step.operator.compute(lives(step.sources), *arguments)
                    if np.shape(values[done]) != shape:
                        raise DataError(
                            f"{step.operator.name} must return an array of shape {shape}, but returned "
                            f"{np.shape(values[done])}."
                        )
                if done in self._windows:
                    requests(shared, values[done]).update(self._windows[done])
                done += 1
                for unneeded in step.frees:
                    _forget(values, unneeded, shared)
            there = self._steps[slot]
            yield _within(values[slot], lives(there.sources)) if complete and there.fills else values[slot]
            for unneeded in frees:
                _forget(values, unneeded, shared)

    def _argument(
        self, step: _Step, argument: Any, values: Sequence[Any], lives: Callable[[Sources], Lifespans]
    ) -> Any:
        """Return an argument of a step; a series is missing on days that only the other arguments have.

        A missing condition is false where only conditions are combined. The type does not depend on the days, which differ
        between groups of instruments.
        """
        if not isinstance(argument, _Slot):
            return argument
        given, value = self._steps[argument.at], values[argument.at]
        if not given.fills or given.sources == step.sources:
            return value
        floats = [a for a in step.arguments if isinstance(a, _Slot) and values[a.at].dtype.kind == "f"]
        condition = isinstance(step.tree, Call) and step.tree.name == "If" and argument is step.arguments[0]
        if value.dtype == np.bool_ and (condition or not floats):
            return value & _there(value.shape[1], lives(given.sources))
        return _within(value, lives(given.sources))

    def life(
        self, blocks: Mapping[str, FieldBlock], instruments: int, other_instruments: Mapping[Call, OtherInstrument]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the half-open range of days on which any of the trees exists, as two (instruments,) arrays.

        The arguments are those of :meth:`run`.
        """
        sources = frozenset[str | Call]().union(*(self._steps[slot].sources for _, slot in self._ends))
        return _lifespan(sources, blocks, instruments, other_instruments)


def _fills(tree: Expression) -> bool:
    """Return whether an expression may have values on days on which none of the data that it reads exist."""
    if not isinstance(tree, Call):
        return False
    known = operator(tree.name)
    if not is_built_in(tree.name) or tree.name in FILLING:
        return True
    return known.look == "none" and any(map(_fills, tree.args))


def _within(value: Array, lives: Lifespans) -> Array:
    """Return a series of numbers that is missing on the days on which its instrument does not exist."""
    if value.dtype.kind != "f":
        value = value.astype(np.float32 if value.dtype == np.bool_ else np.float64)
    there = _there(value.shape[1], lives)
    return value if there.all() else np.where(there, value, value.dtype.type(np.nan))


def _there(days: int, lives: Lifespans) -> NDArray[np.bool_]:
    """Return whether each instrument exists on each day."""
    found: NDArray[np.bool_] = (np.arange(days) >= lives.begin[:, None]) & (np.arange(days) < lives.end[:, None])
    return found


def _given(
    tree: Expression,
    blocks: Mapping[str, FieldBlock],
    shape: tuple[int, int],
    other_instruments: Mapping[Call, OtherInstrument],
) -> Array:
    if isinstance(tree, Number):
        return np.full(shape, tree.value, np.float32)
    if isinstance(tree, Field):
        return blocks[tree.name].values
    assert isinstance(tree, Call)
    return np.repeat(other_instruments[tree].value, shape[0], axis=0)


def _forget(values: list[Any], slot: int, shared: dict[int, Any]) -> None:
    """Free a result, and the shared results derived from it."""
    shared.pop(id(values[slot]), None)
    values[slot] = None


def _lifespan(
    sources: Sources,
    blocks: Mapping[str, FieldBlock],
    instruments: int,
    other_instruments: Mapping[Call, OtherInstrument],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the half-open range of days on which any of the sources exists."""
    begin, end = np.full(instruments, np.iinfo(np.int64).max), np.zeros(instruments, np.int64)
    for source in sources:
        there: Any = other_instruments[source] if isinstance(source, Call) else blocks[source]
        begin = np.where(there.end > there.begin, np.minimum(begin, there.begin), begin)
        end = np.maximum(end, there.end)
    return np.minimum(begin, end), end
