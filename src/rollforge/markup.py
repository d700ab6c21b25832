"""Generate HTML from Python values, with text escaped by default."""

from __future__ import annotations

import html

__all__ = ["Markup", "join", "tag"]

_VOID = frozenset({"br", "hr", "meta"})


class Markup(str):
    """A string of HTML, which is not escaped again."""

    __slots__ = ()


def _escaped(value: object) -> str:
    return value if isinstance(value, Markup) else html.escape(str(value), quote=True)


def join(*parts: object) -> Markup:
    """Concatenate the parts, each escaped unless it is `Markup`; None is skipped.

    Examples
    --------
    >>> join(tag("b", "1 < 2"), " & ", None)
    '<b>1 &lt; 2</b> &amp; '
    """
    return Markup("".join(_escaped(p) for p in parts if p is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element. Underscores in attribute names become hyphens; a trailing underscore is removed.

    Parameters
    ----------
    name : str
        Name of the element.
    *children : object
        Escaped unless they are `Markup`; None is skipped.
    **attributes : object
        None and False omit an attribute, True writes it without a value.

    Examples
    --------
    >>> tag("td", "<script>", class_="n", data_v=3, hidden=None)
    '<td class="n" data-v="3">&lt;script&gt;</td>'
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{_escaped(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(*children)}</{name}>")
