"""Features of minute bars: the time per value compared with daily bars, and the memory, which is limited.

python -m benchmarks.minutes
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import setting

MODULE = "benchmarks.minutes"
MEMORY = 2**30
FEATURES = {
    "RETURN": "$close/Ref($close, 1) - 1",
    "RANGE": "($high - $low)/$close",
    "MEAN": "Mean($close, 60)/$close",
    "STD": "Std($close/Ref($close, 1) - 1, 60)",
    "MAX": "Max($high, 240)/$close",
    "RANK": "Rank($close, 30)",
    "CORR": "Corr($close, Log($volume + 1), 30)",
    "VOLUME": "$volume/(Mean($volume, 240) + 1e-12)",
}
LABEL = "Ref($close, -31)/Ref($close, -1) - 1"


def times(days: int, bars: int) -> np.ndarray:
    """Return the calendar: business days, or the minutes of their sessions."""
    dates = np.arange(np.datetime64("2000-01-03"), np.datetime64("2000-01-03") + np.timedelta64(2 * days, "D"))
    dates = dates[np.is_busday(dates)][:days]
    if bars == 1:
        return dates
    opening = np.timedelta64(9 * 60 + 31, "m")
    minutes: np.ndarray = dates.astype("datetime64[m]")[:, None] + opening + np.arange(bars).astype("timedelta64[m]")
    return minutes.ravel().astype("datetime64[s]")


def make_market(folder: Path, stocks: int, days: int, bars: int) -> Path:
    """Write a data folder of random walks, one stock at a time; one bar a day gives daily data."""
    from rollforge.market.folder_writer import write_folder

    random = np.random.default_rng(1)
    calendar, freq = times(days, bars), "day" if bars == 1 else "1min"
    first, last = calendar[0].astype("datetime64[D]"), calendar[-1].astype("datetime64[D]")
    codes = [f"S{i:05d}" for i in range(stocks)]
    everyone = {"all": {code: [(first, last)] for code in codes}}
    series = {}
    for code in codes:
        close = 50 * np.exp(np.cumsum(random.standard_normal(len(calendar)) * 0.02 / np.sqrt(bars)))
        high, low = (close * (1 + sign * np.abs(random.standard_normal(len(calendar))) * 0.001) for sign in (1, -1))
        fields = {"close": close, "high": high, "low": low, "volume": random.lognormal(8, 1, len(calendar))}
        series[code] = (0, {name: values.astype(np.float32) for name, values in fields.items()})
    write_folder(folder, calendar, series, everyone, freq)
    return folder


def child(task: dict[str, Any]) -> None:
    """Build the panel several times in a separate process."""
    from rollforge.features.handler import DataHandlerLP
    from rollforge.features.loader import QlibDataLoader
    from rollforge.session import Session, using

    cache = Path(task["cache"])
    config = {"feature": (list(FEATURES.values()), list(FEATURES)), "label": ([LABEL], ["LABEL0"])}
    sizes = {"values": 0, "rows": 0}
    with using(Session(provider_uri=task["provider"], cache=str(cache), memory=MEMORY)):

        def build() -> None:
            panel = DataHandlerLP("all", data_loader=QlibDataLoader(config, freq=task["freq"])).panel("raw")
            sizes["values"] = sum(group.values.size for group in panel.groups.values())
            sizes["rows"] = len(panel)

        def empty() -> None:
            shutil.rmtree(cache / "panels", ignore_errors=True)

        took, used = [], []
        for _ in range(task["repeats"]):
            empty()
            used.append(setting.cpu_seconds(lambda: took.append(setting.seconds(build))))
    empty()
    print(json.dumps({"seconds": min(took), "cpu_seconds": min(used), **sizes, "peak_mb": setting.peak_memory()}))


def main() -> None:
    """Time both frequencies and print one line."""
    options = setting.arguments(__doc__ or "")
    if setting.ran_part(options, child=child):
        return
    sizes = (
        {"day": (500, 1250, 1), "1min": (50, 20, 240)}
        if options.small
        else {"day": (500, 1250, 1), "1min": (500, 250, 240)}
    )
    figures: dict[str, Any] = {"memory_setting_mb": MEMORY / 2**20}
    with setting.workplace() as folder:
        for freq, size in sizes.items():
            provider = make_market(folder / freq, *size)
            task = {
                "provider": str(provider),
                "cache": str(folder / "cache"),
                "freq": freq,
                "repeats": max(2, options.repeats),
            }
            found = setting.in_child(MODULE, task)
            figures |= {f"{freq}_{name}": found[name] for name in ("rows", "seconds", "cpu_seconds", "peak_mb")}
            figures[f"{freq}_ns_a_value"] = found["seconds"] / found["values"] * 1e9
            figures[f"{freq}_cpu_ns_a_value"] = found["cpu_seconds"] / found["values"] * 1e9
            figures[f"{freq}_panel_mb"] = found["values"] * 4 / 2**20
    cost = figures["1min_cpu_ns_a_value"] / figures["day_cpu_ns_a_value"]
    setting.report("minutes", {"cost_a_value": 1 / cost}, small=options.small, minutes_over_days=cost, **figures)


if __name__ == "__main__":
    main()
