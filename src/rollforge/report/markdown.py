"""The report as Markdown, for a pull request or an issue: the texts and tables of the page, without its plots.

It is made from the page itself, so that both have the same numbers.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

from rollforge.markup import Markup

__all__ = ["to_markdown"]

_MAX_ROWS = 40
"""Largest number of rows of a table; the page has all."""
_BLOCKS = {"h1": "# ", "h2": "## ", "h3": "### ", "p": "", "li": "- ", "b": "", "summary": "- ", "caption": ""}
_CELLS = ("dt", "dd", "th", "td")
_OMITTED = ("figure", "noscript", "pre", "footer")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~$&])")
_REFERENCES = re.compile(r"([@#])(?=\w)")


def to_markdown(page: Markup) -> str:
    """Return the headings, paragraphs, lists and tables of a page as GitHub's Markdown.

    Text is escaped: it is shown as it is written, and names nobody and refers to nothing. Tables with more than 40 rows
    are cut. Parts that are folded on the page, such as tracebacks, are omitted.

    Examples
    --------
    >>> to_markdown(Markup("<h2>a*b</h2><table><thead><tr><th>x</th></tr></thead><tbody><tr><td>1|2</td></tr></tbody></table>"))
    '## a\\\\*b\\n\\n| x |\\n|---|\\n| 1\\\\|2 |\\n'
    """
    reader = _Reader()
    reader.feed(page)
    reader.close()
    text = ""
    for block in filter(None, reader.blocks):
        listed = block.startswith("- ") and text.rpartition("\n")[2].startswith("- ")
        text += ("\n" if listed else "\n\n" if text else "") + block
    return f"{text}\n"


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is, on one line, without references to people or issues."""
    return _REFERENCES.sub("\\1\u200b", _SPECIAL.sub(r"\\\1", " ".join(text.split())))


class _Reader(HTMLParser):
    """Collects the blocks of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[str] = []
        self._text: list[str] = []
        self._rows: list[list[str]] = []
        self._term = ""
        self._skipped = 0
        """Number of open elements within one that is omitted, with that one."""
        self._inline = False
        """Whether bold text is part of a line, and not a line of its own."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a block, or omit an element."""
        kind = (dict(attrs).get("class") or "").split()
        folded = tag == "details" and "error" not in kind
        if self._skipped or tag in _OMITTED or "timeline" in kind or folded:
            self._skipped += 1
        elif tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("small", "code", "button"):
            self._text.append(" ")
        elif tag in _CELLS or (tag in _BLOCKS and not (tag == "b" and self._inline)):
            self._text = []
            self._inline = tag == "summary"

    def handle_endtag(self, tag: str) -> None:
        """End a block."""
        if self._skipped:
            self._skipped -= 1
        elif tag == "table":
            self.blocks.append(_table(self._rows))
        elif tag in _CELLS or (tag in _BLOCKS and not (tag == "b" and self._inline)):
            self._end(tag, _escaped("".join(self._text)))
            self._text = []

    def _end(self, tag: str, text: str) -> None:
        if tag in ("th", "td"):
            self._rows[-1].append(text)
        elif tag == "dt":
            self._term = text
        elif tag == "dd":
            self.blocks.append(f"- {self._term}: {text}")
        elif text:
            self.blocks.append(f"**{text}**" if tag == "caption" else f"{_BLOCKS[tag]}{text}")

    def handle_data(self, data: str) -> None:
        """Keep the text of a block."""
        if not self._skipped:
            self._text.append(data)


def _table(rows: list[list[str]]) -> str:
    """Return the rows of a table, of which the first has the titles; rows without titles get empty ones."""
    if not rows:
        return ""
    body = rows[1:]
    lines = [
        *(_line(cells) for cells in rows[:1]),
        f"|{'|'.join(['---'] * len(rows[0]))}|",
        *map(_line, body[:_MAX_ROWS]),
    ]
    more = f"\n\n{len(body) - _MAX_ROWS} more rows are on the page." if len(body) > _MAX_ROWS else ""
    return "\n".join(lines) + more


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
