"""The kill storm: workers and the store's server are killed at random, and afterwards every task has one result.

    python tests/storm.py --store sqlite --tasks 2000 --workers 8

Workers are killed with SIGKILL, some are stopped with SIGSTOP for longer than their lease and woken, a server is killed and
started again. Every worker writes down what it asked of the store and what it was told; a small model checks this history
afterwards. It prints one line of JSON and exits with 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rollforge.errors import LeaseLost, StoreUnavailable
from rollforge.run.worker import Job, Worker
from rollforge.store.base import TaskStore, open_store
from rollforge.task import Status
from rollforge.testing.mongo import MongoServer, real_mongodb
from rollforge.testing.postgres import PostgresServer

POOL = "storm"
LEASE = 2.0


# -- a worker ----------------------------------------------------------------------------------------------------------


class Diary:
    """A store that writes down each question before it is asked, and each answer."""

    def __init__(self, store: TaskStore, file: Path) -> None:
        self._store = store
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _write(self, **line: Any) -> None:
        os.write(self._file, (json.dumps({**line, "pid": os.getpid(), "at": time.monotonic()}) + "\n").encode())

    def _ask(self, op: str, call: Any, task: Any = None) -> Any:
        self._count += 1
        about = {"op": op, "n": self._count}
        if task is not None:
            about |= {"id": task.id, "token": task.token}
        self._write(**about, phase="asked")
        try:
            answer = call()
        except LeaseLost:
            self._write(**about, phase="refused")
            raise
        except StoreUnavailable:
            self._write(**about, phase="unknown")
            raise
        tasks = [(t.id, t.token, t.priority, t.attempt) for t in answer] if op == "claim" else None
        self._write(**about, phase="accepted", tasks=tasks)
        return answer

    def claim(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask("claim", lambda: self._store.claim(*args, **kwargs))

    def renew(self, task: Any, *args: Any) -> Any:
        return self._ask("renew", lambda: self._store.renew(task, *args), task)

    def commit(self, task: Any, *args: Any) -> Any:
        return self._ask("commit", lambda: self._store.commit(task, *args), task)

    def fail(self, task: Any, *args: Any) -> Any:
        return self._ask("fail", lambda: self._store.fail(task, *args), task)


def work(task: dict[str, Any]) -> int:
    """A short task."""
    time.sleep(task["s"] * (task["x"] % 7) / 7)
    return int(task["x"]) * 3


def be_worker(uri: str, diary: Path) -> None:
    """Run tasks until there is none."""
    while True:
        with contextlib.suppress(StoreUnavailable):
            Worker(Diary(open_store(uri), diary), Job(POOL, work), lease_seconds=LEASE, patience=120.0).run()  # type: ignore[arg-type]
            return
        time.sleep(0.2)


# -- the storm ---------------------------------------------------------------------------------------------------------


class Storm:
    """Workers, and what befalls them."""

    def __init__(self, uri: str, folder: Path, workers: int, seed: int) -> None:
        self.uri = uri
        self.folder = folder
        self.random = random.Random(seed)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.frozen: dict[int, float] = {}
        self.counts: Counter[str] = Counter()
        for _ in range(workers):
            self.start()

    def start(self) -> None:
        """One more worker."""
        command = [sys.executable, __file__, "--be-worker", self.uri, str(self.folder / "diary.jsonl")]
        errors = (self.folder / "errors.txt").open("ab")
        self.processes.append(subprocess.Popen(command, stdout=errors, stderr=errors))
        errors.close()

    def kill_one(self) -> None:
        """SIGKILL for a random worker, and a new one in its place."""
        victim = self.random.choice(self.processes)
        victim.kill()
        victim.wait()
        self.processes.remove(victim)
        self.frozen.pop(victim.pid, None)
        self.counts["kills"] += 1
        self.start()

    def freeze_one(self) -> None:
        """SIGSTOP for a random worker, for longer than its lease."""
        victim = self.random.choice(self.processes)
        if victim.poll() is None and victim.pid not in self.frozen:
            victim.send_signal(signal.SIGSTOP)
            self.frozen[victim.pid] = time.monotonic() + LEASE * 1.5
            self.counts["freezes"] += 1

    def thaw(self) -> None:
        """SIGCONT for those that were stopped long enough."""
        for pid, until in list(self.frozen.items()):
            if time.monotonic() > until:
                os.kill(pid, signal.SIGCONT)
                del self.frozen[pid]

    def replace_ended(self) -> None:
        """A worker that found nothing to do may have been early."""
        for process in list(self.processes):
            if process.poll() is not None:
                self.processes.remove(process)
                self.start()

    def end(self) -> None:
        """No worker is left."""
        for process in self.processes:
            process.kill()
            process.wait()


def rage(storm: Storm, store: TaskStore, server: Any, total: int, options: argparse.Namespace) -> float:
    """Let the storm go on until all tasks are done; return how long it took."""
    began = time.monotonic()
    next_kill, next_freeze, next_server = began + options.kill_every, began + 1.0, began + options.server_every
    while True:
        now = time.monotonic()
        if now > next_kill:
            storm.kill_one()
            next_kill = now + options.kill_every
        if now > next_freeze:
            storm.freeze_one()
            next_freeze = now + 1.5
        if server is not None and now > next_server:
            server.kill()
            time.sleep(0.3)
            server.start()
            storm.counts["server_kills"] += 1
            next_server = time.monotonic() + options.server_every
        storm.thaw()
        storm.replace_ended()
        with contextlib.suppress(StoreUnavailable):
            if store.count(POOL).get(Status.DONE, 0) == total:
                return now - began
        if now - began > options.limit:
            return -1.0
        time.sleep(0.05)


_UNDOING = 2.0
"""Seconds within which a server has certainly undone what a killed client had begun."""


# -- what must hold afterwards -----------------------------------------------------------------------------------------


def check_history(lines: Sequence[dict[str, Any]], priorities: dict[str, int], begun: float) -> list[str]:
    """Return what the history breaks: one accepted commit a task, none under an old token, priority order."""
    asked = {(e["pid"], e["n"]): e["at"] for e in lines if e["phase"] == "asked"}
    accepted = [{**e, "asked": asked[e["pid"], e["n"]]} for e in lines if e["phase"] == "accepted"]
    claims: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for e in accepted:
        for task_id, token, priority, attempt in e.get("tasks") or ():
            claims[task_id].append({**e, "token": token, "priority": priority, "attempt": attempt})
    commits = [e for e in accepted if e["op"] == "commit"]
    answered = {(e["pid"], e["n"]) for e in lines if e["phase"] in ("accepted", "refused")}
    cut_off = [e["at"] for e in lines if e["phase"] == "asked" and (e["pid"], e["n"]) not in answered]
    return [*check_commits(commits, claims), *check_tokens(claims), *check_order(claims, priorities, begun, cut_off)]


def check_commits(commits: list[dict[str, Any]], claims: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """At most one accepted commit a task, and none that was asked for after a later claim had been granted."""
    for task_id, n in Counter(e["id"] for e in commits).items():
        if n > 1:
            yield f"{task_id} has {n} accepted commits"
    for e in commits:
        if any(c["at"] < e["asked"] and c["token"] > e["token"] for c in claims[e["id"]]):
            yield f"{e['id']} was committed under token {e['token']} after a later claim"


def check_tokens(claims: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Tokens grow with every claim of a task."""
    for task_id, granted in claims.items():
        # A worker may be stopped between the answer and its writing it down: only what was over counts as before.
        if any(a["at"] < b["asked"] and a["token"] >= b["token"] for a in granted for b in granted):
            yield f"{task_id} was claimed under the tokens {[c['token'] for c in granted]}"
        if len({c["token"] for c in granted}) < len(granted):
            yield f"{task_id} was claimed twice under one token"


def check_order(
    claims: dict[str, list[dict[str, Any]]], priorities: dict[str, int], begun: float, cut_off: Sequence[float] = ()
) -> Iterator[str]:
    """Nothing less urgent is claimed while a more urgent task is certainly free: one that nobody ever claimed before.

    Not checked just after a claim that got no answer: until the server has undone it, others pass over the rows it locked.
    """
    first = {i: min(granted, key=lambda c: c["asked"]) for i, granted in claims.items()}
    urgent = [(c["asked"], priorities[i]) for i, c in first.items() if c["attempt"] == 0]
    for c in (c for granted in claims.values() for c in granted):
        if any(c["asked"] - _UNDOING < at < c["at"] for at in cut_off):
            continue
        if c["asked"] > begun and any(free_until > c["at"] and p > c["priority"] for free_until, p in urgent):
            yield f"a task of priority {c['priority']} was claimed before a more urgent one"
            return


def check_pool(store: TaskStore, ids: dict[str, int]) -> list[str]:
    """Return what the pool breaks: every task done, with its own result."""
    tasks = {t.id: t for t in store.query(POOL)}
    broken = [f"{i} is missing" for i in ids if i not in tasks]
    for task_id, x in ids.items():
        task = tasks.get(task_id)
        if task is not None and (task.status is not Status.DONE or task.result != 3 * x):
            broken.append(f"{task_id} is {task.status} with {task.result!r}")
    return broken


@contextlib.contextmanager
def served(kind: str, folder: Path) -> Iterator[tuple[str, Any]]:
    """A store's URI, and the server behind it where there is one that may be killed."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/tasks.db?synchronous=NORMAL", None
    elif kind == "postgres":
        with PostgresServer() as server:
            yield server.uri, server
    elif real_mongodb():
        yield f"{real_mongodb()}/rollforge_storm_{os.getpid()}", None
    else:
        with MongoServer() as stand_in:  # it is not killed: how a real server recovers it could not show
            yield f"{stand_in.uri}/storm", None


def run(options: argparse.Namespace) -> dict[str, Any]:
    """One storm; return what happened."""
    with (
        tempfile.TemporaryDirectory(prefix="rollforge-storm-") as name,
        served(options.store, Path(name)) as (uri, server),
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
        begun = time.monotonic()
        storm = Storm(uri, folder, options.workers, options.seed)
        try:
            seconds = rage(storm, store, server, options.tasks, options)
        finally:
            storm.end()
        diary = folder / "diary.jsonl"
        lines = [json.loads(line) for line in diary.read_text().splitlines() if line.endswith("}")]
        broken = check_pool(store, ids) + check_history(lines, priorities, begun)
        phases = Counter((e["op"], e["phase"]) for e in lines)
        errors = (folder / "errors.txt").read_text()
        store.close()
        return {
            "store": options.store, "tasks": options.tasks, "workers": options.workers, "seconds": round(seconds, 1),
            **storm.counts, "commits": phases["commit", "accepted"], "refused_commits": phases["commit", "refused"],
            "unknown_commits": phases["commit", "unknown"], "claims": phases["claim", "accepted"],
            "locked": errors.count("database is locked"), "broken": broken[:20],
        }  # fmt: skip


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=["sqlite", "postgres", "mongodb"], default="sqlite")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--kill-every", type=float, default=0.3)
    parser.add_argument("--server-every", type=float, default=5.0)
    parser.add_argument("--work", type=float, default=0.2, help="seconds that the longest tasks take")
    parser.add_argument("--limit", type=float, default=900.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--be-worker", nargs=2)
    options = parser.parse_args()
    if options.be_worker:
        be_worker(options.be_worker[0], Path(options.be_worker[1]))
        return
    result = run(options)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.exit(1 if result["broken"] or result["locked"] else 0)


if __name__ == "__main__":
    main()
