"""HIST: separates what the instruments of a concept share. Importing this file does not import PyTorch."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rollforge import safe_pickle
from rollforge.arguments import check_choice, is_whole_number
from rollforge.build import describe
from rollforge.errors import ConfigError, shown
from rollforge.features.dataset import Dataset
from rollforge.models.base import Reweighter
from rollforge.models.torch import LIBRARY as LIBRARY, TrainingOptions
from rollforge.models.torch_models import GATs
from rollforge.models.torch_samples import Examples

if TYPE_CHECKING:
    from rollforge.models.torch_training import Network

__all__ = ["HIST"]

log = logging.getLogger(__name__)

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class HIST(GATs):
    """HIST: a recurrent network, whose hidden values are split into what instruments share on a day and what they do not.

    They share something with the instruments of the same concepts, such as industries, and with those that are similar on the
    day. The concepts are read from two files when the model is fitted, and stored with the model. Nothing is downloaded.

    Parameters
    ----------
    d_feat, hidden_size, num_layers, dropout
        See :class:`GRU`.
    base_model : {"GRU", "LSTM"}
        Kind of the recurrent network.
    model_path : path, optional
        File with the weights of a :class:`GRU` or :class:`LSTM` module, with which training begins.
    stock2concept : path
        File of a matrix (stocks, concepts), written by ``numpy.save``: 1 if the stock belongs to the concept, otherwise 0; or
        another weight.
    stock_index : path
        File of a dictionary, written by ``numpy.save``: instrument -> number of its row in the matrix. Instruments without a
        number have no concepts.
    **kwargs
        Other arguments of :class:`TorchModel`.
    """

    NETWORKS = "rollforge.models.torch_hist_network"
    NETWORK = "HISTModel"

    def __init__(
        self,
        d_feat: int = 6,
        hidden_size: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        base_model: str = "GRU",
        model_path: str | None = None,
        stock2concept: str | None = None,
        stock_index: str | None = None,
        **kwargs: Unpack[TrainingOptions],
    ) -> None:
        check_choice("base_model", base_model, ("GRU", "LSTM"))
        for name, path in (("stock2concept", stock2concept), ("stock_index", stock_index)):
            if path is not None and not isinstance(path, (str, os.PathLike)):
                raise ConfigError(f"must be a path, found {shown(path)}.", path=name)
        self.stock2concept = None if stock2concept is None else str(stock2concept)
        self.stock_index = None if stock_index is None else str(stock_index)
        self.stock_numbers: dict[str, int] = {}
        """The contents of `stock_index` when the model was fitted."""
        super().__init__(d_feat, hidden_size, num_layers, dropout, base_model, model_path, **kwargs)
        self.begins_with_files = True

    def fit(
        self,
        dataset: Dataset,
        evals_result: dict[str, list[float]] | None = None,
        save_path: object = None,
        reweighter: Reweighter | None = None,
        **kwargs: object,
    ) -> None:
        numbers, count = _stock_numbers(self.stock_index), len(_concepts(self.stock2concept))
        last = max(numbers, key=lambda code: numbers[code])
        if numbers[last] >= count:
            raise ConfigError(
                f"{last} has the number {numbers[last]}, but the matrix in {self.stock2concept!r} has {count} rows.",
                path="stock_index",
            )
        self.stock_numbers = numbers
        super().fit(dataset, evals_result, save_path, reweighter, **kwargs)

    fit.__doc__ = GATs.fit.__doc__

    def _first_network(self) -> Network:
        network = super()._first_network()
        network.set_concepts(_concepts(self.stock2concept))
        return network

    def _grouped(self, train: Examples, dataset: Dataset) -> Examples:
        train = self._numbered(train)
        assert train.group is not None
        codes = train.index.get_level_values("instrument")[train.usable]
        without = codes[train.group < 0].unique()
        if len(without):
            log.warning(
                "%s: %d of the %d instruments of the 'train' segment are not in stock_index, so they have no concepts; "
                "the first is %s",
                type(self).__name__, len(without), codes.nunique(), without[0],
            )  # fmt: skip
        return train

    def _numbered(self, examples: Examples) -> Examples:
        which, codes = pd.factorize(examples.index.get_level_values("instrument")[examples.usable])
        numbers = np.array([self.stock_numbers.get(str(code), -1) for code in codes], np.int64)
        return dataclasses.replace(examples, group=numbers[which])


def _read(name: str, path: str | None, read: Callable[[IO[bytes]], Any], content: str) -> Any:
    if path is None:
        raise ConfigError(f"must be the path of {content}, written by numpy.save.", path=name)
    try:
        with Path(path).open("rb") as file:
            return read(file)
    except FileNotFoundError as exc:
        raise ConfigError(
            f"The file {path!r} does not exist. It has to contain {content}, written by numpy.save; nothing is downloaded.",
            path=name,
        ) from exc
    except Exception as exc:  # whatever a damaged file raises
        raise ConfigError(f"{path!r} cannot be read as {content}: {describe(exc)}", path=name) from exc


def _concepts(path: str | None) -> NDArray[np.float32]:
    """Return the matrix of a file: (stocks, concepts)."""
    content = "a matrix (stocks, concepts)"
    found = _read("stock2concept", path, lambda file: np.load(file, allow_pickle=False), content)
    if not isinstance(found, np.ndarray) or found.ndim != 2 or 0 in found.shape or found.dtype.kind not in "bfiu":
        raise ConfigError(f"{path!r} does not contain {content} of numbers.", path="stock2concept")
    if not np.isfinite(found).all() or (found < 0).any():
        raise ConfigError(
            f"the matrix in {path!r} contains missing, infinite or negative values.", path="stock2concept"
        )
    return found.astype(np.float32)


def _stock_numbers(path: str | None) -> dict[str, int]:
    """Return the dictionary of a file: instrument -> number. It is read as data, without running what a pickle names."""
    found = _read("stock_index", path, _pickled_in, "a dictionary {instrument: number}")
    numbers = dict(found) if isinstance(found, Mapping) else {}
    valid = all(is_whole_number(n) and n >= 0 for n in numbers.values())
    if not numbers or not valid or not all(isinstance(code, str) for code in numbers):
        raise ConfigError(f"{path!r} does not contain a dictionary {{instrument: number}}.", path="stock_index")
    return {code: int(number) for code, number in numbers.items()}


def _pickled_in(file: IO[bytes]) -> object:
    """Return the single object that a file of ``numpy.save`` contains."""
    shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    if shape != () or not dtype.hasobject:
        raise ValueError(f"it contains an array of shape {shape} and type {dtype}")
    return safe_pickle.load(file).item()
