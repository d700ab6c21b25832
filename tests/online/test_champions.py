"""On each day one model of a template is the champion, regardless of the decisions and their order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from command_line import call
from growing import BEGIN, DAYS, STEP, Market, live, manager, recorders, start_of, template
from rollforge.dates import day_after
from rollforge.errors import ConfigError, TrackingError
from rollforge.generate.rolling import RollingGen
from rollforge.ledger.base import open_ledger
from rollforge.ledger.entry import (
    Comparison,
    DayResult,
    DayState,
    Entry,
    EntryKind,
    Release,
    Role,
    Verdict,
    day_body,
    release_body,
)
from rollforge.ledger.state import ServiceState
from rollforge.online.manager import OnlineManager
from rollforge.online.policy import Policy, candidates_of, decided
from rollforge.online.releases import after_planned, of_challenger, of_windows, replaced_by, replaced_in_template
from rollforge.online.strategy import RollingStrategy
from rollforge.online.tool import OnlineToolR
from rollforge.session import current_session
from rollforge.track.base import Recorder

FIRST = [f"2024-01-{day:02}" for day in range(1, 15)]
TEMPLATES = ("a", "b")
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["day", "window", "shadow", "policy", "promote", "rollback"]),
        st.integers(0, 5),
        st.integers(0, 9),
    ),
    max_size=12,
)


def release(recorder: str, day: str, template: str, role: Role = Role.CHAMPION) -> Release:
    return Release("t", "exp", recorder, role, day, "", "", "s", template)


class Decided:
    """A service with two templates, with decisions in memory like those of the routine and the commands."""

    def __init__(self) -> None:
        self.state, self.names, self.place = ServiceState(), count(), 0
        self.append(EntryKind.DAY, [release(f"first-{t}", FIRST[0], t) for t in TEMPLATES])

    def append(self, kind: str, releases: Sequence[Release]) -> None:
        day = DayResult(FIRST[self.place], DayState.PUBLISHED)
        body = day_body(day, releases=releases) if kind == EntryKind.DAY else release_body(releases, "")
        self.state = self.state.after(Entry("us", self.state.last + 1, kind, body, 1, 0.0))

    def decide(self, action: str, number: int, choice: int) -> None:
        """Publish a day and begin a window on it, also in shadow; promote a candidate; promote a former model from a
        later day on, or return to earlier models.
        """
        today, later = FIRST[self.place], FIRST[min(self.place + 1 + number, len(FIRST) - 1)]
        if action in ("day", "window", "shadow", "policy"):
            self.place = min(self.place + 1, len(FIRST) - 1)
            releases = []
            if FIRST[self.place] != today and action in ("window", "shadow"):
                releases = self.window(TEMPLATES[choice % 2], shadow=action == "shadow")
            elif FIRST[self.place] != today and action == "policy":
                releases = self.compare(number, choice)
            self.append(EntryKind.DAY, releases)
        elif later > today:
            known = list({r.recorder: r for _, r in self.state.releases}.values())
            models, outgoing = [known[choice % len(known)]], None
            if action == "rollback":
                models = list(self.state.champions(later, as_of=1 + choice % self.state.last))
            else:
                outgoing = replaced_in_template(self.state, models[0], later)
            releases = replaced_by(self.state, models, later, "by hand", outgoing)
            if releases:
                self.append(EntryKind.PROMOTION, releases)

    def window(self, template: str, *, shadow: bool = False) -> list[Release]:
        day = FIRST[self.place]
        former = [r for r in self.state.champions(day) if r.template == template]
        return of_windows(self.state, [release(f"w{next(self.names)}", day, template)], former, shadow=shadow)

    def compare(self, number: int, choice: int) -> list[Release]:
        day = FIRST[self.place]
        pairs = candidates_of(self.state, day)
        results = [
            Comparison(c.recorder, h.recorder, "ic", 1, 0.0, 0.0, list(Verdict)[(number + choice * i) % len(Verdict)])
            for i, (c, h) in enumerate(pairs)
        ]
        return decided(self.state, Policy(1), day, pairs, results)


def by_rows(state: ServiceState, day: str) -> list[str]:
    """Return the champions of a day as a program finds them that reads the rows only: the last one of each model
    counts."""
    latest = {r.recorder: r for _, r in state.releases if r.from_day <= day}
    return sorted(r.template for r in latest.values() if r.role is Role.CHAMPION)


@given(ACTIONS)
def test_one_champion_of_each_template_on_any_day(actions: list[tuple[str, int, int]]) -> None:
    """After any sequence of windows, candidates, promotions for later days and rollbacks. The past is never changed."""
    served = Decided()
    for action in actions:
        before, published = served.state, FIRST[: served.place + 1]
        served.decide(*action)
        for day in FIRST:
            assert sorted(r.template for r in served.state.champions(day)) == list(TEMPLATES), (day, action)
            assert by_rows(served.state, day) == list(TEMPLATES), (day, action)
        for day in published:
            assert served.state.champions(day) == before.champions(day)


def test_a_window_does_not_cancel_a_planned_promotion() -> None:
    """The planned promotion is used until then. A later window replaces the promoted model, and a change by hand
    replaces the plan."""
    served = Decided()
    model = served.state.champions(FIRST[0])[0]
    served.append(EntryKind.DAY, [release(model.recorder, FIRST[0], "a", Role.RETIRED), release("new", FIRST[0], "a")])
    served.append(EntryKind.PROMOTION, replaced_by(served.state, [model], FIRST[5], "", lambda r: r.template == "a"))
    served.place = 2
    served.append(EntryKind.DAY, served.window("a"))
    used = [next(r.recorder for r in served.state.champions(day) if r.template == "a") for day in FIRST[:7]]
    assert used == ["new", "new", "w0", "w0", "w0", "first-a", "first-a"]
    other = release("new", FIRST[4], "a")
    served.append(EntryKind.PROMOTION, replaced_by(served.state, [other], FIRST[4], "", lambda r: r.template == "a"))
    assert [r.recorder for r in served.state.champions(FIRST[6]) if r.template == "a"] == ["new"]


def named(releases: Sequence[Release]) -> list[tuple[str, str, str]]:
    """Return the recorders of releases with their new roles and first days."""
    return [(r.recorder, r.role.value, r.from_day) for r in releases]


def test_a_promoted_model_replaces_a_single_champion_whatever_its_template() -> None:
    """A model without a template, such as one of an earlier version, replaces all champions of its strategy."""
    single = ServiceState().after(
        Entry("us", 1, EntryKind.PROMOTION, release_body([release("first", FIRST[0], "a")], ""), 1, 0.0)
    )
    (champion,) = single.champions(FIRST[0])
    assert replaced_in_template(single, release("old", FIRST[0], "c"), FIRST[1])(champion)
    served = Decided()
    outgoing = replaced_in_template(served.state, release("old", FIRST[0], ""), FIRST[1])
    assert [outgoing(r) for r in served.state.champions(FIRST[0])] == [True, True]


def test_of_several_windows_the_last_one_is_the_candidate() -> None:
    """Without a policy each is the champion from its first day on, until the next one begins, and candidates end."""
    served = Decided()
    former = [r for r in served.state.champions(FIRST[0]) if r.template == "a"]
    new = [release(f"w{place}", FIRST[place], "a") for place in (1, 3, 5)]
    assert named(of_windows(served.state, new, former, shadow=True)) == [("w5", "candidate", FIRST[5])]
    assert named(of_windows(served.state, new, former, shadow=False)) == [
        ("first-a", "retired", FIRST[1]), ("w1", "champion", FIRST[1]), ("w1", "retired", FIRST[3]),
        ("w3", "champion", FIRST[3]), ("w3", "retired", FIRST[5]), ("w5", "champion", FIRST[5]),
    ]  # fmt: skip
    assert of_windows(served.state, new, [*former, new[-1]], shadow=True) == []
    served.append(EntryKind.DAY, [release("c", FIRST[0], "a", Role.CANDIDATE)])
    assert named(of_windows(served.state, new[:1], former, shadow=True)) == [("w1", "candidate", FIRST[1])]
    ended = of_windows(served.state, new[:1], former, shadow=False)
    assert ("c", "retired", FIRST[1]) in named(ended)


def test_a_plan_for_the_day_of_the_next_window_does_not_concern_the_window_before() -> None:
    """The plan is applied to the window that begins on its day."""
    served = Decided()
    planned = replaced_by(served.state, [release("planned", FIRST[5], "a")], FIRST[5], "", lambda r: r.template == "a")
    served.append(EntryKind.PROMOTION, planned)
    window = release("w", FIRST[2], "a")
    assert named(after_planned(served.state, window, FIRST[5])) == [("w", "champion", FIRST[2])]
    assert named(after_planned(served.state, window, FIRST[6])) == [
        ("w", "champion", FIRST[2]), ("w", "retired", FIRST[5]), ("planned", "champion", FIRST[5]),
    ]  # fmt: skip


def test_a_model_that_becomes_the_challenger_is_no_longer_a_champion() -> None:
    """A single champion stays, or nothing would be published. The candidate of the window before ends."""
    new = release("w", FIRST[2], "a")
    served = Decided()
    assert named(of_challenger(served.state, new)) == [
        ("first-a", "retired", FIRST[2]), ("w", "candidate", FIRST[2]),
    ]  # fmt: skip
    served = Decided()
    served.append(EntryKind.DAY, [release("first-b", FIRST[0], "b", Role.RETIRED)])
    served.append(EntryKind.DAY, [release("c", FIRST[0], "a", Role.CANDIDATE)])
    assert named(of_challenger(served.state, new)) == [("c", "retired", FIRST[2]), ("w", "candidate", FIRST[2])]


def test_a_model_of_a_removed_template_cannot_be_promoted_alone() -> None:
    """The promotion of such a model alone would be ambiguous which of several champions it replaces."""
    served = Decided()
    with pytest.raises(ConfigError, match=r"template 'c', which the service no longer has, .* of a, b"):
        replaced_in_template(served.state, release("old", FIRST[0], "c"), FIRST[1])


def test_a_promotion_for_a_later_day_takes_effect_on_it(market: Market) -> None:
    """The promotion does not take effect on the next day, even if a window begins in between; on each day one model
    predicts."""
    market.show(DAYS[62])
    served = live(market, manager(), DAYS[60:63])
    starts = {r.id: start_of(r) for r in recorders()}
    former = next(key for key, day in starts.items() if day == DAYS[56])
    day = DAYS[66]
    result = call("serve", "--ledger", current_session().store_uri, "promote", former, "--from", day)
    assert result.exit_code == 0, result.exception
    market.show(DAYS[69])
    served.routine()
    starts = {r.id: start_of(r) for r in recorders()}
    used = {d: [starts[r.recorder] for r in served.state.champions(d)] for d in DAYS[60:70]}
    windows = {60: 60, 61: 60, 62: 60, 63: 60, 64: 64, 65: 64, 66: 56, 67: 56, 68: 68, 69: 68}
    assert used == {DAYS[d]: [DAYS[w]] for d, w in windows.items()}
    assert {s.day: len(s.recorders) for s in served.state.signals().values()} == dict.fromkeys(DAYS[52:70], 1)
    assert day_after(served.state.last_published or "") > DAYS[69]


def test_a_model_replaces_that_of_its_template_only(market: Market) -> None:
    """A model of the other template stays the champion; a rollback returns to both."""
    templates = [template(estimator="ridge", alpha=alpha) for alpha in (0.1, 10.0)]
    served = live(market, manager(templates=templates), DAYS[60:62])
    uri = current_session().store_uri
    first, second = served.state.champions(DAYS[61])
    known: Any = {r.recorder: r for _, r in served.state.releases}
    former = next(r for r in known.values() if r.template == first.template and r.recorder != first.recorder)
    assert call("serve", "--ledger", uri, "promote", former.recorder).exit_code == 0
    state = ServiceState.of(open_ledger(uri).entries(served.service.name))
    assert {r.recorder for r in state.champions(DAYS[62])} == {former.recorder, second.recorder}
    assert call("serve", "--ledger", uri, "rollback").exit_code == 0
    found = json.loads(call("serve", "--ledger", uri, "status", "--json").stdout)
    assert {r["recorder"] for r in found["champions"]} == {first.recorder, second.recorder}


def test_tags_that_cannot_be_written_fail_no_day(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """The day is published even if a custom strategy reads back which models it has put online. The next day writes the
    tags."""

    class Own(RollingStrategy):
        def prepare_online_models(self, trained_models: Any, cur_time: Any = None) -> Any:
            super().prepare_online_models(trained_models, cur_time)
            return self.tool.online_models()

    def refused(recorder: Recorder, **tags: object) -> None:
        raise TrackingError("the server is not available")

    rolling = RollingGen(step=STEP, rtype="sliding")
    services = [
        OnlineManager(kind(kind.__name__, template(), rolling), begin_time=BEGIN) for kind in (Own, RollingStrategy)
    ]
    for served in services:
        live(market, served, [BEGIN])
    broken = list(DAYS[61:70])
    with monkeypatch.context() as patched:
        patched.setattr(OnlineToolR, "set_online_tag", lambda tool, tag, recorder: refused(recorder))
        for served in services:
            live(market, served, broken)
    own = services[0]
    starts = [[start_of(own.service.recorder(r)) for r in served.state.champions(broken[-1])] for served in services]
    assert starts[0] == starts[1] != [start_of(r) for r in own.strategies[0].tool.online_models()]
    for served in services:
        live(market, served, [DAYS[70]])
        (champion,) = served.state.champions(DAYS[70])
        assert [r.id for r in served.strategies[0].tool.online_models()] == [champion.recorder]
