"""Third-party stores and trackers, registered for a URI scheme by a call or by an entry point of a package."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rollforge
from rollforge.drivers import (
    LEDGERS,
    STORES,
    TRACKERS,
    register_again,
    register_ledger,
    register_store,
    register_tracker,
    registered,
)
from rollforge.errors import CodeNotAllowed, ConfigError, MissingDependency, RollforgeError
from rollforge.session import Session, using
from rollforge.store import base as stores
from rollforge.store.base import open_store
from rollforge.store.memory import MemoryStore
from rollforge.testing.store import TaskStoreSuite
from rollforge.testing.track import TrackerSuite
from rollforge.track import tracker as trackers
from rollforge.track.base import get_experiment, open_tracker
from rollforge.track.recorder import open_reference

Install = Callable[..., Path]

BOXES = '''
"""A store and a tracker with their own scheme."""

from rollforge.ledger.memory import MemoryLedger
from rollforge.store.memory import MemoryStore
from rollforge.track.folder import FolderTracker


class BoxStore(MemoryStore):
    pass


class BoxLedger(MemoryLedger):
    pass


class BoxTracker(FolderTracker):
    def __init__(self, uri):
        super().__init__("folder:" + uri.partition(":")[2])
        self.uri = uri


class Nothing:
    pass


def function(uri):
    return None
'''


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """A function that installs a distribution: a folder on the path with its modules and metadata, as made by pip."""
    made: list[str] = []

    def install(name: str, entry_points: str, **modules: str) -> Path:
        folder = tmp_path / f"site-{name}"
        info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)
            made.append(module)
        monkeypatch.syspath_prepend(folder)
        return folder

    before = {id(d): (dict(d._registered), set(d._used), dict(d._objects)) for d in (STORES, TRACKERS)}
    opened = (dict(stores._opener.known), dict(trackers._opener.known))
    yield install
    stores._opener.known, trackers._opener.known = opened
    for module in made:
        sys.modules.pop(module, None)
    for drivers in (STORES, TRACKERS):
        drivers._registered, drivers._used, drivers._objects = before[id(drivers)]


class TestAStoreOfAnotherScheme(TaskStoreSuite):
    """A store of a third-party package, opened by its URI, passes the suite."""

    @pytest.fixture(autouse=True)
    def _scheme(self, install: Install) -> None:
        install("box-store", "[rollforge.stores]\nbox = boxes_of_suite:BoxStore\n", boxes_of_suite=BOXES)

    def make_store(self, clock: Callable[[], float]) -> rollforge.TaskStore:
        return open_store("box://here", clock=clock)


class TestATrackerOfAnotherScheme(TrackerSuite):
    """A tracker of a third-party package, opened by its URI, passes the suite."""

    @pytest.fixture
    def uri(self, tmp_path: Path, install: Install) -> str:
        install("box-tracker", "[rollforge.trackers]\nbox = boxes_of_suite:BoxTracker\n", boxes_of_suite=BOXES)
        return f"box:{tmp_path}/runs"


def test_an_entry_point_is_imported_only_when_its_scheme_is_opened(install: Install) -> None:
    """An entry point is not imported for another scheme, or for the list of schemes in an error."""
    install("a", "[rollforge.stores]\nbox = boxes_a:BoxStore\n", boxes_a=BOXES)
    open_store("memory://other")
    with pytest.raises(ConfigError, match=r"box \(a 1.0\)"):
        open_store("bux://x")
    assert "boxes_a" not in sys.modules
    store = open_store("box://x")
    assert type(store).__name__ == "BoxStore"
    assert open_store("box://x") is store


def test_a_call_registers_a_scheme(install: Install, tmp_path: Path) -> None:
    """The target is a string, which is imported later, or a class; repeating the call has no effect."""
    install("b", "", boxes_b=BOXES)
    for _ in range(2):
        register_store("box", "boxes_b:BoxStore")
        rollforge.register_tracker("box", "boxes_b:BoxTracker")
    assert "boxes_b" not in sys.modules
    assert type(rollforge.open_store("box://registered")).__name__ == "BoxStore"
    assert type(rollforge.open_tracker(f"box:{tmp_path}/runs")).__name__ == "BoxTracker"
    register_store("heap", MemoryStore)
    assert isinstance(open_store("heap://x"), MemoryStore)
    STORES.unregister("heap")
    with pytest.raises(ConfigError, match="heap"):
        open_store("heap://y")


def test_the_error_for_an_unknown_scheme_says_how_to_add_one() -> None:
    """The error contains the nearest scheme, the built-in forms, the entry point group and the function to call."""
    with pytest.raises(ConfigError) as caught:
        open_store("sqlit:///x.db")
    for part in (
        "'sqlite'",
        "postgresql://HOST/DATABASE",
        "rollforge.stores",
        "register_store('sqlit', 'module:Class')",
    ):
        assert part in str(caught.value), part
    with pytest.raises(ConfigError) as caught:
        open_tracker("wandb://x")
    for part in ("folder:PATH", "rollforge.trackers", "register_tracker('wandb', 'module:Class')"):
        assert part in str(caught.value), part
    with pytest.raises(ConfigError) as caught:
        open_store("redis://user:hunter2@host/1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["sqlite", "memory", "postgresql", "postgres", "mongodb", "mongodb+srv"])
def test_a_built_in_store_cannot_be_replaced(scheme: str, install: Install, caplog: pytest.LogCaptureFixture) -> None:
    """Registering its scheme raises an error; an entry point is ignored with a warning that names its package."""
    for replace in (False, True):
        with pytest.raises(ConfigError, match="cannot be replaced"):
            register_store(scheme, "boxes_c:BoxStore", replace=replace)
    install(f"thief-{scheme.replace('+', '')}", f"[rollforge.stores]\n{scheme} = boxes_c:BoxStore\n", boxes_c=BOXES)
    with caplog.at_level(logging.WARNING):
        assert STORES.schemes()[scheme].target.startswith("rollforge.")
    assert "thief" in caplog.text


@pytest.mark.parametrize("scheme", ["folder", "sqlite", "http", "https", "file"])
def test_a_built_in_tracker_cannot_be_replaced(scheme: str) -> None:
    """Registering its scheme raises an error."""
    with pytest.raises(ConfigError, match="cannot be replaced"):
        register_tracker(scheme, "boxes_c:BoxTracker", replace=True)


def test_a_registered_scheme_is_replaced_only_with_replace(install: Install) -> None:
    """Another class for the same scheme is an error without replace=True, which applies to URIs opened afterwards."""
    install("d", "", boxes_d=BOXES)
    register_store("box", "boxes_d:BoxStore")
    with pytest.raises(ConfigError, match=r"boxes_d:BoxStore.*replace=True"):
        register_store("box", "rollforge.store.memory:MemoryStore")
    register_store("box", "rollforge.store.memory:MemoryStore", replace=True)
    assert type(open_store("box://replaced")) is MemoryStore


@pytest.mark.parametrize("scheme", ["", "x", "Redis", "a b", "redis://", "1st", "red_is", "a:b", None])
def test_an_invalid_scheme_is_refused(scheme: str) -> None:
    """A scheme is the part of a URI before ``://``."""
    with pytest.raises(ConfigError, match="not a valid URI scheme"):
        register_store(scheme, "boxes:BoxStore")


@pytest.mark.parametrize("target", ["", "boxes", "boxes.BoxStore", "boxes:", ":X", "a b:c", 5, None])
def test_an_invalid_target_is_refused(target: str) -> None:
    """A class is given as module:Class."""
    with pytest.raises(ConfigError, match="module:Class"):
        register_store("box", target)


@pytest.mark.parametrize(
    ("value", "text", "error", "message"),
    [
        ("boxes_e:BoxStore", "import nothing_of_that_name\n", MissingDependency, "nothing_of_that_name"),
        ("boxes_e:BoxStore", "1/0\n", ConfigError, "ZeroDivisionError"),
        ("boxes_e:BoxStore", "def\n", ConfigError, "SyntaxError"),
        ("boxes_e:Bxo", BOXES, ConfigError, "Bxo"),
        ("boxes_e:Nothing", BOXES, ConfigError, "has no create"),
        ("boxes_e:function", BOXES, ConfigError, "is not a class"),
        ("gone_e:BoxStore", BOXES, MissingDependency, "gone_e"),
    ],
)
def test_a_broken_entry_point_is_named_and_affects_no_other(
    value: str, text: str, error: type[RollforgeError], message: str, install: Install
) -> None:
    """The error for its scheme names the package and the cause; all other schemes work."""
    install("broken", f"[rollforge.stores]\nbroken = {value}\n", boxes_e=text)
    install("whole", "[rollforge.stores]\nwhole = boxes_f:BoxStore\n", boxes_f=BOXES)
    assert type(open_store("whole://x")).__name__ == "BoxStore"
    with pytest.raises(error, match=r"broken 1\.0") as caught:
        open_store("broken://x")
    assert message in str(caught.value)
    open_store("memory://still")


@pytest.mark.parametrize("line", ["bad = not a class", "bad = boxes", "Bad Name = boxes:X", "x = boxes:X"])
def test_a_malformed_entry_point_is_ignored_with_a_warning(
    line: str, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning names its package, and other entry points work."""
    folder = install("odd", f"[rollforge.stores]\n{line}\nwhole = boxes_g:BoxStore\n", boxes_g=BOXES)
    with caplog.at_level(logging.WARNING):
        STORES._reported.clear()
        assert "whole" in STORES.schemes()
    assert "odd 1.0" in caplog.text
    (folder / "odd-1.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe")  # and with damaged metadata
    assert type(open_store("whole://damaged")).__name__ == "BoxStore"


def test_two_packages_with_the_same_scheme_are_an_error(install: Install) -> None:
    """The choice never depends on the order of folders."""
    install("first", "[rollforge.stores]\nbox = boxes_h:BoxStore\n", boxes_h=BOXES)
    install("second", "[rollforge.stores]\nbox = boxes_i:BoxStore\n", boxes_i=BOXES)
    with pytest.raises(ConfigError, match=r"first 1.0 .*second 1.0"):
        open_store("box://x")
    register_store("box", "boxes_i:BoxStore")
    assert type(open_store("box://x")).__module__ == "boxes_i"


def test_worker_processes_inherit_registrations(install: Install) -> None:
    """Registrations of a process are passed on to the processes that it starts, and replace those made there."""
    install("j", "", boxes_j=BOXES)
    register_store("box", "boxes_j:BoxStore")
    register_ledger("box", "boxes_j:BoxLedger")
    known = registered()
    STORES.register("box", "rollforge.store.memory:MemoryStore", replace=True)
    LEDGERS.unregister("box")
    register_again(known)
    assert STORES.registered() == (("box", "boxes_j:BoxStore"),)
    assert LEDGERS.registered() == (("box", "boxes_j:BoxLedger"),)
    LEDGERS.unregister("box")


def test_a_pool_cannot_select_a_third_party_tracker(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference stored in a pool imports a third-party tracker only if that is allowed, or the program itself uses
    it."""
    install("k", "[rollforge.trackers]\nbox = boxes_k:BoxTracker\n", boxes_k=BOXES)
    uri = f"box:{tmp_path}/runs"
    reference = {"tracking": uri, "experiment_id": "1", "recorder_id": "a1"}
    with pytest.raises(CodeNotAllowed, match="ROLLFORGE_ALLOW=boxes_k"):
        open_reference(reference)
    assert "boxes_k" not in sys.modules
    with using(Session(tracking_uri=uri)), pytest.raises(RollforgeError) as caught:
        open_reference(reference)
    assert not isinstance(caught.value, CodeNotAllowed)  # the run does not exist
    monkeypatch.setenv("ROLLFORGE_ALLOW", "boxes_k")
    recorder = get_experiment(open_tracker(uri), experiment_name="e").create_recorder("r")
    assert open_reference(recorder.reference()).id == recorder.id


def test_the_command_opens_a_store_of_an_installed_package(install: Install, tmp_path: Path) -> None:
    """``rollforge pool --store box://…`` and ``rollforge track list box:…`` work in separate processes."""
    folder = install(
        "command",
        "[rollforge.stores]\nbox = boxes_l:BoxStore\n[rollforge.trackers]\nbox = boxes_l:BoxTracker\n",
        boxes_l=BOXES,
    )
    environment = {"PYTHONPATH": f"{folder}:{Path(rollforge.__file__).parents[1]}", "PATH": "/usr/bin"}
    for command, said in (
        (["pool", "--store", "box://x", "list"], ""),
        (["track", "list", f"box:{tmp_path}/runs"], ""),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "rollforge", *command],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
