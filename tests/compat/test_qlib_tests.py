"""Qlib's own tests, run against Rollforge on synthetic data.

They are read from a checkout of Qlib's repository, named by ``QLIB_SOURCE``, and are skipped without one. Excluded
tests are listed in ``docs/compat.md`` with the reason.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compat.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.slow


def left_out() -> dict[str, str]:
    """Return test -> reason for its exclusion: the table under "Qlib's own tests" of the page; ``*`` means all of a
    folder.
    """
    _, _, section = PAGE.partition("## Qlib's own tests")
    section = section.partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE))
    three = int(pd.__version__.partition(".")[0]) >= 3
    return {test: reason for test, reason in rows.items() if three or not reason.startswith("with pandas 3")}


def is_left_out(test: str) -> bool:
    return any(test == t or (t.endswith("*") and test.startswith(t[:-1])) for t in left_out())


def environment(place: Path) -> dict[str, str]:
    """Return the environment in which ``import qlib`` imports Rollforge, with a separate home and cache."""
    layer = ROOT / "src" / "rollforge" / "compat" / "qlib" / "_site"
    return {
        **os.environ, "HOME": str(place / "home"), "MPLBACKEND": "agg",
        "PYTHONPATH": os.pathsep.join([str(layer), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "ROLLFORGE_CACHE": str(place / "cache"), "ROLLFORGE_HOME": str(place / "runs"),
    }  # fmt: skip


@pytest.fixture(scope="session")
def workplace(qlib_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy Qlib's tests and scripts into a folder, so that they write only below it."""
    folder = tmp_path_factory.mktemp("qlib-tests")
    for part in ("tests", "scripts"):
        shutil.copytree(qlib_source / part, folder / part)
    code = "from rollforge.compat.qlib.testcases import TestAutoData as t; t.setUpClass(); print(t.provider_uri)"
    made = subprocess.run(
        [sys.executable, "-c", code], env=environment(folder), capture_output=True, text=True, check=True
    )
    default = folder / "home" / ".qlib" / "qlib_data" / "cn_data"  # the default folder of qlib.init()
    default.parent.mkdir(parents=True)
    default.symlink_to(made.stdout.split()[-1])
    return folder


def outcomes(place: Path, *arguments: str) -> dict[str, str]:
    """Run some of Qlib's tests in a separate process; return test -> ``passed``, or the error."""
    report = place / "report.xml"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pytest.ini", f"--junitxml={report}",
         f"--basetemp={place / 'temporary'}", *arguments],
        cwd=place / "tests", env=environment(place), capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert report.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    found = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        parts = [part for part in (case.get("classname") or "").split(".") if part]
        file = "/".join(p for p in parts if not p[:1].isupper()) + ".py"
        name = "::".join([file, *[p for p in parts if p[:1].isupper()], str(case.get("name"))])
        wrong = [child for child in case if child.tag in ("failure", "error", "skipped")]
        found[name] = "passed" if not wrong else f"{wrong[0].tag}: {wrong[0].get('message')}\n{wrong[0].text}"[-1500:]
    return found


def files(source: Path) -> list[str]:
    """Return the files of Qlib's tests that contain a test that is not excluded."""
    every = [f.relative_to(source / "tests").as_posix() for f in sorted((source / "tests").rglob("test_*.py"))]
    return [f for f in every if not is_left_out(f)]


def source_files() -> list[str]:
    named = os.environ.get("QLIB_SOURCE")
    return files(Path(named)) if named else ["(no checkout)"]


@pytest.mark.parametrize("file", source_files())
def test_qlibs_own_tests_pass(file: str, request: pytest.FixtureRequest) -> None:
    """Every test of a file, except for those that are excluded."""
    found = outcomes(request.getfixturevalue("workplace"), file)
    assert found, f"{file} has no tests"
    wrong = {name: reason for name, reason in found.items() if reason != "passed" and not is_left_out(name)}
    assert not wrong, "\n\n".join(f"{name}: {reason}" for name, reason in wrong.items())
    stale = {name for name, reason in found.items() if reason == "passed" and name in left_out()}
    assert not stale, f"docs/compat.md says that these stay out, but they pass: {sorted(stale)}"
