"""Qlib's commands and scripts on a command line: ``qrun``, ``python -m qlib…``, Python Fire, ``--store``, and their
output.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rollforge.compat.qlib.commands import arguments
from rollforge.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def market(small_market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for workflow files, with the market."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "market").symlink_to(small_market)
    return folder


def workflow(folder: Path, *, name: str = "conf.yaml", **more: object) -> Path:
    """Write a small workflow in Qlib's format, with a backtest among its records."""
    backtest = {"start_time": "2023-04-03", "end_time": "2023-09-15", "account": 1e8, "benchmark": "DEMO_INDEX"}
    strategy = {
        "class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy",
        "kwargs": {"signal": "<PRED>", "topk": 5, "n_drop": 1},
    }  # fmt: skip
    loader = {
        "feature": [["$close/$open", "Ref($close,5)/$close"], ["A", "B"]],
        "label": [["Ref($close,-2)/Ref($close,-1)-1"], ["L"]],
    }
    handler = {
        "instruments": "demo100", "start_time": "2022-01-03", "end_time": "2023-10-31",
        "data_loader": {"class": "QlibDataLoader", "kwargs": {"config": loader}},
    }  # fmt: skip
    records = "qlib.workflow.record_temp"
    document = {
        "qlib_init": {"provider_uri": str(folder / "market"), "region": "us"},
        "task": {
            "model": {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": {"num_boost_round": 4}},
            "dataset": {
                "class": "DatasetH",
                "module_path": "qlib.data.dataset",
                "kwargs": {
                    "handler": {"class": "DataHandlerLP", "module_path": "qlib.data.dataset.handler", "kwargs": handler},
                    "segments": {
                        "train": ["2022-02-01", "2022-12-30"],
                        "valid": ["2023-01-02", "2023-03-31"],
                        "test": ["2023-04-03", "2023-09-29"],
                    },
                },
            },
            "record": [
                {"class": "SignalRecord", "module_path": records},
                {"class": "SigAnaRecord", "module_path": records},
                {
                    "class": "PortAnaRecord", "module_path": records,
                    "kwargs": {"config": {"strategy": strategy, "backtest": backtest}},
                },
            ],
        },
        **more,
    }  # fmt: skip
    file = folder / name
    file.write_text(yaml.safe_dump(document))
    return file


def run(cwd: Path, *command: object, code: int = 0, **env: str) -> tuple[str, str]:
    """Return what a Python command writes to standard output and standard error."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, env={**os.environ, **env}, timeout=240
    )  # fmt: skip
    assert done.returncode == code, f"{done.returncode}: {done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done.stdout, done.stderr


QRUN = ("-c", "from rollforge.compat.qlib.commands import qrun; qrun()")
LAYER = ("-m", "rollforge.compat.qlib")


def test_qrun_trains_once_and_prints_the_results(market: Path, tmp_path: Path) -> None:
    """Predictions, metrics and risk tables on standard output, progress on standard error; the run is stored as
    requested.
    """
    file = workflow(market)
    out, err = run(tmp_path, *QRUN, file, "my experiment", "runs")
    assert "prediction results of the LGBModel model" in out
    for word in ("'IC': ", "'Rank ICIR': ", "benchmark return(1day)", "excess return without cost(1day)"):
        assert word in out
    for word in ("excess return with cost(1day)", "annualized_return", "information_ratio", "indicators(1day)", "ffr"):
        assert word in out
    assert "rows of" in err  # the computed panel
    assert (tmp_path / "runs").is_dir()
    script = (
        "import qlib\n"
        f"qlib.init(exp_manager={{'kwargs': {{'uri': 'file:{tmp_path / 'runs'}'}}}})\n"
        "from qlib.workflow import R\n"
        "(run,) = R.list_recorders(experiment_name='my experiment').values()\n"
        "print(run.status, 'Rank ICIR' in run.list_metrics(), run.load_object('config')['task']['model']['class'])\n"
    )
    (tmp_path / "look.py").write_text(script)
    assert run(tmp_path, *LAYER, "look.py")[0].splitlines() == ["FINISHED True LGBModel"]
    # Each call is a separate run, as in Qlib; the default experiment is 'workflow'.
    run(tmp_path, *QRUN, "--config_path", file, "--uri_folder=runs")
    listed = script.replace("(run,) =", "found =").replace("my experiment", "workflow").splitlines()[:-1]
    (tmp_path / "look.py").write_text("\n".join([*listed, "print(len(found))"]))
    assert run(tmp_path, *LAYER, "look.py")[0].split() == ["1"]


@pytest.mark.parametrize(
    ("sections", "tasks"),
    [
        ({"rolling": {"step": 70}}, 2),
        ({"generate": [{"CalendarGen": {"retrain": "quarter", "train": 120}}, {"SeedGen": {"seeds": 2}}]}, 4),
    ],
    ids=["rolling", "generate"],
)
def test_qrun_of_a_file_with_windows_trains_them_all(
    sections: dict[str, object], tasks: int, market: Path, tmp_path: Path
) -> None:
    """``qrun`` does what ``rollforge run`` does: windows, models and a report, in the file's experiment."""
    file = workflow(market, name="rolled.yaml", experiment_name="named", **sections)
    out, _ = run(tmp_path, *LAYER, "-m", "qlib.workflow.cli", file, "other")
    assert f"{tasks} of {tasks} done" in out
    for name in ("report.html", "prediction.parquet"):
        assert (tmp_path / "results" / "named" / name).is_file()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nothing.yaml"], "There is no workflow file 'nothing.yaml'"),
        (["--conf_path", "x"], "unknown option '--conf_path'. Did you mean 'config_path'?"),
        (["a", "b", "c", "d"], "unexpected argument 'd'"),
        (["--config_path"], "the option --config_path needs a value"),
    ],
)
def test_an_error_in_qruns_arguments_is_a_message(given: list[str], said: str, tmp_path: Path) -> None:
    """The exit code is 2, and there is no traceback."""
    _, err = run(tmp_path, *QRUN, *given, code=2)
    assert said in err
    assert "Traceback" not in err


def test_arguments_are_read_as_python_fire_reads_them() -> None:
    """Positional and by name, with dashes or underscores in names; values keep their dashes."""
    names = ["config_path", "experiment_name", "uri_folder"]
    assert arguments(["--uri-folder=a-b=c", "x.yaml", "name"], names) == {
        "config_path": "x.yaml", "experiment_name": "name", "uri_folder": "a-b=c",
    }  # fmt: skip
    assert arguments(["--experiment_name", "--name", "x"], names) == {"config_path": "x", "experiment_name": "--name"}
    with pytest.raises(ConfigError, match="needs a value"):
        arguments(["--uri_folder="], names)


def test_the_rolling_command(market: Path, tmp_path: Path) -> None:
    """``python -m qlib.contrib.rolling base --conf_path … run``, with the data of the file's own ``qlib_init``."""
    pytest.importorskip("fire", reason="pip install 'rollforge[qlib-scripts]'")
    file = workflow(market)
    command = [
        "--conf_path",
        file,
        "--horizon",
        "1",
        "--step",
        "70",
        "--exp_name",
        "joined",
        "--train_start",
        "20220301",
    ]
    out, err = run(tmp_path, *LAYER, "-m", "qlib.contrib.rolling", "base", *command, "run")
    assert out.count("prediction results") == 2
    assert "excess return with cost(1day)" in out
    assert "task 2 of 2 (LGBModel, test 2023-07-10 to 2023-10-13) finished in" in err
    # The windows of one task, with the class's own command; options may follow the method.
    out, _ = run(tmp_path, *LAYER, "-m", "qlib.contrib.rolling.base", "get_task_list", *command)
    assert out.count("'train'") == 2


def test_a_child_process_runs_qlibs_programs_alike(market: Path, tmp_path: Path) -> None:
    """Rollforge's programs also run if a script starts ``python -m qlib…``."""
    (tmp_path / "parent.py").write_text(
        "import subprocess, sys\n"
        "sys.exit(subprocess.run([sys.executable, '-m', 'qlib.contrib.rolling', 'ddgda', 'run']).returncode)\n"
    )
    _, err = run(tmp_path, *LAYER, "parent.py", code=2)
    assert "DDG-DA is not supported" in err
    assert "Traceback" not in err


FIRE = """
import fire
import qlib
from qlib.workflow.task.manage import TaskManager


class Example:
    def __init__(self, provider_uri, task_url="mongodb://10.255.255.1:27017/", task_db_name="db", pool="pool"):
        qlib.init(provider_uri=provider_uri, region="us", mongo={"task_url": task_url, "task_db_name": task_db_name})
        self.pool = pool

    def main(self, times=1):
        manager = TaskManager(task_pool=self.pool)
        manager.create_task([{"n": i} for i in range(times)])
        print("STAT", manager.task_stat())


if __name__ == "__main__":
    fire.Fire(Example)
"""


@pytest.mark.parametrize("how", ["--store", "--store=", "ROLLFORGE_STORE"])
def test_the_store_of_a_script_with_a_remote_mongodb_can_be_replaced(how: str, market: Path, tmp_path: Path) -> None:
    """An option or environment variable replaces it, with a message; Qlib's own command then uses the same store."""
    pytest.importorskip("fire", reason="pip install 'rollforge[qlib-scripts]'")
    (tmp_path / "pool.py").write_text(FIRE)
    store = "sqlite:///mine.db"
    option = {"--store": ["--store", store], "--store=": [f"--store={store}"], "ROLLFORGE_STORE": []}[how]
    env = {} if option else {"ROLLFORGE_STORE": store}
    out, err = run(
        tmp_path, *LAYER, *option, "pool.py", "main", "--provider_uri", market / "market", "--times=3", **env
    )
    assert "STAT" in out
    assert "'waiting'>: 3" in out
    assert "tasks are kept in sqlite:///mine.db (ROLLFORGE_STORE), not in mongodb://10.255.255.1:27017/db" in err
    assert (tmp_path / "mine.db").is_file()
    out, _ = run(tmp_path, *LAYER, *option, "-m", "qlib.workflow.task.manage", "-t", "pool", "task_stat", **env)
    assert '"waiting": 3' in out


def test_an_unreachable_server_is_a_message_with_advice(market: Path, tmp_path: Path) -> None:
    """The line of the script, the unreachable address, and ``--store``, without a traceback."""
    pytest.importorskip("fire", reason="pip install 'rollforge[qlib-scripts]'")
    (tmp_path / "pool.py").write_text(FIRE)
    where = ["--provider_uri", market / "market", "--task_url", "mongodb://localhost:1/?serverSelectionTimeoutMS=200"]
    _, err = run(tmp_path, *LAYER, "pool.py", "main", *where, code=2)
    assert "pool.py, line 13, in main: manager = TaskManager(task_pool=self.pool)" in err or "in main" in err
    assert "mongodb://localhost:1/db" in err
    assert "--store sqlite:///tasks.db" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--store", "nowhere", "script.py"], "--store needs the URI of a task store"),
        (["--store"], "--store needs the URI"),
        (["--stroe", "x", "script.py"], "unknown option '--stroe'"),
        (["-m"], "usage: python -m rollforge.compat.qlib"),
        (["-m", "qlib.no_such"], "has no 'no_such'"),
        (["-m", "no_such.module"], "there is no module 'no_such.module'"),
    ],
)
def test_an_error_in_the_options_is_a_message(given: list[str], said: str, tmp_path: Path) -> None:
    """The exit code is 2."""
    (tmp_path / "script.py").write_text("print('ran')\n")
    out, err = run(tmp_path, *LAYER, *given, code=2)
    assert said in err
    assert out == ""


def test_log_lines_of_a_script_are_shown_unless_it_asks_for_fewer(market: Path, tmp_path: Path) -> None:
    """``get_module_logger(…).info`` is written to standard error once, in Qlib's format; ``logging_level`` is
    respected.
    """
    (tmp_path / "log.py").write_text(
        "import logging, sys, qlib\n"
        "from qlib.log import get_module_logger\n"
        "if sys.argv[1] == 'own':\n"
        "    logging.basicConfig(level=logging.INFO, format='OWN %(message)s')\n"
        f"for _ in range(2):\n    qlib.init(provider_uri={str(market / 'market')!r}, region='us',"
        " logging_level=logging.ERROR if sys.argv[1] == 'quiet' else logging.INFO)\n"
        "get_module_logger('workflow').info('the words')\n"
    )
    lines = {
        how: [x for x in run(tmp_path, *LAYER, "log.py", how)[1].splitlines() if "the words" in x]
        for how in ("plain", "quiet", "own")
    }
    (line,) = lines["plain"]
    assert line.endswith("INFO - qlib.workflow - [log.py:7] - the words")
    assert lines["quiet"] == []
    assert lines["own"] == ["OWN the words"]
