"""Qlib's names: one table, errors that give the reason, and pyqlib for names that Rollforge does not have."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rollforge.qlib_imports import NotCovered, load, names_of, target, why_not
from rollforge.qlib_names import MODULES, NOT_COVERED, REASONS

ROOT = Path(__file__).parents[2]


def run(code: str, cwd: Path, *path: Path) -> str:
    """Return the output of a separate program, with some folders on its path."""
    places = os.pathsep.join([*map(str, path), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=cwd, text=True, timeout=120, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": places},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write a package of some files."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
    return folder


@pytest.fixture
def pyqlib(tmp_path: Path) -> Path:
    """A fake pyqlib: some of its modules have names that the table has, some do not."""
    return write(
        tmp_path / "site",
        {
            "qlib/__init__.py": "__version__ = '9.9'\nraise AssertionError('the package itself is ours')\n",
            "qlib/data/__init__.py": "",
            "qlib/data/dataset/__init__.py": """
                from ...utils import init_instance_by_config
                from .handler import DataHandlerLP, Curious
                class Dataset: ...
                class DatasetH(Dataset): ...
                class OtherDatasetH(DatasetH):
                    def of(self):
                        return [c.__module__ for c in type(self).__mro__[:2]], DataHandlerLP.__module__
                """,
            "qlib/data/dataset/handler.py": """
                class DataHandlerLP: ...
                class Curious(DataHandlerLP): ...
                """,
            "qlib/contrib/model/__init__.py": "",
            "qlib/contrib/model/pytorch_made_up.py": """
                from ...model.base import Model
                from ...data.dataset import OtherDatasetH
                class Net(Model):
                    def fit(self, dataset): ...
                    def predict(self, dataset): ...
                """,
            "qlib/utils/__init__.py": "",
            "qlib/utils/paral.py": "import a_package_that_is_not_there\n",
        },
    )


def test_every_entry_of_the_table_exists(tmp_path: Path) -> None:
    """A name with a location in the table can be imported from Qlib's module and from ours.

    Where PyTorch is not installed, importing its modules says how to install it.
    """
    out = run(
        """
        import rollforge.compat.qlib, importlib, importlib.util
        from rollforge.errors import MissingDependency
        torch = importlib.util.find_spec("torch")
        from rollforge.qlib_names import MODULES
        from rollforge.qlib_imports import names_of, target
        for module in MODULES:
            here = importlib.import_module(module)
            for name in names_of(module):
                where, _, ours = target(module, name).partition(":")
                try:
                    assert hasattr(here, name) and hasattr(importlib.import_module(where), ours), (module, name)
                except MissingDependency as exc:
                    assert not torch and str(exc).endswith("pip install 'rollforge[torch]'"), exc
        print("ALL")
        """,
        tmp_path,
    )
    assert out == "ALL\n"


def test_the_table_is_consistent() -> None:
    """A name occurs once in its module, under an existing source; names from another module exist there."""
    for module, sources in MODULES.items():
        names = [text.partition("=")[0] for text in " ".join(sources.values()).split()]
        assert len(names) == len(set(names)), module
        for source in sources:
            assert source == "also" or source in REASONS or "." in source or source == "typing", (module, source)
        for text in sources.get("also", "").split():
            name, _, path = text.partition("=")
            assert path in MODULES or target(module, name) or " is not covered: " in why_not(module, name), (
                module,
                text,
            )
    assert set(NOT_COVERED.values()) <= set(REASONS)
    assert not [m for m in MODULES if any(m == n or m.startswith(f"{n}.") for n in NOT_COVERED)]


def test_the_page_has_the_table() -> None:
    """docs/compat.md is what the generator writes from it."""
    out = run("from rollforge.compat.qlib.coverage import covered; print(covered(), end='')", ROOT)
    page = (ROOT / "docs" / "compat.md").read_text(encoding="utf-8")
    assert page.endswith(out), "run: python -m rollforge.compat.qlib.coverage"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("import qlib.rl.trainer", "qlib.rl is not covered: reinforcement learning is not supported"),
        (
            "from qlib.contrib.torch import data_to_tensor",
            "qlib.contrib.torch is not covered: it needs PyTorch",
        ),
        (
            "from qlib.contrib.meta import DataSelection",
            "qlib.contrib.meta is not covered: it needs PyTorch",
        ),
        ("from qlib.data import ClientProvider", "there is no data server"),
        ("from qlib.data import NotThere", "Qlib's module qlib.data has no 'NotThere'"),
        ("from qlib.data.filter import NameDFiltr", "Did you mean 'NameDFilter'?"),
        ("from qlib.workflow.task import colect", "qlib.workflow.task has no 'colect'"),
        ("import qlib.workflow.tusk", "Did you mean 'task'?"),
    ],
)
def test_errors_for_missing_names_give_the_reason(statement: str, said: str, tmp_path: Path) -> None:
    """One ImportError with the name, the reason, and where to look; it is a ModuleNotFoundError, which scripts catch."""
    out = run(
        f"""
        import rollforge.compat.qlib
        try:
            {statement}
        except ModuleNotFoundError as exc:
            print(exc)
        """,
        tmp_path,
    )
    assert said in out
    assert "docs/compat.md" in out


def test_missing_attributes_of_a_module(tmp_path: Path) -> None:
    """``hasattr`` and ``getattr`` with a default work; ``dir`` and ``import *`` have the existing names."""
    out = run(
        """
        import rollforge.compat.qlib
        import qlib.data.filter as module, qlib.constant
        print(hasattr(module, "nothing"), getattr(module, "nothing", 7), hasattr(module, "__wrapped__"))
        print("NameDFilter" in dir(module))
        from qlib.constant import *
        print(REG_CN)
        """,
        tmp_path,
    )
    assert out.split("\n")[:3] == ["False 7 False", "True", "cn"]


def test_a_function_with_the_name_of_a_module(tmp_path: Path) -> None:
    """``qlib.backtest.backtest`` is a function and a module, as in Qlib, in whatever order they are imported."""
    out = run(
        """
        import rollforge.compat.qlib
        import sys, qlib.backtest.backtest
        from qlib.backtest import backtest
        print(backtest.__module__, sys.modules["qlib.backtest.backtest"].__name__)
        """,
        tmp_path,
    )
    assert out == "rollforge.record.backtest qlib.backtest.backtest\n"


def test_missing_names_come_from_pyqlib(tmp_path: Path, pyqlib: Path) -> None:
    """The code of pyqlib runs on top of ours: pyqlib's classes derive from ours, and import ours."""
    out = run(
        """
        import rollforge.compat.qlib
        from qlib.data.dataset import OtherDatasetH, DatasetH
        print(OtherDatasetH.of(object.__new__(OtherDatasetH)))
        print(issubclass(OtherDatasetH, DatasetH), DatasetH.__module__)
        from qlib.data.dataset.handler import Curious, DataHandlerLP
        print(Curious.__mro__[1] is DataHandlerLP)
        from qlib.contrib.model.pytorch_made_up import Net
        print(Net.__mro__[1].__module__)
        import pickle
        print(pickle.loads(pickle.dumps(OtherDatasetH)) is OtherDatasetH)
        """,
        tmp_path, pyqlib,
    )  # fmt: skip
    assert out.splitlines() == [
        "(['qlib.data.dataset', 'rollforge.features.dataset'], 'rollforge.features.handler')",
        "True rollforge.features.dataset",
        "True",
        "rollforge.models.base",
        "True",
    ]


def test_a_task_names_classes_of_pyqlib(tmp_path: Path, pyqlib: Path) -> None:
    """``module_path`` is looked up in the same order: first the table, then pyqlib on top of ours."""
    out = run(
        """
        from rollforge.build import locate
        print(locate("OtherDatasetH", "qlib.data.dataset").__mro__[1].__module__)
        print(locate("Net", "qlib.contrib.model.pytorch_made_up").__mro__[1].__module__)
        """,
        tmp_path, pyqlib,
    )  # fmt: skip
    assert out.split() == ["rollforge.features.dataset", "rollforge.models.base"]


def test_names_in_neither_are_errors(tmp_path: Path, pyqlib: Path) -> None:
    """An error is raised for a name that the installed pyqlib lacks, and for a module of pyqlib's with a missing
    dependency."""
    out = run(
        """
        import rollforge.compat.qlib
        for statement in (
            "from qlib.data.dataset.handler import DATA_KEY_TYPE_", "import qlib.rl",
            "from qlib.utils.paral import AsyncCaller",
        ):
            try:
                exec(statement)
            except ImportError as exc:
                print(exc)
        from qlib.utils.paral import call_in_subproc  # what is ours does not need pyqlib's
        """,
        tmp_path, pyqlib,
    )  # fmt: skip
    first, second, third = out.splitlines()
    assert "Qlib's module qlib.data.dataset.handler has no 'DATA_KEY_TYPE_'" in first
    assert "and the installed pyqlib does not have it" in second
    assert third == (
        "pyqlib's own module qlib.utils.paral does not run on top of Rollforge: ModuleNotFoundError: No module named "
        "'a_package_that_is_not_there'"
    )


def test_a_program_that_has_imported_pyqlib_keeps_it(tmp_path: Path) -> None:
    """Tasks still find our classes; the import layer is refused, because a part of the program would use another Qlib."""
    site = write(tmp_path / "site", {"qlib/__init__.py": "", "qlib/mine.py": "class Thing: ...\n"})
    out = run(
        """
        import qlib
        from rollforge.build import locate
        print(locate("LGBModel", "qlib.contrib.model.gbdt").__module__, locate("Thing", "qlib.mine").__module__)
        try:
            import rollforge.compat.qlib
        except ImportError as exc:
            print(exc)
        """,
        tmp_path, site,
    )  # fmt: skip
    first, second = out.splitlines()
    assert first == "rollforge.models.lightgbm qlib.mine"
    assert second == "Import rollforge.compat.qlib before qlib: pyqlib itself has already been imported."


def test_loading_by_name_gives_the_reason() -> None:
    """Building a task raises the same error."""
    assert load("qlib.contrib.eva.alpha", "calc_ic").__module__ == "rollforge.record.analysis"
    assert "calc_ic" in names_of("qlib.workflow.record_temp")  # imported by Qlib's module from another one
    with pytest.raises(NotCovered, match="it needs PyTorch, and Rollforge uses PyTorch for models only"):
        load("qlib.contrib.meta", "DataSelection")
