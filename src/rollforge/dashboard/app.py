"""The dashboard as a web application: addresses, access, events. The only module of the dashboard that imports Starlette.

Nothing that a page shows can run as a script: templates escape all text, scripts and style sheets are files of the package, and
the Content-Security-Policy of each response forbids all others.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache
from importlib import resources
from urllib.parse import parse_qs

from rollforge.confidential import mask_secrets
from rollforge.dashboard.pages import Pages
from rollforge.errors import (
    ArtifactNotFound,
    ConfigError,
    MissingDependency,
    RollforgeError,
    StoreUnavailable,
    TaskNotFound,
)
from rollforge.online.http import local_host, same_token
from rollforge.report.html import plotly_script

try:
    import anyio
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ImportError as exc:
    raise MissingDependency(
        f"The dashboard requires Starlette and uvicorn ({exc}). Install them: pip install 'rollforge[dashboard]'"
    ) from exc

__all__ = ["COOKIE", "POLICY", "make_app"]

log = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of a page."""
PLOTS_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'").replace(
    "img-src 'self'", "img-src 'self' data:"
)
"""The policy of pages with plots: plotly.js and the report's tables set styles of elements. Scripts are as restricted."""
COOKIE = "rollforge_dashboard"
_HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store",
}  # fmt: skip
_LOOK_SECONDS = 1.0
_PING = 15
"""Number of looks without a change after which a comment is sent, so that a closed connection is noticed."""
_MAX_FORM = 4096
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def make_app(pages: Pages, token: str | None, *, local: bool, ended: Callable[[], bool] = lambda: False) -> ASGIApp:
    """Return the application.

    Parameters
    ----------
    pages : Pages
        Renders the pages.
    token : str or None
        What a request must contain, as ``Authorization: Bearer`` or as the cookie that the login sets; None: nothing.
    local : bool
        Whether it listens on a loopback address. The host of a request must then be a loopback address too, so that a web
        page cannot read the dashboard through a domain of its own (DNS rebinding).
    ended : callable
        Whether the server is about to end, so that streams of events end too.
    """
    answers = _Answers(pages, token, ended)
    routes = [
        Route("/", _answered(pages, answers.experiments)),
        Route("/experiment", _answered(pages, answers.experiment)),
        Route("/task", _answered(pages, answers.task)),
        Route("/artifact", _answered(pages, answers.artifact)),
        Route("/result", _answered(pages, answers.result)),
        Route("/compare", _answered(pages, answers.compare)),
        Route("/events", answers.events),
        Route("/login", answers.login, methods=["POST"]),
        Route("/static/{name}", answers.static),
    ]

    async def not_found(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        return _html(
            pages.message("Not found" if exc.status_code == 404 else "Not allowed", exc.detail), exc.status_code
        )

    app = Starlette(
        routes=routes,
        middleware=[Middleware(_Guard, pages=pages, token=token, local=local)],
        exception_handlers={HTTPException: not_found},
    )
    app.router.redirect_slashes = False  # a redirection would repeat the Host header
    return app


def _arguments(request: Request) -> dict[str, str]:
    """Return the arguments of a request; the last one if a name occurs twice."""
    return dict(request.query_params)


class _Answers:
    """The response to each kind of request."""

    def __init__(self, pages: Pages, token: str | None, ended: Callable[[], bool]) -> None:
        self.pages = pages
        self._token = token
        self._ended = ended

    def experiments(self, request: Request) -> Response:
        """Return the list of experiments."""
        return _html(self.pages.experiments(_arguments(request)))

    def experiment(self, request: Request) -> Response:
        """Return the page of an experiment."""
        given = _arguments(request)
        return _html(self.pages.experiment(given.get("name", ""), given))

    def task(self, request: Request) -> Response:
        """Return the page of a task."""
        given = _arguments(request)
        return _html(self.pages.task(given.get("experiment", ""), given.get("id", "")))

    def artifact(self, request: Request) -> Response:
        """Return a file of a task's run, to be saved."""
        given = _arguments(request)
        file = self.pages.artifact(given.get("experiment", ""), given.get("id", ""), given.get("file", ""))
        # Never shown by the browser: others may have written it.
        return FileResponse(file, media_type="application/octet-stream", filename=file.name)

    def result(self, request: Request) -> Response:
        """Return the figures of the report for what is finished."""
        return _html(self.pages.result(_arguments(request).get("experiment", "")), policy=PLOTS_POLICY)

    def compare(self, request: Request) -> Response:
        """Return the comparison of experiments and models."""
        given = request.query_params
        return _html(self.pages.compare(given.getlist("e"), given.get("reference", "")), policy=PLOTS_POLICY)

    def static(self, request: Request) -> Response:
        """Return a style sheet, a script or an icon."""
        found = _static(request.path_params["name"])
        if found is None:
            raise HTTPException(404, "There is no such file.")
        body, media_type, tag = found
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, 200, headers, media_type)

    async def login(self, request: Request) -> Response:
        """Set the cookie that contains a mark of the token."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_FORM:
                raise HTTPException(413, "The form is too large.")
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0].strip()
        if self._token is None or not same_token(given, self._token):
            return _html(_login_page(self.pages, "This is not the token."), 401)
        return _logged_in("/", self._token)

    async def events(self, request: Request) -> Response:
        """Return a stream with an event for each change of an experiment, or of any."""
        pool, task_id = (request.query_params.get(name, "") for name in ("experiment", "id"))

        def mark() -> str:
            if task_id:
                return self.pages.task_mark(pool, task_id)
            return self.pages.mark(pool) if pool else self.pages.mark_of_all()

        async def stream() -> AsyncIterator[bytes]:
            yield b"retry: 2000\n\n"
            known, looks = "", 0
            while not self._ended() and not await request.is_disconnected():
                try:
                    found = await run_in_threadpool(mark)
                except RollforgeError as exc:  # the store is away for a moment; the browser connects again
                    log.warning("events: %s", mask_secrets(str(exc)))
                    return
                looks += 1
                if found != known:
                    yield b"event: change\ndata: \n\n" if known else b": begin\n\n"
                    known, looks = found, 0
                elif looks % _PING == 0:
                    yield b": \n\n"
                await anyio.sleep(_LOOK_SECONDS)

        return StreamingResponse(stream(), media_type="text/event-stream")


def _answered(pages: Pages, answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Convert errors to pages. Starlette runs the endpoint in a thread, because it is not a coroutine."""

    def endpoint(request: Request) -> Response:
        try:
            return answer(request)
        except HTTPException:
            raise
        except (TaskNotFound, ArtifactNotFound) as exc:
            return _html(pages.message("Not found", str(exc)), 404)
        except StoreUnavailable as exc:
            log.warning("%s: %s", request.url.path, mask_secrets(str(exc)))
            return _html(pages.message("The task store cannot be read", str(exc)), 503)
        except ConfigError as exc:
            return _html(pages.message("This page cannot be shown", str(exc)), 400)
        except RollforgeError as exc:
            log.warning("%s: %s", request.url.path, mask_secrets(str(exc)))
            return _html(pages.message("This page cannot be shown", str(exc)), 500)
        except Exception as exc:  # noqa: BLE001 - the details belong in the log of the dashboard, not on a page
            log.error("%s: %s: %s", request.url.path, type(exc).__name__, mask_secrets(str(exc)))
            reason = "The log of the dashboard has the reason."
            return _html(pages.message("This page cannot be shown", reason), 500)

    return endpoint


_PLOTLY = "plotly.js"


@cache
def _static(name: str) -> tuple[bytes, str, str] | None:
    """Return a file by its name, its media type and its mark; None if there is none. Only listed names are looked for."""
    package, file = _FILES.get(name, ("", ""))
    if not file:
        return None
    if name == _PLOTLY:
        script = plotly_script()
        if script is None:
            return None
        body = script.encode()
    else:
        body = resources.files(package).joinpath(file).read_bytes()
    return body, _TYPES[file[file.rindex(".") :]], f'"{hashlib.sha256(body).hexdigest()[:20]}"'


_FILES: Mapping[str, tuple[str, str]] = {
    "report.css": ("rollforge.report", "page.css"),
    "report.js": ("rollforge.report", "page.js"),
    _PLOTLY: ("", "plotly.js"),
    "dashboard.css": ("rollforge.dashboard", "static/dashboard.css"),
    "dashboard.js": ("rollforge.dashboard", "static/dashboard.js"),
    "icon.svg": ("rollforge.dashboard", "static/icon.svg"),
}
"""Name in an address -> package and file."""


# -- access ------------------------------------------------------------------------------------------------------------


def _session_mark(token: str) -> str:
    """Return what the cookie contains: a hash, from which the token cannot be computed."""
    return hmac.new(token.encode(), b"dashboard", hashlib.sha256).hexdigest()


def _logged_in(address: str, token: str) -> Response:
    response = RedirectResponse(address, 303)
    response.set_cookie(COOKIE, _session_mark(token), httponly=True, samesite="strict", path="/")
    return response


def _login_page(pages: Pages, message: str) -> str:
    return pages.render("login.html", title="Token", message=message)


def _html(text: str, code: int = 200, policy: str = POLICY) -> Response:
    headers = {"Content-Security-Policy": policy}
    return Response(text.encode("utf-8", "backslashreplace"), code, headers, "text/html; charset=utf-8")


class _Guard:
    """Refuses requests for another host and those without the token, and adds the headers that restrict pages."""

    def __init__(self, app: ASGIApp, pages: Pages, token: str | None, local: bool) -> None:
        self._app, self._pages, self._token, self._local = app, pages, token, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)  # a page with plots has set its policy
            await send(message)

        request = Request(scope)
        headers = Headers(scope=scope)
        answer: Response | None = None
        if self._local and not local_host(headers.get("host", "")):
            answer = _html(self._pages.message("Not allowed", "The Host header does not name this machine."), 400)
        elif self._token is not None and not self._may_pass(request):
            given = request.query_params.get("token", "")
            if given and same_token(given, self._token):  # the address that the command prints
                answer = _logged_in(request.url.path if request.url.path.startswith("/") else "/", self._token)
            else:
                message = "This dashboard can be opened with its token only. The person who started it knows it."
                answer = _html(_login_page(self._pages, message), 401)
        await (answer or self._app)(scope, receive, with_headers)

    def _may_pass(self, request: Request) -> bool:
        token = self._token or ""
        if request.url.path in _OPEN:
            return True
        if same_token(request.cookies.get(COOKIE, ""), _session_mark(token)):
            return True
        values = request.headers.getlist("authorization")
        scheme, _, given = (values[0] if len(values) == 1 else "").partition(" ")
        return scheme.lower() == "bearer" and same_token(given.strip(), token)


_OPEN = frozenset({"/login", *(f"/static/{name}" for name in _FILES)})
"""What can be read without the token: the form for it, and files of the package."""
