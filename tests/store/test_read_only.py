"""Task stores that are opened read-only: nothing is created, migrated or changed."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from rollforge.errors import RollforgeError, StoreUnavailable
from rollforge.store.base import SupportsStates, open_store
from rollforge.task import Status


@pytest.fixture(params=["sqlite", "postgres", "mongodb"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = f"read_{uuid.uuid4().hex[:12]}"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/{name}.db"
    if request.param == "postgres":
        return f"{request.getfixturevalue('postgres').uri}?schema={name}"
    return f"{request.getfixturevalue('mongodb').rstrip('/')}/{name}"


def test_a_store_is_read_but_not_created(uri: str) -> None:
    """Before there is a store, opening it is an error; afterwards its tasks are read, also while they change."""
    with pytest.raises(StoreUnavailable):
        open_store(uri, read_only=True)
    writer = open_store(uri)
    writer.create("p", [{"x": 1}, {"x": 2}], model_names=["one", "two"])
    reader = open_store(uri, read_only=True)
    assert reader is not writer
    assert [task.definition for task in reader.query("p", {}, results=False)] == [{"x": 1}, {"x": 2}]
    (claimed,) = writer.claim("p", worker="w:1", lease=60)
    assert reader.count("p") == {Status.RUNNING: 1, Status.WAITING: 1}
    writer.commit(claimed, {"ic": 0.5})
    assert reader.get("p", claimed.id).result == {"ic": 0.5}
    if isinstance(reader, SupportsStates):
        first, second = reader.states("p")
        assert (first.id, first.status, first.model_name, first.worker) == (claimed.id, Status.DONE, "one", "w:1")
        assert (second.status, second.started_at, second.attempt) == (Status.WAITING, None, 0)
        assert first.started_at is not None
        assert first.finished_at is not None
        assert first.created_at <= first.started_at <= first.finished_at <= reader.now()
        assert reader.texts("p", [first.id]) == {first.id: '{"x":1}'}
    reader.close()
    writer.close()


@pytest.mark.parametrize("uri", ["sqlite", "postgres"], indirect=True)
def test_a_change_is_refused_by_the_database(uri: str) -> None:
    """A statement that would change something fails."""
    open_store(uri).create("p", [{"x": 1}])
    reader = open_store(uri, read_only=True)
    with pytest.raises(RollforgeError):
        reader.set_status("p", {}, Status.DONE)
    assert reader.count("p") == {Status.WAITING: 1}
    reader.close()
