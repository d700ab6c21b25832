"""The rules of ARCHITECTURE.md, checked for every import in the source, including imports inside functions."""

from __future__ import annotations

import ast
import contextlib
import functools
import itertools
import keyword
import re
from pathlib import Path
from typing import TypeGuard

import pytest

from rollforge.moved import current_name

SOURCE = Path(__file__).parents[1] / "src" / "rollforge"
_GROUND = [
    "moved",
    "errors",
    "markup",
    "notebook",
    "frequency",
    "arguments",
    "limits",
    "paths",
    "disk",
    "dates",
    "task",
    "transitions",
    "confidential",
    "mail",
    "machine",
    "importing",
    "drivers",
    "session",
    "kinds",
    "user_code",
    "trust",
    "lightgbm_text",
    "pickle_rules",
    "pickled_python",
    "pickled_numpy",
    "pickled_pandas",
    "pickled_values",
    "safe_pickle",
    "pickler",
    "pickling",
    "code_marks",
    "qlib_names",
    "qlib_imports",
    "description",
    "build",
    "notify",
    "plugins",
    "qlib_options",
]
GROUND = {name: order for order, name in enumerate(_GROUND)}
ROOMS = [
    "ground",
    "market",
    "expressions",
    "features",
    "generate",
    "store",
    "ledger",
    "track",
    "models",
    "record",
    "run",
    "engine",
    "collect",
    "online",
    "edge",
]
EDGE = {
    "yaml12",
    "generators",
    "workflow",
    "workflow_schema",
    "plan",
    "check",
    "rendering",
    "rolling",
    "pipeline",
    "sides",
    "plot",
    "frame_result",
    "walk_forward",
    "new_project",
    "data",
    "report",
    "dashboard",
    "cli",
    "compat",
    "testing",
    "__init__",
}
NAMES_MODULES = {
    "rollforge.drivers",  # which class opens the URIs of a scheme
    "rollforge.qlib_names",  # modules for Qlib's names
    "rollforge.moved",  # modules for earlier names
    "rollforge.safe_pickle",  # modules whose classes may be loaded
    "rollforge.trust",  # modules whose classes may be built for a report
    "rollforge.run.execute",  # the tag "rollforge.data" of a run
}
"""Modules that contain the names of other modules as data, and do not import them."""
NAMES_FROM_DATA = {
    "build",  # definitions
    "cli.worker",  # the function on the command line
    "compat.qlib.__main__",  # the user's program on the command line
    "compat.qlib.objects",  # definitions
    "data",  # the table _HOMES
    "drivers",  # registered schemes
    "engine.dask",  # a constant expression for workers that may not have Rollforge
    "moved",  # the tables of earlier names
    "plugins",  # the session's list
    "qlib_imports",  # the table of Qlib's names
    "run.execute",  # the packages that modules of models name
    "run.requirements",  # packages of a submission, in a child process
    "run.spans",  # exporters of installed packages
    "run.submission",  # modules of models
    "safe_pickle",  # the names in a pickle, after they were checked
    "task",  # references in definitions, after they were checked
    "user_code",  # users' files
}
"""Modules that import by a name that is not a literal string in their code, or that run code."""
IMPORTS_BY_NAME = {
    "import_module",
    "__import__",
    "resolve_name",
    "importorskip",
    "EntryPoint",
    "run_module",
    "run_path",
    "spec_from_file_location",
    "load_module",
    "exec_module",
    "module_from_spec",
    "walk_packages",
    "iter_modules",
    "entry_points",
    "reload",
    "exec",
    "eval",
}
"""Functions that import a module by its name, or run code that may."""
IMPORT_BY_NAME = {"pydoc", "zipimport"}
"""Libraries whose functions import a module by its name under common names such as `locate`."""
COMPUTED = "COMPUTED"
"""Stands for a part of a text that is not a literal string."""
EDGE_ORDER = [
    "data",
    "rendering",
    "yaml12",
    "generators",
    "workflow",
    "workflow_schema",
    "plan",
    "check",
    "report",
    "pipeline",
    "sides",
    "plot",
    "rolling",
    "frame_result",
    "walk_forward",
    "new_project",
    "dashboard",
    "cli",
    "compat",
    "testing",
]
"""Modules of the edge import only those before them; the package itself, which comes last, and ``__main__`` may import
all."""
HEAVY: dict[str, str | tuple[str, ...]] = {
    "mlflow": ("track/mlflow/", "testing/mlflow.py"),  # the server for tests is a process of its own
    "plotly": ("report/", "plot/"),
    "lightgbm": ("models/lightgbm.py", "pickled_values.py"),
    "psycopg": ("store/postgres.py", "store/postgres_database.py", "store/postgres_query.py"),
    "pymongo": (
        "store/mongo.py",
        "store/mongo_connection.py",
        "store/mongo_database.py",
        "store/mongo_dependencies.py",
        "ledger/mongo.py",
    ),
    "numba": ("expressions/compiler.py", "expressions/kernel_passes.py"),
    "llvmlite": ("expressions/compiler.py", "expressions/machine_code.py"),
    "jinja2": ("rendering.py", "dashboard/pages.py"),
    "sklearn": ("models/sklearn.py", "models/linear.py"),
    "torch": (
        "models/torch_networks.py",
        "models/torch_adarnn_network.py",
        "models/torch_add_network.py",
        "models/torch_hist_network.py",
        "models/torch_igmtf_network.py",
        "models/torch_tabnet_network.py",
        "models/torch_tcts_network.py",
        "models/torch_tra_network.py",
        "models/torch_tra_training.py",
        "models/torch_training.py",
    ),
    "skorch": "models/torch_training.py",
    "starlette": ("online/http.py", "dashboard/app.py"),
    "uvicorn": "online/http.py",
    "ray": "engine/ray.py",
    "distributed": "engine/dask.py",
    "dask_jobqueue": "engine/slurm.py",
    "sqlite3": ("store/sqlite.py", "store/sqlite_database.py", "track/mlflow/"),  # for MLflow's database
    "exchange_calendars": "market/exchange_days.py",
    "catboost": ("models/catboost.py", "models/sklearn.py"),
}
for _file in sorted((SOURCE / "models").glob("*.py")):  # the library of a model is imported in the model's file
    for _library in re.findall(r'^LIBRARY = "(\w+)"$', _file.read_text(encoding="utf-8"), re.MULTILINE):
        HEAVY.setdefault(_library, f"models/{_file.name}")
VAGUE = {"utils", "util", "common", "helpers", "misc"}


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a source file; of a package, with the stub that lists its lazy imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if (stub := path.with_suffix(".pyi")).exists():
        tree.body += ast.parse(stub.read_text(encoding="utf-8")).body
    return tree


@functools.cache
def nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
    """Return all nodes of a tree; several tests go over those of every module."""
    return tuple(ast.walk(tree))


@functools.cache
def libraries(path: Path) -> frozenset[str]:
    """Return the top-level packages that a file imports anywhere, also by ``import_module("name")``."""
    return libraries_of(parsed(path))


def libraries_of(tree: ast.AST) -> frozenset[str]:
    """Return the top-level packages that a program imports, also in programs that it runs in another process."""
    names = [text for call in import_calls(tree) for text in texts_of(call)[:1]]
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            names += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.append(node.module or "")
        elif isinstance(node, ast.List | ast.Tuple):  # a command: [sys.executable, "-m", "module"]
            words = [part.value if isinstance(part, ast.Constant) else None for part in node.elts]
            names += [str(after) for option, after in itertools.pairwise(words) if option == "-m"]
    return frozenset(name.split(".")[0] for name in names).union(*map(libraries_of, programs(tree)))


def module_name(path: Path) -> str:
    return ".".join(("rollforge", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


@functools.cache
def modules() -> dict[str, Path]:
    return {module_name(p): p for p in sorted(SOURCE.rglob("*.py"))}


def room(module: str) -> str:
    parts = module.split(".")
    top = parts[1] if len(parts) > 1 else "__init__"
    if parts[-1] == "__main__":  # a program, which no module imports
        return "edge"
    return "ground" if top in GROUND else "edge" if top in EDGE else top


def is_type_checking(node: ast.AST) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and last_part(node.test) == "TYPE_CHECKING"


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    """Return the modules that a module of the package imports anywhere."""
    known = modules()
    return frozenset(imports(known[module], module, set(known)))


def imports(path: Path, module: str, known: set[str]) -> set[str]:
    """Return the modules of the package that `path` imports anywhere.

    A string that is the name of a module counts as an import.
    """
    tree = parsed(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = {name for node in nodes(tree) for name in imported(node, package, known)}
    found |= named(tree, module, known)
    return {f for f in found if f in known and f != module}


def named(tree: ast.AST, module: str, known: set[str]) -> set[str]:
    """Return the modules of the package that strings name, also as ``package.module.Class`` or relative to a
    package."""
    values = [n.value for n in nodes(tree) if isinstance(n, ast.Constant)] if module not in NAMES_MODULES else []
    texts = {value for value in values if isinstance(value, str)}
    pickles = {name for value in values if isinstance(value, bytes) for name in _NAME.findall(value.decode("latin-1"))}
    for call in import_calls(tree):
        words = texts_of(call)
        texts.add(words[1] + words[0] if len(words) == 2 and words[0].startswith(".") else "".join(words[:1]))
    found = {name for program in programs(tree) for n in ast.walk(program) for name in imported(n, "", known)}
    found |= {name for program in programs(tree) for name in named(program, "", known)}
    for text in [*filter(is_name, texts), *pickles]:
        name = current_name(text.removeprefix("ext://").partition(":")[0])
        while name not in known and name.count(".") > 1:
            name = name.rpartition(".")[0]
        found.add(name)
    return found


_NAME = re.compile(r"rollforge(?:\.\w+)+")
_STATEMENT = re.compile(
    r"""(?:^|;|-c ['"])[ >.]*(?:from +([\w.]+)|import +([\w.]+(?: *, *[\w.]+)*))|(?:^|&& )[\w./]*python[\d.]* .*?-m +([\w.]+)""",
    re.MULTILINE,
)
"""An import, or a command that runs a module, in a text."""


@functools.cache
def programs(tree: ast.AST) -> list[ast.Module]:
    """Return the programs in the strings of a program, by what they import."""
    values = [n.value for n in nodes(tree) if isinstance(n, ast.Constant)]
    texts = {v if isinstance(v, str) else v.decode("latin-1") for v in values if isinstance(v, str | bytes)}
    return [program(text) for text in texts - docstrings(tree) if "import" in text or " -m " in text]


@functools.cache
def program(text: str) -> ast.Module:
    """Return the syntax tree of a text; if it is only a part of a program, of the imports in it."""
    with contextlib.suppress(SyntaxError, ValueError):
        return ast.parse(text)
    names = {name.strip() for found in _STATEMENT.findall(text) for name in ",".join(found).split(",")}
    return ast.parse("\n".join(f"import {name}" for name in names if all(map(is_word, name.split(".")))))


def is_word(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def docstrings(tree: ast.AST) -> set[str]:
    """Return the docstrings of a module, including those of attributes. Their examples are not code of the package."""
    return {
        str(n.value.value)
        for n in nodes(tree)
        if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) and isinstance(n.value.value, str)
    }


@functools.cache
def by_name(tree: ast.AST) -> set[str]:
    """Return the names under which a module has the functions of `IMPORTS_BY_NAME`."""
    aliases = [a for n in nodes(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
    return IMPORTS_BY_NAME | {a.asname for a in aliases if a.asname and a.name in IMPORTS_BY_NAME}


@functools.cache
def import_calls(tree: ast.AST) -> list[ast.Call]:
    """Return the calls that import a module by its name."""
    functions = by_name(tree)
    return [n for n in nodes(tree) if isinstance(n, ast.Call) and last_part(n.func) in functions]


def last_part(node: ast.AST) -> str:
    """Return ``f`` of ``f`` and of ``module.f``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def texts_of(call: ast.Call) -> list[str]:
    """Return the strings among the arguments of a call, also those that are passed by name."""
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    return [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]


def imports_by_unknown_names(tree: ast.AST) -> bool:
    """Return whether a module imports by a name that is not a literal string in its code, or passes such a function
    on."""
    calls = import_calls(tree)
    if libraries_of(tree) & IMPORT_BY_NAME or any(map(is_computed, calls)) or has_computed_names(tree):
        return True
    used = [n for n in nodes(tree) if isinstance(n, ast.Name | ast.Attribute) and isinstance(n.ctx, ast.Load)]
    functions, called = by_name(tree), {id(call.func) for call in calls}
    if any(last_part(n) in functions and id(n) not in called for n in used):
        return True
    looked_up = [n.slice for n in nodes(tree) if isinstance(n, ast.Subscript)]
    looked_up += [a for n in nodes(tree) if isinstance(n, ast.Call) and last_part(n.func) == "getattr" for a in n.args]
    return any(isinstance(n, ast.Constant) and n.value in functions for n in looked_up)


def is_computed(call: ast.Call) -> bool:
    """Return whether an argument of a function of `IMPORTS_BY_NAME` is not a literal: the name, or the package that
    it is relative to, or the list of names."""
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    parts = [p for a in arguments for p in (a.elts if isinstance(a, ast.List | ast.Tuple) else [a])]
    literal = all(isinstance(part, ast.Constant) for part in parts) and texts_of(call) != []
    return not literal or last_part(call.func) in ("exec", "eval", "EntryPoint", "entry_points")


def has_computed_names(tree: ast.AST) -> bool:
    """Return whether a text that is put together names a module of the package, or imports what it does not name."""
    for node in nodes(tree):
        text = put_together(node)
        if COMPUTED in text and (names_computed(text) or imports_computed(text)):
            return True
        if isinstance(node, ast.List | ast.Tuple):  # a command: [sys.executable, "-m", module]
            words = [put_together(part) for part in node.elts]
            if any(option == "-m" and COMPUTED in after for option, after in itertools.pairwise(words)):
                return True
    return False


def names_computed(text: str) -> bool:
    """Return whether a text names a module below a package of Rollforge."""
    package = text.partition(COMPUTED)[0].removeprefix("ext://").rpartition(".")[0]
    return is_name(text) and package in modules()


def imports_computed(text: str) -> bool:
    """Return whether a program, or the imports in a text, have a module that is not literal."""
    if "import" not in text and " -m " not in text:
        return False
    nodes = [n for n in ast.walk(program(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = [a.name for n in nodes for a in n.names] + [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    return any(COMPUTED in name for name in names)


def put_together(node: ast.AST) -> str:
    """Return the text of an f-string, a sum, ``"…" % x``, ``"…".format(x)`` or ``"…".join(x)``, with `COMPUTED` for
    what is not literal."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(put_together, parts))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return put_together(left) + put_together(right)
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mod()):
            return re.sub(r"%(\(\w+\))?[a-z]", COMPUTED, text)
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
            return re.sub(r"\{.*?\}", COMPUTED, text)
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str(text)), attr="join"), args=[ast.List(elts=parts)]
        ):
            return text.join(map(put_together, parts))
    return COMPUTED


def run_time_imports(path: Path, module: str, known: set[str], *, strings: bool = False) -> set[str]:
    """Return the modules that `path` imports by statements, and if asked by strings, except those under
    ``TYPE_CHECKING``."""
    tree = parsed(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    blocks = [node for node in nodes(tree) if is_type_checking(node)]
    ignored = {part for block in blocks for line in block.body for part in ast.walk(line)}
    found = {name for node in nodes(tree) if node not in ignored for name in imported(node, package, known)}
    if strings:
        found |= named(tree, module, known)
    return {f for f in found if f in known and f != module}


def imported(node: ast.AST, package: str, known: set[str]) -> set[str]:
    """Return the modules that a statement imports."""
    if isinstance(node, ast.Import):
        return {current_name(a.name) for a in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    base = node.module or ""
    if node.level:
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, *([node.module] if node.module else [])])
    base = current_name(base)
    names = [current_name(f"{base}.{alias.name}") for alias in node.names if alias.name != "__version__"]
    return {name if name in known else base for name in names}


def is_name(text: str) -> bool:
    """Return whether a string has the form ``package.module`` or ``package.module:name``."""
    return re.fullmatch(r"(ext://)?rollforge(\.\w+)+(:[\w.]+)?", text) is not None


def place(room: str) -> int:
    """Return the place of a room in the order; an unknown one, which another test reports, comes last."""
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


def test_every_module_belongs_to_a_known_room() -> None:
    """A new top-level module is a decision about the structure, which ARCHITECTURE.md documents."""
    assert {m for m in modules() if room(m) not in ROOMS} == set()


def test_a_room_imports_only_rooms_to_its_left_and_the_ground() -> None:
    """An import of a room to the right is an error, even inside a function."""
    wrong = []
    for module in modules():
        for target in imports_of(module):
            if room(module) != "edge" and place(room(target)) > place(room(module)):
                wrong.append(f"{module} -> {target}")
    assert wrong == []


def test_the_ground_is_ordered() -> None:
    """A module of the ground imports only modules before it: no room, and not the package."""
    wrong = [
        f"{module} -> {target}"
        for module in modules()
        if room(module) == "ground"
        for target in imports_of(module)
        if GROUND.get(target.partition(".")[2].partition(".")[0], len(GROUND)) > GROUND[module.split(".")[1]]
    ]
    assert wrong == []


def cycles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Return the strongly connected components of more than one module (Tarjan's algorithm)."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[tuple[str, ...]] = []

    def visit(node: str) -> None:
        numbers[node] = lowest[node] = len(numbers)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in numbers:
                visit(target)
                lowest[node] = min(lowest[node], lowest[target])
            elif target in stack:
                lowest[node] = min(lowest[node], numbers[target])
        if lowest[node] == numbers[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(tuple(sorted(group)))

    for start in sorted(graph):
        if start not in numbers:
            visit(start)
    return found


def test_there_are_no_import_cycles() -> None:
    """Imports inside functions count, and imports under ``TYPE_CHECKING`` do not."""
    known = modules()
    assert cycles({m: run_time_imports(p, m, set(known)) for m, p in known.items()}) == []


def test_cycles_are_found() -> None:
    """Cycles of two and of three modules are found; a chain is not a cycle."""
    assert cycles({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == [("a", "b")]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [("a", "b", "c")]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_the_edge_is_ordered() -> None:
    """A module of the edge imports only modules before it in `EDGE_ORDER`."""
    known = modules()
    places = {name: order for order, name in enumerate(EDGE_ORDER)}
    wrong = [
        f"{module} -> {target}"
        for module, path in known.items()
        if (own := places.get(module.split(".")[1] if "." in module else "")) is not None
        for target in run_time_imports(path, module, set(known), strings=True)
        if (places.get(target.split(".")[1], -1) if "." in target else len(places)) > own
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "source",
    [
        "import rollforge.online.manager",
        "def f():\n    from rollforge.online import manager",
        "import importlib\nimportlib.import_module('rollforge.online.manager')",
        "import importlib\nimportlib.import_module('.online.manager', 'rollforge')",
        "build('rollforge.online.manager.OnlineManager')",
        "TARGET = 'rollforge.online.manager:OnlineManager'",
        "import pkgutil\npkgutil.resolve_name('rollforge.online.manager:OnlineManager')",
        "from ..online import manager",
        "from importlib import import_module as load\nload('.online.manager', 'rollforge')",
        "import importlib\nimportlib.import_module('.online.manager', package='rollforge')",
        "import runpy\nrunpy.run_module('rollforge.online.manager')",
        "COMMAND = ['python', '-c', 'from rollforge.online.manager import OnlineManager']",
        "COMMAND = 'import os, rollforge.online.manager; print(os.name)'",
        "COMMAND = 'from rollforge.online import (\\n    manager,\\n)'",
        "COMMAND = f'{first}; from rollforge.online.manager import {name}'",
        "COMMAND = 'python -m rollforge.online.manager --help'",
        "HANDLER = {'()': 'ext://rollforge.online.manager.OnlineManager'}",
        "pickle.loads(b'crollforge.online.manager\\nOnlineManager\\n.')",
    ],
)
def test_an_import_is_found_however_it_is_written(source: str, tmp_path: Path) -> None:
    """Imports in functions, in strings, and relative imports are found."""
    (tmp_path / "x.py").write_text(source)
    assert imports(tmp_path / "x.py", "rollforge.store.x", set(modules())) == {"rollforge.online.manager"}


@pytest.mark.parametrize(
    "source",
    [
        "import importlib\ndef f(name):\n    importlib.import_module(name=name)",
        "from importlib import import_module as load\ndef f(name):\n    load(name)",
        "import importlib\nload = importlib.import_module",
        "from importlib import import_module\nmodules = map(import_module, names)",
        "import runpy\nrunpy.run_module('rollforge.' + 'online')",
        "exec('from rollforge.online import manager')",
        "import pydoc\npydoc.locate('rollforge.' + name)",
        "from pydoc import locate as load\nload(name)",
        "import importlib\ngetattr(importlib, 'import_module')('rollforge.' + name)",
        "import builtins\nvars(builtins)['__import__'](name)",
        "from importlib.metadata import EntryPoint\nEntryPoint('x', 'rollforge.' + name, 'g').load()",
        "from importlib.metadata import entry_points\nentry_points(group='rollforge.stores')",
        "import importlib\nimportlib.import_module(f'rollforge.{name}')",
        "import importlib\nimportlib.import_module(f'.{name}', 'rollforge')",
        "import importlib\nimportlib.import_module('.manager', f'rollforge.{room}')",
        "import importlib\nimportlib.import_module('.'.join(['rollforge', room]))",
        "__import__('rollforge', fromlist=[name])",
        "from importlib.util import find_spec, module_from_spec\nmodule_from_spec(find_spec('rollforge.' + name))",
        "import pkgutil\nfor found in pkgutil.walk_packages(path, 'rollforge.'): found.module_finder",
        "build(f'rollforge.{room}.Manager')",
        "build('rollforge.' + room + '.manager:Manager')",
        "build('rollforge.%s' % room)",
        "build('rollforge.{}'.format(room))",
        "COMMAND = f'import {name}'",
        "COMMAND = f'import os, {name}'",
        "COMMAND = f'from rollforge.{room} import manager'",
        "COMMAND = 'from ' + name + ' import manager'",
        "COMMAND = 'import %s' % name",
        "COMMAND = f'python -m {name} --help'",
        "COMMAND = [sys.executable, '-m', name]",
        "COMMAND = [sys.executable, '-m', f'rollforge.{name}']",
    ],
)
def test_an_import_by_an_unknown_name_is_found(source: str) -> None:
    assert imports_by_unknown_names(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "import importlib\nimportlib.import_module('.online', package='rollforge')",
        "import runpy\nrunpy.run_module('json.tool', run_name='__main__', alter_sys=True)",
        "COMMAND = f'import os; print({value})'",
        "COMMAND = [sys.executable, '-m', 'json.tool', name]",
        "MESSAGE = f'The import of {name} failed.'",
        "MESSAGE = 'rollforge ' + command",
        "TAG = f'rollforge.backtest.{name}'",
        "MESSAGE = f'missing from {day} on'",
    ],
)
def test_a_literal_name_and_a_text_are_no_import_by_an_unknown_name(source: str) -> None:
    assert not imports_by_unknown_names(ast.parse(source))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("if TYPE_CHECKING:\n    from rollforge.online import manager", False),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    from rollforge.online import manager", True),
        ("if not TYPE_CHECKING:\n    from rollforge.online import manager", True),
    ],
)
def test_only_imports_for_type_checking_are_ignored(source: str, found: bool, tmp_path: Path) -> None:
    """The other branch is imported when the program runs."""
    (tmp_path / "x.py").write_text(source)
    assert bool(run_time_imports(tmp_path / "x.py", "rollforge.store.x", set(modules()))) == found


def test_lazy_imports_of_a_package_are_found(tmp_path: Path) -> None:
    """Those that its stub lists, by which ``from rollforge.store import …`` works."""
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "__init__.pyi").write_text("from rollforge.online.manager import OnlineManager as OnlineManager")
    assert imports(tmp_path / "__init__.py", "rollforge.store", set(modules())) == {"rollforge.online.manager"}


@pytest.mark.parametrize(("library", "home"), HEAVY.items())
def test_a_heavy_library_is_imported_in_one_place(library: str, home: str | tuple[str, ...]) -> None:
    """Replacing a library changes one file, or those of one purpose."""
    users = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if library in libraries(path)}
    assert not {u for u in users if not u.startswith(home)}


@pytest.mark.parametrize(
    "source",
    [
        "import mlflow.tracking",
        "def f():\n    from mlflow import MlflowClient",
        "import importlib\nimportlib.import_module('mlflow.tracking')",
        "COMMAND = [sys.executable, '-c', 'import mlflow; print(mlflow.__version__)']",
        "COMMAND = [sys.executable, '-m', 'mlflow', 'server']",
        "COMMAND = 'python -m mlflow server'",
        "COMMAND = f'python3.12 -X dev -m mlflow server --port {port}'",
        "COMMAND = 'cd runs && /usr/bin/python3 -m mlflow ui'",
        "COMMAND = \"python -c 'import mlflow'\"",
        "COMMAND = b'import mlflow'",
        "COMMAND = 'import os, mlflow'",
        "COMMAND = f'import os, mlflow; print({name})'",
        "COMMAND = f'{first}; from mlflow.tracking import {name}'",
        "exec('from mlflow import (\\n    MlflowClient,\\n)')",
        "subprocess.run(['python', '-c', \"__import__('mlflow')\"])",
        "CODE = 'import importlib; importlib.import_module(\"mlflow.tracking\")'",
        "CODE = \"import subprocess; subprocess.run(['python', '-c', 'import mlflow'])\"",
        'CODE = textwrap.dedent("""\n    import mlflow\n    mlflow.start_run()\n""")',
    ],
)
def test_a_library_is_found_however_it_is_imported(source: str) -> None:
    """A program in a string, which another process runs, is read too."""
    assert "mlflow" in libraries_of(ast.parse(source))


@pytest.mark.parametrize(
    "source", ['"""Do not import mlflow here."""', "MESSAGE = 'To import mlflow, install it.'", "NAME = 'mlflow'"]
)
def test_a_text_about_a_library_is_no_import(source: str) -> None:
    assert "mlflow" not in libraries_of(ast.parse(source))


def test_modules_are_imported_by_names_that_can_be_read() -> None:
    """A name that is put together, or comes from elsewhere, escapes the other tests; the exceptions read data or
    tables."""
    found = {m.removeprefix("rollforge.") for m, path in modules().items() if imports_by_unknown_names(parsed(path))}
    assert found == NAMES_FROM_DATA


def test_programs_are_not_imported() -> None:
    """A ``__main__`` belongs to the edge wherever its file is, so the command ``python -m`` of a room may import the
    command line. No module imports one.
    """
    programs = {module for module in modules() if module.endswith(".__main__")}
    assert "rollforge.store.manager.__main__" in programs
    assert {m for m in modules() if imports_of(m) & programs} == set()


def test_the_package_does_not_import_itself_under_the_names_of_qlib() -> None:
    """Such an import would lead to any room. Users' code may write it; Rollforge's own does not."""
    assert {module for module, path in modules().items() if "qlib" in libraries(path)} == set()


def test_no_module_has_a_vague_name() -> None:
    """No module is named `utils`, `helpers` or the like."""
    assert [m for m in modules() if m.rpartition(".")[2] in VAGUE] == []


def test_every_module_is_on_the_map() -> None:
    """ARCHITECTURE.md lists each file of the rooms, the ground and the edge, and no file that does not exist.

    ``models/*.py`` stands for every file with a model, so that a new one need not be listed.
    """
    page = (SOURCE.parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:\w+/)*(\w+)\.py`", page))
    assert "`models/*.py`" in page
    named |= {
        path.stem
        for path in (SOURCE / "models").glob("*.py")
        if re.search(r"\((Boosting|Model(FT)?)\b.*\):", path.read_text(encoding="utf-8"))
    }
    packages = {"report", "cli", "compat", "testing"}  # described as a whole
    own = {p for p in SOURCE.rglob("*.py") if p.relative_to(SOURCE).parts[0] not in packages}
    assert {p.stem for p in own if not p.stem.startswith("__")} - named == set()
    there = {p.stem for folder in (SOURCE, SOURCE.parents[1] / "tests") for p in folder.rglob("*.py")}
    assert named - there <= {"redis"}  # the example of a new store
