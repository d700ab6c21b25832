"""Commands that tests run in forks of a warm process behave as ``python -m rollforge`` does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.documents.command_line import run

SHOW = """
import json, os, signal, sys, threading

state = {
    "folder": os.getcwd(), "arguments": sys.argv, "path": sys.path, "environment": dict(os.environ),
    "input": sys.stdin.read(), "main": sys.modules["__main__"].__spec__.name, "umask": os.umask(0o22),
    "terminal": sys.stdout.isatty(),
    "threads": [one.name for one in threading.enumerate()], "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "encoding": [sys.stdout.encoding, sys.stdout.errors, sys.stderr.errors],
}
print(json.dumps(state, sort_keys=True), file=sys.stderr)
"""
WORKFLOW = """
rollforge: {data: market}
task: {model: {class: rollforge.models.linear.LinearModel}, dataset: {class: rollforge.data.DatasetH}}
generate: [{class: Mine, module_path: show.py}]
"""


def test_a_forked_command_sees_what_one_of_its_own_sees(tmp_path: Path) -> None:
    """A forked command sees its own folder, arguments, import path, environment and input; and it has the same exit
    code and output."""
    (tmp_path / "market" / "calendars").mkdir(parents=True)
    (tmp_path / "market" / "calendars" / "day.txt").write_text("2024-01-02\n2024-01-03\n")
    (tmp_path / "show.py").write_text(SHOW)
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    more = {"COLUMNS": "90", "MINE": "x"}
    real = subprocess.run(
        [sys.executable, "-m", "rollforge", "plan", "w.yaml"], input="hello", capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, **more}, timeout=200, check=False,
    )  # fmt: skip
    for _ in range(2):
        forked = run("plan", "w.yaml", cwd=tmp_path, env=more, input="hello")
        assert (forked.returncode, forked.stdout, forked.stderr) == (real.returncode, real.stdout, real.stderr)
    assert real.returncode == 2
    assert '"input": "hello"' in real.stderr
    assert '"MINE": "x"' in real.stderr
