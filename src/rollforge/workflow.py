"""A workflow file to a session, a task template and its tasks: what ``rollforge plan`` and ``run`` start from.

Qlib's form (``qlib_init: …``) and Rollforge's own (``rollforge: …``) are read alike. YAML is read by the rules of
version 1.2, as Qlib's reader does: ``1e-3`` is a number and ``no`` is a string. Every mistake is reported with its line and
its path in the document, all of them at once.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from rollforge.build import build, describe, resolve_references
from rollforge.dates import ONE_DAY, read_day
from rollforge.errors import (
    BuildError,
    ConfigError,
    DataNotFound,
    DateError,
    ModelError,
    RollforgeError,
    nearest,
    shown,
)
from rollforge.generate.naming import check_name
from rollforge.kinds import DATASET, MODEL, RECORD, REWEIGHTER
from rollforge.limits import LIMITS, TooLarge, parse_size, read_text
from rollforge.paths import read_path, unfit_name
from rollforge.qlib_options import check_option, data_folder, exchange_options
from rollforge.rendering import render
from rollforge.session import EXCHANGE, Session, using
from rollforge.task import digest
from rollforge.trust import checked_plugins

if TYPE_CHECKING:
    from rollforge.generate.grid import GridGen
    from rollforge.generate.timeline import Window

__all__ = ["Plan", "Workflow", "load_workflow", "make_plan", "read_yaml"]

log = logging.getLogger(__name__)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, protected_namespaces=())


class _Place(_Section):
    """A class, and where it is found."""

    class_: str = Field(alias="class")
    module_path: str


class _ManagerArguments(BaseModel):
    """What is read of the arguments of Qlib's experiment manager."""

    model_config = ConfigDict(extra="allow")
    uri: str | None = None
    default_exp_name: str | None = None


class _Manager(BaseModel):
    model_config = ConfigDict(extra="allow")
    kwargs: _ManagerArguments | None = None


class _QlibInit(BaseModel):
    """Qlib's own options; what each means is in :mod:`rollforge.qlib_options`."""

    model_config = ConfigDict(extra="allow")
    provider_uri: str | dict[str, str] = "~/.qlib/qlib_data/cn_data"  # Qlib's default
    region: Literal["cn", "us", "tw"] = "cn"
    exp_manager: _Manager | None = None
    default_exp_name: str | None = None
    custom_ops: list[_Place] = []
    kernels: int | None = Field(default=None, ge=1)


def _bytes(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


_Size = Annotated[int, BeforeValidator(_bytes), Field(ge=1)]
"""A number of bytes, or a text as ``2G``."""


class _Rollforge(_Section):
    data: str | None = None
    region: Literal["cn", "us", "tw"] = "us"
    exchange: dict[str, Any] = {}
    store: str | None = None
    tracking: str | None = None
    experiment: str | None = None
    cache: str | None = None
    cache_limit: _Size | None = None
    memory: _Size | None = None
    threads: int | None = Field(default=None, ge=1)
    operators: list[_Place] = []


class _Rolling(_Section):
    step: int = 40
    rtype: Literal["sliding", "expanding"] = "expanding"
    trunc_days: int | Literal["auto"] | None = None
    train_key: str = "train"
    test_key: str = "test"
    clip_test_end: bool | None = None
    roll_fit_window: bool | None = None
    roll_backtest: bool | None = None


class _Object(_Section):
    class_: str = Field(alias="class")
    module_path: str | None = None
    kwargs: dict[str, Any] | None = None


class _Task(_Section):
    model: _Object | str
    dataset: _Object | str
    record: list[_Object | str] | _Object | str = []
    reweighter: _Object | str | None = None


class _TaskOfModels(_Task):
    """A task whose models are described beside it."""

    model: _Object | str | None = None  # type: ignore[assignment]


class _Document(BaseModel):
    model_config = ConfigDict(extra="allow")
    qlib_init: _QlibInit | None = None
    rollforge: _Rollforge | None = None
    sys: dict[str, Any] | None = None
    experiment_name: str | None = None
    market: Any = None
    benchmark: Any = None
    data_handler_config: dict[str, Any] | None = None
    port_analysis_config: dict[str, Any] | None = None
    task: _Task
    label_days: int | None = Field(default=None, ge=1)
    plugins: list[str] = []
    rolling: _Rolling | None = None
    models: dict[str | int | float, Any] | None = None
    grid: dict[str, list[Any] | dict[str | int | float, Any]] | None = None
    BASE_CONFIG_PATH: str | None = None


class _DocumentOfModels(_Document):
    task: _TaskOfModels


@dataclass(frozen=True, slots=True)
class Template:
    """A task before its windows are known."""

    task: Mapping[str, Any]
    """``{"model": …, "dataset": …, "record": […]}``."""
    name: str = ""
    """What its model is called; empty where the workflow has one model."""
    own: Mapping[str, str] = field(default_factory=dict)
    """Parts that it does not take from the document's ``task`` -> where they stand."""

    def place(self, part: str) -> str:
        """Return where a part of the task stands in the document."""
        return self.own.get(part, f"task.{part}")


@dataclass(frozen=True, slots=True)
class Workflow:
    """One workflow file, read and checked."""

    path: Path
    text: str
    """The file as written (after the base file was merged in: the merged document)."""
    session: Session
    experiment: str
    template: Mapping[str, Any]
    """The task template: ``{"model": …, "dataset": …, "record": […]}``; of several `models`, what they share."""
    rolling: Mapping[str, Any] | None
    """Arguments of :class:`~rollforge.generate.rolling.RollingGen`; None makes one task, as ``qrun`` does."""
    grid: Mapping[str, Any] | None
    """Arguments of :class:`~rollforge.generate.grid.GridGen`."""
    form: Literal["qlib", "rollforge"]
    label_days: int | None
    """Trading days over which the label runs, where its expression does not tell."""
    lines: Lines = field(repr=False)
    """1-based line of each path in the document."""
    models: tuple[Template, ...] = ()
    """The models of the section ``models``, each as a whole task."""

    @property
    def templates(self) -> tuple[Template, ...]:
        """The task templates: one, or one for each of `models`."""
        return self.models or (Template(self.template),)


@dataclass(frozen=True, slots=True)
class Plan:
    """The tasks that a workflow makes, in order, with their windows and what should be known before training them."""

    workflow: Workflow
    tasks: tuple[dict[str, Any], ...]
    ids: tuple[str, ...]
    windows: tuple[Window, ...]
    """Of each task; with the name of its model, where there are several or one was named."""
    warnings: tuple[str, ...]

    @property
    def model_names(self) -> tuple[str, ...]:
        """What the model of each task is called; empty where there is one that was not named."""
        return tuple(window.model for window in self.windows)


class BoundedLoader(yaml.SafeLoader):
    """PyYAML's reader of plain values, within limits."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._written = self._count = 0
        self._counts: dict[str, int] = {}
        self._limits = {name: LIMITS[name].value for name in ("depth", "values", "expanded_values")}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return a node. What it stands for is counted: an alias is as large as the node that it names."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._count
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if event.anchor not in self._counts:
                raise TooLarge(f"*{event.anchor} stands inside what it names.", path=_line_at(event))
            self._count += self._counts[event.anchor]
            self._check("expanded_values", self._count, "stands for", event)
            return node
        self._count += 1
        self._written += 1
        self._depth += 1
        self._check("values", self._written, "holds", event)
        self._check("depth", self._depth, "nests", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._counts[event.anchor] = self._count - before
        return node

    def _check(self, name: str, count: int, verb: str, event: Any) -> None:
        if count > self._limits[name]:
            limit = LIMITS[name]
            limit.refuse(f"the document {verb} more than {limit.shown()}", path=_line_at(event))


class _Loader(BoundedLoader):
    """YAML 1.2's core schema, with duplicate keys refused."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Return the value of a node; whatever PyYAML's own constructors raise becomes one error with its place."""
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RollforgeError, RecursionError):
            raise
        except Exception as exc:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown(node.value)} is no {kind}: {exc}", node.start_mark
            ) from exc

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "expected a mapping", node.start_mark)
        seen: dict[Any, Any] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not _hashable(key):
                raise yaml.constructor.ConstructorError(
                    None, None, f"a key must be a text or a number, found a {type(key).__name__}", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {shown(key)} stands twice (first in line {seen[key] + 1})",
                    key_node.start_mark,
                )
            seen[key] = key_node.start_mark.line
        return super().construct_mapping(node, deep)


def _hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


def _line_at(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] not in ("bool", "int", "float")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), "-+0123456789")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    "-+0123456789.",
)


def _construct_int(loader: _Loader, node: Any) -> int:
    value = int(loader.construct_scalar(node))  # base 10: YAML 1.2 has no octal 010
    if value.bit_length() > 63:
        raise yaml.constructor.ConstructorError(
            None, None, f"{shown(value)} is beyond 64 bits; write it as a text or with a decimal point", node.start_mark
        )
    return value


def _construct_timestamp(loader: _Loader, node: Any) -> Any:
    try:
        return loader.construct_yaml_timestamp(node)
    except ValueError:  # 2020-02-30
        try:
            return read_day(node.value).item()
        except DateError as exc:
            raise yaml.constructor.ConstructorError(None, None, exc.message.rstrip("."), node.start_mark) from None


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _construct_timestamp)


class Lines:
    """The 1-based line of each path in a document, looked up in the tree that was read.

    Nothing is laid out beforehand: what an alias stands for may be far larger than the document.
    """

    def __init__(self, root: Any = None) -> None:
        self._root = root

    def get(self, path: str) -> int:
        """Return the line of `path`, or 0 where the document has no such path."""
        found = self._line(self._root, path)
        return 0 if found is None else found

    def nearest(self, path: str) -> int:
        """Return the line of `path` or of the nearest path above it; 0 where there is none."""
        while path:
            found = self.get(path)
            if found:
                return found
            path = path.rpartition(".")[0]
        return 0

    def _line(self, node: Any, path: str) -> int | None:
        if isinstance(node, yaml.MappingNode):
            steps = [(str(key.value), value, key) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
        elif isinstance(node, yaml.SequenceNode):
            step = path.partition(".")[0]
            place = int(step) if step.isascii() and step.isdigit() and len(step) < 10 else len(node.value)
            steps = [(step, node.value[place], node.value[place])] if place < len(node.value) else []
        else:
            return None
        for name, value, marked in steps:
            if path == name:
                return int(marked.start_mark.line) + 1
            if path.startswith(f"{name}."):  # a key may hold points itself
                found = self._line(value, path[len(name) + 1 :])
                if found is not None:
                    return found
        return None


def read_yaml(text: str, name: str = "the document") -> tuple[dict[str, Any], Lines]:
    """Return the document in `text` and the line of each path in it.

    Raises
    ------
    ConfigError
        With line and column when `text` is not YAML, or not a mapping.
    TooLarge
        When it is larger, deeper or stands for more than the limits allow.
    """
    LIMITS["workflow_size"].check(len(text), f"{name} holds")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            document = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None) or getattr(exc, "context_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = getattr(exc, "problem", None) or str(exc)
        line = _shown_line(text, mark.line, mark.column) if mark is not None else ""
        raise ConfigError(f"{name}{where} is not readable YAML: {problem}.{line}") from exc
    except TooLarge as exc:
        raise TooLarge(f"{name}, {exc}") from None
    except RecursionError as exc:
        raise ConfigError(f"{name} nests too deep or contains itself.") from exc
    except RollforgeError:
        raise
    except Exception as exc:  # an escape such as "\\UFFFFFFFF", and what constructors do at the end
        raise ConfigError(f"{name} is not readable YAML: {exc}") from exc
    if not isinstance(document, dict):
        raise ConfigError(f"{name} must be a mapping with at least 'task', found {type(document).__name__}.")
    return document, Lines(node)


def _shown_line(text: str, line: int, column: int) -> str:
    rows = text.splitlines()
    if not 0 <= line < len(rows):
        return ""
    start = max(0, column - _SHOWN)
    part = rows[line][start : column + _SHOWN]
    before = "…" if start else ""
    return f"\n  {before}{part}\n  {' ' * (column - start + len(before))}^"


_SHOWN = 100


def _merge(base: Any, over: Any) -> Any:
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


def _load_document(path: Path, over: tuple[Path, ...] = ()) -> tuple[dict[str, Any], Lines, str]:
    """Return a document merged into those that it builds on; `over` are the files that build on this one."""
    here = path.resolve()
    if here in over:
        raise ConfigError(f"BASE_CONFIG_PATH: {path} builds on itself.")
    LIMITS["base_files"].check(len(over), f"BASE_CONFIG_PATH: {over[0] if over else path} builds on")
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


def _anchored(text: str) -> set[str]:
    """Top-level keys that hold an anchor somewhere: material for the rest of the document, whatever they are called."""
    found: set[str] = set()
    depth, key, expect_key = 0, "", True
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
            expect_key = depth == 1
        if depth == 1 and isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)):
            if expect_key and isinstance(event, yaml.ScalarEvent):
                key = event.value
            expect_key = not expect_key
        if getattr(event, "anchor", None) and not isinstance(event, yaml.AliasEvent) and depth:
            found.add(key)
    return found


def _problems(exc: ValidationError, document: Mapping[str, Any], lines: Lines) -> list[str]:
    found: dict[str, str] = {}
    for error in exc.errors():
        parts = [str(p) for p in error["loc"] if not (isinstance(p, str) and _is_branch(p))]
        path = ".".join(parts)
        message = _message(error, document, parts)
        if message:
            found.setdefault(path, message)
    # A union reports once for each branch; the deepest path is the one the user meant.
    deepest = [p for p in found if not any(q != p and q.startswith(p + ".") for q in found)]
    deepest.sort(key=lambda p: (lines.nearest(p), p))
    return [f"{_line(p, lines)}{p}: {found[p]}" for p in deepest]


def _is_branch(part: str) -> bool:
    """Whether a part of pydantic's path names the branch of a union rather than a key."""
    return part in ("_Object", "str", "int", "list", "none") or "[" in part


def _line(path: str, lines: Lines) -> str:
    line = lines.nearest(path)
    return f"line {line}: " if line else ""


_ALLOWED_AT = {
    "rollforge": list(_Rollforge.model_fields),
    "rolling": list(_Rolling.model_fields),
    "task": list(_Task.model_fields),
}
_OBJECT_KEYS = ["class", "module_path", "kwargs"]


def _message(error: Any, document: Mapping[str, Any], parts: list[str]) -> str:
    kind, value = error["type"], error.get("input")
    if kind == "extra_forbidden":
        allowed = _ALLOWED_AT.get(".".join(parts[:-1]), _OBJECT_KEYS)
        return f"unknown key.{nearest(parts[-1], allowed)} Allowed: {', '.join(allowed)}."
    if kind == "missing":
        siblings: Any = document
        for part in parts[:-1]:
            siblings = siblings.get(part, {}) if isinstance(siblings, Mapping) else {}
        keys = [str(k) for k in siblings] if isinstance(siblings, Mapping) else []
        near = difflib.get_close_matches(parts[-1], keys, n=1)
        return "is missing." + (f" Is {near[0]!r} a slip of it?" if near else "")
    if kind == "literal_error":
        expected = error["ctx"]["expected"]
        hint = nearest(str(value), re.findall(r"\w+", expected))
        return f"found {shown(value)}, allowed is {expected}.{hint}"
    text = str(error["msg"]).replace("Input should be", "must be").replace("valid dictionary", "mapping")
    return f"{text[0].lower()}{text[1:]}, found {shown(value)}."


def _validate(document: dict[str, Any], lines: Lines, path: Path, text: str) -> _Document:
    problems: list[str] = []
    anchored = _anchored(text)
    for key in document:
        if key in _KNOWN or key in anchored or key == "BASE_CONFIG_PATH":
            continue
        hint = nearest(str(key), [k for k in _KNOWN if k not in document])
        if hint:
            problems.append(f"{_line(str(key), lines)}{key}: unknown key.{hint}")
        else:
            log.warning("%s: the key %r means nothing here and is left out.", path, key)
    if document.get("qlib_init") is not None and document.get("rollforge") is not None:
        problems.append(f"{_line('rollforge', lines)}rollforge: stands beside qlib_init; keep one of the two.")
    problems.extend(_option_problems(document, lines))
    several = document.get("models") is not None
    try:
        parsed = (_DocumentOfModels if several else _Document).model_validate(document)
    except ValidationError as exc:
        problems.extend(_problems(exc, document, lines))
    if several:
        problems.extend(_problems_of_models(document, lines))
    if problems:
        listed = "\n".join(f"  {p}" for p in problems)
        raise ConfigError(f"{path} has {_count(len(problems), 'mistake')}:\n{listed}")
    return parsed


def _problems_of_models(document: Mapping[str, Any], lines: Lines) -> list[str]:
    """What is wrong with the section ``models``."""
    models = document["models"]
    if not isinstance(models, dict) or not isinstance(document.get("task"), dict):
        return []  # pydantic has said so
    if not models:
        return [f"{_line('models', lines)}models: must map names to models, found none."]
    found = []
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
            found.append(f"{_line(f'{path}.{deepest}', lines)}{path}.{deepest}: {message}")
        except ConfigError as exc:
            found.append(f"{_line(exc.path, lines)}{exc}")
    return found


def _check_override(given: Any, path: str) -> None:
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


def _merged(task: Mapping[str, Any], given: Any) -> dict[str, Any]:
    """The task of one of the models: what it gives in the place of the shared one's, key by key."""
    override = {"model": given} if _is_model(given) else given
    return {**task, **{key: _overridden(task.get(key), value) for key, value in override.items()}}


def _is_model(given: Any) -> bool:
    return isinstance(given, str) or "class" in given


def _overridden(base: Any, over: Any) -> Any:
    # An object with a class of its own takes nothing of the other's arguments.
    if isinstance(base, dict) and isinstance(over, dict) and "class" not in over:
        return {**base, **{k: _overridden(base.get(k), v) for k, v in over.items()}}
    return over


def _models(document: Mapping[str, Any]) -> tuple[Template, ...]:
    """The section ``models`` as whole tasks."""
    made = []
    for name, given in (document.get("models") or {}).items():
        path = f"models.{name}"
        own = {"model": path} if _is_model(given) else {part: f"{path}.{part}" for part in given}
        made.append(Template(_merged(document["task"], given), check_name(name), own))
    return tuple(made)


def _option_problems(document: Mapping[str, Any], lines: Lines) -> list[str]:
    """Options of Qlib's that are unknown or refused, and defaults of the exchange that no backtest would take."""
    from rollforge.record.rules import Rules

    problems = []
    section = document.get("qlib_init")
    options = section if isinstance(section, Mapping) else {}
    own = document.get("rollforge")
    for name, value in options.items():
        try:
            check_option(str(name), value, path="qlib_init")
        except ConfigError as exc:
            problems.append(f"{_line(exc.path, lines)}{exc}")
    exchange = own.get("exchange") if isinstance(own, Mapping) else None
    for where, given in (("qlib_init", exchange_options(options)), ("rollforge.exchange", exchange)):
        for name, value in given.items() if isinstance(given, Mapping) else ():
            try:
                if name not in EXCHANGE:
                    raise ConfigError(f"unknown key.{nearest(str(name), EXCHANGE)} Known: {', '.join(EXCHANGE)}.")
                Rules.from_kwargs({}, region="us", defaults={name: value})
            except ConfigError as exc:
                problems.append(f"{_line(f'{where}.{name}', lines)}{where}.{name}: {exc.message}")
    return problems


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _data_folder(uri: str, base: Path) -> str:
    path = read_path(uri, "data")
    if not path.is_absolute() and not os.path.exists(path) and os.path.exists(base / path):
        path = base / path  # relative to the file where there is nothing of that name here
    return str(path.absolute())


def _session(parsed: _Document, path: Path, overrides: Mapping[str, Any]) -> tuple[Session, str | None]:
    options: dict[str, Any] = {}
    experiment: str | None = parsed.experiment_name
    if parsed.qlib_init is not None:
        section = parsed.qlib_init
        others = section.model_extra or {}
        uri = data_folder(section.provider_uri, others.get("mount_path"), path="qlib_init.provider_uri")
        options.update(provider_uri=_data_folder(uri, path.parent), region=section.region)
        options.update(exchange=exchange_options(others), threads=section.kernels)
        manager = (section.exp_manager or _Manager()).kwargs or _ManagerArguments()
        options["tracking"] = manager.uri
        experiment = experiment or manager.default_exp_name or section.default_exp_name
        options["operators"] = _operators(section.custom_ops, path.parent)
    elif parsed.rollforge is not None:
        own = parsed.rollforge
        options.update(own.model_dump(exclude={"data", "experiment", "operators"}))
        options["operators"] = _operators(own.operators, path.parent)
        options["provider_uri"] = _data_folder(own.data, path.parent) if own.data else None
        experiment = experiment or own.experiment
    options.update({k: v for k, v in overrides.items() if v is not None and k != "experiment"})
    return Session.from_mapping(options), overrides.get("experiment") or experiment


def _operators(named: list[_Place], base: Path) -> tuple[tuple[str, str], ...]:
    """Operators of the user's own; a ``.py`` file is looked for beside the workflow's."""
    beside = {p.module_path: base / p.module_path for p in named if p.module_path.endswith(".py")}
    places = {p: str(file.resolve()) for p, file in beside.items() if os.path.isfile(file)}
    return tuple((p.class_, places.get(p.module_path, p.module_path)) for p in named)


def _extend_path(section: Mapping[str, Any] | None, base: Path) -> None:
    """``sys: {path: …, rel_path: …}``: folders with the user's own modules (worker processes inherit them)."""
    for key, root in (("path", None), ("rel_path", base)):
        named = (section or {}).get(key) or []
        for entry in named if isinstance(named, list) else [named]:
            if not isinstance(entry, str):
                raise ConfigError(f"must be a folder or a list of folders, found {shown(named)}.", path=f"sys.{key}")
            place = read_path(entry, f"sys.{key}")
            folder = str((root / place).resolve() if root else place)
            if folder not in sys.path:
                sys.path.append(folder)


def _with_local_files(node: Any, folder: Path) -> Any:
    """Return a document whose ``module_path: mine.py`` leads to the file beside it, where there is none of that name here."""
    if isinstance(node, list):
        return [_with_local_files(value, folder) for value in node]
    if not isinstance(node, dict):
        return node
    found = {key: _with_local_files(value, folder) for key, value in node.items()}
    named = found.get("module_path")
    if isinstance(named, str) and named.endswith(".py") and not os.path.exists(read_path(named, "module_path")):
        beside = folder / named
        if os.path.isfile(beside):
            found["module_path"] = str(beside.absolute())
    return found


def load_workflow(path: str | os.PathLike[str], **overrides: Any) -> Workflow:
    """Return the workflow in the YAML file at `path`.

    Parameters
    ----------
    path : path
        A workflow in Qlib's or in Rollforge's form.
    **overrides
        Fields of :class:`~rollforge.session.Session`, and ``experiment``, that take the place of the file's; None is
        no override.

    Raises
    ------
    ConfigError
        With every mistake in the file, each with its line, its path and the nearest valid name.
    """
    file = read_path(path, "the workflow file")
    document, lines, text = _load_document(file)
    parsed = _validate(document, lines, file, text)
    _extend_path(parsed.sys, file.parent)
    session, experiment = _session(parsed, file, overrides)
    form: Literal["qlib", "rollforge"] = "rollforge" if parsed.qlib_init is None else "qlib"
    rolling = None
    if document.get("rolling") is not None and parsed.rolling is not None:
        rolling = parsed.rolling.model_dump(exclude_none=True)
        if form == "rollforge" and "trunc_days" not in document["rolling"]:
            rolling["trunc_days"] = "auto"  # Qlib's form keeps Qlib's windows
    name = _checked_experiment(experiment or file.stem)
    plugins = checked_plugins(parsed.plugins, beside=file.parent, path="plugins")
    document = _with_local_files(document, file.parent)
    return Workflow(
        path=file,
        text=text,
        session=session.with_(experiment=name, plugins=plugins),
        experiment=name,
        template=document["task"],
        rolling=rolling,
        grid=document.get("grid"),
        form=form,
        label_days=parsed.label_days,
        lines=lines,
        models=_models(document),
    )


def _checked_experiment(name: str) -> str:
    """The name of an experiment, of which a folder is made; slashes are for names that Qlib's users have."""
    unfit = next((why for part in name.split("/") if (why := unfit_name(part))), "")
    if unfit:
        raise ConfigError(
            f"{shown(name)} cannot be the name of an experiment: {unfit}. Its results are in a folder of this name.",
            path="experiment",
        )
    return name


def make_plan(workflow: Workflow, *, limit: int | None = None) -> Plan:
    """Return the tasks of `workflow` and what should be known about them; trains nothing.

    Parameters
    ----------
    workflow : Workflow
        What to plan.
    limit : int, optional
        Keep the first so many tasks.

    Raises
    ------
    SegmentError, ConfigError, DataError
        When the template cannot become tasks on this data, with the line in the file.
    """
    try:
        with using(workflow.session):
            return _make_plan(workflow, limit)
    except Mistakes as exc:
        listed = "\n".join(f"  {_placed(one, workflow)}" for one in exc.found)
        raise ConfigError(f"{workflow.path} has {_count(len(exc.found), 'mistake')}:\n{listed}") from exc
    except ConfigError as exc:
        placed = _placed(exc, workflow)
        if placed == str(exc):
            raise
        raise type(exc)(f"{workflow.path}, {placed}") from exc


def _placed(exc: RollforgeError, workflow: Workflow) -> str:
    """A mistake with its line in the file, and what to do about a module that lies beside the file."""
    line = _line(exc.path, workflow.lines) if isinstance(exc, ConfigError) else ""
    missing = exc.__cause__.name if isinstance(exc.__cause__, ModuleNotFoundError) else None
    beside = workflow.path.parent / f"{missing}.py"
    hint = (
        f" {beside.name} lies beside the workflow file: add 'sys: {{rel_path: .}}' to it."
        if os.path.isfile(beside)
        else ""
    )
    return f"{line}{exc}{hint}"


def _make_plan(workflow: Workflow, limit: int | None) -> Plan:
    from rollforge.generate.backtests import backtest_warnings
    from rollforge.generate.base import check_count, task_generator
    from rollforge.generate.leakage import task_warnings
    from rollforge.generate.rolling import RollingGen
    from rollforge.generate.segments import validate_segments
    from rollforge.generate.timeline import windows
    from rollforge.market.provider import open_provider

    uri = workflow.session.provider_uri
    if uri is None:
        raise ConfigError(
            "No data folder is named. Add 'rollforge: {data: FOLDER}' to the file, or set ROLLFORGE_DATA; "
            "'rollforge data demo FOLDER' makes one."
        )
    template = dict(workflow.template)
    try:
        calendar = open_provider(uri).calendar()
    except DataNotFound as exc:
        raise DataNotFound(
            f"{exc} A made-up one with the names and days of this file: {_demo_command(template, uri)}"
        ) from None
    # Backtests of windows keep Qlib's days in Qlib's form, and have their own in Rollforge's.
    own: dict[str, Any] = {"roll_backtest": workflow.form == "rollforge", **(workflow.rolling or {})}
    rolling = [RollingGen(**own)] if workflow.rolling is not None else []
    tasks: list[dict[str, Any]] = []
    names: list[str] = []
    check_count([one.task for one in workflow.templates], [*_grid(workflow), *rolling])
    for one in _variants(workflow):
        validate_segments(one.task, calendar, path=f"{one.place('dataset')}.kwargs.segments")
        made = task_generator([_with_exchange(one.task, workflow.session)], rolling)
        tasks += made
        names += [one.name] * len(made)
    kept, names = tuple(tasks[:limit]), names[:limit]
    return Plan(
        workflow=workflow,
        tasks=kept,
        ids=tuple(digest(t) for t in kept),
        windows=tuple(windows(kept, calendar, names)),
        warnings=(*task_warnings(kept, calendar, workflow.label_days), *backtest_warnings(kept, calendar)),
    )


def _with_exchange(template: Mapping[str, Any], session: Session) -> dict[str, Any]:
    """The template with the exchange's defaults in its backtests: what a task needs travels with it.

    A worker elsewhere, and a report without the file, know neither the file's options nor its region. (What they take for
    the region is the one that adds nothing here.)
    """
    from rollforge.record.backtest import default_benchmark
    from rollforge.record.rules import REGION_DEFAULTS

    exchange = {**(REGION_DEFAULTS[session.region] if session.region != Session().region else {}), **session.exchange}
    if not exchange or not template.get("record"):
        return dict(template)
    from rollforge.generate.backtests import backtest_of, with_backtest

    records = template["record"]
    listed = [records] if isinstance(records, (dict, str)) else list(records)
    for i, record in enumerate(listed):
        options = backtest_of(record)
        if options is not None:
            defaults = {k: math.inf if k == "limit_threshold" and v is None else v for k, v in exchange.items()}
            given = options.get("exchange_kwargs") or {}
            # As a trade unit, null means any amount; elsewhere it means the default.
            said = {k for k in defaults if k in options or (k in given and (k == "trade_unit" or given[k] is not None))}
            kept = {k: v for k, v in defaults.items() if k not in said}
            made = {**options, "exchange_kwargs": {**given, **kept}}
            if "benchmark" not in made and session.region != Session().region:
                made["benchmark"] = default_benchmark(session)
            listed[i] = with_backtest(record, made)
    return {**template, "record": listed if isinstance(records, list) else listed[0]}


def _demo_command(template: Mapping[str, Any], folder: str) -> str:
    """The command that makes a market with the universe, the benchmark and the days of a template."""
    from rollforge.generate.segments import ordered, segments_of
    from rollforge.market.demo import demo_command

    handler = template["dataset"]["kwargs"].get("handler")
    kwargs = handler.get("kwargs", {}) if isinstance(handler, Mapping) else {}
    bounds = [b for _, b in ordered(segments_of(template))]
    starts = [b[0] for b in bounds] + [read_day(t) for t in (kwargs.get("start_time"),) if t is not None]
    ends = [b[1] for b in bounds] + [read_day(t) for t in (kwargs.get("end_time"),) if t is not None]
    last = [e for e in ends if e is not None]
    records = template.get("record") or []
    found = [v for r in ([records] if isinstance(records, Mapping) else records) for v in _values(r, "benchmark")]
    universe = kwargs.get("instruments")
    return demo_command(
        folder,
        start=min((s for s in starts if s is not None), default=None),
        end=None if not last else max(last) + 31 * ONE_DAY,  # the labels of the last days need some days more
        universe=universe if isinstance(universe, str) and universe != "all" else "",
        benchmark=next((str(v) for v in found if isinstance(v, str)), ""),
    )


def _values(node: Any, name: str) -> Iterator[Any]:
    """What stands under a name, at any depth."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == name:
                yield value
            yield from _values(value, name)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _values(value, name)


def _grid(workflow: Workflow) -> list[GridGen]:
    from rollforge.generate.grid import GridGen

    return [GridGen(workflow.grid)] if workflow.grid else []


def _variants(workflow: Workflow) -> list[Template]:
    """Every model of the workflow's ``models`` and ``grid``, each with a name of its own, checked as far as it is cheap."""
    made: list[Template] = []
    checked: set[str] = set()
    grid = _grid(workflow)
    for template in workflow.templates:
        task = dict(template.task)
        for name, variant in grid[0].named(task) if grid else [("", task)]:
            rest = digest({**variant, "model": None})
            check_buildable(variant, template.place, model_only=rest in checked)
            checked.add(rest)
            made.append(replace(template, task=variant, name=", ".join(filter(None, (template.name, name)))))
    return made


def _in_task(part: str) -> str:
    return f"task.{part}"


def check_buildable(
    template: Mapping[str, Any], place: Callable[[str], str] = _in_task, *, model_only: bool = False
) -> None:
    """Build what costs nothing to build, so that a misspelt class or argument is known before anything is stored.

    Parameters
    ----------
    template : mapping
        A task.
    place : callable
        Part of a task -> where it stands in the document.
    model_only : bool
        True leaves out dataset and records.

    Raises
    ------
    RollforgeError
        The mistake, or with :class:`Mistakes` all of them.
    """
    found: list[RollforgeError] = []
    resolved = resolve_references(template)
    _attempt(found, place("model"), lambda: build(resolved["model"], kind=MODEL, where=place("model")))
    if not model_only:
        dataset = _attempt(found, place("dataset"), lambda: _checked_dataset(resolved["dataset"], place("dataset")))
        _check_records(found, resolved.get("record") or [], dataset, place("record"))
        if resolved.get("reweighter") is not None:
            where = place("reweighter")
            _attempt(found, where, lambda: build(resolved["reweighter"], kind=REWEIGHTER, where=where))
    if len(found) > 1:
        raise Mistakes(found)
    if found:
        raise found[0]


def _check_records(found: list[RollforgeError], records: Any, dataset: Any, place: str) -> None:
    earlier: list[Any] = []
    for i, record in enumerate([records] if isinstance(records, (dict, str)) else records):
        where = f"{place}.{i}" if isinstance(records, list) else place
        # A record is given its recorder, model and dataset when the task runs; None stands for them here.
        offered = {"model": None, "dataset": dataset, "recorder": None}
        make = partial(build, record, kind=RECORD, default_module="rollforge.record", try_kwargs=offered, where=where)
        made = _attempt(found, where, make)
        if made is not None:
            _attempt(found, where, partial(_check_needs, made, earlier, where))
        earlier.append(made)


def _check_needs(record: Any, earlier: Sequence[Any], where: str) -> None:
    """Raise where a record cannot do its work: what it depends on is not recorded before it, or not in the data.

    A record of the user's may save anything, so it may be what another one depends on.
    """
    from rollforge.record.portfolio import PortAnaRecord

    needed = getattr(record, "depend_cls", None)
    own = type(record).__module__.startswith("rollforge.")
    if own and needed is not None:
        known = [type(r) for r in earlier]
        if all(cls.__module__.startswith("rollforge.") and not issubclass(cls, needed) for cls in known):
            raise ConfigError(
                f"{type(record).__name__} works on what a {needed.__name__} saves, and none stands before it. Add one.",
                path=where,
            )
    if isinstance(record, PortAnaRecord):
        record.check_data(f"{where}.kwargs.config")


def _without_path(exc: RollforgeError) -> str:
    return str(exc).removeprefix(f"{exc.path}: ") if isinstance(exc, ConfigError) else str(exc)


class Mistakes(ConfigError):
    """Several mistakes in one task."""

    def __init__(self, found: Sequence[RollforgeError]) -> None:
        super().__init__("\n".join(str(exc) for exc in found))
        self.found = tuple(found)


def _checked_dataset(config: Any, where: str) -> Any:
    from rollforge.features.handler import DataHandler

    dataset = build(config, kind=DATASET, where=where)
    handler = getattr(dataset, "handler", None)
    if isinstance(handler, DataHandler):
        try:
            handler.check()
        except ConfigError as exc:  # its path begins at what the handler was given
            place = f"{where}.{_place_of(exc.path, config)}".rstrip(".")
            if exc.path.startswith(where):
                raise
            located = type(exc)(exc.message, path=place)
            raise located from exc
    return dataset


def _place_of(path: str, config: Any) -> str:
    """Return the path in `config` that ends with `path`, or with as much of its beginning as there is; else an empty one."""
    parts = path.split(".") if path else []
    for length in range(len(parts), 0, -1):
        found = next((place for place in _paths(config) if place[-length:] == tuple(parts[:length])), None)
        if found is not None:
            return ".".join(found)
    kwargs = config.get("kwargs") if isinstance(config, Mapping) else None
    return "kwargs.handler" if isinstance(kwargs, Mapping) and "handler" in kwargs else ""


def _paths(node: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    steps = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for name, value in steps:
        here = (*above, str(name))
        yield here
        yield from _paths(value, here)


def _attempt(found: list[RollforgeError], where: str, made: Callable[[], Any]) -> Any:
    """Return what `made` returns; an error is put into `found`."""
    try:
        return made()
    except RollforgeError as raised:
        exc = raised
        if type(raised) is ModelError or (type(raised) is ConfigError and not raised.path):
            exc = ConfigError(str(raised), path=where)  # a constructor does not know its place in the document
            exc.__cause__ = raised
        if _without_path(exc) not in {_without_path(one) for one in found}:  # a file that several parts come from
            found.append(exc)
    except Exception as exc:  # noqa: BLE001 - whatever the constructor of a class of the user's raises is a mistake here
        error = BuildError(f"cannot be built: {describe(exc)} 'rollforge -v plan' shows the traceback.", path=where)
        error.__cause__ = exc
        found.append(error)
    return None
