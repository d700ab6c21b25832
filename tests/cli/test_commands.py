"""Spellings and exit codes of commands, and what a worker checks before it claims a task."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from tests.documents.command_line import run

from rollforge import Session, TaskManager, TrainerRM
from rollforge.cli.exit_codes import Exit
from rollforge.cli.worker import data_folders
from rollforge.errors import ConfigError, TrainingFailed
from rollforge.run.failures import error_line, group_failures
from rollforge.store.sqlite import SQLiteStore
from rollforge.testing.postgres import PostgresServer
from rollforge.track.base import open_tracker


@pytest.fixture
def uri(tmp_path: Path) -> str:
    uri = f"sqlite:///{tmp_path}/tasks.db"
    TaskManager("p", store=SQLiteStore(uri)).create_task([{"x": 1}, {"x": 2}], max_attempts=1)
    return uri


@pytest.mark.parametrize("name", ["task-stat", "task_stat"])
def test_hyphens_and_underscores_are_equivalent(name: str, uri: str) -> None:
    """Qlib's names have underscores and Rollforge's hyphens; both are accepted."""
    assert run("pool", "--store", uri, "-t", "p", name).stdout == '{"waiting": 2}\n'
    assert run("pool", "--store", uri, "--task_pool", "p", name).stdout == '{"waiting": 2}\n'


def test_ls_is_an_alias_of_list(uri: str, tmp_path: Path) -> None:
    """Every command group has it."""
    open_tracker(f"folder:{tmp_path}/runs").prepare()
    assert run("pool", "--store", uri, "ls").stdout == "p\n"
    for word in ("ls", "list"):
        assert run("cache", word, "--cache", str(tmp_path / "panels")).returncode == Exit.DONE
        assert run("track", word, f"folder:{tmp_path}/runs").returncode == Exit.DONE


def test_a_typo_and_a_failed_task_have_different_exit_codes(uri: str) -> None:
    """The code is 2 for a command that does not exist, and 1 for a pool with failed tasks."""
    assert run("pool", "--store", uri, "-t", "p", "task-stats").returncode == Exit.USAGE
    manager = TaskManager("p", store=SQLiteStore(uri))
    manager.cancel({})
    assert run("pool", "--store", uri, "-t", "p", "wait").returncode == Exit.FAILED


def test_a_listing_shows_the_number_of_attempts(uri: str) -> None:
    """The number is 1 for a task that ran once, and 0 for one that has not run."""
    store = SQLiteStore(uri)
    (task,) = store.claim("p", worker="host:1", lease=60, limit=1)
    store.commit(task, 1)
    lines = run("pool", "--store", uri, "-t", "p", "query").stdout.splitlines()
    assert sorted(line.split(maxsplit=1)[1].split() for line in lines) == [
        ["done", "attempt", "1"], ["waiting", "attempt", "0"]
    ]  # fmt: skip


# -- what a worker checks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [((), "--data FOLDER"), (("--data", "nowhere"), "cannot read its data folder")],
    ids=["no folder given", "no such folder"],
)
def test_a_worker_without_data_claims_nothing(options: tuple[str, ...], said: str, uri: str, tmp_path: Path) -> None:
    """The worker exits with code 7 and one message, and no attempt is counted."""
    where = ("--store", uri, "--tracking", f"folder:{tmp_path}/runs")
    ended = run("worker", "-t", "p", *where, "--exit-when-empty", *options)
    assert ended.returncode == Exit.REQUIREMENTS_NOT_MET
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [(t.status.value, t.attempts) for t in SQLiteStore(uri).query("p")] == [("waiting", 0)] * 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["day=a", "1d=b"], "has two folders for the frequency 'day', 'a' and 'b'. Give one folder"),
        (["a", "b"], "has two folders without a frequency, 'a' and 'b'"),
        (["hour=a", "foo=b"], "'foo' is not a frequency"),
        (["foo=b"], "If 'foo=b' is a folder, put a slash before it: --data ./foo=b."),
        (["1s=a"], "'1s' is shorter than a minute"),
        (["1min="], "or FREQ=FOLDER as in day=FOLDER, found '1min='"),
        ([""], "expected FOLDER, or"),
    ],
)
def test_unusable_folders_of_a_worker(given: list[str], said: str) -> None:
    """A frequency twice or unknown, or no folder: the message says what was given."""
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        data_folders(given)
    assert str(caught.value).startswith("--data")


def test_a_folder_whose_path_has_an_equals_sign() -> None:
    """Only what precedes a folder is a frequency; a folder without one has the data of all other frequencies."""
    assert data_folders(["./a=b"]) == {"provider_uri": "a=b", "folders": {}}
    assert data_folders(["/x/day=1", "1min=m=1"]) == {"provider_uri": "/x/day=1", "folders": {"1min": "m=1"}}


@pytest.mark.slow
def test_a_worker_with_a_remote_store_needs_a_tracking_store(
    postgres: PostgresServer, small_market: Path, tmp_path: Path
) -> None:
    """A file on the worker's machine would not be available to others, so there is no default."""
    command = ("worker", "-t", "p", "--store", postgres.uri, "--data", str(small_market), "--exit-when-empty")
    ended = run(*command)
    assert ended.returncode == Exit.REQUIREMENTS_NOT_MET
    assert "--tracking" in ended.stderr
    assert run(*command, "--tracking", f"folder:{tmp_path}/runs").returncode == Exit.DONE
    assert run(*command, env={"ROLLFORGE_TRACKING": f"folder:{tmp_path}/runs"}).returncode == Exit.DONE


# -- failures ----------------------------------------------------------------------------------------------------------


def fail(task: dict[str, Any], experiment_name: str | None = None, recorder_name: str | None = None) -> Any:
    raise KeyError(task["x"] // 10)


@pytest.mark.slow
def test_a_common_cause_is_reported_once(uri: str) -> None:
    """If nine tasks fail for one reason, the error contains one traceback, three names and the number of the others."""
    with pytest.raises(TrainingFailed) as raised:
        TrainerRM("e", "p", fail, session=Session(store_uri=uri))([{"x": x} for x in range(9)])
    assert str(raised.value).startswith("9 of 9 tasks failed")
    assert "and 6 more" in str(raised.value)
    assert str(raised.value).count("KeyError: 0") == 1


@given(st.lists(st.sampled_from(["KeyError: 1", "OSError: gone", "ValueError"]), min_size=1, max_size=20))
def test_every_failure_is_in_one_group(reasons: list[str]) -> None:
    """Each failed task is in exactly one group, with those that have the same error; the largest group comes first."""
    errors = {
        str(i): f'Traceback\n  File "x.py", line {i}, in f\n    f()\n{reason}' for i, reason in enumerate(reasons)
    }
    groups = group_failures(errors)
    assert sorted(task for group in groups for task in group.tasks) == sorted(errors)
    assert len({group.reason for group in groups}) == len(groups)
    assert [len(g.tasks) for g in groups] == sorted((len(g.tasks) for g in groups), reverse=True)
    for group in groups:
        assert {error_line(errors[task]) for task in group.tasks} == {group.reason}
