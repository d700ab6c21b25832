"""``docs/extending.md``: the code of every recipe runs as printed."""

from __future__ import annotations

import ast
import math
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import rollforge
from rollforge import drivers, pipeline
from rollforge.build import build
from rollforge.expressions import operators
from rollforge.generate.label_horizon import task_horizon
from rollforge.kinds import LOADER
from rollforge.ledger.base import open_ledger
from rollforge.plan import make_plan
from rollforge.record.backtest import run_backtest
from rollforge.run.pool_trainer import TrainerRM
from rollforge.session import Session, using
from rollforge.store.base import open_store
from rollforge.task import Status
from rollforge.track.base import open_tracker
from rollforge.trust import plugin_module
from rollforge.workflow import load_workflow

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
RECIPES = (
    "model",
    "operator",
    "processor",
    "loader",
    "handler",
    "dataset",
    "strategy",
    "record",
    "generator",
    "ensemble",
    "task store",
    "ledger",
    "tracking store",
    "executor",
)


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with the modules of the page, and the package of its last section as if installed."""
    folder = tmp_path / "recipes"
    info = folder / "my_package-1.0.dist-info"
    info.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    groups = tomllib.loads(toml)["project"]["entry-points"]
    sections = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(sections))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
    known = set(operators._TABLE)
    yield folder
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)
    for name in set(operators._TABLE) - known:
        operators.unregister_operator(name)
    for one in (drivers.STORES, drivers.LEDGERS, drivers.TRACKERS):
        one._used.difference_update(("box", "table"))


def workflow(market: Path, folder: Path) -> dict[str, Any]:
    (piece,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    places = {
        "data": str(market),
        "store": f"box://{folder.name}",
        "tracking": f"table:{folder}/runs",
        "experiment": "e",
    }
    return {**yaml.safe_load(piece), "rollforge": places}


def test_every_kind_has_a_recipe() -> None:
    """The page has a heading and code for each kind of extension."""
    for kind in RECIPES:
        (section,) = re.findall(rf"^## An? {kind}\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
        assert "```python\n# my_" in section, kind


def test_the_recipes_train_a_workflow(recipes: Path, small_market: Path, tmp_path: Path) -> None:
    """A workflow runs with the model, operator, processor, record, generator, ensemble, store and tracker of the
    page."""
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(workflow(small_market, tmp_path)))
    plan = make_plan(load_workflow(file))
    assert list(dict.fromkeys(plan.model_names)) == ["limit=1.0", "limit=2.0"]
    session = plan.workflow.session
    pipeline.submit(plan)
    pipeline.train(plan, jobs=0)
    store = open_store(session.store_uri)
    assert type(store).__name__ == "BoxStore"
    assert store.count("e") == {Status.DONE: 4}
    collected = pipeline.collect(session, "e", plan.ids)
    assert collected.prediction is not None
    assert collected.prediction.notna().any().all()
    assert collected.ensembles["models"] == "MedianEnsemble"
    scores = [model.prediction.iloc[:, 0] for model in collected.models if model.prediction is not None]
    pd.testing.assert_series_equal(
        collected.prediction["score"], pd.concat(scores, axis=1).mean(axis=1), check_names=False
    )
    spreads = [run.metrics["spread"] for run in collected.runs.values()]
    assert all(math.isfinite(s) for s in spreads)
    assert type(open_tracker(session.tracking_uri)).__name__ == "TableTracker"


def test_a_task_may_contain_a_class(recipes: Path, small_market: Path, tmp_path: Path) -> None:
    """A script passes the class of a model instead of its name, and worker processes train the model."""
    import my_models  # type: ignore[import-not-found]

    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(workflow(small_market, tmp_path)))
    plan = make_plan(load_workflow(file))
    task = {**plan.tasks[0], "model": {"class": my_models.LeastSquares}}
    session = plan.workflow.session.with_(plugins=("my_operators",), store_uri=f"sqlite:///{tmp_path}/tasks.db")
    (recorder,) = TrainerRM("own", "own", jobs=1, session=session)([task])
    assert type(recorder.load_object("params.pkl", trusted=True)) is my_models.LeastSquares


@pytest.mark.parametrize("kind", ["store", "ledger"])
def test_the_implementation_in_memory_is_a_template(kind: str, recipes: Path) -> None:
    """A copy of its file outside of the package works, and uses no private names; the page says what a store's is made of."""
    source = (Path(rollforge.__file__).parent / kind / "memory.py").read_text(encoding="utf-8")
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    assert not [alias.name for node in nodes for alias in node.names if alias.name.startswith("_")]
    modules = {f"rollforge.{node.names[0].name}" if node.module == "rollforge" else str(node.module) for node in nodes}
    shared = {name for name in modules if name.startswith("rollforge.") and name.count(".") > 1}
    assert kind == "ledger" or not [name for name in shared if f"`{name}`" not in PAGE]
    (recipes / f"own_{kind}.py").write_text(source, encoding="utf-8")
    table = drivers.STORES if kind == "store" else drivers.LEDGERS
    table.register("own", f"own_{kind}:Memory{kind.title()}")
    try:
        if kind == "store":
            store = open_store("own://x")
            store.create("p", [{"a": 1}])
            (task,) = store.claim("p", worker="w", lease=60)
            store.commit(task, 2)
            assert (type(store).__module__, store.count("p")) == ("own_store", {Status.DONE: 1})
        else:
            ledger = open_ledger("own://x")
            assert (type(ledger).__module__, ledger.acquire("s", holder="h", seconds=60).token) == ("own_ledger", 1)
    finally:
        table.unregister("own")
        sys.modules.pop(f"own_{kind}", None)


def test_the_operator_computes_the_documented_value(recipes: Path, small_market: Path) -> None:
    """The operator's value, the position within the range of the last 20 days, agrees with pandas."""
    from rollforge.features import D

    with using(Session(provider_uri=str(small_market), plugins=("my-operators",))):
        frame = D.features("all", ["RangePosition($close, 20)", "$close"], "2022-06-01", "2022-09-30")
    for _, one in frame.groupby(level="instrument"):
        close = one["$close"].droplevel("instrument").astype(float)
        window = close.rolling(20)
        expected = ((close - window.min()) / (window.max() - window.min())).iloc[19:]
        found = one.iloc[19:, 0].droplevel("instrument")
        both = expected.notna() & found.notna()
        assert both.any()
        np.testing.assert_allclose(found[both], expected[both], atol=1e-4)


def test_the_loader_loads(recipes: Path, small_market: Path) -> None:
    """A handler can use it."""
    from rollforge.features import DataHandlerLP

    loader = {"class": "Weekday", "module_path": "my_loaders"}
    with using(Session(provider_uri=str(small_market))):
        build(loader, kind=LOADER)
        handler = DataHandlerLP("all", "2022-06-01", "2022-06-30", data_loader=loader)
        frame = handler.fetch(col_set="feature")
    days = pd.Series(frame.index.get_level_values("datetime").day_of_week, index=frame.index)
    assert (frame["day"] == days).all()


def test_the_handler_the_dataset_and_the_strategy_make_a_backtest(recipes: Path, small_market: Path) -> None:
    """A model learns from the last days of weeks, and its five best instruments are held on the days after."""
    import my_datasets  # type: ignore[import-not-found]
    from my_models import LeastSquares

    handler = {"class": "Momentum", "module_path": "my_handlers", "kwargs": {"windows": [5, 10]}}
    described = {"class": "Weekly", "module_path": "my_datasets", "kwargs": {"handler": handler}}
    plain = {"class": "DatasetH", "module_path": "rollforge.data", "kwargs": described["kwargs"]}
    assert [task_horizon({"dataset": one}).days for one in (plain, described)] == [2, None]
    segments = {"train": ("2022-02-01", "2022-12-30"), "test": ("2023-01-03", "2023-03-31")}
    session = Session(provider_uri=str(small_market))
    with using(session):
        dataset = my_datasets.Weekly(handler, segments)
        learned = dataset.prepare("train", col_set=["feature", "label"]).index.get_level_values("datetime").unique()
        assert learned.to_period("W").is_unique
        assert 40 < len(learned) < 50
        model = LeastSquares()
        model.fit(dataset)
        scores = model.predict(dataset).to_frame("score")
    strategy = {"class": "Best", "module_path": "my_strategies", "kwargs": {"count": 5, "signal": scores}}
    result = run_backtest(strategy, start_time="2023-01-03", end_time="2023-03-31", session=session)
    days = scores.index.get_level_values("datetime").unique()
    held = result.positions[days[-1]].get_stock_list()
    assert 0 < len(held) <= 5
    assert set(scores.loc[days[-2], "score"].nlargest(5).index) >= set(held)


def test_the_ensemble_combines(recipes: Path) -> None:
    """The ensemble returns the median of three models."""
    import my_ensembles  # type: ignore[import-not-found]

    scores = {name: pd.Series([value, 1.0]) for name, value in (("a", 1.0), ("b", 5.0), ("c", 2.0))}
    assert my_ensembles.MedianEnsemble()(scores).tolist() == [2.0, 1.0]


def test_the_package_is_found(recipes: Path) -> None:
    """The entry points of the package provide schemes of a store and a tracker, and the short name of a plugin."""
    assert drivers.STORES.schemes()["box"].origin == "my-package 1.0"
    assert drivers.TRACKERS.schemes()["box"].target == "my_tracker:BoxTracker"
    assert plugin_module("my-operators") == "my_operators"


@pytest.mark.slow
def test_the_suites_of_the_page_pass(recipes: Path, tmp_path: Path) -> None:
    """The tests that the page shows for the store and the tracker pass, without a warning."""
    # Without its own folder, it would delete the temporary files of earlier runs when it ends.
    options = ["-q", "-p", "no:cacheprovider", "-W", "error", "--rootdir", recipes, "--basetemp", tmp_path / "pytest"]
    traces = ["-o", "faulthandler_timeout=300"]  # reports where it hangs if it never ends
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *traces, recipes],
        capture_output=True, text=True, cwd=recipes, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 100
