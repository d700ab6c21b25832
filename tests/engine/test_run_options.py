"""The options ``--on``, ``--jobs``, ``--cpus``, …, and the section ``run`` of a workflow: their meaning, and mistakes in them."""

from __future__ import annotations

import importlib.util
import logging
import math
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.documents.command_line import call
from tests.documents.definitions import LINEAR, SIGNAL, TWO_WINDOWS, dataset, expressions, write_workflow

from rollforge.cli.exit_codes import Exit
from rollforge.engine.executors import Dask, Ray, Slurm, executor_of
from rollforge.engine.options import MAX_SILENCE, RunOptions
from rollforge.errors import ConfigError
from rollforge.run.leases import LEASE_SECONDS
from rollforge.store.base import open_store
from rollforge.workflow import load_workflow


@pytest.fixture
def write(tmp_path: Path, small_market: Path) -> Callable[..., Path]:
    """A function that writes a workflow of two windows with a section ``run``."""

    def write(**run: Any) -> Path:
        rollforge = {
            "data": str(small_market), "store": f"sqlite:///{tmp_path}/tasks.db", "tracking": f"folder:{tmp_path}/runs",
            "experiment": "on", "cache": str(tmp_path / "cache"),
        }  # fmt: skip
        task = {
            "model": LINEAR,
            "dataset": dataset(expressions("$close/Ref($close,1)-1"), TWO_WINDOWS),
            "record": [SIGNAL],
        }
        rolling = {"step": 60, "rtype": "sliding", "trunc_days": "auto"}
        document = {"rollforge": rollforge, "task": task, "rolling": rolling}
        file = write_workflow(tmp_path / "job.yaml", {**document, **({"run": run} if run else {})})
        file.write_text(file.read_text().replace("'on':", "on:"))  # in YAML 1.2, on is a word like any other
        return file

    return write


def forecast(file: Path, *options: object) -> dict[str, str]:
    """Return what ``plan`` says about the engine, by row."""
    result = call("plan", file, *options)
    assert result.exit_code == 0, result.output
    rows = ("engine", "asks", "total", "data", "Nothing")
    lines = [line for line in result.stdout.splitlines() if line.split(" ")[0] in rows]
    return {line.split(" ")[0]: line.split(" ", 1)[1].strip() for line in lines}


# -- plan ----------------------------------------------------------------------------------------------------------------


def test_the_plan_says_what_is_asked_of_the_engine(write: Callable[..., Path], tmp_path: Path) -> None:
    """Two tasks need no more than two of fifty agents; twice 4 cores, 1.5 GiB and a quarter of a GPU is the total."""
    options = ("--on", "ray:head:6379", "--jobs", 50, "--cpus", 4, "--memory", "1.5G", "--gpus", 0.25)
    assert forecast(write(), *options) == {
        "engine": "Ray, the cluster head:6379",
        "asks": "2 agents for 2 tasks, each with 4 cores, 1.5 GiB of memory and 0.25 GPUs",
        "total": "8 cores, 3 GiB of memory and 0.5 GPUs",
        "data": "1 panel, sent once to each machine: not computed yet",
        "Nothing": "was started: no connection, no agent, no task.",
    }
    assert not (tmp_path / "tasks.db").exists()


def test_the_plan_knows_the_size_of_a_panel_in_the_cache(write: Callable[..., Path], tmp_path: Path) -> None:
    """After a run, the size is that of the files of the panel."""
    file = write()
    assert call("run", file, "--jobs", 0, "--output", tmp_path / "out").exit_code == 0
    (panel,) = (tmp_path / "cache" / "panels").glob("[!.]*/meta.json")
    files = [one for one in panel.parent.rglob("*") if one.is_file() and one != panel]
    size = sum(one.stat().st_size for one in files)
    assert forecast(file, "--on", "dask", "--jobs", 1)["data"] == (
        f"1 panel, sent once to each machine: {size / 1e6:,.1f} MB"
    )


def test_without_a_number_the_cluster_decides(write: Callable[..., Path], small_market: Path) -> None:
    """The number of agents is then not known before, but there is no use for more than one per task."""
    found = forecast(write(on="dask://scheduler:8786", data="shared"))
    assert found["engine"] == "Dask, the scheduler tcp://scheduler:8786"
    assert found["asks"] == "as many agents as there is room for, at most 2 for 2 tasks, each with 1 core"
    assert found["total"] == "at most 2 cores"
    assert found["data"] == f"{small_market}, which all machines must have under this path"


def test_the_command_line_wins(write: Callable[..., Path]) -> None:
    """Options that are not given keep the file's values; ``--on local`` uses no engine."""
    file = write(on="slurm", jobs=1, cpus=2, memory="16G", slurm={"queue": "cpu"})
    found = forecast(file)
    assert found["engine"] == "Slurm, 1 job with 2 cores and 16 GiB of memory each, queue=cpu"
    assert found["asks"] == "1 agent for 2 tasks, each with 2 cores and 16 GiB of memory"
    assert forecast(file, "--cpus", 3)["asks"] == "1 agent for 2 tasks, each with 3 cores and 16 GiB of memory"
    assert forecast(file, "--on", "local") == {}


# -- mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"on": "dask", "silence": 61.0}, "run.silence: must be less than or equal to 60, found 61"),
        ({"on": "dask", "silence": 0}, "run.silence: must be greater than 0, found 0"),
        ({"one": "ray"}, "run.one: unknown key. Did you mean 'on'? Allowed: on, jobs, cpus, memory, gpus, data, silence, slurm"),
        ({"spans": "console"}, "run.spans: must be a valid boolean, found 'console'."),
        ({"on": "rai"}, "run.on: 'rai' is not a known engine. Did you mean 'ray'? Known: ray, dask, slurm and local"),
        ({"on": "ray", "cpus": 0}, "run.cpus: must be greater than or equal to 1, found 0."),
        ({"on": "ray", "gpus": -1}, "run.gpus: must be greater than or equal to 0, found -1."),
        ({"on": "ray", "memory": "8 eggs"}, "run.memory: '8 eggs' is not a size. Write a size as 512M or 4G.\n"),
        ({"on": "ray", "memory": 8}, "run.memory: must be at least 1M, found 8, which means bytes. Did you mean 8G?\n"),
        ({"on": "ray", "data": "send"}, "run.data: must be 'sent' or 'shared', found 'send'. Did you mean 'sent'?"),
        ({"on": "ray", "jobs": 0}, "run.jobs: must be 1 or more on an engine, found 0."),
        ({"on": "ray", "slurm": {"queue": "cpu"}}, "run.slurm: is for Slurm, but the engine is 'ray'."),
        ({"on": "dask://scheduler"}, "run.on: must have an address with a host and a port, such as dask://HOST:8786"),
        ({"on": "slurm:head:1"}, "run.on: slurm has no address, found 'slurm:head:1'."),
    ],
)  # fmt: skip
def test_a_mistake_in_the_section_names_its_line(run: dict[str, Any], said: str, write: Callable[..., Path]) -> None:
    """The message has the line and the path of the key, and the nearest valid word."""
    file = write(**run)
    with pytest.raises(ConfigError) as caught:
        load_workflow(file)
    assert said in f"{caught.value}\n"
    key = next(name for name in run if f"run.{name}:" in said)
    lines = file.read_text().splitlines()
    start = lines.index("run:")
    number = next(i for i, text in enumerate(lines, start=1) if i > start and text.startswith(f"  {key}:"))
    assert f"line {number}: run.{key}" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--on", "raw"), "--on: 'raw' is not a known engine. Did you mean 'ray'?"),
        (("--on", "slurm"), "jobs: Slurm needs the number of jobs to submit, such as --jobs 50"),
        (("--memory", "8"), "--memory: must be at least 1M, found 8, which means bytes. Did you mean 8G?"),
        (("--on", "ray", "--jobs", 0), "--jobs: must be a whole number above 0, found 0."),
        (("--on", "ray", "--memory", "much"), "--memory: 'much' is not a size. Write a size as 512M or 4G."),
        (("--memory", "much"), "--memory: 'much' is not a size."),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_mistake_in_an_option_names_it(
    command: str, options: tuple[str, ...], said: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    """The exit code is that of a usage error, and nothing is stored."""
    result = call(command, write(), *options)
    assert result.exit_code != 0
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)
    assert not (tmp_path / "tasks.db").exists()


@pytest.mark.parametrize(("engine", "module"), [("ray", "ray"), ("dask", "distributed"), ("slurm", "dask_jobqueue")])
def test_a_missing_engine_is_named_with_its_command(
    engine: str, module: str, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what to install, before anything is stored; a plan needs no engine."""
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    file = write(on=engine, jobs=1)
    result = call("run", file, "--output", tmp_path / "out")
    assert str(result.exception).endswith(f"pip install 'rollforge[{engine}]'")
    assert str(result.exception).startswith(f"Running on {engine.capitalize()} needs a package")
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "tasks.db").exists()
    assert forecast(file)["asks"].startswith("1 agent")


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "module"), [("ray:", "ray"), ("dask://", "distributed")])
def test_an_unreachable_cluster(engine: str, module: str, write: Callable[..., Path], tmp_path: Path) -> None:
    """One message, within seconds, and no attempt is counted."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install 'rollforge[{engine.rstrip(':/')}]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = call("run", write(), "--on", f"{engine}127.0.0.1:{port}", "--output", tmp_path / "out")
    assert re.fullmatch(
        rf"The \w+ cluster at \S*127.0.0.1:{port} cannot be reached: .+ no task was started.", str(result.exception)
    )
    tasks = list(open_store(f"sqlite:///{tmp_path}/tasks.db").query("on"))
    assert [(task.status.value, task.attempts) for task in tasks] == [("waiting", 0)] * 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"queu": "cpu"}, "slurm.queu: 'queu' is not an option of Slurm's jobs. Did you mean 'queue'?"),
        ({"walltime": 8}, "slurm.walltime: must be a time with hours and minutes, found 8. Write '08:00:00' for hours"),
        ({"memory": 16}, "slurm.memory: must be at least 1M, found 16, which means bytes. Did you mean 16G?"),
    ],
)
def test_a_plan_checks_the_options_of_slurm(options: dict[str, Any], said: str, write: Callable[..., Path]) -> None:
    """A mistake is found without a run."""
    pytest.importorskip("dask_jobqueue", reason="pip install 'rollforge[slurm]'")
    result = call("plan", write(on="slurm", jobs=1, slurm=options))
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)


def test_an_engine_in_place_of_the_section(write: Callable[..., Path]) -> None:
    """The message shows where it belongs."""
    file = write()
    file.write_text(f"{file.read_text()}\nrun: dask\n")
    with pytest.raises(ConfigError, match=r"run: must be a mapping such as \{on: dask\}, found 'dask'\.$"):
        load_workflow(file)


def test_a_plan_without_an_engine_says_what_this_machine_lacks(write: Callable[..., Path]) -> None:
    """Cores, memory and GPUs of the tasks are not kept silent."""
    result = call("plan", write(cpus=4000, memory="2G"), "--gpus", 1000)
    assert (
        "runs    1 task at a time on this machine, each with 4,000 cores, 2 GiB of memory and 1000 GPUs"
        in result.stdout
    )
    assert "each task needs 4,000 cores and 2 GiB of memory, but this machine has " in result.stderr
    assert "Each task needs 1000 GPUs, but this machine has" in result.stderr
    assert "runs" not in call("plan", write()).stdout


# -- in Python -----------------------------------------------------------------------------------------------------------


def test_options_become_the_same_executor_as_in_python() -> None:
    """What the command line asks for is what a script writes."""
    assert executor_of(RunOptions("ray:head:6379").over(jobs=200, cpus=4, memory="8G", gpus=0.25)) == Ray(
        "head:6379", jobs=200, cpus=4, memory=8 * 2**30, gpus=0.25
    )
    assert executor_of(RunOptions("ray://head:10001")) == Ray("ray://head:10001")
    assert executor_of(RunOptions("dask://scheduler:8786", data="shared")) == Dask(
        "tcp://scheduler:8786", data="shared"
    )
    assert executor_of(RunOptions("ray", silence=10.0)) == Ray(silence=10.0)
    assert executor_of(RunOptions("slurm", 5, slurm={"queue": "cpu"})) == Slurm(jobs=5, options={"queue": "cpu"})
    assert executor_of(RunOptions("local", 5)) is None


def test_the_longest_silence_is_a_lease() -> None:
    """An agent that is silent for longer would work on a task that another one may have claimed."""
    assert MAX_SILENCE == LEASE_SECONDS


def test_an_address_may_be_written_as_on_the_command_line() -> None:
    """A machine may have the name of an engine; an address of another engine is refused."""
    assert Ray("ray:head:6379").address == "head:6379"
    assert Ray("ray://head:10001").address == "ray://head:10001"
    assert Ray("ray:6379").address == "ray:6379"
    assert Dask("dask://h:8786") == Dask("dask:h:8786") == Dask("tcp://h:8786")
    with pytest.raises(ConfigError, match="address: 'dask://h:8786' is an address of Dask, not of Ray"):
        Ray("dask://h:8786")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Dask(gpus="a"), "gpus: must be a fraction of a GPU or a whole number, found 'a'."),
        (lambda: Dask(gpus=math.inf), "gpus: must be a fraction of a GPU or a whole number, found inf."),
        (lambda: Ray(silence="a"), "silence: must be above 0 and at most 60 seconds, found 'a'."),
        (lambda: Ray(memory=1.5), "memory: must be a size such as 512M or 8G, found 1.5."),
        (lambda: Ray(memory=8), "memory: must be at least 1M, found 8, which means bytes. Did you mean 8G?"),
        (lambda: Ray(cpus=None), "cpus: must be a whole number above 0, found None."),
        (lambda: Ray(7), "address: must be an address such as 'head:6379', found 7."),
        (lambda: Slurm(jobs=1, options=["queue"]), "slurm: must be a mapping such as {'queue': 'cpu'}"),
    ],
)
def test_arguments_are_checked_as_options_are(make: Callable[[], object], said: str) -> None:
    """A mistake is an error about the argument, at once."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        make()
    assert Exit.USAGE == 2


def test_dask_logs_nothing_while_a_cluster_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """Afterwards the loggers are as before, and others are never silent."""
    pytest.importorskip("distributed", reason="pip install 'rollforge[dask]'")
    from rollforge.engine.dask import quiet

    top, inner, other = (logging.getLogger(f"distributed{name}") for name in ("", ".scheduler", "_elsewhere"))
    propagates, top.propagate = top.propagate, True
    try:
        with quiet():
            inner.error("broadcast failed")
            other.error("mine")
        inner.error("later")
    finally:
        top.propagate = propagates
    assert [record.getMessage() for record in caplog.records] == ["mine", "later"]
