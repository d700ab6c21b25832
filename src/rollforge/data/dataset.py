"""Datasets: a handler's data cut into named segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rollforge.build import build
from rollforge.data.handler import DataHandler, DataHandlerLP
from rollforge.errors import ConfigError, DataError, SegmentError, nearest
from rollforge.serial import Serializable

__all__ = ["Dataset", "DatasetH"]


class Dataset(Serializable):
    """What a model is fitted on."""

    def config(self, **kwargs: Any) -> None:
        """Change what may be changed after the dataset was made."""

    def setup_data(self, **kwargs: Any) -> None:
        """Compute the data, or find them in the cache."""

    def prepare(self, *args: Any, **kwargs: Any) -> Any:
        """Return data."""
        raise NotImplementedError(f"{type(self).__name__} must say what it prepares.")


class DatasetH(Dataset):
    """A handler's data in segments such as train, valid and test.

    Parameters
    ----------
    handler : DataHandler or description
        Where the data come from; also ``file://….pkl``, read through the allow-list.
    segments : mapping
        Name -> (first day, last day); None is open.
    fetch_kwargs : mapping, optional
        Further arguments for the handler's ``fetch``.
    """

    def __init__(
        self, handler: Any, segments: Mapping[str, Any], fetch_kwargs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self.handler: DataHandler = build(
            handler,
            accept_types=DataHandler,
            default_module="rollforge.data.alpha",
            where="task.dataset.kwargs.handler",
        )
        if not isinstance(segments, Mapping):
            raise SegmentError("segments must map names to (first day, last day).", path="task.dataset.kwargs.segments")
        self.segments = dict(segments)
        self.fetch_kwargs = dict(fetch_kwargs or {})

    def config(
        self, handler_kwargs: Mapping[str, Any] | None = None, segments: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Change the handler's range, or the segments."""
        if handler_kwargs is not None:
            self.handler.config(**handler_kwargs)
        if segments is not None:
            self.segments = dict(segments)

    def setup_data(self, handler_kwargs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Compute the handler's data, or find them in the cache."""
        if handler_kwargs:
            self.handler.config(**handler_kwargs)
        self.handler.setup_data()

    def prepare(
        self,
        segments: Any,
        col_set: str | Sequence[str] = DataHandler.CS_ALL,
        data_key: str = DataHandlerLP.DK_I,
        **kwargs: Any,
    ) -> Any:
        """Return the data of a segment, or a list of them for a list of segments.

        Parameters
        ----------
        segments : str, sequence of str, or slice
            Names of segments, or days.
        col_set : str or sequence of str
            ``__all``, one group (plain columns), or several.
        data_key : str
            ``raw``, ``infer`` or ``learn``.

        Raises
        ------
        SegmentError
            For a segment that does not exist.
        """
        if isinstance(segments, (list, tuple)) and all(isinstance(s, str) and s in self.segments for s in segments):
            return [self._prepare(self._days(s), col_set, data_key, kwargs) for s in segments]
        days = self._days(segments) if isinstance(segments, str) else segments
        return self._prepare(days, col_set, data_key, kwargs)

    def _days(self, name: str) -> slice:
        if name not in self.segments:
            raise SegmentError(
                f"there is no segment {name!r}.{nearest(name, self.segments)} There are: {', '.join(self.segments)}.",
                path="task.dataset.kwargs.segments",
            )
        days = self.segments[name]
        if isinstance(days, slice):
            return days
        if not isinstance(days, (list, tuple)) or len(days) != 2:
            raise SegmentError(
                f"expected (first day, last day), found {days!r}.", path=f"task.dataset.kwargs.segments.{name}"
            )
        return slice(*days)

    def _prepare(self, days: Any, col_set: Any, data_key: str, kwargs: Mapping[str, Any]) -> pd.DataFrame:
        arguments: dict[str, Any] = {"col_set": col_set, **self.fetch_kwargs, **kwargs}
        if isinstance(self.handler, DataHandlerLP):
            arguments["data_key"] = data_key
        elif data_key not in (DataHandlerLP.DK_I, DataHandlerLP.DK_R):
            raise ConfigError(f"{type(self.handler).__name__} has raw data only; it has no {data_key!r}.")
        frame: pd.DataFrame = self.handler.fetch(days, **arguments)
        if frame.empty:
            raise DataError(f"There are no rows between {days.start} and {days.stop} for {data_key!r}.")
        return frame
