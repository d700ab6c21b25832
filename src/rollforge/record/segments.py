"""Records of predictions on several segments, and of prediction errors."""

from __future__ import annotations

import builtins
import logging

import numpy as np
import pandas as pd

from rollforge.errors import ConfigError, DataError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.models.base import Model
from rollforge.record.analysis import calc_ic, mean_to_std, paired
from rollforge.record.base import RecordTemp
from rollforge.record.signal import SignalRecord
from rollforge.task import Document
from rollforge.track.base import Recorder

__all__ = ["MultiSegRecord", "SignalMseRecord"]

log = logging.getLogger(__name__)


class MultiSegRecord(RecordTemp):
    """Computes the IC and Rank IC of a model on chosen segments.

    Parameters
    ----------
    model : Model
        A fitted model.
    dataset : DatasetH
        Dataset with the segments.
    recorder : Recorder
        The run.
    """

    def __init__(self, model: Model, dataset: DatasetH, recorder: Recorder | None = None) -> None:
        super().__init__(recorder)
        if not isinstance(dataset, DatasetH):
            raise ConfigError(f"MultiSegRecord needs a DatasetH, found a {type(dataset).__name__}.", path="dataset")
        self.model, self.dataset = model, dataset

    def generate(self, segments: Document | None = None, save: bool = False, **kwargs: object) -> None:
        """Predict segments, log IC and Rank IC, and optionally save them.

        Parameters
        ----------
        segments : mapping
            Name in the record -> segment; by default all segments under their own names.
        save : bool
            True saves ``results-NAME.pkl``: the daily series ``all-IC`` and ``all-Rank-IC`` and their means
            ``mean-IC`` and ``mean-Rank-IC``.
        """
        wanted = {name: name for name in self.dataset.segments} if segments is None else segments
        for name, segment in wanted.items():
            prediction = self.model.predict(self.dataset, segment)
            score = prediction.iloc[:, 0] if isinstance(prediction, pd.DataFrame) else prediction
            prepare = getattr(self.dataset, "prepare_rows", self.dataset.prepare)
            label = prepare(segment, col_set="label", data_key=DataHandlerLP.DK_R)
            ic, rank_ic = calc_ic(score, label.iloc[:, 0])
            for kind, series in (("IC", ic), ("Rank IC", rank_ic)):
                log.info(
                    "%s (%s): %s %.4f, %s IR %.4f",
                    name,
                    segment,
                    kind,
                    series.mean(),
                    kind,
                    mean_to_std(series.dropna()),
                )
            if save:
                results = {
                    "all-IC": ic, "mean-IC": ic.mean(), "all-Rank-IC": rank_ic, "mean-Rank-IC": rank_ic.mean(),
                }  # fmt: skip
                self.save(**{f"results-{name}.pkl": results})


class SignalMseRecord(RecordTemp):
    """Mean squared error of a prediction and its square root: metrics ``MSE`` and ``RMSE``, ``mse.pkl`` and
    ``rmse.pkl``.

    Parameters
    ----------
    recorder : Recorder
        A run with the artifacts of :class:`SignalRecord`.
    """

    artifact_path = "sig_analysis"
    depend_cls = SignalRecord

    def generate(self, **kwargs: object) -> None:
        """Compute and save the errors, over the rows that have both a prediction and a label.

        Raises
        ------
        ArtifactNotFound
            If there is no prediction or no label.
        DataError
            If no row has both.
        """
        self.check()
        prediction, label = self.load("pred.pkl"), self.load("label.pkl")
        both = paired(prediction.iloc[:, 0], label.iloc[:, 0]).dropna()
        if both.empty:
            raise DataError("No row has both a prediction and a label, so there is no error to measure.")
        error = float(((both["pred"] - both["label"]) ** 2).mean())
        metrics = {"MSE": error, "RMSE": float(np.sqrt(error))}
        self.recorder.log_metrics(MSE=metrics["MSE"], RMSE=metrics["RMSE"])
        self.save(**{"mse.pkl": metrics["MSE"], "rmse.pkl": metrics["RMSE"]})
        log.info("MSE %(MSE).6g, RMSE %(RMSE).6g", metrics)

    def list(self) -> builtins.list[str]:
        """Return the names of the artifacts."""
        return ["mse.pkl", "rmse.pkl"]
