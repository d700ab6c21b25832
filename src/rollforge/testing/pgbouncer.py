"""A real PgBouncer in front of a PostgreSQL server for tests, with its own port and settings."""

from __future__ import annotations

import os
import shutil
import subprocess
from urllib.parse import urlsplit

from rollforge.testing.server import Server

__all__ = ["PgBouncer", "pgbouncer_binary"]

_USER = "nobody"  # it refuses to run as root


def pgbouncer_binary() -> str | None:
    """Return the path of the program, from PATH or Debian's location, or None if it is not installed."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


class PgBouncer(Server):
    """Context manager that runs PgBouncer in front of a server.

    Parameters
    ----------
    server : str
        URI of the database, with user and password.
    mode : str
        ``transaction``, ``session`` or ``statement``.
    pool_size : int
        Number of connections to the server.
    settings : object
        Other settings, as in ``pgbouncer.ini``.

    Raises
    ------
    RuntimeError
        If it is not installed, or does not start.
    """

    def __init__(self, server: str, mode: str = "transaction", pool_size: int = 2, **settings: object) -> None:
        binary = pgbouncer_binary()
        if binary is None:
            raise RuntimeError("There is no PgBouncer: apt-get install pgbouncer")
        super().__init__("PgBouncer")
        self._binary = binary
        self._server = urlsplit(server)
        self._user = _USER if os.geteuid() == 0 else None
        self._settings = {"pool_mode": mode, "default_pool_size": pool_size, "server_login_retry": 1, **settings}

    @property
    def uri(self) -> str:
        """Store URI of the pooler."""
        name = self._server.path
        return f"postgresql://{self._server.username}:{self._server.password}@127.0.0.1:{self._port}{name}"

    def _prepare(self) -> None:
        users = self._folder / "users.txt"
        users.write_text(f'"{self._server.username}" "{self._server.password}"\n')
        settings = {
            "listen_addr": "127.0.0.1", "listen_port": self._port, "unix_socket_dir": "", "auth_type": "scram-sha-256",
            "auth_file": users, "admin_users": self._server.username, "max_client_conn": 200, **self._settings,
        }  # fmt: skip
        lines = [f"{name} = {value}" for name, value in settings.items()]
        behind = f"* = host={self._server.hostname} port={self._server.port}"
        (self._folder / "pgbouncer.ini").write_text("\n".join(["[databases]", behind, "[pgbouncer]", *lines, ""]))
        if self._user is not None:
            for path in (self._folder, *self._folder.iterdir()):
                shutil.chown(path, self._user)

    def _launch(self) -> subprocess.Popen[bytes]:
        command = [self._binary, str(self._folder / "pgbouncer.ini")]
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd="/")
