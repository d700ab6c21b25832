"""Files for contributors: targets, changelog fragments, CI, hooks and versions are consistent."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rollforge

sys.path.insert(0, str(Path(__file__).parent))

import pythons
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
    """``make help``, and ``make`` alone, list each target with a description."""
    for command in (["make", "--no-print-directory", "help"], ["make", "--no-print-directory"]):
        out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        lines = dict(re.findall(r"^  make ([a-z-]+) +(\S.+)$", out, re.MULTILINE))
        assert set(lines) == TARGETS
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == TARGETS


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/releases.md", ".github/workflows/ci.yml"])
def test_targets_named_in_pages_exist(page: str) -> None:
    """Every ``make`` command in a page is a target of the Makefile."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"(?:^ +|`|run: )make ([a-z-]+)", text, re.MULTILINE)
    assert named
    assert set(named) <= TARGETS


# -- the changelog -----------------------------------------------------------------------------------------------------


def fragments(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the fragments of a checkout as ``make lint`` does."""
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "next", "--dir", str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def bare(folder: Path) -> Path:
    """Create a folder with the files that the check reads, without git."""
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    (folder / "changelog.d").mkdir()
    shutil.copy(ROOT / "changelog.d" / "README.md", folder / "changelog.d")
    return folder


def test_the_fragments_are_valid() -> None:
    """Every file in ``changelog.d`` is a valid fragment."""
    done = fragments(ROOT)
    assert done.returncode == 0, done.stderr


def test_fragments_are_grouped_by_type_in_the_changelog(tmp_path: Path) -> None:
    """Fragments are grouped with or without the number of an issue; the new section is above the older ones."""
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
def test_a_fragment_with_an_invalid_name_is_an_error(name: str, tmp_path: Path) -> None:
    """The message contains the name; no git history is needed."""
    folder = bare(tmp_path)
    (folder / "changelog.d" / name).write_text("Something.\n")
    done = fragments(folder)
    assert done.returncode == 1
    assert name in done.stderr


# -- coverage ----------------------------------------------------------------------------------------------------------


def test_every_room_has_a_minimum_coverage() -> None:
    """Every room has a minimum in ``pyproject.toml``, and every minimum has a room."""
    assert set(PROJECT["tool"]["rollforge"]["branch-floors"]) == set(ROOMS)


def test_branches_are_counted_by_room() -> None:
    """The share of a room is computed from all its branches, and is not the mean of its files' shares."""
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


def test_a_room_below_its_minimum_coverage_is_named() -> None:
    """Rooms without a minimum, and minimums without a room, are named too; a share equal to the minimum is sufficient."""
    totals = {"store": Covered(200, 159), "run": Covered(100, 80), "track": Covered(1, 1)}
    assert below(totals, {"store": 80, "run": 80, "serve": 50}) == [
        "track has no minimum in pyproject.toml",
        "serve has a minimum in pyproject.toml but is not a room",
        "store: 79.5 % of the branches are covered, less than the minimum of 80 %",
    ]


# -- mutation testing --------------------------------------------------------------------------------------------------


def test_the_list_of_mutants_is_up_to_date() -> None:
    """The files and tests of the list exist, and each equivalent mutant has a reason and a line that is still in its
    file."""
    table = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))
    for room in table["rooms"].values():
        assert all((SOURCE / file).exists() for file in room["files"])
        for test in room["tests"]:
            file, _, function = test.partition("::")
            assert (
                f"def {function}" in (ROOT / file).read_text(encoding="utf-8") if function else (ROOT / file).exists()
            )
    for entry in table["equivalent"]:
        source = " ".join((SOURCE / entry["file"]).read_text(encoding="utf-8").split())
        assert entry["before"] in source, entry
        assert entry["before"].replace(" ", "") != entry["after"].replace(" ", "")
        assert entry["reason"].endswith(".")


# -- versions, CI and hooks --------------------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere() -> None:
    """The package, its metadata and the citation have the same version."""
    assert PROJECT["project"]["version"] == rollforge.__version__ == read_yaml("CITATION.cff")["version"]


def test_ci_runs_every_declared_python() -> None:
    """The classifiers match the matrix; only entries that are marked as untested may fail."""
    fast = read_yaml(".github/workflows/ci.yml")["jobs"]["fast"]["strategy"]["matrix"]
    declared = {c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if c.startswith("Programming Language")}
    extra = fast["include"]
    assert set(fast["python"]) | {e["python"] for e in extra if not e.get("untested")} == declared
    assert {e["dependencies"] for e in extra if not e.get("untested")} == {"lowest"}
    assert {e["os"] for e in extra if e.get("untested")} == {"ubuntu-latest", "macos-latest"}


FAILING_TESTS = """
import os, pytest
@pytest.fixture
def broken():
    raise LookupError("no such table")
def test_passes(): pass
@pytest.mark.parametrize("n", [1])
def test_parameter(n):
    raise ValueError("not 1\\nbut more")
class TestGroup:
    def test_fixture(self, broken): pass
"""


def test_failures_on_another_python_are_listed(tmp_path: Path) -> None:
    """Each failed test has a line with its id and the first line of its message, also if a file could not be imported."""
    (tmp_path / "test_a.py").write_text(FAILING_TESTS)
    (tmp_path / "test_b.py").write_text("import no_such_module\n")
    report = tmp_path / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "junit_family=xunit1", f"--junit-xml={report}"]
    command = [sys.executable, "-m", "pytest", *options, "--continue-on-collection-errors"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    assert sorted(pythons.failed_tests(report)) == [
        'test_a.py::TestGroup::test_fixture - failed on setup with "LookupError: no such table"',
        "test_a.py::test_parameter[1] - ValueError: not 1",
        "test_b.py - ModuleNotFoundError: No module named 'no_such_module'",
    ]


@pytest.mark.parametrize(("command", "reason"), [("kill -KILL $$", "killed by SIGKILL"), ("exit 4", "exit code 4")])
def test_a_run_without_a_report_says_how_it_ended(tmp_path: Path, command: str, reason: str) -> None:
    """A Python that dies, or refuses its arguments, has no list of tests; its exit code or signal is the reason."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{command}\n")
    python.chmod(0o755)
    passed, summary, lines = pythons.tested(python, [], 60.0)
    assert (passed, lines) == (False, [])
    assert summary.startswith(f"no report, {reason}, after ")


def test_a_python_without_time_for_its_start_is_not_run(tmp_path: Path) -> None:
    """An interrupted start would leave no report, and would count as a failure."""
    command = [sys.executable, ROOT / "tests" / "pythons.py", "--minutes", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert "lowest: not run: no time left" in lines
    assert all(line.endswith(": not run: no time left") for line in lines)


def test_ci_repeats_failures_at_the_end(tmp_path: Path) -> None:
    """Parts that fail do not stop the others; the last lines name the failed tests, or repeat how the part ended."""
    programs = {
        "make": "case $1 in bench) echo slower; exit 2;; test) echo 'FAILED tests/a.py::test_a - wrong'; exit 1;; esac",
        **dict.fromkeys(["pgbouncer", "slurmctld", "docker-compose"], ""),
        "../.venv/bin/python": "echo FAILED 3.13: tests/b.py::test_b - wrong; echo more; exit 1",
    }
    for name, commands in programs.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{commands}\n")
        file.chmod(0o755)
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    paths = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", tmp_path / ".ci" / "run"], env={"PATH": paths}, capture_output=True, text=True, timeout=60
    )
    end = (
        "\nFailed: benchmarks\nslower\n"
        "\nFailed: pythons\nFAILED 3.13: tests/b.py::test_b - wrong\n"
        "\nFailed: tests\nFAILED tests/a.py::test_a - wrong\n"
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith(end)


def test_hooks_run_installed_programs() -> None:
    """Each hook runs a program of the development environment."""
    installed = {re.split(r"[<>=;\[ ]", need)[0] for need in PROJECT["project"]["optional-dependencies"]["dev"]}
    for hook in read_yaml(".pre-commit-config.yaml")["repos"][0]["hooks"]:
        program, *rest = hook["entry"].split()
        name = rest[1] if program.endswith("python") else program.removeprefix(".venv/bin/")
        assert name in installed
        for argument in rest:
            assert not argument.startswith("tests/") or (ROOT / argument).is_file()


def test_templates_are_valid_yaml() -> None:
    """GitHub does not show a template with invalid YAML."""
    for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(file.read_text(encoding="utf-8")), file


def test_the_readme_lists_every_extra_for_users() -> None:
    """Extras for development are in CONTRIBUTING.md and the Makefile."""
    declared = set(PROJECT["project"]["optional-dependencies"])
    table = (ROOT / "README.md").read_text("utf-8").partition("| extra | for |")[2]
    named = {
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`([\w-]+)`", row.split("|")[1])
    }
    assert named == declared - {"dev", "fuzz", "mutants", "splits", "signals", "frames", "engines", "docs", "bench"}


@pytest.mark.slow
def test_in_ci_a_skipped_test_of_an_engine_fails() -> None:
    """Without the programs of Slurm or the package for it, with the command that installs what is missing."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/engine/test_slurm.py",
        "-k",
        "gpu",
    ]
    environment = {**os.environ, "PATH": "/absent", "ROLLFORGE_REQUIRE": "engines"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert re.search(r"ROLLFORGE_REQUIRE forbids this to be skipped\. .*(apt-get|pip) install", done.stdout)


def environment_for_tests() -> set[str]:
    """Return the packages that ``rollforge[dev]`` installs, with what these need, as far as they are installed here."""
    names: set[str] = set()
    open_ = [("rollforge", "dev")]
    while open_:
        name, extra = open_.pop()
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue
        names.add(canonicalize_name(name))
        for one in map(Requirement, needed):
            marker = one.marker
            if (marker is None or marker.evaluate({"extra": extra})) and canonicalize_name(one.name) not in names:
                open_ += [(one.name, extra) for extra in ("", *one.extras)]
    return names


def test_mypy_does_not_depend_on_optional_packages() -> None:
    """``make lint`` also runs where only the packages for tests are installed: mypy is told which others are missing there."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["overrides"]
    told = {name.removesuffix(".*") for part in listed if part.get("ignore_missing_imports") for name in part["module"]}
    owners = packages_distributions()
    present = environment_for_tests()
    unknown: dict[str, str] = {}
    for file in sorted([*SOURCE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for top in {module.partition(".")[0] for module in modules} - told - set(sys.stdlib_module_names):
                packages = {canonicalize_name(name) for name in owners.get(top, [])}
                if top not in ("rollforge", "benchmarks", "__future__") and not packages & present:
                    unknown[top] = str(file.relative_to(ROOT))
    assert unknown == {}
