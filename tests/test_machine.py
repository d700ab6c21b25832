"""Processes are distinguished across containers and reboots, and a store uses the clock of the machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rollforge.errors import StoreUnavailable
from rollforge.machine import process_is_gone, process_name, uptime
from rollforge.run.worker import release_dead_workers
from rollforge.store.base import open_store
from rollforge.store.sqlite import SQLiteStore
from rollforge.task import Status

SLEEP = "import time; from rollforge.machine import process_name; print(process_name(), flush=True); time.sleep(60)"


def test_a_name_identifies_one_process() -> None:
    """A later process with the same process id has another name; a killed process counts as gone even before its parent
    has waited for it."""
    with subprocess.Popen([sys.executable, "-c", SLEEP], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        assert name == process_name(child.pid)
        assert not process_is_gone(name)
        earlier = re.sub(r"-(\d+)$", "-1", name)
        assert process_is_gone(earlier)
        child.kill()
        time.sleep(0.2)
        assert process_is_gone(name)
    assert process_is_gone(name)


FORK = """
import os, time
from rollforge.machine import process_name
print(process_name(), flush=True)
parent = os.getpid()
time.sleep(0.05)
if os.fork() == 0:
    os.getpid = lambda: parent
    print(process_name(), flush=True)
else:
    os.wait()
"""


def test_a_forked_process_does_not_keep_the_name_of_its_parent() -> None:
    """Even if it is given the process id that its parent had, it has a name of its own."""
    names = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True).stdout.split()
    assert len(set(names)) == 2


def test_a_process_that_cannot_be_checked_is_not_gone() -> None:
    """A process cannot be checked on another host, another boot or container, and a name in the format of an older
    version."""
    host, pid, identity = process_name().split(":")
    assert not process_is_gone(f"elsewhere:{pid}:{identity}")
    assert not process_is_gone(f"{host}:999999:00000000-1")
    assert not process_is_gone(f"{host}:999999")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_a_worker_in_a_container_with_the_same_host_name_is_alive(tmp_path: Path) -> None:
    """The worker has the same host name and a process id that does not exist here; its task stays with it until its
    lease expires."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    store = open_store(uri)
    store.create("p", [{"x": 1}])
    code = (
        "import time\nfrom rollforge.machine import process_name\nfrom rollforge.store.base import open_store\n"
        f"open_store({uri!r}).claim('p', worker=process_name(), lease=600)\nprint('claimed', flush=True)\ntime.sleep(60)"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as inside:
        assert inside.stdout is not None
        assert inside.stdout.readline() == "claimed\n"
        assert release_dead_workers(store, "p") == []
        assert store.count("p") == {Status.RUNNING: 1}
        inside.kill()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_no_process_is_gone_if_proc_belongs_to_another_namespace() -> None:
    """After ``unshare --pid`` alone, the process ids in /proc belong to another namespace, and are not used."""
    code = (
        "from rollforge.machine import process_is_gone, process_name\n"
        "name = process_name()\n"
        "start = open('/proc/self/stat').read().rpartition(')')[2].split()[19]\n"
        "host, pid, identity = name.split(':')\n"
        "print(identity.endswith(f'-{start}'), [process_is_gone(f'{host}:{n}:{identity}') for n in (pid, 2, 999999)])"
    )
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True [False, False, False]\n"


def test_a_process_whose_clock_is_ahead_does_not_take_over_tasks(tmp_path: Path) -> None:
    """The store's clock counts, and not that of the process."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    store = SQLiteStore(uri)
    store.create("p", [{"x": 1}])
    (task,) = store.claim("p", worker="here", lease=60)
    code = (
        "import time\nreal = time.time\ntime.time = lambda: real() + 7200\n"
        f"from rollforge.store.sqlite import SQLiteStore\nstore = SQLiteStore({uri!r})\n"
        "print(store.claim('p', worker='ahead', lease=60), store.count('p'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[] {<Status.RUNNING: 'running'>: 1}\n"
    store.commit(task, 1)


def test_the_time_of_a_store_is_close_to_the_wall_clock(tmp_path: Path) -> None:
    """Displayed times are therefore correct; and the store's time never goes back."""
    store = SQLiteStore(f"sqlite:///{tmp_path}/tasks.db")
    before = time.time()
    store.create("p", [{"x": 1}])
    (task,) = store.query("p")
    assert abs(task.created_at - before) < 2
    assert [a <= b for a, b in zip([uptime() for _ in range(50)], [uptime() for _ in range(50)], strict=True)] == [
        True
    ] * 50


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_a_deleted_or_replaced_file_is_detected(replaced: bool, tmp_path: Path) -> None:
    """Nothing is written to the deleted file, and the next call raises an error."""
    path = tmp_path / "tasks.db"
    store = SQLiteStore(f"sqlite:///{path}")
    store.create("p", [{"x": 1}, {"x": 2}])
    (task,) = store.claim("p", worker="w", lease=60)
    copy = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-copy") / "tasks.db"
    path.unlink()
    if replaced:
        shutil.move(copy, path)
    with pytest.raises(StoreUnavailable, match="replaced" if replaced else "deleted"):
        store.commit(task, 1)
    with pytest.raises(StoreUnavailable):
        store.claim("p", worker="w", lease=60)
