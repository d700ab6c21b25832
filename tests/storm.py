"""The kill storm: workers and the store's server are killed at random, and afterwards every task has one result.

    python tests/storm.py --store sqlite --tasks 2000 --workers 8

Workers are killed with SIGKILL, some are stopped with SIGSTOP for longer than their lease and woken, a server is killed and
started again. Some tasks are damaged or need a class that no worker has; some workers are on a machine where every task
fails, or that lacks a module. Connections to PostgreSQL go through a proxy that cuts them, also right after a COMMIT.

Every worker writes down what it asked of the store and what it was told; a small model checks this history afterwards.
It prints one line of JSON and exits with 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import itertools
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
from urllib.parse import urlsplit

from rollforge.errors import FailingWorker, LeaseLost, MissingCode, StoreUnavailable, UnfitWorker
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
"""How many tasks a bad machine may let fail before it ends: three in a row, and one now and then while it waits."""
_OTHERS_SECONDS = 5.0
"""So long after a commit its worker, or another one, counts as being at work."""


# -- a worker ----------------------------------------------------------------------------------------------------------


_questions = itertools.count(1)  # of this process, whichever store they are asked


class Diary:
    """A store that writes down each question before it is asked, and each answer."""

    def __init__(self, store: TaskStore, file: Path, kind: str = "good") -> None:
        self._store = store
        self._kind = kind
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _write(self, **line: Any) -> None:
        os.write(self._file, (json.dumps({**line, "pid": os.getpid(), "at": time.monotonic()}) + "\n").encode())

    def _ask(self, op: str, call: Any, task: Any = None) -> Any:
        about = {"op": op, "n": next(_questions), "kind": self._kind}
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


def no_data(task: dict[str, Any]) -> int:
    """Any task, on a machine without the data folder."""
    time.sleep(0.01)
    raise FileNotFoundError("/data/market/calendars/day.txt")


def no_module(task: dict[str, Any]) -> int:
    """Any task, on a machine that lacks a module."""
    raise MissingCode("there is no module 'torch' here")


MACHINES = {"good": work, "no data": no_data, "no module": no_module}


def be_worker(uri: str, diary: Path, kind: str) -> None:
    """Run tasks until there is none, or this machine turns out to be no good."""
    diary.with_name(f"begun-{os.getpid()}").touch()
    name = process_name() if kind == "good" else f"{kind.replace(' ', '-')}:{os.getpid()}"
    while True:
        store: Any = Diary(open_store(uri), diary, kind)
        worker = Worker(
            store, Job(POOL, MACHINES[kind]), lease_seconds=LEASE, patience=120.0, name=name, patient=True
        )  # as `rollforge worker` does
        try:
            worker.run()
        except StoreUnavailable:
            time.sleep(0.2)
            continue
        except (FailingWorker, UnfitWorker) as exc:  # that is how such a machine should end
            sys.stderr.write(f"{kind}: {exc}\n")
        return


# -- the storm ---------------------------------------------------------------------------------------------------------


class Storm:
    """Workers, and what befalls them."""

    def __init__(self, uri: str, folder: Path, workers: int, seed: int, bad: bool = True) -> None:
        self.uri = uri
        self.folder = folder
        self.random = random.Random(seed)
        self.bad: dict[str, subprocess.Popen[bytes] | None] = dict.fromkeys(("no data", "no module") if bad else ())
        self.processes: list[subprocess.Popen[bytes]] = []
        self.frozen: dict[int, float] = {}
        self.counts: Counter[str] = Counter()
        for _ in range(workers):
            self.start()

    def _worker(self, kind: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, __file__, "--be-worker", self.uri, str(self.folder / "diary.jsonl"), kind]
        with (self.folder / "errors.txt").open("ab") as errors:
            return subprocess.Popen(command, stdout=errors, stderr=errors)

    def start(self) -> None:
        """One more worker."""
        self.processes.append(self._worker("good"))

    def start_bad(self) -> None:
        """A worker of each kind of bad machine, where there is none."""
        for kind, process in self.bad.items():
            if process is None or process.poll() is not None:
                self.bad[kind] = self._worker(kind)
                self.counts[kind.replace(" ", "_")] += 1

    def _victim(self) -> subprocess.Popen[bytes] | None:
        """A random worker that began half a second ago: on a busy machine all would be killed while they start."""
        marks = {p.pid: self.folder / f"begun-{p.pid}" for p in self.processes}
        begun = [p for p in self.processes if (m := marks[p.pid]).exists() and time.time() - m.stat().st_mtime > 0.5]
        return self.random.choice(begun) if begun else None

    def kill_one(self) -> None:
        """SIGKILL for a random worker that had the time to begin, and a new one in its place."""
        victim = self._victim()
        if victim is None:
            return
        victim.kill()
        victim.wait()
        self.processes.remove(victim)
        self.frozen.pop(victim.pid, None)
        self.counts["kills"] += 1
        self.start()

    def freeze_one(self) -> None:
        """SIGSTOP for a random worker, for longer than its lease."""
        victim = self._victim()
        if victim is not None and victim.poll() is None and victim.pid not in self.frozen:
            victim.send_signal(signal.SIGSTOP)
            self.frozen[victim.pid] = time.monotonic() + LEASE * 1.5
            self.counts["freezes"] += 1

    def thaw(self) -> None:
        """SIGCONT for those that were stopped long enough."""
        for pid, until in list(self.frozen.items()):
            if time.monotonic() > until:
                with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
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
        for process in [*self.processes, *(p for p in self.bad.values() if p is not None)]:
            process.kill()
            process.wait()


def rage(storm: Storm, store: TaskStore, server: Any, total: int, options: argparse.Namespace) -> float:
    """Let the storm go on until all tasks are done; return how long it took."""
    began = time.monotonic()
    next_kill, next_freeze, next_server = began + options.kill_every, began + 1.0, began + options.server_every
    next_bad = began
    done = done_at_kill = 0
    while True:
        now = time.monotonic()
        if now > next_kill and done - done_at_kill >= _BETWEEN_KILLS:
            storm.kill_one()
            next_kill, done_at_kill = now + options.kill_every, done
        if now > next_freeze:
            storm.freeze_one()
            next_freeze = now + 1.5
        if server is not None and now > next_server:
            server.kill()
            time.sleep(0.3)
            server.start()
            storm.counts["server_kills"] += 1
            next_server = time.monotonic() + options.server_every
        if now > next_bad:
            storm.start_bad()
            next_bad = now + 3.0
        storm.thaw()
        storm.replace_ended()
        with contextlib.suppress(StoreUnavailable):
            done = store.count(POOL).get(Status.DONE, 0)
            if done == total and _all_read(store):
                return now - began
        if now - began > options.limit:
            return -1.0
        time.sleep(0.05)


_BETWEEN_KILLS = 3
"""Tasks that are done between two kills at least. Else a busy machine kills all workers while they start, and never ends."""


def _all_read(store: TaskStore) -> bool:
    return not store.count(POOL, {"priority": UNREADABLE, "status": {"$ne": "failed"}})


_UNDOING = 2.0
"""Seconds within which a server has certainly undone what a killed client had begun."""


# -- what must hold afterwards -----------------------------------------------------------------------------------------


def check_history(lines: Sequence[dict[str, Any]], priorities: dict[str, int], begun: float) -> list[str]:
    """Return what the history breaks: one accepted commit a task, none under an old token, priority order."""
    asked = {(e["pid"], e["n"]): e["at"] for e in lines if e["phase"] == "asked"}
    asked |= first_asked(lines, asked)
    accepted = [{**e, "asked": asked[e["pid"], e["n"]]} for e in lines if e["phase"] == "accepted"]
    claims: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for e in accepted:
        for task_id, token, priority, attempt in e.get("tasks") or ():
            claims[task_id].append({**e, "token": token, "priority": priority, "attempt": attempt})
    commits = [e for e in accepted if e["op"] == "commit"]
    answered = {(e["pid"], e["n"]) for e in lines if e["phase"] in ("accepted", "refused")}
    cut_off = [e["at"] for e in lines if e["phase"] == "asked" and (e["pid"], e["n"]) not in answered]
    return [*check_commits(commits, claims), *check_tokens(claims), *check_order(claims, priorities, begun, cut_off)]


def first_asked(lines: Sequence[dict[str, Any]], asked: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """When a claim was asked for the first time, for those that were repeated since nobody answered."""
    first: dict[tuple[int, int], float] = {}
    since: dict[Any, float] = {}
    for e in lines:
        pid = e["pid"]
        if e["op"] == "claim" and e["phase"] == "unknown":
            since.setdefault(pid, asked[pid, e["n"]])
        elif e["op"] == "claim" and e["phase"] == "accepted":
            first[pid, e["n"]] = since.pop(pid, asked[pid, e["n"]])
    return first


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


def check_pool(store: TaskStore, ids: dict[str, int], unreadable: set[str], lacking: set[str]) -> list[str]:
    """Return what the pool breaks: every task done, with its own result; damaged ones failed, the others' left alone."""
    tasks = {t.id: t for t in store.query(POOL)}
    odd = [
        f"{i} is {tasks[i].status} ({tasks[i].cause})"
        for i in unreadable
        if (tasks[i].status, tasks[i].cause) != (Status.FAILED, Cause.UNREADABLE)
    ]
    # A worker may have been killed, or the storm ended, just when it held one of these.
    odd += [f"{i} is {tasks[i].status}" for i in lacking if tasks[i].status not in (Status.WAITING, Status.RUNNING)]
    broken = odd + [f"{i} is missing" for i in ids if i not in tasks]
    for task_id, x in ids.items():
        task = tasks.get(task_id)
        if task is not None and (task.status is not Status.DONE or task.result != 3 * x):
            broken.append(f"{task_id} is {task.status} with {task.result!r}")
    return broken


def check_bad_machines(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A machine on which all fails ends after a few tasks, and commits nothing. Alone it has to try: what fails while no
    other worker commits anything does not count, as when all of them are just starting on a busy machine."""
    commits = sorted(e["at"] for e in lines if (e["op"], e["phase"]) == ("commit", "accepted"))

    def others_work(at: float) -> bool:
        later = bisect.bisect(commits, at)
        return later > 0 and at - commits[later - 1] < _OTHERS_SECONDS

    failures = Counter(
        e["pid"]
        for e in lines
        if e["kind"] == "no data" and (e["op"], e["phase"]) == ("fail", "accepted") and others_work(e["at"])
    )
    yield from (f"a worker without data let {n} tasks fail" for n in failures.values() if n > _FEW_FAILURES)
    if any(e["kind"] != "good" and e["op"] == "commit" for e in lines):
        yield "a bad machine committed a task"


@contextlib.contextmanager
def cutting(uri: str, folder: Path, seed: int) -> Iterator[str]:
    """The same server, through a proxy that cuts connections; what it cut is counted in ``cuts.txt``."""
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
    """Change a definition behind the store's back."""
    if isinstance(store, MongoStore):
        store._database[POOL].update_one({"digest": task_id}, {"$set": {"plain": text}})
    elif isinstance(store, SQLStore):
        change = "UPDATE tasks SET definition = :text WHERE id = :id"
        store._write(lambda tx: tx.run(change, text=text, id=task_id), POOL)


DAMAGED = ['{"x": {"$date": "no day"}}', "[1]", '{"x": {"$bytes": 7}}', "{"]
LACKING = ["nowhere_module:Thing", "json:NoSuchClass"]
UNREADABLE, ELSEWHERE = 3, 0
"""Priorities of tasks that nobody can decode, and whose code nobody has."""


def spoil(store: TaskStore, count: int) -> tuple[set[str], set[str]]:
    """Create tasks that cannot be decoded, and tasks whose code is nowhere; return the ids of both."""
    made = []
    for priority, texts in (
        (UNREADABLE, DAMAGED),
        (ELSEWHERE, [json.dumps({"x": 1, "s": 0, "c": {"$ref": name}}) for name in LACKING]),
    ):
        definitions = [{"spoilt": texts[0], "i": i} for i in range(count)]
        created = [c.id for c in store.create(POOL, definitions, priority=priority, max_attempts=10_000)]
        for i, task_id in enumerate(created):
            damage(store, task_id, texts[i % len(texts)])
        made.append(set(created))
    return made[0], made[1]


@contextlib.contextmanager
def served(kind: str, folder: Path, seed: int) -> Iterator[tuple[str, str, Any]]:
    """A store's URI, the one that workers use, and the server behind it where there is one that may be killed."""
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
        with MongoServer() as stand_in:  # it is not killed: how a real server recovers it could not show
            yield f"{stand_in.uri}/storm", f"{stand_in.uri}/storm", None


def run(options: argparse.Namespace) -> dict[str, Any]:
    """One storm; return what happened."""
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
        unreadable, lacking = spoil(store, options.spoilt)
        begun = time.monotonic()
        storm = Storm(theirs, folder, options.workers, options.seed)
        try:
            seconds = rage(storm, store, server, options.tasks, options)
        finally:
            storm.end()
        diary = folder / "diary.jsonl"
        lines = [json.loads(line) for line in diary.read_text().splitlines() if line.endswith("}")]
        priorities |= dict.fromkeys(unreadable, UNREADABLE) | dict.fromkeys(lacking, ELSEWHERE)
        broken = [
            *check_pool(store, ids, unreadable, lacking), *check_history(lines, priorities, begun), *check_bad_machines(lines),
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
            **{f"cut_{why}": n for why, n in cut.items()}, "unreadable": len(unreadable), "lacking": len(lacking),
            "fails": phases["fail", "accepted"], "locked": errors.count("database is locked"), "broken": broken[:20],
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
    parser.add_argument("--spoilt", type=int, default=4, help="tasks of each kind that cannot run")
    parser.add_argument("--be-worker", nargs=3)
    options = parser.parse_args()
    if options.be_worker:
        uri, diary, kind = options.be_worker
        be_worker(uri, Path(diary), kind)
        return
    result = run(options)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.exit(1 if result["broken"] or result["locked"] else 0)


if __name__ == "__main__":
    main()
