"""Handlers and the panel cache: computed once, shared without copies, equal to the uncached bit for bit."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.data.alpha import Alpha158
from rollforge.data.dataset import DatasetH
from rollforge.data.handler import DataHandlerLP
from rollforge.data.loader import QlibDataLoader
from rollforge.data.panel import PanelCache, clear_panels, list_panels
from rollforge.data.processor import Processor, ZScoreNorm
from rollforge.errors import ConfigError, DataError, SegmentError
from rollforge.session import Session, using

FIELDS = {
    "feature": (["$close/Ref($close, 1) - 1", "Mean($close, 5)/$close"], ["RET", "MA5"]),
    "label": (["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"]),
}


@pytest.fixture
def session(small_market: Path, tmp_path: Path) -> Iterator[Session]:
    """A session with a cache of its own."""
    opened = Session(provider_uri=str(small_market), cache=str(tmp_path / "cache"), threads=1)
    with using(opened):
        yield opened


def handler(**kwargs: Any) -> DataHandlerLP:
    chosen = {"instruments": "all", "start_time": "2022-01-03", "end_time": "2023-12-29", **kwargs}
    return DataHandlerLP(data_loader=QlibDataLoader(FIELDS), **chosen)


LEARN = [{"class": "DropnaLabel"}, {"class": "CSZScoreNorm", "kwargs": {"fields_group": "label"}}]


def test_a_panel_is_built_once_for_all_rolls(session: Session) -> None:
    """Handlers that differ in their end share the panel; another start or other columns make another."""
    for end in ("2023-03-31", "2023-06-30", "2023-12-29"):
        handler(end_time=end, learn_processors=LEARN).setup_data()
    assert len(list_panels(session.cache)) == 2  # raw, and after the learn processors
    handler(start_time="2022-06-01").setup_data()
    assert len(list_panels(session.cache)) == 3
    assert clear_panels(session.cache) > 0
    assert list_panels(session.cache) == []


def test_a_slice_of_the_shared_panel_equals_one_built_for_it(session: Session) -> None:
    """Bit for bit, raw and processed, also when a processor learned in a fit window."""
    fit = {"fit_start_time": "2022-01-03", "fit_end_time": "2022-06-30"}
    infer = [{"class": "ZScoreNorm", "kwargs": {**fit, "fields_group": "feature"}}]
    shared = handler(end_time="2023-03-31", infer_processors=infer, learn_processors=LEARN)
    frame = QlibDataLoader(FIELDS).load("all", "2022-01-03", "2023-03-31")
    for key, chain in (("raw", []), ("infer", [ZScoreNorm(**fit, fields_group="feature")])):
        expected = frame
        for processor in chain:
            processor.fit(expected)
            expected = processor(expected)
        pd.testing.assert_frame_equal(shared.fetch(data_key=key), expected, check_exact=True)


def test_a_cached_panel_equals_the_one_that_was_built(session: Session) -> None:
    """A second handler reads what the first computed."""
    first = handler(learn_processors=LEARN).fetch(data_key="learn")
    second = handler(learn_processors=LEARN).fetch(data_key="learn")
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_a_window_is_no_copy(session: Session) -> None:
    """The features of a range of days are the panel's own memory, row after row, as a model wants them."""
    made = handler()
    values = made.fetch(slice("2022-03-01", "2022-09-30"), col_set="feature", data_key="raw").to_numpy()
    panel = made.panel("raw").groups["feature"].values
    assert np.shares_memory(values, panel)
    assert values.flags.c_contiguous
    both = made.fetch(slice("2022-03-01", "2022-09-30"), col_set=["feature", "label"], data_key="raw")
    assert np.shares_memory(both["feature"].to_numpy(), panel)


def test_changing_a_frame_leaves_the_panel_alone(session: Session) -> None:
    """A user who writes into what was handed out writes into a copy, or is refused; never into the cache."""
    made = handler()
    frame = made.fetch(col_set="feature", data_key="raw")
    before = frame.iloc[5, 0]
    try:
        frame.iloc[5, 0] = 99.0
    except ValueError as exc:
        assert "read-only" in str(exc)  # noqa: PT017
    assert handler().fetch(col_set="feature", data_key="raw").iloc[5, 0] == before


def test_a_damaged_panel_is_built_again(session: Session) -> None:
    """Cut off, overwritten, or without its description."""
    expected = handler().fetch(data_key="raw").copy()
    (info,) = list_panels(session.cache)
    folder = Path(session.cache) / "panels" / info.key
    for spoil in (
        lambda: (folder / "group0.npy").write_bytes((folder / "group0.npy").read_bytes()[:-100]),
        lambda: (folder / "group0.npy").write_bytes(b"\0" * (folder / "group0.npy").stat().st_size),
        lambda: (folder / "meta.json").write_text("{"),
    ):
        spoil()
        pd.testing.assert_frame_equal(handler().fetch(data_key="raw"), expected, check_exact=True)


def test_other_data_make_another_panel(session: Session, tmp_path: Path) -> None:
    """The key holds the data folder's fingerprint."""
    import shutil

    handler().setup_data()
    copy = tmp_path / "copy"
    shutil.copytree(session.provider_uri or "", copy)
    (copy / "features" / "d0001" / "close.day.bin").touch()
    with using(session.with_(provider_uri=str(copy))):
        handler().setup_data()
    assert len(list_panels(session.cache)) == 2


def test_the_cache_keeps_to_its_size(session: Session) -> None:
    """The panels unused for longest go; the one just built stays."""
    small = session.with_(cache_limit=1)
    with using(small):
        handler().setup_data()
        handler(start_time="2022-06-01").setup_data()
    assert len(list_panels(session.cache)) == 1


def build_in_process(session: Session, pipe: Any) -> None:
    built: list[str] = []
    get = PanelCache.get

    def counting(self: PanelCache, key: str, build: Any) -> Any:
        return get(self, key, lambda folder: (built.append(key), build(folder))[1])

    PanelCache.get = counting  # type: ignore[method-assign]
    with using(session):
        rows = len(handler().fetch(data_key="raw"))
    pipe.send((rows, len(built)))


@pytest.mark.slow
def test_two_processes_build_a_panel_once(session: Session) -> None:
    """The second waits for the first and reads what it built."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for _ in range(2):
        ours, theirs = context.Pipe(duplex=False)
        workers.append(context.Process(target=build_in_process, args=(session, theirs)))
        pipes.append(ours)
    for worker in workers:
        worker.start()
    answers = [pipe.recv() for pipe in pipes]
    for worker in workers:
        worker.join()
    assert answers[0][0] == answers[1][0] > 0
    assert sum(built for _, built in answers) == 1


def test_a_handler_and_a_dataset_travel_without_their_data(session: Session) -> None:
    """A pickle of some hundred bytes, which finds the data again."""
    dataset = DatasetH(handler(), {"train": ("2022-01-03", "2022-12-30")})
    rows = len(dataset.prepare("train"))
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 3000
    assert len(pickle.loads(pickled).prepare("train")) == rows


def test_segments_are_prepared_by_name(session: Session) -> None:
    """One frame for a name, a list for a list; groups as asked; open ends are the handler's."""
    segments = {"train": ("2022-01-03", "2022-06-30"), "test": ("2022-07-01", None)}
    dataset = DatasetH(handler(learn_processors=LEARN), segments)
    train, test = dataset.prepare(["train", "test"], col_set="feature")
    assert list(train.columns) == ["RET", "MA5"]
    assert train.index.get_level_values("datetime").max() < test.index.get_level_values("datetime").min()
    assert str(test.index.get_level_values("datetime").max().date()) == "2023-12-29"
    assert list(dataset.prepare("train", col_set=["feature", "label"]).columns.get_level_values(0).unique()) == [
        "feature",
        "label",
    ]
    with pytest.raises(SegmentError, match="Did you mean 'train'"):
        dataset.prepare("trian")
    with pytest.raises(ConfigError, match="data_key"):
        dataset.prepare("train", data_key="learnt")
    with pytest.raises(DataError, match="no columns 'lable'"):
        dataset.prepare("train", col_set="lable")


class Shuffle(Processor):
    """A processor of the user's own, which says nothing of ranges."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        return df - df.mean()


def test_a_processor_of_ones_own_sees_the_handlers_range_alone(session: Session) -> None:
    """It may look at everything it is given, so it is given no day beyond the handler's end."""
    made = handler(end_time="2022-12-30", infer_processors=[Shuffle()])
    raw = made.fetch(data_key="raw")
    pd.testing.assert_frame_equal(made.fetch(data_key="infer"), (raw - raw.mean()).astype(np.float32))


def test_the_label_of_a_handler_can_be_changed(session: Session) -> None:
    """As in Qlib: ``label`` in the handler's arguments."""
    made = Alpha158("all", "2022-01-03", "2022-06-30", label=["Ref($close, -6)/Ref($close, -1) - 1"])
    assert made.get_cols("label") == ["Ref($close, -6)/Ref($close, -1) - 1"]
