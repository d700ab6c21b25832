"""The pages of the dashboard over HTTP: what they show, who may read them, and that nothing is changed."""

from __future__ import annotations

import hashlib
import http.client
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from rollforge.errors import StoreUnavailable
from rollforge.store.base import open_store
from rollforge.task import Cause, Status, TaskRecord

from ..documents.command_line import call, run
from .serving import Served, definition, serving

pytest.importorskip("starlette", reason="pip install 'rollforge[dashboard]'")
pytest.importorskip("uvicorn", reason="pip install 'rollforge[dashboard]'")
pytest.importorskip("jinja2", reason="pip install 'rollforge[dashboard]'")

from rollforge.dashboard.app import POLICY
from rollforge.dashboard.pools import PoolReader

HOSTILE = "<script>alert('x')</script>"
TOKEN = "a-token-of-some-length"


def filled(tmp_path: Path) -> str:
    """Return the store of a pool in which one task is done, one failed, one runs and one waits."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    store = open_store(uri)
    store.create("p", [definition(7, month) for month in (1, 2, 3, 4)], model_names=["trees"] * 4, max_attempts=1)
    first, second, third = store.claim("p", worker="host:17:ab-1", lease=600, limit=3)
    store.commit(first, {"ic": 0.1}, log="trained")
    store.fail(
        second, f'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    f()\nValueError: {HOSTILE}'
    )
    store.renew(third, 600, log=f"epoch 1\nepoch 2 {HOSTILE} password=hunter2x")
    store.close()
    return uri


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return filled(tmp_path)


@pytest.fixture
def served(uri: str) -> Iterator[Served]:
    with serving(uri) as found:
        yield found


def test_the_list_of_experiments(served: Served) -> None:
    """Each experiment has the number of its tasks by status; filters leave out those that do not match."""
    page = served.get("/")
    assert page.code == 200
    assert "1 done, 1 running, 1 failed, 1 waiting" in page.text
    assert 'href="/experiment?name=p"' in page.text
    assert "No experiment matches." in served.get("/?q=other").text
    assert 'href="/experiment?name=p"' in served.get("/?status=failed&q=P").text
    assert "No experiment matches." in served.get("/?status=part_done").text


def test_the_page_of_an_experiment(served: Served) -> None:
    """Grid, running tasks, failures and workers are on one page."""
    text = served.get("/experiment?name=p").text
    assert 'aria-label="trees, 2020-02-01 to 2020-02-29, failed"' in text
    assert "ValueError: &lt;script&gt;" in text
    assert "epoch 2 &lt;script&gt;" in text
    assert "host, process 17 · 3: 1 task" in text
    assert "No task matches." in served.get("/experiment?name=p&q=linear").text
    shown = served.get("/experiment?name=p&status=failed").text
    assert "1 of 4 tasks" in shown
    assert 'aria-label="trees, 2020-01-01 to 2020-01-31' not in shown


def task_ids(uri: str) -> dict[str, str]:
    """Return the id of a task of each status."""
    return {task.status.value: task.id for task in open_store(uri).query("p", {}, results=False)}


def test_the_page_of_a_task(served: Served, uri: str) -> None:
    """Attempts, the traceback, the log, the segments and the definition of a task are on its page."""
    ids = task_ids(uri)
    failed = served.get(f"/task?experiment=p&id={ids['failed']}").text
    assert "The task has failed after 1 failed attempt of at most 1." in failed
    assert "File &#34;x.py&#34;, line 1, in f" in failed
    assert failed.count('class="seg-test"') == 1
    assert "2018-01-01 to 2020-01-31" in failed
    assert "class: LGBModel" in failed
    running = served.get(f"/task?experiment=p&id={ids['running']}").text
    assert "Attempt 1 of at most 1 is running." in running
    assert "epoch 1\nepoch 2" in running
    assert served.get("/task?experiment=p&id=nothing").code == 404
    assert served.get(f"/task?experiment=other&id={ids['failed']}").code == 404


def test_the_attempts_at_a_task(tmp_path: Path) -> None:
    """The latest attempt comes first. A failed one has its traceback, which is open if it is the last one of a task that is
    not done; the lead counts the failed ones also when the task is done."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    store = open_store(uri)
    (created,) = store.create("p", [definition(7, 1)], max_attempts=20)

    def attempt(worker: str) -> TaskRecord:
        store.set_status("p", {"status": "waiting"}, Status.WAITING)  # without the delay after a failure
        return store.claim("p", worker=worker, lease=600)[0]

    def text() -> str:
        return served.get(f"/task?experiment=p&id={created.id}").text

    def rows() -> list[list[str]]:
        (body,) = re.findall(r"<tbody>(.*?)</tbody>", text().partition('id="attempts"')[2].partition("</section>")[0])
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]
        return [[re.sub(r"<[^>]+>", "", cell) for cell in row] for row in cells]

    with serving(uri) as served:
        assert "Took" not in text(), "there is no table without an attempt"
        store.give_back(attempt("gpu1:1:a"))
        store.fail(attempt("gpu2:2:b"), f"ValueError: {HOSTILE} password=hunter2x", Cause.OUT_OF_MEMORY)
        assert [row[:3] for row in rows()] == [
            ["2", "failed out_of_memory", "gpu2, process 2"], ["1", "returned", "gpu1, process 1"],
        ]  # fmt: skip
        assert '<details id="attempt-2" class="error" open>' in text()
        assert text().count("<details") == 2, "its error is shown once, besides the definition"
        assert text().count("ValueError: &lt;script&gt;") == 2
        assert "hunter2x" not in text()
        store.commit(attempt("gpu3:3:c"), {"ic": 0.1})
        assert [row[:2] for row in rows()] == [["3", "done"], ["2", "failed out_of_memory"], ["1", "returned"]]
        assert '<details id="attempt-2" class="error">' in text()
        assert "The task is done, after 1 failed attempt." in text()
        workers = served.get("/experiment?name=p").text.partition('class="lanes"')[2]
        for worker, word in (
            ("gpu1, process 1", "returned"),
            ("gpu2, process 2", "failed"),
            ("gpu3, process 3", "done"),
        ):
            assert f"{worker}: 1 task" in workers
            assert f'<i class="cell s-{word}"></i>{word}' in workers
        store.set_status("p", {}, Status.WAITING)
        assert "The task waits for a worker." in text()
        for _ in range(9):
            store.fail(attempt("gpu1:1:a"), "boom")
        assert [row[0] for row in rows()] == [str(n) for n in range(12, 2, -1)]
        assert "The latest 10 attempts are kept." in text()
        store.cancel("p")
        assert "Last error <code>The task was cancelled.</code>" in text()
    store.close()


def test_failed_attempts_of_a_task_that_is_done(tmp_path: Path) -> None:
    """The failures of an experiment name the tasks that failed before they were done, with the number of their attempts."""
    uri = f"sqlite:///{tmp_path}/tasks.db"
    with closing(open_store(uri)) as store, serving(uri) as served:
        store.create("p", [definition(7, 1)], max_attempts=3)

        def failures() -> str:
            text = served.get("/experiment?name=p").text.partition('<div id="failures"')[2].partition("</div>")[0]
            return re.sub(r"<[^>]+>", "", text.partition(">")[2]).strip()

        assert failures() == "No task has failed."
        store.fail(store.claim("p", worker="w", lease=600)[0], "KeyError: 1")
        store.set_status("p", {}, Status.WAITING)  # without the delay after a failure
        store.commit(store.claim("p", worker="w", lease=600)[0], {})
        assert failures() == (
            "No task has ended as failed.\n"
            "1 task was retried after 1 failed attempt: LGBModel, 2020-01-01 to 2020-01-31 (1 attempt)"
        )


def test_what_others_wrote_is_escaped_and_secrets_are_masked(tmp_path: Path) -> None:
    """No name, error or log can add an element to a page, whatever it contains."""
    uri = filled(tmp_path)
    store = open_store(uri)
    name = f"{HOSTILE}\u202e"
    store.create(name, [definition(7, 1, loss=HOSTILE), definition(8, 1)], model_names=[HOSTILE, '"onclick="x'])
    store.close()
    with serving(uri) as served:
        own = quote(name)
        for path in (
            "/",
            "/experiment?name=p",
            f"/experiment?name={own}",
            f"/experiment?name={own}&q={quote(HOSTILE)}",
        ):
            page = served.get(path)
            assert page.code == 200
            assert HOSTILE not in page.text
            assert "hunter2x" not in page.text
            assert "\u202e" not in re.sub(r'value="[^"]*"', "", page.text)
            assert re.findall(r"<script[^>]*>", page.text) == ['<script src="/static/dashboard.js" defer>']
            assert not re.search(r"<[^>]+\s(style|on\w+)\s*=", re.sub(r'"[^"]*"', '""', page.text))


def test_every_response_forbids_other_scripts(served: Served) -> None:
    """Pages, files and errors have the same strict policy, and pages are not stored by the browser."""
    for path in ("/", "/static/dashboard.js", "/nothing", "/experiment?name=nothing"):
        page = served.get(path)
        assert page.headers["content-security-policy"] == POLICY
        assert page.headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in POLICY
    assert served.get("/").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/templates",
        "/static/",
        "/static/%2fetc%2fpasswd",
        "/nothing",
    ],
)
def test_only_files_of_the_package_are_served(served: Served, path: str) -> None:
    """A path that leaves the folder of files is not found."""
    assert served.get(path).code == 404


def test_a_file_that_the_browser_has_is_not_sent_again(served: Served) -> None:
    """A style sheet has a mark; a request with this mark has an empty answer."""
    mark = served.get("/static/report.css").headers["etag"]
    again = served.get("/static/report.css", **{"If-None-Match": mark})
    assert (again.code, again.text) == (304, "")


def test_the_host_of_a_request_must_be_local(served: Served) -> None:
    """A page of another domain whose name was changed to this machine's address cannot read the dashboard."""
    assert served.get("/", Host="evil.example").code == 400
    assert served.get("/", Host="localhost:1").code == 200


def test_other_methods_are_refused(served: Served) -> None:
    """Nothing can be changed, so only GET and HEAD are allowed."""
    assert served.ask("POST", "/experiment?name=p").code == 405
    assert served.ask("DELETE", "/").code == 405


def test_the_token(uri: str) -> None:
    """Without the token there is only the form; with it the browser gets a cookie, which does not contain it."""
    with serving(uri, token=TOKEN, local=False) as served:
        refused = served.get("/experiment?name=p")
        assert refused.code == 401
        assert "trees" not in refused.text
        assert served.get("/events?experiment=p").code == 401
        assert served.get("/", Authorization=f"Bearer {TOKEN}").code == 200
        assert served.get("/", Authorization="Bearer another-token-of-length").code == 401
        assert served.get("/", Cookie=f"rollforge_dashboard={TOKEN}").code == 401
        assert served.ask("POST", "/login", "token=wrong").code == 401
        assert served.ask("POST", "/login", "token=" + "x" * 9999).code == 413
        for answer in (served.ask("POST", "/login", f"token={TOKEN}"), served.get(f"/?token={TOKEN}")):
            assert (answer.code, answer.headers["location"]) == (303, "/")
            cookie = answer.headers["set-cookie"]
            assert TOKEN not in cookie
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
            assert served.get("/", Cookie=cookie.partition(";")[0]).code == 200


def test_an_event_arrives_when_the_pool_changes(served: Served, uri: str) -> None:
    """The stream reports that a task was claimed, by another process, while the page is open."""
    where = urlsplit(served.address)
    with closing(http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)) as connection:
        connection.request("GET", "/events?experiment=p")
        answer = connection.getresponse()
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        lines = iter(answer.readline, b"")
        assert next(line for line in lines if line.startswith(b": begin"))
        store = open_store(uri)
        assert store.claim("p", worker="other:1", lease=60)
        assert next(line for line in lines if line.startswith(b"event:")) == b"event: change\n"


def test_a_pool_that_is_locked_for_writing_can_be_read(uri: str) -> None:
    """A worker that is writing does not keep the pages waiting, and they do not keep a worker waiting."""
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE tasks SET priority = 7")
        with serving(uri) as served:
            assert served.get("/experiment?name=p").code == 200
        writer.execute("COMMIT")


def test_reading_changes_no_byte_of_the_store(uri: str) -> None:
    """The file is the same after all pages were read, and what would change it is refused by the database."""
    file = Path(uri.removeprefix("sqlite:///"))
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    with serving(uri) as served:
        for path in ("/", "/?q=p", "/experiment?name=p", "/experiment?name=p&metric=time&by=seed"):
            assert served.get(path).code == 200
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    with closing(PoolReader(uri)) as reader, pytest.raises(StoreUnavailable, match="read-only"):
        reader.store.set_status("p", {}, Status.WAITING)


def test_a_missing_store_is_not_created(tmp_path: Path) -> None:
    """A misspelt name is an error, and leaves no file behind."""
    found = call("dashboard", "--store", f"sqlite:///{tmp_path}/none.db", "--port", "0")
    assert isinstance(found.exception, StoreUnavailable)
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_an_earlier_version_is_not_migrated(uri: str) -> None:
    """The tables lack columns, and adding them would be a change; the message names a command that does."""
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(StoreUnavailable, match="rollforge pool list"):
        PoolReader(uri)


def test_an_address_of_other_machines_requires_a_token(uri: str) -> None:
    """Anyone in the network could read the pool otherwise."""
    done = run("dashboard", "--store", uri, "--host", "0.0.0.0", "--port", "0", env={"ROLLFORGE_HTTP_TOKEN": ""})
    assert done.returncode == 2
    assert "token" in done.stderr


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Jinja2, the message has the command that installs what the dashboard needs."""
    from rollforge.errors import MissingDependency

    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "rollforge.dashboard.pages")
    with pytest.raises(MissingDependency, match=r"pip install 'rollforge\[dashboard\]'"):
        import rollforge.dashboard.pages  # noqa: F401


def test_every_class_of_a_page_has_a_style(served: Served, uri: str) -> None:
    """Every class of an element occurs in a style sheet or in the page's script."""
    names = ("report.css", "dashboard.css", "dashboard.js")
    known = {n for name in names for n in re.findall(r"[.\"' ]([a-z][\w-]*)", served.get(f"/static/{name}").text)}
    task = f"/task?experiment=p&id={task_ids(uri)['failed']}"
    for path in ("/", "/experiment?name=p", "/experiment?name=p&metric=time", "/nothing", task):
        used = {n for found in re.findall(r'class="([^"]*)"', served.get(path).text) for n in found.split()}
        assert used - known <= {"text"}
