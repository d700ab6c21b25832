"""Results of leakage checks, as values for the terminal, the report and the pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from rollforge.errors import MAX_MESSAGE_LENGTH, ConfigError, LeakageError, counted, excerpt, first_few, nearest, shown

__all__ = [
    "NOT_CHECKED", "Check", "CheckMethod", "CheckResult", "Leakage", "check_from_document", "check_to_document",
    "days_or_bars", "read_leakage", "refuse_leaks",
]  # fmt: skip


class Leakage(StrEnum):
    """Reaction to a leak that a static check finds."""

    ERROR = "error"
    """Nothing is stored or trained."""
    WARN = "warn"
    """It is reported."""
    OFF = "off"
    """No checks are run."""


class CheckResult(StrEnum):
    """The result of one check."""

    CLEAN = "clean"
    LEAK = "leak"
    UNKNOWN = "not known"
    """The check was inconclusive; this never proves that there is no leak."""


class CheckMethod(StrEnum):
    """Method of a check."""

    STATIC = "static"
    """Read from the definition."""
    MEASURED = "measured"
    """Built again from changed data and compared."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one leakage check.

    Examples
    --------
    >>> text = "Ref($close, -1) looks 1 trading day ahead."
    >>> print(Check("features", CheckResult.LEAK, CheckMethod.STATIC, text, advice="Remove the feature."))
    features: leak (static). Ref($close, -1) looks 1 trading day ahead. Remove the feature.
    """

    subject: str
    """What was checked, such as ``features``, ``label``, ``fit window`` or ``universe``."""
    result: CheckResult
    method: CheckMethod
    text: str
    """One or more complete sentences: what was found, with days, columns and numbers."""
    advice: str = ""
    """What to do about a leak or an unknown result, as complete sentences; empty for ``clean``."""
    tasks: tuple[str, ...] = ()
    """Titles of the tasks (windows) that the result is about; empty if it is about all of them."""
    days: tuple[str, ...] = ()
    """The days that were checked or on which the leak was found, as ``YYYY-MM-DD``."""
    where: str = ""
    """The first of the tasks, each with the days that the result is about: ``window 1, 2020-01-02 to 2020-01-03; window 2,
    2020-02-03; and 5 more``. Empty for ``clean``, and for measured results."""

    @property
    def about(self) -> str:
        """The first titles of the tasks, separated by semicolons because titles contain commas; empty for all tasks."""
        return first_few(self.tasks, _MAX_TITLES, "; ")

    @property
    def when(self) -> str:
        """The days, if there are more than two only the first, the last and their number."""
        if len(self.days) <= 2:
            return ", ".join(self.days)
        return f"{self.days[0]} … {self.days[-1]}, {len(self.days)} {days_or_bars(self.days)}"

    @property
    def place(self) -> str:
        """The tasks (unless the result is about all of them and has no days) with the days."""
        return self.where or ", ".join(filter(None, (self.about, self.when)))

    def __str__(self) -> str:
        return " ".join(filter(None, (f"{self.subject}: {self.result} ({self.method}).", self.text, self.advice)))


def read_leakage(value: object, path: str = "leakage") -> Leakage:
    """Return the setting that `value` denotes.

    Raises
    ------
    ConfigError
        If it is unknown.

    Examples
    --------
    >>> read_leakage("warn").value
    'warn'
    """
    names = [mode.value for mode in Leakage]
    if value not in names:
        raise ConfigError(
            f"must be one of {', '.join(names)}, found {shown(value)}.{nearest(str(value), names)}", path=path
        )
    return Leakage(str(value))


NOT_CHECKED = Check(
    "leakage", CheckResult.UNKNOWN, CheckMethod.STATIC, "No checks were made, because leakage is off.",
    "Set leakage to warn or error.",
)  # fmt: skip
"""Shown instead of the static checks of tasks that were planned with ``leakage: off``."""

_LISTED = 8
_MAX_TITLES = 3
_MAX_PLACE_LENGTH = 200


def refuse_leaks(checks: Iterable[Check]) -> None:
    """Raise an error if there is a leak among the results of checks.

    Raises
    ------
    LeakageError
        The message has one line for each leak, with what to do about it.
    """
    leaks = tuple(c for c in checks if c.result is CheckResult.LEAK)
    if not leaks:
        return
    room = (MAX_MESSAGE_LENGTH - 300) // min(len(leaks), _LISTED)
    lines = [
        f"  {_headed(one)}: {excerpt(f'{one.text} {one.advice}'.rstrip(), room, tail=80)}" for one in leaks[:_LISTED]
    ]
    more = f"\n  {len(leaks) - _LISTED} more" if len(leaks) > _LISTED else ""
    raise LeakageError(
        f"{counted(len(leaks), 'leak')} found, so nothing was stored or trained:\n" + "\n".join(lines) + more + "\n"
        "'leakage: warn' in the workflow, or --leakage warn, trains anyway."
    )


def _headed(check: Check) -> str:
    """Return what was checked, with the tasks and days."""
    place = excerpt(check.place, _MAX_PLACE_LENGTH, tail=20)
    return f"{check.subject} ({place})" if place else check.subject


def check_to_document(check: Check) -> dict[str, object]:
    """Return a check as a JSON document."""
    document = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(check).items()}
    document["cure"] = document.pop("advice")  # the stored name of the key
    return document


def check_from_document(document: object) -> Check | None:
    """Return the check of a document made by :func:`check_to_document`; None if it has another form.

    Examples
    --------
    >>> text = "The label looks 2 trading days ahead."
    >>> made = Check("label", CheckResult.CLEAN, CheckMethod.STATIC, text, days=("2020-01-02",))
    >>> check_from_document(check_to_document(made)) == made, check_from_document({"subject": 1})
    (True, None)
    """
    if not isinstance(document, Mapping):
        return None
    texts = [document.get("subject"), document.get("text"), document.get("cure"), document.get("where", "")]
    lists = [document.get(name, []) for name in ("tasks", "days")]
    if not all(isinstance(text, str) for text in texts):
        return None
    if not all(isinstance(values, list) and all(isinstance(v, str) for v in values) for values in lists):
        return None
    try:
        result, method = CheckResult(str(document.get("result"))), CheckMethod(str(document.get("method")))
    except ValueError:
        return None
    subject, text, advice, where = map(str, texts)
    tasks, days = (tuple(values) for values in lists)
    return Check(subject, result, method, text, advice, tasks, days, where)


def days_or_bars(times: Sequence[str]) -> str:
    """Return what formatted times are called, if there are several: those of bars have a time of day.

    Examples
    --------
    >>> days_or_bars(("2024-01-02", "2024-01-03")), days_or_bars(("2024-01-02 09:35", "2024-01-02 09:40"))
    ('days', 'bars')
    """
    return "bars" if any(":" in time for time in times) else "days"
