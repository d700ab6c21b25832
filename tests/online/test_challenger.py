"""A challenger: a model of the workflow runs in shadow mode over its windows, and is promoted if it is not worse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from growing import DAYS, Market, equal, live, recorders, start_of, strategy, template
from rollforge.errors import ConfigError
from rollforge.generate.rolling import RollingGen
from rollforge.ledger.entry import (
    DayResult,
    DayState,
    Entry,
    EntryKind,
    Level,
    Release,
    Role,
    Shadow,
    Verdict,
    day_body,
    release_body,
    service_body,
)
from rollforge.ledger.state import ServiceState
from rollforge.models.linear import LinearModel
from rollforge.online.challenger import Challenger, rival_of
from rollforge.online.corrections import correct
from rollforge.online.manager import OnlineManager
from rollforge.online.policy import Policy
from rollforge.online.strategy import RollingStrategy
from rollforge.track.frame import read_table

RUN = DAYS[60:76]
"""Windows begin on 60, 64, 68 and 72. A label is known two days later."""
OLD, NEW = template(), template(estimator="ridge", alpha=0.001)


def challenged(
    policy: Policy | None, service: str = "challenged", models: dict[str, Any] | None = None, begin: str = RUN[0]
) -> OnlineManager:
    models = {"old": OLD, "new": NEW} if models is None else models
    rolled = RollingStrategy(service, [*models.values()], RollingGen(step=4, rtype="sliding"), [*models])
    return OnlineManager(rolled, begin_time=begin, service=service, policy=policy)


def roles(served: OnlineManager, day: str) -> tuple[list[str], list[str]]:
    """Return the champions and the candidates of a day as ``MODEL WINDOW``, the window as a position in `DAYS`."""
    name = served.strategies[0].experiment_name
    windows = {r.id: DAYS.index(start_of(r)) for r in recorders(name)}
    known = served.state
    return tuple(
        [f"{r.template} {windows[r.recorder]}" for r in found]
        for found in (known.champions(day), known.candidates(day))
    )  # type: ignore[return-value]


def until(market: Market, served: OnlineManager, day: str) -> OnlineManager:
    """Publish the days up to one, all in a single routine."""
    market.show(day)
    served.routine()
    return served


def check_means(market: Market, served: OnlineManager) -> None:
    """Compute the figures of the last comparison anew from the shadow files and the prices."""
    label = (market.close.shift(-2) / market.close.shift(-1) - 1).stack()
    label.index.names = ["datetime", "instrument"]
    means = dict.fromkeys(("old", "new"), 0.0)
    last = served.state.comparisons[-1][1]
    for day in RUN[: last.days]:
        scores = read_table(served.service.place / served.state.shadows[day].file)
        for release in (*served.state.champions(day), *served.state.candidates(day)):
            rows = scores[release.recorder]
            means[release.template] += rows.corr(label.reindex(rows.index)) / last.days
    assert means["old"] != means["new"]
    assert {"old": last.champion_mean, "new": last.candidate_mean} == pytest.approx(means, abs=1e-6)


def served_alone(market: Market, model: dict[str, Any], name: str) -> Any:
    """Return the signals of a service with a single model."""
    return until(market, OnlineManager(strategy(name, model), begin_time=RUN[0]), RUN[12]).get_signals()


def test_a_challenger_is_compared_over_its_windows_and_promoted(market: Market) -> None:
    """Five days with labels end in the second window of both. The signals are to the bit those of the champion alone."""
    served = live(market, challenged(Policy(5, metric="ic", margin=2.0, challenger="new")), RUN[:13])
    assert roles(served, DAYS[60]) == (["old 60"], ["new 60"])
    assert roles(served, DAYS[64]) == (["old 64"], ["new 64"])
    assert roles(served, DAYS[66]) == (["old 64"], ["new 64"])
    assert roles(served, DAYS[67]) == (["new 64"], [])
    assert roles(served, DAYS[72]) == (["new 72"], [])
    found = [(c.days, c.verdict) for _, c in served.state.comparisons]
    assert found == [*((days, Verdict.SHADOW) for days in range(1, 5)), (5, Verdict.PROMOTED)]
    check_means(market, served)
    signals = served.get_signals()
    old, new = served_alone(market, OLD, "alone-old"), served_alone(market, NEW, "alone-new")
    assert not old.loc[DAYS[60] : DAYS[66]].equals(new.loc[DAYS[60] : DAYS[66]])
    equal(signals.loc[: DAYS[66]], old.loc[: DAYS[66]])
    equal(signals.loc[DAYS[67] :], new.loc[DAYS[67] :])
    trained = [DAYS.index(start_of(r)) for r in recorders("challenged")]
    assert sorted(trained) == [52, 52, 56, 56, 60, 60, 64, 64, 68, 72]  # the replaced model is no longer trained


@pytest.mark.slow
def test_a_challenger_that_has_lost_waits_for_another_policy_or_definition(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The challenger is then a candidate from its next window on; the days before do not count again."""
    monkeypatch.setattr(Policy, "is_promoted", lambda self, candidate, champion: False)
    served = until(market, challenged(Policy(2, challenger="new")), RUN[8])
    assert [roles(served, day)[1] for day in (DAYS[63], DAYS[64], DAYS[68])] == [["new 60"], [], []]
    assert [DAYS.index(start_of(r)) for r in recorders("challenged")].count(64) == 1
    again = until(market, challenged(Policy(4, challenger="new")), RUN[13])
    assert [roles(again, day)[1] for day in (DAYS[68], DAYS[69], DAYS[72])] == [[], ["new 68"], ["new 72"]]
    assert [c.days for _, c in again.state.comparisons] == [1, 2, 1, 2, 3]
    changed = {"old": OLD, "new": template(estimator="ridge", alpha=0.002)}
    until(market, challenged(Policy(4, challenger="new"), models=changed), RUN[14])
    assert again.state.comparisons[-1][1].verdict is Verdict.LOST
    kept = until(market, challenged(Policy(4, challenger="new"), models=changed), DAYS[78])
    assert (roles(kept, DAYS[76]), kept.state.comparisons[-1][1].days) == ((["old 76"], ["new 76"]), 1)


@pytest.mark.slow
def test_a_change_of_definition_begins_the_comparison_anew(market: Market) -> None:
    """The comparison begins with the next window. Until then, the candidate is the model of the former definition."""
    until(market, challenged(Policy(50, challenger="new")), RUN[2])
    changed = {"old": OLD, "new": template(estimator="ridge", alpha=0.002)}
    served = until(market, challenged(Policy(50, challenger="new"), models=changed), RUN[7])
    days = {entry.body["day"]["day"]: one.days for entry, one in served.state.comparisons}  # type: ignore[index]
    assert days == {DAYS[62]: 1, DAYS[63]: 2, DAYS[66]: 1, DAYS[67]: 2}


@pytest.mark.slow
def test_by_hand_and_back(market: Market) -> None:
    """A promoted challenger goes on with its windows; after a rollback the former model does, and no challenger runs."""
    served = until(market, challenged(Policy(50, challenger="new")), RUN[4])
    first = {f"{r.template}": r for r in (*served.state.champions(DAYS[64]), *served.state.candidates(DAYS[64]))}
    tool = served.strategies[0].tool
    tool.reset_online_tag([served.service.recorder(first["new"])])
    until(market, served, RUN[9])
    assert [roles(served, day) for day in (DAYS[65], DAYS[68])] == [(["new 64"], []), (["new 68"], [])]
    tool.reset_online_tag([served.service.recorder(first["old"])])
    until(market, served, RUN[12])
    assert [roles(served, day) for day in (DAYS[69], DAYS[70], DAYS[72])] == [
        (["new 68"], []),
        (["old 64"], []),
        (["old 72"], []),
    ]


def test_a_challenger_never_prevents_publication(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it cannot be trained, the champion's new window is used as usual, and the entry has a warning."""
    fit = LinearModel.fit

    def failing(self: LinearModel, *args: Any, **kwargs: Any) -> Any:
        if self.estimator == "ridge":
            raise ValueError("singular")
        return fit(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LinearModel, "fit", failing)
        served = until(market, challenged(Policy(50, challenger="new")), RUN[4])
    assert roles(served, DAYS[64]) == (["old 64"], [])
    assert {(event.level, event.text.partition(":")[0]) for _, event in served.state.events} == {
        (Level.WARNING, "the training of the challenger failed")
    }
    until(market, served, RUN[5])
    assert roles(served, DAYS[65])[0] == ["old 64"]


def test_the_universe_of_a_challenger_need_not_have_prices(market: Market) -> None:
    """The day is published with the champion alone; a day without prices of its own universe would fail."""
    alone = template(estimator="ridge", alpha=0.001)
    alone["dataset"]["kwargs"]["handler"]["kwargs"]["instruments"] = "some"
    market.close.loc[DAYS[61], "D"] = float("nan")
    served = challenged(Policy(50, challenger="new"), models={"old": OLD, "new": alone})
    for day in DAYS[60:62]:
        market.show(day)
        (market.folder / "instruments" / "some.txt").write_text(f"D\t{DAYS[0]}\t{day}\n")
        served.routine()
    assert DAYS[61] in served.state.signals()
    assert DAYS[61] not in served.state.shadows


def test_a_service_that_began_with_one_model_gets_a_challenger(market: Market) -> None:
    """The windows of the service continue, and the challenger begins with its next window; it may replace the model."""
    until(market, challenged(None, models={"old": OLD}), RUN[1])
    served = until(market, challenged(Policy(2, margin=2.0, challenger="new")), RUN[8])
    assert [roles(served, day) for day in (DAYS[63], DAYS[64], DAYS[68])] == [
        (["challenged 60"], []),
        (["old 64"], ["new 64"]),
        (["new 68"], []),
    ]


def test_a_third_model_stays_in_the_average(market: Market) -> None:
    """Only the named model is replaced."""
    models = {"old": OLD, "new": NEW, "third": template(estimator="ridge", alpha=1.0)}
    policy = Policy(2, margin=2.0, challenger="new", replaces="old")
    served = until(market, challenged(policy, models=models), RUN[4])
    assert roles(served, DAYS[63]) == (["old 60", "third 60"], ["new 60"])
    assert roles(served, DAYS[64]) == (["new 64", "third 64"], [])


@pytest.mark.parametrize(
    ("challenger", "replaces", "names", "message"),
    [
        (
            "nwe",
            "",
            ["old", "new"],
            "policy.challenger: must be the name of a model, one of old, new; found 'nwe'.*'new'",
        ),
        ("new", "odl", ["old", "new"], "policy.replaces: must be the name of a model.*Did you mean 'old'"),
        ("new", "new", ["old", "new"], "policy.replaces: must be another model"),
        ("new", "", ["new"], "policy.replaces: name the model .* There is no other model"),
        ("new", "", ["old", "new", "third"], "policy.replaces: .*There are several others: old, third"),
    ],
)
def test_names_that_do_not_exist_or_are_ambiguous(
    challenger: str, replaces: str, names: list[str], message: str
) -> None:
    """Each message has the key in the workflow."""
    with pytest.raises(ConfigError, match=message):
        rival_of(challenger, replaces, names)


def test_the_model_that_is_replaced_needs_a_challenger() -> None:
    """The name of a challenger that no strategy has is refused by the service."""
    with pytest.raises(ConfigError, match="replaces: requires 'challenger'"):
        Policy(5, replaces="old")
    with pytest.raises(ConfigError, match=r"found 'newer'\. Did you mean 'new'"):
        challenged(Policy(5, challenger="newer"))


def test_a_correction_of_a_challenger_alone_is_recorded(market: Market) -> None:
    """The published signals stay the same if only the features of the challenger reach back to the changed day."""
    short = template()
    loader = short["dataset"]["kwargs"]["handler"]["kwargs"]["data_loader"]["kwargs"]["config"]
    loader["feature"] = [["$close/Ref($close,1)-1"], ["R1"]]
    served = until(market, challenged(Policy(9, challenger="new"), models={"old": short, "new": NEW}), RUN[0])
    until(market, served, RUN[5])
    before = served.state.shadows
    market.close.loc[RUN[1], "B"] *= 1.1
    market.show(RUN[5])
    assert [signal.day for signal in correct(served.service)] == [RUN[1], RUN[2]]
    changed = {day for day, shadow in served.state.shadows.items() if shadow != before[day]}
    assert changed == {*RUN[1:6]}
    last = served.state.last
    assert correct(served.service) == []
    assert served.state.last == last


RULE = Challenger("s", "new", "old")


def model(template: str, role: Role, day: str, definition: str = "one") -> Release:
    return Release("t", "s", f"{template} {definition}", role, day, "", "", "s", template, definition)


def after(*decisions: Release | list[Release] | dict[str, Any]) -> ServiceState:
    """Return the state after the days of releases; a list of releases is a promotion, and a mapping a policy."""
    state = ServiceState()
    for decision in decisions:
        if isinstance(decision, list):
            kind, body = EntryKind.PROMOTION, release_body(decision, "")
        elif isinstance(decision, dict):
            kind, body = EntryKind.SERVICE, service_body("us", {}, decision)
        else:
            day = DayResult(decision.from_day, DayState.PUBLISHED)
            kind, body = EntryKind.DAY, day_body(day, releases=[decision])
        state = state.after(Entry("us", state.last + 1, kind, body, 1, 0.0))
    return state


@pytest.mark.parametrize(
    ("champions", "opponent"),
    [
        (["old"], "old"), (["third", "old"], "old"), (["served"], "served"),
        (["third", "fourth"], None), (["new"], None), ([], None),
    ],
)  # fmt: skip
def test_the_opponent_is_known_or_there_is_none(champions: list[str], opponent: str | None) -> None:
    """A champion under another name is the opponent only if it is the only one of the strategy."""
    state = after(*(model(name, Role.CHAMPION, RUN[0]) for name in champions))
    found = RULE.opponent(state, RUN[0])
    assert (None if found is None else found.template) == opponent


def test_only_days_without_interruption_and_of_one_definition_are_compared() -> None:
    """A challenger that was not trained for a while, or was defined anew, is compared from then on."""
    old = model("old", Role.CHAMPION, RUN[0])
    changes = [
        (RUN[1], Role.CANDIDATE, "one"), (RUN[2], Role.RETIRED, "one"), (RUN[3], Role.CANDIDATE, "one"),
        (RUN[4], Role.RETIRED, "one"), (RUN[4], Role.CANDIDATE, "two"),
    ]  # fmt: skip
    state = after(old, *(model("new", role, day, definition) for day, role, definition in changes))
    shadows = [
        Shadow(day, ("old one", "new one", "new two"), "file", "0" * 64, 4) for day in (RUN[1], RUN[3], RUN[4], RUN[5])
    ]
    (candidate,) = state.candidates(RUN[5])
    assert [shadow.day for shadow, *_ in RULE.days(state, candidate, RUN[5], shadows)] == [RUN[4], RUN[5]]
    before = after(old, *(model("new", role, day, definition) for day, role, definition in changes[:3]))
    (candidate,) = before.candidates(RUN[3])
    assert [shadow.day for shadow, *_ in RULE.days(before, candidate, RUN[3], shadows[:2])] == [RUN[3]]
    assert RULE.days(before, candidate, RUN[2], shadows[:1]) == []


def test_a_challenger_that_has_ended_is_trained_again_for_a_reason() -> None:
    """The reasons are another definition, and a promotion for a later day."""
    ended = [
        model("old", Role.CHAMPION, RUN[0]), model("new", Role.CANDIDATE, RUN[0]), model("new", Role.RETIRED, RUN[1]),
    ]  # fmt: skip
    state = after(*ended)
    assert RULE.windows_from(state, RUN[2], "new", "one") is None
    assert RULE.windows_from(state, RUN[2], "new", "two") == ""
    assert RULE.windows_from(state, RUN[2], "old", "one") == RUN[0]
    planned = after(*ended, [model("new", Role.CHAMPION, RUN[5])])
    assert RULE.windows_from(planned, RUN[2], "new", "one") == ""
    assert RULE.windows_from(planned, RUN[5], "new", "one") == RUN[5]


def test_a_challenger_that_has_ended_is_trained_again_under_another_policy() -> None:
    """The policy is compared with the one under which it ended, not with that under which it began."""
    policy = Policy(5, challenger="new")
    ended = [
        policy.to_document(), model("old", Role.CHAMPION, RUN[0]), model("new", Role.CANDIDATE, RUN[0]),
        replace(policy, shadow_days=9).to_document(), model("new", Role.RETIRED, RUN[1]),
        model("old", Role.CHAMPION, RUN[2]),
    ]  # fmt: skip
    assert RULE.windows_from(after(*ended), RUN[3], "new", "one") is None
    again = after(*ended, replace(policy, shadow_days=9).to_document())
    assert RULE.windows_from(again, RUN[3], "new", "one") is None
    assert RULE.windows_from(after(*ended, policy.to_document()), RUN[3], "new", "one") == ""


def test_the_rival_is_not_trained_while_the_challenger_is_the_champion_in_its_place() -> None:
    """A challenger that is one of several champions replaces no other model."""
    promoted = replace(model("new", Role.CHAMPION, RUN[0]), instead_of="old")
    assert RULE.windows_from(after(promoted), RUN[1], "old", "one") is None
    assert RULE.windows_from(after(model("new", Role.CHAMPION, RUN[0])), RUN[1], "old", "one") == ""
