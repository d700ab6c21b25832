"""The position of an account: cash, and the amount, price, weight and days held of each instrument."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rollforge.errors import ConfigError
from rollforge.record.decision import Order, OrderDir

__all__ = ["Position"]


class Position(Mapping[str, Any]):
    """Cash and holdings, with Qlib's names.

    ``position`` is the same dict as in Qlib: ``{"cash": …, "now_account_value": …, code: {"amount": …, "price": …,
    "weight": …, "count_day": …}}``. The position itself is also that mapping. Amounts are adjusted shares.

    Parameters
    ----------
    cash : float
        Cash.
    position_dict : mapping, optional
        ``{code: {"amount": …, "price": …}}``.

    Examples
    --------
    >>> held = Position(cash=50.0, position_dict={"A": {"amount": 10, "price": 5.0}})
    >>> held.calculate_value(), held.get_stock_weight_dict(), held.position["A"]["price"]
    (100.0, {'A': 0.5}, 5.0)
    """

    def __init__(self, cash: float = 0.0, position_dict: Mapping[str, Mapping[str, float]] | None = None) -> None:
        self.init_cash = cash
        self._delays_cash = False
        self.position: dict[str, Any] = {"cash": cash}
        for code, entry in (position_dict or {}).items():
            self.position[code] = {"weight": 0.0, "count_day": 0, **entry}
        self.update_weight_all()

    def __getitem__(self, key: str) -> Any:
        return self.position[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.position)

    def __len__(self) -> int:
        return len(self.position)

    def __eq__(self, other: object) -> bool:
        return self.position == (other.position if isinstance(other, Position) else other)

    __hash__ = None  # type: ignore[assignment]  # it is mutable

    def __repr__(self) -> str:
        return f"Position({self.position!r})"

    def copy(self) -> Position:
        """Return an independent copy."""
        made = Position.__new__(Position)
        made.init_cash, made._delays_cash = self.init_cash, self._delays_cash
        made.position = {k: dict(v) if isinstance(v, dict) else v for k, v in self.position.items()}
        return made

    def __deepcopy__(self, memo: object) -> Position:
        return self.copy()

    # -- queries -------------------------------------------------------------------------------------------------------

    def check_stock(self, stock_id: str) -> bool:
        """Return whether an instrument is held."""
        return stock_id in self.position

    def get_stock_list(self) -> list[str]:
        """Return the codes that are held, ascending (Qlib's order differs from run to run)."""
        return sorted(code for code, _ in self._holdings())

    def get_stock_price(self, code: str) -> float:
        """Return the last known price of a holding."""
        price: float = self.position[code]["price"]
        return price

    def get_stock_amount(self, code: str) -> float:
        """Return the amount of an instrument; 0 if it is not held."""
        amount: float = self.position[code]["amount"] if code in self.position else 0.0
        return amount

    def get_stock_count(self, code: str, bar: str = "day") -> int:
        """Return the number of days that an instrument has been held."""
        days: int = self.position[code].get(f"count_{bar}", 0)
        return days

    def get_stock_weight(self, code: str) -> float:
        """Return the weight of a holding in the account at the end of the last day."""
        weight: float = self.position[code]["weight"]
        return weight

    def get_cash(self, include_settle: bool = False) -> float:
        """Return the available cash; with `include_settle`, including proceeds of sales that settle tomorrow."""
        cash: float = self.position["cash"]
        return cash + self.position.get("cash_delay", 0.0) if include_settle else cash

    def get_stock_amount_dict(self) -> dict[str, float]:
        """Return the amount of each holding."""
        return {code: self.position[code]["amount"] for code in self.get_stock_list()}

    def get_stock_weight_dict(self, only_stock: bool = False) -> dict[str, float]:
        """Return the weight of each holding in the account or, with `only_stock`, in all holdings."""
        whole = self.calculate_stock_value() if only_stock else self.calculate_value()
        return {code: _share(entry["amount"] * entry["price"], whole) for code, entry in self._holdings()}

    def _holdings(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return the holdings in the order in which they were bought."""
        return ((code, entry) for code, entry in self.position.items() if isinstance(entry, dict))

    def calculate_stock_value(self) -> float:
        """Return the value of the holdings at their last known prices."""
        value: float = sum(entry["amount"] * entry["price"] for _, entry in self._holdings())
        return value

    def calculate_value(self) -> float:
        """Return the value of holdings and cash."""
        return self.calculate_stock_value() + self.get_cash(include_settle=True)

    # -- changes -------------------------------------------------------------------------------------------------------

    def update_order(self, order: Order, trade_val: float, cost: float, trade_price: float) -> None:
        """Apply a trade.

        Raises
        ------
        ConfigError
            If more is sold than is held.
        """
        code, amount = order.stock_id, trade_val / trade_price
        if order.direction is OrderDir.BUY:
            entry = self.position.setdefault(code, {"amount": 0.0, "price": trade_price, "weight": 0.0, "count_day": 0})
            entry["amount"] += amount
            self.position["cash"] -= trade_val + cost
            return
        held = self.get_stock_amount(code)
        if abs(held - amount) <= 1e-8 + 1e-5 * abs(amount):
            del self.position[code]
        elif held < amount:
            raise ConfigError(f"{amount:g} of {code} cannot be sold, because only {held:g} are held.")
        else:
            self.position[code]["amount"] -= amount
        self.position["cash_delay" if self._delays_cash else "cash"] += trade_val - cost

    def update_stock_price(self, stock_id: str, price: float) -> None:
        """Set the last known price of a holding."""
        self.position[stock_id]["price"] = price

    def update_stock_count(self, stock_id: str, bar: str, count: int) -> None:
        """Set the number of days that an instrument has been held."""
        self.position[stock_id][f"count_{bar}"] = count

    def update_stock_weight(self, stock_id: str, weight: float) -> None:
        """Set the weight of a holding in the account."""
        self.position[stock_id]["weight"] = weight

    def add_count_all(self, bar: str = "day") -> None:
        """Add a day to the holding period of each holding."""
        for _, entry in self._holdings():
            entry[f"count_{bar}"] = entry.get(f"count_{bar}", 0) + 1

    def update_weight_all(self) -> None:
        """Update the value of the account, and the weight of each holding in it."""
        value = self.position["now_account_value"] = self.calculate_value()
        for _, entry in self._holdings():
            entry["weight"] = _share(entry["amount"] * entry["price"], value)

    def settle_start(self, settle_type: str) -> None:
        """Start a step; with ``cash``, the proceeds of sales are not available before :meth:`settle_commit`."""
        self._delays_cash = settle_type == "cash"
        if self._delays_cash:
            self.position["cash_delay"] = 0.0

    def settle_commit(self) -> None:
        """End a step: the proceeds of sales become available."""
        self.position["cash"] += self.position.pop("cash_delay", 0.0)
        self._delays_cash = False


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
