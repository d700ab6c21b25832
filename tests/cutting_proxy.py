"""A TCP proxy that cuts connections: after a random time, and after a request whose answer nobody gets.

    python tests/cutting_proxy.py TARGET_PORT SEED

It prints its own port, and for each connection that it cut a line with the reason.
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
"""How long a connection lives."""
_COMMITS = 0.01
"""Of the commits, how many are cut off right after the server was told."""
_ANSWERS = 0.001
"""Of other requests, how many lose their answer."""


def cut(*connections: socket.socket) -> None:
    """Close with a reset, as a firewall or a pulled cable would seem."""
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def relay(client: socket.socket, server: socket.socket, rng: random.Random) -> str:
    """Pass on what both say until one closes; return why it ended."""
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
                if rng.random() < (_COMMITS if committing else _ANSWERS):
                    server.recv(65536)  # the server did it
                    return "commit" if committing else "answer"
    return "time"


def serve(client: socket.socket, target: int, seed: int) -> None:
    """Connect a client and say how that ended."""
    try:
        server = socket.create_connection(("127.0.0.1", target), timeout=5)
    except OSError:
        cut(client)
        return
    server.settimeout(60)
    try:
        why = relay(client, server, random.Random(seed))
    except OSError:
        why = "closed"
    cut(client, server)
    if why != "closed":
        sys.stdout.write(f"{why}\n")
        sys.stdout.flush()


def main() -> None:
    """See the top of the file."""
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
