"""The messages of all errors that the package raises, read from its source, for the page ``docs/messages.md`` of the site."""

from __future__ import annotations

import ast
import functools
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "rollforge"
GAP = "…"
"""What stands for a value in a message."""


@dataclass(frozen=True)
class Message:
    """A message with ``…`` for each value, the class of its error, and the module that raises it."""

    text: str
    error: str
    module: str


@functools.cache
def _trees() -> dict[str, ast.Module]:
    files = sorted(file for file in SOURCE.rglob("*.py") if "testing" not in file.relative_to(SOURCE).parts)
    return {
        ".".join(file.relative_to(SOURCE).with_suffix("").parts): ast.parse(file.read_text(encoding="utf-8"))
        for file in files
    }


@functools.cache
def error_classes() -> dict[str, str]:
    """Return every subclass of ``RollforgeError`` in the package, also private ones, with the class that the page of errors
    describes: its own name, or its nearest base there."""
    bases = {
        node.name: [ast.unparse(base).rpartition(".")[2] for base in node.bases]
        for tree in _trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    described = set(described_errors())

    def public(name: str, seen: frozenset[str] = frozenset()) -> str | None:
        if name in described:
            return name
        if name in seen:
            return None
        return next((found for base in bases.get(name, ()) if (found := public(base, seen | {name}))), None)

    return {name: found for name in bases if (found := public(name))}


@functools.cache
def described_errors() -> dict[str, tuple[str, str]]:
    """Return the rows of ``docs/errors.md``: the class, when it is raised, and what to do."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .+? \| ?(.*?) ?\| ?(.*?) ?\|$", page, re.MULTILINE)
    return {name: (when, advice) for name, when, advice in rows}


def _text(node: ast.expr, local: dict[str, list[ast.expr]]) -> list[str]:
    """Return the possible texts of an expression with ``…`` for each value that only a run determines."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)]  # type: ignore[misc]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [a + b for a in _text(node.left, local) for b in _text(node.right, local)]
    if isinstance(node, ast.IfExp):
        return _text(node.body, local) + _text(node.orelse, local)
    if isinstance(node, ast.Call):
        called = ast.unparse(node.func).rpartition(".")[2]
        if called in ("advise_once", "mask_secrets", "excerpt") and node.args:  # they shorten or add to a message
            return _text(node.args[0], local)
        if called == "join" and node.args and isinstance(node.args[0], ast.List):
            return [" ".join(_text(part, local)[0] for part in node.args[0].elts)]
    name = node.func if isinstance(node, ast.Call) else node
    if isinstance(name, ast.Name) and name.id in local:
        others = {other: values for other, values in local.items() if other != name.id}
        return [text for value in local[name.id] for text in _text(value, others)]
    return [GAP]


def _assigned(function: ast.AST) -> dict[str, list[ast.expr]]:
    """Return the values that are assigned to each name within a function."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return found


def _returned(tree: ast.Module) -> dict[str, list[ast.expr]]:
    """Return what each function of a module returns, for messages that a function writes."""
    return {
        function.name: values
        for function in tree.body
        if isinstance(function, ast.FunctionDef)
        and (values := [n.value for n in ast.walk(function) if isinstance(n, ast.Return) and n.value is not None])
    }


@functools.cache
def _shared() -> dict[str, list[ast.expr]]:
    """Return the same for the functions that other modules may call."""
    every = {name: values for tree in _trees().values() for name, values in _returned(tree).items()}
    return {name: values for name, values in every.items() if not name.startswith("_")}


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, dict[str, list[ast.expr]]]]:
    """Yield every call with the assignments of its innermost function."""

    def visit(node: ast.AST, local: dict[str, list[ast.expr]]) -> Iterator[tuple[ast.Call, dict[str, list[ast.expr]]]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            local = returned | _assigned(node)
        if isinstance(node, ast.Call):
            yield node, local
        for child in ast.iter_child_nodes(node):
            yield from visit(child, local)

    returned = _shared() | _returned(tree)
    yield from visit(tree, returned)


@functools.cache
def messages() -> tuple[Message, ...]:
    """Return every message of an error, sorted by the page's section and by text."""
    classes = error_classes()
    found = set()
    for module, tree in _trees().items():
        for call, local in _calls(tree):
            name = ast.unparse(call.func).rpartition(".")[2]
            if name in classes and call.args:
                for text in _text(call.args[0], local):
                    one = re.sub(rf"\s*{GAP}(?:\s*{GAP})*", lambda m: " …" if m[0][0].isspace() else GAP, text)
                    one = " ".join(one.split())
                    if re.search(r"\w{2}", one.replace(GAP, "")):
                        found.add(Message(one, classes[name], module))
    return tuple(sorted(found, key=lambda m: (m.error, m.text.lower().lstrip(GAP + " '"), m.module)))


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]#|])", r"\\\1", html.escape(text, quote=False))


def page(introduction: str) -> str:
    """Return the page of the site: the introduction, then a section for each class of error with all of its messages."""
    by_error: dict[str, dict[str, list[str]]] = {}
    for message in messages():
        by_error.setdefault(message.error, {}).setdefault(message.text, []).append(message.module)
    lines = [introduction.rstrip()]
    for error, (when, advice) in described_errors().items():
        if error in by_error:
            lines += ["", f"## {error}", "", f"**Cause:** {when}.", ""]
            lines += [f"**Cure:** {advice}.", ""] if advice else []
            lines += [
                f"* {_escaped(text)} (`{'`, `'.join(sorted(set(modules)))}`)"
                for text, modules in by_error[error].items()
            ]
    return "\n".join(lines) + "\n"
