"""Notifications by e-mail: the target ``email`` of the section ``notify``."""

from __future__ import annotations

import json
import os
import re
import smtplib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from rollforge.confidential import remember_secret
from rollforge.errors import nearest, shown

__all__ = ["Email", "email_schema", "read_email"]

PORTS = {"starttls": 587, "tls": 465, "none": 25}
"""How the connection is encrypted -> the usual port."""
ANSWER_SECONDS = 8.0
"""Maximum wait for each answer of the server."""
_ADDRESS = r"[^\s@,;<>]+@[^\s@,;<>]+"
_SERVER = r"[A-Za-z0-9._-]+(?::[0-9]{1,5})?"
_VARIABLE = r"env:[A-Za-z_]\w*"
_PATTERNS = {"from": _ADDRESS, "server": _SERVER, "user": r"\S+", "password": _VARIABLE}
_EXPECTED = {
    "from": "an e-mail address",
    "server": "HOST or HOST:PORT",
    "user": "a name without spaces",
    "password": "env:NAME, so that it is not in the file",
}
_KEYS = ("to", *_PATTERNS, "security")


@dataclass(frozen=True, slots=True)
class Email:
    """Recipients of an e-mail, and the server that sends it."""

    to: tuple[str, ...]
    server: str
    """``HOST`` or ``HOST:PORT``."""
    sender: str = ""
    """By default the user, if it is an address, or else ``rollforge@`` and the name of this machine."""
    user: str = ""
    password: str = field(default="", repr=False)
    """``env:NAME``."""
    security: str = "starttls"
    """``starttls``, ``tls`` or ``none``."""

    def __str__(self) -> str:
        return f"email through {self.server}"

    def secret(self) -> tuple[str, str]:
        """Return the password, and what is wrong with it. From now on it is masked as a secret."""
        if not self.password:
            return "", ""
        name = self.password.removeprefix("env:")
        value = os.environ.get(name, "")
        if not value:
            return "", f"the variable {name} is not set"
        remember_secret(value)
        return value, ""

    def deliver(self, payload: bytes) -> str:
        """Send the document, and return the error; empty if there was none."""
        password, problem = self.secret()
        if problem:
            return problem
        try:
            with self._connected() as server:
                if self.security == "starttls":
                    server.starttls(context=ssl.create_default_context())
                if self.user:
                    server.login(self.user, password)
                refused = server.send_message(self._message(json.loads(payload)))
        except smtplib.SMTPAuthenticationError:
            return "the server refuses the user or the password"
        except smtplib.SMTPResponseException as exc:
            return f"SMTP status {exc.smtp_code}"
        except smtplib.SMTPRecipientsRefused:
            return "the server refuses all recipients"
        except (OSError, smtplib.SMTPException) as exc:
            if isinstance(exc, TimeoutError) or isinstance(exc.__context__, TimeoutError):
                return f"no answer within {ANSWER_SECONDS:g} seconds"
            return str(getattr(exc, "strerror", None) or exc or type(exc).__name__)
        return f"the server refuses {', '.join(refused)}" if refused else ""

    def _connected(self) -> smtplib.SMTP:
        host, _, port = self.server.partition(":")
        number = int(port) if port else PORTS[self.security]
        if self.security == "tls":
            return smtplib.SMTP_SSL(host, number, timeout=ANSWER_SECONDS, context=ssl.create_default_context())
        return smtplib.SMTP(host, number, timeout=ANSWER_SECONDS)

    def _message(self, document: Mapping[str, Any]) -> EmailMessage:
        """Return the message: the text in one line as its subject, and the document."""
        message = EmailMessage()
        text = " ".join(str(document.get("text") or document.get("event") or "").split())
        message["Subject"] = f"rollforge: {text[:150]}"
        message["From"] = self.sender or (self.user if "@" in self.user else f"rollforge@{socket.gethostname()}")
        message["To"] = ", ".join(self.to)
        message.set_content(f"{text}\n\n{json.dumps(document, indent=1, ensure_ascii=False)}\n", cte="quoted-printable")
        return message


def read_email(value: object) -> tuple[Email | None, str]:
    """Return the target that a mapping describes, or None and what is wrong with it.

    Examples
    --------
    >>> read_email({"to": "a@example.com", "server": "smtp.example.com", "security": "tls"})[0].to
    ('a@example.com',)
    >>> read_email({"to": "a", "server": "smtp.example.com"})[1]
    "to must be an e-mail address, or a list of them, found 'a'."
    """
    if not isinstance(value, Mapping):
        return None, f"must be a mapping with the keys to and server, found {shown(value)}."
    given = value.get("to")
    to: Any = [given] if isinstance(given, str) else given
    if problem := _keys_problem(value, to) or _values_problem(value):
        return None, problem
    texts = {key: str(value.get(key, "")) for key in _PATTERNS}
    security = str(value.get("security", "starttls"))
    return Email(tuple(to), texts["server"], texts["from"], texts["user"], texts["password"], security), ""


def _keys_problem(value: Mapping[Any, object], to: Any) -> str:
    for key in value:
        if key not in _KEYS:
            return f"unknown key {shown(key)}.{nearest(str(key), _KEYS)} Allowed: {', '.join(_KEYS)}."
    if not isinstance(to, list) or not to or not all(_is(_ADDRESS, one) for one in to):
        return f"to must be an e-mail address, or a list of them, found {shown(value.get('to'))}."
    if "server" not in value:
        return "server is missing: HOST or HOST:PORT."
    return "" if ("user" in value) == ("password" in value) else "user and password must be given together."


def _values_problem(value: Mapping[Any, object]) -> str:
    for key, pattern in _PATTERNS.items():
        if key in value and not _is(pattern, value[key]):
            found = "" if key == "password" else f", found {shown(value[key])}"
            return f"{key} must be {_EXPECTED[key]}{found}."
    security = value.get("security", "starttls")
    if not isinstance(security, str) or security not in PORTS:
        return f"security must be {', '.join(PORTS)}, found {shown(security)}."
    if security == "none" and "user" in value:
        return "security: none would send the password without encryption."
    return ""


def _is(pattern: str, value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and re.fullmatch(pattern, value) is not None


def email_schema() -> dict[str, object]:
    """Return the JSON Schema of what :func:`read_email` accepts."""
    address = {"type": "string", "pattern": f"^{_ADDRESS}$"}
    keys: dict[str, object] = {"to": {"anyOf": [address, {"type": "array", "minItems": 1, "items": address}]}}
    keys |= {key: {"type": "string", "pattern": f"^{pattern}$"} for key, pattern in _PATTERNS.items()}
    keys["security"] = {"enum": list(PORTS), "default": "starttls"}
    return {
        "type": "object", "properties": keys, "required": ["to", "server"], "additionalProperties": False,
        "dependentRequired": {"user": ["password"], "password": ["user"]},
        "not": {"properties": {"security": {"const": "none"}}, "required": ["security", "user"]},
    }  # fmt: skip
