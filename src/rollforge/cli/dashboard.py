"""``rollforge dashboard``: the live pages of a task store."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from rollforge.cli.serve_http import DEFAULT_HOST, DEFAULT_PORT, TokenFile, address_of
from rollforge.cli.terminal import echo, one_line
from rollforge.confidential import mask_secrets

__all__ = ["dashboard"]


def dashboard(
    store_uri: Annotated[
        str | None, typer.Option("--store", help="URI of the task store; ROLLFORGE_STORE by default.")
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking", help="URI of the tracking store; by default that of the experiment's tasks."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. Any other than a loopback address requires a token.")
    ] = DEFAULT_HOST,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 chooses a free one.")] = DEFAULT_PORT,
    token_file: TokenFile = None,
) -> None:
    """Show the experiments of a task store in a browser: what runs, what failed and why, and what came out. Read-only.

    The pages update by themselves. Runs until it is interrupted. Example: rollforge dashboard --store sqlite:///tasks.db
    """
    from rollforge.dashboard.app import make_app
    from rollforge.dashboard.pages import Pages
    from rollforge.dashboard.pools import PoolReader
    from rollforge.dashboard.runs import RunReader
    from rollforge.online.http import is_loopback, listen, make_server, read_token
    from rollforge.session import Session

    session = Session().with_(store_uri=store_uri, tracking_uri=tracking_uri)
    token = read_token(token_file)
    with (
        listen(host, port, token) as socket,
        contextlib.closing(PoolReader(session.store_uri)) as pools,
    ):
        pages = Pages(pools, RunReader(pools.store, session.tracking_uri, given=tracking_uri is not None))
        server = make_server(make_app(pages, token, local=is_loopback(host), ended=lambda: server.should_exit))
        echo(f"{one_line(mask_secrets(session.store_uri))} on {address_of(socket)}")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended by itself and repeats the signal
            server.run(sockets=[socket])
