"""Storms on clusters: processes, agents, machines and drivers are killed at random."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

STORM = Path(__file__).parents[1] / "storm_engine.py"
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("engine", "library"), [("dask", "distributed"), ("ray", "ray")])
def test_every_task_has_one_result_after_a_storm_on_a_cluster(engine: str, library: str) -> None:
    """No task is lost, runs twice at once or gets the result of another one; each has a complete run. `make storm` does
    the same on a larger scale."""
    pytest.importorskip(library, reason=f"{library} is not installed: pip install 'rollforge[{engine}]'")
    size = "--tasks 60 --machines 3 --pause 1 --seconds 40 --limit 300"
    options = ["--engine", engine, *size.split()]
    done = subprocess.run(
        [sys.executable, str(STORM), *options], capture_output=True, text=True, timeout=450, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["states"] == {"done": 60}
    assert sum(found["killed"].values()) >= 3
