"""The base classes of processors, the adapter for other processor classes, and the state that fitted processors have
learned.

A processor takes a frame with rows (datetime, instrument) and columns (group, name) and returns the processed frame.
When called directly, processors that replace values modify the given frame in place, as Qlib's do.
:meth:`Processor.apply`, which handlers use, does not modify it. `fit` reads the fit window only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge.dates import end_of
from rollforge.errors import ConfigError, DataError, nearest, shown
from rollforge.pickling import Serializable

__all__ = [
    "Adapted", "OfColumns", "OfGroup", "Processor", "ReadOnly", "Replacing", "by_day", "days_needed", "finite_only",
    "get_group_columns", "learned_by", "learns", "listed_groups", "precision", "restore", "unknown_group", "with_days",
]  # fmt: skip


def get_group_columns(df: pd.DataFrame, group: str | list[str] | None) -> pd.Index:
    """Return the columns of one or several groups; None returns all columns."""
    groups = listed_groups(group)
    if groups is None:
        return df.columns
    level = df.columns.get_level_values(0)
    mistake = unknown_group(groups, list(level.unique()))
    if mistake:
        raise DataError(f"fields_group: {mistake}")
    return df.columns[level.isin(groups)]


def listed_groups(group: object) -> list[str] | None:
    """Return `fields_group` as a list of groups; None, which means all columns, is returned unchanged.

    Raises
    ------
    ConfigError
        If it is neither a name nor a list of names.
    """
    if group is None or isinstance(group, str):
        return None if group is None else [group]
    if not isinstance(group, (list, tuple)):
        raise ConfigError(f"must be a group of columns or a list of groups, found {shown(group)}.", path="fields_group")
    for one in group:
        if isinstance(one, bool) or not isinstance(one, (str, int)):
            raise ConfigError(f"must contain names of groups, found {shown(one)}.", path="fields_group")
    return list(group)


def unknown_group(groups: Collection[object], known: Collection[object]) -> str:
    """Return an error message for the first group of columns that does not exist; empty if all exist."""
    unknown = next((g for g in groups if g not in known), None)
    if unknown is None:
        return ""
    names = list(map(str, known))
    near = nearest(str(unknown), names)
    return f"{unknown!r} is not a group of this handler's columns.{near} Known groups: {', '.join(names)}."


class Processor(Serializable):
    """Base class of processors; subclasses override :meth:`__call__`, and :meth:`fit` if they learn something."""

    any_range: ClassVar[bool] = False
    """Whether a processed row does not depend on later days. If True, the panel of a longer range is reused for a
    shorter one. Leave it False if in doubt."""
    learned: ClassVar[frozenset[str]] = frozenset()
    """Names of the attributes that :meth:`fit` sets. They follow from the data and the other attributes, so they are
    left out of the cache key."""
    across_instruments: ClassVar[bool] = False
    """Whether the processor compares the instruments of a day, and so needs several of them; used in error messages."""
    earlier_days: ClassVar[int | None] = None
    """Number of earlier days that a processed row depends on, besides what was learned in the fit window; None: all.
    With a number, new days are processed without the old ones, and what was learned before is kept. A subclass that
    changes the computation must declare its own number."""

    def fit(self, df: pd.DataFrame) -> object:
        """Learn from the frame; the processor selects the rows of its fit window itself."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return the processed frame; `df` may be modified in place."""
        raise NotImplementedError(f"{type(self).__name__} must implement __call__().")

    def apply(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return the processed frame without modifying `df`."""
        return self(df.copy(deep=False))  # pandas copies on write, so `df` stays unchanged

    def is_for_infer(self) -> bool:
        """Return whether the processor may be used for inference; False if it drops rows by their label."""
        return True

    def config(self, **kwargs: Any) -> None:
        """Set those of the processor's attributes that are given, such as its fit window; other names are ignored."""
        for name, value in kwargs.items():
            if name in vars(self):
                setattr(self, name, value)

    def groups(self) -> list[str] | None:
        """Return the groups of columns that the processor reads, changes, or drops rows by; None means all.

        Groups that no processor of a handler lists are not passed to its processors.
        """
        return None

    def readonly(self) -> bool:
        """Return whether calling the processor leaves its argument unchanged; False by default."""
        return False


def days_needed(chain: Sequence[Processor], changed: np.datetime64 | bool) -> int | None:
    """Return how many earlier days processors need to process days from `changed` on; None if all must be processed.

    Parameters
    ----------
    chain : sequence of Processor
        The processors, which are applied one after another.
    changed : datetime64 or bool
        First day whose data have changed since the processors were fitted; True if none have.
    """
    days = 0
    for processor in chain:
        kind = type(processor)
        own = kind.__module__.startswith("rollforge.") or "earlier_days" in vars(kind)
        if not own or processor.earlier_days is None:
            return None
        days += processor.earlier_days
        if not learns(processor) or changed is True:
            continue
        end = getattr(processor, "fit_end_time", None)
        if end is None or end_of(end, "fit_end_time").to_datetime64() >= changed:
            return None  # it learns from days that have changed
    return days


def learns(processor: Processor) -> bool:
    """Return whether a processor learns anything from the data that it is fitted to."""
    return type(processor).fit is not Processor.fit


def learned_by(chain: Sequence[Processor]) -> list[dict[str, list[float]]] | None:
    """Return what fitted processors have learned, as plain data; None if it cannot be represented exactly."""
    found: list[dict[str, list[float]]] = []
    for processor in chain:
        if learns(processor) and not processor.learned:
            return None
        values = {name: getattr(processor, name, None) for name in processor.learned}
        if not all(isinstance(v, np.ndarray) and v.dtype == np.float64 and v.ndim == 1 for v in values.values()):
            return None
        found.append({name: v.tolist() for name, v in sorted(values.items()) if isinstance(v, np.ndarray)})
    return found


def restore(chain: Sequence[Processor], learned: Sequence[dict[str, list[float]]] | None) -> None:
    """Set what processors have learned to the result of :func:`learned_by`."""
    for processor, values in zip(chain, learned or [{}] * len(chain), strict=True):
        for name, value in values.items():
            setattr(processor, name, np.array(value, np.float64))


class Adapted(Processor):
    """Wraps a processor whose class does not derive from :class:`Processor`; its panels are not cached.

    Parameters
    ----------
    processor : object
        An object with ``fit``, ``__call__`` and ``is_for_infer``. Its other attributes are accessible here too.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __getattr__(self, name: str) -> Any:
        if name == "processor" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.processor, name)

    def fit(self, df: pd.DataFrame) -> object:
        """Fit the wrapped processor."""
        return self.processor.fit(df)

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return the frame processed by the wrapped processor."""
        made: pd.DataFrame = self.processor(df)
        return made

    def is_for_infer(self) -> bool:
        """Return the wrapped processor's answer."""
        return bool(self.processor.is_for_infer())

    def config(self, **kwargs: Any) -> None:
        """Set those of the wrapped processor's attributes that are given."""
        if hasattr(self.processor, "config"):
            self.processor.config(**kwargs)
            return
        for name, value in kwargs.items():
            if name in getattr(self.processor, "__dict__", {}):
                setattr(self.processor, name, value)


class ReadOnly(Processor):
    """Base class of processors that do not modify their argument."""

    def readonly(self) -> bool:
        """Return True."""
        return True


class Replacing(Processor):
    """Base class of processors that replace values and keep rows and columns."""

    def changed(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return a frame with the new values."""
        raise NotImplementedError

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """Write the new values into `df` and return it."""
        new = self.changed(df)
        for place in range(df.shape[1]):
            df.isetitem(place, new.iloc[:, place].array)
        return df

    def apply(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return the processed frame without modifying `df`."""
        own = type(self).__call__ is Replacing.__call__
        return self.changed(df) if own else super().apply(df)


class OfGroup(Processor):
    """Base class of processors of one group of columns, or several; None means all."""

    any_range = True
    earlier_days = 0

    def __init__(self, fields_group: str | list[str] | None = None) -> None:
        listed_groups(fields_group)  # report a mistake now, not when the data are processed
        self.fields_group = fields_group

    def groups(self) -> list[str] | None:
        """Return the groups in `fields_group`; None means all."""
        return listed_groups(self.fields_group)


class OfColumns(OfGroup, Replacing):
    """Base class of processors that replace the columns of a group with others of the same shape."""

    def change(self, x: pd.DataFrame) -> pd.DataFrame | NDArray[np.floating]:
        """Return the new values of the columns `x`."""
        raise NotImplementedError

    def changed(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return a frame with the new values in the columns of the group."""
        columns = get_group_columns(df, self.fields_group)
        if len(columns) == df.shape[1]:
            changed = np.asarray(self.change(df), precision(df))
            return pd.DataFrame(changed, index=df.index, columns=df.columns, copy=False)
        out = df.copy(deep=False)  # columns are replaced as a whole, so the old ones are not modified
        part = df[columns]
        out[columns] = np.asarray(self.change(part), precision(part))
        return out


def with_days(x: pd.DataFrame) -> pd.DataFrame:
    """Return the frame after checking that its index has the level datetime."""
    if "datetime" not in x.index.names:
        raise DataError(
            f"A processor needs an index with the level datetime, found {', '.join(map(repr, x.index.names))}. Name the "
            "levels with rename_axis(index=['datetime', 'instrument'])."
        )
    return x


def by_day(x: pd.DataFrame) -> pd.api.typing.DataFrameGroupBy[Any, Any]:
    return with_days(x).groupby(level="datetime")


def precision(x: pd.DataFrame) -> type[np.floating]:
    """Return the dtype of results: float32 if all columns are float32, else float64."""
    return np.float32 if all(dtype == np.float32 for dtype in set(x.dtypes)) else np.float64


def finite_only(x: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with infinite values replaced by NaN."""
    infinite = np.isinf(x.to_numpy())
    return x.mask(infinite) if infinite.any() else x
