"""A joined prediction that is larger than memory: written window by window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rollforge.collect.collector import RecorderCollector
from rollforge.errors import CoverageError

__all__ = ["write_stream"]


def write_stream(collector: RecorderCollector, file: str | Path, name: str = "pred") -> int:
    """Join the windows of one model into a Parquet file, one window after the other, and return how many rows it has.

    No more than two windows are in memory at once. The result is that of
    :class:`~rollforge.collect.ensemble.RollingEnsemble`: of rows that two windows have, the later window's stays.

    Parameters
    ----------
    collector : RecorderCollector
        Its keys must sort by window.
    file : path
        What to write, all of it or nothing.
    name : str
        The artifact.

    Raises
    ------
    CoverageError
        When recorders lack the artifact, unless gaps are allowed; or there are none.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rollforge.market.frames import day_rows

    target, rows = Path(file), 0
    draft = target.with_name(f".{target.name}.draft")
    writer: pq.ParquetWriter | None = None
    held: pd.DataFrame | None = None
    try:
        # One at a time and none ahead: the windows may not all fit.
        for key, value in collector.stream(name, order=lambda key: key, ahead=0):
            frame = day_rows(value, f"The artifact {name!r} of {key!r}").sort_index()
            if held is not None:
                first = frame.index.get_level_values("datetime")[0]
                over = held.index.get_level_values("datetime") >= first
                rest = held[over]
                frame = pd.concat([rest[~rest.index.isin(frame.index)], frame]).sort_index()
                held = held[~over]
                writer, rows = _write(writer, held, draft, pa, pq), rows + len(held)
            held = frame
        if held is None:
            raise CoverageError("There are no windows to join.")
        writer, rows = _write(writer, held, draft, pa, pq), rows + len(held)
        writer.close()
        draft.replace(target)
    finally:
        if writer is not None:
            writer.close()
        draft.unlink(missing_ok=True)
    return rows


def _write(writer: Any, frame: Any, file: Path, pa: Any, pq: Any) -> Any:
    table = pa.Table.from_pandas(frame)
    if writer is None:
        writer = pq.ParquetWriter(file, table.schema)
    writer.write_table(table)
    return writer
