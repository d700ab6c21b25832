"""The labels against which a result of several models is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rollforge.generate.label import task_labels
from rollforge.generate.naming import variant

__all__ = ["JoinedLabel", "ModelLabel", "join_labels", "label_groups", "label_kind"]


@dataclass(frozen=True, slots=True)
class ModelLabel:
    """The labels of one model, joined over its windows."""

    model: str
    frame: pd.DataFrame
    """Index (datetime, instrument)."""
    kind: str
    """Result of :func:`label_kind` for its tasks."""


@dataclass(frozen=True, slots=True)
class JoinedLabel:
    """The joined labels of all models that have the same label as the first."""

    frame: pd.DataFrame
    others: tuple[str, ...] = ()
    """Models with another label, whose labels are not in `frame`."""


def label_kind(definition: Mapping[str, object]) -> str:
    """Return a string that is equal for tasks with the same label: its expressions, or a hash of the dataset."""
    expressions = [label.expression for label in task_labels(definition)]
    if expressions and all(expressions):
        return "; ".join("".join(text.split()) for text in expressions)
    return variant({"dataset": definition.get("dataset")})


def join_labels(labels: Sequence[ModelLabel]) -> JoinedLabel | None:
    """Join the labels of the first model with those of all others that have the same label; None if there are none.

    Two models have the same label if its definition is the same, or if its values are equal on all common rows. If
    models differ in rows, the result has the rows of all of them.

    Parameters
    ----------
    labels : sequence of ModelLabel
        The labels of each model that has labels.
    """
    if not labels:
        return None
    first, *rest = labels
    joined, others = first.frame, []
    for label in rest:
        if label.kind != first.kind and not _equal_values(joined, label.frame):
            others.append(label.model)
            continue
        frame = label.frame if list(label.frame.columns) == list(joined.columns) else _first_column(label.frame, joined)
        if not frame.index.equals(joined.index) or joined.isna().to_numpy().any():
            joined = joined.combine_first(frame)[list(joined.columns)]
    return JoinedLabel(joined, tuple(others))


def label_groups(labels: Sequence[ModelLabel]) -> list[list[str]]:
    """Return the names of the models that have the same label, for each label; see :func:`join_labels`."""
    groups: list[list[ModelLabel]] = []
    for label in labels:
        for group in groups:
            joined = join_labels([group[0], label])
            if joined is not None and not joined.others:
                group.append(label)
                break
        else:
            groups.append([label])
    return [[label.model for label in group] for group in groups]


def _first_column(frame: pd.DataFrame, like: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[:, :1].set_axis(like.columns[:1], axis=1)


def _equal_values(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    a, b = one.iloc[:, 0].align(other.iloc[:, 0], join="inner")
    if not len(a):
        return False
    # Panels store float32: the same label in two panels may differ by rounding.
    close = np.isclose(a.to_numpy(np.float64), b.to_numpy(np.float64), rtol=1e-5, atol=1e-9, equal_nan=True)
    return bool(close.all())
