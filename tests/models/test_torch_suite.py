"""PyTorch models of rows and of samples that span several days satisfy the suite for models."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rollforge.features.handler import DataHandlerLP
from rollforge.features.timeseries import TSDatasetH
from rollforge.models.torch import TorchModel
from rollforge.models.torch_adarnn import ADARNN
from rollforge.models.torch_add import ADD
from rollforge.models.torch_models import GRU, DNNModelPytorch
from rollforge.models.torch_tabnet import TabnetModel
from rollforge.session import Session, using
from rollforge.testing.model import ModelSuite

HAVE = all(find_spec(name) is not None for name in ("torch", "skorch"))
pytestmark = pytest.mark.skipif(not HAVE, reason="PyTorch is not installed: make .venv/torch")


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path) -> Iterator[None]:
    """Each test trains on one thread, with a cache of its own."""
    with using(Session(threads=1, cache=str(tmp_path / "cache"))):
        yield


class TestDense(ModelSuite):
    """A model of rows."""

    missing_features = "excluded"

    def make_model(self) -> TorchModel:
        return DNNModelPytorch(
            lr=0.05, max_steps=45, eval_steps=15, batch_size=128, optimizer="adam",
            pt_model_kwargs={"input_dim": 3, "layers": [16]},
        )  # fmt: skip


class TestDays(ModelSuite):
    """A model of samples that span several days."""

    missing_features = "excluded"

    def make_model(self) -> TorchModel:
        return GRU(d_feat=3, hidden_size=8, num_layers=1, n_epochs=5, lr=0.05, batch_size=128)

    def make_frame(self, labels: int = 1) -> pd.DataFrame:
        return super().make_frame(labels).sort_index()  # as samples are sorted

    def make_dataset(self, frame: pd.DataFrame, segments: Any = None) -> TSDatasetH:
        chosen = dict(self.segments if segments is None else segments)
        return TSDatasetH(step_len=2, handler=DataHandlerLP.from_df(frame), segments=chosen)


class TestTabnet(ModelSuite):
    """A model that is trained in two stages."""

    missing_features = "excluded"

    def make_model(self) -> TorchModel:
        return TabnetModel(
            d_feat=3, out_dim=4, n_d=4, n_a=4, n_steps=2, n_shared=1, n_ind=1, n_epochs=4, pretrain_n_epochs=1,
            batch_size=64, lr=0.04,
        )  # fmt: skip


class TestPeriods(ModelSuite):
    """A model that learns from several periods."""

    missing_features = "excluded"

    def make_model(self) -> TorchModel:
        return ADARNN(
            d_feat=3, len_seq=1, hidden_size=8, num_layers=1, n_epochs=4, pre_epoch=1, loss_type="mmd", lr=0.05,
            batch_size=64,
        )  # fmt: skip


class TestMarketState(ModelSuite):
    """A model that also learns the state of the market, which depends on all labels of a day."""

    missing_features = "excluded"

    def make_model(self) -> TorchModel:
        return ADD(d_feat=3, hidden_size=8, num_layers=1, n_epochs=5, lr=0.05, batch_size=64)
