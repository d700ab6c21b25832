"""A data folder with a damaged calendar, universe or series, and a damaged panel in the cache."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fuzzing import Target, attempt, fuzzed, text_of
from hypothesis import strategies as st

from rollforge.features.engine import features
from rollforge.features.panel import Panel
from rollforge.features.panel_cache import list_panels
from rollforge.generate.calendar import TimeAdjuster
from rollforge.market.folder_writer import write_folder
from rollforge.market.provider import open_provider
from rollforge.session import Session

_folder = tempfile.TemporaryDirectory(prefix="fuzz-folder-")
DAYS = pd.bdate_range("2020-01-01", periods=40).to_numpy().astype("datetime64[D]")


@functools.cache
def template() -> Path:
    """A data folder of two instruments and forty days."""
    root = Path(_folder.name) / "data"
    values = np.linspace(1, 2, 30, dtype=np.float32)
    series = {"AAA": (0, {"close": values, "volume": values}), "BBB": (10, {"close": values})}
    spans = {"AAA": [(DAYS[0], DAYS[29])], "BBB": [(DAYS[10], DAYS[39])]}
    write_folder(root, DAYS, series, {"all": spans})
    return root


def _with(folder: Path, name: str, data: bytes) -> Path:
    root = folder / "data"
    shutil.copytree(template(), root)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(data)
    return root


def _everything(root: Path) -> Any:
    """Read everything in a data folder."""
    provider = open_provider(root)
    provider.calendar()
    provider.calendar(future=True)
    provider.instruments("all")
    provider.fingerprint()
    TimeAdjuster(calendar=provider.calendar()).shift(("2020-01-10", "2020-01-20"), 3)
    session = Session(provider_uri=str(root), threads=1)
    return features("all", ["$close", "Mean($close, 5)", "Ref($close, -2)/$close"], session=session)


def _calendar(data: bytes, folder: Path) -> Any:
    return _everything(_with(folder, "calendars/day.txt", data))


def _future(data: bytes, folder: Path) -> Any:
    return _everything(_with(folder, "calendars/day_future.txt", data))


def _minutes(data: bytes, folder: Path) -> Any:
    return open_provider(_with(folder, "calendars/1min.txt", data)).calendar("1min")


def _week(data: bytes, folder: Path) -> Any:
    return open_provider(_with(folder, "calendars/week.txt", data)).calendar("week")


def _instruments(data: bytes, folder: Path) -> Any:
    return _everything(_with(folder, "instruments/all.txt", data))


def _series(data: bytes, folder: Path) -> Any:
    root = _with(folder, "features/aaa/close.day.bin", data)
    provider = open_provider(root)
    provider.spans("close", ["AAA", "BBB"], 0, 40)
    return _everything(root)


def _names(data: bytes, folder: Path) -> Any:
    """Read universes, calendars, fields and instruments by any name, because these are file names."""
    text = text_of(data)
    provider = open_provider(template())
    session = Session(provider_uri=str(template()), threads=1)
    for ask in (
        lambda: provider.instruments(text),
        lambda: provider.calendar(text),
        lambda: provider.read(text, ["AAA"], 0, 5),
        lambda: provider.read("close", [text], 0, 5),
        lambda: provider.has(text),
        lambda: features([text], ["$close"], session=session),
        lambda: features(text, ["$close"], session=session),
        lambda: features(["AAA"], ["$close"], text, None, session=session),
        lambda: features(["AAA"], ["$close"], freq=text, session=session),
    ):
        attempt(ask)


NAMES = [b"all", b"AAA", b"day", b"close", b"2020-01-10"]
CALENDAR = "".join(f"{d}\n" for d in DAYS).encode()
SPANS = b"AAA\t2020-01-01\t2020-02-11\nBBB\t2020-01-15\t2020-02-25\n"
SERIES = np.array([0, *np.linspace(1, 2, 30)], "<f4").tobytes()
DATE_WORDS = [
    b"\xef\xbb\xbf",
    b"2020-02-30",
    b"1500-01-01",
    b"3000-01-01",
    b"\x85",
    b"\x1c",
    b"\xe2\x80\xa8",
    "２０２０-01-01".encode(),
]
FLOATS = [np.float32(v).tobytes() for v in (np.nan, np.inf, -np.inf, -1, 0.5, 1e9, 3e38, 2**31, 1e-45)]

_lines = st.lists(
    st.one_of(
        st.sampled_from(CALENDAR.splitlines()),
        st.dates().map(str).map(str.encode),
        st.binary(max_size=12),
        st.integers().map(str).map(str.encode),
    ),
    max_size=20,
).map(b"\n".join)
_spans = st.lists(
    st.lists(
        st.one_of(
            st.sampled_from([b"AAA", b"../x", b"CON", b"\xff", b""]),
            st.dates().map(str).map(str.encode),
            st.binary(max_size=8),
        ),
        max_size=4,
    ).map(b"\t".join),
    max_size=8,
).map(b"\n".join)
_numbers = st.lists(st.floats(width=32), max_size=60).map(lambda v: np.array(v, "<f4").tobytes())


@fuzzed(
    Target("calendar", _calendar, [CALENDAR], DATE_WORDS, _lines),
    Target("future-calendar", _future, [CALENDAR + b"2020-02-26\n2020-02-27\n"], DATE_WORDS, _lines),
    Target("calendar-of-weeks", _week, [CALENDAR], DATE_WORDS, _lines),
    Target("calendar-of-minutes", _minutes, [b"2020-01-02 09:30:00\n2020-01-02 09:31:00\n"], DATE_WORDS, _lines),
    Target("instruments", _instruments, [SPANS, b"AAA,2020-01-01,2020-02-11\n"], DATE_WORDS, _spans),
    Target("series", _series, [SERIES], FLOATS, _numbers),
    Target("names", _names, NAMES, [b"../instruments/all", b"CON", b"nul", b"a" * 251, b"a/b", b"*", b"?"]),
)
class TestDataFolders:
    """Files of a data folder."""


# -- the panel cache -----------------------------------------------------------------------------------------------------


@functools.cache
def panel_files() -> dict[str, bytes]:
    """The files of a panel."""
    index = pd.MultiIndex.from_product([pd.DatetimeIndex(DAYS[:5]), ["AAA", "BBB"]], names=["datetime", "instrument"])
    frame = pd.DataFrame({"a": np.arange(10.0), "b": np.arange(10.0)}, index=index)
    with tempfile.TemporaryDirectory() as name:
        Panel.from_frame(frame).save(Path(name))
        return {p.name: p.read_bytes() for p in Path(name).iterdir()}


def _panel(name: str) -> Any:
    def run(data: bytes, folder: Path) -> Any:
        place = folder / "panels" / "key"
        place.mkdir(parents=True)
        for file, content in panel_files().items():
            (place / file).write_bytes(data if file == name else content)
        list_panels(folder)
        loaded = Panel.load(place)
        if loaded is not None:
            float(sum(np.nansum(g.values) for g in loaded.groups.values()))
        return loaded

    return run


@fuzzed(
    Target(
        "panel-description",
        _panel("meta.json"),
        [panel_files()["meta.json"]],
        [b'"files"', b'"groups"', b'"codes"', b"[]", b"../../x", b"-1"],
    ),
    Target(
        "panel-values",
        _panel("group0.npy"),
        [panel_files()["group0.npy"]],
        [b"'descr'", b"'|O'", b"(1000000000, 1000000000)"],
    ),
    Target(
        "panel-rows", _panel("row_code.npy"), [panel_files()["row_code.npy"]], [b"'descr'", b"'|O'", b"(9999999999,)"]
    ),
)
class TestPanels:
    """Files of the panel cache."""
