"""A TCP proxy that cuts connections: after a random time, or after a request and before its response.

    python tests/cutting_proxy.py TARGET_PORT SEED

It prints its own port, and a line with the reason for each connection that it cuts.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import sys
import threading
import time

_SECONDS = (1.0, 15.0)
"""Range of the lifetime of a connection."""
_COMMITS = 0.01
"""Share of commits whose response is dropped."""
_OTHERS = 0.001
"""Share of other requests whose response is dropped."""


def cut(*connections: socket.socket) -> None:
    """Close connections with a reset, as if by a firewall or a broken network."""
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def relay(client: socket.socket, server: socket.socket, rng: random.Random) -> str:
    """Relay data in both directions until an end closes or the connection is to be cut; return the reason."""
    ends = time.monotonic() + rng.uniform(*_SECONDS)
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ)
        selector.register(server, selectors.EVENT_READ)
        while time.monotonic() < ends:
            for key, _ in selector.select(0.1):
                sender = key.fileobj
                data = sender.recv(65536)  # type: ignore[union-attr]
                if not data:
                    return "closed"
                if sender is server:
                    client.sendall(data)
                    continue
                server.sendall(data)
                committing = b"COMMIT" in data
                if rng.random() < (_COMMITS if committing else _OTHERS):
                    server.recv(65536)  # the server has executed the request
                    return "commit" if committing else "response"
    return "time"


def serve(client: socket.socket, target: int, seed: int) -> None:
    """Relay one client's connection, and print the reason if it was cut."""
    try:
        server = socket.create_connection(("127.0.0.1", target), timeout=5)
    except OSError:
        cut(client)
        return
    server.settimeout(60)
    try:
        reason = relay(client, server, random.Random(seed))
    except OSError:
        reason = "closed"
    cut(client, server)
    if reason != "closed":
        sys.stdout.write(f"{reason}\n")
        sys.stdout.flush()


def main() -> None:
    """Run the proxy; see the docstring of the module."""
    target, seed = map(int, sys.argv[1:])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            client, _ = listener.accept()
            seed += 1
            threading.Thread(target=serve, args=(client, target, seed), daemon=True).start()


if __name__ == "__main__":
    main()
