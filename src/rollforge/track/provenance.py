"""Tags that describe the origin of a run: user, host, command, versions and git commit."""

from __future__ import annotations

import functools
import getpass
import os
import platform
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from rollforge.confidential import mask_secrets, private_file
from rollforge.track.artifact_files import Files

__all__ = ["code_diff", "context_tags", "git_commit", "program_tags", "save_diff"]

_MAX_LENGTH = 2000
_MAX_DIFF_LENGTH = 1_000_000
_SECRET_FILES = [
    f":(exclude,icase,glob)**/{name}"
    for name in (
        *(".env*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "*.jks", "id_rsa*", "id_ed25519*"),
        *(".netrc", ".pgpass", ".pypirc", ".npmrc", "*secret*", "*password*", "*credential*", "*token*"),
        *("*secret*/**", "*credential*/**", ".ssh/**", ".aws/**"),
    )
]
"""Files that are excluded from a diff because their names suggest secrets."""


def context_tags() -> dict[str, str]:
    """Return the tags of every new run; MLflow's user interface shows those whose names begin with ``mlflow.``."""
    return {**_of_process(), "mlflow.source.name": Path(sys.argv[0]).name or "python"}


@functools.cache
def _of_process() -> dict[str, str]:
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.type": "LOCAL",
        "rollforge.version": str(sys.modules["rollforge"].__version__),
        "rollforge.python": platform.python_version(),
        "rollforge.host": socket.gethostname(),
        "rollforge.command": mask_secrets(shlex.join(sys.argv))[:_MAX_LENGTH],
    }
    commit = git_commit(Path.cwd())
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags


def program_tags() -> dict[str, str]:
    """Return those tags of a new run that describe the program which a user has started, wherever its tasks run."""
    return {name: value for name, value in context_tags().items() if name in _OF_PROGRAM}


_OF_PROGRAM = ("mlflow.user", "mlflow.source.name", "mlflow.source.git.commit", "rollforge.command")


@functools.cache
def code_diff() -> str:
    """Return the uncommitted changes in the working directory, without files that look like secrets.

    The result is cached per process. Without git it is empty; ``ROLLFORGE_CODE_STATE=off`` turns it off.
    """
    if os.environ.get("ROLLFORGE_CODE_STATE") == "off" or git_commit(Path.cwd()) is None:
        return ""
    try:
        asked = subprocess.run(
            ["git", "diff", "HEAD", "--", ".", *_SECRET_FILES], capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return mask_secrets(asked.stdout.decode("utf-8", "replace")[:_MAX_DIFF_LENGTH]) if asked.returncode == 0 else ""


def save_diff(files: Files) -> None:
    """Save :func:`code_diff` with a run's artifacts, if there is one."""
    changed = code_diff()
    if changed:
        with files.draft("code_diff.txt") as draft:
            private_file(draft)
            draft.write_text(changed, encoding="utf-8")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        return os.environ.get("USER", "unknown")


def git_commit(folder: Path) -> str | None:
    """Return the commit that is checked out in the repository of a folder, or None outside a repository.

    It is read from the repository's files. Qlib starts three git processes per run, which print their help text outside
    a repository.
    """
    try:
        for place in (folder, *folder.parents):
            git = place / ".git"
            if git.is_file():  # in a linked work tree, the file contains the path of the folder
                git = Path(os.path.realpath(place / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()))
            if (git / "HEAD").is_file():
                return _head(git)
    except (OSError, ValueError):
        return None  # the repository is not readable
    return None


def _head(git: Path) -> str | None:
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref:"):
        return head or None
    name = head.removeprefix("ref:").strip()
    common = git / "commondir"
    shared = Path(os.path.realpath(git / common.read_text(encoding="utf-8").strip())) if common.is_file() else git
    for root in (git, shared):
        if (root / name).is_file():
            return (root / name).read_text(encoding="utf-8").strip() or None
    packed = shared / "packed-refs"
    for line in packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else ():
        commit, _, ref = line.partition(" ")
        if ref == name:
            return commit
    return None
