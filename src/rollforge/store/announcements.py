"""Announcing changes of pools to waiting processes, and polling where announcements do not arrive."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable

__all__ = ["Announcer", "PollDelay"]

_ANNOUNCE_SECONDS = 0.1
_MIN_DELAY, _MAX_DELAY = 0.05, 0.9


class Announcer:
    """Announces changes of a pool to waiting processes: the first one at once, then at most ten times a second.

    PostgreSQL serializes the commits of transactions that notify, so not every transaction does.
    """

    def __init__(self, announce: Callable[[Iterable[str]], None]) -> None:
        self._announce = announce
        self._lock = threading.Lock()
        self._announcing = threading.Lock()
        self._pid = os.getpid()
        self._last: dict[str, float] = {}
        self._pending: set[str] = set()
        self._timer: threading.Timer | None = None

    def announce(self, pool: str) -> None:
        """Announce a committed change, or delay it if another one has just been announced."""
        with self._lock:
            if self._pid != os.getpid():  # a timer of the parent does not run in a forked process
                self._pid, self._timer, self._pending = os.getpid(), None, set()
                self._announcing = threading.Lock()
            now = time.monotonic()
            if now - self._last.get(pool, -1e9) < _ANNOUNCE_SECONDS:
                self._pending.add(pool)
                if self._timer is None:
                    self._timer = threading.Timer(_ANNOUNCE_SECONDS, self._announce_pending)
                    self._timer.daemon = True
                    self._timer.start()
                return
            self._last[pool] = now
        self._announce([pool])

    def _announce_pending(self) -> None:
        with self._announcing:
            with self._lock:
                pools, self._pending, self._timer = self._pending, set(), None
                self._last.update(dict.fromkeys(pools, time.monotonic()))
            self._announce(pools)

    def end(self) -> None:
        """Announce pending changes now; afterwards no timer uses the connection."""
        with self._lock:
            if self._pid != os.getpid():
                return
            timer = self._timer
        if timer is not None:
            timer.cancel()
        self._announce_pending()  # waits for an announcement in progress


class PollDelay:
    """Sleeps between polls of a pool without notifications: short at first, at most a second."""

    def __init__(self) -> None:
        self._seconds = _MIN_DELAY
        self._ended = 0.0

    def sleep(self, most: float) -> None:
        """Sleep; as briefly as the first time, if there was something to do since the last call."""
        if time.monotonic() - self._ended > max(0.5, self._seconds):
            self._seconds = _MIN_DELAY
        time.sleep(max(0.0, min(self._seconds, most)))
        self._seconds = min(self._seconds * 1.5, _MAX_DELAY)
        self._ended = time.monotonic()
