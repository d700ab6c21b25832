"""Group failed tasks by their error, so that each cause is reported once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rollforge.errors import first_few

__all__ = ["FailureGroup", "error_line", "group_failures"]


def error_line(error: str) -> str:
    """Return the line of a traceback that names the exception, even if its message has several lines.

    Examples
    --------
    >>> error_line('Traceback (most recent call last):\\n  File "x.py", line 1, in f\\n    f()\\nKeyError: 1')
    'KeyError: 1'
    """
    lines = [line for line in error.splitlines() if line.strip()]
    frames = [i for i, line in enumerate(lines) if line.startswith("  File ")]
    after = lines[frames[-1] + 1 :] if frames else []
    # Source lines and markers below a frame are indented; the exception's own line is not.
    named = next((line for line in after if not line[0].isspace()), lines[-1] if lines else "no error was recorded")
    return named.strip()


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Tasks that failed with the same error."""

    reason: str
    """What :func:`error_line` returns for each of them."""
    tasks: tuple[str, ...]
    """Their names, in the order in which they were given."""
    error: str
    """The full traceback of the first task."""

    def listed(self, names: Mapping[str, str] | None = None) -> str:
        """Return the names of the first tasks, and how many more there are.

        Parameters
        ----------
        names : mapping, optional
            Task -> readable name.
        """
        return first_few(self.tasks, 3, show=lambda task: names.get(task, task) if names else task)


def group_failures(errors: Mapping[str, str]) -> tuple[FailureGroup, ...]:
    """Return the failures grouped by their error, the most frequent first.

    Parameters
    ----------
    errors : mapping
        Task (id or name) -> traceback.

    Examples
    --------
    >>> [(g.reason, g.listed()) for g in group_failures({"a": "KeyError: 1", "b": "OSError", "c": "KeyError: 1"})]
    [('KeyError: 1', 'a, c'), ('OSError', 'b')]
    """
    tasks: dict[str, list[str]] = {}
    for name, error in errors.items():
        tasks.setdefault(error_line(error), []).append(name)
    groups = [FailureGroup(reason, tuple(names), errors[names[0]]) for reason, names in tasks.items()]
    return tuple(sorted(groups, key=lambda group: -len(group.tasks)))
