"""Without its extras, Rollforge still works, and errors contain the command that installs a missing one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_TOP = {name.lower(): module for module, names in reversed(packages_distributions().items()) for name in names}
MODULES = {**_TOP, "mlflow-skinny": "mlflow", "ruamel.yaml": "ruamel", "pymongo": "pymongo"}
"""Package -> module, if the names differ; the last ones share a module with other packages or have several."""
MODELS = {  # class -> library
    name: kind_library
    for file in sorted((Path(__file__).parents[1] / "src" / "rollforge" / "models").glob("*.py"))
    for kind_library in re.findall(r'^LIBRARY = "(\w+)"$', file.read_text(encoding="utf-8"), re.MULTILINE)
    for name in re.findall(r"^class (\w+)\(Model(?:FT)?\):", file.read_text(encoding="utf-8"), re.MULTILINE)
}
"""The models that need a library; the extra has the same name."""

DRIVER = """
import importlib.abc, json, sys
blocked = set(json.loads(sys.argv[1]))
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from rollforge.cli.main import main
for arguments in json.loads(sys.argv[2]):
    sys.argv = ["rollforge", *arguments]
    print("===", flush=True)
    try:
        main()
    except SystemExit as exc:
        print("---", exc.code, flush=True)
"""


def packages(extra: str) -> list[str]:
    """Return the names of the packages of an extra."""
    listed = [re.split(r"[\[<>=;~! ]", one, maxsplit=1)[0] for one in PROJECT["optional-dependencies"][extra]]
    return [name for name in listed if name != "rollforge"]


def extras() -> list[str]:
    """Return the names of the extras for users."""
    return [e for e in PROJECT["optional-dependencies"] if e not in ("dev", "bench", "all")]


def without(blocked: list[str], commands: list[list[str]], folder: Path, **variables: str) -> list[str]:
    """Return the output of commands when some modules cannot be imported."""
    environment = {**os.environ, "ROLLFORGE_HOME": str(folder / "home"), **variables}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(blocked), json.dumps(commands)],
        capture_output=True, text=True, cwd=folder, env=environment, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return re.split(r"^===\n", done.stdout + done.stderr, flags=re.MULTILINE)


WORKFLOW = """
rollforge: {data: market, tracking: "folder:runs"}
task:
  model: {class: LGBModel, module_path: rollforge.models}
  dataset:
    class: DatasetH
    module_path: rollforge.data
    kwargs:
      handler: {class: Alpha158, module_path: rollforge.data, kwargs: {instruments: all}}
      segments: {train: [2022-01-03, 2022-12-23], valid: [2023-01-06, 2023-06-26], test: [2023-07-03, 2023-12-29]}
"""

REQUIRED = {
    "SklearnModel": "{estimator: {class: Ridge, module_path: sklearn.linear_model}}",
    "TorchModel": "{module: rollforge.models.torch_networks.Net}",
    "TunedModel": "{model: {class: LinearModel, module_path: rollforge.models}, space: {alpha: [0.1, 1.0]}}",
}
"""Arguments without which a model cannot be built."""
COMMANDS: dict[str, tuple[list[str], str]] = {
    "runs of MLflow": (["track", "list", "sqlite:///runs.db"], "mlflow"),
    "runs on a server": (["track", "list", "http://127.0.0.1:9"], "mlflow"),
    "the default tracking store": (["track", "list"], "mlflow"),
    "copying runs": (["track", "copy", "folder:runs", "sqlite:///runs.db"], "mlflow"),
    "a pool in PostgreSQL": (["pool", "--store", "postgresql://127.0.0.1:9/x", "list"], "postgres"),
    "a pool in MongoDB": (["pool", "--store", "mongodb://127.0.0.1:9/x", "list"], "mongodb"),
    "copying a pool": (["pool", "copy", "sqlite:///tasks.db", "postgresql://127.0.0.1:9/x"], "postgres"),
    "a worker of PostgreSQL": (
        ["worker", "-t", "p", "--store", "postgresql://127.0.0.1:9/x", "--no-data", "--tracking", "folder:runs"], "postgres",
    ),
    "a worker that tracks with MLflow": (
        ["worker", "-t", "p", "--store", "sqlite:///tasks.db", "--no-data", "--exit-when-empty"], "mlflow",
    ),
    "a service over HTTP": (["serve", "--ledger", "sqlite:///tasks.db", "http"], "serve"),
    "a workflow that is a template": (["plan", "template.yaml"], "templates"),
    **{f"training with {name}": (["run", f"{name}.yaml", "--jobs", "0"], library) for name, library in MODELS.items()},
}  # fmt: skip


@pytest.mark.slow
def test_every_command_names_a_missing_extra(tmp_path: Path) -> None:
    """There is one message with the command that installs it, and no traceback."""
    from rollforge.market.demo import make_demo
    from rollforge.store.sqlite import SQLiteStore

    make_demo(tmp_path / "market", instruments=20, years=2)
    (tmp_path / "home").mkdir()
    for name in ("tasks.db", "runs.db", "home/mlflow.db"):  # a file that does not exist is an error of its own
        SQLiteStore(f"sqlite:///{tmp_path}/{name}").close()
    for name in MODELS:
        model = f"{name}, kwargs: {REQUIRED[name]}" if name in REQUIRED else name
        (tmp_path / f"{name}.yaml").write_text(WORKFLOW.replace("LGBModel", model))
    (tmp_path / "template.yaml").write_text(WORKFLOW + "# {{ HOME }}\n")
    blocked = sorted({MODULES.get(p, p) for extra in extras() for p in packages(extra)} | {"psycopg_binary", "sklearn"})
    for what, (arguments, extra) in COMMANDS.items():
        said = "".join(without(blocked, [arguments], tmp_path))
        assert f"pip install 'rollforge[{extra}]'" in said, (what, said)
        assert "Traceback" not in said, (what, said)
        assert re.search(r"^--- [27]$", said, re.MULTILINE), (what, said)


@pytest.mark.slow
def test_commands_that_need_no_extra_work_without_any(tmp_path: Path) -> None:
    blocked = sorted({MODULES.get(p, p) for extra in extras() for p in packages(extra)} | {"psycopg_binary", "sklearn"})
    linear = WORKFLOW.replace("LGBModel", "LinearModel")
    (tmp_path / "linear.yaml").write_text(linear + "  record: {class: SignalRecord, module_path: rollforge.record}\n")
    commands = [
        ["--help"], ["data", "demo", "market", "--instruments", "20", "--years", "2"], ["plan", "linear.yaml"],
        ["run", "linear.yaml", "--jobs", "0", "--store", "sqlite:///tasks.db"], ["track", "list", "folder:runs"],
        ["pool", "--store", "sqlite:///tasks.db", "list"], ["cache", "list"],
        ["report", "linear", "--store", "sqlite:///tasks.db", "--tracking", "folder:runs"],
    ]  # fmt: skip
    said = without(blocked, commands, tmp_path, ROLLFORGE_DATA=str(tmp_path / "market"))
    assert "".join(said).count("--- 0") == len(commands), "".join(said)


def test_every_extra_named_in_a_message_exists() -> None:
    source = Path(__file__).parents[1] / "src"
    named = {
        m for f in source.rglob("*.py") for m in re.findall(r"rollforge\[([\w-]+)\]", f.read_text(encoding="utf-8"))
    }
    assert named <= set(PROJECT["optional-dependencies"])
    assert {"mlflow", "lightgbm", "xgboost", "templates", "qlib-scripts"} <= named
