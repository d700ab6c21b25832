"""The arguments of every command, environment variables, and the URIs in both."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from fuzzing import EXAMPLES, WORDS, Target, attempt, fuzzed, text_of
from hypothesis import strategies as st
from test_expressions import market
from test_workflows import VALID, _as_yaml

from rollforge.cli.main import app
from rollforge.ledger import base as ledgers
from rollforge.ledger.entry import DayResult, DayState, EntryKind, Release, Role, Signal, day_body, service_body
from rollforge.market.provider import open_provider
from rollforge.online import signal_files
from rollforge.session import Session
from rollforge.store import base as stores
from rollforge.store.manager import TaskManager
from rollforge.track import tracker as trackers
from rollforge.track.folder import FolderTracker

_folder = tempfile.TemporaryDirectory(prefix="fuzz-commands-")


@functools.cache
def pool() -> str:
    """A store with a pool of three tasks, none of which can be claimed."""
    uri = f"sqlite:///{_folder.name}/tasks.db"
    manager = TaskManager("pool", store=stores.open_store(uri))
    manager.create_task([{"n": n} for n in range(3)])
    manager.cancel()
    return uri


@functools.cache
def runs() -> str:
    """A tracking folder without runs."""
    tracker = FolderTracker(f"folder:{_folder.name}/runs")
    tracker.prepare()
    tracker.create_experiment("demo")
    return tracker.uri


@functools.cache
def ledger() -> str:
    """A ledger with a service that published two days with two models."""
    uri = f"sqlite:///{_folder.name}/ledger.db"
    opened = ledgers.open_ledger(uri)
    lease = opened.acquire("small", holder="host:1", seconds=60)
    opened.append(lease, 1, EntryKind.SERVICE, service_body("small", "by hand"))
    for number, (day, recorder) in enumerate((("2023-12-28", "r1"), ("2023-12-29", "r2")), 2):
        releases = [Release("9f8a", "small", recorder, Role.CHAMPION, day, strategy="small")]
        if recorder == "r2":
            releases.append(Release("9f8a", "small", "r1", Role.RETIRED, day, strategy="small"))
        index = pd.MultiIndex.from_product([[pd.Timestamp(day)], ["A", "B"]], names=["datetime", "instrument"])
        file, mark = signal_files.write(Path(_folder.name), f"{day}.v1", pd.Series([0.5, -0.5], index))
        signals = [Signal(day, 1, (recorder,), file, mark, 2)]
        body = day_body(DayResult(day, DayState.PUBLISHED), releases=releases, signals=signals)
        opened.append(lease, number, EntryKind.DAY, body)
    opened.release(lease)
    return uri


@contextlib.contextmanager
def _place(folder: Path, variables: Mapping[str, str] = {}) -> Iterator[None]:
    """Provide a working folder and an environment for one command, with streams like those of a terminal."""
    before, path, here, streams = dict(os.environ), list(sys.path), Path.cwd(), (sys.stdout, sys.stderr)
    for name in [n for n in os.environ if n.startswith("ROLLFORGE_")]:
        del os.environ[name]
    usual = {
        "ROLLFORGE_HOME": str(folder / "home"),
        "ROLLFORGE_CACHE": str(folder / "cache"),
        "COLUMNS": "80",
        "ROLLFORGE_TRACKING": runs(),
    }
    os.environ.update({**usual, **variables})
    os.chdir(folder / "out")
    sys.stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")
    sys.stderr = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    known = [dict(kind._opener.known) for kind in (stores, trackers, ledgers)]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)
        sys.path[:] = path
        for kind, old in zip((stores, trackers, ledgers), known, strict=True):
            opened = kind._opener.known
            for uri in [u for u in opened if u not in old]:
                closing = opened.pop(uri)  # type: ignore[attr-defined]
                if hasattr(closing, "close"):
                    closing.close()


def _command(data: bytes, folder: Path) -> Any:
    # No argument of a process contains a NUL, and Click 8.1 raises its own error for one.
    words = [text_of(w) for w in data.replace(b"\0", b"").split(b"\n")]
    table = pd.DataFrame({"symbol": ["A", "A"], "date": ["2020-01-01", "2020-01-02"], "close": [1.0, 2.0]})
    table.to_csv(folder / "out" / "table.csv", index=False)
    (folder / "out" / "members.csv").write_text("D0001,2023-06-01,2023-09-01\n")
    (folder / "out" / "workflow.yaml").write_bytes(_as_yaml(VALID[0]).replace(b"@market@", os.fsencode(market())))
    given = {
        "@store@": pool(),
        "@ledger@": ledger(),
        "@runs@": runs(),
        "@folder@": _folder.name,
        "@market@": str(market()),
    }
    words = [functools.reduce(lambda w, p: w.replace(*p), given.items(), word) for word in words]
    if "worker" in words:
        words.append("--exit-when-empty")
    if "run" in words and "serve" not in words:
        words.append("--dry-run")
    words = [w for w in words if w != "--stay"]
    before = {p.name for p in (folder / "out").iterdir()}
    with _place(folder):
        try:
            app(words)
        except SystemExit as exc:
            if exc.code not in (0, 1, 2, 7, None, *((3, 4, 6) if "serve" in words else ())):
                raise AssertionError(f"exit code {exc.code}") from exc
        finally:
            sys.stdout.flush()
            for name in before:
                with contextlib.suppress(OSError):
                    (folder / "out" / name).unlink()


def _words(line: str) -> bytes:
    return line.replace(" ", "\n").encode()


COMMANDS = [
    _words(line)
    for line in (
        "--version",
        "plan workflow.yaml --limit 3 --experiment other",
        "run workflow.yaml --jobs 2 --limit 2 --output results --allow-gaps",
        "pool --store @store@ list",
        "pool --store @store@ -t pool task-stat",
        'pool --store @store@ -t pool query {"status":"failed"}',
        "pool --store @store@ -t pool query --json",
        "pool --store @store@ -t pool pause",
        "pool --store @store@ -t pool resume",
        'pool --store @store@ -t pool cancel {"n":1}',
        "pool copy @store@ sqlite:///copy.db",
        "pool --store @store@ -t pool reset-status failed",
        "worker -t pool --store @store@ --no-data --jobs 1 --timeout 5 --memory 1G --lease 60 --grace 1 --reconnect-timeout 1",
        "track list @runs@",
        "track copy @runs@ folder:copied",
        "cache list --cache cache",
        "cache clear --cache cache",
        "data demo market --instruments 2 --years 1 --seed 3 --end 2023-12-29",
        "data demo market --instruments 2 --start 2023-01-02 --universe csi300=1 --code A",
        "data import table.csv market --market all --column close=price --encoding utf-8",
        "data universe csi --data @market@ members.csv --overwrite",
        "serve --ledger sqlite:///new.db --service other init workflow.yaml --begin 2023-12-28 --json",
        "serve --ledger @ledger@ --service small status --json",
        "serve --ledger @ledger@ history --day 2023-12-28 --json",
        "serve --ledger @ledger@ signals 2023-12-28 --version 1 --folder @folder@ --json",
        "serve --ledger @ledger@ promote r1 --reason better --from 2024-01-02",
        "serve --ledger @ledger@ rollback --strategy small --reason worse --from 2024-01-02",
    )
]
COMMAND_WORDS = [b"--help", b"-t", b"--store", b"--tracking", b"--limit", b"--jobs", b"--output", b"--names", b"--column", b"a=b", b"=", b"worker", b"plan", b"pool", b"run", b"check", b"correct",
                 b"sqlite:///", b"sqlite:///\x00", b"sqlite:////dev/null", b"sqlite:///~nobody_of_that_name/x.db", b"mongodb://", b"memory://x", b"folder:", b"file:", b"http://127.0.0.1:1",
                 b"sqlite:///" + b"a" * 300, b'{"status": "don"}', b"[1]", b"\xff\xfe", b"-1", b"0", b"1e999", b"nan", b"99999999999999999999", b"../x", b"/proc/x/y"]  # fmt: skip
_arguments = st.one_of(
    st.sampled_from(COMMANDS).flatmap(lambda c: st.sampled_from(c.split(b"\n"))),
    st.sampled_from(COMMAND_WORDS),
    st.integers(0, len(WORDS) - 1).map(lambda i: WORDS[i][:3000]),
    st.binary(max_size=6),
)


@st.composite
def _changed(draw: st.DrawFn) -> bytes:
    words = draw(st.sampled_from(COMMANDS)).split(b"\n")
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(min(2, len(words) - 1), len(words)))
        words[at : at + draw(st.integers(0, 1))] = [draw(_arguments)]
    return b"\n".join(w.replace(b"\n", b" ") for w in words)


NAMES = ["ROLLFORGE_DATA", "ROLLFORGE_STORE", "ROLLFORGE_TRACKING", "ROLLFORGE_HOME", "ROLLFORGE_CACHE", "ROLLFORGE_LIMIT_TASKS", "ROLLFORGE_ALLOW", "XDG_CACHE_HOME",
         "ROLLFORGE_VERBOSE", "ROLLFORGE_CODE_STATE", "ROLLFORGE_LIMIT_VALUES"]  # fmt: skip


def _environment(data: bytes, folder: Path) -> Any:
    """Set an environment variable, selected by the first byte, to any value."""
    name = NAMES[(data[0] if data else 0) % len(NAMES)]
    value = text_of(data[1:].replace(b"\0", b""))
    (folder / "out" / "workflow.yaml").write_bytes(_as_yaml({k: v for k, v in VALID[0].items() if k != "rollforge"}))
    if name == "ROLLFORGE_TRACKING" and not value.startswith("folder:"):
        name = "ROLLFORGE_DATA"  # MLflow needs seconds for a new database
    with _place(folder, {name: value}):
        attempt(Session)
        for words in (["pool", "list"], ["plan", "workflow.yaml"], ["track", "list"], ["cache", "list"]):
            with contextlib.suppress(SystemExit):
                attempt(lambda words=words: app(words))  # type: ignore[misc]


URIS = [
    b"sqlite:///tasks.db",
    b"sqlite:////tmp/../tmp/nowhere/x.db?synchronous=NORMAL",
    b"memory://one",
    b"folder:runs",
    b"file:runs",
    b"sqlite:///a%20b.db",
]


def _uri(data: bytes, folder: Path) -> Any:
    """Use a URI for the store, the tracking store and the data."""
    text = text_of(data)
    with _place(folder):
        if (
            not text.startswith(("mongodb", "postgres")) or "serverSelectionTimeoutMS" in text
        ):  # otherwise the command waits for it
            attempt(lambda: stores.open_store(text).pools())
        tracker = attempt(lambda: trackers.open_tracker(text))
        if isinstance(tracker, FolderTracker):
            attempt(tracker.experiments)
        attempt(lambda: Session(store_uri=text, tracking_uri=text, provider_uri=text, cache=text))
        attempt(lambda: open_provider(text))


_uris = st.tuples(
    st.sampled_from(["sqlite", "postgresql", "mongodb", "memory", "folder", "file", "http", "", "sqlite+x", "SQLITE"]),
    st.sampled_from([":", ":/", "://", ":///", ":////", ""]),
    st.sampled_from(
        [
            "127.0.0.1:1",
            "user:pass@127.0.0.1:1",
            "user:p@ss@127.0.0.1:1/x",
            "[::1",
            "127.0.0.1:99999999",
            "",
            "x.db",
            "~nobody_of_that_name",
            "a" * 300,
            "%00",
            "%zz",
        ]
    ),
    st.sampled_from(
        [
            "",
            "/",
            "/db",
            "?a=b",
            "?synchronous=x",
            "?serverSelectionTimeoutMS=1",
            "#x",
            "/?connectTimeoutMS=1&serverSelectionTimeoutMS=1",
            "?connect_timeout=1",
        ]
    ),
).map(lambda p: "".join(p).encode())


@fuzzed(
    Target("command", _command, COMMANDS, COMMAND_WORDS, _changed()),
    Target(
        "environment",
        _environment,
        [bytes([5]) + b"100"],
        [bytes([i]) for i in range(len(NAMES))],
        st.tuples(st.integers(0, 20), _arguments).map(lambda p: bytes([p[0]]) + p[1]),
    ),
    Target("uri", _uri, URIS, COMMAND_WORDS, _uris),
    examples=EXAMPLES // 2,
)
class TestCommands:
    """Commands."""
