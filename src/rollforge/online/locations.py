"""The places of a service's workflow, files and data.

``serve init`` records absolute paths. Those in the project are also recorded relative to the folder of the ledger's file, so
that a project that was moved or copied, together with its ledger, uses its own files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rollforge.ledger.entry import ServiceDefinition
from rollforge.session import home
from rollforge.store.sqlite_database import parse_uri

__all__ = [
    "RELATIVE",
    "data_folder",
    "new_service_folder",
    "recorded_runs",
    "relative_paths",
    "service_folder",
    "workflow_file",
]

RELATIVE = "relative"
"""Key of a service's definition with the paths that are relative to the ledger."""


def service_folder(name: str, definition: ServiceDefinition | None, ledger_uri: str) -> Path:
    """Return the folder of a service's files, which does not depend on the folder in which a command is run.

    It is the one that ``serve init`` recorded, or else that of the project.
    """
    relative, absolute = _recorded(definition, "folder", ledger_uri)
    # Without a look at which of them exists: a copy without files must not write into the folder of the original.
    return relative or absolute or home() / "services" / name


def new_service_folder(name: str, definition: ServiceDefinition | None, ledger_uri: str) -> Path:
    """Return the folder that ``serve init`` records for a service's files: the known one, if it exists."""
    known, place = service_folder(name, definition, ledger_uri), ledger_folder(ledger_uri)
    if place is not None and _recorded(definition, "folder", ledger_uri)[0] is None:
        # An earlier version recorded only an absolute path, which may be that of a project from which this was copied.
        own = place / "services" / name
        known = own if own.exists() else known
    return known if known.exists() else home() / "services" / name


def workflow_file(definition: ServiceDefinition | None, ledger_uri: str) -> Path | None:
    """Return the workflow file that ``serve init`` has recorded; None if there is none."""
    return _readable(definition, "path", ledger_uri)


def data_folder(definition: ServiceDefinition | None, ledger_uri: str) -> Path | None:
    """Return the data folder that ``serve init`` has recorded; None if there is none."""
    return _readable(definition, "data", ledger_uri)


def recorded_runs(definition: ServiceDefinition | None, ledger_uri: str) -> list[Path]:
    """Return where the runs of a service are according to ``serve init``: in this project and in that of the ``init``.

    Empty if their place does not depend on the working folder, or an earlier version did not record it.
    """
    return [_real(place) for place in _recorded(definition, "tracking", ledger_uri) if place is not None]


def relative_paths(paths: Mapping[str, str], ledger_uri: str, known: ServiceDefinition | None) -> dict[str, str]:
    """Return those of some absolute paths that are in the project, relative to the folder of the ledger's file.

    These are the paths below that folder, those in the working folder if the ledger is there too, and those that were
    relative in the `known` definition. None are if the ledger is not a file.
    """
    base, project = ledger_folder(ledger_uri), _real(home()).parent
    found: dict[str, str] = {}
    if base is None:
        return found
    for key, path in paths.items():
        place, before = _real(Path(path)), _recorded(known, key, ledger_uri)[0]
        inside = base.is_relative_to(project) and place.is_relative_to(project)
        if place.is_relative_to(base) or inside or (before is not None and _real(before) == place):
            found[key] = os.path.relpath(place, base)
    return found


def ledger_folder(uri: str) -> Path | None:
    """Return the folder of a ledger's file; None if the ledger is not a file."""
    return _real(parse_uri(uri)[0]).parent if uri.startswith("sqlite:///") else None


def _real(path: Path) -> Path:
    """Return a path without symbolic links in its folders; the path itself may be one."""
    return Path(os.path.realpath(path.absolute().parent)) / path.name


def _recorded(definition: ServiceDefinition | None, key: str, ledger_uri: str) -> tuple[Path | None, Path | None]:
    """Return a recorded path, as it follows from the place of the ledger, and as it was."""
    workflow = definition.workflow if definition is not None else None
    recorded = workflow if isinstance(workflow, dict) else {}
    relative, absolute, base = recorded.get(RELATIVE), recorded.get(key), ledger_folder(ledger_uri)
    inside = relative.get(key) if isinstance(relative, dict) else None
    moved = Path(os.path.normpath(base / str(inside))) if base is not None and inside else None
    return moved, Path(str(absolute)) if absolute else None


def _readable(definition: ServiceDefinition | None, key: str, ledger_uri: str) -> Path | None:
    """Return a recorded path that is only read: where it follows from the place of the ledger, unless only the ledger moved."""
    moved, was = _recorded(definition, key, ledger_uri)
    return was if moved is not None and was is not None and not moved.exists() and was.exists() else moved or was
