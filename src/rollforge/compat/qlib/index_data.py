"""``qlib.utils.index_data``: labelled one- and two-dimensional arrays, lighter than pandas and faster to create."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.dates import read_time
from rollforge.errors import DateError

__all__ = ["Index", "IndexData", "LocIndexer", "MultiData", "SingleData", "concat", "sum_by_index"]

Floats = NDArray[np.float64]


class Index:
    """Immutable labels of one axis. Of duplicate labels, the first is found.

    Parameters
    ----------
    idx_list : sequence, Index or int
        The labels, all of one type; a number stands for 0, 1, ….

    Raises
    ------
    TypeError
        If the labels have several types, or days of several precisions.
    """

    def __init__(self, idx_list: Any) -> None:
        self._is_sorted: bool = idx_list._is_sorted if isinstance(idx_list, Index) else isinstance(idx_list, int)
        labels = range(idx_list) if isinstance(idx_list, int) else list(idx_list)
        if len({type(x) for x in labels}) > 1:
            raise TypeError("The labels of an index must be of one type.")
        if len({x.dtype for x in labels if isinstance(x, np.datetime64)}) > 1:
            raise TypeError("The labels of an index must be days of one precision.")
        self.idx_list: np.ndarray = np.asarray(labels)
        self.index_map: dict[Any, int] = {label: i for i, label in reversed(list(enumerate(self.idx_list)))}

    def __getitem__(self, i: Any) -> Any:
        return self.idx_list[i]

    def __len__(self) -> int:
        return len(self.idx_list)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.idx_list)

    def __or__(self, other: Index) -> Index:
        return Index(list(dict.fromkeys([*self.idx_list, *other.idx_list])))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Index) and bool(np.array_equal(self.idx_list, other.idx_list))

    __hash__ = None  # type: ignore[assignment]  # as in Qlib: it compares by its labels

    def __repr__(self) -> str:
        return f"Index({self.idx_list!r})"

    def index(self, item: Any) -> int:
        """Return the position of a label; days are found in any precision.

        Raises
        ------
        KeyError
            If it is not a label of this axis.
        """
        if self.idx_list.dtype.kind == "M":
            try:
                item = read_time(item).to_datetime64().astype(self.idx_list.dtype)
            except DateError as exc:
                raise KeyError(item) from exc
        return int(self.index_map[item])

    def is_sorted(self) -> bool:
        """Return whether the labels were sorted by :meth:`sort`."""
        return self._is_sorted

    def sort(self) -> tuple[Index, NDArray[np.intp]]:
        """Return the sorted labels, and their previous positions."""
        order = np.argsort(self.idx_list, kind="stable")
        found = Index(list(self.idx_list[order]))
        found._is_sorted = True
        return found, order

    def tolist(self) -> list[Any]:
        """Return the labels as a list; dates remain dates (numpy converts nanoseconds to integers)."""
        return list(self.idx_list) if self.idx_list.dtype.kind == "M" else list(self.idx_list.tolist())


class LocIndexer:
    """``.loc`` and ``.iloc``: selection by labels or by positions. A slice of labels includes its end."""

    def __init__(self, index_data: IndexData, indices: Sequence[Index], int_loc: bool = False) -> None:
        self._data, self._indices, self._by_place = index_data, indices, int_loc

    def __getitem__(self, indexing: Any) -> Any:
        wanted = indexing if isinstance(indexing, tuple) else (indexing,)
        places = [self._places(i, w) for i, w in zip(self._indices, wanted, strict=False)]
        places += [slice(None)] * (len(self._indices) - len(places))
        values = self._data.data
        for axis in reversed(range(len(places))):  # one axis after the other: two lists select a block, not a diagonal
            values = values[(slice(None),) * axis + (places[axis],)]
        if values.ndim == 0:
            return values
        left = [list(i[p]) for i, p in zip(self._indices, places, strict=True) if not isinstance(p, (int, np.integer))]
        return (SingleData if values.ndim == 1 else MultiData)(values, *left)

    def _places(self, index: Index, wanted: object) -> Any:
        if isinstance(wanted, IndexData):  # a condition
            wanted = wanted.data.astype(bool)
        if self._by_place:
            return wanted
        if isinstance(wanted, slice):
            return self._slice(index, wanted)
        if isinstance(wanted, np.ndarray) and wanted.dtype == bool:
            return wanted
        if isinstance(wanted, (list, np.ndarray)):
            return np.array([index.index(w) for w in wanted], dtype=np.intp)
        return index.index(wanted)

    @staticmethod
    def _slice(index: Index, wanted: slice) -> slice:
        start, stop = wanted.start, wanted.stop
        if index.is_sorted():
            labels: Any = index.idx_list
            return slice(
                None if start is None else bisect.bisect_left(labels, start),
                None if stop is None else bisect.bisect_right(labels, stop),
            )
        return slice(None if start is None else index.index(start), None if stop is None else index.index(stop) + 1)


class IndexData:
    """Numbers with labels on each axis; see :class:`SingleData` and :class:`MultiData`. Missing numbers are NaN.

    Raises
    ------
    ValueError
        If the numbers do not match the labels.
    """

    _AXES = 1

    def __init__(self, data: Any, *indices: Any) -> None:
        values: Floats = np.array(data, dtype=np.float64)
        given = [*indices, *[()] * (self._AXES - len(indices))]
        own = values.shape if values.ndim == self._AXES else (0,) * self._AXES
        shape = tuple(len(labels) or n for labels, n in zip(given, own, strict=True))
        if values.shape != shape:
            values = np.broadcast_to(values, shape).copy()
        self.data = values
        self.indices = [Index(labels if len(labels) else n) for labels, n in zip(given, shape, strict=True)]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self._AXES

    @property
    def loc(self) -> LocIndexer:
        """Selection by labels."""
        return LocIndexer(self, self.indices)

    @property
    def iloc(self) -> LocIndexer:
        """Selection by positions."""
        return LocIndexer(self, self.indices, int_loc=True)

    @property
    def index(self) -> Index:
        """Labels of the rows."""
        return self.indices[0]

    @property
    def columns(self) -> Index:
        """Labels of the columns."""
        return self.indices[1]

    @property
    def values(self) -> Floats:
        """The numbers."""
        return self.data

    @property
    def empty(self) -> bool:
        """Whether there are no rows."""
        return len(self.data) == 0

    def __getitem__(self, args: Any) -> Any:
        return self.iloc[args]  # used by numpy's sums and means

    def __len__(self) -> int:
        return len(self.data)

    def _like(self, data: object) -> Self:
        return type(self)(data, *self.indices)

    def _aligned(self, other: Self) -> Floats:
        raise NotImplementedError

    def _with(self, other: object, operation: Callable[[Any, Any], object]) -> Self:
        if isinstance(other, (int, float, np.number)):
            return self._like(operation(self.data, other))
        if isinstance(other, type(self)):
            return self._like(operation(self.data, self._aligned(other)))
        return NotImplemented  # type: ignore[no-any-return]

    def __add__(self, other: object) -> Self:
        return self._with(other, np.add)

    def __radd__(self, other: object) -> Self:
        return self._with(other, np.add)

    def __sub__(self, other: object) -> Self:
        return self._with(other, np.subtract)

    def __rsub__(self, other: object) -> Self:
        return self._with(other, lambda a, b: b - a)

    def __mul__(self, other: object) -> Self:
        return self._with(other, np.multiply)

    def __rmul__(self, other: object) -> Self:
        return self._with(other, np.multiply)

    def __truediv__(self, other: object) -> Self:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._with(other, np.divide)

    def __eq__(self, other: object) -> Any:
        return self._with(other, np.equal)

    def __gt__(self, other: object) -> Self:
        return self._with(other, np.greater)

    def __lt__(self, other: object) -> Self:
        return self._with(other, np.less)

    __hash__ = None  # type: ignore[assignment]  # == compares number by number

    def __invert__(self) -> Self:
        return self._like(~self.data.astype(bool))

    def sort_index(self, axis: int = 0, inplace: bool = True) -> None:
        """Sort one axis by its labels."""
        self.indices[axis], order = self.indices[axis].sort()
        self.data = np.take(self.data, order, axis=axis)

    def abs(self) -> Self:
        """Return the absolute numbers."""
        return self._like(np.abs(self.data))

    def replace(self, to_replace: Mapping[Any, Any]) -> Self:
        """Return the numbers with some replaced: ``{old: new}``, all at once."""
        found = self.data.copy()
        for old, new in to_replace.items():
            found[self.data == old] = new
        return self._like(found)

    def apply(self, func: Callable[[Floats], Any]) -> Self:
        """Apply a function to the numbers."""
        return self._like(func(self.data))

    def sum(self, axis: int | None = None, dtype: object = None, out: object = None) -> Any:
        """Return the sum of the numbers that are not missing, of all or along an axis."""
        return self._reduced(np.nansum(self.data, axis=axis), axis)

    def mean(self, axis: int | None = None, dtype: object = None, out: object = None) -> Any:
        """Return the mean of the numbers that are not missing, of all or along an axis."""
        return self._reduced(np.nanmean(self.data, axis=axis), axis)

    def _reduced(self, values: object, axis: int | None) -> object:
        if axis is None or self.ndim == 1:
            return values
        return SingleData(values, self.indices[1 - axis])

    def isna(self) -> Self:
        """Return 1 for missing numbers and 0 for others."""
        return self._like(np.isnan(self.data))

    def fillna(self, value: float = 0.0, inplace: bool = False) -> Any:
        """Replace missing numbers, in a copy or in place."""
        filled = np.where(np.isnan(self.data), value, self.data)
        if inplace:
            self.data = filled
            return None
        return self._like(filled)

    def count(self) -> int:
        """Return the number of values that are not missing."""
        return int((~np.isnan(self.data)).sum())

    def all(self) -> bool:
        """Return whether no number is zero."""
        return bool(self.data.all())


class SingleData(IndexData):
    """Numbers with one axis of labels.

    Parameters
    ----------
    data : number, sequence, dict or Series
        The numbers; a single number is used for every label.
    index : sequence
        Their labels; 0, 1, … by default.

    Examples
    --------
    >>> SingleData([1, 2], ["a", "b"]).add(SingleData([3, 4], ["b", "c"])).to_dict()
    {'a': 1.0, 'b': 5.0, 'c': 4.0}
    """

    def __init__(self, data: Any = (), index: object = ()) -> None:
        if isinstance(data, Mapping):
            data, index = list(data.values()), list(data)
        elif isinstance(data, pd.Series):
            data, index = data.to_numpy(), list(data.index)
        elif isinstance(data, (int, float, np.number)):
            data = [data]
        super().__init__(data, index)

    def _aligned(self, other: Self) -> Floats:
        if self.index == other.index:
            return other.data
        if set(self.index) != set(other.index):
            raise ValueError(
                "Data with different labels cannot be combined by this operation. Use add(), which takes all "
                "labels of both."
            )
        return other.reindex(self.index).data

    def reindex(self, index: Any, fill_value: float = np.nan) -> SingleData:
        """Return the numbers for other labels; `fill_value` if a label does not exist."""
        known = self.to_dict()
        return SingleData([known.get(label, fill_value) for label in index], index)

    def add(self, other: SingleData, fill_value: float = 0) -> SingleData:
        """Return the sums on the union of the labels; missing values count as `fill_value`."""
        labels, _ = (self.index | other.index).sort()
        parts = [side.reindex(labels, fill_value).fillna(fill_value) for side in (self, other)]
        total: SingleData = parts[0] + parts[1]
        return total

    def to_dict(self) -> dict[Any, float]:
        """Return label -> number."""
        return dict(zip(self.index.tolist(), self.data.tolist(), strict=True))

    def to_series(self) -> pd.Series:
        """Convert to a pandas object."""
        return pd.Series(self.data, index=self.index.tolist(), dtype=np.float64)

    def __repr__(self) -> str:
        return str(self.to_series())


class MultiData(IndexData):
    """Numbers with labels of rows and of columns.

    Parameters
    ----------
    data : number, nested sequence, array or DataFrame
        The numbers; a single number is used for all labels.
    index, columns : sequence
        Their labels; 0, 1, … by default.
    """

    _AXES = 2

    def __init__(self, data: Any = ((),), index: object = (), columns: Any = ()) -> None:
        if isinstance(data, pd.DataFrame):
            data, index, columns = data.to_numpy(), list(data.index), list(data.columns)
        super().__init__(data, index, columns)

    def _aligned(self, other: Self) -> Floats:
        if self.indices != other.indices:
            raise ValueError("Data with different labels cannot be combined.")
        return other.data

    def __repr__(self) -> str:
        return str(pd.DataFrame(self.data, index=self.index.tolist(), columns=self.columns.tolist()))


def concat(data_list: Iterable[SingleData], axis: int = 0) -> MultiData:
    """Concatenate several objects column by column, on the sorted union of their labels.

    Raises
    ------
    NotImplementedError
        For ``axis=0``.
    """
    if axis != 1:
        raise NotImplementedError("Data can only be concatenated column by column: axis=1.")
    parts = list(data_list)
    labels = sorted({label for part in parts for label in part.index})
    return MultiData(np.column_stack([part.reindex(labels).data for part in parts]), labels)


def sum_by_index(data_list: Iterable[SingleData], new_index: Iterable[object], fill_value: float = 0) -> SingleData:
    """Return the sums of several objects for some labels; missing values count as `fill_value`."""
    labels = list(new_index)
    parts = [part.reindex(labels).fillna(fill_value) for part in data_list]
    return SingleData(np.sum([p.data for p in parts], axis=0), labels)
