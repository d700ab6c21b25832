"""The user's modules are sent to the machines of a cluster, and used there as on the driver."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import rollforge
from growing import DAYS, Market, prices, template
from rollforge.engine.executors import Dask
from rollforge.engine.modules import Modules, Named, missing_here, modules_in, modules_of
from rollforge.errors import ConfigError, RequirementsNotMet
from rollforge.run.executor import LocalProcesses
from rollforge.run.job import Job
from rollforge.run.submission import version_of
from rollforge.run.trainer import TrainerR
from rollforge.session import Session
from rollforge.store.memory import MemoryStore
from rollforge.task import Status
from rollforge.testing.actions import act

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


def run(address: str, job: Job, definitions: list[Any], session: Session, jobs: int = 1) -> list[Any]:
    """Run tasks on a cluster and return their results."""
    store = MemoryStore()
    store.create(job.pool, definitions, max_attempts=1)
    Dask(address, jobs=jobs).run(job, session, store=store)
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
    assert not {"own_models", "own_models.other", "own_constants", "own_late"} & set(sys.modules)


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


MODELS = {
    "own_net/__init__.py": "",
    "own_net/parts.py": "SLOPE = 2.0\n",
    "own_net/model.py": """
        from .parts import SLOPE
        from qlib.model.base import Model

        class Sloped(Model):
            def fit(self, dataset, reweighter=None):
                self.slope = SLOPE

            def predict(self, dataset, segment="test"):
                return dataset.prepare(segment, col_set="feature", data_key="infer").iloc[:, 0] * self.slope
    """,
}


@pytest.mark.slow
def test_a_model_of_the_user_comes_back(project: Path, cluster: Any, tmp_path: Path) -> None:
    """A model of a package with relative imports, and one of a file named by its path, are trained there and loaded here."""
    write(
        project, MODELS | {"single.py": textwrap.dedent(MODELS["own_net/model.py"]).replace(".parts", "own_net.parts")}
    )
    market = Market(tmp_path / "days", prices())
    market.show(DAYS[-1])
    rollforge.init(
        market.folder, tracking_uri=f"folder:{tmp_path}/runs", cache=tmp_path / "cache", threads=1,
    )  # fmt: skip
    tasks = [
        template() | {"model": {"class": "Sloped", "module_path": path}} for path in ("own_net.model", "./single.py")
    ]
    try:
        local = TrainerR("local", executor=LocalProcesses(1)).train(tasks)
        remote = TrainerR("remote", executor=Dask(cluster.address, jobs=1)).train(tasks)
        for one, there in zip(local, remote, strict=True):
            pd.testing.assert_frame_equal(one.load_object("pred.pkl"), there.load_object("pred.pkl"), check_exact=True)
            assert there.load_object("params.pkl", trusted=True).slope == 2.0
    finally:
        rollforge.session.init()


SCRIPT = """
import sys

import own_constants
from rollforge.engine.executors import Dask
from rollforge.run.executor import LocalProcesses
from rollforge.run.job import Job
from rollforge.run.trainer import TrainerR
from rollforge.session import Session
from rollforge.store.memory import MemoryStore


class Adder:
    def __init__(self, plus):
        self.plus = plus + own_constants.FACTOR


def work(task):
    from rollforge.build import locate

    return [work.__module__, locate("Adder", "__main__")(task["adder"]["kwargs"]["plus"]).plus]


if __name__ == "__main__":
    store = MemoryStore()
    store.create("p", [{"adder": {"class": "Adder", "module_path": "__main__", "kwargs": {"plus": 1}}}], max_attempts=1)
    session = Session(provider_uri=None, cache=sys.argv[2], threads=1)
    Dask(sys.argv[1], jobs=1).run(Job("p", work, own=True), session, store=store)
    (task,) = store.query("p")
    print(task.error or task.result)
"""


@pytest.mark.slow
def test_classes_and_functions_of_a_script(project: Path, cluster: Any, tmp_path: Path) -> None:
    """The code of both is sent, with the modules that the script imports."""
    write(project, {"train.py": SCRIPT})
    ran = subprocess.run(
        [sys.executable, "train.py", cluster.address, str(tmp_path / "cache")], cwd=project, check=True,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.stdout.strip() == "['__main__', 3.0]"


# -- machines that differ ----------------------------------------------------------------------------------------------


@dataclass
class TwoMachines:
    """A cluster of two workers, of which agents are started on the first one first."""

    address: str
    client: Any
    workers: list[str]

    def change(self, worker: int, code: str) -> None:
        """Run code in the process of a worker."""
        self.client.run(exec, code, workers=[self.workers[worker]])


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoMachines]:
    distributed = pytest.importorskip("distributed", reason="pip install 'rollforge[dask]'")
    monkeypatch.setenv("ROLLFORGE_CACHE", str(tmp_path / "node"))
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster,
        distributed.Client(cluster.scheduler_address, set_as_default=False) as client,
    ):
        yield TwoMachines(cluster.scheduler_address, client, list(client.scheduler_info(n_workers=-1)["workers"]))


NEEDY = """
import os

def work(task):
    import only_there

    return only_there.PLACE
"""
ON = {"model": {"class": "A", "module_path": "only_there"}}


@pytest.mark.slow
def test_a_machine_that_lacks_a_module_takes_no_task(
    project: Path, two: TwoMachines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other machine runs all of them; if none has it, the run ends with a message that names them, without an attempt."""
    write(project, {"own_needy.py": NEEDY, "away/only_there.py": "PLACE = 'there'\n"})
    import own_needy  # type: ignore[import-not-found]

    session = Session(provider_uri=None, cache=str(tmp_path / "cache"), threads=1)
    job = Job("p", own_needy.work, own=True)
    store = MemoryStore()
    store.create("p", [ON], max_attempts=1)
    lacks = (
        f"{socket.gethostname()} has no package 'only_there', which the tasks need. Run there: pip install only_there"
    )
    with pytest.raises(RequirementsNotMet, match=f"No machine of the cluster can run the tasks:\n  {lacks}"):
        Dask(two.address, jobs=2).run(job, session, store=store)
    (task,) = store.query("p")
    assert (task.status, task.attempt) == (Status.WAITING, 0)
    two.change(1, f"import sys; sys.path.append({str(project / 'away')!r})")
    caplog.clear()
    assert run(two.address, job, [ON | {"n": n} for n in range(3)], session, jobs=2) == ["there"] * 3
    assert [record.getMessage() for record in caplog.records if "no package" in record.getMessage()] == [
        f"A machine of the cluster takes no tasks: {lacks}"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import importlib.metadata as m; m.version = lambda name: '0.0.1'",
         "A machine of the cluster takes no tasks: {host} runs Rollforge 0.0.1, the driver {host} runs"),
        ("import importlib.metadata as m, importlib.util as u\n"
         "def none(name):\n    import importlib.metadata\n    raise importlib.metadata.PackageNotFoundError(name)\n"
         "m.version = none; u.find_spec = lambda name: None",
         "A machine of the cluster takes no tasks: {host} has no Rollforge, the driver {host} runs"),
    ],
)  # fmt: skip
def test_a_machine_with_another_version_takes_no_task(
    code: str, said: str, two: TwoMachines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does one without Rollforge, which stays in the cluster. The others do; one message says what to install."""
    two.change(0, code)
    session = Session(provider_uri=None, cache=str(tmp_path / "cache"), threads=1)
    assert run(two.address, Job("p", act, own=True), [{"i": n} for n in range(3)], session, jobs=1) == [0, 1, 2]
    (message,) = [r.getMessage() for r in caplog.records if r.name.startswith("rollforge") and r.levelname == "WARNING"]
    assert message.startswith(said.format(host=socket.gethostname()))
    assert len(two.client.scheduler_info(n_workers=-1)["workers"]) == 2
    assert message.endswith(f"pip install rollforge=={version_of('rollforge')}")
