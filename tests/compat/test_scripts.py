"""Scripts that follow Qlib's documentation run unchanged on the import layer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.documents.growing import CODES, DAYS, Market, prices

SCRIPTS = Path(__file__).parent / "scripts"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def market(small_market: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose universes have the names that Qlib's scripts use."""
    folder = tmp_path_factory.mktemp("qlib") / "data"
    shutil.copytree(small_market, folder)
    for name in ("csi300", "csi100", "sp500"):
        shutil.copy(folder / "instruments" / "all.txt", folder / "instruments" / f"{name}.txt")
    return folder


def start(cwd: Path, *arguments: object, **env: str) -> subprocess.Popen[str]:
    """Start ``python -m rollforge.compat.qlib …`` in its own folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "rollforge.compat.qlib", *map(str, arguments)], cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **env},
    )  # fmt: skip


def run(cwd: Path, *arguments: object, **env: str) -> str:
    """Return its output."""
    process = start(cwd, *arguments, **env)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return out


def line(out: str, word: str) -> list[str]:
    """Return the lines that begin with a word, without that word."""
    return [text.removeprefix(word).strip() for text in out.splitlines() if text.startswith(word)]


def check_rolling(out: str) -> None:
    assert line(out, "FILTERED") == ["{'pred': [('LGBModel',)]}"]
    results = line(out, "RESULT")
    assert sorted(r.split()[0] for r in results) == ["LGBModel", "LinearModel"]
    for result in results:
        assert result.endswith("2023-01-02 2023-12-29 True")


def test_rolling_with_a_trainer_of_recorders(market: Path, tmp_path: Path) -> None:
    """Generate, train in this process, and collect with and without a filter."""
    out = run(tmp_path, SCRIPTS / "rolling_task_manager.py", market, "TrainerR")
    check_rolling(out)
    assert line(out, "FINISHED") == ["6 ['begin_task_train']"]


def test_rolling_through_a_pool_with_a_second_worker(market: Path, tmp_path: Path) -> None:
    """The pool is the embedded store; another process runs some of its tasks; the manage module reads it."""
    helper = tmp_path / "helper.py"
    helper.write_text(
        "import sys, time\n"
        f"sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "import qlib\n"
        "from qlib.workflow.task.manage import TaskManager, run_task\n"
        "from qlib.model.trainer import task_train\n"
        "if __name__ == '__main__':\n"
        "    qlib.init(provider_uri=sys.argv[1], region='cn')\n"
        "    while not TaskManager('rolling_task').task_stat().get('waiting'):\n"
        "        time.sleep(0.05)\n"
        "    print('HELPED', run_task(task_train, 'rolling_task', experiment_name='rolling_exp'))\n"
    )
    second = start(tmp_path, helper, market)
    out = run(tmp_path, SCRIPTS / "rolling_task_manager.py", market, "TrainerRM")
    helped, err = second.communicate(timeout=120)
    assert second.returncode == 0, err[-2000:]
    check_rolling(out)
    assert line(helped, "HELPED") == ["True"]
    assert '{"done": 6}' in run(tmp_path, "-m", "qlib.workflow.task.manage", "-t", "rolling_task", "task_stat")


def test_rolling_through_mongodb(market: Path, mongodb: str, tmp_path: Path) -> None:
    """``qlib.init(mongo=…)`` keeps the pool in MongoDB."""
    out = run(tmp_path, SCRIPTS / "rolling_task_manager.py", market, "TrainerRM", mongodb + "/")
    check_rolling(out)
    assert not (tmp_path / ".rollforge" / "tasks.db").exists()
    store = f"{mongodb}/rolling_db"
    stat = run(tmp_path, "-m", "qlib.workflow.task.manage", "--store", store, "-t", "rolling_task", "task_stat")
    assert '{"done": 6}' in stat


def test_a_workflow_by_code(market: Path, tmp_path: Path) -> None:
    """Fit, signal, analysis and backtest with R."""
    out = run(tmp_path, SCRIPTS / "workflow_by_code.py", market)
    assert line(out, "HEAD")[0].endswith("159)")
    (pred,) = line(out, "PRED")
    assert "FINISHED" in pred
    assert "annualized_return" in pred
    assert "max_drawdown" in pred


def test_data_expressions_kept_objects_and_a_short_backtest(market: Path, tmp_path: Path) -> None:
    """Star imports, filters, expressions in code, pickled handlers and datasets, and both forms of a daily backtest."""
    out = run(tmp_path, SCRIPTS / "data_and_backtest.py", market)
    assert line(out, "CODES") == ["9 D0001"]
    assert line(out, "FIELDS") == [
        "['Div($high,$close)', 'Sub(Mean($close,3),1)', 'Div(Mul(Add($high,$close),2),$close)'] True"
    ]
    assert line(out, "LOADED") == ["[('feature', 'EMA'), ('label', 'NEXT')]"]
    assert line(out, "KEPT") == ["True True"]
    assert line(out, "RISK") == ["5 True True True"]


def test_windows_over_data_that_are_computed_once(market: Path, tmp_path: Path) -> None:
    """A dataset moved from window to window equals one created for the window, including its fit windows."""
    out = run(tmp_path, SCRIPTS / "rolling_data.py", market)
    assert line(out, "WINDOW") == ["0 159 True", "1 159 True", "2 159 True"]


@pytest.mark.parametrize("trainer", ["TrainerR", "DelayTrainerRM"])
def test_models_kept_online(trainer: str, market: Path, tmp_path: Path) -> None:
    """After the first training and the routine of a later day, new windows are trained, online, and predicted to the
    last day."""
    out = run(tmp_path, SCRIPTS / "rolling_online.py", market, trainer)
    (collected,) = line(out, "COLLECTED")
    assert collected.startswith("('LGBModel', 'pred')")
    (routine,) = line(out, "ROUTINE")
    new, _, online, *_ = routine.split()
    assert int(new) >= 2
    assert int(online) >= 1
    assert routine.endswith("2023-12-29 True")


def test_models_are_updated_as_in_the_earlier_documentation(tmp_path: Path) -> None:
    """``ModelUpdater`` predicts added days; once the last window is full, the script trains the one that follows."""
    market = Market(tmp_path / "data", prices())

    def after(last: int, *command: str) -> tuple[list[str], list[str], bool]:
        market.show(DAYS[last])
        out = run(tmp_path, SCRIPTS / "updating.py", market.folder, *command)
        return line(out, "ONLINE"), line(out, "WINDOW"), "RETRAINED" in out

    def online(first: int, last: int) -> list[str]:
        return [f"{DAYS[first]} {DAYS[last]} predicts {DAYS[first]} {DAYS[last]}"]

    def window(first: int, last: int) -> str:
        return f"{DAYS[first]} {DAYS[last]} {len(CODES) * (last + 1 - first)}"

    full = [window(52, 55), window(56, 59)]
    first = after(61, "first_run", DAYS[10], DAYS[51], DAYS[52])
    assert first == (online(60, 61), [*full, window(60, 61)], False)
    again = [window(60, 63), window(60, 66), window(64, 66)]  # the window that was open when it was trained, twice
    assert after(66, "every_day") == (online(64, 66), [*full, *again], True)


def test_a_script_may_import_the_layer_itself(market: Path, tmp_path: Path) -> None:
    """A script does so by ``import rollforge.compat.qlib`` before ``import qlib``, and in the processes that it
    starts."""
    script = tmp_path / "mine.py"
    script.write_text(
        "import rollforge.compat.qlib\n"
        "import subprocess, sys\n"
        "import qlib\n"
        "from qlib.config import C\n"
        "from qlib.data import D\n"
        f"qlib.init(provider_uri={str(market)!r}, region='us')\n"
        "print('DAYS', len(D.calendar()), C['provider_uri']['day'], C.region)\n"
        "C['mongo'] = {'task_url': 'mongodb://host:1/', 'task_db_name': 'db'}\n"
        "from rollforge.session import current_session\n"
        "print('STORE', current_session().store_uri, C.region)\n"
        "subprocess.run([sys.executable, '-c', 'import qlib; print(\"CHILD\", qlib.__version__)'], check=True)\n"
    )
    out = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert line(out, "DAYS")[0].endswith(f"{market} us")
    assert line(out, "STORE") == ["mongodb://host:1/db us"]
    assert line(out, "CHILD") == ["0.9.7"]


def test_an_error_is_one_line(tmp_path: Path) -> None:
    """One line is printed for a missing script, a workflow file instead of a script, and a missing pool."""
    process = start(tmp_path, "nothing.py")
    assert "there is no script" in process.communicate(timeout=60)[1]
    assert process.returncode == 2
    (tmp_path / "flow.yaml").write_text("task: {}\n")
    process = start(tmp_path, "flow.yaml")
    assert "'qrun flow.yaml' runs it" in process.communicate(timeout=60)[1]
    assert process.returncode == 2
    process = start(tmp_path, "-m", "qlib.workflow.task.manage", "-t", "nothing", "task_stat")
    assert "tasks.db does not exist" in process.communicate(timeout=60)[1]
    assert process.returncode == 2
