"""A definition with Qlib's ``module_path`` and a script with ``import qlib…`` use the same table, and a script's task may
have objects.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from definitions import SMALL_MARKET, TWO_WINDOWS, expressions, task_definition
from rollforge.build import build, init_instance_by_config, locate
from rollforge.errors import BuildError, ConfigError, TrainingFailed
from rollforge.features.dataset import DatasetH
from rollforge.models.base import Model, Reweighter
from rollforge.models.linear import LinearModel
from rollforge.qlib_names import MODULES, NOT_COVERED, PROGRAMS, REASONS
from rollforge.run.execute import begin_task_train, end_task_train, task_train
from rollforge.run.trainer import DelayTrainerR
from rollforge.session import Session, using

SCRIPT = """
import importlib, importlib.util, inspect
import rollforge.compat.qlib
from rollforge.build import locate
from rollforge.errors import MissingDependency
from rollforge.qlib_imports import names_of
from rollforge.qlib_names import MODULES

found = 0
for module in MODULES:
    here = importlib.import_module(module)
    for name in names_of(module):
        try:
            given = getattr(here, name)
        except MissingDependency:  # the PyTorch modules
            assert importlib.util.find_spec("torch") is None, (module, name)
            continue
        if inspect.isclass(given) and given.__module__ != "typing":
            assert locate(name, module) is given, (module, name)
            found += 1
print(found)
"""


def test_a_task_finds_what_a_script_finds() -> None:
    """The class from ``from qlib… import`` is the one that a definition builds; type aliases cannot be built."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 400


def test_a_task_is_refused_what_a_script_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name for which the table has a reason instead of a location, and every module that is not covered."""
    monkeypatch.setattr("rollforge.qlib_imports._top", lambda: None)  # as without pyqlib
    for module, sources in MODULES.items():
        for reason in REASONS:
            for name in sources.get(reason, "").split():
                with pytest.raises(BuildError, match=r"not (covered|supported)"):
                    locate(name, module)
    for module in NOT_COVERED:
        with pytest.raises(BuildError, match="not covered"):
            locate("Anything", module)


def test_programs_live_at_the_edge() -> None:
    """The programs that Qlib's documentation runs with ``python -m`` are functions of the command line or of the
    compatibility layer.
    """
    for place in PROGRAMS.values():
        assert place.split(".")[1] in ("cli", "compat")


class Later(Reweighter):
    """Gives later rows more weight."""

    def reweight(self, data: Any) -> Any:
        return np.linspace(0.5, 1.5, len(data))


class Doubled(DatasetH):
    """Gives models twice the values."""

    def prepare(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * super().prepare(*args, **kwargs)


class Parts(DatasetH):
    """Gives models frames in a list."""

    def _prepare_seg(self, slc: object, **kwargs: Any) -> Any:
        return [super()._prepare_seg(slc, **kwargs)]


class Loose(DatasetH):
    """Does not call the constructor of its base class."""

    def __init__(self, handler: Any, segments: Any) -> None:
        self.handler, self.segments = init_instance_by_config(handler), segments

    def prepare(self, *args: Any, **kwargs: Any) -> Any:
        return super().prepare(*args, **kwargs)


class One(Model):
    """A model of the features' first column, whatever the dataset gives it."""

    def fit(self, dataset: Any) -> None: ...

    def predict(self, dataset: Any, segment: Any = "test") -> Any:
        return dataset.handler.fetch(slice(*dataset.segments[segment]), col_set="feature").iloc[:, 0]


@pytest.mark.parametrize("kind", ["Doubled", "Parts", "Loose"])
def test_predictions_are_evaluated_with_the_handlers_labels(kind: str, small_market: Path, tmp_path: Path) -> None:
    """What a dataset of one's own changes for its models does not change the saved labels, as in Qlib."""
    model = {"class": "One", "module_path": __name__}
    task = task_definition(expressions("$close/Ref($close,5)", **SMALL_MARKET), TWO_WINDOWS, model=model)
    with using(Session(provider_uri=str(small_market), tracking_uri=f"folder:{tmp_path}/runs")):
        labels = []
        for dataset in ({}, {"class": kind, "module_path": __name__}):
            made = task_train({**task, "dataset": {**task["dataset"], **dataset}}, experiment_name="e")
            labels.append(made.load_object("label.pkl"))
        pd.testing.assert_frame_equal(*labels)


class NeedsRecorder(LinearModel):
    """A model that cannot be called with a dataset alone."""

    def fit(self, dataset: Any, recorder: Any) -> Any:  # type: ignore[override]
        return super().fit(dataset)


def test_objects_that_a_second_stage_may_not_read_are_refused_by_the_first(small_market: Path, tmp_path: Path) -> None:
    """The error names the part; objects of Rollforge's classes are trained in two stages too."""
    task = task_definition(expressions("$close/Ref($close,5)", **SMALL_MARKET), TWO_WINDOWS)
    with using(Session(provider_uri=str(small_market), tracking_uri=f"folder:{tmp_path}/runs")):
        own = {**task, "model": LinearModel(), "dataset": build(task["dataset"])}
        assert end_task_train(begin_task_train(own, experiment_name="e")).load_object("pred.pkl").shape[1] == 1
        before = len(list((tmp_path / "runs").rglob("task")))
        for part, one in (("model", NeedsRecorder()), ("reweighter", Later())):
            words = rf"task\.{part}: is or contains an object, .*{type(one).__name__}.*ROLLFORGE_ALLOW"
            with pytest.raises(ConfigError, match=words):
                begin_task_train({**own, part: one}, experiment_name="e")
            with pytest.raises(TrainingFailed, match=words):
                DelayTrainerR("e")([{**own, part: one}])
        assert len(list((tmp_path / "runs").rglob("task"))) == before


def test_a_task_that_is_trained_at_once_may_have_objects(small_market: Path, tmp_path: Path) -> None:
    """A model, a dataset and a reweighter give the predictions of their descriptions, as in Qlib; other objects are
    refused.
    """
    task = task_definition(expressions("$close/Ref($close,5)", **SMALL_MARKET), TWO_WINDOWS)
    described = {**task, "reweighter": {"class": "Later", "module_path": __name__}}
    with using(Session(provider_uri=str(small_market), tracking_uri=f"folder:{tmp_path}/runs")):
        live = {**task, "model": LinearModel(), "dataset": build(task["dataset"]), "reweighter": Later()}
        first, second = (task_train(one, experiment_name="e").load_object("pred.pkl") for one in (described, live))
        pd.testing.assert_frame_equal(first, second)
        for part, other, words in (
            ("model", object(), r"object is not a model: it has no fit\(\)"),
            ("model", NeedsRecorder(), r"NeedsRecorder is not a model: its fit\(\) needs dataset, recorder"),
            ("dataset", object(), r"object is not a dataset: it has no prepare\(\)"),
            ("model", 5, "expected a mapping with class, .*found 5"),
            ("model", None, "expected a mapping with class, .*found None"),
        ):
            with pytest.raises(BuildError, match=rf"task\.{part}: {words}"):
                task_train({**task, part: other}, experiment_name="e")
        assert isinstance(LinearModel().fit(live["dataset"]), LinearModel)
