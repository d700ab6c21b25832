"""Classes of a notebook are sent to the worker processes that it starts; those of a script are imported there."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from rollforge.run.interactive import define_in_main, main_classes
from rollforge.task import encode

TASK = {
    "model": {"class": "Mine", "module_path": "__main__", "kwargs": {"inner": [{"class": "__main__.Inner"}]}},
    "dataset": {"class": "Other", "module_path": "other_module"},
}
CODE = """
class Mine:
    value = 3

class Inner: pass

class Other: pass

def function(): pass

from pathlib import Path as Imported
"""


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module ``__main__`` of a notebook, which has no file."""
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    exec(CODE, vars(module))
    return module


def test_classes_that_a_task_names_are_defined_in_the_other_process(
    notebook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the classes of the notebook that the definition names are sent, at any depth and in both forms."""
    blob = main_classes(encode(TASK))
    process = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", process)
    define_in_main(blob)
    defined = {name for name in vars(process) if not name.startswith("__")}
    assert defined == {"Mine", "Inner"}
    assert process.Mine.value == 3


def test_a_task_that_refers_to_a_recorder_gets_all_classes(
    notebook: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task in the recorder may name any class of the notebook; functions and imported classes are not sent."""
    blob = main_classes('{"recorder":{"id":"1"}}')
    process = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", process)
    define_in_main(blob)
    assert {name for name in vars(process) if not name.startswith("__")} == {"Mine", "Inner", "Other"}


@pytest.mark.parametrize(
    "task",
    [
        {"x": 1},
        {"model": {"class": "Missing", "module_path": "__main__"}},
        {"model": {"class": "function", "module_path": "__main__"}},
    ],
)
def test_a_task_that_names_no_class_of_the_notebook_needs_nothing(
    task: dict[str, object], notebook: ModuleType
) -> None:
    """Nothing is sent for a task without such a class."""
    assert main_classes(encode(task)) is None
    define_in_main(None)


def test_a_script_sends_nothing(notebook: ModuleType) -> None:
    """A worker process imports the script of its parent."""
    notebook.__file__ = "script.py"
    assert main_classes(encode(TASK)) is None
