"""The documentation site in a real browser: no errors, nothing from elsewhere, search, phone width, dark mode, keyboard."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .axe import NO_AXE, find_axe, violations
from .chromium import MISSING, Page, find_browser

ROOT = Path(__file__).parents[2]
SITE = ROOT / "site"
"""What ``make site`` builds; ``.ci/run`` does so before its tests."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason=MISSING),
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no documentation site: make site"),
]
PAGES = {
    "start": "/", "first steps": "/docs/start/", "guide": "/docs/windows/", "messages": "/docs/troubleshooting/",
    "API": "/docs/api/generate/", "Chinese": "/docs/zh/start/", "gallery": "/docs/gallery/", "dashboard": "/docs/dashboard/",
}  # fmt: skip
CTRL = 2
FOUND = """
[...document.querySelectorAll('*')].flatMap(one => one.shadowRoot ? [...one.shadowRoot.querySelectorAll('a[href]')] : [])
"""
"""The links of the search, which has a tree of its own."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The site, served as files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def opened(page: Page, address: str, name: str) -> None:
    """Open a page, with its script."""
    page.open(address + PAGES[name])
    page.wait("document.documentElement.classList.contains('js')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_load_without_errors_and_only_from_here(page: Page, address: str, scheme: str) -> None:
    """Nothing is reported in the console, also by the Content-Security-Policy, and no other host is asked."""
    page.scheme(scheme)
    for name in PAGES:
        opened(page, address, name)
        assert page.problems == [], name
        assert (
            page.run("[...document.images].filter(one => one.complete && !one.naturalWidth).map(one => one.src)") == []
        )
        light = page.run("getComputedStyle(document.body).backgroundColor")
        assert (min(map(int, re.findall(r"\d+", light)[:3])) > 200) == (scheme == "light"), name
    assert {one for one in page.requests if not one.startswith((address, "data:"))} == set()


@pytest.mark.skipif(find_axe() is None, reason=NO_AXE)
@pytest.mark.parametrize(
    ("scheme", "width", "names"),
    [
        ("light", 1400, [*PAGES]),
        ("light", 390, ["start", "guide", "gallery"]),
        ("dark", 1400, ["start", "guide", "gallery"]),
    ],
    ids=["wide", "phone", "dark"],
)
def test_axe_finds_nothing_serious(page: Page, address: str, scheme: str, width: int, names: list[str]) -> None:
    """No page has a violation that axe-core calls serious or critical; all pages have the styles of three."""
    page.scheme(scheme)
    page.size(width, 900)
    for name in names:
        opened(page, address, name)
        assert violations(page) == [], name


def test_a_phone_scrolls_only_tables_and_code(page: Page, address: str) -> None:
    """The page itself is not wider than the screen of a phone."""
    page.size(390, 844)
    for name in PAGES:
        opened(page, address, name)
        assert page.run("document.documentElement.scrollWidth") <= 390, name
        assert page.run("scrollTo(1000, 0), scrollX") == 0, name


def _open_search(page: Page) -> None:
    """Press Ctrl-K until the search is open: the theme loads it after the page."""
    is_open = "document.activeElement.shadowRoot?.activeElement?.getAttribute('role') === 'combobox'"
    for _ in range(60):
        for kind in ("keyDown", "keyUp"):
            page.send(
                "Input.dispatchKeyEvent", type=kind, key="k", code="KeyK", windowsVirtualKeyCode=75, modifiers=CTRL
            )  # fmt: skip
        if page.run(f"new Promise(done => setTimeout(() => done({is_open}), 500))"):
            return
    raise AssertionError("Ctrl-K does not open the search.")


def test_the_search_finds_a_message_and_leads_to_its_cure(page: Page, address: str) -> None:
    """Ctrl-K opens the search. Words of a message of the troubleshooting page lead there, by the keyboard alone."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    message = next(one for one in re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE) if "lease" in one)
    words = " ".join(re.findall(r"[A-Za-z]{3,}", message)[:6])
    opened(page, address, "guide")
    _open_search(page)
    page.type(words)
    places = page.wait(f"(found => found.length && found.map(one => one.href))({FOUND})")
    position = next(i for i, place in enumerate(places) if "/docs/troubleshooting/" in place)
    for _ in range(position):
        page.key("ArrowDown", 40)
    page.key("Enter", 13, "\r")
    page.wait("location.pathname.endsWith('/docs/troubleshooting/') && document.readyState === 'complete'")
    assert message.split("…")[0].strip() in page.text("article")
    assert page.problems == []


def test_the_keyboard_reaches_the_content_and_the_menu(page: Page, address: str) -> None:
    """The first Tab stop skips to the content; every stop can be seen, and the menu's links are among them."""
    page.size(1400, 900)
    opened(page, address, "first steps")
    page.key("Tab", 9)
    assert page.run("document.activeElement.classList.contains('md-skip')")
    page.key("Enter", 13, "\r")
    page.wait("location.hash.length > 1")
    opened(page, address, "first steps")
    stops = []
    for _ in range(25):
        page.key("Tab", 9)
        stops.append(page.run("document.activeElement.getAttribute('href') ?? document.activeElement.tagName"))
        ring = page.run(
            "[document.activeElement, document.activeElement.nextElementSibling].some("  # a switch has its ring on its label
            "one => one && getComputedStyle(one).outlineStyle !== 'none')"
        )
        assert ring, stops[-1]
    assert {"../concepts/", "../frames/", "../start-qlib/", "#1-install"} <= set(stops)  # tabs, menu, contents


def test_the_menu_of_a_section_has_all_its_pages(page: Page, address: str) -> None:
    """Also those of folders, such as the gallery."""
    page.size(1400, 900)
    opened(page, address, "guide")
    menu = page.text(".md-sidebar--primary").split("\n")
    assert {"A table of your own", "Gallery", "Troubleshooting"} <= {one.strip() for one in menu}


def test_a_chinese_page_is_chinese(page: Page, address: str) -> None:
    """A screen reader is told the language; the menu and the words of the theme are Chinese too, and elsewhere English."""
    page.size(1400, 900)
    opened(page, address, "Chinese")
    assert page.run("document.documentElement.lang") == "zh"
    for part in (".md-tabs", ".md-sidebar--primary", ".md-sidebar--secondary", ".md-footer__inner"):
        words = set(re.findall(r"[A-Za-z]{2,}", page.text(part)))
        assert words <= {"Qlib"}, part
    assert page.run("document.querySelector('.md-footer__link').getAttribute('aria-label')").isascii() is False
    opened(page, address, "first steps")
    assert page.run("document.documentElement.lang") == "en"
    assert "Guides" in page.text(".md-tabs")
