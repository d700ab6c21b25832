"""Building Alpha158, from the data folder to the float32 panel on disk, compiled code warm, against pyqlib.

python -m benchmarks.alpha158
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks import setting

MODULE = "benchmarks.alpha158"


def build(provider: Path, cache: Path) -> None:
    """Build the raw panel of the job's handler in an empty cache."""
    from rollforge.data.alpha import Alpha158
    from rollforge.session import Session, using

    shutil.rmtree(cache / "panels", ignore_errors=True)
    kwargs = setting.job()["dataset"]["kwargs"]["handler"]["kwargs"]
    with using(Session(provider_uri=str(provider), cache=str(cache))):
        Alpha158(**kwargs).panel("raw")


def pyqlib(task: dict[str, str]) -> None:
    """pyqlib's loader for the same features and days."""
    with setting.quiet_pyqlib(task["provider"]):
        from qlib.contrib.data.handler import Alpha158
        from qlib.data.dataset.handler import DataHandlerLP

        kwargs = setting.job()["dataset"]["kwargs"]["handler"]["kwargs"]

        def load() -> None:
            Alpha158(**kwargs, infer_processors=[], learn_processors=[], process_type=DataHandlerLP.PTYPE_I)

        took = setting.seconds(load)
    print(json.dumps({"seconds": took}))


def main() -> None:
    """Time both and print one line."""
    options = setting.arguments(__doc__ or "")
    if options.as_pyqlib:
        pyqlib(json.loads(options.as_pyqlib))
        return
    with setting.workplace() as folder:
        provider = setting.market(options, folder)
        cache = folder / "cache"
        first = setting.seconds(lambda: build(provider, cache))
        warm = [setting.seconds(lambda: build(provider, cache)) for _ in range(options.repeats)]
        figures = {"first_seconds": first, "seconds": setting.median(warm), "spread": max(warm) / min(warm)}
        if setting.has_pyqlib(options):
            theirs = setting.in_pyqlib(MODULE, {"provider": str(provider)})["seconds"]
            figures |= {"pyqlib_seconds": theirs, "times_faster": theirs / setting.median(warm)}
        setting.report("alpha158", small=options.small, **figures)


if __name__ == "__main__":
    main()
