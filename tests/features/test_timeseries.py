"""Samples that span several days, compared with a brute-force search through the frame."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

import rollforge
from rollforge.errors import ConfigError, DataError
from rollforge.features.handler import DataHandlerLP
from rollforge.features.processor import DropnaLabel
from rollforge.features.timeseries import TSDataSampler, TSDatasetH
from rollforge.session import Session, using

DAYS = pd.bdate_range("2021-01-04", periods=12)


def _sum_in_fork(samples: TSDataSampler, answer: Any) -> None:
    answer.put(float(np.nansum(samples[:])))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_batch_is_the_same_with_several_threads_after_a_fork_and_after_pickling() -> None:
    """Threads share the work in pieces; some steps of the samples are missing."""
    frame = pd.DataFrame(
        np.random.default_rng(3).normal(size=(500 * 60, 40)),
        pd.MultiIndex.from_product([pd.bdate_range("2021-01-04", periods=500), range(60)], names=["datetime", "instrument"]),
    ).sample(frac=0.9, random_state=1)  # fmt: skip
    samples = TSDataSampler(frame, None, None, 5)
    with using(Session(threads=1)):
        alone = samples[:]
    assert alone.nbytes > 5 * 2**22  # several pieces for each thread
    with using(Session(threads=3)):
        np.testing.assert_array_equal(samples[:], alone)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(samples))[:], alone)
        context = multiprocessing.get_context("fork")
        answer = context.SimpleQueue()
        child = context.Process(target=_sum_in_fork, args=(samples, answer))
        child.start()
        child.join(120)
        assert child.exitcode == 0
        assert answer.get() == float(np.nansum(alone))


def table(seed: int = 7, days: int = 12, names: str = "ABCDE", missing: float = 0.3) -> pd.DataFrame:
    """Return two columns of some instruments on some days; rows are missing at random, the others are shuffled."""
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([DAYS[:days], list(names)], names=["datetime", "instrument"])
    frame = pd.DataFrame(rng.normal(size=(len(index), 2)), index, ["x", "y"])
    return frame[rng.random(len(frame)) >= missing].sample(frac=1, random_state=seed)


def expected(frame: pd.DataFrame, day: Any, code: str, steps: int, fill: str) -> np.ndarray[Any, Any]:
    """Return the rows of an instrument on the last days of data, one by one."""
    days = sorted(set(frame.index.get_level_values("datetime")))
    window = [d for d in days if d <= day][-steps:]
    rows = [frame.loc[(d, code)].tolist() if (d, code) in frame.index else [np.nan] * frame.shape[1] for d in window]
    found = pd.DataFrame([[np.nan] * frame.shape[1]] * (steps - len(rows)) + rows)
    there = [False] * (steps - len(rows)) + [(d, code) in frame.index for d in window]
    if fill != "none":
        place = pd.Series(np.where(there, np.arange(steps), np.nan)).ffill()
        place = place.bfill() if fill == "ffill+bfill" else place
        found = found.reindex(place)
    return found.to_numpy(np.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.integers(1, 6), st.sampled_from(["none", "ffill", "ffill+bfill"]), st.integers(0, 11))
def test_a_sample_is_the_last_days_of_an_instrument(seed: int, steps: int, fill: Any, start: int) -> None:
    """Whatever is missing, however it is filled, and wherever the samples begin."""
    frame = table(seed)
    samples = TSDataSampler(frame, DAYS[start], DAYS[-1], steps, fillna_type=fill)
    index = samples.get_index()
    assert index.names == ["datetime", "instrument"]
    wanted = frame[frame.index.get_level_values("datetime") >= DAYS[start]].swaplevel().sort_index().index.swaplevel()
    assert index.equals(wanted)
    assert len(samples) == len(index)
    for place, (day, code) in enumerate(index):
        right = expected(frame, day, code, steps, fill)
        np.testing.assert_array_equal(samples[place], right)
        np.testing.assert_array_equal(samples[day, code], right)
    if len(samples):
        together = samples[list(range(len(samples)))]
        assert together.shape == (len(samples), steps, 2)
        np.testing.assert_array_equal(together, np.stack([samples[i] for i in range(len(samples))]))
        np.testing.assert_array_equal(samples[::2], together[::2])


def test_samples_are_a_sequence_of_plain_numbers() -> None:
    """A sequence of samples ends, has negative indexes, keeps its precision and can be pickled; the frame is
    unchanged."""
    frame = table().astype(np.float32)
    before = frame.copy()
    samples = TSDataSampler(frame, None, None, 3)
    assert sum(1 for _ in samples) == len(samples) == len(frame)  # type: ignore[misc]  # by __getitem__
    np.testing.assert_array_equal(samples[-1], samples[len(samples) - 1])
    assert samples[0].dtype == np.float32
    assert TSDataSampler(frame, None, None, 3, dtype=np.float64)[0].dtype == np.float64
    assert TSDataSampler((frame * 10).astype(int), None, None, 3)[0].dtype == np.float64  # which can be missing
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(samples))[0], samples[0])
    pd.testing.assert_frame_equal(frame, before)
    assert samples.idx_df.shape == (12, 5)
    assert int(samples.idx_df.notna().to_numpy().sum()) == len(frame)
    for wrong in (len(samples), -len(samples) - 1):
        with pytest.raises(IndexError):
            samples[wrong]


def test_rows_outside_the_mask_are_history() -> None:
    """Samples are chosen by a boolean column; a row with a missing mask value is not a sample."""
    frame = table(missing=0.0)
    wanted = pd.DataFrame({"keep": np.where(frame["x"] > 0, 1.0, 0.0)}, frame.index)
    wanted.iloc[0, 0] = np.nan
    samples = TSDataSampler(frame, None, None, 2, flt_data=wanted)
    kept = wanted["keep"] == 1
    assert set(samples.get_index()) == set(frame.index[kept])
    day, code = samples.get_index()[-1]
    np.testing.assert_array_equal(samples[-1], expected(frame, day, code, 2, "none"))
    assert len(TSDataSampler(frame, None, None, 2, flt_data=wanted["keep"].iloc[:7])) == int(kept.iloc[:7].sum())


def test_a_day_without_data_means_the_previous_day() -> None:
    """Such a day is a weekend, or a day after the last; a day before the first and an unknown code are errors."""
    samples = TSDataSampler(table(missing=0.0), None, None, 2)
    np.testing.assert_array_equal(samples["2021-01-10", "A"], samples["20210108", "A"])
    np.testing.assert_array_equal(samples["2030-01-01", "A"], samples[DAYS[-1], "A"])
    # in lower case, as D.features accepts codes
    np.testing.assert_array_equal(samples["2021-01-08", "a"], samples["2021-01-08", "A"])
    with pytest.raises(KeyError, match="begin on 2021-01-04"):
        samples["2021-01-01", "A"]
    with pytest.raises(KeyError, match="no instrument 'Z'"):
        samples["2021-01-08", "Z"]


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda f: TSDataSampler(f, None, None, 0), ConfigError, "step_len"),
        (lambda f: TSDataSampler(f, None, None, True), ConfigError, "step_len"),
        (lambda f: TSDataSampler(f, None, None, 2, fillna_type="bfill"), ConfigError, "Did you mean 'ffill'"),
        (lambda f: TSDataSampler(f, None, None, 2, flt_data=f), ConfigError, "one column"),
        (lambda f: TSDataSampler(f.rename_axis(["day", "code"]), None, None, 2), DataError, "levels"),
        (lambda f: TSDataSampler(pd.concat([f, f]), None, None, 2), DataError, "more than once"),
    ],
)
def test_invalid_samples_are_refused(make: Callable[[Any], Any], error: type[Exception], said: str) -> None:
    """With one message that names the error."""
    with pytest.raises(error, match=said):
        make(table())


def handler(frame: pd.DataFrame) -> DataHandlerLP:
    grouped = frame.set_axis(pd.MultiIndex.from_tuples([("feature", "x"), ("label", "y")]), axis=1)
    made = DataHandlerLP.from_df(grouped)
    made.learn_processors = [DropnaLabel()]
    return made


def test_segments_use_the_days_before_them() -> None:
    """The first samples of a segment have history; segments, columns and states work as in any dataset."""
    frame = table(missing=0.0)
    frame.iloc[0, 1] = np.nan
    segments = {"train": (DAYS[0], DAYS[5]), "test": (DAYS[6], DAYS[11])}
    dataset = TSDatasetH(step_len=4, handler=handler(frame), segments=segments)
    train, test = dataset.prepare(["train", "test"], col_set=["feature", "label"])
    assert (len(train), len(test)) == (30, 30)
    np.testing.assert_array_equal(test[DAYS[6], "B"], expected(frame, DAYS[6], "B", 4, "none"))
    np.testing.assert_array_equal(
        test[DAYS[5], "B"], expected(frame, DAYS[5], "B", 4, "none")
    )  # including the day before
    assert np.isnan(train[DAYS[0], "A"][:3]).all()
    learn = dataset.prepare(slice(None, None), col_set="feature", data_key=DataHandlerLP.DK_L, dtype=np.float32)
    assert (len(learn), learn[0].shape, learn[0].dtype) == (59, (4, 1), np.float32)
    dataset.config(step_len=2)
    assert dataset.prepare("test")[0].shape == (2, 2)
    dataset.config(segments={"test": ("2030-01-01", "2030-12-31")})
    with pytest.raises(DataError, match="the 'test' segment"):
        dataset.prepare("test")
    with pytest.raises(ConfigError, match="range of days"):
        dataset.prepare("2021-01-08")


def test_a_column_selects_the_samples() -> None:
    """The column that selects samples is ``flt_col`` of the dataset, or of one call."""
    frame = table(missing=0.0)
    frame["y"] = (frame["y"] > 0).astype(float)
    dataset = TSDatasetH(step_len=2, flt_col="label", handler=handler(frame), segments={"all": (None, None)})
    assert len(dataset.prepare("all", col_set="feature")) == int(frame["y"].sum())
    frame["x"] = 1.0
    other = TSDatasetH(step_len=2, handler=handler(frame), segments={"all": (None, None)})
    assert len(other.prepare("all", flt_col="label")) == int(frame["y"].sum())


def test_a_market_in_samples(small_market: Path) -> None:
    """With Alpha158 from the panel, a sample is the instrument's own last rows if it traded on every day."""
    rollforge.init(small_market)
    config = {"class": "Alpha158", "kwargs": {"instruments": "all", "start_time": "2022-01-03", "end_time": "2022-06-30",
              "learn_processors": []}}  # fmt: skip
    dataset = TSDatasetH(step_len=5, handler=config, segments={"test": ("2022-05-02", "2022-06-30")})
    samples = dataset.prepare("test", col_set="feature")
    frame = dataset.handler.fetch(col_set="feature")
    day, code = samples.get_index()[0]
    assert day == pd.Timestamp("2022-05-02")
    rows = frame.xs(code, level="instrument")[:day].iloc[-5:]
    np.testing.assert_array_equal(samples[0], rows.to_numpy())


def test_samples_are_views_of_the_panel(small_market: Path) -> None:
    """Features and labels of a segment share the panel's memory; memory for a batch can be used again."""
    rollforge.init(small_market)
    config = {"class": "Alpha158", "kwargs": {"instruments": "all", "learn_processors": [], "infer_processors": []}}
    dataset = TSDatasetH(step_len=20, handler=config, segments={"test": ("2022-05-02", "2022-06-30")})
    samples = dataset.prepare("test", col_set=["feature", "label"])
    panel = dataset.handler.panel(DataHandlerLP.DK_I)
    feature, label = (panel.groups[name].values for name in ("feature", "label"))
    assert [np.shares_memory(block, feature) for block in samples.blocks] == [True, False]
    assert np.shares_memory(samples.blocks[1], label)
    assert samples.columns.get_level_values(0).unique().tolist() == ["feature", "label"]
    every = np.arange(len(samples))
    alone = dataset.prepare("test", col_set="feature")
    out = np.zeros((len(samples), 20, 158), np.float32)
    assert alone.batch(every, out) is out
    np.testing.assert_array_equal(out, samples.batch(every)[..., :-1])
    np.testing.assert_array_equal(out, np.stack([alone[int(i)] for i in every]))
    frame, order = samples.own_days()
    pd.testing.assert_frame_equal(
        frame, dataset.handler.fetch(slice("2022-05-02", "2022-06-30"), col_set=["feature", "label"])
    )
    np.testing.assert_array_equal(frame.to_numpy(), samples.batch(order)[:, -1])
    assert np.shares_memory(frame["feature"].to_numpy(), feature)
    assert samples.part("feature").columns.equals(alone.columns)
    np.testing.assert_array_equal(samples.part("feature").batch(every), out)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(1, 5), st.sampled_from(["none", "ffill", "ffill+bfill"]), st.booleans())
def test_complete_samples_have_no_missing_value(seed: int, steps: int, fill: Any, grouped: bool) -> None:
    """No value is missing after missing steps are filled, for columns of one or of several groups."""
    frame = table(seed)
    frame.iloc[:: 7 + seed % 5, seed % 2] = [np.nan, np.inf][seed % 3 % 2]
    if grouped:
        frame = frame.set_axis(pd.MultiIndex.from_tuples([("feature", "x"), ("label", "y")]), axis=1)
    samples = TSDataSampler(frame, None, None, steps, fillna_type=fill)
    every = samples.batch(np.arange(len(samples)))
    np.testing.assert_array_equal(samples.complete(), np.isfinite(every).all(axis=(1, 2)))
    np.testing.assert_array_equal(samples.data_arr[:-1], frame.sort_index().to_numpy())
