"""Expression trees computed for one group of instruments, each sub-expression once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollforge.data.expression import Call, Expression, Field, Number, Text
from rollforge.data.formulas import Series
from rollforge.data.operators import operator
from rollforge.errors import DataError

__all__ = ["Elsewhere", "Evaluator", "named_instrument"]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The fields of an instrument that expressions name (``Mask``, ``ChangeInstrument``), on the days computed."""

    blocks: Mapping[str, NDArray[np.float32]]
    """Field -> (1, days)."""
    begin: int
    end: int


def named_instrument(tree: Expression) -> tuple[str, Expression] | None:
    """Return the instrument that a call of ``Mask`` or ``ChangeInstrument`` names, and what is computed on it."""
    if not isinstance(tree, Call):
        return None
    place = operator(tree.name).on_instrument
    if place is None:
        return None
    named = tree.args[place]
    return (named.value.upper() if isinstance(named, Text) else "", tree.args[1 - place])


class Evaluator:
    """Computes trees, and keeps a result while somebody still needs it.

    Parameters
    ----------
    blocks : mapping
        Field -> (instruments, days).
    series : Series
        On which days each instrument exists.
    shape : (int, int)
        Instruments and days.
    elsewhere : mapping
        Code -> the fields of instruments that expressions name.
    """

    def __init__(
        self,
        blocks: Mapping[str, NDArray[np.float32]],
        series: Series,
        shape: tuple[int, int],
        elsewhere: Mapping[str, Elsewhere],
    ) -> None:
        self.blocks = blocks
        self.series = series
        self.shape = shape
        self.elsewhere = elsewhere
        self.known: dict[Expression, NDArray[Any]] = {}
        self.spans: dict[Expression, Series] = {}
        self.uses: Counter[Expression] = Counter()

    def count(self, trees: Sequence[Expression]) -> None:
        """Take note of who will be asked for, and so of how often each part is needed."""
        for tree in trees:
            self.uses[tree] += 1
            if isinstance(tree, Call) and self.uses[tree] == 1 and named_instrument(tree) is None:
                self.count(tree.args)

    def release(self, tree: Expression) -> None:
        """Forget a result, and what only it needed, when nobody else will ask for it."""
        self.uses[tree] -= 1
        if self.uses[tree] or not isinstance(tree, Call):
            return
        gone = self.known.pop(tree, None)
        if gone is not None:
            for key in [k for k in self.series.shared if k[1] == id(gone)]:
                del self.series.shared[key]
        if named_instrument(tree) is None:
            for arg in tree.args:
                self.release(arg)

    def value(self, tree: Expression) -> NDArray[Any]:
        """Return the value of a tree, (instruments, days). It belongs to the evaluator: do not change it."""
        if isinstance(tree, Number):
            return np.full(self.shape, tree.value, np.float32)
        if isinstance(tree, Field):
            return self.blocks[tree.name]
        if isinstance(tree, Text):
            raise DataError(f"{tree} is no series.")
        if tree not in self.known:
            self.known[tree] = self._compute(tree)
        return self.known[tree]

    def _compute(self, tree: Call) -> NDArray[Any]:
        named = named_instrument(tree)
        if named is not None:
            return self._on(*named)
        known = operator(tree.name)
        pairwise = known.look == "window"  # windows over a constant need it as a series
        arguments: list[Any] = []
        for arg, kind in zip(tree.args, known.arguments, strict=True):
            plain = isinstance(arg, Text) or (isinstance(arg, Number) and not (pairwise and kind == "v"))
            arguments.append(arg.value if plain and isinstance(arg, (Number, Text)) else self.value(arg))
        result = known.compute(self._span(tree), *arguments)
        if np.shape(result) != self.shape:
            raise DataError(f"{tree.name} must return an array of shape {self.shape}, it returned {np.shape(result)}.")
        return result

    def _on(self, code: str, tree: Expression) -> NDArray[Any]:
        """The tree computed on one named instrument, the same for every instrument of the group."""
        there = self.elsewhere[code]
        alone = Series(np.array([there.begin], np.int64), np.array([there.end], np.int64))
        value = Evaluator(there.blocks, alone, (1, self.shape[1]), self.elsewhere).value(tree)
        return np.repeat(value, self.shape[0], axis=0)

    def _span(self, tree: Expression) -> Series:
        """The days on which the value of a tree exists: the instrument's own, and those of one that it names."""
        if not isinstance(tree, Call):
            return self.series
        if tree not in self.spans:
            named = named_instrument(tree)
            if named is not None:
                there = self.elsewhere[named[0]]
                begin, end = (np.full(self.shape[0], place, np.int64) for place in (there.begin, there.end))
                self.spans[tree] = Series(begin, end, self.series.shared)
            else:
                self.spans[tree] = self._union([self._span(a) for a in tree.args if isinstance(a, (Field, Call))])
        return self.spans[tree]

    def _union(self, parts: Sequence[Series]) -> Series:
        if all(p is self.series for p in parts):
            return self.series
        begin = np.min([np.where(p.end > p.begin, p.begin, self.shape[1]) for p in parts], axis=0)
        end = np.max([p.end for p in parts], axis=0)
        return Series(np.minimum(begin, end), end, self.series.shared)
