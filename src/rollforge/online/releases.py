"""Releases, which say which model is the champion from which day on; computed from a service's state alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rollforge.errors import ConfigError
from rollforge.ledger.entry import Release, Role, Verdict, author
from rollforge.ledger.state import ServiceState

__all__ = ["after_planned", "of_challenger", "of_windows", "planned_champions", "replaced_by", "replaced_in_template"]


def replaced_by(
    state: ServiceState,
    models: Sequence[Release],
    day: str,
    reason: str,
    outgoing: Callable[[Release], bool] | None = None,
) -> list[Release]:
    """Return the releases by which models become champions from a day on. Changes that were planned for later are dropped.

    Parameters
    ----------
    state : ServiceState
        The state of the service.
    models : sequence of Release
        The models, of one strategy.
    day : str
        The first day.
    reason : str
        The reason.
    outgoing : callable, optional
        Whether a champion is replaced; by default every one of the strategy.

    Returns
    -------
    list of Release
        Empty if the models are already the champions.
    """
    by, wanted = author(), {(m.experiment_name, m.recorder) for m in models}
    strategy = models[0].strategy

    def leaves(release: Release) -> bool:
        same = release.strategy == strategy and (outgoing is None or outgoing(release))
        return same and (release.experiment_name, release.recorder) not in wanted

    def changed_to(release: Release, role: Role, first: str) -> Release:
        return replace(release, role=role, from_day=first, by=by, reason=reason)

    present = state.champions(day)
    there = {(r.experiment_name, r.recorder) for r in present}
    changed = [changed_to(r, Role.RETIRED, day) for r in present if leaves(r)]
    changed += [changed_to(m, Role.CHAMPION, day) for m in models if (m.experiment_name, m.recorder) not in there]
    decided = {(r.experiment_name, r.recorder) for r in changed}
    for later in state.planned(day):  # what was planned for that day is no longer valid
        then = state.champions(later)
        undone = [r for r in then if leaves(r) and (r.experiment_name, r.recorder) not in decided]
        missing = wanted - {(r.experiment_name, r.recorder) for r in then} - decided
        again = [m for m in models if (m.experiment_name, m.recorder) in missing]
        changed += [
            *(changed_to(r, Role.RETIRED, later) for r in undone),
            *(changed_to(m, Role.CHAMPION, later) for m in again),
        ]
        decided |= {(r.experiment_name, r.recorder) for r in (*undone, *again)}
    return changed


def replaced_in_template(state: ServiceState, model: Release, day: str) -> Callable[[Release], bool]:
    """Return a function that says whether a champion is replaced by a single promoted model: that of the same template.

    Raises
    ------
    ConfigError
        If it is ambiguous which one is to be replaced.
    """
    present = [r for r in state.champions(day) if r.strategy == model.strategy]
    if not model.template or len(present) < 2:
        return lambda release: True
    if model.slot in {r.slot for r in present}:
        return lambda release: release.slot == model.slot
    listed = ", ".join(sorted(r.template for r in present))
    raise ConfigError(
        f"The model {model.recorder} belongs to the template {model.template!r}, which the service no longer has, so it "
        f"cannot replace a model of {listed}. Use 'rollback' to return to all earlier models."
    )


def of_windows(
    state: ServiceState, new: Sequence[Release], former: Sequence[Release], *, shadow: bool
) -> list[Release]:
    """Return the releases of new windows of a template: each is the champion from its first day on, in place of the former.

    Parameters
    ----------
    state : ServiceState
        The state before.
    new : sequence of Release
        The models of the windows as champions, in order.
    former : sequence of Release
        The champions of the template.
    shadow : bool
        Whether the model of the last window becomes a candidate if there is a champion, see
        :class:`~rollforge.online.policy.Policy`. Candidates that are worse than the champion then end; otherwise all end.
    """
    first, last = new[0], new[-1]

    def retired(release: Release, day: str) -> Release:
        return replace(release, role=Role.RETIRED, from_day=day, by=last.by, reason=last.reason)

    verdicts = {name: one.verdict for name, one in state.compared.items()}
    slot = (last.strategy, last.template)
    later = planned_champions(state, last.from_day)
    candidates = [
        r for r in state.candidates(last.from_day) if (r.strategy, r.template) == slot and r.recorder not in later
    ]
    found = [retired(r, last.from_day) for r in candidates if not shadow or verdicts.get(r.recorder) is Verdict.LOST]
    if shadow and former:
        known = last.recorder in {r.recorder for r in former}
        return found if known else [*found, replace(last, role=Role.CANDIDATE)]
    names = {r.recorder for r in new}
    found += [retired(r, first.from_day) for r in former if r.recorder not in names]
    for release, after in zip(new, [*new[1:], None], strict=True):
        found += after_planned(state, release, after.from_day if after else None)
        if after:
            found.append(retired(release, after.from_day))
    return found


def of_challenger(state: ServiceState, new: Release) -> list[Release]:
    """Return the releases of a challenger's new window, whose model is the candidate in place of that of the window before.

    Parameters
    ----------
    state : ServiceState
        The state before.
    new : Release
        The model of the window.
    """
    day, later = new.from_day, planned_champions(state, new.from_day)
    champions = state.champions(day)
    # Before the policy named it a challenger, the model may have been one of several champions.
    former = [*state.candidates(day), *(champions if len(champions) > 1 else ())]
    ended = [
        replace(r, role=Role.RETIRED, from_day=day, by=new.by, reason=new.reason)
        for r in former
        if (r.strategy, r.template) == (new.strategy, new.template) and r.recorder not in {*later, new.recorder}
    ]
    return [*ended, replace(new, role=Role.CANDIDATE)]


def planned_champions(state: ServiceState, day: str) -> set[str]:
    """Return the recorders that become champions on later days according to decisions already made."""
    return {release.recorder for later in state.planned(day) for release in state.champions(later)}


def after_planned(state: ServiceState, new: Release, until: str | None = None) -> list[Release]:
    """Return the releases of a new champion such that changes of its template planned for later remain valid.

    A window that begins before the day for which somebody planned a promotion does not cancel it.

    Parameters
    ----------
    state : ServiceState
        The state before.
    new : Release
        The release of the champion.
    until : str, optional
        The day from which on it is replaced.
    """
    released, holder = [new], new
    for day in state.planned(new.from_day):
        if until is not None and day >= until:
            break
        for release in state.champions(day):
            if release.slot != new.slot or release.from_day != day:
                continue
            if release.recorder != holder.recorder:
                released += [replace(holder, role=Role.RETIRED, from_day=day, reason=release.reason), release]
                holder = release
    return released
