"""Data that the driver sends to each machine of a cluster: the calendars, and the panels that its tasks read.

A parcel is sent once to each machine, which keeps it in its cache: the panels under their keys, the calendars and
universes as an extract of the data folder (:mod:`rollforge.market.extract`). All tasks of the machine map the same files.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollforge.build import build, resolve_references
from rollforge.errors import DataError
from rollforge.features.handler import DataHandler
from rollforge.features.panel import META
from rollforge.kinds import DATASET
from rollforge.market.content import provider_content
from rollforge.market.extract import EXTRACT, ExtractOf, write_extract
from rollforge.market.folder_change import exchange
from rollforge.market.universe import session_provider
from rollforge.run.execute import task_session
from rollforge.session import Session, using
from rollforge.task import encode

__all__ = ["Manifest", "Parcel", "has", "here", "install", "make_parcel"]

log = logging.getLogger(__name__)

_EXTRACTS = "extracts"
_PANELS = "panels"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a parcel.

    Examples
    --------
    >>> Manifest("ab12", {"panels/77": "5e"}, (("extracts/ab12/calendars/day.txt", 0, 40),)).size
    40
    """

    extract: str
    """Name of the extract of the data folder."""
    folders: Mapping[str, str]
    """Folders in the cache that it fills, the extract and the panels -> hash of the file that describes each."""
    files: tuple[tuple[str, int, int], ...]
    """(path in the cache, position, size) of each file."""

    @property
    def size(self) -> int:
        """Number of bytes."""
        return max((start + size for _, start, size in self.files), default=0)


@dataclass(frozen=True, slots=True)
class Parcel:
    """A manifest and the bytes of all files, one after the other."""

    manifest: Manifest
    data: NDArray[np.uint8]


# -- on the driver -------------------------------------------------------------------------------------------------------


def make_parcel(tasks: Sequence[Mapping[str, object]], session: Session) -> Parcel | None:
    """Return what tasks read, after computing the panels that are not in the cache; None if they read no data folder.

    Parameters
    ----------
    tasks : sequence of mapping
        Definitions of tasks.
    session : Session
        Session of the tasks.
    """
    if session.provider_uri is None:
        return None
    panels = sorted(_panels(tasks, session))
    with tempfile.TemporaryDirectory(prefix="rollforge-parcel-") as name:
        with using(session):
            provider = session_provider()
        extract = ExtractOf(
            provider.origin, provider.fingerprint(), provider_content(provider, session.cache).to_plain()
        )
        mark = hashlib.sha256(encode([extract.origin, extract.fingerprint]).encode()).hexdigest()[:24]
        place = Path(name) / mark
        write_extract(provider.location(), place, extract)
        sources = {f"{_EXTRACTS}/{mark}": place}
        sources.update({f"{_PANELS}/{key}": Path(session.cache) / _PANELS / key for key in panels})
        return _packed(mark, sources)


def _panels(tasks: Sequence[Mapping[str, object]], session: Session) -> set[str]:
    """Return the keys of the raw panels of tasks. Tasks that differ in model or segments only share a handler."""
    found: set[str] = set()
    seen: set[str] = set()
    for task in tasks:
        dataset = task.get("dataset")
        kwargs = dataset.get("kwargs") if isinstance(dataset, Mapping) else None
        handler = kwargs.get("handler") if isinstance(kwargs, Mapping) else None
        if handler is None:
            continue
        described = encode(handler)
        if described in seen:
            continue
        seen.add(described)
        used = task_session(task, session)
        if used.data_until is not None or used.folders:
            raise DataError(
                "Panels of data up to a day, or of several data folders, cannot be sent to other machines yet. If all "
                "machines have the folders, run with data='shared'."
            )
        with using(used):
            made = getattr(
                build(resolve_references(task)["dataset"], kind=DATASET, where="task.dataset"), "handler", None
            )
            if isinstance(made, DataHandler):
                made.panel(made.DK_R)
                found.add(made.raw_panel(used))
    return found - {""}


def _packed(mark: str, sources: Mapping[str, Path]) -> Parcel:
    files, position = [], 0
    paths: list[Path] = []
    for name, folder in sources.items():
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                size = file.stat().st_size
                files.append((f"{name}/{file.relative_to(folder).as_posix()}", position, size))
                paths.append(file)
                position += size
    data = np.empty(position, np.uint8)
    for path, (_, start, size) in zip(paths, files, strict=True):
        with path.open("rb") as stream:
            if stream.readinto(data[start : start + size].data) != size:
                raise DataError(f"{path} changed while it was read. Try again.")
    return Parcel(Manifest(mark, {name: _mark(folder) for name, folder in sources.items()}, tuple(files)), data)


def _mark(folder: Path) -> str:
    """Return the hash of the file that describes a panel or an extract; empty if there is none."""
    for name in (META, EXTRACT):
        with contextlib.suppress(OSError):
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return ""


# -- on the machines of the cluster --------------------------------------------------------------------------------------


def has(manifest: Manifest, cache: str) -> bool:
    """Return whether a machine's cache contains everything in a parcel."""
    return all(_mark(Path(cache) / folder) == mark for folder, mark in manifest.folders.items())


def here(manifest: Manifest, session: Session, cache: str) -> Session:
    """Return the driver's session for a machine that has its parcel."""
    return session.with_(provider_uri=str(Path(cache) / _EXTRACTS / manifest.extract), cache=cache)


def install(manifest: Manifest, data: NDArray[np.uint8], cache: str) -> None:
    """Write what the cache lacks of a parcel. Of several processes, one does it, and the others wait for it.

    Raises
    ------
    DataError
        If the cache is not writable.
    """
    root = Path(cache)
    try:
        for folder, mark in manifest.folders.items():
            place = root / folder
            place.parent.mkdir(parents=True, exist_ok=True)
            with _lock(place):
                if _mark(place) != mark:
                    _write(manifest, data, folder, place)
    except OSError as exc:
        raise DataError(
            f"The cache {cache} cannot be written: {exc.strerror or exc}. Choose another folder with ROLLFORGE_CACHE."
        ) from exc


def _write(manifest: Manifest, data: NDArray[np.uint8], folder: str, place: Path) -> None:
    for left in place.parent.glob(f".{place.name}-*"):  # left by a killed process, because we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        for name, start, size in manifest.files:
            if name.startswith(f"{folder}/"):
                file = draft / name.removeprefix(f"{folder}/")
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("wb") as stream:
                    stream.write(data[start : start + size].data)
        if place.exists():  # of other data: processes that have it open keep it
            exchange(draft, place)
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.rename(place)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@contextlib.contextmanager
def _lock(place: Path) -> Iterator[None]:
    """Hold the lock under which the panel cache builds a panel."""
    with (place.parent / f".{place.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
