"""Plugins: user code that is recorded with the tasks and imported by every worker before it claims a task."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.documents.command_line import run

import rollforge
from definitions import SIGNAL, SMALL_MARKET, TWO_WINDOWS, expressions, stores, task_definition
from rollforge import trust
from rollforge.build import build
from rollforge.errors import ConfigError, ExpressionError, MissingCode, RequirementsNotMet
from rollforge.expressions.expression import parse
from rollforge.expressions.operators import custom_operators, operator_names, unregister_operator
from rollforge.features.api import D
from rollforge.kinds import MODEL
from rollforge.plan import make_plan
from rollforge.plugins import load_plugins
from rollforge.run.job import Job
from rollforge.run.requirements import Admission, session_admission
from rollforge.run.submission import read_submission_info, submission_info
from rollforge.run.trainer import TrainerRM
from rollforge.run.worker import Worker, run_task
from rollforge.run.worker_pool import WorkerPool
from rollforge.session import Session, current_session, using
from rollforge.store.base import open_store
from rollforge.store.manager import TaskManager
from rollforge.store.memory import MemoryStore
from rollforge.task import Status
from rollforge.track.base import get_experiment, open_reference, open_tracker
from rollforge.user_code import module_name
from rollforge.workflow import load_workflow

LOCAL = '''
"""A model, an operator, a processor and a record, in one file."""

import pandas as pd

from rollforge import register_operator
from rollforge.features.processor import Processor
from rollforge.models.base import Model
from rollforge.record.base import RecordTemp


def thrice(series, x):
    return 3 * x


register_operator("Thrice", thrice)


class Scale(Processor):
    """Multiplies the features."""

    def __init__(self, by):
        self.by = by

    def __call__(self, df):
        df["feature"] = df["feature"] * self.by
        return df


class First(Model):
    """Predicts the first feature."""

    def fit(self, dataset):
        self.rows = len(dataset.prepare("train", col_set="label"))

    def predict(self, dataset, segment="test"):
        return dataset.prepare(segment, col_set="feature").iloc[:, 0]


class Rows(RecordTemp):
    """Records how many rows the prediction has."""

    def generate(self, **kwargs):
        self.recorder.log_metrics(rows=len(self.recorder.load_object("pred.pkl")))
'''


def document(market: Path, place: Path, module: str = "./local.py", plugins: list[str] | None = None) -> dict[str, Any]:
    """Return a workflow that uses everything in ``local.py``."""
    handler = expressions(
        "Thrice($close)", **SMALL_MARKET,
        infer_processors=[{"class": "Scale", "module_path": module, "kwargs": {"by": 2.0}}],
        learn_processors=[{"class": "DropnaLabel"}],
    )  # fmt: skip
    model, rows = {"class": "First", "module_path": module}, {"class": "Rows", "module_path": module}
    return {
        "plugins": ["./local.py"] if plugins is None else plugins,
        "rollforge": stores(market, place, "p"),
        "task": {**task_definition(handler, TWO_WINDOWS, model=model, record=[SIGNAL, rows]), "label_horizon": 2},
        "rolling": {"step": 60},
    }


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder for stores that only the current user can access."""
    folder = tmp_path / "place"
    folder.mkdir(mode=0o700)
    return folder


def write(file: Path, content: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))
    return file


def command(*arguments: str, cwd: Path, code: int = 0, **env: str) -> str:
    done = run(*arguments, cwd=cwd, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", ["file", "package in rel_path"])
def test_a_worker_in_another_folder_uses_the_plugins_of_a_workflow(
    how: str, small_market: Path, tmp_path: Path, place: Path
) -> None:
    """The tasks are submitted, run and reported in different processes, and in different folders.

    The prediction is 2 * 3 * close, by the operator, the processor and the model of the file.
    """
    home, away = tmp_path / "home", tmp_path / "away"
    away.mkdir()
    if how == "file":
        content = document(small_market, place)
        (home / "local.py").parent.mkdir()
        (home / "local.py").write_text(LOCAL)
    else:
        content = {**document(small_market, place, "plugin_by_path", ["plugin_by_path"]), "sys": {"rel_path": "lib"}}
        (home / "lib").mkdir(parents=True)
        (home / "lib" / "plugin_by_path.py").write_text(LOCAL)
    write(home / "job.yaml", content)
    submitted = json.loads(command("submit", "job.yaml", "--json", "--leakage", "off", cwd=home))
    assert submitted["new"] == 2
    store = content["rollforge"]["store"]
    said = command("worker", "-t", "p", "--store", store, "--exit-when-empty", "-j", "1", cwd=away)
    assert "2 tasks run" in said
    where = ["--store", store, "--tracking", content["rollforge"]["tracking"]]
    shown = command("report", "p", *where, "--output", "out", cwd=away)
    assert "IC" in shown
    pred = pd.read_parquet(away / "out" / "prediction.parquet").iloc[:, 0]
    with using(Session(provider_uri=str(small_market))):
        prices = (
            D.features("all", ["$close"], start_time="2023-04-03", end_time=pred.index.levels[0][-1])
            .iloc[:, 0]
            .swaplevel()
        )
    expected = (6 * prices).reindex(pred.index)
    assert len(pred) == len(prices)
    np.testing.assert_allclose(pred, expected, rtol=1e-5)
    runs = [task.result["recorder"] for task in open_store(store).query("p")]
    assert sum(open_reference(run).list_metrics()["rows"] for run in runs) == len(pred)


@pytest.mark.slow
def test_a_worker_without_a_plugin_file_names_it_and_claims_nothing(
    small_market: Path, tmp_path: Path, place: Path
) -> None:
    """If ./local.py is missing or cannot be imported, the worker exits with code 7 and one message with the file and
    what to do, and no attempt is counted. When the file is there, the tasks run."""
    file = write(tmp_path / "home" / "job.yaml", document(small_market, place))
    local = tmp_path / "home" / "local.py"
    text = f"{LOCAL}\n\nimport os\n\nexec(os.environ.get('ON_THIS_MACHINE', ''))\n"
    local.write_text(text)
    command("submit", str(file), cwd=tmp_path)
    store = f"sqlite:///{place}/tasks.db"
    worker = ["worker", "-t", "p", "--store", store, "--exit-when-empty", "-j", "1"]
    local.unlink()
    said = command(*worker, cwd=tmp_path, code=7)
    assert f"need the plugin {local} of " in said
    assert "Copy it to the same path" in said
    assert said.count(str(local)) == 1
    local.write_text(text)
    said = command(*worker, cwd=tmp_path, code=7, ON_THIS_MACHINE="import not_installed_here")
    assert "not_installed_here" in said
    assert "Traceback" not in said
    said = command(*worker, cwd=tmp_path, code=7, ON_THIS_MACHINE="os._exit(3)")
    assert "exited with" in said
    assert open_store(store).count("p") == {Status.WAITING: 2}
    assert {task.attempts for task in open_store(store).query("p")} == {0}
    assert "2 tasks run" in command(*worker, cwd=tmp_path)


@pytest.mark.slow
def test_run_and_its_processes_use_plugins(small_market: Path, tmp_path: Path, place: Path) -> None:
    """``rollforge run`` with worker processes works from another folder than that of the file."""
    file = write(tmp_path / "home" / "job.yaml", document(small_market, place))
    (tmp_path / "home" / "local.py").write_text(LOCAL)
    command("run", str(file), "--jobs", "1", "--output", "out", cwd=tmp_path)
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow
def test_custom_operators_of_a_workflow_are_recorded_with_its_tasks(
    small_market: Path, tmp_path: Path, place: Path
) -> None:
    """A worker in another folder computes operators in the format of Qlib's ``custom_ops``, without plugins."""
    content = document(small_market, place, "rollforge.models", [])
    content["task"]["model"] = {"class": "LinearModel", "module_path": "rollforge.models"}
    content["task"]["record"] = content["task"]["record"][:1]
    handler = content["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
    handler["infer_processors"] = [{"class": "Fillna", "kwargs": {"fields_group": "feature"}}]
    content["rollforge"]["operators"] = [{"class": "Thrice", "module_path": "ops.py"}]
    file = write(tmp_path / "home" / "job.yaml", content)
    (tmp_path / "home" / "ops.py").write_text(
        "from qlib.data.ops import ElemOperator\n\n\nclass Thrice(ElemOperator):\n"
        "    def _load_internal(self, *args):\n        return 3 * self.feature.load(*args)\n"
    )
    command("submit", str(file), cwd=tmp_path)
    store = content["rollforge"]["store"]
    (tmp_path / "away").mkdir()
    worker = ["worker", "-t", "p", "--store", store, "--exit-when-empty", "-j", "1"]
    place.chmod(0o770)  # others may write to the pool, so its contents are not trusted
    assert "ops.py" in command(*worker, cwd=tmp_path / "away", code=7)
    place.chmod(0o700)
    assert "2 tasks run" in command(*worker, cwd=tmp_path / "away")


def test_a_plugin_that_cannot_be_imported_is_an_error_in_the_file(
    small_market: Path, tmp_path: Path, place: Path
) -> None:
    """The message contains the line, the plugin and the cause; for a module next to the file it says how to name it."""
    content = document(small_market, place)
    for name, text, message in (
        ("nothing_of_that_name", None, "There is no module 'nothing_of_that_name'"),
        ("./broken.py", "1/0\n", "ZeroDivisionError"),
        ("./broken2.py", "def\n", "SyntaxError"),
        ("beside_it", "", "Did you mean ./beside_it.py, in the folder of the workflow file?"),
    ):
        file = write(tmp_path / "job.yaml", {**content, "plugins": [name]})
        if text is not None:
            (tmp_path / f"{name.removeprefix('./').removesuffix('.py')}.py").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_workflow(file)
        for part in (message, "line 2", "plugins.0"):
            assert part in str(caught.value), part


def test_plan_uses_the_operators_of_a_plugin(small_market: Path, tmp_path: Path, place: Path) -> None:
    """The plugin is imported when the workflow is loaded; a file that has changed is imported again."""
    (tmp_path / "local.py").write_text(LOCAL)
    file = write(tmp_path / "job.yaml", document(small_market, place))
    try:
        assert len(make_plan(load_workflow(file)).tasks) == 2
        assert "Thrice" in operator_names()
        (tmp_path / "local.py").write_text(LOCAL + "\n# changed\n")
        assert len(make_plan(load_workflow(file)).tasks) == 2
    finally:
        unregister_operator("Thrice")


GENERATOR = """
from rollforge import TaskGen
from rollforge.generate.base import copy_task


class Seeds(TaskGen):
    def __init__(self, count):
        self.seeds = range(count)

    def generate(self, task):
        made = [copy_task(task) for _ in self.seeds]
        for seed, one in zip(self.seeds, made):
            one["model"]["kwargs"] = {"value": seed}
        return made


class Breaks(TaskGen):
    def generate(self, task):
        return 1 / 0


class NoGenerator:
    def generate(self, task):
        return [task]
"""


def test_a_workflow_may_use_its_own_generators(small_market: Path, tmp_path: Path, place: Path) -> None:
    """The user's generators are applied before the windows, and each of their tasks is a model with its own name."""
    (tmp_path / "own.py").write_text(GENERATOR)
    content = document(small_market, place, "rollforge.models", [])
    content["task"]["model"] = {"class": "ConstantModel", "module_path": "rollforge.models.constant"}
    content["task"]["record"] = content["task"]["record"][:1]
    handler = content["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
    handler["infer_processors"], handler["data_loader"]["kwargs"]["config"]["feature"] = [], [["$close"], ["F"]]
    generator = {"class": "Seeds", "module_path": "own.py", "kwargs": {"count": 3}}
    plan = make_plan(load_workflow(write(tmp_path / "job.yaml", {**content, "generators": [generator]})))
    assert [t["model"]["kwargs"]["value"] for t in plan.tasks] == [0, 0, 1, 1, 2, 2]
    assert list(plan.model_names) == ["value=0", "value=0", "value=1", "value=1", "value=2", "value=2"]
    for name, message in (
        ("Breaks", "ZeroDivisionError"),
        ("NoGenerator", "task generator"),
        ("Seeds", "needs 'count'"),
    ):
        wrong = write(tmp_path / "wrong.yaml", {**content, "generators": [{"class": name, "module_path": "own.py"}]})
        with pytest.raises(ConfigError, match=message) as caught:
            make_plan(load_workflow(wrong))
        assert "generators" in str(caught.value)


def test_a_plugin_file_is_recorded_with_its_absolute_path(
    small_market: Path, tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker therefore finds it from any folder, whether it is next to the workflow or in the working directory."""
    file = write(tmp_path / "home" / "job.yaml", document(small_market, place))
    (tmp_path / "home" / "local.py").write_text("")
    for folder in (tmp_path, tmp_path / "home"):
        monkeypatch.chdir(folder)
        workflow = load_workflow(file)
        assert workflow.template["model"]["module_path"] == str(tmp_path / "home" / "local.py")
        assert workflow.session.plugins == (str(tmp_path / "home" / "local.py"),)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes a module on the path."""
    made = []

    def write_module(name: str, text: str = "") -> str:
        (tmp_path / "lib" / f"{name}.py").write_text(text)
        made.append(name)
        return name

    (tmp_path / "lib").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "lib"), os.environ.get("PYTHONPATH", "")]))
    yield write_module
    for name in made:
        sys.modules.pop(name, None)


OPERATOR = """
from rollforge import register_operator


def compute(series, x):
    return x


register_operator({name!r}, compute)
"""


def test_a_session_imports_its_plugins_when_an_operator_is_looked_up(plugin: Any) -> None:
    """Plugins of a session are not imported before they are needed."""
    module = plugin("plugged_a", OPERATOR.format(name="PluggedA"))
    with pytest.raises(ExpressionError, match="PluggedA"):
        parse("PluggedA($close)")
    with using(Session(plugins=(module,))):
        assert module not in sys.modules
        parse("PluggedA($close)")
        assert "PluggedA" in custom_operators()
    unregister_operator("PluggedA")


def test_a_plugin_may_register_a_store(plugin: Any) -> None:
    """For an unknown scheme, the plugins of the session are imported."""
    module = plugin(
        "plugged_b", "import rollforge\nrollforge.register_store('plugged', 'rollforge.store.memory:MemoryStore')\n"
    )
    with using(Session(plugins=module)):  # type: ignore[arg-type]
        assert isinstance(open_store("plugged://x"), MemoryStore)
    rollforge.drivers.STORES.unregister("plugged")


def test_an_installed_plugin_is_not_allowed_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of an entry point is neither imported nor allowed until its name is listed as a plugin."""
    info = tmp_path / "site" / "rf_demo-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rf-demo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[rollforge.plugins]\nrf-demo = rf_demo_module\nos = rf_demo_module\nodd = a b\n"
    )
    (tmp_path / "site" / "rf_demo_module.py").write_text(
        "class M:\n    def fit(self, dataset): ...\n    def predict(self, dataset): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    config = {"class": "M", "module_path": "rf_demo_module"}
    with trust.from_origin(trust.Origin.POOL), pytest.raises(MissingCode, match="--allow rf_demo_module"):
        build(config, kind=MODEL)
    assert "rf_demo_module" not in sys.modules
    with pytest.raises(ConfigError, match=r"an installed plugin \(.*rf-demo.*\)"):
        trust.checked_plugins(["rf-dmo"], path="plugins")
    assert trust.plugin_module("os") == "os"  # a package cannot change what a module's name means
    assert trust.checked_plugins(["rf-demo"], path="plugins") == ("rf_demo_module",)
    session = Session(plugins=("rf-demo",))
    with using(session), trust.from_origin(trust.Origin.POOL):
        assert build(config, kind=MODEL) is not None
    load_plugins(session)
    assert "rf_demo_module" in sys.modules
    monkeypatch.setenv("ROLLFORGE_ALLOW", "rf-demo")
    with trust.from_origin(trust.Origin.POOL):
        assert build(config, kind=MODEL) is not None
    assert submission_info([], session)["plugins"] == ["rf_demo_module"]
    sys.modules.pop("rf_demo_module")


def test_a_shared_pool_cannot_import_plugins_that_are_not_allowed(plugin: Any, tmp_path: Path) -> None:
    """A submission in a store that others can write to may refer to plugins, operators, folders or the standard
    library."""
    marker = tmp_path / "it-ran"
    module = plugin("plugged_c", f"open({str(marker)!r}, 'w').close()\n")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "plugged_d.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    folder = tmp_path / "shared"
    folder.mkdir()
    store = open_store(f"sqlite:///{folder}/tasks.db")
    for info in (
        {"plugins": [module]}, {"plugins": ["os"]}, {"plugins": ["__main__"]}, {"plugins": ["../no/x.py"]}, {"plugins": ["a b"]},
        {"operators": [["X", module]]}, {"operators": [["system", "os"]]}, {"plugins": [str(tmp_path / "evil" / "plugged_d.py")]},
        {"plugins": ["plugged_d"], "sys_path": [str(tmp_path / "evil")]},
    ):  # fmt: skip
        for mode in (0o700, 0o770):
            folder.chmod(mode)
            if mode == 0o700 and "os" not in str(info) and "__main__" not in str(info) and "x.py" not in str(info):
                continue  # the user's own pool is trusted
            pool = f"p{len(store.pools())}"
            key = store.keep_submission(pool, {"host": "elsewhere", **info})
            store.create(pool, [{"x": 1}], submission=key)
            session = Session(tracking_uri=f"folder:{tmp_path}/runs")
            with pytest.raises(RequirementsNotMet):
                Admission(store, pool, session, ("tracking_uri",), needs_data=False).check_pool(exit_when_empty=True)
            with pytest.raises(RequirementsNotMet):
                run_task(dict, pool, session=session, store=store)
            assert store.count(pool) == {Status.WAITING: 1}
    folder.chmod(0o700)
    assert not marker.exists()


@pytest.mark.slow
def test_an_allowed_plugin_of_a_shared_pool_is_imported_before_a_claim(plugin: Any, tmp_path: Path) -> None:
    """If a submission lists a plugin and the worker allows it, worker processes import it even if no task refers to its
    classes."""
    marker = tmp_path / "it-ran"
    module = plugin("plugged_e", f"open({str(marker)!r}, 'w').close()\n")
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o770)
    store = open_store(f"sqlite:///{folder}/tasks.db")
    store.create("p", [{"x": 1}], submission=store.keep_submission("p", {"host": "elsewhere", "plugins": [module]}))
    session = Session(tracking_uri=f"folder:{tmp_path}/runs", allow=(module,))
    admission = Admission(store, "p", session, ("tracking_uri",), needs_data=False)
    admission.check_pool(exit_when_empty=True)
    assert marker.exists()
    assert module not in sys.modules  # not in this process, which claims tasks
    marker.unlink()
    WorkerPool(store, Job("p", len), session, 1, admission=admission).run()
    assert marker.exists()
    assert store.count("p") == {Status.DONE: 1}


@pytest.mark.slow
def test_a_plugin_whose_import_does_not_end_does_not_block_a_worker(
    plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import is aborted with a message before a task is claimed."""
    monkeypatch.setattr("rollforge.run.worker_process.START_SECONDS", 4.0)
    module = plugin("plugged_h", "import time\ntime.sleep(600)\n")
    store = MemoryStore()
    store.create("p", [{"x": 1}], submission=store.keep_submission("p", {"plugins": [module]}))
    admission = Admission(
        store, "p", Session(tracking_uri=f"folder:{tmp_path}/runs"), ("tracking_uri",), needs_data=False
    )
    with pytest.raises(RequirementsNotMet, match=r"plugins that cannot be imported here: .*ran for more than 4 s"):
        admission.check_pool(exit_when_empty=True)
    assert store.count("p") == {Status.WAITING: 1}


# -- the contents of files on two machines -----------------------------------------------------------------------------


class Machines:
    """Two folders that stand for the folder `home` on two machines."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        for name in ("head1", "gpu1"):
            (folder / name).mkdir()

    def on(self, name: str) -> Path:
        """Make `home` refer to the folder of a machine."""
        self.home.unlink(missing_ok=True)
        self.home.symlink_to(self.home.parent / name)
        return self.home


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@pytest.mark.slow
def test_a_worker_with_another_version_of_the_file_claims_nothing(
    machines: Machines, small_market: Path, tmp_path: Path, place: Path
) -> None:
    """The worker exits with code 7 and one message with the file, both digests and what to do, and no attempt is
    counted. With the submitter's file the tasks run, and give the results of that file."""
    submitted, changed = LOCAL, LOCAL.replace("3 * x", "5 * x")
    write(machines.on("head1") / "job.yaml", document(small_market, place))
    (machines.home / "local.py").write_text(submitted)
    command("submit", str(machines.home / "job.yaml"), cwd=tmp_path)
    store = f"sqlite:///{place}/tasks.db"
    worker = ["worker", "-t", "p", "--store", store, "--exit-when-empty", "-j", "1"]
    (machines.on("gpu1") / "local.py").write_text(changed)
    for arguments in (worker, [*worker, "--allow", str(machines.home / "local.py")]):
        said = command(*arguments, cwd=tmp_path, code=7)
        assert f"{machines.home / 'local.py'} (SHA-256 {sha(changed)} here, {sha(submitted)} there)" in said
        assert "submit the tasks again" in said
        assert said.count("local.py") == 1
    assert open_store(store).count("p") == {Status.WAITING: 2}
    assert {task.attempts for task in open_store(store).query("p")} == {0}
    (machines.home / "local.py").write_text(submitted)
    assert "2 tasks run" in command(*worker, cwd=tmp_path)
    pred = (
        open_reference(next(iter(open_store(store).query("p"))).result["recorder"]).load_object("pred.pkl").iloc[:, 0]
    )
    with using(Session(provider_uri=str(small_market))):
        prices = D.features("all", ["$close"]).iloc[:, 0].swaplevel()
    np.testing.assert_allclose(pred, (6 * prices).reindex(pred.index), rtol=1e-5)


NAMED = {"class": "Mine", "module_path": "HOME/mine.py"}


@pytest.mark.parametrize(
    ("task", "session"),
    [
        ({}, {"plugins": ("HOME/mine.py",)}),
        ({}, {"operators": (("Mine", "HOME/mine.py"),)}),
        ({"model": NAMED}, {}),
        ({"dataset": {"kwargs": {"handler": {"kwargs": {"infer_processors": [{"class": "X"}, NAMED]}}}}}, {}),
        ({"record": [{"class": "PortAnaRecord", "kwargs": {"config": {"strategy": NAMED}}}]}, {}),
    ],
    ids=["plugin", "operator", "model", "processor", "strategy"],
)
@pytest.mark.parametrize("kind", [Admission, session_admission])
def test_every_file_that_tasks_refer_to_is_compared(
    task: dict[str, Any], session: dict[str, Any], kind: Any, machines: Machines
) -> None:
    """The bytes of files are compared, not their times. A running worker detects changes in both directions."""

    def here(node: Any) -> Any:
        return json.loads(json.dumps(node).replace("HOME", str(machines.home)))

    text = "class Mine:\n    as_operator = None\n"
    mine = machines.on("head1") / "mine.py"
    mine.write_text(text)
    used = Session(**here(session))
    store = MemoryStore()
    store.create("p", [task], submission=store.keep_submission("p", submission_info([here(task)], used)))
    (machines.on("gpu1") / "mine.py").write_text(text)
    allowing = Session(allow=(str(mine),))
    admission = kind(store, "p", allowing, in_process=True)
    admission.needs_data = False
    admission.check_pool(exit_when_empty=True)
    for other in (f"{text} ", ""):
        mine.write_text(other)
        admission.refresh()
        assert not admission.can_run_any
        with pytest.raises(
            RequirementsNotMet, match=f"other contents of {mine} .SHA-256 {sha(other)} here, {sha(text)} there"
        ):
            admission.check_pool(exit_when_empty=True)
        mine.write_text(text)
        admission.refresh()
        assert admission.can_run_any


def test_several_different_files_are_reported_in_one_message(machines: Machines) -> None:
    """Each file is named once; a file that the submitter did not have is not compared."""
    home = machines.on("head1")
    tasks = [{"model": {"class": "M", "module_path": str(home / name)}} for name in ("a.py", "b.py", "c.py", "a.py")]
    for name in ("a.py", "b.py"):
        (home / name).write_text(name)
    info = submission_info(tasks, Session())
    assert info["files"] == {str(home / n): hashlib.sha256(n.encode()).hexdigest() for n in ("a.py", "b.py")}
    store = MemoryStore()
    store.create("p", tasks[:3], submission=store.keep_submission("p", info))
    for name in ("a.py", "b.py", "c.py"):
        (machines.on("gpu1") / name).write_text("x")
    with pytest.raises(RequirementsNotMet) as caught:
        session_admission(store, "p", Session()).check_pool(exit_when_empty=True)
    said = str(caught.value)
    assert (said.count("a.py"), said.count("b.py"), said.count("c.py")) == (1, 1, 0)
    assert "Copy the files from there" in said


def test_a_file_that_is_not_allowed_is_not_read(tmp_path: Path) -> None:
    """Otherwise anyone who can write to a pool could test, by a digest, the contents of files on the worker's
    machine."""
    place = tmp_path / "shared"
    place.mkdir()
    place.chmod(0o777)
    secret = tmp_path / "secret.py"
    secret.write_text("PASSWORD = 1")
    store = open_store(f"sqlite:///{place}/tasks.db")
    kept = {"files": {str(secret): "0" * 64}, "models": {"M": {}}}
    store.create("p", [{"x": 1}], submission=store.keep_submission("p", kept))
    admission = Admission(
        store, "p", Session(tracking_uri=f"folder:{tmp_path}/runs"), ("tracking_uri",), needs_data=False
    )
    assert not [note for note in admission.check_pool(exit_when_empty=True) if "secret" in note]
    assert admission.can_run_any


def takes_new_version(task: Any) -> Any:
    """Return the version in the operator's file, and write the next version."""
    parse("Versioned($close)")
    found = {"version": sys.modules[module_name(task["file"])].VERSION, "process": os.getpid()}
    Path(task["file"]).write_text(task["next"])
    return found


@pytest.mark.slow
def test_a_worker_process_reloads_a_file_that_has_changed(tmp_path: Path) -> None:
    """The tasks of two submissions with two versions of a file run with their own versions, in the same process."""
    file = tmp_path / "versioned.py"
    text = "VERSION = {}\n" + OPERATOR.format(name="Versioned")
    session = Session(plugins=(str(file),))
    store = MemoryStore()
    for version in (2, 1):
        file.write_text(text.format(version))
        key = store.keep_submission("p", submission_info([], session))
        task = {"file": str(file), "n": version, "next": text.format(2)}
        store.create("p", [task], submission=key, priority=-version)
    job = Job("p", takes_new_version)
    pool = WorkerPool(store, job, jobs=1, session=session, admission=session_admission(store, "p", session))
    pool.run()
    results = {task.definition["n"]: task.result for task in store.query("p")}
    assert {n: found["version"] for n, found in results.items()} == {1: 1, 2: 2}
    assert results[1]["process"] == results[2]["process"]


def test_an_operator_is_reloaded_from_a_changed_file(tmp_path: Path) -> None:
    """The class of a session's operator is taken from the current file, for example in a notebook."""
    file = tmp_path / "own_ops.py"
    text = (
        "from qlib.data.ops import ElemOperator\n\n\nclass Times(ElemOperator):\n"
        "    def _load_internal(self, *args):\n        return {} * self.feature.load(*args)\n"
    )
    marks = []
    with using(Session(operators=(("Times", str(file)),))):
        for factor in ("2", "3 + 0", "3 + 0"):
            file.write_text(text.format(factor))
            parse("Times($close)")
            marks.append(custom_operators()["Times"])
    unregister_operator("Times")
    assert marks[0] != marks[1] == marks[2]


def test_a_worker_in_process_imports_plugins_before_it_claims(plugin: Any) -> None:
    """A missing plugin of the session or of a submission is an error before a task is claimed."""
    store = MemoryStore()
    store.create("p", [{"x": 1}])
    with using(Session(plugins=("nothing_of_that_name",))), pytest.raises(MissingCode, match="nothing_of_that_name"):
        Worker(store, Job("p", len)).run()
    assert store.count("p") == {Status.WAITING: 1}
    key = store.keep_submission("q", {"plugins": ["nothing_of_that_name"]})
    store.create("q", [{"x": 1}], submission=key)
    with pytest.raises(RequirementsNotMet, match="nothing_of_that_name"):
        run_task(len, "q", store=store)
    assert store.count("q") == {Status.WAITING: 1}
    module = plugin("plugged_f")
    store.create("r", [{"x": 1}], submission=store.keep_submission("r", {"plugins": [module]}))
    assert run_task(len, "r", store=store)
    assert module in sys.modules


def returns_recorder(task: Any, experiment_name: str, recorder_name: str | None = None) -> Any:
    parse(task["expression"])
    experiment = get_experiment(open_tracker(current_session().tracking_uri), experiment_name=experiment_name)
    recorder = experiment.create_recorder(recorder_name)
    recorder.end_run("FINISHED")
    return recorder


@pytest.mark.slow
def test_processes_of_a_trainer_import_the_plugins_of_the_session(plugin: Any, tmp_path: Path) -> None:
    """Operators that they register can therefore be used there."""
    module = plugin("plugged_g", OPERATOR.format(name="PluggedG"))
    session = Session(plugins=(module,), tracking_uri=f"folder:{tmp_path}/runs")
    store = MemoryStore()
    trainer = TrainerRM("e", train_func=returns_recorder, jobs=1, store=store, session=session)
    assert len(trainer.train([{"expression": "PluggedG($close)"}])) == 1
    (info,) = store.submissions("e").values()
    assert read_submission_info(info).plugins == (module,)


@pytest.mark.parametrize(
    "kept",
    [
        {"operators": 5},
        {"operators": [5, ["a"], ["a", 5], ["a", "b", "c"], {"x": 1}]},
        {"sys_path": {"a": 1}},
        {"plugins": [None, 5, ""]},
        {"files": 5},
        {"files": {"a": "1", "b.txt": "2", "/etc/passwd": "3"}},
    ],
)
def test_invalid_information_is_ignored(kept: dict[str, Any]) -> None:
    """Anyone who can write to the pool may have written them."""
    info = read_submission_info(kept)
    assert (info.plugins, info.operators, info.sys_path, info.files) == ((), (), (), {})


def test_tasks_without_plugins_have_no_additional_facts() -> None:
    """Empty parts are omitted, so that the key of a submission does not change."""
    assert not {"operators", "sys_path", "files"} & set(submission_info([{"model": {"class": "LGBModel"}}], Session()))
    manager = TaskManager("p", store=MemoryStore())
    assert manager.store.keep_submission("p", {"plugins": []}) == manager.store.keep_submission("p", {"plugins": []})
