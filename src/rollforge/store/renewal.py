"""Renewing leases in a thread while something else runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType

from rollforge.errors import LeaseLost, StoreUnavailable

__all__ = ["Renewal"]

log = logging.getLogger(__name__)


class Renewal:
    """Context manager that calls a function in a background thread until the end of the block or the loss of the lease.

    If the store is unavailable, this is logged and the call is repeated after the interval, because the store may be
    available again before the lease expires.

    Parameters
    ----------
    renew : callable
        Renews the leases; called in the context of the block.
    interval : float
        Seconds between the calls.
    what : str
        What is renewed, for messages.

    Examples
    --------
    >>> with Renewal(lambda: None, 60.0, "the lease") as renewal:
    ...     pass
    >>> renewal.lost is None
    True
    """

    def __init__(self, renew: Callable[[], object], interval: float, what: str) -> None:
        self.lost: LeaseLost | None = None
        """The error of a call, after which there are no further calls."""
        self._renew = renew
        self._interval = interval
        self._what = what
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                self._renew()
            except LeaseLost as exc:
                self.lost = exc
                return
            except StoreUnavailable as exc:
                log.warning("%s could not be renewed: %s", self._what, exc)

    def __enter__(self) -> Renewal:
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="rollforge-renewal", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
