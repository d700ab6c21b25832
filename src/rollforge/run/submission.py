"""Information about a submission: data, tracking store, trading rules, packages, code files. The pool keeps it for workers.

It is plain data without secrets: passwords and tokens are removed from addresses. For its use by workers, see
:class:`~rollforge.run.requirements.Admission`.
"""

from __future__ import annotations

import contextlib
import importlib
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rollforge import trust
from rollforge.confidential import without_secrets
from rollforge.dates import read_day
from rollforge.errors import ConfigError, DataError, DateError, RollforgeError, excerpt, printable
from rollforge.frequency import is_frequency
from rollforge.generate.checks import NOT_CHECKED, Check, CheckMethod, check_from_document, check_to_document
from rollforge.generate.data_read import other_frequencies
from rollforge.generate.task_view import TaskView, at_frequency
from rollforge.machine import machine_of, process_name
from rollforge.paths import read_path
from rollforge.run.task_resources import resources_info
from rollforge.session import Session
from rollforge.store.base import ABOUT, TaskStore
from rollforge.task import Document, TaskRecord, to_plain
from rollforge.track.base import open_tracker
from rollforge.user_code import file_digest

__all__ = [
    "SubmissionInfo",
    "load_checks",
    "packages_of",
    "read_submission_info",
    "store_checks",
    "submission_info",
    "submissions_of",
]


def submission_info(
    tasks: Iterable[Mapping[str, object]],
    session: Session,
    ensemble: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Return what is stored about a submission with :meth:`~rollforge.store.base.TaskStore.keep_submission`.

    Parameters
    ----------
    tasks : iterable of mapping
        Task definitions. Their model classes are imported to find the packages that they need.
    session : Session
        Provides data folder, tracking store, region and exchange.
    ensemble : mapping, optional
        The ensembles of the predictions, see :attr:`~rollforge.collect.combine.Ensembles.config`.

    Returns
    -------
    dict
        ``rollforge``, ``python``, ``host``, ``machine``; ``data`` (None, or ``folder``, ``folders`` and ``content``, see
        :class:`~rollforge.market.content.DataContent`; ``others`` has the content of each further frequency that the tasks
        read, if there are any); ``tracking`` (None if it cannot be opened here); ``region``,
        ``exchange``; ``models`` (class -> package -> version); ``plugins``; if there are any, also ``operators`` and
        ``sys_path``, as in the session, ``files`` (Python file -> SHA-256 digest, for the plugins, operators and classes
        that are named by path and exist here), ``resources`` (those that tasks ask for), ``ensemble`` (as given, with the
        ``files`` of its classes), and ``libraries`` that
        Rollforge's own models import and no task may name.
    """
    import platform

    listed = list(tasks)
    models, libraries = _models(listed)
    added: dict[str, object] = {
        **resources_info(listed),
        "operators": [list(o) for o in session.operators], "sys_path": list(session.sys_path), "libraries": libraries,
        "files": _files(listed, (*session.plugins, *(module for _, module in session.operators))),
    }  # fmt: skip
    if ensemble:
        files = _files([ensemble])
        added["ensemble"] = {**to_plain(dict(ensemble)), **({"files": files} if files else {})}
    return {
        "rollforge": version_of("rollforge"),
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "machine": machine_of(process_name()),
        "data": _data(session, listed),
        "tracking": _tracking(session),
        "region": session.region,
        "exchange": to_plain(dict(session.exchange)),
        "models": models,
        "plugins": [trust.plugin_module(name) for name in session.plugins],
        **{name: value for name, value in added.items() if value},
    }


@dataclass(frozen=True, slots=True)
class SubmissionInfo:
    """Environment of a submission, as stored in the pool.

    It is not trusted: anyone with write access to the pool may have written it.
    """

    known: bool = False
    """False if nothing was stored for the submission."""
    rollforge: str = ""
    python: str = ""
    host: str = "another machine"
    machine: str = ""
    folder: str = ""
    """Data folder; empty if there was none."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Data folders of single frequencies."""
    until: str = ""
    freq: str = ""
    """Last day of the data that the tasks may read; empty for all days."""
    content: Document = field(default_factory=dict)
    others: Mapping[str, Document] = field(default_factory=dict)
    """Content of the data of each frequency that the tasks read besides that of their rows. Earlier versions did not store
    it, and then it is not compared."""
    tracking_uri: str = ""
    region: str = ""
    exchange: Document = field(default_factory=dict)
    models: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    """Modules and files that the tasks need, as listed in the submitter's session."""
    operators: tuple[tuple[str, str], ...] = ()
    """Expression operators that the tasks need, as (class, module or file)."""
    sys_path: tuple[str, ...] = ()
    """Folders of the submitter's machine that contain the modules."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Python files that the tasks need, as path -> SHA-256 digest of the submitter's copy."""
    ensemble: Mapping[str, object] = field(default_factory=dict)
    """The ensembles of the predictions: ``windows`` and ``models``; empty for the default."""
    ensemble_files: Mapping[str, str] = field(default_factory=dict)
    """Python files of the ensembles' classes, as in `files`."""
    libraries: tuple[str, ...] = ()
    """Packages among those of `models` that Rollforge's own models import, so that no permission is needed."""


def read_submission_info(kept: Mapping[str, object]) -> SubmissionInfo:
    """Read the information returned by :func:`submission_info`; values of an unexpected type are left out.

    Examples
    --------
    >>> info = read_submission_info({"host": "gpu1", "models": {"M": "?"}, "data": 7})
    >>> info == SubmissionInfo(known=True, host="gpu1", models={"M": {}})
    True
    """

    def text(value: object) -> str:
        return printable(value)[:500] if isinstance(value, str) else ""

    def mapping(value: object) -> Document:
        return {k: v for k, v in value.items() if isinstance(k, str)} if isinstance(value, Mapping) else {}

    def texts(value: object) -> tuple[str, ...]:
        return tuple(filter(None, map(text, value))) if isinstance(value, list) else ()

    def files(value: object) -> dict[str, str]:
        return {text(path): text(digest) for path, digest in mapping(value).items() if path.endswith(".py")}

    data, operators, ensemble = mapping(kept.get("data")), kept.get("operators"), mapping(kept.get("ensemble"))
    pairs = map(texts, operators) if isinstance(operators, list) else ()
    return SubmissionInfo(
        known=bool(kept),
        rollforge=text(kept.get("rollforge")),
        python=text(kept.get("python")),
        host=text(kept.get("host")) or "another machine",
        machine=text(kept.get("machine")),
        folder=text(data.get("folder")),
        folders={f: text(p) for f, p in mapping(data.get("folders")).items() if is_frequency(f)},
        until=_day(data.get("until")),
        freq=str(data.get("freq") or ""),
        content=mapping(data.get("content")),
        others={freq: mapping(one) for freq, one in mapping(data.get("others")).items() if is_frequency(freq)},
        tracking_uri=text(kept.get("tracking")),
        region=text(kept.get("region")),
        exchange=mapping(kept.get("exchange")),
        models={
            text(name): {text(p): text(v) for p, v in mapping(packages).items()}
            for name, packages in mapping(kept.get("models")).items()
        },
        plugins=texts(kept.get("plugins")),
        operators=tuple((pair[0], pair[1]) for pair in pairs if len(pair) == 2),
        sys_path=texts(kept.get("sys_path")),
        files=files(kept.get("files")),
        ensemble={part: one for part, one in ensemble.items() if part in ("windows", "models")},
        ensemble_files=files(ensemble.get("files")),
        libraries=texts(kept.get("libraries")),
    )


def _checks(listed: object) -> tuple[Check, ...]:
    """Return the results of checks that a pool has stored, with their texts in printable characters."""
    made = map(check_from_document, listed[:_MAX_CHECKS] if isinstance(listed, list) else ())
    return tuple(
        replace(
            one, subject=excerpt(one.subject, 100), text=excerpt(one.text, 2000), advice=excerpt(one.advice, 1000),
            tasks=tuple(excerpt(title, 200) for title in one.tasks), days=tuple(excerpt(day, 40) for day in one.days),
            where=excerpt(one.where, 400),
        )
        for one in made if one is not None
    )  # fmt: skip


_MAX_CHECKS = 200


def store_checks(store: TaskStore, pool: str, checks: Iterable[Check], tasks: Mapping[str, str]) -> None:
    """Store the results of checks with the tasks that they are about, for reports.

    Parameters
    ----------
    store : TaskStore
        The store in which the tasks are, or will be.
    pool : str
        The experiment.
    checks : iterable of Check
        The results. Earlier results of the same method about these tasks are no longer reported.
    tasks : mapping
        Id -> title of the tasks that were checked.
    """
    documents = [check_to_document(one) for one in checks]
    ids = sorted(tasks)
    store.keep_submission(pool, {ABOUT: ids, "titles": [tasks[i] for i in ids], "checks": documents})


def load_checks(store: TaskStore, pool: str, tasks: Iterable[TaskRecord]) -> tuple[Check, ...]:
    """Return the results of the checks of tasks: for each task the latest ones of each method.

    They belong to the tasks, regardless of which submission or ``rollforge check`` stored them. A lack of checks is only
    reported for tasks that were never checked.

    Parameters
    ----------
    store : TaskStore
        The store of the tasks.
    pool : str
        The experiment.
    tasks : iterable of TaskRecord
        The tasks.
    """
    listed = list(tasks)
    submitted: dict[str, set[str]] = {}  # earlier versions stored the results with the submission
    for task in listed:
        submitted.setdefault(task.submission, set()).add(task.id)
    ids = [task.id for task in listed]
    latest: dict[CheckMethod, dict[str, _Answer]] = {}
    for key, kept in store.submissions(pool).items():
        titles = _titles(kept)
        about = [i for i in ids if i in titles or i in submitted.get(key, ())]
        for method in CheckMethod:
            checks = tuple(one for one in _checks(kept.get("checks")) if one.method is method)
            if checks and about:
                answers = latest.setdefault(method, {})
                answer = _Answer(checks, titles)
                answers |= {i: answer for i in about if i not in answers or not answer.is_empty}
    return tuple(dict.fromkeys(check for answers in latest.values() for check in _latest(answers, ids)))


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """The stored results about some tasks."""

    checks: tuple[Check, ...]
    titles: Mapping[str, str]
    """Id -> title of the tasks, if they were stored."""

    @property
    def is_empty(self) -> bool:
        """Whether no checks were made."""
        return all(one.text == NOT_CHECKED.text for one in self.checks)

    def about(self, ids: Collection[str]) -> tuple[Check, ...]:
        """Return the results about some of the tasks."""
        if not self.titles or set(self.titles) <= set(ids):
            return self.checks
        titles = {self.titles[i] for i in ids if i in self.titles}
        found = []
        for one in self.checks:
            some = tuple(title for title in one.tasks if title in titles)
            if some or not one.tasks:  # the first days that it is about may be those of other tasks
                found.append(replace(one, tasks=some, days=(), where=""))
        return tuple(found)


def _latest(answers: Mapping[str, _Answer], ids: Sequence[str]) -> list[Check]:
    """Return the results of the answers, each of which is the latest about some tasks, in the order of the tasks."""
    about: dict[_Answer, list[str]] = {}
    for task_id in ids:
        if task_id in answers:
            about.setdefault(answers[task_id], []).append(task_id)
    return [one for answer, some in about.items() for one in answer.about(some)]


def _titles(kept: Mapping[str, object]) -> dict[str, str]:
    """Return the ids and titles of the tasks that stored results of checks are about, if not of a submission's tasks."""
    ids, titles = kept.get(ABOUT), kept.get("titles")
    if not isinstance(ids, list):
        return {}
    texts = titles if isinstance(titles, list) and len(titles) == len(ids) else [""] * len(ids)
    return {i: str(text) for i, text in zip(ids, texts, strict=True) if isinstance(i, str)}


def submissions_of(store: TaskStore, pool: str) -> dict[str, SubmissionInfo]:
    """Return what is stored about all submissions of a pool, by key, oldest first."""
    return {key: read_submission_info(kept) for key, kept in store.submissions(pool).items() if ABOUT not in kept}


def _data(session: Session, tasks: Sequence[object]) -> dict[str, object] | None:
    from rollforge.market.content import session_content

    folders = session.folders
    known = [task for task in tasks if isinstance(task, Mapping)]
    with contextlib.suppress(ConfigError):  # tasks of several frequencies: an error where they are trained
        session = at_frequency(session, known)
    others = {}
    try:
        content = session_content(session)
        for freq in other_frequencies(known, session) if content is not None else ():
            with contextlib.suppress(DataError):
                other = session_content(session, freq)
                others[freq] = {} if other is None else other.to_plain()
    except DataError:  # tasks that need the data will raise the error
        return None
    return (
        None
        if content is None
        else {
            "folder": str(read_path(session.provider_uri or "").absolute()),
            **({"folders": {f: str(read_path(p).absolute()) for f, p in folders.items()}} if folders else {}),
            "until": session.data_until or "",
            "freq": session.freq or "",
            "content": content.to_plain(),
            **({"others": others} if others else {}),
        }
    )


def _day(value: object) -> str:
    try:
        return str(read_day(value)) if value else ""
    except DateError:
        return ""


def _tracking(session: Session) -> str | None:
    try:
        return without_secrets(open_tracker(session.tracking_uri).uri)
    except RollforgeError:  # recording a run will raise the error
        return None


def _models(tasks: Iterable[Mapping[str, object]]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return the packages that each model class needs, with their versions, and those that only Rollforge's models name."""
    from rollforge.build import locate

    described = (TaskView(task).model for task in tasks if isinstance(task, Mapping))
    pairs = ((m.get("class"), m.get("module_path") or "") for m in described if m is not None)
    named = {(name, path) for name, path in pairs if isinstance(name, str) and isinstance(path, str)}
    models: dict[str, dict[str, str]] = {}
    libraries: set[str] = set()
    for name, path in sorted(named):
        if path.endswith(".py"):
            models[name] = {path: ""}
            continue
        try:
            module = str(getattr(locate(name, path or None), "__module__", ""))
        except RollforgeError:  # the class may exist on a worker's machine
            models[name] = {}
            continue
        models[name] = packages_of(module)
        if module.startswith("rollforge."):
            libraries |= {package for package in models[name] if not trust.is_library(package)}
    return models, sorted(libraries)


def _files(definitions: Iterable[Mapping[str, object]], modules: Iterable[str] = ()) -> dict[str, str]:
    """Return the digests of the Python files that definitions and a session name by path, without files that are not here.

    A worker with other versions of them would train something else under the same task.
    """
    named = set(modules)
    for definition in definitions:
        named.update(module for module, _ in trust.names_in(definition))
    digests = {name: file_digest(name) for name in sorted(named) if name.endswith(".py")}
    return {name: digest for name, digest in digests.items() if digest}


def packages_of(module: str) -> dict[str, str]:
    """Return the packages that classes of a module need, with their versions, except those of Rollforge itself.

    A module of Rollforge names the package that it needs as ``LIBRARY``.

    Examples
    --------
    >>> list(packages_of("rollforge.models.lightgbm")), packages_of("rollforge.models.linear")
    (['lightgbm'], {})
    """
    top = module.partition(".")[0]
    name = str(getattr(importlib.import_module(module), "LIBRARY", "")) if top == "rollforge" else top
    if name in ("", "__main__", "builtins"):
        return {}
    return {name: version_of(name)}


_DISTRIBUTIONS = {"sklearn": ("scikit-learn",), "xgboost": ("xgboost-cpu",)}
"""Distributions of packages that are imported by another name. Finding one among all that are installed takes half a second."""


def version_of(package: str) -> str:
    """Return the version of an importable package; empty for a module that belongs to no distribution."""
    from importlib import metadata

    for name in (package, *_DISTRIBUTIONS.get(package, ())):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    for name in metadata.packages_distributions().get(package, ()):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return ""
