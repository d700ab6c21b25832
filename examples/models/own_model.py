"""A model of your own: the features that correlate most with the label, each with its sign."""

import numpy as np

from rollforge import Model
from rollforge.errors import ModelError
from rollforge.models import prediction_features, training_samples


class MeanOfFeatures(Model):
    """The mean of the `count` features with the largest correlations, in units of their standard deviations."""

    def __init__(self, count: int = 10) -> None:
        self.count = count
        self.weights = None

    def fit(self, dataset, reweighter=None):
        train = training_samples(dataset, "train", model="MeanOfFeatures", reweighter=reweighter)
        features = train.features.fillna(0.0)
        deviation = features.std().replace(0.0, np.inf)
        weight = np.ones(len(features)) if train.weight is None else train.weight
        label = (train.label - np.average(train.label, weights=weight)) * weight
        correlation = (features - features.mean()).T @ label / deviation
        chosen = correlation.abs().nlargest(self.count).index
        self.weights = (np.sign(correlation) / deviation)[chosen] / self.count

    def predict(self, dataset, segment="test"):
        if self.weights is None:
            raise ModelError("MeanOfFeatures is not fitted yet.")
        features = prediction_features(dataset, segment, model="MeanOfFeatures")
        return features[self.weights.index].fillna(0.0) @ self.weights
