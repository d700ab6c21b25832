"""Make the reference values of this folder with pyqlib 0.9.7: python make.py (from here, pyqlib installed).

For each of the two files: the joined prediction and label of ``qlib.contrib.rolling.base.Rolling``, its metrics, and the
segments of its tasks. The data folder is that of ../backtest_distinct/make.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CASES: dict[str, dict[str, Any]] = {
    "linear": {"horizon": 5, "step": 120},
    "lightgbm": {
        "horizon": 2,
        "step": 150,
        "train_start": "2013-06-03",
        "test_end": "2016-09-30",
        "task_ext_conf": {"model": {"kwargs": {"num_leaves": 64, "subsample": "__DROP__"}}},
    },
}


def main() -> None:
    """Run both files."""
    import qlib
    from qlib.contrib.rolling.base import Rolling
    from qlib.workflow import R

    found = importlib.util.spec_from_file_location("market", HERE.parent / "backtest_distinct" / "make.py")
    assert found is not None
    assert found.loader is not None
    market = importlib.util.module_from_spec(found)
    found.loader.exec_module(market)
    work = Path(tempfile.mkdtemp())
    market.write(work / "market")
    os.chdir(work)  # pyqlib writes next to its database
    manager = {
        "class": "MLflowExpManager",
        "module_path": "qlib.workflow.expm",
        "kwargs": {"uri": f"sqlite:///{work}/runs.db", "default_exp_name": "Experiment"},
    }
    qlib.init(provider_uri=str(work / "market"), region="us", kernels=1, exp_manager=manager)
    made = {}
    for name, arguments in CASES.items():
        conf = Path(shutil.copy(HERE / f"{name}.yaml", work))
        rolling = Rolling(conf, exp_name=name, rolling_exp=f"{name}_windows", **arguments)
        windows = [task["dataset"]["kwargs"]["segments"] for task in rolling.get_task_list()]
        rolling.run()
        recorder = R.get_recorder(experiment_name=name, recorder_id=rolling._rid)
        recorder.load_object("pred.pkl").join(recorder.load_object("label.pkl")).to_parquet(HERE / f"{name}.parquet")
        spans = [{k: [str(d.date()) for d in span] for k, span in window.items()} for window in windows]
        made[name] = {"arguments": arguments, "windows": spans, "metrics": recorder.list_metrics()}
    (HERE / "rolling.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
