"""Full-size stress test of online serving: with killed routines, and day by day compared with other ways to get the
same signals.

    python tests/storm_online.py                                        # everything
    python tests/storm_online.py --case kills --trainer TrainerRM --store postgres --tracker mlflow
    python tests/storm_online.py --case days --days 60 --trainer TrainerR --trunc auto

``kills``: each trainer serves 20 days by two routines at once. 100 of them are killed before a write and 100 at random
times, and a week is missed. Signals, releases and windows must be those of an undisturbed simulation.

``days``: each trainer serves 250 days, with and without ``trunc_days``, while the data folder grows by a day at a time.
A simulation on all data must give the same signals, bit for bit, and so must models that are fitted and used without a
service, each on the data of its day. Every label of every training is compared with the prices known on that day.

The data are the S&P table in the folder named by ROLLFORGE_SHARED, else a demo market. The program prints one line of
JSON for each result, and exits with 1 if one of them is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).with_name("documents")))

import numpy as np
import pandas as pd

from audited import LABEL, start_audit, trainings
from growing import TRAINERS, recorders, start_of
from killed_routines import decisions, serve, windows_of
from rollforge.build import build
from rollforge.collect.ensemble import AverageEnsemble
from rollforge.generate.base import task_generator
from rollforge.generate.rolling import RollingGen
from rollforge.generate.task_view import TaskView
from rollforge.market.append import append_table
from rollforge.market.demo import make_demo
from rollforge.market.folder_writer import write_folder
from rollforge.market.provider import open_provider
from rollforge.online.manager import OnlineManager
from rollforge.online.strategy import RollingStrategy
from rollforge.session import Session, bounded, using
from rollforge.testing.postgres import PostgresServer
from rollforge.track.base import Recorder

TRUNC = {"none": None, "auto": "auto"}
TRAINED = 400
"""Number of days in a training segment."""


@dataclass
class Prices:
    """Closing prices, a row per day and a column per instrument, and a data folder with those up to a day."""

    name: str
    close: pd.DataFrame
    folder: Path

    @property
    def days(self) -> list[str]:
        """The trading days."""
        return [str(day.date()) for day in self.close.index]

    def show(self, until: str) -> None:
        """Replace the folder by the days up to `until`."""
        known = self.close.loc[:until]
        calendar = known.index.to_numpy().astype("datetime64[D]")
        series, spans = {}, {}
        for code in known.columns:
            values = known[code].to_numpy(np.float32)
            (priced,) = np.nonzero(~np.isnan(values))
            if not len(priced):
                continue
            first, last = int(priced[0]), int(priced[-1])
            values = values[first : last + 1]
            factors = np.where(np.isnan(values), np.nan, 1).astype(np.float32)
            series[code] = (first, {"close": values, "factor": factors})
            spans[code] = [(calendar[first], calendar[last])]
        shutil.rmtree(self.folder, ignore_errors=True)
        write_folder(self.folder, calendar, series, {"all": spans})

    def append(self, day: str) -> None:
        """Add a day to the folder, as ``rollforge data append`` does."""
        row = self.close.loc[day].dropna()
        table = pd.DataFrame({"datetime": day, "instrument": row.index, "close": row.to_numpy(), "factor": 1.0})
        append_table(table, self.folder)


def prices(folder: Path, instruments: int | None) -> Prices:
    """Return the prices of the S&P table, else of a demo market."""
    shared = os.environ.get("ROLLFORGE_SHARED")
    table = Path(shared or "", "data", "sp500_5yr.parquet")
    if shared and table.is_file():
        name, rows = "S&P 500", pd.read_parquet(table, columns=["datetime", "instrument", "close"])
        close = rows.pivot(index="datetime", columns="instrument", values="close").sort_index()
    else:
        name = "demo market"
        make_demo(folder / "demo", instruments=instruments or 30, years=4)
        provider = open_provider(folder / "demo")
        calendar = provider.calendar("day")
        codes = sorted(provider.instruments("all"))
        block = provider.read("close", codes, 0, len(calendar), "day")
        close = pd.DataFrame(block.values.T, pd.DatetimeIndex(calendar), codes)
    if instruments is not None:
        close = close.iloc[:, :instruments]
    return Prices(name, close.astype(np.float32), folder / "data")


def template(days: Sequence[str], begin: int) -> dict[str, Any]:
    """Return the template of a linear model that is tested from a day on.

    Parameters
    ----------
    days : sequence of str
        The trading days.
    begin : int
        Number of the first day to test.
    """
    feature = {
        "R1": "$close/Ref($close, 1)-1",
        "R5": "$close/Ref($close, 5)-1",
        "M20": "$close/Mean($close, 20)-1",
        "S20": "Std($close, 20)/$close",
    }
    config = {"feature": [list(feature.values()), list(feature)], "label": [[LABEL], ["LABEL0"]]}
    fitted = {"fit_start_time": days[begin - TRAINED], "fit_end_time": days[begin - 10]}
    handler = {
        "class": "DataHandlerLP",
        "module_path": "qlib.data.dataset.handler",
        "kwargs": {
            "instruments": "all",
            "data_loader": {"class": "QlibDataLoader", "kwargs": {"config": config}},
            "infer_processors": [
                {"class": "ZScoreNorm", "kwargs": {"fields_group": "feature", **fitted}},
                {"class": "Fillna", "kwargs": {"fields_group": "feature"}},
            ],
            "learn_processors": [{"class": "DropnaLabel"}],
        },
    }
    segments = {"train": (days[begin - TRAINED], days[begin - 1]), "test": (days[begin], days[-1])}
    return {
        "model": {"class": "AuditedLinear", "module_path": "audited"},
        "dataset": {
            "class": "DatasetH",
            "module_path": "qlib.data.dataset",
            "kwargs": {"handler": handler, "segments": segments},
        },
        "record": [{"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}],
    }


@dataclass
class Setting:
    """Service under test: windows of some days on prices, for some days from the day with number `begin` on."""

    prices: Prices
    begin: int
    count: int
    step: int

    @property
    def days(self) -> list[str]:
        """The days that are served."""
        return self.prices.days[self.begin : self.begin + self.count]

    @property
    def windows(self) -> list[str]:
        """The first days of the windows."""
        return self.days[:: self.step]

    def template(self) -> dict[str, Any]:
        """Return the template, which is tested up to the last day."""
        return template(self.prices.days[: self.begin + self.count], self.begin)

    def generator(self, trunc: str) -> RollingGen:
        """Return the generator of the windows."""
        return RollingGen(step=self.step, rtype="sliding", trunc_days=TRUNC[trunc])

    def manager(self, trainer: str, trunc: str, name: str) -> OnlineManager:
        """Return a service."""
        strategy = RollingStrategy(name, self.template(), self.generator(trunc))
        return OnlineManager(strategy, trainer=TRAINERS[trainer](), begin_time=self.days[0], service=name)


@contextlib.contextmanager
def session(folder: Path, data: Path, *, store: str = "sqlite", tracker: str = "folder") -> Iterator[Session]:
    """Use an empty task store and an empty tracking store, with a cache of their own."""
    with contextlib.ExitStack() as stack:
        folder.mkdir(parents=True)
        uri = f"sqlite:///{folder}/tasks.db"
        if store == "postgres":
            uri = stack.enter_context(PostgresServer()).uri
        runs = f"folder:{folder}/runs" if tracker == "folder" else f"sqlite:///{folder}/mlflow.db"
        os.environ["ROLLFORGE_HOME"] = str(folder / "home")
        made = Session(
            provider_uri=str(data), tracking_uri=runs, store_uri=uri, cache=str(folder / "cache"), threads=1,
            plugins=("audited",),
        )  # fmt: skip
        yield stack.enter_context(using(made))


# -- results -----------------------------------------------------------------------------------------------------------


def difference(found: Any, expected: Any) -> str:
    """Return what differs between two signals, to the last bit; empty if nothing does."""
    try:
        pd.testing.assert_series_equal(found, expected, check_exact=True, check_freq=False, check_names=False)
    except AssertionError as exc:
        return " ".join(str(exc).split())
    return ""


class Report:
    """Prints a line for each result, and knows whether one of them is wrong."""

    def __init__(self) -> None:
        self.wrong = 0

    def __call__(self, result: str, problems: Sequence[str], **values: Any) -> None:
        """Print a result with the problems that were found."""
        found = [problem for problem in problems if problem]
        self.wrong += bool(found)
        line = {"result": result, **values, "ok": not found, **({"problems": found[:5]} if found else {})}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return round(sum(one.ru_utime + one.ru_stime for one in used), 1)


def label_problems(lines: Sequence[dict[str, Any]], expected: int, trunc: str) -> list[str]:
    """Return what is wrong with the labels of trainings.

    Each must be known on the day of the training. Without ``trunc_days`` the last known label is used, which proves
    that the check covers the last rows.
    """
    wrong = [f"{len(lines)} trainings, not {expected}"] if len(lines) != expected else []
    for line in lines:
        if line["wrong"] or line["reach"] > line["day"] or not line["rows"]:
            wrong.append(f"labels were not known: {line}")
        if trunc == "none" and line["reach"] != line["day"]:
            wrong.append(f"the last known label was not used: {line}")
    return wrong


# -- killed routines ---------------------------------------------------------------------------------------------------


def run_kills(options: argparse.Namespace, setting: Setting, folder: Path, report: Report) -> None:
    """Serve days by killed routines, and compare them with a simulation."""
    audit = folder / "audit"
    start_audit(audit, setting.prices.close)
    setting.prices.show(setting.days[-1])
    with session(folder / "undisturbed", setting.prices.folder):
        simulated = setting.manager("TrainerR", options.trunc[0], "storm")
        expected = simulated.simulate(setting.days[-1])
        decided = decisions(simulated.state, windows_of(simulated))
    for trainer in options.trainer:
        began, used = time.monotonic(), cpu_seconds()
        with session(folder / f"kills-{trainer}", setting.prices.folder, store=options.store, tracker=options.tracker):
            setting.prices.show(setting.days[0])
            served = setting.manager(trainer, options.trunc[0], "storm")
            counts = serve(
                setting.prices, served, setting.days, writes=options.writes, times=options.times,
                seconds=options.seconds, seed=options.seed,
            )  # fmt: skip
            finished = [start_of(r) for r in recorders("storm", Recorder.STATUS_FI)]
            problems = [
                difference(served.get_signals(), expected),
                "" if decisions(served.state, windows_of(served)) == decided else "the ledger has other decisions",
                "" if finished == setting.windows else f"the trained windows are {finished}",
                *(f"{counts[k]} kills: {k}" for k, n in (("writes", options.writes), ("times", options.times)) if counts[k] < n),
            ]  # fmt: skip
        report(
            "kills", problems, trainer=trainer, store=options.store, tracker=options.tracker, days=len(setting.days),
            killed_before_a_write=counts["writes"], places=counts["places"], killed_at_random=counts["times"],
            found_another=counts["busy"],
            seconds=round(time.monotonic() - began), cpu_seconds=round(cpu_seconds() - used),
        )  # fmt: skip
    wrong = [line for line in trainings(audit) if line["wrong"] or line["reach"] > line["day"]]
    report("labels of killed routines", list(map(str, wrong)), trainings=len(trainings(audit)))


# -- day by day --------------------------------------------------------------------------------------------------------


def run_days(options: argparse.Namespace, setting: Setting, folder: Path, report: Report) -> None:
    """Recompute, serve day by day, and simulate."""
    data = setting.prices
    data.show(data.days[-1])  # also the days after the last one
    expected = {}
    for trunc in options.trunc:
        began, used = time.monotonic(), cpu_seconds()
        expected[trunc] = computed_anew(setting, trunc, folder / f"anew-{trunc}")
        report(
            "computed anew", [], trunc_days=trunc, rows=len(expected[trunc]),
            seconds=round(time.monotonic() - began), cpu_seconds=round(cpu_seconds() - used),
        )  # fmt: skip
    for trainer in options.trainer:
        began, used = time.monotonic(), cpu_seconds()
        audits = {trunc: folder / "audit" / f"{trainer}-{trunc}" for trunc in options.trunc}
        with session(folder / trainer, data.folder, store=options.store, tracker=options.tracker):
            live = day_by_day(setting, trainer, audits)
        report(
            "days served", [], trainer=trainer, seconds=round(time.monotonic() - began),
            cpu_seconds=round(cpu_seconds() - used),
        )  # fmt: skip
        for trunc, signals in live.items():
            check("day by day and anew", setting, trainer, trunc, audits[trunc], signals, expected[trunc], report)
        for trunc, signals in live.items():
            began, used = time.monotonic(), cpu_seconds()
            audit = audits[trunc] / "simulated"
            start_audit(audit, data.close)
            place = folder / f"simulated-{trainer}-{trunc}"
            with session(place, data.folder, store=options.store, tracker=options.tracker):
                simulated = setting.manager(trainer, trunc, "simulated").simulate(setting.days[-1])
            check("day by day and simulated", setting, trainer, trunc, audit, signals, simulated, report)
            report(
                "days simulated", [], trainer=trainer, seconds=round(time.monotonic() - began),
                cpu_seconds=round(cpu_seconds() - used),
            )  # fmt: skip


def day_by_day(setting: Setting, trainer: str, audits: dict[str, Path]) -> dict[str, Any]:
    """Serve days while the folder grows by a day at a time; return the signals by `trunc_days`, and restore all days of
    the folder.
    """
    data = setting.prices
    data.show(setting.days[0])
    services = {trunc: setting.manager(trainer, trunc, f"live-{trunc}") for trunc in audits}
    for number, day in enumerate(setting.days):
        if number:
            data.append(day)
        for trunc, served in services.items():
            start_audit(audits[trunc], data.close)
            served.routine(day)
    signals = {trunc: served.get_signals() for trunc, served in services.items()}
    data.show(data.days[-1])
    return signals


def check(
    result: str, setting: Setting, trainer: str, trunc: str, audit: Path, signals: Any, other: Any, report: Report
) -> None:
    """Report whether signals are those of all days and equal others, and whether the labels of the trainings were
    known."""
    days = sorted({str(day.date()) for day in signals.index.get_level_values("datetime")})
    lines = trainings(audit)
    problems = [
        difference(signals, other),
        "" if days == setting.days else f"there are signals of {len(days)} days",
        *label_problems(lines, len(setting.windows), trunc),
    ]
    report(
        result, problems, trainer=trainer, trunc_days=trunc, days=len(days), rows=len(signals), trainings=len(lines),
        labels=sum(line["rows"] for line in lines),
    )  # fmt: skip


def computed_anew(setting: Setting, trunc: str, folder: Path) -> Any:
    """Return the signals of each day without a service: each window is fitted on the data up to its first day, and
    predicts the scores of each of its days from data that end on that day, without a cache.
    """
    start_audit(folder / "audit", setting.prices.close)
    signals, model, task = [], None, None
    with session(folder / "session", setting.prices.folder) as used:
        tasks = task_generator(tasks=setting.template(), generators=setting.generator(trunc))
        windows = {str(TaskView(one).segments["test"][0].date()): one for one in tasks}
        for day in setting.days:
            cache = folder / "cache"
            with using(used.with_(cache=str(cache))), bounded(day):
                if day in windows:
                    task = windows[day]
                    model = build(task["model"])
                    model.fit(build(task["dataset"]))
                assert task is not None
                assert model is not None
                described = task["dataset"]
                today = {**described, "kwargs": {**described["kwargs"], "segments": {"test": (day, day)}}}
                signals.append(AverageEnsemble()({"model": model.predict(build(today)).to_frame("score")}))
            shutil.rmtree(cache, ignore_errors=True)
    return pd.concat(signals)


# -- the program -------------------------------------------------------------------------------------------------------


def main() -> int:
    """Parse the arguments; see the docstring of the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", choices=["kills", "days"], nargs="+", default=["kills", "days"])
    parser.add_argument("--trainer", choices=TRAINERS, nargs="+", default=list(TRAINERS))
    parser.add_argument("--trunc", choices=TRUNC, nargs="+", default=list(TRUNC), help="trunc_days of the windows")
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--tracker", choices=["folder", "mlflow"], default="folder")
    parser.add_argument("--days", type=int, help="by default 20 with kills, and 250 day by day")
    parser.add_argument("--step", type=int, help="days in a window; by default 5 with kills, and 20 day by day")
    parser.add_argument("--writes", type=int, default=100, help="number of routines killed before a write")
    parser.add_argument("--times", type=int, default=100, help="number of routines killed at random times")
    parser.add_argument("--seconds", type=float, default=1.0, help="processor time within which these are")
    parser.add_argument("--instruments", type=int, help="number of instruments; by default all, or 30 of a demo market")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["ROLLFORGE_CODE_STATE"] = "off"  # the state of the code is not read at each training
    report = Report()
    with tempfile.TemporaryDirectory(prefix="rollforge-storm-") as name:
        folder = Path(name)
        data = prices(folder, options.instruments)
        for case, days, step, run in (("kills", 20, 5, run_kills), ("days", 250, 20, run_days)):
            if case in options.case:
                count = options.days or days
                setting = Setting(data, len(data.days) - count - 20, count, options.step or step)
                report("data", [], case=case, of=data.name, instruments=data.close.shape[1], days=count)
                run(options, setting, folder / case, report)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
