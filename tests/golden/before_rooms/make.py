"""Files that version 0.1.0 stores, when market, expressions and features were one package: python make.py FOLDER.

A pool with a task that waits and one that is done, its run as plain files, a handler, a dataset and a model in files of
their own, and a cached panel. FOLDER is a data folder that ``make_demo(FOLDER, instruments=5, years=1, end="2023-12-29")``
made.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FIELDS = {"feature": [["$close/Ref($close,1)-1", "$high/$low-1"], ["RET", "RANGE"]],
          "label": [["Ref($close,-2)/Ref($close,-1)-1"], ["LABEL"]]}  # fmt: skip


def task(end: str) -> dict[str, Any]:
    """A workflow whose modules have moved since."""
    loader = {"class": "QlibDataLoader", "module_path": "rollforge.data.loader", "kwargs": {"config": FIELDS}}
    handler = {
        "class": "DataHandlerLP", "module_path": "rollforge.data.handler",
        "kwargs": {"instruments": "all", "start_time": "2023-01-03", "end_time": end, "data_loader": loader,
                   "infer_processors": [{"class": "Fillna", "module_path": "rollforge.data.processor"}],
                   "learn_processors": [{"class": "DropnaLabel", "module_path": "rollforge.data.processor"}]},
    }  # fmt: skip
    segments = {"train": ["2023-01-03", "2023-06-30"], "test": ["2023-07-03", end]}
    return {
        "model": {"class": "LinearModel", "module_path": "rollforge.models.linear"},
        "dataset": {"class": "DatasetH", "module_path": "rollforge.data.dataset",
                    "kwargs": {"handler": handler, "segments": segments}},
        "record": [{"class": "SignalRecord", "module_path": "rollforge.record.signal"}],
    }  # fmt: skip


def main() -> None:
    """Write everything into this folder."""
    import rollforge
    from rollforge import TaskManager
    from rollforge.build import init_instance_by_config
    from rollforge.run.execute import task_train
    from rollforge.run.worker import run_task

    os.chdir(HERE)
    rollforge.init(
        sys.argv[1], store="sqlite:///tasks.db", tracking="folder:runs", cache=str(HERE / "cache"), threads=1
    )
    manager = TaskManager("earlier")
    done, _ = manager.create_task([task("2023-12-28")]), manager.create_task([task("2023-12-29")])
    run_task(task_train, "earlier", query={"_id": done[0]}, experiment_name="earlier")
    dataset = init_instance_by_config(task("2023-12-28")["dataset"])
    model = init_instance_by_config(task("2023-12-28")["model"])
    model.fit(dataset)
    for name, kept in {"handler": dataset.handler, "dataset": dataset, "model": model}.items():
        kept.to_pickle(HERE / f"{name}.pkl", dump_all=True)
    model.predict(dataset).to_frame("score").to_parquet("prediction.parquet")


if __name__ == "__main__":
    main()
