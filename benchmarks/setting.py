"""Shared code of the benchmarks: the market, the job, timing, and running pyqlib."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollforge.session import Session, available_cores

if TYPE_CHECKING:
    from rollforge.plan import Plan

_JOB = Path(__file__).parents[1] / "tests" / "golden" / "rolling_job.json"
LABEL = "Ref($close, -2)/Ref($close, -1) - 1"


def arguments(description: str) -> argparse.Namespace:
    """Parse the command line: ``--small`` for small sizes, ``--data`` for the S&P table."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--small", action="store_true", help="use a small demo market instead of the S&P table")
    parser.add_argument("--data", type=Path, default=None, help="sp500_5yr.parquet (or ROLLFORGE_SHARED/data/…)")
    parser.add_argument("--repeats", type=int, default=3, help="how many times each side is timed")
    parser.add_argument("--without-pyqlib", action="store_true", help="time only Rollforge")
    parser.add_argument("--as-pyqlib", help=argparse.SUPPRESS)
    parser.add_argument("--as-child", help=argparse.SUPPRESS)
    return parser.parse_args()


def market(options: argparse.Namespace, folder: Path) -> Path:
    """Return a data folder: the S&P table if it is available, else a demo market."""
    from rollforge.market.demo import make_demo
    from rollforge.market.importer import import_table

    target = folder / "market"
    table = options.data
    if table is None and os.environ.get("ROLLFORGE_SHARED"):
        table = Path(os.environ["ROLLFORGE_SHARED"]) / "data" / "sp500_5yr.parquet"
    if options.small or table is None:
        make_demo(target, instruments=60, years=6, end="2018-12-31")
    else:
        import_table(table, target)
    return target


def job(model: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the rolling job of the reference values as a template, with all cores or with another model."""
    template: dict[str, Any] = json.loads(_JOB.read_text(encoding="utf-8"))
    template["model"]["kwargs"]["num_threads"] = available_cores()
    return template if model is None else {**template, "model": model}


def plan(session: Session, name: str, tasks: list[dict[str, Any]], template: dict[str, Any]) -> Plan:
    """Return the plan of tasks, as if a workflow file described them."""
    from rollforge.collect.combine import build_ensembles
    from rollforge.generate.timeline import make_schedule
    from rollforge.market.universe import session_provider
    from rollforge.plan import Plan
    from rollforge.task import digest
    from rollforge.workflow import Workflow
    from rollforge.yaml12 import Lines

    workflow = Workflow(Path(name), "", session, name, template, {}, None, "qlib", label_days=None, lines=Lines())
    schedule = make_schedule(tasks, session_provider(session).calendar())
    return Plan(workflow, tuple(tasks), tuple(map(digest, tasks)), schedule, (), build_ensembles(None))


RIDGE = {
    "class": "LinearModel",
    "module_path": "qlib.contrib.model.linear",
    "kwargs": {"estimator": "ridge", "alpha": 1.0},
}


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """Yield a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="rollforge-bench-") as folder:
        yield Path(folder)


def seconds(work: Callable[[], Any]) -> float:
    """Return the duration of `work` in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Return the processor time of `work`, including that of processes that it has started and waited for.

    Other load on the machine affects it far less than the wall-clock time.
    """

    def used() -> float:
        return sum(os.times()[:4])

    began = used()
    work()
    return used() - began


def median(values: list[float]) -> float:
    """Return the median (of an even number of values, the upper one)."""
    return sorted(values)[len(values) // 2]


def timed(work: Callable[[], Any], repeats: int, before: Callable[[], Any] = lambda: None) -> dict[str, float]:
    """Return the median duration of `work`, and the spread: the longest duration divided by the shortest.

    `before` is called before each repeat, and is not timed.
    """
    took = []
    for _ in range(repeats):
        before()
        took.append(seconds(work))
    return {"seconds": median(took), "spread": max(took) / min(took)}


def peak_memory() -> float:
    """Return the peak memory of this process in MB.

    On Linux, the peak of a process that was started from a larger one begins with that of the parent (`ru_maxrss`); the
    memory of its own program is in `/proc`.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def has_pyqlib(options: argparse.Namespace) -> bool:
    """Return whether pyqlib is installed and not excluded."""
    return not options.without_pyqlib and importlib.util.find_spec("qlib") is not None


def in_pyqlib(module: str, task: dict[str, Any]) -> dict[str, Any]:
    """Run the pyqlib side of a benchmark in a separate process, and return its result."""
    return in_child(module, task, "--as-pyqlib")


def ran_part(options: argparse.Namespace, **parts: Callable[[dict[str, Any]], None]) -> bool:
    """Run the part of a benchmark that this process was started for, and return True; return False in the first
    process.

    Parameters
    ----------
    options : Namespace
        The parsed command line.
    **parts
        The functions for ``--as-pyqlib`` and ``--as-child``, called with the task of :func:`in_child`.
    """
    for name, part in parts.items():
        task = getattr(options, f"as_{name}")
        if task:
            part(json.loads(task))
            return True
    return False


def mlflow_in(folder: str) -> dict[str, Any]:
    """Return the setting of pyqlib that stores runs in MLflow's SQLite store, as Rollforge does."""
    return {
        "class": "MLflowExpManager",
        "module_path": "qlib.workflow.expm",
        "kwargs": {"uri": f"sqlite:///{folder}/theirs.db", "default_exp_name": "Experiment"},
    }


def in_child(module: str, task: dict[str, Any], option: str = "--as-child") -> dict[str, Any]:
    """Run a part of a benchmark in a separate process, and return its result."""
    line = [sys.executable, "-m", module, option, json.dumps(task)]
    # In a process that has loaded user code, and in its children, "import qlib" resolves to Rollforge.
    path = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and not p.endswith("_site")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{module} {option} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


@contextlib.contextmanager
def quiet_pyqlib(provider: str, **options: Any) -> Iterator[None]:
    """Initialize pyqlib for a data folder, and suppress its output."""
    import qlib

    assert hasattr(qlib, "_version") or "site-packages" in str(qlib.__file__), "pyqlib itself must be imported"
    logging.disable(logging.CRITICAL)
    real = sys.stdout
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        qlib.init(provider_uri=provider, region="us", logging_level=logging.CRITICAL, **options)
        yield
    sys.stdout = real


def report(name: str, ratios: dict[str, float] | None = None, **figures: Any) -> None:
    """Print one JSON line.

    Parameters
    ----------
    name : str
        Name of the benchmark.
    ratios : dict, optional
        Ratios of two times measured in this run; larger is better.
    **figures
        Other measured values.
    """
    if ratios:
        figures = {"ratios": {k: round(v, 3) for k, v in ratios.items()}, **figures}
    machine = {"cores": available_cores(), "python": platform.python_version(), "processor": _processor()}
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"benchmark": name, **rounded, "machine": machine}))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
