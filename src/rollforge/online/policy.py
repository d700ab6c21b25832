"""Promotion of new models: a model runs in shadow mode for some days, and is compared with the champion.

In shadow mode, a candidate predicts each day like the champion. Both predictions are stored in a file next to the signals
and are not published; the file's hash is in the entry of the day. As labels become known, the two are compared on the days
on which both have predicted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rollforge.arguments import whole_number
from rollforge.dates import day_after, read_timestamp
from rollforge.errors import ConfigError, nearest
from rollforge.ledger.entry import Comparison, Release, Role, Shadow, Verdict, author
from rollforge.ledger.state import ServiceState
from rollforge.online import signal_files
from rollforge.online.challenger import Challenger, rival_of
from rollforge.online.overview import METRICS, described
from rollforge.online.releases import after_planned, planned_champions
from rollforge.online.update import RMDLoader
from rollforge.record.analysis import calc_ic
from rollforge.record.signal import SignalRecord

if TYPE_CHECKING:
    from rollforge.online.service import Service
    from rollforge.track.base import Recorder

__all__ = [
    "LOST",
    "Policy",
    "candidates_of",
    "challenger_of",
    "compared",
    "daily_metric",
    "decided",
    "read_policy",
    "shadow_frame",
    "shadow_of",
]

log = logging.getLogger(__name__)

LOST = ("retire", "keep")
"""What happens to a candidate that is worse."""
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules by which a model replaces the champion: at once without a policy, else after some days in shadow mode.

    Parameters
    ----------
    shadow_days : int
        Number of trading days on which both models have predicted and the labels are known.
    metric : {"rank_ic", "ic"}
        The daily metric whose means over these days are compared.
    margin : float
        The candidate is promoted if its mean is lower than the champion's by at most this much.
    lost : {"retire", "keep"}
        What happens to a candidate that is worse: it is retired, or compared again each day until a new window begins.
    challenger : str
        Name of a model that runs in shadow mode over all of its windows. New windows of the other models are used at once.
        By default, there is none, and the model of every new window is a candidate first.
    replaces : str
        Name of the model with which the challenger is compared, and which it replaces; by default the only other one.

    Examples
    --------
    >>> Policy(10, margin=0.005).is_promoted(0.021, 0.025), Policy(10).is_promoted(0.021, 0.025)
    (True, False)
    """

    shadow_days: int
    metric: str = "rank_ic"
    margin: float = 0.0
    lost: str = "retire"
    challenger: str = ""
    replaces: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shadow_days", whole_number(self.shadow_days, "shadow_days", of="days"))
        number = isinstance(self.margin, (int, float)) and not isinstance(self.margin, bool)
        if not number or not math.isfinite(self.margin) or self.margin < 0:
            raise ConfigError(f"must be a number, at least 0; found {self.margin!r}.", path="margin")
        for name, value, known in (("metric", self.metric, METRICS), ("lost", self.lost, LOST)):
            if value not in known:
                raise ConfigError(
                    f"must be one of {', '.join(known)}; found {value!r}.{nearest(str(value), known)}", path=name
                )
        if self.replaces and not self.challenger:
            raise ConfigError("requires 'challenger', the model that replaces it.", path="replaces")

    def to_document(self) -> dict[str, object]:
        """Return the policy as plain JSON, as the ledger stores it."""
        return {name: value for name, value in asdict(self).items() if value != ""}

    def is_promoted(self, candidate: float, champion: float) -> bool:
        """Return whether a candidate with this mean is not worse than the champion. Equal up to rounding is equal."""
        return candidate >= champion - self.margin - _ROUNDING


def challenger_of(policy: Policy | None, names: Mapping[str, Sequence[str]]) -> Challenger | None:
    """Return the challenger of a policy; None if it has none.

    Parameters
    ----------
    policy : Policy or None
        The policy.
    names : mapping
        The names of the templates of each strategy.

    Raises
    ------
    ConfigError
        If no strategy has a model of this name, or it is ambiguous which model it replaces.
    """
    if policy is None or not policy.challenger:
        return None
    having = [one for one, known in names.items() if policy.challenger in known] or list(names)
    if len(having) != 1:
        raise ConfigError(
            f"must be the name of a model of one strategy; found {policy.challenger!r}, and the strategies are "
            f"{', '.join(having)}.",
            path="policy.challenger",
        )
    rival = rival_of(policy.challenger, policy.replaces, names[having[0]])
    return Challenger(having[0], policy.challenger, rival)


def candidates_of(state: ServiceState, day: str, challenger: Challenger | None = None) -> list[tuple[Release, Release]]:
    """Return the candidates of a day, each with the champion it is compared with, the earliest candidate first.

    It is the champion of its strategy and template, and for a challenger that of its rival.
    """
    champions = {(r.strategy, r.template): r for r in state.champions(day)}
    opponent = None if challenger is None else challenger.opponent(state, day)
    found = []
    for candidate in state.candidates(day):
        champion = champions.get((candidate.strategy, candidate.template))
        if challenger is not None and challenger.of(candidate):
            champion = opponent
        if champion is not None:
            found.append((candidate, champion))
    return found


def shadow_of(
    service: Service, day: str, pairs: Sequence[tuple[Release, Release]]
) -> tuple[Shadow, pd.DataFrame] | None:
    """Write the predictions of candidates and champions for a day into a file; None if no candidate has any.

    Returns
    -------
    (Shadow, DataFrame)
        The frame has a row per day and instrument, and a column per recorder.
    """
    releases = {release.recorder: release for pair in pairs for release in pair}
    frame = shadow_frame({name: service.recorder(release) for name, release in releases.items()}, day)
    if not any(candidate.recorder in frame for candidate, _ in pairs):
        return None
    file, mark = signal_files.write(service.place, f"{day}.v1", frame, "shadow")
    return Shadow(day, tuple(frame.columns), file, mark, len(frame)), frame


def shadow_frame(recorders: Mapping[str, Recorder], day: str) -> pd.DataFrame:
    """Return the predictions of models for a day: a row per instrument, and a column per model that has any."""
    scores = {name: _scores(recorder, day) for name, recorder in recorders.items()}
    frame = pd.DataFrame({name: series for name, series in scores.items() if len(series)}).sort_index()
    if len(frame):
        frame.index.names = ["datetime", "instrument"]
    return frame


def _scores(recorder: Recorder, day: str) -> pd.Series:
    prediction = recorder.load_object("pred.pkl")
    rows = signal_files.rows_of(prediction, [day])
    return rows.iloc[:, 0] if isinstance(rows, pd.DataFrame) else rows


def compared(
    service: Service,
    policy: Policy,
    pairs: Sequence[tuple[Release, Release]],
    today: tuple[Shadow, pd.DataFrame] | None,
) -> list[Comparison]:
    """Return comparisons of candidates and champions on the days on which both have predicted and the labels are known.

    Pairs without such a day are left out.
    """
    frames: dict[str, pd.DataFrame] = {} if today is None else {today[0].day: today[1]}
    state, challenger = service.state(), service.challenger
    shadows = [*state.shadows.values(), *([today[0]] if today else ())]
    comparisons = []
    for candidate, champion in pairs:
        both = candidate.recorder, champion.recorder
        if challenger is not None and challenger.of(candidate):
            used = challenger.days(state, candidate, shadows[-1].day, shadows) if shadows else []
        else:
            used = [(one, *both) for one in shadows if {*both} <= {*one.recorders}]
        if not used:
            continue
        for one, _, _ in used:
            if one.day not in frames:
                frames[one.day] = pd.DataFrame(signal_files.file_of(service.place, one))
        scores = pd.concat([frames[s.day][[*pair]].set_axis(["one", "other"], axis=1) for s, *pair in used])
        labels = known_labels(service.recorder(champion), used[0][0].day, used[-1][0].day)
        means, days = daily_metric(scores, labels, policy.metric)
        if days:
            comparisons.append(_comparison(policy, candidate, champion, means, days))
    return comparisons


def _comparison(
    policy: Policy, candidate: Release, champion: Release, means: tuple[float, float], days: int
) -> Comparison:
    verdict = Verdict.SHADOW
    if days >= policy.shadow_days:
        verdict = Verdict.PROMOTED if policy.is_promoted(*means) else Verdict.LOST
    return Comparison(candidate.recorder, champion.recorder, policy.metric, days, means[0], means[1], verdict)


def known_labels(recorder: Recorder, first: str, last: str) -> pd.Series:
    """Return the labels of a model's dataset for some days, as far as they are known from the data so far."""
    span = (read_timestamp(first), read_timestamp(last))
    dataset = RMDLoader(recorder).get_dataset(*span, {"test": span})
    return SignalRecord.generate_label(dataset).iloc[:, 0]


def daily_metric(scores: pd.DataFrame, labels: pd.Series, metric: str) -> tuple[tuple[float, float], int]:
    """Return the means of a daily metric of two models, and the number of days.

    On each day, the instruments with both scores and a label count. A day without two such instruments, or whose labels are
    all equal, does not count. A model whose scores are all equal on a day gets 0 for it, because it ranks nothing.

    Parameters
    ----------
    scores : DataFrame
        A column per model.
    labels : Series
        The labels.
    metric : {"rank_ic", "ic"}
        The metric.
    """
    together = pd.concat([scores.set_axis(["one", "other"], axis=1), labels.rename("label")], axis=1, join="inner")
    rows = together[np.isfinite(together.to_numpy(np.float64)).all(axis=1)]
    place = 1 if metric == "rank_ic" else 0
    counts = calc_ic(rows["label"], rows["label"])[0].notna()
    daily = [calc_ic(rows[name], rows["label"])[place][counts].fillna(0.0) for name in ("one", "other")]
    days = int(counts.sum())
    return (float(daily[0].mean()), float(daily[1].mean())) if days else (0.0, 0.0), days


def decided(
    state: ServiceState,
    policy: Policy,
    day: str,
    pairs: Sequence[tuple[Release, Release]],
    comparisons: Iterable[Comparison],
) -> list[Release]:
    """Return the releases by which candidates are promoted or retired from the day after on.

    Of several candidates that may be promoted, the latest one is promoted and earlier ones are retired. Nothing is decided
    if the champion of the day after is a different one, because it was changed manually for that day. A candidate that is
    planned to become the champion later is not retired.
    """
    results = {(c.candidate, c.champion): c for c in comparisons}
    after = day_after(day)
    remaining = {r.recorder for r in state.champions(after)}
    templates: dict[tuple[str, str], list[tuple[Release, Release, Comparison | None]]] = {}
    for candidate, champion in pairs:
        if champion.recorder in remaining and candidate.recorder not in remaining:
            one = results.get((candidate.recorder, champion.recorder))
            templates.setdefault((candidate.strategy, candidate.template), []).append((candidate, champion, one))
    return [release for members in templates.values() for release in _of_template(state, policy, after, members)]


def _of_template(
    state: ServiceState, policy: Policy, after: str, members: Sequence[tuple[Release, Release, Comparison | None]]
) -> list[Release]:
    """Return the releases of the candidates of one template, see :func:`decided`."""
    by, planned = author(), planned_champions(state, after)
    winners = [place for place, (_, _, one) in enumerate(members) if one and one.verdict is Verdict.PROMOTED]
    best = winners[-1] if winners else -1
    releases: list[Release] = []
    for place, (candidate, champion, one) in enumerate(members):
        reason = described(one, policy.margin) if one else ""
        retired = replace(candidate, role=Role.RETIRED, from_day=after, by=by, reason=reason)
        if place == best:
            releases.append(replace(champion, role=Role.RETIRED, from_day=after, by=by, reason=reason))
            releases += after_planned(state, replace(retired, role=Role.CHAMPION))
        elif candidate.recorder in planned:
            continue
        elif place < best:
            releases.append(replace(retired, reason="a later candidate is promoted"))
        elif one and one.verdict is Verdict.LOST and policy.lost == "retire":
            releases.append(retired)
    return releases


def read_policy(section: Mapping[str, object] | None) -> Policy | None:
    """Return the policy of a ``policy`` section of a workflow or of the ledger; None if there is none."""
    if not section:
        return None
    known = {field.name: section[field.name] for field in fields(Policy) if section.get(field.name) is not None}
    return Policy(**known)  # type: ignore[arg-type]
