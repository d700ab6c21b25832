"""The fast tests on every Python from the oldest allowed that is found here, and with the lowest versions allowed.

    python tests/pythons.py              # the newest Python, the lowest versions, and every other Python but this one
    python tests/pythons.py --only 3.13
    python tests/pythons.py --only lowest

Each has an environment of its own, ``.venv-3.13`` and ``.venv-lowest``, which is kept.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OLDEST = tuple(map(int, re.findall(r"\d+", PROJECT["requires-python"])))
LOWEST = "lowest"
_LONGEST = 25 * 60.0
"""Seconds for the tests on one Python."""


def found() -> dict[str, Path]:
    """Return the Pythons of this machine by ``3.x``: on the path and of pyenv, of each the latest that is whole."""
    places = [Path(p) for p in os.environ.get("PATH", "").split(os.pathsep) if p]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    files = [f for p in places if p.is_dir() for f in p.glob("python3.[0-9]*") if re.fullmatch(r"python3\.\d+", f.name)]
    files += sorted(pyenv.glob("versions/3.*/bin/python3"))
    versions: dict[str, tuple[tuple[int, ...], Path]] = {}
    for file in files:
        version = _version(file)
        if version >= OLDEST:
            name = f"{version[0]}.{version[1]}"
            versions[name] = max(versions.get(name, (version, file)), (version, file))
    newest_first = sorted(versions, key=lambda name: versions[name][0], reverse=True)
    return {name: versions[name][1] for name in newest_first}


def _version(file: Path) -> tuple[int, ...]:
    """The version of a Python; nothing where it is none, or lacks a module that everything needs."""
    program = "import ssl, sqlite3, ctypes, venv, ensurepip, sys; print(*sys.version_info[:3])"
    try:
        done = subprocess.run([file, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(map(int, done.stdout.split()))


def installed(name: str, python: Path) -> Path:
    """Make the environment `name` up to date, and return its interpreter."""
    folder = ROOT / f".venv-{name}"
    inside = folder / "bin" / "python"
    if not inside.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
    if name != LOWEST:
        subprocess.run([inside, "-m", "pip", "install", "--quiet", "-e", ".[dev]"], check=True, cwd=ROOT)
        return inside
    # Lowest of what this project names itself; what those need in turn is their matter, and as new as can be.
    subprocess.run([inside, "-m", "pip", "install", "--quiet", "uv"], check=True)
    listed = folder / "lowest.txt"
    resolve = [
        folder / "bin" / "uv", "pip", "compile", "--quiet", "--resolution", "lowest-direct", "--extra", "dev",
        "--python", inside, "--output-file", listed, "pyproject.toml",
    ]  # fmt: skip
    subprocess.run(resolve, check=True, cwd=ROOT, env={"UV_NATIVE_TLS": "1", **os.environ})
    subprocess.run([inside, "-m", "pip", "install", "--quiet", "-r", listed], check=True, cwd=ROOT)
    subprocess.run([inside, "-m", "pip", "install", "--quiet", "--no-deps", "-e", "."], check=True, cwd=ROOT)
    return inside


def wanted(only: str | None) -> Iterator[tuple[str, Path]]:
    """Yield what is to be run: name of the environment, and the Python to make it with."""
    pythons = found()
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    oldest = pythons[min(pythons, key=lambda n: tuple(map(int, n.split("."))))]
    listed = [(name, file) for name, file in pythons.items() if only == name or (only is None and name != here)]
    if only in (None, LOWEST):
        listed.insert(min(1, len(listed)), (LOWEST, oldest))  # what matters most comes first, should time run out
    yield from listed


def main() -> int:
    """Run the tests; the exit code is 1 when any failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--only", help="One Python, as 3.13, or 'lowest'.")
    parser.add_argument("--minutes", type=float, default=600.0, help="Begin with no other after so long.")
    parser.add_argument("tests", nargs="*", help="What to run, for pytest; by default all that is fast.")
    options = parser.parse_args()
    begin, results = time.monotonic(), {}
    for name, file in wanted(options.only):
        if time.monotonic() - begin > 60 * options.minutes:
            results[name] = "not run: no time left"
            continue
        python = installed(name, file)
        command = [
            python, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "-m", "not slow", "-p", "no:cacheprovider",
            *options.tests,
        ]  # fmt: skip
        started = time.monotonic()
        try:
            code = subprocess.run(command, cwd=ROOT, check=False, timeout=_LONGEST).returncode
        except subprocess.TimeoutExpired:
            code = -1
        results[name] = f"{'passed' if code == 0 else 'FAILED'} in {(time.monotonic() - started) / 60:.1f} minutes"
    if not results:
        print(f"There is no Python {options.only} here; found: {', '.join(found()) or 'none'}.")
        return 1
    for name, result in results.items():
        print(f"{name}: {result}")
    return int(any(result.startswith("FAILED") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
