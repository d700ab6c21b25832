"""``qlib.contrib.data.utils.sepdf``: separate frames that behave like one frame with two column levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from rollforge.errors import DataError

__all__ = ["SDFLoc", "SepDataFrame", "align_index"]


def align_index(df_dict: Mapping[str, pd.DataFrame], join: str | None) -> dict[str, pd.DataFrame]:
    """Return frames aligned to the rows of one of them; unchanged if `join` is None."""
    return {k: df if join is None or k == join else df.reindex(df_dict[join].index) for k, df in df_dict.items()}


class SepDataFrame:
    """Frames by name, which avoids concatenating and splitting them.

    It is not a DataFrame (in Qlib, ``isinstance`` reports that it is one).

    Parameters
    ----------
    df_dict : dict of DataFrame
        The frames.
    join : str, optional
        The frame to whose rows all are aligned; None keeps each frame's own rows.
    skip_align : bool
        True if they already have the same rows.
    """

    def __init__(self, df_dict: Mapping[str, pd.DataFrame], join: str | None, skip_align: bool = False) -> None:
        self.join = join
        self._df_dict: dict[str, pd.DataFrame] = dict(df_dict) if skip_align else align_index(df_dict, join)

    @property
    def loc(self) -> SDFLoc:
        """Selection by labels: ``.loc[rows]``, ``.loc[rows, name]``, ``.loc(axis=1)[names]``."""
        return SDFLoc(self)

    @property
    def index(self) -> pd.Index:
        """The index of the frame that determines the rows."""
        return self._leading.index

    @property
    def columns(self) -> pd.MultiIndex:
        """(name of the frame, column)."""
        return pd.MultiIndex.from_tuples([(k, *_parts(c)) for k, df in self._df_dict.items() for c in df.columns])

    @property
    def _leading(self) -> pd.DataFrame:
        if self.join is None:
            raise DataError("There are no common rows, because join=None chooses no leading frame.")
        return self._df_dict[self.join]

    def apply_each(self, method: str, skip_align: bool = True, *args: object, **kwargs: object) -> SepDataFrame | None:
        """Apply a method to each frame; return None if it changes them in place."""
        made = {k: getattr(df, method)(*args, **kwargs) for k, df in self._df_dict.items()}
        return None if any(df is None for df in made.values()) else SepDataFrame(made, self.join, skip_align=skip_align)

    def sort_index(self, *args: object, **kwargs: Any) -> SepDataFrame | None:
        """Return each frame in order."""
        return self.apply_each("sort_index", True, *args, **kwargs)

    def copy(self, *args: object, **kwargs: object) -> SepDataFrame | None:
        """Return a copy of the frames."""
        return self.apply_each("copy", True, *args, **kwargs)

    def __getitem__(self, item: str) -> pd.DataFrame:
        return self._df_dict[item]

    def __setitem__(self, item: Any, df: Any) -> None:
        if not isinstance(item, tuple):
            self._df_dict[item] = df
            return
        name, *rest = item
        column = rest[0] if len(rest) == 1 else tuple(rest)
        if name in self._df_dict:
            # Frames passed in are not modified: columns are added to a copy.
            self._df_dict[name] = self._df_dict[name].assign(**{"_new": df}).rename(columns={"_new": column})
        elif isinstance(df, pd.Series):
            self._df_dict[name] = df.to_frame(column)
        else:
            columns = pd.MultiIndex.from_tuples([(*rest, *_parts(c)) for c in df.columns])
            self._df_dict[name] = df.set_axis(columns, axis=1)

    def __delitem__(self, item: str) -> None:
        del self._df_dict[item]
        if self.join not in self._df_dict:
            self.join = next(iter(self._df_dict), None)

    def __contains__(self, item: object) -> bool:
        return item in self._df_dict

    def __len__(self) -> int:
        return len(self._leading)

    @staticmethod
    def merge(df_dict: Mapping[str, pd.DataFrame], join: str) -> pd.DataFrame:
        """Concatenate all frames, with the rows of one of them."""
        return df_dict[join].join([df for k, df in df_dict.items() if k != join])


class SDFLoc:
    """Selection of rows and of frames."""

    def __init__(self, sdf: SepDataFrame, axis: int | None = None) -> None:
        self._sdf, self._axis = sdf, axis

    def __call__(self, axis: int) -> SDFLoc:
        return SDFLoc(self._sdf, axis)

    def __getitem__(self, args: Any) -> Any:
        if self._axis == 0:
            return self._rows(args)
        if self._axis == 1:
            return self._frames(args)
        if not isinstance(args, tuple):
            return self._rows(args)
        rows, *names = args
        found = self._frames(names) if names else self._sdf
        return found if rows is None else SDFLoc(found)._rows(rows)

    def _rows(self, args: Any) -> SepDataFrame:
        made = {k: df.loc(axis=0)[args] for k, df in self._sdf._df_dict.items()}
        return SepDataFrame(made, self._sdf.join, skip_align=True)

    def _frames(self, args: Any) -> Any:
        if isinstance(args, str):
            return self._sdf[args]
        join = self._sdf.join if self._sdf.join in args else args[0]
        return SepDataFrame({k: self._sdf[k] for k in args}, join, skip_align=True)


def _parts(label: object) -> tuple[object, ...]:
    return label if isinstance(label, tuple) else (label,)
