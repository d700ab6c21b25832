"""Alpha158 for many synthetic stocks: the time per value compared with a small case, and the memory, which is limited.

python -m benchmarks.scale
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import setting

MODULE = "benchmarks.scale"
MEMORY = 2**30


def make_market(folder: Path, stocks: int, days: int) -> Path:
    """Write a data folder of random walks, one stock at a time."""
    from rollforge.market.folder_writer import write_folder

    random = np.random.default_rng(1)
    calendar = np.arange(np.datetime64("2000-01-03"), np.datetime64("2000-01-03") + np.timedelta64(2 * days, "D"))
    calendar = calendar[np.is_busday(calendar)][:days]
    codes = [f"S{i:05d}" for i in range(stocks)]
    write_folder(folder, calendar, {}, {"all": {code: [(calendar[0], calendar[-1])] for code in codes}})
    for code in codes:
        close = 50 * np.exp(np.cumsum(random.standard_normal(days) * 0.02))
        open_ = close * (1 + random.standard_normal(days) * 0.01)
        fields = {
            "close": close, "open": open_, "high": np.maximum(close, open_) * 1.005,
            "low": np.minimum(close, open_) * 0.995, "vwap": (close + open_) / 2,
            "volume": random.lognormal(12, 1, days),
        }  # fmt: skip
        write_folder(folder, calendar, {code: (0, fields)}, {})
    return folder


def child(task: dict[str, Any]) -> None:
    """Build Alpha158 several times in a separate process."""
    from rollforge.features.alpha import Alpha158
    from rollforge.session import Session, using

    cache = Path(task["cache"])
    values = 0
    with using(Session(provider_uri=task["provider"], cache=str(cache), memory=MEMORY)):

        def build() -> None:
            nonlocal values
            values = sum(group.values.size for group in Alpha158("all").panel("raw").groups.values())

        took = setting.timed(build, task["repeats"], lambda: shutil.rmtree(cache / "panels", ignore_errors=True))
    shutil.rmtree(cache / "panels", ignore_errors=True)
    print(json.dumps({**took, "values": values, "peak_mb": setting.peak_memory()}))


def main() -> None:
    """Time both sizes and print one line."""
    options = setting.arguments(__doc__ or "")
    if setting.ran_part(options, child=child):
        return
    sizes = (
        {"small": (100, 500), "large": (400, 1000)} if options.small else {"small": (505, 1259), "large": (5000, 2500)}
    )
    figures: dict[str, Any] = {"memory_setting_mb": MEMORY / 2**20}
    with setting.workplace() as folder:
        for name, (stocks, days) in sizes.items():
            provider = make_market(folder / name, stocks, days)
            # The first run compiles the kernels and touches memory for the first time, so there are at least three.
            task = {"provider": str(provider), "cache": str(folder / "cache"), "repeats": max(3, options.repeats)}
            found = setting.in_child(MODULE, task)
            figures[f"{name}_stocks_x_days"] = [stocks, days]
            figures[f"{name}_ns_a_value"] = found["seconds"] / found["values"] * 1e9
            figures |= {f"{name}_{k}": found[k] for k in ("seconds", "spread", "peak_mb")}
            figures[f"{name}_panel_mb"] = found["values"] * 4 / 2**20
    cost = figures["large_ns_a_value"] / figures["small_ns_a_value"]
    setting.report("scale", {"cost_a_value": 1 / cost}, small=options.small, large_over_small=cost, **figures)


if __name__ == "__main__":
    main()
