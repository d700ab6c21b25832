"""Data that arrive late or are corrected: what was published stays, and a correction is a new version."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from growing import DAYS, TRAINERS, Market, days_of, equal, live, manager, recorders, start_of
from rollforge.errors import ConfigError, DataError, DayFailed, TrainingFailed
from rollforge.ledger.entry import (
    CheckResult,
    Content,
    DayResult,
    DayState,
    Entry,
    EntryKind,
    Event,
    Level,
    Outcome,
    Signal,
    correction_body,
    day_body,
)
from rollforge.ledger.state import ServiceState
from rollforge.market.append import append_table
from rollforge.online import corrections
from rollforge.online.check_rules import Rule, Rules
from rollforge.online.corrections import changed_days, correct
from rollforge.online.data_marks import changed_history, history_marks
from rollforge.online.day import DayRun, Options
from rollforge.online.overview import day_warnings, latest_checks
from rollforge.online.routine import catch_up
from rollforge.online.score_checks import known_ics
from rollforge.online.service import Hold
from rollforge.online.update import LabelUpdater, PredUpdater
from rollforge.run.trainer import TrainerR

RUN = DAYS[60:63]


def test_late_bars_are_a_new_version(market: Market, undisturbed: Callable[..., pd.Series]) -> None:
    """An instrument whose bar arrives a day late is missing in the first version, and has a score in the second."""
    whole = undisturbed(RUN[1])
    full = market.close.copy()
    market.close.loc[RUN[1], "A"] = np.nan
    served = live(market, manager(), RUN[:2])
    first = served.get_signals()
    assert ("A" in first.dropna().loc[RUN[1]].index, first.loc[RUN[0]].equals(whole.loc[RUN[0]])) == (False, True)
    market.close = full
    market.show(RUN[2])
    assert changed_days(served.service) == [RUN[1]]
    number = served.state.last
    (signal,) = correct(served.service)
    assert (signal.day, signal.version) == (RUN[1], 2)
    assert served.get_signals().loc[RUN[1]].equals(whole.loc[RUN[1]])
    equal(served.service.signals(as_of=number), first)
    assert correct(served.service) == []
    served.routine()
    assert days_of(served.get_signals())[-1] == RUN[2]


def test_a_corrected_price_is_a_new_version(market: Market) -> None:
    """Only the days that are asked for change; a day that stays the same gets no version."""
    served = live(market, manager(), RUN)
    before = served.get_signals()
    market.close.loc[RUN[1], "B"] *= 1.1
    market.show(RUN[2])
    assert correct(served.service, RUN[0]) == []
    (signal,) = correct(served.service, RUN[1], "the exchange corrected a price")
    assert (signal.version, signal.why) == (2, "the exchange corrected a price")
    after = served.get_signals()
    assert after.loc[RUN[0]].equals(before.loc[RUN[0]])
    assert not after.loc[RUN[1]].equals(before.loc[RUN[1]])
    with pytest.raises(ConfigError, match="no signals of 2024-01-02"):
        correct(served.service, "2024-01-02")


def test_days_after_one_that_was_corrected_alone_count_as_changed(market: Market) -> None:
    """Until each of them is corrected; in the end the signals are those of a service that began with the new price."""
    served = live(market, manager(), DAYS[60:64])
    market.close.loc[RUN[1], "B"] *= 1.1
    market.show(DAYS[63])
    for day in DAYS[61:63]:
        (signal,) = correct(served.service, day.replace("-", ""))
        assert (signal.day, signal.why) == (day, "the data have changed")
        text = f"the days after {day} were not corrected, which are predicted from its data too"
        assert served.state.contents[-1].events == (Event(Level.INFO, text, {"uncorrected_after": day}),)
        assert changed_days(served.service) == [other for other in DAYS[61:64] if other > day]
    assert [signal.day for signal in correct(served.service)] == DAYS[63:64]
    assert served.state.contents[-1].events == ()
    assert changed_days(served.service) == []
    again = live(market, manager(name="again", service="again"), DAYS[60:64]).get_signals()
    equal(served.get_signals().loc[RUN[1] :], again.loc[RUN[1] :])
    market.close.loc[DAYS[63], "B"] *= 1.1
    market.show(DAYS[63])
    assert [signal.day for signal in correct(served.service, DAYS[63])] == [DAYS[63]]
    assert served.state.contents[-1].events == (), "there are no days after it"
    assert changed_days(served.service) == []


def test_days_after_one_that_was_withdrawn_alone_count_as_changed(market: Market) -> None:
    """The features of those days skip the day that turned out to be a holiday."""
    served = live(market, manager(), RUN)
    market.close = market.close.drop(index=pd.Timestamp(RUN[1]))
    market.show(RUN[2])
    before, last = served.state.signals()[RUN[1]], served.state.last
    assert correct(served.service, RUN[1]) == [replace(before, version=2, rows=0, why="no longer a trading day")]
    assert (served.state.last, served.state.entries[-1].kind) == (last + 1, EntryKind.CORRECTION)
    assert correct(served.service, RUN[1]) == []
    assert served.state.last == last + 1
    assert changed_days(served.service) == [RUN[2]]
    assert [signal.day for signal in correct(served.service)] == [RUN[2]]
    assert changed_days(served.service) == []


def test_days_after_a_changed_day_are_corrected_too(market: Market) -> None:
    """The features of the days after a changed day are computed from it; afterwards no day counts as changed, also if
    its signals stayed the same."""
    served = live(market, manager(), RUN)
    market.close.loc[RUN[1], "B"] *= 1.1
    market.show(RUN[2])
    assert changed_days(served.service) == [RUN[1]]
    assert [signal.day for signal in correct(served.service)] == RUN[1:]
    again = live(market, manager(name="again", service="again"), RUN).get_signals()
    equal(served.get_signals().loc[RUN[1] :], again.loc[RUN[1] :])
    assert (changed_days(served.service), correct(served.service)) == ([], [])


def test_a_change_that_leaves_the_signals_as_they_are_is_recorded(market: Market) -> None:
    """Otherwise the day would count as changed forever. The model that was trained on it stays on record."""
    served, day = live(market, manager(begin=DAYS[63]), DAYS[63:65]), DAYS[64]
    before = served.state
    file = next(market.folder.glob("features/*/factor.day.bin"))
    factors = np.fromfile(file, "<f4")
    factors[-1] = 2  # no feature contains it
    factors.tofile(file)
    assert changed_days(served.service) == [day]
    assert correct(served.service) == []
    assert (served.state.last, served.state.signals()) == (before.last + 1, before.signals())
    assert changed_days(served.service) == []
    was, now = before.days[day], served.state.days[day]
    assert (now.state, now.trained, now.history) == (DayState.PUBLISHED, was.trained, was.history)
    assert (len(now.trained), len(now.history), now.data != was.data) == (1, 3, True)
    text = "the data have changed, and the signals are the same"
    assert served.state.contents[-1].events == (Event(Level.INFO, text),)
    factors[-1] = 3
    factors.tofile(file)
    assert correct(served.service, day, "a dividend") == []
    assert served.state.contents[-1].events == (Event(Level.INFO, "a dividend"),)
    assert correct(served.service, day) == []
    assert served.state.last == before.last + 2, "nothing is recorded if nothing has changed"


def test_an_entry_or_a_time_that_is_not_there_yet_is_refused(market: Market) -> None:
    """Integers of other libraries are the numbers of entries too."""
    service = live(market, manager(), RUN[:1]).service
    last = service.state().last
    equal(service.signals(as_of=np.int64(last)), service.signals())
    equal(service.signals(as_of=np.float64(time.time())), service.signals())
    for wrong in (last + 1, -1, True, time.time() + 3600, float("nan")):
        with pytest.raises(ConfigError, match=f"an entry, at most {last}, or a time in the past"):
            service.signals(as_of=wrong)


def test_only_days_from_the_first_changed_one_on_are_predicted_again(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latest first; earlier days stay as they are."""
    served = live(market, manager(), RUN)
    market.close.loc[RUN[1], "B"] *= 1.1
    market.show(RUN[2])
    predict, days = DayRun.predict_again, []

    def counted(day: DayRun, *args: Any) -> None:
        days.append(day.day)
        predict(day, *args)

    monkeypatch.setattr(DayRun, "predict_again", counted)
    correct(served.service)
    assert days == [RUN[2], RUN[1]]


def test_a_new_listing_changes_no_earlier_day(market: Market) -> None:
    """A published day is compared with what was there on that day."""
    market.close["E"] = 2 * market.close["A"]
    market.begins["E"] = RUN[2]
    served = live(market, manager(), RUN[:2])
    market.show(RUN[2])
    assert changed_days(served.service) == []


def test_a_day_that_is_removed_from_the_calendar_is_withdrawn(market: Market) -> None:
    """The signals of the removed day get a version without rows, and the day after it is predicted."""
    served = live(market, manager(), RUN[:2])
    market.close = market.close.drop(pd.Timestamp(RUN[1]))
    market.show(RUN[2])
    served.routine()
    assert [signal.rows for signal in correct(served.service)] == [0]
    assert days_of(served.get_signals())[-2:] == [RUN[0], RUN[2]]
    prediction = served.strategies[0].tool.online_models()[0].load_object("pred.pkl")
    assert days_of(prediction) == [RUN[0], RUN[2]]
    assert correct(served.service) == []


def test_an_older_copy_of_the_data_withdraws_nothing(market: Market) -> None:
    """The days that it lacks are not removed from the calendar. The error names a last day that is not a trading
    day."""
    served = live(market, manager(), RUN)
    before, last = served.get_signals(), served.state.last
    market.close.loc[RUN[0], "B"] *= 1.1
    market.show(RUN[1])
    with pytest.raises(DataError) as error:
        correct(served.service)
    assert str(error.value) == (
        f"The data end on {RUN[1]}, and {RUN[2]} is published: the data folder may be an older copy. Nothing was published or "
        f"corrected. Add the days after {RUN[1]}. If {RUN[2]} is not a trading day, withdraw its signals with 'rollforge serve "
        f"correct {RUN[2]}'."
    )
    assert served.state.last == last
    equal(served.get_signals(), before)
    assert [(signal.day, signal.rows) for signal in correct(served.service, RUN[2])] == [(RUN[2], 0)]
    assert [signal.day for signal in correct(served.service)] == RUN[:2]


def test_a_withdrawn_day_is_not_the_last_published_one(market: Market) -> None:
    """Windows and manual changes begin after the last day that was not withdrawn."""
    served = live(market, manager(), RUN[:2])
    market.close = market.close.drop(pd.Timestamp(RUN[1]))
    market.show(RUN[2])
    assert served.state.last_published == RUN[1]
    correct(served.service)
    assert served.state.last_published == RUN[0]
    served.routine()
    assert served.state.last_published == RUN[2]


def test_checks_of_a_withdrawn_day_are_not_shown(market: Market) -> None:
    """The status has those of the day before, and its IC is not part of the mean."""
    results = [CheckResult("constant", day, 0.25, Outcome.OK) for day in RUN[:2]]
    ics = [CheckResult("daily_ic", day, 0.5, Outcome.OK) for day in RUN[:2]]
    signals = [Signal(day, 1, (), "f", "s", 4) for day in RUN[:2]]
    bodies = [
        day_body(DayResult(signal.day, DayState.PUBLISHED), signals=[signal], checks=[one, ic])
        for signal, one, ic in zip(signals, results, ics, strict=True)
    ]
    entries = [Entry("us", number, EntryKind.DAY, body, 1, 0.0) for number, body in enumerate(bodies, 1)]
    state = ServiceState.of(entries)
    assert (latest_checks(state), [*known_ics(state)]) == ((results[1], ics[1]), RUN[:2])
    withdrawn = correction_body([replace(signals[1], version=2, rows=0)], "no trading day")
    state = state.after(Entry("us", 3, EntryKind.CORRECTION, withdrawn, 1, 0.0))
    assert (latest_checks(state), [*known_ics(state)]) == ((results[0], ics[0]), RUN[:1])


def test_warnings_are_those_of_the_last_attempt_at_a_day() -> None:
    """A day that was tried three times has the warnings of the third attempt, and no information."""
    events = [
        [Event(Level.WARNING, "first")],
        [Event(Level.WARNING, "second"), Event(Level.ERROR, "worse")],
        [Event(Level.INFO, "trained"), Event(Level.WARNING, "third"), Event(Level.WARNING, "earlier models")],
    ]
    failed, published = (
        DayResult(RUN[0], DayState.FAILED, error="no"),
        DayResult(RUN[0], DayState.PUBLISHED, fallback="earlier models"),
    )
    bodies = [
        day_body(failed, events=events[0]),
        day_body(failed, events=events[1]),
        day_body(published, events=events[2]),
    ]
    state, expected = ServiceState.of([]), [["first"], ["second", "worse"], ["third"]]
    for number, (body, texts) in enumerate(zip(bodies, expected, strict=True), 1):
        state = state.after(Entry("us", number, EntryKind.DAY, body, 1, 0.0))
        assert day_warnings(state, RUN[0]) == texts
    assert day_warnings(state, RUN[1]) == day_warnings(state, None) == []


def test_a_withdrawn_day_that_returns_is_published_again(market: Market) -> None:
    """With the same data and the same signals, as a third version."""
    full = market.close.copy()
    served = live(market, manager(), RUN)
    before = served.get_signals()
    market.close = market.close.drop(pd.Timestamp(RUN[1]))
    market.show(RUN[2])
    correct(served.service)
    last = served.state.last
    served.prepare_signals(over_write=True)
    assert served.state.last == last, "a withdrawn day stays as it is"
    market.close = full
    market.show(RUN[2])
    assert RUN[1] in changed_days(served.service)
    assert served.service.signals(as_of=served.state.last).loc[RUN[0]].equals(before.loc[RUN[0]])
    corrected = {signal.day: (signal.version, signal.rows) for signal in correct(served.service)}
    assert corrected[RUN[1]] == (3, 4)
    equal(served.get_signals(), before)
    assert (changed_days(served.service), correct(served.service)) == ([], [])


def test_corrections_before_the_first_day_are_noticed(market: Market) -> None:
    """The months of the data that the models were trained on; after a correction they are acknowledged."""
    served = live(market, manager(), RUN)
    before = served.get_signals()
    assert changed_history(served.service) == []
    market.close.loc[DAYS[20], "B"] *= 1.1
    market.show(RUN[2])
    month = DAYS[20][:7]
    assert (changed_days(served.service), changed_history(served.service)) == ([], [month])
    assert correct(served.service, RUN[2]) == []
    assert changed_history(served.service) == [month], "a correction of one day acknowledges nothing"
    assert correct(served.service) == []  # no signal depends on it
    event = served.state.events[-1][1]
    assert event.data == {"months": [month], "history": history_marks(served.service)}
    text = "data before the first day have changed; the models are those trained before"
    assert (event.level, event.text) == (Level.INFO, text)
    assert changed_history(served.service) == []
    market.close.loc[DAYS[51], "B"] *= 1.1
    market.show(RUN[2])
    assert changed_history(served.service) == [DAYS[51][:7]]
    assert [signal.day for signal in correct(served.service, why="a split")] == DAYS[52:56]  # whose averages read it
    assert served.state.events[-1][1].text == "a split"
    assert changed_history(served.service) == []
    assert served.get_signals().loc[RUN[0] :].equals(before.loc[RUN[0] :])


def test_models_trained_after_a_correction_are_not_concerned(market: Market) -> None:
    """The next window is trained on the data as they are then."""
    served = live(market, manager(), DAYS[60:64])
    market.close.loc[DAYS[20], "B"] *= 1.1
    market.show(DAYS[63])
    assert changed_history(served.service) == [DAYS[20][:7]]
    market.show(DAYS[64])
    served.routine()
    assert changed_history(served.service) == []


def test_days_published_with_the_first_one_are_compared_too(market: Market) -> None:
    """The test segment began before the first day, and its days have signals."""
    served = live(market, manager(), RUN)
    market.close.loc[DAYS[55], "B"] *= 1.1
    market.show(RUN[2])
    assert changed_days(served.service) == [DAYS[55]]
    assert correct(served.service)[0].day == DAYS[55]
    assert (changed_days(served.service), correct(served.service)) == ([], [])


def test_a_day_without_data_fails_and_is_made_up(market: Market) -> None:
    """The day without data is recorded once with its reason; later days are published, and so is this day when its data
    arrive."""
    full = market.close.copy()
    served = live(market, manager(), RUN[:1])
    market.close.loc[RUN[1]] = np.nan
    market.show(RUN[1])
    for _ in range(2):
        with pytest.raises(DayFailed, match=f"No instrument of 'all' has a price on {RUN[1]}"):
            served.routine()
    results = [c.day for c in served.state.contents if c.day is not None]
    assert [r.state for r in results if r.day == RUN[1]] == [DayState.FAILED]
    market.show(RUN[2])
    served.routine()
    assert days_of(served.get_signals())[-2:] == [RUN[0], RUN[2]]
    market.close = full
    market.show(RUN[2])
    served.routine()
    assert days_of(served.get_signals())[-3:] == RUN


def test_a_day_of_equal_scores_has_signals(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signals of a day of equal scores are 0, not missing."""
    from rollforge.models.linear import LinearModel

    predict = LinearModel.predict
    monkeypatch.setattr(LinearModel, "predict", lambda self, *a, **k: predict(self, *a, **k) * 0 + 0.1)
    signals = live(market, manager(), RUN[:1]).get_signals()
    assert signals.loc[RUN[0]].tolist() == [0.0] * 4


def test_late_labels_are_filled(market: Market) -> None:
    """Labels are computed again from the first missing one on, also if other instruments have theirs already."""
    full = market.close.copy()
    market.close.loc[DAYS[56], "C"] = np.nan
    market.show(DAYS[61])
    served = manager(begin=DAYS[60])
    served.first_train()
    first = recorders()[0]
    assert first.load_object("label.pkl")["LABEL0"].isna().sum() > 0
    market.close = full
    market.show(DAYS[61])
    LabelUpdater(first, to_date=DAYS[55]).update()
    label = first.load_object("label.pkl")["LABEL0"]
    close = full[: DAYS[61]]
    expected = (close.shift(-2) / close.shift(-1) - 1).loc[DAYS[52] : DAYS[55]].stack()
    np.testing.assert_allclose(label.to_numpy(), expected.to_numpy(), rtol=1e-4, atol=1e-6)


def test_a_day_that_is_gone_is_removed_from_a_prediction(market: Market) -> None:
    """The day after it is predicted too."""
    market.show(DAYS[61])
    served = manager(begin=DAYS[61])
    served.first_train()
    recorder = recorders()[-1]
    market.close = market.close.drop(pd.Timestamp(DAYS[61]))
    market.show(DAYS[63])
    PredUpdater(recorder).update()
    assert days_of(recorder.load_object("pred.pkl")) == [DAYS[60], DAYS[62], DAYS[63]]


def test_a_failed_day_is_published_after_a_window_has_begun(market: Market) -> None:
    """The data of a failed day end with that day, so the champion's test segment begins after their end; later days are
    published too."""
    days = DAYS[60:68]
    full = market.close.copy()
    market.close.loc[days[2]] = np.nan
    served = manager()
    market.show(days[0])
    served.first_train()
    for day in days[:6]:
        market.show(day)
        if day == days[2]:
            with pytest.raises(DayFailed):
                served.routine(day)
        else:
            served.routine(day)
    assert served.state.champions(days[2]) != served.state.champions(days[5]), "a window begins in between"
    market.close = full
    market.show(days[7])
    served.routine()
    assert days_of(served.get_signals()) == DAYS[52:68]
    assert not served.state.due(days)


def test_a_killed_correction_is_completed_by_the_next_one(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it ends: until all later days are corrected, the first changed day still counts as changed."""
    undisturbed, served = live(market, manager(name="undisturbed"), RUN), live(market, manager(), RUN)
    market.close.loc[RUN[0], "B"] *= 1.1
    market.show(RUN[2])
    correct(undisturbed.service)
    append = Hold.append

    def killed(hold: Hold, *args: Any, **kwargs: Any) -> None:
        append(hold, *args, **kwargs)
        raise KeyboardInterrupt

    versions = []
    for _ in RUN[:-1]:
        monkeypatch.setattr(Hold, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            correct(served.service)
        monkeypatch.setattr(Hold, "append", append)
        versions.append([signal.day for signal in served.state.signals().values() if signal.version == 2])
        assert RUN[0] in changed_days(served.service)
    assert versions == [[RUN[2]], [RUN[1], RUN[2]]]
    assert [signal.day for signal in correct(served.service)] == [RUN[0]]
    assert (changed_days(served.service), correct(served.service)) == ([], [])
    equal(served.get_signals(), undisturbed.get_signals())


def test_a_day_whose_file_is_lost_gets_a_new_version(market: Market) -> None:
    """With the same signals, also if only this day is corrected; other days stay as they are."""
    served = live(market, manager(), RUN)
    before = served.get_signals()
    for day, only in [(RUN[1], None), (RUN[2], RUN[2])]:
        (served.service.place / served.state.signals()[day].file).unlink()
        (signal,) = correct(served.service, only)
        assert (signal.day, signal.version) == (day, 2)
        assert signal.why == served.state.contents[-1].reason == "the file of the version before cannot be read"
        equal(served.get_signals(), before)
    assert correct(served.service) == []


def test_daily_ics_follow_a_correction(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that differ are recorded with the day that is corrected last: of the two days whose labels have the price,
    and of the day itself, whose scores have it. If they cannot be computed, the signals are corrected all the same."""
    service = manager().service
    market.show(DAYS[66])
    catch_up(service, options=Options(rules=Rules({"ic": Rule(1.0, days=25)})))
    before = known_ics(service.state())
    assert list(before) == DAYS[52:65]

    def corrected(factor: float) -> list[Content]:
        market.close.loc[DAYS[64], "B"] *= factor
        market.show(DAYS[66])
        last = service.state().last
        assert [signal.day for signal in correct(service)] == DAYS[64:67]
        found = service.state().contents[last:]
        assert [content.day.day for content in found if content.day is not None] == DAYS[66:63:-1]
        return [content for content in found if content.checks or content.events]

    def fail(*arguments: object) -> None:
        raise ValueError("no labels")

    with monkeypatch.context() as patch:
        patch.setattr(corrections, "labels_of", fail)
        (content,) = corrected(0.7)
    text = "the daily IC was not recomputed: ValueError: no labels"
    assert (content.signals[0].day, content.events) == (DAYS[64], (Event(Level.WARNING, text),))
    assert known_ics(service.state()) == before
    (content,) = corrected(2.0)
    assert (content.signals[0].day, content.events) == (DAYS[64], ())
    assert [check.day for check in content.checks] == [DAYS[62], DAYS[64]], (
        "the ranks of the returns of 63 are the same"
    )
    signals, after = service.signals(), known_ics(service.state())
    assert isinstance(signals, pd.Series)
    for place in range(52, 65):
        returns = market.close.iloc[place + 2] / market.close.iloc[place + 1] - 1
        ranks = [values.to_numpy().argsort().argsort() for values in (signals.loc[DAYS[place]], returns)]
        assert after[DAYS[place]].value == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_data_that_arrive_during_a_day_are_not_part_of_it(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint is that of the data from which the signals were made, so that the day counts as changed."""
    served = live(market, manager(), RUN[:1])
    market.show(RUN[1])
    predict = DayRun._predict

    def disturbed(day: DayRun, *args: Any) -> None:
        predict(day, *args)
        table = pd.DataFrame({"datetime": [RUN[1]], "instrument": ["B"], "close": [99.0]})
        append_table(table, market.folder, rescale=False)

    with monkeypatch.context() as patch:
        patch.setattr(DayRun, "_predict", disturbed)
        served.routine()
    assert changed_days(served.service) == [RUN[1]]
    assert [signal.day for signal in correct(served.service)] == [RUN[1]]


@pytest.mark.parametrize("trainer", ["TrainerR", "DelayTrainerRM"])
def test_a_model_of_a_failed_attempt_is_trained_again_if_its_data_have_changed(
    market: Market, trainer: str, monkeypatch: pytest.MonkeyPatch, undisturbed: Callable[..., pd.Series]
) -> None:
    """The day fails after training, and then a price in the training segment is corrected."""
    days = DAYS[60:66]
    right = market.close.copy()
    served = live(market, manager(TRAINERS[trainer]()), days[:4])
    market.close.loc[DAYS[30], "B"] *= 1.2
    market.show(days[4])

    def fail(day: DayRun, *args: Any) -> None:
        raise DayFailed("the scores are implausible")

    with monkeypatch.context() as patch:
        patch.setattr(DayRun, "_predict", fail)
        with pytest.raises(DayFailed):
            served.routine()
    market.close = right
    market.show(days[5])
    served.routine()
    assert [start_of(recorder) for recorder in recorders()][-2:] == [days[4], days[4]]
    equal(served.get_signals(), undisturbed(days[-1]))


@pytest.mark.parametrize(("changes", "fails"), [(2, False), (3, False), (2, True)])
def test_a_day_whose_data_change_during_training_is_run_again(market: Market, changes: int, fails: bool) -> None:
    """Worker processes read the data as they are then, so models of different data might be published together. Such a
    training may also fail.
    """

    class Disturbed(TrainerR):
        def end_train(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal changes
            if day == DAYS[64] and changes:
                changes -= 1
                market.close.loc[DAYS[30], "B"] *= 1.2
                market.show(day)
                if fails:
                    raise TrainingFailed("the data do not fit together")
            return super().end_train(*args, **kwargs)

    total, served = changes, manager(Disturbed())
    for day in DAYS[60:65]:
        market.show(day)
        if day == DAYS[64] and changes == 3:
            with pytest.raises(DayFailed, match="changed while models were being trained"):
                served.routine()
            assert served.state.days[day].state is DayState.FAILED
        served.routine()
    assert len([r for r in recorders() if start_of(r) == day]) == total + 1
    again = manager(name="again")
    again.first_train()
    again.routine()
    equal(served.get_signals().loc[[day]], again.get_signals().loc[[day]])
