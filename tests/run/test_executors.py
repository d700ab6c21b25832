"""Executors: the conformance suite, and the arguments of trainers that take one."""

from __future__ import annotations

from typing import Any

import pytest

from rollforge.errors import ConfigError
from rollforge.run import DelayTrainerRM, InProcess, LocalProcesses, TrainerR, TrainerRM
from rollforge.run.executor import Executor
from rollforge.testing.executor import ExecutorSuite, ProcessesSuite


class TestInProcess(ExecutorSuite):
    @pytest.fixture
    def executor(self) -> Executor:
        return InProcess()


@pytest.mark.slow
class TestLocalProcesses(ProcessesSuite):
    @pytest.fixture
    def executor(self) -> Executor:
        return LocalProcesses(1)


@pytest.mark.parametrize("trainer", [TrainerR, TrainerRM, DelayTrainerRM])
def test_an_executor_has_its_own_number_of_jobs(trainer: Any) -> None:
    """Both arguments would contradict each other."""
    with pytest.raises(ConfigError, match="executor: replaces jobs"):
        trainer("e", executor=LocalProcesses(2), jobs=2)
    with pytest.raises(ConfigError, match=r"executor: must be an executor, .* found 'ray'"):
        trainer("e", executor="ray")
