"""What contributors meet beside the code: targets, changelog fragments, CI, hooks and versions agree with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import rollforge

sys.path.insert(0, str(Path(__file__).parent))

from coverage_by_room import Covered, below, by_room
from test_architecture import ROOMS, SOURCE

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


# -- make --------------------------------------------------------------------------------------------------------------


def test_make_help_has_a_line_for_every_target() -> None:
    """``make`` alone, too, lists each target with what it does."""
    for command in (["make", "--no-print-directory", "help"], ["make", "--no-print-directory"]):
        out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        lines = dict(re.findall(r"^  make ([a-z-]+) +(\S.+)$", out, re.MULTILINE))
        assert set(lines) == TARGETS
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == TARGETS


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/releases.md", ".github/workflows/ci.yml"])
def test_targets_that_pages_name_exist(page: str) -> None:
    """A page that says ``make fast`` means a target of the Makefile."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"(?:^ +|`|run: )make ([a-z-]+)", text, re.MULTILINE)
    assert named
    assert set(named) <= TARGETS


# -- the changelog -----------------------------------------------------------------------------------------------------


def fragments(folder: Path) -> subprocess.CompletedProcess[str]:
    """What ``make lint`` says of a checkout's fragments."""
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "next", "--dir", str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def bare(folder: Path) -> Path:
    """A copy of what the check reads, without git."""
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    (folder / "changelog.d").mkdir()
    shutil.copy(ROOT / "changelog.d" / "README.md", folder / "changelog.d")
    return folder


def test_the_fragments_make_a_section() -> None:
    """Every file of ``changelog.d`` is a fragment."""
    done = fragments(ROOT)
    assert done.returncode == 0, done.stderr


def test_fragments_come_into_the_changelog_by_type(tmp_path: Path) -> None:
    """With the number of an issue, or without one; the section is put above the older ones."""
    folder = bare(tmp_path)
    (folder / "changelog.d" / "12.fixed.md").write_text("`collect` names each window once.\n")
    (folder / "changelog.d" / "+redis.added.md").write_text("A store in Redis.\n")
    out = fragments(folder).stdout
    assert out.index("### Added\n\n- A store in Redis.\n") < out.index(
        "### Fixed\n\n- `collect` names each window once. (#12)"
    )
    command = [sys.executable, "-m", "towncrier", "build", "--yes", "--version", "0.2.0", "--date", "2027-01-02"]
    done = subprocess.run([*command, "--dir", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (folder / "CHANGELOG.md").read_text(encoding="utf-8")
    assert text.index("\n## [0.2.0] - 2027-01-02\n") < text.index("\n## [0.1.0]")


@pytest.mark.parametrize("name", ["12.feature.md", "notes.md", "12.md", "added.12.md"])
def test_a_fragment_of_another_name_fails(name: str, tmp_path: Path) -> None:
    """Without any git history, and with the name in the message."""
    folder = bare(tmp_path)
    (folder / "changelog.d" / name).write_text("Something.\n")
    done = fragments(folder)
    assert done.returncode == 1
    assert name in done.stderr


# -- coverage ----------------------------------------------------------------------------------------------------------


def test_every_room_has_a_floor() -> None:
    """A new room is measured too, and a room that is gone leaves no floor behind."""
    assert set(PROJECT["tool"]["rollforge"]["branch-floors"]) == set(ROOMS)


def test_branches_are_summed_by_room() -> None:
    """The share of a room is that of its branches, not the mean of its files' shares."""
    files = {
        str(SOURCE / "store" / name): {
            "summary": {
                "num_branches": branches,
                "covered_branches": taken,
                "num_statements": 10,
                "covered_lines": 5,
            }
        }
        for name, branches, taken in (("memory.py", 100, 90), ("sqlite.py", 10, 0), ("base.py", 0, 0))
    }
    totals = by_room(files)
    assert totals["store"] == Covered(110, 90, 30, 15)
    assert totals["store"].branch_share == pytest.approx(81.818, abs=1e-3)
    assert totals["run"].branch_share == 100.0


def test_a_room_below_its_floor_is_named() -> None:
    """So are rooms without a floor, and floors without a room; at the floor is enough."""
    totals = {"store": Covered(200, 159), "run": Covered(100, 80), "track": Covered(1, 1)}
    assert below(totals, {"store": 80, "run": 80, "serve": 50}) == [
        "track has no floor in pyproject.toml",
        "serve has a floor in pyproject.toml, and is no room",
        "store: 79.5 % of the branches, of at least 80 %",
    ]


# -- mutation testing --------------------------------------------------------------------------------------------------


def test_the_table_of_mutants_is_up_to_date() -> None:
    """Its files and tests exist, each line of an equivalent mutant is still in its file, and each has a reason."""
    table = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))
    for room in table["rooms"].values():
        assert all((SOURCE / file).exists() for file in room["files"])
        assert all((ROOT / test).exists() for test in room["tests"])
    for entry in table["equivalent"]:
        source = " ".join((SOURCE / entry["file"]).read_text(encoding="utf-8").split())
        assert entry["before"] in source, entry
        assert entry["before"].replace(" ", "") != entry["after"].replace(" ", "")
        assert entry["reason"].endswith(".")


# -- versions, CI and hooks --------------------------------------------------------------------------------------------


def test_one_version_everywhere() -> None:
    """In the package, in what is published, and in the citation."""
    assert PROJECT["project"]["version"] == rollforge.__version__ == read_yaml("CITATION.cff")["version"]


def test_ci_runs_every_python_that_is_declared() -> None:
    """The classifiers are the matrix; what nobody has run yet does not block."""
    fast = read_yaml(".github/workflows/ci.yml")["jobs"]["fast"]["strategy"]["matrix"]
    declared = {c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if c.startswith("Programming Language")}
    extra = fast["include"]
    assert set(fast["python"]) | {e["python"] for e in extra if not e.get("untested")} == declared
    assert {e["dependencies"] for e in extra if not e.get("untested")} == {"lowest"}
    assert {e["os"] for e in extra if e.get("untested")} == {"ubuntu-latest", "macos-latest"}


def test_hooks_run_what_is_installed() -> None:
    """Each hook calls a program of the development environment."""
    installed = {re.split(r"[<>=;\[ ]", need)[0] for need in PROJECT["project"]["optional-dependencies"]["dev"]}
    for hook in read_yaml(".pre-commit-config.yaml")["repos"][0]["hooks"]:
        program, *rest = hook["entry"].split()
        name = rest[1] if program.endswith("python") else program.removeprefix(".venv/bin/")
        assert name in installed
        for argument in rest:
            assert not argument.startswith("tests/") or (ROOT / argument).is_file()


def test_templates_can_be_read() -> None:
    """GitHub shows none of a template whose YAML is broken."""
    for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(file.read_text(encoding="utf-8")), file
