"""The portfolio analysis of a run: Qlib's artifacts and metrics, from Qlib's configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.build import build
from rollforge.errors import ArtifactNotFound, ConfigError, DataNotFound
from rollforge.record.analysis import risk_analysis
from rollforge.record.backtest import SimulatorExecutor, TopkDropoutStrategy, backtest, run_backtest
from rollforge.record.portfolio import MultiPassPortAnaRecord, PortAnaRecord, indicator_analysis
from rollforge.session import Session, using
from rollforge.track.base import Recorder, get_experiment, open_tracker

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDER = "portfolio_analysis"


@pytest.fixture
def session(golden_market: Path, tmp_path: Path) -> Iterator[Session]:
    made = Session(provider_uri=str(golden_market), tracking_uri=f"folder:{tmp_path / 'runs'}")
    with using(made):
        yield made


@pytest.fixture
def prediction() -> pd.DataFrame:
    frame = pd.read_parquet(GOLDEN / "rolling_prediction.parquet").loc["2016-01-04":"2016-03-31"]
    return frame + np.random.default_rng(0).normal(size=(len(frame), 1))


@pytest.fixture
def recorder(session: Session, prediction: pd.DataFrame) -> Recorder:
    made = get_experiment(open_tracker(session.tracking_uri), experiment_name="e").create_recorder()
    made.save_objects(**{"pred.pkl": prediction, "label.pkl": prediction})
    return made


def _config(**backtest: Any) -> dict[str, Any]:
    """Return the configuration of a Qlib workflow file."""
    return {
        "strategy": {
            "class": "TopkDropoutStrategy",
            "module_path": "qlib.contrib.strategy",
            "kwargs": {"signal": "<PRED>", "topk": 5, "n_drop": 2},
        },
        "backtest": {
            "start_time": None,
            "end_time": None,
            "account": 1_000_000,
            "benchmark": "X000",
            "exchange_kwargs": {"deal_price": "close", "open_cost": 0.0005, "close_cost": 0.0015, "min_cost": 5},
            **backtest,
        },
    }


def _record(recorder: Recorder, config: Any, **kwargs: Any) -> PortAnaRecord:
    made = build(
        {"class": "PortAnaRecord", "module_path": "qlib.workflow.record_temp", "kwargs": {"config": config, **kwargs}},
        recorder=recorder,
    )
    assert isinstance(made, PortAnaRecord)
    return made


def test_artifacts_and_metrics(recorder: Recorder, prediction: pd.DataFrame, session: Session) -> None:
    """Report, positions, risk figures and indicators are those of the backtest, with Qlib's names."""
    record = _record(recorder, _config())
    record.generate()
    recorder.flush()
    direct = run_backtest(TopkDropoutStrategy(signal=prediction, topk=5, n_drop=2), **_config()["backtest"])
    report = recorder.load_object(f"{FOLDER}/report_normal_1day.pkl")
    pd.testing.assert_frame_equal(report, direct.report, check_freq=False)
    assert str(report.index[-1].date()) == "2016-04-01"
    assert recorder.load_object(f"{FOLDER}/positions_normal_1day.pkl") == direct.positions
    risk = recorder.load_object(f"{FOLDER}/port_analysis_1day.pkl")["risk"]
    excess = report["return"] - report["bench"]
    expected = risk_analysis(excess - report["cost"], freq="day")["risk"]
    assert risk["excess_return_with_cost"].to_dict() == expected.to_dict()
    metrics = recorder.list_metrics()
    for kind, name in risk.index:
        assert metrics[f"1day.{kind}.{name}"] == pytest.approx(risk[kind, name])
    assert metrics["1day.ffr"] == pytest.approx(direct.indicators["ffr"].mean(), rel=0.1)
    assert sorted(recorder.list_artifacts(FOLDER)) == sorted(f"{FOLDER}/{name}" for name in record.list())
    record.check(include_self=True)


def test_configuration_is_not_changed(recorder: Recorder) -> None:
    """The given mapping is not modified, so it can be used again."""
    config = _config()
    _record(recorder, config).generate()
    assert config == _config()


def test_skip_existing(recorder: Recorder) -> None:
    """With skip_existing, existing artifacts are not computed again; without it, they are."""
    _record(recorder, _config()).generate()
    assert _record(recorder, _config(), skip_existing=True).generate() is None
    assert _record(recorder, _config()).generate() is not None


def test_no_prediction(session: Session) -> None:
    """For a run without a prediction, the error says that it is missing."""
    empty = get_experiment(open_tracker(session.tracking_uri), experiment_name="e").create_recorder()
    with pytest.raises(ArtifactNotFound, match=r"pred\.pkl"):
        _record(empty, _config()).generate()


def test_default_configuration(recorder: Recorder) -> None:
    """Without a configuration there are the 50 best and no benchmark; in China there is Qlib's benchmark, which must exist."""
    made = _record(recorder, None).generate()
    assert (made["report_normal_1day.pkl"]["bench"] == 0).all()
    with (
        using(Session(provider_uri=_provider(), region="cn")),
        pytest.raises(DataNotFound, match=r"'SH000300'.*config\.backtest\.benchmark"),
    ):
        _record(recorder, None).generate()


def _provider() -> str:
    from rollforge.session import current_session

    uri = current_session().provider_uri
    assert uri is not None
    return uri


def test_model_and_dataset_form_needs_both(recorder: Recorder) -> None:
    """The error for a strategy with an unfilled placeholder has its location."""
    config = _config()
    config["strategy"]["kwargs"]["signal"] = "<PREDICTION>"
    with pytest.raises(ConfigError, match=r"found '<PREDICTION>'.*'<PRED>' stands for"):
        _record(recorder, config).generate()


def test_analyses_can_be_left_out(recorder: Recorder) -> None:
    """An empty list of frequencies omits the analysis from artifacts and metrics."""
    record = _record(recorder, _config(), risk_analysis_freq=[], indicator_analysis_freq=[])
    made = record.generate()
    recorder.flush()
    assert not any("analysis" in name for name in made)
    assert sorted(made) == sorted(record.list())
    assert recorder.list_metrics() == {}


def test_a_window_that_never_trades_is_still_recorded(recorder: Recorder, caplog: Any) -> None:
    """A range without predictions gives a flat report and a warning, not an exception."""
    with caplog.at_level(logging.WARNING):
        made = _record(recorder, _config(start_time="2017-01-03", end_time="2017-01-31", benchmark=None)).generate()
    assert "it never trades" in caplog.text
    assert (made["report_normal_1day.pkl"]["return"] == 0).all()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"config": {**_config(), "strategi": {}}}, "config: unknown key 'strategi'. Did you mean 'strategy'"),
    ({"config": _config(begin=1)}, r"config\.backtest\.begin: unknown key"),
    ({"config": {"strategy": {}}}, "needs 'strategy' and 'backtest'"),
    ({"config": {"strategy": {}, "backtest": "x"}}, r"config\.backtest: expected a mapping"),
    ({"config": _config(pos_type="InfPosition")}, "pos_type"),
    ({"config": _config(), "risk_analysis_freq": "week"}, "risk_analysis_freq: backtests are daily"),
]


@pytest.mark.parametrize(("kwargs", "words"), BAD)
def test_bad_configurations(recorder: Recorder, kwargs: dict[str, Any], words: str) -> None:
    """An invalid configuration gives one message with its location, before anything runs."""
    with pytest.raises(ConfigError, match=words):
        _record(recorder, **kwargs)


OLD_OPTIONS: dict[str, Any] = {
    "limit_threshold": 0.095, "deal_price": "close", "open_cost": 0.0005, "close_cost": 0.0015, "min_cost": 5,
    "verbose": False,
}  # fmt: skip


def test_the_older_form(recorder: Recorder, caplog: Any) -> None:
    """The exchange's options directly under `backtest`, and a strategy without a signal, give the numbers of today's
    form.
    """
    new = _config(exchange_kwargs={k: v for k, v in OLD_OPTIONS.items() if k != "verbose"})
    old = {
        "strategy": {
            "class": "TopkDropoutStrategy",
            "module_path": "qlib.contrib.strategy.strategy",
            "kwargs": {"topk": 5, "n_drop": 2},
        },
        "backtest": {"account": 1_000_000, "benchmark": "X000", "shift": 1, **OLD_OPTIONS},
    }
    with caplog.at_level(logging.INFO):
        made = _record(recorder, old).generate()["report_normal_1day.pkl"]
    pd.testing.assert_frame_equal(made, _record(recorder, new).generate()["report_normal_1day.pkl"])
    assert "limit_threshold, open_cost, close_cost, min_cost are options of the exchange" in caplog.text


BAD_OLD: list[tuple[dict[str, Any], str]] = [
    ({"deal_price": "open"}, r"config\.backtest\.deal_price: is 'open', but 'close' in exchange_kwargs"),
    ({"shift": 2}, r"config\.backtest\.shift: found 2, but orders always use the scores of the previous trading day"),
    ({"open_csot": 1, "x": 2}, r"config\.backtest\.open_csot: unknown key.*'open_cost'.*Also unknown: 'x'\."),
    ({"limit_threshold": "much"}, r"config\.backtest\.exchange_kwargs: limit_threshold must be a number"),
    ({"exchange_kwargs": 3}, r"config\.backtest\.exchange_kwargs: expected a mapping"),
    ({"start_time": "soon"}, r"config\.backtest\.start_time"),
    ({"account": -1}, r"config\.backtest\.account"),
]


@pytest.mark.parametrize(("options", "words"), BAD_OLD)
def test_options_are_checked_before_anything_runs(recorder: Recorder, options: dict[str, Any], words: str) -> None:
    """An invalid option is reported when the record is created: at `plan`, not after training."""
    with pytest.raises(ValueError, match=words):
        _record(recorder, _config(**options))


BAD_STRATEGIES: list[tuple[dict[str, Any], str]] = [
    ({"class": "EnhancedIndexingStrategy"}, "EnhancedIndexingStrategy is not supported: it needs a risk model"),
    ({"class": "TopkDropoutStrategie"}, "Did you mean 'TopkDropoutStrategy'"),
    ({"class": "TopkDropoutStrategy", "kwargs": {"topk": 5}}, r"config\.strategy\.kwargs: .*needs 'n_drop'"),
    ({"class": "dict", "module_path": "builtins"}, r"config\.strategy: dict is not a strategy"),
    ({"class": "TWAPStrategy", "module_path": "qlib.contrib.strategy.rule_strategy"}, "high-frequency trading"),
]


@pytest.mark.parametrize(("strategy", "words"), BAD_STRATEGIES)
def test_strategies_are_checked_before_anything_runs(
    recorder: Recorder, strategy: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unsupported strategy, or a missing argument, gives one message when the record is created."""
    monkeypatch.setattr("rollforge.qlib_imports._top", lambda: None)  # as without pyqlib
    strategy = {"module_path": "qlib.contrib.strategy.signal_strategy", **strategy}
    with pytest.raises(ConfigError, match=words):
        _record(recorder, {**_config(), "strategy": strategy})


# -- several passes ----------------------------------------------------------------------------------------------------


def _passes(recorder: Recorder, config: Any = None, **kwargs: Any) -> MultiPassPortAnaRecord:
    arguments = {"config": config or _config(), **kwargs}
    made = build(
        {"class": "MultiPassPortAnaRecord", "module_path": "qlib.workflow.record_temp", "kwargs": arguments},
        recorder=recorder,
    )
    assert isinstance(made, MultiPassPortAnaRecord)
    return made


def test_passes_without_shuffling_are_equal(recorder: Recorder) -> None:
    """Passes without shuffling have the figures of the single backtest, no deviation, and no ratio of the two."""
    single = _record(recorder, _config()).generate()["port_analysis_1day.pkl"]["risk"]
    record = _passes(recorder, pass_num=3, shuffle_init_score=False)
    made = record.generate()["multi_pass_port_analysis_1day.pkl"]
    recorder.flush()
    figures = ["annualized_return", "information_ratio"]
    assert list(made.columns) == ["mean", "std", "mean_std"]
    for kind in ("excess_return_without_cost", "excess_return_with_cost"):
        assert made.loc[kind].index.tolist() == figures
        assert made.loc[kind]["mean"].to_dict() == pytest.approx(single[kind][figures].to_dict())
    assert made["std"].tolist() == pytest.approx([0] * 4, abs=1e-12)
    assert made["mean_std"].isna().all()
    metrics = recorder.list_metrics()
    expected = made.loc[("excess_return_with_cost", "annualized_return"), "mean"]
    assert metrics["mean.excess_return_with_cost.annualized_return"] == expected
    record.check(include_self=True)


def test_passes_shuffle_the_first_traded_scores(recorder: Recorder, prediction: pd.DataFrame) -> None:
    """Each pass shuffles only the scores that the first day trades on; the seed makes this repeatable."""
    for start, expected in ((None, "2016-01-04"), ("2016-02-01", "2016-01-29")):
        record = _passes(recorder, _config(start_time=start), pass_num=2)
        shuffled = record._shuffled(prediction, np.random.default_rng(1))
        changed = (shuffled != prediction).any(axis=1)
        days = prediction.index.get_level_values("datetime")[changed.to_numpy()].unique()
        assert [str(d.date()) for d in days] == [expected]
        day = prediction.loc[expected]["score"]
        assert sorted(shuffled.loc[expected]["score"]) == sorted(day)
    name = "multi_pass_port_analysis_1day.pkl"
    one, same, other = (_passes(recorder, pass_num=3, seed=seed).generate()[name] for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)
    assert (one["std"] > 0).all()
    # Qlib's own workflow gives model and dataset as the signal: the run's prediction is shuffled nevertheless.
    config = _config()
    config["strategy"]["kwargs"]["signal"] = ["<MODEL>", "<DATASET>"]
    pd.testing.assert_frame_equal(_passes(recorder, config, pass_num=3, seed=1).generate()[name], one)
    np.testing.assert_allclose(one["mean_std"], one["mean"] / one["std"])


def test_bad_passes(recorder: Recorder, prediction: pd.DataFrame) -> None:
    """An invalid number of passes, and a strategy that is already built, give one message."""
    with pytest.raises(ConfigError, match="pass_num: must be a whole number, at least 1"):
        _passes(recorder, pass_num=0)
    made = TopkDropoutStrategy(signal=prediction, topk=1, n_drop=1)
    with pytest.raises(ConfigError, match="the definition of a strategy"):
        _passes(recorder, {**_config(), "strategy": made})


def test_errors_name_the_place_in_the_configuration(recorder: Recorder) -> None:
    """An error inside the backtest has its path in the record's configuration."""
    with pytest.raises(ConfigError, match=r"config\.backtest\.exchange_kwargs: unknown option 'fee'"):
        _record(recorder, _config(exchange_kwargs={"fee": 1}))
    with pytest.raises(DataNotFound, match=r"config\.backtest\.benchmark"):
        _record(recorder, _config(benchmark="NOPE")).generate()
    with pytest.raises(ConfigError, match=r"there are no data for the benchmark 'NOPE'"):
        _record(recorder, _config(benchmark=["NOPE"])).check_data()
    _record(recorder, _config(benchmark=None)).check_data()
    config = _config()
    config["strategy"]["kwargs"] |= {"signal": "<PRED>", "topk": "two"}
    with pytest.raises(ConfigError, match="topk: must be a whole number, at least 1; found 'two'"):
        _record(recorder, config)
    config = _config()
    config["strategy"]["kwargs"]["n_dropp"] = 1
    with pytest.raises(ConfigError, match=r"config\.strategy\.kwargs: .*'n_dropp'.*'n_drop'"):
        _record(recorder, config).generate()


def test_indicator_analysis_weights() -> None:
    """Days are weighted by orders, amounts or values; days without orders do not count."""
    frame = pd.DataFrame(
        {
            "ffr": [1.0, 0.5, np.nan], "pa": [0.1, 0.2, np.nan], "pos": [1.0, 0.0, np.nan],
            "deal_amount": [1.0, 3.0, 0.0], "value": [30.0, 10.0, 0.0], "count": [1.0, 1.0, 0.0],
        }
    )  # fmt: skip
    assert indicator_analysis(frame)["value"].to_dict() == pytest.approx({"ffr": 0.75, "pa": 0.15, "pos": 0.5})
    assert indicator_analysis(frame, "amount_weighted")["value"]["ffr"] == pytest.approx(0.625)
    assert indicator_analysis(frame, "value_weighted")["value"]["ffr"] == pytest.approx(0.875)
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        indicator_analysis(frame, "meen")


def test_the_default_benchmark(recorder: Recorder, session: Session, caplog: Any) -> None:
    """In China it is Qlib's SH000300 if the data have it, else an error says that it is missing; elsewhere there is
    none.
    """
    config = _config()
    del config["backtest"]["benchmark"]
    assert (_record(recorder, config).generate()["report_normal_1day.pkl"]["bench"] == 0).all()
    china = Session(provider_uri=session.provider_uri, region="cn")
    with using(china), caplog.at_level(logging.WARNING):
        assert (_record(recorder, config).generate()["report_normal_1day.pkl"]["bench"] == 0).all()
    assert "the data do not contain Qlib's default, SH000300" in caplog.text
    features = Path(str(session.provider_uri)) / "features"
    place = features / "sh000300"
    place.symlink_to(features / "x001")
    try:
        with using(china):
            named = _record(recorder, _config(benchmark="X001")).generate()["report_normal_1day.pkl"]
            made = _record(recorder, config).generate()["report_normal_1day.pkl"]
            metrics, _ = backtest(None, None, _direct(recorder), SimulatorExecutor(generate_portfolio_metrics=True))
    finally:
        place.unlink()
    assert (made["bench"] != 0).any()
    pd.testing.assert_series_equal(made["bench"], named["bench"])
    pd.testing.assert_series_equal(metrics["1day"][0]["bench"], named["bench"])


def _direct(recorder: Recorder) -> TopkDropoutStrategy:
    return TopkDropoutStrategy(signal=recorder.load_object("pred.pkl"), topk=5, n_drop=2)
