"""Models kept online, following Qlib's documentation."""

import os
import sys

import fire_free as options  # modules next to the script can be imported, as with python itself
import qlib
from qlib.model.trainer import DelayTrainerR, DelayTrainerRM, TrainerR, TrainerRM
from qlib.tests.config import CSI100_RECORD_LGB_TASK_CONFIG_ROLLING
from qlib.workflow import R
from qlib.workflow.online.manager import OnlineManager
from qlib.workflow.online.strategy import RollingStrategy
from qlib.workflow.task.gen import RollingGen
from qlib.workflow.task.manage import TaskManager


class RollingOnlineExample:
    """A class with the method names of Qlib's example."""

    def __init__(self, provider_uri, trainer, rolling_step=60):
        qlib.init(provider_uri=provider_uri, region="cn")
        template = options.fit_dates(CSI100_RECORD_LGB_TASK_CONFIG_ROLLING)
        self.tasks = [template]
        strategies = []
        for task in self.tasks:
            name_id = task["model"]["class"]
            strategies.append(RollingStrategy(name_id, task, RollingGen(step=rolling_step, rtype=RollingGen.ROLL_SD)))
        self.trainer = trainer
        self.rolling_online_manager = OnlineManager(strategies, trainer=self.trainer, begin_time=options.SERVED)

    _ROLLING_MANAGER_PATH = ".RollingOnlineExample"

    def reset(self):
        """Delete earlier results."""
        for task in self.tasks:
            name_id = task["model"]["class"]
            TaskManager(task_pool=name_id).remove()
            exp = R.get_exp(experiment_name=name_id)
            for rid in exp.list_recorders():
                exp.delete_recorder(rid)
        if os.path.exists(self._ROLLING_MANAGER_PATH):
            os.remove(self._ROLLING_MANAGER_PATH)

    def first_run(self):
        """Train the first models."""
        print("========== reset ==========")
        self.reset()
        print("========== first_run ==========")
        self.rolling_online_manager.first_train()
        print("========== collect results ==========")
        for key, frame in self.rolling_online_manager.get_collector()().items():
            print("COLLECTED", key[:2], len(frame))
        self.rolling_online_manager.to_pickle(self._ROLLING_MANAGER_PATH)

    def routine(self):
        """Do the routine of a later day."""
        self.rolling_online_manager = OnlineManager.load(self._ROLLING_MANAGER_PATH)
        before = len(R.get_exp(experiment_name="LGBModel").list_recorders())
        self.rolling_online_manager.routine()
        after = R.get_exp(experiment_name="LGBModel").list_recorders()
        signals = self.rolling_online_manager.get_signals()
        days = signals.index.get_level_values("datetime")
        online = self.rolling_online_manager.strategies[0].tool.online_models()
        print("ROUTINE", len(after) - before, "new", len(online), "online", days.max().date(), signals.index.is_unique)
        self.rolling_online_manager.to_pickle(self._ROLLING_MANAGER_PATH)


if __name__ == "__main__":
    trainers = {
        "TrainerR": TrainerR,
        "TrainerRM": TrainerRM,
        "DelayTrainerR": DelayTrainerR,
        "DelayTrainerRM": DelayTrainerRM,
    }
    example = RollingOnlineExample(sys.argv[1], trainers[sys.argv[2]]())
    example.first_run()
    example.routine()
