"""Names that are used as file names never lead outside their folder, and no two names share a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.documents.command_line import call

from rollforge.errors import ConfigError, DataError, DataNotFound, RollforgeError
from rollforge.market.folder_writer import write_folder
from rollforge.market.importer import import_table
from rollforge.market.provider import Provider, open_provider
from rollforge.paths import name_problem
from rollforge.store.base import open_store
from rollforge.track.base import get_experiment, open_tracker
from rollforge.workflow import load_workflow

DAYS = np.arange("2021-03-01", "2021-03-04", dtype="datetime64[D]")
NAMES = ["../../x", "/tmp/x", "..", ".", "a//b", "a/../b", "nul\0", "x" * 256, "ä" * 130, "CON", "com1", "x ", " x", "x.",
         "a\\b", "line\nbreak", "\x1b[31m", "\udc80"]  # fmt: skip


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_name_that_cannot_be_a_folder_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invalid names are refused when the workflow is loaded, in both file formats and as an option, before anything is
    written."""
    assert name_problem(name) or "/" in name
    monkeypatch.chdir(tmp_path)
    task = {"model": "rollforge.models.linear.LinearModel", "dataset": {"class": "DatasetH"}}
    file = tmp_path / "own.yaml"
    plain = not any(ord(c) < 32 or "\ud800" <= c <= "\udfff" for c in name)  # what YAML can hold
    for document in ({"rollforge": {"experiment": name}}, {"qlib_init": {}, "experiment_name": name}) if plain else ():
        file.write_text(yaml.safe_dump({**document, "task": task}, allow_unicode=True))
        with pytest.raises(ConfigError, match="cannot be the name of an experiment"):
            load_workflow(file)
    file.write_text(yaml.safe_dump({"task": task}))
    with pytest.raises(ConfigError, match="cannot be the name of an experiment"):
        load_workflow(file, experiment_name=name)
    assert tree(tmp_path) == {"own.yaml"}


def test_results_of_an_experiment_with_a_slash_need_an_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users of Qlib have such names, and pools may have any name; the output folder must then be given, and is not
    derived."""
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    task = {"model": "rollforge.models.linear.LinearModel", "dataset": {"class": "DatasetH"}}
    (inner / "own.yaml").write_text(yaml.safe_dump({"experiment_name": "a/b", "task": task}))
    assert load_workflow(inner / "own.yaml").experiment_name == "a/b"
    from rollforge.cli.workflow import _output_folder

    for name in ("a/b", "../../x", "..", "/tmp/elsewhere-of-rollforge"):
        with pytest.raises(ConfigError, match="--output"):
            _output_folder(None, name)
    assert _output_folder(Path("here"), "../../x") == Path("here")
    store = f"sqlite:///{inner / 'tasks.db'}"
    open_store(store).create("../../x", [{"model": {"class": "LinearModel"}}])
    done = call("report", "../../x", "--store", store, "--tracking", f"folder:{inner / 'runs'}")
    assert done.exit_code != 0
    assert {p.name for p in tmp_path.iterdir()} <= {"inner", "home", "cache"}


@pytest.mark.parametrize("kind", ["folder", "sqlite"])
def test_artifacts_stay_in_their_run(kind: str, tmp_path: Path) -> None:
    """No name of an object or folder of artifacts leads outside the run when writing or reading."""
    if kind == "sqlite":
        pytest.importorskip("mlflow")
    uri = (
        f"folder:{tmp_path / 'a' / 'b' / 'runs'}" if kind == "folder" else f"sqlite:///{tmp_path / 'a' / 'b' / 'm.db'}"
    )
    (tmp_path / "a" / "b").mkdir(parents=True)
    recorder = get_experiment(open_tracker(uri), experiment_name="../../e").create_recorder("../../r")
    before = {p for p in tree(tmp_path) if not p.startswith("a/b")}
    for name in ("../../x", "/tmp/x-of-rollforge", "..", "a/../../x", ".hidden", "nul\0", "a\\b", "x" * 300):
        with pytest.raises(RollforgeError):
            recorder.save_objects(**{name: 1})
        with pytest.raises(RollforgeError):
            recorder.load_object(name)
    for folder in ("../..", "/tmp", "a/../.."):
        with pytest.raises(RollforgeError):
            recorder.save_objects(artifact_path=folder, x=1)
        with pytest.raises(RollforgeError):
            recorder.list_artifacts(folder)
    assert {p for p in tree(tmp_path) if not p.startswith("a/b")} == before
    assert not Path("/tmp/x-of-rollforge").exists()


def series(values: Any = (1.0, 2.0, 3.0)) -> tuple[int, dict[str, Any]]:
    return 0, {"close": np.asarray(values)}


def spans(*codes: str) -> dict[str, Any]:
    return {"all": {code: [(DAYS[0], DAYS[-1])] for code in codes}}


@pytest.mark.parametrize(
    ("one", "two"),
    [("CON", "_QLIB_CON"), ("Abc", "ABC"), ("É", "E\u0301"), ("STRASSE", "straße"), ("LPT1", "_qlib_lpt1")],
)
def test_instruments_that_would_share_a_folder_are_refused(one: str, two: str, tmp_path: Path) -> None:
    """The writer, and the import of a table, refuse them with both names, and write nothing."""
    with pytest.raises(DataError) as caught:
        write_folder(tmp_path / "d", DAYS, {one: series(), two: series()}, spans(one, two))
    assert repr(one) in str(caught.value)
    assert repr(two) in str(caught.value)
    rows = [{"instrument": c, "date": str(d), "close": 1.0, "volume": 1.0} for c in (one, two) for d in DAYS]
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError):
        import_table(tmp_path / "t.csv", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_windows_device_names_are_stored_as_by_qlib(tmp_path: Path) -> None:
    """``CON`` is stored in ``_qlib_con`` as by Qlib, and ``CON.DE`` like any other code; a universe with both CON and
    _QLIB_CON is refused, since their prices would be mixed."""
    write_folder(tmp_path, DAYS, {"CON": series(), "CON.DE": series([4.0, 5.0, 6.0])}, spans("CON", "CON.DE"))
    assert {p.name for p in (tmp_path / "features").iterdir()} == {"_qlib_con", "con.de"}
    provider = open_provider(tmp_path)
    assert provider.read("close", ["CON", "CON.DE"], 0, 3).values[:, 0].tolist() == [1.0, 4.0]
    assert provider.read("close", ["_QLIB_CON"], 0, 3).values[0].tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(DataError, match=r"CON and _QLIB_CON"):
        provider.read("close", ["CON", "_QLIB_CON"], 0, 3)
    with (tmp_path / "instruments" / "all.txt").open("a") as file:
        file.write("_QLIB_CON\t2021-03-01\t2021-03-03\n")
    with pytest.raises(DataError, match=r"CON and _QLIB_CON"):
        Provider(tmp_path).instruments("all")


@pytest.mark.parametrize("name", ["../../secret", "..", "/etc/hosts", "a/b", "nul\0", ""])
def test_names_in_a_definition_do_not_lead_outside_the_folder(name: str, tmp_path: Path) -> None:
    """A universe, instrument, field or calendar with such a name does not exist, even if the file does."""
    folder = tmp_path / "market" / "data"
    write_folder(folder, DAYS, {"A": series()}, spans("A"))
    (tmp_path / "secret.txt").write_text("A\t2021-03-01\t2021-03-02\n")
    for place in (folder / "secret", tmp_path / "market" / "secret"):
        place.mkdir()
        (place / "close.day.bin").write_bytes((folder / "features" / "a" / "close.day.bin").read_bytes())
    provider = Provider(folder)
    for read in (
        lambda: provider.instruments(name),
        lambda: provider.calendar(name),
        lambda: provider.read(name, ["A"], 0, 3),
        lambda: provider.folder(name),
    ):
        with pytest.raises((DataNotFound, DataError)):
            read()
    assert not provider.has(name)
    assert np.isnan(provider.read("close", [name], 0, 3).values).all()


@pytest.mark.parametrize(("what", "name"), [("universe", "../x"), ("field", "../x"), ("instrument", "../x"),
                                            ("instrument", "x" * 300), ("universe", ""), ("field", "a\0")])  # fmt: skip
def test_nothing_is_written_outside_a_data_folder(what: str, name: str, tmp_path: Path) -> None:
    """The writer checks all names before it creates the first file."""
    code, field, universe = ("A", "close", "all")
    code, field, universe = (
        name if what == w else v for w, v in (("instrument", code), ("field", field), ("universe", universe))
    )
    with pytest.raises(DataError, match=f"name of an? {what}"):
        write_folder(tmp_path / "d", DAYS, {code: (0, {field: np.ones(3)})}, {universe: spans("A")["all"]})
    assert not (tmp_path / "d").exists()


def test_values_outside_the_range_of_float32_are_refused(tmp_path: Path) -> None:
    """1e39 is refused, with its field and instrument, by the writer and by the import; 2**60 is rounded."""
    for value in (1e39, -1e300):
        with pytest.raises(DataError, match=r"close of A is too large .* float32"):
            write_folder(tmp_path / "d", DAYS, {"A": series([1.0, value, 2.0])}, spans("A"))
    assert not (tmp_path / "d").exists()
    write_folder(tmp_path / "d", DAYS, {"A": (0, {"volume": np.array([2**60, 2**53 + 1, 3])})}, spans("A"))
    read = open_provider(tmp_path / "d").read("volume", ["A"], 0, 3).values[0]
    assert read.tolist() == [float(np.float32(2**60)), float(np.float32(2**53)), 3.0]
    for column in ("close", "volume", "factor"):
        text = "instrument,date,close,volume,factor\n" + "".join(f"A,{d},1,1,1\n" for d in DAYS[:2])
        row = {"close": "1", "volume": "1", "factor": "1", column: "1" + "0" * 400}
        text += f"A,{DAYS[2]},{row['close']},{row['volume']},{row['factor']}\n"
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(DataError):
            import_table(tmp_path / "t.csv", tmp_path / "e")
        assert not (tmp_path / "e").exists()


def test_unusual_names_are_accepted(tmp_path: Path) -> None:
    """Unusual but harmless names are accepted."""
    for name in ("lgb 158", "~x", "-x", "a.b", "con2", "CON.DE", "日本", "x:y", ".hidden"):
        assert name_problem(name) == ""
        (tmp_path / name).mkdir()
    assert len(os.listdir(tmp_path)) == 9
