"""A market of four instruments that grows by a day at a time, and services on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rollforge.generate.rolling import RollingGen
from rollforge.market.folder_writer import write_folder
from rollforge.online.manager import OnlineManager
from rollforge.online.strategy import RollingStrategy
from rollforge.run.pool_trainer import DelayTrainerRM, TrainerRM
from rollforge.run.trainer import DelayTrainerR, Trainer, TrainerR
from rollforge.session import current_session
from rollforge.track.base import Recorder, get_experiment, open_tracker

DAYS = [str(day.date()) for day in pd.bdate_range("2024-01-01", periods=120) if str(day.date()) != "2024-05-01"]
"""The trading days. 2024-05-01 is a holiday."""
CODES = ("A", "B", "C", "D")
BEGIN = DAYS[60]
STEP = 4
TRAINERS: dict[str, Callable[[], Trainer]] = {
    "TrainerR": TrainerR,
    "TrainerRM": TrainerRM,
    "DelayTrainerR": DelayTrainerR,
    "DelayTrainerRM": DelayTrainerRM,
}


def prices(instruments: int = len(CODES)) -> pd.DataFrame:
    """Return closing prices: a row per day and a column per instrument."""
    moves = np.random.default_rng(5).normal(0, 0.02, (len(DAYS), instruments))
    codes = [chr(ord("A") + i) for i in range(instruments)]
    return pd.DataFrame(20 * np.exp(moves.cumsum(axis=0)), pd.DatetimeIndex(DAYS), codes)


@dataclass
class Market:
    """A data folder whose contents are replaced by those known on a day."""

    folder: Path
    close: pd.DataFrame
    begins: dict[str, str] = field(default_factory=dict)
    """First days of instruments that are listed later than the first day."""

    def show(self, until: str) -> None:
        """Write the days up to `until`."""
        close = self.close[:until]
        calendar = close.index.to_numpy().astype("datetime64[D]")
        series, spans = {}, {}
        for code in close.columns:
            first = int(np.searchsorted(calendar, np.datetime64(self.begins.get(code, DAYS[0]))))
            values = close[code].to_numpy(np.float32)[first:]
            if not len(values):
                continue
            series[code] = (
                first,
                {"close": values, "factor": np.where(np.isnan(values), np.nan, 1).astype(np.float32)},
            )
            spans[code] = [(calendar[first], calendar[-1])]
        shutil.rmtree(self.folder, ignore_errors=True)
        write_folder(self.folder, calendar, series, {"all": spans})


def template(processors: Sequence[dict[str, Any]] = (), **model: Any) -> dict[str, Any]:
    """Return the template of a linear model on two features, tested from `DAYS[52]` on.

    Parameters
    ----------
    processors : sequence
        Processors of the features.
    **model
        Arguments of the model.
    """
    config = {
        "feature": [["$close/Ref($close,1)-1", "$close/Mean($close,5)-1"], ["R1", "M5"]],
        "label": [["Ref($close, -2)/Ref($close, -1)-1"], ["LABEL0"]],
    }
    handler = {
        "class": "DataHandlerLP",
        "module_path": "qlib.data.dataset.handler",
        "kwargs": {
            "instruments": "all",
            "data_loader": {"class": "QlibDataLoader", "kwargs": {"config": config}},
            "infer_processors": list(processors),
            "learn_processors": [{"class": "DropnaLabel"}],
        },
    }
    segments = {"train": (DAYS[10], DAYS[51]), "test": (DAYS[52], DAYS[-1])}
    return {
        "model": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear", "kwargs": dict(model)},
        "dataset": {
            "class": "DatasetH",
            "module_path": "qlib.data.dataset",
            "kwargs": {"handler": handler, "segments": segments},
        },
        "record": [{"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}],
    }


def strategy(name: str = "served", templates: Any = None, **windows: Any) -> RollingStrategy:
    """Return a rolling strategy with windows of four days."""
    return RollingStrategy(name, templates or template(), RollingGen(step=STEP, rtype="sliding", **windows))


def manager(
    trainer: Trainer | None = None,
    name: str = "served",
    begin: str = BEGIN,
    templates: Any = None,
    service: str | None = None,
    **windows: Any,
) -> OnlineManager:
    """Return a manager of one rolling strategy."""
    served = strategy(name, templates, **windows)
    return OnlineManager(served, trainer=trainer, begin_time=begin, service=service)


def live(market: Market, served: OnlineManager, days: Sequence[str]) -> OnlineManager:
    """Run the routine of each day with the data of that day."""
    market.show(days[0])
    served.first_train()
    for day in days:
        market.show(day)
        served.routine(day)
    return served


def days_of(signals: Any) -> list[str]:
    """Return the days of signals."""
    return sorted({str(day.date()) for day in signals.index.get_level_values("datetime")})


def recorders(name: str = "served", status: str | None = None) -> list[Recorder]:
    """Return the recorders of an experiment, with a status if one is given, the earliest window first."""
    tracker = open_tracker(current_session().tracking_uri)
    found = get_experiment(tracker, experiment_name=name, create=False).list_recorders("list", status=status)
    return sorted(found, key=start_of)


def start_of(recorder: Recorder) -> str:
    """Return the first test day of a recorder."""
    return str(recorder.load_object("task")["dataset"]["kwargs"]["segments"]["test"][0].date())


def equal(one: Any, other: Any) -> None:
    """Check that two signals have the same rows and, to the last bit, the same values."""
    pd.testing.assert_series_equal(one, other, check_exact=True, check_freq=False)
