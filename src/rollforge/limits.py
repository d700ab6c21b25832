"""The table of limits, and functions that open files within them.

Each limit is far above real use. A mistake, or a file made to exhaust a machine, then causes one error message instead of
taking hours or using all memory. Every limit can be changed by an environment variable, which worker processes
inherit: ``ROLLFORGE_LIMIT_TASKS=2000000``. The table for users is in ``docs/limits.md``.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from rollforge.errors import ConfigError, RollforgeError, shown

__all__ = [
    "LIMITS",
    "BoundedReader",
    "Limit",
    "TooLarge",
    "check_archive",
    "check_file",
    "check_parquet",
    "count_values",
    "open_unpacked",
    "parse_size",
    "read_bytes",
    "read_memory",
    "read_text",
]

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


SIZE_PATTERN = r"^\s*[0-9]{1,18}(\.[0-9]{1,9})?\s*[KMGTkmgt]?([iI]?[bB])?\s*$"
"""A size, for programs that check a text by a regular expression, such as editors."""


def parse_size(text: str, *, path: str = "") -> int:
    """Return a size in bytes.

    Parameters
    ----------
    text : str
        A number with one of the units K, M, G, T (powers of 1024) or none.
    path : str
        Location in the document, for the error.

    Raises
    ------
    ConfigError
        If `text` is not a size.

    Examples
    --------
    >>> parse_size("4G"), parse_size("512m"), parse_size("1024")
    (4294967296, 536870912, 1024)
    """
    found = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([KMGT]?)(?:i?B)?", str(text).strip(), re.IGNORECASE)
    if found is None:
        raise ConfigError(f"{shown(text)} is not a size. Write a size as 512M or 4G.", path=path)
    return int(float(found[1]) * _UNITS[found[2].upper()])


def read_memory(given: object, *, path: str = "") -> int:
    """Return the memory that a process needs, in bytes.

    Parameters
    ----------
    given : int or str
        A number of bytes, or a size such as ``8G``.
    path : str
        Location in the document, for the error.

    Raises
    ------
    ConfigError
        If `given` is not a size, or below 1 MiB: the unit was forgotten.

    Examples
    --------
    >>> read_memory("8G"), read_memory(2**20)
    (8589934592, 1048576)
    >>> read_memory(8, path="memory")
    Traceback (most recent call last):
    rollforge.errors.ConfigError: memory: must be at least 1M, found 8, which means bytes. Did you mean 8G?
    """
    size = parse_size(given, path=path) if isinstance(given, str) else given
    if not isinstance(size, int) or isinstance(size, bool):
        raise ConfigError(f"must be a size such as 512M or 8G, found {shown(given)}.", path=path)
    if size < 2**20:
        number = str(given)
        means = f", which means bytes. Did you mean {number}G?" if number.isdigit() and size else "."
        raise ConfigError(f"must be at least 1M, found {number}{means}", path=path)
    return size


def _readable(size: int) -> str:
    for unit in ("T", "G", "M", "K"):
        if size >= _UNITS[unit] and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]} {unit}iB"
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size:,} bytes"


class TooLarge(ConfigError):
    """A value exceeds one of the limits in :mod:`rollforge.limits`."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit: its name, its default and its description."""

    name: str
    default: int
    about: str
    """What is counted, as in the table of the documentation."""
    unit: str = ""
    """``bytes``, or the plural noun of what is counted."""

    @property
    def variable(self) -> str:
        """The environment variable that changes the limit."""
        return f"ROLLFORGE_LIMIT_{self.name.upper()}"

    @property
    def value(self) -> int:
        """The limit in force.

        Raises
        ------
        ConfigError
            If the environment variable is not a size.
        """
        given = os.environ.get(self.variable)
        return self.default if not given else parse_size(given, path=self.variable)

    def shown(self, amount: int | None = None) -> str:
        """Return an amount (by default the limit) with its unit, for messages."""
        amount = self.value if amount is None else amount
        if self.unit == "bytes":
            return _readable(amount)
        number = f"{amount:,}" if amount < 10**15 else f"about 10^{amount.bit_length() * 0.30103:.0f}"
        return f"{number} {self.unit}".strip()

    def check(
        self, amount: int, what: str, *, path: str = "", error: Callable[[str], RollforgeError] | None = None
    ) -> None:
        """Raise an error if `amount` exceeds the limit.

        Parameters
        ----------
        amount : int
            What was counted.
        what : str
            Subject of the message, for example ``"The grid makes"``.
        path : str
            Location in the document.
        error : callable, optional
            Creates the error from a message; by default :class:`TooLarge`.

        Raises
        ------
        TooLarge
            If the limit is exceeded; or the error created by `error`.
        """
        if amount > self.value:
            self.refuse(f"{what} {self.shown(amount)}", path=path, error=error)

    def refuse(self, what: str, *, path: str = "", error: Callable[[str], RollforgeError] | None = None) -> NoReturn:
        """Raise an error that says what is too large, the limit, and how to raise the limit."""
        limit = "" if self.shown() in what else f"; the limit is {self.shown()}"
        message = f"{what}{limit}. If that is intended, raise the limit with {self.variable}."
        raise TooLarge(message, path=path) if error is None else error(message)


LIMITS: Mapping[str, Limit] = {
    limit.name: limit
    for limit in (
        Limit("workflow_size", 2**20, "size of a workflow file, before and after its template is rendered", "bytes"),
        Limit("template_ms", 500, "CPU time for rendering a workflow file's template", "ms"),
        Limit("values", 50_000, "values written in a workflow file", "values"),
        Limit("expanded_values", 300_000, "values of a workflow file after its aliases are expanded", "values"),
        Limit("depth", 100, "nesting of mappings and lists in a workflow file", "levels"),
        Limit("base_files", 10, "files chained by `BASE_CONFIG_PATH`", "files"),
        Limit("tasks", 250_000, "tasks generated from one template or workflow", "tasks"),
        Limit("task_size", 4 * 2**20, "size of one task definition, with a reference counted each time it is used", "bytes"),
        Limit("result_size", 256 * 2**20, "size of the result that a task returns to the pool", "bytes"),
        Limit("run_values", 20_000, "parameters or tags that one call records for a run", "values"),
        Limit("run_value_size", 16 * 2**20, "size of one parameter or tag of a run", "bytes"),
        Limit("expression_length", 20_000, "length of a feature expression", "characters"),
        Limit("text_file_size", 64 * 2**20, "size of a calendar, a list of instruments or a list of members", "bytes"),
        Limit("calendar_lines", 250_000, "lines of a calendar; more than the number of days from 1678 to 2261", "lines"),
        Limit("file_size", 64 * 2**30, "size of any other file that is read", "bytes"),
        Limit("table_columns", 5_000, "columns of an imported table", "columns"),
        Limit("table_rows", 250_000_000, "rows of an imported table", "rows"),
        Limit("table_size", 32 * 2**30, "memory for the columns of a Parquet file, or size of a CSV file's text", "bytes"),
        Limit("compression_ratio", 100, "factor by which a compressed file may expand (above 32 MiB)", "times"),
        Limit("archive_files", 10_000, "files in an archive", "files"),
    )
}  # fmt: skip
"""All limits by name."""


def count_values(value: object, most: int) -> int:
    """Return the number of values in a tree of dicts, lists and tuples; shared objects are counted each time.

    Counting stops soon after `most`, so a few objects that are referenced millions of times stay cheap.

    Raises
    ------
    RecursionError
        If `value` contains itself, or is nested too deeply.
    """
    if isinstance(value, Mapping):
        children: Iterable[object] = value.values()
    elif isinstance(value, (list, tuple)):
        children = value
    else:
        return 1
    total = 1 + len(value)
    for child in children:
        if total > most:
            return total
        if isinstance(child, (Mapping, list, tuple)):
            total += count_values(child, most - total) - 1
    return total


def check_file(
    path: str | os.PathLike[str],
    limit: Limit = LIMITS["file_size"],
    *,
    error: Callable[[str], RollforgeError] | None = None,
) -> int:
    """Return the size of a file, after checking that it is a regular file and not too large.

    A device, a named pipe or a socket is refused before it is opened, because reading it may never end.

    Raises
    ------
    OSError
        If the file does not exist or cannot be accessed.
    RollforgeError
        The error created by `error`, if the check fails.
    """
    return _check_stat(os.stat(path), path, limit, error)


def _check_stat(
    found: os.stat_result, path: str | os.PathLike[str], limit: Limit, error: Callable[[str], RollforgeError] | None
) -> int:
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise (error or ConfigError)(
            f"{str(path)!r} is {_KINDS.get(kind, 'not a regular file')}; a regular file is needed."
        )
    limit.check(found.st_size, f"{str(path)!r} contains", error=error)
    return found.st_size


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def read_bytes(
    path: str | os.PathLike[str],
    limit: Limit = LIMITS["file_size"],
    *,
    error: Callable[[str], RollforgeError] | None = None,
) -> bytes:
    """Return the bytes of a regular file within a limit. Raises the same errors as :func:`check_file`."""
    check_file(path, limit, error=error)  # opening a device can have side effects
    # The file may have been replaced by a named pipe; without O_NONBLOCK, opening it would wait for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        _check_stat(os.fstat(handle), path, limit, error)
        with open(handle, "rb", closefd=False) as stream:
            # It may have grown, or report a wrong size as files in /proc do; those return None where they would wait.
            data = stream.read(limit.value + 1) or b""
    finally:
        os.close(handle)
    limit.check(len(data), f"{str(path)!r} contains", error=error)
    return data


def read_text(
    path: str | os.PathLike[str],
    limit: Limit = LIMITS["text_file_size"],
    *,
    error: Callable[[str], RollforgeError] | None = None,
) -> str:
    """Return the UTF-8 text of a regular file within a limit. Raises as :func:`check_file`, and UnicodeDecodeError."""
    text = read_bytes(path, limit, error=error).decode("utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


_ALWAYS_FINE = 32 * 2**20


class BoundedReader(io.RawIOBase):
    """Read a compressed file, and raise an error if its contents are disproportionately large.

    Parameters
    ----------
    stream : binary file
        Yields the uncompressed bytes.
    packed : int
        Size of the compressed file.
    name : str
        Name of the file, for the message.
    error : callable
        Creates the error from a message.
    """

    def __init__(
        self, stream: IO[bytes], packed: int, name: str, error: Callable[[str], RollforgeError] | None = None
    ) -> None:
        super().__init__()
        self._stream = stream
        self._packed = packed
        self._name = name
        self._error = error
        self._read = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, and return how many bytes were read."""
        data = self._stream.read(len(buffer))
        self._read += len(data)
        _check_growth(self._read, self._packed, self._name, self._error)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close this reader and the underlying stream."""
        self._stream.close()
        super().close()


def _check_growth(size: int, packed: int, name: str, error: Callable[[str], RollforgeError] | None) -> None:
    LIMITS["table_size"].check(size, f"{name} unpacks to more than", error=error)
    ratio = LIMITS["compression_ratio"]
    if size > _ALWAYS_FINE and size > ratio.value * max(packed, 1):
        ratio.refuse(f"{name} ({_readable(packed)}) unpacks to {_readable(size)} or more", error=error)


@contextlib.contextmanager
def open_unpacked(
    path: str | os.PathLike[str], *, error: Callable[[str], RollforgeError] | None = None
) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes; decompress ``.gz``, ``.bz2``, ``.xz`` and ``.zip`` (with a single file).

    Raises
    ------
    OSError, EOFError, zipfile.BadZipFile, lzma.LZMAError
        If the file does not exist or is damaged.
    RollforgeError
        The error created by `error`, if it is not a regular file or its contents are too large (even during reading).
    """
    packed = check_file(path, error=error)
    kind = os.fspath(path).lower().rpartition(".")[2]
    with contextlib.ExitStack() as stack:
        stream: Any = stack.enter_context(open(path, "rb"))
        if kind == "zip":
            archive = stack.enter_context(zipfile.ZipFile(stream))
            check_archive(archive, packed, str(path), error=error)
            names = [e.filename for e in archive.infolist() if not e.is_dir()]
            if len(names) != 1:
                raise (error or ConfigError)(f"{str(path)!r} contains {len(names)} files; one table is needed.")
            stream = stack.enter_context(archive.open(names[0]))
        elif kind in _UNPACKERS:
            stream = stack.enter_context(_UNPACKERS[kind](stream))
        bounded = BoundedReader(stream, packed, str(path), error)
        yield stack.enter_context(io.BufferedReader(bounded, 2**18))


_UNPACKERS: Mapping[str, Callable[..., Any]] = {"gz": gzip.open, "bz2": bz2.BZ2File, "xz": lzma.LZMAFile}


def check_parquet(path: str | os.PathLike[str], *, error: Callable[[str], RollforgeError] | None = None) -> None:
    """Raise an error if a Parquet file is too large to read into memory, judged by its metadata and its dictionaries.

    A file of a few kilobytes can contain any number of equal rows, and a long string stored once for all rows.

    Raises
    ------
    OSError, pyarrow.ArrowInvalid
        If the file does not exist or is not a Parquet file.
    RollforgeError
        The error created by `error`, if the file is too large.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    check_file(path, error=error)
    name = str(path)
    with pq.ParquetFile(path) as file:
        about = file.metadata
        LIMITS["table_columns"].check(about.num_columns, f"{name} has", error=error)
        LIMITS["table_rows"].check(about.num_rows, f"{name} has", error=error)
        if about.num_row_groups > about.num_rows + 1:
            raise (error or ConfigError)(f"{name} is damaged: it has more row groups than rows.")
        stated = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        size = max(stated, 8 * about.num_rows * about.num_columns)
        LIMITS["table_size"].check(size, f"{name} takes", error=error)
        texts = [f.name for f in file.schema_arrow if pa.types.is_string(f.type) or pa.types.is_binary(f.type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for group in range(about.num_row_groups if texts else 0):
            for column in file.read_row_group(group, columns=texts, use_threads=False).columns:
                for chunk in column.chunks:
                    if pa.types.is_dictionary(chunk.type):
                        lengths = pc.take(pc.binary_length(chunk.dictionary), chunk.indices)
                        size += pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0
                LIMITS["table_size"].check(size, f"{name} takes", error=error)


def check_archive(
    archive: Any, packed: int, name: str, *, error: Callable[[str], RollforgeError] | None = None
) -> None:
    """Raise an error if a ``zipfile.ZipFile`` has too many files, is too large, or has paths outside its folder.

    The sizes are those stated in the archive; Python reads no more than that from each file.

    Raises
    ------
    RollforgeError
        The error created by `error`.
    """
    entries = archive.infolist()
    LIMITS["archive_files"].check(len(entries), f"{name} contains", error=error)
    for entry in entries:
        inside = str(entry.filename).replace("\\", "/")
        if inside.startswith("/") or ":" in inside.partition("/")[0] or ".." in inside.split("/"):
            raise (error or ConfigError)(
                f"{name} contains a file {shown(entry.filename)}, which lies outside the archive."
            )
    _check_growth(sum(int(e.file_size) for e in entries), packed, name, error)
