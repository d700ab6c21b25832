"""Objects that runs and users save in files: pickles, JSON, arrays, archives; and the runs themselves in their folders."""

from __future__ import annotations

import datetime as dt
import functools
import io
import json
import pickle
import shutil
import tempfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fuzzing import EXAMPLES, Target, as_json, attempt, fuzzed, json_values
from hypothesis import strategies as st

from rollforge import safe_pickle
from rollforge.build import build
from rollforge.features.dataset import DatasetH
from rollforge.models import LinearModel
from rollforge.track.artifact import load_file, save
from rollforge.track.artifact_files import LocalFiles
from rollforge.track.folder import FolderTracker
from rollforge.track.mlflow import MLflowTracker
from rollforge.track.provenance import git_commit
from rollforge.track.tracker import Metric, RunQuery

_folder = tempfile.TemporaryDirectory(prefix="fuzz-kept-")
INDEX = pd.MultiIndex.from_product(
    [pd.date_range("2020-01-01", periods=3), ["A", "B"]], names=["datetime", "instrument"]
)


# -- objects -----------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    {"a": [1, 2.5, None, True], "b": ("x", b"y"), "c": {1, 2}, "d": frozenset({3})},
    [
        dt.datetime(2020, 1, 2, tzinfo=dt.UTC),
        dt.date(2020, 1, 2),
        pd.Timestamp("2020-01-02", tz="Europe/Berlin"),
        pd.Timedelta("2D"),
    ],
    pd.DataFrame({"score": np.arange(6.0)}, index=INDEX),
    pd.Series(pd.Categorical(["a", "b", "a"]), index=pd.period_range("2020", periods=3, freq="D")),
    [np.arange(6, dtype=np.float32).reshape(2, 3), np.float64(1.5), np.datetime64("2020-01-02")],
    [Counter("aab"), OrderedDict(a=1), slice(1, 2), 1 + 2j],
    LinearModel("ols"),
]


def _pickle(data: bytes, folder: Path) -> Any:
    return repr(safe_pickle.loads(data))[:100]


def _artifact(name: str) -> Any:
    def run(data: bytes, folder: Path) -> Any:
        (folder / name).write_bytes(data)
        return repr(load_file(folder / name))[:100]

    return run


def _description(data: bytes, folder: Path) -> Any:
    """Use a file as the description of an object: ``handler: file:///…``."""
    (folder / "object.pkl").write_bytes(data)
    return build(f"file://{folder}/object.pkl", accept_types=DatasetH)


def _own_file(data: bytes, folder: Path) -> Any:
    """Read a truncated file of the user's own, which is trusted."""
    whole = pickle.dumps(LinearModel("ols"))
    (folder / "model.pkl").write_bytes(whole[: len(data) % len(whole)])
    return LinearModel.load(folder / "model.pkl") if data else None


@functools.cache
def artifacts() -> dict[str, bytes]:
    """The files of an array, plain data and a saved object."""
    root = Path(_folder.name) / "artifacts"
    files = LocalFiles(root)
    save(files, "array", np.arange(6.0))
    save(files, "plain", {"a": (1, 2), "b": dt.date(2020, 1, 2)})
    return {p.name: p.read_bytes() for p in root.iterdir()}


def _named(end: str) -> tuple[str, bytes]:
    return next((n, b) for n, b in artifacts().items() if n.endswith(end))


def _array(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


OPCODES = [b"cos\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"R", b"\x81", b"b", b"0", b"2", b"(", b"t", b"}", b"]", b"e", b"u", b"s", b"h\x00", b"q\x00", b"\x94", b".",
           b"N", b"\x8e" + b"\xff" * 8, b"B\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"L99999L\n", b"I" + b"9" * 5000 + b"\n", b"cbuiltins\neval\n", b"P1\n", b"Q"]  # fmt: skip
PICKLES = [pickle.dumps(v, p) for v in VALUES for p in (2, 4, 5)]


@fuzzed(
    Target("pickle", _pickle, PICKLES, OPCODES, st.lists(st.sampled_from(OPCODES), max_size=12).map(b"".join)),
    Target("artifact-pickle", _artifact("pred.pkl"), PICKLES, OPCODES),
    Target(
        "artifact-array",
        _artifact(_named(".npy")[0]),
        [
            _named(".npy")[1],
            _array(np.zeros((2, 0))),
            _array(np.array(["a"])),
        ],
        [b"'|O'", b"(99999999999,)", b"'fortran_order'", b"a\0\0\xff"],
    ),
    Target(
        "artifact-plain",
        _artifact(_named(".json")[0]),
        [_named(".json")[1]],
        [b"$ref", b"$map", b"$ts", b'{"$ref":"os:system"}', b"rollforge.task:Nothing"],
        json_values.map(as_json),
    ),
    Target("described-object", _description, [pickle.dumps(DatasetH.__new__(DatasetH), 4)], OPCODES),
    Target("own-object-cut-short", _own_file, [b""], [b"x"]),
)
class TestObjects:
    """Objects in files."""


# -- runs in folders ---------------------------------------------------------------------------------------------------


@functools.cache
def runs() -> Path:
    """A folder of two runs."""
    root = Path(_folder.name) / "runs"
    tracker = FolderTracker(f"folder:{root}")
    tracker.prepare()
    experiment = tracker.create_experiment("demo")
    for name in ("first", "second"):
        run = tracker.create_run(experiment, name, {"user": "ann"})
        tracker.write(
            run.id, {"alpha": "1"}, [Metric("IC", 0.5, 0, 0.0), Metric("IC", float("nan"), 1, 1.0)], {"a": "b"}, ["c"]
        )
        tracker.update_run(run.id, "FINISHED", 5.0)
        save(tracker.files(run.id), "params", {"a": 1})
    return root


def _tracking(pattern: str) -> Any:
    """Read everything in a tracking folder after replacing the content of one file."""

    def run(data: bytes, folder: Path) -> Any:
        shutil.copytree(runs(), folder / "runs")
        [experiment_file] = (folder / "runs").glob("*/experiment.json")
        pattern_here = pattern.replace("<experiment>", experiment_file.parent.name)
        file = (
            sorted((folder / "runs").glob(pattern_here))[0] if "*" in pattern_here else folder / "runs" / pattern_here
        )
        file.write_bytes(data)
        tracker = FolderTracker(f"folder:{folder / 'runs'}")
        experiment = tracker.create_experiment("demo")
        for ask in (
            tracker.experiments,
            lambda: tracker.find_experiment(name="demo"),
            lambda: tracker.search([experiment], RunQuery()),
            lambda: tracker.search(
                [experiment],
                RunQuery(filter_string="metrics.IC > 0.1 and tags.user = 'ann'", order_by=["metrics.IC DESC"]),
            ),
            lambda: [
                tracker.history(r.name, "IC") for r in (folder / "runs" / experiment).iterdir() if r.name.isalnum()
            ],
            lambda: [tracker.read(r.name) for r in (folder / "runs" / experiment).iterdir() if r.name.isalnum()],
            lambda: tracker.create_run(experiment, "third", {}),
        ):
            attempt(ask)

    return run


@functools.cache
def _content(pattern: str) -> bytes:
    return sorted(runs().glob(pattern))[0].read_bytes()


def _index(data: bytes, folder: Path) -> Any:
    return _tracking("<experiment>/.runs.json")(data, folder)


LINE_WORDS = [
    b'"metrics"',
    b'"params"',
    b'"tags"',
    b'"t"',
    b'"status"',
    b'"gone"',
    b'"start"',
    b'"end"',
    b'[["IC","x",0,0]]',
    b'[["IC"]]',
    b"[]",
    b"{}",
    b'"nan"',
    b"1e999",
    b"\n",
]


@st.composite
def _entries(draw: st.DrawFn) -> bytes:
    """Read lines with the right keys and any values."""
    keys = st.sampled_from(["t", "name", "status", "start", "end", "params", "metrics", "tags", "gone"])
    made = draw(
        st.lists(st.dictionaries(keys, json_values, max_size=4).map(lambda d: as_json({"t": 1.0, **d})), max_size=3)
    )
    return b"\n".join([*made, b""])


# -- MLflow --------------------------------------------------------------------------------------------------------------


def _commit(data: bytes, folder: Path) -> Any:
    """Read the repository around a run after replacing the contents of files."""
    (folder / ".git" / "refs").mkdir(parents=True)
    head, _, rest = data.partition(b"\xff|")
    (folder / ".git" / "HEAD").write_bytes(head)
    (folder / ".git" / "packed-refs").write_bytes(rest)
    (folder / ".git" / "commondir").write_bytes(rest[:300])
    inner = folder / "inner"
    inner.mkdir()
    (inner / ".git").write_bytes(data)
    git_commit(inner)
    (inner / ".git").unlink()
    return git_commit(folder)


@fuzzed(
    Target(
        "tracking-mark",
        _tracking("rollforge-tracking.json"),
        [_content("rollforge-tracking.json")],
        [b"2", b'"format"', b"null", b'"1"'],
        json_values.map(as_json),
    ),
    Target(
        "tracking-experiment",
        _tracking("*/experiment.json"),
        [_content("*/experiment.json")],
        [b'"name"', b"null", b"5"],
        json_values.map(as_json),
    ),
    Target(
        "tracking-values", _tracking("*/*/values-*.jsonl"), [_content("*/*/values-*.jsonl")], LINE_WORDS, _entries()
    ),
    Target(
        "tracking-index",
        _index,
        [json.dumps({"format": 1, "runs": []}).encode()],
        [b'"runs"', b"[[1, 2, 3]]", b"null"],
        json_values.map(as_json),
    ),
    Target(
        "repository",
        _commit,
        [b"ref: refs/heads/main\n\xff|0123abc refs/heads/main\n", b"0123abc\n"],
        [b"gitdir: ", b"ref: ", b"../../..", b"/dev/zero"],
    ),
)
class TestRuns:
    """Runs in plain files."""


@functools.cache
def mlruns() -> Path:
    """An MLflow folder with two runs, as written by Qlib."""
    root = Path(_folder.name) / "mlruns"
    tracker = MLflowTracker(f"file:{root}")
    tracker.prepare()
    experiment = tracker.create_experiment("demo")
    for name in ("first", "second"):
        run = tracker.create_run(experiment, name, {"user": "ann"})
        tracker.write(run.id, {"alpha": "1"}, [Metric("IC", 0.5, 0, 0.0), Metric("IC", 0.25, 1, 1.0)], {"a": "b"})
        tracker.update_run(run.id, "FINISHED", 5.0)
    return root


def _mlruns(pattern: str) -> Any:
    """Read everything in such a folder after replacing the content of one file."""

    def run(data: bytes, folder: Path) -> Any:
        shutil.copytree(mlruns(), folder / "mlruns")
        file = sorted((folder / "mlruns").glob(pattern))[-1]
        file.write_bytes(data)
        tracker = MLflowTracker(f"file:{folder / 'mlruns'}")
        experiments = attempt(tracker.experiments) or {}
        attempt(lambda: tracker.find_experiment(name="demo"))
        for experiment_id in experiments.values():
            attempt(lambda experiment_id=experiment_id: tracker.search([experiment_id], RunQuery()))  # type: ignore[misc]
        for place in (folder / "mlruns").glob("*/*/meta.yaml"):
            attempt(lambda name=place.parent.name: tracker.read(name))  # type: ignore[misc]
            attempt(lambda name=place.parent.name: tracker.history(name, "IC"))  # type: ignore[misc]
            attempt(lambda name=place.parent.name: tracker.files(name).list())  # type: ignore[misc]

    return run


@functools.cache
def _mlruns_content(pattern: str) -> bytes:
    return sorted(mlruns().glob(pattern))[-1].read_bytes()


META = [
    b"artifact_location: /dev",
    b"experiment_id: ''",
    b"lifecycle_stage: gone",
    b"status: 99",
    b"start_time: x",
    b"run_id: ../..",
    b"name: 5",
    b"!!python/object/apply:os.system ['true']",
]


@fuzzed(
    Target(
        "mlflow-experiment",
        _mlruns("[!.0]*/meta.yaml"),
        [_mlruns_content("[!.0]*/meta.yaml")],
        META,
        json_values.map(as_json),
    ),
    Target("mlflow-run", _mlruns("*/*/meta.yaml"), [_mlruns_content("*/*/meta.yaml")], META, json_values.map(as_json)),
    Target(
        "mlflow-metric",
        _mlruns("*/*/metrics/IC"),
        [_mlruns_content("*/*/metrics/IC")],
        [b"nan", b"1e999", b"x 1 2", b"0 0.5"],
    ),
    Target("mlflow-tag", _mlruns("*/*/tags/user"), [b"ann"], [b"\xff", b"\n"]),
    examples=EXAMPLES // 2,
)
class TestRunsOfMLflow:
    """Runs in MLflow's folders."""
