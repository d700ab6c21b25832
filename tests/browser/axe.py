"""The checks of axe-core, which finds what people with a screen reader or a keyboard cannot use."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .chromium import Page

NO_AXE = "no axe-core: pip install axe-core-python"

_RUN = """
axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => violations
  .filter(one => ["serious", "critical"].includes(one.impact))
  .flatMap(one => one.nodes.map(node => `${one.id}: ${node.html.slice(0, 160)}`)))
"""


def find_axe() -> Path | None:
    """Return the script of axe-core; None if the package that has it is not installed."""
    found = importlib.util.find_spec("axe_core_python")
    return None if found is None or found.origin is None else Path(found.origin).with_name("axe.min.js")


def violations(page: Page) -> list[str]:
    """Return the violations of the open page that axe-core calls serious or critical, each with its element."""
    script = find_axe()
    assert script is not None
    page.run(script.read_text("utf-8") + "; 0")
    return list(page.run(_RUN))
