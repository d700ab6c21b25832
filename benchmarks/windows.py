"""Generating many windows from a template, opening one in a worker, and starting the command.

python -m benchmarks.windows
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import setting

MODULE = "benchmarks.windows"


def generate(task: dict[str, Any]) -> None:
    """Generate windows in a separate process, and measure its memory."""
    from rollforge.generate import RollingGen
    from rollforge.session import Session, using

    template = setting.job()
    template["dataset"]["kwargs"]["segments"] = {
        k: (np.datetime64(a), np.datetime64(b)) for k, (a, b) in task["segments"].items()
    }
    with using(Session(provider_uri=task["provider"])):
        template["dataset"]["kwargs"]["segments"] = {k: tuple(v) for k, v in task["segments"].items()}
        RollingGen(step=1000, rtype=RollingGen.ROLL_SD).generate(template)
        tasks: list[Any] = []
        took = setting.seconds(lambda: tasks.extend(RollingGen(step=1, rtype=RollingGen.ROLL_SD).generate(template)))
    print(json.dumps({"seconds": took, "windows": len(tasks), "peak_mb": setting.peak_memory()}))


def long_calendar(folder: Path, days: int) -> dict[str, Any]:
    """Write a data folder of one stock and many days, and return it with the segments of a template."""
    from rollforge.market.folder_writer import write_folder

    calendar = np.arange(np.datetime64("1960-01-04"), np.datetime64("1960-01-04") + np.timedelta64(2 * days, "D"))
    calendar = calendar[np.is_busday(calendar)][:days]
    write_folder(folder, calendar, {"A": (0, {"close": np.ones(days)})}, {"all": {"A": [(calendar[0], calendar[-1])]}})
    edges = {"train": (0, 499), "valid": (500, 599), "test": (600, days - 1)}
    return {
        "provider": str(folder),
        "segments": {name: (str(calendar[a]), str(calendar[b])) for name, (a, b) in edges.items()},
    }


def opening(provider: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """Open a window of Alpha158's panel as a worker does, each time with a new handler."""
    from rollforge.build import build
    from rollforge.session import Session, using

    config = setting.job()["dataset"]
    with using(Session(provider_uri=str(provider), cache=str(folder / "cache"))):
        build(config).prepare("train", col_set="feature", data_key="infer")
        frames: list[Any] = []
        datasets = [build(config) for _ in range(repeats)]

        def open_one() -> None:
            frames.append(datasets[len(frames)].prepare("train", col_set="feature", data_key="infer"))

        found = setting.timed(open_one, repeats)
        panel = datasets[0].handler.panel("infer")
        shares = np.shares_memory(frames[0].to_numpy(), panel.groups["feature"].values)
    return {
        "open_ms": found["seconds"] * 1000,
        "open_spread": found["spread"],
        "open_copies": not shares,
        "panel_rows": len(panel),
        "window_rows": len(frames[0]),
    }


def main() -> None:
    """Time all operations and print one line."""
    options = setting.arguments(__doc__ or "")
    if setting.ran_part(options, child=generate):
        return
    with setting.workplace() as folder:
        made = setting.in_child(MODULE, long_calendar(folder / "long", 1_600 if options.small else 10_600))
        figures: dict[str, Any] = {f"generate_{k}": v for k, v in made.items()}
        figures |= opening(setting.market(options, folder), folder, max(9, options.repeats))
        command = [sys.executable, "-m", "rollforge", "--help"]
        helping = setting.timed(
            lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), max(5, options.repeats)
        )
        figures |= {"help_seconds": helping["seconds"], "help_spread": helping["spread"]}
        setting.report("windows", small=options.small, **figures)


if __name__ == "__main__":
    main()
