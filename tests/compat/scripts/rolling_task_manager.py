"""Rolling training following Qlib's documentation: generate, store, train, collect."""

import sys
from pprint import pprint

import qlib
from qlib.config import REG_CN
from qlib.model.ens.ensemble import RollingEnsemble
from qlib.model.ens.group import RollingGroup
from qlib.model.trainer import TrainerR, TrainerRM, task_train
from qlib.workflow import R
from qlib.workflow.recorder import Recorder
from qlib.workflow.task.collect import RecorderCollector
from qlib.workflow.task.gen import RollingGen, task_generator
from qlib.workflow.task.manage import TaskManager, run_task

HANDLER = {
    "start_time": "2022-01-03",
    "end_time": "2023-12-29",
    "fit_start_time": "<dataset.kwargs.segments.train.0>",
    "fit_end_time": "<dataset.kwargs.segments.train.1>",
    "instruments": "csi100",
}


def config(model):
    """Return one model's task."""
    return {
        "model": model,
        "dataset": {
            "class": "DatasetH",
            "module_path": "qlib.data.dataset",
            "kwargs": {
                "handler": {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": HANDLER},
                "segments": {
                    "train": ("2022-01-03", "2022-10-31"),
                    "valid": ("2022-11-01", "2022-12-30"),
                    "test": ("2023-01-02", "2023-12-29"),
                },
            },
        },
        "record": [
            {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
            {"class": "SigAnaRecord", "module_path": "qlib.workflow.record_temp"},
        ],
    }


LINEAR = {
    "class": "LinearModel",
    "module_path": "qlib.contrib.model.linear",
    "kwargs": {"estimator": "ridge", "alpha": 0.05},
}
GBDT = {
    "class": "LGBModel",
    "module_path": "qlib.contrib.model.gbdt",
    "kwargs": {"num_boost_round": 5, "num_threads": 20},
}


class RollingTaskExample:
    """A class with the method names of Qlib's example."""

    def __init__(self, provider_uri, experiment_name="rolling_exp", task_pool="rolling_task", rolling_step=120):
        mongo = {"task_url": sys.argv[3], "task_db_name": "rolling_db"} if len(sys.argv) > 3 else None
        qlib.init(provider_uri=provider_uri, region=REG_CN, **({"mongo": mongo} if mongo else {}))
        self.experiment_name = experiment_name
        self.trainer = TrainerR() if sys.argv[2] == "TrainerR" else TrainerRM(self.experiment_name, task_pool)
        self.task_pool = task_pool
        self.rolling_gen = RollingGen(step=rolling_step, rtype=RollingGen.ROLL_SD)

    def reset(self):
        """Delete earlier results."""
        print("========== reset ==========")
        if isinstance(self.trainer, TrainerRM):
            TaskManager(task_pool=self.task_pool).remove()
        exp = R.get_exp(experiment_name=self.experiment_name)
        for rid in exp.list_recorders():
            exp.delete_recorder(rid)

    def task_generating(self):
        """Combine templates and windows."""
        print("========== task_generating ==========")
        tasks = task_generator(tasks=[config(LINEAR), config(GBDT)], generators=self.rolling_gen)
        pprint(tasks[0])
        return tasks

    def task_training(self, tasks):
        """Train the tasks."""
        print("========== task_training ==========")
        self.trainer.train(tasks, experiment_name=self.experiment_name)

    def task_collecting(self):
        """Collect one result per model, and a filtered one."""
        print("========== task_collecting ==========")

        def rec_key(recorder):
            task_config = recorder.load_object("task")
            return task_config["model"]["class"], task_config["dataset"]["kwargs"]["segments"]["test"]

        def my_filter(recorder):
            return rec_key(recorder)[0] == "LGBModel"

        collector = RecorderCollector(
            experiment=self.experiment_name,
            process_list=RollingGroup(),
            rec_key_func=rec_key,
            rec_filter_func=my_filter,
        )
        filtered = collector()
        both = RecorderCollector(self.experiment_name, [RollingGroup(RollingEnsemble())], rec_key)()
        print("FILTERED", {k: sorted(v) for k, v in filtered.items()})
        for key, frame in both["pred"].items():
            days = frame.index.get_level_values("datetime")
            print("RESULT", key[0], len(frame), days.min().date(), days.max().date(), frame.index.is_unique)

    def main(self):
        """Run everything."""
        self.reset()
        tasks = self.task_generating()
        self.task_training(tasks)
        self.task_collecting()
        finished = R.get_exp(experiment_name=self.experiment_name).list_recorders(status=Recorder.STATUS_FI)
        print("FINISHED", len(finished), sorted({r.list_tags()["train_status"] for r in finished.values()}))

    def worker(self):
        """Run tasks in another process."""
        qlib.init(provider_uri=sys.argv[1], region=REG_CN)
        print("WORKED", run_task(task_train, self.task_pool, experiment_name=self.experiment_name))


if __name__ == "__main__":
    RollingTaskExample(provider_uri=sys.argv[1]).main()
