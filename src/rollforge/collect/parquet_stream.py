"""Write a joined prediction that is larger than memory, window by window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rollforge.collect.collector import RecorderCollector
from rollforge.errors import CoverageError

__all__ = ["write_stream"]


def write_stream(collector: RecorderCollector, file: str | Path, name: str = "pred") -> int:
    """Join the windows of one model into a Parquet file, one window at a time, and return the number of rows.

    No more than two windows are in memory at once. The result is that of
    :class:`~rollforge.collect.ensemble.RollingEnsemble`: if two windows have the same row, the later window's is kept.

    Parameters
    ----------
    collector : RecorderCollector
        Collector whose keys sort by window.
    file : path
        File to write; it is written completely or not at all.
    name : str
        The artifact.

    Raises
    ------
    CoverageError
        If recorders lack the artifact and gaps are not allowed, or if there are no recorders.
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
        # Load one at a time, without loading ahead: the windows may not fit in memory.
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


def _write(writer: Any, frame: object, file: Path, pa: Any, pq: Any) -> Any:
    table = pa.Table.from_pandas(frame)
    if writer is None:
        writer = pq.ParquetWriter(file, table.schema)
    writer.write_table(table)
    return writer
