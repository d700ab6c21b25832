"""``rollforge new``: each template makes a project that runs at once; otherwise nothing is written."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from tests.documents.command_line import call, run

from rollforge.cli.exit_codes import Exit
from rollforge.errors import ConfigError
from rollforge.new_project import TEMPLATES, new_project

FILES = {
    "qlib": ["README.md", "data/", "test_project.py", "workflow.yaml"],
    "frame": ["README.md", "experiment.py", "prices.csv", "test_project.py"],
    "torch": ["README.md", "data/", "network.py", "test_project.py", "workflow.yaml"],
    "online": ["README.md", "data/", "days/", "test_project.py", "workflow.yaml"],
    "cluster": ["README.md", "data/", "test_project.py", "workflow.yaml"],
}
STYLE = ["--isolated", "--no-cache", "--quiet"]


def installed(*modules: str) -> bool:
    return all(find_spec(module) is not None for module in modules)


def programs(template: str) -> list[str]:
    """Return what a user runs in the folder: the project's own test, and its script."""
    return ["experiment.py", "-m pytest"] if template == "frame" else ["-m pytest"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_new_project(template: str, tmp_path: Path) -> None:
    """The folder has the files that the command lists, the README names every command, and no placeholder is left."""
    done = run("new", "my-project", "--template", template, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "my-project"
    assert [p.name for p in tmp_path.iterdir() if p.name not in ("home", "cache")] == ["my-project"]
    assert sorted(f"{p.name}/" if p.is_dir() else p.name for p in folder.iterdir()) == FILES[template]
    assert done.stdout.startswith(f"my-project: {', '.join(FILES[template])}\n")
    commands = TEMPLATES[template].commands
    assert done.stdout.splitlines()[-len(commands) - 2 :] == [f"  {c}" for c in ("cd my-project", *commands, "pytest")]
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert all(" ".join(command.split()) in " ".join(readme.split()) for command in (*commands, "pytest"))
    for file in folder.iterdir():
        if file.is_file():
            assert "PROJECT_" not in file.read_text(encoding="utf-8")
        assert f"`{file.name}{'/' * file.is_dir()}`" in readme or file.name == "README.md"
    for words in (["check", "--select=E,F,I,UP,B", "--line-length=120"], ["format", "--check", "--line-length=120"]):
        command = [sys.executable, "-m", "ruff", *words, *STYLE, "."]
        checked = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    if (folder / "workflow.yaml").exists():
        plan = call("plan", folder / "workflow.yaml", "--on", "local")
        assert plan.exit_code == 0, plan.stderr
        assert plan.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_new_project_runs_and_passes_its_own_test(template: str, tmp_path: Path) -> None:
    """What a user is told to run works in the folder as it was created."""
    if template == "torch" and not installed("torch", "skorch"):
        pytest.skip("PyTorch is not installed: make .venv/torch")
    if template == "cluster" and not installed("distributed"):
        pytest.skip("distributed is not installed: pip install 'rollforge[dask]'")
    made = new_project(tmp_path / "project", template)
    assert made.missing == ()
    for words in programs(template):
        command = [sys.executable, *words.split(), *(["-q", "-p", "no:cacheprovider"] if "pytest" in words else [])]
        done = subprocess.run(command, cwd=made.path, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (made.path / "report.html").exists() == (template == "frame")


@pytest.mark.parametrize("name", ["a b", "x'y", ".hidden", "-x", "ends.", "n" * 101, "{{ 1 }}", "a\nb"])
def test_names_that_cannot_be_a_project(name: str, tmp_path: Path) -> None:
    """The name becomes part of commands, files and the experiment; nothing is written."""
    with pytest.raises(ConfigError, match="cannot be the name of a project"):
        new_project(tmp_path / "new" / name)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["null", "1e3", "价格"])
def test_any_other_name_is_that_of_the_experiment(name: str, tmp_path: Path) -> None:
    """In YAML, a name such as 1e3 or null is a string too."""
    new_project(tmp_path / name, "qlib")
    text = (tmp_path / name / "workflow.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["experiment_name"] == name


def test_the_current_folder_can_become_a_project(tmp_path: Path) -> None:
    """An empty folder stays the same folder, because a shell may be in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    before = folder.stat().st_ino
    done = run("new", ".", "--template", "online", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "cd " not in done.stdout
    assert folder.stat().st_ino == before
    assert sorted(p.name for p in folder.iterdir()) == [name.rstrip("/") for name in FILES["online"]]


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    """A folder with files, also hidden ones, and a file of that name are refused with exit code 2."""
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / ".keep").touch()
    (tmp_path / "file").touch()
    for name, said in (("used", "is not empty. Give the name of a new folder."), ("file", "is a file.")):
        done = run("new", name, cwd=tmp_path)
        assert done.returncode == Exit.USAGE
        assert said in done.stderr
    assert [p.name for p in (tmp_path / "used").iterdir()] == [".keep"]


def test_an_unknown_template(tmp_path: Path) -> None:
    """The message lists the templates and the nearest one."""
    with pytest.raises(ConfigError, match=r"no template 'pytorch'\. .*Known: qlib, frame, torch, online, cluster\."):
        new_project(tmp_path / "x", "pytorch")
    with pytest.raises(ConfigError, match="Did you mean 'frame'"):
        new_project(tmp_path / "x", "frames")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("exists", [False, True], ids=["new folder", "empty folder"])
def test_a_failure_leaves_nothing_behind(exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the temporary folder of the data cannot be written, the project's folder is as it was before."""
    target = tmp_path / "parent" / "project"
    target.parent.mkdir()
    if exists:
        target.mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))  # where prices are computed
    with pytest.raises(ConfigError, match="cannot be written: Not a directory"):
        new_project(target, "frame")
    assert target.exists() == exists
    assert sorted(os.listdir(target.parent)) == (["project"] if exists else [])
    assert not exists or not os.listdir(target)


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says how to install what the project needs."""
    monkeypatch.setattr("rollforge.new_project.find_spec", lambda name: None if name in ("torch", "skorch") else name)
    done = call("new", tmp_path / "x", "--template", "torch")
    assert done.exit_code == 0
    assert "First install what it needs:\n  pip install 'rollforge[torch]'\n" in done.stdout
