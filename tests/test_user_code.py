"""User code in a workflow: files next to the workflow, ``from qlib import …``, and errors in the code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.documents.command_line import run

from rollforge.build import build, import_file, locate
from rollforge.errors import BuildError, ConfigError, MissingCode, RollforgeError
from rollforge.plan import make_plan
from rollforge.session import Session, using
from rollforge.track.base import Experiment, get_experiment, open_tracker
from rollforge.workflow import load_workflow

MINE = """
import pandas as pd
from qlib.contrib.data.handler import Alpha158
from qlib.data.dataset.handler import DataHandlerLP
from qlib.data.dataset.processor import Processor
from qlib.model.base import Model
from qlib.workflow.record_temp import RecordTemp


class Two(Alpha158):
    def get_feature_config(self):
        return ["$close/$open", "Ref($close,5)/$close"], ["A", "B"]


class Half(Processor):
    def __call__(self, df):
        df["feature"] = df["feature"] * 0.5
        return df


class Mean(Model):
    def __init__(self, factor=1.0):
        self.factor = factor
        self.mean = None

    def fit(self, dataset, reweighter=None):
        frame = dataset.prepare("train", col_set=["feature", "label"], data_key=DataHandlerLP.DK_L)
        self.mean = float(frame["label"].iloc[:, 0].mean())

    def predict(self, dataset, segment="test"):
        frame = dataset.prepare(segment, col_set="feature", data_key=DataHandlerLP.DK_I)
        return pd.Series(self.mean * self.factor * frame.iloc[:, 0].to_numpy(), index=frame.index)


class Rows(RecordTemp):
    def generate(self, **kwargs):
        self.recorder.log_metrics(rows=len(self.load("pred.pkl")))
"""


def document(market: Path, module: str) -> dict[str, Any]:
    """Return a workflow whose model, handler, processor and record come from a user's module."""
    handler = {
        "instruments": "demo100", "start_time": "2022-01-03", "end_time": "2023-09-29", "fit_start_time": "2022-01-03",
        "fit_end_time": "2022-12-30", "infer_processors": [{"class": "Half", "module_path": module}],
        "learn_processors": ["DropnaLabel"],
    }  # fmt: skip
    return {
        "qlib_init": {"provider_uri": str(market), "region": "us"},
        "task": {
            "model": {"class": "Mean", "module_path": module, "kwargs": {"factor": 2.0}},
            "dataset": {
                "class": "DatasetH",
                "module_path": "qlib.data.dataset",
                "kwargs": {
                    "handler": {"class": "Two", "module_path": module, "kwargs": handler},
                    "segments": {"train": ["2022-01-03", "2022-12-30"], "test": ["2023-01-02", "2023-09-29"]},
                },
            },
            "record": [
                {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
                {"class": "Rows", "module_path": module},
            ],
        },
        "rolling": {"step": 100, "rtype": "sliding"},
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the workflow, which is not the working directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def test_a_file_next_to_the_workflow_is_found_from_anywhere(folder: Path, small_market: Path) -> None:
    """The file in ``module_path: mine.py`` is searched in the working directory and next to the workflow; its ``qlib``
    is Rollforge."""
    (folder / "mine.py").write_text(MINE)
    plan = make_plan(load_workflow(write(folder, document(small_market, "mine.py"))))
    assert len(plan.tasks) == 2
    assert plan.tasks[0]["model"]["module_path"] == str(folder / "mine.py")


@pytest.mark.parametrize("module_path", ["../../etc/passwd", "a..b", ".a", "a b", "mine/own"])
def test_an_invalid_module_name_is_reported_in_one_sentence(module_path: str) -> None:
    """The message does not contain Python's import error."""
    with pytest.raises(BuildError, match=r"There is no module .*the path of a \.py file\.$"):
        locate("Model", module_path)


@pytest.mark.slow
def test_worker_processes_import_it_too(folder: Path, small_market: Path, tmp_path: Path) -> None:
    """``rollforge run`` with two workers finds the module through ``sys: {rel_path: …}``."""
    (folder / "lib").mkdir()
    (folder / "lib" / "mine_of_workers.py").write_text(MINE)
    content = {**document(small_market, "mine_of_workers"), "sys": {"rel_path": "lib"}}
    tracking = f"folder:{tmp_path / 'runs'}"
    done = run("run", write(folder, content), "--jobs", "2", "--tracking", tracking)
    assert done.returncode == 0, done.stdout + done.stderr
    with using(Session(tracking_uri=tracking)):
        found = get_experiment(open_tracker(tracking), experiment_name="own").list_recorders(Experiment.RT_L)
    assert [r.status for r in found] == ["FINISHED"] * 2
    assert all(r.list_metrics()["rows"] == len(r.load_object("pred.pkl")) for r in found)
    # Another program can load the model, whose class derives from a class of Rollforge.
    read = "import sys; sys.path.insert(0, sys.argv[1])\n" + (
        "from rollforge.track.base import get_experiment, open_tracker\n"
        "runs = get_experiment(open_tracker(sys.argv[2]), experiment_name='own').list_recorders('list')\n"
        "print(type(runs[0].load_object('params.pkl', trusted=True)).__mro__[1].__module__)\n"
    )
    argv = [sys.executable, "-c", read, str(folder / "lib"), tracking]
    assert subprocess.run(argv, capture_output=True, text=True).stdout.strip() == "rollforge.models.base"


def test_a_module_next_to_the_workflow_is_reported_with_advice(folder: Path, small_market: Path) -> None:
    """A module without ``.py`` is only found through ``sys``; if its file is next to the workflow, the message says
    so."""
    (folder / "not_on_the_path.py").write_text(MINE)
    file = write(folder, document(small_market, "not_on_the_path"))
    with pytest.raises(ConfigError) as caught:
        make_plan(load_workflow(file))
    assert "There is no module 'not_on_the_path'" in str(caught.value)
    assert "add 'sys: {rel_path: .}'" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class Mean(:\n", "SyntaxError: invalid syntax (bad.py, line 1)"),
        ("x = 1\ny = undefined_name\n", "NameError: name 'undefined_name' is not defined ({file}, line 2)"),
        (
            "import surely_not_installed\n",
            "ModuleNotFoundError: No module named 'surely_not_installed' ({file}, line 1)",
        ),
        ("import sys\nsys.exit('no')\n", "SystemExit: no ({file}, line 2)"),
        ("\n\n1 / 0\n", "ZeroDivisionError: division by zero ({file}, line 3)"),
        ("from qlib.data import NotThere\n", "Qlib's module qlib.data has no 'NotThere'"),
        ("x = 1\nimport qlib.nothing\n", "({file}, line 2)"),
        ("import qlib.rl\n", "reinforcement learning is not supported"),
        ("raise ValueError\n", "ValueError ({file}, line 1)"),
    ],
)
def test_a_file_that_cannot_be_imported_is_reported_once(
    code: str, said: str, folder: Path, small_market: Path
) -> None:
    """The error is reported once, with its line, although three objects need the file; a partly imported module is
    removed."""
    file = folder / "bad.py"
    file.write_text(code)
    workflow = load_workflow(write(folder, document(small_market, "bad.py")))
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            make_plan(workflow)
        assert said.format(file=file) in str(caught.value)
        assert str(caught.value).count("cannot be imported") == 1
    name = f"bad_{abs(hash(code))}"
    (folder / f"{name}.py").write_text(code)
    sys.path.append(str(folder))
    try:
        with pytest.raises(BuildError, match=name):
            build({"class": "Mean", "module_path": name}, where="task.model")
    finally:
        sys.path.remove(str(folder))


def test_missing_code_is_distinguished_from_wrong_code(tmp_path: Path) -> None:
    """A missing file or package is reported before the task runs; a mistake in the code is a failure of the task."""
    incomplete = tmp_path / "needs.py"
    incomplete.write_text("import surely_not_installed\n")
    for path in (str(tmp_path / "not_there.py"), str(incomplete), "no_such_module"):
        with pytest.raises(MissingCode):
            build({"class": "A", "module_path": path})
    wrong = tmp_path / "wrong.py"
    wrong.write_text("1 / 0\n")
    with pytest.raises(BuildError) as caught:
        build({"class": "A", "module_path": str(wrong)})
    assert not isinstance(caught.value, MissingCode)


def test_all_mistakes_in_a_task_are_reported_at_once(folder: Path, small_market: Path) -> None:
    """An unknown model, a failing constructor of a handler and an unknown argument of a record are listed with their
    lines."""
    (folder / "own.py").write_text(
        "from qlib.contrib.data.handler import Alpha158\n"
        "class Failing(Alpha158):\n"
        "    def __init__(self, **kwargs):\n"
        "        raise KeyError('nothing')\n"
    )
    content = document(small_market, "own.py")
    content["task"]["model"] = {"class": "LGBModle", "module_path": "qlib.contrib.model.gbdt"}
    content["task"]["dataset"]["kwargs"]["handler"]["class"] = "Failing"
    content["task"]["record"] = [
        {"class": "SigAnaRecord", "module_path": "qlib.workflow.record_temp", "kwargs": {"x": 1}}
    ]
    file = write(folder, content)
    with pytest.raises(ConfigError) as caught:
        make_plan(load_workflow(file))
    first, *others = str(caught.value).splitlines()
    assert first == f"{file} has 3 mistakes:"
    assert [line.split(": ")[0].split()[0] for line in others] == ["line"] * 3
    for part in ("Did you mean 'LGBModel'", "KeyError: 'nothing'", "SigAnaRecord takes no argument 'x'"):
        assert part in str(caught.value)


def test_a_file_is_imported_once_until_it_changes(tmp_path: Path) -> None:
    """Two objects of a class in it therefore have the same class; after an edit the file is imported again."""
    file = tmp_path / "once.py"
    file.write_text("class A: pass\n")
    first = import_file(str(file))
    assert import_file(str(file)).A is first.A
    file.write_text("class A: pass\nclass B: pass\n")
    assert import_file(str(file)).B is not None
    with pytest.raises(RollforgeError, match="There is no Python file"):
        import_file(str(tmp_path / "twice.py"))


def test_an_edit_within_a_second_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's cached bytecode counts as current if the size and the second of the last change are the same."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "edited.py"
    for value in (1, 2):
        file.write_text(f"def answer(): return {value}\n")
        os.utime(file, ns=(0, 1_700_000_000_000_000_000 + value))
        assert import_file(str(file)).answer() == value
