"""The label horizon: read from expressions, declared, or unknown, but never 0 just because it is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rollforge.errors import ConfigError, SegmentError
from rollforge.features.alpha import Alpha158
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandler, DataHandlerLP
from rollforge.features.inst_processor import InstProcessor
from rollforge.features.label_source import overridden
from rollforge.features.loader import DataLoader, QlibDataLoader, StaticDataLoader
from rollforge.features.processor import CSRankNorm, Processor
from rollforge.generate import RollingGen
from rollforge.generate.label_horizon import HorizonSource, known_horizon, task_horizon

DAYS = pd.bdate_range("2020-01-01", periods=60)
FIFTEEN = "Ref($close, -16)/Ref($close, -1) - 1"
TWO = "Ref($close, -2)/Ref($close, -1) - 1"


class OwnLoader(DataLoader):
    """A loader whose look-ahead cannot be read."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    def load(self, instruments: Any, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
        """Return nothing."""
        raise AssertionError("loaded")


class RenamedLoader(QlibDataLoader):
    """A loader of the user's own that computes the expressions given by its constructor."""

    def __init__(self, days: int) -> None:
        super().__init__({"feature": ["$close"], "label": [[f"Ref($close, -{days})/$close - 1"], ["LABEL0"]]})


class PatchingLoader(QlibDataLoader):
    """A loader that computes other columns than its expressions."""

    def load_group_df(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Return other columns."""
        return super().load_group_df(*args, **kwargs)


class LabelInInit(Alpha158):
    """Sets its label in its constructor."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(label=[[FIFTEEN], ["LABEL0"]], **kwargs)


class WithoutLoader(DataHandler):
    """Loads its data by itself."""

    def __init__(self) -> None:
        pass


class LoaderInInit(Alpha158):
    """Replaces the loader after its base class has made one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_loader = OwnLoader()


class PatchedInInit(Alpha158):
    """Replaces a method of its loader."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_loader.load = lambda *args, **kwargs: None  # type: ignore[method-assign]


class ProcessorInInit(Alpha158):
    """Adds a processor that makes the label."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.learn_processors.append(MakesLabel())


class NotBuildable(Alpha158):
    """Cannot be built from its description."""

    def __init__(self, needed: int, **kwargs: Any) -> None:
        super().__init__(label=[[f"Ref($close, -{needed})/$close"], ["LABEL0"]], **kwargs)


class LabelConfig(Alpha158):
    """Overrides a method that is intended to be overridden."""

    def get_label_config(self) -> Any:
        """Return the label."""
        return [FIFTEEN], ["LABEL0"]


class Fetching(Alpha158):
    """Changes what is fetched."""

    def fetch(self, *args: Any, **kwargs: Any) -> Any:
        """Return other data."""
        return super().fetch(*args, **kwargs)


class DeclaresFifteen(LoaderInInit):
    """Declares its horizon."""

    label_horizon = 15


class Bare:
    """A processor without a base class."""

    def fit(self, df: pd.DataFrame) -> None:
        """Learn nothing."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return the frame."""
        return df

    def is_for_infer(self) -> bool:
        """Return True."""
        return True


class MakesLabel(Processor):
    """Could make the label."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return the frame."""
        return df


class OwnRank(CSRankNorm):
    """A subclass of a processor of this package."""

    def compare(self, x: pd.DataFrame) -> pd.DataFrame:
        """Return other values."""
        return x


class OwnInstProcessor(InstProcessor):
    """Could change the label of an instrument."""

    def __call__(self, df: pd.DataFrame, instrument: str, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Return the frame."""
        return df


class OwnDataset(DatasetH):
    """Could change the label."""

    def prepare(self, *args: Any, **kwargs: Any) -> Any:
        """Return other data."""
        return super().prepare(*args, **kwargs)


class QuietDataset(DatasetH):
    """Changes nothing about the data."""

    def __init__(self, *args: Any, extra: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


SEGMENTS = {"train": ("2020-01-01", "2020-02-07"), "test": ("2020-02-10", "2020-03-20")}


def own(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"class": name, "module_path": __name__, "kwargs": kwargs}


def alpha(**kwargs: Any) -> dict[str, Any]:
    return {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": kwargs}


def plain(loader: Any, **kwargs: Any) -> dict[str, Any]:
    return {
        "class": "DataHandlerLP",
        "module_path": "qlib.data.dataset.handler",
        "kwargs": {"data_loader": loader, **kwargs},
    }


def qlib_loader(**config: Any) -> dict[str, Any]:
    return {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": config}}


def static(config: Any) -> dict[str, Any]:
    return {"class": "StaticDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": config}}


def nested(*loaders: Any) -> dict[str, Any]:
    return {"class": "NestedDataLoader", "kwargs": {"dataloader_l": list(loaders)}}


def task(handler: Any, dataset: str = "", **more: Any) -> dict[str, Any]:
    named = own(dataset) if dataset else {"class": "DatasetH", "module_path": "qlib.data.dataset"}
    return {"model": {}, "dataset": {**named, "kwargs": {"handler": handler, "segments": dict(SEGMENTS)}}, **more}


LABEL = {"label": [[TWO], ["LABEL0"]]}
FEATURE = {"feature": [["$close"], ["CLOSE"]]}

READ = {
    "Alpha158": (alpha(), 2),
    "without a module": ({"class": "Alpha360"}, 2),
    "an empty label is the default": (alpha(label=[]), 2),
    "a label among the arguments": (alpha(label=[[FIFTEEN], ["L"]]), 16),
    "the largest of several": (alpha(label=[[TWO, FIFTEEN], ["A", "B"]]), 16),
    "a label in the constructor": (own("LabelInInit"), 16),
    "a label of the class": (own("LabelConfig"), 16),
    "a loader": (plain(qlib_loader(**FEATURE, **LABEL)), 2),
    "a loader without a label": (plain(qlib_loader(**FEATURE)), 0),
    "a loader's constructor": (plain(own("RenamedLoader", days=7)), 7),
    "nested loaders": (plain(nested(qlib_loader(**FEATURE), qlib_loader(label=[[FIFTEEN], ["L"]]))), 16),
    "of two with the same column the last": (
        plain(nested(qlib_loader(label=[[FIFTEEN], ["LABEL0"]]), qlib_loader(**LABEL))), 2
    ),
    "of two with different columns both": (
        plain(nested(qlib_loader(label=[[FIFTEEN], ["OTHER"]]), qlib_loader(**LABEL))), 16
    ),
    "features from a file": (plain(nested(qlib_loader(**LABEL), static({"feature": "f.parquet"}))), 2),
    "a handler's data": (plain({"class": "DataLoaderDH", "kwargs": {"handler_config": alpha(label=[FIFTEEN])}}), 16),
    "the handler of the label": (
        plain({"class": "DataLoaderDH", "kwargs": {
            "is_group": True, "handler_config": {"feature": alpha(label=[FIFTEEN]), "label": alpha()}}}), 2
    ),
    "processors of this package": (
        alpha(learn_processors=["DropnaLabel", {"class": "CSRankNorm", "kwargs": {"fields_group": "label"}}],
              infer_processors=[{"class": "Fillna", "module_path": "qlib.data.dataset.processor"}]), 2
    ),
    "a processor for inference only": (
        plain(qlib_loader(**FEATURE, **LABEL), process_type="independent", infer_processors=[own("MakesLabel")]), 2
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ)
def test_the_horizon_is_read_from_expressions(kind: str) -> None:
    """Those that the handler really computes."""
    handler, days = READ[kind]
    found = task_horizon(task(handler))
    assert (found.days, found.source, found.in_rows) == (days, HorizonSource.EXPRESSION, False)


UNKNOWN = {
    "no handler": ({}, "describes no handler"),
    "a file": ("file://handler.pkl", "read from a file"),
    "a loader of the user's own": (plain(own("OwnLoader")), "loaded by OwnLoader"),
    "such a loader with expressions that it may ignore": (plain(own("OwnLoader", config=LABEL)), "loaded by OwnLoader"),
    "a loader that overrides the loading": (plain(own("PatchingLoader", config=LABEL)), "loaded by PatchingLoader"),
    "a file of labels": (plain(static("labels.parquet")), "precomputed"),
    "a group of labels from a file": (plain(static({"label": "labels.parquet"})), "precomputed"),
    "features and perhaps labels from a file": (
        plain(nested(qlib_loader(**LABEL), static("f.parquet"))),
        "precomputed",
    ),
    "a handler without a loader": (own("WithoutLoader"), "has no loader"),
    "a loader set by the constructor": (own("LoaderInInit"), "loaded by OwnLoader"),
    "a loader patched by the constructor": (own("PatchedInInit"), "loaded by QlibDataLoader"),
    "a processor added by the constructor": (own("ProcessorInInit"), "MakesLabel may create or change"),
    "a processor without a base class": (own("LabelInInit", learn_processors=[own("Bare")]), "Bare may create"),
    "a handler that cannot be built": (own("NotBuildable"), "NotBuildable cannot be built"),
    "a handler that cannot be imported": (own("Missing"), "cannot be imported"),
    "a handler that overrides fetch": (own("Fetching"), "Fetching overrides fetch"),
    "a learn processor": (alpha(learn_processors=[own("MakesLabel")]), "MakesLabel may create or change"),
    "an infer processor": (alpha(infer_processors=[own("MakesLabel")]), "MakesLabel may create or change"),
    "a shared processor": (plain(qlib_loader(**LABEL), shared_processors=[own("OwnRank")]), "OwnRank may create"),
    "a processor by its dotted path": (alpha(learn_processors=[f"{__name__}.MakesLabel"]), "MakesLabel may create"),
    "a processor of an instrument": (alpha(inst_processors=[own("OwnInstProcessor")]), "OwnInstProcessor may create"),
    "a processor of the inner handler": (
        plain({"class": "DataLoaderDH", "kwargs": {"handler_config": alpha(infer_processors=[own("MakesLabel")])}}),
        "MakesLabel may create",
    ),
    "columns without groups": (plain(["$close", TWO]), "no groups"),
    "labels that are no expressions": (alpha(label=[5]), "is not a list of expressions"),
    "a processor of an invalid module": (
        alpha(learn_processors=[{"class": "Mine", "module_path": 5}]),
        "Mine may create or change",
    ),
    "an expression with a mistake": (alpha(label=["Ref($close"]), "cannot be parsed"),
}


def test_only_attributes_that_replace_methods_override_them() -> None:
    """Other attributes of an object, callable or not, change nothing that a class of this package does."""
    assert overridden(DataHandler, {"fetch": print, "CS_ALL": print, "setup_data": None}) == {"fetch"}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_other_labels_have_an_unknown_horizon(kind: str) -> None:
    """The reason is given; 'auto' refuses them and says how to declare the horizon, and a declared one is used."""
    handler, reason = UNKNOWN[kind]
    one = task(handler)
    found = task_horizon(one)
    assert (found.days, found.source) == (None, HorizonSource.UNKNOWN)
    assert reason in found.reason
    generator = RollingGen(10, trunc_days="auto", calendar=DAYS)
    for generate in (generator.generate, lambda t: list(generator.gen_following_tasks(t, None))):
        with pytest.raises(SegmentError) as refused:
            generate(one)
        assert refused.value.path == "trunc_days"
        for words in ("label_horizon", "label_days", "rollforge check", found.reason):
            assert words in str(refused.value)
    assert RollingGen(10, calendar=DAYS).generate(one)
    declared = {**one, "label_horizon": 4}
    found = known_horizon(declared)
    assert (found.days, found.source, found.in_rows) == (4, HorizonSource.DECLARED, True)
    made = generator.generate(declared)
    assert made[0]["dataset"]["kwargs"]["segments"]["train"][1] == pd.Timestamp("2020-02-03")
    assert made[0]["label_horizon"] == 4


def test_a_dataset_of_the_users_own_may_change_the_label() -> None:
    """If it overrides how data are prepared, or does not derive from DatasetH."""
    assert "OwnDataset overrides prepare" in task_horizon(task(alpha(), "OwnDataset")).reason
    assert "OwnLoader may create its own label" in task_horizon(task(alpha(), "OwnLoader")).reason
    assert task_horizon(task(alpha(), "QuietDataset")).days == 2
    assert task_horizon({**task(alpha(), "OwnDataset"), "label_horizon": 2}).days == 2
    without = task(alpha())
    del without["dataset"]["class"]  # reported when the dataset is built
    assert task_horizon(without).days == 2


@pytest.mark.parametrize(
    ("one", "days"),
    [
        (task(own("DeclaresFifteen")), 15),
        (task(own("LoaderInInit", label_horizon=9)), 9),
        (task(own("DeclaresFifteen", label_horizon=9)), 9),  # an argument replaces the attribute
        (task(plain(own("OwnLoader"), label_horizon=0)), 0),
        (task(own("LoaderInInit", label_horizon=9), label_horizon=11), 11),
        (task(DataHandlerLP(data_loader=OwnLoader(), label_horizon=3)), 3),
    ],
)
def test_a_horizon_is_declared_by_the_task_the_handler_or_its_class(one: dict[str, Any], days: int) -> None:
    """The largest one is used."""
    found = task_horizon(one)
    assert (found.days, found.source, found.contradiction) == (days, HorizonSource.DECLARED, "")


def test_of_a_declared_and_a_read_horizon_the_larger_is_used() -> None:
    """The difference is described; a declared horizon is not counted in rows if expressions determine the label."""
    larger, smaller = task_horizon(task(alpha(label_horizon=5))), task_horizon(task(alpha(label_horizon=1)))
    assert (larger.days, larger.source, larger.in_rows) == (5, HorizonSource.DECLARED, False)
    assert (smaller.days, smaller.source) == (2, HorizonSource.EXPRESSION)
    assert smaller.contradiction == (
        "the label looks 2 trading days ahead, but label_horizon: 1 is declared; the larger number, 2, is used."
    )
    assert task_horizon(task(alpha(label_horizon=2))).contradiction == ""


@pytest.mark.parametrize("value", [-1, 1.5, True, "15", "a"])
def test_a_declared_horizon_is_a_number_of_days(value: Any) -> None:
    """In the task, among the handler's arguments, and when the handler is built."""
    for broken in (task(alpha(), label_horizon=value), task(alpha(label_horizon=value))):
        with pytest.raises(ConfigError, match="label_horizon: must be a whole number of trading days"):
            task_horizon(broken)
    with pytest.raises(ConfigError, match="label_horizon: must be a whole number of trading days"):
        Alpha158("all", label_horizon=value)


def test_handlers_keep_a_declared_horizon() -> None:
    """Handlers keep a declared horizon as an attribute, through pickling too."""
    assert Alpha158("all", label_horizon=0).label_horizon == 0
    assert Alpha158("all").label_horizon is None
    assert DataHandlerLP.from_df(pd.DataFrame()).label_horizon is None
    assert StaticDataLoader(Path("nowhere")).expressions("label") is None


def test_following_tasks_are_purged_whether_the_given_task_is_or_not() -> None:
    """A purged task is not truncated a second time."""
    generator = RollingGen(10, trunc_days="auto", calendar=DAYS)
    unpurged = RollingGen(10, calendar=DAYS).generate(task(alpha()))[0]
    purged, *following = generator.generate(task(alpha()))
    for given in (unpurged, purged, task(alpha())):
        given["dataset"]["kwargs"]["segments"]["test"] = ("2020-02-10", "2020-02-21")
        made = list(generator.gen_following_tasks(given, "2020-03-20"))
        assert [t["dataset"]["kwargs"]["segments"] for t in made] == [
            t["dataset"]["kwargs"]["segments"] for t in following
        ]
