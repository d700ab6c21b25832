"""``rollforge serve http``: the read-only HTTP service."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from rollforge.cli.terminal import echo, one_line
from rollforge.confidential import mask_secrets

if TYPE_CHECKING:
    import socket

    from rollforge.online.overview import Reader

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "HttpService", "TokenFile", "address_of", "http"]

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8765

TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File with the token that requests must contain, instead of the variable ROLLFORGE_HTTP_TOKEN.",
    ),
]


def http(
    context: typer.Context,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. Any other than a loopback address requires a token.")
    ] = DEFAULT_HOST,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 chooses a free one.")] = DEFAULT_PORT,
    token_file: TokenFile = None,
) -> None:
    """Serve the contents of the ledger over HTTP, read-only: health, signals, releases, history and metrics.

    All services of the ledger are served. Runs until it is interrupted.
    """
    from rollforge.online.overview import Reader

    with (
        HttpService.listening(host, port, token_file) as service,
        contextlib.closing(Reader(context.obj.uri)) as reader,
    ):
        if context.obj.service is not None:
            context.obj.name(reader)  # a misspelt name would be served as a ledger without problems
        echo(f"serving {one_line(mask_secrets(reader.uri))} on {service.address}")
        service.run(reader)


def address_of(listening: socket.socket) -> str:
    """Return the address of a socket as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass(frozen=True)
class HttpService:
    """The HTTP service on a socket that is already listening."""

    socket: socket.socket
    token: str | None
    local: bool

    @classmethod
    def listening(cls, host: str, port: int, token_file: Path | None) -> HttpService:
        """Read the token and listen on an address.

        Raises
        ------
        ConfigError
            If the token is missing or cannot be read, or the address is not available.
        MissingDependency
            If Starlette or uvicorn is not installed.
        """
        from rollforge.online.http import is_loopback, listen, read_token

        token = read_token(token_file)
        return cls(listen(host, port, token), token, is_loopback(host))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    @property
    def address(self) -> str:
        """The address as a URL."""
        return address_of(self.socket)

    def run(self, reader: Reader) -> None:
        """Serve until the process is interrupted."""
        from rollforge.online.http import make_app, make_server

        server = make_server(make_app(reader, self.token, local=self.local))
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended by itself and repeats the signal
            server.run(sockets=[self.socket])

    @contextlib.contextmanager
    def running(self, reader: Reader) -> Iterator[threading.Thread]:
        """Serve in a thread during a ``with`` block."""
        from rollforge.online.http import make_app, make_server

        server = make_server(make_app(reader, self.token, local=self.local))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [self.socket]}, name="http", daemon=True)
        thread.start()
        try:
            yield thread
        finally:
            server.should_exit = True
            thread.join()
