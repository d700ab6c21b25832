"""A check that a cluster can be reached: its own client may try for minutes, and log each attempt."""

from __future__ import annotations

import socket
import time

from rollforge.errors import ClusterUnavailable

__all__ = ["check_reachable"]

_SECONDS = 3.0
_CONNECT_SECONDS = 10.0
_PAUSE = 0.5


def check_reachable(address: str, engine: str, seconds: float = _SECONDS) -> None:
    """Connect to a cluster's address once, and try again for some seconds: a scheduler may just be starting.

    Parameters
    ----------
    address : str
        ``HOST:PORT``, also with a scheme such as ``tcp://``.
    engine : str
        Name of the engine, for the message.
    seconds : float
        Seconds after which to give up if connections are refused.

    Raises
    ------
    ClusterUnavailable
        If nothing accepts the connection.

    Examples
    --------
    >>> with socket.create_server(("127.0.0.1", 0)) as scheduler:
    ...     check_reachable(f"tcp://127.0.0.1:{scheduler.getsockname()[1]}", "Dask")
    """
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not port.isdigit():
        return  # an address of another form, which only the engine's client understands
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        except OSError as exc:
            left = deadline - time.monotonic()
            if left <= 0 or isinstance(exc, socket.gaierror):
                raise ClusterUnavailable(
                    f"The {engine} cluster at {address} cannot be reached: {exc.strerror or exc}. Start it, or correct the "
                    "address; no task was started."
                ) from exc
            time.sleep(min(_PAUSE, left))
        else:
            return
