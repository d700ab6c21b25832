"""Several horizons from one template: labels, purging, and the handlers whose label can be rewritten."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from rollforge.errors import ConfigError, SegmentError
from rollforge.generate import MultiHorizonGen, MultiHorizonGenBase, RollingGen, task_generator
from rollforge.generate.label import task_labels
from rollforge.generate.label_horizon import task_horizon

DAYS = pd.bdate_range("2023-01-02", periods=120)
SEGMENTS = {"train": (DAYS[0], DAYS[49]), "valid": (DAYS[50], DAYS[79]), "test": (DAYS[80], DAYS[99])}
ALPHA = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": {"instruments": "all"}}
LOADER = {
    "class": "QlibDataLoader",
    "kwargs": {"config": {"feature": [["$close"], ["C"]], "label": [["Ref($close, -2)/Ref($close, -1) - 1"], ["RET"]]}},
}


def template(handler: Any = ALPHA, **other: Any) -> dict[str, Any]:
    return {"dataset": {"kwargs": {"handler": handler, "segments": SEGMENTS}}, **other}


def with_loader(loader: Any) -> dict[str, Any]:
    return {"class": "DataHandlerLP", "module_path": "qlib.data.dataset.handler", "kwargs": {"data_loader": loader}}


def made(handler: Any = ALPHA, horizon: Any = (1, 5), label: Any = None, **other: Any) -> list[dict[str, Any]]:
    task = template(handler, **other)
    before = repr(task)
    generator = MultiHorizonGen(horizon, label, calendar=DAYS)
    tasks = generator.generate(task)
    assert repr(task) == before
    assert generator.count(task) == len(tasks)
    return tasks


def labels(tasks: list[dict[str, Any]]) -> list[list[str]]:
    return [[label.expression for label in task_labels(task)] for task in tasks]


def ends(task: dict[str, Any]) -> tuple[int, int]:
    """Return the positions of the last days of train and valid."""
    segments = task["dataset"]["kwargs"]["segments"]
    return DAYS.get_loc(segments["train"][1]), DAYS.get_loc(segments["valid"][1])


def test_the_standard_label_runs_as_many_days_as_the_horizon() -> None:
    """The label of a horizon is bought at the next day's close; horizon 1 is Qlib's label. The names say the
    horizon."""
    tasks = made(horizon=[1, 5, 20])
    assert labels(tasks) == [[f"Ref($close, -{h + 1})/Ref($close, -1) - 1"] for h in (1, 5, 20)]
    assert [task_labels(task)[0].days for task in tasks] == [1, 5, 20]
    assert [name for name, _ in MultiHorizonGen([1, 5], calendar=DAYS).named(template())] == ["horizon 1", "horizon 5"]
    assert [name for name, _ in MultiHorizonGen(5, calendar=DAYS).named(template())] == [""]


def test_segments_are_purged_by_each_horizon() -> None:
    """Train before valid and valid before test, by the days that the label looks ahead: horizon + 1."""
    assert [ends(task) for task in made(horizon=[1, 5, 20])] == [(49 - h - 1, 79 - h - 1) for h in (1, 5, 20)]
    kept = MultiHorizonGen([5], trunc_days=None, calendar=DAYS).generate(template())
    assert kept[0]["dataset"]["kwargs"]["segments"] == SEGMENTS
    with pytest.raises(SegmentError, match="horizon 30: nothing is left"):
        made(horizon=[30])


class ByHand(MultiHorizonGenBase):
    """Qlib's way, for the same label: known 2 days after the prediction for horizon 0, and a day later for each
    more."""

    def set_horizon(self, task: dict[str, Any], hr: int) -> None:
        task["dataset"]["kwargs"]["handler"]["kwargs"]["label"] = [f"Ref($close, -{hr + 1})/Ref($close, -1) - 1"]


def test_without_a_valid_segment_it_equals_a_subclass_of_the_base() -> None:
    """Tasks are the same; with a valid segment, the base truncates train at the test segment, as Qlib does."""
    task = template()
    task["dataset"]["kwargs"]["segments"] = {k: v for k, v in SEGMENTS.items() if k != "valid"}
    by_hand = ByHand([1, 5, 20], label_leak_n=2, calendar=DAYS).generate(task)
    assert MultiHorizonGen([1, 5, 20], calendar=DAYS).generate(task) == by_hand


def test_windows_are_purged_by_each_horizon() -> None:
    """Horizons before windows or after them: the same tasks, whose label never reaches into the next segment."""
    horizons = MultiHorizonGen([1, 5], calendar=DAYS)
    rolling = RollingGen(step=10, rtype="sliding", trunc_days="auto", calendar=DAYS)
    first = task_generator(template(), [horizons, rolling])
    second = task_generator(template(), [rolling, horizons])
    assert len(first) == 4
    key = repr
    assert sorted(first, key=key) == sorted(second, key=key)
    for task in first:
        segments = task["dataset"]["kwargs"]["segments"]
        ahead = task_horizon(task).days
        assert ahead is not None
        train, valid, test = (segments[name] for name in ("train", "valid", "test"))
        assert DAYS.get_loc(valid[0]) - DAYS.get_loc(train[1]) == ahead + 1
        assert DAYS.get_loc(test[0]) - DAYS.get_loc(valid[1]) == ahead + 1


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (ALPHA, "$close"),
        ({**ALPHA, "class": "Alpha360"}, "$close"),
        ({**ALPHA, "class": "Alpha158vwap"}, "$vwap"),
        ({"class": "Alpha158", "module_path": "qlib.contrib.data.handler"}, "$close"),
        ({**ALPHA, "kwargs": {"label": ["Ref($open, -2) / Ref($open, -1) - 1"]}}, "$open"),
        ({**ALPHA, "kwargs": {"label": [["Ref($open, -2)/Ref($open, -1) - 1"], ["L"]]}}, "$open"),
        (with_loader(LOADER), "$close"),
        (with_loader({"class": "NestedDataLoader", "kwargs": {"dataloader_l": [LOADER, LOADER]}}), "$close"),
        (
            with_loader(
                {
                    "class": "NestedDataLoader",
                    "kwargs": {
                        "dataloader_l": [
                            {"class": "Alpha158DL", "module_path": "qlib.contrib.data.loader"},
                            {
                                "class": "QlibDataLoader",
                                "kwargs": {"config": {"label": ["Ref($open,-2)/Ref($open,-1)-1"]}},
                            },
                        ]
                    },
                }
            ),
            "$open",
        ),
        (with_loader({"class": "DataLoaderDH", "kwargs": {"handler_config": ALPHA}}), "$close"),
        (
            with_loader(
                {
                    "class": "DataLoaderDH",
                    "kwargs": {"handler_config": {"feature": ALPHA, "label": ALPHA}, "is_group": True},
                }
            ),
            "$close",
        ),
    ],
)
def test_the_label_is_rewritten_wherever_it_is_described(handler: Any, expected: str) -> None:
    """In arguments of handlers and in expressions of loaders, of the price that the template's label has."""
    tasks = made(handler)
    assert {label for task in labels(tasks) for label in task} == {
        f"Ref({expected}, -{h + 1})/Ref({expected}, -1) - 1" for h in (1, 5)
    }
    assert [task_horizon(task).days for task in tasks] == [2, 6]


def test_names_of_columns_are_kept() -> None:
    """Names of columns are kept if there are as many as before."""
    config = made(with_loader(LOADER))[0]["dataset"]["kwargs"]["handler"]["kwargs"]["data_loader"]["kwargs"]["config"]
    assert config["label"][1] == ["RET"]
    two = made(with_loader(LOADER), label=["Ref($close, -{horizon})", "Ref($open, -{horizon+1})"])
    config = two[1]["dataset"]["kwargs"]["handler"]["kwargs"]["data_loader"]["kwargs"]["config"]
    assert config["label"] == [["Ref($close, -5)", "Ref($open, -6)"], ["LABEL0", "LABEL1"]]
    assert [task_horizon(task).days for task in two] == [2, 6], "the larger of the columns"


def test_two_expressions_without_names_are_not_an_expression_and_its_name() -> None:
    """The new labels have no names either."""
    plain = {"feature": [["$close"], ["C"]], "label": ["Ref($close, -2)/$close - 1", "Ref($open, -2)/$open - 1"]}
    loader = {"class": "QlibDataLoader", "kwargs": {"config": plain}}
    for label in (["Ref($close, -{horizon})"], ["Ref($close, -{horizon})", "Ref($open, -{horizon})"]):
        task = made(with_loader(loader), label=label)[1]
        config = task["dataset"]["kwargs"]["handler"]["kwargs"]["data_loader"]["kwargs"]["config"]
        assert config["label"] == [one.replace("{horizon}", "5") for one in label]


def test_a_label_of_the_users_own_has_the_horizon_where_it_says() -> None:
    """With numbers added or subtracted, in braces, also with spaces."""
    tasks = made(
        label="Mean($close, {horizon}) + Ref($close, -{ horizon + 10 }) + Ref($close, -{horizon-1})", horizon=[2, 3]
    )
    assert labels(tasks)[0] == ["Mean($close, 2) + Ref($close, -12) + Ref($close, -1)"]
    assert labels(tasks)[1] == ["Mean($close, 3) + Ref($close, -13) + Ref($close, -2)"]


def test_declared_numbers_of_the_old_label_are_removed() -> None:
    """Numbers that were declared for the old label would purge too much, or contradict the expression."""
    handler = {**ALPHA, "kwargs": {"label_days": 1, "label_horizon": 40}}
    (task,) = made(handler, 5, label_horizon=45)
    assert "label_horizon" not in task
    assert set(task["dataset"]["kwargs"]["handler"]["kwargs"]) == {"label"}
    assert task_horizon(task).days == 6


def test_a_label_that_cannot_be_rewritten_is_an_error() -> None:
    """A model is never trained with the old label under the name of a new horizon."""
    static = {"class": "StaticDataLoader", "kwargs": {"config": "data.pkl"}}
    with pytest.raises(
        ConfigError, match=r"handler: the label cannot be rewritten, because the handler is not described"
    ):
        made("file://handler.pkl", label="Ref($close, -{horizon})")
    with pytest.raises(ConfigError, match=r"handler: the label of DataHandlerLP cannot be rewritten"):
        made(with_loader(static), label="Ref($close, -{horizon})")
    with pytest.raises(ConfigError, match=r"^label: is needed, because the label of the template is unknown"):
        made(with_loader(static))
    odd = {**ALPHA, "kwargs": {"label": ["Mean(Ref($close, -5), 5)/$close"]}}
    with pytest.raises(ConfigError, match=r"^label: is needed, because the label of the template is Mean"):
        made(odd)


def test_a_handler_that_ignores_its_label_is_an_error(tmp_path: Any) -> None:
    """A handler that sets its label in its constructor is an example."""
    (tmp_path / "mine.py").write_text(
        "from rollforge.features import Alpha158\n\n\n"
        "class Fixed(Alpha158):\n"
        "    def __init__(self, label=None, **kwargs):\n"
        '        super().__init__(label=["Ref($close, -2)/Ref($close, -1) - 1"], **kwargs)\n'
    )
    handler = {"class": "Fixed", "module_path": str(tmp_path / "mine.py"), "kwargs": {"instruments": "all"}}
    with pytest.raises(ConfigError, match="of Fixed does not depend on its argument label"):
        made(handler)


def test_split_segments_are_refused() -> None:
    task = template()
    task["dataset"]["kwargs"]["segments"] = {**SEGMENTS, "train": [(DAYS[0], DAYS[9]), (DAYS[20], DAYS[29])]}
    with pytest.raises(SegmentError, match=r"segments\.train: has several intervals\. Put MultiHorizonGen before"):
        MultiHorizonGen([1], calendar=DAYS).generate(task)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"horizon": []}, "horizon: the list of horizons is empty"),
        ({"horizon": [0]}, "horizon.0: must be a whole number of trading days, at least 1; found 0"),
        ({"horizon": [1, True]}, "horizon.1: must be a whole number of trading days"),
        ({"horizon": "5"}, "horizon: must be a list of numbers of trading days, found '5'"),
        ({"horizon": [5, 1, 5]}, "horizon: has 5 twice"),
        ({"horizon": 1, "trunc_days": 5}, "trunc_days: must be 'auto' or null, found 5"),
        ({"horizon": 1, "label": []}, "label: must be an expression or a list of expressions"),
        ({"horizon": 1, "label": "$close"}, "label: '$close' does not depend on the horizon"),
        ({"horizon": 1, "label": "Ref($close, -{h})"}, "label: {h} is unknown. Write {horizon}"),
        ({"horizon": 1, "label": "Ref($close, -{horizon*2})"}, "label: {horizon*2} is unknown"),
        ({"horizon": 1, "label": "Reff($close, -{horizon})"}, "label: 'Reff($close, -{horizon})': "),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MultiHorizonGen(**arguments, calendar=DAYS)
    assert str(caught.value).startswith(said)
