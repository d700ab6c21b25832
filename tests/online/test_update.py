"""Updated predictions equal those of a handler over all days."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rollforge
from growing import DAYS, Market, days_of, template as template_of_market
from rollforge.build import init_instance_by_config
from rollforge.errors import ConfigError
from rollforge.online.update import LabelUpdater, PredUpdater, RMDLoader
from rollforge.run.execute import task_train
from rollforge.track.base import Recorder

NORM = [{"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature"}}, {"class": "Fillna"}]
UNTIL = "2023-06-30"


def template(end: str) -> dict[str, Any]:
    """Return a task whose features are normalised by the train segment."""
    handler = {
        "start_time": "2022-01-03", "end_time": end, "fit_start_time": "2022-01-03", "fit_end_time": "2022-10-31",
        "instruments": "all", "infer_processors": NORM,
    }  # fmt: skip
    segments = {
        "train": ("2022-01-03", "2022-10-31"), "valid": ("2022-11-01", "2022-12-30"), "test": ("2023-01-02", end),
    }  # fmt: skip
    return {
        "model": {
            "class": "LinearModel",
            "module_path": "rollforge.models.linear",
            "kwargs": {"estimator": "ridge", "alpha": 0.1},
        },
        "dataset": {
            "class": "DatasetH",
            "module_path": "rollforge.features.dataset",
            "kwargs": {
                "handler": {"class": "Alpha158", "module_path": "rollforge.features.alpha", "kwargs": handler},
                "segments": segments,
            },
        },
        "record": [{"class": "SignalRecord", "module_path": "rollforge.record"}],
    }


def test_new_days_are_normalised_by_the_old_fit_window(small_market: Path, tmp_path: Path) -> None:
    """The new days are after the fit window; the update equals a prediction over all days."""
    rollforge.init(small_market, tracking_uri=f"folder:{tmp_path / 'runs'}")
    recorder = task_train(template("2023-03-31"), experiment_name="served")
    before = recorder.load_object("pred.pkl")
    PredUpdater(recorder, to_date=UNTIL).update()
    LabelUpdater(recorder, to_date=UNTIL).update()
    after = recorder.load_object("pred.pkl")
    whole = recorder.load_object("params.pkl").predict(init_instance_by_config(template(UNTIL)["dataset"]))
    assert len(after) > len(before)
    assert after.index.equals(whole.index)
    np.testing.assert_allclose(after["score"], whole, rtol=0, atol=1e-6)
    assert after["score"].std() > 0
    assert recorder.load_object("label.pkl").index.get_level_values("datetime").max() == after.index[-1][0]


@pytest.mark.parametrize("absent", [False, True], ids=["NaN", "no row"])
def test_prices_that_arrive_late_are_predicted(market: Market, absent: bool) -> None:
    """The day of such a price and all later ones are computed again, once; a suspended instrument causes no computation."""
    run, late = DAYS[60:66], DAYS[62]
    processors = [{"class": "DropnaProcessor", "kwargs": {"fields_group": "feature"}}] if absent else []
    whole = market.close.copy()
    market.close.loc[late, "B"] = market.close.loc[DAYS[55] :, "D"] = np.nan
    market.show(run[3])
    task = template_of_market(processors)
    task["dataset"]["kwargs"]["segments"]["test"] = (run[0], run[3])
    recorder = task_train(task, experiment_name="served")
    before = recorder.load_object("pred.pkl")
    assert ((pd.Timestamp(late), "B") in before.dropna().index, (pd.Timestamp(late), "B") in before.index) == (
        False,
        not absent,
    )
    PredUpdater(recorder).update()  # B has a price on the next day, but no change
    assert PredUpdater(recorder).update(ret_new=True) is None
    assert recorder.load_object("pred.pkl").equals(before)
    market.close["B"] = whole["B"]
    market.show(run[5])
    assert PredUpdater(recorder, late=False).last_end == pd.Timestamp(run[3])
    PredUpdater(recorder, to_date=run[1]).update()  # the day is after it
    assert recorder.load_object("pred.pkl").equals(before)
    PredUpdater(recorder).update()
    after = recorder.load_object("pred.pkl").score
    task["dataset"]["kwargs"]["segments"]["test"] = (run[0], run[5])
    dataset = init_instance_by_config(task["dataset"])
    expected = recorder.load_object("params.pkl").predict(dataset)
    np.testing.assert_allclose(after.unstack(), expected.unstack(), rtol=0, atol=1e-6)
    assert np.isfinite(after.unstack()["B"]).all()
    assert PredUpdater(recorder).update(ret_new=True) is None


def test_instruments_that_cannot_be_predicted_are_computed_once(market: Market) -> None:
    """An instrument with a price but no earlier one has no feature: this is recorded, until another one is missing too."""
    market.begins["B"] = DAYS[62]
    market.show(DAYS[63])
    task = template_of_market([{"class": "DropnaProcessor", "kwargs": {"fields_group": "feature"}}])
    task["dataset"]["kwargs"]["segments"]["test"] = (DAYS[60], DAYS[63])
    recorder = task_train(task, experiment_name="served")
    assert (pd.Timestamp(DAYS[62]), "B") not in recorder.load_object("pred.pkl").index
    assert PredUpdater(recorder).update(ret_new=True) is not None
    assert PredUpdater(recorder).update(ret_new=True) is None
    market.show(DAYS[64])
    assert PredUpdater(recorder).last_end == pd.Timestamp(DAYS[63])
    PredUpdater(recorder).update()
    assert PredUpdater(recorder).update(ret_new=True) is None
    predicted = recorder.load_object("pred.pkl")
    recorder.save_objects(**{"pred.pkl": predicted.drop(index=(pd.Timestamp(DAYS[61]), "A"))})
    assert PredUpdater(recorder).last_end == pd.Timestamp(DAYS[60])


@pytest.mark.parametrize("wrong", [-1, 1.5, "3", True])
def test_the_days_of_history_are_a_number(market: Market, wrong: Any) -> None:
    """Anything else is refused before anything is computed."""
    market.show(DAYS[61])
    task = template_of_market()
    task["dataset"]["kwargs"]["segments"]["test"] = (DAYS[60], DAYS[61])
    recorder = task_train(task, experiment_name="served")
    with pytest.raises(ConfigError, match="hist_ref: must be a number of trading days, at least 0; found"):
        PredUpdater(recorder, hist_ref=wrong)


def trained(market: Market, until: str) -> Recorder:
    """Return the recorder of a model that has predicted the days from `DAYS[60]` on."""
    market.show(until)
    task = template_of_market()
    task["dataset"]["kwargs"]["segments"]["test"] = (DAYS[60], until)
    return task_train(task, experiment_name="served")


def days(recorder: Recorder, name: str = "pred.pkl") -> list[str]:
    return days_of(recorder.load_object(name))


def test_an_update_is_written_or_returned(market: Market) -> None:
    """By default it is written and not returned; without new days, neither."""
    recorder = trained(market, DAYS[61])
    before = recorder.load_object("pred.pkl")
    market.show(DAYS[64])
    assert PredUpdater(recorder).update(write=False) is None
    new = PredUpdater(recorder).update(write=False, ret_new=True)
    assert (days_of(new), days(recorder)) == (DAYS[60:65], DAYS[60:62])
    assert new.loc[: DAYS[61]].equals(before)
    updater = PredUpdater(recorder, to_date=DAYS[63])
    assert updater.update(updater.prepare_data()) is None
    assert days(recorder) == DAYS[60:64]
    assert PredUpdater(recorder, to_date=DAYS[63]).update(ret_new=True) is None
    assert PredUpdater(recorder).update() is None
    assert recorder.load_object("pred.pkl").equals(new)
    last = pd.Timestamp(DAYS[64])
    assert PredUpdater(recorder).prepare_data().segments == {"test": (last, last)}  # also if there is no new day


def test_the_last_day_that_is_kept(market: Market) -> None:
    """The day before the first one to compute is kept, which can be the first of the calendar."""
    recorder = trained(market, DAYS[61])
    for first, last in (
        (None, DAYS[61]), (DAYS[61], DAYS[60]), (DAYS[70], DAYS[61]), (DAYS[1], DAYS[0]), (DAYS[0], "2023-12-31"),
        ("2023-06-01", "2023-12-31"),
    ):  # fmt: skip
        assert PredUpdater(recorder, from_date=first).last_end == pd.Timestamp(last)


def test_days_that_are_no_longer_in_the_calendar_are_removed(market: Market) -> None:
    """Those before its first day and after its last one stay, and so do the days that are not computed again."""
    recorder = trained(market, DAYS[65])
    whole = recorder.load_object("pred.pkl")
    others = pd.concat({pd.Timestamp(day): whole.loc[DAYS[60]] for day in ("2023-12-29", "2024-03-30", "2030-01-02")})
    recorder.save_objects(**{"pred.pkl": pd.concat([whole + 1.0, others.rename_axis(whole.index.names)]).sort_index()})
    PredUpdater(recorder, from_date=DAYS[62], to_date=DAYS[63], late=False).update()
    after = recorder.load_object("pred.pkl")
    assert days_of(after) == ["2023-12-29", *DAYS[60:66], "2030-01-02"]
    assert after.index.is_monotonic_increasing
    moved = (after - whole).dropna().groupby("datetime")["score"].mean().round(9)
    assert moved.tolist() == [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]


def test_the_history_is_within_the_calendar(market: Market) -> None:
    """A dataset without history begins on the first day to compute, and one with more than there is on the first day."""
    recorder = trained(market, DAYS[61])
    for history, first in ((None, 60), (0, 60), (np.int64(2), 58), (60, 0), (1000, 0)):
        dataset = PredUpdater(recorder, from_date=DAYS[60], hist_ref=history).prepare_data(limited(recorder))
        assert str(dataset.handler.days()[0].date()) == DAYS[first]
        assert dataset.segments == {"test": (pd.Timestamp(DAYS[60]), pd.Timestamp(DAYS[61]))}
    assert RMDLoader(recorder).get_dataset(DAYS[58], DAYS[60]).segments == {"test": (DAYS[58], DAYS[60])}


def limited(recorder: Recorder) -> Any:
    """Return the recorder's dataset with a handler that begins on the first day to compute."""
    dataset = recorder.load_object("dataset")
    dataset.handler.start_time = pd.Timestamp(DAYS[60])
    return dataset


def test_labels_are_computed_again_from_the_first_missing_one(market: Market) -> None:
    """A label looks two days ahead. That of a single instrument may be missing longer; complete labels are continued."""
    recorder = trained(market, DAYS[63])
    labels = recorder.load_object("label.pkl")
    assert labels.isna().groupby("datetime")["LABEL0"].sum().tolist() == [0, 0, 4, 4]
    assert LabelUpdater(recorder).last_end == pd.Timestamp(DAYS[61])
    market.show(DAYS[65])
    LabelUpdater(recorder).update()
    found = recorder.load_object("label.pkl")["LABEL0"].unstack()
    expected = market.close.shift(-2) / market.close.shift(-1) - 1
    np.testing.assert_allclose(found.loc[: DAYS[63]], expected.loc[DAYS[60] : DAYS[63]], rtol=0, atol=1e-6)
    assert found.loc[DAYS[64] :].isna().all(axis=None)
    assert [str(day.date()) for day in found.index] == DAYS[60:66]
    recorder.save_objects(**{"label.pkl": labels.loc[: DAYS[61]]})
    assert LabelUpdater(recorder).last_end == pd.Timestamp(DAYS[61])
    labels.loc[(DAYS[60], "B"), "LABEL0"] = np.nan
    recorder.save_objects(**{"label.pkl": labels})
    assert LabelUpdater(recorder).last_end == pd.Timestamp(DAYS[59])


def missing(recorder: Recorder, *rows: tuple[int, str], first: int = 60, last: int = 63) -> list[str]:
    """Return the days that are recorded as not predictable after an update of a prediction without some rows."""
    index = pd.MultiIndex.from_product(
        [pd.DatetimeIndex(DAYS[first : last + 1]), list("ABCD")], names=["datetime", "instrument"]
    )
    prediction = pd.DataFrame({"score": 0.5, "size": 1.0}, index).drop(
        index=[(pd.Timestamp(DAYS[n]), code) for n, code in rows]
    )
    recorder.save_objects(**{"pred.pkl": prediction})
    updater = PredUpdater(recorder)
    return [day[:10] for day in updater.saved_with(prediction).get("pred_unpredicted.pkl", {})]


def test_days_with_an_instrument_that_was_not_predicted(market: Market) -> None:
    """An instrument counts if it is a member of the universe that day and has a price; the first and the last day count too."""
    recorder = trained(market, DAYS[63])
    assert missing(recorder) == []
    assert missing(recorder, (60, "A"), (62, "B"), (63, "D"), (63, "A")) == [DAYS[60], DAYS[62], DAYS[63]]
    assert missing(recorder, (0, "C"), (1, "C"), first=0, last=2) == DAYS[:2]
    assert missing(recorder, (61, "B"), last=62) == [DAYS[61]]
    market.close.loc[DAYS[62], "B"] = np.nan
    market.show(DAYS[63])
    assert missing(recorder, (61, "B"), (62, "B")) == [DAYS[61]]
    members = market.folder / "instruments" / "all.txt"
    members.write_text(
        f"A\t{DAYS[0]}\t{DAYS[63]}\nB\t{DAYS[0]}\t{DAYS[60]}\nC\t{DAYS[61]}\t{DAYS[62]}\nD\t{DAYS[63]}\t{DAYS[63]}\n"
    )
    every = [(n, code) for n in (60, 61, 62, 63) for code in "BCD"]
    assert missing(recorder, *every) == DAYS[60:64]
    assert missing(recorder, *(row for row in every if row not in ((60, "B"), (61, "C"), (63, "D")))) == [DAYS[62]]


def test_the_instruments_of_a_list_are_members_on_all_days(market: Market) -> None:
    """Others that have a price are not expected to be predicted."""
    market.show(DAYS[63])
    task = template_of_market()
    task["dataset"]["kwargs"]["segments"]["test"] = (DAYS[60], DAYS[63])
    task["dataset"]["kwargs"]["handler"]["kwargs"]["instruments"] = ["A", "B"]
    recorder = task_train(task, experiment_name="served")
    assert missing(recorder, (60, "A"), (61, "C"), (63, "B")) == [DAYS[60], DAYS[63]]
    assert PredUpdater(recorder, to_date=DAYS[59]).update(ret_new=True) is None  # the day before the first prediction


def test_a_column_that_is_missing_is_a_missing_prediction(market: Market) -> None:
    """A row counts as predicted if all of its columns have a value. What is known of later days is kept."""
    recorder = trained(market, DAYS[63])
    assert missing(recorder) == []
    prediction = recorder.load_object("pred.pkl")
    prediction.loc[(DAYS[61], "C"), "size"] = np.nan
    recorder.save_objects(**{"pred.pkl": prediction})
    noted = PredUpdater(recorder).saved_with(prediction)["pred_unpredicted.pkl"]
    (day,) = noted
    assert pd.Timestamp(day) == pd.Timestamp(DAYS[61])
    recorder.save_objects(**{"pred_unpredicted.pkl": {DAYS[60]: "0" * 16, DAYS[61]: "1" * 16, DAYS[62]: "2" * 16}})
    assert PredUpdater(recorder, to_date=DAYS[61]).saved_with(prediction) == {
        "pred_unpredicted.pkl": {**noted, DAYS[62]: "2" * 16}
    }
    assert PredUpdater(recorder, to_date=DAYS[62], late=False).saved_with(prediction) == {}
    assert PredUpdater(recorder).last_end == pd.Timestamp(DAYS[60])
    recorder.save_objects(**{"pred_unpredicted.pkl": noted})
    assert PredUpdater(recorder).last_end == pd.Timestamp(DAYS[63])
