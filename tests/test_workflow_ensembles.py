"""The key ``ensemble`` of a workflow, from the file to the values of the prediction."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from tests.documents.command_line import run

from definitions import SMALL_MARKET, TWO_WINDOWS, expressions, stores, task_definition, write_workflow
from rollforge import pipeline
from rollforge.cli.workflow import _show_plan
from rollforge.collect.combine import Ensembles, build_ensembles, ensemble_parts
from rollforge.collect.ensemble import AverageEnsemble, RollingEnsemble, SingleKeyEnsemble
from rollforge.errors import BuildError, CodeNotAllowed, ConfigError, CoverageError
from rollforge.features.api import D
from rollforge.plan import make_plan
from rollforge.run.submission import read_submission_info, submission_info
from rollforge.session import Session, using
from rollforge.store.base import open_store
from rollforge.workflow import load_workflow

OWN = '''
import pandas as pd

from rollforge import Ensemble, Model


class Times(Model):
    """Predicts a multiple of a power of the close."""

    def __init__(self, by, power=1):
        self.by, self.power = by, power

    def fit(self, dataset):
        pass

    def predict(self, dataset, segment="test"):
        return self.by * dataset.prepare(segment, col_set="feature").iloc[:, 0] ** self.power


class Weighted(Ensemble):
    """A weighted sum of the models, which modifies its arguments."""

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, ensemble_dict, *args, **kwargs):
        total = sum(self.weights[name] * frame.iloc[:, 0] for name, frame in ensemble_dict.items())
        for frame in ensemble_dict.values():
            frame.iloc[:, 0] = 0.0
        return total


class Newest(Ensemble):
    """Joins the rows of the windows in an arbitrary order."""

    def __call__(self, windows):
        return pd.concat([windows[name] for name in sorted(windows)]).iloc[::-1]


class Fails(Ensemble):
    def __call__(self, ensemble_dict, *args, **kwargs):
        return 1 / 0


class Returns(Ensemble):
    def __init__(self, what):
        self.what = what

    def __call__(self, ensemble_dict, *args, **kwargs):
        first = next(iter(ensemble_dict.values()))
        return {
            "nothing": None, "dict": ensemble_dict, "number": 1.0, "no rows": first.iloc[:0],
            "no columns": first[[]], "texts": first.astype(str), "complex": first * 1j,
            "same names": pd.concat([first, first], axis=1), "twice": pd.concat([first, first]),
            "no days": first.reset_index(drop=True),
        }[self.what]


class NeedsMore(Ensemble):
    def __call__(self, ensemble_dict, weights):
        return None


class NotOne:
    def __call__(self, ensemble_dict):
        return None
'''
CLOSE = expressions("$close", **SMALL_MARKET, learn_processors=[{"class": "DropnaLabel"}])
ONE = {"m1": {"class": "Times", "module_path": "./own.py", "kwargs": {"by": 1.0}}}
TWO = {**ONE, "m2": {"class": "Times", "module_path": "./own.py", "kwargs": {"by": -3.0, "power": 2}}}


def workflow(folder: Path, market: Path, ensemble: Any, models: dict[str, Any] | None = None) -> Path:
    """Write a workflow of two windows for each model."""
    (folder / "own.py").write_text(OWN)
    place = folder / "place"
    place.mkdir(mode=0o700, exist_ok=True)
    content = {
        "rollforge": stores(market, place, "e"),
        "models": TWO if models is None else models,
        "task": task_definition(CLOSE, TWO_WINDOWS, model=None),
        "rolling": {"step": 60},
        "ensemble": ensemble,
    }
    return write_workflow(folder / "job.yaml", content)


def train(file: Path) -> Any:
    plan = make_plan(load_workflow(file))
    pipeline.submit(plan)
    pipeline.train(plan, jobs=0)
    return plan


def written(collected: Any, session: Session, folder: Path) -> tuple[pd.Series, dict[str, str], str]:
    """Write the results, and return the prediction, the ensemble recorded in its file, and the page."""
    pipeline.write_results(collected, name="e", session=session, config="", folder=folder)
    said = json.loads(pq.read_metadata(folder / "prediction.parquet").metadata[b"rollforge"])["ensemble"]
    return pd.read_parquet(folder / "prediction.parquet")["score"], said, (folder / "report.html").read_text()


@pytest.fixture
def close(small_market: Path) -> Any:
    """A function that returns the close for the rows of a prediction."""
    with using(Session(provider_uri=str(small_market))):
        prices = D.features("all", ["$close"]).iloc[:, 0].swaplevel()
    return lambda index: prices.reindex(index).astype(np.float64)


WEIGHTED = {"class": "Weighted", "module_path": "./own.py", "kwargs": {"weights": {"m1": 0.75, "m2": 0.25}}}


def test_two_models_are_combined_by_the_ensemble_of_the_file(small_market: Path, tmp_path: Path, close: Any) -> None:
    """The rows of prediction.parquet are right, in the run itself and when collected from the pool; file, page and run
    name the ensemble. An ensemble that modifies its arguments does not change the figures of the models."""
    plan = train(workflow(tmp_path, small_market, WEIGHTED))
    session = plan.workflow.session
    for collected in (
        pipeline.collect(session, "e", plan.ids, plan=plan),
        pipeline.collect(session, "e"),
    ):
        pred, said, page = written(collected, session, tmp_path / "out")
        prices = close(pred.index)
        assert len(pred) > 1000
        np.testing.assert_allclose(pred, 0.75 * prices - 0.25 * 3 * prices**2, rtol=1e-6)
        assert said == {"windows": "RollingEnsemble", "models": "Weighted(weights={'m1': 0.75, 'm2': 0.25})"}
        assert "Weighted(weights=" in page
        assert "average of 2" not in page
        for model, expected in zip(collected.models, (prices, -3 * prices**2), strict=True):
            np.testing.assert_allclose(model.prediction.iloc[:, 0], expected, rtol=1e-6)
        summary = pipeline.write_results(collected, name="e", session=session, config="", folder=tmp_path / "out")
        recorder = pipeline.keep_result(collected, summary, session=session, pool="e")
        assert "models: Weighted" in recorder.list_tags()["rollforge.ensemble"]


def standard(scores: pd.Series) -> pd.Series:
    days = scores.groupby(level="datetime")
    return (scores - days.transform("mean")) / days.transform(lambda day: np.nanstd(day.to_numpy(), ddof=1))


@pytest.mark.parametrize(
    ("ensemble", "models", "said"),
    [
        (None, TWO, {"windows": "RollingEnsemble", "models": "AverageEnsemble"}),
        (None, ONE, {"windows": "RollingEnsemble"}),
        ("AverageEnsemble", TWO, {"windows": "RollingEnsemble", "models": "AverageEnsemble"}),
        ({"class": "AverageEnsemble"}, ONE, {"windows": "RollingEnsemble", "models": "AverageEnsemble"}),
        ({"class": "AverageEnsemble", "module_path": "qlib.model.ens.ensemble"}, TWO,
         {"windows": "RollingEnsemble", "models": "AverageEnsemble"}),
        ({"class": "RollingEnsemble", "module_path": "qlib.model.ens.ensemble"}, TWO,
         {"windows": "RollingEnsemble", "models": "AverageEnsemble"}),
        ({"class": "SingleKeyEnsemble", "module_path": "qlib.model.ens.ensemble"}, ONE,
         {"windows": "RollingEnsemble", "models": "SingleKeyEnsemble"}),
        ({"windows": {"class": "Newest", "module_path": "./own.py"}}, ONE, {"windows": "Newest"}),
        ({"windows": {"class": "Newest", "module_path": "./own.py"}, "models": None}, TWO,
         {"windows": "Newest", "models": "AverageEnsemble"}),
        ({"windows": "RollingEnsemble", "models": "rollforge.collect.AverageEnsemble"}, TWO,
         {"windows": "RollingEnsemble", "models": "AverageEnsemble"}),
    ],
)  # fmt: skip
def test_ensembles_of_rollforge_and_qlib(
    ensemble: Any, models: dict[str, Any], said: dict[str, str], small_market: Path, tmp_path: Path, close: Any
) -> None:
    """A single ensemble combines the models, even if there is only one; a RollingEnsemble joins the windows. Without an
    ensemble, several models are averaged, and the prediction of a single model is unchanged."""
    plan = train(workflow(tmp_path, small_market, ensemble, models))
    session = plan.workflow.session
    pred, found, page = written(pipeline.collect(session, "e"), session, tmp_path / "out")
    again, _, _ = written(pipeline.collect(session, "e", plan.ids, plan=plan), session, tmp_path / "out")
    pd.testing.assert_series_equal(pred, again)
    prices = close(pred.index)
    if models is TWO:
        expected = (standard(prices) + standard(-3 * prices**2)) / 2
    else:
        expected = standard(prices) if "AverageEnsemble" in said.values() else prices
    np.testing.assert_allclose(pred, expected, rtol=1e-5, atol=1e-6)
    assert pred.index.is_monotonic_increasing
    assert found == said
    assert all(name in page for name in said.values())
    assert ("average of 2" in page) == (models is TWO)


@pytest.mark.parametrize(
    ("ensemble", "words"),
    [
        ({"class": "Medain", "module_path": "./own.py"}, "own.py' has no 'Medain'"),
        ({"class": "AverageEnsembel"}, "Did you mean 'AverageEnsemble'"),
        ({"class": "Weighted", "module_path": "./own.py"}, "needs 'weights'"),
        ({"class": "Weighted", "module_path": "./own.py", "kwargs": {"weight": 1}}, "weight"),
        ({"class": "NotOne", "module_path": "./own.py"}, "does not derive from"),
        ({"class": "NeedsMore", "module_path": "./own.py"}, "weights"),
        ({"class": "LinearModel", "module_path": "rollforge.models"}, "does not derive from"),
        ({"class": "Fillna", "module_path": "rollforge.features.processor"}, "does not derive from"),
        ({"class": "Ensemble"}, "Ensemble"),
        ({"class": "Popen", "module_path": "subprocess"}, "standard library"),
        ({"class": "Mine", "module_path": "nothing_of_that_name"}, "nothing_of_that_name"),
        ({"class": "SingleKeyEnsemble"}, "there are 2 models. Use AverageEnsemble, or"),
        ({"windows": "SingleKeyEnsemble"}, "there are 2 windows. Use RollingEnsemble, or"),
        ({"models": "RollingEnsemble"}, "RollingEnsemble joins windows"),
        ({"window": "RollingEnsemble"}, "Did you mean 'windows'"),
        ({"class": "AverageEnsemble", "windows": "RollingEnsemble"}, "windows"),
        ("file:///etc/passwd", "must be a class"),
        ({"models": "file:///etc/passwd"}, "must be a class"),
        (5, "ensemble"),
        ([], "ensemble"),
        ({"models": ["AverageEnsemble"]}, "ensemble"),
        ({"models": {"class": "AverageEnsemble", "arguments": {}}}, "arguments"),
        ({"class": "Fails", "module_path": "./own.py", "kwargs": {"weights": 1}}, "weights"),
    ],
)
def test_a_wrong_ensemble_is_an_error_in_the_file(
    ensemble: Any, words: str, small_market: Path, tmp_path: Path
) -> None:
    """The plan reports it with file, line and path, before anything is stored."""
    file = workflow(tmp_path, small_market, ensemble)
    with pytest.raises(ConfigError) as caught:
        make_plan(load_workflow(file))
    said = str(caught.value)
    line = 1 + file.read_text().splitlines().index(
        next(x for x in file.read_text().splitlines() if x.startswith("ensemble"))
    )
    assert words in said
    assert "ensemble" in said
    assert str(file) in said
    assert any(f"line {n}" in said for n in range(line, line + 6)), said
    assert said.count(str(file)) == 1
    assert not (tmp_path / "place" / "tasks.db").exists()


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("nothing", BuildError, "must return a frame or a series of scores"),
        ("dict", BuildError, "must return a frame or a series of scores"),
        ("number", BuildError, "must return a frame or a series of scores"),
        ("no columns", BuildError, "must return a frame or a series of scores"),
        ("texts", BuildError, "not all values are real numbers"),
        ("complex", BuildError, "not all values are real numbers"),
        ("same names", BuildError, "several columns"),
        ("twice", BuildError, "a row twice: A on 2023-01-02"),
        ("no rows", CoverageError, "no rows"),
        ("no days", BuildError, "the result of the ensemble Returns needs an index"),
        ("unknown", BuildError, "KeyError"),
    ],
)
@pytest.mark.parametrize("part", ["windows", "models"])
def test_a_result_that_is_not_a_prediction_is_an_error(
    part: str, what: str, error: Any, words: str, tmp_path: Path
) -> None:
    """The error names the ensemble, and says that a frame of scores by day and instrument is expected."""
    (tmp_path / "own.py").write_text(OWN)
    config = {part: {"class": "Returns", "module_path": str(tmp_path / "own.py"), "kwargs": {"what": what}}}
    ensembles = build_ensembles(config)
    index = pd.MultiIndex.from_product(
        [pd.date_range("2023-01-02", periods=2), ["A", "B"]], names=["datetime", "instrument"]
    )
    frame = pd.DataFrame({"score": [1.0, 2.0, 3.0, 4.0]}, index)
    with pytest.raises(error, match=words) as caught:
        ensembles.combine({"m": ensembles.join({("m", "w"): frame})["m"]}, models=1)
    assert "Returns" in str(caught.value)


def test_rows_that_an_ensemble_leaves_out_or_adds_are_a_warning(tmp_path: Path) -> None:
    """The warning counts them and names the first; an ensemble that keeps all rows with a score gives no warning."""
    (tmp_path / "own.py").write_text(
        "from rollforge import Ensemble\n"
        "class Some(Ensemble):\n"
        "    def __init__(self, rows): self.rows = rows\n"
        "    def __call__(self, ensemble_dict):\n"
        "        return next(iter(ensemble_dict.values())).reindex(self.rows)\n"
    )
    days = [pd.Timestamp("2023-01-02"), pd.Timestamp("2023-01-03")]
    index = pd.MultiIndex.from_product([days, ["A", "B"]], names=["datetime", "instrument"])
    frame = pd.DataFrame({"score": [1.0, 2.0, 3.0, np.nan], "of a user": [np.nan, 1.0, 1.0, 1.0]}, index)
    other = pd.MultiIndex.from_tuples([(days[0], "A"), (days[1], "C")], names=index.names)
    for part in ("windows", "models"):
        for rows, expected in (
            (index, ()),
            (index[:3], ()),
            (index[1:], ("The ensemble Some left out 1 row of 3, such as A on 2023-01-02.",)),
            (other[:1], ("The ensemble Some left out 2 rows of 3, such as B on 2023-01-02.",)),
        ):
            config = {"class": "Some", "module_path": str(tmp_path / "own.py"), "kwargs": {"rows": rows}}
            ensembles = build_ensembles({part: config})
            frames = {("m", "w"): frame}
            joined = ensembles.join(frames)
            assert ensembles.remarks(frames, joined, ensembles.combine(joined, models=1)) == expected
    added = Ensembles(
        windows=lambda parts: parts["w"], models=lambda parts: parts["m"].fillna(7.0), config={"models": {}}
    )
    made = added.combine({"m": frame}, models=1)
    (text,) = added.remarks({("m", "w"): frame}, {"m": frame}, made)
    assert "added 1 row, such as B on 2023-01-03." in text
    ours = build_ensembles({"windows": "RollingEnsemble"}, models=1, windows=2)
    frames = {("m", "w1"): frame, ("m", "w2"): frame[2:] * np.nan}
    assert ours.remarks(frames, ours.join(frames), None) == ()  # the later window's row has no score


def test_the_plan_shows_the_ensembles(small_market: Path, tmp_path: Path) -> None:
    """On a line of their own, if there are several models or the file names one; secrets in arguments are masked."""
    secret = {"class": "Returns", "module_path": "./own.py", "kwargs": {"what": "postgresql://ann:s3cret@db"}}
    for ensemble, models, line in (
        (None, ONE, None),
        (None, TWO, "ensemble  RollingEnsemble over the windows; AverageEnsemble over the models"),
        (
            WEIGHTED,
            TWO,
            "ensemble  RollingEnsemble over the windows; Weighted(weights={'m1': 0.75, 'm2': 0.25}) over the models",
        ),
        ({"windows": {"class": "Newest", "module_path": "./own.py"}}, ONE, "ensemble  Newest over the windows"),
        (
            secret,
            ONE,
            "ensemble  RollingEnsemble over the windows; Returns(what='postgresql://ann:***@db') over the models",
        ),
    ):
        plan = make_plan(load_workflow(workflow(tmp_path, small_market, ensemble, models)))
        out = io.StringIO()
        _show_plan(plan, Console(file=out, width=60))
        assert [x for x in out.getvalue().splitlines() if x.startswith("ensemble")] == ([] if line is None else [line])


def test_long_arguments_of_an_ensemble_are_shortened() -> None:
    """Long arguments are shortened to 200 characters."""
    for more, end in ((0, "a')"), (1, "a…)")):
        kwargs = {"x": "a" * (200 - len("x=''") + more)}
        named = Ensembles(config={"windows": {"kwargs": kwargs}}).names(1)["windows"]
        assert named.startswith("RollingEnsemble(x='aaa")
        assert named.endswith(end)
        assert len(named) == len("RollingEnsemble()") + 200 + more


def test_the_ensemble_of_the_latest_submission_applies(small_market: Path, tmp_path: Path, close: Any) -> None:
    """If the ensemble in the file is changed or removed, nothing is trained again, and the latest one applies. Keys of
    submissions without the key are unchanged."""
    plan = train(workflow(tmp_path, small_market, WEIGHTED))
    session, store = plan.workflow.session, open_store(plan.workflow.session.store_uri)
    for ensemble, name in (("AverageEnsemble", "AverageEnsemble"), (WEIGHTED, "Weighted"), (None, "AverageEnsemble")):
        pipeline.submit(make_plan(load_workflow(workflow(tmp_path, small_market, ensemble))))
        assert pipeline.collect(session, "e").ensembles["models"].partition("(")[0] == name
        assert {t.attempts for t in store.query("e")} == {1}
    assert "ensemble" not in submission_info(plan.tasks, session, {})
    assert (
        read_submission_info({"ensemble": 5}).ensemble
        == read_submission_info({"ensemble": {"x": 1, "files": 7}}).ensemble
        == {}
    )


def test_the_ensemble_of_a_shared_pool_is_not_run(small_market: Path, tmp_path: Path) -> None:
    """The class of the ensemble is neither imported nor built unless it is allowed, and neither are classes of
    libraries; Rollforge's ensembles are built. With the workflow file, the ensemble is the user's own."""
    plan = train(workflow(tmp_path, small_market, WEIGHTED))
    session, store = plan.workflow.session, open_store(plan.workflow.session.store_uri)
    (tmp_path / "place").chmod(0o770)
    with pytest.raises(CodeNotAllowed, match=r"own.py, which this program may not run.*ROLLFORGE_ALLOW=") as caught:
        pipeline.collect(session, "e")
    assert "--allow" not in str(caught.value)
    allowing = session.with_(allow=(str(tmp_path / "own.py"),))
    assert pipeline.collect(allowing, "e").ensembles["models"].startswith("Weighted")
    for config in (
        {"models": {"class": "Module", "module_path": "torch.nn"}},
        {"models": {"class": "RecorderCollector", "kwargs": {"experiment": "e"}}},
        {"models": {"class": "Ridge", "module_path": "sklearn.linear_model"}},
    ):
        store.keep_submission("e", submission_info(plan.tasks, session, config))
        with pytest.raises(ConfigError) as caught:
            pipeline.collect(allowing, "e")
        assert "ROLLFORGE_ALLOW" not in str(caught.value)
    own = make_plan(load_workflow(workflow(tmp_path, small_market, WEIGHTED))).ensembles.config["models"]
    both = {"windows": {"class": "RollingEnsemble", "module_path": "rollforge.collect"}, "models": own}
    store.keep_submission("e", submission_info(plan.tasks, session, both))
    assert pipeline.collect(allowing, "e").ensembles["models"].startswith("Weighted")
    store.keep_submission("e", submission_info(plan.tasks, session, {"models": {"class": "AverageEnsemble"}}))
    assert pipeline.collect(session, "e").ensembles["models"] == "AverageEnsemble"


def test_a_changed_file_of_the_ensemble_is_a_warning(small_market: Path, tmp_path: Path) -> None:
    """The predictions are still valid, but may have been joined differently."""
    plan = train(workflow(tmp_path, small_market, WEIGHTED))
    session = plan.workflow.session
    assert not [w for w in pipeline.collect(session, "e").warnings if "own.py" in w]
    (tmp_path / "own.py").write_text(f"{OWN}\n")
    (found,) = [w for w in pipeline.collect(session, "e").warnings if "own.py" in w]
    assert "has changed since" in found


def test_an_average_over_a_model_without_results_is_an_average() -> None:
    """If one of two models has no finished window, the scores of the other are still standardized."""
    index = pd.MultiIndex.from_product(
        [pd.date_range("2023-01-02", periods=2), ["A", "B"]], names=["datetime", "instrument"]
    )
    frame = pd.DataFrame({"score": [1.0, 3.0, 30.0, 10.0]}, index)
    made = build_ensembles(None).combine({"m": frame}, models=2)
    assert made is not None
    pd.testing.assert_series_equal(made["score"], AverageEnsemble()({"m": frame}), check_names=False)
    assert build_ensembles(None).combine({"m": frame}, models=1) is frame
    assert build_ensembles("AverageEnsemble").combine({}, models=1) is None


class Renamed:
    """Returns the first frame, whose scores have another name, or nothing."""

    def __init__(self, *, nothing: bool = False) -> None:
        self.nothing = nothing

    def __call__(self, given: dict[Any, pd.DataFrame]) -> Any:
        return None if self.nothing else next(iter(given.values())).rename(columns={"score": "mine"})


def test_only_the_combination_of_models_is_named() -> None:
    """The scores of the combination are the prediction; joined windows keep their names. An error lists up to three
    frames."""
    index = pd.MultiIndex.from_product([[pd.Timestamp("2023-01-02")], ["A", "B"]], names=["datetime", "instrument"])
    frame = pd.DataFrame({"score": [1.0, 3.0], "other": 0.0}, index)
    combined = Ensembles(models=Renamed()).combine({"m": frame}, models=1)
    assert combined is not None
    assert list(combined) == ["score", "other"]
    joined = Ensembles(windows=Renamed(), config={"windows": {}}).join({("m", "w"): frame})["m"]
    assert list(joined) == ["mine", "other"]
    for names, listed in (("abc", "'a', 'b', 'c', found"), ("abcd", "'a', 'b', 'c', …, found")):
        with pytest.raises(BuildError, match=listed):
            Ensembles(models=Renamed(nothing=True)).combine(dict.fromkeys(names, frame), models=len(names))
    with pytest.raises(CoverageError, match=r"^The result 'm' has the row .* twice"):  # an error with its own message
        Ensembles(models=AverageEnsemble()).combine({"m": pd.concat([frame, frame])}, models=1)


def test_the_parts_of_an_ensemble_are_windows_and_models() -> None:
    """A part without a class is left out; windows of one model may be joined anywhere."""
    assert ensemble_parts({"windows": None, "models": "AverageEnsemble"}) == {"models": "AverageEnsemble"}
    with pytest.raises(ConfigError, match="unknown key 'model'"):
        ensemble_parts({"model": {"class": "AverageEnsemble"}})
    assert type(build_ensembles({"models": "RollingEnsemble"}).models) is RollingEnsemble
    only = build_ensembles(dict.fromkeys(("windows", "models"), "SingleKeyEnsemble"))
    assert {type(only.windows), type(only.models)} == {SingleKeyEnsemble}
    for config, path in (({"models": "file://x"}, "ensemble.models"), ("file://x", "ensemble")):
        with pytest.raises(ConfigError) as caught:
            build_ensembles(config)
        assert caught.value.path == path
    with pytest.raises(ConfigError, match="With 2 models, it would keep only one"):
        build_ensembles({"models": "RollingEnsemble"}, models=2)


@pytest.mark.slow
def test_the_command_line_uses_the_ensemble(small_market: Path, tmp_path: Path, close: Any) -> None:
    """``run FILE``, ``report NAME``, ``collect NAME`` and ``report FILE``, each in a separate process and folder."""
    file = workflow(tmp_path, small_market, WEIGHTED)
    where = [
        "--store", f"sqlite:///{tmp_path}/place/tasks.db", "--tracking", f"folder:{tmp_path}/place/runs",
    ]  # fmt: skip
    for i, words in enumerate(
        (["run", str(file), "--jobs", "0"], ["report", "e", *where], ["collect", "e", *where], ["report", str(file)])
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        done = run(*words, "--output", "out", cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Weighted" in done.stdout
        pred = pd.read_parquet(folder / "out" / "prediction.parquet")["score"]
        prices = close(pred.index)
        np.testing.assert_allclose(pred, 0.75 * prices - 0.75 * prices**2, rtol=1e-6)
