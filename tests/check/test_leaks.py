"""Leaks planted in real workflows, and the same workflows without them: what the measured check finds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.documents.command_line import run

from rollforge.check.ensembles import ensemble_checks
from rollforge.check.market_copy import Change
from rollforge.check.proof import Scope, prove
from rollforge.collect.combine import build_ensembles
from rollforge.errors import SegmentError
from rollforge.expressions.operators import unregister_operator
from rollforge.generate.checks import Check, CheckMethod, CheckResult
from rollforge.pipeline import submit
from rollforge.plan import make_plan
from rollforge.run.submission import load_checks
from rollforge.session import Session
from rollforge.store.base import open_store
from rollforge.workflow import load_workflow

OPERATOR = """\
import numpy as np
from rollforge.expressions.operators import register_operator


def tomorrow(series, x):
    out = np.full(x.shape, np.nan)
    out[:, :-1] = x[:, 1:]
    return out


register_operator("Tomorrow", tomorrow)
"""
CODE = """\
import numpy as np
import pandas as pd
from rollforge.data import D, DataHandlerLP, DataLoader, Processor
from rollforge.features.loader import QlibDataLoader
from rollforge.collect.ensemble import Ensemble
from rollforge.models.base import Model, Reweighter


class Loader(DataLoader):
    ahead = 0

    def load(self, instruments, start_time=None, end_time=None):
        close = D.features(D.instruments(instruments), ["$close"], start_time, end_time)["$close"].unstack("instrument")
        close = close if "datetime" in close.index.names else close.T
        feature = {"MOM": close / close.shift(5), "AHEAD": close.shift(-self.ahead) / close.shift(1)}
        label = {"LABEL0": close.shift(-4) / close.shift(-1) - 1}
        parts = {("feature", k): v.stack() for k, v in feature.items()}
        parts |= {("label", k): v.stack() for k, v in label.items()}
        return pd.DataFrame(parts).rename_axis(["datetime", "instrument"]).sort_index()


class PeekingLoader(Loader):
    ahead = 3


class WeeklyLoader(Loader):
    '''Each day has the last price of its week.'''

    def load(self, instruments, start_time=None, end_time=None):
        frame = super().load(instruments, start_time, end_time)
        close = D.features(D.instruments(instruments), ["$close"], start_time, end_time)["$close"].unstack("instrument")
        close = close if "datetime" in close.index.names else close.T
        weekly = close.groupby(pd.PeriodIndex(close.index, freq="W")).transform("last").stack()
        frame[("feature", "WEEK")] = weekly.reindex(frame.index)
        return frame


class TodaysMembers(Loader):
    '''Loads those who are members on the last day of the data.'''

    def load(self, instruments, start_time=None, end_time=None):
        frame = super().load(instruments, start_time, end_time)
        last = D.calendar()[-1]
        codes = D.list_instruments(D.instruments(instruments), start_time=last, end_time=last, as_list=True)
        return frame[frame.index.get_level_values("instrument").isin(codes)]


class Scaled(Ensemble):
    '''Divides by the largest score of all windows.'''

    def __call__(self, predictions):
        whole = pd.concat(predictions.values()).sort_index()
        return whole / whole.abs().max()


class Smooth(Ensemble):
    '''The mean of each instrument's last three scores.'''

    def __call__(self, predictions):
        whole = pd.concat(predictions.values()).sort_index()
        return whole.groupby(level="instrument").transform(lambda s: s.rolling(3, min_periods=1).mean())


class Unstable(Ensemble):
    def __call__(self, predictions):
        return pd.concat(predictions.values()).sort_index() + np.random.default_rng().normal()


class Refuses(Ensemble):
    def __call__(self, predictions):
        raise ValueError("no")


class FutureWeights(Reweighter):
    def reweight(self, data):
        later = D.features(D.instruments("all"), ["Ref($close, -120)/$close"]).iloc[:, 0]
        later = later.swaplevel() if later.index.names[0] == "instrument" else later
        return later.reindex(data.index).fillna(1).abs() + 0.001


class SuspendedLoader(DataLoader):
    '''Its label counts the rows of an instrument, and each instrument is suspended once for two weeks.'''

    def load(self, instruments, start_time=None, end_time=None):
        close = D.features(D.instruments(instruments), ["$close"], start_time, end_time)["$close"].rename("CLOSE")
        days, codes = close.index.get_level_values("datetime"), close.index.get_level_values("instrument")
        number = codes.factorize()[0]
        start = pd.Timestamp("2022-10-03") + pd.to_timedelta(7 * number, unit="D")
        close = close[~((days > start) & (days < start + pd.Timedelta(days=14)))].dropna()
        ahead = close.groupby(level="instrument").shift(-4)
        frame = pd.DataFrame({("feature", "CLOSE"): close, ("label", "LABEL0"): ahead / close - 1})
        return frame.swaplevel().sort_index() if frame.index.names[0] == "instrument" else frame.sort_index()


class DroppingLoader(Loader):
    def load(self, instruments, start_time=None, end_time=None):
        return super().load(instruments, start_time, end_time).dropna()


class IndexLoader(Loader):
    '''Reads an instrument that belongs to no universe, and one that is a member.'''

    def load(self, instruments, start_time=None, end_time=None):
        frame = super().load(instruments, start_time, end_time)
        for code in ("DEMO_INDEX", "D0001", "D0029", "D0015"):
            other = D.features([code], ["Ref($close, -2)"], start_time, end_time).droplevel("instrument").iloc[:, 0]
            frame[("feature", code)] = other.reindex(frame.index.get_level_values("datetime")).to_numpy()
        return frame


class Plain:
    '''A dataset without a handler.'''

    def __init__(self, segments, ahead):
        self.segments, self.ahead = segments, ahead

    def prepare(self, segment, **kwargs):
        expressions = [f"Ref($close, {-self.ahead})/Ref($close, 3)", "Ref($close, -2)/Ref($close, -1) - 1"]
        frame = D.features(D.instruments("all"), expressions, *self.segments[segment])
        return frame.set_axis(["x", "y"], axis=1).swaplevel().sort_index()

    def config(self, **kwargs):
        pass


class Slope(Model):
    def fit(self, dataset):
        frame = dataset.prepare("train").dropna()
        self.slope = float((frame.x * frame.y).sum() / (frame.x**2).sum())

    def predict(self, dataset, segment="test"):
        return dataset.prepare(segment).x * self.slope


class Everything(Processor):
    '''Standardises by the mean of all rows.'''

    def fit(self, df):
        self.mean = df["feature"].mean()

    def __call__(self, df):
        for name in df["feature"].columns:
            df[("feature", name)] = df[("feature", name)] - self.mean[name]
        return df


class MakesLabel(Processor):
    def __call__(self, df):
        ahead = df[("feature", "CLOSE")].groupby(level="instrument").shift(-7)
        df[("label", "LABEL0")] = ahead / df[("feature", "CLOSE")] - 1
        return df

    def is_for_infer(self):
        return False


class Fills(Processor):
    '''Fills missing values with the next one.'''

    def __call__(self, df):
        return df.groupby(level="instrument").bfill()


class InInit(DataHandlerLP):
    def __init__(self, instruments="all", start_time=None, end_time=None, **kwargs):
        loader = QlibDataLoader({"feature": (["$close/Ref($close, 5)"], ["MOM"]),
                                 "label": (["Ref($close, -16)/Ref($close, -1) - 1"], ["LABEL0"])})
        super().__init__(instruments, start_time, end_time, loader)


class ReadsTest(Model):
    '''Predicts the mean label of the test segment.'''

    def fit(self, dataset):
        self.mean = float(dataset.prepare("test", col_set="label", data_key="raw").mean().iloc[0])

    def predict(self, dataset, segment="test"):
        frame = dataset.prepare(segment, col_set="feature")
        return pd.Series(self.mean, frame.index)


class RanksAllDays(Model):
    '''Fits nothing, and ranks a feature over all days of the segment.'''

    def fit(self, dataset):
        pass

    def predict(self, dataset, segment="test"):
        return dataset.prepare(segment, col_set="feature").iloc[:, 0].rank(pct=True)


class Random(Model):
    def fit(self, dataset):
        self.value = np.random.default_rng().normal()

    def predict(self, dataset, segment="test"):
        frame = dataset.prepare(segment, col_set="feature")
        return pd.Series(self.value, frame.index)
"""
BASE: dict[str, Any] = {
    "task": {
        "model": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear", "kwargs": {"estimator": "ols"}},
        "dataset": {
            "class": "DatasetH",
            "module_path": "qlib.data.dataset",
            "kwargs": {
                "handler": {},
                "segments": {
                    "train": ["2022-02-01", "2022-10-05"],
                    "valid": ["2022-11-01", "2022-12-05"],
                    "test": ["2023-01-02", "2023-03-31"],
                },
            },
        },
    },
}
DROP = {"class": "DropnaLabel"}
FILL = {"class": "Fillna", "kwargs": {"fields_group": "feature"}}
RETURN = "Ref($close, -2)/Ref($close, -1) - 1"


def expressions(*features: str, label: str = RETURN, **handler: Any) -> dict[str, Any]:
    """Return a handler of expressions, the first feature named F0."""
    config = {"feature": [list(features), [f"F{i}" for i in range(len(features))]], "label": [[label], ["LABEL0"]]}
    loader = {"class": "QlibDataLoader", "kwargs": {"config": config}}
    return own("DataHandlerLP", module="qlib.data.dataset.handler", data_loader=loader, **handler)


def own(name: str, module: str = "leaky", **kwargs: Any) -> dict[str, Any]:
    """Return a handler."""
    arguments = {"instruments": "all", "start_time": "2022-01-03", "end_time": "2023-12-29", **kwargs}
    arguments.setdefault("learn_processors", [DROP])
    arguments.setdefault("infer_processors", [FILL])
    if name == "InInit":
        arguments = {k: v for k, v in arguments.items() if not k.endswith("processors")}
    return {"class": name, "module_path": module, "kwargs": arguments}


def loaded(name: str, **handler: Any) -> dict[str, Any]:
    """Return a handler with a loader of the user's own."""
    loader = {"class": name, "module_path": "leaky"}
    return own("DataHandlerLP", "qlib.data.dataset.handler", data_loader=loader, **handler)


class Files:
    """Writes workflow files next to a Python file with the user's code."""

    def __init__(self, folder: Path, market: Path) -> None:
        self.folder, self.market = folder, market
        (folder / "leaky.py").write_text(CODE, encoding="utf-8")
        (folder / "tomorrow.py").write_text(OPERATOR, encoding="utf-8")

    def write(self, handler: object, **changes: Any) -> Path:
        document = json.loads(json.dumps(BASE))
        document["task"]["dataset"]["kwargs"]["handler"] = handler
        document["task"].update({k: v for k, v in changes.items() if k == "model"})
        dataset = document["task"]["dataset"]
        dataset["kwargs"].update({k: v for k, v in changes.items() if k == "segments"})
        if "dataset" in changes:
            kwargs = {"segments": dataset["kwargs"]["segments"], **changes["dataset"]["kwargs"]}
            document["task"]["dataset"] = {**changes["dataset"], "kwargs": kwargs}
        document.update({k: v for k, v in changes.items() if k not in ("model", "segments", "dataset")})
        places = {
            "data": str(self.market), "store": f"sqlite:///{self.folder}/tasks.db", "tracking": f"folder:{self.folder}/runs",
        }  # fmt: skip
        document.setdefault("rollforge", places)
        document["sys"] = {"rel_path": "."}
        document["plugins"] = ["./tomorrow.py"]
        file = self.folder / "workflow.yaml"
        file.write_text(json.dumps(document), encoding="utf-8")
        return file

    def check(self, handler: object, *, instruments: int = 8, **changes: Any) -> list[Check]:
        workflow = load_workflow(self.write(handler, **changes))
        return list(prove(workflow, Scope(quick=True, instruments=instruments)).measured)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, small_market: Path) -> Iterator[Files]:
    """One folder for all tests, because a module and its operators are registered once."""
    yield Files(tmp_path_factory.mktemp("leaks"), small_market)
    unregister_operator("Tomorrow")


def leaks(checks: list[Check]) -> dict[str, str]:
    """Return the subjects with a leak, and the text of each."""
    return {c.subject: c.text for c in checks if c.result is CheckResult.LEAK}


def unknown(checks: list[Check]) -> dict[str, str]:
    return {c.subject: c.text for c in checks if c.result is CheckResult.UNKNOWN}


# -- clean -------------------------------------------------------------------------------------------------------------

CLEAN = {
    "expressions": expressions("$close/Ref($close, 5)", "Std($close, 10)", "EMA($close, 5)"),
    "loader": loaded("Loader"),
    "Alpha158": own("Alpha158", "qlib.contrib.data.handler", infer_processors=[]),
    "Alpha360": own("Alpha360", "qlib.contrib.data.handler", infer_processors=[]),
    "normalised": expressions(
        "$close/Ref($close, 5)", "$volume",
        infer_processors=[
            {"class": "RobustZScoreNorm", "kwargs": {
                "fields_group": "feature", "fit_start_time": "<dataset.kwargs.segments.train.0>",
                "fit_end_time": "<dataset.kwargs.segments.train.1>"}},
            FILL,
        ],
        learn_processors=[DROP, {"class": "CSRankNorm", "kwargs": {"fields_group": "label"}}],
    ),
    "in __init__": own("InInit"),
    "filtered": expressions("$close", instruments={
        "market": "all",
        "filter_pipe": [{"filter_type": "ExpressionDFilter", "rule_expression": "$close > Ref($close, 1)"}],
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", CLEAN)
def test_a_workflow_without_leaks_gives_no_finding(name: str, files: Files) -> None:
    """All subjects are clean, except that the horizon of a loader's label is not in its definition."""
    found = files.check(CLEAN[name])
    assert leaks(found) == {}
    subjects = {"features", "label", "label and segments", "universe", "processors", "model", "predictions"}
    assert {c.subject for c in found} == subjects - ({"processors"} if name == "in __init__" else set())
    assert set(unknown(found)) <= ({"label"} if name == "loader" else set())


def test_purged_cross_validation_gives_no_finding(files: Files) -> None:
    """Train segments lie before and after the test segment. The last days of the data are in all but one of them."""
    handler = expressions("$close/Ref($close, 5)", end_time="2023-03-31")
    found = files.check(handler, generate=[{"PurgedKFoldGen": {"n_folds": 3, "embargo": 2}}])
    assert leaks(found) == {}
    assert unknown(found).keys() <= {"model"}


def test_each_label_is_measured_by_its_own_horizon(files: Files) -> None:
    """The models of two horizons have a result each, which names its own windows only."""
    found = files.check(expressions("$close"), generate=[{"MultiHorizonGen": {"horizon": [1, 5]}}])
    labels = {c.tasks: c.text for c in found if c.subject == "label"}
    assert {tasks: text.partition(",")[0] for tasks, text in labels.items()} == {
        ("horizon 1, window 1",): "The label looks at least 2 trading days ahead",
        ("horizon 5, window 1",): "The label looks at least 6 trading days ahead",
    }


# -- leaks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "days"),
    [
        ("Ref($close, -1)/$close", 1),
        ("Delta($close, -3)", 3),
        ("Slope(Ref($close, -2), 5)", 2),
        ("Tomorrow($close)", 1),
        ("If($close > Ref($close, -1), 1, 0)", 1),
        ("Max(Ref($high, -2), 3)", 2),
    ],
)
def test_a_feature_that_looks_ahead_is_found(feature: str, days: int, files: Files) -> None:
    """The first differing column and its row are named, with the number of days, whatever the definition says."""
    found = leaks(files.check(expressions("$close", feature)))
    assert "features" in found
    assert found["features"].startswith("F1 of D0")
    assert f"it looks at least {days} trading day" in found["features"]


LATE = {"fields_group": "feature", "fit_start_time": "2022-02-01", "fit_end_time": "2023-03-31"}


def test_a_fit_window_that_reaches_into_the_test_segment_is_found(files: Files) -> None:
    """The processor is named, and so are the model and the predictions that depend on it."""
    late = {"class": "RobustZScoreNorm", "kwargs": LATE}
    found = leaks(files.check(expressions("$close/Ref($close, 5)", infer_processors=[late, FILL])))
    assert found.keys() == {"processors", "model", "predictions"}
    assert found["processors"].startswith(
        "RobustZScoreNorm learns from later days than those of train and valid: F0 of D0"
    )


def test_a_fit_window_that_stays_while_the_windows_roll_is_found_in_the_first_window_only(files: Files) -> None:
    """The fit window is that of the last window."""
    fixed = {"class": "RobustZScoreNorm", "kwargs": {**LATE, "fit_end_time": "2022-12-30"}}
    rolling = {"step": 30, "rtype": "sliding", "trunc_days": "auto"}
    handler = expressions("$close/Ref($close, 5)", infer_processors=[fixed, FILL])
    handler["kwargs"]["end_time"] = "2023-03-31"
    found = files.check(handler, rolling=rolling)
    (processors,) = (c for c in found if c.subject == "processors")
    assert processors.result is CheckResult.LEAK
    assert processors.tasks[0] == "window 1"
    assert "window 3" not in processors.tasks


def test_a_processor_that_fits_on_everything_is_found(files: Files) -> None:
    """The class of the processor is user-defined, so only the measurement can find it."""
    everything = {"class": "Everything", "module_path": "leaky"}
    found = leaks(files.check(expressions("$close", infer_processors=[FILL, everything])))
    assert found["processors"].startswith("Everything learns from later days")


def test_a_processor_that_reads_later_rows_is_found(files: Files) -> None:
    """The processor learns nothing; filling a missing value with the next one reads later days."""
    gaps = "Log($close - Ref($close, 1))"
    found = leaks(files.check(expressions(gaps, infer_processors=[{"class": "Fills", "module_path": "leaky"}])))
    assert found["processors"].startswith("Fills looks at least")


def test_a_loader_that_looks_ahead_is_found(files: Files) -> None:
    """The loader is user code in a Python file."""
    found = leaks(files.check(loaded("PeekingLoader")))
    assert found["features"].startswith("AHEAD of D0")
    assert "it looks at least 3 trading days ahead" in found["features"]


def test_the_last_price_of_a_week_is_found_on_the_days_before(files: Files) -> None:
    """On the last day of a week it is not a leak."""
    found = leaks(files.check(loaded("WeeklyLoader", label_horizon=4)))
    assert found["features"].startswith("WEEK of D0")


def test_the_label_of_a_loader_is_measured(files: Files) -> None:
    """The definition of a loader shows nothing, so the measured number of days is a lower bound, and the result is "not
    known"."""
    found = unknown(files.check(loaded("Loader")))
    assert found.keys() == {"label"}
    assert "The label looks at least 4 trading days ahead, as measured" in found["label"]


def test_windows_are_purged_by_the_measured_horizon_if_it_is_unknown(files: Files) -> None:
    """A run stops there and asks for the number; the check gives it, and no label reaches into the next segment."""
    rolling = {"step": 60, "rtype": "sliding", "trunc_days": "auto"}
    segments = {
        "train": ["2022-02-01", "2022-10-31"],
        "valid": ["2022-11-01", "2022-12-30"],
        "test": ["2023-01-02", "2023-03-31"],
    }
    handler = loaded("Loader", end_time="2023-03-31")
    with pytest.raises(SegmentError, match="label_horizon"):
        make_plan(load_workflow(files.write(handler, segments=segments, rolling=rolling)))
    found = files.check(handler, segments=segments, rolling=rolling)
    assert leaks(found) == {}
    (label,) = (c for c in found if c.result is CheckResult.UNKNOWN)
    assert label.advice.startswith("If it looks no further ahead, set label_horizon: 4,")


@pytest.mark.parametrize(("declared", "result"), [(3, "leak"), (4, "clean"), (5, "clean")])
def test_a_declared_horizon_is_confirmed_or_refuted(declared: int, result: str, files: Files) -> None:
    """The label of the loader looks four days ahead."""
    (label,) = (c for c in files.check(loaded("Loader", label_horizon=declared)) if c.subject == "label")
    assert label.result.value == result
    assert "at least 4 trading days ahead" in label.text


def test_a_label_that_counts_rows_of_suspended_instruments_is_purged(files: Files) -> None:
    """Four rows are up to fourteen trading days; the rows whose labels reach into the next segment are not used."""
    segments = {
        "train": ["2022-02-01", "2022-10-31"],
        "valid": ["2022-11-01", "2022-12-09"],
        "test": ["2022-12-12", "2023-03-31"],
    }
    handler = loaded("SuspendedLoader", end_time="2023-03-31", label_horizon=4)
    purged = files.check(handler, segments=segments, rolling={"step": 90, "rtype": "sliding", "trunc_days": "auto"})
    assert leaks(purged) == {}
    truncated = files.check(handler, segments=segments, rolling={"step": 90, "rtype": "sliding", "trunc_days": 5})
    assert "label and segments" in leaks(truncated)


def test_a_label_set_in_the_constructor_reaches_into_the_next_segment(files: Files) -> None:
    """The label looks 16 days ahead, and only five days lie between valid and test."""
    segments = {
        "train": ["2022-02-01", "2022-10-05"],
        "valid": ["2022-11-01", "2022-12-23"],
        "test": ["2023-01-02", "2023-03-31"],
    }
    found = leaks(files.check(own("InInit"), segments=segments))
    assert found["label and segments"].startswith(
        "The labels of the last 11 days of 'valid' read market data of 'test'"
    )


def test_a_processor_that_makes_the_label_is_measured(files: Files) -> None:
    """The raw data have no label."""
    loader = {"class": "QlibDataLoader", "kwargs": {"config": {"feature": [["$close"], ["CLOSE"]]}}}
    makes = {"class": "MakesLabel", "module_path": "leaky"}
    handler = own("DataHandlerLP", "qlib.data.dataset.handler", data_loader=loader, learn_processors=[makes, DROP])
    assert "The label looks at least 7 trading days ahead, as measured" in unknown(files.check(handler))["label"]


def test_an_operator_with_a_wrong_look_ahead_makes_a_label_longer_than_its_definition(files: Files) -> None:
    """The definition says one day, and the measurement two."""
    found = leaks(files.check(expressions("$close", label="Tomorrow(Ref($close, -1))/$close - 1")))
    assert found["label"].startswith(
        "The label looks at least 2 trading days ahead, not 1 (by its expression): LABEL0 of"
    )


def test_a_filter_that_reads_later_days_is_found(files: Files) -> None:
    """Members chosen by tomorrow's price are the most effective leak of all."""
    rule = {"filter_type": "ExpressionDFilter", "rule_expression": "Ref($close, -1) > $close"}
    found = leaks(files.check(expressions("$close", instruments={"market": "all", "filter_pipe": [rule]})))
    assert found["universe"].startswith("Members depend on later days: the row of D0")


def test_a_model_that_reads_the_test_segment_is_found(files: Files) -> None:
    """Features, label and processors are clean."""
    model = {"class": "ReadsTest", "module_path": "leaky"}
    found = leaks(files.check(expressions("$close"), model=model))
    assert found.keys() == {"model"}
    assert found["model"].startswith("ReadsTest depends on days after those of train and valid: score of D0")


def test_predictions_that_compare_all_days_are_found(files: Files) -> None:
    """The model learns nothing, but a score depends on later scores."""
    found = leaks(files.check(expressions("$close"), model={"class": "RanksAllDays", "module_path": "leaky"}))
    assert found.keys() == {"predictions"}


def test_a_random_model_is_not_known(files: Files) -> None:
    """A difference between two fits proves nothing if two fits also differ without any change."""
    found = files.check(expressions("$close"), model={"class": "Random", "module_path": "leaky"})
    assert leaks(found) == {}
    assert unknown(found)["model"] == "Fitted twice on the same data, Random predicts differently."


def test_columns_of_a_file_are_not_known(files: Files) -> None:
    """Columns of a file do not change with the market data, so nothing is proved about them, the model and its
    predictions."""
    import numpy as np
    import pandas as pd

    days = pd.bdate_range("2022-01-03", "2023-03-31")
    index = pd.MultiIndex.from_product([days, ["D0001", "D0002"]], names=["datetime", "instrument"])
    values = np.random.default_rng(0).normal(size=(len(index), 2))
    columns = pd.MultiIndex.from_tuples([("feature", "SCORE"), ("label", "LABEL0")])
    pd.DataFrame(values, index, columns).to_parquet(files.folder / "ready.parquet")
    loader = {"class": "StaticDataLoader", "kwargs": {"config": str(files.folder / "ready.parquet")}}
    found = files.check(own("DataHandlerLP", "qlib.data.dataset.handler", data_loader=loader))
    assert leaks(found) == {}
    assert unknown(found)["features"].startswith("SCORE: the same when all market data change")
    assert {"features", "label", "model", "predictions"} <= unknown(found).keys()


def test_a_pickled_handler_is_fitted_again(files: Files) -> None:
    """The fit window of a pickled handler is in the file, and the workflow does not show it."""
    from rollforge.features.handler import DataHandlerLP

    late = {"class": "RobustZScoreNorm", "kwargs": LATE}
    described = expressions("$close/Ref($close, 5)", infer_processors=[late, FILL])["kwargs"]
    DataHandlerLP(**described).to_pickle(files.folder / "handler.pkl", dump_all=True)
    found = leaks(files.check(f"file://{files.folder}/handler.pkl"))
    assert found["processors"].startswith("RobustZScoreNorm learns from later days")


def test_rows_that_a_loader_drops_with_their_label_are_not_known(files: Files) -> None:
    """Whether there will be a label is not known on the day itself; nothing else looks ahead."""
    found = files.check(loaded("DroppingLoader", label_horizon=4))
    assert leaks(found) == {}
    assert unknown(found)["universe"].startswith("The loader leaves out days without a label: the row of D0")


def test_rows_that_a_processor_drops_with_their_label_are_not_known(files: Files) -> None:
    """The same, if it is a processor for inference that drops them."""
    drops = {"class": "DropnaProcessor", "kwargs": {"fields_group": "label"}}
    found = files.check(expressions("$close", infer_processors=[drops]))
    assert leaks(found) == {}
    assert unknown(found)["universe"].startswith("DropnaProcessor leaves out days without a label: the row of D0")


def test_a_model_that_reads_the_last_days_of_the_data_is_not_known(files: Files) -> None:
    """There are no later days to change, as in some windows of a cross-validation."""
    segments = {"train": ["2022-06-01", "2023-12-29"], "test": ["2022-02-01", "2022-04-29"]}
    found = files.check(expressions("$close"), segments=segments)
    assert leaks(found) == {}
    assert unknown(found).keys() == {"model"}


def test_instruments_that_only_code_names_are_changed_too(files: Files) -> None:
    """A loader that reads others than the chosen ones gets a copy with all instruments."""
    found = leaks(files.check(loaded("IndexLoader", label_horizon=4), instruments=4))
    assert found["features"].startswith("DEMO_INDEX of D0")
    assert re.search(r", and \d more, when", found["features"])


@pytest.mark.parametrize(("ahead", "subjects"), [(0, set()), (2, {"predictions"})])
def test_a_dataset_without_a_handler_is_checked_by_its_predictions(
    ahead: int, subjects: set[str], files: Files
) -> None:
    """The features of a dataset without a handler are not known."""
    dataset = {"class": "Plain", "module_path": "leaky", "kwargs": {"ahead": ahead}}
    found = files.check({}, model={"class": "Slope", "module_path": "leaky"}, dataset=dataset)
    assert leaks(found).keys() == subjects
    assert "features" in unknown(found)


def test_members_chosen_on_the_last_day_are_a_leak(files: Files) -> None:
    """A loader that asks for today's members loses rows of the past when a member leaves later."""
    found = files.check(loaded("TodaysMembers"), label_horizon=4)
    assert "when only market data and members after" in leaks(found)["universe"]
    assert "universe" not in leaks(files.check(loaded("Loader"), label_horizon=4))


@pytest.mark.parametrize(
    ("name", "result", "words"),
    [
        ("Scaled", CheckResult.LEAK, "Scaled looks ahead: of the windows, score of D0"),
        ("Smooth", CheckResult.CLEAN, "The scores of Smooth are the same up to each day"),
        ("Unstable", CheckResult.UNKNOWN, "Called twice with the same predictions, Unstable returns different scores"),
        ("Refuses", CheckResult.UNKNOWN, "failed on random predictions"),
    ],
)
def test_a_user_defined_ensemble_is_measured(name: str, result: CheckResult, words: str, files: Files) -> None:
    """By changing later predictions and market data; those of this package are not measured."""
    named = {"windows": {"class": f"leaky.{name}"}}
    workflow = load_workflow(files.write(expressions("$close"), rolling={"step": 25}, ensemble=named))
    plan = make_plan(workflow, leakage="warn")

    @contextlib.contextmanager
    def copy(change: Change | None) -> Iterator[Session]:
        yield workflow.session

    (one,) = ensemble_checks(plan, plan.schedule.calendar, [f"D000{i}" for i in range(6)], copy)
    assert (one.result, words in one.text) == (result, True)
    ours = replace(plan, ensembles=build_ensembles("AverageEnsemble"))
    assert ensemble_checks(ours, plan.schedule.calendar, ["D0001"], copy) == []


def test_sample_weights_from_later_days_are_a_leak(files: Files) -> None:
    """The model is then fitted differently when only days after the labels of train and valid change."""
    file = files.write(expressions("$close/Ref($close, 5)", "Std($close, 10)/$close"))
    document = json.loads(file.read_text())
    document["task"]["reweighter"] = {"class": "FutureWeights", "module_path": "leaky"}
    file.write_text(json.dumps(document))
    found = prove(load_workflow(file), Scope(quick=True, instruments=8)).measured
    assert leaks(list(found)).keys() == {"model"}


# -- the command -------------------------------------------------------------------------------------------------------


def call(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run("check", file, "--quick", "--instruments", "5", *options, env={"COLUMNS": "200"})


@pytest.mark.slow
def test_the_command_exits_with_1_on_a_leak_and_0_otherwise(files: Files, tmp_path: Path) -> None:
    """The command prints the cost first, then one table, and does not change any of the user's files."""
    ended = call(files.write(expressions("$close", "Ref($close, -1)")))
    assert ended.returncode == 1
    assert "1 window: builds the data of 5 instruments" in ended.stderr
    assert "F1 of D0" in ended.stdout
    ended = call(files.write(expressions("$close")), "--json")
    assert ended.returncode == 0
    assert {c["result"] for c in json.loads(ended.stdout) if c["method"] == "measured"} == {"clean"}
    assert not (files.folder / "tasks.db").exists()
    assert not (files.folder / "runs").exists()
    assert not list(Path(os.environ["ROLLFORGE_CACHE"]).glob("panels/*"))


@pytest.mark.slow
def test_results_are_stored_with_submitted_tasks(files: Files) -> None:
    """New results replace earlier ones; the tasks are unchanged."""
    uri = f"sqlite:///{files.folder}/submitted.db"
    file = files.write(expressions("$close"), rollforge={"data": str(files.market), "store": uri, "experiment": "kept"})
    submit(make_plan(load_workflow(file)))
    store = open_store(uri)
    before = list(store.query("kept"))
    for _ in range(2):
        assert call(file).returncode == 0
    assert list(store.query("kept")) == before
    other_store = f"{uri}?synchronous=full"
    submit(make_plan(load_workflow(file, store_uri=other_store, experiment_name="renamed")))
    ended = call(file, "--store", other_store, "--experiment", "renamed")
    assert "stored with the tasks of experiment renamed" in ended.stderr, ended.stderr
    stored = [c for c in load_checks(store, "kept", before) if c.method is CheckMethod.MEASURED]
    assert [c.subject for c in stored] == list(dict.fromkeys(c.subject for c in stored))
    assert "features" in {c.subject for c in stored}


@pytest.mark.slow
def test_a_workflow_that_cannot_be_built_gives_the_error_of_plan(files: Files) -> None:
    """There is one message, and the exit code is 2."""
    ended = call(files.write(expressions("$close", "Ref($nothing, 1)")))
    assert ended.returncode == 2
    assert "There is no field $nothing" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_copies_are_removed_after_an_interruption(files: Files, tmp_path: Path) -> None:
    """The code is 130, and nothing is left in the folder for temporary files."""
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "rollforge", "check", str(files.write(expressions("$close"))), "--all"]
    process = subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(tmp_path / "temporary")}, text=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "temporary").glob("rollforge-check-*/*/data/calendars")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The temporary copies were removed." in said
    assert "Traceback" not in said
    assert not list((tmp_path / "temporary").glob("rollforge-check-*"))
