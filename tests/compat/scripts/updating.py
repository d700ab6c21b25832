"""Updating online models as Qlib's earlier documentation described it: predictions every day, and models every few days."""

import sys

import qlib
from qlib.config import REG_CN
from qlib.model.trainer import task_train
from qlib.workflow import R
from qlib.workflow.task.collect import TaskCollector
from qlib.workflow.task.gen import RollingGen, task_generator
from qlib.workflow.task.manage import TaskManager, run_task
from qlib.workflow.task.update import ModelUpdater
from qlib.workflow.task.utils import TimeAdjuster

EXPERIMENT, POOL, STEP = "updated", "updating", 4
FEATURES = ["$close/Ref($close,1)-1", "$close/Mean($close,5)-1"]
LABEL = ["Ref($close, -2)/Ref($close, -1)-1"]


def template(train, test):
    """Return the task of a linear model."""
    loader = {
        "class": "QlibDataLoader",
        "kwargs": {"config": {"feature": (FEATURES, ["R1", "M5"]), "label": (LABEL, ["LABEL0"])}},
    }
    handler = {
        "class": "DataHandlerLP",
        "module_path": "qlib.data.dataset.handler",
        "kwargs": {"instruments": "all", "data_loader": loader, "learn_processors": [{"class": "DropnaLabel"}]},
    }
    return {
        "model": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear"},
        "dataset": {
            "class": "DatasetH",
            "module_path": "qlib.data.dataset",
            "kwargs": {"handler": handler, "segments": {"train": train, "test": test}},
        },
        "record": [{"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}],
    }


def train(tasks):
    """Train the windows of tasks through a pool."""
    windows = task_generator(tasks=tasks, generators=RollingGen(step=STEP, rtype=RollingGen.ROLL_SD))
    TaskManager(task_pool=POOL).create_task(windows)
    run_task(task_train, POOL, experiment_name=EXPERIMENT)


def put_latest_online():
    """Put the models of the last window online."""
    updater = ModelUpdater(experiment_name=EXPERIMENT)
    updater.reset_online_model(updater.collect_latest_records().values())


def first_run(begin, until, test):
    """Delete earlier results, and train the first models."""
    TaskManager(task_pool=POOL).remove()
    experiment = R.get_exp(experiment_name=EXPERIMENT)
    for rid in TaskCollector(EXPERIMENT).list_recorders():
        experiment.delete_recorder(rid)
    train([template((begin, until), (test, TimeAdjuster().max()))])
    put_latest_online()


def update_predictions():
    """Let the online models predict up to the last day of the calendar."""
    ModelUpdater(experiment_name=EXPERIMENT).update_online_pred()


def update_model():
    """Train again from the last window on if it is out of date."""
    days = TimeAdjuster()
    for recorder in ModelUpdater(experiment_name=EXPERIMENT).collect_latest_records().values():
        task = recorder.load_object("task")
        segments = task["dataset"]["kwargs"]["segments"]
        if days.cal_interval(days.max(), segments["test"][0]) >= STEP:
            print("RETRAINED")
            segments["test"] = (segments["test"][0], days.max())
            train([task])
    put_latest_online()


def every_day():
    """Update the predictions, then the models."""
    update_predictions()
    update_model()


def days_of(task):
    """Return the first and the last test day; the last window is open."""
    begin, end = task["dataset"]["kwargs"]["segments"]["test"]
    return f"{begin.date()} {(end or TimeAdjuster().max()).date()}"


def show():
    """Print the online models, and the predictions of all windows."""
    for recorder in ModelUpdater(experiment_name=EXPERIMENT).list_online_model().values():
        days = recorder.load_object("pred.pkl").index.get_level_values("datetime")
        print("ONLINE", days_of(recorder.load_object("task")), "predicts", days.min().date(), days.max().date())
    for window, prediction in sorted(TaskCollector(EXPERIMENT).collect_predictions(days_of).items()):
        print("WINDOW", window, len(prediction))


if __name__ == "__main__":
    qlib.init(provider_uri=sys.argv[1], region=REG_CN)
    globals()[sys.argv[2]](*sys.argv[3:])
    show()
