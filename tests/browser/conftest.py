"""The browser, which all tests of a process share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .chromium import Page, browser


@pytest.fixture(scope="package")
def shared() -> Iterator[Page]:
    with browser() as opened:
        yield opened.page()


@pytest.fixture
def page(shared: Page) -> Page:
    shared.open("about:blank")  # the page of the test before would report that its server has ended
    shared.size(1200, 900)
    shared.scheme("light")
    shared.problems.clear()
    shared.requests.clear()
    return shared
