"""Stress test of a task store: workers and the server are killed at random, and every task must have one result.

    python tests/storm.py --store sqlite --tasks 2000 --workers 8

Workers are killed with SIGKILL, or paused with SIGSTOP for longer than their lease; the server is killed and restarted.
Some tasks are damaged or need a class that no worker has. Some workers run on a machine on which every task fails, or
that lacks a module. Connections to PostgreSQL go through a proxy that cuts them, also right after a COMMIT.

Each worker logs its calls of the store and their results, and this history is checked afterwards. The program prints
one line of JSON, and exits with 1 if a promise of the store was broken.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rollforge.errors import FailingWorker, LeaseLost, MissingCode, RequirementsNotMet, StoreUnavailable
from rollforge.machine import process_name
from rollforge.run.job import Job
from rollforge.run.worker import Worker
from rollforge.store.base import TaskStore, open_store
from rollforge.store.mongo import MongoStore
from rollforge.store.sql import SQLStore
from rollforge.task import Cause, Status
from rollforge.testing.mongo import MongoServer, real_mongodb
from rollforge.testing.postgres import PostgresServer

POOL = "storm"
LEASE = 2.0
_FEW_FAILURES = 15
"""How many tasks may fail on a bad machine before its worker exits: three in a row, and single ones while it waits."""
_OTHERS_SECONDS = 5.0
"""How long after a commit at least one worker counts as working."""
CONTEXT = multiprocessing.get_context("forkserver")
"""Workers are forks of a process that has imported what they need: three of them are killed each second, and importing
takes a second of processor time. None of these modules starts a thread."""
CONTEXT.set_forkserver_preload(
    ["psycopg", "pymongo", "rollforge.run.worker", "rollforge.store.sqlite", "rollforge.store.postgres",
     "rollforge.store.mongo", "rollforge.testing.mongo", "rollforge.testing.postgres"]
)  # fmt: skip


# -- a worker ----------------------------------------------------------------------------------------------------------


_call_numbers = itertools.count(1)  # for all stores of this process


class LoggingStore:
    """A store that logs each call before it is made, and each result."""

    def __init__(self, store: TaskStore, file: Path, kind: str = "good") -> None:
        self._store = store
        self._kind = kind
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _write(self, **line: Any) -> None:
        os.write(self._file, (json.dumps({**line, "pid": os.getpid(), "at": time.monotonic()}) + "\n").encode())

    def _logged(self, op: str, call: Any, task: Any = None) -> Any:
        about = {"op": op, "n": next(_call_numbers), "kind": self._kind}
        if task is not None:
            about |= {"id": task.id, "token": task.token}
        self._write(**about, phase="called")
        try:
            result = call()
        except LeaseLost:
            self._write(**about, phase="refused")
            raise
        except StoreUnavailable:
            self._write(**about, phase="unknown")
            raise
        tasks = [(t.id, t.token, t.priority, t.attempt) for t in result] if op == "claim" else None
        self._write(**about, phase="accepted", tasks=tasks)
        return result

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        return self._logged("claim", lambda: self._store.claim(*args, **kwargs))

    def renew(self, task: Any, *args: Any) -> Any:
        return self._logged("renew", lambda: self._store.renew(task, *args), task)

    def commit(self, task: Any, *args: Any) -> Any:
        return self._logged("commit", lambda: self._store.commit(task, *args), task)

    def fail(self, task: Any, *args: Any) -> Any:
        return self._logged("fail", lambda: self._store.fail(task, *args), task)


def work(task: dict[str, Any]) -> int:
    """Run a short task."""
    time.sleep(task["s"] * (task["x"] % 7) / 7)
    return int(task["x"]) * 3


def no_data(task: dict[str, Any]) -> int:
    """Fail, as any task does on a machine without the data folder."""
    time.sleep(0.01)
    raise FileNotFoundError("/data/market/calendars/day.txt")


def no_module(task: dict[str, Any]) -> int:
    """Fail, as any task does on a machine without a module that it needs."""
    raise MissingCode("there is no module 'torch' here")


MACHINES = {"good": work, "no data": no_data, "no module": no_module}


def run_worker(uri: str, log: Path, kind: str) -> None:
    """Run tasks until there are none left, or the worker exits because its machine is bad."""
    with log.with_name("errors.txt").open("ab") as errors:
        os.dup2(errors.fileno(), 1)
        os.dup2(errors.fileno(), 2)
    log.with_name(f"started-{os.getpid()}").touch()
    name = process_name() if kind == "good" else f"{kind.replace(' ', '-')}:{os.getpid()}"
    while True:
        store: Any = LoggingStore(open_store(uri), log, kind)
        worker = Worker(
            store,
            Job(POOL, MACHINES[kind]),
            lease_seconds=LEASE,
            reconnect_timeout=120.0,
            name=name,
            wait_for_others=True,
        )  # as `rollforge worker` does
        try:
            worker.run()
        except StoreUnavailable:
            time.sleep(0.2)
            continue
        except (FailingWorker, RequirementsNotMet) as exc:  # expected on a bad machine
            sys.stderr.write(f"{kind}: {exc}\n")
        return


# -- the storm ---------------------------------------------------------------------------------------------------------


class Storm:
    """The workers, and methods that kill or pause them."""

    def __init__(self, uri: str, folder: Path, workers: int, seed: int, bad: bool = True) -> None:
        self.uri = uri
        self.folder = folder
        self.random = random.Random(seed)
        self.bad: dict[str, ForkServerProcess | None] = dict.fromkeys(("no data", "no module") if bad else ())
        self.processes: list[ForkServerProcess] = []
        self.paused: dict[int, float] = {}
        self.counts: Counter[str] = Counter()
        for _ in range(workers):
            self.start()

    def _worker(self, kind: str) -> ForkServerProcess:
        process = CONTEXT.Process(target=run_worker, args=(self.uri, self.folder / "history.jsonl", kind), daemon=True)
        process.start()
        return process

    def start(self) -> None:
        """Start a worker."""
        self.processes.append(self._worker("good"))

    def start_bad(self) -> None:
        """Start a worker on each kind of bad machine that has none."""
        for kind, process in self.bad.items():
            if process is None or not process.is_alive():
                self.bad[kind] = self._worker(kind)
                self.counts[kind.replace(" ", "_")] += 1

    def _victim(self) -> ForkServerProcess | None:
        """Return a random worker that started at least half a second ago, or None.

        Otherwise, on a busy machine, workers would be killed before they have started.
        """
        marks = {p.pid: self.folder / f"started-{p.pid}" for p in self.processes}
        started = [p for p in self.processes if (m := marks[p.pid]).exists() and time.time() - m.stat().st_mtime > 0.5]
        return self.random.choice(started) if started else None

    def kill_one(self) -> None:
        """Kill a random worker with SIGKILL, and start a new one."""
        victim = self._victim()
        if victim is None:
            return
        victim.kill()
        victim.join()
        self.processes.remove(victim)
        self.paused.pop(_pid(victim), None)
        self.counts["kills"] += 1
        self.start()

    def pause_one(self) -> None:
        """Stop a random worker with SIGSTOP for longer than its lease."""
        victim = self._victim()
        if victim is not None and victim.is_alive() and _pid(victim) not in self.paused:
            os.kill(_pid(victim), signal.SIGSTOP)
            self.paused[_pid(victim)] = time.monotonic() + LEASE * 1.5
            self.counts["pauses"] += 1

    def resume(self) -> None:
        """Resume workers that have been paused for long enough."""
        for pid, until in list(self.paused.items()):
            if time.monotonic() > until:
                with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
                    os.kill(pid, signal.SIGCONT)
                del self.paused[pid]

    def replace_ended(self) -> None:
        """Replace workers that have exited: they may have started before there were tasks that they could claim."""
        for process in list(self.processes):
            if not process.is_alive():
                self.processes.remove(process)
                self.start()

    def end(self) -> None:
        """Kill all workers."""
        for process in [*self.processes, *(p for p in self.bad.values() if p is not None)]:
            process.kill()
            process.join()


def _pid(process: ForkServerProcess) -> int:
    assert process.pid is not None, "it was started"
    return process.pid


def run_storm(storm: Storm, store: TaskStore, server: Any, total: int, options: argparse.Namespace) -> float:
    """Kill and pause workers until all tasks are done; return the duration in seconds, or -1.0 after the time limit."""
    began = time.monotonic()
    next_kill, next_pause, next_server = began + options.kill_every, began + 1.0, began + options.server_every
    next_bad = began
    done = done_at_kill = 0
    while True:
        now = time.monotonic()
        if now > next_kill and done - done_at_kill >= _BETWEEN_KILLS:
            storm.kill_one()
            next_kill, done_at_kill = now + options.kill_every, done
        if now > next_pause:
            storm.pause_one()
            next_pause = now + 1.5
        # Half of the tasks can take less than a second.
        spared = not storm.counts["server_kills"] and 2 * done >= options.tasks
        if server is not None and (now > next_server or spared):
            server.kill()
            time.sleep(0.3)
            server.start()
            storm.counts["server_kills"] += 1
            next_server = time.monotonic() + options.server_every
        if now > next_bad:
            storm.start_bad()
            next_bad = now + 3.0
        storm.resume()
        storm.replace_ended()
        with contextlib.suppress(StoreUnavailable):
            done = store.count(POOL).get(Status.DONE, 0)
            if done == total and _unreadable_failed(store):
                return now - began
        if now - began > options.limit:
            return -1.0
        time.sleep(0.05)


_BETWEEN_KILLS = 3
"""Minimum number of tasks that are done between two kills. Otherwise, on a busy machine, no worker would get any task
done."""


def _unreadable_failed(store: TaskStore) -> bool:
    return not store.count(POOL, {"priority": UNREADABLE, "status": {"$ne": "failed"}})


_ROLLBACK_SECONDS = 2.0
"""Seconds within which the server has certainly rolled back the transaction of a killed client."""


# -- checks ------------------------------------------------------------------------------------------------------------


def check_history(lines: Sequence[dict[str, Any]], priorities: dict[str, int], began: float) -> list[str]:
    """Return violations in the history: repeated commits, commits with an old token, a wrong order of claims."""
    called = {(e["pid"], e["n"]): e["at"] for e in lines if e["phase"] == "called"}
    called |= first_calls(lines, called)
    accepted = [{**e, "called": called[e["pid"], e["n"]]} for e in lines if e["phase"] == "accepted"]
    claims: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for e in accepted:
        for task_id, token, priority, attempt in e.get("tasks") or ():
            claims[task_id].append({**e, "token": token, "priority": priority, "attempt": attempt})
    commits = [e for e in accepted if e["op"] == "commit"]
    returned = {(e["pid"], e["n"]) for e in lines if e["phase"] in ("accepted", "refused")}
    cut_off = [e["at"] for e in lines if e["phase"] == "called" and (e["pid"], e["n"]) not in returned]
    return [*check_commits(commits, claims), *check_tokens(claims), *check_order(claims, priorities, began, cut_off)]


def first_calls(lines: Sequence[dict[str, Any]], called: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """Return when each claim was called for the first time, if it was repeated because a response was lost."""
    first: dict[tuple[int, int], float] = {}
    since: dict[Any, float] = {}
    for e in lines:
        pid = e["pid"]
        if e["op"] == "claim" and e["phase"] == "unknown":
            since.setdefault(pid, called[pid, e["n"]])
        elif e["op"] == "claim" and e["phase"] == "accepted":
            first[pid, e["n"]] = since.pop(pid, called[pid, e["n"]])
    return first


def check_commits(commits: list[dict[str, Any]], claims: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Check that a task has at most one accepted commit, and none that was called after a later claim was granted."""
    for task_id, n in Counter(e["id"] for e in commits).items():
        if n > 1:
            yield f"{task_id} has {n} accepted commits"
    for e in commits:
        if any(c["at"] < e["called"] and c["token"] > e["token"] for c in claims[e["id"]]):
            yield f"{e['id']} was committed under token {e['token']} after a later claim"


def check_tokens(claims: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Check that the token of a task increases with every claim."""
    for task_id, granted in claims.items():
        # A worker may be paused before it has logged a result, so only claims that had been logged count as earlier.
        if any(a["at"] < b["called"] and a["token"] >= b["token"] for a in granted for b in granted):
            yield f"{task_id} was claimed under the tokens {[c['token'] for c in granted]}"
        if len({c["token"] for c in granted}) < len(granted):
            yield f"{task_id} was claimed twice under one token"


def check_order(
    claims: dict[str, list[dict[str, Any]]], priorities: dict[str, int], began: float, cut_off: Sequence[float] = ()
) -> Iterator[str]:
    """Check that no task is claimed while one of a higher priority is certainly free, since it was never claimed.

    This is not checked just after a claim without a response: until the server has rolled it back, others skip the rows
    that it has locked.
    """
    first = {i: min(granted, key=lambda c: c["called"]) for i, granted in claims.items()}
    urgent = [(c["called"], priorities[i]) for i, c in first.items() if c["attempt"] == 0]
    for c in (c for granted in claims.values() for c in granted):
        if any(c["called"] - _ROLLBACK_SECONDS < at < c["at"] for at in cut_off):
            continue
        if c["called"] > began and any(free_until > c["at"] and p > c["priority"] for free_until, p in urgent):
            yield f"a task of priority {c['priority']} was claimed before one of a higher priority"
            return


def check_pool(store: TaskStore, ids: dict[str, int], unreadable: set[str], lacking: set[str]) -> list[str]:
    """Return violations in the pool: tasks without their own result, damaged ones that have not failed, and tasks whose
    code is missing that were run."""
    tasks = {t.id: t for t in store.query(POOL)}
    wrong = [
        f"{i} is {tasks[i].status} ({tasks[i].cause})"
        for i in unreadable
        if (tasks[i].status, tasks[i].cause) != (Status.FAILED, Cause.UNREADABLE)
    ]
    # A worker may have held one of these when it was killed, or when the test ended.
    wrong += [f"{i} is {tasks[i].status}" for i in lacking if tasks[i].status not in (Status.WAITING, Status.RUNNING)]
    broken = wrong + [f"{i} is missing" for i in ids if i not in tasks]
    for task_id, x in ids.items():
        task = tasks.get(task_id)
        if task is not None and (task.status is not Status.DONE or task.result != 3 * x):
            broken.append(f"{task_id} is {task.status} with {task.result!r}")
    return broken


def check_bad_machines(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Check that a worker on a bad machine exits after a few failures, and commits nothing.

    Failures at a time when no other worker commits anything, such as when all of them are starting, do not count.
    """
    commits = sorted(e["at"] for e in lines if (e["op"], e["phase"]) == ("commit", "accepted"))

    def others_work(at: float) -> bool:
        later = bisect.bisect(commits, at)
        return later > 0 and at - commits[later - 1] < _OTHERS_SECONDS

    failures = Counter(
        e["pid"]
        for e in lines
        if e["kind"] == "no data" and (e["op"], e["phase"]) == ("fail", "accepted") and others_work(e["at"])
    )
    yield from (f"{n} tasks failed on a worker without data" for n in failures.values() if n > _FEW_FAILURES)
    if any(e["kind"] != "good" and e["op"] == "commit" for e in lines):
        yield "a bad machine committed a task"


@contextlib.contextmanager
def cutting(uri: str, folder: Path, seed: int) -> Iterator[str]:
    """Yield the URI of the server through a proxy that cuts connections, and lists them in ``cuts.txt``."""
    port = urlsplit(uri).port
    with (folder / "cuts.txt").open("ab") as cuts:
        script = Path(__file__).with_name("cutting_proxy.py")
        proxy = subprocess.Popen([sys.executable, str(script), str(port), str(seed)], stdout=cuts)
    try:
        while not (lines := (folder / "cuts.txt").read_text().splitlines()):
            time.sleep(0.02)
        yield uri.replace(f":{port}/", f":{lines[0]}/")
    finally:
        proxy.kill()
        proxy.wait()


def damage(store: TaskStore, task_id: str, text: str) -> None:
    """Change a stored definition directly in the database."""
    if isinstance(store, MongoStore):
        store._database[POOL].update_one({"digest": task_id}, {"$set": {"plain": text}})
    elif isinstance(store, SQLStore):
        change = "UPDATE tasks SET definition = :text WHERE id = :id"
        store._write(lambda tx: tx.run(change, text=text, id=task_id), POOL)


DAMAGED = ['{"x": {"$date": "no day"}}', "[1]", '{"x": {"$bytes": 7}}', "{"]
LACKING = ["nowhere_module:Thing", "json:NoSuchClass"]
UNREADABLE, MISSING_CODE = 3, 0
"""Priorities of tasks that cannot be decoded, and of tasks whose code no worker has."""


def create_faulty(store: TaskStore, count: int) -> tuple[set[str], set[str]]:
    """Create tasks that cannot be decoded, and tasks whose code no worker has; return the ids of both."""
    made = []
    for priority, texts in (
        (UNREADABLE, DAMAGED),
        (MISSING_CODE, [json.dumps({"x": 1, "s": 0, "c": {"$ref": name}}) for name in LACKING]),
    ):
        definitions = [{"faulty": texts[0], "i": i} for i in range(count)]
        created = [c.id for c in store.create(POOL, definitions, priority=priority, max_attempts=10_000)]
        for i, task_id in enumerate(created):
            damage(store, task_id, texts[i % len(texts)])
        made.append(set(created))
    return made[0], made[1]


@contextlib.contextmanager
def served(kind: str, folder: Path, seed: int) -> Iterator[tuple[str, str, Any]]:
    """Yield the URI of a store, the URI for workers, and the server if it may be killed."""
    if kind == "sqlite":
        uri = f"sqlite:///{folder}/tasks.db?synchronous=NORMAL"
        yield uri, uri, None
    elif kind == "postgres":
        with PostgresServer() as server, cutting(server.uri, folder, seed) as cut:
            yield server.uri, cut, server
    elif real_mongodb():
        uri = f"{real_mongodb()}/rollforge_storm_{os.getpid()}"
        yield uri, uri, None
    else:
        with MongoServer() as emulator:  # not killed: it does not recover as a real server does
            yield f"{emulator.uri}/storm", f"{emulator.uri}/storm", None


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the stress test, and return its result."""
    with (
        tempfile.TemporaryDirectory(prefix="rollforge-storm-") as name,
        served(options.store, Path(name), options.seed) as (uri, theirs, server),
    ):
        folder = Path(name)
        store = open_store(uri)
        ids, priorities = {}, {}
        for priority in (0, 2, 1):
            xs = [x for x in range(options.tasks) if x % 3 == priority]
            for x, made in zip(
                xs,
                store.create(POOL, [{"x": x, "s": options.work} for x in xs], priority=priority, max_attempts=10_000),
                strict=True,
            ):
                ids[made.id], priorities[made.id] = x, priority
        unreadable, lacking = create_faulty(store, options.faulty)
        began = time.monotonic()
        storm = Storm(theirs, folder, options.workers, options.seed)
        try:
            seconds = run_storm(storm, store, server, options.tasks, options)
        finally:
            storm.end()
        history = folder / "history.jsonl"
        lines = [json.loads(line) for line in history.read_text().splitlines() if line.endswith("}")]
        priorities |= dict.fromkeys(unreadable, UNREADABLE) | dict.fromkeys(lacking, MISSING_CODE)
        broken = [
            *check_pool(store, ids, unreadable, lacking), *check_history(lines, priorities, began), *check_bad_machines(lines),
        ]  # fmt: skip
        phases = Counter((e["op"], e["phase"]) for e in lines)
        errors = (folder / "errors.txt").read_text()
        cuts = folder / "cuts.txt"
        cut = Counter(cuts.read_text().splitlines()[1:]) if cuts.exists() else {}
        store.close()
        return {
            "store": options.store, "tasks": options.tasks, "workers": options.workers, "seconds": round(seconds, 1),
            **storm.counts, "commits": phases["commit", "accepted"], "refused_commits": phases["commit", "refused"],
            "unknown_commits": phases["commit", "unknown"], "claims": phases["claim", "accepted"],
            **{f"cut_{reason}": n for reason, n in cut.items()}, "unreadable": len(unreadable), "lacking": len(lacking),
            "fails": phases["fail", "accepted"], "locked": errors.count("database is locked"), "broken": broken[:20],
        }  # fmt: skip


def main() -> None:
    """Parse the arguments; see the docstring of the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=["sqlite", "postgres", "mongodb"], default="sqlite")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--kill-every", type=float, default=0.3)
    parser.add_argument("--server-every", type=float, default=5.0)
    parser.add_argument("--work", type=float, default=0.2, help="duration of the longest tasks in seconds")
    parser.add_argument("--limit", type=float, default=900.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faulty", type=int, default=4, help="number of tasks of each kind that cannot run")
    result = run(parser.parse_args())
    sys.stdout.write(json.dumps(result) + "\n")
    sys.exit(1 if result["broken"] or result["locked"] else 0)


if __name__ == "__main__":
    main()
