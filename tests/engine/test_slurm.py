"""Jobs of a real Slurm: two nodes on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.documents.command_line import run as command
from tests.documents.definitions import SIGNAL, TWO_WINDOWS, dataset, expressions, write_workflow

from rollforge.engine import slurm as engine
from rollforge.engine.executors import Slurm
from rollforge.engine.resources import Resources
from rollforge.engine.slurm import job_shape
from rollforge.errors import ConfigError, MissingDependency, RequirementsNotMet
from rollforge.task import Cause, Status
from rollforge.testing.executor import RunTasks
from rollforge.testing.slurm import SlurmServer, why_no_slurm

jobqueue = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: pip install 'rollforge[slurm]'")
needs_slurm = pytest.mark.skipif(bool(why_no_slurm()), reason=why_no_slurm())


@pytest.fixture(scope="module")
def server() -> Iterator[SlurmServer]:
    with SlurmServer() as server:
        yield server


@pytest.fixture
def slurm(server: SlurmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmServer]:
    """Slurm, in an empty working folder, without jobs before and after."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield server
    left = server.jobs("PENDING", "RUNNING")
    if left:
        server.call("scancel", *left)
    soon(lambda: not server.jobs())


def soon(condition: Callable[[], object], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def executor(**options: Any) -> Slurm:
    """Executor with one job whose lost tasks are free again soon."""
    more = options.pop("options", {})
    return Slurm(**{"jobs": 1, "memory": "1G", "silence": 5.0, **options}, options={"interface": "lo", **more})


def job_of(pid: int) -> str:
    """Return the number of the job to which a process belongs."""
    variables = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8").split("\0")
    return next(v.partition("=")[2] for v in variables if v.startswith("SLURM_JOB_ID="))


@needs_slurm
@pytest.mark.slow
def test_a_run_in_jobs_is_that_of_this_machine(slurm: SlurmServer, small_market: Path, tmp_path: Path) -> None:
    """Two jobs, which have ended afterwards, with options from the file. No file is left in the working folder."""
    rollforge = {
        "data": str(small_market), "store": f"sqlite:///{tmp_path}/tasks.db", "tracking": f"folder:{tmp_path}/runs",
        "experiment": "on", "cache": str(tmp_path / "cache"),
    }  # fmt: skip
    task = {
        "model": {"class": "LinearModel", "module_path": "rollforge.models"},
        "dataset": dataset(expressions("$close/Ref($close,1)-1"), TWO_WINDOWS),
        "record": [SIGNAL],
    }
    asked = {"on": "slurm", "jobs": 2, "memory": "1G", "slurm": {"interface": "lo", "queue": "main"}}
    rolling = {"step": 60, "rtype": "sliding", "trunc_days": "auto"}
    document = {"rollforge": rollforge, "task": task, "rolling": rolling, "run": asked}
    workflow = write_workflow(tmp_path / "job.yaml", document)
    there = command("run", workflow, "--output", tmp_path / "there")
    assert there.returncode == 0, there.stderr
    assert len(slurm.jobs("all")) == 2
    soon(lambda: not slurm.jobs(), 10)
    assert list(Path.cwd().iterdir()) == []
    other = ("--store", f"sqlite:///{tmp_path}/2.db", "--output", tmp_path / "here")
    assert command("run", workflow, "--on", "local", *other).returncode == 0
    found = [pd.read_parquet(tmp_path / folder / "prediction.parquet") for folder in ("there", "here")]
    assert len(found[0]) > 100
    pd.testing.assert_frame_equal(*found)


def cancel(slurm: SlurmServer, job: str, pid: int) -> None:
    slurm.call("scancel", job)


def kill(slurm: SlurmServer, job: str, pid: int) -> None:
    for process in slurm.processes():
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            if job_of(process) == job:
                os.kill(process, signal.SIGKILL)


def preempt(slurm: SlurmServer, job: str, pid: int) -> None:
    node = slurm.call("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    slurm.call(
        "sbatch", "--partition=urgent", f"--nodelist={node}", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"
    )


def reach_the_time_limit(slurm: SlurmServer, job: str, pid: int) -> None:
    slurm.call("scontrol", "update", f"JobId={job}", "EndTime=now")


ENDS = {cancel: "CANCELLED", kill: "FAILED", reach_the_time_limit: r"TIMEOUT \(TimeLimit\)", preempt: "PREEMPTED"}


@needs_slurm
@pytest.mark.slow
@pytest.mark.parametrize("ends", [(cancel, kill, reach_the_time_limit), (preempt,)])
def test_a_job_that_ends_loses_its_task_and_another_job_runs_it(
    slurm: SlurmServer,
    tmp_path: Path,
    ends: Sequence[Callable[[SlurmServer, str, int], None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A job for each way in which jobs end. Another task remains for the jobs that are submitted in their place."""
    caplog.set_level(logging.INFO, "rollforge")
    files, jobs, events = [tmp_path / end.__name__ for end in ends], [], []

    def finish() -> None:
        soon(lambda: all(file.exists() and file.read_text(encoding="utf-8") for file in files))
        for end, file in zip(ends, files, strict=True):
            pid = int(file.read_text(encoding="utf-8"))
            jobs.append(job_of(pid))
            end(slurm, jobs[-1], pid)

    thread = threading.Thread(target=finish)
    thread.start()
    run = RunTasks(executor(jobs=len(ends)), tmp_path)
    tasks = [{"do": "sleep once", "file": str(file)} for file in files]
    *lost, other = run(*tasks, {}, max_attempts=2, on_event=events.append)
    thread.join()
    assert {t.status for t in [*lost, other]} == {Status.DONE}
    assert ([len(t.failed_by) for t in lost], other.failed_by) == ([1] * len(ends), ())
    said = {event.task_id: event.error for event in events if event.kind == "retry"}
    for task, end, job in zip(lost, ends, jobs, strict=True):
        # On a busy machine the processes of a job take their time to end, and Slurm does not say why until they have.
        assert re.search(f"agent on .* was lost: Slurm job {job} (ended as {ENDS[end]}|is COMPLETING)", said[task.id])
    assert caplog.text.count(f"failed ({Cause.LOST})") == len(ends)


SCRIPT = """
import os, sys
from pathlib import Path
from rollforge.engine.executors import Slurm
from rollforge.testing.executor import RunTasks

if __name__ == "__main__":
    run = RunTasks(Slurm(jobs=3, memory="1G", silence=5.0, options={"interface": "lo", "death_timeout": 5}), Path(sys.argv[1]))
    run(*({"do": "sleep once", "file": f"{sys.argv[1]}/{i}"} for i in range(3)))
"""


@needs_slurm
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["SIGINT", "SIGKILL"])
def test_no_job_outlives_its_driver(slurm: SlurmServer, tmp_path: Path, number: signal.Signals) -> None:
    """Two jobs run and one is pending. After SIGKILL, the running ones end by themselves, and the other one soon after it
    has started."""
    slurm.call("sbatch", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 600")  # one of the two nodes
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    driver = subprocess.Popen([sys.executable, tmp_path / "script.py", tmp_path], stderr=subprocess.PIPE, text=True)
    try:
        soon(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
        soon(lambda: len(slurm.jobs("RUNNING")) == 3 and len(slurm.jobs("PENDING")) == 1)
        driver.send_signal(number)
        said = driver.communicate(timeout=30)[1]
    finally:
        driver.kill()
        driver.wait()
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT), (driver.returncode, said)
    assert "distributed." not in said
    if number == signal.SIGINT:
        assert not slurm.jobs("PENDING")
    soon(lambda: len(slurm.jobs()) == 1)


@needs_slurm
@pytest.mark.slow
def test_pending_jobs_are_reported_with_the_reason(
    slurm: SlurmServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_TELL_SECONDS", 1.0)
    slurm.call("sbatch", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 600")
    (blocker,) = slurm.jobs()

    def clear() -> None:
        soon(lambda: "pending" in caplog.text)
        slurm.call("scancel", blocker)

    thread = threading.Thread(target=clear)
    thread.start()
    (done,) = RunTasks(executor(), tmp_path)({})
    thread.join()
    assert done.status is Status.DONE
    assert "1 of 1 job of Slurm pending: Resources (1)" in caplog.text


@needs_slurm
@pytest.mark.slow
def test_jobs_that_cannot_start_python_end_the_run_with_the_reason(slurm: SlurmServer, tmp_path: Path) -> None:
    run = RunTasks(executor(options={"python": "/absent/python"}), tmp_path)
    with pytest.raises(
        RequirementsNotMet, match=r"FAILED \(NonZeroExitCode\) with exit code 127 .*log_directory"
    ) as caught:
        run({})
    assert "3 jobs" in str(caught.value)
    assert [(t.status, t.attempt) for t in run.tasks()] == [(Status.WAITING, 0)]
    assert not slurm.jobs("PENDING", "RUNNING")


@needs_slurm
def test_a_job_that_slurm_refuses_is_an_error(
    slurm: SlurmServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is said once, and not that Slurm does not answer."""
    with pytest.raises(ConfigError, match=r"slurm: .*[Ii]nvalid partition name"):
        RunTasks(executor(options={"queue": "absent"}), tmp_path)({})
    assert "artition" not in caplog.text


@needs_slurm
@pytest.mark.slow
def test_tasks_that_share_a_gpu_share_a_job(slurm: SlurmServer, tmp_path: Path) -> None:
    """Two tasks at the same time on half a GPU each, whose variable is that which Slurm has set. Options are passed on."""
    options = {
        "queue": "urgent", "walltime": "00:10:00", "job_name": "mine", "log_directory": str(tmp_path / "logs"),
        "job_script_prologue": ["export FROM_PROLOGUE=yes"], "job_extra_directives": ["--comment=from-the-workflow"],
    }  # fmt: skip
    names = ["CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "FROM_PROLOGUE"]
    run = RunTasks(executor(jobs=2, gpus=0.5, options=options), tmp_path)
    done = run(*({"do": "variable", "name": name, "n": n} for n in range(2) for name in names))
    job = done[1].result
    assert [t.result for t in done] == ["0", job, "2", "yes"] * 2
    told = slurm.call("scontrol", "show", "job", str(job))
    for part in ("Partition=urgent", "TimeLimit=00:10:00", "JobName=mine", "Comment=from-the-workflow", "mem=2G"):
        assert part in told
    assert [file.suffix for file in (tmp_path / "logs").iterdir()]


def test_unknown_options_are_refused_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for option, said in [
        ("partition", "'partition' is not an option of Slurm's jobs. Did you mean 'queue'?"),
        ("qos", "job_extra_directives: ['--qos=high']"),
        ("wall_time", "Did you mean 'walltime'?"),
        ("processes", "'processes' cannot be set: one job runs one worker"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(said)):
            RunTasks(executor(options={option: 1}), tmp_path)({})


def test_without_the_commands_of_slurm_the_error_says_where_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match=r"sbatch, squeue, scontrol, scancel cannot be found here.*login node"):
        RunTasks(executor(), tmp_path)({})


@pytest.mark.parametrize(
    ("resources", "options", "shape"),
    [
        (Resources(jobs=3, cpus=2), {}, (3, 1, 2, None, 0)),
        (Resources(jobs=3, cpus=2, memory=100), {}, (3, 1, 2, 100, 0)),
        (Resources(jobs=5, cpus=2, memory=100), {"cores": 4}, (3, 2, 4, 200, 0)),
        (Resources(jobs=5, cpus=1, memory=2**30), {"cores": 4, "memory": "3G"}, (2, 3, 4, 3 * 2**30, 0)),
        (Resources(jobs=5, gpus=2.0), {}, (5, 1, 1, None, 2)),
        (Resources(jobs=4, gpus=0.3), {}, (2, 3, 3, None, 1)),
        (Resources(jobs=4, gpus=1.0), {"cores": 4}, (1, 4, 4, None, 4)),
    ],
)
def test_jobs_are_as_many_and_as_large_as_the_tasks_need(
    resources: Resources, options: Mapping[str, object], shape: tuple[int, int, int, int | None, int]
) -> None:
    found = job_shape(resources, options)
    assert (found.jobs, found.tasks, found.cpus, found.memory, found.gpus) == shape


@pytest.mark.parametrize("options", [{"cores": 1}, {"cores": "4"}, {"memory": "1M"}, {"memory": 1.5}, {"cores": True}])
def test_a_job_without_room_for_a_task_is_an_error(options: Mapping[str, object]) -> None:
    with pytest.raises(ConfigError, match="slurm"):
        job_shape(Resources(jobs=1, cpus=2, memory=2**30), options)


@needs_slurm
@pytest.mark.slow
def test_tasks_of_different_sizes_have_jobs_of_their_sizes(slurm: SlurmServer, tmp_path: Path) -> None:
    """A task of two cores and 2 GB runs in a job that asked Slurm for these, whatever the others ask for."""
    run = RunTasks(executor(jobs=3), tmp_path)
    small = {"do": "variable", "name": "SLURM_JOB_ID"}
    tasks = run(*[small] * 2, *[{**small, "resources": {"cpus": 2, "memory": "2G"}}] * 2)
    assert {task.status for task in tasks} == {Status.DONE}
    asked = [_asked(slurm, str(task.result)) for task in tasks]
    assert asked == [("1", "1G")] * 2 + [("2", "2G")] * 2


def _asked(slurm: SlurmServer, job: str) -> tuple[str, str]:
    """Return the cores of a task and the memory that a job asked for."""
    told = dict(part.split("=", 1) for part in slurm.call("scontrol", "show", "job", job).split() if "=" in part)
    return told["CPUs/Task"], told["MinMemoryNode"]
