"""Read a workflow file into a session and task templates, for ``rollforge plan`` and ``run``.

Qlib's format (``qlib_init: …``) and Rollforge's own (``rollforge: …``) are both accepted. Files are YAML 1.2, as for
Qlib's reader: ``1e-3`` is a number and ``no`` is a string. All errors are reported at once, each with its line and its
path in the document.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails

from rollforge.description import Description
from rollforge.engine.options import ENGINE_PATTERN, ENGINES, LOCAL, MAX_SILENCE, RunOptions, read_engine
from rollforge.errors import (
    ConfigError,
    counted,
    nearest,
    shown,
)
from rollforge.generate.checks import Leakage, read_leakage
from rollforge.generate.naming import check_name
from rollforge.generators import GeneratorEntry, generate_entries
from rollforge.limits import LIMITS, SIZE_PATTERN, parse_size, read_memory, read_text
from rollforge.notify import Target, read_targets, without_addresses
from rollforge.online.check_rules import Rules, read_rules
from rollforge.paths import name_problem, read_path
from rollforge.plugins import load_plugins
from rollforge.qlib_options import check_option, data_folders, exchange_options
from rollforge.rendering import render
from rollforge.session import EXCHANGE, Session, folders_by_frequency
from rollforge.task import Definition, Document
from rollforge.trust import checked_plugins
from rollforge.yaml12 import Lines, anchored_keys, line_of, read_yaml

__all__ = ["Template", "Workflow", "document_schema", "load_workflow", "location_of"]

log = logging.getLogger(__name__)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, protected_namespaces=())


class _Place(_Section):
    """A class and its module."""

    class_: str = Field(alias="class")
    """Name of the class."""
    module_path: str
    """A module, or a `.py` file."""


class _ManagerArguments(BaseModel):
    """The supported arguments of Qlib's experiment manager."""

    model_config = ConfigDict(extra="allow")
    uri: str | None = None
    default_exp_name: str | None = None


class _Manager(BaseModel):
    model_config = ConfigDict(extra="allow")
    kwargs: _ManagerArguments | None = None


class _QlibInit(BaseModel):
    """Qlib's options, which :mod:`rollforge.qlib_options` describes."""

    model_config = ConfigDict(extra="allow")
    provider_uri: str | Annotated[dict[str, str], Field(json_schema_extra={"minProperties": 1})] = (
        "~/.qlib/qlib_data/cn_data"  # Qlib's default
    )
    """The data folder, or one per frequency."""
    region: Literal["cn", "us", "tw"] = "cn"
    """Trading rules of the backtest."""
    exp_manager: _Manager | None = None
    """The tracking store: `uri` and `default_exp_name` of its `kwargs`."""
    default_exp_name: str | None = None
    """Name of the experiment."""
    custom_ops: list[_Place] = []
    """Expression operators of your own."""
    kernels: int | None = Field(default=None, ge=1)
    """Number of threads."""


def _bytes(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


_SIZE_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": SIZE_PATTERN}]}
_Size = Annotated[int, BeforeValidator(_bytes), Field(ge=1), WithJsonSchema(_SIZE_SCHEMA)]
"""A number of bytes, or a string such as ``2G``."""


def _memory(value: object) -> object:
    return value if value is None else read_memory(value)


# A string without a unit needs seven digits: less is below 1M.
_MEMORY_PATTERN = r"^\s*([0-9]{7,18}|[0-9]{4,18}\s*[Kk]|[0-9]{1,18}(\.[0-9]{1,9})?\s*[MGTmgt])([iI]?[bB])?\s*$"
_MEMORY_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 2**20}, {"type": "string", "pattern": _MEMORY_PATTERN}]}
_Memory = Annotated[int, BeforeValidator(_memory), WithJsonSchema(_MEMORY_SCHEMA)]
"""A number of bytes, or a string such as ``2G``; at least 1M."""


class _Rollforge(_Section):
    data: str | dict[str, str] | None = None
    """A data folder, or one per frequency; relative paths may be relative to this file. Default: ROLLFORGE_DATA."""
    freq: str | None = None
    """Frequency of the data, such as `60min`; by default `day`, or the only one of the folder."""
    region: Literal["cn", "us", "tw"] = "us"
    """Trading rules of the backtest."""
    exchange: dict[str, object] = {}
    """Defaults of the backtest's exchange."""
    store: str | None = None
    """Task store: `sqlite:///PATH`, `postgresql://…`, `mongodb://…`. Default: ROLLFORGE_STORE, or `.rollforge/tasks.db`."""
    tracking: str | None = None
    """Tracking store: `sqlite:///PATH`, `http://…`, `folder:PATH`. Default: ROLLFORGE_TRACKING, or `.rollforge/mlflow.db`."""
    experiment: str | None = None
    """Name of the experiment, of its pool and of its results folder; by default the name of this file."""
    cache: str | None = None
    """Folder of feature panels and compiled kernels. Default: ROLLFORGE_CACHE, or `~/.cache/rollforge`."""
    cache_limit: _Size | None = None
    """Maximum size of cached panels, in bytes or as `50G` (the default)."""
    memory: _Memory | None = None
    """Approximate memory for computing features, in bytes or as `2G` (the default)."""
    threads: int | None = Field(default=None, ge=1)
    """Number of threads; by default the number of cores."""
    operators: list[_Place] = []
    """Expression operators of your own."""


class _Rolling(_Section):
    step: int = 40
    """Trading days in each test window."""
    rtype: Literal["sliding", "expanding"] = "expanding"
    """`sliding`: the train segment keeps its length; `expanding`: it keeps its first day."""
    trunc_days: int | Literal["auto"] | None = None
    """Days between segments; `auto`: as many as the label looks ahead. Default: `auto`, in Qlib's format none."""
    train_key: str = "train"
    """Name of the segment that moves as the train segment."""
    test_key: str = "test"
    """Name of the segment that is divided into windows."""
    clip_test_end: bool | None = None
    """Whether the last test window ends with the test segment."""
    roll_fit_window: bool | None = None
    """Whether the days on which processors are fitted move with the train segment."""
    roll_backtest: bool | None = None
    """Whether each window's backtest covers the days of its own test segment."""
    freq: str | None = None
    """Frequency of the calendar; by default that of the data."""


class _Policy(_Section):
    """Section ``policy``: when the model of a new window or a challenger replaces the champion of a service."""

    shadow_days: int = Field(strict=True, ge=1)
    """Trading days in shadow mode before a decision."""
    metric: Literal["rank_ic", "ic"] = "rank_ic"
    """What champion and candidate are compared by."""
    margin: float = Field(default=0.0, strict=True, ge=0, allow_inf_nan=False)
    """By how much a candidate must be better."""
    lost: Literal["retire", "keep"] = "retire"
    """What happens to a candidate that is not better."""
    challenger: str | None = None
    """The model of the section `models` that runs in shadow mode."""
    replaces: str | None = None
    """The model that it may replace."""


class _Run(_Section):
    """Section ``run``: where tasks run, and what each needs of an engine."""

    on: Annotated[str, WithJsonSchema({"type": "string", "pattern": ENGINE_PATTERN})] | None = None
    """`local` (the default), `ray[:HOST:PORT]`, `dask[://HOST:PORT]` or `slurm`."""
    jobs: int | None = Field(default=None, strict=True, ge=0)
    """Maximum number of tasks at the same time; 0 trains in this process."""
    cpus: int | None = Field(default=None, strict=True, ge=1)
    """Cores of each task; 1 by default."""
    memory: _Memory | None = None
    """Memory that each task needs, in bytes or as `8G`."""
    gpus: float | None = Field(default=None, strict=True, ge=0, allow_inf_nan=False)
    """GPUs of each task; a fraction shares one."""
    data: Literal["sent", "shared"] | None = None
    """`sent`: each machine is sent what tasks read; `shared`: all machines have the data folder under the same path."""
    silence: float | None = Field(default=None, strict=True, gt=0, le=MAX_SILENCE, allow_inf_nan=False)
    """Seconds without a call from the driver after which an agent ends its task, at most 60."""
    slurm: dict[str, object] = {}
    """Further arguments of `dask_jobqueue.SLURMCluster`."""
    spans: bool | None = Field(default=None, strict=True)
    """Whether tasks are traced with OpenTelemetry; no by default."""


class _Signals(_Section):
    """Section ``signals``: publication of a service's signals."""

    table: bool = Field(default=False, strict=True)
    """Whether the ledger also stores the rows of the signals."""


class _Object(_Section):
    class_: str = Field(alias="class")
    """Name of the class."""
    module_path: str | None = None
    """A module, or a `.py` file in the working directory or next to this file."""
    kwargs: dict[str, object] | None = None
    """Arguments of the constructor."""


class _Ensembles(_Section):
    """The ensembles of windows and models."""

    windows: _Object | str | None = None
    """What joins the predictions of consecutive windows."""
    models: _Object | str | None = None
    """What combines the predictions of several models."""


_Days = Annotated[int, Field(strict=True, ge=0)]


class _Resources(_Section):
    """Resources of a task."""

    cpus: int | None = Field(default=None, strict=True, ge=1)
    """Cores; 1 by default."""
    memory: _Memory | None = None
    """Memory, in bytes or as `8G`."""
    gpus: float | None = Field(default=None, strict=True, ge=0, allow_inf_nan=False)
    """GPUs; a fraction shares one."""


class _Task(_Section):
    model: _Object | str
    """The model."""
    dataset: _Object | str
    """The data set: its handler and its segments."""
    record: list[_Object | str] | _Object | str = []
    """What is recorded for each window."""
    reweighter: _Object | str | None = None
    """What weights the training rows."""
    label_horizon: _Days | None = None
    """Trading days that the label looks ahead, if its expression does not say so."""
    resources: _Resources | None = None
    """What each task of this model needs."""


class _TaskOfModels(_Task):
    """A task whose models are in the section ``models``."""

    model: _Object | str | None = None  # type: ignore[assignment]


class _Document(BaseModel):
    model_config = ConfigDict(extra="allow")
    qlib_init: _QlibInit | None = None
    """Options of `qlib.init`. A file with this section is in Qlib's format."""
    rollforge: _Rollforge | None = None
    """Where data, tasks and runs are. A file with this section is in Rollforge's format."""
    sys: dict[str, object] | None = None
    """`path` and `rel_path`: folders with modules of your own."""
    experiment_name: str | None = None
    """Name of the experiment."""
    market: object = None
    """Usually an anchor for the universe."""
    benchmark: object = None
    """Usually an anchor for the index that a backtest is compared with."""
    data_handler_config: dict[str, object] | None = None
    """Usually an anchor for the handler's arguments."""
    port_analysis_config: dict[str, object] | None = None
    """Usually an anchor for the backtest's arguments."""
    task: _Task
    """What is trained: model, data set and records."""
    label_days: int | None = Field(default=None, ge=1)
    """Trading days that the label spans, if its expression does not say so."""
    label_horizon: _Days | None = None
    """Trading days that the label looks ahead, if its expression does not say so."""
    leakage: Leakage | None = None
    """What happens if a leak is found: `error` (the default), `warn` (the default in Qlib's format) or `off`."""
    plugins: list[str] = []
    """Modules, `.py` files or installed plugins that are imported first."""
    rolling: _Rolling | None = None
    """Windows of a fixed number of trading days."""
    models: dict[str | int | float, object] | None = None
    """Several models: a name, and the model or what differs from `task`."""
    grid: dict[str, list[object] | dict[str | int | float, object]] | None = None
    """Path in the task: the values to try."""
    generators: list[_Object | str] = []
    """Another name of `generate`."""
    generate: object = None
    """Generators of tasks, applied from top to bottom."""
    ensemble: _Object | _Ensembles | str | None = None
    """What combines the predictions of windows and models."""
    policy: _Policy | None = None
    """When a new model replaces the champion of a service."""
    signals: _Signals | None = None
    """How a service's signals are published."""
    run: _Run | None = None
    """Where tasks run, and what each needs."""
    registry: str | None = Field(default=None, strict=True, pattern=r"^[^/:]*[^/:\s][^/:]*$")
    """Name of the model in MLflow's registry whose aliases name the models of a service."""
    checks: object = None
    """The checks that a service runs every day, with their limits."""
    notify: object = None
    """Who is notified of failures."""
    BASE_CONFIG_PATH: str | None = None
    """A workflow file whose sections this one completes or replaces."""


class _DocumentOfModels(_Document):
    task: _TaskOfModels


def document_schema() -> tuple[dict[str, Any], list[str]]:
    """Return the JSON Schema of a document as pydantic has it, and the keys that ``task`` needs beside a section ``models``."""
    several = _TaskOfModels.model_json_schema(by_alias=True)
    return _Document.model_json_schema(by_alias=True), list(several.get("required", []))


@dataclass(frozen=True, slots=True)
class Template:
    """A task before its windows are known."""

    task: Document
    """``{"model": …, "dataset": …, "record": […]}``."""
    name: str = ""
    """The name of its model; empty if the workflow has a single model."""
    own: Mapping[str, str] = field(default_factory=dict)
    """Parts that are not from the document's ``task`` -> their location in the document."""

    def place(self, part: str) -> str:
        """Return the location of a part of the task in the document."""
        return self.own.get(part, f"task.{part}")


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow file, read and validated."""

    path: Path
    text: str
    """The file's content (with a base file: the merged document)."""
    session: Session
    experiment_name: str
    template: Document
    """The task template: ``{"model": …, "dataset": …, "record": […]}``; with several `models`, the shared part."""
    rolling: Document | None
    """Arguments of :class:`~rollforge.generate.rolling.RollingGen`; None gives one task, as ``qrun`` does."""
    grid: Document | None
    """Arguments of :class:`~rollforge.generate.grid.GridGen`."""
    form: Literal["qlib", "rollforge"]
    label_days: int | None
    """Number of trading days that the label spans, if its expression does not determine it."""
    lines: Lines = field(repr=False)
    """1-based line of each path in the document."""
    leakage: Leakage = Leakage.WARN
    """What happens if a leak is found."""
    models: tuple[Template, ...] = ()
    """The models of the section ``models``, each as a complete task."""
    generate: tuple[GeneratorEntry, ...] = ()
    """The generators of the section ``generate`` (or ``generators``), applied after `grid` and before `rolling`."""
    checks: Rules = field(default_factory=Rules)
    """The checks that a service runs every day."""
    notify: tuple[Target, ...] = ()
    """Commands and webhooks that are notified of failures, see :mod:`rollforge.notify`."""
    ensemble: object = None
    """The ensembles of the predictions, see :func:`~rollforge.collect.combine.build_ensembles`; None for the default."""
    policy: Document | None = None
    """When the model of a new window replaces the champion of a service, see :class:`~rollforge.online.policy.Policy`."""
    signal_table: bool = False
    """Whether the ledger of a service also stores the rows of its signals."""
    run: RunOptions = field(default_factory=RunOptions)
    """Where tasks run and what each needs, unless the command line says otherwise."""
    registry: str | None = None
    """Name of the model in MLflow's registry whose aliases name the models of a service; None for no registry."""

    @property
    def templates(self) -> tuple[Template, ...]:
        """The task templates: one, or one per entry of `models`."""
        return self.models or (Template(self.template),)

    @property
    def public_text(self) -> str:
        """`text` without the addresses of webhooks, which often contain a secret."""
        return without_addresses(self.text, self.notify)


def _merge(base: object, over: object) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{k: _merge(base.get(k), v) for k, v in over.items()}}
    return over


def _read_file(path: Path) -> str:
    try:
        return read_text(path, LIMITS["workflow_size"])
    except FileNotFoundError:
        close = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else [], n=1
        )
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"There is no workflow file {str(path)!r}.{hint}") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The workflow file {str(path)!r} cannot be read: {exc}") from exc


def _load_document(path: Path, over: tuple[Path, ...] = ()) -> tuple[Definition, Lines, str]:
    """Merge a document into its base documents, and return the result; `over` are the files based on this one."""
    here = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for a loop of links
    if here in over:
        raise ConfigError(f"BASE_CONFIG_PATH: {path} is based on itself.")
    LIMITS["base_files"].check(len(over), f"BASE_CONFIG_PATH: {over[0] if over else path} is based on")
    text = render(_read_file(path), str(path))
    document, lines = read_yaml(text, str(path))
    named = document.get("BASE_CONFIG_PATH")
    if named:
        base_path = read_path(str(named), "BASE_CONFIG_PATH")
        if not os.path.exists(base_path):
            base_path = path.parent / base_path
        base, _, _ = _load_document(base_path, (*over, here))
        document = _merge(base, {k: v for k, v in document.items() if k != "BASE_CONFIG_PATH"})
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return document, lines, text


_KNOWN = [k for k in _Document.model_fields if k != "BASE_CONFIG_PATH"]


def _problems(exc: ValidationError, document: Mapping[str, object], lines: Lines) -> list[str]:
    found: dict[str, str] = {}
    for error in exc.errors():
        parts = [str(p) for p in error["loc"] if not (isinstance(p, str) and _is_branch(p))]
        path = ".".join(parts)
        message = _message(error, document, parts)
        if message:
            found.setdefault(path, message)
    # A union reports an error for each branch; the deepest path is the one that the user meant.
    deepest = [p for p in found if not any(q != p and q.startswith(p + ".") for q in found)]
    deepest.sort(key=lambda p: (lines.nearest(p), p))
    return [f"{line_of(p, lines)}{p}: {found[p]}" for p in deepest]


def _is_branch(part: str) -> bool:
    """Return whether a part of pydantic's path names the branch of a union and not a key."""
    return part in ("_Object", "_Ensembles", "str", "int", "list", "none") or "[" in part


_ALLOWED_AT = {
    "rollforge": list(_Rollforge.model_fields),
    "rolling": list(_Rolling.model_fields),
    "policy": list(_Policy.model_fields),
    "signals": list(_Signals.model_fields),
    "run": list(_Run.model_fields),
    "task.resources": list(_Resources.model_fields),
    "resources": list(_Resources.model_fields),
    "task": list(_Task.model_fields),
}
_OBJECT_KEYS = ["class", "module_path", "kwargs"]
_ALLOWED_AT["ensemble"] = [*_OBJECT_KEYS, *_Ensembles.model_fields]


def _message(error: ErrorDetails, document: Document, parts: list[str]) -> str:
    kind, value = error["type"], error.get("input")
    if kind == "extra_forbidden":
        allowed = _ALLOWED_AT.get(".".join(parts[:-1]), _OBJECT_KEYS)
        return f"unknown key.{nearest(parts[-1], allowed)} Allowed: {', '.join(allowed)}."
    if kind == "missing":
        siblings: object = document
        for part in parts[:-1]:
            siblings = siblings.get(part, {}) if isinstance(siblings, Mapping) else {}
        keys = [str(k) for k in siblings] if isinstance(siblings, Mapping) else []
        near = difflib.get_close_matches(parts[-1], keys, n=1)
        return "is missing." + (f" Is {near[0]!r} a misspelling of it?" if near else "")
    if kind == "literal_error":
        expected = error["ctx"]["expected"]
        hint = nearest(str(value), re.findall(r"\w+", expected))
        return f"must be {expected}, found {shown(value)}.{hint}"
    if kind == "string_pattern_mismatch":
        return f"must be a name without / and :, found {shown(value)}."
    if kind == "value_error":  # of a function of ours
        return str(error["ctx"]["error"])
    if kind == "model_type":
        engine = str(value).partition(":")[0] in (*ENGINES, LOCAL)
        example = f" such as {{on: {value}}}" if parts == ["run"] and engine else ""
        return f"must be a mapping{example}, found {shown(value)}."
    text = str(error["msg"]).partition(", unable")[0]  # to parse a string: how that was tried
    text = text.replace("Input should be", "must be").replace("valid dictionary", "mapping")
    return f"{text[0].lower()}{text[1:]}, found {shown(value)}."


def _validate(document: Definition, lines: Lines, path: Path, text: str) -> _Document:
    problems: list[str] = []
    anchored = anchored_keys(text)
    for key in document:
        if key in _KNOWN or key in anchored or key == "BASE_CONFIG_PATH":
            continue
        hint = nearest(str(key), [k for k in _KNOWN if k not in document])
        if hint:
            problems.append(f"{line_of(str(key), lines)}{key}: unknown key.{hint}")
        else:
            log.warning("%s: the key %r is unknown and is ignored", path, key)
    if document.get("qlib_init") is not None and document.get("rollforge") is not None:
        problems.append(
            f"{line_of('rollforge', lines)}rollforge: cannot be combined with qlib_init. Remove one of the two."
        )
    problems.extend(_option_problems(document, lines))
    several = document.get("models") is not None
    try:
        parsed = (_DocumentOfModels if several else _Document).model_validate(document)
    except ValidationError as exc:
        problems.extend(_problems(exc, document, lines))
    else:
        problems.extend(_problems_of_run(parsed.run, lines) if parsed.run is not None else ())
    if several:
        problems.extend(_problems_of_models(document, lines))
    wrong = [*read_rules(document.get("checks"))[1], *read_targets(document.get("notify"))[1]]
    problems.extend(f"{line_of(where, lines)}{where}: {message}" for where, message in wrong)
    problems.extend(_problems_of_generate(document, lines, problems))
    if problems:
        listed = "\n".join(f"  {p}" for p in problems)
        raise ConfigError(f"{path} has {counted(len(problems), 'mistake')}:\n{listed}")
    return parsed


def _problems_of_generate(document: Document, lines: Lines, known: Sequence[str]) -> list[str]:
    """Return the error in the generators, unless their section has a known one."""
    try:
        _generate(document)
    except ConfigError as exc:
        where = f"{line_of(exc.path, lines)}{exc.path}: "
        return [] if any(problem.startswith(where) for problem in known) else [f"{line_of(exc.path, lines)}{exc}"]
    return []


def _problems_of_models(document: Document, lines: Lines) -> list[str]:
    """Return the errors in the section ``models``."""
    models = document["models"]
    if not isinstance(models, dict) or not isinstance(document.get("task"), dict):
        return []  # already reported by pydantic
    if not models:
        return [f"{line_of('models', lines)}models: must map names to models, but is empty."]
    problems = []
    for name, given in models.items():
        path = f"models.{name}"
        try:
            check_name(name, path)
            _check_override(given, path)
            _Task.model_validate(_merged(document["task"], given))
        except ValidationError as exc:
            parts = [".".join(str(p) for p in e["loc"] if not _is_branch(str(p))) for e in exc.errors()]
            deepest = max(parts, key=lambda p: p.count("."))
            message = _message(exc.errors()[parts.index(deepest)], {}, deepest.split("."))
            problems.append(f"{line_of(f'{path}.{deepest}', lines)}{path}.{deepest}: {message}")
        except ConfigError as exc:
            problems.append(f"{line_of(exc.path, lines)}{exc}")
    return problems


def _check_override(given: object, path: str) -> None:
    if isinstance(given, str):
        return
    if not isinstance(given, dict):
        raise ConfigError(
            f"must be a model ({{class: …, module_path: …, kwargs: …}}) or the parts of the task that differ "
            f"({{model: …, dataset: …}}), found {given!r:.60}.",
            path=path,
        )
    allowed = _OBJECT_KEYS if "class" in given else list(_Task.model_fields)
    for key in given:
        if key not in allowed:
            near = nearest(str(key), [*_OBJECT_KEYS, *_Task.model_fields])
            raise ConfigError(f"unknown key.{near} Allowed: {', '.join(allowed)}.", path=f"{path}.{key}")


def _merged(task: Document, given: str | Document) -> Definition:
    """Return the task of one model: its own keys merged into the shared task."""
    override: Document = {"model": given} if isinstance(given, str) or _is_model(given) else given
    return {**task, **{key: _overridden(task.get(key), value) for key, value in override.items()}}


def _is_model(given: str | Document) -> bool:
    return isinstance(given, str) or "class" in given


def _overridden(base: object, over: object) -> object:
    # An object with its own class does not inherit the arguments of the shared one.
    if isinstance(base, dict) and isinstance(over, dict) and "class" not in over:
        return {**base, **{k: _overridden(base.get(k), v) for k, v in over.items()}}
    return over


def _generate(document: Document) -> tuple[GeneratorEntry, ...]:
    """Return the generators of the section ``generate``, or of ``generators``."""
    listed = generate_entries(document.get("generators"), "generators")
    if listed and document.get("generate") is not None:
        raise ConfigError("cannot be combined with generate. List all generators there.", path="generators")
    return listed or generate_entries(document.get("generate"))


def _models(document: Document) -> tuple[Template, ...]:
    """Return the section ``models`` as complete tasks."""
    made = []
    for name, given in (document.get("models") or {}).items():
        path = f"models.{name}"
        own = {"model": path} if _is_model(given) else {part: f"{path}.{part}" for part in given}
        made.append(Template(_merged(document["task"], given), check_name(name), own))
    return tuple(made)


def _option_problems(document: Mapping[str, object], lines: Lines) -> list[str]:
    """Return errors for unknown or refused Qlib options, and for exchange defaults that no backtest accepts."""
    from rollforge.record.rules import Rules

    problems = []
    section = document.get("qlib_init")
    options = section if isinstance(section, Mapping) else {}
    own = document.get("rollforge")
    for name, value in options.items():
        try:
            check_option(str(name), value, path="qlib_init")
        except ConfigError as exc:
            problems.append(f"{line_of(exc.path, lines)}{exc}")
    exchange = own.get("exchange") if isinstance(own, Mapping) else None
    for where, given in (("qlib_init", exchange_options(options)), ("rollforge.exchange", exchange)):
        for name, value in given.items() if isinstance(given, Mapping) else ():
            try:
                if name not in EXCHANGE:
                    raise ConfigError(f"unknown key.{nearest(str(name), EXCHANGE)} Known: {', '.join(EXCHANGE)}.")
                Rules.from_kwargs({}, region="us", defaults={name: value})
            except ConfigError as exc:
                problems.append(f"{line_of(f'{where}.{name}', lines)}{where}.{name}: {exc.message}")
    return problems


def _data_folders(given: str | Mapping[Any, str], base: Path, where: str) -> Definition:
    """Return the session's fields with the data folders."""
    if isinstance(given, str):
        return {"provider_uri": _data_folder(given, base), "folders": {}}
    return folders_by_frequency({freq: _data_folder(folder, base) for freq, folder in given.items()}, where)


def _data_folder(uri: str, base: Path) -> str:
    path = read_path(uri, "data")
    if not path.is_absolute() and not os.path.exists(path) and os.path.exists(base / path):
        path = base / path  # relative to the workflow file, if the path does not exist here
    return str(path.absolute())


def _session(parsed: _Document, path: Path, overrides: Document) -> tuple[Session, str | None]:
    options: Definition = {}
    experiment_name = parsed.experiment_name
    if parsed.qlib_init is not None:
        section = parsed.qlib_init
        others = section.model_extra or {}
        uri = data_folders(section.provider_uri, others.get("mount_path"), path="qlib_init.provider_uri")
        options.update(_data_folders(uri, path.parent, "qlib_init.provider_uri"), region=section.region)
        options.update(exchange=exchange_options(others), threads=section.kernels)
        manager = (section.exp_manager or _Manager()).kwargs or _ManagerArguments()
        options["tracking_uri"] = manager.uri
        experiment_name = experiment_name or manager.default_exp_name or section.default_exp_name
        options["operators"] = _operators(section.custom_ops, path.parent)
    elif parsed.rollforge is not None:
        own = parsed.rollforge
        options.update(own.model_dump(exclude={"data", "experiment", "operators"}))
        options["operators"] = _operators(own.operators, path.parent)
        options.update(_data_folders(own.data, path.parent, "rollforge.data") if own.data else {})
        experiment_name = experiment_name or own.experiment
    given = {k: v for k, v in overrides.items() if v is not None}
    if "provider_uri" in given:
        options["folders"] = {}
    experiment_name = given.pop("experiment_name", None) or given.pop("experiment", None) or experiment_name
    return Session.from_mapping({**options, **given}), experiment_name


def _operators(named: list[_Place], base: Path) -> tuple[tuple[str, str], ...]:
    """Return the user's own operators; ``.py`` files are also looked up next to the workflow file."""
    own_files = {p.module_path: base / p.module_path for p in named if p.module_path.endswith(".py")}
    places = {p: os.path.realpath(file) for p, file in own_files.items() if os.path.isfile(file)}
    return tuple((p.class_, places.get(p.module_path, p.module_path)) for p in named)


def _extend_path(section: Mapping[str, object] | None, base: Path) -> tuple[str, ...]:
    """``sys: {path: …, rel_path: …}``: add folders with the user's modules to the path, and return them."""
    folders = []
    for key, root in (("path", None), ("rel_path", base)):
        named = (section or {}).get(key) or []
        for entry in named if isinstance(named, list) else [named]:
            if not isinstance(entry, str):
                raise ConfigError(f"must be a folder or a list of folders, found {shown(named)}.", path=f"sys.{key}")
            place = read_path(entry, f"sys.{key}")
            folder = os.path.realpath(root / place) if root else str(place)
            folders.append(os.path.abspath(folder))
            if folder not in sys.path:
                sys.path.append(folder)
    return tuple(dict.fromkeys(folders))


def _with_local_files(node: object, folder: Path) -> Any:
    """Make ``module_path: mine.py`` absolute: a file in the working directory, or else next to the document.

    A worker may run in another folder.
    """
    if isinstance(node, list):
        return [_with_local_files(value, folder) for value in node]
    if not isinstance(node, dict):
        return node
    found = {key: _with_local_files(value, folder) for key, value in node.items()}
    named = found.get("module_path")
    if isinstance(named, str) and named.endswith(".py"):
        places = (read_path(named, "module_path"), folder / named)
        file = next((p for p in places if os.path.isfile(p)), None)
        if file is not None:
            found["module_path"] = os.path.normpath(file.absolute())
    return found


def load_workflow(path: str | os.PathLike[str], **overrides: object) -> Workflow:
    """Read and validate the workflow file at `path`.

    Parameters
    ----------
    path : path
        A workflow in Qlib's or Rollforge's format.
    **overrides
        ``leakage``, and fields of :class:`~rollforge.session.Session`, also as ``store``, ``tracking`` and ``experiment``,
        that override the file's values; None does not override.

    Raises
    ------
    ConfigError
        With all errors in the file, each with its line, its path and the nearest valid name.
    """
    file = read_path(path, "the workflow file")
    document, lines, text = _load_document(file)
    parsed = _validate(document, lines, file, text)
    folders = _extend_path(parsed.sys, file.parent)
    asked = overrides.pop("leakage", None)
    session, experiment_name = _session(parsed, file, overrides)
    form: Literal["qlib", "rollforge"] = "rollforge" if parsed.qlib_init is None else "qlib"
    rolling = None
    if document.get("rolling") is not None and parsed.rolling is not None:
        rolling = parsed.rolling.model_dump(exclude_none=True)
        if "trunc_days" in document["rolling"]:
            rolling.setdefault("trunc_days", None)  # null is not the default
    experiment_name = _checked_experiment(experiment_name or file.stem)
    plugins = checked_plugins(parsed.plugins, folder=file.parent, path="plugins")
    session = session.with_(experiment_name=experiment_name, plugins=plugins, sys_path=folders)
    _load_plugins(session, file, lines)
    document = _with_local_files(document, file.parent)
    if parsed.label_horizon is not None and document["task"].get("label_horizon") is None:
        document["task"] = {**document["task"], "label_horizon": parsed.label_horizon}
    session = _at_frequency(session, document["task"])
    return Workflow(
        path=file,
        text=text,
        session=session,
        experiment_name=experiment_name,
        template=document["task"],
        rolling=rolling,
        grid=document.get("grid"),
        form=form,
        label_days=parsed.label_days,
        lines=lines,
        leakage=_leakage(parsed, form) if asked is None else read_leakage(asked, "--leakage"),
        models=_models(document),
        generate=_generate(document),
        ensemble=document.get("ensemble"),
        policy=None if parsed.policy is None else parsed.policy.model_dump(exclude_none=True),
        signal_table=parsed.signals is not None and parsed.signals.table,
        run=_run_options(parsed),
        registry=parsed.registry,
        checks=read_rules(document.get("checks"))[0],
        notify=read_targets(document.get("notify"))[0],
    )


def _run_options(parsed: _Document) -> RunOptions:
    if parsed.run is None:
        return RunOptions()
    given = parsed.run.model_dump()
    return RunOptions(**given, names={name: f"run.{name}" for name in given})


def _problems_of_run(section: _Run, lines: Lines) -> list[str]:
    """Return the errors in the section ``run`` that are not about the type of a value."""
    path = "run.on"
    try:
        engine = LOCAL if section.on is None else read_engine(section.on)[0]
        path = "run.slurm"
        if section.slurm and section.on is not None and engine != "slurm":
            raise ConfigError(f"is for Slurm, but the engine is {engine!r}.")
        path = "run.jobs"
        if section.jobs == 0 and engine != LOCAL:
            raise ConfigError("must be 1 or more on an engine, found 0. Leave `on` out to train in this process.")
    except ConfigError as exc:
        return [f"{line_of(path, lines)}{path}: {exc.message}"]
    return []


def _at_frequency(session: Session, task: Mapping[str, object]) -> Session:
    """Return the session with the frequency of the template's data."""
    from rollforge.generate.task_view import at_frequency  # the data's modules need not be imported for most commands

    return at_frequency(session, [task])


def _leakage(parsed: _Document, form: str) -> Leakage:
    """Return what happens if a leak is found: by default an error, but in Qlib's format only a warning."""
    return parsed.leakage or (Leakage.ERROR if form == "rollforge" else Leakage.WARN)


def _load_plugins(session: Session, file: Path, lines: Lines) -> None:
    """Import the plugins of a workflow, because the operators that they add determine what the file means."""
    try:
        load_plugins(session)
    except ConfigError as exc:
        missing = exc.__cause__.__cause__ if exc.__cause__ is not None else None
        name = missing.name if isinstance(missing, ModuleNotFoundError) else None
        hint = f" Did you mean ./{name}.py, in the folder of the workflow file?" if name and (
            file.parent / f"{name}.py"
        ).is_file() else ""  # fmt: skip
        raise type(exc)(f"{file}, {line_of(exc.path, lines)}{exc}{hint}") from exc


def _checked_experiment(name: str) -> str:
    """Validate the name of an experiment, which becomes a folder. Slashes are allowed, because Qlib users have them."""
    problem = next((reason for part in name.split("/") if (reason := name_problem(part))), "")
    if problem:
        raise ConfigError(
            f"{shown(name)} cannot be the name of an experiment: {problem}. The results are written to a "
            "folder of this name.",
            path="experiment",
        )
    return name


def location_of(path: str, config: object) -> str:
    """Return the path in `config` that ends with `path`, or with the longest existing prefix of it; empty if there is none."""
    parts = path.split(".") if path else []
    for length in range(len(parts), 0, -1):
        found = next((place for place in _paths(config) if place[-length:] == tuple(parts[:length])), None)
        if found is not None:
            return ".".join(found)
    return "kwargs.handler" if "handler" in Description(config).kwargs else ""


def _paths(node: object, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    steps = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, value in steps:
        here = (*above, str(name))
        yield here
        yield from _paths(value, here)
