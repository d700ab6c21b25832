"""Requirements of a pool's tasks, checked before a worker claims tasks and while it runs them.

:class:`Admission` compares what each submission used with what this machine has, and determines the session in which
its tasks run here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rollforge import trust
from rollforge.confidential import mask_secrets
from rollforge.errors import ConfigError, DataError, RequirementsNotMet, RollforgeError, counted, nearest
from rollforge.machine import machine_of, process_name
from rollforge.plugins import are_loaded, load_plugins
from rollforge.run.submission import SubmissionInfo, read_submission_info, version_of
from rollforge.session import REGIONS, Session, using
from rollforge.store.base import TaskStore
from rollforge.task import Document, Status
from rollforge.track.base import open_tracker
from rollforge.track.tracker import check_scheme, known_address, local_path
from rollforge.trust import Origin
from rollforge.user_code import file_digest, file_state

if TYPE_CHECKING:
    from rollforge.market.content import DataContent

__all__ = ["Admission", "RequirementsCheck", "missing_on_machine", "session_admission"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_PROBE = 2**20  # bytes
_SHORT = 12  # digits of a digest that a message shows
_LOOK_SECONDS = 5.0
_LOOK_SHARE = 50  # the pause between two checks is 50 times the duration of a check, which grows with the pool


def session_admission(store: TaskStore, pool: str, session: Session, *, in_process: bool = False) -> Admission:
    """Return an admission that compares only data and plugins, for a process that has everything else it needs.

    Parameters
    ----------
    store : TaskStore
        Store that contains the tasks.
    pool : str
        Name of the pool.
    session : Session
        The session of the process, whose data, tracking store and region are used for all tasks.
    in_process : bool
        Whether the tasks run in this process.
    """
    given = ("provider_uri", "tracking_uri", "region")
    return Admission(store, pool, session, given, only_data=True, in_process=in_process)


def missing_on_machine(session: Session) -> list[str]:
    """Return messages about what every task needs and this machine lacks: a writable temporary folder and cache.

    Parameters
    ----------
    session : Session
        The session, with the cache.
    """
    problems = []
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(_PROBE))
            file.flush()
    except OSError as exc:
        place = os.environ.get("TMPDIR") or "the temporary folder"
        problems.append(f"{place} is not writable ({exc.strerror or exc}). Set TMPDIR to another folder.")
    probe = Path(session.cache) / f".probe-{os.getpid()}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(_PROBE))
    except OSError as exc:
        problems.append(
            f"The cache {session.cache} is not writable ({exc.strerror or exc}). Set ROLLFORGE_CACHE to another folder."
        )
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return problems


@dataclass(frozen=True, slots=True)
class RequirementsCheck:
    """The result of checking one submission on this machine."""

    session: Session | None
    """The session in which its tasks run here; None if they cannot run."""
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Differences that do not prevent running the tasks."""


@dataclass(slots=True)
class Admission:
    """Submissions of a pool that this machine can run, and the session for each.

    Parameters
    ----------
    store : TaskStore
        Store that contains the tasks.
    pool : str
        Name of the pool.
    session : Session
        Settings of the operator; other settings are taken from each submission.
    given : collection of str
        The fields of `session` that the operator set: ``provider_uri``, ``tracking_uri``, ``region``.
    needs_data : bool
        Whether tasks read a data folder.
    accept_other_data : bool
        If True, run tasks even if the data differ from those of their submission.
    """

    store: TaskStore
    pool: str
    session: Session
    given: Collection[str] = ()
    needs_data: bool = True
    accept_other_data: bool = False
    only_data: bool = False
    """If True, compare only the data: for a process that has everything else, because it submitted the tasks."""
    in_process: bool = False
    """Whether the tasks run in this process, which then imports their plugins itself."""
    checked: dict[str, RequirementsCheck] = field(default_factory=dict)
    """Results by submission key; the empty key stands for tasks without a submission."""
    _submissions: dict[str, SubmissionInfo] = field(default_factory=dict)
    _looked: float = -1e9
    _pause: float = 0.0
    _seen: dict[str, str] = field(default_factory=dict)
    _files: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    _libraries: dict[str, str] = field(default_factory=dict)
    _imported: set[tuple[object, ...]] = field(default_factory=set)

    # -- use by workers ------------------------------------------------------------------------------------------------

    def refresh(self, *, idle: bool = False) -> None:
        """Check new submissions, and all submissions again if the data or the Python files on this machine have changed.

        Parameters
        ----------
        idle : bool
            Whether the worker has nothing else to do, so that it may check more often.
        """
        now = time.monotonic()
        changed = self._file_states(self.checked) != self._files
        if now - self._looked < max(self._pause, 1.0 if idle else _LOOK_SECONDS) and not changed:
            return
        open_ones = self.store.open_submissions(self.pool)
        if open_ones - set(self._submissions) - {""}:
            unread = self.store.submissions(self.pool, sorted(self._submissions))
            self._submissions.update((key, read_submission_info(info)) for key, info in unread.items())
        self._looked = time.monotonic()
        self._pause = _LOOK_SHARE * (self._looked - now)
        if changed or self._data_marks() != self._seen:
            self.checked.clear()
        new = open_ones - set(self.checked)
        self._files = self._file_states(new | set(self.checked))
        for key in new:
            self.checked[key] = self._check(self._submissions.get(key, SubmissionInfo()))
        if new:
            self._seen = self._data_marks()

    @property
    def query(self) -> dict[str, object]:
        """Query for the tasks that can run here."""
        return {"submission": {"$in": sorted(k for k, v in self.checked.items() if v.session is not None)}}

    @property
    def can_run_any(self) -> bool:
        """Whether the tasks of at least one submission can run here."""
        return any(v.session is not None for v in self.checked.values())

    @property
    def can_run_all(self) -> bool:
        """Whether the tasks of every checked submission can run here."""
        return bool(self.checked) and all(v.session is not None for v in self.checked.values())

    def session_for(self, submission: str) -> Session:
        """Return the session in which the tasks of a submission run; that of the operator for an unknown submission."""
        known = self.checked.get(submission)
        return self.session if known is None or known.session is None else known.session

    def refused(self) -> dict[str, int]:
        """Return the number of waiting tasks of each submission that cannot run here, by submission key."""
        found = {}
        for key in (k for k, v in self.checked.items() if v.session is None):
            query = {"submission": key, "status": {"$in": [Status.WAITING.value, Status.PART_DONE.value]}}
            n = sum(self.store.count(self.pool, query).values())
            if n:
                found[key] = n
        return found

    def explain(self, refused: Mapping[str, int]) -> str:
        """Return the reasons why tasks of some submissions cannot run here, one per line, without duplicates.

        Parameters
        ----------
        refused : mapping
            Submission key -> number of tasks, as :meth:`refused` returns it.
        """
        reasons: dict[str, int] = {}
        for key, n in refused.items():
            for problem in self.checked[key].problems:
                reasons[problem] = reasons.get(problem, 0) + n
        return "\n".join(f"  {problem}" + (f" ({counted(n, 'task')})" if n else "") for problem, n in reasons.items())

    def check_pool(self, *, exit_when_empty: bool) -> list[str]:
        """Check the pool before anything is claimed, and return notes for the operator.

        Parameters
        ----------
        exit_when_empty : bool
            Whether the worker ends if there are no tasks. Otherwise the tracking store is given by the submission of later
            tasks.

        Raises
        ------
        RequirementsNotMet
            If this machine lacks what every task needs, or can run none of the waiting tasks.
        """
        problems = missing_on_machine(self.session)
        if problems:
            raise RequirementsNotMet(
                "\n".join(["This machine cannot run the tasks. None was claimed.", *(f"  {x}" for x in problems)])
            )
        self.refresh(idle=True)
        if not self.checked and not self._tasks():
            if exit_when_empty:
                self._check_tracking(SubmissionInfo(), problems)
            if problems:
                raise RequirementsNotMet(
                    "\n".join([self._no_tasks(), "This machine could not run any.", *(f"  {x}" for x in problems)])
                )
            return [self._no_tasks()]
        refused = self.refused()
        fit = [v for v in self.checked.values() if v.session is not None]
        if refused and not fit:
            raise RequirementsNotMet(
                trust.advise_once(
                    f"This machine cannot run the tasks of pool {self.pool!r}. None was claimed.\n{self.explain(refused)}"
                )
            )
        notes = [note for one in fit for note in one.notes]
        if refused:
            notes.append(
                trust.advise_once(f"Some tasks of the pool are left for other workers.\n{self.explain(refused)}")
            )
        return list(dict.fromkeys(notes))

    def _tasks(self) -> int:
        """Return how many tasks the pool has, including finished ones."""
        return sum(self.store.count(self.pool).values())

    def _no_tasks(self) -> str:
        known = self.store.pools()
        return f"Task pool {self.pool!r} has no tasks.{nearest(self.pool, known)} Known pools: {', '.join(known) or 'none'}."

    # -- checks --------------------------------------------------------------------------------------------------------

    def _data_marks(self) -> dict[str, str]:
        """Return the fingerprints of the data folders in use, to detect changes since the last check."""
        from rollforge.market.provider import open_provider

        marks = {}
        sessions = [v.session for v in self.checked.values() if v.session is not None]
        for folder in {f for s in sessions for f in (s.provider_uri, *s.folders.values()) if f is not None}:
            try:
                marks[folder] = open_provider(folder).fingerprint()
            except DataError as exc:  # missing or damaged
                marks[folder] = str(exc)
        return marks

    def _file_states(self, keys: Iterable[str]) -> dict[str, tuple[int, int] | None]:
        """Return the states of the Python files that submissions need, to detect changes since the last check."""
        known = [self._submissions[key] for key in keys if key in self._submissions]
        return {file: file_state(file) for info in known for file in info.files}

    def _check(self, info: SubmissionInfo) -> RequirementsCheck:
        """Check one submission."""
        problems: list[str] = []
        notes: list[str] = []
        changes: dict[str, object] = {}
        if not info.known and not self.only_data:
            notes.append(
                "Some tasks were stored without information about their submission (TaskManager.create_task), "
                "so it was not checked whether data, tracking store and packages are the same here."
            )
        if "region" not in self.given and info.region in REGIONS:
            changes |= {"region": info.region, "exchange": info.exchange}
        if self.needs_data and not (self.only_data and self.session.provider_uri is None):
            bound: dict[str, object] = {}
            bound |= {} if self.only_data or not info.until else {"data_until": info.until}
            bound |= {"freq": info.freq} if info.freq else {}
            bound |= {"folders": info.folders} if info.folders and "provider_uri" not in self.given else {}
            folder = self._check_data(info, self.session.with_(**bound), problems, notes)
            changes |= {"provider_uri": folder, **bound}
        if not self.only_data:
            tracking_uri = self._check_tracking(info, problems)
            if tracking_uri is not None:
                changes["tracking_uri"] = tracking_uri
        plugins = self._check_plugins(info, problems)
        changes |= plugins or {}
        if not self.only_data:
            problems.extend(_other_versions(info))
        if not self.only_data and plugins is not None:
            self._check_packages(info, self.session.with_(**plugins), problems, notes)
        try:
            session = self.session.with_(**changes)
        except RollforgeError as exc:  # for example, an exchange of a newer version
            problems.append(str(exc))
            session = self.session
        return RequirementsCheck(None if problems else session, tuple(problems), tuple(notes))

    def _check_data(self, info: SubmissionInfo, session: Session, problems: list[str], notes: list[str]) -> str | None:
        from rollforge.market.content import session_content

        named = "provider_uri" in self.given
        if info.known and not info.folder and not named:
            return None  # these tasks read no data folder
        folder = self.session.provider_uri if named else info.folder or None
        advice = "Give the folder on this machine with --data FOLDER or ROLLFORGE_DATA"
        if folder is None:
            problems.append(
                f"This worker has no data folder, so every task would fail. {advice}, or use --no-data if the "
                "tasks do not read one."
            )
            return None
        try:
            session = session.with_(provider_uri=folder, folders=session.folders)
            here = session_content(session)
        except DataError as exc:
            if self.only_data:  # tasks that need the data will raise the error
                return folder
            reason = f"The tasks were submitted with the data folder {folder} on {info.host}. " if not named else ""
            problems.append(
                f"This worker cannot read its data folder, so every task would fail. {reason}{exc} {advice}."
            )
            return None
        if info.folder and here is not None:
            self._compare(here, info.content, session.folder() or folder, self._there(info, info.freq), problems, notes)
        for freq, content in info.others.items():
            self._check_other(freq, content, info, session, problems, notes)
        return folder

    def _check_other(
        self,
        freq: str,
        content: Document,
        info: SubmissionInfo,
        session: Session,
        problems: list[str],
        notes: list[str],
    ) -> None:
        """Compare the data of a frequency that the tasks read besides that of their rows."""
        from rollforge.market.content import session_content

        try:
            here = session_content(session, freq)
        except DataError as exc:
            if not self.only_data:
                problems.append(
                    f"This worker cannot read the data of the frequency {freq!r}, from which the tasks compute features. "
                    f"{exc} Give the folder on this machine with --data {freq}=FOLDER, besides --data day=FOLDER."
                )
            return
        folder = session.folder(freq)
        if here is not None and folder is not None:
            there = self._there(info, freq)
            self._compare(here, content, f"{folder} ({freq})", there, problems, notes)

    @staticmethod
    def _there(info: SubmissionInfo, freq: str) -> str:
        """Return the folder with which tasks were submitted, and their machine."""
        return f"{info.folders.get(freq, info.folder)} on {info.host}"

    def _compare(
        self, here: DataContent, wanted: Document, folder: str, there: str, problems: list[str], notes: list[str]
    ) -> None:
        from rollforge.market.content import DataContent

        try:
            differences = here.differences(DataContent.from_plain(wanted))
        except DataError:
            notes.append("The fingerprint of the submitted data has a format that this version cannot compare.")
            return
        if not differences:
            return
        difference = (
            f"The data folder {folder} differs from {there}, with which the tasks were submitted: "
            f"{'; '.join(differences)}."
        )
        if self.accept_other_data:
            notes.append(f"{difference} The tasks are run anyway (--accept-other-data).")
        else:
            problems.append(
                f"{difference} Copy that folder to this machine and give it with --data, submit the tasks again with "
                "the correct data, or use --accept-other-data."
            )

    def _check_tracking(self, info: SubmissionInfo, problems: list[str]) -> str | None:
        local_store = self.store.uri.partition(":")[0] in ("sqlite", "memory")
        advice = "Give the tracking store that all machines use with --tracking or ROLLFORGE_TRACKING."
        if "tracking_uri" in self.given:
            tracking_uri = self.session.tracking_uri
        elif info.tracking_uri:
            tracking_uri = known_address(info.tracking_uri, self.session.tracking_uri)
            same_machine = info.machine == machine_of(process_name())
            place = local_path(tracking_uri)
            if not same_machine and place is not None and not place.exists():
                problems.append(
                    f"The tasks were submitted to record their runs in {tracking_uri} on {info.host}, which does not exist "
                    f"on this machine. {advice}"
                )
                return None
        elif local_store:
            tracking_uri = self.session.tracking_uri
        else:
            problems.append(
                "The pool is on a server, but runs would be recorded in a file on this machine "
                f"({self.session.tracking_uri}). {advice}"
            )
            return None
        if tracking_uri not in self._libraries:
            try:
                if "tracking_uri" not in self.given:
                    check_scheme(tracking_uri)
                open_tracker(tracking_uri).check_writable(self.session.experiment_name)
            except RollforgeError as exc:
                self._libraries[tracking_uri] = f"Runs cannot be recorded in {mask_secrets(tracking_uri)}. {exc}"
            else:
                self._libraries[tracking_uri] = ""
        if self._libraries[tracking_uri]:
            problems.append(self._libraries[tracking_uri])
            del self._libraries[tracking_uri]  # check again: it may be repaired while the worker waits
        return tracking_uri

    def _check_plugins(self, info: SubmissionInfo, problems: list[str]) -> dict[str, object] | None:
        """Return the changes of the session by which the plugins, operators and folders of a submission are used here.

        None if they cannot be used.

        Those of a private store count as the operator's own. Those of other stores need the operator's permission, and
        folders are not taken from them, because a folder determines which code a permitted name refers to.
        """
        wanted = tuple(dict.fromkeys((*info.plugins, *(module for _, module in info.operators))))
        if not wanted and not info.sys_path:
            reason = self._other_files(info, self.session)
            if reason:
                problems.append(reason)
            return None if reason else {}
        changes: dict[str, object] = {}
        if is_private(self.store):
            changes = {
                "sys_path": _joined(self.session.sys_path, info.sys_path), "allow": _joined(self.session.allow, wanted)
            }  # fmt: skip
        permitted = self.session.with_(**changes)
        own = {module for _, module in self.session.operators}  # the operator's own session names them
        refused = [
            reason
            for name in wanted
            if name not in own and (reason := self._not_allowed("A plugin of the tasks", name, permitted))
        ]
        if refused:
            problems.append(trust.advise_once(" ".join(dict.fromkeys(refused))))
            return None
        changes |= {
            "plugins": _joined(self.session.plugins, info.plugins),
            "operators": _joined(self.session.operators, info.operators),
        }
        used = self.session.with_(**changes)
        reason = self._other_files(info, used) or self._plugin_problem(used, wanted, info)
        if reason:
            problems.append(reason)
            return None
        return changes

    def _other_files(self, info: SubmissionInfo, session: Session) -> str:
        """Return which Python files differ from those on the machine where the tasks were submitted; empty if none does.

        Files that a session does not allow are not compared: their classes are refused.
        """
        other = []
        for file, submitted in info.files.items():
            here = file_digest(file)
            allowed = self.only_data or not self._not_allowed("A class of the tasks", file, session)
            if here and here != submitted and allowed:
                other.append(f"{file} (SHA-256 {here[:_SHORT]} here, {submitted[:_SHORT]} there)")
        if not other:
            return ""
        files = "file" if len(other) == 1 else "files"
        return (
            f"The tasks were submitted on {info.host} with other contents of {', '.join(other)}. Copy the {files} from "
            f"there to this machine, or submit the tasks again from this machine to use its {files}."
        )

    def _plugin_problem(self, session: Session, wanted: Sequence[str], info: SubmissionInfo) -> str:
        """Return why plugins cannot be imported here; empty if they can. Another process tries, unless this one has them."""
        tried = (session.plugins, session.sys_path, *info.files.items())
        if are_loaded(session.plugins, info.operators) or tried in self._imported:
            return ""
        for file in (name for name in wanted if name.endswith(".py") and not os.path.isfile(name)):
            return (
                f"The tasks need the plugin {file} of {info.host}, and this machine has no such file. Copy it to the same "
                "path, or put the code into a package that is installed on both machines and name that in 'plugins'."
            )
        try:
            if self.in_process:
                load_plugins(session)
            else:
                from rollforge.run.worker_process import START_SECONDS, import_plugins_in_child

                import_plugins_in_child(session, START_SECONDS)
        except RollforgeError as exc:
            last = [line for line in str(exc).splitlines() if line.strip()][-1:]
            folders = "" if not info.sys_path or session.sys_path else (
                f" The tasks were submitted with the folders {', '.join(info.sys_path)} on {info.host}: add their copies "
                "on this machine to PYTHONPATH."
            )  # fmt: skip
            return f"The tasks need plugins that cannot be imported here: {''.join(last)}{folders}"
        self._imported.add(tried)
        return ""

    def _check_packages(self, info: SubmissionInfo, session: Session, problems: list[str], notes: list[str]) -> None:
        models = info.models
        broken: dict[str, str] = {}
        for name, packages in models.items():
            for package, version in packages.items():
                reason = self._package_problem(package, version, session)
                if (
                    not reason and package not in info.libraries
                ):  # a pool may claim that; what is built is checked again
                    reason = self._not_allowed(name, package, session)
                if reason:
                    broken[name] = reason
                elif version and version_of(package) not in ("", version):
                    notes.append(
                        f"{package} is version {version_of(package)} here, but was {version} where the tasks were submitted."
                    )
        if broken and len(broken) == len(models):
            problems.extend(dict.fromkeys(broken.values()))
        else:
            notes.extend(
                f"Tasks of the model {name} are left for other workers. {reason}" for name, reason in broken.items()
            )

    @staticmethod
    def _not_allowed(what: str, package: str, session: Session) -> str:
        """Return why a task may not use a package in a session; empty if it may."""
        try:
            with using(session), trust.from_origin(Origin.POOL):
                trust.check_import(what, package)
        except ConfigError as exc:
            return str(exc)
        return ""

    def _package_problem(self, package: str, version: str, session: Session) -> str:
        """Return why a package cannot be used here; empty if it can. Code that only the pool names is not imported."""
        key = " ".join((package, *session.sys_path))
        if key not in self._libraries:
            reason = ""
            if not _is_there(package, session.sys_path):
                which = f"{package} {version}".strip()
                reason = f"The package {package} is not installed here; the tasks were submitted with {which}."
                reason += f" Install it: pip install {package}=={version}." if version else ""
            elif trust.is_library(package):
                reason = _import_failure(package)
            self._libraries[key] = reason
        return self._libraries[key]


def _other_versions(info: SubmissionInfo) -> Iterator[str]:
    """Yield what to do about another minor version of Python, or another version of Rollforge, than tasks were submitted with.

    What a task saves is read where it was submitted, and all windows of an experiment are to be computed by the same code.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name, mine, theirs, advice in (
        ("Python", python, ".".join(info.python.split(".")[:2]), ""),
        ("Rollforge", version_of("rollforge"), info.rollforge, f" (pip install rollforge=={info.rollforge})"),
    ):
        if mine and theirs and mine != theirs:
            yield (
                f"The tasks were submitted on {info.host} with {name} {theirs}, but this machine has {name} {mine}. Install "
                f"{name} {theirs} here{advice}, or submit the tasks again from a machine with {name} {mine}."
            )


def is_private(store: TaskStore) -> bool:
    """Return whether only this user can write to a store: it is in memory, or an SQLite file that others cannot change.

    The plugins of its submissions can then be trusted.
    """
    from rollforge.store.memory import MemoryStore
    from rollforge.store.sqlite import SQLiteStore

    if not isinstance(store, SQLiteStore):
        return isinstance(store, MemoryStore)
    places = (store.path, store.path.resolve().parent)
    try:
        return all(s.st_uid == os.geteuid() and not s.st_mode & 0o022 for s in map(os.stat, places))
    except OSError:
        return False


def _is_there(package: str, folders: Sequence[str]) -> bool:
    if package.endswith(".py"):
        return Path(package).is_file()
    top = package.partition(".")[0]
    try:
        return importlib.util.find_spec(top) is not None or PathFinder.find_spec(top, list(folders)) is not None
    except (ImportError, ValueError):
        return False


def _joined(*parts: Sequence[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(one for part in parts for one in part))


def _import_failure(package: str) -> str:
    """Return why an installed package cannot be imported; empty if it can. A child process tries, as it may crash."""
    from rollforge.run.worker_process import call_in_child

    try:
        call_in_child(_import, package)
    except RollforgeError as exc:
        last = [line for line in str(exc).splitlines() if line.strip()][-1:]
        return f"The package {package} is installed here but cannot be imported: {''.join(last)}"
    return ""


def _import(package: str) -> None:
    importlib.import_module(package)
