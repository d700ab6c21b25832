"""What a day's quotes allow: limits, units, missing prices, volumes. Every number here is worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.record.conftest import FREE, MakeMarket, days_of, nan

from rollforge.errors import ConfigError
from rollforge.record.backtest import BacktestResult, BaseStrategy, run_backtest
from rollforge.record.decision import Order, TradeDecisionWO
from rollforge.record.rules import Rules
from rollforge.session import Session


class Plan(BaseStrategy):
    """Trades what a plan says: step -> [(code, amount)], negative amounts are sold."""

    def __init__(self, plan: dict[int, list[tuple[str, float]]]) -> None:
        super().__init__()
        self.plan = plan

    def generate_trade_decision(self, execute_result: list[Any] | None = None) -> TradeDecisionWO:
        """Return the orders of the step."""
        wanted = self.plan.get(self.trade_calendar.get_trade_step(), [])
        return TradeDecisionWO([Order(c, abs(a), Order.BUY if a > 0 else Order.SELL) for c, a in wanted], self)


def trade(
    session: Session, plan: dict[int, list[tuple[str, float]]], *, n: int, account: Any = 1000.0, **exchange: Any
) -> BacktestResult:
    days = days_of(n)
    return run_backtest(
        Plan(plan),
        start_time=days[0],
        end_time=days[-1],
        account=account,
        exchange_kwargs={**FREE, **exchange},
        session=session,
    )


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0995, 0.095, 0.1, 0.05, 0.2, 0.03])
@pytest.mark.parametrize("price", [10.0, 3.7, 0.001, 123456.0])
def test_a_move_of_exactly_the_limit_is_at_the_limit(make_market: MakeMarket, share: float, price: float) -> None:
    """A move by the limit itself cannot be bought (up) or sold (down), whatever float32 makes of the prices."""
    up, down = price * (1 + share), price * (1 - share)
    session = make_market({"UP": [price, up], "DOWN": [price, down]})
    amount = 100 / price
    result = trade(
        session,
        {0: [("DOWN", amount)], 1: [("UP", amount), ("DOWN", -amount)]},
        n=2,
        limit_threshold=share,
    )
    assert result.trades["deal_amount"].tolist() == pytest.approx([amount, 0, 0])


def test_a_move_just_below_the_limit_is_free(make_market: MakeMarket) -> None:
    """A hundredth of a percent below the limit, both ways are open."""
    session = make_market({"UP": [10, 10.994], "DOWN": [10, 9.006]})
    plan = {0: [("DOWN", 10.0)], 1: [("UP", 10.0), ("DOWN", -10.0)]}
    result = trade(session, plan, n=2, limit_threshold=0.0995)
    assert result.trades["deal_amount"].tolist() == [10, 10, -10]


def test_the_other_direction_stays_open_at_a_limit(make_market: MakeMarket) -> None:
    """At the upper limit one can sell, at the lower buy."""
    session = make_market({"UP": [10, 11], "DOWN": [10, 9]})
    result = trade(session, {0: [("UP", 5.0)], 1: [("UP", -5.0), ("DOWN", 5.0)]}, n=2, limit_threshold=0.095)
    assert result.trades["deal_amount"].tolist() == [5, -5, 5]


@pytest.mark.parametrize(
    ("unit", "change"),
    [
        ("a difference in money", [nan, 1.0, 1.0, 1.0]),
        ("a percentage", [nan, 1.0, 100 / 101, 100 / 102]),
        ("a logarithm", [nan, np.log(1.01), np.log(102 / 101), np.log(103 / 102)]),
    ],
)
def test_a_change_in_another_unit_is_noticed(make_market: MakeMarket, unit: str, change: list[float]) -> None:
    """A stock that rises by 1 % a day is bought although a column `change` says 1; the note says what it looks like."""
    session = make_market({"A": {"close": [100, 101, 102, 103], "change": change}})
    result = trade(session, {1: [("A", 1.0)]}, n=4, limit_threshold=0.095)
    assert result.trades["deal_amount"].tolist() == [1]
    assert unit in result.notes[0]
    assert "1 of 1 instruments (A)" in result.notes[0]


def test_one_day_of_one_instrument_is_enough_to_notice(make_market: MakeMarket) -> None:
    """A backtest of a single day still sees that `change` is money: the close of the day before is known."""
    session = make_market({"A": {"close": [100, 101], "change": [nan, 1.0]}})
    days = days_of(2)
    kwargs = {**FREE, "limit_threshold": 0.095}
    result = run_backtest(
        Plan({0: [("A", 1.0)]}),
        start_time=days[1],
        end_time=days[1],
        account=1000,
        exchange_kwargs=kwargs,
        session=session,
    )
    assert result.trades["deal_amount"].tolist() == [1]
    assert "a difference in money: 1 where the close moved by 0.01" in result.notes[0]


def test_a_change_that_is_a_share_is_believed(make_market: MakeMarket) -> None:
    """`change` wins where it is a share, also on a day on which an unadjusted close moves otherwise (a dividend)."""
    close = [100, 101, 90.0, 91, 92, 93]
    moves = [nan, 0.01, 0.02, 91 / 90 - 1, 92 / 91 - 1, 93 / 92 - 1]  # the third day pays 12 out
    session = make_market({"A": {"close": close, "change": moves}})
    result = trade(session, {0: [("A", 1.0)], 2: [("A", -1.0)]}, n=6, limit_threshold=0.095)
    assert result.trades["deal_amount"].tolist() == [1, -1]
    assert result.notes == ()


def test_instruments_are_judged_one_by_one(make_market: MakeMarket) -> None:
    """One instrument in money among others in shares is named alone, and the others' column is used."""
    share = {"close": [10, 10.2, 10.404], "change": [nan, 0.02, 0.02]}
    money = {"close": [100, 102, 104], "change": [nan, 2.0, 2.0]}
    result = trade(make_market({"A": share, "B": money}), {1: [("A", 1.0), ("B", 1.0)]}, n=3, limit_threshold=0.05)
    assert result.trades["deal_amount"].tolist() == [1, 1]
    assert "1 of 2 instruments (B)" in result.notes[0]


def test_a_change_of_no_known_kind_is_not_used(make_market: MakeMarket) -> None:
    """Zeros throughout, while the price moves, are no changes: limits come from the closes, and the note says so."""
    close = 100 * 1.03 ** np.arange(25)
    session = make_market({"A": {"close": close, "change": np.zeros(25)}})
    result = trade(session, {24: [("A", 1.0)]}, n=25, limit_threshold=0.02)
    assert result.trades["deal_amount"].tolist() == [0]
    assert "but something else" in result.notes[0]


def test_missing_changes_come_from_the_closes(make_market: MakeMarket) -> None:
    """Where `change` is missing and both closes are known the limit still binds, and the note counts the days."""
    session = make_market({"A": {"close": [10, 11, 11.1], "change": [nan, nan, 0.1 / 11]}})
    result = trade(session, {1: [("A", 1.0)], 2: [("A", 1.0)]}, n=3, limit_threshold=0.095)
    assert result.trades["deal_amount"].tolist() == [0, 1]
    assert "$change is missing 1 times although the close is known (A)" in result.notes[0]


def test_without_change_limits_come_from_the_closes(make_market: MakeMarket) -> None:
    """A rise of 10 % cannot be bought in China, though the data have no `change`; infinity means no limits."""
    session = make_market({"A": [10, 11]}, region="cn")
    assert trade(session, {1: [("A", 1.0)]}, n=2).trades["deal_amount"].tolist() == [0]
    assert trade(session, {1: [("A", 1.0)]}, n=2, limit_threshold=float("inf")).trades["deal_amount"].tolist() == [1]


def test_the_sessions_defaults_come_before_the_regions(make_market: MakeMarket) -> None:
    """`Session.exchange` sets trade unit, limit (None: none) and price; exchange_kwargs come before it."""
    series = {"A": {"close": [10, 11, 12.0], "open": [10, 10.5, 11.5]}}
    exchange = {"limit_threshold": None, "deal_price": "open", "trade_unit": 50}
    session = make_market(series, region="cn", exchange=exchange)
    days, costs = days_of(3), {"open_cost": 0, "close_cost": 0, "min_cost": 0}

    def bought(**kwargs: Any) -> tuple[float, float]:
        result = run_backtest(
            Plan({1: [("A", 149.0)]}),
            start_time=days[0],
            end_time=days[-1],
            account=1e5,
            exchange_kwargs={**costs, **kwargs},
            session=session,
        )
        return result.trades["deal_amount"].iloc[0], result.trades["price"].iloc[0]

    assert bought() == (100, 10.5)
    assert bought(deal_price="close", trade_unit=10) == (140, 11)
    assert bought(limit_threshold=0.095)[0] == 0


# -- prices ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("inf")])
def test_what_is_no_price_is_no_quote(make_market: MakeMarket, wrong: float) -> None:
    """At a close of zero, below, or infinity nothing is dealt, holdings keep their last price, and the note says so."""
    session = make_market({"A": [10, wrong, 12]})
    result = trade(session, {0: [("A", 10.0)], 1: [("A", -10.0), ("A", 5.0)], 2: [("A", -10.0)]}, n=3)
    assert result.trades["deal_amount"].tolist() == [10, 0, 0, -10]
    assert result.report["account"].tolist() == [1000, 1000, 1020]
    assert "$close is zero, negative or infinite 1 times (A)" in result.notes[0]


def test_a_missing_deal_price_is_the_close(make_market: MakeMarket) -> None:
    """Orders on a day without an open, or with one of zero, are dealt at the close; the note counts them."""
    session = make_market({"A": {"close": [10, 11, 12], "open": [9, nan, 0]}})
    result = trade(session, {0: [("A", 1.0)], 1: [("A", 1.0)], 2: [("A", 1.0)]}, n=3, deal_price="open")
    assert result.trades["price"].tolist() == [9, 11, 12]
    assert result.notes == ("$open is missing or zero 2 times (A); orders on those days are filled at the close",)


def test_suspended_days(make_market: MakeMarket) -> None:
    """A suspended instrument is neither bought nor sold, and is worth its last close meanwhile."""
    session = make_market({"A": [10, nan, nan, 8]})
    result = trade(session, {0: [("A", 10.0)], 1: [("A", -10.0)], 2: [("A", 5.0)], 3: [("A", -10.0)]}, n=4)
    assert result.trades["deal_amount"].tolist() == [10, 0, 0, -10]
    assert result.report["account"].tolist() == [1000, 1000, 1000, 980]
    assert result.report["return"].tolist() == pytest.approx([0, 0, 0, -0.02])
    assert result.notes == ()


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1.0, 1e6])
def test_results_do_not_depend_on_the_unit_of_prices(make_market: MakeMarket, scale: float) -> None:
    """Prices in another unit give the same returns."""
    session = make_market({"A": np.array([10, 11, 9, 12.0]) * scale})
    result = trade(session, {0: [("A", 50 / scale)], 3: [("A", -50 / scale)]}, n=4)
    assert result.report["return"].tolist() == pytest.approx([0, 0.05, -100 / 1050, 150 / 950], rel=1e-5)


# -- units, costs, volumes ---------------------------------------------------------------------------------------------


def test_trade_units_and_odd_lots(make_market: MakeMarket) -> None:
    """Purchases come in whole units of raw shares; the last shares are sold whole, however many they are."""
    session = make_market({"A": {"close": [20, 20, 20.0], "factor": [2, 2, 2]}})
    result = trade(session, {0: [("A", 30.0)], 1: [("A", -20.0)], 2: [("A", -5.0)]}, n=3, trade_unit=50)
    # 30 adjusted are 60 raw: one unit, 25 adjusted. 20 adjusted are 40 raw: no unit. 5: none, too.
    assert result.trades["deal_amount"].tolist() == [25, 0, 0]
    whole = trade(session, {0: [("A", 30.0)], 1: [("A", -25.0)]}, n=3, trade_unit=50)
    assert whole.trades["deal_amount"].tolist() == [25, -25]


def test_costs(make_market: MakeMarket) -> None:
    """A fee is the rate of the value, at least the minimum; the return is before fees, `cost` is their share."""
    session = make_market({"A": [10, 10, 11.0]})
    plan = {0: [("A", 50.0)], 1: [("A", -1.0)], 2: [("A", -49.0)]}
    result = trade(session, plan, n=3, open_cost=0.001, close_cost=0.002, min_cost=0.3)
    assert result.trades["cost"].tolist() == pytest.approx([0.5, 0.3, 539 * 0.002])
    report = result.report
    assert report["account"].tolist() == pytest.approx([999.5, 999.2, 999.2 + 49 - 1.078])
    assert report["return"].tolist() == pytest.approx([0, 0, 49 / 999.2])
    assert report["cost"].tolist() == pytest.approx([0.5 / 1000, 0.3 / 999.5, 1.078 / 999.2])
    assert report["turnover"].tolist() == pytest.approx([500 / 1000, 10 / 999.5, 539 / 999.2])
    assert result.costs == "0.1 % of purchases and 0.2 % of sales, at least 0.3 an order"


def test_what_cash_does_not_cover_is_cut(make_market: MakeMarket) -> None:
    """A purchase beyond the cash is cut so that price and fee are covered; all that can be had is an infinite amount."""
    session = make_market({"A": [10, 10.0]})
    result = trade(session, {0: [("A", 200.0)]}, n=2, open_cost=0.25)
    assert result.trades["deal_amount"].tolist() == [80]  # 80 at 10 and a quarter of it: 1000
    assert trade(session, {0: [("A", np.inf)]}, n=2).trades["deal_amount"].tolist() == [100]


def test_zero_volume_is_said(make_market: MakeMarket) -> None:
    """An order on a day without trading is filled at the close, as in Qlib, and the note says that nothing was traded."""
    session = make_market({"A": {"close": [10, 10.0], "volume": [100, 0]}})
    result = trade(session, {1: [("A", 5.0)]}, n=2)
    assert result.trades["deal_amount"].tolist() == [5]
    assert result.notes == ("1 order was filled on days on which the instrument has a price but no trading volume (A)",)


def test_volume_limits_of_a_day_and_of_an_order(make_market: MakeMarket) -> None:
    """`cum` limits the orders of a day together, `current` each of them; a missing volume is none."""
    session = make_market({"A": {"close": [10, 10.0], "volume": [100, nan]}})
    plan = {0: [("A", 6.0), ("A", 6.0)], 1: [("A", 6.0)]}
    together = trade(session, plan, n=2, volume_threshold=("cum", "0.08*$volume"))
    assert together.trades["deal_amount"].tolist() == pytest.approx([6, 2, 0])
    each = trade(session, plan, n=2, volume_threshold={"buy": ("current", "0.05*$volume")})
    assert each.trades["deal_amount"].tolist() == pytest.approx([5, 5, 0])


def test_an_account_that_is_worth_nothing(make_market: MakeMarket) -> None:
    """After everything is lost, shares of the account have no value; nothing is divided by zero."""
    session = make_market({"A": [10, 10.0, 10]})
    result = trade(session, {0: [("A", 100.0)], 1: [("A", -100.0)]}, n=3, close_cost=1.0)
    assert result.report["account"].tolist() == [1000, 0, 0]
    assert np.isnan(result.report["return"].iloc[2])


# -- options -----------------------------------------------------------------------------------------------------------


def test_quotes_from_before_and_fields_asked_for(make_market: MakeMarket) -> None:
    """The exchange answers for days from its own start on, and for the fields that it was told of; others are named."""
    session = make_market({"A": {"close": [10, 11, 12.0], "high": [15, 16, 17]}})
    days, found = days_of(3), []

    class Asks(Plan):
        def generate_trade_decision(self, execute_result: list[Any] | None = None) -> TradeDecisionWO:
            exchange, eve = self.trade_exchange, self.trade_calendar.get_step_time(shift=1)
            found.append((exchange.get_close("A", *eve), exchange.get_quote_info("A", *eve, "$high")))
            return super().generate_trade_decision(execute_result)

    options = {"start_time": days[2], "end_time": days[2], "session": session}
    kwargs = {**FREE, "start_time": days[0], "subscribe_fields": ["$high"]}
    run_backtest(Asks({}), exchange_kwargs=kwargs, **options)
    assert found == [(11, 16)]
    with pytest.raises(ConfigError, match=r"no quotes of '\$high'.*subscribe_fields names more"):
        run_backtest(Asks({}), exchange_kwargs=FREE, **options)
    with pytest.raises(ConfigError, match=r"the exchange has quotes from 2021-03-01 to 2021-03-02"):
        run_backtest(Plan({}), exchange_kwargs={**FREE, "start_time": days[0], "end_time": days[1]}, **options)


def test_orders_for_what_has_no_quotes_are_named(make_market: MakeMarket) -> None:
    """An order for an unknown code is not traded, and the note names it."""
    result = trade(make_market({"A": [10, 10.0]}), {0: [("ZZZ", 1.0), ("a", 1.0)]}, n=2)
    assert result.trades["deal_amount"].tolist() == [0, 1]
    assert result.notes == ("there are no quotes of ZZZ: orders for them were not traded",)


def test_a_one_day_backtest(make_market: MakeMarket) -> None:
    """A backtest of one day has one row: bought at the close, nothing earned."""
    days = days_of(1)
    session = make_market({"A": [10.0]})
    result = run_backtest(
        Plan({0: [("A", 10.0)]}),
        start_time=days[0],
        end_time=days[0],
        account=1000,
        exchange_kwargs=FREE,
        session=session,
    )
    assert result.report.loc[days[0], ["account", "value", "cash", "return"]].tolist() == [1000, 100, 900, 0]


def test_rules_in_words() -> None:
    """Fees are written out, whatever they are."""
    assert Rules(open_cost=0, close_cost=0, min_cost=0).costs() == "0 % of purchases and 0 % of sales"
    assert Rules.from_kwargs({"impact_cost": 0.1}, region="us").costs() == (
        "0.15 % of purchases and 0.25 % of sales, at least 5 an order, and an impact cost of 0.1"
    )


def test_order_amounts_must_be_amounts() -> None:
    """A missing or negative amount, or a direction that is none, is refused where the order is made."""
    for amount in (nan, -1.0):
        with pytest.raises(ConfigError, match="amount of an order"):
            Order("A", amount, Order.BUY)
    with pytest.raises(ConfigError, match="'buy' or 'sell'"):
        Order("A", 1.0, "hold")  # type: ignore[arg-type]
    assert pd.isna(Order("A", 1.0, "buy").start_time)  # type: ignore[arg-type]
