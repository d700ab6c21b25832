"""The layout promises of ARCHITECTURE.md, checked against every import in the source, those inside functions too."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "rollforge"
_GROUND = [
    "moved",
    "errors",
    "limits",
    "paths",
    "dates",
    "task",
    "transitions",
    "confidential",
    "machine",
    "drivers",
    "session",
    "kinds",
    "user_code",
    "trust",
    "pickled_values",
    "safe_pickle",
    "pickling",
    "code_marks",
    "qlib_names",
    "qlib_imports",
    "build",
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
    "track",
    "models",
    "record",
    "run",
    "collect",
    "online",
    "edge",
]
EDGE = {
    "yaml12",
    "workflow",
    "plan",
    "rendering",
    "rolling",
    "pipeline",
    "data",
    "report",
    "cli",
    "compat",
    "testing",
    "__init__",
    "__main__",
}
NAMES_MODULES = {
    "rollforge.drivers",  # which class opens the URIs of a scheme
    "rollforge.qlib_names",  # where Qlib's names lead
    "rollforge.moved",  # where earlier names lead
    "rollforge.safe_pickle",  # whose classes may be loaded
    "rollforge.trust",  # whose classes may be built for a report
    "rollforge.run.execute",  # the tag "rollforge.data" of a run
}
"""Modules that hold names of others as data, and import none of them."""
EDGE_ORDER = [
    "data",
    "rendering",
    "yaml12",
    "workflow",
    "plan",
    "report",
    "pipeline",
    "rolling",
    "cli",
    "compat",
    "testing",
]
"""Of the edge, each imports only those before it; the package itself and ``__main__`` may import all."""
HEAVY: dict[str, str | tuple[str, ...]] = {
    "mlflow": "track/mlflow/",
    "plotly": "report/",
    "lightgbm": ("models/lightgbm.py", "pickled_values.py"),
    "psycopg": "store/postgres.py",
    "pymongo": "store/mongo.py",
    "numba": "expressions/",
    "jinja2": "rendering.py",
    "sqlite3": "store/sqlite.py",
}
for _file in sorted((SOURCE / "models").glob("*.py")):  # a model's library is imported in its file
    for _library in re.findall(r'^LIBRARY = "(\w+)"$', _file.read_text(encoding="utf-8"), re.MULTILINE):
        HEAVY.setdefault(_library, f"models/{_file.name}")
VAGUE = {"utils", "util", "common", "helpers", "misc"}


def module_name(path: Path) -> str:
    return ".".join(("rollforge", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def modules() -> dict[str, Path]:
    return {module_name(p): p for p in sorted(SOURCE.rglob("*.py"))}


def room(module: str) -> str:
    parts = module.split(".")
    top = parts[1] if len(parts) > 1 else "__init__"
    return "ground" if top in GROUND else "edge" if top in EDGE else top


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path, module: str, known: set[str]) -> set[str]:
    """Modules of the package that `path` imports, at any place in it.

    A text that is the name of a module counts too: it is there to be imported.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = {name for node in ast.walk(tree) for name in imported(node, package, known)}
    if module not in NAMES_MODULES:
        texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        found |= {text.partition(":")[0] for text in texts if is_name(text)}
    return {f for f in found if f in known and f != module}


def run_time_imports(path: Path, module: str, known: set[str]) -> set[str]:
    """Those of statements alone, and not of those for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    left_out = {part for node in ast.walk(tree) if is_type_checking(node) for part in ast.walk(node)}
    found = {name for node in ast.walk(tree) if node not in left_out for name in imported(node, package, known)}
    return {f for f in found if f in known and f != module}


def imported(node: ast.AST, package: str, known: set[str]) -> set[str]:
    """The modules that a statement imports."""
    if isinstance(node, ast.Import):
        return {a.name for a in node.names}
    if not isinstance(node, ast.ImportFrom):
        return set()
    base = node.module or ""
    if node.level:
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*parents, *([node.module] if node.module else [])])
    return {full if (full := f"{base}.{alias.name}") in known else base for alias in node.names}


def is_name(text: str) -> bool:
    """Whether a text names a module, or something in it: ``package.module`` or ``package.module:name``."""
    return re.fullmatch(r"rollforge(\.\w+)+(:[\w.]+)?", text) is not None


def test_every_module_lives_in_a_known_room() -> None:
    """A new top-level name is a decision about the structure, and is written down in ARCHITECTURE.md first."""
    assert {m for m in modules() if room(m) not in ROOMS} == set()


def test_a_room_imports_only_rooms_to_its_left_and_the_ground() -> None:
    """Data flows one way; an arrow to the right, even inside a function, breaks the layout."""
    known = modules()
    wrong = []
    for module, path in known.items():
        for target in imports(path, module, set(known)):
            if room(module) != "edge" and ROOMS.index(room(target)) > ROOMS.index(room(module)):
                wrong.append(f"{module} -> {target}")
    assert wrong == []


def test_the_ground_has_an_order_of_its_own() -> None:
    """errors < task < safe_pickle < build < session."""
    known = modules()
    wrong = [
        f"{module} -> {target}"
        for module, path in known.items()
        if room(module) == "ground"
        for target in imports(path, module, set(known))
        if GROUND[target.split(".")[1]] > GROUND[module.split(".")[1]]
    ]
    assert wrong == []


def circles(graph: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """Groups of modules each of which leads to each other one (Tarjan)."""
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


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    """No cycle of any length, not through imports inside functions either; those for type checkers alone do not count."""
    known = modules()
    assert circles({m: run_time_imports(p, m, set(known)) for m, p in known.items()}) == []


def test_circles_are_found() -> None:
    """Of two modules, and of three; a chain is none."""
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == [("a", "b")]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [("a", "b", "c")]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_the_edge_has_an_order_of_its_own() -> None:
    """From the file to the plan, the report, the whole job, and the ways to start it."""
    known = modules()
    places = {name: order for order, name in enumerate(EDGE_ORDER)}
    wrong = [
        f"{module} -> {target}"
        for module, path in known.items()
        if (own := places.get(module.split(".")[1] if "." in module else "")) is not None
        for target in run_time_imports(path, module, set(known))
        if places.get(target.split(".")[1] if "." in target else "", -1) > own
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "source",
    [
        "import rollforge.online.manager",
        "def f():\n    from rollforge.online import manager",
        "import importlib\nimportlib.import_module('rollforge.online.manager')",
        "PLACE = 'rollforge.online.manager:OnlineManager'",
        "from ..online import manager",
    ],
)
def test_an_import_is_seen_however_it_is_written(source: str, tmp_path: Path) -> None:
    """In functions, as texts, relative ones."""
    (tmp_path / "x.py").write_text(source)
    assert imports(tmp_path / "x.py", "rollforge.store.x", set(modules())) == {"rollforge.online.manager"}


@pytest.mark.parametrize(("library", "home"), HEAVY.items())
def test_a_backend_library_is_imported_in_one_place(library: str, home: str | tuple[str, ...]) -> None:
    """Swapping a library touches one file (MLflow's own database file is prepared where MLflow is)."""
    users = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(n.split(".")[0] == library for n in names):
                users.add(path.relative_to(SOURCE).as_posix())
    assert {u for u in users if not u.startswith(home)} <= {"track/mlflow/database.py", "track/mlflow/connection.py"}


def test_no_module_has_a_name_that_says_nothing() -> None:
    """A helper lives with its only user or gets a name."""
    assert [m for m in modules() if m.rpartition(".")[2] in VAGUE] == []


def test_every_module_is_on_the_map() -> None:
    """ARCHITECTURE.md names each file of the rooms, the ground and the edge, and nothing that is not there.

    ``models/*.py`` stands for every file with a model, so that a new one needs no line.
    """
    page = (SOURCE.parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:\w+/)*(\w+)\.py`", page))
    assert "`models/*.py`" in page
    named |= {
        path.stem
        for path in (SOURCE / "models").glob("*.py")
        if re.search(r"\(Model(FT)?\):", path.read_text(encoding="utf-8"))
    }
    packages = {"report", "cli", "compat", "testing"}  # described as a whole
    own = {p for p in SOURCE.rglob("*.py") if p.relative_to(SOURCE).parts[0] not in packages}
    assert {p.stem for p in own if not p.stem.startswith("__")} - named == set()
    there = {p.stem for folder in (SOURCE, SOURCE.parents[1] / "tests") for p in folder.rglob("*.py")}
    assert named - there <= {"redis"}  # where such a store would go
