"""If training of a due window fails, the earlier model predicts, and the window is retried on the next day."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rollforge.cli.exit_codes import Exit
from rollforge.errors import DayFailed, TrainingFailed
from rollforge.ledger.base import open_ledger
from rollforge.ledger.entry import DayState, Level, Role
from rollforge.ledger.state import ServiceState
from rollforge.online.corrections import correct
from rollforge.online.day import DayRun, Options
from rollforge.online.manager import OnlineManager
from rollforge.online.policy import Policy
from rollforge.online.routine import catch_up
from rollforge.run.trainer import TrainerR

from ..documents.command_line import call
from ..documents.definitions import write_workflow
from ..documents.growing import BEGIN, DAYS, STEP, Market, live, manager, prices, recorders, strategy, template

FIRST = DAYS.index(BEGIN)
FLAKY = '''
from pathlib import Path

from rollforge.models.linear import LinearModel


class Flaky(LinearModel):
    """Cannot be fitted while a file exists."""

    def __init__(self, broken, **kwargs):
        super().__init__(**kwargs)
        self.broken = broken

    def fit(self, dataset, *args, **kwargs):
        if Path(self.broken).exists():
            raise ValueError("the solver did not converge")
        return super().fit(dataset, *args, **kwargs)
'''


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """The file that makes training fail while it exists."""
    return tmp_path / "broken"


def flaky(tmp_path: Path) -> dict[str, Any]:
    """Return a template whose model cannot be fitted while the file ``broken`` exists."""
    (tmp_path / "flaky.py").write_text(FLAKY)
    model = {
        "class": "Flaky",
        "module_path": str(tmp_path / "flaky.py"),
        "kwargs": {"broken": str(tmp_path / "broken")},
    }
    return {**template(), "model": model}


def starts(state: ServiceState) -> list[str]:
    """Return the days from which on models were champions."""
    return [release.from_day for _, release in state.releases if release.role is Role.CHAMPION]


def windows(begin: int, count: int) -> list[int]:
    """Return the places of the next days on which a window begins; the first window begins on day 52."""
    return [place for place in range(begin, begin + 100) if (place - 52) % STEP == 0][:count]


def test_the_earlier_model_predicts_until_training_succeeds(market: Market, tmp_path: Path, broken: Path) -> None:
    """Each day records this and the reason; the new model is the champion from the day on which it was trained."""
    served = live(market, manager(templates=flaky(tmp_path)), [BEGIN])
    (due,) = windows(FIRST + 1, 1)
    first = served.state.champions(BEGIN)
    broken.touch()
    market.show(DAYS[due + 1])
    results = catch_up(served.service, None, Options(fallback=True))
    assert {result.state for result in results} == {DayState.PUBLISHED}
    failed = {result.day: result.fallback for result in results if result.fallback}
    assert list(failed) == DAYS[due : due + 2]
    assert set(failed.values()) == {
        "training of served failed, and the earlier models were used: ValueError: the solver did not converge"
    }
    assert served.state.champions(DAYS[due + 1]) == first
    warnings = [event for _, event in served.state.events if event.level is Level.WARNING]
    assert [event.data["strategy"] for event in warnings] == ["served", "served"]
    assert "Traceback" in warnings[0].data["error"]
    market.close.loc[DAYS[due], "B"] *= 1.1
    market.show(DAYS[due + 1])
    correct(served.service)
    assert [served.state.days[day].fallback for day in failed] == list(failed.values()), "a correction keeps it"
    broken.unlink()
    market.show(DAYS[due + 2])
    (result,) = catch_up(served.service, None, Options(fallback=True))
    assert (result.fallback, len(result.trained)) == ("", 1)
    assert starts(served.state)[-1] == DAYS[due + 2]
    assert [r.recorder for r in served.state.champions(DAYS[due + 2])] == list(result.trained)


def test_the_reason_of_a_fallback_is_one_line(market: Market) -> None:
    """The first one of an error without a cause, such as that of a worker process; the entry has all of it."""

    class Failing(TrainerR):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            raise TrainingFailed("1 of 1 tasks  failed.\n\nTraceback")

    served = live(market, manager(begin=DAYS[63]), [DAYS[63]])
    served.trainer = Failing()
    market.show(DAYS[64])
    (result,) = catch_up(served.service, None, Options(fallback=True))
    text = "training of served failed, and the earlier models were used: 1 of 1 tasks failed."
    (event,) = served.state.contents[-1].events
    assert (result.fallback, event.level, event.text) == (text, Level.WARNING, text)
    assert event.data == {"error": "1 of 1 tasks  failed.\n\nTraceback", "strategy": "served"}


def test_of_several_missed_windows_only_the_last_is_trained(market: Market, tmp_path: Path, broken: Path) -> None:
    """The days of the missed windows have already been published, so the models of the other windows would never be
    used."""
    served = live(market, manager(templates=flaky(tmp_path)), [BEGIN])
    trained = len(recorders())
    _, second = windows(FIRST + 1, 2)
    broken.touch()
    market.show(DAYS[second])
    catch_up(served.service, None, Options(fallback=True))
    broken.unlink()
    finished = [r for r in recorders() if r.status == "FINISHED"]
    assert len(finished) == trained
    market.show(DAYS[second + 1])
    (result,) = catch_up(served.service, None, Options(fallback=True))
    assert len(result.trained) == 1
    (champion,) = served.state.champions(DAYS[second + 1])
    (recorder,) = [r for r in recorders() if r.id == champion.recorder]
    assert str(recorder.load_object("task")["dataset"]["kwargs"]["segments"]["test"][0].date()) == DAYS[second]


def test_a_manager_fails_unless_told_otherwise(market: Market, tmp_path: Path, broken: Path) -> None:
    """As in Qlib, a simulation must not use a model other than the one in the definition."""
    served = live(market, manager(templates=flaky(tmp_path)), [BEGIN])
    (due,) = windows(FIRST + 1, 1)
    broken.touch()
    market.show(DAYS[due])
    with pytest.raises(TrainingFailed, match="did not converge"):
        served.routine(DAYS[due])
    assert served.state.days[DAYS[due]].state is DayState.FAILED
    entries = served.state.last
    for more in (0, 1):  # with the same data, then with others
        market.close.loc[DAYS[due], "B"] *= 1 + more
        market.show(DAYS[due])
        with pytest.raises(TrainingFailed, match="did not converge"):
            served.routine(DAYS[due])
        assert served.state.last == entries + more


def test_a_day_that_fails_has_no_fallback(
    market: Market, tmp_path: Path, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training fails, and the earlier models have no prediction either: nothing is published with them."""
    (due,) = windows(FIRST + 1, 1)
    served = live(market, manager(templates=flaky(tmp_path)), DAYS[FIRST:due])
    broken.touch()

    def fail(self: DayRun) -> None:
        raise DayFailed("no prediction")

    monkeypatch.setattr(DayRun, "_signals", fail)
    market.show(DAYS[due])
    (result,) = catch_up(served.service, None, Options(fallback=True))
    assert (result.day, result.state, result.error, result.fallback) == (
        DAYS[due], DayState.FAILED, "no prediction", "",
    )  # fmt: skip
    assert served.state.days[DAYS[due]].fallback == ""


def test_without_an_earlier_model_the_first_day_fails(market: Market, tmp_path: Path, broken: Path) -> None:
    """Nothing can be published."""
    broken.touch()
    market.show(BEGIN)
    served = manager(templates=flaky(tmp_path))
    with pytest.raises(TrainingFailed):
        catch_up(served.service, None, Options(fallback=True))
    assert not served.state.signals()


def test_the_first_window_has_no_earlier_model(market: Market, tmp_path: Path, broken: Path) -> None:
    """A service that has waited for its first window fails for the reason of the training."""
    served = manager(templates=flaky(tmp_path), begin=DAYS[51])
    market.show(DAYS[51])
    (result,) = catch_up(served.service, None, Options(fallback=True))
    assert "No window has begun" in result.error
    broken.touch()
    market.show(DAYS[52])
    with pytest.raises(TrainingFailed, match="did not converge"):
        catch_up(served.service, None, Options(fallback=True))
    assert "did not converge" in served.state.days[DAYS[52]].error


def test_from_a_workflow_file_to_exit_code_5(tmp_path: Path, broken: Path) -> None:
    """The line of ``serve run``, the history, the status and the view say which model was used, and why."""
    market, uri = Market(tmp_path / "data", prices()), f"sqlite:///{tmp_path}/ledger.db"
    rollforge = {"data": str(market.folder), "tracking": f"folder:{tmp_path}/runs", "experiment": "served"}
    rolling = {"step": STEP, "rtype": "sliding", "trunc_days": "auto"}
    task = yaml.safe_load(yaml.safe_dump({**flaky(tmp_path)}))
    file = write_workflow(tmp_path / "job.yaml", {"rollforge": rollforge, "task": task, "rolling": rolling})

    def serve(*words: object, code: int = 0) -> str:
        result = call("serve", "--ledger", uri, *words)
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return str(result.stdout)

    market.show(BEGIN)
    serve("init", file)
    serve("run")
    (due,) = windows(FIRST + 1, 1)
    broken.touch()
    market.show(DAYS[due])
    assert '"fallback": "training of served failed' in serve("run", code=Exit.SERVED_OLD_MODEL)
    reason = "ValueError: the solver did not converge"
    assert reason in serve("history", "--day", DAYS[due])
    assert f"fallback: training of served failed, and the earlier models were used: {reason}" in serve("status")
    assert ServiceState.of(open_ledger(uri).entries("served")).days[DAYS[due]].state is DayState.PUBLISHED
    assert '"days": []' in serve("run")
    assert '"days": []' in serve("run", "--until", DAYS[due + 1], code=Exit.NO_DATA_YET)
    broken.unlink()
    market.show(DAYS[due + 1])
    serve("run")
    assert "fallback" not in serve("status")


def test_with_a_policy_the_model_is_a_candidate_once_it_can_be_trained(
    market: Market, tmp_path: Path, broken: Path
) -> None:
    """Until then the champion is used, and nothing is compared."""
    served = OnlineManager(strategy(templates=flaky(tmp_path)), begin_time=BEGIN, policy=Policy(2, margin=2.0))
    live(market, served, [BEGIN])
    (due,) = windows(FIRST + 1, 1)
    champion = served.state.champions(BEGIN)
    broken.touch()
    market.show(DAYS[due + 1])
    results = catch_up(served.service, None, Options(fallback=True))
    assert [bool(result.fallback) for result in results[-2:]] == [True, True]
    assert not served.state.shadows
    assert not served.state.candidates(DAYS[due + 1])
    broken.unlink()
    market.show(DAYS[due + 2])
    (result,) = catch_up(served.service, None, Options(fallback=True))
    assert (result.state, result.fallback, len(result.trained)) == (DayState.PUBLISHED, "", 1)
    assert served.state.champions(DAYS[due + 2]) == champion
    assert [r.from_day for r in served.state.candidates(DAYS[due + 2])] == [DAYS[due + 2]]
    assert list(served.state.shadows) == [DAYS[due + 2]]
