"""Generators in a workflow file: the section ``generate``, its short forms, their order and their errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from command_line import call
from definitions import (
    ANALYSIS,
    SIGNAL,
    SMALL_MARKET,
    as_text,
    backtest,
    expressions,
    lightgbm,
    stores,
    task_definition,
)
from rollforge import pipeline
from rollforge.errors import ConfigError, RollforgeError
from rollforge.generate.timeline import draw
from rollforge.plan import Plan, make_plan
from rollforge.workflow import load_workflow

BASE = """\
rollforge: {{data: {data}, store: "sqlite:///{folder}/tasks.db", tracking: "folder:{folder}/runs", experiment: several}}
task:
  model: {{class: LGBModel, module_path: qlib.contrib.model.gbdt, kwargs: {{loss: mse, num_leaves: 8}}}}
  dataset:
    class: DatasetH
    module_path: qlib.data.dataset
    kwargs:
      handler:
        class: Alpha158
        module_path: qlib.contrib.data.handler
        kwargs: {{instruments: all, start_time: 2022-01-03, end_time: 2023-12-29}}
      segments:
        train: [2022-01-03, 2022-10-31]
        valid: [2022-11-01, 2022-12-30]
        test: [2023-01-02, 2023-12-29]
  record:
    - {{class: SignalRecord, module_path: qlib.workflow.record_temp}}
"""
OWN = """
from rollforge import TaskGen
from rollforge.generate.base import copy_task


class Leaves(TaskGen):
    def __init__(self, values):
        self.values = values

    def generate(self, task):
        made = [copy_task(task) for _ in self.values]
        for one, value in zip(made, self.values):
            one["model"]["kwargs"]["num_leaves"] = value
        return made


class Changes(TaskGen):
    def generate(self, task):
        task["model"]["kwargs"]["num_leaves"] = 99
        return []


class Breaks(TaskGen):
    def generate(self, task):
        return 1 / 0


class Nothing(TaskGen):
    def generate(self, task):
        return ["task"]


class Odd(TaskGen):
    # What a generator may return by mistake.

    def __init__(self, what):
        self.what = what

    def generate(self, task):
        one = copy_task(task)
        if self.what == "no model":
            one.pop("model")
        if self.what == "live":
            one["model"]["kwargs"]["x"] = object()
        return {"none": None, "one": one, "twice": [one, copy_task(one)]}.get(self.what, [one])


class Named(TaskGen):
    def __init__(self, what):
        self.what = what

    def generate(self, task):
        return [made for _, made in self.named(task)]

    def named(self, task):
        return {"task": [task], "number": [(3, task)], "control": [("a\\x07", task)]}[self.what]


class Counts(Odd):
    def count(self, task):
        return 1 / 0 if self.what == "raises" else "many"


class Quarters(TaskGen):
    only_windows = True

    def __init__(self, year=2023):
        self.year = year

    def generate(self, task):
        made = [copy_task(task) for _ in range(4)]
        for i, one in enumerate(made):
            test = (f"{self.year}-{3 * i + 1:02}-05", f"{self.year}-{3 * i + 3:02}-27")
            one["dataset"]["kwargs"]["segments"] = {"train": ("2022-01-03", "2022-12-20"), "test": test}
        return made


class NoGenerator:
    def generate(self, task):
        return [task]
"""

SEEDS = list(range(2000))


class Files:
    """Writes and plans workflow files for one market."""

    def __init__(self, folder: Path, market: Path) -> None:
        self.folder = folder
        self.market = market
        (folder / "own.py").write_text(OWN, encoding="utf-8")

    def write(self, text: str, base: str = BASE) -> Path:
        file = self.folder / "workflow.yaml"
        file.write_text(base.format(data=self.market, folder=self.folder) + text, encoding="utf-8")
        return file

    def plan(self, text: str, base: str = BASE) -> Plan:
        # Some of the workflows have no windows, and so segments that are not purged.
        return make_plan(load_workflow(self.write(f"{text}\nleakage: warn\n", base)))


@pytest.fixture
def files(tmp_path: Path, small_market: Path) -> Files:
    return Files(tmp_path, small_market)


def names(plan: Plan) -> list[str]:
    return list(dict.fromkeys(plan.model_names))


def segments(plan: Plan) -> list[Any]:
    return [t["dataset"]["kwargs"]["segments"] for t in plan.tasks]


def test_grid_and_rolling_are_short_forms_of_entries(files: Files) -> None:
    """Both forms give the same tasks, in the same order, with the same names: purged windows, with backtests of their
    own."""
    short = files.plan("grid: {model.kwargs.num_leaves: {few: 4, many: 8}}\nrolling: {step: 90, rtype: sliding}\n")
    for text in (
        "generate:\n"
        "  - GridGen: {values: {model.kwargs.num_leaves: {few: 4, many: 8}}}\n"
        "  - RollingGen: {step: 90, rtype: sliding}\n",
        "generate:\n"
        "  - {class: GridGen, kwargs: {values: {model.kwargs.num_leaves: {few: 4, many: 8}}}}\n"
        "  - {class: RollingGen, module_path: qlib.workflow.task.gen, kwargs: {step: 90, rtype: sliding}}\n",
        "grid: {model.kwargs.num_leaves: {few: 4, many: 8}}\n"
        "generate: [{rollforge.generate.rolling.RollingGen: {step: 90, rtype: sliding}}]\n",
        "generate: [{GridGen: {values: {model.kwargs.num_leaves: {few: 4, many: 8}}}}]\n"
        "rolling: {step: 90, rtype: sliding}\n",
    ):
        plan = files.plan(text)
        assert plan.tasks == short.tasks
        assert plan.ids == short.ids
        assert plan.model_names == short.model_names == ("few",) * 3 + ("many",) * 3
        assert plan.windows == short.windows


def test_a_window_of_the_list_is_purged_and_has_its_own_backtest(files: Files) -> None:
    """As with ``rolling`` in Rollforge's format, and as in Qlib's format without; what the entry says counts."""
    auto = files.plan("generate: [{RollingGen: {step: 90}}]\n")
    assert str(segments(auto)[0]["valid"][1])[:10] == "2022-12-28", "the label looks 2 days ahead"
    for kept in ("generate: [{RollingGen: {step: 90, trunc_days: null}}]\n", "rolling: {step: 90, trunc_days: null}\n"):
        assert str(segments(files.plan(kept))[0]["valid"][1])[:10] == "2022-12-30"
    qlib = BASE.replace(
        'rollforge: {{data: {data}, store: "sqlite:///{folder}/tasks.db", tracking: "folder:{folder}/runs", experiment: '
        "several}}",
        "qlib_init: {{provider_uri: {data}}}",
    )
    assert str(segments(files.plan("generate: [{RollingGen: {step: 90}}]\n", qlib))[0]["valid"][1])[:10] == "2022-12-30"


def test_a_backtest_of_the_list_follows_its_window(files: Files) -> None:
    """In Rollforge's format, as with ``rolling``."""
    record = (
        "    - class: PortAnaRecord\n      module_path: qlib.workflow.record_temp\n      kwargs: {{config: {{strategy: "
        "{{class: TopkDropoutStrategy, module_path: qlib.contrib.strategy, kwargs: {{topk: 3, n_drop: 1}}}}, "
        "backtest: {{start_time: 2023-01-02, end_time: 2023-12-29, account: 1000000, benchmark: null}}}}}}\n"
    )
    plans = [files.plan(t, BASE + record) for t in ("rolling: {step: 90}\n", "generate: [{RollingGen: {step: 90}}]\n")]
    assert plans[0].ids == plans[1].ids
    backtest = plans[1].tasks[0]["record"][1]["kwargs"]["config"]["backtest"]
    assert (backtest["start_time"], backtest["end_time"]) == (None, None)
    kept = files.plan("generate: [{RollingGen: {step: 90, roll_backtest: false}}]\n", BASE + record)
    assert str(kept.tasks[0]["record"][1]["kwargs"]["config"]["backtest"]["end_time"])[:10] == "2023-12-29"


def test_models_may_be_generated_from_windows(files: Files) -> None:
    """The order of the tasks follows the list; names and numbers of windows do not depend on it."""
    plan = files.plan(
        "generate:\n"
        "  - RollingGen: {step: 90, rtype: sliding}\n"
        "  - {class: Leaves, module_path: own.py, kwargs: {values: [4, 8]}}\n"
    )
    assert [(w.model, w.index) for w in plan.windows] == [(f"num_leaves={n}", i) for i in range(3) for n in (4, 8)]
    turned = files.plan(
        "generators: [{class: Leaves, module_path: own.py, kwargs: {values: [4, 8]}}]\n"
        "rolling: {step: 90, rtype: sliding}\n"
    )
    assert set(turned.ids) == set(plan.ids)
    assert names(turned) == names(plan)


def test_names_of_several_generators_are_joined(files: Files) -> None:
    """In the order of the list, after the name of the model."""
    plan = files.plan(
        "models: {trees: {model: {kwargs: {seed: 1}}}, more: {model: {kwargs: {seed: 2}}}}\n"
        "grid: {model.kwargs.loss: [mse]}\n"
        "generate:\n"
        "  - {class: Leaves, module_path: own.py, kwargs: {values: [4, 8]}}\n"
        "  - GridGen: {values: {model.kwargs.max_depth: {flat: 2, deep: 6}}}\n"
    )
    assert names(plan) == [
        f"{model}, num_leaves={n}, {depth}" for model in ("trees", "more") for n in (4, 8) for depth in ("flat", "deep")
    ]
    assert len(set(plan.ids)) == 8


def test_long_names_are_shortened_and_stay_distinct(files: Files) -> None:
    """To the 80 characters of a name that is given, and in the same way each time."""
    long = "gradient boosted trees on all features of the last ten years"
    text = (
        f"models: {{'{long}': {{model: {{kwargs: {{max_depth: 1}}}}}}, '{long} too': {{model: {{kwargs: {{max_depth: 2}}}}}}}}\n"
        "grid: {model.kwargs.num_leaves: [4, 8]}\n"
        "generate: [{SeedGen: {seeds: [7, 8]}}, {RollingGen: {step: 90}}]\n"
    )
    plan = files.plan(text)
    assert len(names(plan)) == 8
    assert len(plan.tasks) == 24
    assert max(map(len, names(plan))) == 80
    assert all(name.startswith("gradient boosted trees") and ", seed " in name for name in names(plan))
    assert files.plan(text).model_names == plan.model_names
    assert set(files.plan(text.replace("[7, 8]", "[8, 9]")).model_names) & set(plan.model_names), "seed 8 has its name"


def test_a_grid_of_many_paths_names_each_model(files: Files) -> None:
    """Models that differ only in the last path are named too."""
    varied = ("max_depth", "min_child_samples", "lambda_l1", "lambda_l2", "min_split_gain", "subsample_freq")
    plan = files.plan(f"grid: {{{', '.join(f'model.kwargs.{key}: [1, 2]' for key in varied)}}}\n")
    assert len(names(plan)) == len(plan.tasks) == 64
    assert max(map(len, names(plan))) <= 80


def test_an_entry_may_be_a_name_alone(files: Files) -> None:
    """The name is a generator with its default arguments."""
    assert len(files.plan("generate: [RollingGen]\n").tasks) == len(files.plan("rolling: {}\n").tasks)
    assert len(files.plan("generate: [{RollingGen: }]\n").tasks) == len(files.plan("rolling: {}\n").tasks)
    assert len(files.plan("generate: []\n").tasks) == len(files.plan("generate:\n").tasks) == 1


def test_generators_receive_copies(files: Files) -> None:
    """One that modifies what it receives does not affect the templates of others, and may drop tasks."""
    workflow = load_workflow(files.write("generate: [{class: Changes, module_path: own.py}]\n"))
    with pytest.raises(ConfigError, match=r"line 18: generate\.0: its generators create no tasks"):
        make_plan(workflow)
    assert workflow.template["model"]["kwargs"]["num_leaves"] == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("generate: {GridGen: {}}\n", "line 18: generate: must be a list of generators"),
        ("generate: GridGen\n", "line 18: generate: must be a list of generators"),
        ("generate:\n  - RollingGen\n  - 5\n", "line 20: generate.1: must be the name of a generator"),
        (
            "generate:\n  - RollingGen: {step: 5}\n    GridGen: {}\n",
            "generate.0: names several generators: RollingGen, Grid",
        ),
        ("generate:\n  - RollingGen: 5\n", "line 19: generate.0.RollingGen: must be a mapping of arguments, found 5"),
        ("generate:\n  - {class: A, kwarg: {}}\n", "line 19: generate.0.kwarg: unknown key. Did you mean 'kwargs'?"),
        ("generate: [RollingGen]\ngenerators: [{class: A}]\n", "line 19: generators: cannot be combined with generate"),
        ("genrate: [RollingGen]\n", "genrate: unknown key. Did you mean 'generate'?"),
    ],
)
def test_a_mistake_in_the_form_of_an_entry_is_reported_with_its_line(files: Files, text: str, said: str) -> None:
    """When the file is read, together with all other mistakes."""
    with pytest.raises(ConfigError) as caught:
        load_workflow(files.write(text + "label_days: 0\n"))
    assert said in str(caught.value)
    assert "label_days" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "generate:\n  - RolingGen: {step: 5}\n",
            r"line 19: generate\.0: there is no generator 'RolingGen'\. Did you mean 'RollingGen'\?",
        ),
        (
            "generate:\n  - Leaves\n",
            r"line 19: generate\.0: there is no generator 'Leaves'\. Rollforge has .*write \{class:",
        ),
        (
            "generate:\n  - RollingGen:\n      stpe: 5\n",
            r"line 19: generate\.0\.RollingGen: .*no argument 'stpe'.*'step'",
        ),
        (
            "generate:\n  - RollingGen:\n      rtype: sliding\n      step: 0\n",
            r"line 21: generate\.0\.RollingGen\.step: must be",
        ),
        (
            "generate:\n  - class: RollingGen\n    kwargs:\n      step: 0\n",
            r"line 21: generate\.0\.kwargs\.step: must be",
        ),
        ("rolling:\n  step: 0\n", r"line 19: rolling\.step: must be"),
        ("generate:\n  - GridGen: {}\n", r"line 19: generate\.0\.GridGen: GridGen needs 'values'"),
        (
            "generate:\n  - GridGen:\n      values:\n        model.kwargs.x: 5\n",
            r"line 21: generate\.0\.GridGen\.values\.model\.kwargs\.x",
        ),
        (
            "generate:\n  - GridGen:\n      values:\n        model.kwrgs.x: [5]\n",
            r"line 21: generate\.0\.GridGen\.values\.model\.kwrgs\.x: .*'kwargs'",
        ),
        (
            "generate:\n  - RollingGen\n  - PurgedKFoldGen\n",
            r"line 20: generate\.1: PurgedKFoldGen makes windows, but so does RollingGen \(generate\.0\)",
        ),
        (
            "generate:\n  - RollingGen\nrolling: {step: 90}\n",
            r"line 20: rolling: RollingGen makes windows, but so does RollingGen \(generate\.0\)",
        ),
        (
            "generate:\n  - {class: Breaks, module_path: own.py}\n",
            r"line 19: generate\.0: the generator Breaks failed: ZeroDivisionError",
        ),
        *(
            (
                f"generate:\n  - {{class: {cls}, module_path: own.py, kwargs: {{{kwargs}}}}}\n",
                rf"line 19: generate\.0: {said}",
            )
            for cls, kwargs, said in (
                ("Odd", "what: none", "Odd must return a list of tasks, found None"),
                ("Odd", "what: one", "Odd must return a list of tasks, found {'dataset'"),
                ("Odd", "what: twice", "the generators create the same task twice: LGBModel 2023-01-02 to 2023-12-29"),
                ("Odd", "what: no model", "Odd generated a task without a model"),
                ("Odd", "what: live", "A task must be plain data, but model.kwargs.x is a live object"),
                ("Named", "what: task", r"named\(\) of Named must return pairs of a name and a task, found {'dataset'"),
                ("Named", "what: number", r"named\(\) of Named must return pairs .*, found \(3, {"),
                ("Named", "what: control", "Named gave a model a name with characters that cannot be printed"),
                (
                    "Quarters",
                    "year: 2030",
                    r"window 1 of Quarters: task\.dataset\.kwargs\.segments\.test: .*no trading day",
                ),
            )
        ),
        (
            "generate:\n  - CalendarGen: {retrain: 0 months}\n",
            r"line 19: .*retrain: must move a date forward by whole days",
        ),
        ("generate:\n  - GridGen: {values: {}}\n", r"line 19: generate\.0\.GridGen\.values: has no paths"),
        (
            "generate:\n  - GridGen: {values: {model.kwargs.x: [1, 2]}, when: {model.kwargs.x: {model.kwargs.loss: huber}}}\n",
            r"line 19: generate\.0\.GridGen\.when\.model\.kwargs\.x: is never true",
        ),
        (
            "generate:\n  - GridGen: {values: {model.kwargs.lr: [1, 2]}, when: {model.kwargs.lr: {model.kwargs.l: 1}}}\n",
            r"line 19: generate\.0\.GridGen\.when\.model\.kwargs\.lr",
        ),
        (
            "generate:\n  - RollingGen: {ds_extra_mod_func: f}\n",
            r"line 19: .*ds_extra_mod_func: must be a function, found 'f'",
        ),
        (
            "generate:\n  - CombinatorialPurgedGen: {n_groups: 60, n_tested: 30}\n",
            r"line 19: generate\.0: CombinatorialPurgedGen makes about 10\^17 tasks",
        ),
        (
            "generate:\n  - {class: Nothing, module_path: own.py}\n",
            r"line 19: generate\.0: Nothing must generate tasks",
        ),
        (
            "generate:\n  - {class: NoGenerator, module_path: own.py}\n",
            r"line 19: generate\.0: NoGenerator is not a task generator",
        ),
        (
            "generate:\n  - {class: Leaves, module_path: own.py, kwargs: {values: 5}}\n",
            r"line 19: generate\.0: the generator Leaves failed: TypeError",
        ),
        ("generate:\n  - MultiHorizonGenBase\n", r"line 19: generate\.0: MultiHorizonGenBase is an abstract class"),
        (
            "grid: {model.kwargs.num_leaves: [2, 3]}\n"
            "generate:\n  - GridGen: {values: {model.kwargs.num_leaves: [4, 5]}}\n",
            r"line 20: generate\.0: the models 'num_leaves=2, num_leaves=4' and 'num_leaves=3, num_leaves=4' have the same task",
        ),
        ("generate:\n  - GridGen: {values: {model.class: [LGBModle]}}\n", r"Did you mean 'LGBModel'"),
        (
            "generate:\n  - RollingGen: {step: 90}\n  - GridGen: {values: {model.class: [LGBModle]}}\n",
            r"Did you mean 'LGBModel'",
        ),
        (
            f"generate: [{{GridGen: {{values: {{model.kwargs.seed: {SEEDS}}}}}}}, {{RollingGen: {{step: 1}}}}]\n",
            r"2,000 by GridGen x \d+ by RollingGen make",
        ),
    ],
)
def test_a_mistake_in_a_generator_is_reported_with_its_line(files: Files, text: str, said: str) -> None:
    """Planning the workflow reports names, arguments, what it does, and how many tasks it makes."""
    with pytest.raises(RollforgeError, match=said):
        files.plan(text)


@pytest.mark.parametrize(
    ("entry", "said"),
    [("{class: Quarters, module_path: own.py}", 4), ("{class: Quarters, module_path: own}", 4), ("own.Quarters", 4)]
    + [(f"{{class: Counts, module_path: own.py, kwargs: {{what: {what}}}}}", 1) for what in ("raises", "many")],
)
def test_a_generator_of_the_users_own(files: Files, entry: str, said: int) -> None:
    """The user's own generator is given by file or by module, also a plugin's; one whose count is unusable is not
    counted."""
    assert len(files.plan(f"sys: {{rel_path: .}}\nplugins: [own.py]\ngenerate: [{entry}]\n").tasks) == said
    combined = files.plan(f"sys: {{rel_path: .}}\ngenerate: [{entry}, {{SeedGen: {{seeds: 2}}}}]\n")
    assert len(combined.tasks) == 2 * said


def test_a_condition_may_name_a_path_that_is_similar_to_a_varied_one(files: Files) -> None:
    """A path that is similar to a varied one exists in the task, so it is not taken for a misspelt one."""
    text = (
        "generate: [{GridGen: {values: {model.kwargs.lr: [0.1, 1]}, when: {model.kwargs.lr: {model.kwargs.l1: 0}}}}]\n"
    )
    plan = files.plan(text, BASE.replace("num_leaves: 8", "num_leaves: 8, l1: 0"))
    assert names(plan) == ["lr=0.1", "lr=1"]


def test_a_model_that_is_trained_once_is_mentioned(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """The model is mentioned if no period ends within the test segment."""
    assert len(files.plan("generate: [{SeedGen: {seeds: 2}}, {CalendarGen: {retrain: 2 years}}]\n").tasks) == 2
    assert caplog.text.count("No period of 2YE-DEC ends between the first and the last test day") == 1


def test_an_error_in_a_models_segments_has_the_location_of_the_model(files: Files) -> None:
    """The error has the location of the model even if a generator of windows finds the error."""
    text = (
        "models:\n  late: {dataset: {kwargs: {segments: {train: [2022-10-28, 2022-10-31]}}}}\n"
        "generate: [{RollingGen: {step: 90, trunc_days: 600}}]\n"
    )
    with pytest.raises(ConfigError, match=r"line 19: models\.late\.dataset\.kwargs\.segments"):
        files.plan(text)


WHOLE = as_text({
    "rollforge": stores("{data}", "{folder}", "whole"),
    "task": task_definition(
        expressions(
            {"MOVE": "$close/Ref($close, 5) - 1", "VOLUME": "$volume/Mean($volume, 5)"},
            "Ref($close, -2)/Ref($close, -1) - 1", **SMALL_MARKET,
            learn_processors=[{"class": "DropnaLabel"}],
        ),
        {
            "train": ["2022-01-10", "2022-12-30"],
            "valid": ["2023-01-02", "2023-05-31"],
            "test": ["2023-06-15", "2023-11-10"],
        },
        model=lightgbm(num_boost_round=2, num_leaves=4, subsample=0.5, subsample_freq=1, verbosity=-1),
        record=[
            SIGNAL, ANALYSIS,
            backtest(
                {"signal": "<PRED>", "n_drop": 1},
                start_time="2023-06-15", end_time="2023-11-10", account=1000000, benchmark=None,
            ),
        ],
    ),
})  # fmt: skip


@pytest.mark.slow
def test_a_workflow_of_generators_runs_from_the_file_to_the_report(files: Files) -> None:
    """Two horizons, two seeds and quarters of several months each: every test day is predicted once by each model, the
    figures of a model are divided by the days of its label, and the joined prediction is the average of the models."""
    plan = files.plan(
        "generate:\n"
        "  - MultiHorizonGen: {horizon: [1, 5]}\n"
        "  - SeedGen: {seeds: [7, 8]}\n"
        "  - CalendarGen: {retrain: quarter, predict: month, train: 9 months, valid: 40}\n",
        WHOLE,
    )
    models = [f"horizon {h}, seed {s}" for h in (1, 5) for s in (7, 8)]
    assert list(plan.model_names) == [m for m in models for _ in range(3)]
    assert [w.index for w in plan.windows] == [0, 1, 2] * 4
    assert [days for days in (w.segments["test"].days for w in plan.windows[:3]) if days] == [12, 65, 30]
    assert len(plan.windows[1].segments["test"].parts) == 3
    assert any("█" in line for line in draw(plan.windows))
    assert pipeline.submit(plan).new == 12
    session = plan.workflow.session
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files.folder)
        pipeline.train(plan, jobs=0)
    collected = pipeline.collect(session, "whole", plan.ids)
    pipeline.write_results(collected, name="whole", session=session, config="", folder=files.folder / "results")
    prediction = pd.read_parquet(files.folder / "results" / "prediction.parquet")
    calendar = plan.schedule.calendar
    days = calendar[(calendar >= np.datetime64("2023-06-15")) & (calendar <= np.datetime64("2023-11-10"))]
    own = [model.prediction for model in collected.models]
    for one in (*own, prediction):
        assert one is not None
        assert not one.index.duplicated().any()
        assert list(one.index.get_level_values("datetime").unique()) == list(pd.DatetimeIndex(days))
    assert [model.target.days for model in collected.models] == [1, 1, 5, 5]
    scores = pd.concat([one["score"] for one in own if one is not None], axis=1)
    by_day = scores.groupby(level="datetime")
    average = ((scores - by_day.transform("mean")) / by_day.transform("std")).mean(axis=1)
    np.testing.assert_allclose(prediction["score"], average.reindex(prediction.index), rtol=1e-4, atol=1e-5)
    page = (files.folder / "results" / "report.html").read_text(encoding="utf-8")
    assert all(model in page for model in models)


@pytest.mark.slow
def test_the_example_runs_from_the_file_to_the_report(
    small_market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its first lines say, on two years instead of six and with few rounds: two horizons, two seeds, two
    half-years."""
    text = (Path(__file__).parents[1] / "examples" / "generators.yaml").read_text(encoding="utf-8")
    for old, new in (
        ("demo/market", str(small_market)), ("num_boost_round: 100", "num_boost_round: 2"),
        ("train: [2018-01-02, 2020-06-30]", "train: [2022-01-03, 2022-09-30]"),
        ("valid: [2020-07-01, 2020-12-31]", "valid: [2022-10-03, 2022-12-30]"),
        ("test: [2021-01-01, 2023-12-29]", "test: [2023-01-01, 2023-12-29]"),
        ("start_time: 2018-01-02", "start_time: 2022-01-03"), ("train: 30 months", "train: 9 months"),
        ("valid: 6 months", "valid: 3 months"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    file = tmp_path / "generators.yaml"
    file.write_text(text, encoding="utf-8")
    planned = call("plan", file)
    assert planned.exit_code == 0, planned.stderr
    assert "8 tasks" in planned.stdout
    done = call("run", file, "--jobs", "0")
    assert done.exit_code == 0, done.stderr
    assert "8 of 8 done" in done.stdout
    folder = tmp_path / "results" / "generators"
    prediction = pd.read_parquet(folder / "prediction.parquet")
    days = prediction.index.get_level_values("datetime")
    assert (f"{days.min():%Y-%m-%d}", f"{days.max():%Y-%m-%d}") == ("2023-01-02", "2023-12-29")
    assert not prediction.index.duplicated().any()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(f"horizon {h}, seed {s}" in page for h in (1, 5) for s in (7, 8))
    assert "4 variants are 2 apart from their seeds" in page
