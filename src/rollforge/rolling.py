"""Train one experiment on rolling windows and evaluate the joined prediction: Qlib's ``Rolling``.

    Rolling("workflow.yaml", exp_name="combined", horizon=5, step=20).run()

trains the file's task for every window into a separate experiment, joins the predictions into one recorder of
`exp_name`, and evaluates the joined prediction with the file's records (IC, backtest). ``rollforge run`` does the same
and more for a file with a ``rolling:`` section; this class is for scripts that modify the task in code.
"""

from __future__ import annotations

import copy
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd

from rollforge.arguments import whole_number
from rollforge.build import build, fill_placeholder, locate, update_config
from rollforge.collect.collector import RecorderCollector
from rollforge.collect.ensemble import RollingEnsemble
from rollforge.dates import DayLike, read_timestamp
from rollforge.description import Description
from rollforge.errors import ConfigError, CoverageError, ExperimentNotFound, SegmentError, nearest
from rollforge.generate.label import LABEL_TAG, labels_to_text
from rollforge.generate.label_horizon import task_horizon
from rollforge.generate.rolling import RollingGen
from rollforge.generate.segments import PATH
from rollforge.generate.task_view import TaskView
from rollforge.kinds import RECORD
from rollforge.moved import Alias, Aliased
from rollforge.paths import read_path
from rollforge.plan import check_buildable
from rollforge.record.analysis import recorded_labels
from rollforge.record.signal import SignalRecord
from rollforge.run.trainer import TrainerR
from rollforge.session import Session, current_session, using
from rollforge.task import Definition
from rollforge.track.base import get_experiment, open_tracker
from rollforge.workflow import load_workflow
from rollforge.yaml12 import read_yaml

__all__ = ["DDGDA", "Rolling"]

_SIGNAL = "qlib.workflow.record_temp.SignalRecord"


class Rolling(Aliased):
    """Trains one task for every window, joins the predictions, and evaluates the joined prediction.

    Parameters
    ----------
    conf_path : path
        A workflow file in Qlib's or Rollforge's format.
    exp_name : str, optional
        Experiment for the recorder of the joined prediction; by default the session's.
    horizon : int or None
        Number of days of the label, which becomes ``Ref($close, -(horizon + 1)) / Ref($close, -1) - 1``, and train and
        valid end ``horizon + 1`` trading days before the test. None keeps the file's label and reads the horizon from
        it.
    step : int
        Trading days from one window to the next.
    h_path : path, optional
        A pickled handler that replaces the file's; its label is not changed.
    train_start, test_end : date, optional
        First day of training and last day of testing, instead of the file's. The handler's range is extended to them.
    task_ext_conf : mapping or sequence of mappings, optional
        Changes to the task, merged by :func:`~rollforge.build.update_config` after everything else.
    rolling_exp : str, optional
        Experiment for the windows' recorders; its contents are deleted first. By default one with a new name.
    jobs : int, optional
        Number of worker processes; None trains sequentially in this process.
    session : Session, optional
        By default the current one; if that has no data folder, the file's.

    Raises
    ------
    ConfigError
        For invalid arguments.
    """

    exp_name = Alias("experiment_name")

    def __init__(
        self,
        conf_path: str | os.PathLike[str],
        exp_name: str | None = None,
        horizon: int | None = 20,
        step: int = 20,
        h_path: str | os.PathLike[str] | None = None,
        train_start: DayLike | None = None,
        test_end: DayLike | None = None,
        task_ext_conf: Any = None,
        rolling_exp: str | None = None,
        *,
        jobs: int | None = None,
        session: Session | None = None,
    ) -> None:
        experiment_name = exp_name
        self.horizon = None if horizon is None else whole_number(horizon, "horizon", of="trading days")
        self.step = whole_number(step, "step", of="trading days")
        if rolling_exp is not None and rolling_exp == experiment_name:
            raise ConfigError(
                f"must differ from exp_name, {rolling_exp!r}, because its recorders are deleted before training.",
                path="rolling_exp",
            )
        self.logger = logging.getLogger(__name__)
        self.conf_path = read_path(conf_path, "conf_path")
        self.experiment_name = experiment_name
        self.h_path = None if h_path is None else read_path(h_path, "h_path")
        if self.h_path is not None and not os.path.isfile(self.h_path):
            raise ConfigError(f"the file {str(self.h_path)!r} does not exist.", path="h_path")
        self.train_start = None if train_start is None else read_timestamp(train_start, "train_start")
        self.test_end = None if test_end is None else read_timestamp(test_end, "test_end")
        self.task_ext_conf = task_ext_conf
        # Two runs that start in the same second must not share an experiment.
        named = f"rolling_models_{pd.Timestamp.now():%Y%m%d%H%M%S}_{uuid.uuid4().hex[:4]}"
        self.rolling_exp = rolling_exp or named
        self.jobs = jobs
        self.session = session
        self._rid: str | None = None
        """Id of the recorder with the joined prediction, once it exists."""
        self._trained: set[str] | None = None
        """Ids of the recorders of the windows, once they are trained."""

    # -- the tasks -----------------------------------------------------------------------------------------------------

    def basic_task(self, enable_handler_cache: bool | None = True) -> Definition:
        """Return the file's task with the changes requested by the arguments, before windows are generated.

        Parameters
        ----------
        enable_handler_cache : bool
            Whether a given `h_path` also determines the label. Features are cached on disk in any case.
        """
        task: Definition = copy.deepcopy(self._raw_conf()["task"])
        _ = TaskView(task).segments  # the segments changed below must exist
        if self.horizon is not None:
            if enable_handler_cache and self.h_path is not None:
                self.logger.info(
                    "the label of the handler in %s is used, not one of %d days", self.h_path, self.horizon
                )
            else:
                self._set_horizon(task, self.horizon)
        if self.h_path is not None or enable_handler_cache:
            task = self._replace_handler_with_cache(task)
        task = self._update_start_end_time(task)
        if self.task_ext_conf is not None:
            task = update_config(task, self.task_ext_conf)
        self.logger.info("the task: %s", task)
        return task

    def get_task_list(self) -> list[Definition]:
        """Return the task of each window; each records only its prediction."""
        task = self.basic_task()
        # All windows read the data of one handler, so the last test segment can be cut short by the handler's end.
        with self._using():  # the calendar
            tasks = RollingGen(step=self.step, trunc_days=self._trunc_days(task), ds_extra_mod_func=None)(task)
        return [{**one, "record": [_SIGNAL]} for one in tasks]

    def _raw_conf(self) -> Definition:
        """The file's content."""
        return read_yaml(load_workflow(self.conf_path).text, str(self.conf_path))[0]

    def _set_horizon(self, task: Definition, horizon: int) -> None:
        """Set the label of the task's handler to the return over `horizon` days."""
        label = f"Ref($close, -{horizon + 1}) / Ref($close, -1) - 1"
        kwargs = _handler_kwargs(task)
        if kwargs is None:
            self.logger.warning("the file does not describe the handler, so its label is kept whatever its horizon")
            return
        groups = Description(kwargs.get("data_loader")).kwargs.get("config")
        if isinstance(groups, dict) and "label" in groups:
            names = groups["label"][1] if _names_given(groups["label"]) else None
            groups["label"] = [[label], list(names)[:1]] if names is not None else [label]
        else:
            kwargs["label"] = [label]
        self.logger.info("the label is %s", label)

    def _replace_handler_with_cache(self, task: Definition) -> Definition:
        """Return the task with the handler of `h_path`; unchanged without one, because the panel cache stores its features."""
        if self.h_path is None:
            return task
        return TaskView(task).with_dataset_kwargs(handler=self.h_path.absolute().as_uri())

    def _update_start_end_time(self, task: Definition) -> Definition:
        """Return the task with the requested first day of training and last day of testing."""
        segments = dict(TaskView(task).segments)
        asked = [name for name, day in (("train", self.train_start), ("test", self.test_end)) if day is not None]
        for name in asked:
            if name not in segments:
                raise SegmentError(f"there is no segment {name!r}.{nearest(name, segments)}", path=PATH)
        handler = _handler_kwargs(task)
        if self.train_start is not None:
            segments["train"] = (self.train_start, segments["train"][1])
            _extend(handler, "start_time", self.train_start, earlier=True)
        if self.test_end is not None:
            segments["test"] = (segments["test"][0], self.test_end)
            _extend(handler, "end_time", self.test_end, earlier=False)
        return TaskView(task).with_segments(segments)

    def _trunc_days(self, task: Definition) -> int:
        if self.horizon is not None:
            return self.horizon + 1
        found = task_horizon(task)
        if found.days is None:
            raise ConfigError(
                "how many days the label of the file looks ahead is unknown: "
                f"{found.reason} Set the number of days that it spans.",
                path="horizon",
            )
        return found.days

    # -- the work ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train every window, join the predictions, and evaluate the joined prediction.

        Raises
        ------
        ConfigError
            If the task or a record cannot be built. Nothing is trained then.
        TrainingFailed
            If a window fails.
        """
        with self._using():
            self._records(None)
            self._train_rolling_tasks()
            self._ens_rolling()
            self._update_rolling_rec()

    def run_basic_task(self) -> None:
        """Train the task once, on the whole test segment, as a quick check before all windows are trained."""
        with self._using():
            TrainerR(self.experiment_name)([self.basic_task()])

    def _train_rolling_tasks(self) -> None:
        tasks = self.get_task_list()
        check_buildable(tasks[0])
        tracker = open_tracker(current_session().tracking_uri)
        try:
            earlier = get_experiment(tracker, experiment_name=self.rolling_exp, create=False)
        except ExperimentNotFound:
            pass
        else:
            self.logger.info("the earlier recorders of experiment %r are deleted", self.rolling_exp)
            tracker.delete_experiment(earlier.id)
        self._trained = {recorder.id for recorder in TrainerR(self.rolling_exp, jobs=self.jobs)(tasks)}

    def _ens_rolling(self) -> None:
        """Join the windows' predictions and labels into one recorder.

        Raises
        ------
        CoverageError
            If recorders of windows are missing.
        """
        ids = self._trained
        collector = RecorderCollector(
            self.rolling_exp,
            rec_filter_func=None if ids is None else lambda recorder: recorder.id in ids,
            artifacts_path={"pred": "pred.pkl", "label": "label.pkl"},
            artifacts_key=["pred", "label"],
        )
        parts = collector.collect()
        if ids is not None and len(collector.recorders) < len(ids):
            raise CoverageError(
                f"{len(ids) - len(collector.recorders)} of {len(ids)} windows are no longer in experiment "
                f"{self.rolling_exp!r}. Was it deleted by another run of the same rolling_exp?"
            )
        joined: dict[str, Any] = {name: RollingEnsemble()(frames) for name, frames in parts.items()}
        tracker = open_tracker(current_session().tracking_uri)
        experiment_name = self.experiment_name or current_session().experiment_name
        with get_experiment(tracker, experiment_name=experiment_name).create_recorder() as recorder:
            recorder.log_params(exp_name=self.rolling_exp)
            recorder.save_objects(**{"pred.pkl": joined["pred"], "label.pkl": joined["label"]})
            labels = recorded_labels(next(iter(collector.recorders.values())))
            if labels:
                recorder.set_tags(**{LABEL_TAG: labels_to_text(labels)})
        self._rid = recorder.id

    def _update_rolling_rec(self) -> None:
        """Evaluate the joined prediction with the file's records, except the one for the prediction itself."""
        tracker = open_tracker(current_session().tracking_uri)
        experiment_name = self.experiment_name or current_session().experiment_name
        recorder = get_experiment(tracker, experiment_name=experiment_name).get_recorder(self._rid, create=False)
        for record in self._records(recorder):
            record.generate()
        self.logger.info("the results are in recorder %s of experiment %r", self._rid, experiment_name)

    def _records(self, recorder: object) -> list[Any]:
        """Build the file's records that evaluate a prediction, for a recorder."""
        named = self._raw_conf()["task"].get("record") or []
        made = []
        for i, config in enumerate(named if isinstance(named, list) else [named]):
            where = f"task.record.{i}" if isinstance(named, list) else "task.record"
            target = _record_class(config, where)
            if isinstance(target, type) and issubclass(target, SignalRecord):
                continue
            if config != fill_placeholder(config, {"<MODEL>": None, "<DATASET>": None}):
                raise ConfigError(
                    "needs <MODEL> or <DATASET>, but a joined prediction has no single one. Use <PRED>.", path=where
                )
            made.append(build(config, kind=RECORD, default_module="rollforge.record", where=where, recorder=recorder))
        return made

    @contextmanager
    def _using(self) -> Iterator[None]:
        session = self.session or current_session()
        if session.provider_uri is None and self.conf_path.is_file():
            session = load_workflow(self.conf_path).session
        with using(session):
            yield


class DDGDA(Rolling):
    """Qlib's DDG-DA, which learns weights for the training days. Not supported yet.

    Raises
    ------
    ConfigError
        Always, before anything is trained.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise ConfigError(
            "DDG-DA is not supported: its meta-model needs PyTorch, and Rollforge has no counterpart of it yet. Without "
            "it, run the same experiment with qlib.contrib.rolling.base.Rolling ('python -m qlib.contrib.rolling base "
            "--conf_path FILE run'), or with 'rollforge run' and a rolling section; or run DDG-DA with pyqlib itself."
        )


def _handler_kwargs(task: Definition) -> dict[str, object] | None:
    """Return the arguments of a task's handler, which can be modified in place; None if it is not given by a mapping."""
    handler = TaskView(task).handler
    if not isinstance(handler, dict):
        return None
    kwargs = dict(handler.get("kwargs") or {})
    handler["kwargs"] = kwargs
    return kwargs


def _names_given(label: object) -> bool:
    return isinstance(label, (list, tuple)) and len(label) == 2 and isinstance(label[0], (list, tuple))


def _extend(handler: dict[str, object] | None, key: str, day: pd.Timestamp, *, earlier: bool) -> None:
    """Extend a handler's range to include a day."""
    if handler is None or handler.get(key) is None:
        return
    there = read_timestamp(handler[key], key)
    if day < there if earlier else day > there:
        handler[key] = day


def _record_class(config: Any, where: str) -> Callable[..., object]:
    name = config.get("class") if isinstance(config, Mapping) else config
    module = config.get("module_path") if isinstance(config, Mapping) else None
    if name is None:
        raise ConfigError("an object needs 'class'.", path=where)
    if module is None and isinstance(name, str) and "." not in name:
        module = "rollforge.record"
    return locate(name, module, noun=RECORD.noun, where=where)
