"""IGMTF: compares a day with those of the train segment. Importing this file does not import PyTorch."""

from __future__ import annotations

from rollforge.models.torch import LIBRARY as LIBRARY
from rollforge.models.torch_models import GATs

__all__ = ["IGMTF"]


class IGMTF(GATs):
    """IGMTF: a recurrent network, whose hidden values are joined with those of similar samples on similar training days.

    A day is compared with the days of the train segment by the mean of its hidden values, and a sample with the samples of the
    ten most similar days. The hidden values of the train segment are computed before each epoch, and once more with the best
    weights. These are stored with the model, `hidden_size` numbers for each training sample, so that it predicts without the
    training data.

    Parameters
    ----------
    d_feat, hidden_size, num_layers, dropout
        See :class:`GRU`.
    base_model : {"GRU", "LSTM"}
        Kind of the recurrent network.
    model_path : path, optional
        File with the weights of a :class:`GRU` or :class:`LSTM` module, with which training begins.
    **kwargs
        Other arguments of :class:`TorchModel`.
    """

    NETWORKS = "rollforge.models.torch_igmtf_network"
    NETWORK = "IGMTFModel"
