"""Check the built documentation site: every link and anchor leads somewhere, and nothing is loaded from another host.

The build checks the links that are written in Markdown. This reads the files of the site as a browser does, so it covers
the API reference, figures, scripts and style sheets too.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).parent))

import site_messages
from site_messages import messages

_LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
           "embed": "src", "object": "data", "use": "href", "image": "href"}  # fmt: skip
"""Element -> attribute with an address from which a browser loads something without a click."""
_NOT_LOADED = {"canonical", "next", "prev", "alternate", "license", "author"}
_CSS = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")
# What makes the theme's script request something: diagrams, galleries, and facts about a repository or its users.
_REQUESTING = {"mermaid", "glightbox", "pyodide", "md-source__repository", "md-source"}


@dataclass
class Page(HTMLParser):
    """The addresses and anchors of a page, and its text outside of code."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    text: list[str] = field(default_factory=list)
    has_policy: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self._code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note addresses, anchors and classes of an element."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.classes |= set(values.get("class", "").split())
        self.has_policy |= values.get("http-equiv", "").lower() == "content-security-policy"
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in _LOADED and _LOADED[tag] in values and values.get("rel") not in _NOT_LOADED:
            self.loaded.append(values[_LOADED[tag]])
        self.loaded += [one.split()[0] for one in values.get("srcset", "").split(",") if one.strip()]
        self.loaded += [a or b for a, b in _CSS.findall(values.get("style", ""))]
        self._code += tag in ("code", "pre", "script", "style")

    def handle_endtag(self, tag: str) -> None:
        """Note where code ends."""
        self._code -= tag in ("code", "pre", "script", "style")

    def handle_data(self, data: str) -> None:
        """Note text outside of code."""
        if not self._code:
            self.text.append(data)


def problems(site: Path) -> list[str]:
    """Return what is wrong with the built site, one line each, with the page."""
    pages = {file: Page() for file in sorted(site.rglob("*.html"))}
    for file, page in pages.items():
        page.feed(file.read_text(encoding="utf-8"))
    found = []
    for file, page in pages.items():
        wrong = [*_text_problems(page), *_request_problems(site, file, page)]
        if file.name != "404.html":  # is shown at any address, so its links are absolute
            wrong += _link_problems(site, file, pages)
        found += [f"{file.relative_to(site)}: {problem}" for problem in wrong]
    for file in sorted(site.rglob("*.css")):
        loaded = [a or b for a, b in _CSS.findall(file.read_text(encoding="utf-8"))]
        found += [f"{file.relative_to(site)}: loads {address}" for address in loaded if _is_elsewhere(address)]
    return found


def not_searchable(site: Path) -> list[str]:
    """Return the messages of errors that the search of the site does not find."""
    index = " ".join(html.unescape((site / "search.json").read_text(encoding="utf-8")).replace('\\"', '"').split())
    fragments = {message.text: max(message.text.split(site_messages.GAP), key=len) for message in messages()}
    return [f"the search does not find: {text}" for text, part in fragments.items() if part.strip() not in index]


def _text_problems(page: Page) -> Iterator[str]:
    """Yield Markdown and Sphinx's roles that were not understood."""
    for mark in ("```", "](", ":class:`", ":func:`", ":meth:`"):
        if any(mark in text for text in page.text):
            yield f"the text contains {mark}"


def _request_problems(site: Path, file: Path, page: Page) -> Iterator[str]:
    """Yield what a browser would load from another host, and what does not exist."""
    if not page.has_policy:
        yield "no Content-Security-Policy"
    for name in sorted(page.classes & _REQUESTING):
        yield f"class {name} makes the theme request something"
    for address in page.loaded:
        if _is_elsewhere(address):
            yield f"loads {address}"
        elif not address.startswith("data:") and _target(site, file, address) is None:
            yield f"loads {address}, which does not exist"


def _link_problems(site: Path, file: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Yield links to pages and anchors of the site that do not exist."""
    for address in pages[file].links:
        if _is_elsewhere(address) or address.startswith(("mailto:", "javascript:")):
            continue
        target = _target(site, file, address)
        anchor = unquote(urlsplit(address).fragment)
        if target is None:
            yield f"links to {address}, which does not exist"
        elif anchor and target in pages and anchor not in pages[target].anchors:
            yield f"links to {address}, which has no such anchor"


def _is_elsewhere(address: str) -> bool:
    return bool(urlsplit(address).netloc)


def _target(site: Path, page: Path, address: str) -> Path | None:
    """Return the file of an address on a page, or None if there is none."""
    path = unquote(urlsplit(address).path)
    file = (site / path.lstrip("/") if path.startswith("/") else page.parent / path).resolve() if path else page
    if file.is_dir():
        file /= "index.html"
    return file if file.exists() else None


if __name__ == "__main__":
    built = Path(sys.argv[1]).resolve()
    wrong = problems(built) + not_searchable(built)
    print("\n".join(wrong) or "All links and anchors of the site exist, and it loads nothing from other hosts.")
    sys.exit(bool(wrong))
