"""A webhook: an HTTP server on the loopback address that records what is posted to it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hook:
    """The requests so far, and how to answer the next ones."""

    answers: Sequence[int] = (200,)
    """Status codes; the last one is repeated. 0 is no answer."""
    url: str = ""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Method, headers and body of each."""
    released: threading.Event = field(default_factory=threading.Event)
    """Ends requests without an answer."""

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The documents of all requests."""
        return [json.loads(body) for _, _, body in self.requests]


@contextlib.contextmanager
def listening(*answers: int) -> Iterator[Hook]:
    """Run a webhook while the context lasts."""
    hook = Hook(answers or (200,))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            place = len(hook.requests)
            hook.requests.append((self.command, dict(self.headers), body))
            status = hook.answers[min(place, len(hook.answers) - 1)]
            if not status:
                hook.released.wait(60)
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"{hook.url}/moved")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hook.url = f"http://127.0.0.1:{server.server_port}/hooks/T0aB1cD2"
    try:
        yield hook
    finally:
        hook.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
