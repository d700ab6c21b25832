"""A policy: the model of a new window runs in shadow, is compared with the champion, and is promoted if it is not
worse."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from growing import DAYS, Market, days_of, equal, live, manager, recorders, start_of, strategy
from rollforge.errors import ConfigError
from rollforge.ledger.entry import (
    Comparison,
    DayResult,
    DayState,
    Entry,
    EntryKind,
    Level,
    Release,
    Role,
    Verdict,
    day_body,
    release_body,
)
from rollforge.ledger.state import ServiceState
from rollforge.models.linear import LinearModel
from rollforge.online.corrections import correct
from rollforge.online.manager import OnlineManager
from rollforge.online.policy import Policy, daily_metric, decided
from rollforge.session import current_session
from rollforge.track.base import get_experiment, open_tracker
from rollforge.track.frame import read_table

RUN = DAYS[60:76]
"""Windows begin on 60, 64, 68 and 72. A label is known two days later."""


def with_policy(policy: Policy | None, name: str = "served", service: str | None = None) -> OnlineManager:
    return OnlineManager(strategy(name), begin_time=RUN[0], service=service, policy=policy)


def roles(served: OnlineManager, day: str) -> tuple[list[int], list[int]]:
    """Return the windows of the champions and of the candidates of a day, as positions in `DAYS`."""
    windows = {r.id: DAYS.index(start_of(r)) for r in recorders(served.strategies[0].experiment_name)}
    champions, candidates = served.state.champions(day), served.state.candidates(day)
    return [windows[r.recorder] for r in champions], [windows[r.recorder] for r in candidates]


# -- the rules, by hand ------------------------------------------------------------------------------------------------


def table(scores: dict[str, list[float]], days: int) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([pd.DatetimeIndex(DAYS[:days]), list("ABC")], names=["datetime", "instrument"])
    return pd.DataFrame(scores, index, dtype=float)


def test_means_of_rank_ics_by_hand() -> None:
    """Ranks 1 2 3 against 1 3 2 correlate by a half. Equal scores are 0, and days that are not comparable do not
    count."""
    nan = np.nan
    labels = table({"label": [1, 2, 3, 1, 2, 3, 5, 5, 5, 1, nan, nan, 3, 1, 2]}, 5)["label"]
    one = [1, 2, 3, 7, 7, 7, 1, 2, 3, 1, 2, 3, 3, 1, 2]
    other = [1, 3, 2, 3, 2, 1, 1, 2, 3, 1, 2, 3, 30, nan, 20]
    (first, second), days = daily_metric(table({"x": one, "y": other}, 5), labels, "rank_ic")
    # Labels are equal on the third day, and one is known on the fourth. On the fifth, A and C are scored by both.
    assert days == 3
    assert first == pytest.approx((1 + 0 + 1) / 3)
    assert second == pytest.approx((0.5 - 1 + 1) / 3)


def test_means_of_ics_by_hand() -> None:
    """Pearson's correlation of 1 2 3 with 1 2 9 is 0.918."""
    labels = table({"label": [1, 2, 9]}, 1)["label"]
    means, days = daily_metric(table({"x": [1, 2, 3], "y": [1, 2, 9]}, 1), labels, "ic")
    assert (days, means[1]) == (1, pytest.approx(1))
    assert means[0] == pytest.approx(8 / np.sqrt(2 * 38))  # deviations -1 0 1 and -3 -2 5


def test_without_comparable_days_there_is_no_mean() -> None:
    """No label is known yet."""
    labels = table({"label": [np.nan] * 3}, 1)["label"]
    assert daily_metric(table({"x": [1, 2, 3], "y": [1, 2, 9]}, 1), labels, "ic") == ((0.0, 0.0), 0)


def test_not_worse_includes_equal() -> None:
    """Equal means up to rounding: 0.7 - 0.1 is less than 0.6 because of rounding."""
    assert Policy(1).is_promoted(0.1, 0.1)
    assert Policy(1, margin=0.1).is_promoted(0.7 - 0.1 - 1e-15, 0.7)
    assert not Policy(1, margin=0.1).is_promoted(0.59, 0.7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shadow_days": 0}, "shadow_days: must be a whole number of days, at least 1; found 0"),
        ({"shadow_days": True}, "shadow_days"),
        ({"shadow_days": 5, "margin": -0.1}, "margin: must be a number, at least 0"),
        ({"shadow_days": 5, "margin": float("nan")}, "margin"),
        ({"shadow_days": 5, "metric": "rankic"}, "metric: .*Did you mean 'rank_ic'"),
        ({"shadow_days": 5, "lost": "drop"}, "lost: must be one of retire, keep"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], message: str) -> None:
    """The message has the name of the value."""
    with pytest.raises(ConfigError, match=message):
        Policy(**values)


def candidate(recorder: str, role: Role = Role.CANDIDATE) -> Release:
    return Release("t", "exp", recorder, role, DAYS[0], strategy="s", template="a")


def verdict(recorder: str, result: Verdict) -> Comparison:
    return Comparison(recorder, "old", "rank_ic", 5, 0.25, 0.125, result)


P, L, S = Verdict.PROMOTED, Verdict.LOST, Verdict.SHADOW
OLD_LEAVES = {("old", "retired")}


@pytest.mark.parametrize(
    ("verdicts", "lost", "changes"),
    [
        ({}, "retire", set()),
        ({"c1": S}, "retire", set()),
        ({"c1": P}, "retire", {("c1", "champion")} | OLD_LEAVES),
        ({"c1": L}, "retire", {("c1", "retired")}),
        ({"c1": L}, "keep", set()),
        ({"c1": P, "c2": P}, "retire", {("c1", "retired"), ("c2", "champion")} | OLD_LEAVES),
        ({"c1": S, "c2": P}, "keep", {("c1", "retired"), ("c2", "champion")} | OLD_LEAVES),
        ({"c1": P, "c2": S}, "retire", {("c1", "champion")} | OLD_LEAVES),
        ({"c1": P, "c2": L}, "retire", {("c1", "champion"), ("c2", "retired")} | OLD_LEAVES),
    ],
)
def test_the_latest_candidate_that_is_not_worse_is_promoted(
    verdicts: dict[str, Verdict], lost: str, changes: set[tuple[str, str]]
) -> None:
    """The latest candidate that is not worse is the champion from the next day on; earlier ones are retired, later ones
    continue."""
    old = candidate("old", Role.CHAMPION)
    pairs = [(candidate(name), old) for name in ("c1", "c2") if name in verdicts]
    body = day_body(DayResult(DAYS[0], DayState.PUBLISHED), releases=[old])
    state = ServiceState.of([Entry("us", 1, EntryKind.DAY, body, 1, 0.0)])
    found = decided(state, Policy(5, lost=lost), DAYS[4], pairs, [verdict(n, v) for n, v in verdicts.items()])
    assert {(r.recorder, r.role.value) for r in found} == changes
    assert {r.from_day for r in found} <= {"2024-01-06"}  # the day after Friday
    assert all("rank IC 0.2500 against 0.1250 over 5 days" in r.reason for r in found if r.role is Role.CHAMPION)


def test_a_candidate_that_is_planned_to_become_the_champion_is_not_retired() -> None:
    """Other candidates of its template that are worse are."""
    old = candidate("old", Role.CHAMPION)
    plan = [
        replace(old, role=Role.RETIRED, from_day=DAYS[8]),
        replace(candidate("c1", Role.CHAMPION), from_day=DAYS[8]),
    ]
    body = day_body(DayResult(DAYS[0], DayState.PUBLISHED), releases=[old])
    entries = [Entry("us", 1, EntryKind.DAY, body, 1, 0.0)]
    entries.append(Entry("us", 2, EntryKind.PROMOTION, release_body(plan, "by hand"), 1, 0.0))
    pairs = [(candidate(name), old) for name in ("c1", "c2")]
    found = decided(ServiceState.of(entries), Policy(5), DAYS[4], pairs, [verdict("c1", L), verdict("c2", L)])
    assert [(r.recorder, r.role.value) for r in found] == [("c2", "retired")]


# -- a service ---------------------------------------------------------------------------------------------------------


def test_a_candidate_runs_in_shadow_and_is_promoted(market: Market) -> None:
    """The candidate is promoted after two days with labels. Until then the champion's prediction is published, whatever
    the candidates predict."""
    served = live(market, with_policy(Policy(2, margin=2.0)), RUN[:9])
    assert roles(served, DAYS[63]) == ([60], [])
    assert [roles(served, day) for day in DAYS[64:68]] == 4 * [([60], [64])]
    assert roles(served, DAYS[68]) == ([64], [68])
    shadows = served.state.shadows
    assert list(shadows) == DAYS[64:69]
    found = [(c.days, c.verdict) for _, c in served.state.comparisons]
    assert found == [(1, Verdict.SHADOW), (2, Verdict.PROMOTED)]
    entry, promoted = next(
        (e, r) for e, r in served.state.releases if "rank IC" in r.reason and r.role is Role.CHAMPION
    )
    assert entry.body["day"]["day"] == DAYS[67]  # type: ignore[index]
    assert promoted.reason.endswith("over 2 days, 2 less is allowed")
    for day in DAYS[64:68]:
        assert served.state.signals()[day].recorders == (served.state.champions(DAYS[60])[0].recorder,)
    for shadow in shadows.values():
        content = (served.service.place / shadow.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shadow.sha256
    plain = live(market, with_policy(None, name="plain"), RUN[:9]).get_signals()
    signals = served.get_signals()
    same = [signals.loc[day].equals(plain.loc[day]) for day in DAYS[60:69]]
    assert same == [True] * 4 + [False] * 5


def test_the_figures_are_those_of_the_predictions(market: Market) -> None:
    """Computed anew from the shadow files and the prices; over four windows some candidates win and some lose."""
    served = live(market, with_policy(Policy(2)), DAYS[60:80])
    label = (market.close.shift(-2) / market.close.shift(-1) - 1).stack()
    label.index.names = ["datetime", "instrument"]
    verdicts = set()
    for entry, one in served.state.comparisons:
        day = entry.body["day"]["day"]  # type: ignore[index]
        known = DAYS[DAYS.index(day) - 2]
        used = [s for s in served.state.shadows.values() if {one.candidate, one.champion} <= {*s.recorders}]
        days = [s for s in used if s.day <= known]
        scores = pd.concat([read_table(served.service.place / s.file) for s in days])
        means = [
            scores[name].groupby("datetime").apply(lambda x: x.corr(label.reindex(x.index), method="spearman")).mean()
            for name in (one.candidate, one.champion)
        ]
        assert [one.candidate_mean, one.champion_mean] == pytest.approx(means)
        assert one.days == len(days)
        assert one.verdict is (Verdict.SHADOW if one.days < 2 else P if means[0] >= means[1] - 1e-12 else L)
        verdicts.add(one.verdict)
    assert verdicts == {P, L, S}
    for day in DAYS[60:80]:
        assert len(served.state.champions(day)) == 1


def test_a_loser_is_kept_until_a_window_begins(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the policy says so, it can still win on a later day."""
    monkeypatch.setattr(Policy, "is_promoted", lambda self, candidate, champion: False)
    served = live(market, with_policy(Policy(1, lost="keep")), RUN[:9])
    assert [roles(served, day) for day in DAYS[64:69]] == 4 * [([60], [64])] + [([60], [68])]
    assert [(c.days, c.verdict) for _, c in served.state.comparisons] == [(1, L), (2, L)]
    retired = live(market, with_policy(Policy(1), name="other"), RUN[:9])
    assert [roles(retired, day) for day in DAYS[64:69]] == 3 * [([60], [64])] + [([60], []), ([60], [68])]


def decisions(served: OnlineManager) -> list[tuple[str, str, str, str]]:
    """Return the releases without ids."""
    name = served.strategies[0].experiment_name
    windows = {r.id: start_of(r) for r in recorders(name)}
    return [(windows[r.recorder], r.role.value, r.from_day, r.reason) for _, r in served.state.releases]


def test_a_simulation_and_missed_days_equal_serving_daily(market: Market) -> None:
    """The same candidates are promoted on the same days with the same figures."""
    served = live(market, with_policy(Policy(2)), RUN)
    market.show(DAYS[62])
    late = with_policy(Policy(2), name="late")
    late.routine()
    market.show(RUN[-1])
    late.routine()
    market.show(DAYS[90])
    simulated = with_policy(Policy(2), name="simulated")
    simulated.simulate(RUN[-1])
    for other in (late, simulated):
        equal(other.get_signals(), served.get_signals())
        assert decisions(other) == decisions(served)
        assert list(other.state.shadows) == list(served.state.shadows)


def test_a_model_is_promoted_by_hand_while_it_is_compared(market: Market) -> None:
    """After a rollback the former one is the champion again; later windows are candidates."""
    served = live(market, with_policy(Policy(3, margin=2.0)), RUN[:5])
    challenger = next(r for r in recorders() if start_of(r) == DAYS[64])
    former = next(r for r in recorders() if start_of(r) == DAYS[60])
    served.strategies[0].tool.reset_online_tag([challenger])
    for day in RUN[5:7]:
        market.show(day)
        served.routine(day)
    assert roles(served, DAYS[66]) == ([64], [])
    served.strategies[0].tool.reset_online_tag([former])
    for day in RUN[7:9]:
        market.show(day)
        served.routine(day)
    assert roles(served, DAYS[68]) == ([60], [68])


def test_without_the_policy_candidates_end_with_the_next_window(market: Market) -> None:
    """The model of the next window is the champion at once, as by default."""
    served = live(market, with_policy(Policy(50)), RUN[:6])
    again = with_policy(None, service=served.service.name)
    market.show(DAYS[68])
    again.routine()
    assert [roles(again, day) for day in (DAYS[67], DAYS[68])] == [([60], [64]), ([68], [])]


def test_a_candidate_never_prevents_publication(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it cannot predict, or a file of its predictions was changed, there is a warning; the days do not count."""
    served = live(market, with_policy(Policy(2)), RUN[:5])
    challenger = next(r for r in recorders() if start_of(r) == DAYS[64])
    predict = LinearModel.predict
    broken = challenger.load_object("params.pkl").coef_.tolist()

    def failing(self: LinearModel, *args: Any, **kwargs: Any) -> Any:
        if self.coef_.tolist() == broken:
            raise ValueError("no memory")
        return predict(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LinearModel, "predict", failing)
        market.show(RUN[5])
        served.routine()
    assert days_of(served.get_signals())[-1] == RUN[5]
    event = served.state.events[-1][1]
    assert (event.level, "has no prediction for" in event.text) == (Level.WARNING, True)
    assert RUN[5] not in served.state.shadows
    file = served.service.place / served.state.shadows[RUN[4]].file
    file.write_bytes(b"")
    market.show(RUN[6])
    served.routine()
    assert days_of(served.get_signals())[-1] == RUN[6]
    assert "were changed after" in served.state.events[-1][1].text
    assert served.state.comparisons == ()


def test_a_manager_keeps_its_policy_in_its_file(market: Market) -> None:
    """The ledger has it too."""
    import pickle

    served = live(market, with_policy(Policy(7, "ic", 0.5, "keep")), RUN[:1])
    assert pickle.loads(pickle.dumps(served)).service.policy == Policy(7, "ic", 0.5, "keep")
    assert served.state.definition is not None
    assert served.state.definition.policy == {"shadow_days": 7, "metric": "ic", "margin": 0.5, "lost": "keep"}
    assert manager(name="other").service.policy is None


def test_a_policy_that_is_given_later_is_recorded(market: Market) -> None:
    """Once, as a separate entry before the day on which it is used; its removal is recorded, too."""
    live(market, with_policy(None, service="one"), RUN[:2])
    served = live(market, with_policy(Policy(3), service="one"), RUN[2:4])
    assert served.state.definition is not None
    assert served.state.definition.policy == Policy(3).to_document()
    assert [e.kind for e in served.state.entries].count(EntryKind.SERVICE) == 2
    later = live(market, with_policy(None, service="one"), RUN[4:5])
    assert later.state.definition is not None
    assert later.state.definition.policy == {}
    assert later.state.last_published == RUN[4]


def test_a_correction_makes_the_predictions_of_candidates_again(market: Market) -> None:
    """Those of a day whose data have changed, from the data as they are now; the earlier file is kept."""
    served = live(market, with_policy(Policy(9)), RUN[:8])
    before = served.state.shadows
    market.close.loc[DAYS[65], "B"] *= 1.1
    market.show(RUN[7])
    corrected = correct(served.service)
    assert [signal.day for signal in corrected] == DAYS[65:68]
    after = served.state.shadows
    assert {day for day, shadow in after.items() if shadow != before[day]} == {*DAYS[65:68]}
    assert after[DAYS[65]].file.endswith(f"{DAYS[65]}.v2.parquet")
    (champion,) = served.state.champions(DAYS[65])
    for day in DAYS[65:68]:
        stored = read_table(served.service.place / after[day].file)[champion.recorder]
        assert stored.equals(
            served.service.recorder(champion).load_object("pred.pkl").loc[[day], "score"].rename(stored.name)
        )
        assert (served.service.place / before[day].file).exists()
    last = served.state.last
    assert correct(served.service) == correct(served.service, DAYS[66]) == []
    assert served.state.last == last
    (candidate,) = served.state.candidates(DAYS[67])
    get_experiment(open_tracker(current_session().tracking_uri), experiment_name="served").delete_recorder(
        candidate.recorder
    )
    market.close.loc[DAYS[67], "B"] *= 1.1
    market.show(RUN[7])
    assert [signal.day for signal in correct(served.service)] == [DAYS[67]], "a lost candidate prevents no correction"
    (event,) = served.state.contents[-1].events
    assert (event.level, event.text.partition(": ")[0]) == (
        Level.WARNING, "the predictions of candidates were not recomputed",
    )  # fmt: skip
    assert served.state.shadows == after


def test_a_day_that_is_made_up_decides_nothing(market: Market) -> None:
    """Later days have been published, so candidates are not compared on a day whose data have arrived late."""
    full = market.close.copy()
    market.close.loc[DAYS[66]] = np.nan
    served = live(market, with_policy(Policy(9)), RUN[:6])
    market.show(DAYS[67])
    served.routine()
    assert served.state.days[DAYS[66]].state is DayState.FAILED
    market.close = full
    market.show(DAYS[68])
    served.routine()
    assert served.state.days[DAYS[66]].state is DayState.PUBLISHED
    assert [day for day in served.state.shadows if day >= DAYS[65]] == [DAYS[65], DAYS[67], DAYS[68]]
