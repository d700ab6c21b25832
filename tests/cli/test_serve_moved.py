"""Services of projects that were copied or moved: each uses its own files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rollforge.ledger.base import holding, open_ledger
from rollforge.ledger.entry import EntryKind, ServiceDefinition, service_body
from rollforge.ledger.state import ServiceState
from rollforge.online.locations import (
    RELATIVE,
    data_folder,
    new_service_folder,
    relative_paths,
    service_folder,
    workflow_file,
)
from rollforge.online.overview import Reader, health

from ..documents.command_line import run
from ..documents.definitions import write_workflow
from ..documents.growing import BEGIN, DAYS, STEP, Market, prices, template

NEXT = DAYS[DAYS.index(BEGIN) + 1]
LATER = DAYS[DAYS.index(BEGIN) + 2]


def serve(folder: Path, ledger: str, *arguments: object) -> Any:
    """Run a command of ``serve`` in a folder."""
    result = run("serve", "--ledger", f"sqlite:///{ledger}", *arguments, cwd=folder)
    assert result.returncode == 0, (result.stdout, result.stderr)
    return json.loads(result.stdout) if result.stdout.startswith("{") else result.stdout


def files(project: Path) -> dict[str, bytes]:
    """Return the files of signals below a folder, with their contents."""
    return {str(file.relative_to(project)): file.read_bytes() for file in sorted(project.rglob("*.parquet"))}


def signals_in(project: Path) -> list[str]:
    """Return the names of the files of signals in a project."""
    return sorted(file.name for file in (project / ".rollforge/services/served/signals").iterdir())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and a workflow, whose paths are relative."""
    monkeypatch.delenv("ROLLFORGE_HOME", raising=False)
    made = tmp_path / "prod"
    made.mkdir()
    monkeypatch.chdir(made)
    Market(made / "data", prices()).show(BEGIN)
    section = {"data": "data", "tracking": "folder:runs", "experiment": "served"}
    rolling = {"step": STEP, "rtype": "sliding", "trunc_days": "auto"}
    write_workflow(made / "job.yaml", {"rollforge": section, "task": template(), "rolling": rolling})
    return made


def test_a_copy_of_a_project_writes_into_its_own_folder(project: Path) -> None:
    """Copy and original publish the next day, each in its own folder, and neither changes a file of the other."""
    ledger = ".rollforge/tasks.db"
    serve(project, ledger, "init", "job.yaml")
    serve(project, ledger, "run")
    copy = project.parent / "a" / "staging"
    shutil.copytree(project, copy)
    before = files(project)
    Market(copy / "data", prices()).show(NEXT)
    (day,) = serve(copy, ledger, "run")["days"]
    assert (day["day"], day["state"], files(project)) == (NEXT, "published", before)
    assert signals_in(copy) == [f"{BEGIN}.v1.parquet", f"{NEXT}.v1.parquet"]
    of_copy = files(copy)
    Market(project / "data", prices()).show(LATER)
    assert len(serve(project, ledger, "run")["days"]) == 2
    assert signals_in(project) == [f"{day}.v1.parquet" for day in (BEGIN, NEXT, LATER)]
    assert files(copy) == of_copy


def test_a_moved_project_continues(project: Path, tmp_path: Path) -> None:
    """Earlier signals of a moved project are read in the new place, from any working folder; init then records the new
    paths once."""
    serve(project, ".rollforge/tasks.db", "init", "job.yaml")
    serve(project, ".rollforge/tasks.db", "run")
    moved = tmp_path / "years" / "2024" / "prod"
    moved.parent.mkdir(parents=True)
    project.rename(moved)
    ledger = f"{moved}/.rollforge/tasks.db"
    Market(moved / "data", prices()).show(NEXT)
    assert len(serve(tmp_path, ledger, "signals", BEGIN, "--json")["signals"]) == 4
    with contextlib.closing(Reader(f"sqlite:///{ledger}")) as reader:
        healthy, found = health(reader)
    assert (healthy, found["services"]["served"]["due"]) == (True, [NEXT])
    assert [day["state"] for day in serve(moved, ledger, "run")["days"]] == ["published"]
    assert "none changed" in serve(moved, ledger, "check")
    assert [serve(moved, ledger, "init", "job.yaml", "--json")["changed"] for _ in range(2)] == [True, False]
    assert serve(tmp_path, ledger, "init", moved / "job.yaml", "--json")["changed"] is False
    assert not project.exists()


def test_init_in_a_copy_of_an_earlier_version(project: Path) -> None:
    """Earlier versions recorded absolute paths, which remain valid; init in a copy records those of the copy."""
    ledger = ".rollforge/tasks.db"
    serve(project, ledger, "init", "job.yaml")
    earlier = open_ledger(f"sqlite:///{project}/{ledger}")
    state = ServiceState.of(earlier.entries("served"))
    assert state.definition is not None
    assert isinstance(state.definition.workflow, dict)
    absolute = {key: value for key, value in state.definition.workflow.items() if key != RELATIVE}
    assert {Path(absolute[key]).is_absolute() for key in ("path", "folder", "data")} == {True}
    with holding(earlier, "served", 60) as lease:
        earlier.append(lease, state.last + 1, EntryKind.SERVICE, service_body("served", absolute))
    earlier.close()
    serve(project, ledger, "run")
    assert signals_in(project) == [f"{BEGIN}.v1.parquet"]
    copy = project.parent / "staging"
    shutil.copytree(project, copy)
    Market(copy / "data", prices()).show(NEXT)
    assert serve(copy, ledger, "init", "job.yaml", "--json")["changed"] is True
    serve(copy, ledger, "run")
    assert signals_in(project) == [f"{BEGIN}.v1.parquet"]
    assert signals_in(copy) == [f"{BEGIN}.v1.parquet", f"{NEXT}.v1.parquet"]


def defined(paths: Mapping[str, Path], ledger: str) -> ServiceDefinition:
    """Return the definition that init records."""
    absolute = {key: str(path) for key, path in paths.items()}
    return ServiceDefinition("us", {**absolute, RELATIVE: relative_paths(absolute, ledger, None)})


def test_paths_outside_of_the_project_stay_absolute(project: Path, tmp_path: Path) -> None:
    """A folder that was chosen with an absolute path is that of every copy, and so are all paths if the ledger is a server."""
    inside = {"path": project / "job.yaml", "folder": tmp_path / "files/services/us", "data": tmp_path / "market"}
    known = defined(inside, f"sqlite:///{project}/.rollforge/tasks.db")
    assert known.workflow == {**{k: str(v) for k, v in inside.items()}, RELATIVE: {"path": "../job.yaml"}}
    copied = f"sqlite:///{tmp_path}/staging/.rollforge/tasks.db"
    assert service_folder("us", known, copied) == inside["folder"]
    assert data_folder(known, copied) == inside["data"]
    for ledger in ("postgresql://quant@server/rollforge", "memory://us"):
        own = defined({**inside, "folder": project / ".rollforge/services/us"}, ledger)
        assert service_folder("us", own, ledger) == project / ".rollforge/services/us"


def test_a_ledger_in_a_folder_of_its_own(project: Path, tmp_path: Path) -> None:
    """All paths in the working folder are relative to a ledger that is in it, also if they are not in the ledger's folder."""
    paths = {"path": project / "job.yaml", "folder": project / ".rollforge/services/us", "data": project / "data"}
    known = defined(paths, f"sqlite:///{project}/db/ledger.db")
    copied = f"sqlite:///{tmp_path}/staging/db/ledger.db"
    assert service_folder("us", known, copied) == tmp_path / "staging/.rollforge/services/us"


def test_only_the_ledger_was_moved(project: Path, tmp_path: Path) -> None:
    """The workflow and the data are read where they are; the folder for writing is the one by the ledger."""
    paths = {"path": project / "job.yaml", "folder": project / ".rollforge/services/us", "data": project / "data"}
    known = defined(paths, f"sqlite:///{project}/.rollforge/tasks.db")
    alone = f"sqlite:///{tmp_path}/backup/.rollforge/tasks.db"
    assert (workflow_file(known, alone), data_folder(known, alone)) == (paths["path"], paths["data"])
    assert service_folder("us", known, alone) == tmp_path / "backup/.rollforge/services/us"
    assert new_service_folder("us", known, alone) == project / ".rollforge/services/us"


def test_symbolic_links_to_the_folder_of_the_ledger(project: Path, tmp_path: Path) -> None:
    """The paths do not depend on the spelling of the ledger's path."""
    (tmp_path / "disk").mkdir()
    os.symlink(tmp_path / "disk", project / ".rollforge")
    paths = {"path": project / "job.yaml", "folder": project / ".rollforge/services/us"}
    spelt = (f"sqlite:///{project}/.rollforge/tasks.db", f"sqlite:///{tmp_path}/disk/tasks.db")
    known = defined(paths, spelt[0])
    assert {workflow_file(known, ledger) for ledger in spelt} == {project / "job.yaml"}
    assert {service_folder("us", known, ledger) for ledger in spelt} == {tmp_path / "disk/services/us"}


def test_another_working_folder_is_refused(project: Path, tmp_path: Path) -> None:
    """The models would be missing in it, and be trained again."""
    ledger = f"{project}/.rollforge/tasks.db"
    serve(project, ledger, "init", "job.yaml")
    serve(project, ledger, "run")
    Market(project / "data", prices()).show(NEXT)
    refused = run("serve", "--ledger", f"sqlite:///{ledger}", "run", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"The runs of the service are in {project}/runs" in " ".join(refused.stderr.split())
    assert not (tmp_path / "runs").exists()
    (day,) = serve(project, ledger, "run")["days"]
    assert (day["day"], day["trained"], day.get("warnings")) == (NEXT, [], None)
