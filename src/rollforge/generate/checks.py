"""Results of leakage checks, as values for the terminal, the report and the pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

__all__ = ["Check", "CheckMethod", "CheckResult", "check_from_document", "check_to_document"]


class CheckResult(StrEnum):
    """The result of one check."""

    CLEAN = "clean"
    LEAK = "leak"
    UNKNOWN = "not known"
    """The check could not decide; this is never a proof that there is no leak."""


class CheckMethod(StrEnum):
    """How a check was made."""

    STATIC = "static"
    """Read from the definition."""
    MEASURED = "measured"
    """Built again from changed data and compared."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one leakage check found.

    Examples
    --------
    >>> text = "Ref($close, -1) looks 1 trading day ahead."
    >>> print(Check("features", CheckResult.LEAK, CheckMethod.STATIC, text, cure="Remove the feature."))
    features: leak (static). Ref($close, -1) looks 1 trading day ahead. Remove the feature.
    """

    subject: str
    """What was checked, such as ``features``, ``label``, ``fit window`` or ``universe``."""
    result: CheckResult
    method: CheckMethod
    text: str
    """One or more complete sentences: what was found, with days, columns and numbers."""
    cure: str = ""
    """What to do about a leak or an unknown result, as complete sentences; empty for ``clean``."""
    tasks: tuple[str, ...] = ()
    """Titles of the tasks (windows) that the result is about; empty if it is about all of them."""
    days: tuple[str, ...] = ()
    """The days that were checked or at which the leak was found, as ``YYYY-MM-DD``."""

    def __str__(self) -> str:
        return " ".join(filter(None, (f"{self.subject}: {self.result} ({self.method}).", self.text, self.cure)))


def check_to_document(check: Check) -> dict[str, object]:
    """Return a check as a JSON document."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(check).items()}


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
    texts = [document.get(name) for name in ("subject", "text", "cure")]
    lists = [document.get(name, []) for name in ("tasks", "days")]
    if not all(isinstance(text, str) for text in texts):
        return None
    if not all(isinstance(values, list) and all(isinstance(v, str) for v in values) for values in lists):
        return None
    try:
        result, method = CheckResult(str(document.get("result"))), CheckMethod(str(document.get("method")))
    except ValueError:
        return None
    subject, text, cure = map(str, texts)
    tasks, days = (tuple(values) for values in lists)
    return Check(subject, result, method, text, cure, tasks, days)
