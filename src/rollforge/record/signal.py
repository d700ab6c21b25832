"""Record of the prediction of the test segment and its label."""

from __future__ import annotations

import builtins

import pandas as pd

from rollforge.errors import ConfigError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.generate.label import LABEL_TAG, handler_labels, labels_to_text
from rollforge.market.frames import number_rows
from rollforge.record.base import ModelRecord

__all__ = ["SignalRecord"]


class SignalRecord(ModelRecord):
    """Saves ``pred.pkl`` (column ``score``) and ``label.pkl`` (the raw label), and tags the run with a description of
    the label.

    Parameters
    ----------
    model : Model
        A fitted model.
    dataset : Dataset
        A dataset with a test segment.
    recorder : Recorder
        The run.
    """

    @staticmethod
    def generate_label(dataset: DatasetH) -> pd.DataFrame:
        """Return the raw label of the test segment."""
        raw = DataHandlerLP.DK_R
        return dataset.prepare_rows("test", "label", raw)

    def generate(self, **kwargs: object) -> None:
        """Predict the test segment and save the prediction and the label."""
        if self.model is None or self.dataset is None:
            raise ConfigError("SignalRecord needs a model and a dataset.")
        prediction = self.model.predict(self.dataset)
        prediction = number_rows(prediction, f"The prediction of {type(self.model).__name__}")
        if isinstance(prediction, pd.Series):
            prediction = prediction.to_frame("score")
        self.save(**{"pred.pkl": prediction})
        if self.reports:
            title = f"The first of {len(prediction)} prediction results of the {type(self.model).__name__} model:"
            self.report(title, prediction.head())
        if isinstance(self.dataset, DatasetH):
            self.save(**{"label.pkl": self.generate_label(self.dataset)})
            labels = handler_labels(self.dataset.handler)
            if labels:
                self.recorder.set_tags(**{LABEL_TAG: labels_to_text(labels)})

    def list(self) -> builtins.list[str]:
        """Return the names of the artifacts."""
        return ["pred.pkl", "label.pkl"]
