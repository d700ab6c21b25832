"""Generate the tables of ``docs/compat.md`` from :mod:`rollforge.qlib_names`: ``python -m rollforge.compat.qlib.coverage``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from rollforge.qlib_imports import names_of
from rollforge.qlib_names import MODULES, NOT_COVERED, REASONS
from rollforge.qlib_options import ONLY, WITHOUT_EFFECT, WORKS

__all__ = ["BEGIN", "covered", "rewrite"]

BEGIN = "<!-- written by python -m rollforge.compat.qlib.coverage -->"
"""The marker before the generated part of the page."""


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{n}`" for n in sorted(names, key=str.lower))


def _own_names(module: str) -> set[str]:
    return {
        text.partition("=")[0]
        for source, names in MODULES[module].items()
        if source != "also" and source not in REASONS
        for text in names.split()
    }


def _row(module: str) -> str | None:
    """Return a row of the table; None for a module that only contains submodules."""
    sources = MODULES[module]
    missing = [f"{reason}: {_code(names.split())}" for reason, names in sources.items() if reason in REASONS]
    found = _own_names(module) or (set() if missing else set(names_of(module)))
    if not found and not missing:
        return None
    return f"| `{module}` | {_code(found)} | {'; '.join(missing)} |"


def covered() -> str:
    """Return the tables, as Markdown."""
    reasons = [f"* *{key}*: {text}" for key, text in sorted(REASONS.items())]
    rows = [row for module in sorted(MODULES) if (row := _row(module))]
    unsupported: dict[str, list[str]] = {}
    for module, reason in NOT_COVERED.items():
        unsupported.setdefault(reason, []).append(module)
    others = [f"| {reason} | {_code(modules)} |" for reason, modules in sorted(unsupported.items())]
    return "\n".join(
        [
            "Names that one of Qlib's modules imports from another can be imported from both.", "",
            "| module | supported | not supported, and why |", "|---|---|---|", *rows, "",
            "The reasons are:", "", *reasons, "",
            "## Modules that are not supported", "",
            "If pyqlib is installed, its own modules are used.", "",
            "| reason | modules, including their submodules |", "|---|---|", *others, "", *_options(),
        ]
    )  # fmt: skip


def _options() -> list[str]:
    """Return the tables of ``qlib.init`` options: working, restricted, and without effect."""
    works = [f"| `{name}` | {text} |" for name, text in sorted(WORKS.items())]
    only = [f"`{name}` (`{value}`)" for name, value in sorted(ONLY.items())]
    idle: dict[str, list[str]] = {}
    for name, about in WITHOUT_EFFECT.items():
        idle.setdefault(about, []).append(name)
    return [
        "## Options of `qlib.init`, and of `qlib_init` in a workflow file", "",
        "| option | what it does |", "|---|---|", *works, "",
        f"Only Qlib's default value is accepted, because data are read from a folder: {', '.join(only)}.", "",
        "These options have no effect, and cannot change any number:", "",
        *(f"* {_code(names)}: {about}" for about, names in sorted(idle.items())), "",
        "Any other name is an error that suggests the nearest one.", "",
    ]  # fmt: skip


def rewrite(page: Path) -> None:
    """Replace the tables in a page, after the line :data:`BEGIN`."""
    text = page.read_text(encoding="utf-8")
    before, mark, _ = text.partition(BEGIN)
    page.write_text(f"{before}{mark}\n\n{covered()}", encoding="utf-8")


if __name__ == "__main__":
    rewrite(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/compat.md"))
