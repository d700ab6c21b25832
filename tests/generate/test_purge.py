"""Purging: no label of train or valid reads a day of a later segment, in the calendar and in an instrument's own
rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from tests.conftest import FIELDS, write_market

import rollforge
from rollforge.build import build
from rollforge.dates import read_timestamp
from rollforge.errors import ConfigError, DataError, SegmentError
from rollforge.expressions.expression import parse
from rollforge.expressions.operators import last_day_read, lookahead
from rollforge.features import DatasetH, TSDatasetH
from rollforge.features.dataset import Dataset
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import DataLoader
from rollforge.features.processor import Processor
from rollforge.features.row_purge import label_rows
from rollforge.generate import CalendarGen, CombinatorialPurgedGen, PurgedKFoldGen, RollingGen, TaskGen
from rollforge.generate.label_horizon import task_horizon
from rollforge.generate.segments import bounds, neighbours, next_pieces, ordered, pieces
from rollforge.run.execute import task_train
from rollforge.session import Session, using
from rollforge.task import digest

Tree = Any
"""``"close"``, a number, or (operator, arguments…)."""

# -- reading expressions in the calendar ---------------------------------------------------------------------------------


def days_read(tree: Tree, day: int) -> set[int]:
    """Return the positions of the days that a value reads: a second reading of the language, by its definition."""
    if tree == "close":
        return {day}
    if isinstance(tree, int):
        return set()
    name, *args = tree
    if name in ("Ref", "Delta"):
        shifted = days_read(args[0], day - args[1])
        if args[1] < 0 and shifted:
            shifted = shifted | {day - args[1]}  # without a row on that day, there is no value
        return shifted | (days_read(args[0], day) if name == "Delta" else set())
    if name in ("Mean", "Max", "Std", "Slope", "Corr"):
        *series, n = args
        return {read for x in series for back in range(n) for read in days_read(x, day - back)}
    return {read for x in args for read in days_read(x, day)}


def text(tree: Tree) -> str:
    if tree == "close":
        return "$close"
    if isinstance(tree, int):
        return str(tree)
    name, *args = tree
    signs = {"Sub": "-", "Div": "/", "Gt": ">"}
    if name in signs:
        return f"({text(args[0])}{signs[name]}{text(args[1])})"
    return f"{name}({', '.join(map(text, args))})"


def _calls(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    shifts = st.integers(-9, 9).filter(bool)
    return st.one_of(
        st.tuples(st.sampled_from(["Ref", "Delta"]), inner, shifts),
        st.tuples(st.sampled_from(["Mean", "Max", "Std", "Slope"]), inner, st.integers(2, 9)),
        st.tuples(st.just("Corr"), inner, inner, st.integers(2, 9)),
        st.tuples(st.sampled_from(["Sub", "Div", "Greater", "Less"]), inner, inner),
        st.tuples(st.just("If"), st.tuples(st.just("Gt"), inner, inner), inner, inner),
        st.tuples(st.just("Abs"), inner),
    )


TREES = st.recursive(st.just("close"), _calls, max_leaves=6)


@settings(max_examples=300, deadline=None)
@given(tree=TREES)
def test_the_last_day_that_an_expression_reads(tree: Tree) -> None:
    """Is that of the definition of its operators; at least as many days are loaded to compute it."""
    expression = parse(text(tree))
    last = max(days_read(tree, 0))
    assert last_day_read(expression) == last
    assert lookahead(expression) >= max(0, last)


@st.composite
def calendars(draw: st.DrawFn) -> pd.DatetimeIndex:
    """Weekdays with random holidays."""
    every = pd.bdate_range("2019-01-01", periods=240)
    closed = draw(st.sets(st.integers(0, 239), max_size=60))
    return every[[i for i in range(240) if i not in closed]]


@st.composite
def templates(draw: st.DrawFn, days: pd.DatetimeIndex, room: int) -> dict[str, Any]:
    """Segments that abut or leave gaps, with borders on days without trading, and perhaps with another one."""
    first, last = days[0], days[-1]
    length = (last - first).days
    valid_start = draw(st.integers(length // 3 + room, length // 3 + room + 40))
    test_start = draw(st.integers(valid_start + 3 * room + 20, valid_start + 3 * room + 60))
    segments = {
        "train": (0, valid_start - draw(st.integers(1, 5))),
        "valid": (valid_start, test_start - draw(st.integers(1, 5))),
        "test": (test_start, min(test_start + draw(st.integers(5, 60)), length)),
    }
    if draw(st.booleans()):
        segments["pretrain"] = (draw(st.integers(0, 5)), test_start - draw(st.integers(1, 9)))
    if draw(st.booleans()):
        del segments["valid"]
    found = {name: tuple(str((first + pd.Timedelta(days=d)).date()) for d in s) for name, s in segments.items()}
    return {
        "model": {},
        "dataset": {"class": "DatasetH", "module_path": "qlib.data.dataset", "kwargs": {"segments": found}},
    }


def with_handler(task: dict[str, Any], handler: dict[str, Any]) -> dict[str, Any]:
    kwargs = {**task["dataset"]["kwargs"], "handler": handler}
    return {**task, "dataset": {**task["dataset"], "kwargs": kwargs}}


def borders(task: dict[str, Any]) -> list[tuple[str, pd.Timestamp]]:
    """Return each segment with the first day of the next one."""
    found = task["dataset"]["kwargs"]["segments"]
    return [(name, read_timestamp(found[later][0])) for name, later in neighbours(ordered(found))]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), tree=TREES, sliding=st.booleans(), follow=st.booleans())
def test_no_label_reads_a_day_of_the_next_segment(data: st.DataObject, tree: Tree, sliding: bool, follow: bool) -> None:
    """In any calendar, for any expression and any segments; and no more days are left out than needed."""
    ahead = max(0, *days_read(tree, 0)) if tree != "close" else 0
    days = data.draw(calendars())
    template = data.draw(templates(days, 2 * ahead))
    alpha = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": {"label": [text(tree)]}}
    template = with_handler(template, alpha)
    rtype = "sliding" if sliding else "expanding"
    plain, purging = (RollingGen(17, rtype, trunc_days=t, calendar=days) for t in (None, "auto"))
    if follow:
        made = list(purging.gen_following_tasks(plain.generate(template)[0], days[-1]))
        before = plain.generate(template)[1:]
    else:
        made, before = purging.generate(template), plain.generate(template)
    for one, unpurged in zip(made, before, strict=False):
        segments = one["dataset"]["kwargs"]["segments"]
        for name, next_start in borders(one):
            end, next_day = days.get_loc(segments[name][1]), days.get_loc(next_start)
            assert max(days_read(tree, end)) < next_day or ahead == 0
            assert end < next_day
            kept_all = segments[name][1] == unpurged["dataset"]["kwargs"]["segments"][name][1]
            assert kept_all or max(days_read(tree, end + 1)) >= next_day


SUSPENDED_LABELS = [
    "Ref($close, -4)/$close - 1",
    "Max(Ref($close, -3), 2)/Mean($close, 2)",
    "Delta(Ref($close, -5), 2)",
]


@pytest.mark.parametrize("missing", ["rows", "values"])
def test_expressions_count_days_of_the_calendar_also_for_suspended_instruments(tmp_path: Path, missing: str) -> None:
    """A suspended day is a day: replacing all data after a day changes only labels that are purged before it."""
    rng, days = np.random.default_rng(5), pd.bdate_range("2020-01-01", periods=80)
    index = pd.MultiIndex.from_product([days, ["A", "B", "C"]], names=["datetime", "instrument"])
    table = pd.DataFrame({name: rng.uniform(9, 11, len(index)) for name in FIELDS}, index)
    gone = (rng.uniform(size=len(index)) < 0.4) & (np.arange(len(index)) % 3 > 0)
    border = days[50]
    changed = table.copy()
    changed.loc[changed.index.get_level_values(0) >= border, "close"] *= 3
    labels = []
    for name, one in (("before", table), ("after", changed)):
        if missing == "rows":
            one = one[~gone]
        else:
            one.loc[gone, "close"] = np.nan
        folder = write_market(one.reset_index(), tmp_path / name)
        with using(Session(provider_uri=str(folder), cache=str(tmp_path / f"cache-{name}"))):
            labels.append(rollforge.D.features(["A", "B", "C"], SUSPENDED_LABELS).swaplevel().sort_index())
    for column in labels[0]:
        ahead = int(last_day_read(parse(column)))
        kept = labels[0].index.get_level_values("datetime") < days[50 - ahead]
        pd.testing.assert_series_equal(labels[0][column][kept], labels[1][column][kept])
        assert not labels[0][column].equals(labels[1][column])


# -- an instrument's own rows ----------------------------------------------------------------------------------------------

DAYS = pd.bdate_range("2020-01-01", periods=120)


def suspended(seed: int, share: float, instruments: int = 5) -> pd.DataFrame:
    """Return closing prices on some days, of instruments that start late, end early and are suspended for long."""
    rng = np.random.default_rng(seed)
    parts = []
    for code in range(instruments):
        first, last = rng.integers(0, 40), rng.integers(60, 121)
        traded = rng.uniform(size=len(DAYS)) >= share
        pause = rng.integers(0, 110)
        traded[pause : pause + rng.integers(0, 30)] = False
        days = DAYS[first:last][traded[first:last]]
        index = pd.MultiIndex.from_product([days, [f"S{code}"]], names=["datetime", "instrument"])
        parts.append(pd.DataFrame({"close": rng.uniform(9, 11, len(days))}, index))
    return pd.concat(parts).sort_index()


def labelled(close: pd.DataFrame, ahead: int) -> pd.Series:
    later = close.groupby(level="instrument")["close"].shift(-ahead)
    return later / close["close"] - 1


class RowLoader(DataLoader):
    """Labels count the rows of an instrument; a suspended instrument has no rows, or rows without values."""

    def __init__(self, seed: int, share: float, ahead: int, fill: bool = False, label: bool = True) -> None:
        self.seed, self.share, self.ahead, self.fill, self.label = seed, share, ahead, fill, label

    def load(self, instruments: Any, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
        """Return the frame."""
        close = suspended(self.seed, self.share)
        parts = {"feature": close}
        if self.label:
            parts["label"] = labelled(close, self.ahead).to_frame("LABEL0")
        frame = pd.concat(parts, axis=1)
        if self.fill:
            every = pd.MultiIndex.from_product([DAYS, frame.index.levels[1]], names=["datetime", "instrument"])
            frame = frame.reindex(every)
        return frame


class RowLabel(Processor):
    """Makes the label, in place of one of the loader, that counts rows of an instrument, after half of them are dropped."""

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return the frame with a label."""
        df = df.iloc[::2][["feature"]]
        return pd.concat([df, pd.concat({"label": labelled(df["feature"], self.ahead).to_frame("L")}, axis=1)], axis=1)


def last_read(close: pd.DataFrame, ahead: int) -> pd.Series:
    """Return the day of the row that each label reads, from a loop over the rows."""
    found = {}
    for code, rows in close.groupby(level="instrument"):
        days = list(rows.index.get_level_values("datetime"))
        for place, day in enumerate(days):
            found[day, code] = days[place + ahead] if place + ahead < len(days) else pd.NaT
    return pd.Series(found)


def row_task(loader: dict[str, Any], horizon: int | None, dataset: str = "DatasetH", **handler: Any) -> dict[str, Any]:
    kwargs = {"data_loader": loader, "learn_processors": ["DropnaLabel"], **handler}
    if horizon is not None:
        kwargs["label_horizon"] = horizon
    described = {"class": "DataHandlerLP", "module_path": "qlib.data.dataset.handler", "kwargs": kwargs}
    segments = {
        "train": ("2020-01-01", "2020-03-01"),
        "valid": ("2020-03-02", "2020-04-10"),
        "test": ("2020-04-13", "2020-06-01"),
    }
    return {
        "model": {"class": "LinearModel", "module_path": "qlib.contrib.model.linear"},
        "dataset": {
            "class": dataset,
            "module_path": "qlib.data.dataset",
            "kwargs": {"handler": described, "segments": segments},
        },
        "record": [],
    }


def own(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"class": name, "module_path": __name__, "kwargs": kwargs}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.2, 0.6]), ahead=st.integers(1, 6), fill=st.booleans(),
    sliding=st.booleans(),
)  # fmt: skip
def test_no_label_that_counts_rows_reads_a_row_of_the_next_segment(
    seed: int, share: float, ahead: int, fill: bool, sliding: bool
) -> None:
    """For random suspensions, as missing rows or missing values; and all other rows with a label are kept."""
    template = row_task(own("RowLoader", seed=seed, share=share, ahead=ahead, fill=fill), ahead)
    reads = last_read(suspended(seed, share), ahead)
    generator = RollingGen(15, "sliding" if sliding else "expanding", trunc_days="auto", calendar=DAYS)
    for task in generator.generate(template):
        dataset = build(task["dataset"])
        for name, next_start in borders(task):
            start, end = task["dataset"]["kwargs"]["segments"][name]
            days = reads.index.get_level_values(0)
            wanted = reads[(days >= start) & (days <= end) & (reads < next_start)]
            try:
                found = dataset.prepare(name, data_key="learn")
            except DataError:
                assert not len(wanted)
                continue
            assert (reads.reindex(found.index) < next_start).all()
            assert set(found.index) == set(wanted.index)


class WrappedRowLabel:
    """The same without a base class."""

    def __init__(self, ahead: int) -> None:
        self.made = RowLabel(ahead)

    def fit(self, df: pd.DataFrame) -> None:
        """Learn nothing."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return the frame with a label."""
        return self.made(df)

    def is_for_infer(self) -> bool:
        """Return False."""
        return False


@pytest.mark.parametrize(("label", "processor"), [(False, "RowLabel"), (True, "RowLabel"), (True, "WrappedRowLabel")])
def test_a_processor_that_drops_rows_and_makes_the_label(label: bool, processor: str) -> None:
    """The labels of the processor count the rows that it keeps, also if the loader's label, which it replaces, counts
    all rows."""
    ahead = 3
    loader = own("RowLoader", seed=3, share=0.3, ahead=ahead, label=label)
    template = row_task(loader, ahead, learn_processors=[own(processor, ahead=ahead), "DropnaLabel"])
    frame = RowLoader(3, 0.3, ahead, label=False).load(None)
    reads = last_read(frame.iloc[::2]["feature"], ahead)
    for task in RollingGen(15, trunc_days="auto", calendar=DAYS).generate(template):
        dataset = build(task["dataset"])
        for name, next_start in borders(task):
            if name == "valid":
                continue
            found = dataset.prepare(name, data_key="learn")
            assert (reads.reindex(found.index) < next_start).all()


class Halved(Processor):
    """Drops half of the rows."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return every second row."""
        return df.iloc[::2]


@pytest.mark.parametrize("processors", [[], [Halved()]])
def test_a_handler_without_a_label_has_no_rows_to_count(processors: list[Any]) -> None:
    """A handler without a label has no rows to count, whether or not a user's processor might have created the
    label."""
    loader = RowLoader(3, 0.3, 1, label=False)
    handler = DataHandlerLP(data_loader=loader, learn_processors=processors)
    with pytest.raises(DataError, match="label"):
        label_rows(handler)


def test_samples_of_several_days_are_purged_too() -> None:
    """The rows left out still serve as history."""
    template = row_task(own("RowLoader", seed=4, share=0.5, ahead=4), 4, "TSDatasetH")
    template["dataset"]["kwargs"]["step_len"] = 3
    task = RollingGen(15, trunc_days="auto", calendar=DAYS).generate(template)[0]
    flat = build(
        {
            **task["dataset"],
            "class": "DatasetH",
            "kwargs": {k: v for k, v in task["dataset"]["kwargs"].items() if k != "step_len"},
        }
    )
    samples = build(task["dataset"])
    assert isinstance(samples, TSDatasetH)
    for name in ("train", "valid"):
        made = samples.prepare(name, data_key="learn")
        assert set(made.get_index()) == set(flat.prepare(name, data_key="learn").index)
        assert len(made) < len(samples.prepare(name))
        assert made[0].shape == (3, 2)
    assert samples.rows_purged == flat.rows_purged


def test_the_data_for_inference_and_of_the_last_segment_are_complete() -> None:
    """Only the data for learning of segments that are followed by another one are purged."""
    template = row_task(own("RowLoader", seed=4, share=0.5, ahead=4), 4)
    task = RollingGen(15, trunc_days="auto", calendar=DAYS).generate(template)[0]
    purged = build(task["dataset"])
    whole = DatasetH(task["dataset"]["kwargs"]["handler"], task["dataset"]["kwargs"]["segments"])
    for key, name in (("infer", "train"), ("raw", "train"), ("learn", "test")):
        pd.testing.assert_frame_equal(purged.prepare(name, data_key=key), whole.prepare(name, data_key=key))
    assert purged.rows_purged == {}
    both = purged.prepare(["train", "valid"], col_set=["feature", "label"], data_key="learn")
    assert [
        len(whole.prepare(n, data_key="learn")) - len(f) for n, f in zip(["train", "valid"], both, strict=True)
    ] == [purged.rows_purged[n] for n in ("train", "valid")]
    assert min(purged.rows_purged.values()) > 0
    days = task["dataset"]["kwargs"]["segments"]["train"]
    assert purged.prepare(slice(*days), data_key="learn").index.equals(both[0].index)


def test_tasks_without_a_declared_horizon_keep_their_digest() -> None:
    """Only a label that may count rows is purged by rows."""
    template = row_task(own("RowLoader", seed=4, share=0.5, ahead=4), None)
    (plain, *_) = RollingGen(15, trunc_days=4, calendar=DAYS).generate(template)
    assert "purge_rows" not in plain["dataset"]["kwargs"]
    template["dataset"]["kwargs"]["handler"] = {
        "class": "Alpha158",
        "module_path": "qlib.contrib.data.handler",
        "kwargs": {},
    }
    (read, *_) = RollingGen(15, trunc_days="auto", calendar=DAYS).generate(template)
    (declared, *_) = RollingGen(15, trunc_days="auto", calendar=DAYS).generate({**template, "label_horizon": 2})
    assert "purge_rows" not in read["dataset"]["kwargs"]
    assert digest({k: v for k, v in declared.items() if k != "label_horizon"}) == digest(read)
    assert "purge_rows" not in template["dataset"]["kwargs"]


class NarrowDataset(DatasetH):
    """Accepts only its own arguments."""

    def __init__(self, handler: Any, segments: Any) -> None:
        super().__init__(handler, segments)


@pytest.mark.parametrize("kind", ["calendar", "folds", "combinations"])
def test_all_generators_purge_rows(kind: str) -> None:
    """All generators purge rows in segments of several intervals too, before each interval of another segment."""
    ahead = 3
    template = row_task(own("RowLoader", seed=8, share=0.4, ahead=ahead), ahead)
    generator: TaskGen = {
        "calendar": lambda: CalendarGen("MS", calendar=DAYS),
        "folds": lambda: PurgedKFoldGen(4, calendar=DAYS),
        "combinations": lambda: CombinatorialPurgedGen(5, 2, calendar=DAYS),
    }[kind]()
    reads = last_read(suspended(8, 0.4), ahead)
    tasks = generator.generate(template)
    assert len(tasks) >= 2
    for task in tasks:
        dataset = build(task["dataset"])
        assert dataset.purge_rows == ahead
        found = dataset.prepare("train", data_key="learn")
        days = found.index.get_level_values("datetime")
        sequence = pieces(task["dataset"]["kwargs"]["segments"])
        for earlier, later in next_pieces(sequence):
            name, (start, end) = sequence[earlier]
            next_start = read_timestamp(sequence[later][1].start)
            if name == "train":
                inside = np.asarray((days >= start) & (days <= end))
                assert (reads.reindex(found.index[inside]) < next_start).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.3, 0.6]), ahead=st.integers(1, 5), embargo=st.integers(0, 4),
    combined=st.booleans(), valid=st.sampled_from([0, 12]),
)  # fmt: skip
def test_no_row_after_a_test_is_read_by_its_labels(
    seed: int, share: float, ahead: int, embargo: int, combined: bool, valid: int
) -> None:
    """In cross-validation with random suspensions, nor is it one of the embargo's rows; all other rows are kept."""
    template = row_task(own("RowLoader", seed=seed, share=share, ahead=ahead), ahead)
    made: dict[str, Any] = {"embargo": embargo, "valid": valid, "calendar": DAYS}
    generator = CombinatorialPurgedGen(5, 2, **made) if combined else PurgedKFoldGen(3, **made)
    rows = {code: list(r.index.get_level_values(0)) for code, r in suspended(seed, share).groupby(level="instrument")}
    for task in generator.generate(template)[:4]:
        segments = task["dataset"]["kwargs"]["segments"]
        parts = {name: [(read_timestamp(s.start), read_timestamp(s.end)) for n, s in pieces(segments) if n == name]
                 for name in segments}  # fmt: skip
        dataset = build(task["dataset"])
        for name in {"train", "valid"} & set(segments):
            wanted = set()
            for code, days in rows.items():
                tested = [i for i, day in enumerate(days) if any(a <= day <= b for a, b in parts["test"])]
                for place, day in enumerate(days):
                    own_part = next(((a, b) for a, b in parts[name] if a <= day <= b), None)
                    if own_part is None or place + ahead >= len(days):
                        continue  # without a label
                    behind = [a for n, some in parts.items() if n != name for a, _ in some if a > own_part[1]]
                    if behind and days[place + ahead] >= min(behind):
                        continue  # the label reaches into the next segment
                    # Rows that labels of the test read, and the embargo after them
                    if any(i < place <= i + ahead + embargo for i in tested):
                        continue
                    wanted.add((day, code))
            try:
                found = set(dataset.prepare(name, data_key="learn").index)
            except DataError:
                found = set()
            assert found == wanted


def test_days_select_the_rows_that_the_segment_of_these_days_has() -> None:
    """Rows after a test are left out of the first training segment of a cross-validation, which no segment follows."""
    template = row_task(own("RowLoader", seed=1, share=0.2, ahead=3), 3)
    dataset = build(PurgedKFoldGen(3, embargo=1, calendar=DAYS).generate(template)[0]["dataset"])
    del dataset.segments["valid"]
    named = dataset.prepare("train", data_key="learn")
    left_out = dict(dataset.rows_purged)
    assert left_out["train"] > 0
    assert dataset.prepare(slice(*dataset.segments["train"]), data_key="learn").equals(named)
    assert dataset.rows_purged == left_out


@settings(max_examples=100, deadline=None)
@given(data=st.data(), tree=TREES, embargo=st.integers(0, 5), combined=st.booleans())
def test_no_day_is_read_by_labels_of_test_and_of_train(
    data: st.DataObject, tree: Tree, embargo: int, combined: bool
) -> None:
    """In cross-validation of any label on any calendar; after a test, the embargo follows the days that its labels
    read."""
    ahead = max(0, *days_read(tree, 0)) if tree != "close" else 0
    days = data.draw(calendars())
    alpha = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": {"label": [text(tree)]}}
    template = with_handler(data.draw(templates(days, 2 * ahead)), alpha)
    template["dataset"]["kwargs"]["segments"].pop("valid", None)
    generator = (
        CombinatorialPurgedGen(4, 2, embargo=embargo, calendar=days)
        if combined
        else PurgedKFoldGen(3, embargo=embargo, calendar=days)
    )
    try:
        tasks = generator.generate(template)
    except SegmentError:
        return  # nothing is left to train on
    for task in tasks:
        segments = {n: [] for n in ("train", "test")}
        for name, part in pieces(task["dataset"]["kwargs"]["segments"]):
            segments[name].append((days.get_loc(part.start), days.get_loc(part.end)))
        trained = [day for a, b in segments["train"] for day in range(a, b + 1)]
        reached = {later for day in trained for later in range(day, day + ahead + 1)}
        for a, b in segments["test"]:
            assert reached.isdisjoint(range(a, b + ahead + 1)), (
                "a label spans the days up to the last one that it reads"
            )
            assert not [day for day in trained if b < day <= b + ahead + embargo]


def test_an_embargo_of_rows_needs_a_dataset_that_has_it() -> None:
    """The error names the argument; without an embargo the dataset is accepted."""
    template = row_task(own("RowLoader", seed=4, share=0.5, ahead=4), 4)
    template["dataset"] |= {"class": "PurgingDataset", "module_path": __name__}
    with pytest.raises(SegmentError, match=r"PurgingDataset does not accept embargo_rows"):
        PurgedKFoldGen(3, embargo=2, calendar=DAYS).generate(template)
    made = PurgedKFoldGen(3, calendar=DAYS).generate(template)
    assert "embargo_rows" not in made[0]["dataset"]["kwargs"]


class PurgingDataset(DatasetH):
    """Accepts the number of rows to purge."""

    def __init__(self, handler: Any, segments: Any, purge_rows: int = 0) -> None:
        super().__init__(handler, segments, purge_rows=purge_rows)


def test_a_handler_from_a_file_is_purged_by_its_declared_horizon(tmp_path: Path) -> None:
    """The task has to declare it, because the file's handler declares it only when it is loaded."""
    template = row_task(own("RowLoader", seed=4, share=0.5, ahead=4), None)
    handler = DataHandlerLP(data_loader=RowLoader(4, 0.5, 4), learn_processors=["DropnaLabel"])
    handler.to_pickle(tmp_path / "handler.pkl")
    file = f"file://{tmp_path / 'handler.pkl'}"
    from_file = with_handler(template, file)  # type: ignore[arg-type]
    with pytest.raises(SegmentError, match="the handler is read from a file"):
        RollingGen(15, trunc_days="auto", calendar=DAYS).generate(from_file)
    described = with_handler(template, {**template["dataset"]["kwargs"]["handler"]})
    made = [
        RollingGen(15, trunc_days="auto", calendar=DAYS).generate({**t, "label_horizon": 4})[0]
        for t in (from_file, described)
    ]
    assert [m["dataset"]["kwargs"]["purge_rows"] for m in made] == [4, 4]
    segments = made[0]["dataset"]["kwargs"]["segments"]
    read = DatasetH(handler, segments, purge_rows=4).prepare("train", data_key="learn")
    pd.testing.assert_frame_equal(read, build(made[1]["dataset"]).prepare("train", data_key="learn"))


def test_following_tasks_purge_rows_too() -> None:
    """Following tasks purge rows even if they follow a task that is not purged."""
    template = row_task(own("RowLoader", seed=4, share=0.5, ahead=4), 4)
    (plain, *_) = RollingGen(15, calendar=DAYS).generate(template)
    (following, *_) = RollingGen(15, trunc_days="auto", calendar=DAYS).gen_following_tasks(plain, DAYS[-1])
    assert following["dataset"]["kwargs"]["purge_rows"] == 4
    assert "purge_rows" not in plain["dataset"]["kwargs"]


class OtherDataset(Dataset):
    """Accepts any argument, and may ignore it: only a DatasetH purges rows."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()


@pytest.mark.parametrize("name", ["NarrowDataset", "OtherDataset"])
def test_a_dataset_that_cannot_purge_rows_is_refused(name: str) -> None:
    """A dataset that cannot purge rows is refused if the label may count rows; a number of days is accepted."""
    template = row_task(own("RowLoader", seed=4, share=0.5, ahead=4), 4)
    template["dataset"] |= {"class": name, "module_path": __name__}
    with pytest.raises(SegmentError, match=rf"trunc_days: .* {name} does not accept purge_rows"):
        RollingGen(15, trunc_days="auto", calendar=DAYS).generate(template)
    assert RollingGen(15, trunc_days=5, calendar=DAYS).generate(template)


@pytest.mark.parametrize("value", [-1, 1.5, True, "2"])
def test_purge_rows_is_a_number_of_rows(value: Any) -> None:
    """Anything else is refused when the dataset is built."""
    with pytest.raises(ConfigError, match="purge_rows: must be a whole number of rows"):
        DatasetH(DataHandlerLP(data_loader=RowLoader(1, 0.0, 1)), {}, purge_rows=value)


def test_a_segment_of_which_no_row_is_left_is_named() -> None:
    """With the number of rows and what to do."""
    handler = DataHandlerLP(data_loader=RowLoader(1, 0.0, 1))
    dataset = DatasetH(handler, {"train": ("2020-01-01", "2020-02-28"), "test": ("2020-03-02", None)}, purge_rows=70)
    with pytest.raises(DataError, match=r"No row of 'train' is left: .* read 70 rows ahead"):
        dataset.prepare("train", data_key="learn")


def test_a_trained_task_says_how_many_rows_were_left_out(tmp_path: Path) -> None:
    """In a tag of its recorder, for each segment that the model is fitted on."""
    template = row_task(own("RowLoader", seed=4, share=0.5, ahead=4), 4)
    task = RollingGen(15, trunc_days="auto", calendar=DAYS).generate(template)[0]
    session = Session(tracking_uri=f"folder:{tmp_path / 'runs'}", cache=str(tmp_path / "cache"))
    with using(session):
        recorder = task_train(task, "purged")
        left_out = json.loads(recorder.list_tags()["rollforge.rows_purged"])
        dataset = build(task["dataset"])
        dataset.prepare("train", data_key="learn")
        assert left_out["train"] == dataset.rows_purged["train"] > 0


def test_the_horizon_of_rows_is_the_declared_one() -> None:
    """Without it, the horizon of a user-defined loader is unknown."""
    assert task_horizon(row_task(own("RowLoader", seed=1, share=0.1, ahead=2), None)).days is None
    assert task_horizon(row_task(own("RowLoader", seed=1, share=0.1, ahead=2), 2)).in_rows


def test_a_segment_without_an_end_has_no_next_one() -> None:
    """Those after it have."""
    sequence = [
        ("test", bounds("test", ("2020-01-01", None))),
        ("train", bounds("train", ("2020-02-01", "2020-02-28"))),
        ("valid", bounds("valid", ("2020-03-02", "2020-03-31"))),
    ]
    assert next_pieces(sequence) == [(1, 2)]
