"""Growing panels: after new days and corrections, they equal rebuilt panels, bit for bit."""

from __future__ import annotations

import operator
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from importlib import import_module
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from rollforge.features import panel_growth
from rollforge.features.alpha import Alpha158
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import QlibDataLoader
from rollforge.features.panel import Panel
from rollforge.features.panel_cache import PanelCache, list_panels
from rollforge.features.panel_growth import ComparedRows, TailOfFile
from rollforge.features.processor import Fillna, Processor, ZScoreNorm
from rollforge.features.row_file import mapped_rows
from rollforge.market.importer import import_table
from rollforge.market.provider import open_provider
from rollforge.session import Session, bounded, using

DAYS = pd.bdate_range("2021-03-01", periods=14)
WINDOW = {"fit_start_time": str(DAYS[1].date()), "fit_end_time": str(DAYS[4].date())}
FIELDS = {
    "feature": (
        ["$close/Ref($close, 1)-1", "Mean($close, 3)", "Resi($close, 4)", "EMA($close, 5)", "Sum($volume, 0)", "Log($volume)"],
        ["a", "b", "c", "d", "e", "f"],
    ),
    "label": (["Ref($close, -2)/Ref($close, -1)-1"], ["y"]),
}  # fmt: skip
CHAINS: dict[str, list[Any]] = {
    "none": [],
    "robust": [{"class": "RobustZScoreNorm", "kwargs": {**WINDOW, "fields_group": "feature"}}, "Fillna"],
    "zscore": ["ProcessInf", {"class": "ZScoreNorm", "kwargs": WINDOW}],
    "minmax": [{"class": "MinMaxNorm", "kwargs": {**WINDOW, "fields_group": "feature"}}, "TanhProcess"],
    "late fit": [{"class": "ZScoreNorm", "kwargs": {**WINDOW, "fit_end_time": str(DAYS[10].date())}}],
    "rank": ["CSRankNorm", "HashStockFormat"],
    "day": [{"class": "CSZScoreNorm", "kwargs": {"fields_group": "feature", "method": "robust"}}, "CSZFillna"],
    "rows": [
        {"class": "DropnaProcessor", "kwargs": {"fields_group": "feature"}},
        {"class": "DropCol", "kwargs": {"col_list": ["c"]}},
    ],
    "filter": [{"class": "FilterCol", "kwargs": {"col_list": ["a", "e"]}}],
    "sections": ["ConfigSectionProcessor"],
}  # fmt: skip
LEARN = ["DropnaLabel", {"class": "CSZScoreNorm", "kwargs": {"fields_group": "label"}}]


def bars(codes: str = "ABCDEF") -> pd.DataFrame:
    """Return bars of some instruments on all days."""
    index = pd.MultiIndex.from_product([list(codes), DAYS], names=["instrument", "datetime"])
    rng = np.random.default_rng(1)
    close = 10 + rng.normal(0, 0.1, len(index)).round(2)
    frame = pd.DataFrame({"open": close, "high": close + 0.3, "low": close - 0.3, "close": close}, index)
    frame["volume"] = rng.integers(100, 1000, len(index))
    return frame.reset_index()


def handler(chain: list[Any], universe: Any = "all", **kwargs: Any) -> DataHandlerLP:
    return DataHandlerLP(
        universe, data_loader=QlibDataLoader(FIELDS), infer_processors=chain, learn_processors=LEARN, **kwargs
    )


def frames(chain: list[Any], universe: Any = "all") -> list[Any]:
    """Return all stages, or the error's message."""
    made = handler(chain, universe)
    found: list[Any] = []
    for stage in ("infer", "learn", "raw"):
        try:
            found.append(made.fetch(data_key=stage))
        except Exception as exc:  # noqa: BLE001 - the same one is expected
            found.append(f"{type(exc).__name__}: {exc}"[:60])
    return found


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    for one, two in zip(found, wanted, strict=True):
        assert type(one) is type(two), (one, two)
        if isinstance(one, str):
            assert one == two
            continue
        pd.testing.assert_frame_equal(one, two, check_exact=True)
        left, right = one.to_numpy(), two.to_numpy()
        assert (np.signbit(left) == np.signbit(right))[~np.isnan(left)].all()
        assert all(a.equals(b) for a, b in zip(one.index.levels, two.index.levels, strict=True))


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_grown_panel_equals_a_new_one(data: st.DataObject) -> None:
    """Random sequences of data folders: more days, fewer days, listings, suspensions, corrections, members that join or
    leave; for each chain of processors, all stages are those of a session with an empty cache.
    """
    names = data.draw(st.lists(st.sampled_from(sorted(CHAINS)), min_size=2, max_size=3, unique=True))
    frame = bars()
    last = data.draw(st.integers(6, 9))
    with tempfile.TemporaryDirectory() as place:
        folder, opened = Path(place) / "data", Session(cache=f"{place}/kept", threads=1, provider_uri=f"{place}/data")
        for step in range(4):
            kind = data.draw(st.sampled_from(["day", "day", "days", "back", "correct", "rows"]))
            last = min(13, max(5, last + {"day": 1, "days": 3, "back": -1}.get(kind, 0)))
            if kind == "correct":
                row = data.draw(st.integers(0, len(frame) - 1))
                frame = frame.assign(close=frame["close"].where(frame.index != frame.index[row], 10.05))
            elif kind == "rows" or not step:
                gone = data.draw(st.sets(st.integers(0, len(frame) - 1), max_size=len(frame) // 3))
                full = bars()
                frame = full.drop(full.index[[i for i in gone if i < len(full) and i >= 14]])  # A is complete
            members = data.draw(st.sets(st.sampled_from("ABCDEF"), min_size=2))
            now = frame[frame["datetime"] <= DAYS[last]]
            listed = sorted((members | {"A"}) & set(now["instrument"]))
            import_table(now, folder, universes={"some": listed}, overwrite=True)
            open_provider(folder).refresh()
            fresh = opened.with_(cache=f"{place}/fresh{step}")
            for name in names:
                for universe in ("all", "some") if name == names[0] else ("all",):
                    with using(fresh):
                        wanted = frames(CHAINS[name], universe)
                    with using(opened):
                        assert_same(frames(CHAINS[name], universe), wanted)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A session with a folder of all days."""
    import_table(bars(), tmp_path / "data")
    with using(Session(cache=str(tmp_path / "cache"), threads=1, provider_uri=str(tmp_path / "data"))) as opened:
        yield opened


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The panels that were built as a whole."""
    found: list[str] = []
    build = PanelCache._build

    def counted(self: PanelCache, place: Path, *args: Any) -> Panel:
        found.append(place.name)
        return build(self, place, *args)

    monkeypatch.setattr(PanelCache, "_build", counted)
    return found


def test_a_new_day_is_appended(session: Session, built: list[str]) -> None:
    """The features of a new day are written behind the others, into the same file; only the labels have a new file. A
    reader of the earlier version keeps its values, and nothing is fitted again.
    """
    with bounded(DAYS[9]):
        made = handler(CHAINS["robust"])
        early = made.fetch(data_key="infer", col_set="feature")
        before = early.to_numpy().copy()
        (raw, infer) = (made.panel(stage) for stage in ("raw", "infer"))
    assert len(built) == 2
    values = np.asarray(raw.groups["label"].values).copy()
    sizes = [Path(p.groups["feature"].values.filename).stat().st_size for p in (raw, infer)]
    with bounded(DAYS[10]):
        late = handler(CHAINS["robust"])
        late.fetch(data_key="infer")
        assert len(built) == 2
        assert late.infer_processors[0].shift is not None
        np.testing.assert_array_equal(late.infer_processors[0].shift, made.infer_processors[0].shift)
        for stage, size in zip(("raw", "infer"), sizes, strict=True):
            panel = late.panel(stage)
            file = Path(panel.groups["feature"].values.filename)
            assert file.name == "group0.npy"
            assert file.stat().st_size == size + 4 * 6 * 6
            assert Path(panel.groups["label"].values.filename).name == "group1-1.npy"
    np.testing.assert_array_equal(early.to_numpy(), before)
    np.testing.assert_array_equal(raw.groups["label"].values, values)
    assert len(list_panels(session.cache)) == 2


@pytest.mark.parametrize("pieces", [[0, 12], [0, 5, 8, 12], [8, 12, 5, 8, 0, 5]])
def test_rows_are_compared_piece_by_piece(pieces: list[int], tmp_path: Path) -> None:
    """Pieces come in any order, and begin at any row; rows from the first change on are kept."""
    rows = np.arange(24, dtype="<f4").reshape(12, 2)
    rows[:10].tofile(tmp_path / "old")
    rows[7, 1] = -1
    compared = ComparedRows(mapped_rows(tmp_path / "old", 0, (10, 2)), rows.shape, tail=6)
    for start, stop in pairwise(pieces):
        if start < stop:
            compared.put(start, rows[start:stop])
    compared.close()
    assert compared.result is not None
    assert (compared.first, compared.result.rows.tolist()) == (7, rows[7:].tolist())


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
    st.lists(st.integers(0, 59), max_size=3),
    st.integers(1, 400),
)
def test_rows_that_do_not_follow_each_other_are_compared(
    lengths: list[int], random: Random, changed: list[int], compared: int
) -> None:
    """The first row that differs is found in any order of the pieces, and however many are compared together."""
    count = sum(lengths)
    rows = np.arange(2 * count, dtype="<f4").reshape(count, 2)
    rows[::3, 1] = np.nan
    at = np.cumsum([0, *lengths[:-1]])
    order = random.sample(range(len(lengths)), len(lengths))
    stops = np.cumsum([lengths[i] for i in order])
    pieces = [(int(at[i]), int(stop) - lengths[i], int(stop)) for i, stop in zip(order, stops, strict=True)]
    changed = [row for row in changed if row < count]
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(panel_growth, "_COMPARED", compared):
        rows.tofile(Path(folder) / "old")
        old = mapped_rows(Path(folder) / "old", 0, (count, 2))
        rows[changed, 0] += 1
        sink = ComparedRows(old, rows.shape, tail=0)
        sink.put_pieces(pieces, np.concatenate([rows[place : place + b - a] for place, a, b in pieces]))
        sink.close()
    assert sink.first == min(changed, default=count)
    assert sink.result is not None
    np.testing.assert_array_equal(sink.result.rows, rows[sink.first :])


def test_comparing_with_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    """The error names the file."""
    np.zeros((10, 2), "<f4").tofile(tmp_path / "old")
    old = mapped_rows(tmp_path / "old", 0, (10, 2))
    os.truncate(tmp_path / "old", 12)
    with closing(ComparedRows(old, (10, 2), 10)) as compared, pytest.raises(OSError, match=r"truncated: .*old"):
        compared.put(0, np.zeros((10, 2), np.float32))


def test_a_file_whose_rows_cannot_be_copied_is_closed(tmp_path: Path) -> None:
    """The file to copy from was truncated after it was mapped."""
    np.zeros((10, 2), "<f4").tofile(tmp_path / "old")
    old = mapped_rows(tmp_path / "old", 0, (10, 2))
    os.truncate(tmp_path / "old", 8)
    free = os.dup(0)  # the lowest free number of a file
    os.close(free)
    with pytest.raises(OSError, match="truncated"):
        TailOfFile(tmp_path / "new", old, (12, 2), 10)
    again = os.dup(0)
    os.close(again)
    assert again == free


def test_a_day_without_changes_writes_nothing(session: Session, built: list[str]) -> None:
    """A new field of the folder, or another time of a file, only notes that the data are the same."""
    chain = CHAINS["zscore"]
    handler(chain).setup_data()
    count = len(built)
    folder = Path(session.cache) / "panels"
    sizes = {f: f.stat().st_mtime_ns for f in folder.rglob("*.npy")}
    (Path(session.provider_uri or "") / "features" / "a" / "close.day.bin").touch()
    open_provider(session.provider_uri or "").refresh()
    handler(chain).setup_data()
    assert len(built) == count
    assert {f: f.stat().st_mtime_ns for f in folder.rglob("*.npy")} == sizes


def test_a_correction_writes_from_its_day(session: Session, built: list[str]) -> None:
    """A price of the past gives a new file, with the rows before it copied; processors whose fit window it touches are
    fitted again, the others are not."""
    names = ("rank", "zscore")
    for name in names:
        handler(CHAINS[name]).fetch(data_key="infer")
    for day, again in ((9, 0), (3, 1)):
        frame = bars()
        frame.loc[frame["datetime"] == DAYS[day], "close"] += 0.01
        import_table(frame, Path(session.provider_uri or ""), overwrite=True)
        open_provider(session.provider_uri or "").refresh()
        built.clear()
        for name in names:
            found = handler(CHAINS[name]).fetch(data_key="infer")
            with using(session.with_(cache=f"{session.cache}-{day}")):
                kept = list(built)
                pd.testing.assert_frame_equal(found, handler(CHAINS[name]).fetch(data_key="infer"), check_exact=True)
                built[:] = kept
        assert len(built) == again


def test_columns_that_no_processor_reads_grow_too(session: Session, built: list[str]) -> None:
    """Those of the rows that are kept, although the processors only see the label."""
    for day in (9, 10, 12):
        built.clear()
        with bounded(DAYS[day]):
            found = handler([]).fetch(data_key="learn")
            assert len(built) == (2 if day == 9 else 0)
            with using(session.with_(cache=f"{session.cache}-{day}", data_until=str(DAYS[day].date()))):
                pd.testing.assert_frame_equal(found, handler([]).fetch(data_key="learn"), check_exact=True)


class Before(Processor):
    """Adds the value of the row before, of the same instrument."""

    any_range = True
    earlier_days = 1

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return df + df.groupby(level="instrument").shift(1)


class Carried(Processor):
    """Fills gaps with earlier values, however old, and does not declare it."""

    any_range = True

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return df.groupby(level="instrument").cumsum()


class Derived(ZScoreNorm):
    """Changes what a built-in processor does, without its own declaration."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return super().__call__(df).groupby(level="instrument").cumsum()


@pytest.mark.parametrize(
    ("chain", "whole"),
    [
        ([Before(), Before(), Fillna()], False),
        ([Carried()], True),
        ([Derived(**WINDOW)], True),
        ([Before(), Carried()], True),
    ],
)
def test_user_defined_processors(session: Session, built: list[str], chain: list[Any], whole: bool) -> None:
    """One that needs some earlier days gets them; one that does not declare what it needs gets all."""
    for day in (9, 10, 12):
        built.clear()
        with bounded(DAYS[day]):
            found = handler(chain).fetch(data_key="infer")
            assert len(built) == (2 if day == 9 else whole)
            with using(session.with_(cache=f"{session.cache}-{day}", data_until=str(DAYS[day].date()))):
                pd.testing.assert_frame_equal(found, handler(chain).fetch(data_key="infer"), check_exact=True)


def test_alpha158_grows(session: Session, built: list[str]) -> None:
    """Day by day, Alpha158 with its processors and labels equals the panel of an empty cache."""
    learn = [{"class": "DropnaLabel"}, {"class": "CSZScoreNorm", "kwargs": {"fields_group": "label"}}]
    window = {"fit_start_time": str(DAYS[0].date()), "fit_end_time": str(DAYS[4].date())}
    for day in (8, 9, 12):
        with bounded(DAYS[day]):
            made = [
                Alpha158("all", infer_processors=CHAINS["robust"], learn_processors=learn, **window).fetch(
                    data_key=stage
                )
                for stage in ("infer", "learn")
            ]
            fresh = session.with_(cache=f"{session.cache}-{day}", data_until=str(DAYS[day].date()))
            with using(fresh):
                for stage, found in zip(("infer", "learn"), made, strict=True):
                    wanted = Alpha158("all", infer_processors=CHAINS["robust"], learn_processors=learn, **window)
                    pd.testing.assert_frame_equal(found, wanted.fetch(data_key=stage), check_exact=True)


class Killed(BaseException):
    """Simulates SIGKILL: no code of the growth runs afterwards."""


@pytest.mark.parametrize("correction", [False, True])
def test_killed_at_any_write(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, correction: bool, built: list[str]
) -> None:
    """Whatever was written last, the stored panel is the old one or the new one, and the next growth completes it."""
    chain, places = CHAINS["rank"], ("panel_growth.file_notes", "panel_growth.write_meta", "row_file.RowFile.put")
    import_table(bars()[lambda f: f["datetime"] <= DAYS[9]], tmp_path / "data", overwrite=True)
    open_provider(tmp_path / "data").refresh()
    before = handler(chain).fetch(data_key="infer").copy()
    new = bars()[lambda f: f["datetime"] <= DAYS[11]]
    if correction:
        new.loc[new["datetime"] == DAYS[2], "close"] += 0.01
    shutil.copytree(session.cache, tmp_path / "start")
    old = Path(session.provider_uri or "").rename(tmp_path / "old")
    import_table(new, tmp_path / "data")
    with using(session.with_(cache=str(tmp_path / "fresh"))):
        after = handler(chain).fetch(data_key="infer").copy()
    for place in places:
        for count in range(30):
            with monkeypatch.context() as patch:
                left, (module, _, name) = [count], f"rollforge.features.{place}".rpartition(".")
                call = operator.attrgetter(place.partition(".")[2])(
                    import_module(f"rollforge.features.{place.split('.')[0]}")
                )

                def killed(*args: Any, _left: list[int] = left, _call: Any = call, **kwargs: Any) -> Any:
                    if not _left[0]:
                        raise Killed
                    _left[0] -= 1
                    return _call(*args, **kwargs)

                patch.setattr(f"{module}.{name}", killed)
                try:
                    handler(chain).fetch(data_key="infer")
                except Killed:
                    done = False
                else:
                    done = True
            found = [Panel.load(f) for f in (Path(session.cache) / "panels").iterdir() if f.is_dir()]
            assert all(panel is not None and panel.dates[-1] in (DAYS[9], DAYS[11]) for panel in found)
            pd.testing.assert_frame_equal(handler(chain).fetch(data_key="infer"), after, check_exact=True)
            shutil.rmtree(session.cache)
            shutil.copytree(tmp_path / "start", session.cache)
            if done:
                break
        else:
            raise AssertionError("more writes than expected")
    assert not before.equals(after)
    assert old.is_dir()
    assert len(built) == 4  # both panels, of the old and of the new data


def go_through_days(session: Session, days: list[int], folder: Path) -> None:
    """Compare the data of several days with those that were stored for them."""
    with using(session):
        for day in days:
            with bounded(DAYS[day]):
                made = handler(CHAINS["robust"])
                for stage in ("infer", "learn"):
                    wanted = pd.read_pickle(folder / f"{day}-{stage}.pkl")
                    pd.testing.assert_frame_equal(made.fetch(data_key=stage), wanted, check_exact=True)


@pytest.mark.slow
def test_several_processes_grow_one_panel(session: Session, tmp_path: Path) -> None:
    """Processes that need different days at the same time, in different orders, each get the values of their day."""
    for day in range(7, 14):
        with using(session.with_(cache=str(tmp_path / f"cache{day}"))), bounded(DAYS[day]):
            for stage in ("infer", "learn"):
                handler(CHAINS["robust"]).fetch(data_key=stage).to_pickle(tmp_path / f"{day}-{stage}.pkl")
    orders = [[7, 8, 9, 10, 11, 12, 13] * 3, [13, 12, 11, 10, 9, 8, 7] * 3, [7, 13, 8, 12, 9, 11, 10] * 3]
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        for done in [pool.submit(go_through_days, session, order, tmp_path) for order in orders]:
            done.result()


def test_a_reader_of_a_version_that_was_replaced_goes_on_with_it(session: Session) -> None:
    """A process that has loaded a stage computes the next one from it, also if another process has meanwhile built that
    stage anew from other data, with files of the same names.
    """
    chain = [{"class": "ZScoreNorm", "kwargs": {**WINDOW, "fit_end_time": str(DAYS[12].date())}}]
    with bounded(DAYS[8]):
        with using(session.with_(cache=session.cache + "-fresh", data_until=str(DAYS[8].date()))):
            wanted = handler(chain).fetch(data_key="learn")
        early = handler(chain)
        early.fetch(data_key="infer")
    with bounded(DAYS[10]):  # the fit window contains the new days
        later = handler(chain).fetch(data_key="infer")
    with bounded(DAYS[8]):
        assert not later.loc[: DAYS[6]].equals(early.fetch(data_key="infer").loc[: DAYS[6]])
        pd.testing.assert_frame_equal(early.fetch(data_key="learn"), wanted, check_exact=True)


def test_a_panel_that_is_built_anew_while_it_is_loaded_is_loaded_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of the panel and its description belong to one build."""
    chain = CHAINS["late fit"]
    before = handler(chain).panel("infer").stored
    mapped = Panel._mapped

    def replaced(place: Path, meta: Any) -> Panel:
        monkeypatch.setattr(Panel, "_mapped", mapped)
        corrected = bars().assign(close=lambda bars: bars["close"].where(bars.index != 40, 10.05))
        import_table(corrected, session.provider_uri, overwrite=True)
        open_provider(session.provider_uri).refresh()
        handler(chain).panel("infer")
        return mapped(place, meta)

    monkeypatch.setattr(Panel, "_mapped", replaced)
    assert Panel.load(before.folder) is None
    after = Panel.load(before.folder).stored
    assert (after.version == before.version, after.state == before.state) == (False, False)
