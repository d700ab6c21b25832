"""Reading YAML 1.2, with the line number of every value."""

from __future__ import annotations

import re
from typing import Any

import yaml

from rollforge.dates import read_day
from rollforge.errors import (
    ConfigError,
    DateError,
    RollforgeError,
    shown,
)
from rollforge.limits import LIMITS, TooLarge

__all__ = ["Lines", "anchored_keys", "line_of", "read_yaml"]


class BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader, within limits."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._written = self._count = 0
        self._counts: dict[str, int] = {}
        self._limits = {name: LIMITS[name].value for name in ("depth", "values", "expanded_values")}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return a node, and count its expanded size: an alias counts as much as the node that it refers to."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._count
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if event.anchor not in self._counts:
                raise TooLarge(
                    f"the alias *{event.anchor} is used inside the value that it refers to.", path=_line_at(event)
                )
            self._count += self._counts[event.anchor]
            self._check("expanded_values", self._count, "expands to more than", event)
            return node
        self._count += 1
        self._written += 1
        self._depth += 1
        self._check("values", self._written, "contains more than", event)
        self._check("depth", self._depth, "is nested deeper than", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._counts[event.anchor] = self._count - before
        return node

    def _check(self, name: str, count: int, verb: str, event: object) -> None:
        if count > self._limits[name]:
            limit = LIMITS[name]
            limit.refuse(f"the document {verb} {limit.shown()}", path=_line_at(event))


class _Loader(BoundedLoader):
    """YAML 1.2's core schema, with duplicate keys refused."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """Return the value of a node; errors of PyYAML's constructors are converted to one error with a location."""
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RollforgeError, RecursionError):
            raise
        except Exception as exc:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown(node.value)} is not a valid {kind}: {exc}", node.start_mark
            ) from exc

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "expected a mapping", node.start_mark)
        seen: dict[object, int] = {}
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
                    f"the key {shown(key)} appears twice (first on line {seen[key] + 1})",
                    key_node.start_mark,
                )
            seen[key] = key_node.start_mark.line
        return super().construct_mapping(node, deep)


def _hashable(key: object) -> bool:
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


# A whole number that begins with 0, such as 000300, is text: the code of an instrument, which the number 300 is not.
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^(?:[-+][0-9]+|0|[1-9][0-9]*)$"), "-+0123456789")


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?!0[0-9]+$)(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    "-+0123456789.",
)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    value = int(loader.construct_scalar(node))  # base 10: YAML 1.2 has no octal +010
    if value.bit_length() > 63:
        raise yaml.constructor.ConstructorError(
            None,
            None,
            f"{shown(value)} does not fit in 64 bits; write it in quotes or with a decimal point",
            node.start_mark,
        )
    return value


def _construct_timestamp(loader: _Loader, node: yaml.ScalarNode) -> object:
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
    """The 1-based line of each path in a document, looked up in the parsed tree on demand.

    Lines are not listed in advance, because expanded aliases can be far larger than the document.
    """

    def __init__(self, root: object = None) -> None:
        self._root = root

    def get(self, path: str) -> int:
        """Return the line of `path`, or 0 if the document has no such path."""
        found = self._line(self._root, path)
        return 0 if found is None else found

    def nearest(self, path: str) -> int:
        """Return the line of `path` or of its nearest parent path; 0 if there is none."""
        while path:
            found = self.get(path)
            if found:
                return found
            path = path.rpartition(".")[0]
        return 0

    def _line(self, node: object, path: str) -> int | None:
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
            if path.startswith(f"{name}."):  # a key can contain dots
                found = self._line(value, path[len(name) + 1 :])
                if found is not None:
                    return found
        return None


def read_yaml(text: str, name: str = "the document") -> tuple[dict[str, Any], Lines]:
    """Return the document in `text` and the line of each path in it.

    Raises
    ------
    ConfigError
        If `text` is not YAML or not a mapping, with line and column.
    TooLarge
        If it is too large, nested too deeply, or expands to too many values.
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
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        problem = getattr(exc, "problem", None) or str(exc)
        line = _shown_line(text, mark.line, mark.column) if mark is not None else ""
        raise ConfigError(f"{name} is not valid YAML{where}: {problem}.{line}") from exc
    except TooLarge as exc:
        raise TooLarge(f"{name}, {exc}") from None
    except RecursionError as exc:
        raise ConfigError(f"{name} is nested too deeply or contains itself.") from exc
    except RollforgeError:
        raise
    except Exception as exc:  # an escape such as "\\UFFFFFFFF", and errors of deferred constructors
        raise ConfigError(f"{name} is not valid YAML: {exc}") from exc
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


def anchored_keys(text: str) -> set[str]:
    """Return the top-level keys that contain an anchor. Any name is allowed: they are used by the rest of the file."""
    keys: set[str] = set()
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
            keys.add(key)
    return keys


def line_of(path: str, lines: Lines) -> str:
    line = lines.nearest(path)
    return f"line {line}: " if line else ""
