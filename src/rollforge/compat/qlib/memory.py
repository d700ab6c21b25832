"""``qlib.data.cache.H``: a script's in-memory cache."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from rollforge.errors import ConfigError

__all__ = ["H", "MemCache", "MemCacheExpire", "MemCacheLengthUnit", "MemCacheSizeofUnit", "MemCacheUnit"]


class MemCacheUnit(MutableMapping[Any, Any]):
    """A mapping of limited size; the least recently used entry is removed first.

    Parameters
    ----------
    size_limit : int
        The total size of all values; 0 means no limit.
    size_of : callable
        The size of a value.
    """

    def __init__(self, size_limit: int = 0, size_of: Callable[[object], int] = lambda value: 1) -> None:
        self.size_limit = size_limit
        self._size_of = size_of
        self._values: OrderedDict[object, tuple[Any, int]] = OrderedDict()
        self._size = 0

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.size_limit > 0

    @property
    def total_size(self) -> int:
        """The total size of all values."""
        return self._size

    def set_limit_size(self, limit: int) -> None:
        """Set the limit; it applies from the next value on."""
        self.size_limit = limit

    def __setitem__(self, key: object, value: object) -> None:
        if key in self._values:
            del self[key]
        size = self._size_of(value)
        self._values[key] = value, size
        self._size += size
        while self.limited and self._size > self.size_limit:
            _, (_, gone) = self._values.popitem(last=False)
            self._size -= gone

    def __getitem__(self, key: object) -> Any:
        value, _ = self._values[key]
        self._values.move_to_end(key)
        return value

    def __delitem__(self, key: object) -> None:
        _, size = self._values.pop(key)
        self._size -= size

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class MemCacheLengthUnit(MemCacheUnit):
    """A mapping with a limited number of values."""

    def __init__(self, size_limit: int = 0) -> None:
        super().__init__(size_limit)


class MemCacheSizeofUnit(MemCacheUnit):
    """A mapping with a limited number of bytes, as counted by ``sys.getsizeof``."""

    def __init__(self, size_limit: int = 0) -> None:
        super().__init__(size_limit, sys.getsizeof)


class MemCache:
    """Three mappings: ``["c"]`` for calendars, ``["i"]`` for instruments, ``["f"]`` for features.

    Rollforge itself stores nothing in them.

    Parameters
    ----------
    mem_cache_size_limit : int, optional
        Maximum size of each mapping; 500 values by default.
    limit_type : {"length", "sizeof"}
        Whether the size is the number of values or their bytes.
    """

    def __init__(self, mem_cache_size_limit: int | None = None, limit_type: str = "length") -> None:
        if limit_type not in ("length", "sizeof"):
            raise ConfigError(f"limit_type must be 'length' or 'sizeof', found {limit_type!r}.", path="limit_type")
        unit = MemCacheLengthUnit if limit_type == "length" else MemCacheSizeofUnit
        self._units = {key: unit(500 if mem_cache_size_limit is None else mem_cache_size_limit) for key in "cif"}

    def __getitem__(self, key: str) -> MemCacheUnit:
        return self._units[key]

    def clear(self) -> None:
        """Remove all values."""
        for unit in self._units.values():
            unit.clear()


class MemCacheExpire:
    """Values that expire."""

    CACHE_EXPIRE = 3600
    """Seconds."""

    @staticmethod
    def set_cache(mem_cache: MutableMapping[object, object], key: object, value: object) -> None:
        """Store a value with the current time."""
        mem_cache[key] = value, time.time()

    @staticmethod
    def get_cache(mem_cache: MutableMapping[Any, Any], key: object) -> tuple[Any, bool]:
        """Return a value, and whether it has expired; ``(None, False)`` if there is none."""
        if key not in mem_cache:
            return None, False
        value, since = mem_cache[key]
        return value, time.time() - since > MemCacheExpire.CACHE_EXPIRE


H = MemCache()
