"""The origin of a run: the commit and the uncommitted changes of the code."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rollforge.track import provenance
from rollforge.track.provenance import git_commit

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """A function that runs git in the folder ``repo``, a repository with one commit."""

    def run(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path / "repo"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    (tmp_path / "repo" / "inside").mkdir(parents=True)
    (tmp_path / "repo" / "model.py").write_text("alpha = 1\n")
    (tmp_path / "repo" / "secrets.env").write_text("key = 1\n")
    for words in ("init -q -b main", "add .", "commit -qm first"):
        run(*words.split())
    return run


def test_the_commit_is_the_one_that_git_names(tmp_path: Path, git: Git) -> None:
    """On a branch with loose or packed references, detached, in a folder inside, and in a linked work tree."""
    head = git("rev-parse", "HEAD")
    repo = tmp_path / "repo"
    assert git_commit(repo) == git_commit(repo / "inside") == head
    git("pack-refs", "--all")
    assert git_commit(repo) == head
    git("worktree", "add", "-q", "-b", "other", str(tmp_path / "linked"))
    git("-C", str(tmp_path / "linked"), "commit", "-q", "--allow-empty", "-m", "second")
    assert git_commit(tmp_path / "linked") == git("rev-parse", "other") != head
    git("pack-refs", "--all")
    assert git_commit(tmp_path / "linked") == git("rev-parse", "other")
    git("checkout", "-q", "--detach", "other")
    assert git_commit(repo) == git("rev-parse", "other")


def test_there_may_be_no_commit(tmp_path: Path, git: Git) -> None:
    """Outside of a repository, before the first commit, and if a file of the repository cannot be read."""
    assert git_commit(tmp_path) is None
    git("checkout", "-q", "--orphan", "empty")
    assert git_commit(tmp_path / "repo") is None
    (tmp_path / "repo" / ".git" / "HEAD").write_bytes(b"\xff")
    assert git_commit(tmp_path / "repo") is None


def test_uncommitted_changes_without_secrets(tmp_path: Path, git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose names suggest secrets are excluded; the user can turn the diff off; without git there is none."""
    for name, text in (("model.py", "alpha = 2\n"), ("secrets.env", "key = 2\n")):
        (tmp_path / "repo" / name).write_text(text)
    monkeypatch.delenv("ROLLFORGE_CODE_STATE", raising=False)
    diff = provenance.code_diff.__wrapped__  # the function itself is cached for the process
    monkeypatch.chdir(tmp_path)
    assert diff() == ""
    monkeypatch.chdir(tmp_path / "repo")
    assert "+alpha = 2" in diff()
    assert "key" not in diff()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert diff() == ""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "repo")
    monkeypatch.setenv("ROLLFORGE_CODE_STATE", "off")
    assert diff() == ""


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container whose user is in no database, the name is that of the environment, if it has one."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)
    assert provenance._user() == "unknown"
