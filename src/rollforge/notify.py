"""Notifications about jobs: a run with failed tasks, a day of a service that failed, a check that warned.

The section ``notify`` of a workflow lists commands, webhooks, recipients of e-mail and objects of the user's own classes. Each
gets one JSON document: a command on its standard input, a webhook as the body of a POST, a recipient in the text, an object as
the argument of ``notify()``. Targets are read from the workflow file that the user runs, and never from a pool or the text in a
ledger. A failed notification is reported and has no other effect.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import json
import logging
import math
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from rollforge.build import build, target_of
from rollforge.confidential import mask_secrets, remember_secret
from rollforge.errors import ConfigError, nearest, shown
from rollforge.kinds import NOTIFIER
from rollforge.mail import Email, email_schema, read_email

__all__ = ["Command", "Notifier", "Target", "Webhook", "read_targets", "send", "targets_schema", "without_addresses"]

log = logging.getLogger(__name__)

SECONDS = 30.0
"""Seconds after which delivery to a target that has not accepted the document is abandoned."""
ANSWER_SECONDS = 8.0
"""Maximum wait for a webhook's response in one attempt."""
PAUSE_SECONDS = 1.0
"""Pause before the second attempt; it doubles."""
_ATTEMPTS = 3
_MAX_TARGETS = 20
_MAX_TEXT_LENGTH = 4000
_FROM_VARIABLE = "env:"
_FORMS = "{command: …}, {webhook: …}, {email: …} or {class: …, module_path: …}"
_NOTIFIER_KEYS = ("class", "module_path", "kwargs")
_WRONG_COMMAND = "must be a command line, or a list of its words."
_WRONG_URL = "must begin with http:// or https:// and name a host, without user and password, or be env:NAME."


@dataclass(frozen=True, slots=True)
class Command:
    """A program that gets the document on its standard input. It is started without a shell."""

    words: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        return f"command {self.words[0]}"  # the other words can contain a secret

    def deliver(self, payload: bytes) -> str:
        """Run the program, and return the error; empty if there was none."""
        with tempfile.TemporaryFile() as said:
            try:
                process = subprocess.Popen(
                    self.words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
                )
            except (OSError, ValueError) as exc:  # ValueError: the words cannot be encoded
                return getattr(exc, "strerror", None) or type(exc).__name__
            try:
                process.communicate(payload, timeout=SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended
                    os.killpg(process.pid, signal.SIGKILL)  # with what it has started
                process.wait()
                return f"it did not end within {SECONDS:g} seconds"
            if process.returncode == 0:
                return ""
            said.seek(0)
            lines = said.read(10_000).decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            return f"exit code {process.returncode}{': ' if last else ''}{mask_secrets(last)[:200]}"


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address to which the document is posted."""

    url: str = field(repr=False)
    """``http://`` or ``https://``, or ``env:NAME`` for the value of a variable."""

    def __str__(self) -> str:
        if self.url.startswith(_FROM_VARIABLE):
            return f"webhook {self.url}"
        return f"webhook {urlsplit(self.url).hostname}"  # the path can contain a secret, too

    def address(self) -> tuple[str, str]:
        """Return the address, and what is wrong with it. From now on it is masked as a secret."""
        if not self.url.startswith(_FROM_VARIABLE):
            return self.url, ""
        value = os.environ.get(self.url.removeprefix(_FROM_VARIABLE), "").strip()
        if not value:
            return "", "the variable is not set"
        problem = _url_problem(value)
        if problem or value.startswith(_FROM_VARIABLE):
            return "", f"the value of the variable {_WRONG_URL.partition(', or be')[0]}"
        remember_secret(value)
        return value, ""

    def deliver(self, payload: bytes) -> str:
        """Post the document, and return the error, or an empty string."""
        url, problem = self.address()
        for attempt in range(0 if problem else _ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
            problem, again = _post(url, payload)
            if not again:
                break
        return problem


@dataclass(frozen=True, slots=True, eq=False)
class Notifier:
    """An object of a class of the user's own, which has the method ``notify(document)``."""

    config: Mapping[str, object] = field(repr=False)
    """``class``, ``module_path`` and ``kwargs``. A text ``env:NAME`` among the arguments is the value of a variable."""
    place: str
    """Location in the workflow, for messages."""

    def __str__(self) -> str:
        return f"class {self.config['class']}"

    def check(self) -> None:
        """Import the class.

        Raises
        ------
        BuildError
            If there is no such class, it has no such method, or its arguments are wrong.
        """
        target_of(self.config, kind=NOTIFIER, where=self.place)

    def secrets(self) -> dict[str, str]:
        """Return the arguments that are variables, by name. From now on they are masked as secrets.

        Raises
        ------
        ConfigError
            If a variable is not set.
        """
        found = {}
        for name, value in _arguments_of(self.config).items():
            if isinstance(value, str) and value.startswith(_FROM_VARIABLE):
                variable = value.removeprefix(_FROM_VARIABLE)
                if variable not in os.environ:
                    raise ConfigError(f"the variable {variable} is not set.", path=f"{self.place}.kwargs.{name}")
                remember_secret(os.environ[variable])
                found[name] = os.environ[variable]
        return found

    def deliver(self, payload: bytes) -> str:
        """Build the object, call its method, and return the error; empty if there was none."""
        try:
            config = {**self.config, "kwargs": {**_arguments_of(self.config), **self.secrets()}}
            build(config, kind=NOTIFIER, where=self.place).notify(json.loads(payload))
        except Exception as exc:
            log.debug("a notification failed", exc_info=True)
            text = " ".join(str(exc).split())
            return f"{type(exc).__name__}{f': {text}' if text else ''}"[:_MAX_TEXT_LENGTH]
        return ""


def _arguments_of(config: Mapping[str, object]) -> dict[str, object]:
    given = config.get("kwargs")
    return dict(given) if isinstance(given, Mapping) else {}


Target = Command | Webhook | Email | Notifier


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is a failure: following it would turn the POST into a GET, without the document."""

    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None


def _post(url: str, payload: bytes) -> tuple[str, bool]:
    """Post a document, and return the error, and whether another attempt may succeed."""
    headers = {"Content-Type": "application/json", "User-Agent": "rollforge"}
    request = urllib.request.Request(url, payload, headers, method="POST")
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=ANSWER_SECONDS):
            return "", False
    except urllib.error.HTTPError as exc:
        with exc:
            return f"HTTP status {exc.code}", exc.code >= 500 or exc.code in (408, 429)
    except (OSError, http.client.HTTPException, ValueError) as exc:  # ValueError: http.client refuses the address
        reason = getattr(exc, "reason", exc)
        if isinstance(reason, TimeoutError):
            return f"no answer within {ANSWER_SECONDS:g} seconds", True
        return str(getattr(reason, "strerror", None) or type(reason).__name__), not isinstance(exc, ValueError)


def send(targets: Sequence[Target], document: Mapping[str, object]) -> dict[Target, str]:
    """Send a document to all targets at the same time, and return those that failed, each with a message.

    Never raises an error, and returns within a minute. Secrets in the document are masked.

    Parameters
    ----------
    targets : sequence of Command, Webhook, Email or Notifier
        The recipients.
    document : mapping
        Plain JSON. The host and the time are added.
    """
    if not targets:
        return {}
    for target in targets:
        if isinstance(target, Webhook):
            target.address()  # register it as a secret before anything is masked
        elif isinstance(target, Email):
            target.secret()
        elif isinstance(target, Notifier):
            with contextlib.suppress(ConfigError):  # is said when it is delivered
                target.secrets()
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    payload = json.dumps(_masked({**document, "host": socket.gethostname(), "time": now})).encode()
    answers: dict[int, str] = {}

    def deliver(place: int, target: Target) -> None:
        try:
            answers[place] = target.deliver(payload)
        except Exception as exc:  # a notification must not change what happens to the job
            log.debug("a notification failed", exc_info=True)
            answers[place] = type(exc).__name__

    threads = [
        threading.Thread(target=deliver, args=(place, target), name="notify", daemon=True)
        for place, target in enumerate(targets)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SECONDS + 5
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = f"no answer within {SECONDS:g} seconds"
    problems = {target: answers.get(place, late) for place, target in enumerate(targets)}
    failed = {target: problem for target, problem in problems.items() if problem}
    return {target: mask_secrets(f"the notification by {target} failed: {text}") for target, text in failed.items()}


def _masked(value: object) -> object:
    """Return plain JSON with secrets masked, long texts shortened, and None for numbers that JSON does not have."""
    if isinstance(value, str):
        text = mask_secrets(value)
        return text if len(text) <= _MAX_TEXT_LENGTH else f"{text[:_MAX_TEXT_LENGTH]}…"
    if isinstance(value, Mapping):
        return {key: _masked(one) for key, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_masked(one) for one in value] if isinstance(value, (list, tuple)) else value


def without_addresses(text: str, targets: Sequence[Target]) -> str:
    """Return the text of a workflow without the addresses of its webhooks, as others may see it.

    Examples
    --------
    >>> without_addresses("notify: [{webhook: https://host/T0/B1}]", [Webhook("https://host/T0/B1")])
    'notify: [{webhook: ***}]'
    """
    addresses = {target.url for target in targets if isinstance(target, Webhook)}
    for address in sorted(addresses, key=len, reverse=True):
        if not address.startswith(_FROM_VARIABLE):
            text = text.replace(address, "***")
    return text


def read_targets(section: object) -> tuple[tuple[Target, ...], list[tuple[str, str]]]:
    """Return the targets of the section ``notify``, and what is wrong with it: the location and the message.

    Examples
    --------
    >>> read_targets([{"command": "mail -s 'a job' me"}, {"webhook": "https://host/hook"}])[0][0].words
    ('mail', '-s', 'a job', 'me')
    >>> read_targets([{"phone": "me"}])[1]
    [('notify.0.phone', 'unknown key. Allowed: command, webhook, email, class.')]
    """
    if section is None:
        return (), []
    if not isinstance(section, list):
        return (), [("notify", f"must be a list of {_FORMS.replace(' or ', ' and ')}, found {shown(section)}.")]
    if len(section) > _MAX_TARGETS:
        return (), [("notify", f"must have at most {_MAX_TARGETS} entries, found {len(section)}.")]
    targets: list[Target] = []
    wrong: list[tuple[str, str]] = []
    for place, given in enumerate(section):
        path = f"notify.{place}"
        if isinstance(given, Mapping) and "class" in given:
            mistake = _notifier_problem(given)
            if mistake is None:
                targets.append(Notifier(dict(given), path))
            else:
                wrong.append((f"{path}{mistake[0]}", mistake[1]))
            continue
        if not isinstance(given, Mapping) or len(given) != 1:
            wrong.append((path, f"must be {_FORMS}."))
            continue
        ((kind, value),) = given.items()
        target, problem = _read_target(str(kind), value)
        if target is None:
            wrong.append((f"{path}.{kind}", problem))
        else:
            targets.append(target)
    return tuple(dict.fromkeys(targets)), wrong


def targets_schema() -> dict[str, object]:
    """Return the JSON Schema of the section: what :func:`read_targets` accepts."""
    text = {"type": "string", "minLength": 1}
    values: dict[str, dict[str, object]] = {
        "command": {"anyOf": [text, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
        "webhook": {"type": "string", "pattern": rf"^(https?://[^\s@]+|{_FROM_VARIABLE}[^\s]+)$"},
        "email": email_schema(),
    }
    target = {
        "type": "object", "properties": values, "additionalProperties": False, "minProperties": 1, "maxProperties": 1,
    }  # fmt: skip
    own = {
        "type": "object", "properties": {"class": text, "module_path": text, "kwargs": {"type": ["object", "null"]}},
        "additionalProperties": False, "required": ["class"],
    }  # fmt: skip
    return {"anyOf": [{"type": "array", "maxItems": _MAX_TARGETS, "items": {"anyOf": [target, own]}}, {"type": "null"}]}


def _notifier_problem(given: Mapping[object, object]) -> tuple[str, str] | None:
    """Return what is wrong with the description of an object, and where."""
    for key, value in given.items():
        if key not in _NOTIFIER_KEYS:
            return f".{key}", f"unknown key.{nearest(str(key), _NOTIFIER_KEYS)} Allowed: {', '.join(_NOTIFIER_KEYS)}."
        if key != "kwargs" and not (isinstance(value, str) and value):
            return f".{key}", f"must be text, found {shown(value)}."
        if key == "kwargs" and not isinstance(value, (Mapping, type(None))):
            return f".{key}", f"must be a mapping, found {shown(value)}."
    return None


def _read_target(kind: str, value: object) -> tuple[Target | None, str]:
    """Return a target, or what is wrong with it."""
    if kind == "command":
        arguments = _arguments(value)
        return (Command(arguments), "") if arguments is not None else (None, _WRONG_COMMAND)
    if kind == "email":
        return read_email(value)
    if kind != "webhook":
        allowed = ["command", "webhook", "email", "class"]
        return None, f"unknown key.{nearest(kind, allowed)} Allowed: {', '.join(allowed)}."
    problem = _url_problem(value)
    if problem or not isinstance(value, str):
        return None, problem
    if not value.startswith(_FROM_VARIABLE):
        remember_secret(value)
    return Webhook(value), ""


def _arguments(value: object) -> tuple[str, ...] | None:
    """Return the words of a command; None if it is not a valid command."""
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError:
            return None
    elif isinstance(value, list) and all(isinstance(word, str) for word in value):
        words = value
    else:
        return None
    return tuple(words) if words and words[0] and not any("\0" in word for word in words) else None


def _url_problem(value: object) -> str:
    """Return why a value is not a valid webhook address, without repeating it; empty if it is valid."""
    if not isinstance(value, str):
        return _WRONG_URL
    if value.startswith(_FROM_VARIABLE):
        return "" if value.removeprefix(_FROM_VARIABLE).isidentifier() else _WRONG_URL
    try:
        parts = urlsplit(value)
        good = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        good = False
    return "" if good and value.isascii() and value.isprintable() and " " not in value else _WRONG_URL
