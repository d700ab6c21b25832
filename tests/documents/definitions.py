"""Parts of task definitions and workflows that many tests share, as plain data. A test states only what is relevant to
it.

Importable because `pythonpath` in pyproject.toml names this folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

LINEAR: Document = {"class": "LinearModel", "module_path": "qlib.contrib.model.linear"}
SIGNAL: Document = {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}
ANALYSIS: Document = {"class": "SigAnaRecord", "module_path": "qlib.workflow.record_temp"}
SMALL_MARKET = {"instruments": "all", "start_time": "2022-01-03", "end_time": "2023-12-29"}
"""All of the fixture `small_market`, as arguments of a handler."""
FIVE_WINDOWS = {
    "train": ["2022-01-03", "2022-10-31"],
    "valid": ["2022-11-01", "2022-12-30"],
    "test": ["2023-01-02", "2023-12-29"],
}
"""Segments of `small_market`. Its 260 test days are five windows with a step of 60."""
TWO_WINDOWS = {
    "train": ["2022-01-03", "2022-12-30"],
    "valid": ["2023-01-03", "2023-03-31"],
    "test": ["2023-04-03", "2023-08-31"],
}
"""Segments of `small_market` that are two windows with a step of 60."""
NEXT_RETURN = "Ref($close, -2)/Ref($close, -1)-1"
"""The default label."""


def lightgbm(**kwargs: Any) -> Document:
    """Return a LightGBM model."""
    return {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": kwargs}


def alpha158(**kwargs: Any) -> Document:
    """Return a handler with Qlib's 158 features."""
    return {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": kwargs}


def expressions(feature: str | Mapping[str, str], label: str = NEXT_RETURN, **kwargs: Any) -> Document:
    """Return a handler without processors: one feature, or several by name, and one label, which are expressions."""
    features = {"F": feature} if isinstance(feature, str) else feature
    config = {"feature": [list(features.values()), list(features)], "label": [[label], ["LABEL0"]]}
    loader = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": config}}
    arguments = {"instruments": "all", "data_loader": loader, **kwargs}
    return {"class": "DataHandlerLP", "module_path": "qlib.data.dataset.handler", "kwargs": arguments}


def dataset(handler: Document, segments: Mapping[str, Sequence[Any]]) -> Document:
    """Return a dataset."""
    kwargs = {"handler": handler, "segments": dict(segments)}
    return {"class": "DatasetH", "module_path": "qlib.data.dataset", "kwargs": kwargs}


def task_definition(
    handler: Document,
    segments: Mapping[str, Sequence[Any]],
    *,
    model: Document | None = LINEAR,
    record: Sequence[Document | str] = (SIGNAL,),
) -> Document:
    """Return the definition of a task; without a model for None."""
    parts: Document = {} if model is None else {"model": model}
    return {**parts, "dataset": dataset(handler, segments), "record": list(record)}


def stores(market: Path | str, folder: Path | str, experiment: str) -> Document:
    """Return the section `rollforge` of a workflow whose stores are in a folder."""
    return {
        "data": str(market),
        "store": f"sqlite:///{folder}/tasks.db",
        "tracking": f"folder:{folder}/runs",
        "experiment": experiment,
    }


def backtest(strategy: Document, **options: Any) -> Document:
    """Return a portfolio analysis that holds the best five instruments and replaces two a day."""
    kwargs = {"topk": 5, "n_drop": 2, **strategy}
    chosen = {"class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy", "kwargs": kwargs}
    config = {"strategy": chosen, "backtest": options}
    return {"class": "PortAnaRecord", "module_path": "qlib.workflow.record_temp", "kwargs": {"config": config}}


def as_text(document: Document) -> str:
    """Return a workflow as YAML, in the order of its keys and without anchors."""
    return yaml.dump(document, Dumper=_WithoutAnchors, sort_keys=False, allow_unicode=True, width=1000)


class _WithoutAnchors(yaml.SafeDumper):
    """Writes a part that occurs twice in full, as in a handwritten file."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_workflow(file: Path, document: Document) -> Path:
    """Write a workflow file, and return its path."""
    file.write_text(as_text(document), encoding="utf-8")
    return file
