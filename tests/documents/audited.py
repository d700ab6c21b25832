"""A linear model that checks the labels it is fitted on: each must follow from prices known on the day of the training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rollforge.market.columns import CODE, DATE
from rollforge.models.base import Reweighter
from rollforge.models.linear import LinearModel
from rollforge.models.samples import training_samples
from rollforge.session import current_session

FOLDER = "ROLLFORGE_TEST_AUDIT"
"""Environment variable: a folder with ``close.parquet``, in which the checks are written to ``trainings.jsonl``."""
FIRST, LAST = 1, 6
LABEL = f"Ref($close, -{LAST})/Ref($close, -{FIRST})-1"
"""The return of five days, from the day after the decision on."""


def start_audit(folder: Path, close: pd.DataFrame) -> None:
    """Prepare a folder for the checks: `close` are all prices, a row per day and a column per instrument."""
    folder.mkdir(parents=True, exist_ok=True)
    close.to_parquet(folder / "close.parquet")
    (folder / "trainings.jsonl").touch()
    os.environ[FOLDER] = str(folder)


def checked(index: pd.MultiIndex, labels: np.ndarray, day: str, close: pd.DataFrame) -> dict[str, Any]:
    """Compare labels with the prices up to a day.

    Returns
    -------
    dict
        Number of rows, the last day whose price a label needs (`reach`), and how many labels were not known on the day or
        differ from the prices (`wrong`).
    """
    known = close.loc[:day]
    places = known.index.get_indexer(index.get_level_values(DATE))
    columns = known.columns.get_indexer(index.get_level_values(CODE))
    inside = (places >= 0) & (columns >= 0) & (places + LAST < len(known))
    prices = known.to_numpy(np.float64)
    expected = np.full(len(index), np.nan)
    expected[inside] = (
        prices[places[inside] + LAST, columns[inside]] / prices[places[inside] + FIRST, columns[inside]] - 1
    )
    right = np.isclose(labels, expected, rtol=1e-4, atol=1e-6)  # never for a label that was not known
    last = int(close.index.get_indexer(index.get_level_values(DATE)).max()) + LAST
    reach = str(close.index[last].date()) if last < len(close) else "after the last day"
    return {"rows": len(index), "reach": reach, "wrong": int((~right).sum())}


class AuditedLinear(LinearModel):
    """A linear model that writes a line about the rows of each fit."""

    def fit(self, dataset: Any, reweighter: Reweighter | None = None) -> None:
        """Fit on the rows of the train segment, and check their labels."""
        samples = training_samples(dataset, "train", model=type(self).__name__, reweighter=reweighter)
        folder = Path(os.environ[FOLDER])
        day = current_session().data_until
        assert day is not None, "a service trains without a bound of the data"
        index = samples.features.index
        assert isinstance(index, pd.MultiIndex)
        found = checked(index, samples.label, day, pd.read_parquet(folder / "close.parquet"))
        line = {"day": day, "last_row": str(index.get_level_values(DATE).max().date()), **found}
        with (folder / "trainings.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._solve([(samples.features.to_numpy(), samples.label, samples.weight)])


def trainings(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of all checks."""
    return [json.loads(line) for line in (folder / "trainings.jsonl").read_text().splitlines()]
