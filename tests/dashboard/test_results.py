"""The pages that read runs: metrics and artifacts of a task, the result of an experiment, comparisons."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from rollforge.dashboard.pools import PoolReader
from rollforge.dashboard.runs import RunReader
from rollforge.session import Session
from rollforge.track.base import get_experiment, open_tracker

from .serving import Served, definition, serving
from .trained import trained

pytest.importorskip("starlette", reason="pip install 'rollforge[dashboard]'")
pytest.importorskip("uvicorn", reason="pip install 'rollforge[dashboard]'")
pytest.importorskip("jinja2", reason="pip install 'rollforge[dashboard]'")

from rollforge.dashboard.app import PLOTS_POLICY


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def served(stores: tuple[str, str]) -> Iterator[Served]:
    with serving(*stores) as found:
        yield found


def first_task(stores: tuple[str, str], pool: str) -> str:
    return PoolReader(stores[0]).snapshot(pool).tasks[0].id


def test_metrics_are_the_colours_of_the_grid(served: Served, stores: tuple[str, str]) -> None:
    """The IC in a cell is that of the task's run, and the list shows that of the joined result."""
    task_id = first_task(stores, "ridge")
    tracker = open_tracker(stores[1])
    found = get_experiment(tracker, experiment_name="ridge")
    runs = found.list_recorders("list", tags={"_id in TaskManager": task_id})
    ic = runs[0].list_metrics()["IC"]
    text = served.get("/experiment?name=ridge&metric=IC").text
    cell = re.search(rf'<a class="cell v-?[0-3]" href="/task\?experiment=ridge&amp;id={task_id}"[^>]*>([^<]*)<', text)
    assert cell is not None
    assert cell[1] == f"{ic:.3f}".replace("-", "−")
    assert "IC of the joined result" in text
    assert text.count('class="spark"') == 0
    listed = served.get("/?sort=ic").text
    assert listed.count('class="spark"') == 2


def test_a_task_shows_its_run(served: Served, stores: tuple[str, str]) -> None:
    """Metrics, artifacts and the importance of features come from the latest run of the task."""
    text = served.get(f"/task?experiment=trees&id={first_task(stores, 'trees')}").text
    assert '<th scope="row">Rank IC</th>' in text
    assert "sig_analysis/ic.pkl</a>" in text
    assert re.findall(r'<th scope="row">(M5|R1)</th>', text)
    linear = served.get(f"/task?experiment=ridge&id={first_task(stores, 'ridge')}").text
    assert "Feature importance" not in linear


def test_an_artifact_can_be_saved_but_not_shown(served: Served, stores: tuple[str, str]) -> None:
    """Others may have written a file, so the browser only saves it; no path leaves the folder of the run."""
    address = f"/artifact?experiment=trees&id={first_task(stores, 'trees')}&file="
    answer = served.get(f"{address}task")
    assert answer.code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "LGBModel" in answer.text
    for path in ("../../rollforge-tracking.json", "/etc/passwd", "..", ".hidden", "a\\b", "%00"):
        assert served.get(address + quote(path, safe="%")).code == 400
    assert served.get(f"{address}nothing.pkl").code == 404


def test_the_result_so_far(served: Served) -> None:
    """The page has the report's numbers, tables and figures, without a script of its own."""
    page = served.get("/result?experiment=ridge")
    assert page.code == 200
    assert page.headers["content-security-policy"] == PLOTS_POLICY
    assert "script-src 'self';" in PLOTS_POLICY
    assert 'id="plot-daily"' in page.text
    assert "IC by month" in page.text
    assert re.findall(r"<script(?! type=\"application/json\")(?! src=)", page.text) == []
    assert served.get("/static/plotly.js").code == 200
    assert served.get("/result?experiment=nothing").code == 404


def test_two_experiments_are_compared(served: Served) -> None:
    """Figures, differences with intervals, and the values by which the definitions differ."""
    text = served.get("/compare?e=ridge&e=trees").text
    assert "Each result minus ridge" in text
    assert re.search(r"[+−]0\.\d{4}</td><td[^>]*>−?0\.\d{4} to −?0\.\d{4}", text)
    assert '<code>model.class</code></th><td class="text">LinearModel</td>' in text
    assert 'id="plot-compared"' in text


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ("", 200, "Choose at least two"),
        ("?e=ridge", 200, "Choose at least two"),
        ("?e=ridge&e=ridge", 200, "Choose at least two"),
        ("?e=ridge&e=x", 404, "no experiment"),
        ("?e=ridge&e=trees:deep", 400, "has a single model"),
    ],
)
def test_what_cannot_be_compared(served: Served, query: str, code: int, message: str) -> None:
    """With nothing or a single model one can choose others; an experiment or a model that does not exist is an error."""
    page = served.get(f"/compare{query}")
    assert page.code == code
    assert message in page.text


def test_results_change_no_byte(served: Served, stores: tuple[str, str]) -> None:
    """Neither the task store nor a run is changed by any page."""
    folder = Path(stores[0].removeprefix("sqlite:///")).parent
    files = [folder / "tasks.db", *(f for f in (folder / "runs").rglob("*") if f.is_file())]
    before = {file: file.read_bytes() for file in files}
    for path in ("/", "/experiment?name=trees&metric=IC", "/result?experiment=trees", "/compare?e=trees&e=ridge"):
        assert served.get(path).code == 200
    assert {file: file.read_bytes() for file in files} == before
    assert {f for f in (folder / "runs").rglob("*") if f.is_file()} | {folder / "tasks.db"} == set(files)


def test_an_experiment_without_runs_says_so(tmp_path: Path) -> None:
    """A missing tracking store is not created; the page names it and the option for another one."""
    from rollforge.store.base import open_store

    uri = f"sqlite:///{tmp_path}/tasks.db"
    store = open_store(uri)
    store.create("p", [definition(7, 1)])
    (task,) = store.claim("p", worker="w:1", lease=60)
    store.commit(task, {"ic": 1.0})
    with serving(uri, f"folder:{tmp_path}/none") as served:
        assert "Give another one with --tracking" in served.get("/experiment?name=p").text
        refused = served.get("/result?experiment=p")
        assert refused.code == 400
        assert "Give another one with --tracking" in refused.text
    assert not (tmp_path / "none").exists()


def test_a_server_that_only_the_pool_names_is_not_called(tmp_path: Path) -> None:
    """Others could make the dashboard send requests otherwise."""
    from rollforge.store.base import open_store

    store = open_store(f"sqlite:///{tmp_path}/tasks.db")
    key = store.keep_submission("p", {"tracking": "http://evil.example:5000"})
    store.create("p", [definition(7, 1)], submission=key)
    own = Session().tracking_uri
    assert RunReader(store, own, given=False).tracking_uri("p") == own
    (tmp_path / "runs").mkdir()
    store.keep_submission("p", {"tracking": f"folder:{tmp_path}/runs"})
    assert RunReader(store, own, given=False).tracking_uri("p") == f"folder:{tmp_path}/runs"
    assert RunReader(store, "folder:/given", given=True).tracking_uri("p") == "folder:/given"
