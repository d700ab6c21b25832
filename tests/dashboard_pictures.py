"""Take the pictures of the dashboard again: ``python tests/dashboard_pictures.py [FOLDER]``, with Chromium.

Two workers train four models on a demo market, in a folder that can be given, while two finished experiments lie beside it.
The pages are those of a real ``rollforge dashboard``. One model fails in one window, in which it has no rows: it fits
one regression for days after a fall of the market and one for all others, and no day of that training segment is of the first
kind. The run takes some minutes; the pictures are taken when four fifths of it are done.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from rollforge.store.base import open_store
from rollforge.task import Status, TaskRecord

sys.path.insert(0, str(Path(__file__).parent))

from browser.chromium import Page, browser

DOCS = Path(__file__).parents[1] / "docs"
MODEL = '''
import pandas as pd
from sklearn.linear_model import Ridge


class TwoRegimes:
    """A ridge regression for days after a fall of the market, and one for all other days."""

    def fit(self, dataset, reweighter=None):
        train = dataset.prepare("train", col_set=["feature", "label"], data_key="learn")
        fallen = self.fallen(dataset, "train").reindex(train.index).to_numpy()
        label = train["label"].iloc[:, 0]
        self.models = {
            regime: Ridge(100.0).fit(train["feature"][fallen == regime], label[fallen == regime])
            for regime in (False, True)
        }

    def predict(self, dataset, segment="test"):
        rows = dataset.prepare(segment, col_set="feature", data_key="infer")
        fallen = self.fallen(dataset, segment).reindex(rows.index).to_numpy()
        scores = pd.Series(0.0, rows.index)
        for regime, model in self.models.items():
            if (fallen == regime).any():
                scores[fallen == regime] = model.predict(rows[fallen == regime])
        return scores

    @staticmethod
    def fallen(dataset, segment):
        """Whether the median instrument has lost more than 10 % in 60 days."""
        rows = dataset.prepare(segment, col_set="feature", data_key="raw")
        return rows["ROC60"].groupby(level="datetime").transform("median") > 1 / 0.9
'''
RIDGE = {
    "class": "LinearModel",
    "module_path": "qlib.contrib.model.linear",
    "kwargs": {"estimator": "ridge", "alpha": 100.0},
}


def trees(leaves: int, rounds: int) -> dict[str, Any]:
    """Return a LightGBM model."""
    kwargs = {"loss": "mse", "learning_rate": 0.05, "num_leaves": leaves, "lambda_l2": 50, "num_boost_round": rounds,
              "early_stopping_rounds": rounds // 2, "seed": 7}  # fmt: skip
    return {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": kwargs}


MODELS = {
    "ridge": RIDGE,
    "ridge, two regimes": {"class": "TwoRegimes", "module_path": "two_regimes"},
    "trees, small": trees(7, 100),
    "trees, deep": trees(63, 200),
}
PREPROCESSING = [
    {"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature", "clip_outlier": True}},
    {"class": "Fillna", "kwargs": {"fields_group": "feature"}},
]
BACKTEST = {
    "strategy": {"class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy",
                 "kwargs": {"signal": "<PRED>", "topk": 20, "n_drop": 4}},
    "backtest": {"account": 1_000_000, "benchmark": "DEMO_INDEX"},
}  # fmt: skip


def workflow(folder: Path, experiment: str, *, backtest: bool = False, **more: Any) -> Path:
    """Write a workflow file and return its path."""
    handler = {
        "class": "Alpha158",
        "module_path": "qlib.contrib.data.handler",
        "kwargs": {
            "start_time": "2018-01-01", "end_time": "2023-12-29", "instruments": "demo100",
            "fit_start_time": "<dataset.kwargs.segments.train.0>", "fit_end_time": "<dataset.kwargs.segments.train.1>",
            "infer_processors": PREPROCESSING,
        },
    }  # fmt: skip
    segments = {
        "train": ["2018-01-02", "2019-12-31"],
        "valid": ["2020-01-01", "2020-06-30"],
        "test": ["2020-07-01", "2023-12-29"],
    }
    record: list[dict[str, Any]] = [
        {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
        {"class": "SigAnaRecord", "module_path": "qlib.workflow.record_temp"},
    ]
    if backtest:
        record.append(
            {"class": "PortAnaRecord", "module_path": "qlib.workflow.record_temp", "kwargs": {"config": BACKTEST}}
        )
    dataset = {
        "class": "DatasetH",
        "module_path": "qlib.data.dataset",
        "kwargs": {"handler": handler, "segments": segments},
    }
    document = {
        "rollforge": {"data": "market", "experiment": experiment},
        "task": {"dataset": dataset, "record": record, **more.pop("task", {})},
        "rolling": {"step": 60, "rtype": "sliding", "trunc_days": "auto"},
        **more,
    }
    file = folder / f"{experiment}.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return file


class Project:
    """A folder in which commands are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        stores = {"ROLLFORGE_STORE": "sqlite:///tasks.db", "ROLLFORGE_TRACKING": "sqlite:///mlflow.db"}
        self.env = {**os.environ, **stores, "ROLLFORGE_CACHE": str(folder / "cache")}

    def start(self, *words: object, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "rollforge", *map(str, words)]
        return subprocess.Popen(command, cwd=self.folder, env=self.env, text=True, **options)

    def run(self, *words: object) -> None:
        process = self.start(*words)
        if process.wait():
            raise SystemExit(f"rollforge {' '.join(map(str, words))} has failed.")

    @contextmanager
    def dashboard(self) -> Iterator[str]:
        """Provide the address of a dashboard."""
        process = self.start("dashboard", "--port", 0, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            process.terminate()
            process.wait()

    def tasks(self, pool: str) -> list[TaskRecord]:
        """Return the tasks of a pool, in the order in which they were stored."""
        store = open_store(f"sqlite:///{self.folder}/tasks.db", read_only=True)
        return list(store.query(pool, {}, results=False))


def take(
    page: Page,
    address: str,
    name: str,
    *,
    ready: str = "true",
    scheme: str = "light",
    width: int = 1100,
    height: int = 0,
) -> None:
    """Write ``docs/NAME.png``: a whole page, or its first part of a height, as soon as a JavaScript expression is true."""
    page.scheme(scheme)
    page.size(width, height or 800)
    page.open(address)
    page.wait("document.querySelector('.plot') === null || document.documentElement.dataset.plots === 'drawn'")
    page.wait("(document.getElementById('live')?.textContent ?? 'live') === 'live'")
    page.wait(ready)
    page.run("document.documentElement.style.overflow = 'hidden'")  # no scroll bar in the picture
    page.size(width, height or int(page.run("document.documentElement.scrollHeight")))
    page.screenshot(DOCS / f"{name}.png")
    print(f"{name}.png", flush=True)


def prepare(project: Project) -> None:
    """Create the market and the finished experiments, if the folder has none."""
    folder = project.folder
    if (folder / "market").exists():
        return
    (folder / "two_regimes.py").write_text(MODEL, encoding="utf-8")
    project.run("data", "demo", "market", "--instruments", 120)
    project.run("run", workflow(folder, "ridge", backtest=True, task={"model": RIDGE}))
    project.run("run", workflow(folder, "trees", backtest=True, task={"model": MODELS["trees, small"]}))
    project.run("submit", workflow(folder, "four_models", models=MODELS, plugins=["two_regimes"]))


def pictures(project: Project) -> None:
    """Take the pictures."""
    words = ("worker", "-t", "four_models", "--jobs", 1, "--threads", 1, "--lease", 10, "--allow", "two_regimes")
    workers = [project.start(*words, "--exit-when-empty") for _ in range(2)]
    try:
        with project.dashboard() as address, browser() as opened:
            page = opened.page()

            def at(path: str, *pairs: tuple[str, str]) -> str:
                return f"{address}{path}?{urlencode(pairs)}"

            experiment = at("/experiment", ("name", "four_models"))
            take(page, at("/compare", ("e", "ridge"), ("e", "trees")), "dashboard-compare", height=1060)
            take(page, at("/result", ("experiment", "trees")), "dashboard-result", height=1100)
            while not is_time(tasks := project.tasks("four_models")):
                time.sleep(0.5)
            logged = "[...document.querySelectorAll('td.last')].some(one => one.textContent.trim())"
            take(page, experiment, "dashboard", ready=logged)
            coloured = "document.querySelectorAll('.grid-table .cell:is(.v1, .v2, .v3)').length > 30"
            take(page, f"{experiment}&metric=IC", "dashboard-dark", ready=coloured, scheme="dark", height=600)
            take(page, at("/"), "dashboard-list", ready="document.querySelectorAll('.spark').length === 3", height=420)
            done = [task.id for task in tasks if task.status is Status.DONE and task.model_name == "trees, small"][-1]
            shown = "document.querySelector('.importance') !== null"
            take(
                page,
                at("/task", ("experiment", "four_models"), ("id", done)),
                "dashboard-task",
                ready=shown,
                height=1300,
            )
    finally:
        for process in workers:
            process.terminate()
            process.wait()


def is_time(tasks: list[TaskRecord]) -> bool:
    """Return whether a fifth of the tasks is left, one has failed, and both workers run one."""
    number = Counter(task.status for task in tasks)
    if not number[Status.WAITING]:
        raise SystemExit("The tasks have ended before a picture was taken.")
    left = number[Status.WAITING] + number[Status.RUNNING]
    return left <= len(tasks) / 5 and number[Status.FAILED] == 1 and number[Status.RUNNING] == 2


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        chosen = Project(Path(sys.argv[1] if len(sys.argv) > 1 else temporary).absolute())
        chosen.folder.mkdir(exist_ok=True)
        prepare(chosen)
        pictures(chosen)
