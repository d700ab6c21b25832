"""A day without training writes about as much as its own rows need, however large the panel is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from growing import DAYS, Market, live, manager, prices, template
from rollforge.session import amend, current_session

FEATURES = [f"Ref($close,{1 + n % 8})/$close-{n}" for n in range(200)]
CODES = 26


def files_of(*folders: Path) -> dict[Path, tuple[int, int, int]]:
    """Return the inode, size and time of change of each file."""
    found = [(file, file.stat()) for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {file: (about.st_ino, about.st_size, about.st_mtime_ns) for file, about in found}


def written(before: dict[Path, tuple[int, int, int]], after: dict[Path, tuple[int, int, int]]) -> int:
    """Return the bytes of new and replaced files, and those by which others have grown in place.

    A file that was changed in place and has not grown counts as a whole.
    """
    total = 0
    for file, (inode, size, changed) in after.items():
        known = before.get(file)
        grown = known is not None and known[0] == inode and known[1] < size
        if known != (inode, size, changed):
            total += size - known[1] if known is not None and grown else size
    return total


def bytes_written() -> int:
    """Return the bytes that this process has written so far, in whatever way; 0 where the kernel does not say."""
    about = Path("/proc/self/io")
    if not about.exists():
        assert sys.platform != "linux"
        return 0
    return int(dict(line.split(": ") for line in about.read_text().splitlines())["wchar"])


def test_a_day_writes_its_own_rows(tmp_path: Path) -> None:
    """Predictions of the window, marks of the data and entries are small; neither the panel nor the data are copied."""
    market = Market(tmp_path / "data", prices(CODES))
    cache, runs, home = Path(current_session().cache), tmp_path / "runs", tmp_path / "home"
    amend(provider_uri=str(market.folder), tracking_uri=f"folder:{runs}", store_uri=f"sqlite:///{home}/tasks.db")
    wide = template()
    config = wide["dataset"]["kwargs"]["handler"]["kwargs"]["data_loader"]["kwargs"]["config"]
    config["feature"] = [FEATURES, [f"R{number}" for number in range(len(FEATURES))]]
    served = live(market, manager(templates=wide), DAYS[60:62])

    rows = CODES * (len(FEATURES) + 1) * np.dtype("float32").itemsize
    allowed = 3 * rows + 2**16
    for day in DAYS[62:64]:
        market.show(day)
        before, sent, panels = files_of(cache, runs, home), bytes_written(), files_of(cache)
        served.routine(day)
        assert sum(size for _, size, _ in panels.values()) > 8 * allowed
        assert rows < written(before, files_of(cache, runs, home)) < allowed
        assert bytes_written() - sent < allowed
        assert len(files_of(cache)) == len(panels)
