"""Several models in a workflow file: the sections ``models`` and ``grid``, and the names of the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from definitions import FIVE_WINDOWS, SMALL_MARKET, alpha158, lightgbm, stores, task_definition, write_workflow
from rollforge import pipeline
from rollforge.errors import ConfigError, RollforgeError
from rollforge.plan import Plan, make_plan
from rollforge.store.base import open_store
from rollforge.workflow import load_workflow

LGB = lightgbm(loss="mse", num_leaves=8)
MODELS = """\
models:
  lgb: {class: LGBModel, module_path: qlib.contrib.model.gbdt, kwargs: {num_leaves: 8}}
  ridge: {class: LinearModel, module_path: qlib.contrib.model.linear, kwargs: {estimator: ridge}}
"""


class Files:
    """Writes and plans workflow files for one market."""

    def __init__(self, folder: Path, market: Path) -> None:
        self.folder = folder
        self.market = market

    def write(self, text: str, model: dict[str, Any] | None = None) -> Path:
        """Write a workflow with a model, if there is one, and with the sections in `text`."""
        document = {
            "rollforge": stores(self.market, self.folder, "several"),
            "task": task_definition(alpha158(**SMALL_MARKET), FIVE_WINDOWS, model=model),
            "rolling": {"step": 90, "rtype": "sliding"},
        }
        file = write_workflow(self.folder / "workflow.yaml", document)
        file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")
        return file

    def plan(self, text: str, model: dict[str, Any] | None = None, **kwargs: Any) -> Plan:
        return make_plan(load_workflow(self.write(text, model)), **kwargs)


@pytest.fixture
def files(tmp_path: Path, small_market: Path) -> Files:
    return Files(tmp_path, small_market)


def names(plan: Plan) -> list[str]:
    return list(dict.fromkeys(plan.model_names))


def test_models_are_named_by_their_keys(files: Files) -> None:
    """There is one task for each model and window, ordered by model; they share the dataset and the records."""
    plan = files.plan(MODELS)
    assert plan.model_names == ("lgb",) * 3 + ("ridge",) * 3
    assert [w.title for w in plan.windows][::3] == ["lgb, window 1", "ridge, window 1"]
    assert [w.index for w in plan.windows] == [0, 1, 2] * 2
    assert [t["model"]["class"] for t in plan.tasks] == ["LGBModel"] * 3 + ["LinearModel"] * 3
    assert plan.tasks[0]["dataset"] == plan.tasks[3]["dataset"]
    assert "models" not in plan.tasks[0]


def test_a_model_may_give_any_part_of_the_task(files: Files) -> None:
    """Keys are merged into the shared task; an object with its own class does not inherit from the shared one."""
    plan = files.plan(
        "models:\n"
        "  flat: {model: {kwargs: {num_leaves: 4}}}\n"
        "  late: {dataset: {kwargs: {segments: {train: [2022-06-01, 2022-10-31]}}}}\n"
        "  ridge: {model: {class: LinearModel, module_path: qlib.contrib.model.linear}, record: []}\n",
        LGB,
    )
    flat, late, ridge = plan.tasks[::3]
    assert flat["model"]["kwargs"] == {"loss": "mse", "num_leaves": 4}
    assert late["model"]["kwargs"] == {"loss": "mse", "num_leaves": 8}
    assert str(late["dataset"]["kwargs"]["segments"]["train"][0])[:10] == "2022-06-01"
    assert ridge["model"] == {"class": "LinearModel", "module_path": "qlib.contrib.model.linear"}
    assert (ridge["record"], len(flat["record"])) == ([], 1)


def test_models_of_a_grid_are_named_by_their_values(files: Files) -> None:
    """A mapping names its values; values of a list are named by their differences; names of models come first."""
    assert names(files.plan("grid: {model.kwargs.num_leaves: [4, 8]}\n", LGB)) == ["num_leaves=4", "num_leaves=8"]
    assert names(files.plan("grid: {model.kwargs.num_leaves: {small: 4, large: 8}}\n", LGB)) == ["small", "large"]
    both = "grid:\n  model.kwargs.num_leaves: {small: 4, large: 8}\n  model.kwargs.seed: [1, 2]\n"
    assert names(files.plan(both, LGB)) == ["small, seed=1", "small, seed=2", "large, seed=1", "large, seed=2"]
    instruments = "grid: {dataset.kwargs.handler.kwargs.label: [['$close'], ['$open']]}\n"
    assert names(files.plan(MODELS + instruments)) == [
        f"{m}, label.0={v}" for m in ("lgb", "ridge") for v in ("$close", "$open")
    ]


def test_a_grid_over_segments_creates_models(files: Files) -> None:
    """The models are distinguished although only their windows differ."""
    plan = files.plan("grid: {dataset.kwargs.segments.train.0: {long: 2022-01-03, short: 2022-06-01}}\n", LGB)
    assert plan.model_names == ("long",) * 3 + ("short",) * 3
    pipeline.submit(plan)
    known = pipeline.outcomes(plan.workflow.session, "several")
    assert [o.model for o in known] == list(plan.model_names)


def test_a_single_model_has_no_name_unless_one_is_given(files: Files) -> None:
    """A grid with one combination is a single model."""
    assert names(files.plan("", LGB)) == [""]
    assert names(files.plan("grid: {model.kwargs.num_leaves: [4]}\n", LGB)) == [""]
    assert names(files.plan("models: {mine: {model: {kwargs: {seed: 1}}}}\n", LGB)) == ["mine"]


def test_renaming_a_model_trains_nothing(files: Files) -> None:
    """Tasks are identified by their definitions, so they keep their status and get the new names."""
    first = files.plan(MODELS)
    assert pipeline.submit(first).new == 6
    store = open_store(first.workflow.session.store_uri)
    for task in store.claim("several", worker="w", lease=60, limit=3):
        store.commit(task, {"ic": 0.5})
    second = files.plan(MODELS.replace("ridge:", "Ridge regression:").replace("lgb:", "trees:"))
    assert second.ids == first.ids
    found = pipeline.submit(second)
    assert (found.new, found.done, found.renamed) == (0, 3, 6)
    assert [t.model_name for t in store.query("several")] == ["trees"] * 3 + ["Ridge regression"] * 3
    assert pipeline.submit(second).renamed == 0


def test_models_in_a_pool_without_names_are_named_by_their_differences(files: Files) -> None:
    """Pools of earlier versions, or of scripts that give no names, have none."""
    plan = files.plan(MODELS)
    store = open_store(plan.workflow.session.store_uri)
    store.create("several", plan.tasks)
    known = pipeline.outcomes(plan.workflow.session, "several")
    assert [o.model for o in known] == ["LGBModel"] * 3 + ["LinearModel"] * 3
    store.create("several", plan.tasks[:1], model_names=["lgb"])
    known = pipeline.outcomes(plan.workflow.session, "several")
    assert [o.model for o in known] == ["lgb"] * 3 + ["LinearModel"] * 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {}\n", "line 34: models: must map names to models"),
        ("models: [a]\n", "line 34: models: must be a mapping"),
        ("models:\n  lgb: 5\n", "line 35: models.lgb: must be a model"),
        ("models:\n  lgb: {}\n", "models.lgb"),
        ("models:\n  lgb: {clas: LGBModel}\n", "line 35: models.lgb.clas: unknown key. Did you mean 'class'?"),
        ("models:\n  lgb: {modle: {class: A}}\n", "models.lgb.modle: unknown key. Did you mean 'model'?"),
        ("models:\n  lgb: {class: A, kwarg: {}}\n", "models.lgb.kwarg: unknown key. Did you mean 'kwargs'?"),
        ("models:\n  lgb: {model: {class: A, kwarg: {}}}\n", "line 35: models.lgb.model.kwarg: unknown key."),
        ('models:\n  "a\\nb": {class: A}\n', "cannot be the name of a model"),
        (f"models:\n  {'x' * 81}: {{class: A}}\n", "cannot be the name of a model"),
        ("models:\n  lgb: {class: A}\n  lgb: {class: B}\n", "the key 'lgb' appears twice"),
        ("model:\n  lgb: {class: A}\n", "model: unknown key. Did you mean 'models'?"),
        ("grid: {model.kwargs.x: 5}\n", "grid.model.kwargs.x"),
    ],
)
def test_a_mistake_in_a_model_is_reported_with_its_line(files: Files, text: str, said: str) -> None:
    """The mistake is reported with its path, too, before anything is planned."""
    with pytest.raises(ConfigError) as caught:
        load_workflow(files.write(text))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "models:\n  lgb: {class: LGBModle, module_path: qlib.contrib.model.gbdt}\n",
            r"line 35: models\.lgb: .*Did you mean 'LGBModel'",
        ),
        (
            MODELS + "  bad: {class: LinearModel, module_path: qlib.contrib.model.linear, kwargs: {estimatr: ols}}\n",
            r"line 37: models\.bad",
        ),
        (
            MODELS + "grid: {model.kwargs.num_leaves: {a: 4, b: 4}}\n",
            r"line 37: grid\.model\.kwargs\.num_leaves: .*twice",
        ),
        (MODELS + "grid: {model.kwrgs.num_leaves: [4]}\n", r"grid\.model\.kwrgs.*Did you mean 'kwargs'"),
        (MODELS + "grid: {dataset.kwargs.segments.train.7: [4]}\n", r"'7' is not a key or position of a list of 2"),
        (MODELS + "grid: {model.kwargs.num_leaves: []}\n", r"at least one value"),
        (MODELS + "grid: {model: {class: LGBModel}}\n", r"needs a list of values"),
        (
            "models:\n  late: {model: {class: LinearModel, module_path: qlib.contrib.model.linear}, "
            "dataset: {kwargs: {segments: {train: [2023-06-01, 2023-07-01]}}}}\n",
            r"line 35: models\.late\.dataset",
        ),
    ],
)
def test_a_mistake_in_one_model_is_reported_before_anything_is_stored(files: Files, text: str, said: str) -> None:
    """Classes, arguments and segments of every model, and the paths of a grid, are checked."""
    with pytest.raises(RollforgeError, match=said):
        files.plan(text)
