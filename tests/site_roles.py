"""An extension of griffe that reads Rollforge's docstrings: Sphinx's roles become links of the site."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))

from site_pages import pages_of_names

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(?:(?P<text>[^`<]*?) *<)?(?P<short>~?)(?P<path>[\w.]+)>?`")


class Roles(griffe.Extension):
    """Replaces roles in the docstrings of modules, classes, functions and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self._paths = set(pages_of_names())

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of an object after it was read."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(self._link, obj.docstring.value)

    def _link(self, role: re.Match[str]) -> str:
        """Return the link to a public name, or to a member of one; other names are only shown."""
        path = role["path"]
        text = " ".join((role["text"] or path.rpartition(".")[2]).split())
        known = path in self._paths or path.rpartition(".")[0] in self._paths
        return f"[`{text}`][{path}]" if known else f"`{text}`"
