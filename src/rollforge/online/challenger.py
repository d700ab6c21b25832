"""A challenger: a model of the workflow that runs in shadow mode and may take the place of another one.

Which of its models are compared with which champion, and whether it is still trained, follow from the ledger alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rollforge.errors import ConfigError, nearest
from rollforge.ledger.entry import Release, Shadow
from rollforge.ledger.state import ServiceState

__all__ = ["Challenger", "rival_of"]


def rival_of(challenger: str, replaces: str, names: Sequence[str]) -> str:
    """Return the name of the model with which a challenger is compared.

    Parameters
    ----------
    challenger : str
        Name of the challenger.
    replaces : str
        Name of the other model; empty if the policy does not name it.
    names : sequence of str
        Names of all models.

    Raises
    ------
    ConfigError
        If there are no such models, or it is ambiguous which one is meant.

    Examples
    --------
    >>> rival_of("ridge", "", ["linear", "ridge"])
    'linear'
    """
    listed = ", ".join(names)
    for key, name in (("challenger", challenger), ("replaces", replaces)):
        if name and name not in names:
            raise ConfigError(
                f"must be the name of a model, one of {listed}; found {name!r}.{nearest(name, names)}",
                path=f"policy.{key}",
            )
    others = [name for name in names if name != challenger]
    if replaces == challenger:
        raise ConfigError(f"must be another model than the challenger; found {replaces!r}.", path="policy.replaces")
    if replaces:
        return replaces
    if len(others) != 1:
        known = f"There are several others: {', '.join(others)}." if others else "There is no other model."
        raise ConfigError(
            f"name the model that {challenger!r} is compared with and replaces. {known}", path="policy.replaces"
        )
    return others[0]


@dataclass(frozen=True, slots=True)
class Challenger:
    """The challenger of a service."""

    strategy: str
    name: str
    """Name of its template."""
    rival: str
    """Name of the template whose champion it is compared with."""

    def of(self, release: Release) -> bool:
        """Return whether a model belongs to the challenger."""
        return (release.strategy, release.template) == (self.strategy, self.name)

    def is_promoted(self, state: ServiceState, day: str) -> bool:
        """Return whether the challenger is the champion on a day, in place of its rival."""
        return any(self.of(r) and r.instead_of == self.rival for r in state.champions(day))

    def opponent(self, state: ServiceState, day: str) -> Release | None:
        """Return the champion with which the challenger is compared on a day.

        It is the rival's or, if that has no model under its name yet, the only champion of the strategy: a service that
        began with a single model has it under the name of the strategy.
        """
        champions = [r for r in state.champions(day) if r.strategy == self.strategy and not self.of(r)]
        named = [r for r in champions if r.slot[1] == self.rival]
        return named[0] if named else champions[0] if len(champions) == 1 else None

    def days(
        self, state: ServiceState, candidate: Release, day: str, shadows: Sequence[Shadow]
    ) -> list[tuple[Shadow, str, str]]:
        """Return the days on which the challenger and its opponent have both predicted, since it runs in shadow mode.

        Windows of both may have ended since, so that other models of the same templates predicted. Days before the
        challenger's definition has changed do not count.

        Returns
        -------
        list of (Shadow, str, str)
            The ids of the recorders of the challenger and of its opponent on that day.
        """
        first = self._since(state, day)
        found = []
        for shadow in (one for one in shadows if one.day >= first):
            own = [r for r in state.candidates(shadow.day) if self.of(r) and r.definition == candidate.definition]
            other = self.opponent(state, shadow.day)
            if own and other is not None:
                pair = own[-1].recorder, other.recorder
                if {*pair} <= {*shadow.recorders}:
                    found.append((shadow, *pair))
        return found

    def _since(self, state: ServiceState, day: str) -> str:
        """Return the first day of the period up to `day` in which the challenger is a candidate without interruption."""
        changes = sorted({r.from_day for _, r in state.releases if self.of(r) and r.from_day <= day}, reverse=True)
        first = day
        for change in changes:
            if not any(self.of(r) for r in state.candidates(change)):
                break
            first = change
        return first

    def windows_from(self, state: ServiceState, day: str, template: str, definition: str) -> str | None:
        """Return the first day of the windows of a template that are trained; None if it is no longer trained.

        The rival is not trained while the challenger is the champion in its place. The challenger is not after it has lost
        or was replaced, until its definition or the policy changes. A model that became the champion manually is used until
        the next window begins, although windows of its template may have begun while it was not trained.

        Parameters
        ----------
        state : ServiceState
            The state.
        day : str
            The day whose routine is running.
        template : str
            Name of the template.
        definition : str
            Its present definition, see :class:`~rollforge.ledger.entry.Release`.
        """
        champion = next(
            (r for r in state.champions(day) if (r.strategy, r.template) == (self.strategy, template)), None
        )
        if champion is not None:
            return champion.from_day
        if template == self.rival:
            return None if self.is_promoted(state, day) else ""
        known = [(entry, r) for entry, r in state.releases if self.of(r)]
        if template != self.name or not known:
            return ""
        used = [r for one in (day, *state.planned(day)) for held in state.online(one).values() for r in held]
        if any(map(self.of, used)):
            return ""
        entry, latest = known[-1]
        then = state.known(entry.number).definition
        later = [c.service for c in state.contents[entry.number :] if c.service is not None]
        same = latest.definition == definition and all(then and then.policy == one.policy for one in later)
        return None if same else ""
