"""The findings of static checks in single tasks, and grouping those of many tasks into a few results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rollforge.generate.checks import Check, CheckMethod, CheckResult

__all__ = ["Finding", "capitalised", "group_findings", "placed", "warning_texts"]

_NAMED = 3  # tasks that are named in a result


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding of one static check in one task."""

    subject: str
    result: CheckResult
    text: str
    """A complete sentence or more, which begins in lower case if its first word is not a name."""
    advice: str = ""
    days: tuple[str, ...] = ()
    """The first and the last day that it is about, as ``YYYY-MM-DD``; a single one if they are the same."""
    key: str = ""
    """Findings of several tasks with the same key become one result, even if the texts have different days; empty for
    findings that are only grouped with equal ones."""


def group_findings(found: Sequence[Iterable[Finding]], titles: Sequence[str]) -> tuple[Check, ...]:
    """Return the findings of tasks as results: one for each kind, leaks first, then unknown results.

    A subject is clean only if it is clean in every task in which it was checked.

    Parameters
    ----------
    found : sequence of iterable of Finding
        The findings of each task.
    titles : sequence of str
        The title of each task.
    """
    groups: dict[tuple[str, CheckResult, str, str], dict[str, Finding]] = {}
    for title, findings in zip(titles, found, strict=True):
        for one in findings:
            group = groups.setdefault((one.subject, one.result, one.key or one.text, one.advice), {})
            group.setdefault(title, one)
    doubtful = {subject for subject, result, _, _ in groups if result is not CheckResult.CLEAN}
    number = len(set(titles))
    checks = []
    for (subject, result, _, advice), group in groups.items():
        if result is CheckResult.CLEAN and subject in doubtful:
            continue
        first_title, first = next(iter(group.items()))
        differ = len({one.text for one in group.values()}) > 1
        text = f"for example in {first_title}, {first.text}" if differ and first_title else first.text
        everywhere = len(group) == number
        days = tuple(sorted({day for one in group.values() for day in one.days}))
        about = () if everywhere else tuple(group)
        where = (
            placed({t: one.days for t, one in group.items()}, len(titles)) if result is not CheckResult.CLEAN else ""
        )
        checks.append(Check(subject, result, CheckMethod.STATIC, capitalised(text), advice, about, days, where))
    order = [CheckResult.LEAK, CheckResult.UNKNOWN, CheckResult.CLEAN]
    return tuple(sorted(checks, key=lambda check: order.index(check.result)))


def placed(tasks: Mapping[str, Sequence[str]], number: int) -> str:
    """Return the first of some tasks, each with its first and last day.

    Parameters
    ----------
    tasks : mapping
        Title of each task -> its first and last day, or a single day, or none.
    number : int
        Number of all tasks; the title of a single one is left out.

    Examples
    --------
    >>> placed({"window 1": ["2020-01-02", "2020-01-03"], "window 2": ["2020-02-03"]}, 2)
    'window 1, 2020-01-02 to 2020-01-03; window 2, 2020-02-03'
    >>> placed({f"window {i}": [] for i in range(1, 9)}, 8)
    'window 1; window 2; window 3; and 5 more'
    """
    listed = [
        ", ".join(filter(None, (title if number > 1 else "", " to ".join(days))))
        for title, days in list(tasks.items())[:_NAMED]
    ]
    more = [f"and {len(tasks) - _NAMED} more"] if len(tasks) > _NAMED else []
    return "; ".join(filter(None, [*listed, *more]))


def warning_texts(checks: Iterable[Check], tasks: int) -> list[str]:
    """Return a warning for each leak and each result that is not known, with the tasks and days that it is about.

    Parameters
    ----------
    checks : iterable of Check
        The results.
    tasks : int
        Number of all tasks.
    """
    texts = []
    for check in checks:
        if check.result is CheckResult.CLEAN:
            continue
        text = f"{check.text} {check.advice}".rstrip()
        if tasks > 1:
            place = f" ({check.place})" if check.place else ""
            text = f"In {len(check.tasks) or tasks} of {tasks} tasks{place} {_uncapitalised(text)}"
        elif check.place:
            text = f"{'From' if ' to ' in check.place else 'On'} {check.place}, {_uncapitalised(text)}"
        texts.append(text)
    return texts


def capitalised(text: str) -> str:
    """Return a sentence with a capital letter at its beginning, unless it begins with a symbol."""
    return text[:1].upper() + text[1:]


_ARTICLES = ("The ", "A ", "An ", "For ", "Processors ", "No ", "Whether ")


def _uncapitalised(text: str) -> str:
    if text.startswith(_ARTICLES) or text[:1].isdigit():
        return text[:1].lower() + text[1:]
    return text
