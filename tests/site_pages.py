"""The pages of the documentation site (``make docs``), and the pages of ``docs/api`` (``make tables``).

The site has the pages of the repository in the same folders, so that a relative link works there and on GitHub. Only
these differ: the pages of ``docs/api``, which are tables of names on GitHub, have the signatures and docstrings too;
``docs/messages.md`` has every message of an error; and a fenced block has the language only, because Python-Markdown knows
no other words after it.

``tests/test_documents.py`` fails if a page of ``docs/api`` is out of date, and ``tests/test_site.py`` if a name is missing.
"""

from __future__ import annotations

import ast
import functools
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import site_messages

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "rollforge"
API = ROOT / "docs" / "api"
ROOMS = (
    "market", "expressions", "features", "generate", "store", "ledger", "track", "models", "record", "run", "collect",
    "online", "plot", "data",
)  # fmt: skip
"""The packages with public names. A name belongs to the first of them that has it; ``rollforge`` itself comes last."""
PAGES = (
    "*.md",
    "LICENSE",
    "NOTICE",
    "docs/**/*",
    "examples/**/*",
    "benchmarks/*.md",
    "benchmarks/*.jsonl",
    "changelog.d/README.md",
)
"""The files of the site, as patterns."""
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(?:[^`<]*<)?~?([\w.]+)>?`")


@dataclass(frozen=True)
class PublicName:
    """A name of an ``__all__``: where it is defined, and the first sentence of its docstring."""

    name: str
    module: str
    summary: str

    @property
    def path(self) -> str:
        """The dotted path of the definition; a module is its own."""
        return f"{self.module}.{self.name}" if self.name != self.module.rpartition(".")[2] else self.module


@functools.cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def public_names(package: str) -> list[PublicName]:
    """Return the public names of ``rollforge`` or, without that prefix, of one of its packages, in alphabetical order."""
    folder = SOURCE / package if package else SOURCE
    stub = folder / "__init__.pyi"
    tree = _parsed(stub if stub.exists() else folder / "__init__.py")
    dotted = f"rollforge.{package}" if package else "rollforge"
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            origin = _absolute(node, dotted)
            for alias in node.names:
                found[alias.asname or alias.name] = _defined(alias.name, origin)
    exported = _literal_all(tree)
    names = sorted(exported if exported is not None else found, key=lambda n: (n.lower(), n))
    return [found[name] for name in names if name in found]


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def _literal_all(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            try:
                return [str(name) for name in ast.literal_eval(node.value)]
            except ValueError:
                return None
    return None


def _file(module: str) -> Path | None:
    """Return the file of a module, or of the stub of a package."""
    base = SOURCE.parent / Path(*module.split("."))
    return next((f for f in (base.with_suffix(".py"), base / "__init__.pyi", base / "__init__.py") if f.exists()), None)


def _defined(name: str, module: str) -> PublicName:
    """Follow imports from `module` to where `name` is defined."""
    file = _file(module)
    assert file is not None, module
    tree = _parsed(file)
    for at, node in enumerate(tree.body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return PublicName(name, module, _first_sentence(ast.get_docstring(node)))
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in [t.id for t in targets if isinstance(t, ast.Name)]:
            after = tree.body[at + 1] if at + 1 < len(tree.body) else None
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return PublicName(name, module, _first_sentence(str(after.value.value)))
            # An object such as D or R is described by its class.
            assert isinstance(node.value, ast.Call), f"{module}.{name} has no docstring"
            return PublicName(name, module, _defined(ast.unparse(node.value.func), module).summary)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for alias in node.names:
                if (
                    (alias.asname or alias.name) == name
                    and (origin := _absolute(node, module)) != module
                    and _file(origin)
                ):
                    return _defined(alias.name, origin)
    submodule = _file(f"{module}.{name}")
    assert submodule is not None, f"{name} is not defined in {module}"
    doc = ast.get_docstring(_parsed(submodule.with_suffix(".py")))
    return PublicName(name, f"{module}.{name}", _first_sentence(doc))


def _first_sentence(docstring: str | None) -> str:
    """Return the first paragraph of a docstring up to its first full stop, as Markdown in a table."""
    paragraph = " ".join((docstring or "").strip().split("\n\n")[0].split())
    sentence = re.split(r"(?<=[a-z0-9)`\"])\.(?: |$)", paragraph, maxsplit=1)[0]
    return without_roles(sentence).replace("``", "`").replace("|", "\\|").replace("*", "\\*")


def without_roles(text: str) -> str:
    """Return `text` with Sphinx's roles (``:class:`~a.b.C```) as code."""
    return _ROLE.sub(lambda m: f"`{m[1].rpartition('.')[2]}`", text)


def pages_of_names() -> dict[str, str]:
    """Return the page of every public definition: its dotted path to the package that documents it."""
    owners: dict[str, str] = {}
    for package in (*ROOMS, ""):
        for name in public_names(package):
            owners.setdefault(name.path, package)
    return owners


def api_pages(*, site: bool = False) -> Iterator[tuple[Path, str]]:
    """Yield the file and the text of each page of ``docs/api``; with `site`, what the site shows in its place."""
    owners = pages_of_names()
    index = [
        "# API reference", "", "<!-- Written by 'make tables' from the `__all__` of each package. -->", "",
        "Every public name, by package. All of them have docstrings with shapes, units, the errors raised and",
        "examples, which the site shows (`make docs`); in Python, `help(rollforge.walk_forward)` does.", "",
        "| package | contents | names |", "|---|---|---|",
    ]  # fmt: skip
    for package in ("", *ROOMS):
        dotted = f"rollforge.{package}" if package else "rollforge"
        file = API / f"{package or 'rollforge'}.md"
        about = _first_sentence(ast.get_docstring(_parsed(SOURCE / package / "__init__.py")))
        names = public_names(package)
        index.append(f"| [`{dotted}`]({file.name}) | {about} | {len(names)} |")
        lines = [f"# {dotted}", "", "<!-- Written by 'make tables'. -->", "", f"{about}.", ""]
        lines += ["| name | what it is |", "|---|---|"]
        for name in names:
            owner = owners[name.path]
            link = f"[`{name.name}`][{name.path}]" if site else f"`{name.name}`"
            owner_link = "" if owner == package else f" ([`rollforge.{owner}`]({owner}.md))"
            lines.append(f"| {link} | {name.summary}{owner_link} |")
        if site:
            lines += [f"\n::: {name.path}" for name in names if owners[name.path] == package]
        yield file, "\n".join(lines) + "\n"
    yield API / "README.md", "\n".join(index) + "\n"


def write_api() -> None:
    """Write the pages of ``docs/api``."""
    API.mkdir(exist_ok=True)
    for file, text in api_pages():
        file.write_text(text, encoding="utf-8")


def for_site(markdown: str) -> str:
    """Return a page as Python-Markdown reads it: only the language after the fence of a block."""
    return re.sub(r"^(```\w+) [^\n`]+$", r"\1", markdown, flags=re.MULTILINE)


def stage(folder: Path) -> None:
    """Write the pages of the site and what they link to into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for pattern in PAGES:
        for file in sorted(ROOT.glob(pattern)):
            if file.is_file() and not {"__pycache__", "theme"} & set(file.parts):
                target = folder / file.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                if file.suffix == ".md":
                    target.write_text(for_site(file.read_text(encoding="utf-8")), encoding="utf-8")
                else:
                    shutil.copyfile(file, target)
    for file, text in api_pages(site=True):
        (folder / file.relative_to(ROOT)).write_text(text, encoding="utf-8")
    every_message = folder / "docs" / "messages.md"
    every_message.write_text(site_messages.page(every_message.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
