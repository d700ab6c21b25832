"""``Rolling``: each argument has its documented effect; invalid ones are refused before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from rollforge.errors import ConfigError, CoverageError
from rollforge.features.alpha import Alpha158
from rollforge.record.analysis import recorded_labels
from rollforge.rolling import DDGDA, Rolling
from rollforge.session import Session, using
from rollforge.track.base import Experiment, get_experiment, open_tracker

LABEL = "Ref($close, -2)/Ref($close, -1) - 1"


def handler_kwargs(**more: Any) -> dict[str, Any]:
    return {
        "instruments": "demo100",
        "start_time": "2022-01-03",
        "end_time": "2023-10-31",
        "data_loader": {
            "class": "QlibDataLoader",
            "kwargs": {"config": {"feature": [["$close/$open", "Ref($close,5)/$close"], ["A", "B"]], "label": [[LABEL], ["L"]]}},
        },
        **more,
    }  # fmt: skip


def document(**handler: Any) -> dict[str, Any]:
    """Return a workflow with a linear model on two features, whose label is defined in the loader of the handler."""
    kwargs = {
        "handler": {"class": "DataHandlerLP", "module_path": "qlib.data.dataset.handler", "kwargs": handler_kwargs()}
    }
    kwargs["handler"].update(handler)
    segments = {
        "train": ["2022-02-01", "2022-12-30"],
        "valid": ["2023-01-02", "2023-03-31"],
        "test": ["2023-04-03", "2023-10-31"],
    }
    return {
        "qlib_init": {"provider_uri": "market", "region": "us"},
        "task": {
            "model": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear", "kwargs": {"estimator": "ols"}},
            "dataset": {
                "class": "DatasetH",
                "module_path": "qlib.data.dataset",
                "kwargs": {**kwargs, "segments": segments},
            },
            "record": [
                {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
                {"class": "SigAnaRecord", "module_path": "qlib.workflow.record_temp"},
            ],
        },
    }  # fmt: skip


@pytest.fixture
def session(small_market: Path, tmp_path: Path) -> Session:
    return Session(
        provider_uri=str(small_market), tracking_uri=f"folder:{tmp_path / 'runs'}", experiment_name="session"
    )


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return write(tmp_path, document())


def write(folder: Path, content: dict[str, Any]) -> Path:
    file = folder / "conf.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def segments(task: dict[str, Any]) -> dict[str, tuple[str, str]]:
    found = task["dataset"]["kwargs"]["segments"]
    return {k: (str(pd.Timestamp(a).date()), str(pd.Timestamp(b).date())) for k, (a, b) in found.items()}


def recorders(session: Session, experiment: str) -> list[Any]:
    tracker = open_tracker(session.tracking_uri)
    found: list[Any] = get_experiment(tracker, experiment_name=experiment, create=False).list_recorders(Experiment.RT_L)
    return found


def test_a_run_leaves_a_joined_recorder_and_one_for_each_window(conf: Path, session: Session) -> None:
    """If it is run twice with the same names, the windows of the first run are replaced, and its joined recorder is
    kept."""
    for _ in range(2):
        rolling = Rolling(conf, "joined", horizon=3, step=60, rolling_exp="windows", session=session)
        rolling.run()
    assert len(recorders(session, "windows")) == len(rolling_tasks(rolling, session)) == 3
    joined = recorders(session, "joined")
    assert len(joined) == 2
    last = next(r for r in joined if r.id == rolling._rid)
    assert {"IC", "Rank IC"} <= set(last.list_metrics())
    prediction, label = last.load_object("pred.pkl"), last.load_object("label.pkl")
    assert prediction.index.equals(label.index)
    days = prediction.index.get_level_values("datetime")
    assert (str(days.min().date()), str(days.max().date())) == ("2023-04-03", "2023-10-31")
    # The evaluation of the joined prediction uses the number of days that its label spans.
    assert [x.days for x in recorded_labels(last)] == [3]


def rolling_tasks(rolling: Rolling, session: Session) -> list[dict[str, Any]]:
    with using(session):
        return rolling.get_task_list()


def test_the_horizon_sets_the_label_and_the_gap_before_the_test(conf: Path, session: Session) -> None:
    """A label of h days looks ahead h + 1 days, so train and valid end h + 1 trading days before the test segment."""
    rolling = Rolling(conf, horizon=5, step=60, session=session)
    with using(session):
        task = rolling.basic_task()
        first, second = rolling.get_task_list()[:2]
    config = task["dataset"]["kwargs"]["handler"]["kwargs"]["data_loader"]["kwargs"]["config"]
    assert config["label"] == [["Ref($close, -6) / Ref($close, -1) - 1"], ["L"]]
    assert segments(first) == {
        "train": ("2022-02-01", "2022-12-30"),
        "valid": ("2023-01-02", "2023-03-24"),
        "test": ("2023-04-03", "2023-06-23"),
    }
    assert segments(second)["train"] == ("2022-02-01", "2023-03-24")


def test_the_label_is_passed_to_a_handler_that_accepts_one(tmp_path: Path) -> None:
    """Qlib's own handlers do; the file is not changed."""
    alpha = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": {"instruments": "demo100"}}
    file = write(tmp_path, document(**alpha))
    before = file.read_text()
    handler = Rolling(file, horizon=1).basic_task()["dataset"]["kwargs"]["handler"]
    assert handler["kwargs"]["label"] == ["Ref($close, -2) / Ref($close, -1) - 1"]
    assert file.read_text() == before


def test_without_a_horizon_the_label_determines_the_gap(conf: Path, session: Session) -> None:
    """With ``horizon=None`` the label looks ahead two days, so train and valid end two trading days before the test."""
    rolling = Rolling(conf, horizon=None, step=60, session=session)
    task = rolling.basic_task()
    assert task["dataset"]["kwargs"]["handler"]["kwargs"]["data_loader"]["kwargs"]["config"]["label"] == [
        [LABEL],
        ["L"],
    ]
    assert segments(rolling_tasks(rolling, session)[0])["valid"][1] == "2023-03-30"


def test_train_start_and_test_end_change_the_segments(conf: Path, session: Session) -> None:
    """``train_start`` and ``test_end`` change the segments, and extend the date range of the handler if necessary."""
    rolling = Rolling(conf, "joined", horizon=1, step=80, train_start=20220110, test_end="2023/12/15", session=session)
    task = rolling.basic_task()
    assert segments(task)["train"][0] == "2022-01-10"
    assert segments(task)["test"][1] == "2023-12-15"
    kwargs = task["dataset"]["kwargs"]["handler"]["kwargs"]
    assert (str(kwargs["start_time"]), str(pd.Timestamp(kwargs["end_time"]).date())) == ("2022-01-03", "2023-12-15")
    rolling.run()
    (joined,) = recorders(session, "joined")
    assert joined.load_object("pred.pkl").index.get_level_values("datetime").max() == pd.Timestamp("2023-12-15")


def test_task_ext_conf_is_applied_last(conf: Path) -> None:
    """The parts are merged in order, and can drop keys."""
    changes = [
        {"model": {"kwargs": {"estimator": "ridge", "alpha": 1.0}}},
        {"model": {"kwargs": {"alpha": "__DROP__"}}},
    ]
    task = Rolling(conf, task_ext_conf=changes).basic_task()
    assert task["model"]["kwargs"] == {"estimator": "ridge"}


def test_a_pickled_handler_replaces_that_of_the_file(conf: Path, session: Session, tmp_path: Path) -> None:
    """The data and the label of the pickled handler are used; the path may contain a space, and the horizon has no
    effect."""
    place = tmp_path / "my handler.pkl"
    with using(session):
        handler = Alpha158(
            "demo100", "2022-01-03", "2023-10-31", "day", [], fit_start_time="2022-01-03", fit_end_time="2022-12-30"
        )
        handler.to_pickle(place, dump_all=True)
    rolling = Rolling(conf, "joined", horizon=1, step=80, h_path=place, session=session)
    assert rolling.basic_task()["dataset"]["kwargs"]["handler"] == place.as_uri()
    with_label = rolling.basic_task(enable_handler_cache=False)
    assert with_label["dataset"]["kwargs"]["handler"] == place.as_uri()
    rolling.run()
    (joined,) = recorders(session, "joined")
    assert list(joined.load_object("label.pkl").columns) == ["LABEL0"]


def test_run_basic_task_runs_the_task_without_rolling(conf: Path, session: Session) -> None:
    """The method leaves one recorder in the experiment, with the records of the file."""
    Rolling(conf, "once", horizon=1, session=session).run_basic_task()
    (recorder,) = recorders(session, "once")
    assert "IC" in recorder.list_metrics()


def test_worker_processes_give_the_same_result(conf: Path, session: Session) -> None:
    """With ``jobs=2`` the prediction is the same."""
    found = []
    for jobs in (None, 2):
        rolling = Rolling(conf, "joined", horizon=1, step=80, jobs=jobs, session=session)
        rolling.run()
        found.append(next(r for r in recorders(session, "joined") if r.id == rolling._rid).load_object("pred.pkl"))
    pd.testing.assert_frame_equal(*found)


def test_the_data_folder_of_the_file_is_the_default(small_market: Path, tmp_path: Path) -> None:
    """Without ``qlib.init`` the data folder in the file's ``qlib_init`` is used (Qlib ignores that section)."""
    content = document()
    content["qlib_init"]["provider_uri"] = str(small_market)
    content["qlib_init"]["exp_manager"] = {"kwargs": {"uri": f"folder:{tmp_path / 'runs'}"}}
    Rolling(write(tmp_path, content), "joined", horizon=1, step=80).run()
    assert len(recorders(Session(tracking_uri=f"folder:{tmp_path / 'runs'}"), "joined")) == 1


def test_the_tasks_can_be_listed_without_a_run(small_market: Path, tmp_path: Path) -> None:
    """``get_task_list`` uses the calendar of the file's data folder, as a run does."""
    content = document()
    content["qlib_init"]["provider_uri"] = str(small_market)
    assert len(Rolling(write(tmp_path, content), horizon=1, step=80).get_task_list()) == 2


def test_objects_created_in_the_same_second_do_not_share_an_experiment(conf: Path) -> None:
    """The generated names of experiments are unique."""
    assert len({Rolling(conf).rolling_exp for _ in range(20)}) == 20


class Interrupted(Rolling):
    """A run during which another run with the same experiment starts, before the windows are joined."""

    def _ens_rolling(self) -> None:
        Rolling(self.conf_path, "other", horizon=1, step=80, rolling_exp=self.rolling_exp, session=self.session).run()
        super()._ens_rolling()


def test_windows_of_another_run_are_not_joined(conf: Path, session: Session) -> None:
    """The error says that the windows have been replaced; the recorders of the other run are not used."""
    with pytest.raises(CoverageError, match=r"2 of 2 windows are no longer in experiment 'windows'"):
        Interrupted(conf, "joined", horizon=1, step=80, rolling_exp="windows", session=session).run()
    assert len(recorders(session, "other")) == 1


@pytest.mark.parametrize(
    ("dataset", "arguments", "said"),
    [
        ("pkg.Dataset", {}, "task.dataset.kwargs.segments: is missing"),
        ({"class": "DatasetH", "module_path": "qlib.data.dataset"}, {}, "segments: is missing"),
        ({"class": "DatasetH", "kwargs": {"segments": {"trian": ["2022-02-01", "2022-12-30"]}}},
         {"train_start": "2022-03-01"}, "there is no segment 'train'. Did you mean 'trian'"),
    ],
)  # fmt: skip
def test_a_task_without_segments_is_an_error(dataset: Any, arguments: Any, said: str, tmp_path: Path) -> None:
    """However the dataset is given."""
    content = document()
    content["task"]["dataset"] = dataset
    with pytest.raises(ConfigError, match=re.escape(said)):
        Rolling(write(tmp_path, content), **arguments).basic_task()


class Shorter(Rolling):
    """A subclass that changes the task, as Qlib's subclasses do."""

    def basic_task(self, enable_handler_cache: bool | None = True) -> dict[str, Any]:
        task = super().basic_task(enable_handler_cache)
        task["dataset"]["kwargs"]["segments"]["test"] = ("2023-04-03", "2023-05-31")
        return task


def test_a_subclass_can_change_the_task(conf: Path, session: Session) -> None:
    """The task that it returns is trained."""
    assert len(rolling_tasks(Shorter(conf, horizon=1, step=20, session=session), session)) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"horizon": 0}, "horizon: must be a whole number of trading days"),
        ({"horizon": "5"}, "horizon: must be"),
        ({"step": 0}, "step: must be"),
        ({"step": True}, "step: must be"),
        ({"h_path": "nothing.pkl"}, "the file 'nothing.pkl' does not exist"),
        ({"train_start": "soon"}, "train_start: "),
        ({"test_end": "2023-02-30"}, "test_end: "),
        ({"exp_name": "same", "rolling_exp": "same"}, "rolling_exp: must differ from exp_name, 'same'"),
    ],
)
def test_an_invalid_argument_is_refused(arguments: dict[str, Any], said: str, conf: Path) -> None:
    """The error names it."""
    with pytest.raises(ConfigError, match=said):
        Rolling(conf, **arguments)


def test_a_missing_workflow_file_is_an_error(tmp_path: Path, session: Session) -> None:
    """The error suggests the nearest name."""
    write(tmp_path, document())
    with pytest.raises(ConfigError, match=r"There is no workflow file .* Did you mean 'conf\.yaml'"):
        Rolling(tmp_path / "cnf.yaml", session=session).run()


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"class": "SigAnaRecrd"}, r"task\.record\.1: .*Did you mean 'SigAnaRecord'"),
        ({"class": "SigAnaRecord", "kwargs": {"ana": True}}, r"task\.record\.1.*takes no argument 'ana'"),
        (
            {"class": "PortAnaRecord", "kwargs": {"config": {"strategy": {"kwargs": {"model": "<MODEL>"}}}}},
            "Use <PRED>",
        ),
    ],
)
def test_an_invalid_record_is_refused_before_training(record: Any, said: str, tmp_path: Path, session: Session) -> None:
    """No window is trained, and the recorders of an earlier run are not deleted."""
    with using(session):
        get_experiment(open_tracker(session.tracking_uri), experiment_name="windows").create_recorder(
            "earlier"
        ).end_run()
    content = document()
    content["task"]["record"] = ["qlib.workflow.record_temp.SignalRecord", record]
    with pytest.raises(ConfigError, match=said):
        Rolling(write(tmp_path, content), rolling_exp="windows", session=session).run()
    assert [r.name for r in recorders(session, "windows")] == ["earlier"]


def test_a_handler_that_accepts_no_label_is_refused_before_training(tmp_path: Path, session: Session) -> None:
    """The error names the missing argument."""
    own = tmp_path / "own.py"
    own.write_text(
        "from qlib.data.dataset.handler import DataHandlerLP\n"
        "class Own(DataHandlerLP):\n"
        "    def __init__(self, instruments='demo100'):\n"
        "        super().__init__(instruments)\n"
    )
    file = write(tmp_path, document(**{"class": "Own", "module_path": str(own), "kwargs": {}}))
    with pytest.raises(ConfigError, match="Own takes no argument 'label'"):
        Rolling(file, session=session).run()


def test_ddg_da_is_refused() -> None:
    """The error says what to use instead."""
    with pytest.raises(ConfigError, match=r"DDG-DA is not supported.*rolling base"):
        DDGDA(conf_path="conf.yaml", sim_task_model="linear")
