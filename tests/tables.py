"""Generate files from the code (``make tables``): the stub of ``rollforge.models``, the page of Qlib's names, the pages of
public names, the drawings of the page about windows, and the JSON Schema of workflow files.

``tests/test_extension_points.py``, ``tests/test_documents.py``, ``tests/test_window_drawings.py`` and
``tests/test_workflow_schema.py`` fail if one of them is out of date.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "rollforge"
PAGE = Path(__file__).parents[1] / "docs" / "compat.md"
SCHEMA = Path(__file__).parents[1] / "docs" / "workflow.schema.json"
HEAD = """\
# Written by 'make tables' from the __all__ of each file. Type checkers read it; each name is imported on first use.
"""


def public_names(file: Path) -> list[str]:
    """Return the ``__all__`` of a file."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def stub(room: Path) -> str:
    """Return the ``__init__.pyi`` of a package in which all names are public."""
    text = HEAD
    for file in sorted(room.glob("*.py")):
        # As isort sorts them: names in capitals first, then other classes, then functions.
        names = sorted(public_names(file), key=lambda n: (not n.isupper(), n[0].islower(), n.lower()))
        if file.stem != "__init__" and names:
            text += f"\nfrom .{file.stem} import (\n" + "".join(f"    {name} as {name},\n" for name in names) + ")"
    return text + "\n"


def main() -> None:
    """Write the generated files."""
    (SOURCE / "models" / "__init__.pyi").write_text(stub(SOURCE / "models"), encoding="utf-8")
    from rollforge.compat.qlib.coverage import rewrite

    rewrite(PAGE)
    import site_pages

    site_pages.write_api()
    from rollforge.workflow_schema import schema_text

    SCHEMA.write_text(schema_text(), encoding="utf-8")
    import window_drawings as windows

    windows.PAGE.write_text(windows.redrawn(windows.PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
