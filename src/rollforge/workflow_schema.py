"""The JSON Schema of a workflow file, by which editors complete and check it.

It is computed from what reads the file: the sections in :mod:`rollforge.workflow` with their comments, and the readers of
``generate``, ``checks``, ``notify``, ``run`` and Qlib's options. Editors report what ``rollforge plan`` would report, except
for keys of the document itself that are not known: they may be anchors, which a schema cannot see.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rollforge import kinds, workflow
from rollforge.kinds import Kind
from rollforge.notify import targets_schema
from rollforge.online.check_rules import rules_schema
from rollforge.qlib_options import EXPERIMENT_MANAGER, ONLY, WITHOUT_EFFECT, WORKS
from rollforge.session import EXCHANGE

__all__ = ["SCHEMA_URL", "schema_text", "workflow_schema"]

Schema = dict[str, Any]

SCHEMA_URL = "https://raw.githubusercontent.com/rollforge/rollforge/main/docs/workflow.schema.json"
"""Where the schema is published."""
_NULL: Schema = {"type": "null"}
_TEXT: Schema = {"type": "string"}
_ARGUMENTS: Schema = {"type": ["object", "null"]}
_REFERENCE = "#/$defs/"


def workflow_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a workflow file."""
    described, shared = workflow.document_schema()
    made = _plain(described)
    parts: dict[str, Schema] = {name.lstrip("_"): part for name, part in made["$defs"].items()}
    _describe(parts, made)
    for name in ("Model", "Record", "Dataset"):
        parts[name] = _of_classes(parts["Object"], _CLASSES[name]())
    task = parts["Task"]["properties"]
    _refer(task["model"], "Object", "Model")
    _refer(task["dataset"], "Object", "Dataset")
    _refer(task["record"], "Object", "Record")
    parts["Generator"] = _generator()
    parts["Override"] = _override(parts["Task"], parts["Object"])
    parts["Manager"]["properties"]["class"] = {"const": EXPERIMENT_MANAGER}
    parts["QlibInit"] = _qlib_init(parts["QlibInit"])
    parts["Rollforge"]["properties"]["exchange"] |= {
        "properties": {n: {} for n in EXCHANGE},
        "additionalProperties": False,
    }
    sections: dict[str, Schema] = made["properties"]
    for name in ("generate", "generators"):
        listed = {"type": "array", "items": _ref("Generator")}
        sections[name] |= {"anyOf": [listed, _NULL]} if name == "generate" else listed
    sections["checks"] |= rules_schema()
    sections["notify"] |= targets_schema()
    sections["models"] |= {"anyOf": [_models(), _NULL]}
    parts["Document"] = {**made, "allOf": [_several_models(parts["Task"], shared), *_exclusive()]}
    del parts["Document"]["$defs"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_URL,
        "title": "A workflow of Rollforge",
        "type": "object",
        "if": {
            "properties": {"BASE_CONFIG_PATH": {"type": "string", "minLength": 1}},
            "required": ["BASE_CONFIG_PATH"],
        },
        "then": {},  # what the file leaves out is in its base file
        "else": _ref("Document"),
        "$defs": dict(sorted(parts.items())),
    }


def schema_text() -> str:
    """Return the schema as the text of a file."""
    return json.dumps(workflow_schema(), indent=1, ensure_ascii=False) + "\n"


def _plain(node: Any) -> Any:
    """Return pydantic's schema without what depends on its version or says nothing."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if isinstance(node, float) and node.is_integer():
        return int(node)
    if not isinstance(node, dict):
        return node.replace(f"{_REFERENCE}_", _REFERENCE) if isinstance(node, str) else node
    made = {key: _plain(value) for key, value in node.items()}
    if made.get("additionalProperties") is True:
        del made["additionalProperties"]
    if made.get("default", ...) in (None, [], {}):
        del made["default"]
    if isinstance(made.get("title"), str):  # not a property of that name
        del made["title"]
    if "const" in made:
        made.pop("enum", None)
    only = made.get("allOf")
    if isinstance(only, list) and len(only) == 1:
        made = {**only[0], **{key: value for key, value in made.items() if key != "allOf"}}
    return made


def _describe(parts: Mapping[str, Schema], document: Schema) -> None:
    """Add what the comments of the sections and keys say."""
    for name, texts in _comments().items():
        part = document if name == "Document" else parts.get(name)
        if part is None:
            continue
        part.pop("description", None)  # the docstring, which is for readers of the code
        for key, text in texts.items():
            part["properties"][_alias(key)]["description"] = text


def _comments() -> dict[str, dict[str, str]]:
    """Return {section: {key: comment}}."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(workflow)).body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("_"):
            found[node.name.lstrip("_")] = dict(_comments_of(node))
    return found


def _comments_of(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, comment in zip(node.body, node.body[1:], strict=False):
        is_text = isinstance(comment, ast.Expr) and isinstance(comment.value, ast.Constant)
        if is_text and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            yield field.target.id, str(comment.value.value)  # type: ignore[attr-defined]


def _alias(field: str) -> str:
    return field.removesuffix("_")


def _ref(name: str) -> Schema:
    return {"$ref": f"{_REFERENCE}{name}"}


def _refer(node: Any, old: str, new: str) -> None:
    """Replace a reference within `node`."""
    if isinstance(node, dict):
        if node.get("$ref") == f"{_REFERENCE}{old}":
            node["$ref"] = f"{_REFERENCE}{new}"
        for value in node.values():
            _refer(value, old, new)
    elif isinstance(node, list):
        for value in node:
            _refer(value, old, new)


def _of_classes(described: Schema, names: list[str]) -> Schema:
    """Return the schema of an object, for which an editor proposes classes."""
    keys = described["properties"]
    proposed = {"anyOf": [{"enum": names}, _TEXT], "description": keys["class"]["description"]}
    return {**described, "properties": {**keys, "class": proposed}}


def _classes(module: Any, kind: Kind) -> list[str]:
    named = {name: getattr(module, name) for name in dir(module)}
    classes = {
        name: value for name, value in named.items() if isinstance(value, type) and not inspect.isabstract(value)
    }
    return sorted(name for name, value in classes.items() if not kind.lacks(value))


def _models_known() -> list[str]:
    from rollforge import models

    return _classes(models, kinds.MODEL)


def _records_known() -> list[str]:
    from rollforge import record

    return _classes(record, kinds.RECORD)


def _datasets_known() -> list[str]:
    from rollforge import features

    return _classes(features, kinds.DATASET)


_CLASSES = {"Model": _models_known, "Record": _records_known, "Dataset": _datasets_known}


def _generator() -> Schema:
    """Return the schema of an entry of ``generate``."""
    from rollforge import generate
    from rollforge.generate.base import TaskGen

    classes = {name: getattr(generate, name) for name in _classes(generate, Kind("task generator", base=TaskGen))}
    named = {name: _arguments(cls) for name, cls in classes.items()}
    keys = ["class", "module_path", "kwargs"]
    short = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "propertyNames": {"not": {"enum": keys}},
        "properties": named,
        "additionalProperties": _ARGUMENTS,
    }
    return {"anyOf": [{"enum": sorted(classes)}, _TEXT, short, _of_classes_ref("class", sorted(classes))]}


def _arguments(cls: type) -> Schema:
    parameters = inspect.signature(cls).parameters
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    return {
        "type": "object" if required else ["object", "null"],
        "properties": {name: {} for name in parameters},
        "required": required,
        "additionalProperties": False,
    }


def _of_classes_ref(key: str, names: list[str]) -> Schema:
    proposed = {"anyOf": [{"enum": names}, _TEXT]}
    return {"allOf": [_ref("Object"), {"properties": {key: proposed}}]}


def _override(task: Schema, described: Schema) -> Schema:
    """Return the schema of a model in ``models``: a model, or the parts of the task that differ."""
    partial = {
        "type": "object",
        "properties": {key: value for key, value in described["properties"].items() if key != "class"},
        "additionalProperties": False,
    }
    parts = {key: {"anyOf": [value, partial]} for key, value in task["properties"].items()}
    differs = {"type": "object", "properties": parts, "additionalProperties": False}
    return {"anyOf": [_TEXT, _ref("Model"), differs]}


def _models() -> Schema:
    return {"type": "object", "minProperties": 1, "additionalProperties": _ref("Override")}


def _several_models(task: Schema, shared: list[str]) -> Schema:
    """Return the rule that the model may be left out of ``task`` if there is a section ``models``."""
    required = task.pop("required")
    several = {"properties": {"models": {"type": "object"}}, "required": ["models"]}
    return {
        "if": several,
        "then": {"properties": {"task": {"required": shared}}},
        "else": {"properties": {"task": {"required": required}}},
    }


def _exclusive() -> list[Schema]:
    """Return the rules about sections that cannot be combined."""
    both = {"qlib_init": {"type": "object"}, "rollforge": {"type": "object"}}
    lists = {"generate": {"type": "array"}, "generators": {"type": "array", "minItems": 1}}
    return [{"not": {"properties": given, "required": list(given)}} for given in (both, lists)]


def _qlib_init(section: Schema) -> Schema:
    """Return the schema of Qlib's options: those that a reader has a type for, and all others that it knows."""
    known: dict[str, Schema] = {name: {"description": text} for name, text in WORKS.items()}
    known |= {name: {"description": f"Without effect: {text}."} for name, text in WITHOUT_EFFECT.items()}
    known |= {
        name: {"anyOf": [{"enum": [only, f"qlib.data.data.{only}", None]}, {"type": "object"}]}
        for name, only in ONLY.items()
    }
    keys = {
        name: {**known.get(name, {}), **section["properties"].get(name, {})}
        for name in {**known, **section["properties"]}
    }
    return {**section, "properties": keys, "additionalProperties": False}
