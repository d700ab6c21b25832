"""Look-ahead of labels, leaks between segments, and other properties of tasks that make results look too good."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rollforge.dates import ONE_DAY, Days, show_time, unit_of
from rollforge.description import Description
from rollforge.errors import DataNotFound, RollforgeError, counted
from rollforge.features.label_source import dataset_changes_label, label_source
from rollforge.generate.backtests import backtest_config
from rollforge.generate.checks import Check, CheckResult
from rollforge.generate.data_checks import (
    MEASURE,
    feature_findings,
    fit_findings,
    own_operators,
    processor_findings,
    universe_findings,
)
from rollforge.generate.definition import DataParts, data_parts, own_classes
from rollforge.generate.findings import Finding, capitalised, group_findings, placed, warning_texts
from rollforge.generate.label import declared_days, task_labels
from rollforge.generate.label_horizon import HOW_TO_DECLARE, LabelHorizon, task_horizon
from rollforge.generate.segments import Segment, next_pieces, pieces
from rollforge.generate.task_view import TaskView, without_times
from rollforge.market.universe import session_provider

__all__ = [
    "Leak", "label_lookahead", "label_warnings", "leaking_segments", "static_checks", "task_warnings",
]  # fmt: skip

CLEAN, LEAK, UNKNOWN = CheckResult.CLEAN, CheckResult.LEAK, CheckResult.UNKNOWN

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leak:
    """A segment whose labels reach into the next segment."""

    segment: str
    later: str
    days: int
    """Number of days at the end of the segment whose labels reach into the later segment."""
    dates: tuple[str, ...] = field(default=(), compare=False)
    """The first and the last of these days."""
    unit: str = field(default="day", compare=False)
    """What `days` counts: ``day`` or ``bar``."""


_TRUNCATE = "Use trunc_days: auto, or end it earlier."


def _leak_text(leak: Leak) -> tuple[str, str]:
    days = leak.unit if leak.days == 1 else f"{leak.days} {leak.unit}s"
    return f"the labels of the last {days} of {leak.segment!r} reach into {leak.later!r}.", _TRUNCATE


def label_lookahead(task: Mapping[str, object]) -> int | None:
    """Return how many days the task's label looks ahead; None if it is unknown. See :func:`task_horizon`.

    Examples
    --------
    >>> handler = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler"}
    >>> label_lookahead({"dataset": {"kwargs": {"handler": handler}}})
    2
    """
    return task_horizon(task).days


def leaking_segments(task: Mapping[str, object], calendar: Days) -> list[Leak]:
    """Return the segments of a task whose labels reach into the next segment, except segments that share days.

    Parameters
    ----------
    task : mapping
        A task whose segments are those of one window.
    calendar : array of datetime64[D]
        The trading days.
    """
    return _leaks(pieces(TaskView(task).segments), calendar, label_lookahead(task) or 0)


_Places = dict[str, list[tuple[int, int]]]
"""Segment -> half-open ranges of the positions of its intervals in the calendar, in chronological order."""


def _places(sequence: Sequence[tuple[str, Segment]], calendar: Days) -> _Places:
    places: _Places = {}
    for name, interval in sequence:
        places.setdefault(name, []).append(interval.positions(calendar))
    return places


def _leaks(sequence: Sequence[tuple[str, Segment]], calendar: Days, ahead: int) -> list[Leak]:
    found: list[Leak] = []
    if not ahead:
        return found
    for earlier, following in next_pieces(sequence):
        (name, interval), (later, next_interval) = sequence[earlier], sequence[following]
        (first, stop), (start, _) = interval.positions(calendar), next_interval.positions(calendar)
        reaching = min(ahead - (start - stop), stop - first)
        if reaching > 0:
            dates = dict.fromkeys(show_time(calendar[place]) for place in (stop - reaching, stop - 1))
            found.append(Leak(name, later, reaching, tuple(dates), unit_of(calendar)))
    return found


def static_checks(
    tasks: Sequence[Mapping[str, object]],
    calendar: Days,
    titles: Sequence[str] = (),
    *,
    among: Sequence[Mapping[str, object]] | None = None,
    ensembles: Mapping[str, object] | None = None,
) -> tuple[Check, ...]:
    """Return what the definitions of tasks prove about leakage: leaks first, then what is not known, then what is clean.

    No data are computed. Windows with the same result share one. An invalid task is skipped; its error is reported when
    it is built.

    Parameters
    ----------
    tasks : sequence of mapping
        Definitions.
    calendar : array of datetime64[D]
        The trading days.
    titles : sequence of str, optional
        The title of each task, such as ``window 3``.
    among : sequence of mapping, optional
        All tasks of the experiment, if `tasks` are only some of them; empty if they are unknown. A model that is tested on
        days before those to which it was fitted is not a leak in cross-validation.
    ensembles : mapping, optional
        The ensembles of the predictions, see :attr:`~rollforge.collect.combine.Ensembles.config`.

    Examples
    --------
    >>> handler = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler"}
    >>> segments = {"train": ("2020-01-01", "2020-12-31"), "test": ("2020-12-01", "2021-12-31")}
    >>> import numpy as np
    >>> days = np.arange("2019-01-01", "2022-01-01", dtype="datetime64[D]")
    >>> print(static_checks([{"dataset": {"kwargs": {"handler": handler, "segments": segments}}}], days)[0])
    segments: leak (static). 31 of 396 days of 'test' are in 'train' too: the model is tested on days to which it was
    fitted. Let 'test' begin after 'train' ends.
    """
    named = _titles(tasks, titles)
    parts: dict[str, _Parts] = {}
    features: dict[str, list[Finding]] = {}
    by_task: list[list[Finding]] = []
    forward = _walking_forward(tasks if among is None else among, calendar)
    for task in tasks:
        findings: list[Finding] = []
        by_task.append(findings)
        try:
            handler = TaskView(task).described_handler
            sequence = pieces(TaskView(task).segments)
            places = _places(sequence, calendar)
            findings += _shared_days(places, calendar)
            later = _trained_later(places, calendar)
            walks = _model_of(task) in forward
            findings += later if walks else []
            if not findings:
                # Of a cross-validation too, the last test has no later training days: all tasks share one text.
                text = (
                    "no day of valid or test is a day to which the model is fitted. The tasks are a cross-validation, so "
                    "models are fitted to later days as well."
                    if not walks and (among is None or len(among))
                    else "no day of valid or test is a day to which the model is fitted, or before one."
                )
                findings.append(Finding("segments", CLEAN, text))
            key = _without_days(task, handler or TaskView(task).handler)
            if key not in parts:
                data = data_parts(handler or TaskView(task).handler)
                if changed := dataset_changes_label(task.get("dataset")):
                    data.unread.append(changed)
                columns = repr((data.expressions, data.ungrouped, data.unread))
                if columns not in features:  # windows that differ in their fit window have the same features
                    features[columns] = feature_findings(data)
                operators = own_operators(label_source(handler or TaskView(task).handler).expressions or ())
                parts[key] = _Parts(task_horizon(task), data, features[columns], operators)
            known = parts[key]
            findings += _labels(known.horizon, known.label_operators, sequence, calendar)
            findings += known.features
            findings += fit_findings(known.data, handler, places, calendar)
            findings += processor_findings(known.data, _first_day(places, calendar))
        except RollforgeError as exc:
            log.debug("a task was not checked: %s", exc)
    for findings, more in zip(by_task, _universes(tasks, parts, calendar), strict=True):
        findings += more
    for findings, task in zip(by_task, tasks, strict=True):
        findings += _own_code(task, ensembles or {})
    return group_findings(
        [_dated(findings, one, calendar) for findings, one in zip(by_task, tasks, strict=True)], named
    )


def _dated(findings: Sequence[Finding], task: Mapping[str, object], calendar: Days) -> list[Finding]:
    """Return findings with days: those about a whole task get its first and last day."""
    days: tuple[str, ...] = ()
    with contextlib.suppress(RollforgeError):  # a task that is invalid
        days = _dates(_whole(_places(pieces(TaskView(task).segments), calendar)), calendar)
    return [one if one.days or one.result is CLEAN else replace(one, days=days) for one in findings]


def _whole(places: _Places) -> list[tuple[int, int]]:
    return [part for ranges in places.values() for part in ranges]


def _dates(ranges: Sequence[tuple[int, int]], calendar: Days) -> tuple[str, ...]:
    """Return the first and the last day of some ranges of positions; one if they are the same, none if there are none."""
    filled = [(first, stop) for first, stop in ranges if first < stop]
    if not filled:
        return ()
    ends = min(first for first, _ in filled), max(stop for _, stop in filled) - 1
    return tuple(dict.fromkeys(show_time(calendar[place]) for place in ends))


@dataclass(frozen=True, slots=True)
class _Parts:
    """Data that several windows share."""

    horizon: LabelHorizon
    data: DataParts
    features: list[Finding]
    label_operators: list[str]
    """The user's own operators in the label."""


def task_warnings(
    tasks: Sequence[Mapping[str, object]],
    calendar: Days,
    label_days: int | None = None,
    *,
    with_places: bool = True,
) -> list[str]:
    """Return warnings about a set of tasks whose results may be misleading, one sentence each.

    Parameters
    ----------
    tasks : sequence of mapping
        Definitions.
    calendar : array of datetime64[D]
        The trading days.
    label_days : int, optional
        Number of trading days that a label spans, as declared by the user.
    with_places : bool
        Whether the tasks and days are named; False makes the warnings of similar tasks equal.

    Examples
    --------
    >>> segments = {"train": ("2020-01-01", "2020-12-31"), "test": ("2020-12-01", "2021-12-31")}
    >>> import numpy as np
    >>> days = np.arange("2019-01-01", "2022-01-01", dtype="datetime64[D]")
    >>> for text in task_warnings([{"dataset": {"kwargs": {"segments": segments}}}], days):
    ...     print(text)
    From 2020-12-01 to 2020-12-31, 31 of 396 days of 'test' are in 'train' too: the model is tested on days to which it
    was fitted. Let 'test' begin after 'train' ends.
    """
    # A single task does not show whether it belongs to a cross-validation.
    leaks = [check for check in static_checks(tasks, calendar, among=()) if check.result is CheckResult.LEAK]
    if not with_places:
        leaks = [replace(check, where="", days=()) for check in leaks]
    return [*warning_texts(leaks, len(tasks)), *label_warnings(tasks, label_days)]


def label_warnings(
    tasks: Sequence[Mapping[str, object]], label_days: int | None = None, titles: Sequence[str] = ()
) -> list[str]:
    """Return warnings about labels that span an unknown or a wrongly declared number of days, one sentence each.

    Parameters
    ----------
    tasks, label_days
        As in :func:`task_warnings`.
    titles : sequence of str, optional
        The title of each task.
    """
    known: dict[str, list[str]] = {}
    by_text: dict[str, dict[str, tuple[str, ...]]] = {}
    for title, task in zip(_titles(tasks, titles), tasks, strict=True):
        texts: list[str] = []
        try:
            key = repr(without_times(TaskView(task).described_handler or TaskView(task).handler))
            if key not in known:
                known[key] = _label_texts(task, label_days)
            texts = known[key]
        except RollforgeError as exc:
            log.debug("the label of a task is unknown: %s", exc)
        for text in texts:
            by_text.setdefault(text, {})[title] = ()
    if len(tasks) == 1:
        return [capitalised(text) for text in by_text]
    made = []
    for text, these in by_text.items():
        place = "" if len(these) == len(tasks) else f" ({placed(these, len(tasks))})"
        made.append(f"In {len(these)} of {len(tasks)} tasks{place} {text}")
    return made


def _titles(tasks: Sequence[object], titles: Sequence[str]) -> list[str]:
    return list(titles) or [f"task {i}" for i in range(1, len(tasks) + 1)]


def _labels(
    horizon: LabelHorizon, operators: Sequence[str], sequence: Sequence[tuple[str, Segment]], calendar: Days
) -> list[Finding]:
    """Return what is known about a label's horizon, and the segments whose labels reach into the next one."""
    if horizon.days is None:
        return [Finding("label", UNKNOWN, f"the label's horizon is not known: {horizon.reason}", HOW_TO_DECLARE)]
    findings = []
    unit = "period" if horizon.freq == "day" and _is_longer_than_days(calendar) else horizon.unit
    # The user's own operator may look further ahead than it declares, unless a larger horizon is declared.
    settled = bool(operators) and horizon.days == horizon.declared
    if horizon.contradiction and not settled:
        findings.append(Finding("label", UNKNOWN, horizon.contradiction, "Correct label_horizon or remove it."))
    elif operators and horizon.declared is None:
        text = (
            f"whether the label looks further ahead than {counted(horizon.days, unit)} is not known: the operator "
            f"{operators[0]} is not one of Rollforge's, and its declared look-ahead is not checked."
        )
        findings.append(Finding("label", UNKNOWN, text, HOW_TO_DECLARE))
    leaks = _leaks(sequence, calendar, horizon.days)
    findings += [Finding("label", LEAK, *_leak_text(leak), days=leak.dates) for leak in leaks]
    if not leaks:
        days = counted(horizon.days, unit)
        findings.append(
            Finding(
                "label", CLEAN, f"the label looks {days} ahead ({horizon.source}), and reaches into no later segment."
            )
        )
    return findings


def _is_longer_than_days(calendar: Days) -> bool:
    """Return whether the periods of a calendar are weeks, months or the like, as in a user's table."""
    return len(calendar) > 1 and bool(np.median(np.diff(calendar) / ONE_DAY) > 1)


def _without_days(task: Mapping[str, object], handler: object) -> str:
    """Return what determines the data of a task apart from its days: the handler's range changes neither its label nor
    its features."""
    dataset = Description(task.get("dataset")).without("segments", "handler")
    return repr((Description(handler).without("start_time", "end_time"), task.get("label_horizon"), dataset))


def _shared_days(places: _Places, calendar: Days) -> list[Finding]:
    """Return which test days are also in the train or valid segment."""
    texts: list[Finding] = []
    other = [name for name in places if name != "train" and "train" in name.lower()]
    for later, earlier, reason in (
        ("test", "train", "the model is tested on days to which it was fitted"),
        *(("test", name, "the model is tested on days to which it was fitted before") for name in other),
        ("test", "valid", "the model is tested on days that determined when its fitting stopped"),
        ("valid", "train", "the days that stop the fitting are days to which the model is fitted"),
    ):
        if later in places and earlier in places:
            common = _common(places[later], places[earlier])
            shared, days = _length(common), _length(places[later])
            if shared > 0:
                verb = "is" if shared == 1 else "are"
                unit = unit_of(calendar)
                text = f"{shared} of {days} {unit}s of {later!r} {verb} in {earlier!r} too: {reason}."
                advice = f"Let {later!r} begin after {earlier!r} ends."
                texts.append(
                    Finding("segments", LEAK, text, advice, _dates(common, calendar), key=f"{later} in {earlier}")
                )
    return texts


def _common(some: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges of positions that are in both of two sets of ranges."""
    both = [(max(first, start), min(stop, end)) for first, stop in some for start, end in others]
    return [(first, stop) for first, stop in both if first < stop]


def _length(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(stop - first for first, stop in ranges)


def _trained_later(places: _Places, calendar: Days) -> list[Finding]:
    """Return whether some test days precede days on which the model is fitted or its training is stopped."""
    test = places.get("test", [])
    for name in ("train", "valid"):
        if test and places.get(name):
            last = places[name][-1][1] - 1
            before = [(first, min(stop, last)) for first, stop in test if first < last]
            early = _length(before)
            if early > _length(_common(test, places[name])) and last < len(calendar):
                text = (
                    f"{early} of {_length(test)} {unit_of(calendar)}s of 'test' are before the end of {name!r} "
                    f"on {show_time(calendar[last])}: the model is trained on later days than it predicts."
                )
                advice = "Test after train and valid; an average over such windows uses the future as well."
                days = _dates(before, calendar)
                return [Finding("segments", LEAK, text, advice, days, key=f"test before {name}")]
    return []


def _walking_forward(tasks: Sequence[Mapping[str, object]], calendar: Days) -> set[str]:
    """Return the models of tasks that are not a cross-validation, in which other tasks test all training days."""
    trained: dict[str, NDArray[np.bool_]] = {}
    tested: dict[str, NDArray[np.bool_]] = {}
    for task in tasks:
        with contextlib.suppress(RollforgeError):  # a task that is invalid
            places = _places(pieces(TaskView(task).segments), calendar)
            model = _model_of(task)
            for name, marks in (("train", trained), ("valid", trained), ("test", tested)):
                mask = marks.setdefault(model, np.zeros(len(calendar), bool))
                for first, stop in places.get(name, ()):
                    mask[first:stop] = True
    return {model for model, mask in trained.items() if (mask & ~tested[model]).any() or not mask.any()}


def _model_of(task: Mapping[str, object]) -> str:
    """Return what the tasks of a model have in common."""
    view = TaskView(task)
    return repr((task.get("model"), without_times(view.described_handler)))


def _first_day(places: _Places, calendar: Days) -> np.datetime64 | None:
    starts = [ranges[0][0] for ranges in places.values() if ranges[0][0] < len(calendar)]
    return calendar[min(starts)] if starts else None


def _universes(
    tasks: Sequence[Mapping[str, object]], parts: Mapping[str, _Parts], calendar: Days
) -> list[list[Finding]]:
    """Return the findings about the universes of each task."""
    try:
        provider = session_provider()
    except DataNotFound:  # tasks that need data will raise the error
        return [[] for _ in tasks]
    spans: list[tuple[int, int]] = []
    for task in tasks:
        with contextlib.suppress(RollforgeError):  # a task that is invalid
            spans += [segment.positions(calendar) for _, segment in pieces(TaskView(task).segments)]
    spans = [(a, b) for a, b in spans if a < b]
    if not spans:
        return [[] for _ in tasks]
    first, last = (
        calendar[place].astype("M8[D]") for place in (min(a for a, _ in spans), max(b for _, b in spans) - 1)
    )
    known: dict[str, list[Finding]] = {}
    made = []
    for task in tasks:
        findings: list[Finding] = []
        key = _without_days(task, TaskView(task).described_handler or TaskView(task).handler)
        for universe in parts[key].data.universes if key in parts else ():
            name = repr(universe)
            if name not in known:
                known[name] = universe_findings(universe, provider, first, last)
            findings += known[name]
        made.append(findings)
    return made


def _own_code(task: Mapping[str, object], ensembles: Mapping[str, object]) -> list[Finding]:
    """Return which of the user's own classes may use later days, apart from those that produce the data."""
    listed = [
        ("model", "the model {}", own_classes(_described(task.get("model")), deep=False), MEASURE),
        ("model", "the reweighter {}", own_classes(_described(task.get("reweighter")), deep=False), MEASURE),
        (
            "records",
            "the class {} of the records",
            own_classes(list(map(_described, TaskView(task).records))),
            _RECORDS,
        ),
        *(
            ("ensemble", f"the ensemble {{}} of {part}", own_classes(_described(described)), MEASURE)
            for part, described in ensembles.items()
        ),
    ]
    found = []
    for subject, what, names, advice in listed:
        for name in dict.fromkeys(names):
            text = f"whether {what.format(name)} uses later days is not known: it is not one of Rollforge's."
            found.append(Finding(subject, UNKNOWN, text, advice))
    if any(_has_own_signal(record) for record in TaskView(task).records):
        text = "whether the signal of the backtest uses later days is not known: it is not the prediction of the model."
        found.append(Finding("records", UNKNOWN, text, _RECORDS))
    return found


def _described(value: object) -> object:
    """Return a class that is given by its path alone as a description, whatever the case of its name."""
    return {"class": value} if isinstance(value, str) and not value.startswith("file://") else value


_RECORDS = "No check runs records; make sure that what they store for a day does not depend on later days."


def _has_own_signal(record: object) -> bool:
    """Return whether a backtest's signal is neither the prediction, which is the default, nor made by the model."""
    strategy = (backtest_config(record) or {}).get("strategy")
    signal = Description(strategy).kwargs.get("signal")
    parts = signal if isinstance(signal, (list, tuple)) else [] if signal is None else [signal]
    return not all(isinstance(part, str) and part.startswith("<") for part in parts)


def _label_texts(task: Mapping[str, object], declared: int | None) -> list[str]:
    handler, texts = TaskView(task).described_handler or TaskView(task).handler, []
    declared = declared_days(handler) or declared
    for label in task_labels(task):
        if label.days is None and declared is None:
            texts.append(
                f"the number of days that the label {label.expression} spans cannot be determined, so its "
                "returns are not annualised. Set label_days in the workflow or the handler."
            )
        elif declared is not None and label.days is not None and declared != label.days:
            texts.append(
                f"the label {label.expression} spans {counted(label.days, 'day')}, so {label.days} is used instead of the "
                f"declared label_days: {declared}."
            )
    return texts
