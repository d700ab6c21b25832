"""Stress test of a cluster: its processes and machines are killed at random, and every task must have one result.

    python tests/storm_engine.py --engine dask --tasks 500 --machines 3

Worker processes, agents, machines and the driver are killed with SIGKILL, and agents are stopped with SIGSTOP for longer
than they may be silent. A driver that was killed is started again. Machines of Dask are its workers, each with one agent;
those of Ray are nodes with a raylet of their own. Those of Slurm are two nodes of a Slurm that is started here, whose jobs
are also cancelled.

A task holds a lock while it runs, so that it notices if it runs twice at once. The program prints one line of JSON, and
exits with 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from rollforge.features.dataset import Dataset
from rollforge.models.constant import ConstantModel
from rollforge.run.references import recorder_of
from rollforge.session import Session, using
from rollforge.store.base import open_store
from rollforge.task import Status
from rollforge.track.base import get_experiment, open_tracker

POOL = "storm"
ATTEMPTS = 100
"""Attempts at each task: the storm may hit it often."""
SILENCE = 3.0


class LockedModel(ConstantModel):
    """A model whose training takes a while, and which notices if it runs twice at once.

    Parameters
    ----------
    i : int
        Number of the task.
    seconds : float
        Duration of the training.
    folder : str
        Folder for the locks and the log.
    """

    def __init__(self, i: int, seconds: float, folder: str) -> None:
        super().__init__(float(i))
        self.i, self.seconds, self.folder = i, seconds, folder

    def fit(self, dataset: Dataset, reweighter: Any = None) -> None:
        """Wait, while holding the lock of the task."""
        with open(Path(self.folder) / f"{self.i}.lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.note("twice")
                raise
            self.note("began")
            time.sleep(self.seconds)
            self.note("ended")

    def note(self, what: str) -> None:
        """Append a line to the log."""
        with open(Path(self.folder) / "log", "a", encoding="utf-8") as log:
            log.write(f"{self.i} {what} {os.getpid()}\n")


def tasks(count: int, folder: Path, seed: int) -> list[dict[str, Any]]:
    """Return the tasks."""
    draw = random.Random(seed)
    return [
        {
            "model": {
                "class": "LockedModel",
                "module_path": str(Path(__file__).resolve()),
                "kwargs": {"i": i, "seconds": draw.uniform(0.05, 0.5), "folder": str(folder)},
            },
            "dataset": {"class": "EmptyDataset", "module_path": "rollforge.models.constant"},
            "record": [{"class": "SignalRecord", "module_path": "rollforge.record"}],
        }
        for i in range(count)
    ]


def session(folder: Path) -> Session:
    """Return the session of the driver."""
    return Session(
        threads=1, store_uri=f"sqlite:///{folder}/tasks.db", tracking_uri=f"folder:{folder}/runs",
        cache=str(folder / "cache"), experiment_name="storm",
    )  # fmt: skip


def drive(engine: str, address: str, folder: Path, count: int, seed: int, jobs: int) -> None:
    """Train all tasks on the cluster; the program of the driver."""
    from rollforge.engine.executors import Dask, Ray, Slurm
    from rollforge.run.pool_trainer import TrainerRM

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    kind: Any = {"dask": Dask, "ray": Ray, "slurm": Slurm}[engine]
    where: Any = {"options": {"interface": "lo"}} if engine == "slurm" else {"address": address}
    executor = kind(**where, jobs=jobs, silence=SILENCE)
    wanted = tasks(count, folder, seed)
    with using(session(folder)):
        open_store(session(folder).store_uri).create(POOL, wanted, max_attempts=ATTEMPTS)
        TrainerRM("storm", POOL, executor=executor)(wanted)


class Cluster(Protocol):
    """A cluster on this machine."""

    address: str

    def machines(self) -> list[int]:
        """Return the processes whose death is the loss of a machine."""

    def agents(self) -> list[int]:
        """Return the processes in which agents run."""

    def lose(self, pid: int) -> None:
        """Kill a machine, and start another one."""

    def close(self) -> None:
        """End the cluster."""


class DaskCluster:
    """Workers with one thread each; Dask's nannies start others in place of dead ones."""

    def __init__(self, machines: int) -> None:
        from distributed import LocalCluster

        self._machines, self._complete = machines, time.monotonic()
        self._cluster = LocalCluster(n_workers=machines, threads_per_worker=1, dashboard_address=":0")
        self.address: str = self._cluster.scheduler_address

    def machines(self) -> list[int]:
        """Return the workers that have started: a nanny gives up if its worker is killed before."""
        known = self._cluster.scheduler.workers
        found = [n.pid for n in self._cluster.workers.values() if n.pid and n.worker_address in known]
        if len(found) >= self._machines:
            self._complete = time.monotonic()
        elif time.monotonic() > self._complete + 15.0:  # the cluster has given up nannies
            self._cluster.scale(len(self._cluster.worker_spec) + self._machines - len(found))
            self._complete = time.monotonic()
        return found

    def agents(self) -> list[int]:
        """Return the workers."""
        return self.machines()

    def lose(self, pid: int) -> None:
        """Kill a worker."""
        os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End the cluster."""
        self._cluster.close()


class RayCluster:
    """A head without cores, and nodes with one core each."""

    def __init__(self, machines: int) -> None:
        from ray.cluster_utils import Cluster as Nodes

        self._options = {"num_cpus": 1, "object_store_memory": 100_000_000}
        self._nodes = Nodes(
            initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100_000_000,
                                                  "include_dashboard": False}
        )  # fmt: skip
        self._known = [self._nodes.add_node(**self._options) for _ in range(machines)]
        self.address: str = self._nodes.address

    @staticmethod
    def _raylet(node: Any) -> int:
        return int(node.all_processes["raylet"][0].process.pid)

    def machines(self) -> list[int]:
        """Return the raylets."""
        return [self._raylet(node) for node in self._known]

    def agents(self) -> list[int]:
        """Return the actors."""
        return [pid for raylet in self.machines() for pid in children(raylet) if "RayAgent" in command_of(pid)]

    def lose(self, pid: int) -> None:
        """Kill a raylet and what belongs to its node, and add another node."""
        node = next(node for node in self._known if self._raylet(node) == pid)
        os.kill(pid, signal.SIGKILL)
        self._known.remove(node)
        self._known.append(self._nodes.add_node(**self._options))

    def close(self) -> None:
        """End the cluster."""
        self._nodes.shutdown()


class SlurmCluster:
    """Two nodes, each with room for two jobs; slurmd is started again."""

    def __init__(self, machines: int) -> None:
        from rollforge.testing.slurm import SlurmServer

        self.address = "slurm"
        self._server = SlurmServer()
        self._server.__enter__()
        os.environ.update(self._server.environment)  # for the driver

    def machines(self) -> list[int]:
        """Return the agents: a machine is lost when one of them is, by way of its job or its node."""
        return self.agents()

    def agents(self) -> list[int]:
        """Return the Dask workers in jobs."""
        return [
            pid
            for pid in self._server.processes()
            if "dask_worker" in command_of(pid) and "bash" not in command_of(pid)
        ]

    def lose(self, pid: int) -> None:
        """Cancel the job of an agent, or kill its node and start it again."""
        values = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8").split("\0")
        of = dict(value.partition("=")[::2] for value in values)
        if pid % 2:
            self._server.call("scancel", of["SLURM_JOB_ID"])
        else:
            with self._server.without(of["SLURMD_NODENAME"]):
                time.sleep(0.5)

    def close(self) -> None:
        """End the cluster."""
        self._server.__exit__()


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, file.read_text().split())
    return found


def command_of(pid: int) -> str:
    """Return the command line of a process; empty if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""


class Storm:
    """Kills parts of a cluster and its driver at random.

    Parameters
    ----------
    cluster : Cluster
        The cluster.
    command : list of str
        Command of the driver.
    folder : path
        Folder for its output.
    seed : int
        Seed of the random choices.
    """

    def __init__(self, cluster: Cluster, command: list[str], folder: Path, seed: int) -> None:
        self.cluster = cluster
        self.done: Counter[str] = Counter()
        self._draw = random.Random(seed)
        self._command = command
        self._folder = folder
        self._stopped: dict[int, float] = {}
        self.driver = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with open(self._folder / "driver.log", "ab") as output:
            return subprocess.Popen(self._command, stdout=output, stderr=output)

    def strike(self) -> None:
        """Do one thing."""
        kinds = ["process"] * 5 + ["agent"] * 3 + ["machine", "stop", "driver"]
        kind = self._draw.choice(kinds)
        agents = [pid for pid in self.cluster.agents() if pid not in self._stopped]
        with contextlib.suppress(ProcessLookupError):
            if kind == "driver":
                self.driver.kill()
                self.driver.wait()
                self.driver = self._start()
            elif kind == "machine":
                machines = self.cluster.machines()
                if not machines:  # all of them are starting again
                    return
                self.cluster.lose(self._draw.choice(machines))
            elif not agents:
                return
            elif kind == "agent":
                os.kill(self._draw.choice(agents), signal.SIGKILL)
            elif kind == "stop":
                victim = self._draw.choice(agents)
                os.kill(victim, signal.SIGSTOP)
                self._stopped[victim] = time.monotonic() + self._draw.uniform(0.5, 3 * SILENCE)
            else:
                inner = [pid for agent in agents for pid in children(agent) if "spawn_main" in command_of(pid)]
                if not inner:
                    return
                os.kill(self._draw.choice(inner), signal.SIGKILL)
            self.done[kind] += 1

    def resume(self, *, all_of_them: bool = False) -> None:
        """Let agents go on that were stopped long enough."""
        for pid, until in list(self._stopped.items()):
            if all_of_them or time.monotonic() > until:
                del self._stopped[pid]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def broken(folder: Path, count: int, drivers_killed: int) -> Iterator[str]:
    """Yield the promises that were broken."""
    log = [line.split() for line in (folder / "log").read_text(encoding="utf-8").splitlines()]
    for i, what, _ in log:
        if what == "twice":
            yield f"task {i} ran twice at once"
    used = session(folder)
    found = list(open_store(used.store_uri).query(POOL))
    if len(found) != count:
        yield f"{len(found)} tasks in the pool instead of {count}"
    for task in found:
        if task.status is not Status.DONE:
            yield f"task {task.definition['model']['kwargs']['i']} is {task.status}: {task.error}"
    with using(used):
        runs = get_experiment(open_tracker(used.tracking_uri), experiment_name="storm").list_recorders()
        complete = [run for run in runs.values() if run.status == run.STATUS_FI]
        values = Counter(float(run.load_object("pred.pkl").iloc[0, 0]) for run in complete)
        if set(values) != set(map(float, range(count))):
            yield f"{count - len(set(values) & set(map(float, range(count))))} tasks have no complete run"
        # A driver that dies after it has written a run and before it has recorded the end of its task leaves a second one.
        if len(complete) > count + drivers_killed:
            yield f"{len(complete)} complete runs of {count} tasks, and {drivers_killed} drivers were killed"
        for task in (task for task in found if task.status is Status.DONE):
            recorder = recorder_of(task.result)
            number = task.definition["model"]["kwargs"]["i"]
            if float(recorder.load_object("pred.pkl").iloc[0, 0]) != float(number):
                yield f"the result of task {number} is the run of another one"


def storm(
    engine: str, count: int, machines: int, seed: int, pause: float, seconds: float, limit: float, folder: Path
) -> dict[str, Any]:
    """Run the tasks in a storm, and return what happened."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    kinds: dict[str, type[Cluster]] = {"dask": DaskCluster, "ray": RayCluster, "slurm": SlurmCluster}
    cluster = kinds[engine](machines)
    try:
        command = [sys.executable, __file__, "--engine", engine, "--drive", cluster.address, "--folder", str(folder)]
        command += ["--tasks", str(count), "--seed", str(seed), "--machines", str(machines)]
        began = time.monotonic()
        raging = Storm(cluster, command, folder, seed)
        next_strike = began + 5.0
        failures = 0
        while (code := raging.driver.poll()) != 0:
            if code is not None:  # such as a cluster that lost all its machines: the user starts it again
                failures += 1
                raging.driver = raging._start()
            if time.monotonic() - began > limit:
                break
            raging.resume()
            # A busy machine may start drivers more slowly than they are killed; what is left ends after the storm.
            if next_strike < time.monotonic() < began + seconds:
                raging.strike()
                next_strike = time.monotonic() + random.Random(time.monotonic()).uniform(0.5, 1.5) * pause
            time.sleep(0.05)
        raging.resume(all_of_them=True)
        raging.driver.kill()
        raging.driver.wait()
    finally:
        cluster.close()
    problems = list(broken(folder, count, raging.done["driver"] + failures))
    states = Counter(task.status.value for task in open_store(session(folder).store_uri).query(POOL))
    log = (folder / "driver.log").read_text(encoding="utf-8")
    causes = Counter(re.findall(r"^\S+ \S+ task \w+ failed \((\w+)\)", log, re.MULTILINE))
    return {
        "engine": engine, "tasks": count, "seed": seed, "seconds": round(time.monotonic() - began, 1),
        "states": dict(states), "killed": dict(raging.done), "drivers_that_failed": failures, "causes": dict(causes),
        "broken": problems,
    }  # fmt: skip


def main() -> int:
    """Run a storm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["dask", "ray", "slurm"], default="dask")
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--machines", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds between two strikes")
    parser.add_argument("--seconds", type=float, default=600.0, help="duration of the storm")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds after which the run is given up")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(options.engine, options.drive, options.folder, options.tasks, options.seed, options.machines)
        return 0
    needed = {"dask": "distributed", "ray": "ray", "slurm": "dask_jobqueue"}[options.engine]
    if importlib.util.find_spec(needed) is None:
        sys.exit(f"{needed} is not installed: pip install 'rollforge[{options.engine}]'")
    with tempfile.TemporaryDirectory(prefix="rollforge-storm-", ignore_cleanup_errors=True) as name:
        folder = options.folder or Path(name)
        found = storm(
            options.engine, options.tasks, options.machines, options.seed, options.pause, options.seconds, options.limit,
            folder,
        )  # fmt: skip
    print(json.dumps(found))
    return 1 if found["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
