"""The user's modules are sent to the machines of a cluster, and used there as on the driver."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rollforge.engine.executors import Dask
from rollforge.engine.modules import Modules, Named, missing_here, modules_in, modules_of
from rollforge.errors import ConfigError, RequirementsNotMet
from rollforge.run.job import Job
from rollforge.session import Session
from rollforge.store.memory import MemoryStore
from rollforge.task import Status

CODE = {
    "own_models/__init__.py": "from .base import scale\n",
    "own_models/base.py": """
        from importlib.resources import files

        import own_constants

        def scale():
            return own_constants.FACTOR * float((files(__package__) / "data" / "table.txt").read_text())
    """,
    "own_models/data/table.txt": "3",
    "own_constants.py": "FACTOR = 2.0\n",
    "own_work.py": """
        import own_models

        class Found:
            def __init__(self, value):
                self.value = value

        def work(task, plus=0):
            return {"value": own_models.scale() + plus, "file": own_models.__file__, "other": __file__}
    """,
}


def write(folder: Path, code: Mapping[str, str]) -> None:
    for name, text in code.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a user's program, from which it imports modules."""
    write(tmp_path, CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def run(address: str, job: Job, definitions: list[Any], session: Session) -> list[Any]:
    """Run tasks on a cluster and return their results."""
    store = MemoryStore()
    store.create(job.pool, definitions, max_attempts=1)
    Dask(address, jobs=1).run(job, session, store=store)
    found = list(store.query(job.pool))
    assert [task.error for task in found] == [None] * len(found)
    return [task.result for task in found]


# -- which modules -----------------------------------------------------------------------------------------------------


def found_for(definition: object, session: Session | None = None, **options: Any) -> Modules:
    return modules_of([Named(definition, **options)], session or Session())


def test_packages_are_sent_whole_with_what_they_import(project: Path) -> None:
    """The data of a package belong to it; modules are found without importing them; installed ones are not sent."""
    write(project, {"own_models/other.py": "import numpy\n\ndef f():\n    import own_late\n", "own_late.py": ""})
    found = found_for({"model": {"class": "A", "module_path": "own_models.other"}})
    inside = {"__init__.py", "base.py", "other.py", "data/table.txt"}
    assert set(found.files) == {f"modules/own_models/{name}" for name in inside} | {
        "modules/own_constants.py", "modules/own_late.py"
    }  # fmt: skip
    assert found.required == ("numpy",)
    assert not any(name.startswith("own_") for name in sys.modules)


def test_what_counts_as_the_users_own(project: Path) -> None:
    """Files by path, plugins and operators of the session, references, and only what others may name."""
    write(project, {"model.py": "import own_constants\n", "own_plugin.py": "", "own_operator.py": ""})
    session = Session(plugins=("own_plugin",), operators=(("Mine", "own_operator"),))
    found = found_for(
        {"model": {"class": "A", "module_path": "./model.py"}, "loss": {"$ref": "own_work:work"}}, session
    )
    sent = found.by_path["./model.py"]
    assert found.files[sent] == project / "model.py"
    assert found.by_path[str(project / "model.py")] == sent
    assert {name for name in found.files if name.count("/") == 1} == {
        f"modules/own_{name}.py" for name in ("plugin", "operator", "work", "constants")
    }  # fmt: skip
    assert found_for({"model": {"class": "A", "module_path": "own_constants"}}, own=False).files == {}
    assert list(modules_in([{"a": (Path,)}])) == [("pathlib", "Path")] or sys.version_info >= (3, 13)


def test_what_all_tasks_need_must_be_installed(project: Path) -> None:
    """A package of one model only is left to the tasks of that model; one that may be missing is not needed."""
    write(project, {"own_needy.py": "import yaml\n\ntry:\n    import no_such_extra\nexcept ImportError:\n    pass\n"})
    trees, own = ({"model": {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt"}},
                  {"model": {"class": "A", "module_path": "own_needy"}})  # fmt: skip
    absent = {"model": {"class": "A", "module_path": "no_such_module.models"}}
    assert found_for(trees).required == ("lightgbm",)
    assert found_for(own).required == ("yaml",)
    assert found_for(absent).required == ("no_such_module",)
    assert modules_of([Named(trees), Named(own)], Session()).required == ()
    assert missing_here(("lightgbm", "no_such_module")) == ["no_such_module"]


def test_large_packages_are_refused(project: Path) -> None:
    """The message names the package, its folder and size."""
    with (project / "own_models" / "data" / "large.bin").open("wb") as file:
        file.truncate(200_000_000)
    with pytest.raises(ConfigError, match=r"'own_models' in .* has 200 MB in 4 files, too much to send"):
        found_for({"model": {"class": "A", "module_path": "own_models"}})


# -- on a cluster ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_changed_modules_are_used_by_the_next_job(project: Path, cluster: Any, tmp_path: Path) -> None:
    """Modules are imported from the machine's cache; nothing of an earlier job on the same cluster is left over."""
    import own_work

    session = Session(provider_uri=None, cache=str(tmp_path / "cache"), threads=1)
    job = Job("p", own_work.work, kwargs={"plus": 1}, own=True)
    (first,) = run(cluster.address, job, [{"x": 1}], session)
    assert first["value"] == 7
    assert Path(first["file"]).is_relative_to(cluster.cache / "modules")
    assert Path(first["other"]).is_relative_to(cluster.cache / "modules")
    write(project, {"own_models/data/table.txt": "5", "own_constants.py": "FACTOR = 3.0\n"})
    assert run(cluster.address, job, [{"x": 1}], session)[0]["value"] == 16
    assert len(cluster.sent("modules")) == 2
    assert run(cluster.address, job, [{"x": 1}], session)[0]["value"] == 16
    assert len(cluster.sent("modules")) == 2


@pytest.mark.slow
def test_a_machine_that_lacks_a_package_takes_no_task(project: Path, cluster: Any, tmp_path: Path) -> None:
    """The message names the machine and the command; no attempt is counted."""
    import socket

    session = Session(provider_uri=None, cache=str(tmp_path / "cache"), threads=1)
    store = MemoryStore()
    store.create("p", [{"model": {"class": "A", "module_path": "no_such_module.models"}}], max_attempts=1)
    said = (
        f"{socket.gethostname()} has no package 'no_such_module', which the tasks need. Run there: pip install no_such"
    )
    with pytest.raises(RequirementsNotMet, match=said):
        Dask(cluster.address, jobs=1).run(Job("p", len, own=True), session, store=store)
    (task,) = store.query("p")
    assert (task.status, task.attempt) == (Status.WAITING, 0)
