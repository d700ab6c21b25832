"""The daily backtest: cash flows add up, nothing looks ahead, invalid options are reported."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from tests.record.conftest import FREE, MakeMarket, days_of, nan, scores

from rollforge.build import build
from rollforge.errors import BuildError, ConfigError, DataError, DataNotFound
from rollforge.record.account import Account
from rollforge.record.backtest import (
    BacktestResult,
    BaseSignalStrategy,
    SimulatorExecutor,
    TopkDropoutStrategy,
    backtest,
    backtest_daily,
    run_backtest,
)
from rollforge.record.decision import Order, OrderDir
from rollforge.record.market import Market
from rollforge.record.position import Position
from rollforge.record.rules import Rules
from rollforge.record.scores import Scores, SignalWCache
from rollforge.session import Session, using

GOLDEN = Path(__file__).parents[1] / "golden"
START, END = "2016-01-04", "2016-06-30"


@pytest.fixture(scope="module")
def prediction() -> pd.DataFrame:
    """Return a signal without equal scores, over half a year."""
    frame = pd.read_parquet(GOLDEN / "rolling_prediction.parquet").loc["2015-12-31":END]
    return frame + np.random.default_rng(0).normal(size=(len(frame), 1))


@pytest.fixture(scope="module")
def session(golden_market: Path) -> Session:
    return Session(provider_uri=str(golden_market), region="us")


def _run(signal: Any, session: Session, *, topk: int = 5, n_drop: int = 2, **options: Any) -> BacktestResult:
    kept = {"start_time": START, "end_time": END, "account": 1e6}
    own = {k: options.pop(k) for k in list(options) if k in ("hold_thresh", "method_buy", "method_sell", "seed")}
    strategy = TopkDropoutStrategy(signal=signal, topk=topk, n_drop=n_drop, **own)
    return run_backtest(strategy, session=session, **{**kept, **options})


def test_books_add_up(prediction: pd.DataFrame, session: Session) -> None:
    """Each day, account = value + cash = the previous account x (1 + return - cost), and positions agree."""
    result = _run(prediction, session)
    report = result.report
    before = report["account"].shift(fill_value=1e6)
    np.testing.assert_allclose(report["account"], report["value"] + report["cash"])
    np.testing.assert_allclose(report["account"], before * (1 + report["return"] - report["cost"]))
    np.testing.assert_allclose(report["total_cost"].diff().iloc[1:], (report["cost"] * before).iloc[1:])
    np.testing.assert_allclose(result.trades["cost"].sum(), report["total_cost"].iloc[-1])
    np.testing.assert_allclose(result.trades["value"].abs().sum(), report["total_turnover"].iloc[-1])
    for day, position in result.positions.items():
        stocks = [v for v in position.values() if isinstance(v, dict)]
        worth = sum(s["amount"] * s["price"] for s in stocks)
        assert worth + position["cash"] == pytest.approx(report["account"][day])
        assert sum(s["weight"] for s in stocks) == pytest.approx(worth / position["now_account_value"])


def test_orders_follow_from_the_day_before(prediction: pd.DataFrame, session: Session) -> None:
    """Scores from a given day on change nothing up to and including that day, and something after it."""
    day = "2016-03-15"
    changed = prediction.copy()
    changed.loc[day:] = -changed.loc[day:].to_numpy()
    one, other = _run(prediction, session).report, _run(changed, session).report
    pd.testing.assert_frame_equal(one.loc[:day], other.loc[:day])
    assert not one.equals(other)


def test_row_order_of_the_signal_does_not_matter(prediction: pd.DataFrame, session: Session) -> None:
    """Shuffled rows, swapped levels, a Series instead of a frame, equal scores: the same result."""
    coarse = prediction.round(0)
    expected = _run(coarse, session).report
    shuffled = coarse.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(_run(shuffled, session).report, expected)
    pd.testing.assert_frame_equal(_run(shuffled.swaplevel()["score"], session).report, expected)


def test_topk_and_n_drop(prediction: pd.DataFrame, session: Session) -> None:
    """At most topk + n_drop instruments are held, at most n_drop are sold per day, and the first day buys topk."""
    result = _run(prediction, session, topk=6, n_drop=2)
    held = [len(p) - 2 for p in result.positions.values()]
    assert held[0] == 6
    assert max(held) <= 8
    sold = result.trades.query("amount < 0").groupby(level="datetime").size()
    assert sold.max() <= 2


def test_the_best_are_bought_equally(prediction: pd.DataFrame, session: Session) -> None:
    """The first day buys the previous day's best, each for the same amount of cash, 95 percent in total."""
    trades = _run(prediction, session, topk=4).trades.loc[START:START]
    best = prediction.loc["2015-12-31"]["score"].nlargest(4)
    assert list(trades["instrument"]) == list(best.index)
    np.testing.assert_allclose(trades["value"], 0.95e6 / 4, rtol=0.01)


def test_n_drop_zero_keeps(prediction: pd.DataFrame, session: Session) -> None:
    """Replacing none per day sells nothing (pyqlib sells everything, every day)."""
    result = _run(prediction, session, n_drop=0)
    assert (result.trades["amount"] > 0).all()
    assert len(result.trades) == 5


def test_hold_thresh(prediction: pd.DataFrame, session: Session) -> None:
    """Nothing is sold before it has been held for that many days."""
    result = _run(prediction, session, hold_thresh=10)
    days = list(result.positions)
    sold = result.trades.query("deal_amount < 0")
    assert len(sold)
    for day, code in zip(sold.index, sold["instrument"], strict=True):
        eve = days[days.index(day) - 1]
        assert result.positions[eve][code]["count_day"] >= 10


@pytest.mark.parametrize("methods", [("random", "top"), ("bottom", "random"), ("random", "random")])
def test_random_methods_are_repeatable(prediction: pd.DataFrame, session: Session, methods: tuple[str, str]) -> None:
    """The same seed gives the same selection, another seed a different one."""
    sell, buy = methods
    made = [_run(prediction, session, method_sell=sell, method_buy=buy, seed=s).report["account"] for s in (1, 1, 2)]
    pd.testing.assert_series_equal(made[0], made[1])
    assert not made[0].equals(made[2])


def test_parallel_orders_buy_first(prediction: pd.DataFrame, session: Session) -> None:
    """With parallel orders, purchases cannot use the cash of the same day's sales."""
    result = _run(prediction, session, executor=SimulatorExecutor(trade_type="parallel"))
    serial = _run(prediction, session)
    assert result.trades.iloc[:5].equals(serial.trades.iloc[:5])
    assert result.indicators["ffr"].mean() < serial.indicators["ffr"].mean()


def test_default_range_is_that_of_the_signal(prediction: pd.DataFrame, session: Session) -> None:
    """Without dates, it is from the signal's first day to the trading day after its last, or to the end of the calendar."""
    report = _run(prediction, session, start_time=None, end_time=None).report
    assert str(report.index[0].date()) == "2015-12-31"
    assert str(report.index[-1].date()) == "2016-07-01"
    assert report["total_turnover"].iloc[0] == 0
    whole = pd.read_parquet(GOLDEN / "rolling_prediction.parquet").loc["2018-01-02":]
    assert str(_run(whole, session, start_time=None, end_time=None).report.index[-1].date()) == "2018-02-07"


def test_without_scores_nothing_moves(prediction: pd.DataFrame, session: Session, caplog: Any) -> None:
    """There are no trades on days without a prediction; a signal outside the range gives a warning."""
    with caplog.at_level(logging.WARNING):
        report = _run(prediction, session, start_time="2017-01-03", end_time="2017-01-31").report
    assert (report["account"] == 1e6).all()
    assert "it never trades" in caplog.text


def test_benchmarks(prediction: pd.DataFrame, session: Session) -> None:
    """A code, the mean of codes, returns by day, or none (0)."""
    x0 = _run(prediction, session, benchmark="X000").report["bench"]
    x1 = _run(prediction, session, benchmark=["X001"]).report["bench"]
    both = _run(prediction, session, benchmark=["X000", "X001"]).report["bench"]
    # The mean is over those with a price on this day and the day before; alone, the return after a gap spans it.
    there = (x0 != 0) & (x1 != 0) & (x1.shift() != 0)
    np.testing.assert_allclose(both[there], (x0[there] + x1[there]) / 2, atol=1e-7)
    own = pd.Series(np.arange(len(x0)) / 1e4, index=x0.index)
    np.testing.assert_array_equal(_run(prediction, session, benchmark=own).report["bench"], own)
    assert (_run(prediction, session).report["bench"] == 0).all()
    assert x0.abs().sum() > 0


@pytest.mark.parametrize(
    "benchmark", ["SH000300", ["X000", "NOPE"], pd.Series([0.1], index=[pd.Timestamp("1999-01-04")])]
)
def test_missing_benchmark(prediction: pd.DataFrame, session: Session, benchmark: Any) -> None:
    """The error for a benchmark without data names the key that sets it."""
    with pytest.raises(DataNotFound, match=r"backtest\.benchmark, or null for none"):
        _run(prediction, session, benchmark=benchmark)


def test_missing_prices(prediction: pd.DataFrame, session: Session) -> None:
    """The error names the instrument or field without data, and where it comes from."""
    foreign = prediction.rename(index={"X000": "NOPE"}, level="instrument")
    with pytest.raises(DataNotFound, match=r"NOPE.*The signal determines the instruments"):
        _run(foreign, session)
    with pytest.raises(DataNotFound, match=r"\$opne.*\$open.*backtest\.exchange_kwargs"):
        _run(prediction, session, exchange_kwargs={"deal_price": "opne"})


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"exchange_kwargs": {"open_csot": 0}}, r"backtest\.exchange_kwargs: unknown option 'open_csot'.*'open_cost'"),
    ({"exchange_kwargs": {"open_cost": -1}}, "must not be negative"),
    ({"exchange_kwargs": {"min_cost": "5"}}, "must be a number, found '5'"),
    ({"exchange_kwargs": {"trade_unit": 0}}, "trade_unit must be positive"),
    ({"exchange_kwargs": {"freq": "1min"}}, "backtests are daily"),
    ({"exchange_kwargs": {"deal_price": ["open"]}}, "one each for buying and selling"),
    ({"exchange_kwargs": {"deal_price": 3}}, "must be a field"),
    ({"exchange_kwargs": {"limit_threshold": ["$close"]}}, "must be two expressions"),
    ({"exchange_kwargs": {"volume_threshold": ("some", "$volume")}}, "volume_threshold must be"),
    ({"start_time": "soon"}, r"backtest\.start_time: 'soon' is not a date"),
    ({"start_time": "2016-07-01"}, "starts on 2016-07-01 and ends on 2016-06-30"),
    ({"start_time": "2030-01-01", "end_time": "2030-02-01"}, "no trading days"),
    ({"account": 0}, "without cash"),
    ({"account": "much"}, "must be a number that is not negative, found 'much'"),
    ({"account": {"X000": 5}}, "needs 'cash'"),
    ({"account": {"cash": 1, "X000": -5}}, "must be positive, found -5"),
    ({"executor": {"class": "NestedExecutor", "module_path": "qlib.backtest.executor"}}, "NestedExecutor"),
    ({"executor": {"class": "SimulatorExecutor", "kwargs": {"time_per_step": "30min"}}}, "backtests are daily"),
    ({"executor": SimulatorExecutor}, "not an executor"),
    ({"topk": 0}, "topk: must be a whole number, at least 1"),
    ({"n_drop": 1.5}, "n_drop: must be a whole number, at least 0"),
    ({"method_buy": "topp"}, "Did you mean 'top'"),
]


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS, ids=[w[:30] for _, w in BAD_OPTIONS])
def test_bad_options(prediction: pd.DataFrame, session: Session, options: dict[str, Any], words: str) -> None:
    """An invalid option gives one message with its location."""
    with pytest.raises(ConfigError, match=words):
        _run(prediction, session, **options)


BAD_SIGNALS: list[tuple[Any, str]] = [
    ("<PRED>", r"found '<PRED>'. In a record"),
    (None, "found None"),
    (pd.Series([1.0], index=["X000"]), "found one level of"),
    (pd.DataFrame(index=pd.MultiIndex.from_tuples([(pd.Timestamp(START), "X000")])), "no column"),
    (pd.Series([1.0], index=pd.MultiIndex.from_tuples([("a", "b")])), "levels datetime and instrument"),
    (pd.Series([1.0, 2.0], index=pd.MultiIndex.from_tuples([(pd.Timestamp(START), "X000")] * 2)), "two values for"),
]


@pytest.mark.parametrize(("signal", "words"), BAD_SIGNALS)
def test_bad_signals(signal: Any, words: str) -> None:
    """An invalid signal gives one message."""
    with pytest.raises((ConfigError, DataError), match=words):
        TopkDropoutStrategy(signal=signal, topk=2, n_drop=1)


def test_unsupported_strategies(prediction: pd.DataFrame, session: Session) -> None:
    """The errors for unsupported strategies of Qlib's, base classes, and other objects list the supported ones."""
    for name, words in (("WeightStrategyBase", "a subclass must define"), ("EnhancedIndexingStrategy", "a solver")):
        with pytest.raises(BuildError, match=f"{name}.*{words}"):
            build({"class": name, "module_path": "qlib.contrib.strategy", "kwargs": {"signal": prediction}})
    with pytest.raises(ConfigError, match="dict is not a strategy"):
        run_backtest({"class": "dict", "module_path": "builtins"}, session=session)


@pytest.mark.parametrize("given", [None, {"deal_price": "close"}, {"close_cost": 0.01}])
def test_a_daily_backtest_has_qlibs_costs_of_that_function(
    given: dict[str, object] | None, prediction: pd.DataFrame, session: Session
) -> None:
    """Buying costs 0.05 % and selling 0.15 %, at least 5 an order, unless other costs are given."""
    strategy = TopkDropoutStrategy(signal=prediction, topk=3, n_drop=1)
    costs = {"open_cost": 0.0005, "close_cost": 0.0015, "min_cost": 5, **(given or {})}
    with using(session):
        report, _ = backtest_daily(START, END, strategy, benchmark=None, exchange_kwargs=given)
        (expected, _), *_ = backtest(START, END, strategy, benchmark=None, account=1e8, exchange_kwargs=costs)[
            0
        ].values()
    assert report["total_cost"].iloc[-1] > 0
    pd.testing.assert_frame_equal(report, expected)


def test_qlib_names_and_form(prediction: pd.DataFrame, session: Session) -> None:
    """The descriptions of a Qlib workflow give Qlib's pair of dicts, with the numbers of the direct call."""
    strategy = {
        "class": "TopkDropoutStrategy",
        "module_path": "qlib.contrib.strategy.signal_strategy",
        "kwargs": {"signal": prediction, "topk": 5, "n_drop": 2},
    }
    executor = {
        "class": "SimulatorExecutor",
        "module_path": "qlib.backtest.executor",
        "kwargs": {"time_per_step": "day", "generate_portfolio_metrics": True},
    }
    with using(session):
        metrics, indicators = backtest(START, END, strategy, executor, "X000", 1e6, {"deal_price": "$close"})
        quiet, _ = backtest(START, END, strategy, SimulatorExecutor(), None, 1e6)
        with pytest.raises(ConfigError, match="InfPosition"):
            backtest(START, END, strategy, executor, pos_type="InfPosition")
    report, positions = metrics["1day"]
    pd.testing.assert_frame_equal(report, _run(prediction, session, benchmark="X000").report)
    assert list(positions) == list(report.index)
    assert list(indicators["1day"][0].columns) == ["ffr", "pa", "pos", "deal_amount", "value", "count"]
    assert quiet == {}


def test_an_account_with_holdings(prediction: pd.DataFrame, session: Session) -> None:
    """Initial holdings are valued at their last close, and sold when they are no longer among the best."""
    result = _run(prediction, session, account={"cash": 1e5, "X000": 100, "x002": {"amount": 7, "price": 3.0}})
    first = result.report.iloc[0]
    assert abs(first["return"]) < 0.2
    assert result.trades.query("amount < 0")["instrument"].isin(["X000", "X002"]).any()


def test_a_users_strategy(prediction: pd.DataFrame, session: Session) -> None:
    """A subclass decides the orders; this one buys one share of the first instrument each day."""

    class One(BaseSignalStrategy):
        def orders(self, day: int, scores: Scores, account: Account, market: Market) -> list[Order]:
            return [Order("X000", 1.0, Order.BUY)]

    result = run_backtest(One(signal=prediction), start_time=START, end_time=END, account=1e6, session=session)
    last = result.positions[max(result.positions)]
    assert last["X000"]["amount"] == pytest.approx((result.indicators["ffr"] == 1).sum())


def test_volume_limits_and_universe(prediction: pd.DataFrame, session: Session) -> None:
    """No order is filled beyond its share of the day's volume; only the universe's codes are traded."""
    kwargs = {"volume_threshold": {"buy": ("cum", "0.001*$volume")}, "codes": ["X001", "X002", "X004", "X005"]}
    result = _run(prediction, session, account=1e8, exchange_kwargs=kwargs)
    bought = result.trades.query("deal_amount > 0")
    assert set(bought["instrument"]) <= {"X001", "X002", "X004", "X005"}
    assert (bought["deal_amount"] < bought["amount"]).any()
    table = pd.read_parquet(GOLDEN / "market.parquet").set_index(["datetime", "instrument"])["volume"]
    volume = table.reindex(pd.MultiIndex.from_arrays([bought.index, bought["instrument"]])).to_numpy()
    assert (bought["deal_amount"].to_numpy() <= 0.001 * volume + 0.1001).all()  # up to a tenth of a share is rounding


def test_limit_expressions(prediction: pd.DataFrame, session: Session) -> None:
    """A pair of expressions determines when instruments cannot be bought or sold."""
    kwargs = {"limit_threshold": ["$close > 100", "$close > 1e9"]}
    result = _run(prediction, session, exchange_kwargs=kwargs)
    bought = result.trades.query("deal_amount > 0")
    assert len(bought)
    assert (bought["price"] <= 100).all()


prices = st.floats(0.5, 500)


@st.composite
def _markets(draw: st.DrawFn) -> tuple[Market, Rules]:
    rules = Rules(
        open_cost=draw(st.sampled_from([0.0, 0.001, 0.05])),
        close_cost=draw(st.sampled_from([0.0, 0.002, 0.05])),
        min_cost=draw(st.sampled_from([0.0, 5.0, 100.0])),
        impact_cost=draw(st.sampled_from([0.0, 0.1])),
    )
    one = {name: np.array([[draw(prices)]]) for name in ("close", "buy_price", "sell_price", "volume")}
    market = Market(
        rules=rules,
        days=np.array(["2020-01-02"], "datetime64[D]"),
        codes=["A"],
        factor=np.array([[draw(st.floats(0.1, 10))]]),
        no_buy=np.array([[False]]),
        no_sell=np.array([[False]]),
        suspended=np.array([[False]]),
        last_day=np.array([1]),
        buy_caps=(("cum", np.array([[draw(st.sampled_from([np.inf, 50.0]))]])),),
        unit=draw(st.sampled_from([None, 1.0, 100.0])),
        **one,
    )
    return market, rules


@settings(max_examples=200, deadline=None)
@given(
    made=_markets(),
    amount=st.floats(0, 1e5),
    cash=st.floats(0, 1e6),
    held=st.floats(0, 1e4),
    side=st.sampled_from(OrderDir),
)
def test_fills_never_exceed_cash_or_holdings(
    made: tuple[Market, Rules], amount: float, cash: float, held: float, side: OrderDir
) -> None:
    """The limits hold up to a tenth of a share; whole units are traded, and fees are at least the minimum."""
    market, rules = made
    account = Account(Position(cash, {"A": {"amount": held, "price": 1.0}} if held > 0 else None))
    fill = market.fill_order(0, 0, side, amount, cash=cash, held=held)
    account.settle(Order("A", amount, side), fill)
    forgiven = 0.11 / float(market.factor[0, 0])
    assert account.get_cash() >= -1e-6 * max(cash, 1) - forgiven * 1.2 * float(market.buy_price[0, 0])
    assert account.current_position.get_stock_amount("A") >= -1e-6 * max(held, 1)
    assert 0 <= fill.amount <= amount + forgiven
    if fill.value:
        assert fill.cost >= max(
            rules.min_cost, fill.value * (rules.open_cost if side is OrderDir.BUY else rules.close_cost)
        )
        whole = fill.amount * float(market.factor[0, 0]) / (market.unit or 1)
        last = side is OrderDir.SELL and fill.amount == pytest.approx(held, rel=1e-4)
        assert market.unit is None or last or whole == pytest.approx(round(whole), abs=1e-6)
    else:
        assert fill.amount == 0
        assert fill.cost == 0


def test_signal_by_day(prediction: pd.DataFrame) -> None:
    """A day's scores are in the requested order, with missing ones marked."""
    signal = SignalWCache(prediction)

    def scores_on(day: str, codes: list[str]) -> Scores | None:
        return signal.scores_on(pd.Timestamp(day), pd.Timestamp(f"{day} 23:59:59"), codes)

    scores = scores_on("2016-01-04", ["X002", "NOPE", "X000"])
    assert scores is not None
    expected = prediction.loc["2016-01-04"]["score"]
    assert scores.values[[0, 2]].tolist() == expected[["X002", "X000"]].tolist()
    assert scores.present.tolist() == [True, False, True]
    assert scores_on("2016-01-03", ["X000"]) is None


@pytest.mark.slow
def test_speed(tmp_path: Path) -> None:
    """500 instruments on 650 days take at most a few seconds of processor time under any load (0.2 s on an idle
    machine).
    """
    import time

    from rollforge.market.demo import make_demo
    from rollforge.market.provider import open_provider

    make_demo(tmp_path / "m", instruments=500, years=3)
    days = open_provider(tmp_path / "m").calendar()[-650:]
    codes = list(open_provider(tmp_path / "m").instruments("all"))
    index = pd.MultiIndex.from_product([pd.DatetimeIndex(days), codes], names=["datetime", "instrument"])
    signal = pd.Series(np.random.default_rng(0).normal(size=len(index)), index=index)
    session = Session(provider_uri=str(tmp_path / "m"))
    _run(signal, session, start_time=None, end_time=None)
    start = time.process_time()
    report = _run(signal, session, start_time=None, end_time=None, topk=50, n_drop=5, account=1e8).report
    assert len(report) == 650
    assert time.process_time() - start < 5


# -- notes on what a person would not expect -----------------------------------------------------------------------------


def _top(session: Session, table: dict[str, list[float]], **options: Any) -> BacktestResult:
    """Backtest a signal, at no cost, from the first day of the market on."""
    own = {k: options.pop(k) for k in ("topk", "n_drop", "hold_thresh", "count_delisted") if k in options}
    strategy = TopkDropoutStrategy(signal=scores(table), **{"topk": 1, "n_drop": 1, **own})
    exchange = {**FREE, **options.pop("exchange", {})}
    kept = {"start_time": days_of(1)[0], "account": 1000.0, "exchange_kwargs": exchange, "session": session}
    return run_backtest(strategy, **{**kept, **options})


def test_the_return_of_a_benchmark_spans_its_gaps(make_market: MakeMarket) -> None:
    """An index at 100, missing, 110 has earned 10 %, which is counted on the third day, and a note says so."""
    session = make_market({"A": [10] * 4, "INDEX": [100, nan, 110, 121], "OTHER": [10, 10, 10, 10]})
    result = _top(session, {"A": [1] * 4}, benchmark="INDEX")
    assert result.report["bench"].tolist() == pytest.approx([0, 0, 0.1, 0.1])
    assert "the benchmark has no return on 1 of 4 days" in result.notes[0]
    both = _top(session, {"A": [1] * 4}, benchmark=["INDEX", "OTHER"])
    assert both.report["bench"].tolist() == pytest.approx([0, 0, 0, 0.05])  # a member without a price is left out


def test_prices_are_no_returns_of_a_benchmark(make_market: MakeMarket) -> None:
    """A benchmark that is given as prices is an error that says how returns are computed."""
    session = make_market({"A": [10] * 4})
    with pytest.raises(ConfigError, match=r"pct_change"):
        _top(session, {"A": [1] * 4}, benchmark=pd.Series([100, 101, 102, 103.0], index=days_of(4)))


def test_infinite_scores_are_missing(make_market: MakeMarket) -> None:
    """An infinite score does not make an instrument the best one; a note says how many there are."""
    session = make_market({"A": [10] * 3, "B": [10] * 3})
    result = _top(session, {"A": [np.inf] * 3, "B": [1] * 3})
    assert result.trades["instrument"].tolist() == ["B"]
    assert result.notes == ("3 scores are infinite; they are treated as missing",)


def test_days_without_scores_give_a_note(make_market: MakeMarket) -> None:
    """After a window that failed, holdings are kept, and a note has the number of days and the first one."""
    session = make_market({"A": [10] * 6, "B": [10] * 6})
    result = _top(session, {"A": [2, 2, nan, nan, 2], "B": [1, 1, nan, nan, 1]})
    assert result.notes == (
        "there are no scores on 2 of 6 days, the first is 2021-03-03: holdings were kept on the days after these",
    )


def test_scores_of_every_week_give_no_note(make_market: MakeMarket) -> None:
    """Only a gap of more than twice the usual time is one."""
    session = make_market({"A": [10] * 40})
    weekly: list[float] = [float(day % 5 == 0) or nan for day in range(40)]
    assert not _top(session, {"A": weekly}, n_drop=0).notes
    missed = [nan if 10 <= day < 21 else score for day, score in enumerate(weekly)]
    assert "there are no scores on 19 of 37 days" in _top(session, {"A": missed}, n_drop=0).notes[0]


def test_the_first_return_of_a_benchmark_is_since_the_price_before(make_market: MakeMarket) -> None:
    """The price may be missing on the day before the first one; without any, the first day has no return, with a note."""
    session = make_market({"A": [10] * 5, "INDEX": [100, nan, 110, 121, 121], "NEW": [nan, nan, 10, 11, 11]})
    start = days_of(5)[2]
    result = _top(session, {"A": [1] * 5}, n_drop=0, benchmark="INDEX", start_time=start)
    assert (result.report["bench"].tolist(), result.notes) == (pytest.approx([0.1, 0.1, 0]), ())
    new = _top(session, {"A": [1] * 5}, n_drop=0, benchmark="NEW", start_time=start)
    assert new.report["bench"].tolist() == pytest.approx([0, 0.1, 0])
    assert "the benchmark has no return on 1 of 3 days" in new.notes[0]


def test_a_universe_as_small_as_topk_gives_a_note(make_market: MakeMarket) -> None:
    """The only instrument is sold and bought again, as in Qlib, and a note says so; n_drop=0 keeps it."""
    session = make_market({"A": [10] * 5})
    result = _top(session, {"A": [1] * 5})
    assert result.report["turnover"].tolist() == pytest.approx([0, 0.95, 0.95, 0.95, 0.95])
    assert "on 2 of 5 days holdings were sold without a replacement" in result.notes[0]
    kept = _top(session, {"A": [1] * 5}, n_drop=0)
    assert len(kept.trades) == 1
    assert kept.notes == ()


def test_more_holdings_than_topk_give_a_note(make_market: MakeMarket) -> None:
    """If a holding is suspended when it is to be replaced, two are held, and a note says on how many days."""
    session = make_market({"A": [10, 10, nan, 10, 10], "B": [10] * 5})
    result = _top(session, {"A": [2, 0, 0, 0, 0], "B": [1] * 5})
    assert [len(p.get_stock_list()) for p in result.positions.values()] == [0, 1, 2, 1, 1]
    assert "on 1 of 5 days more instruments were held than topk (1)" in result.notes[0]


def test_purchases_below_the_trade_unit_give_a_note(make_market: MakeMarket) -> None:
    """An account that cannot pay a unit does not trade, and a note says what a unit costs: 100 raw shares at 5."""
    session = make_market({"A": {"close": [10.0] * 3, "factor": [2.0] * 3}})
    result = _top(session, {"A": [1] * 3}, account=400.0, exchange={"trade_unit": 100})
    assert (result.report["value"] == 0).all()
    assert "2 purchases were smaller than the trade unit of 100 shares" in result.notes[0]
    assert "A on 2021-03-02, a unit of which costs 500." in result.notes[0]
    assert _top(session, {"A": [1] * 3}, account=1000.0, n_drop=0, exchange={"trade_unit": 100}).notes == ()
    session = make_market({"A": {"close": [99.99998] * 3, "factor": [1.0] * 3}})
    dear = _top(session, {"A": [1] * 3}, account=400.0, exchange={"trade_unit": 100})
    assert "costs 10000." in dear.notes[0]
