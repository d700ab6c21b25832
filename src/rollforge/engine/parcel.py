"""Parcels, which the driver sends to each machine: calendars, panels and values that tasks read, and the user's modules.

A parcel is sent once to each machine, which keeps it in its cache: the panels under their keys, the calendars and
universes as an extract of each data folder (:mod:`rollforge.market.extract`), the modules under the hash of their
contents. All tasks of the machine map the same files.

An extract has the values of its folder only if a task may read them: in a backtest, in code that is not Rollforge's, or to
compute data that are in no panel.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollforge import trust
from rollforge.build import build, locate, resolve_references
from rollforge.code_marks import code_version, panel_libraries
from rollforge.engine.modules import Modules, Named, describe_modules, modules_in, modules_of
from rollforge.errors import DataError, RollforgeError
from rollforge.features.dataset import Dataset
from rollforge.features.handler import DataHandler
from rollforge.features.panel import META, Panel
from rollforge.features.panel_cache import PanelCache, list_panels
from rollforge.generate.data_read import handler_frequencies
from rollforge.kinds import DATASET
from rollforge.market.content import content_provider, provider_content
from rollforge.market.extract import EXTRACT, ExtractOf, content_name, extract_files
from rollforge.market.folder_change import place_lock, written_whole
from rollforge.market.universe import one_version
from rollforge.record.portfolio import PortAnaRecord
from rollforge.run.execute import DATA_UNTIL, task_session
from rollforge.run.references import from_reference
from rollforge.run.submission import version_of
from rollforge.session import Session, using
from rollforge.task import encode
from rollforge.track.base import Recorder
from rollforge.trust import Origin, from_origin
from rollforge.user_code import SENT

__all__ = ["Manifest", "Parcel", "has", "here", "install", "make_parcel", "modules_folder", "other_versions", "sizes"]

log = logging.getLogger(__name__)

_EXTRACTS, _PANELS, _MODULES = "extracts", "panels", "modules"
_DESCRIPTIONS = (META, EXTRACT, SENT)
_KEPT, _KEPT_SECONDS = 20, 7 * 86_400.0
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a parcel.

    Examples
    --------
    >>> Manifest(files=(("extracts/ab12/calendars/day.txt", 0, 40),)).size
    40
    """

    extracts: Mapping[str, str] = field(default_factory=dict)
    """Data folder of the driver, as its session names it -> name of the extract."""
    modules: str = ""
    """Name of the folder with the user's modules; empty if there are none."""
    required: tuple[str, ...] = ()
    """Packages and modules that must be installed."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Packages that tasks use -> their versions on the driver."""
    code: str = ""
    """Version of the code that computes panels, see :func:`~rollforge.code_marks.code_version`; empty if tasks read none."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Folders in the cache that it fills -> hash of the file that describes each."""
    files: tuple[tuple[str, int, int], ...] = ()
    """(path in the cache, position, size) of each file."""
    cache_limit: int = 0
    """Maximum size of all panels in the cache, in bytes."""

    @property
    def size(self) -> int:
        """Number of bytes."""
        return max((start + size for _, start, size in self.files), default=0)

    @property
    def mark(self) -> str:
        """Hash of what it contains."""
        return hashlib.sha256(encode(dict(self.folders)).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Parcel:
    """A manifest and the bytes of all files, one after the other."""

    manifest: Manifest
    data: NDArray[np.uint8]


# -- on the driver -------------------------------------------------------------------------------------------------------


def make_parcel(
    tasks: Sequence[Named], session: Session, objects: Iterable[object] = (), *, data: bool = True
) -> Parcel | None:
    """Return what tasks need, after computing the panels that are not in the cache; None if they need nothing.

    Parameters
    ----------
    tasks : sequence of Named
        Definitions of tasks.
    session : Session
        Session of the tasks.
    objects : iterable
        Functions and other objects that the tasks are run with.
    data : bool
        Whether to send data. If False, all machines have the data folders.

    Raises
    ------
    DataError
        If a data folder cannot be read, or the data are larger than the memory.
    ConfigError
        If the user's modules are too large to be sent.
    """
    objects = list(objects)
    with using(session):
        tasks = [_resolved(task) for task in tasks]
        modules = modules_of(tasks, session, objects)
    for left in range(_TRIES, 0, -1):
        folders: list[_Folder] = []
        manifest = Manifest(required=modules.required, cache_limit=session.cache_limit)
        if modules.files:
            folders.append(_modules_folder(modules))
            manifest = replace(manifest, modules=folders[-1].path.rpartition("/")[2])
        if data and session.provider_uri is not None:
            with one_version():
                reads = _Reads(session)
                for task in tasks:
                    reads.add(task)
                if any(not trust.is_library(getattr(one, "__module__", None) or "") for one in objects):
                    reads.values = True
                found, extracts = reads.folders()
            folders += found
            manifest = replace(manifest, extracts=extracts)
        if not folders and not modules.required:
            return None
        panels = any(folder.path.startswith(f"{_PANELS}/") for folder in folders)
        versions = {name: version for name in modules.required if (version := version_of(name))}
        manifest = replace(
            manifest, code=code_version() if panels else "", versions=versions | (panel_libraries() if panels else {})
        )  # fmt: skip
        parcel = _packed(manifest, folders)
        if parcel is not None:
            return parcel
        log.info("a panel changed while it was read%s", "; it is read again" if left > 1 else "")
    raise DataError(
        "The panels of the tasks change all the time, so they cannot be sent. Are they trained elsewhere, too?"
    )


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder of a machine's cache."""

    path: str
    """Its path in the cache."""
    about: str
    """Name of the file that describes it."""
    files: Mapping[str, Path]
    """Path in it -> file here."""
    text: bytes | None = None
    """Content of the file that describes it; None if that is a file here."""

    def mark(self) -> str:
        """Return the hash of the file that describes it."""
        text = self.text if self.text is not None else self.files[self.about].read_bytes()
        return hashlib.sha256(text).hexdigest()


def _modules_folder(modules: Modules) -> _Folder:
    text = describe_modules(modules).encode()
    return _Folder(f"{_MODULES}/{hashlib.sha256(text).hexdigest()[:24]}", SENT, modules.files, text)


class _Reads:
    """Finds the parts of the session's data folders that tasks read."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.values = False
        """Whether they may read values that are in no panel."""
        self._seen: set[str] = set()
        self._panels: dict[str, str] = {}  # key -> state of the data
        self._changing: set[str] = set()  # panels of which tasks need several versions
        self._contents: dict[str, dict[str, object]] = {session.provider_uri or "": {}}

    def add(self, task: Named) -> None:
        """Add what a task reads. What differs between windows only has been read before."""
        definition = task.definition
        if not isinstance(definition, Mapping):
            return
        dataset = definition.get("dataset")
        kwargs = dataset.get("kwargs") if isinstance(dataset, Mapping) else None
        handler = kwargs.get("handler") if isinstance(kwargs, Mapping) else dataset
        seen = repr([task.own, handler, definition.get(DATA_UNTIL), sorted(set(modules_in(definition)))])
        if seen in self._seen:
            return
        self._seen.add(seen)
        self.values |= _may_read_values(definition)
        try:
            with from_origin(Origin.OWN if task.own else Origin.POOL):
                self._read(definition)
        except Exception as exc:  # noqa: BLE001 - the task raises it where it runs, for which it needs the values
            log.info("the data of a task are not prepared: %s: %s", type(exc).__name__, exc)
            self.values = True

    def _read(self, definition: Mapping[str, object]) -> None:
        used = task_session(definition, self._session)
        with using(used):
            if definition.get("dataset") is None:
                return
            made = build(resolve_references(definition)["dataset"], kind=DATASET, where="task.dataset")
            handler = getattr(made, "handler", None) if isinstance(made, Dataset) else None
            for freq in (None, *handler_frequencies(handler, used)):
                self._note_content(used, freq)
            if not isinstance(handler, DataHandler):
                self.values = True
                return
            panel = handler.panel(handler.DK_R)
            key = handler.raw_panel(used)
            if used.data_until is not None or handler.data_loader.stored_panel() is None:
                self._note_panel(key, panel)

    def _note_content(self, session: Session, freq: str | None) -> None:
        provider = content_provider(session, freq)
        if provider is not None:
            content = provider_content(provider, session.cache).to_plain()
            folder = str(session.folder(freq or session.freq))
            self._contents.setdefault(folder, {})[content_name(provider.freq, provider.until)] = content

    def _note_panel(self, key: str, panel: Panel) -> None:
        state = "" if panel.stored is None else panel.stored.state
        if not key or panel.stored is None:
            self.values = True  # not cached: each task computes it
        elif self._panels.setdefault(key, state) != state:
            self._changing.add(key)
            self.values = True

    def folders(self) -> tuple[list[_Folder], dict[str, str]]:
        """Return the panels and extracts, and the names of the extracts by data folder."""
        found = []
        for key in sorted(set(self._panels) - self._changing):
            place = Path(self._session.cache) / _PANELS / key
            found.append(_Folder(f"{_PANELS}/{key}", META, {f.name: f for f in sorted(place.iterdir()) if f.is_file()}))
        extracts = {}
        every = {self._session.provider_uri or "", *self._session.folders.values()}
        for folder in sorted(every):
            one = self._extract(folder)
            extracts[folder] = one.path.rpartition("/")[2]
            found.append(one)
        return found, extracts

    def _extract(self, folder: str) -> _Folder:
        provider = content_provider(self._session.with_(provider_uri=folder, folders={}, data_until=None), None)
        assert provider is not None
        values = self.values and folder in self._contents
        contents = self._contents.get(folder, {})
        text = ExtractOf(provider.origin, folder, provider.fingerprint(), values, contents).to_text().encode()
        place = provider.location()
        files = {file.relative_to(place).as_posix(): file for file in extract_files(place, values=values)}
        return _Folder(f"{_EXTRACTS}/{hashlib.sha256(text).hexdigest()[:24]}", EXTRACT, files, text)


def sizes(tasks: Sequence[Named], session: Session) -> tuple[dict[str, int | None], int]:
    """Return the size of the data that a parcel of some tasks would contain, without computing or reading any.

    Returns
    -------
    panels : dict
        Key of each panel -> its size in bytes; None if it is not in the cache yet.
    values : int
        Size of the files of the data folders, if tasks may read values that are in no panel, or else 0.
    """
    found, values = set[str](), False
    definitions = [task.definition for task in map(_resolved, tasks) if isinstance(task.definition, Mapping)]
    for definition in (one for one in definitions if one.get("dataset") is not None):
        values |= _may_read_values(definition)
        used = task_session(definition, session)
        try:
            with using(used), from_origin(Origin.OWN):
                made = build(resolve_references(definition)["dataset"], kind=DATASET, where="task.dataset")
                handler = getattr(made, "handler", None)
                key = handler.raw_panel(used) if isinstance(handler, DataHandler) else ""
        except RollforgeError:  # the task raises it where it runs
            key = ""
        values |= not key
        found.add(key)
    cached = {panel.key: panel.bytes for panel in list_panels(session.cache)}
    folders = {session.provider_uri, *session.folders.values()} if values else ()
    places = [content_provider(session.with_(provider_uri=one, folders={}), None) for one in folders if one]
    files = [file for one in places if one is not None for file in extract_files(one.location(), values=True)]
    return {key: cached.get(key) for key in sorted(found - {""})}, sum(file.stat().st_size for file in files)


def _resolved(task: Named) -> Named:
    """Return a task with its own definition, which may be in the item of a trainer without a pool, or in a recorder."""
    definition = task.definition
    if not isinstance(definition, Mapping) or "place" not in definition or "item" not in definition:
        return task
    item = definition["item"]
    if isinstance(item, Mapping) and "recorder" in item:
        with contextlib.suppress(RollforgeError):  # an error where the task runs
            found = from_reference(item)
            item = found.load_object("task") if isinstance(found, Recorder) else item
    return replace(task, definition=item)


def _may_read_values(definition: Mapping[str, object]) -> bool:
    """Return whether a task may read values beside its panel: if it names code that is not Rollforge's, or a backtest."""
    if any(module and not trust.is_library(module) for module, _ in modules_in(definition)):
        return True
    records = definition.get("record") or []
    for record in records if isinstance(records, (list, tuple)) else [records]:
        named = record if isinstance(record, Mapping) else {"class": record}
        with contextlib.suppress(RollforgeError):  # an error where the task runs
            found = locate(named.get("class", ""), named.get("module_path") or "rollforge.record")  # type: ignore[arg-type]
            if isinstance(found, type) and issubclass(found, PortAnaRecord):
                return True
    return False


def _packed(manifest: Manifest, folders: Sequence[_Folder]) -> Parcel | None:
    """Return a parcel; None if a panel changed while it was read."""
    files: list[tuple[str, int, int]] = []
    sources: list[Path | bytes] = []
    position = 0
    try:
        marks = {folder.path: folder.mark() for folder in folders}
        for folder in folders:
            inside: dict[str, Path | bytes] = dict(folder.files)
            if folder.text is not None:
                inside[folder.about] = folder.text
            for name, source in inside.items():
                size = len(source) if isinstance(source, bytes) else source.stat().st_size
                files.append((f"{folder.path}/{name}", position, size))
                sources.append(source)
                position += size
        _check_size(position)
        data = np.empty(position, np.uint8)
        for source, (_, start, size) in zip(sources, files, strict=True):
            place = data[start : start + size].data
            if isinstance(source, bytes):
                place[:] = source
                continue
            with source.open("rb") as stream:
                if stream.readinto(place) != size:
                    return None
        if marks != {folder.path: folder.mark() for folder in folders}:
            return None
    except FileNotFoundError:  # it has just been replaced
        return None
    return Parcel(replace(manifest, folders=marks, files=tuple(files)), data)


def _check_size(size: int) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory // 2:
        raise DataError(
            f"The tasks read {size / 1e9:.0f} GB of data, too much to send them to other machines from this one, which has "
            f"{memory / 1e9:.0f} GB of memory. If all machines have the data folder, run with data='shared'."
        )


# -- on the machines of the cluster --------------------------------------------------------------------------------------


def has(manifest: Manifest, cache: str) -> bool:
    """Return whether a machine's cache contains everything in a parcel, which it then keeps as recently used."""
    places = [Path(cache) / folder for folder in manifest.folders]
    found = all(_mark(place) == mark for place, mark in zip(places, manifest.folders.values(), strict=True))
    for place in places if found else ():
        with contextlib.suppress(OSError):  # a cache that is only read
            os.utime(next(file for name in _DESCRIPTIONS if (file := place / name).exists()))
    return found


def other_versions(manifest: Manifest) -> dict[str, str]:
    """Return the packages of which this machine has another version than the driver, with the version here.

    If only the code of Rollforge differs that computes panels, under the same version, it is ``rollforge``.
    """
    found = {name: version_of(name) for name in manifest.versions}
    others = {name: version for name, version in found.items() if version and version != manifest.versions[name]}
    if manifest.code and manifest.code != code_version() and not others.keys() & panel_libraries().keys():
        others["rollforge"] = version_of("rollforge")
    return others


def here(manifest: Manifest, session: Session, cache: str) -> Session:
    """Return the driver's session for a machine that has its parcel."""

    def place(folder: str) -> str:
        name = manifest.extracts.get(folder)
        return folder if name is None else str(Path(cache) / _EXTRACTS / name)

    if not manifest.extracts:
        return session
    return session.with_(
        provider_uri=None if session.provider_uri is None else place(session.provider_uri),
        folders={freq: place(folder) for freq, folder in session.folders.items()}, cache=cache,
    )  # fmt: skip


def modules_folder(manifest: Manifest, cache: str) -> Path | None:
    """Return the folder with the user's modules on a machine that has the parcel; None if there are none."""
    return Path(cache) / _MODULES / manifest.modules if manifest.modules else None


def install(manifest: Manifest, data: NDArray[np.uint8], cache: str) -> str:
    """Write what the cache lacks of a parcel, and return why that is not possible; an empty text if it was.

    Of several processes, one does it, and the others wait for it.
    """
    root = Path(cache)
    try:
        for folder, mark in manifest.folders.items():
            place = root / folder
            place.parent.mkdir(parents=True, exist_ok=True)
            with place_lock(place):
                if _mark(place) != mark:
                    _write(manifest, data, folder, place)
        panels = {folder.rpartition("/")[2] for folder in manifest.folders if folder.startswith(f"{_PANELS}/")}
        if panels:
            PanelCache(cache, manifest.cache_limit).shrink(panels)
        for kind in (_EXTRACTS, _MODULES):
            _forget(root / kind, {folder.rpartition("/")[2] for folder in manifest.folders})
    except OSError as exc:
        return (
            f"The cache {cache} cannot be written: {exc.strerror or exc}. It needs "
            f"{max(1, round(manifest.size / 1e6))} MB; choose another folder with ROLLFORGE_CACHE."
        )
    return ""


def _mark(folder: Path) -> str:
    """Return the hash of the file that describes a folder; empty if there is none."""
    for name in _DESCRIPTIONS:
        with contextlib.suppress(OSError):
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return ""


def _write(manifest: Manifest, data: NDArray[np.uint8], folder: str, place: Path) -> None:
    with written_whole(place) as draft:
        for name, start, size in manifest.files:
            if name.startswith(f"{folder}/"):
                file = draft / name.removeprefix(f"{folder}/")
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("wb") as stream:
                    stream.write(data[start : start + size].data)


def _forget(root: Path, used: set[str]) -> None:
    """Remove folders that have not been used for a week, except the latest ones."""
    ages = {}
    for place in root.glob("[!.]*"):
        with contextlib.suppress(OSError, StopIteration):  # being removed by another process
            ages[place] = next(f for name in _DESCRIPTIONS if (f := place / name).exists()).stat().st_mtime
    for place in sorted(ages, key=lambda p: ages[p], reverse=True)[_KEPT:]:
        if place.name not in used and time.time() - ages[place] > _KEPT_SECONDS:
            shutil.rmtree(place, ignore_errors=True)
