"""A real Slurm on this machine for tests: a controller and two nodes, with their own folder, key and ports."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from rollforge.testing.server import free_port

__all__ = ["SlurmServer", "why_no_slurm"]

INSTALL = "apt-get install slurmctld slurmd slurm-client munge"
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
_CONFIGURATION = """
ClusterName=rollforge
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmctldAddr=127.0.0.1
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
GresTypes=gpu
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout=10
KillWait=2
SchedulerParameters=batch_sched_delay=0,sched_min_interval=10000
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=2 RealMemory=4000 Gres=gpu:1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=2 RealMemory=4000 Gres=gpu:1
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10
"""


def why_no_slurm() -> str:
    """Return why Slurm cannot be started on this machine, and how to change that; empty if it can."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
    return f"no Slurm ({', '.join(missing)} not found): {INSTALL}" if missing else ""


class SlurmServer:
    """Context manager that runs munged, slurmctld, and a slurmd for each of the nodes ``n1`` and ``n2``.

    Each node has two cores, 4000 MB and one GPU (which is none). Jobs of the partition ``urgent`` preempt those of
    ``main``, which is the default.

    Raises
    ------
    RuntimeError
        If it cannot run here, or does not start; the message contains the logs.
    """

    NODES = ("n1", "n2")

    def __init__(self) -> None:
        if problem := why_no_slurm():
            raise RuntimeError(problem)
        self.folder = Path(tempfile.mkdtemp(prefix="rollforge-slurm-", dir="/tmp"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables with which the commands of Slurm find this one."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError, RuntimeError, subprocess.TimeoutExpired):
            self.call("scancel", f"--user={getpass.getuser()}", "--signal=KILL", "--full", "--quiet")
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        self.folder.chmod(0o755)  # munge's socket must be reachable
        key, host = self.folder / "munge.key", socket.gethostname()
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        (self.folder / "state").mkdir()
        text = _CONFIGURATION.format(
            folder=self.folder,
            host=host,
            user=getpass.getuser(),
            controller=free_port(),
            n1=free_port(),
            n2=free_port(),
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(
            "NodeName=n1 Name=gpu File=/dev/null\nNodeName=n2 Name=gpu File=/dev/zero\n"
        )
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        self._launch(
            "munged", "--foreground", f"--key-file={key}", f"--socket={self.folder}/munge.socket",
            f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/seed",
        )  # fmt: skip
        self._until(lambda: (self.folder / "munge.socket").exists())
        self._launch("slurmctld", "-D")
        for node in self.NODES:
            self.start_node(node)
        self._until(lambda: self.call("sinfo", "--noheader", "--Node", "--format=%T").split().count("idle") >= 4)

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        self._launch("slurmd", "-D", "-N", node, name=node)

    def kill_node(self, node: str) -> None:
        """Kill the slurmd of a node and the processes of its jobs with ``kill -9``, like a power failure."""
        victims = [pid for pid, value in _environments() if f"SLURMD_NODENAME={node}" in value and self._owns(value)]
        self._processes[node].kill()
        self._processes.pop(node).wait()
        steps = [pid for pid, command in _commands() if "slurmstepd" in command and self._is_of(pid, node)]
        for pid in [*steps, *victims]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    def _owns(self, environment: Sequence[str]) -> bool:
        return f"SLURM_CONF={self.folder / 'slurm.conf'}" in environment

    def _is_of(self, pid: int, node: str) -> bool:
        with contextlib.suppress(OSError):
            return any(str(self.folder / f"spool-{node}") in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in _files(pid))
        return False

    def _launch(self, program: str, *arguments: str, name: str = "") -> None:
        found = shutil.which(program, path=_PATH)
        assert found is not None
        with (self.folder / f"{name or program}.out").open("ab") as log:
            self._processes[name or program] = subprocess.Popen(
                [found, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder,
                env={**os.environ, **self.environment, "PATH": _PATH}, start_new_session=True,
            )  # fmt: skip

    def _until(self, condition: object) -> None:
        assert callable(condition)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(RuntimeError):
                if condition():
                    return
            dead = [name for name, process in self._processes.items() if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise RuntimeError(f"Slurm did not start ({', '.join(dead) or 'no answer'}):\n{self.logs()}")
            time.sleep(0.05)

    def logs(self) -> str:
        """Return the last lines of all logs."""
        return "\n".join(
            f"== {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in sorted(self.folder.glob("*.out"))
        )

    def call(self, *command: str) -> str:
        """Run a command of Slurm and return what it prints.

        Raises
        ------
        RuntimeError
            If it fails.
        """
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **self.environment}, timeout=30, check=False
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self, *states: str) -> list[str]:
        """Return the numbers of the jobs in some states, by default those that wait or run."""
        wanted = ",".join(states) or "PENDING,CONFIGURING,RUNNING,COMPLETING,SUSPENDED"
        return self.call("squeue", "--noheader", f"--states={wanted}", "--format=%i").split()

    def processes(self) -> list[int]:
        """Return the processes of jobs."""
        return [
            pid
            for pid, value in _environments()
            if self._owns(value) and any(v.startswith("SLURM_JOB_ID=") for v in value)
        ]

    @contextlib.contextmanager
    def without(self, node: str) -> Iterator[None]:
        """Context manager during which a node is dead."""
        self.kill_node(node)
        try:
            yield
        finally:
            self.start_node(node)


def _environments() -> Iterator[tuple[int, list[str]]]:
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            yield int(file.parent.name), file.read_text(errors="replace").split("\0")


def _commands() -> Iterator[tuple[int, str]]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield int(file.parent.name), file.read_text(errors="replace")


def _files(pid: int) -> list[str]:
    return os.listdir(f"/proc/{pid}/fd")
