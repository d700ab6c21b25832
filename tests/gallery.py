"""Draw the pictures of the gallery again: ``python tests/gallery.py``, with Chromium.

Each script of ``docs/gallery`` sets `figure`, of which ``docs/gallery/NAME.png`` is a picture.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

GALLERY = Path(__file__).parents[1] / "docs" / "gallery"
SIZES = {"quantiles": (760, 700)}


def figure_of(script: Path, folder: Path) -> Any:
    """Run a script in a folder, and return its figure."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return runpy.run_path(str(script))["figure"]
    finally:
        os.chdir(before)


def draw(script: Path, chromium: str) -> None:
    """Write the picture of a script."""
    width, height = SIZES.get(script.stem, (760, 420))
    with tempfile.TemporaryDirectory() as folder:
        figure = figure_of(script, Path(folder))
        figure.update_layout(template="plotly_white", width=width, height=height)
        page = Path(folder) / "figure.html"
        page.write_text(
            f'<body style="margin:0">{figure.to_html(full_html=False, config={"staticPlot": True})}</body>',
            encoding="utf-8",
        )
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--window-size={width},{height}", "--virtual-time-budget=5000"]
        subprocess.run([*command, f"--screenshot={script.with_suffix('.png')}", page.as_uri()], check=True)


if __name__ == "__main__":
    for one in sorted(GALLERY.glob("*.py")):
        draw(one, sys.argv[1] if len(sys.argv) > 1 else "chromium")
