"""Templates without leaks give no finding: those of the examples, and the handlers that Qlib's examples use, when purged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rollforge.features.alpha import Alpha158DL
from rollforge.generate.checks import Check, CheckResult
from rollforge.generate.leakage import static_checks
from rollforge.generate.rolling import RollingGen
from rollforge.plan import make_plan
from rollforge.workflow import load_workflow

CALENDAR = pd.bdate_range("2007-01-02", "2020-12-31").to_numpy().astype("datetime64[D]")
SEGMENTS = {
    "train": ["2008-01-01", "2014-12-31"], "valid": ["2015-01-01", "2016-12-31"], "test": ["2017-01-01", "2020-08-01"],
}  # fmt: skip
PRETRAIN = {**SEGMENTS, "pretrain": ["2008-01-01", "2014-12-31"], "pretrain_validation": ["2015-01-01", "2016-12-31"]}
LABEL = ["Ref($close, -2) / Ref($close, -1) - 1"]
FIT = {"fit_start_time": "2008-01-01", "fit_end_time": "2014-12-31"}
CHOSEN = {"class": "FilterCol", "kwargs": {"fields_group": "feature", "col_list": ["RESI5", "WVMA5", "RSQR5", "KLEN"]}}
ROBUST = {"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature", "clip_outlier": True}}
FILL = {"class": "Fillna", "kwargs": {"fields_group": "feature"}}
LEARN = [{"class": "DropnaLabel"}, {"class": "CSRankNorm", "kwargs": {"fields_group": "label"}}]
NO_VWAP = {"class": "DropCol", "kwargs": {"col_list": ["VWAP0"]}}
MLP = {
    "process_type": "independent",
    "infer_processors": [NO_VWAP, {"class": "CSZFillna", "kwargs": {"fields_group": "feature"}}],
    "learn_processors": [
        NO_VWAP, {"class": "DropnaProcessor", "kwargs": {"fields_group": "feature"}}, "DropnaLabel",
        {"class": "CSZScoreNorm", "kwargs": {"fields_group": "label"}},
    ],
}  # fmt: skip
EXPRESSIONS = {
    "data_loader": {
        "class": "QlibDataLoader",
        "kwargs": {"config": {"feature": Alpha158DL.get_feature_config(), "label": [LABEL, ["LABEL0"]]}},
    },
    "infer_processors": [{"class": "RobustZScoreNorm", "kwargs": {**FIT, "fields_group": "feature"}}, FILL],
    "learn_processors": LEARN,
}

# Class of the handler and of the dataset, arguments, segments: the variants among the benchmarks of Qlib's examples.
STOCK: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "Alpha158": ("Alpha158", "DatasetH", FIT, SEGMENTS),
    "Alpha360": ("Alpha360", "DatasetH", FIT, SEGMENTS),
    "Alpha158vwap": ("Alpha158vwap", "DatasetH", FIT, SEGMENTS),
    "Alpha360vwap": ("Alpha360vwap", "DatasetH", FIT, SEGMENTS),
    "gru": (
        "Alpha360", "DatasetH",
        {**FIT, "label": LABEL, "infer_processors": [ROBUST, FILL], "learn_processors": LEARN}, SEGMENTS,
    ),
    "gru by day": (
        "Alpha158", "TSDatasetH",
        {**FIT, "label": LABEL, "infer_processors": [CHOSEN, ROBUST, FILL], "learn_processors": LEARN}, SEGMENTS,
    ),
    "lightgbm": ("Alpha360", "DatasetH", {**FIT, "label": LABEL, "infer_processors": [], "learn_processors": LEARN}, SEGMENTS),
    "mlp": ("Alpha158", "DatasetH", {**FIT, **MLP}, SEGMENTS),
    "tcts": (
        "Alpha360", "DatasetH",
        {**FIT, "label": [f"Ref($close, -{d}) / Ref($close, -1) - 1" for d in (2, 3, 4)], "learn_processors": LEARN}, SEGMENTS,
    ),
    "tabnet": ("Alpha158", "DatasetH", {**FIT, "infer_processors": [ROBUST, FILL], "learn_processors": LEARN}, PRETRAIN),
    "expressions": ("DataHandlerLP", "DatasetH", EXPRESSIONS, SEGMENTS),
}  # fmt: skip


def findings(checks: tuple[Check, ...]) -> list[Check]:
    return [one for one in checks if one.result is not CheckResult.CLEAN]


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize(("step", "kind"), [(250, "expanding"), (60, "sliding")])
def test_handlers_of_qlibs_examples_have_no_finding_when_purged(name: str, step: int, kind: Any) -> None:
    """The windows that follow have none either; the fit window stays where it is, as in Qlib."""
    handler, dataset, kwargs, segments = STOCK[name]
    module = "qlib.data.dataset.handler" if handler == "DataHandlerLP" else "qlib.contrib.data.handler"
    described = {"class": handler, "module_path": module, "kwargs": kwargs}
    template = {
        "model": {"class": "LGBModel"},
        "dataset": {
            "class": dataset,
            "module_path": "qlib.data.dataset",
            "kwargs": {"handler": described, "segments": segments},
        },
    }
    tasks = RollingGen(step=step, rtype=kind, trunc_days="auto", calendar=CALENDAR).generate(template)
    assert len(tasks) > 3
    checks = static_checks(tasks, CALENDAR)
    assert findings(checks) == []
    assert {"segments", "label", "features", "processors"} <= {one.subject for one in checks}


EXAMPLES = [f for f in sorted(Path(__file__).parents[2].glob("examples/**/*.yaml")) if "\ntask:" in f.read_text()]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_the_examples_have_no_finding(file: Path, tmp_path: Path) -> None:
    """On a demo market with the days and names of the file."""
    from rollforge.market.demo import make_demo

    make_demo(tmp_path / "data", instruments=30, years=6, end="2023-12-29")
    plan = make_plan(load_workflow(file, provider_uri=str(tmp_path / "data")))
    # The example of a service imports a table without an index's members, so survivorship is not checked.
    # In the two years of the examples of models, no member of so small a market joins or leaves its universe, and what a
    # user's own model reads is not known either.
    unknown = ["universe"] if file.parent.name in ("serve", "models") else []
    unknown += ["model"] if file.stem == "own" else []
    assert [one.subject for one in findings(plan.checks)] == unknown
    assert len(plan.warnings) == len(unknown)
