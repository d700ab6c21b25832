"""The effect of a day's quotes: limits, units, missing prices, volumes. All expected numbers are computed by hand."""

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
    """Trades a fixed plan: step -> [(code, amount)], negative amounts are sold."""

    def __init__(self, plan: dict[int, list[tuple[str, float]]]) -> None:
        super().__init__()
        self.plan = plan

    def generate_trade_decision(self, execute_result: list[Any] | None = None) -> TradeDecisionWO:
        """Return the orders of the current step."""
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
    """After a move by exactly the limit, an instrument cannot be bought (up) or sold (down), despite float32
    rounding."""
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
    """A hundredth of a percent below the limit, both directions are possible."""
    session = make_market({"UP": [10, 10.994], "DOWN": [10, 9.006]})
    plan = {0: [("DOWN", 10.0)], 1: [("UP", 10.0), ("DOWN", -10.0)]}
    result = trade(session, plan, n=2, limit_threshold=0.0995)
    assert result.trades["deal_amount"].tolist() == [10, 10, -10]


def test_the_other_direction_stays_open_at_a_limit(make_market: MakeMarket) -> None:
    """At the upper limit instruments can be sold, at the lower limit bought."""
    session = make_market({"UP": [10, 11], "DOWN": [10, 9]})
    result = trade(session, {0: [("UP", 5.0)], 1: [("UP", -5.0), ("DOWN", 5.0)]}, n=2, limit_threshold=0.095)
    assert result.trades["deal_amount"].tolist() == [5, -5, 5]


def test_holdings_are_valued_at_the_price_of_the_sale_also_at_a_limit(make_market: MakeMarket) -> None:
    """Only a suspended instrument, which has no such price, is valued at its last close, and left out if only those that
    can be traded are asked for."""
    session = make_market({
        "UP": {"close": [10, 11], "open": [10, 10.8]}, "FREE": {"close": [10, 10.2], "open": [10, 10.1]},
        "SUSPENDED": {"close": [10, nan], "open": [10, nan]},
    })  # fmt: skip
    values: list[float] = []

    class Values(Plan):
        def generate_trade_decision(self, execute_result: list[Any] | None = None) -> TradeDecisionWO:
            start, end = self.trade_calendar.get_step_time()
            for held in ({"UP": 1.0}, {"FREE": 1.0}, {"SUSPENDED": 1.0}):
                for only in (False, True):
                    value = self.trade_exchange.calculate_amount_position_value(held, start, end, only_tradable=only)
                    values.append(value)
            return TradeDecisionWO([], self)

    days = days_of(2)
    kwargs = {**FREE, "limit_threshold": 0.095, "deal_price": ("close", "open")}
    run_backtest(Values({}), start_time=days[0], end_time=days[1], account=1, exchange_kwargs=kwargs, session=session)
    assert values[6:] == pytest.approx([10.8, 0, 10.1, 10.1, 10, 0])


@pytest.mark.parametrize(
    ("unit", "change"),
    [
        ("a difference in money", [nan, 1.0, 1.0, 1.0]),
        ("a percentage", [nan, 1.0, 100 / 101, 100 / 102]),
        ("a logarithm", [nan, np.log(1.01), np.log(102 / 101), np.log(103 / 102)]),
    ],
)
def test_a_change_in_another_unit_is_detected(make_market: MakeMarket, unit: str, change: list[float]) -> None:
    """A stock that rises by 1 % a day is bought although the field `change` is 1; the note says what the field seems to
    be.
    """
    session = make_market({"A": {"close": [100, 101, 102, 103], "change": change}})
    result = trade(session, {1: [("A", 1.0)]}, n=4, limit_threshold=0.095)
    assert result.trades["deal_amount"].tolist() == [1]
    assert unit in result.notes[0]
    assert "1 of 1 instruments (A)" in result.notes[0]


def test_the_unit_of_change_is_detected_from_a_single_day(make_market: MakeMarket) -> None:
    """A backtest of one day detects that `change` is in money too, because the previous close is known."""
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


def test_a_change_that_is_a_fraction_is_used(make_market: MakeMarket) -> None:
    """`change` takes precedence, even if an unadjusted close moves differently on a day (a dividend)."""
    close = [100, 101, 90.0, 91, 92, 93]
    moves = [nan, 0.01, 0.02, 91 / 90 - 1, 92 / 91 - 1, 93 / 92 - 1]  # a dividend of 12 on the third day
    session = make_market({"A": {"close": close, "change": moves}})
    result = trade(session, {0: [("A", 1.0)], 2: [("A", -1.0)]}, n=6, limit_threshold=0.095)
    assert result.trades["deal_amount"].tolist() == [1, -1]
    assert result.notes == ()


def test_the_unit_of_change_is_detected_for_each_instrument(make_market: MakeMarket) -> None:
    """An instrument with changes in money is reported alone, and the field is used for the others."""
    share = {"close": [10, 10.2, 10.404], "change": [nan, 0.02, 0.02]}
    money = {"close": [100, 102, 104], "change": [nan, 2.0, 2.0]}
    result = trade(make_market({"A": share, "B": money}), {1: [("A", 1.0), ("B", 1.0)]}, n=3, limit_threshold=0.05)
    assert result.trades["deal_amount"].tolist() == [1, 1]
    assert "1 of 2 instruments (B)" in result.notes[0]


def test_a_change_of_no_known_kind_is_not_used(make_market: MakeMarket) -> None:
    """Zeros while the price moves are not changes: limits use the closes, and the note says so."""
    close = 100 * 1.03 ** np.arange(25)
    session = make_market({"A": {"close": close, "change": np.zeros(25)}})
    result = trade(session, {24: [("A", 1.0)]}, n=25, limit_threshold=0.02)
    assert result.trades["deal_amount"].tolist() == [0]
    assert "but something else" in result.notes[0]


def test_missing_changes_come_from_the_closes(make_market: MakeMarket) -> None:
    """If `change` is missing and both closes are known the limit still applies, and the note counts the days."""
    session = make_market({"A": {"close": [10, 11, 11.1], "change": [nan, nan, 0.1 / 11]}})
    result = trade(session, {1: [("A", 1.0)], 2: [("A", 1.0)]}, n=3, limit_threshold=0.095)
    assert result.trades["deal_amount"].tolist() == [0, 1]
    assert "$change is missing 1 times although the close is known (A)" in result.notes[0]


def test_without_change_limits_come_from_the_closes(make_market: MakeMarket) -> None:
    """In China an instrument that has risen by 10 % cannot be bought, even without `change`; infinity means no
    limits."""
    session = make_market({"A": [10, 11]}, region="cn")
    assert trade(session, {1: [("A", 1.0)]}, n=2).trades["deal_amount"].tolist() == [0]
    assert trade(session, {1: [("A", 1.0)]}, n=2, limit_threshold=float("inf")).trades["deal_amount"].tolist() == [1]


def test_the_sessions_defaults_come_before_the_regions(make_market: MakeMarket) -> None:
    """`Session.exchange` sets trade unit, limit (None: none) and price; exchange_kwargs override it."""
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
def test_invalid_prices_are_not_quotes(make_market: MakeMarket, wrong: float) -> None:
    """With a close of zero, below zero, or infinity nothing is traded, holdings keep their last price, and a note says
    so.
    """
    session = make_market({"A": [10, wrong, 12]})
    result = trade(session, {0: [("A", 10.0)], 1: [("A", -10.0), ("A", 5.0)], 2: [("A", -10.0)]}, n=3)
    assert result.trades["deal_amount"].tolist() == [10, 0, 0, -10]
    assert result.report["account"].tolist() == [1000, 1000, 1020]
    assert "$close is zero, negative or infinite 1 times (A)" in result.notes[0]


def test_a_missing_deal_price_is_the_close(make_market: MakeMarket) -> None:
    """Orders on a day without an open, or with an open of zero, are filled at the close; the note counts them."""
    session = make_market({"A": {"close": [10, 11, 12], "open": [9, nan, 0]}})
    result = trade(session, {0: [("A", 1.0)], 1: [("A", 1.0)], 2: [("A", 1.0)]}, n=3, deal_price="open")
    assert result.trades["price"].tolist() == [9, 11, 12]
    assert result.notes == ("$open is missing or zero 2 times (A); orders on those days are filled at the close",)


def test_suspended_days(make_market: MakeMarket) -> None:
    """A suspended instrument is neither bought nor sold, and is valued at its last close."""
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


def test_units_of_less_than_a_share(make_market: MakeMarket) -> None:
    """A purchase is rounded down to units of 0.001, as of a cryptocurrency, and does not grow by a tenth of a share."""
    session = make_market({"BTC": [50000.0, 50000.0]})
    result = trade(session, {0: [("BTC", 0.1905)], 1: [("BTC", -0.0508)]}, n=2, account=10_000, trade_unit=0.001)
    assert result.trades["deal_amount"].tolist() == pytest.approx([0.19, -0.05])
    assert result.report["cash"].tolist() == pytest.approx([500, 3000])


@pytest.mark.parametrize(
    ("price", "cost", "amount"), [(10.01, 0, 99), (10.0, 0, 100), (10.0, 0.0005, 99), (9.99, 0.002, 99)]
)
def test_rounding_does_not_spend_more_than_there_is(
    make_market: MakeMarket, price: float, cost: float, amount: float
) -> None:
    """Of 1,000, at 10.01 a share, 99 shares are bought, although 99.9 is within the tolerance of 100."""
    session = make_market({"A": [price]})
    result = trade(session, {0: [("A", 100.0)]}, n=1, trade_unit=1, open_cost=cost)
    assert result.trades["deal_amount"].tolist() == [amount]
    assert result.report["cash"].iloc[0] >= -1e-3


def test_trade_units_and_odd_lots(make_market: MakeMarket) -> None:
    """Purchases are whole units of raw shares; a holding is sold completely, even if it is not a whole number of
    units."""
    session = make_market({"A": {"close": [20, 20, 20.0], "factor": [2, 2, 2]}})
    result = trade(session, {0: [("A", 30.0)], 1: [("A", -20.0)], 2: [("A", -5.0)]}, n=3, trade_unit=50)
    # 30 adjusted are 60 raw: one unit, 25 adjusted. 20 adjusted are 40 raw: no unit. 5: none either.
    assert result.trades["deal_amount"].tolist() == [25, 0, 0]
    whole = trade(session, {0: [("A", 30.0)], 1: [("A", -25.0)]}, n=3, trade_unit=50)
    assert whole.trades["deal_amount"].tolist() == [25, -25]


def test_costs(make_market: MakeMarket) -> None:
    """A fee is the rate times the value, at least the minimum; the return is before fees, and `cost` is their
    fraction."""
    session = make_market({"A": [10, 10, 11.0]})
    plan = {0: [("A", 50.0)], 1: [("A", -1.0)], 2: [("A", -49.0)]}
    result = trade(session, plan, n=3, open_cost=0.001, close_cost=0.002, min_cost=0.3)
    assert result.trades["cost"].tolist() == pytest.approx([0.5, 0.3, 539 * 0.002])
    report = result.report
    assert report["account"].tolist() == pytest.approx([999.5, 999.2, 999.2 + 49 - 1.078])
    assert report["return"].tolist() == pytest.approx([0, 0, 49 / 999.2])
    assert report["cost"].tolist() == pytest.approx([0.5 / 1000, 0.3 / 999.5, 1.078 / 999.2])
    assert report["turnover"].tolist() == pytest.approx([500 / 1000, 10 / 999.5, 539 / 999.2])
    assert result.costs == "0.1 % of purchases and 0.2 % of sales, at least 0.3 per order"


def test_what_cash_does_not_cover_is_cut(make_market: MakeMarket) -> None:
    """A purchase is reduced so that cash covers price and fee; an infinite amount buys as much as possible."""
    session = make_market({"A": [10, 10.0]})
    result = trade(session, {0: [("A", 200.0)]}, n=2, open_cost=0.25)
    assert result.trades["deal_amount"].tolist() == [80]  # 80 at 10 plus a quarter: 1000
    assert trade(session, {0: [("A", np.inf)]}, n=2).trades["deal_amount"].tolist() == [100]


def test_zero_volume_gives_a_note(make_market: MakeMarket) -> None:
    """An order on a day without volume is filled at the close, as in Qlib, and a note says that nothing was traded."""
    session = make_market({"A": {"close": [10, 10.0], "volume": [100, 0]}})
    result = trade(session, {1: [("A", 5.0)]}, n=2)
    assert result.trades["deal_amount"].tolist() == [5]
    assert result.notes == ("1 order was filled on days on which the instrument has a price but no trading volume (A)",)


def test_volume_limits_of_a_day_and_of_an_order(make_market: MakeMarket) -> None:
    """`cum` limits the total of a day's orders, `current` each of them; a missing volume is no limit."""
    session = make_market({"A": {"close": [10, 10.0], "volume": [100, nan]}})
    plan = {0: [("A", 6.0), ("A", 6.0)], 1: [("A", 6.0)]}
    together = trade(session, plan, n=2, volume_threshold=("cum", "0.08*$volume"))
    assert together.trades["deal_amount"].tolist() == pytest.approx([6, 2, 0])
    each = trade(session, plan, n=2, volume_threshold={"buy": ("current", "0.05*$volume")})
    assert each.trades["deal_amount"].tolist() == pytest.approx([5, 5, 0])


def test_an_account_without_value(make_market: MakeMarket) -> None:
    """After a total loss, fractions of the account are undefined; nothing is divided by zero."""
    session = make_market({"A": [10, 10.0, 10]})
    result = trade(session, {0: [("A", 100.0)], 1: [("A", -100.0)]}, n=3, close_cost=1.0)
    assert result.report["account"].tolist() == [1000, 0, 0]
    assert np.isnan(result.report["return"].iloc[2])


# -- options -----------------------------------------------------------------------------------------------------------


def test_the_exchange_has_its_own_range_and_fields(make_market: MakeMarket) -> None:
    """The exchange has quotes from its own start on, and for the given fields; the error names others."""
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
    with pytest.raises(ConfigError, match=r"no quotes of '\$high'.*add more with exchange_kwargs.subscribe_fields"):
        run_backtest(Asks({}), exchange_kwargs=FREE, **options)
    with pytest.raises(ConfigError, match=r"the exchange has quotes from 2021-03-01 to 2021-03-02"):
        run_backtest(Plan({}), exchange_kwargs={**FREE, "start_time": days[0], "end_time": days[1]}, **options)


def test_orders_without_quotes_are_named(make_market: MakeMarket) -> None:
    """An order for an unknown code is not executed, and a note names it."""
    result = trade(make_market({"A": [10, 10.0]}), {0: [("ZZZ", 1.0), ("a", 1.0)]}, n=2)
    assert result.trades["deal_amount"].tolist() == [0, 1]
    assert result.notes == ("there are no quotes of ZZZ: orders for them were not traded",)


def test_a_one_day_backtest(make_market: MakeMarket) -> None:
    """A backtest of one day has one row: bought at the close, no return."""
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
        "0.15 % of purchases and 0.25 % of sales, at least 5 per order, and an impact cost of 0.1"
    )


def test_order_amounts_must_be_amounts() -> None:
    """A missing or negative amount, or an invalid direction, is refused when the order is created."""
    for amount in (nan, -1.0):
        with pytest.raises(ConfigError, match="amount of an order"):
            Order("A", amount, Order.BUY)
    with pytest.raises(ConfigError, match="'buy' or 'sell'"):
        Order("A", 1.0, "hold")  # type: ignore[arg-type]
    assert pd.isna(Order("A", 1.0, "buy").start_time)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["open_cost", "close_cost"])
def test_costs_in_percent_are_an_error(name: str) -> None:
    """A fee larger than the order is none: nothing could be bought; the error says how 0.05 % is written."""
    assert Rules.from_kwargs({name: 1}, region="us")
    with pytest.raises(
        ConfigError, match=rf"{name} must be a fraction .* 0\.0005 for 0\.05 %; found 5, which is 500 %"
    ):
        Rules.from_kwargs({name: 5}, region="us")


def test_a_limit_in_percent_gives_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A limit of 9.5 is 950 %, so that nothing is ever at its limit."""
    Rules.from_kwargs({"limit_threshold": 0.99}, region="us")
    Rules.from_kwargs({"limit_threshold": float("inf")}, region="us")
    Rules.from_kwargs({"limit_threshold": 1}, region="us")  # another way to write that there is no limit
    assert not caplog.messages
    Rules.from_kwargs({"limit_threshold": 9.5}, region="us")
    assert "a change of 950 %" in caplog.messages[0]


def test_sales_of_what_is_not_held_give_a_note(make_market: MakeMarket) -> None:
    """The account cannot be short; a sale of a part of a trade unit is none of these."""
    session = make_market({"A": [10, 10, 10.0], "B": [10, 10, 10.0]})
    result = trade(session, {0: [("A", 100.0), ("B", -5.0)], 1: [("A", -40.0)], 2: [("B", -5.0)]}, n=3, trade_unit=50)
    assert result.trades["deal_amount"].tolist() == [100, 0, 0, 0]
    assert result.notes == (
        "2 sales were of instruments that the account did not hold, and not made, because it cannot be short (B)",
    )
