"""IGMTF compares a day with those of the train segment, also after it was saved."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from networks import filled, interrupted, waves
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.models.torch_igmtf import IGMTF
from rollforge.session import Session, using
from rollforge.testing.model import ModelSuite

HAVE = all(find_spec(name) is not None for name in ("torch", "skorch"))
pytestmark = pytest.mark.skipif(not HAVE, reason="PyTorch is not installed: make .venv/torch")

SEGMENTS = {**ModelSuite.segments, "train": ("2020-03-01", "2020-03-31"), "valid": ("2020-04-01", "2020-04-10")}
"""Fewer days, because each of them is a batch."""


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path) -> Iterator[None]:
    """Each test trains on one thread, with a cache of its own."""
    with using(Session(threads=1, cache=str(tmp_path / "cache"))):
        yield


def igmtf(**kwargs: Any) -> IGMTF:
    options: dict[str, Any] = {
        "d_feat": 1, "hidden_size": 8, "num_layers": 1, "n_epochs": 3, "lr": 0.01, "checkpoint_seconds": 0.0, **kwargs,
    }  # fmt: skip
    return IGMTF(**options)


def data(frame: pd.DataFrame | None = None) -> DatasetH:
    chosen = ModelSuite().make_frame() if frame is None else frame
    return DatasetH(DataHandlerLP.from_df(chosen), dict(SEGMENTS))


@pytest.mark.slow
class TestTrainingDays(ModelSuite):
    """A model that remembers the samples of the train segment."""

    missing_features = "excluded"
    segments = SEGMENTS

    def make_model(self) -> IGMTF:
        return IGMTF(d_feat=3, hidden_size=8, num_layers=1, n_epochs=3, lr=0.06)


QLIB = {  # the scores, and those after a step against the gradient
    "GRU": ([0.809471, 0.809362, 0.809236, 0.809144], [0.008984, 0.008876, 0.008754, 0.008666]),
    "LSTM": ([0.808738, 0.80873, 0.808721, 0.808717], [0.021459, 0.021458, 0.021459, 0.021456]),
}


@pytest.mark.parametrize("kind", QLIB)
def test_it_computes_what_qlibs_does(kind: str) -> None:
    """The expected numbers are those of Qlib's module with the same weights; two of the twelve training days are not near
    enough."""
    import torch

    from rollforge.models.torch_igmtf_network import IGMTFModel

    network = filled(IGMTFModel(2, 3, 2, 0.0, kind))
    x = waves(30, 8)
    network.remember(torch.split(x[:26], [1, 2, 3, 2, 1, 2, 3, 2, 3, 2, 3, 2]), trained=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
    first = network(x[26:])[:, 0]
    (first - waves(4)).square().mean().backward()
    optimizer.step()
    torch.testing.assert_close(first, torch.tensor(QLIB[kind][0]), atol=2e-6, rtol=0)
    torch.testing.assert_close(network(x[26:])[:, 0], torch.tensor(QLIB[kind][1]), atol=1e-5, rtol=0)


def test_the_most_similar_days_are_chosen() -> None:
    """Ten of them, or all if there are fewer; a sample learns from at most ten samples of these days."""
    import torch

    from rollforge.models.torch_igmtf_network import IGMTFModel

    network = IGMTFModel(1, 2)
    angles = torch.linspace(0, 3, 16)
    days = torch.stack([angles.cos(), angles.sin()], dim=1)[:, None].repeat(1, 2, 1)  # of two equal samples
    network.hidden = lambda x: x  # type: ignore[method-assign]
    for count, expected in ((16, 10), (4, 4)):
        network.remember(days[:count], trained=False)
        found = network._similar_days(days[2])
        assert found.tolist() == days[:expected].reshape(-1, 2).tolist()
    assert network(days[2][:1]).shape == (1, 1)  # a day of one sample, and fewer than ten others


def test_a_trained_model_remembers_the_train_segment_with_its_best_weights() -> None:
    """The hidden values are those of the weights that are kept, of each sample that was learned from."""
    import torch

    frame = ModelSuite().make_frame().sort_index()
    frame.loc[(slice("2020-03-01", "2020-03-10"), ["I1", "I2"]), ("label", "y0")] = np.nan  # 20 samples
    frame.loc[("2020-03-15", "I3"), ("feature", "a")] = np.nan
    model = igmtf(d_feat=3, lr=0.03, n_epochs=4)
    model.fit(data(frame))
    losses = model.training_metrics()["loss.valid"]
    assert model.weights is not None
    assert len(model.weights["known._extra_state"]) == 31 * 12 - 21
    assert model.weights["first_rows._extra_state"][:2].tolist() == [0, 10]
    day = frame["feature"].loc["2020-03-31"].to_numpy(copy=True)
    network: Any = model._network
    with torch.no_grad():
        expected = network.hidden(torch.from_numpy(day)).numpy()
    np.testing.assert_allclose(model.weights["known._extra_state"][-12:], expected, rtol=1e-5, atol=1e-6)
    label = frame[("label", "y0")].loc["2020-04-01":"2020-04-10"]  # type: ignore[misc]
    loss = float(((model.predict(data(frame), "valid") - label) ** 2).mean())
    assert loss == pytest.approx(min(losses), rel=0.2)


def test_an_interrupted_training_continues(tmp_path: Path) -> None:
    """The result has the same bits, and the checkpoint contains nothing of what is remembered."""
    import torch

    continued, undisturbed = igmtf(), igmtf()
    assert interrupted(continued, data(), "IGMTFModel", 3)[-1] == "interrupted"
    (file,) = (tmp_path / "cache" / "checkpoints").iterdir()
    assert torch.load(file, weights_only=True)["weights"]["known._extra_state"].numel() == 0
    assert interrupted(continued, data(), "IGMTFModel", -1) == ["IGMTFModel"]
    undisturbed.fit(data())
    assert continued.training_metrics() == undisturbed.training_metrics()
    pd.testing.assert_series_equal(continued.predict(data()), undisturbed.predict(data()), check_exact=True)


def test_the_first_weights_are_part_of_the_checkpoints_name(tmp_path: Path) -> None:
    """Training does not continue from a checkpoint of a training that began with another content of `model_path`."""
    import torch

    from rollforge.models.torch_networks import GRUModel

    for number in (1, 2):
        torch.save(filled(GRUModel(1, 8, 1)).state_dict(), tmp_path / "gru.pt")
        if number == 2:
            torch.save(GRUModel(1, 8, 1).state_dict(), tmp_path / "gru.pt")
        assert interrupted(igmtf(model_path=tmp_path / "gru.pt"), data(), "IGMTFModel", 2)[-1] == "interrupted"
        assert len(list((tmp_path / "cache" / "checkpoints").iterdir())) == number
