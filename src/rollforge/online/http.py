"""A read-only HTTP service: the contents of the ledger as JSON, and as metrics for Prometheus.

It never changes the ledger or a file, and runs no code of a workflow. The only module that imports uvicorn, and, besides the
dashboard, Starlette.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

from rollforge.confidential import mask_secrets, remember_secret
from rollforge.dates import read_day
from rollforge.errors import ConfigError, DateError, MissingDependency, RollforgeError, StoreUnavailable, shown
from rollforge.ledger.state import ServiceState
from rollforge.online.locations import service_folder
from rollforge.online.overview import (
    Reader,
    entry_document,
    health,
    metrics,
    no_signals,
    read_as_of,
    signal_document,
    status,
)

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.datastructures import Headers
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Receive, Scope, Send
except ImportError as exc:
    raise MissingDependency(
        f"Serving over HTTP requires Starlette and uvicorn ({exc}). Install them: pip install 'rollforge[serve]'"
    ) from exc

__all__ = [
    "TOKEN_VARIABLE",
    "is_loopback",
    "listen",
    "local_host",
    "make_app",
    "make_server",
    "read_token",
    "same_token",
]

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "ROLLFORGE_HTTP_TOKEN"
_SHORTEST_TOKEN = 16
_CONNECTIONS = 100
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


# -- starting ----------------------------------------------------------------------------------------------------------


def read_token(file: Path | None) -> str | None:
    """Return the token that requests must contain: from a file, or from the variable ``ROLLFORGE_HTTP_TOKEN``.

    Raises
    ------
    ConfigError
        If the file cannot be read, or the token has fewer than 16 characters or contains any but visible ASCII characters.
    """
    if file is not None:
        try:
            text, where = file.read_text(encoding="utf-8"), str(file)
        except (OSError, UnicodeDecodeError) as exc:
            # With the option as its location, the message would be taken for the token, and masked.
            why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
            raise ConfigError(
                f"The file with the token, {shown(str(file))}, cannot be read: {why}. Give another one with --token-file."
            ) from exc
    elif TOKEN_VARIABLE in os.environ:
        text, where = os.environ[TOKEN_VARIABLE], TOKEN_VARIABLE
    else:
        return None
    token = text.strip()
    if len(token) < _SHORTEST_TOKEN or not all("!" <= character <= "~" for character in token):
        raise ConfigError(
            f"The token in {where} must have at least {_SHORTEST_TOKEN} characters, only letters, digits and punctuation. "
            "Make one: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    remember_secret(token)
    return token


def is_loopback(host: str) -> bool:
    """Return whether a host can only be reached from this machine.

    Examples
    --------
    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.7", "example.com")]
    [True, True, True, False, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int, token: str | None) -> socket.socket:
    """Return a socket that listens on an address.

    Raises
    ------
    ConfigError
        If the address can be reached from other machines and there is no token, or it is not available.
    """
    if not is_loopback(host) and token is None:
        raise ConfigError(
            f"The address {host} can be reached from other machines, so requests must contain a token. Pass a file that "
            f"contains one with --token-file, or set {TOKEN_VARIABLE}."
        )
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family)
    except (OSError, OverflowError, UnicodeError) as exc:
        raise ConfigError(f"Cannot listen on {host} port {port}: {exc}.") from exc


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Return a server, which ``run(sockets=[…])`` starts and ``should_exit`` ends."""
    config = uvicorn.Config(
        app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, limit_concurrency=_CONNECTIONS, timeout_graceful_shutdown=5,
    )  # fmt: skip
    return uvicorn.Server(config)


# -- answers -----------------------------------------------------------------------------------------------------------


def make_app(reader: Reader, token: str | None, *, local: bool) -> ASGIApp:
    """Return the application.

    Parameters
    ----------
    reader : Reader
        Reads the ledger.
    token : str or None
        What ``Authorization: Bearer`` must contain; None: nothing.
    local : bool
        Whether it listens on a loopback address. The host of a request must then be a loopback address too, so that a web
        page cannot read the service through a domain of its own (DNS rebinding).
    """
    answers = _Answers(reader)
    routes = [
        Route("/", _answered(answers.services)),
        Route("/health", _answered(answers.health)),
        Route("/metrics", _answered(answers.metrics)),
        Route("/services/{service}", _answered(answers.status)),
        Route("/services/{service}/signals", _answered(answers.signals)),
        Route("/services/{service}/releases", _answered(answers.releases)),
        Route("/services/{service}/history", _answered(answers.history)),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(_Guard, token=token, local=local)],
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False  # a redirection would repeat the Host header
    return app


class _Refused(Exception):
    """A request that cannot be answered."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Answers:
    """The response to each kind of request."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def services(self, request: Request) -> Response:
        """Return the names of the services."""
        _options(request)
        return _json({"services": self.reader.services()})

    def health(self, request: Request) -> Response:
        """Return the state of all services; the status is 503 if one has a problem."""
        _options(request)
        healthy, document = health(self.reader)
        return _json(document, 200 if healthy else 503)

    def metrics(self, request: Request) -> Response:
        """Return the metrics of all services."""
        _options(request)
        return _response(metrics(self.reader), 200, "text/plain; version=0.0.4; charset=utf-8")

    def status(self, request: Request) -> Response:
        """Return the last published day of a service and its models."""
        name, state = self._service(request)
        _options(request)
        return _json(status(name, state, self.reader.held_by(name)))

    def signals(self, request: Request) -> Response:
        """Return the scores of a day, by default the latest version of the latest one."""
        name, state = self._service(request)
        given = _options(request, "day", "version", "as_of")
        known = state.known(_as_of(given, state))
        latest = known.signals()
        day = _day(given, max(latest, default=None))
        if day is None:
            raise _Refused(404, f"The service {name!r} has no signals.")
        if day not in latest:
            raise _Refused(404, no_signals(known, day))
        signal = latest[day]
        if "version" in given:
            version = _whole(given["version"], "version")
            versions = {one.version: one for one in known.versions(day)}
            if version not in versions:
                listed = ", ".join(map(str, versions))
                raise _Refused(404, f"There is no version {version} of the signals of {day}, only {listed}.")
            signal = versions[version]
        return _json(
            {"service": name, **signal_document(service_folder(name, state.definition, self.reader.uri), signal)}
        )

    def releases(self, request: Request) -> Response:
        """Return the champions and candidates on a day, by default on the day after the last published one."""
        name, state = self._service(request)
        given = _options(request, "day", "as_of")
        known = state.known(_as_of(given, state))
        day = _day(given, known.next_day())
        assert day is not None
        champions, candidates = known.champions(day), known.candidates(day)
        return _json(
            {
                "service": name,
                "day": day,
                "champions": [release.to_document() for release in champions],
                "candidates": [release.to_document() for release in candidates],
            }
        )

    def history(self, request: Request) -> Response:
        """Return the entries about a day, by default the last published one, and the champions on it."""
        name, state = self._service(request)
        day = _day(_options(request, "day"), state.last_published)
        if day is None:
            raise _Refused(404, f"The service {name!r} has not published a day.")
        entries, champions = state.history(day), state.champions(day)
        return _json(
            {
                "service": name,
                "day": day,
                "entries": [entry_document(entry) for entry in entries],
                "champions": [release.to_document() for release in champions],
            }
        )

    def _service(self, request: Request) -> tuple[str, ServiceState]:
        name = request.path_params["service"]
        state = self.reader.state(name)
        if state is None:
            raise _Refused(404, f"There is no service {name!r}.")
        return name, state


def _answered(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Convert errors to JSON responses. Starlette runs the endpoint in a thread, because it is not a coroutine."""

    def endpoint(request: Request) -> Response:
        try:
            return answer(request)
        except _Refused as exc:
            return _error(exc.code, str(exc))
        except DateError as exc:
            return _error(400, str(exc))
        except StoreUnavailable as exc:
            log.warning("%s: %s", request.url.path, mask_secrets(str(exc)))
            return _error(503, "The ledger cannot be read. The log of the HTTP service has the reason.")
        except RollforgeError as exc:
            log.warning("%s: %s", request.url.path, mask_secrets(str(exc)))
            return _error(500, str(exc))
        except Exception as exc:  # noqa: BLE001 - Starlette would answer with text that is not JSON
            log.error("%s: %s: %s", request.url.path, type(exc).__name__, mask_secrets(str(exc)))
            return _error(500, "The request failed. The log of the HTTP service has the reason.")

    return endpoint


async def _http_error(request: Request, exc: Exception) -> Response:
    """Return Starlette's own errors (404, 405) as JSON."""
    assert isinstance(exc, HTTPException)
    text = {
        404: f"There is nothing at {request.url.path}.",
        405: f"{request.method} is not allowed, only GET and HEAD.",
    }
    return _error(exc.status_code, text.get(exc.status_code, exc.detail), dict(exc.headers or {}))


class _Guard:
    """Refuses requests for another host, and those without the token.

    Starlette's ``TrustedHostMiddleware`` answers with plain text, and does not know the IPv6 address ``[::1]``.
    """

    def __init__(self, app: ASGIApp, token: str | None, local: bool) -> None:
        self._app, self._token, self._local = app, token, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        headers = Headers(scope=scope)
        if self._local and not local_host(headers.get("host", "")):
            await _error(400, "The Host header does not name this machine.")(scope, receive, send)
        elif self._token is not None and not self._has_token(headers.getlist("authorization")):
            refused = _error(401, "The request has no valid token.", {"WWW-Authenticate": "Bearer"})
            await refused(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _has_token(self, values: list[str]) -> bool:
        scheme, _, given = (values[0] if len(values) == 1 else "").partition(" ")
        return scheme.lower() == "bearer" and same_token(given.strip(), self._token or "")


def same_token(given: str, token: str) -> bool:
    """Return whether a request contains the token. How long this takes does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "backslashreplace"), token.encode())


def local_host(header: str) -> bool:
    """Return whether a Host header names this machine by a loopback address.

    Examples
    --------
    >>> local_host("localhost:8765"), local_host("evil.example:8765")
    (True, False)
    """
    return _host(header) in _LOCAL_NAMES


def _host(text: str) -> str:
    """Return the name in a Host header, without the port.

    Examples
    --------
    >>> _host("localhost:8765"), _host("[::1]:8765"), _host("LOCALHOST"), _host("[::1].example.com")
    ('localhost', '::1', 'localhost', '')
    """
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]*)\]|([^:\[\]]*))(?::\d*)?", text)
    return (found[1] or found[2] or "").lower() if found else ""


# -- arguments and responses -------------------------------------------------------------------------------------------


def _options(request: Request, *names: str) -> dict[str, str]:
    """Return the arguments of a request; refuse unknown ones, and those that occur twice."""
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in names:
            known = f"known: {', '.join(names)}" if names else "there are none"
            raise _Refused(400, f"Unknown argument {name!r}; {known}.")
        if name in given:
            raise _Refused(400, f"The argument {name!r} occurs twice.")
        given[name] = value
    if "version" in given and "as_of" in given:
        raise _Refused(400, "Give either version or as_of.")
    return given


def _day(given: dict[str, str], default: str | None) -> str | None:
    return str(read_day(given["day"], "day")) if "day" in given else default


def _whole(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise _Refused(400, f"{name} must be a whole number, found {text!r}.")
    return int(text)


def _as_of(given: dict[str, str], state: ServiceState) -> float | int | None:
    """Return the number of an entry, or a time in the past."""
    if "as_of" not in given:
        return None
    try:
        return read_as_of(given["as_of"], state)
    except ConfigError as exc:
        raise _Refused(400, str(exc)) from None


def _masked(value: object) -> object:
    """Return plain JSON with secrets masked: entries contain texts of workflows, which others may have written."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, dict):
        return {key: _masked(one) for key, one in value.items()}
    return [_masked(one) for one in value] if isinstance(value, (list, tuple)) else value


def _json(document: object, code: int = 200) -> Response:
    text = json.dumps(_masked(document), ensure_ascii=False, allow_nan=False)
    return _response(text + "\n", code, "application/json")


def _error(code: int, message: str, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps({"error": mask_secrets(message)}, ensure_ascii=False)
    return _response(text + "\n", code, "application/json", headers)


def _response(text: str, code: int, media_type: str, headers: dict[str, str] | None = None) -> Response:
    own = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})}
    return Response(text.encode("utf-8", "backslashreplace"), code, own, media_type)
