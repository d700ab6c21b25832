"""Addresses of tracking stores: a URI, or a path as in MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollforge.errors import ConfigError, TrackingUnavailable
from rollforge.session import Session, current_session, using
from rollforge.track.r import R
from rollforge.track.tracker import folder_uri, open_tracker


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def log_run(place: str | Path) -> str:
    """Log a run in a store, and return the URI of the store."""
    with R.start(experiment_name="e", recorder_name="first", uri=place):
        R.log_params(a=1)
        uri = current_session().tracking_uri
    with R.uri_context(place):
        found = R.get_recorder(experiment_name="e", recorder_name="first")
        assert found.list_params() == {"a": "1"}
        assert found.status == "FINISHED"
    return uri


@pytest.mark.parametrize(
    "place", ["mlruns", "./mlruns", "{here}/mlruns", "file:mlruns", "file:{here}/mlruns", "file://{here}/mlruns",
              "file://localhost{here}/mlruns", "sub/folder/", "with space/mlruns"],
)  # fmt: skip
def test_a_folder_is_an_mlruns_folder(place: str, here: Path) -> None:
    """The folder is given by a relative or absolute path or URI, and created if it does not exist."""
    address = place.format(here=here)
    uri = log_run(address)
    folder = Path(uri.removeprefix("file:"))
    assert folder.is_absolute()
    assert folder.name in ("mlruns", "folder")
    assert list(folder.glob("*/*/params/a"))
    assert log_run(Path(folder) if place == "mlruns" else address) == uri  # also with a Path


def test_percent_encoding_in_a_uri_is_decoded(here: Path) -> None:
    """``Path.as_uri`` encodes spaces; the name of an existing folder with a percent sign is used literally."""
    (here / "with space").mkdir()
    assert folder_uri((here / "with space").as_uri()) == f"file:{here}/with space"
    (here / "a%20b").mkdir()
    assert folder_uri(f"file:{here}/a%20b") == f"file:{here}/a%20b"


def test_the_home_folder_is_expanded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is expanded in strings and in Paths."""
    monkeypatch.setenv("HOME", str(here))
    assert log_run("~/runs") == f"file:{here}/runs"
    assert folder_uri(Path("~/runs")) == f"file:{here}/runs"


def test_the_kind_of_a_store_is_derived_from_its_path(here: Path) -> None:
    """An existing path is inspected; for a new path, the suffix decides."""
    assert log_run("runs/mlflow.db") == f"sqlite:///{here}/runs/mlflow.db"
    log_run(f"folder:{here}/plain")
    assert log_run(here / "plain") == f"folder:{here}/plain"
    assert (here / "runs" / "mlflow.db").is_file()


def test_a_mistyped_scheme_is_not_a_folder(here: Path) -> None:
    """A mistyped scheme is an error, and no folder is created."""
    for wrong in ("sqlit:///x.db", "foldr:x", "sqlite", "folders", "ftp://host/x", "posgresql://host/x"):
        with pytest.raises(ConfigError, match="does not name a tracking store"):
            open_tracker(wrong)
    assert list(here.iterdir()) == []


def test_the_default_store_can_be_a_folder(here: Path) -> None:
    """The default store can be set by ``R.set_uri`` or in the session; later changes of the working directory have no
    effect."""
    R.set_uri("runs")
    assert current_session().tracking_uri == f"file:{here}/runs"
    R.set_uri(None)
    assert current_session().tracking_uri.startswith("sqlite:///")
    with using(Session(tracking_uri="other")):
        assert R.get_uri() == f"file:{here}/other"
    assert not (here / "other").exists()


def test_reading_creates_no_folder(here: Path) -> None:
    """Reading from a mistyped path is an error."""
    with pytest.raises(TrackingUnavailable, match="mlrnus cannot be opened: the folder does not exist"):
        open_tracker("./mlrnus").experiments()
    assert list(here.iterdir()) == []
    (here / "file").touch()
    with pytest.raises(TrackingUnavailable, match=r"file for runs cannot be created: (File exists|Not a directory)"):
        R.set_uri("file:file")


@pytest.mark.parametrize(
    "uri",
    ["http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:port", "http://\udcff:1", f"http://{'a' * 70}.b:1"],
)
def test_an_address_that_cannot_be_parsed_is_one_error(uri: str) -> None:
    """The host or the port of the address is invalid."""
    with pytest.raises(TrackingUnavailable, match="cannot be opened"):
        open_tracker(uri).experiments()
