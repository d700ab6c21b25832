"""The dashboard in a real browser: no errors, live updates, filters, keyboard, phone width, contrast."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from rollforge.store.base import open_store

from ..dashboard.serving import Served, definition, serving
from ..dashboard.trained import trained
from .axe import NO_AXE, find_axe, violations
from .chromium import CONTRAST, MISSING, NAMELESS, Page, find_browser

pytest.importorskip("starlette", reason="pip install 'rollforge[dashboard]'")
pytest.importorskip("jinja2", reason="pip install 'rollforge[dashboard]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason=MISSING),
]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two trained experiments, and one that is being worked on."""
    store_uri, tracking = trained(tmp_path_factory.mktemp("browser"))
    store = open_store(store_uri)
    tasks = [definition(seed, month) for month in range(1, 13) for seed in (7, 8, 9)]
    names = [f"trees, seed {seed}" for _ in range(12) for seed in (7, 8, 9)]
    store.create("live", tasks, model_names=names, max_attempts=1)
    for i, task in enumerate(store.claim("live", worker="gpu1:17:ab-1", lease=3600, limit=14)):
        if i < 9:
            store.commit(task, {"ic": 0.1})
        elif i < 11:
            store.fail(
                task, 'Traceback (most recent call last):\n  File "x.py", line 7, in f\n    f()\nKeyError: "close"'
            )
        else:
            store.renew(task, 3600, log=f"epoch {i}\nloss 0.1")
    return store_uri, tracking


@pytest.fixture(scope="module")
def served(stores: tuple[str, str]) -> Iterator[Served]:
    with serving(*stores) as found:
        yield found


def addresses(stores: tuple[str, str]) -> dict[str, str]:
    """Return one address of each kind of page."""
    ids = {task.status.value: task.id for task in open_store(stores[0]).query("live", {}, results=False)}
    done = next(iter(open_store(stores[0]).query("trees", {"status": "done"}, results=False))).id
    return {
        "experiments": "/", "experiment": "/experiment?name=live", "metric": "/experiment?name=trees&metric=IC",
        "failed": f"/task?experiment=live&id={ids['failed']}", "done": f"/task?experiment=trees&id={done}",
        "result": "/result?experiment=ridge", "compare": "/compare?e=ridge&e=trees",
        "choose": "/compare?e=ridge", "missing": "/task?experiment=live&id=x",
    }  # fmt: skip


def test_pages_load_without_errors_and_only_from_here(page: Page, served: Served, stores: tuple[str, str]) -> None:
    """Nothing is reported in the console, also by the Content-Security-Policy, and no other address is asked."""
    for name, path in addresses(stores).items():
        page.open(served.address + path)
        if name in ("result", "compare"):
            page.wait("document.documentElement.dataset.plots === 'drawn'")
            assert page.run("document.querySelectorAll('.main-svg').length") >= 2
        if name != "missing":  # its answer is 404, which the console repeats
            assert page.problems == [], name
        page.problems.clear()
    assert {one for one in page.requests if not one.startswith((served.address, "data:"))} == set()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast_and_controls_have_names(
    page: Page, served: Served, stores: tuple[str, str], scheme: str
) -> None:
    """Every text can be read in both schemes, and everything that can be used or seen has a name."""
    page.scheme(scheme)
    for name, path in addresses(stores).items():
        page.open(served.address + path)
        assert page.run(CONTRAST) == [], name
        assert page.run(NAMELESS) == [], name
        assert page.run("document.querySelectorAll('h1').length") == 1
        assert page.run("document.documentElement.lang") == "en"


@pytest.mark.skipif(find_axe() is None, reason=NO_AXE)
def test_axe_finds_nothing_serious(page: Page, served: Served, stores: tuple[str, str]) -> None:
    """No page has a violation that axe-core calls serious or critical."""
    for name, path in addresses(stores).items():
        page.open(served.address + path)
        assert violations(page) == [], name


def test_a_phone_scrolls_only_tables(page: Page, served: Served, stores: tuple[str, str]) -> None:
    """The page itself is not wider than the screen of a phone."""
    page.size(390, 844)
    for name, path in addresses(stores).items():
        page.open(served.address + path)
        assert page.run("document.documentElement.scrollWidth") <= 390, name


def test_a_change_arrives_without_reloading(page: Page, served: Served, stores: tuple[str, str]) -> None:
    """A task that a worker claims, and one that it finishes, are shown on the open page, which keeps what was opened."""
    page.open(served.address + "/experiment?name=live")
    page.wait("document.getElementById('live').textContent === 'live'")
    page.run("window.same = true; document.querySelector('#failures details').open = true")
    store = open_store(stores[0])
    (task,) = store.claim("live", worker="gpu2:99:cd-1", lease=3600)
    page.wait("document.getElementById('running').innerText.includes('gpu2, process 99')")
    store.commit(task, {"ic": 0.2})
    page.wait("!document.getElementById('running').innerText.includes('gpu2, process 99')")
    assert "gpu2" in page.text("#workers")
    assert page.run("window.same && document.querySelector('#failures details').open")
    assert page.problems == []


def test_windows_of_a_result_are_drawn_one_after_the_other(page: Page, served: Served) -> None:
    """Each test segment begins on the time axis where the one of the window before ends."""
    page.open(served.address + "/result?experiment=trees")
    boxes = page.run(
        "[...document.querySelectorAll('.timeline .row .box.test')].map(one => one.getBoundingClientRect())"
        ".map(one => [one.left, one.right])"
    )
    assert len(boxes) == 4
    for (_, right), (left, _) in itertools.pairwise(boxes):
        assert right <= left + 1
        assert left - right < 10  # pixels, for a weekend


def test_metrics_that_are_read_later_can_be_chosen(page: Page, stores: tuple[str, str]) -> None:
    """A tracking store takes time to open: the page then offers its metrics, and keeps the one in its address."""
    with serving(*stores) as fresh:
        page.open(fresh.address + "/experiment?name=trees&metric=IC")
        page.wait("document.querySelectorAll('.grid-table .cell:is(.v1, .v2, .v3, .v-1, .v-2, .v-3)').length > 2")
        page.wait("[...document.querySelectorAll('select[name=metric] option')].some(one => one.value === 'Rank IC')")
        assert page.run("document.querySelector('select[name=metric]').value") == "IC"
    page.problems.clear()  # the connection to the dashboard has ended


def test_filters_and_the_keyboard(page: Page, served: Served) -> None:
    """Typing filters the grid at once; Tab and arrows reach each cell, and Enter opens its task."""
    page.open(served.address + "/experiment?name=live")
    page.run("document.querySelector('input[name=q]').focus()")
    page.type("seed 8")
    page.wait("document.querySelectorAll('.grid-table tbody tr').length === 1")
    assert "q=seed+8" in page.run("location.search")
    page.run("document.querySelector('select[name=status]').value = 'failed'")
    page.run("document.querySelector('select[name=status]').dispatchEvent(new Event('input', {bubbles: true}))")
    page.wait("document.querySelectorAll('.grid-table .cell').length < 12")
    page.open(served.address + "/experiment?name=live")
    page.run("document.querySelector('.grid-table .cell').focus()")
    page.key("ArrowRight", 39)
    page.key("ArrowDown", 40)
    label = page.run("document.activeElement.getAttribute('aria-label')")
    assert label.startswith("trees, seed 8, 2020-02-01")
    page.key("Enter", 13, "\r")
    page.wait("location.pathname === '/task' && document.readyState === 'complete'")
    assert "seed 8" in page.text("h1")
    page.open(served.address + "/")
    page.key("Tab", 9)
    assert page.run("document.activeElement.className") == "skip"


def test_results_are_chosen_with_the_keyboard(page: Page, served: Served) -> None:
    """An experiment is added by typing, another reference and other results are chosen, and the address has the choice."""
    page.open(served.address + "/compare?e=ridge")
    page.run("document.querySelector('.chooser input[type=search]').focus()")
    page.type("trees")
    page.key("Enter", 13, "\r")
    page.wait("location.search.includes('e=trees') && document.documentElement?.dataset.plots === 'drawn'")
    assert page.text("main").count("Each result minus ridge") == 1
    page.run("document.querySelector('.chooser summary').focus()")
    page.key("Enter", 13, "\r")
    page.wait("document.querySelector('.chooser').open")
    assert page.run("[...document.querySelectorAll('.chooser input:checked')].map(one => one.value)") == [
        "ridge",
        "trees",
    ]
    page.run("document.querySelector('.chooser select').focus()")
    page.key("ArrowDown", 40)
    page.key("Tab", 9)
    assert page.run("document.activeElement.textContent") == "Compare"
    page.key("Enter", 13, "\r")
    page.wait("location.search.includes('reference=trees') && document.documentElement?.dataset.plots === 'drawn'")
    assert page.text("main").count("Each result minus trees") == 1
    assert page.problems == []
