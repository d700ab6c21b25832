"""Admission: comparing what a submission used with what this machine has, before a worker claims its tasks."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from rollforge import Session
from rollforge.errors import RequirementsNotMet
from rollforge.market.content import read_content
from rollforge.run.requirements import Admission, RequirementsCheck, missing_on_machine
from rollforge.run.submission import version_of
from rollforge.store.memory import MemoryStore


class ServerStore(MemoryStore):
    """A store whose address is that of a server."""

    def __init__(self) -> None:
        super().__init__()
        self.uri = "postgresql://server/tasks"


def admission(info: dict[str, Any], tmp_path: Path, *, store: MemoryStore | None = None, **options: Any) -> Admission:
    """Return an admission for a pool with one task of a submission."""
    store = MemoryStore() if store is None else store
    store.create("p", [{"x": 1}], submission=store.keep_submission("p", info))
    settings = {"tracking_uri": f"folder:{tmp_path}/runs", "cache": str(tmp_path), **options.pop("session", {})}
    return Admission(store, "p", Session(**settings), **options)


def check(info: dict[str, Any], tmp_path: Path, **options: Any) -> RequirementsCheck:
    """Return the result of the check of a submission."""
    one = admission(info, tmp_path, **{"needs_data": False, **options})
    one.refresh(idle=True)
    (found,) = one.checked.values()
    assert (found.session is None) == bool(found.problems)
    assert one.can_run_all == one.can_run_any == (not found.problems)
    return found


PACKAGE = {"host": "gpu1", "models": {"M": {"nowhere_at_all": "1.2"}}}


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        (
            PACKAGE,
            "The package nowhere_at_all is not installed here; the tasks were submitted with nowhere_at_all 1.2. Install it: pip "
            "install nowhere_at_all==1.2.",
        ),
        (
            {"host": "gpu1", "plugins": ["/nowhere/mine.py"]},
            "The tasks need the plugin /nowhere/mine.py of gpu1, and this",
        ),
        (
            {"host": "gpu1", "machine": "m", "tracking": "folder:/nowhere/runs"},
            "record their runs in folder:/nowhere/runs on gpu1, which does not exist on this machine. Give the tracking",
        ),
        (
            {"host": "gpu1", "rollforge": "0.0.1"},
            f"The tasks were submitted on gpu1 with Rollforge 0.0.1, but this machine has Rollforge {version_of('rollforge')}. "
            "Install Rollforge 0.0.1 here (pip install rollforge==0.0.1), or submit the tasks again from a machine with",
        ),
        (
            {"host": "gpu1", "python": "3.7.2"},
            f"The tasks were submitted on gpu1 with Python 3.7, but this machine has Python 3.{sys.version_info.minor}. Install "
            "Python 3.7 here, or submit",
        ),
        ({"tracking": "nosuch://server"}, "Runs cannot be recorded in nosuch://server. "),
    ],
)
def test_what_this_machine_lacks_is_a_problem(info: dict[str, Any], problem: str, tmp_path: Path) -> None:
    """The message names what is missing and where the tasks were submitted; nothing can be claimed."""
    (found,) = check(info, tmp_path).problems
    assert problem in found
    with pytest.raises(RequirementsNotMet, match=r"cannot run the tasks of pool 'p'\. None was claimed"):
        admission(info, tmp_path, needs_data=False).check_pool(exit_when_empty=True)


@pytest.mark.parametrize(
    ("info", "note"),
    [
        (
            {"models": {"M": {"numpy": "0.1"}}, "libraries": ["numpy"]},
            f"numpy is version {version_of('numpy')} here, but was 0.1 where the tasks were submitted.",
        ),
        (
            {"models": {**PACKAGE["models"], "N": {"numpy": version_of("numpy")}}, "libraries": ["numpy"]},  # type: ignore[dict-item]
            "Tasks of the model M are left for other workers. The package nowhere_at_all is not installed here",
        ),
    ],
)
def test_differences_that_do_not_prevent_running_are_notes(info: dict[str, Any], note: str, tmp_path: Path) -> None:
    """Another version of a package is a note; so is a package that only one of several models needs."""
    found = check({"host": "gpu1", **info}, tmp_path)
    assert found.problems == ()
    assert any(one.startswith(note) for one in found.notes), found.notes


@pytest.mark.parametrize(
    ("text", "problem"),
    [("x = 1\n", "with other contents of"), ("raise OSError('no device')\n", "plugins that cannot be imported here: ")],
)
def test_a_plugin_that_differs_or_cannot_be_imported(text: str, problem: str, tmp_path: Path) -> None:
    """A plugin with other contents than on the submitter's machine is a problem, and so is one that raises an error."""
    file = tmp_path / "mine.py"
    file.write_text(text)
    files = {str(file): "0" * 64} if "other" in problem else {}
    info = {"host": "gpu1", "plugins": [str(file)], "files": files}
    (found,) = check(info, tmp_path, in_process=True).problems
    assert problem in found


@pytest.mark.parametrize("accept", [False, True])
def test_other_data_are_refused_or_accepted(accept: bool, small_market: Path, tmp_path: Path) -> None:
    """Data that differ from those of the submission are a problem, or a note if the operator accepts them."""
    content = {**read_content(small_market).to_plain(), "mark": "other", "fields": ["close", "open_interest"]}
    info = {"host": "gpu1", "data": {"folder": str(small_market), "content": content}}
    found = check(info, tmp_path, needs_data=True, accept_other_data=accept)
    (text,) = found.notes if accept else found.problems
    assert "open_interest" in text
    assert text.endswith("The tasks are run anyway (--accept-other-data)." if accept else "or use --accept-other-data.")
    if accept:
        assert found.session is not None
        assert found.session.provider_uri == str(small_market)


def test_content_that_cannot_be_compared_is_a_note(small_market: Path, tmp_path: Path) -> None:
    """The fingerprint of another version is a note."""
    info = {"data": {"folder": str(small_market), "content": {"mark": 1}}}
    assert "this version cannot compare" in check(info, tmp_path, needs_data=True).notes[0]


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        ({}, "This worker has no data folder, so every task would fail. Give the folder on this machine with --data"),
        (
            {"host": "gpu1", "data": {"folder": "/nowhere/data"}},
            "cannot read its data folder, so every task would fail. The tasks were submitted with the data folder "
            "/nowhere/data on gpu1. ",
        ),
    ],
)
def test_missing_data_are_a_problem(info: dict[str, Any], problem: str, tmp_path: Path) -> None:
    """A worker without the data of the tasks says which folder is missing, and how to give another one."""
    (found,) = check(info, tmp_path, needs_data=True).problems
    assert problem in found


def test_runs_of_a_shared_pool_are_not_recorded_in_a_local_file(tmp_path: Path) -> None:
    """A pool on a server needs a tracking store that all machines use, unless the operator names one."""
    (found,) = check({}, tmp_path, store=ServerStore()).problems
    assert found.startswith("The pool is on a server, but runs would be recorded in a file on this machine")
    assert check({}, tmp_path, store=ServerStore(), given=("tracking_uri",)).problems == ()


def test_an_unusable_exchange_is_a_problem(tmp_path: Path) -> None:
    """Settings of an exchange that this version does not have are a problem of the submission."""
    assert check({"region": "us", "exchange": {"nosuch": 1}}, tmp_path).problems


def test_a_machine_without_writable_folders_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary folder and the cache are written to; each that fails is named with the variable that changes it."""
    file = tmp_path / "file"
    file.touch()
    assert missing_on_machine(Session(cache=str(tmp_path / "cache"))) == []
    monkeypatch.setattr(tempfile, "tempdir", str(file))
    monkeypatch.setenv("TMPDIR", str(file))
    temporary, cache = missing_on_machine(Session(cache=str(file / "cache")))
    assert temporary == f"{file} is not writable (Not a directory). Set TMPDIR to another folder."
    assert cache.endswith("is not writable (Not a directory). Set ROLLFORGE_CACHE to another folder.")
    with pytest.raises(RequirementsNotMet, match=r"(?s)This machine cannot run the tasks\. None.*TMPDIR"):
        admission({}, tmp_path, needs_data=False).check_pool(exit_when_empty=True)
