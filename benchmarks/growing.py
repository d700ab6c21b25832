"""One more day of Alpha158 with its processors in a new process: growing the panels, compared with rebuilding them.

python -m benchmarks.growing
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

from benchmarks import setting

MODULE = "benchmarks.growing"


def child(task: dict[str, str]) -> None:
    """Read the features of a day, for inference, from data that end on this day; include the imports in the time."""
    began = time.perf_counter()
    from rollforge.features.alpha import Alpha158
    from rollforge.session import Session, bounded, using

    kwargs = setting.job()["dataset"]["kwargs"]["handler"]["kwargs"]
    kwargs = {name: value for name, value in kwargs.items() if name not in ("end_time", "learn_processors")}
    window = {name: kwargs[name] for name in ("fit_start_time", "fit_end_time")}
    kwargs["infer_processors"] = [
        {"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature", **window}},
        {"class": "Fillna", "kwargs": {"fields_group": "feature"}},
    ]
    with using(Session(provider_uri=task["provider"], cache=task["cache"])), bounded(task["day"]):
        Alpha158(**kwargs).fetch(slice(task["day"], task["day"]), data_key="infer", col_set="feature")
    took = time.perf_counter() - began
    print(json.dumps({"seconds": took, "cpu_seconds": time.process_time(), "peak_mb": setting.peak_memory()}))


def used(cache: Path) -> int:
    """Return the bytes that the panels take on disk."""
    return sum(os.stat(file).st_blocks * 512 for file in (cache / "panels").rglob("*") if file.is_file())


def main() -> None:
    """Time both and print one line."""
    from rollforge.market.provider import open_provider

    options = setting.arguments(__doc__ or "")
    if setting.ran_part(options, child=child):
        return
    with setting.workplace() as folder:
        provider, cache = setting.market(options, folder), folder / "cache"
        days = open_provider(provider).calendar()[-1 - options.repeats :].astype(str)
        where = {"provider": str(provider), "cache": str(cache)}
        setting.in_child(MODULE, {**where, "day": str(days[0])})  # compiles the kernels, too
        before = used(cache)
        grown = [setting.in_child(MODULE, {**where, "day": str(day)}) for day in days[1:]]
        more = (used(cache) - before) / len(grown)
        anew = []
        for day in days[1:]:
            shutil.rmtree(cache / "panels")
            anew.append(setting.in_child(MODULE, {**where, "day": str(day)}))
        took = [one["seconds"] for one in grown]
        figures = {
            "seconds": setting.median(took),
            "spread": max(took) / min(took),
            "cpu_seconds": setting.median([one["cpu_seconds"] for one in grown]),
            "peak_mb": max(one["peak_mb"] for one in grown),
            "more_mb_a_day": more / 1e6,
            "anew_seconds": setting.median([one["seconds"] for one in anew]),
            "anew_mb": used(cache) / 1e6,
        }
        ratios = {
            "faster": figures["anew_seconds"] / figures["seconds"],
            "cpu": setting.median([one["cpu_seconds"] for one in anew]) / figures["cpu_seconds"],
            "disk": figures["anew_mb"] / figures["more_mb_a_day"],
        }
        setting.report("growing", ratios, small=options.small, **figures)


if __name__ == "__main__":
    main()
