"""The label horizon from a workflow file to the segments and the rows that models are fitted on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.documents.definitions import SMALL_MARKET, TWO_WINDOWS, expressions, stores, task_definition

from rollforge import pipeline
from rollforge.build import build
from rollforge.dates import read_timestamp
from rollforge.errors import ConfigError, SegmentError
from rollforge.generate.label_horizon import task_horizon
from rollforge.plan import Plan, make_plan
from rollforge.session import using
from rollforge.workflow import load_workflow

OWN = """
import pandas as pd

from rollforge.features import Alpha158, D, DataLoader, Processor


def label(features, days):
    close = features["close"]
    later = close.groupby(level="instrument").shift(-days)
    return pd.DataFrame({"LABEL0": later / close - 1})


def prices(instruments, start, end):
    frame = D.features(instruments, ["$close"], start, end).swaplevel().sort_index()
    return frame.set_axis(["close"], axis=1).dropna()


class Loader(DataLoader):
    def __init__(self, days, with_label=True):
        self.days, self.with_label = days, with_label

    def load(self, instruments, start_time=None, end_time=None):
        features = prices(instruments, start_time, end_time)
        parts = {"feature": features, "label": label(features, self.days)}
        return pd.concat(parts if self.with_label else {"feature": features}, axis=1)


class MakesLabel(Processor):
    def __init__(self, days):
        self.days = days

    def __call__(self, df):
        return pd.concat([df, pd.concat({"label": label(df["feature"], self.days)}, axis=1)], axis=1)


class InInit(Alpha158):
    def __init__(self, days, **kwargs):
        super().__init__(**kwargs)
        self.data_loader = Loader(days)
"""

FEATURE = {"class": "QlibDataLoader", "kwargs": {"config": {"feature": [["$close"], ["close"]]}}}


@pytest.fixture
def own_code(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "own_labels.py").write_text(OWN)
    yield tmp_path
    sys.modules.pop("own_labels", None)


def named(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"class": name, "module_path": "own_labels", "kwargs": kwargs}


def handler(loader: Any, **kwargs: Any) -> dict[str, Any]:
    return {
        "class": "DataHandlerLP", "module_path": "rollforge.features",
        "kwargs": {**SMALL_MARKET, "data_loader": loader, "learn_processors": ["DropnaLabel"], **kwargs},
    }  # fmt: skip


def leaky(kind: str, folder: Path) -> dict[str, Any]:
    """Return a handler whose label looks fifteen days ahead, which its definition does not show."""
    if kind == "loader":
        return handler(named("Loader", days=15))
    if kind == "file":
        days = pd.bdate_range("2022-01-03", "2023-12-29")
        index = pd.MultiIndex.from_product([days, ["A", "B", "C"]], names=["datetime", "instrument"])
        close = pd.DataFrame({"close": np.random.default_rng(1).uniform(9, 11, len(index))}, index)
        later = close.groupby(level="instrument")["close"].shift(-15)
        pd.concat({"feature": close, "label": pd.DataFrame({"LABEL0": later / close["close"] - 1})}, axis=1).to_parquet(
            folder / "made.parquet"
        )
        static = {"class": "StaticDataLoader", "kwargs": {"config": str(folder / "made.parquet")}}
        return handler(static)
    if kind == "constructor":
        return {**named("InInit", days=15, **SMALL_MARKET, learn_processors=["DropnaLabel"])}
    return handler(FEATURE, learn_processors=[named("MakesLabel", days=15), "DropnaLabel"])


def written(market: Path, folder: Path, handler: Any, **more: Any) -> Path:
    document = {
        "rollforge": stores(market, folder, "horizons"),
        "sys": {"rel_path": "."},
        "task": task_definition(handler, TWO_WINDOWS),
        "rolling": {"step": 60},
        **more,
    }
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def planned(market: Path, folder: Path, handler: Any, **more: Any) -> Plan:
    return make_plan(load_workflow(written(market, folder, handler, **more)))


def gaps(plan: Plan, calendar: pd.DatetimeIndex) -> set[tuple[int, int]]:
    """Return the numbers of trading days between train and valid, and between valid and test, of each task."""
    found = set()
    for task in plan.tasks:
        s = task["dataset"]["kwargs"]["segments"]
        place = {n: [calendar.searchsorted(read_timestamp(d)) for d in s[n]] for n in ("train", "valid", "test")}
        found.add((place["valid"][0] - place["train"][1] - 1, place["test"][0] - place["valid"][1] - 1))
    return found


CALENDAR = pd.bdate_range("2022-01-03", "2023-12-29")
KINDS = ["loader", "file", "constructor", "processor"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_of_unknown_horizon_is_refused_and_purged_if_declared(
    kind: str, own_code: Path, small_market: Path
) -> None:
    """The plan refuses it, with the line of the file; with a declared horizon, no label of a fitted row reads a later
    segment."""
    one = leaky(kind, own_code)
    with pytest.raises(SegmentError, match=r"job.yaml, line \d+: .*trunc_days: 'auto' needs the label's horizon"):
        planned(small_market, own_code, one)
    plan = planned(small_market, own_code, one, label_horizon=15)
    assert gaps(plan, CALENDAR) == {(15, 15)}
    assert all(t["label_horizon"] == t["dataset"]["kwargs"]["purge_rows"] == 15 for t in plan.tasks)
    with using(plan.workflow.session):
        dataset = build(plan.tasks[0]["dataset"])
        for name, later in (("train", "valid"), ("valid", "test")):
            rows = dataset.prepare(name, data_key="learn").index
            every = dataset.prepare(slice(None, None), col_set="feature", data_key="infer").index
            border = read_timestamp(dataset.segments[later][0])
            for code in rows.unique("instrument"):
                days = every[every.get_level_values("instrument") == code].get_level_values("datetime")
                last = rows[rows.get_level_values("instrument") == code].get_level_values("datetime").max()
                assert days[days.get_loc(last) + 15] < border


def test_a_run_with_a_declared_horizon(own_code: Path, small_market: Path) -> None:
    """The tasks of the pool have the horizon, and their runs have the number of rows that were left out."""
    plan = planned(small_market, own_code, leaky("loader", own_code), label_horizon=15, label_days=15)
    pipeline.submit(plan)
    pipeline.train(plan, jobs=0)
    collected = pipeline.collect(plan.workflow.session, "horizons", plan.ids)
    assert collected.prediction is not None
    tags = [run.tags for run in collected.runs.values()]
    assert len(tags) == 2
    assert all(set(json.loads(t["rollforge.rows_purged"])) >= {"train"} for t in tags)


def test_each_model_can_declare_its_own_horizon(own_code: Path, small_market: Path) -> None:
    """A model's horizon replaces that of the workflow."""
    models = {"short": {"label_horizon": 3, "model": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear"}},
              "long": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear"}}  # fmt: skip
    plan = planned(small_market, own_code, leaky("loader", own_code), label_horizon=15, models=models)
    assert {n: task_horizon(t).days for n, t in zip(plan.model_names, plan.tasks, strict=True)} == {
        "short": 3,
        "long": 15,
    }
    assert gaps(plan, CALENDAR) == {(3, 3), (15, 15)}


@pytest.mark.parametrize("place", ["workflow", "task", "handler"])
def test_of_a_declared_and_a_read_horizon_the_larger_purges(place: str, own_code: Path, small_market: Path) -> None:
    """Wherever it is declared; the label is an expression, so that no rows are counted."""
    for declared, gap in ((1, 2), (5, 5)):
        one = expressions("$close", **SMALL_MARKET, **({"label_horizon": declared} if place == "handler" else {}))
        more: dict[str, Any] = {"label_horizon": declared} if place == "workflow" else {}
        if place == "task":
            more["task"] = {**task_definition(one, TWO_WINDOWS), "label_horizon": declared}
        plan = planned(small_market, own_code, one, **more)
        assert gaps(plan, CALENDAR) == {(gap, gap)}
        assert all("purge_rows" not in t["dataset"]["kwargs"] for t in plan.tasks)


@pytest.mark.parametrize("value", [-1, 1.5, True, "15", [1]])
def test_the_workflow_declares_a_number_of_days(value: Any, own_code: Path, small_market: Path) -> None:
    """Anything else is a mistake in the file, with its line."""
    for more in ({"label_horizon": value}, {"models": {"a": {"label_horizon": value, "model": {"class": "X"}}}}):
        with pytest.raises(ConfigError, match=r"line \d+: (models.a.)?label_horizon: "):
            load_workflow(written(small_market, own_code, expressions("$close"), **more))


def test_qlibs_form_keeps_its_windows(own_code: Path, small_market: Path) -> None:
    """Without trunc_days, an unknown horizon is not an error."""
    file = written(small_market, own_code, leaky("loader", own_code))
    document = yaml.safe_load(file.read_text())
    places = document.pop("rollforge")
    document["qlib_init"] = {"provider_uri": places["data"]}
    file.write_text(yaml.safe_dump(document))
    plan = make_plan(load_workflow(file, store=places["store"], tracking=places["tracking"]))
    assert gaps(plan, CALENDAR) == {(1, 0)}  # 2 January lies between train and valid
