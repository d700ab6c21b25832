"""Two small experiments, trained on a market of four instruments."""

from __future__ import annotations

from pathlib import Path

from ..documents.command_line import run
from ..documents.definitions import ANALYSIS, SIGNAL, lightgbm, write_workflow
from ..documents.growing import DAYS, Market, prices, template


def trained(folder: Path) -> tuple[str, str]:
    """Train the experiments ``ridge`` and ``trees`` of four windows each; return the store and the tracking store."""
    market = Market(folder / "data", prices())
    market.show(DAYS[-1])
    store, tracking = f"sqlite:///{folder}/tasks.db", f"folder:{folder}/runs"
    models = {"ridge": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear"},
              "trees": lightgbm(num_boost_round=5, min_data_in_leaf=5, early_stopping_rounds=None)}  # fmt: skip
    for name, model in models.items():
        task = {**template(), "model": model, "record": [SIGNAL, ANALYSIS]}
        about = {"data": str(market.folder), "store": store, "tracking": tracking, "experiment": name}
        rolling = {"step": 20, "rtype": "sliding", "trunc_days": "auto"}
        file = write_workflow(folder / f"{name}.yaml", {"rollforge": about, "task": task, "rolling": rolling})
        done = run("run", file, "--jobs", "0", "--output", folder / name, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return store, tracking
