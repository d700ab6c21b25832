"""Building Alpha158, from the data folder to the float32 panel on disk, with compiled kernels, compared with pyqlib.

python -m benchmarks.alpha158
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks import setting

MODULE = "benchmarks.alpha158"


def build(provider: Path, cache: Path) -> int:
    """Build the raw panel of the job's handler, and return the size of its values in bytes."""
    from rollforge.features.alpha import Alpha158
    from rollforge.session import Session, using

    kwargs = setting.job()["dataset"]["kwargs"]["handler"]["kwargs"]
    with using(Session(provider_uri=str(provider), cache=str(cache))):
        return sum(group.values.nbytes for group in Alpha158(**kwargs).panel("raw").groups.values())


def empty(cache: Path) -> None:
    """Delete the panels, but not the compiled code."""
    shutil.rmtree(cache / "panels", ignore_errors=True)


def child(task: dict[str, str]) -> None:
    """Build in a new process; if the cache is empty, the kernels are compiled first."""
    took = setting.seconds(lambda: build(Path(task["provider"]), Path(task["cache"])))
    print(json.dumps({"seconds": took, "peak_mb": setting.peak_memory()}))


def pyqlib(task: dict[str, str]) -> None:
    """Load the same features and days with pyqlib."""
    with setting.quiet_pyqlib(task["provider"]):
        from qlib.contrib.data.handler import Alpha158
        from qlib.data.dataset.handler import DataHandlerLP

        kwargs = setting.job()["dataset"]["kwargs"]["handler"]["kwargs"]

        def load() -> None:
            Alpha158(**kwargs, infer_processors=[], learn_processors=[], process_type=DataHandlerLP.PTYPE_I)

        took = setting.seconds(load)
    print(json.dumps({"seconds": took}))


def main() -> None:
    """Time both sides and print one line."""
    options = setting.arguments(__doc__ or "")
    if setting.ran_part(options, pyqlib=pyqlib, child=child):
        return
    with setting.workplace() as folder:
        provider = setting.market(options, folder)
        cache = folder / "cache"
        where = {"provider": str(provider), "cache": str(cache)}
        first_ever = setting.in_child(MODULE, where)
        first = first_ever["seconds"]
        empty(cache)
        fresh = setting.in_child(MODULE, where)
        panel = build(provider, cache)  # loads the compiled code into this process
        warm = setting.timed(lambda: build(provider, cache), options.repeats, lambda: empty(cache))
        figures: dict[str, Any] = {"first_ever_seconds": first, "first_in_a_process_seconds": fresh["seconds"], **warm}
        figures |= {
            "panel_mb": panel / 2**20,
            "peak_mb": fresh["peak_mb"],
            "peak_over_panel": fresh["peak_mb"] * 2**20 / panel,
            "first_ever_peak_over_panel": first_ever["peak_mb"] * 2**20 / panel,
        }
        ratios = {}
        if setting.has_pyqlib(options):
            theirs = [
                setting.in_pyqlib(MODULE, {"provider": str(provider)})["seconds"]
                for _ in range(min(3, options.repeats))
            ]
            figures |= {"pyqlib_seconds": setting.median(theirs), "pyqlib_spread": max(theirs) / min(theirs)}
            ratios = {"warm": setting.median(theirs) / warm["seconds"], "first_ever": setting.median(theirs) / first}
        setting.report("alpha158", ratios, small=options.small, **figures)


if __name__ == "__main__":
    main()
