"""Warnings about windows that were trained on data that have changed since."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rollforge.errors import DataError
from rollforge.market.content import mark_of_days, marks_of_days, session_content
from rollforge.run.execute import DATA_TAG
from rollforge.session import Session, pool_command

if TYPE_CHECKING:
    from rollforge.collect.outcomes import TaskOutcome
    from rollforge.track.base import RunData

__all__ = ["data_changes"]


def data_changes(runs: Mapping[str, RunData], session: Session, known: Sequence[TaskOutcome]) -> tuple[str, ...]:
    """Return warnings if data that tasks could read when they were trained have changed since.

    The id of a task does not depend on the data. Days added since are not a change.

    Parameters
    ----------
    runs : mapping of str to RunData
        The runs of the tasks.
    session : Session
        The session, with the data.
    known : sequence of TaskOutcome
        The tasks.
    """
    from rollforge.generate.task_view import at_frequency
    from rollforge.market.universe import session_provider

    session = at_frequency(session, [o.task.definition for o in known])
    tags = sorted({tag for run in runs.values() for tag in run.tags if tag.startswith(f"{DATA_TAG}.")})
    changed: dict[str, set[str]] = {}  # place of the data -> runs
    earlier: dict[str, set[str]] = {}
    for tag in (DATA_TAG, *tags):
        marks = {run_id: run.tags[tag] for run_id, run in runs.items() if tag in run.tags}
        freq = tag.removeprefix(DATA_TAG).removeprefix(".") or None
        place = str(session.folder()) if freq is None else f"{session.folder(freq)} ({freq})"
        with contextlib.suppress(DataError):  # this session does not have the folder, so the data are not compared
            other = _changed(set(marks.values()), session, freq)
            if freq is None and other:  # versions before that stored the fingerprint of the files
                other.discard(session_provider(session).fingerprint())
            for run_id, mark in marks.items():
                if mark in other:
                    (changed if " " in mark else earlier).setdefault(place, set()).add(run_id)
    again = f"{pool_command(session.store_uri, known[0].task.pool)} reset-status waiting" if changed or earlier else ""
    found = []
    if changed:
        found.append(
            f"{_count(changed)} of {len(runs)} windows were trained on data that differ from those now in "
            f"{' and '.join(changed)}. Train all of them again: {again}"
        )
    if earlier:
        found.append(
            f"{_count(earlier)} of {len(runs)} windows were trained by an earlier version, which did not record the last day "
            f"of its data, and {' and '.join(earlier)} has changed since. If more than days were added, train all of them "
            f"again: {again}"
        )
    return tuple(found)


def _changed(marks: set[str], session: Session, freq: str | None) -> set[str]:
    """Return which of the marks of runs the data do not have."""
    content = session_content(session, freq)
    if content is None or not marks:
        return set()
    other = marks - {content.mark, mark_of_days(content)}
    days = {mark.partition(" ")[0] for mark in other if " " in mark}
    return other - set(marks_of_days(session, days, freq)) if days else other


def _count(runs: Mapping[str, set[str]]) -> int:
    return len(set().union(*runs.values()))
