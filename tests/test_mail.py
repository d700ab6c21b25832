"""Notifications by e-mail, through a real SMTP server in a thread."""

from __future__ import annotations

import base64
import json
import shutil
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from rollforge import mail
from rollforge.confidential import mask_secrets
from rollforge.mail import Email, read_email
from rollforge.notify import read_targets, send

DOCUMENT = {
    "job": "run",
    "event": "tasks_failed",
    "name": "rolling",
    "text": "rolling: 2 of 7 tasks failed: größer\n\nx",
}


class Session(socketserver.StreamRequestHandler):
    """The commands of SMTP that a client uses to send a message."""

    server: Server

    def handle(self) -> None:
        if self.server.silent:
            self.rfile.readline()
            return
        if self.server.context is None:
            self.talk()
            return
        with (
            suppress(ssl.SSLError),  # the client does not trust the certificate
            self.server.context.wrap_socket(self.connection, server_side=True) as connection,
            connection.makefile("rb") as self.rfile,
            connection.makefile("wb", buffering=0) as self.wfile,
        ):
            self.talk()

    def talk(self) -> None:
        self.say("220 ready")
        while line := self.rfile.readline().decode().strip():
            word = line.partition(" ")[0].upper()
            if word == "EHLO":
                self.say("250-here\r\n250-8BITMIME\r\n250 AUTH PLAIN")
            elif word == "AUTH":
                self.server.login = base64.b64decode(line.split()[2]).decode().split("\0")[1:]
                self.say("235 welcome" if self.server.login[1] == "hunter22" else "535 no")
            elif word == "RCPT" and "unknown" in line:
                self.say("550 no such user")
            elif word == "DATA":
                self.say("354 go on")
                text = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.messages.append(message_from_bytes(text, policy=policy.default))
                self.say("250 queued")
            else:
                self.say("221 bye" if word == "QUIT" else "250 fine")

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class Server(socketserver.ThreadingTCPServer):
    """A server that keeps what it is sent."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None = None, *, silent: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.context, self.silent = context, silent
        self.messages: list[Any] = []
        self.login: list[str] = []

    @property
    def address(self) -> str:
        return f"localhost:{self.server_address[1]}"


@contextmanager
def serving(context: ssl.SSLContext | None = None, *, silent: bool = False) -> Iterator[Server]:
    with Server(context, silent=silent) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def test_recipients_get_the_document() -> None:
    """The subject is the text in one line, and the body has the document, with secrets masked."""
    with serving() as server:
        section = [{"email": {"to": ["a@b.c", "d@e.f"], "server": server.address, "from": "x@y.z", "security": "none"}}]
        targets, wrong = read_targets(section)
        assert wrong == []
        assert send(targets, {**DOCUMENT, "error": "password=secret1"}) == {}
    (message,) = server.messages
    assert isinstance(message, EmailMessage)
    assert (message["To"], message["From"]) == ("a@b.c, d@e.f", "x@y.z")
    assert message["Subject"] == "rollforge: rolling: 2 of 7 tasks failed: größer x"
    found = json.loads(message.get_content().replace("\r", "").partition("\n\n")[2])
    assert {key: found[key] for key in DOCUMENT} == DOCUMENT
    assert found["error"] == "password=***"


def test_a_password_is_only_sent_over_an_encrypted_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``tls`` the certificate must be valid; a server without STARTTLS gets neither password nor document."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    monkeypatch.setenv("MAIL_PASSWORD", "hunter22")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"]
    options = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *options], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with serving(context) as server:
        target = Email(("a@b.c",), server.address, user="u@v.w", password="env:MAIL_PASSWORD", security="tls")
        assert "certificate" in send([target], DOCUMENT)[target].lower()
        assert (server.messages, server.login) == ([], [])
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        assert send([target], DOCUMENT) == {}
        assert server.login == ["u@v.w", "hunter22"]
        assert server.messages[0]["From"] == "u@v.w"
        monkeypatch.setenv("MAIL_PASSWORD", "other")
        assert send([target], DOCUMENT)[target].endswith("failed: the server refuses the user or the password")
    assert mask_secrets("it is hunter22") == "it is ***"
    with serving() as plain:
        target = Email(("a@b.c",), plain.address, user="u", password="env:MAIL_PASSWORD")
        assert "STARTTLS" in send([target], DOCUMENT)[target]
    assert (plain.messages, plain.login) == ([], [])


def test_failures_are_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused recipients, a server that is not there or never answers, and a variable that is not set."""
    monkeypatch.setattr(mail, "ANSWER_SECONDS", 0.3)
    with serving() as server:
        both = Email(("a@b.c", "unknown@b.c"), server.address, security="none")
        none = Email(("unknown@b.c",), server.address, security="none")
        failed = send([both, none], DOCUMENT)
    assert failed[both].endswith("failed: the server refuses unknown@b.c")
    assert failed[none].endswith("failed: the server refuses all recipients")
    assert len(server.messages) == 1
    gone = Email(("a@b.c",), server.address, security="none")
    assert "refused" in send([gone], DOCUMENT)[gone].lower()
    with serving(silent=True) as server:
        silent = Email(("a@b.c",), server.address, security="none")
        assert send([silent], DOCUMENT)[silent].endswith("no answer within 0.3 seconds")
    unset = Email(("a@b.c",), "localhost", user="u", password="env:NOT_SET_ANYWHERE")
    assert send([unset], DOCUMENT)[unset].endswith("failed: the variable NOT_SET_ANYWHERE is not set")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a@b.c", "must be a mapping with the keys to and server, found 'a@b.c'."),
        ({"to": "a@b.c"}, "server is missing: HOST or HOST:PORT."),
        ({"to": [], "server": "h"}, "to must be an e-mail address, or a list of them, found []."),
        ({"to": "a@b.c\nBcc: x@y.z", "server": "h"}, "to must be an e-mail address"),
        ({"to": "a@b.c", "server": "h", "sender": "x"}, "unknown key 'sender'.", ),
        ({"to": "a@b.c", "server": "smtp://h"}, "server must be HOST or HOST:PORT, found 'smtp://h'."),
        ({"to": "a@b.c", "server": "h", "user": "u"}, "user and password must be given together."),
        ({"to": "a@b.c", "server": "h", "user": "u", "password": "p4ss"}, "password must be env:NAME, so that it is not"),
        ({"to": "a@b.c", "server": "h", "security": "ssl"}, "security must be starttls, tls, none, found 'ssl'."),
        ({"to": "a@b.c", "server": "h", "user": "u", "password": "env:P", "security": "none"}, "without encryption."),
    ],
)  # fmt: skip
def test_mistakes(given: Any, said: str) -> None:
    """A message says what is expected, and never repeats a password."""
    target, problem = read_email(given)
    assert target is None
    assert said in problem
    assert "p4ss" not in problem
