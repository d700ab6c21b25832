"""Building the data and the model of a task from a data folder, as a run would, without its caches and stores."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from rollforge.build import build, resolve_references
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandler, DataHandlerLP
from rollforge.features.processor_base import Processor
from rollforge.kinds import DATASET, MODEL, REWEIGHTER
from rollforge.session import Session, using

__all__ = ["STAGES", "TaskData", "fit_model", "predict", "restricted", "session_on"]

STAGES = ("raw", "infer", "learn")
_FEW_ROUNDS = 10
_FEW_EPOCHS = 2


def session_on(session: Session, folder: Path, data: Path) -> Session:
    """Return a session that reads the data folder `data` and writes only into `folder`.

    It has one thread, because the results of some libraries depend on the number of threads.
    """
    return session.with_(
        provider_uri=str(data), cache=str(folder / "cache"), store_uri=f"sqlite:///{folder}/tasks.db",
        tracking_uri=f"folder:{folder}/runs", threads=1,
    )  # fmt: skip


def restricted(task: Mapping[str, object], codes: Collection[str]) -> dict[str, object]:
    """Return a task in which lists of instruments contain only those of `codes`; a list without any is unchanged."""
    upper = {code.upper() for code in codes}

    def instruments(value: object) -> object:
        if isinstance(value, Mapping) and "market" in value:
            return {**value, "market": instruments(value["market"])}
        if isinstance(value, Mapping):
            return {k: v for k, v in value.items() if str(k).upper() in upper} or value
        if isinstance(value, (list, tuple)):
            return [code for code in value if str(code).upper() in upper] or value
        return value

    def walk(node: object) -> object:
        if isinstance(node, Mapping):
            return inside(node)
        if isinstance(node, (list, tuple)):
            return type(node)(walk(v) for v in node)
        return node

    def inside(node: Mapping[str, object]) -> dict[str, object]:
        return {k: instruments(v) if k == "instruments" else walk(v) for k, v in node.items()}

    return inside(task)


@dataclass
class TaskData:
    """The dataset of a task, built on one data folder.

    Parameters
    ----------
    task : mapping
        The task.
    session : Session
        Provides the data folder.
    """

    task: Mapping[str, object]
    session: Session
    dataset: Any = field(init=False)

    def __post_init__(self) -> None:
        self.resolved = resolve_references(self.task)
        with using(self.session):
            self.dataset = build(self.resolved["dataset"], kind=DATASET, where="task.dataset")

    @property
    def handler(self) -> Any:
        """The handler of the dataset; None if it has none."""
        return getattr(self.dataset, "handler", None)

    @property
    def stages(self) -> tuple[str, ...]:
        """The states of the data that the handler has; none without a :class:`DataHandler`."""
        if isinstance(self.handler, DataHandlerLP):
            return STAGES
        return STAGES[:1] if isinstance(self.handler, DataHandler) else ()

    @property
    def has_processors(self) -> bool:
        """Whether the handler has processors."""
        handler = self.handler
        return isinstance(handler, DataHandler) and bool(handler.steps("learn"))

    @cached_property
    def raw(self) -> pd.DataFrame:
        """The data as loaded."""
        return self._frame("raw")

    @cached_property
    def infer(self) -> pd.DataFrame:
        """The data for inference."""
        return self._frame("infer")

    @cached_property
    def learn(self) -> pd.DataFrame:
        """The data for learning."""
        return self._frame("learn")

    def frame(self, stage: str) -> pd.DataFrame:
        """Return the data of a stage."""
        made: pd.DataFrame = getattr(self, stage)
        return made

    def _frame(self, stage: str) -> pd.DataFrame:
        with using(self.session):
            made: pd.DataFrame = self.handler.fetch(slice(None, None), col_set=DataHandler.CS_RAW, data_key=stage)
        return made

    def learning_rows(self, segment: str) -> pd.Index | None:
        """Return the rows of a segment on which a model is fitted; None if the dataset does not say which."""
        if not isinstance(self.dataset, DatasetH):
            return None
        with using(self.session):
            made: object = self.dataset.prepare(segment, col_set="label", data_key="learn")
        index = made.get_index() if hasattr(made, "get_index") else getattr(made, "index", None)
        if not isinstance(index, pd.MultiIndex):
            return None
        return index if index.names == self.raw.index.names else index.reorder_levels(self.raw.index.names)

    @cached_property
    def chains(self) -> dict[str, list[Processor]]:
        """The processors of each stage, in order, fitted on these data; none if they cannot be fitted one by one.

        Those of the handler itself may not be fitted if its data were found in the cache.
        """
        handler = self.handler
        if not isinstance(handler, DataHandlerLP):
            return {}
        found = {}
        for stage in STAGES[1:]:
            chain = copy.deepcopy(handler.steps(stage))
            frame = self.raw
            with using(self.session):
                for processor in chain:
                    processor.fit(frame.copy(deep=False))
                    frame = processor.apply(frame)
            if _same(frame, self.frame(stage)):
                found[stage] = chain
        return found

    def processed(self, chain: Sequence[Any]) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield the raw data after each of some processors, which are not fitted again, with the name of its class."""
        frame = self.raw
        with using(self.session):
            for processor in chain:
                frame = processor.apply(frame)
                yield type(getattr(processor, "processor", processor)).__name__, frame


def _same(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    from rollforge.check.compare import compare

    return a.shape == b.shape and compare(a, b) is None


def fit_model(data: TaskData, task: Mapping[str, object], *, few_rounds: bool = False) -> Any:
    """Return the model of a task, whose references are resolved, fitted on `data`.

    With `few_rounds`, a model whose ``fit`` takes ``num_boost_round`` is fitted for at most ten rounds, and one with the
    attribute ``n_epochs`` for at most two epochs.
    """
    with using(data.session):
        model = build(task["model"], kind=MODEL, where="task.model")
        known = inspect.signature(model.fit).parameters
        arguments: dict[str, object] = {}
        if few_rounds and "num_boost_round" in known:
            default = known["num_boost_round"].default
            own = getattr(model, "num_boost_round", None)
            rounds = [n for n in (default, own) if isinstance(n, int)]
            arguments["num_boost_round"] = min([_FEW_ROUNDS, *rounds])
        if few_rounds and isinstance(getattr(model, "n_epochs", None), int):
            model.n_epochs = min(model.n_epochs, _FEW_EPOCHS)
        if task.get("reweighter") is not None:
            arguments["reweighter"] = build(task["reweighter"], kind=REWEIGHTER, where="task.reweighter")
        model.fit(data.dataset, **arguments)
    return model


def predict(model: Any, data: TaskData) -> pd.DataFrame:
    """Return the prediction of the test segment, one column per output."""
    with using(data.session):
        made = model.predict(data.dataset)
    frame = made.to_frame("score") if isinstance(made, pd.Series) else made
    if not isinstance(frame, pd.DataFrame) or "datetime" not in frame.index.names:
        raise TypeError("the prediction is not a series or frame with the index level datetime")
    return frame.sort_index()
