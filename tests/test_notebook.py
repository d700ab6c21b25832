"""Notebooks: what a cell shows for an object, and the progress of a training, in a real kernel where one is installed."""

from __future__ import annotations

import ast
import json
import os
import pickle
import signal
import threading
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

import rollforge
from rollforge import TaskManager, TrainerR, TrainerRM
from rollforge.errors import TrainingFailed
from rollforge.notebook import ROWS, in_notebook, summary, table
from rollforge.run.job import Event
from rollforge.run.progress import NotebookProgress
from rollforge.session import Session
from rollforge.track.base import get_experiment, open_tracker
from rollforge.walk_forward import WalkForward, walk_forward

KERNEL = "needs a notebook's kernel: pip install 'rollforge[frames]'"


class FailsInTheFirstWindow(Ridge):
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> FailsInTheFirstWindow:  # noqa: N803 - scikit-learn's name
        if float(X.iloc[0, 0]) == 0.125:
            raise ValueError("<b>the first window</b>")
        super().fit(X, y, sample_weight)
        return self


def frame() -> pd.DataFrame:
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2020-01-01", "2020-12-31"), list("ABCDE")], names=["day", "store"]
    )
    made = pd.DataFrame(np.random.default_rng(0).normal(size=(len(index), 2)), index, ["a", "y"])
    made.iloc[0, 0] = 0.125
    return made


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / "home"))
    return Session(tracking_uri=f"folder:{tmp_path}/runs", store_uri=f"sqlite:///{tmp_path}/tasks.db", threads=1)


@pytest.fixture
def result(session: Session) -> WalkForward:
    """Three windows, of which the first failed."""
    return walk_forward(
        FailsInTheFirstWindow(), frame(), label="y", train="3 months", step="quarter", jobs=0, session=session,
        allow_gaps=True, experiment_name="<sales>",
    )  # fmt: skip


def shown(value: Any) -> str:
    return str(value._repr_html_())


class Rows(HTMLParser):
    """Reads the cells of all tables."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.cell = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
        self.cell = tag == "td"

    def handle_data(self, data: str) -> None:
        if self.cell:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.cell = False


def texts(html: str) -> list[list[str]]:
    """Return the cells of all tables, without the columns' names."""
    reader = Rows()
    reader.feed(html)
    return [row for row in reader.rows if row]


# -- objects -----------------------------------------------------------------------------------------------------------


def test_a_result_shows_its_metrics_and_its_windows(result: WalkForward) -> None:
    """The numbers are those of its attributes, a failed window has none, and names are escaped."""
    html = shown(result)
    assert "&lt;sales&gt;" in html
    assert "<sales>" not in html
    assert f"{result.metrics['ic']:.4g}" in html
    assert "failed" in html
    assert "Warning: " in html
    assert repr(result) == "<WalkForward '<sales>': 3 windows>"


def test_a_collected_result_shows_each_window(result: WalkForward) -> None:
    """With the metrics that its run recorded."""
    html = shown(result.collected)
    assert "failed: 1" in html
    assert "done: 2" in html
    rows = texts(html)
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [row[2] for row in rows] == ["failed", "done", "done"]
    for row, outcome in zip(rows, result.collected.outcomes, strict=True):
        metrics = result.collected.runs[outcome.recorder.id].metrics if outcome.recorder else {}
        assert row[3] == (f"{metrics['IC']:.4g}" if "IC" in metrics else "")
    assert repr(result.collected).startswith("<Collected: 2 of 3 tasks done, ")


def test_a_plan_shows_its_windows_and_warnings(result: WalkForward) -> None:
    """Each segment with its first and last day; a table of windows alone shows the same."""
    rows = texts(shown(result.plan))
    assert rows[0][1:] == [str(result.plan.windows[0].segments[name]) for name in ("train", "test")]
    assert texts(shown(result.plan.schedule)) == rows
    assert repr(result.plan) == "<Plan of '<sales>': 3 tasks>"


def test_a_pool_and_a_store_show_how_many_tasks_they_have(result: WalkForward) -> None:
    html = shown(TaskManager("<sales>", session=result.session))
    assert "done: 2" in html
    assert "failed: 1" in html
    assert texts(shown(TaskManager(session=result.session))) == [["<sales>", "0", "0", "2", "0", "1"]]


def test_a_store_that_is_gone_shows_why(session: Session, tmp_path: Path) -> None:
    """A cell shows the message in place of the tasks, without a traceback."""
    manager = TaskManager("p", session=session)
    manager.create_task([{"a": 1}])
    (tmp_path / "tasks.db").unlink()
    assert "not shown: The task store" in shown(manager)


def test_a_recorder_and_its_experiment_show_what_was_recorded(session: Session) -> None:
    """Parameters, metrics, tags and artifacts, with the newest recorder first."""
    experiment = get_experiment(open_tracker(session.tracking_uri), experiment_name="ideas")
    for number in range(ROWS + 3):
        with experiment.create_recorder(f"<run {number}>") as recorder:
            recorder.log_metrics(IC=number / 8)
            recorder.log_params(depth="<deep>")
            recorder.save_objects(**{"note.txt": "text"})
    html = shown(recorder)
    assert ["IC", f"{(ROWS + 2) / 8:.4g}"] in texts(html)
    assert ["depth", "<deep>"] in texts(html)
    assert ["note.txt"] in texts(html)
    assert "<run" not in html
    rows = texts(shown(experiment))
    assert [rows[0][0], rows[0][4]] == [f"<run {ROWS + 2}>", f"{(ROWS + 2) / 8:.4g}"]
    assert rows[ROWS // 2][0] == "… 3 recorders not shown …"
    assert [rows[-1][0], rows[-1][4]] == ["<run 0>", "0"]


def test_numbers_and_texts_of_a_table() -> None:
    """Fractions have four significant digits, missing values are blank, and control characters are escaped."""
    rows = [[1.23456, float("nan"), None, "\x1b[31m<i>", 123456]]
    assert texts(str(table(list("abcde"), rows))) == [["1.235", "", "", "\\x1b[31m<i>", "123456"]]
    assert table(["a"], []) is None
    assert "unknown" not in summary("t", {"given": 0, "unknown": None})


# -- progress ----------------------------------------------------------------------------------------------------------


def test_the_bar_counts_tasks_that_have_ended() -> None:
    """Running tasks are named, failures are listed with their error, and the remaining time follows from finished tasks."""
    bar = NotebookProgress(6)
    for task in "abcd":
        bar(Event("started", task, "w", label=f"task {task}"))
    bar(Event("done", "a", "w", seconds=30.0, label="task a"))
    bar(Event("failed", "b", "w", seconds=1.0, error="ValueError: <no>", label="task b"))
    bar(Event("retry", "c", "w", label="task c"))
    html = bar.html()
    assert "2 of 6 tasks" in html
    assert "1 failed" in html
    assert "about 0:30 left" in html  # 4 tasks of 30 s, 4 at a time
    assert "running: task d" in html
    assert "failed: task b: ValueError: &lt;no&gt;" in html
    assert 'value="2" max="6"' in html


def test_not_in_a_notebook() -> None:
    assert not in_notebook()


def train_here(task: dict[str, Any], experiment_name: str, recorder_name: str | None = None) -> Any:
    if task["fails"]:
        raise ValueError("no")
    tracker = open_tracker(rollforge.session.current_session().tracking_uri)
    return get_experiment(tracker, experiment_name=experiment_name).create_recorder()


@pytest.mark.parametrize("options", [{}, {"jobs": 1}])
@pytest.mark.parametrize("kind", [TrainerR, TrainerRM])
def test_trainers_call_a_function_with_each_event(kind: Any, options: dict[str, Any], session: Session) -> None:
    """In this process and in worker processes; a trainer is pickled without the function."""
    events: list[Event] = []
    trainer = kind("events", train_func=train_here, session=session, on_error="skip", on_event=events.append, **options)
    trainer([{"fails": False}, {"fails": True}])
    ended = sorted(event.kind for event in events if event.kind in ("done", "failed"))
    assert ended == ["done", "failed"]
    assert sum(event.kind == "started" for event in events) >= 2
    assert next(event.error for event in events if event.kind == "failed") == "ValueError: no"
    assert pickle.loads(pickle.dumps(trainer)).on_event is None


def test_walk_forward_calls_a_function_with_each_event(session: Session) -> None:
    events: list[Event] = []
    walk_forward(
        Ridge(), frame(), label="y", train="3 months", step="quarter", jobs=0, session=session, on_event=events.append
    )
    assert [event.kind for event in events] == ["started", "done"] * 3


def test_an_error_of_the_function_ends_the_training_and_loses_no_task(session: Session) -> None:
    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TrainerRM("stopped", train_func=train_here, session=session, on_event=stop)([{"fails": False}])
    assert TaskManager("stopped", session=session).task_stat() == {rollforge.Status.WAITING: 1}
    with pytest.raises(TrainingFailed):
        TrainerRM("stopped", train_func=train_here, session=session)([{"fails": True}])


# -- a real kernel -----------------------------------------------------------------------------------------------------

SETUP = """
import time, pandas as pd, rollforge
from sklearn.linear_model import Ridge
class Slow(Ridge):
    def fit(self, X, y, sample_weight=None):
        time.sleep(SECONDS)
        return super().fit(X, y, sample_weight)
session = rollforge.Session(tracking_uri="folder:runs", store_uri="sqlite:///tasks.db", threads=1)
frame = pd.read_parquet("frame.parquet")
def train():
    return rollforge.walk_forward(
        Slow(), frame, label="y", train="3 months", step="quarter", jobs=2, session=session, experiment_name="sales"
    )
"""


class Kernel:
    """A notebook of which one cell after the other is run."""

    def __init__(self, folder: Path) -> None:
        nbformat = pytest.importorskip("nbformat", reason=KERNEL)
        nbclient = pytest.importorskip("nbclient", reason=KERNEL)
        pytest.importorskip("ipykernel", reason=KERNEL)
        self.new = nbformat.v4.new_code_cell
        self.book = nbformat.v4.new_notebook()
        self.client = nbclient.NotebookClient(
            self.book, timeout=120, allow_errors=True, resources={"metadata": {"path": str(folder)}}
        )

    def run(self, code: str) -> Any:
        """Return the outputs of a cell."""
        self.book.cells.append(self.new(code))
        return self.client.execute_cell(self.book.cells[-1], len(self.book.cells) - 1).outputs


@pytest.mark.slow
def test_a_notebook_shows_a_bar_and_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar stays in the saved notebook with the number of windows; the result is shown as HTML."""
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / "home"))
    frame().to_parquet(tmp_path / "frame.parquet")
    kernel = Kernel(tmp_path)
    with kernel.client.setup_kernel():
        kernel.run(SETUP.replace("SECONDS", "0"))
        outputs = [output for output in kernel.run("train()") if "data" in output]
    bar, value = (output["data"]["text/html"] for output in outputs)
    assert "3 of 3 tasks" in bar
    assert "<progress" in bar
    assert texts(value)[-1][-1] != ""


@pytest.mark.slow
def test_interrupting_a_notebook_gives_the_tasks_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt of the menu, a SIGINT to the kernel, ends the cell; the tasks wait, and no process is left."""
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / "home"))
    frame().to_parquet(tmp_path / "frame.parquet")
    kernel = Kernel(tmp_path)
    session = Session(tracking_uri=f"folder:{tmp_path}/runs", store_uri=f"sqlite:///{tmp_path}/tasks.db")
    manager = TaskManager("sales", session=session)
    with kernel.client.setup_kernel():
        pid = int(kernel.run("import os; os.getpid()")[0]["data"]["text/plain"])
        kernel.run(SETUP.replace("SECONDS", "600"))

        def interrupt() -> None:
            deadline = time.monotonic() + 90
            while not manager.task_stat().get(rollforge.Status.RUNNING) and time.monotonic() < deadline:
                time.sleep(0.2)
            os.kill(pid, signal.SIGINT)

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        outputs = kernel.run("train()")
        interrupting.join()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    assert outputs[-1]["ename"] == "KeyboardInterrupt"
    assert "interrupted; the tasks that were running wait again" in outputs[0]["data"]["text/html"]
    assert manager.task_stat() == {rollforge.Status.WAITING: 3}
    assert "worker_main" not in "".join(
        Path(f"/proc/{child}/cmdline").read_text() for child in children.split() if Path(f"/proc/{child}").exists()
    )


NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_of_the_examples_is_stored_without_outputs(file: Path) -> None:
    """Outputs would grow stale, and make changes unreadable."""
    book = json.loads(file.read_text(encoding="utf-8"))
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert len(NOTEBOOKS) == 3
    assert book["cells"][0]["source"][0].startswith("# ")
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    for cell in cells:
        compile("".join(cell["source"]), file.name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_of_the_examples_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, without an error; every cell whose last line is a value shows one."""
    nbformat = pytest.importorskip("nbformat", reason=KERNEL)
    nbclient = pytest.importorskip("nbclient", reason=KERNEL)
    pytest.importorskip("ipykernel", reason=KERNEL)
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / "home"))
    book = nbformat.read(file, 4)
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell in book.cells:
        if (
            cell.cell_type == "code"
            and isinstance(ast.parse(cell.source).body[-1], ast.Expr)
            and "print" not in cell.source
        ):
            assert any("data" in output for output in cell.outputs) or "train(" in cell.source, cell.source
    if file.stem != "pool":
        assert (tmp_path / "report.html").stat().st_size > 100_000
