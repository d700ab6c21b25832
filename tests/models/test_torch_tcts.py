"""TCTS learns several labels, and from the valid segment how much each of them counts."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from networks import filled, interrupted, waves
from rollforge.errors import ConfigError, ModelError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.timeseries import TSDatasetH
from rollforge.models.torch_tcts import TCTS
from rollforge.session import Session, using
from rollforge.testing.model import ModelSuite

HAVE = all(find_spec(name) is not None for name in ("torch", "skorch"))
pytestmark = pytest.mark.skipif(not HAVE, reason="PyTorch is not installed: make .venv/torch")

SEGMENTS = ModelSuite.segments


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path) -> Iterator[None]:
    """Each test trains on one thread, with a cache of its own."""
    with using(Session(threads=1, cache=str(tmp_path / "cache"))):
        yield


def with_labels(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with two more labels, which depend on the first one."""
    label = frame[("label", "y0")]
    further = {("label", "y1"): 2 * label, ("label", "y2"): label.where(label > 0, label / 2)}
    return pd.concat([frame, pd.DataFrame(further)], axis=1)


def table() -> pd.DataFrame:
    return with_labels(ModelSuite().make_frame())


def rows(segments: Any = None) -> DatasetH:
    return DatasetH(DataHandlerLP.from_df(table()), dict(SEGMENTS if segments is None else segments))


def tcts(**kwargs: Any) -> TCTS:
    options: dict[str, Any] = {
        "d_feat": 3, "hidden_size": 8, "num_layers": 1, "n_epochs": 3, "batch_size": 128, "fore_lr": 0.03,
        "weight_lr": 0.03, "input_dim": 3, "output_dim": 3, "lowest_valid_performance": 100.0, "checkpoint_seconds": 0.0,
        **kwargs,
    }  # fmt: skip
    return TCTS(**options)


@pytest.mark.slow
class TestSeveralLabels(ModelSuite):
    """A model of three labels."""

    missing_features = "excluded"
    needs_valid = True

    def make_model(self) -> TCTS:
        return tcts(checkpoint_seconds=1.0, n_epochs=4)

    def make_dataset(self, frame: pd.DataFrame, segments: Any = None) -> DatasetH:
        return super().make_dataset(frame if ("label", "y1") in frame else with_labels(frame), segments)


QLIB = {  # the losses of two epochs: two of the scores, then one of the weights; the loss on the valid segment
    "soft": ([0.469982, 0.243749, -0.33941, 0.182501, 0.197358, -0.389648], 0.498019),
    "hard": ([1.240821, 0.659347, -0.343355, 0.546234, 0.603913, -0.362174], 0.462381),
}


@pytest.mark.parametrize("mode", QLIB)
def test_it_computes_what_qlibs_does(mode: str) -> None:
    """The expected numbers are those of Qlib's training with the same first weights."""
    import torch

    from rollforge.models.torch_tcts_network import TCTSModel
    from rollforge.models.torch_training import Target

    network = filled(TCTSModel(2, 3, 2, 0.0, 8, 3, 1, mode))
    scores = torch.optim.Adam(network.parameters(), lr=0.1)
    weights = torch.optim.SGD(network.parameters(), lr=0.1)
    x, target, losses = waves(6, 8), Target(waves(6, 3), None), []
    for number in range(6):
        last = number % 3 == 2
        optimizer, loss = (weights, network.further_loss) if last else (scores, network.training_loss)
        optimizer.zero_grad()
        found = loss(x, target)
        found.backward()
        torch.nn.utils.clip_grad_value_(network.parameters(), 3.0)
        optimizer.step()
        losses.append(found.item())
        if last:
            network.end_epoch()
    assert losses == pytest.approx(QLIB[mode][0], abs=1e-5)
    assert network.validation_loss(x, target).item() == pytest.approx(QLIB[mode][1], abs=1e-5)


def test_an_epoch_reads_train_several_times_and_then_valid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whole batches, which differ between epochs; both networks learn, with optimizers and learning rates of their own."""
    from rollforge.models.torch_tcts_network import TCTSModel

    calls: list[tuple[str, float]] = []
    for name in ("training_loss", "further_loss"):
        loss = getattr(TCTSModel, name)

        def counted(self: Any, features: Any, target: Any, name: str = name, loss: Any = loss) -> Any:
            calls.append((name, float(target.label.sum())))
            return loss(self, features, target)

        monkeypatch.setattr(TCTSModel, name, counted)
    fixed = {"fore_lr": 0.0, "fore_optimizer": "gd"}, {"weight_lr": 0.0, "weight_optimizer": "gd"}
    weights = []
    for options in ({}, *fixed):  # the learning rate 0 leaves the first weights
        model = tcts(d_feat=1, n_epochs=1, steps=2, seed=4, **options)
        model.fit(rows())
        assert model.weights is not None
        weights.append({name: value.copy() for name, value in model.weights.items()})
    train, valid = 91 * 12 // 128, 30 * 12 // 128
    assert [name for name, _ in calls] == (["training_loss"] * 2 * train + ["further_loss"] * valid) * 3
    assert calls[:train] == calls[train : 2 * train]
    calls.clear()
    tcts(n_epochs=2, steps=1).fit(rows())
    first, second = set(calls[: train + valid]), set(calls[train + valid :])
    assert len(first) == len(second) == train + valid
    assert not first & second
    learned, of_weights, of_scores = weights
    for name in learned:
        own = name.startswith("weight_model")
        assert not np.array_equal(of_weights[name], of_scores[name]), name
        assert not np.array_equal(learned[name], (of_scores if own else of_weights)[name]), name


def test_weights_of_samples_multiply_losses() -> None:
    """A loss of equal weights is that without weights times the weight; a sample of weight 0 does not count."""
    import torch

    from rollforge.models.torch_tcts_network import TCTSModel
    from rollforge.models.torch_training import Target

    network, x, label = filled(TCTSModel(2, 3, 1, 0.0, 8, 3, 1)), waves(6, 8), waves(6, 3)
    some = torch.tensor([1.0, 1, 1, 0, 0, 0])
    for loss in (network.training_loss, network.further_loss, network.validation_loss):
        plain, heavy = loss(x, Target(label, None)).item(), loss(x, Target(label, torch.full((6,), 3.0))).item()
        assert heavy == pytest.approx(3 * plain)
        assert loss(x, Target(label, some)).item() == pytest.approx(loss(x[:3], Target(label[:3], None)).item() / 2)


def test_samples_of_several_days() -> None:
    """`input_dim` is the number of features of all days of a sample."""
    data = TSDatasetH(step_len=2, handler=DataHandlerLP.from_df(table()), segments=dict(SEGMENTS))
    model = tcts(input_dim=6, mode="hard")
    model.fit(data)
    prediction = model.predict(data)
    assert prediction.corr(table()[("label", "y0")].loc[prediction.index]) > 0.7
    with pytest.raises(ModelError, match="input_dim is 3, but a sample has 6 features"):
        tcts().fit(data)


# -- trainings that are repeated ---------------------------------------------------------------------------------------


def test_the_training_is_repeated_with_other_seeds(caplog: pytest.LogCaptureFixture) -> None:
    """Until the loss on the valid segment is small enough, or there were as many trainings as allowed; the best one is
    kept."""
    first, repeated = tcts(n_epochs=1), tcts(n_epochs=1, lowest_valid_performance=0.0, max_trainings=4)
    first.fit(rows())
    repeated.fit(rows())
    assert (first.trainings, repeated.trainings) == (1, 4)
    assert "above lowest_valid_performance (0)" in caplog.text
    losses = []
    for number in range(4):  # the seeds follow from the first one
        seed = 0 if number == 0 else int(np.random.SeedSequence([0, number]).generate_state(1)[0])
        model = tcts(n_epochs=1, seed=seed)
        model.fit(rows())
        losses.append(model.training_metrics()["loss.valid"][0])
    assert len(set(losses)) == 4
    assert repeated.training_metrics()["loss.valid"] == [min(losses)]
    assert np.argmin(losses) != 0
    enough = tcts(n_epochs=1, lowest_valid_performance=min(losses), max_trainings=9)
    enough.fit(rows())
    assert enough.trainings == np.argmin(losses) + 1
    pd.testing.assert_series_equal(enough.predict(rows()), repeated.predict(rows()), check_exact=True)


def test_an_interrupted_training_continues() -> None:
    """Both networks have the same bits as those of a training that was not interrupted."""
    continued, undisturbed = tcts(n_epochs=6), tcts(n_epochs=6)
    assert interrupted(continued, rows(), "TCTSModel", 3)[-1] == "interrupted"
    assert interrupted(continued, rows(), "TCTSModel", -1) == ["TCTSModel"] * 4
    undisturbed.fit(rows())
    assert continued.weights is not None
    assert undisturbed.weights is not None
    for name, weight in undisturbed.weights.items():
        np.testing.assert_array_equal(continued.weights[name], weight)


def test_an_interrupted_repetition_continues(tmp_path: Path) -> None:
    """Finished trainings are not repeated, and the result has the same bits as that of one that was not interrupted."""
    options: dict[str, Any] = {"n_epochs": 3, "lowest_valid_performance": 0.0, "max_trainings": 3}
    continued, undisturbed = tcts(**options, checkpoint_seconds=100.0), tcts(**options)
    assert interrupted(continued, rows(), "TCTSModel", 5) == ["TCTSModel"] * 5 + ["interrupted"]
    assert len(interrupted(continued, rows(), "TCTSModel", -1)) == 6  # the second training begins again, the first not
    assert not list((tmp_path / "cache" / "checkpoints").iterdir())
    assert len(interrupted(undisturbed, rows(), "TCTSModel", 6)) == 7
    assert len(interrupted(undisturbed, rows(), "TCTSModel", -1)) == 4  # after the second epoch of the second training
    other = tcts(**options, checkpoint_seconds=None)
    other.fit(rows())
    for model in (continued, undisturbed):
        assert model.training_metrics() == other.training_metrics()
        pd.testing.assert_series_equal(model.predict(rows()), other.predict(rows()), check_exact=True)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"target_label": 3}, r"^target_label: must be below output_dim \(3\), found 3\.$"),
        ({"mode": "softt"}, "mode: .*Did you mean 'soft'"),
        ({"metric": "ic"}, "^metric: "),
        ({"weight_optimizer": "adamm"}, "weight_optimizer: .*Did you mean 'adam'"),
        ({"lowest_valid_performance": "0.9"}, "^lowest_valid_performance: must be a number"),
        ({"lr": 0.1}, r"^lr: is not an argument of TCTS\. Use fore_lr\.$"),
    ],
)
def test_mistakes_in_arguments(arguments: dict[str, Any], said: str) -> None:
    """The message begins with the argument."""
    with pytest.raises(ConfigError, match=said):
        tcts(**arguments)


def test_the_number_of_labels_must_fit() -> None:
    """The message lists those of the dataset."""
    with pytest.raises(ModelError, match=r"TCTS has output_dim 2, but the dataset has 3 labels: y0, y1, y2\."):
        tcts(output_dim=2).fit(rows())
