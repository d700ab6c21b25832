"""A market whose bars of hours are in a data folder of their own, and tasks that compute features of days from them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from growing import DAYS, Market, template
from rollforge.market.folder_writer import write_folder

HOURS = ("11:30", "15:30")
AT_HOUR = """
from rollforge.features.inst_processor import InstProcessor


class AtHour(InstProcessor):
    def __init__(self, hour):
        self.hour = hour

    def __call__(self, df, instrument, *args, **kwargs):
        chosen = df[df.index.hour == self.hour]
        return chosen.set_axis(chosen.index.normalize())
"""


@dataclass
class Folders:
    """A market whose bars of hours, and of minutes that nobody reads, are in folders of their own."""

    place: Path
    days: Market
    bars: dict[str, pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        times = pd.DatetimeIndex([f"{day} {hour}" for day in DAYS for hour in HOURS])
        moves = np.random.default_rng(8).normal(0, 0.02, (len(times), 4))
        for freq in ("60min", "30min"):
            self.bars[freq] = pd.DataFrame(20 * np.exp(moves.cumsum(axis=0)), times, self.days.close.columns)

    @property
    def by_frequency(self) -> dict[str, str]:
        return {"day": str(self.days.folder), **{freq: str(self.place / freq) for freq in self.bars}}

    def show(self, until: str, only: str | None = None) -> None:
        """Write the days and bars up to `until`, or only the bars of a frequency."""
        if only is None:
            self.days.show(until)
        for freq, bars in self.bars.items():
            if only not in (None, freq):
                continue
            known = bars[: f"{until} 23:59"]  # type: ignore[misc]
            series = {code: (0, {"close": known[code].to_numpy(np.float32)}) for code in known}
            spans = {code: [(np.datetime64(DAYS[0]), np.datetime64(until))] for code in known}
            shutil.rmtree(self.place / freq, ignore_errors=True)
            write_folder(self.place / freq, known.index.to_numpy(), series, {"all": spans}, freq)

    def correct(self, day: str, until: str, freq: str = "60min") -> None:
        """Change the bars of a day in one of the folders, of which `until` is the last day."""
        self.bars[freq].loc[day, "B"] *= 1.3
        self.show(until, freq)

    def columns(self, features: str = "60min") -> dict[str, Any]:
        """Return the arguments of a loader: a feature of hours, and a label of days."""
        config = {
            "feature": [["$close/Ref($close, 1)-1"], ["BAR"]],
            "label": [["Ref($close, -2)/Ref($close, -1)-1"], ["L"]],
        }
        at_hour = {"class": "AtHour", "module_path": str(self.place / "at_hour.py"), "kwargs": {"hour": 11}}
        return {
            "config": config,
            "freq": {"feature": features, "label": "day"},
            "inst_processors": {"feature": [at_hour]},
        }

    def task(self) -> dict[str, Any]:
        made = template()
        made["dataset"]["kwargs"]["handler"]["kwargs"]["data_loader"]["kwargs"] = self.columns()
        made["dataset"]["kwargs"]["segments"] = {"train": [DAYS[10], DAYS[49]], "test": [DAYS[52], None]}
        return made
