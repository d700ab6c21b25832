"""The number of days that a label spans, and the warnings about tasks before they are trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError
from rollforge.features.alpha import Alpha158
from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import DataLoaderDH, NestedDataLoader, QlibDataLoader
from rollforge.generate.label import Label, declared_days, handler_labels, labels_from_text, labels_to_text, task_labels
from rollforge.generate.leakage import label_lookahead, task_warnings

CALENDAR = pd.bdate_range("2020-01-01", "2021-12-31").to_numpy().astype("datetime64[D]")
ONE, FIVE = "Ref($close, -2)/Ref($close, -1) - 1", "Ref($close, -6)/Ref($close, -1) - 1"


class Declared(Alpha158):
    """A handler whose class declares the label days that its expression does not determine."""

    label_days = 7

    def get_label_config(self) -> Any:
        """Return a label over a window."""
        return ["Mean(Ref($close, -7), 7)/$close - 1"], ["LABEL0"]


@pytest.mark.parametrize(("given", "days"), [(1, 1), (20, 20), (0, None), (-1, None), ("5", None), (None, None)])
def test_declared_label_days_are_at_least_one(given: Any, days: int | None) -> None:
    """Other values are errors when the handler is built."""
    assert declared_days({"class": "Alpha158", "kwargs": {"label_days": given}}) == days


class Own(Alpha158):
    """A handler whose label depends on its own attributes."""

    ahead = 5

    def get_label_config(self) -> Any:
        """Return a label over `ahead` days."""
        return [f"Ref($close, -{self.ahead + 1})/Ref($close, -1) - 1"], ["LABEL0"]


class Made(Alpha158):
    """A handler whose label is determined by its constructor."""

    def __init__(self, ahead: int = 1, **kwargs: Any) -> None:
        self.days = ahead + 1
        super().__init__(label=([f"Ref($close, -{self.days})/Ref($close, -1) - 1"], ["LABEL0"]), **kwargs)

    def get_label_config(self) -> Any:
        """Return the label."""
        raise AssertionError(f"asked of an instance with {self.days} days")


def task(handler: Any, **segments: Any) -> dict[str, Any]:
    return {"dataset": {"class": "DatasetH", "kwargs": {"handler": handler, "segments": segments}}}


def alpha(name: str = "Alpha158", **kwargs: Any) -> dict[str, Any]:
    module = __name__ if name in ("Declared", "Own", "Made") else "qlib.contrib.data.handler"
    return {"class": name, "module_path": module, "kwargs": kwargs}


LOADER = {
    "class": "QlibDataLoader",
    "kwargs": {"config": {"feature": ["$open"], "label": [[FIVE, "$close"], ["A", "B"]]}},
}

FEATURES = {"class": "QlibDataLoader", "kwargs": {"config": {"feature": ["$open"]}}}
GROUPS = {"is_group": True, "handler_config": {"feature": alpha(), "label": alpha(label=[FIVE])}}


@pytest.mark.parametrize(
    ("handler", "days"),
    [
        (alpha(), [1]),
        (alpha("Alpha360vwap"), [1]),
        (alpha(label=[FIVE]), [5]),
        (alpha(label=[[FIVE, ONE], ["L5", "L1"]]), [5, 1]),
        (alpha("DataHandlerLP", data_loader=LOADER), [5, None]),
        (alpha("DataHandlerLP", data_loader=LOADER, label_days=3), [5, 3]),
        (
            alpha(
                "DataHandlerLP",
                data_loader={"class": "NestedDataLoader", "kwargs": {"dataloader_l": [FEATURES, LOADER]}},
            ),
            [5, None],
        ),
        (alpha("DataHandlerLP", data_loader={"class": "DataLoaderDH", "kwargs": {"handler_config": alpha()}}), [1]),
        (alpha("DataHandlerLP", data_loader={"class": "DataLoaderDH", "kwargs": GROUPS}), [5]),
        (alpha("DataHandlerLP", data_loader=FEATURES), []),
        (alpha("Own"), [5]),
        (alpha("Made"), [1]),
        (alpha("Made", ahead=20, fit_end_time="<dataset.kwargs.segments.train.1>"), [20]),
        (alpha("Made", ahead=20, start_time="<dataset.kwargs.segments.nothing>"), []),
        (alpha("Made", ahead="x"), []),
        (alpha("Declared"), [7]),
        ("file://handler.pkl", []),
        (None, []),
    ],
)
def test_labels_are_read_from_the_description_of_a_task(handler: Any, days: list[int | None]) -> None:
    """From the class, its arguments, or its loader; declared days apply if it cannot be determined."""
    described = task(handler, train=("2020-01-01", "2020-06-30"), test=("2021-01-01", None))
    assert [label.days for label in task_labels(described)] == days
    if days and None not in days and days != [7]:
        assert label_lookahead(described) == max(d for d in days if d) + 1


def test_labels_are_read_from_an_existing_handler() -> None:
    """One that creates its label itself, and one that takes it from another handler."""
    assert handler_labels(Own("all")) == (Label(FIVE, 5),)
    assert handler_labels(Declared("all")) == (Label("Mean(Ref($close, -7), 7)/$close - 1", 7),)
    inner = DataHandlerLP("all", data_loader=QlibDataLoader({"feature": ["$open"], "label": ([FIVE], ["L"])}))
    assert handler_labels(DataHandlerLP(data_loader=DataLoaderDH(inner))) == (Label(FIVE, 5),)
    nested = NestedDataLoader([QlibDataLoader({"feature": ["$open"]}), inner.data_loader])
    assert handler_labels(DataHandlerLP("all", data_loader=nested)) == (Label(FIVE, 5),)
    groups = DataLoaderDH({"feature": inner, "label": inner}, is_group=True)
    assert handler_labels(DataHandlerLP(data_loader=groups)) == (Label(FIVE, 5),)
    assert handler_labels(DataHandlerLP(data_loader=QlibDataLoader({"feature": ["$open"]}))) == ()
    assert handler_labels(object()) == ()
    with pytest.raises(ConfigError, match="label_days: must be a whole number of trading days"):
        Alpha158("all", label_days=0)


def test_labels_fit_into_a_tag() -> None:
    """In a few hundred characters, however long their expressions are."""
    labels = (Label(ONE, 1), Label("", None))
    assert labels_from_text(labels_to_text(labels)) == labels
    assert len(labels_to_text([Label("$close+" * 900, 2)] * 20)) < 5000


PURGE = "Use trunc_days: auto, or end it earlier."
FITTED = ": the model is tested on days to which it was fitted. Let 'test' begin after 'train' ends."

# -- what is said of tasks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        (
            {"train": ("2020-01-01", "2020-12-31"), "test": ("2020-07-01", "2020-08-31")},
            ["From 2020-07-01 to 2020-08-31, 44 of 44 days of 'test' are in 'train' too" + FITTED],
        ),
        (
            {"train": ("2020-07-01", "2020-08-31"), "test": ("2020-01-01", "2020-12-31")},
            ["From 2020-07-01 to 2020-08-31, 44 of 262 days of 'test' are in 'train' too" + FITTED],
        ),
        (
            {
                "train": ("2020-01-01", "2020-06-30"),
                "valid": ("2020-06-30", "2020-09-30"),
                "test": ("2020-10-05", None),
            },
            [
                "On 2020-06-30, 1 of 67 days of 'valid' is in 'train' too: the days that stop the fitting are days to which the "
                "model is fitted. Let 'valid' begin after 'train' ends."
            ],
        ),
        (
            {"train": ("2020-01-01", None), "test": ("2021-12-30", None)},
            ["From 2021-12-30 to 2021-12-31, 2 of 2 days of 'test' are in 'train' too" + FITTED],
        ),
        (
            {"train": ("2020-01-01", "2020-06-30"), "test": ("2020-07-01", "2020-12-31")},
            ["From 2020-06-29 to 2020-06-30, the labels of the last 2 days of 'train' reach into 'test'. " + PURGE],
        ),
        (
            {"train": ("2020-06-30", "2020-06-30"), "test": ("2020-07-01", "2020-12-31")},
            ["On 2020-06-30, the labels of the last day of 'train' reach into 'test'. " + PURGE],
        ),
        (
            {
                "pretrain": ("2020-01-01", "2020-06-29"),
                "train": ("2020-01-01", "2020-06-26"),
                "test": ("2020-07-01", None),
            },
            ["On 2020-06-29, the labels of the last day of 'pretrain' reach into 'test'. " + PURGE],
        ),
        ({"train": ("2020-01-01", "2020-06-26"), "test": ("2020-07-01", "2020-12-31")}, []),
    ],
    ids=["test in train", "train in test", "valid", "open", "leak", "leak of a day", "extra segment", "clean"],
)
def test_leaking_segments_give_warnings(segments: dict[str, Any], words: list[str]) -> None:
    """With the days, the number of shared days or how far a label reaches, and what to do."""
    assert task_warnings([task(alpha(), **segments)], CALENDAR) == words


CLEAN = {"train": ("2020-01-01", "2020-06-19"), "test": ("2020-07-01", "2020-12-31")}


def test_processors_fitted_on_test_days_give_a_warning() -> None:
    """The warning is given if the fit window reaches into the test segment, and not if it ends before."""
    (text,) = task_warnings([task(alpha(fit_start_time="2020-01-01", fit_end_time="2020-07-01"), **CLEAN)], CALENDAR)
    assert text.startswith(
        "On 2020-07-01, processors learn until 2020-07-01, but the test segment starts on 2020-07-01. Set fit_end_time"
    )
    assert task_warnings([task(alpha(fit_start_time="2020-01-01", fit_end_time="2020-06-30"), **CLEAN)], CALENDAR) == []


def test_references_in_fit_windows_are_resolved() -> None:
    """A reference to the train segment moves with it; one to the test segment gives a warning."""
    for segment, words in (("train", 0), ("test", 1)):
        reference = f"<dataset.kwargs.segments.{segment}.1>"
        made = task(alpha(fit_start_time="2020-01-01", fit_end_time=reference), **CLEAN)
        assert len(task_warnings([made], CALENDAR)) == words


def test_unknown_or_contradictory_label_days_give_a_warning() -> None:
    """The warning has the label; there is none for declared days that agree, or that are the only information."""
    unknown = "Mean(Ref($close, -5), 5)/$close - 1"
    (text,) = task_warnings([task(alpha(label=[unknown]), **CLEAN)], CALENDAR)
    assert text.startswith(f"The number of days that the label {unknown} spans cannot be determined")
    (text,) = task_warnings([task(alpha(label=[FIVE], label_days=6), **CLEAN)], CALENDAR)
    assert text == f"The label {FIVE} spans 5 days, so 5 is used instead of the declared label_days: 6."
    for fine in (alpha(label=[unknown], label_days=5), alpha(label=[FIVE], label_days=5)):
        assert task_warnings([task(fine, **CLEAN)], CALENDAR) == []


def test_warnings_shared_by_many_tasks_are_given_once() -> None:
    """The warning has the number of tasks; tasks that cannot be read fail when they are built."""
    leaking = task(alpha(), train=("2020-01-01", "2020-06-30"), test=("2020-07-01", "2020-12-31"))
    found = task_warnings([leaking, task(alpha(), **CLEAN), leaking, {"x": 1}], CALENDAR)
    assert found == [
        "In 2 of 4 tasks (task 1, 2020-06-29 to 2020-06-30; task 3, 2020-06-29 to 2020-06-30) the labels of the last 2 days of "
        "'train' reach into 'test'. Use trunc_days: auto, or end it earlier."
    ]
    assert task_warnings([], CALENDAR) == []
    assert task_warnings([leaking], np.empty(0, "datetime64[D]")) == []
