"""Every hook of Qlib's strategies is called, and its result is what is traded."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.record.conftest import FREE, MakeMarket, days_of, nan, scores

from rollforge.build import init_instance_by_config
from rollforge.errors import ConfigError
from rollforge.record.backtest import (
    BacktestResult,
    BaseSignalStrategy,
    BaseStrategy,
    FileOrderStrategy,
    SimulatorExecutor,
    TopkDropoutStrategy,
    run_backtest,
)
from rollforge.record.decision import EmptyTradeDecision, Order, OrderDir, TradeDecisionWO
from rollforge.record.position import Position
from rollforge.record.scores import Signal
from rollforge.session import Session


def run(strategy: Any, session: Session, account: Any = 10_000.0, n: int = 4, **options: Any) -> BacktestResult:
    days = days_of(n)
    return run_backtest(
        strategy,
        **{"start_time": days[0], "end_time": days[-1], "account": account, "exchange_kwargs": FREE, **options},
        session=session,
    )


@pytest.fixture
def flat(make_market: MakeMarket) -> Session:
    """Three instruments with a constant price of 10."""
    return make_market({code: [10.0] * 4 for code in "ABC"})


ONE = scores({"A": [1.0] * 4})
THREE = scores({"A": [3.0] * 4, "B": [2.0] * 4, "C": [1.0] * 4})


@pytest.mark.parametrize(("degree", "invested"), [(0.25, 2500), (0.0, 0), (1.0, 10_000), (np.float32(0.5), 5000)])
def test_risk_degree_of_a_subclass(flat: Session, degree: float, invested: float) -> None:
    """The result of get_risk_degree is invested, even if it is zero."""

    class Timed(TopkDropoutStrategy):
        def get_risk_degree(self, trade_step: int | None = None) -> float:
            return degree

    report = run(Timed(signal=ONE, topk=1, n_drop=0), flat).report
    assert report["value"].iloc[1] == pytest.approx(invested)


def test_risk_degree_knows_the_step(flat: Session) -> None:
    """The hook gets the number of the step and can depend on it: here, to invest from the third day on."""
    asked = []

    class Late(TopkDropoutStrategy):
        def get_risk_degree(self, trade_step: int | None = None) -> float:
            asked.append(trade_step)
            assert trade_step is not None
            return 0.5 if trade_step >= 2 else 0.0

    report = run(Late(signal=ONE, topk=1, n_drop=0), flat).report
    assert report["value"].tolist() == [0, 0, 5000, 5000]
    assert asked == [1, 2, 3]


@pytest.mark.parametrize("degree", [1.5, -0.1, nan])
def test_an_invalid_risk_degree_is_refused(flat: Session, degree: float) -> None:
    """The error for a result that is not a fraction of the account names the hook."""

    class Wrong(TopkDropoutStrategy):
        def get_risk_degree(self, trade_step: int | None = None) -> float:
            return degree

    with pytest.raises(ConfigError, match=r"Wrong.get_risk_degree\(1\) returned .* not between 0 and 1"):
        run(Wrong(signal=ONE, topk=1, n_drop=0), flat)


def test_generate_trade_decision_can_be_overridden(flat: Session) -> None:
    """A subclass that decides to do nothing trades nothing."""

    class Idle(TopkDropoutStrategy):
        def generate_trade_decision(self, execute_result: list[Any] | None = None) -> TradeDecisionWO:
            return TradeDecisionWO([], self)

    class Empty(TopkDropoutStrategy):
        def generate_trade_decision(self, execute_result: list[Any] | None = None) -> EmptyTradeDecision:
            return EmptyTradeDecision(self)

    for kind in (Idle, Empty):
        result = run(kind(signal=ONE, topk=1, n_drop=1), flat)
        assert result.trades.empty
        assert (result.report["account"] == 10_000).all()


def test_a_decision_can_modify_the_default_orders(flat: Session) -> None:
    """Here each purchase is halved, and B is never bought."""

    class Careful(TopkDropoutStrategy):
        def generate_trade_decision(self, execute_result: list[Any] | None = None) -> TradeDecisionWO:
            orders = super().generate_trade_decision(execute_result).get_decision()
            kept = [o for o in orders if o.stock_id != "B"]
            for order in kept:
                if order.direction == OrderDir.BUY:
                    order.amount /= 2
            return TradeDecisionWO(kept, self)

    result = run(Careful(signal=THREE, topk=2, n_drop=0), flat)
    first = result.trades.iloc[0]
    assert (first["instrument"], first["deal_amount"]) == ("A", pytest.approx(10_000 * 0.95 / 2 / 2 / 10))
    assert "B" not in set(result.trades["instrument"])


def test_a_subclass_may_trade_beyond_its_signal(flat: Session) -> None:
    """A decision may contain orders for instruments that are not in the signal, if there are data for them."""

    class Hedge(TopkDropoutStrategy):
        def generate_trade_decision(self, execute_result: list[Any] | None = None) -> TradeDecisionWO:
            return TradeDecisionWO([Order("C", 1.0, Order.BUY)], self)

    assert run(Hedge(signal=ONE, topk=1, n_drop=1), flat).positions[days_of(4)[-1]]["C"]["amount"] == 4


class Recorder(BaseStrategy):
    """Buys one share of A a day, and records what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """Record the start of a backtest."""
        super().reset(*args, **kwargs)
        self.log.append("reset")

    def generate_trade_decision(self, execute_result: list[Any] | None = None) -> TradeDecisionWO:
        """Record calendar, holdings, and the results of the last orders."""
        start, end = self.trade_calendar.get_step_time()
        dealt = [(o.stock_id, o.deal_amount, value, price) for o, value, _, price in execute_result or []]
        held = self.trade_position.get_stock_amount("A")
        self.log.append((self.trade_calendar.get_trade_step(), str(start), str(end), held, dealt))
        return TradeDecisionWO([self.trade_exchange.get_order_helper().create("A", 1.0, Order.BUY)], self)

    def post_exe_step(self, execute_result: list[Any] | None) -> None:
        """Record the orders of the finished step."""
        assert execute_result is not None
        self.log.append(("after", self.trade_calendar.get_trade_step(), len(execute_result)))

    def post_upper_level_exe_step(self) -> None:
        """Record the end."""
        self.log.append("end")


def test_hooks_in_their_order(flat: Session) -> None:
    """The order is: reset; a decision and post_exe_step each day; post_upper_level_exe_step, with calendar, holdings
    and results."""
    strategy = Recorder()
    run(strategy, flat, n=2)
    assert strategy.log == [
        "reset",
        (0, "2021-03-01 00:00:00", "2021-03-01 23:59:59", 0, []),
        ("after", 1, 1),
        (1, "2021-03-02 00:00:00", "2021-03-02 23:59:59", 1, [("A", 1, 10, 10)]),
        ("after", 2, 1),
        "end",
    ]


def test_a_strategy_can_be_reused(flat: Session) -> None:
    """The same object in a second backtest gives the same result, even with random methods."""
    noisy = scores({c: np.random.default_rng(i).normal(size=4).tolist() for i, c in enumerate("ABC")})
    strategy = TopkDropoutStrategy(signal=noisy, topk=1, n_drop=1, method_buy="random", method_sell="random")
    first, second = run(strategy, flat), run(strategy, flat)
    pd.testing.assert_frame_equal(first.trades, second.trades)


def test_an_invalid_decision_is_an_error(flat: Session) -> None:
    """A decision that is a list, or None, gives one message."""

    class Wrong(TopkDropoutStrategy):
        def generate_trade_decision(self, execute_result: list[Any] | None = None) -> Any:
            return []

    with pytest.raises(ConfigError, match=r"Wrong.generate_trade_decision returned a list; it must return a decision"):
        run(Wrong(signal=ONE, topk=1, n_drop=1), flat)


def test_a_strategy_without_decisions_is_refused(flat: Session) -> None:
    """A signal strategy with neither orders() nor a decision gives one message."""

    class Empty(BaseSignalStrategy):
        pass

    with pytest.raises(ConfigError, match=r"Empty does not define what to trade"):
        run(Empty(signal=ONE), flat)
    with pytest.raises(ConfigError, match=r"has no trade_calendar, because it is not part of a backtest"):
        Empty(signal=ONE).generate_trade_decision()


def test_a_strategy_without_a_signal_needs_dates(flat: Session) -> None:
    """A strategy without a signal has no prediction that determines start and end."""
    with pytest.raises(ConfigError, match=r"backtest\.end_time: Recorder has no prediction"):
        run_backtest(Recorder(), start_time="2021-03-01", session=flat)


def test_a_users_signal(flat: Session) -> None:
    """A signal may be an object with get_signal: here the best instrument changes every day."""

    class Turning(Signal):
        def get_signal(self, start_time: Any, end_time: Any) -> pd.Series:
            favourite = "ABC"[start_time.day % 3]
            return pd.Series([float(c == favourite) for c in "ABC"], index=list("abc"))

    result = run(TopkDropoutStrategy(signal=Turning(), topk=1, n_drop=1), flat)
    bought = result.trades.query("amount > 0")
    assert bought["instrument"].tolist() == ["B", "C", "A"]  # of 1, 2 and 3 March


def test_qlibs_own_arguments(flat: Session) -> None:
    """Qlib's arguments for nested execution may be None; a strategy's own exchange is refused."""
    config = {
        "class": "TopkDropoutStrategy",
        "module_path": "qlib.contrib.strategy",
        "kwargs": {"signal": ONE, "topk": 1, "n_drop": 1, "trade_exchange": None, "level_infra": None},
    }
    assert isinstance(init_instance_by_config(config), TopkDropoutStrategy)
    with pytest.raises(ConfigError, match="its own exchange"):
        TopkDropoutStrategy(signal=ONE, topk=1, n_drop=1, trade_exchange=object())


# -- executors ---------------------------------------------------------------------------------------------------------


def test_an_executor_may_sort_orders(flat: Session) -> None:
    """A subclass's _get_order_iterator determines the sequence: here C is filled first and uses all the cash."""

    class LastFirst(SimulatorExecutor):
        def _get_order_iterator(self, trade_decision: Any) -> list[Order]:
            return sorted(trade_decision.get_decision(), key=lambda order: order.stock_id, reverse=True)

    class All(BaseStrategy):
        def generate_trade_decision(self, execute_result: list[Any] | None = None) -> TradeDecisionWO:
            return TradeDecisionWO([Order(code, 1000.0, Order.BUY) for code in "ABC"], self)

    result = run(All(), flat, executor=LastFirst())
    assert result.trades.iloc[:3][["instrument", "deal_amount"]].to_numpy().tolist() == [
        ["C", 1000],
        ["B", 0],
        ["A", 0],
    ]


def test_executor_methods_that_are_not_called_are_refused() -> None:
    """A subclass that overrides a method of Qlib's executors that is never called is refused; the error names the
    method.
    """

    class Mine(SimulatorExecutor):
        def collect_data(self) -> None:
            pass

    with pytest.raises(ConfigError, match=r"Mine defines collect_data\(\), which is not called here"):
        Mine()


def test_cash_that_settles_on_the_next_day(make_market: MakeMarket) -> None:
    """With settle_type cash, the proceeds of a sale cannot be spent on the same day; the account includes them."""
    session = make_market({"A": [10.0] * 4, "B": [10.0] * 4})

    class Switch(BaseStrategy):
        def generate_trade_decision(self, execute_result: list[Any] | None = None) -> TradeDecisionWO:
            step = self.trade_calendar.get_trade_step()
            if step == 0:
                return TradeDecisionWO([Order("A", 1000.0, Order.BUY)], self)
            return TradeDecisionWO([Order("A", 1000.0, Order.SELL), Order("B", 1000.0, Order.BUY)], self)

    result = run(Switch(), session, n=3, executor=SimulatorExecutor(settle_type="cash"))
    assert result.trades["deal_amount"].tolist() == [1000, -1000, 0, 0, 1000]
    assert result.report["account"].tolist() == [10_000] * 3
    assert (result.report["value"] + result.report["cash"]).tolist() == [10_000] * 3
    with pytest.raises(ConfigError, match="settle_type must be"):
        SimulatorExecutor(settle_type="T+1")


def test_weights_of_fill_rates(flat: Session) -> None:
    """The day's fill rate is a mean over orders, or weighted by amount or value: 1000 of 1000 and 0 of 500 filled."""

    class Two(BaseStrategy):
        def generate_trade_decision(self, execute_result: list[Any] | None = None) -> TradeDecisionWO:
            return TradeDecisionWO([Order("A", 1000.0, Order.BUY), Order("B", 500.0, Order.BUY)], self)

    for weight, expected in (("mean", 0.5), ("amount_weighted", 1.0), ("value_weighted", 1.0)):
        executor = SimulatorExecutor(indicator_config={"ffr_config": {"weight_method": weight}})
        assert run(Two(), flat, executor=executor).indicators["ffr"].iloc[0] == expected
    with pytest.raises(ConfigError, match=r"ffr_config: weight_method.*Did you mean 'mean'"):
        SimulatorExecutor(indicator_config={"ffr_config": {"weight_method": "meen"}})


# -- positions ---------------------------------------------------------------------------------------------------------


def test_positions_are_qlibs(flat: Session) -> None:
    """A day's position has Qlib's `.position` and methods, and is also readable as that mapping."""
    result = run(TopkDropoutStrategy(signal=THREE, topk=2, n_drop=0), flat)
    last = result.positions[days_of(4)[-1]]
    assert isinstance(last, Position)
    assert last.position == {
        "cash": pytest.approx(500),
        "now_account_value": 10_000,
        "A": {"amount": 475, "price": 10, "weight": 0.475, "count_day": 3},
        "B": {"amount": 475, "price": 10, "weight": 0.475, "count_day": 3},
    }
    assert last["A"] is last.position["A"]
    assert last.get_stock_list() == ["A", "B"]
    assert last.get_stock_amount_dict() == {"A": 475, "B": 475}
    assert (last.get_stock_amount("C"), last.get_stock_price("A"), last.get_stock_count("A", "day")) == (0, 10, 3)
    assert last.get_stock_weight_dict() == {"A": 0.475, "B": 0.475}
    assert last.get_stock_weight_dict(only_stock=True) == {"A": 0.5, "B": 0.5}
    assert (last.get_cash(), last.calculate_value(), last.calculate_stock_value()) == (pytest.approx(500), 10_000, 9500)
    other = copy.deepcopy(last)
    other.update_order(Order("A", 475.0, Order.SELL), 4750, 0, 10)
    assert not other.check_stock("A")
    assert last.check_stock("A")
    with pytest.raises(ConfigError, match="475 are held"):
        last.update_order(Order("A", 500.0, Order.SELL), 5000, 0, 10)


# -- orders from a file ------------------------------------------------------------------------------------------------


def test_orders_from_a_file(flat: Session, tmp_path: Any) -> None:
    """Each order of a table is traded on its day, in any notation of days; the signal's days are not needed."""
    file = tmp_path / "orders.csv"
    file.write_text(
        "datetime,instrument,amount,direction\n20210301,A,100,buy\n2021-03-03,a,40,sell\n2021/03/03,B,1,buy\n"
    )
    config = {"class": "FileOrderStrategy", "module_path": "qlib.contrib.strategy.rule_strategy"}
    result = run({**config, "kwargs": {"file": str(file)}}, flat)
    assert result.trades["deal_amount"].tolist() == [100, -40, 1]
    assert [str(d.date()) for d in result.trades.index] == ["2021-03-01", "2021-03-03", "2021-03-03"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame({"datetime": ["2021-03-01"], "instrument": ["A"]}), "no column amount, direction"),
        (
            pd.DataFrame({"datetime": ["soon"], "instrument": ["A"], "amount": [1], "direction": ["buy"]}),
            "Row 1 of the orders",
        ),
        (
            pd.DataFrame({"datetime": ["2021-03-01"], "instrument": [None], "amount": [1], "direction": ["buy"]}),
            "Row 1 of the orders: there is no instrument",
        ),
    ],
)
def test_bad_tables_of_orders(table: pd.DataFrame, words: str) -> None:
    """A missing column, or an invalid day, gives one message."""
    with pytest.raises(ValueError, match=words):
        FileOrderStrategy(table)


# -- ties and what cannot be sold --------------------------------------------------------------------------------------


def test_ties_go_by_code_whatever_the_order_of_rows(make_market: MakeMarket) -> None:
    """Of equal scores the earlier codes are bought, and the later ones sold; the note counts the days."""
    session = make_market({code: [10.0] * 4 for code in "DBAC"})
    tied = scores({"D": [1.0, 1, 1, 1], "B": [1.0, 1, 1, 1], "C": [1.0, 1, 2, 2], "A": [1.0, 1, 1, 1]})
    reports = []
    for seed in range(3):
        result = run(TopkDropoutStrategy(signal=tied.sample(frac=1, random_state=seed), topk=2, n_drop=1), session)
        first = result.trades.loc[days_of(2)[1] : days_of(2)[1], "instrument"]
        assert first.tolist() == ["A", "B"]
        # On the fourth day C has the highest score and replaces B, the later code of the two holdings.
        last = result.trades.loc[days_of(4)[3] :]
        assert list(zip(last["instrument"], last["deal_amount"] > 0, strict=True)) == [("B", False), ("C", True)]
        assert any("on 3 of 4 days equal scores were on both sides" in note for note in result.notes)
        reports.append(result.report)
    for other in reports[1:]:
        pd.testing.assert_frame_equal(reports[0], other)


def test_without_ties_there_is_no_note(flat: Session) -> None:
    """The rule for ties is not needed."""
    assert run(TopkDropoutStrategy(signal=THREE, topk=1, n_drop=1), flat).notes == ()


@pytest.fixture
def with_a_delisting(make_market: MakeMarket) -> Session:
    """B falls from 10 to 2 and ends on the fourth of eight days."""
    flat = [10.0] * 8
    return make_market({"A": flat, "B": [10.0, 10, 10, 2], "C": flat, "D": flat})


def _delisting_scores() -> pd.Series:
    return scores({"A": [1.0] * 8, "B": [4.0] * 4, "C": [3.0] * 5 + [0.5] * 3, "D": [2.0] * 4 + [5.0] * 4})


def test_a_delisted_holding_gives_a_warning(with_a_delisting: Session, caplog: pytest.LogCaptureFixture) -> None:
    """The account is still valid, at the last price; a warning names the holding, its value and its last day."""
    with caplog.at_level(logging.WARNING):
        result = run(TopkDropoutStrategy(signal=_delisting_scores(), topk=2, n_drop=1), with_a_delisting, n=8)
    assert result.report["account"].tolist() == [10_000] * 3 + [6200] * 5
    note = next(n for n in result.notes if "could not be sold" in n)
    assert "B (475 at 2, 15.3 % of the account: it was delisted after 2021-03-04" in note
    assert "count_delisted=False" in note
    assert note in caplog.text


def test_a_delisted_holding_may_leave_its_place(with_a_delisting: Session) -> None:
    """As in Qlib it permanently occupies a place and the one sale per day; with count_delisted=False trading
    continues."""
    kwargs = {"signal": _delisting_scores(), "topk": 2, "n_drop": 1}
    stuck = run(TopkDropoutStrategy(**kwargs), with_a_delisting, n=8)
    going = run(TopkDropoutStrategy(**kwargs, count_delisted=False), with_a_delisting, n=8)
    last, cash = days_of(8)[-1], 500.0
    assert stuck.positions[last].get_stock_amount_dict() == pytest.approx({"B": 475, "C": 475, "D": cash * 0.095})
    # C, now the worst holding that can be sold, is replaced by A.
    bought = (cash * 0.05 + 4750) * 0.095
    assert going.positions[last].get_stock_amount_dict() == pytest.approx({"A": bought, "B": 475, "D": cash * 0.095})
    assert going.report["account"].iloc[-1] == pytest.approx(6200)


def test_a_suspension_to_the_end_gives_a_warning(make_market: MakeMarket) -> None:
    """A holding without a price until the end of the backtest, although its series continues, is named with its last
    day."""
    session = make_market({"A": [10.0] * 6, "B": [10.0, 10, nan, nan, nan, nan]})
    signal = scores({"A": [1.0] * 6, "B": [2.0] * 6})
    result = run(TopkDropoutStrategy(signal=signal, topk=1, n_drop=1), session, n=6)
    assert result.report["account"].tolist() == [10_000] * 6
    assert "B (950 at 10, 95.0 % of the account: it has had no price after 2021-03-02" in result.notes[-1]


def test_a_short_suspension_gives_no_warning(make_market: MakeMarket) -> None:
    """The holding can be sold again on the last day."""
    session = make_market({"A": [10.0] * 6, "B": [10.0, 10, nan, nan, 10, 10]})
    signal = scores({"A": [1.0] * 6, "B": [2.0] * 6})
    assert run(TopkDropoutStrategy(signal=signal, topk=1, n_drop=0), session, n=6).notes == ()


def test_a_holding_outside_the_exchanges_codes_gives_a_warning(make_market: MakeMarket) -> None:
    """A holding outside the exchange's codes cannot be traded; it is valued at its market price, and named."""
    session = make_market({"A": [10.0] * 4, "B": [10.0, 11, 12, 13]})
    signal = scores({"A": [1.0] * 4, "B": [0.0] * 4})
    result = run(
        TopkDropoutStrategy(signal=signal, topk=1, n_drop=1),
        session,
        account={"cash": 1000, "B": {"amount": 10, "price": 10}},
        exchange_kwargs={**FREE, "codes": ["A"]},
    )
    assert result.report["account"].iloc[-1] == pytest.approx(1000 + 130)
    assert "it is not among the codes of the exchange" in result.notes[-1]


def test_a_holding_that_leaves_the_universe(make_market: MakeMarket) -> None:
    """With a universe as codes, it keeps its market price and is named at the end."""
    days = days_of(5).to_numpy().astype("datetime64[D]")
    members = {"A": [(days[0], days[4])], "B": [(days[0], days[2])]}
    session = make_market({"A": [10.0] * 5, "B": [10.0, 10, 10, 10, 20]}, universes={"index": members})
    signal = scores({"A": [1.0] * 5, "B": [2.0, 2, 2, 0, 0]})
    result = run(
        TopkDropoutStrategy(signal=signal, topk=1, n_drop=1), session, n=5, exchange_kwargs={**FREE, "codes": "index"}
    )
    assert result.report["account"].iloc[-1] == pytest.approx(500 + 950 * 20)
    assert "B (950 at 20" in result.notes[-1]
