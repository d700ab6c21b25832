"""A test that never ends does not hold up the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENDLESS = """
import subprocess, sys

def test_before():
    pass

def test_endless():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        process.wait()  # and once more when the limit of time has ended it

def test_after():
    pass
"""


@pytest.mark.slow
def test_a_test_that_waits_again_after_its_limit_of_time_fails(tmp_path: Path) -> None:
    """The stacks of its threads are shown, and the tests after it run."""
    (tmp_path / "test_endless.py").write_text(ENDLESS)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout = 5\n")
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "conftest", "-p", "no:cacheprovider"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (here, here / "documents", *sys.path)))},
    )  # fmt: skip
    assert "crashed while running 'test_endless.py::test_endless'" in done.stdout, done.stdout
    assert "1 failed, 2 passed" in done.stdout, done.stdout
    assert " in test_endless\n" in done.stderr, done.stderr
