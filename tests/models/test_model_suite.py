"""The conformance suite of models fails, and ends, whatever a model does in another process."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from rollforge.models import LinearModel
from rollforge.testing import model as suite
from rollforge.testing.model import ModelSuite


class FailsElsewhere(LinearModel):
    """Cannot predict in a process that a test has started."""

    def predict(self, dataset: Any, segment: str | slice = "test") -> Any:
        if multiprocessing.parent_process() is not None:
            raise ValueError("not here")
        return super().predict(dataset, segment)


class HangsElsewhere(LinearModel):
    """Does not end its prediction in a process that a test has started."""

    def predict(self, dataset: Any, segment: str | slice = "test") -> Any:
        if multiprocessing.parent_process() is not None:
            time.sleep(600)
        return super().predict(dataset, segment)


class Suite(ModelSuite):
    """The suite for a given class of models."""

    __test__ = False

    def __init__(self, kind: type[LinearModel]) -> None:
        self.make_model = kind


def test_an_error_in_another_process_is_that_of_the_test(tmp_path: Path) -> None:
    """The process ends, too."""
    mine = Suite(FailsElsewhere)
    with pytest.raises(ValueError, match="not here"):
        mine.test_in_another_process(mine.fitted(), tmp_path)
    assert not multiprocessing.active_children()


def test_a_process_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test fails after the time that a process may take."""
    monkeypatch.setattr(suite, "_SECONDS", 1.0)
    mine = Suite(HangsElsewhere)
    with pytest.raises(AssertionError, match="has not ended after 1 s"):
        mine.test_in_another_process(mine.fitted(), tmp_path)
    assert not multiprocessing.active_children()
