"""The HTML that a notebook shows as the value of a cell, and whether this is a notebook.

The HTML has no styles of its own except for spacing, so that it looks like the notebook's other tables, in light and in dark.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from rollforge.errors import RollforgeError, counted, printable
from rollforge.markup import Markup, join, tag

__all__ = ["html_repr", "in_notebook", "summary", "table"]

ROWS = 20
"""Rows of a table that are shown; of a longer one the first and the last."""
_Object = TypeVar("_Object")


def in_notebook() -> bool:
    """Return whether this code runs in the kernel of a notebook.

    Examples
    --------
    >>> in_notebook()
    False
    """
    ipython = sys.modules.get("IPython")  # a kernel has imported it
    shell = getattr(ipython, "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def html_repr(method: Callable[[_Object], Markup]) -> Callable[[_Object], str]:
    """Make a ``_repr_html_`` of a method: if it raises an error of Rollforge, the cell shows its message."""

    @functools.wraps(method)
    def shown(self: _Object) -> str:
        try:
            return str(method(self))
        except RollforgeError as exc:
            return str(summary(repr(self), {"not shown": exc}))

    return shown


def summary(title: str, info: Mapping[str, object], *parts: Markup | None) -> Markup:
    """Return a title, a line of facts, and tables below it.

    Parameters
    ----------
    title : str
        Shown in bold.
    info : mapping
        Name -> value. A value of None is left out.
    *parts : Markup
        Shown below, one after the other; None is left out.

    Examples
    --------
    >>> summary("Pool", {"waiting": 2, "store": None})
    '<div><div><b>Pool</b> <span style="margin-left: 1em">waiting: 2</span></div></div>'
    """
    written = [
        join(" ", tag("span", f"{name}: {_text(value)}", style="margin-left: 1em"))
        for name, value in info.items()
        if value is not None
    ]
    return tag("div", tag("div", tag("b", _text(title)), *written), *parts)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, of: str = "row") -> Markup | None:
    """Return a table of the first and the last rows; None if there are none.

    Parameters
    ----------
    columns : sequence of str
        Names of the columns.
    rows : iterable of sequence
        The values of each row. Numbers are right-aligned, with four significant digits if they are fractions; None and NaN
        are blank.
    of : str
        What a row is called in the line that says how many are left out.

    Examples
    --------
    >>> table(["window", "IC"], [[1, 0.05], [2, None]])
    '<table><thead><tr><th>window</th><th>IC</th></tr></thead><tbody><tr><td>1</td><td>0.05</td></tr><tr><td>2</td><td></td></tr></tbody></table>'
    """
    listed = list(rows)
    if not listed:
        return None
    left_out = max(0, len(listed) - ROWS)
    shown = listed if not left_out else [*listed[: ROWS // 2], None, *listed[-ROWS // 2 :]]
    body = [
        tag("tr", tag("td", f"… {counted(left_out, of)} not shown …", colspan=len(columns)))
        if row is None
        else tag("tr", *(tag("td", _text(value)) for value in row))
        for row in shown
    ]
    head = tag("thead", tag("tr", *(tag("th", _text(name)) for name in columns)))
    return tag("table", head, tag("tbody", *body))


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return printable(str(value))
