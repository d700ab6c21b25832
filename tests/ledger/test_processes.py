"""A SQLite ledger with real processes: killed between any two statements, competing, and stopped beyond their lease."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BEGIN = """
import json, os, signal, sys, time
from rollforge.errors import LeaseLost, LedgerConflict, ServiceBusy
from rollforge.ledger.sqlite import SQLiteLedger
uri = sys.argv[1]

def forked(work):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = work() or 0
    finally:
        os._exit(code)

def ended(pid):
    return os.waitpid(pid, 0)[1]
"""
KILLS = """
def work(k):
    ledger, seen = SQLiteLedger(uri), 0
    def count(sql):
        nonlocal seen
        seen += 1
        if seen == k:
            os.kill(os.getpid(), signal.SIGKILL)
    ledger._opened().connection.set_trace_callback(count)
    lease = ledger.acquire("us", holder="child", seconds=60)
    lease = ledger.renew(lease, 60)
    ledger.append(lease, len(ledger.entries("us")) + 1, "later", {"k": k, "long": "x" * 9000})
    ledger.release(lease)

counts = []
for k in range(1, 200):
    status = ended(forked(lambda: work(k)))
    ledger = SQLiteLedger(uri)
    entries = ledger.entries("us")
    assert [e.number for e in entries] == list(range(1, len(entries) + 1))
    assert all(len(e.body["long"]) == 9000 for e in entries)
    counts.append(len(entries))
    # the next process continues; the lease of a dead process expires, or is acquired again by its holder
    lease = ledger.acquire("us", holder="child", seconds=60)
    ledger.append(lease, len(entries) + 1, "later", {"k": -k, "long": "x" * 9000})
    ledger.release(lease)
    ledger.close()
    if status == 0:
        break
print(json.dumps({"statements": k, "counts": counts}))
"""
RACE = """
def work(name):
    ledger, done = SQLiteLedger(uri), 0
    while done < 15:
        try:
            lease = ledger.acquire("us", holder=name, seconds=60)
        except ServiceBusy:
            continue
        last = len(ledger.entries("us"))
        ledger.append(lease, last + 1, "later", {"name": name, "after": last})
        ledger.release(lease)
        done += 1

children = [forked(lambda name=name: work(name)) for name in ("a", "b")]
assert [ended(pid) for pid in children] == [0, 0]
print(json.dumps([[e.number, e.body["after"], e.body["name"], e.token] for e in SQLiteLedger(uri).entries("us")]))
"""
STOPPED = """
def work():
    ledger = SQLiteLedger(uri)
    lease = ledger.acquire("us", holder="old", seconds=0.3)
    number = len(ledger.entries("us")) + 1
    os.kill(os.getpid(), signal.SIGSTOP)  # suspended for longer than its lease
    try:
        ledger.append(lease, number, "later", {"by": "old"})
    except LeaseLost:
        return 7

found = []
for taken_over in (False, True):
    pid = forked(work)
    os.waitpid(pid, os.WUNTRACED)
    ledger = SQLiteLedger(uri)
    while ledger.held_by("us"):
        time.sleep(0.05)
    if taken_over:
        lease = ledger.acquire("us", holder="new", seconds=60)
        ledger.append(lease, len(ledger.entries("us")) + 1, "later", {"by": "new"})
        ledger.release(lease)
    ledger.close()
    os.kill(pid, signal.SIGCONT)
    found.append(os.waitstatus_to_exitcode(ended(pid)))
print(json.dumps([found, [e.body["by"] for e in SQLiteLedger(uri).entries("us")]]))
"""


def run(program: str, folder: Path) -> object:
    """Run a program that forks, and return what it printed."""
    command = [sys.executable, "-W", "ignore", "-c", BEGIN + program, f"sqlite:///{folder}/ledger.db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_process_killed_between_any_two_statements_leaves_whole_entries(tmp_path: Path) -> None:
    """Each entry is there or not; the next process continues without a gap."""
    found = run(KILLS, tmp_path)
    assert isinstance(found, dict)
    assert found["statements"] > 10
    added = [b - a - 1 for a, b in zip(found["counts"], found["counts"][1:], strict=False)]
    assert set(added) == {0, 1}
    assert added == sorted(added)  # the entry is there from one statement on: that which commits it


def test_two_processes_append_in_turn(tmp_path: Path) -> None:
    """Without gaps, and each entry follows the last one that its author had seen."""
    entries = run(RACE, tmp_path)
    assert isinstance(entries, list)
    assert [number for number, *_ in entries] == [after + 1 for _, after, *_ in entries] == list(range(1, 31))
    assert sorted(name for _, _, name, _ in entries) == ["a"] * 15 + ["b"] * 15
    tokens = [token for *_, token in entries]
    assert tokens == sorted(set(tokens))


def test_a_process_that_comes_back_after_its_lease_appends_nothing(tmp_path: Path) -> None:
    """The process appends nothing, whether another process has taken over or not."""
    assert run(STOPPED, tmp_path) == [[7, 7], ["new"]]
