"""The layout promises of ARCHITECTURE.md, checked against every import in the source, those inside functions too."""

from __future__ import annotations

import ast
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
    "confidential",
    "machine",
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
VAGUE = {"utils", "util", "common", "helpers", "misc"}


def module_name(path: Path) -> str:
    return ".".join(("rollforge", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def modules() -> dict[str, Path]:
    return {module_name(p): p for p in sorted(SOURCE.rglob("*.py"))}


def room(module: str) -> str:
    parts = module.split(".")
    top = parts[1] if len(parts) > 1 else "__init__"
    return "ground" if top in GROUND else "edge" if top in EDGE else top


def imports(path: Path, module: str, known: set[str], *, at_import_time: bool = False) -> set[str]:
    """Modules of the package that `path` imports; with `at_import_time`, those that run when it is imported."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    deferred: set[ast.AST] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if at_import_time:
        for node in ast.walk(tree):
            is_type_checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            if is_type_checking or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                deferred.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in deferred:
            continue
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in known else base)
    return {f for f in found if f in known and f != module}


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


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    """No cycle of any length among the imports that run at import time."""
    known = modules()
    graph = {m: imports(p, m, set(known), at_import_time=True) for m, p in known.items()}
    state: dict[str, int] = {}
    cycle: list[str] = []

    def visit(node: str, trail: tuple[str, ...]) -> None:
        if state.get(node) == 2 or cycle:
            return
        if state.get(node) == 1:
            cycle.extend((*trail[trail.index(node) :], node))
            return
        state[node] = 1
        for target in sorted(graph[node]):
            visit(target, (*trail, node))
        state[node] = 2

    for start in graph:
        visit(start, ())
    assert cycle == []


@pytest.mark.parametrize(
    ("library", "home"), [("mlflow", "track/mlflow.py"), ("sqlite3", "store/sqlite.py"), ("plotly", "report/")]
)
def test_a_backend_library_is_imported_in_one_place(library: str, home: str) -> None:
    """Swapping a library touches one file (MLflow's own database file is prepared where MLflow is)."""
    users = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(n.split(".")[0] == library for n in names):
                users.add(path.relative_to(SOURCE).as_posix())
    assert {u for u in users if not u.startswith(home)} <= {"track/mlflow.py"}


def test_no_module_has_a_name_that_says_nothing() -> None:
    """A helper lives with its only user or gets a name."""
    assert [m for m in modules() if m.rpartition(".")[2] in VAGUE] == []
