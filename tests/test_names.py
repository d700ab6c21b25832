"""One name per concept in our own code; Qlib's names and the keys of files are used only at the boundaries."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "rollforge"

OTHER_NAMES = {
    "task_pool": "pool",
    "pool_name": "pool",
    "exp_name": "experiment_name",
    "exp_id": "experiment_id",
    "default_exp_name": "experiment_name",
    "name_id": "experiment_name",
    "n_jobs": "jobs",
    "n_workers": "jobs",
    "num_workers": "jobs",
    "task_url": "store_uri",
    "store_url": "store_uri",
    "tracking": "tracking_uri",
    "tracking_url": "tracking_uri",
    "mlflow_uri": "tracking_uri",
    "Crew": "WorkerPool",
    "Claims": "Leases",
    "Slot": "WorkerProcess",
    "nobody": "ignore_event",
    "_nobody": "ignore_event",
    "beside": "folder",
    "known_pool": "require_pool",
    "on_its_data": "with_training_data",
    "storable": "to_reference",
    "needs": "dependencies",
    "unmet": "unmet_dependencies",
    "Circle": "Origin",
    "lent": "registered_object",
    "told_again": "repeated_answer",
    "said_elsewhere": "describe_unreachable_runs",
    "describe_elsewhere": "describe_unreachable_runs",
    "elsewhere": "other_instruments",
    "RecorderElsewhere": "RecorderUnreachable",
    "cure": "advice",
    "fitness": "requirements",
    "Eligibility": "RequirementsCheck",
    "eligibility": "checked",
    "UnfitWorker": "RequirementsNotMet",
    "Unfit": "CannotRun",
    "UNFIT": "REQUIREMENTS_NOT_MET",
    "unfit": "cannot_run",
    "unfit_name": "name_problem",
    "Facts": "SubmissionInfo",
    "facts": "info",
    "facts_of": "submission_info",
    "Standing": "WorkerHealth",
    "patience": "reconnect_timeout",
    "patient": "wait_for_others",
    "allowance": "claim_limit",
    "stays": "exit_when_empty",
    "hopeless": "final",
    "nap": "delay",
    "turn_of": "next_tasks",
    "in_turn": "in_order",
    "Begun": "Started",
    "Mistakes": "ConfigErrors",
    "RunIndex": "RunCache",
    "Copied": "CopyResult",
    "Place": "SeriesSource",
    "place_of": "location_of",
    "local_place": "local_path",
    "LONGEST_MESSAGE": "MAX_MESSAGE_LENGTH",
    "MOST_ATTEMPTS": "MAX_ATTEMPTS",
}
"""Name that is not used -> ours."""

QLIBS = {"pool_name", "exp_id", "n_workers", "num_workers", "task_url", "store_url", "tracking_url"}
"""Names that tests of Qlib's API may use."""

OBJECTS = {"store": "store_uri", "tracker": "tracking_uri", "experiment": "experiment_name"}
"""Name of an object -> name of the text that names it."""

BORDERS = {
    ("collect/group.py", "Group.__call__", "n_jobs"): "Qlib: Group",
    ("collect/task_collector.py", "TaskCollector", "exp_name"): "Qlib: attribute of TaskCollector",
    ("compat/qlib/parallel.py", "datetime_groupby_apply", "n_jobs"): "Qlib: datetime_groupby_apply",
    ("compat/qlib/predictions.py", "calc_all_ic", "n_jobs"): "Qlib: calc_all_ic",
    ("compat/qlib/predictions.py", "pred_autocorr_all", "n_jobs"): "Qlib: pred_autocorr_all",
    ("online/strategy.py", "OnlineStrategy", "name_id"): "Qlib: attribute of strategies",
    ("online/strategy.py", "OnlineStrategy.__init__", "name_id"): "Qlib: OnlineStrategy",
    ("online/strategy.py", "RollingStrategy", "exp_name"): "Qlib: attribute of RollingStrategy",
    ("online/strategy.py", "RollingStrategy.__init__", "name_id"): "Qlib: RollingStrategy",
    ("online/tool.py", "OnlineToolR", "default_exp_name"): "Qlib: attribute of OnlineToolR",
    ("online/tool.py", "OnlineToolR.__init__", "default_exp_name"): "Qlib: OnlineToolR",
    ("online/tool.py", "OnlineToolR.online_models", "exp_name"): "Qlib: OnlineToolR",
    ("online/tool.py", "OnlineToolR.reset_online_tag", "exp_name"): "Qlib: OnlineToolR",
    ("online/tool.py", "OnlineToolR.update_online_pred", "exp_name"): "Qlib: OnlineToolR",
    ("rolling.py", "Rolling", "exp_name"): "Qlib: attribute of Rolling",
    ("rolling.py", "Rolling.__init__", "exp_name"): "Qlib: Rolling",
    ("run/pool_trainer.py", "DelayTrainerRM.__init__", "task_pool"): "Qlib: DelayTrainerRM",
    ("run/pool_trainer.py", "TrainerRM", "task_pool"): "Qlib: attribute of TrainerRM",
    ("run/pool_trainer.py", "TrainerRM.__init__", "task_pool"): "Qlib: TrainerRM",
    ("run/worker.py", "run_task", "task_pool"): "Qlib: run_task",
    ("session.py", "SessionOptions", "experiment"): "documented argument of init",
    ("session.py", "SessionOptions", "tracking"): "documented argument of init",
    ("store/manager/__init__.py", "TaskManager", "task_pool"): "Qlib: attribute of TaskManager",
    ("store/manager/__init__.py", "TaskManager.__init__", "task_pool"): "Qlib: TaskManager",
    ("track/recorder.py", "RunReference", "tracking"): "stored format: references in pools and artifacts",
    ("workflow.py", "_ManagerArguments", "default_exp_name"): "Qlib: key of workflow files",
    ("workflow.py", "_QlibInit", "default_exp_name"): "Qlib: key of workflow files",
    ("workflow.py", "_Rollforge", "experiment"): "documented key of workflow files",
    ("workflow.py", "_Rollforge", "store"): "documented key of workflow files",
    ("workflow.py", "_Rollforge", "tracking"): "documented key of workflow files",
    ("workflow.py", "_session", "default_exp_name"): "Qlib: reads that key",
}
"""(file, function or class, name) -> why another name is accepted there; a function may read it once, to pass it on."""

Place = tuple[str, str, str]


def scopes(tree: ast.AST, name: str = "") -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """Every node with the qualified name and the node of the function or class around it."""
    pending = [(child, name, tree) for child in ast.iter_child_nodes(tree)]
    while pending:
        node, around, owner = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            around, owner = f"{around}.{node.name}".lstrip("."), node
        yield around, owner, node
        pending += [(child, around, owner) for child in ast.iter_child_nodes(node)]


def named(node: ast.AST) -> str:
    """The name that a node gives to a function, a class, a parameter, an attribute or a local."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Load):
        return node.attr
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    return ""


def is_text(annotation: ast.expr | None) -> bool:
    return annotation is not None and ast.unparse(annotation).replace(" ", "") in ("str", "str|None", "Path|str")


def texts_named_as_objects(node: ast.AST) -> Iterator[str]:
    """Names of objects that are annotated as text, or assigned from an attribute that is one."""
    if isinstance(node, ast.arg) and node.arg in OBJECTS and is_text(node.annotation):
        yield node.arg
    if isinstance(node, ast.AnnAssign) and named(node.target) in OBJECTS and is_text(node.annotation):
        yield named(node.target)
    if isinstance(node, ast.Assign):
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for one, value in pairs:
                if isinstance(value, ast.Attribute) and OBJECTS.get(named(one)) == value.attr:
                    yield named(one)


def other_names(file: str, code: str) -> dict[Place, int]:
    """Where other names than ours are used -> the line."""
    found: dict[Place, int] = {}
    for around, _, node in scopes(ast.parse(code)):
        name = named(node)
        if name in OTHER_NAMES:
            found.setdefault((file, around, name), getattr(node, "lineno", 0))
        for text in texts_named_as_objects(node):
            found.setdefault((file, around, text), getattr(node, "lineno", 0))
    if Path(file).stem in OTHER_NAMES:
        found[file, "", Path(file).stem] = 1
    return found


def reads_of_parameters(file: str, code: str) -> dict[Place, int]:
    """How often functions read a parameter that has another name than ours."""
    counts: dict[Place, int] = {}
    for around, owner, node in scopes(ast.parse(code)):
        if isinstance(owner, ast.ClassDef | ast.Module):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in OTHER_NAMES:
            place = (file, around, node.id)
            counts[place] = counts.get(place, 0) + 1
    return counts


def sources() -> Iterator[tuple[str, str]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield str(path.relative_to(SOURCE)), path.read_text(encoding="utf-8")


def test_things_have_one_name() -> None:
    """Another name appears only at a boundary that is listed with its reason, and every listed boundary exists."""
    found = {place: line for file, code in sources() for place, line in other_names(file, code).items()}
    other = {**OTHER_NAMES, **OBJECTS}
    advice = [
        f"{file}:{found[file, around, name]}: {name} in {around or 'the module'}; ours is {other[name]}"
        for file, around, name in sorted(found.keys() - BORDERS.keys())
    ]
    assert not advice, "\n".join(advice)
    assert not BORDERS.keys() - found.keys(), "borders that no longer exist"


def test_tests_use_the_same_names() -> None:
    """Names that nothing else requires, such as Qlib's API or a key of a file, do not come back in tests."""
    root = Path(__file__).parent
    qlibs = {name for _, _, name in BORDERS}
    found = {
        place
        for path in sorted(root.rglob("*.py")) if path != Path(__file__)
        for place in other_names(str(path.relative_to(root)), path.read_text(encoding="utf-8"))
        if place[2] in OTHER_NAMES.keys() - qlibs - QLIBS
    }  # fmt: skip
    assert found == set()


def test_a_border_hands_the_value_on_at_once() -> None:
    """A function reads a parameter with Qlib's name at most once."""
    counts = {place: n for file, code in sources() for place, n in reads_of_parameters(file, code).items()}
    assert {place: n for place, n in counts.items() if n > 1} == {}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("def run(task_pool): ...", "task_pool"),
        ("def run(*, n_jobs=1): ...", "n_jobs"),
        ("class A:\n    def f(self):\n        self.exp_name = 1", "exp_name"),
        ("def f(strategy):\n    return strategy.name_id", "name_id"),
        ("def f():\n    pool_name = 1", "pool_name"),
        ("def f(session):\n    for exp_id in session: ...", "exp_id"),
        ("f = lambda tracking: 1", "tracking"),
        ("class Crew: ...", "Crew"),
        ("async def known_pool(): ...", "known_pool"),
        ("def f(store: str): ...", "store"),
        ("def f(experiment: str | None = None): ...", "experiment"),
        ("class A:\n    tracker: str = ''", "tracker"),
        ("def f(session):\n    store = session.store_uri", "store"),
        ("def f(session):\n    a, tracker = 1, session.tracking_uri", "tracker"),
    ],
)
def test_another_name_is_found(code: str, name: str) -> None:
    """As a parameter, an attribute, a local, and as the name of a text."""
    assert [place[2] for place in other_names("planted.py", code)] == [name]


def test_a_file_with_another_name_is_found() -> None:
    assert other_names("run/fitness.py", "") == {("run/fitness.py", "", "fitness"): 1}


@pytest.mark.parametrize(
    "code",
    [
        "def f(pool, jobs, experiment_name, store_uri: str, store: TaskStore | str | None): ...",
        "def f(session):\n    store = open_store(session.store_uri)",
        "TaskManager(task_pool='p')",
    ],
)
def test_our_names_pass(code: str) -> None:
    """An object that may also be given by its name, and keywords of Qlib's functions, are accepted."""
    assert other_names("planted.py", code) == {}
