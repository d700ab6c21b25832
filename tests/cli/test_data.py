"""``rollforge data``: its arguments, and that the commands it suggests work."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from tests.documents.command_line import run

from rollforge.cli.exit_codes import Exit
from rollforge.market.provider import open_provider

WORKFLOW = """
qlib_init: {{provider_uri: "{folder}", region: cn}}
market: &market csi300
task:
  model: {{class: LinearModel, module_path: qlib.contrib.model.linear}}
  dataset:
    class: DatasetH
    module_path: qlib.data.dataset
    kwargs:
      handler:
        class: Alpha158
        module_path: qlib.contrib.data.handler
        kwargs: {{start_time: 2019/1/2, end_time: 20201231, fit_start_time: 2019-01-02, fit_end_time: 2019-06-30,
                  instruments: *market}}
      segments: {{train: [2019/01/02, 2019/06/30], valid: [20190701, 20191231], test: [2020.01.02, 2020-12-31]}}
  record:
    - {{class: SignalRecord, module_path: qlib.workflow.record_temp}}
    - class: PortAnaRecord
      module_path: qlib.workflow.record_temp
      kwargs: {{config: {{strategy: {{class: TopkDropoutStrategy, module_path: qlib.contrib.strategy,
                                    kwargs: {{signal: <PRED>, topk: 2, n_drop: 1}}}},
                        backtest: {{start_time: 2020/01/02, end_time: 20201231, benchmark: SH000300}}}}}}
"""


def test_the_command_suggested_for_a_missing_folder_works(tmp_path: Path) -> None:
    """For a workflow written for Qlib's data, the error contains a command that creates suitable data."""
    folder = tmp_path / "cn data"
    (tmp_path / "w.yaml").write_text(WORKFLOW.format(folder=folder))
    refused = run("plan", str(tmp_path / "w.yaml"))
    assert refused.returncode == Exit.USAGE
    command = refused.stderr.partition("names and days of this file, run: ")[2].strip()
    assert command.startswith("rollforge data demo")
    assert run(*shlex.split(command)[1:], "--instruments", "5").returncode == Exit.DONE
    provider = open_provider(folder)
    assert provider.markets() == ["all", "csi300"]
    assert provider.has("SH000300")
    assert [str(d) for d in provider.calendar()[[0, -1]]] == ["2019-01-02", "2021-01-29"]
    planned = run("plan", str(tmp_path / "w.yaml"))
    assert planned.returncode == Exit.DONE, planned.stderr
    assert "2019-01-02" in planned.stdout


def test_demo_accepts_names_and_dates(tmp_path: Path) -> None:
    """Dates may be spelled in several ways; universes and benchmarks may be repeated or separated by commas."""
    made = run(
        "data", "demo", str(tmp_path / "d"), "--start", "20200102", "--end", "2020/12/31", "--instruments", "6",
        "--universe", "csi300,csi2", "--universe", "mine", "--benchmark", "SH000300", "--benchmark", "SH000905",
        "--code", "sh600519",
    )  # fmt: skip
    assert made.returncode == Exit.DONE, made.stderr
    assert "universes all, csi2, csi300, mine; benchmark SH000300, SH000905" in made.stdout
    provider = open_provider(tmp_path / "d")
    assert [str(d) for d in provider.calendar()[[0, -1]]] == ["2020-01-02", "2020-12-31"]
    assert "SH600519" in provider.instruments("all")
    assert len(provider.instruments("mine")) == len(provider.instruments("csi300")) > len(provider.instruments("csi2"))
    bad = run("data", "demo", str(tmp_path / "e"), "--start", "2020-13-01")
    assert (bad.returncode, bad.stderr) == (
        Exit.USAGE,
        "rollforge: start: '2020-13-01' is not a date: there is no month 13.\n",
    )


def test_import_accepts_column_names(tmp_path: Path) -> None:
    """The message about an unknown column suggests an option with which the table can be imported."""
    (tmp_path / "t.csv").write_text("who;when=;px\nA;2021-03-01;1\nA;2021-03-02;2\n")
    refused = run("data", "import", str(tmp_path / "t.csv"), str(tmp_path / "d"))
    assert refused.returncode == Exit.USAGE
    assert "--column 'NAME=datetime'" in refused.stderr
    made = run(
        "data", "import", str(tmp_path / "t.csv"), str(tmp_path / "d"),
        "--column", "when==datetime", "--column", "who=instrument", "--column", "px=close",
    )  # fmt: skip
    assert made.returncode == Exit.DONE, made.stderr
    assert "1 instrument x 2 days" in made.stdout
    wrong = run("data", "import", str(tmp_path / "t.csv"), str(tmp_path / "e"), "--column", "who")
    assert wrong.returncode == Exit.USAGE
    assert "--column: expected COLUMN=NAME" in wrong.stderr


@pytest.mark.parametrize("given_by", ["option", "environment"])
def test_a_universe_is_imported(tmp_path: Path, small_folder: Path, given_by: str) -> None:
    """The members of an index are added to the given data folder, or to that of the environment."""
    (tmp_path / "index.csv").write_text(
        "code,in_date,out_date\nD0001,20200302,\nD0002,2020/3/2,2020-04-01\nNONE,20200302,\n"
    )
    command, environment = ["data", "universe", f"mine_{given_by}", str(tmp_path / "index.csv")], {}
    if given_by == "option":
        command += ["--data", str(small_folder)]
    else:
        environment = {"ROLLFORGE_DATA": str(small_folder)}
    made = run(*command, env=environment)
    assert made.returncode == Exit.DONE, made.stderr
    assert f"mine_{given_by}: 2 instruments in 2 spans, 2020-03-02 to 2020-12-31, at most 2 on one day" in made.stdout
    assert "left out 1 instrument without data: NONE" in made.stdout
    assert f"mine_{given_by}" in open_provider(small_folder).markets()


def test_a_universe_needs_a_folder(tmp_path: Path) -> None:
    """Without a data folder the message says how to give one."""
    refused = run("data", "universe", "mine", str(tmp_path / "index.csv"), env={"ROLLFORGE_DATA": ""})
    assert refused.returncode == Exit.USAGE
    assert "--data FOLDER" in refused.stderr


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rollforge.market.demo import make_demo

    folder = tmp_path_factory.mktemp("demo") / "data"
    make_demo(folder, instruments=3, start="2020-01-02", end="2020-12-31")
    return folder


def test_append_adds_days_once(tmp_path: Path) -> None:
    """The summary is text or JSON; a second time, there is nothing to append; a dry run changes nothing."""
    rows = [f"A,2021-03-0{day},{10 + day / 10}\n" for day in range(1, 6)]
    (tmp_path / "old.csv").write_text("symbol,date,close\n" + "".join(rows[:3]))
    (tmp_path / "new.csv").write_text("symbol,date,close\n" + "".join(rows[2:]))
    folder, table = str(tmp_path / "d"), str(tmp_path / "new.csv")
    assert run("data", "import", str(tmp_path / "old.csv"), folder).returncode == Exit.DONE
    trial = run("data", "append", table, folder, "--dry-run")
    assert (trial.returncode, "would change: 2 days added, 2021-03-04 to 2021-03-05" in trial.stdout) == (
        Exit.DONE,
        True,
    )
    made = run("data", "append", table, folder, "--json")
    assert made.returncode == Exit.DONE, made.stderr
    found = json.loads(made.stdout)
    assert (found["last"], found["unchanged_rows"], found["changed"]) == ("2021-03-05", 1, True)
    again = run("data", "append", table, folder)
    assert (again.returncode, "nothing to append, the folder ends on 2021-03-05" in again.stdout) == (Exit.DONE, True)
    (tmp_path / "bad.csv").write_text("symbol,date,close\nA,2021-02-01,1\n")
    bad = run("data", "append", str(tmp_path / "bad.csv"), folder)
    assert (bad.returncode, bad.stderr.count("\n")) == (Exit.USAGE, 1)
