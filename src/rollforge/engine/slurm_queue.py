"""Jobs of Slurm: submitted, looked at and cancelled with its commands."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rollforge.errors import MissingDependency

__all__ = ["SlurmProblem", "SlurmQueue", "State"]

_COMMANDS = ("sbatch", "squeue", "scontrol", "scancel")
_SECONDS = 60.0  # Slurm's own commands wait for up to 10 s for a controller, several times
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_RUNNING = {"RUNNING", "RESIZING", "SIGNALING", "STOPPED", "SUSPENDED"}
_ENDING = {"COMPLETING", "STAGE_OUT"}
_GENERAL = {"None", "(null)", "Priority", "Resources", "Dependency", "BeginTime"}  # said of jobs before they started


class SlurmProblem(Exception):
    """A command of Slurm failed. The text is what it printed."""


@dataclass(frozen=True, slots=True)
class State:
    """The state of a job.

    Examples
    --------
    >>> State("PENDING", "Resources").is_waiting, State("TIMEOUT", "TimeLimit").has_ended
    (True, True)
    """

    name: str
    reason: str = ""

    @property
    def is_waiting(self) -> bool:
        """Whether the job has not started."""
        return self.name in _WAITING

    @property
    def has_ended(self) -> bool:
        """Whether the job has ended or is ending."""
        return self.name not in _WAITING | _RUNNING


class SlurmQueue:
    """The commands of Slurm, of which those in PATH are called.

    Raises
    ------
    MissingDependency
        If there are none.
    """

    def __init__(self) -> None:
        missing = [name for name in _COMMANDS if shutil.which(name) is None]
        if missing:
            raise MissingDependency(
                f"Running on Slurm needs its commands, and {', '.join(missing)} cannot be found here. Run this on a "
                "machine from which jobs are submitted, such as a login node, or add the folder of the commands to PATH."
            )

    def submit(self, script: str) -> str:
        """Submit a job and return its number."""
        answer = _call(["sbatch", "--parsable"], script)
        return answer.strip().splitlines()[-1].partition(";")[0]  # in a federation: number;cluster

    def states(self, jobs: Collection[str]) -> Mapping[str, State]:
        """Return the states of those jobs that Slurm knows. It forgets jobs some minutes after their end."""
        if not jobs:
            return {}
        try:
            answer = _call(["squeue", "--noheader", "--states=all", f"--jobs={','.join(jobs)}", "--format=%i|%T|%r"])
        except SlurmProblem as exc:
            if "Invalid job id" in str(exc):  # said only if there is a single one
                return {}
            raise
        lines = [line.strip().split("|", 2) for line in answer.splitlines() if line.count("|") >= 2]
        return {job: State(name, reason) for job, name, reason in lines}

    def describe(self, job: str) -> tuple[State, str]:
        """Return the state of a job, and how it ended in words."""
        try:
            answer = _call(["scontrol", "--oneliner", "show", "job", job])
        except SlurmProblem as exc:
            return State("UNKNOWN"), f"Slurm does not know job {job} any more: {exc}"
        return told(job, answer)

    def cancel(self, jobs: Collection[str]) -> None:
        """Cancel jobs. Those that have ended are ignored."""
        if jobs:
            _call(["scancel", "--quiet", *jobs])


def told(job: str, answer: str) -> tuple[State, str]:
    """Return the state of a job and how it ended, from the answer of ``scontrol show job``.

    Examples
    --------
    >>> told("7", "JobId=7 JobState=TIMEOUT Reason=TimeLimit Dependency=(null) ExitCode=0:15 RunTime=01:00:02 NodeList=n1")
    (State(name='TIMEOUT', reason='TimeLimit'), 'Slurm job 7 ended as TIMEOUT (TimeLimit) after 01:00:02 on n1')
    >>> told("8", "JobId=8 JobState=FAILED Reason=None Dependency=(null) ExitCode=127:0 RunTime=00:00:00 NodeList=n2")[1]
    'Slurm job 8 ended as FAILED with exit code 127 after 00:00:00 on n2'
    """

    def value(name: str) -> str:
        found = re.search(rf"(?:^|\s){name}=(\S*)", answer)
        return "" if found is None or found[1] == "(null)" else found[1]

    state = State(value("JobState"), value("Reason"))
    code = value("ExitCode").partition(":")[0]
    parts = [f"Slurm job {job} {'ended as' if state.has_ended and state.name not in _ENDING else 'is'} {state.name}"]
    if state.reason and state.reason not in _GENERAL:
        parts.append(f"({state.reason})")
    if code not in ("", "0"):
        parts.append(f"with exit code {code}")
    if value("RunTime"):
        parts.append(f"after {value('RunTime')}")
    if value("NodeList"):
        parts.append(f"on {value('NodeList')}")
    return state, " ".join(parts)


def _call(command: list[str], text: str | None = None) -> str:
    """Run a command and return what it prints.

    Raises
    ------
    SlurmProblem
        If it fails or does not end.
    """
    try:
        # In a session of its own, so that Ctrl-C does not end it: a job could be submitted whose number nobody knows.
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False, start_new_session=True
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SlurmProblem(f"{command[0]} did not answer within {_SECONDS:g} s") from None
    except OSError as exc:
        raise SlurmProblem(f"{command[0]} cannot be started: {exc}") from exc
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise SlurmProblem(said if said.startswith(command[0]) else f"{command[0]}: {said}")
    return done.stdout
