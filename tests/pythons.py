"""Run the fast tests on every supported Python that is found, and with the lowest supported versions of all libraries.

    python tests/pythons.py              # the newest Python, the lowest versions, and the others except this one
    python tests/pythons.py --only 3.13
    python tests/pythons.py --only lowest

Each run has its own virtual environment, such as ``.venv-3.13`` or ``.venv-lowest``, which is kept.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OLDEST = tuple(map(int, re.findall(r"\d+", PROJECT["requires-python"])))
LOWEST = "lowest"
NO_TIME = "not run: no time left"
SHORTEST = 120.0
"""Seconds that a run has to have. pytest takes some of them to start, and an interrupted start leaves no report."""


def found() -> dict[str, Path]:
    """Return ``3.x`` -> the latest working Python of that version, from the path and from pyenv, newest first."""
    places = [Path(p) for p in os.environ.get("PATH", "").split(os.pathsep) if p]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    files = [f for p in places if p.is_dir() for f in p.glob("python3.[0-9]*") if re.fullmatch(r"python3\.\d+", f.name)]
    files += sorted(pyenv.glob("versions/3.*/bin/python3"))
    files.append(Path(sys.executable))
    versions: dict[str, tuple[tuple[int, ...], Path]] = {}
    for file in files:
        version = _version(file)
        if version >= OLDEST:
            name = f"{version[0]}.{version[1]}"
            versions[name] = max(versions.get(name, (version, file)), (version, file))
    newest_first = sorted(versions, key=lambda name: versions[name][0], reverse=True)
    return {name: versions[name][1] for name in newest_first}


def _version(file: Path) -> tuple[int, ...]:
    """Return the version of a Python; an empty tuple if it does not run or lacks an essential module."""
    program = "import ssl, sqlite3, ctypes, venv, ensurepip, sys; print(*sys.version_info[:3])"
    try:
        done = subprocess.run([file, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(map(int, done.stdout.split()))


def installed(name: str, python: Path) -> Path:
    """Create or update the environment `name`, and return its interpreter."""
    folder = ROOT / f".venv-{name}"
    inside, uv = folder / "bin" / "python", folder / "bin" / "uv"
    if not inside.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
    # uv takes half of pip's processor time, and compiles the files on all cores.
    subprocess.run([inside, "-m", "pip", "install", "--quiet", "uv"], check=True)
    environment = {"UV_NATIVE_TLS": "1", **os.environ}
    install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", inside]
    if name != LOWEST:
        subprocess.run([*install, "-e", ".[dev]"], check=True, cwd=ROOT, env=environment)
        return inside
    # The lowest versions of direct dependencies only; indirect dependencies are as new as possible.
    listed = folder / "lowest.txt"
    resolve = [
        uv, "pip", "compile", "--quiet", "--resolution", "lowest-direct", "--extra", "dev",
        "--python", inside, "--output-file", listed, "pyproject.toml",
    ]  # fmt: skip
    subprocess.run(resolve, check=True, cwd=ROOT, env=environment)
    subprocess.run([*install, "-r", listed], check=True, cwd=ROOT, env=environment)
    subprocess.run([*install, "--no-deps", "-e", "."], check=True, cwd=ROOT, env=environment)
    return inside


def wanted(only: str | None) -> Iterator[tuple[str, Path]]:
    """Yield the name of each environment to test and the Python to create it with."""
    pythons = found()
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    oldest = pythons[min(pythons, key=lambda n: tuple(map(int, n.split("."))))]
    listed = [(name, file) for name, file in pythons.items() if only == name or (only is None and name != here)]
    if only in (None, LOWEST):
        listed.insert(min(1, len(listed)), (LOWEST, oldest))  # the most important ones first, in case time runs out
    yield from listed


def failed_tests(report: Path) -> list[str]:
    """Return a line for each failed test in a JUnit report: its id and the first line of the message."""
    lines = []
    for case in ElementTree.parse(report).iter("testcase"):
        file, module, name = (case.get(key, "") for key in ("file", "classname", "name"))
        classes = module.split(".")[len(Path(file).parts) :]  # behind the name of the module
        test = "::".join([file, *classes, name]) if module else file or name
        for outcome in [*case.iter("failure"), *case.iter("error")]:
            # pytest gives a collection error the message "collection failure", and the actual error at the end of the text.
            message, text = outcome.get("message", ""), (outcome.text or "").strip()
            if message == "collection failure" and text:
                message = text.splitlines()[-1].removeprefix("E").strip()
            lines.append(f"{test} - {(message.strip() or 'no message').splitlines()[0]}")
    return lines


def ended(code: int) -> str:
    """Describe how a process ended that has written no report."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def tested(python: Path, tests: list[str], seconds: float) -> tuple[bool, str, list[str]]:
    """Run the tests for at most `seconds`; return whether none failed, a summary, and a line for each failed test.

    Running out of time is not a failure: the tests that ran until then count.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            python, "-m", "pytest", "-q", "-n", "3", "--dist", "worksteal", "-m", "not slow", "-p", "no:cacheprovider",
            "-rsxX",  # failed tests are listed once, by main()
            f"--junit-xml={report}", "-o", "junit_family=xunit1",  # the form that names files
            *tests,
        ]  # fmt: skip
        begin, finished = time.monotonic(), True
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            finished = False
            process.send_signal(signal.SIGINT)  # as Ctrl+C does: pytest still writes its report
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        minutes = f"{(time.monotonic() - begin) / 60:.1f} minutes"
        if not report.exists():
            return False, f"no report, {ended(process.returncode)}, after {minutes}", []
        suites = list(ElementTree.parse(report).iter("testsuite"))
        failed = failed_tests(report)
    total, skipped, failures, errors = (
        sum(int(s.get(kind, "0")) for s in suites) for kind in ("tests", "skipped", "failures", "errors")
    )
    summary = (
        f"{total - skipped - failures - errors} passed, {skipped} skipped, {failures + errors} failed in {minutes}"
    )
    if not finished:
        return failures + errors == 0, f"{summary}; NOT FINISHED: no time left", failed
    if process.returncode and not failed:
        summary = f"{summary}, {ended(process.returncode)}"
    return process.returncode == 0, summary, failed


def main() -> int:
    """Run the tests; the exit code is 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--only", help="one Python version, such as 3.13, or 'lowest'")
    parser.add_argument("--minutes", type=float, default=120.0, help="time limit for all of them together")
    parser.add_argument("tests", nargs="*", help="arguments for pytest; by default all fast tests are run")
    options = parser.parse_args()
    # A process that was started in the background ignores SIGINT, and so do its children, unless it sets a handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    end = time.monotonic() + 60 * options.minutes
    listed = list(wanted(options.only))
    if not listed:
        print(f"Python {options.only} was not found. Available: {', '.join(found()) or 'none'}.")
        return 1
    good, results = True, {}
    failed: list[str] = []
    for number, (name, file) in enumerate(listed):
        if end - time.monotonic() < SHORTEST:
            results[name] = NO_TIME
            continue
        begin = time.monotonic()
        try:
            python = installed(name, file)
        except subprocess.CalledProcessError as exc:
            good, results[name] = False, f"could not be installed: {exc}"
            failed.append(f"FAILED {name}: {results[name]}")
            continue
        # The first run leaves half of the time to the second, so that the newest and the lowest versions are tested.
        left = (end - time.monotonic()) / (2 if number == 0 and len(listed) > 1 else 1)
        if left < SHORTEST:  # installing took long
            results[name] = NO_TIME
            continue
        ready = (time.monotonic() - begin) / 60
        passed, tests, lines = tested(python, options.tests, left)
        results[name] = f"{tests}, after {ready:.1f} minutes of installing"
        if not passed:
            good = False
            failed += [f"FAILED {name}: {line}" for line in lines or [tests]]
    for name, result in results.items():
        print(f"{name}: {result}")
    print(*failed, sep="\n", end="\n" if failed else "")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
