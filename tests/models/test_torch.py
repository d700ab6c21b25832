"""PyTorch: any module on one training loop; the same bits again, also after the process was killed."""

from __future__ import annotations

import inspect
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.documents.command_line import call

from networks import filled, interrupted, waves
from rollforge.build import build, locate
from rollforge.errors import ArtifactUnreadable, BuildError, ConfigError, ModelError, TaskNotSerializable
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.features.timeseries import TSDatasetH
from rollforge.models.base import Reweighter
from rollforge.models.torch import TorchModel
from rollforge.models.torch_adarnn import ADARNN
from rollforge.models.torch_add import ADD
from rollforge.models.torch_models import (
    ALSTM,
    GRU,
    KRNN,
    LSTM,
    SFM,
    TCN,
    TSTCN,
    GATs,
    GeneralPTNN,
    LocalformerModel,
    Sandwich,
    TransformerModel,
)
from rollforge.models.torch_tabnet import TabnetModel
from rollforge.session import Session, using
from rollforge.track import artifact
from rollforge.track.artifact_files import LocalFiles

HAVE = all(find_spec(name) is not None for name in ("torch", "skorch"))
pytestmark = pytest.mark.skipif(not HAVE, reason="PyTorch is not installed: make .venv/torch")

EXAMPLES = Path(__file__).parents[2] / "examples"
SEGMENTS = {
    "train": ("2020-01-01", "2020-03-31"),
    "valid": ("2020-04-01", "2020-04-30"),
    "test": ("2020-05-01", "2020-05-31"),
}
NET = "rollforge.models.torch_networks.Net"
OWN = """
import torch

class Sum(torch.nn.Module):
    def __init__(self, features, start=0.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((features,), start))

    def forward(self, x):
        return x @ self.weight
"""


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path) -> Iterator[None]:
    """Each test trains on one thread, with a cache of its own."""
    with using(Session(threads=1, cache=str(tmp_path / "cache"))):
        yield


@pytest.fixture(scope="module")
def torch_market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo market of two years."""
    from rollforge.market.demo import make_demo

    folder = tmp_path_factory.mktemp("demo") / "market"
    make_demo(folder, instruments=20, years=2)
    return folder


def table(features: int = 6) -> pd.DataFrame:
    """Return a label that is a weighted sum of the first three features plus a little noise."""
    numbers = np.random.default_rng(0)
    days, codes = pd.date_range("2020-01-01", "2020-05-31"), [f"I{i}" for i in range(8)]
    index = pd.MultiIndex.from_product([days, codes], names=["datetime", "instrument"])
    x = numbers.standard_normal((len(index), features))
    y = x[:, :3] @ [1.0, -2.0, 0.5] + 0.1 * numbers.standard_normal(len(index))
    columns = [("feature", f"f{i}") for i in range(features)] + [("label", "y")]
    return pd.DataFrame(np.column_stack([x, y]).astype(np.float32), index, pd.MultiIndex.from_tuples(columns))


def rows(frame: pd.DataFrame | None = None, segments: Any = None) -> DatasetH:
    return DatasetH(DataHandlerLP.from_df(table() if frame is None else frame), segments or SEGMENTS)


def days(frame: pd.DataFrame | None = None, steps: int = 3) -> TSDatasetH:
    handler = DataHandlerLP.from_df(table() if frame is None else frame)
    return TSDatasetH(step_len=steps, handler=handler, segments=SEGMENTS)


def net(**kwargs: Any) -> TorchModel:
    """Return a model that trains in a tenth of a second."""
    options = {"n_epochs": 4, "lr": 0.05, "batch_size": 128, **kwargs}
    return TorchModel(NET, {"input_dim": 6, "layers": [8]}, **options)


def correlation(model: Any, data: Any) -> float:
    prediction = model.predict(data)
    return float(prediction.corr(table()[("label", "y")].loc[prediction.index]))


# -- Qlib's models ----------------------------------------------------------------------------------------------------


NETWORKS = {
    "GRU": lambda: GRU(hidden_size=8),
    "LSTM": lambda: LSTM(hidden_size=8),
    "ALSTM": lambda: ALSTM(hidden_size=8, rnn_type="LSTM"),
    "TCN": lambda: TCN(n_chans=8, num_layers=2, dropout=0.0, kernel_size=2, lr=0.02),
    "Transformer": lambda: TransformerModel(d_feat=6, d_model=8),
    "Localformer": lambda: LocalformerModel(d_feat=6, d_model=8),
    "GATs": lambda: GATs(hidden_size=8, base_model="LSTM"),
    "KRNN": lambda: KRNN(cnn_dim=8, rnn_dim=8),
    "Sandwich": lambda: Sandwich(cnn_dim_1=8, cnn_dim_2=8),
    "SFM": lambda: SFM(hidden_size=8, freq_dim=4, optimizer="adam"),
    "ADARNN": lambda: ADARNN(hidden_size=8, len_seq=3, loss_type="coral", pre_epoch=2),
    "ADD": lambda: ADD(hidden_size=8, base_model="LSTM"),
    "TabNet": lambda: TabnetModel(d_feat=18, out_dim=8, n_d=8, n_a=8, n_steps=2, n_shared=1, pretrain_n_epochs=1),
    "GeneralPTNN": lambda: GeneralPTNN(
        pt_model_kwargs={"d_feat": 6, "hidden_size": 8, "num_layers": 1, "dropout": 0.0}
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_each_model_learns(name: str) -> None:
    """Each model learns from samples of several days too. Rows that contain the same days give the same output of its
    module."""
    import torch

    model = NETWORKS[name]()
    model.n_epochs, model.lr, model.batch_size = 8, 0.02, 64
    model.fit(days())
    assert correlation(model, days()) > 0.8
    network = model._network
    x = torch.randn(5, 3, 6)
    flat = x.transpose(1, 2).reshape(5, -1)  # sorted by feature, then by day
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(flat))


def test_attention_is_computed_by_pairs() -> None:
    """The sum that stands for all pairs of instruments equals the attention of each pair."""
    import torch

    from rollforge.models.torch_networks import GATModel

    torch.manual_seed(0)
    network = GATModel(d_feat=2, hidden_size=4, num_layers=1)
    x = torch.randn(3, 5, 2)
    with torch.no_grad():
        hidden = network.rnn(x)[0][:, -1]
        seen = network.transformation(hidden)
        pairs = [[torch.cat([seen[j], seen[i]]) @ network.a[:, 0] for j in range(3)] for i in range(3)]
        weights = torch.nn.functional.leaky_relu(torch.tensor(pairs)).softmax(dim=1)
        mixed = torch.nn.functional.leaky_relu(network.fc(weights @ hidden + hidden))
        torch.testing.assert_close(network(x), network.fc_out(mixed))


# -- training ----------------------------------------------------------------------------------------------------------


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    """Training stops after epochs without improvement; the loss of the prediction is the smallest one."""
    model = net(n_epochs=60, lr=0.2, early_stop=3)
    results: dict[str, Any] = {}
    model.fit(rows(), evals_result=results)
    losses = results["valid"]
    assert len(losses) == int(np.argmin(losses)) + 4 < 60
    assert model.training_metrics()["loss.valid"] == losses
    label = table()[("label", "y")]
    prediction = model.predict(rows(), "valid")
    assert float(((prediction - label.loc[prediction.index]) ** 2).mean()) == pytest.approx(min(losses), rel=1e-4)


@pytest.mark.parametrize("options", [{"metric": "ic"}, {"loss": "huber"}, {"optimizer": "adamw", "weight_decay": 0.1},
                                     {"scheduler": "default"},
                                     {"scheduler": {"class": "StepLR", "kwargs": {"step_size": 2}}},
                                     {"mixed_precision": "bf16"}, {"clip": None, "weight_decay": 0.01}])  # fmt: skip
def test_options_of_the_training(options: dict[str, Any]) -> None:
    """Each one is used, and the model learns with it."""
    model, plain = net(**options), net()
    model.fit(rows())
    plain.fit(rows())
    assert correlation(model, rows()) > 0.6
    assert (
        "clip" in options
        or not model.predict(rows()).equals(plain.predict(rows()))
        or options == {"scheduler": "default"}
    )
    if "metric" in options:
        daily = pd.concat({"p": model.predict(rows(), "valid"), "y": table()[("label", "y")]}, axis=1, join="inner")
        ic = daily.groupby("datetime")[["p", "y"]].apply(lambda day: day["p"].corr(day["y"])).mean()
        assert max(model.training_metrics()["ic.valid"]) == pytest.approx(ic, abs=1e-3)


def test_random_numbers_and_threads_of_the_program_are_unchanged() -> None:
    """Training has its own."""
    import torch

    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    model = net()
    model.fit(rows())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    other = net(seed=1)
    other.fit(rows())
    assert not model.predict(rows()).equals(other.predict(rows()))


class _Later(Reweighter):
    def reweight(self, data: pd.DataFrame) -> pd.Series:
        """Return a weight of 0 for the first half of a segment."""
        day = data.index.get_level_values("datetime")
        return pd.Series(np.where(day > day.min() + (day.max() - day.min()) / 2, 1.0, 0.0), data.index)


@pytest.mark.parametrize("reweighter", [None, _Later()])
def test_parameters_are_searched_with_samples_of_several_days(reweighter: Any, tmp_path: Path) -> None:
    """The metric is computed from the samples' own days with a weight; the best module is kept, and survives being saved."""
    pytest.importorskip("optuna", reason="no optuna: pip install 'rollforge[optuna]'")
    from rollforge.models import TunedModel

    inside = {"class": "GRU", "module_path": "rollforge.models", "kwargs": {"n_epochs": 3, "num_layers": 1, "lr": 0.05}}
    model = TunedModel(inside, {"hidden_size": [2, 16]}, n_trials=3, metric="ic", seed=1)
    model.fit(days(), reweighter=reweighter)
    values = {one["params"]["hidden_size"]: one["value"] for one in model.trials}
    assert len(values) == 2
    assert model.model.hidden_size == max(values, key=lambda size: values[size])
    found = pd.concat({"p": model.predict(days(), "valid"), "y": table()[("label", "y")]}, axis=1, join="inner")
    if reweighter is not None:
        found = found.loc[pd.Timestamp("2020-04-16") :]
    ic = found.groupby("datetime")[["p", "y"]].apply(lambda day: day["p"].corr(day["y"])).mean()
    assert max(values.values()) == pytest.approx(ic, abs=1e-6)
    loaded = artifact.load_file(saved(model, tmp_path))
    pd.testing.assert_series_equal(loaded.predict(days()), model.predict(days()), check_exact=True)


KILLED = """
import sys, pickle
from rollforge.session import Session, using
model, data = pickle.load(open(sys.argv[1], "rb"))
with using(Session(threads=1, cache=sys.argv[2])):
    model.fit(data)
"""


def test_a_killed_training_continues_after_its_last_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The result has the same bits as that of a training that was not interrupted; dropout and the scheduler included."""
    data, cache, file = rows(), tmp_path / "killed", tmp_path / "job"

    def model() -> TorchModel:
        return net(n_epochs=100, early_stop=100, scheduler="default", lr=0.01, checkpoint_seconds=0.0)

    file.write_bytes(pickle.dumps((model(), data)))
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(file), str(cache)])
    try:
        deadline = time.monotonic() + 300
        while not list(cache.glob("checkpoints/*.pt")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    undisturbed, continued = model(), model()
    undisturbed.fit(data)
    with using(Session(threads=1, cache=str(cache))), caplog.at_level("INFO"):
        continued.fit(data)
    assert "training continues after epoch" in caplog.text
    assert continued.training_metrics() == undisturbed.training_metrics()
    assert len(continued.training_metrics()["loss.train"]) == 100
    pd.testing.assert_series_equal(continued.predict(data), undisturbed.predict(data), check_exact=True)
    assert not list(cache.glob("checkpoints/*"))  # the training is over


def test_a_checkpoint_belongs_to_one_model_and_its_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other data or arguments begin anew, and so does a training whose checkpoint is damaged."""
    import torch

    from rollforge.models import torch_training

    def stopped(model: TorchModel, frame: pd.DataFrame) -> list[Path]:
        """Interrupt the training after its third epoch, and return the checkpoints."""
        count = 0

        def interrupt(self: Any, net: Any, **kwargs: Any) -> None:
            nonlocal count
            count += 1
            if count == 4:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch_training._Progress, "on_epoch_begin", interrupt)
            with pytest.raises(KeyboardInterrupt):
                model.fit(rows(frame))
        return sorted((tmp_path / "cache" / "checkpoints").iterdir())

    other = table()
    other.iloc[100, 0] += 1.0
    assert len(stopped(net(n_epochs=9, checkpoint_seconds=0.0), table())) == 1
    assert len(stopped(net(n_epochs=9, checkpoint_seconds=0.0, lr=0.04), table())) == 2
    assert len(stopped(net(n_epochs=9, checkpoint_seconds=0.0), other)) == 3
    for file in (tmp_path / "cache" / "checkpoints").iterdir():
        assert len(torch.load(file, weights_only=True)["scores"]) == 3
        file.write_bytes(file.read_bytes()[:-100])
    model = net(n_epochs=9, checkpoint_seconds=0.0)
    model.fit(rows())
    assert "cannot be read, so the training begins anew" in caplog.text
    assert len(model.training_metrics()["loss.train"]) == 9


# -- training in stages ------------------------------------------------------------------------------------------------


def tabnet(**kwargs: Any) -> TabnetModel:
    options: dict[str, Any] = {"n_epochs": 4, "pretrain_n_epochs": 3, "lr": 0.03, "batch_size": 128, **kwargs}
    return TabnetModel(6, out_dim=4, n_d=4, n_a=4, n_steps=2, n_shared=1, n_ind=1, checkpoint_seconds=0.0, **options)


def adarnn(**kwargs: Any) -> ADARNN:
    options: dict[str, Any] = {
        "n_epochs": 5,
        "pre_epoch": 1,
        "len_seq": 3,
        "loss_type": "mmd",
        "batch_size": 64,
        **kwargs,
    }
    return ADARNN(2, 4, lr=0.02, checkpoint_seconds=0.0, **options)


def test_adarnn_has_no_batch_per_day() -> None:
    """The periods that its batches compare are of different days."""
    with pytest.raises(ConfigError, match=r"^by_day: must be false, because a batch has samples of all periods\.$"):
        adarnn(by_day=True)


def test_adarnn_needs_samples_of_its_length() -> None:
    """The message has both lengths."""
    with pytest.raises(ModelError, match="a sample has 3 steps of 6 features, but len_seq is 5"):
        ADARNN(hidden_size=8, len_seq=5, n_epochs=1, pre_epoch=1).fit(days())


def test_add_has_no_other_loss() -> None:
    """ADD learns from squared errors, so another loss would only be that of the valid segment."""
    with pytest.raises(ConfigError, match=r"^loss: "):
        ADD(loss="binary")


def add() -> ADD:
    return ADD(2, 4, n_epochs=5, lr=0.02, batch_size=64, checkpoint_seconds=0.0)


@pytest.mark.parametrize(
    ("made", "module", "again"),
    [
        (tabnet, "TabNetPretraining", ["TabNetPretraining", *["TabNetModel"] * 4]),
        (tabnet, "TabNetModel", ["TabNetModel"] * 2),
        (adarnn, "AdaRNNModel", ["AdaRNNModel"] * 3),
        (add, "ADDModel", ["ADDModel"] * 3),
    ],
)
def test_a_stage_continues_where_it_was_interrupted(made: Any, module: str, again: list[str], tmp_path: Path) -> None:
    """The pretraining is not repeated, and the result has the same bits as that of a training that was not interrupted."""
    continued, undisturbed = made(), made()
    assert interrupted(continued, rows(), module, 3)[-1] == "interrupted"
    assert interrupted(continued, rows(), module, -1) == again
    assert not list((tmp_path / "cache" / "checkpoints").iterdir())
    undisturbed.fit(rows())
    assert continued.training_metrics() == undisturbed.training_metrics()
    pd.testing.assert_series_equal(continued.predict(rows()), undisturbed.predict(rows()), check_exact=True)


def test_the_pretraining_has_segments_of_its_own() -> None:
    """The encoder learns from them, if the dataset has them; without pretraining, nothing but the training is reported."""
    early = {"pretrain": ("2020-01-01", "2020-01-31"), "pretrain_validation": ("2020-02-01", "2020-02-15")}
    models = {"own": tabnet(), "same": tabnet(), "none": tabnet(pretrain=False), "hidden": tabnet(ps=0.5)}
    for name, model in models.items():
        model.fit(rows(segments={**SEGMENTS, **early} if name == "own" else None))
    curves = {name: model.training_metrics() for name, model in models.items()}
    assert curves["own"]["pretrain_loss.valid"] != curves["same"]["pretrain_loss.valid"]
    assert curves["hidden"]["pretrain_loss.valid"] != curves["same"]["pretrain_loss.valid"]
    assert set(curves["none"]) == {"loss.train", "loss.valid"}
    predictions = [model.predict(rows()) for model in models.values()]
    assert not any(one.equals(other) for i, one in enumerate(predictions) for other in predictions[:i])


def test_tabnet_computes_what_qlibs_does() -> None:
    """The expected numbers are those of Qlib's modules with the same weights: output, entropy of the masks, pretraining's
    loss."""
    import torch

    from rollforge.models.torch_tabnet_network import TabNet, TabNetDecoder, reconstruction_loss

    encoder = filled(TabNet(4, 3, n_d=2, n_a=2, n_shared=1, n_ind=1, n_steps=3, relax=1.3, vbs=3))
    x = waves(6, 4)
    hidden = (x > 0.4).float()
    out, entropy = encoder(x * (1 - hidden), 1 - hidden)
    expected = [
        [0.705527, 0.41113, -0.178012], [0.420735, 0.454649, 0.07056], [0.572062, 0.328701, 0.024059],
        [0.420735, 0.454649, 0.07056], [0.688777, 0.371666, -0.128415], [0.508827, 0.469422, -0.029828],
    ]  # fmt: skip
    torch.testing.assert_close(out, torch.tensor(expected), atol=1e-5, rtol=0)
    assert entropy.item() == pytest.approx(0.378432, abs=1e-5)
    found = filled(TabNetDecoder(3, 4, 1, 1, 3, 2))(out)
    assert reconstruction_loss(found, x, hidden).item() == pytest.approx(32.302, rel=1e-4)


QLIB_TRANSFER = {  # the distance in the first epochs, and later; the first loss
    "cosine": (0.0, 0.0, 2.500741),
    "mmd": (0.205709, 0.083783, 2.603596),
    "mmd_rbf": (14.572453, 4.773019, 9.786968),
    "coral": (0.000125, 0.000087, 2.500804),
    "pairwise": (1.379859, 0.557509, 3.190671),
}


@pytest.mark.parametrize("kind", QLIB_TRANSFER)
def test_adarnn_computes_what_qlibs_does(kind: str) -> None:
    """The expected numbers are those of Qlib's module with the same weights."""
    from rollforge.models.torch_adarnn_network import AdaRNNModel
    from rollforge.models.torch_training import Target

    network = filled(AdaRNNModel(2, 3, 2, len_seq=4, len_win=1, loss_type=kind, pre_epoch=1, dw=0.5))
    x = waves(6, 4, 2)
    loss = network.training_loss(x, Target(waves(6), None)).item()
    pair = [layer.chunk(2) for layer in network.hidden(x)]
    first = network.transfer(pair).item()
    network.end_epoch()
    network.weights.fill_(0.25)
    assert (first, network.transfer(pair).item(), loss) == pytest.approx(QLIB_TRANSFER[kind], rel=1e-5, abs=1e-6)


def test_weights_of_adarnn_follow_the_distances() -> None:
    """A step whose distance grew since the epoch before has a larger weight; the weights of a layer add up to 1."""
    import torch

    from rollforge.models.torch_adarnn_network import AdaRNNModel

    network = AdaRNNModel(1, 2, 1, len_seq=2, pre_epoch=0)
    for distances in ([1.0, 1.0], [2.0, 0.5]):
        network.distances.copy_(torch.tensor([distances]))
        network.end_epoch()
    raised = 0.5 * (1 + 1 / (1 + np.exp(-1.0)))
    expected = torch.tensor([[raised, 0.5]], dtype=torch.float32) / (raised + 0.5)
    torch.testing.assert_close(network.weights, expected)


QLIB_ADD = {  # the first loss, and the scores after it
    "GRU": (7.74049, [1.160589, 1.278043, 1.228588, 1.025178, 0.903669, 0.990878]),
    "LSTM": (8.077123, [1.157668, 1.203901, 1.170188, 1.057912, 0.993136, 1.044767]),
}


@pytest.mark.parametrize("kind", QLIB_ADD)
def test_add_computes_what_qlibs_does(kind: str) -> None:
    """The expected numbers are those of Qlib's module with the same weights."""
    import torch

    from rollforge.models.torch_add_network import ADDModel
    from rollforge.models.torch_training import Target

    network = filled(ADDModel(2, 3, 2, 0.0, 0.0, kind, mu=0.2))
    loss = network.training_loss(waves(6, 8), Target(waves(6), None, torch.tensor([0, 1, 2, 0, 1, 2])))
    assert loss.item() == pytest.approx(QLIB_ADD[kind][0], rel=1e-5)
    found = network.eval()(waves(6, 8))[:, 0]
    torch.testing.assert_close(found, torch.tensor(QLIB_ADD[kind][1]), atol=1e-5, rtol=0)


def test_an_encoder_unlearns_the_target_of_the_other_one() -> None:
    """The gradient is reversed, first with strength 0, then with up to `gamma_clip`."""
    import torch

    from rollforge.models.torch_add_network import ADDModel, reversed_gradient

    x = torch.tensor([1.0, 2.0], requires_grad=True)
    same = reversed_gradient(x, 0.3)
    assert same.tolist() == [1.0, 2.0]
    (same * torch.tensor([1.0, 10.0])).sum().backward()
    assert x.grad.tolist() == pytest.approx([-0.3, -3.0])
    network, strengths = ADDModel(2, 3, gamma=0.8, gamma_clip=0.4), []
    for _ in range(3):
        strengths.append(network.strength)
        network.end_epoch()
    assert strengths == pytest.approx([0.0, 2 / (1 + np.exp(-0.8)) - 1, 0.4])


def test_reversed_gradients_reach_only_the_encoders() -> None:
    """The heads learn the same whatever the strength; what the encoders learn depends on it."""
    import torch

    from rollforge.models.torch_add_network import ADDModel
    from rollforge.models.torch_training import Target

    gradients = []
    for epoch in (0, 9):
        network = filled(ADDModel(2, 3))
        network.epoch += epoch
        network.training_loss(waves(6, 8), Target(waves(6), None, torch.tensor([0, 1, 2, 0, 1, 2]))).backward()
        gradients.append({name: weight.grad for name, weight in network.named_parameters()})
    first, later = gradients
    changed = {name.partition(".")[0] for name in first if not torch.equal(first[name], later[name])}
    assert changed == {"enc_excess", "enc_market"}


@pytest.mark.parametrize("made", [adarnn, add])
def test_a_module_counts_the_epochs_of_its_training(made: Any) -> None:
    """The weights that are kept are those after the best epoch."""
    model = made()
    model.fit(rows())
    assert model.weights["epoch"] == np.argmin(model.training_metrics()["loss.valid"]) + 1


def groups(model: Any, labels: list[float]) -> list[int]:
    """Return the group of each sample of a train segment in which all instruments of a day have the same label."""
    from rollforge.models.torch_samples import learning_examples

    frame = table().loc[: pd.Timestamp("2020-01-01") + pd.Timedelta(days=len(labels) - 1)].copy()
    frame[("label", "y")] = np.repeat(labels, 8)
    data = rows(frame, {"train": SEGMENTS["train"]})
    found = model._grouped(learning_examples(data, "train", model="model"), data).group
    return [int(one) for one in found.reshape(-1, 8)[:, 0]]


def test_groups_are_periods_or_states_of_the_market() -> None:
    """The first periods have one day more; the middle third of the days is state 1."""
    assert groups(adarnn(n_splits=3), [1.0, 2.0, 3.0, 4.0, 5.0]) == [0, 0, 1, 1, 2]
    assert groups(add(), [5.0, 0.0, 7.0, 2.0, 1.0, 6.0, 3.0, 4.0]) == [2, 0, 2, 0, 0, 2, 1, 1]  # 2.33 and 4.67
    with pytest.raises(ModelError, match="3 periods, but it has samples of 2 days only"):
        groups(adarnn(n_splits=3), [1.0, 2.0])


def test_batches_have_equally_many_samples_of_each_period() -> None:
    """The samples of the first period come first; a sample is in one batch of an epoch at most."""
    from rollforge.models.torch_samples import learning_examples
    from rollforge.models.torch_training import Batches

    model = adarnn(n_splits=2, batch_size=100)
    train = model._grouped(learning_examples(rows(), "train", model="model"), rows())
    batches = list(Batches(train, model._settings(), training=True).places())
    assert len(batches) == 3  # of 46 and 45 days of 8 instruments
    for batch in batches:
        assert train.group is not None
        assert train.group[batch].tolist() == [0] * 100 + [1] * 100
    assert len(np.unique(np.concatenate(batches))) == 600


def test_formulas_of_tabnet() -> None:
    """The nearest point of the simplex, with a gradient, and the error of hidden features only."""
    import torch

    from rollforge.models.torch_tabnet_network import reconstruction_loss, sparsemax

    x = torch.tensor([[1.0, 0.5, -1.0], [0.2, 0.2, 0.2]], requires_grad=True)
    found = sparsemax(x)
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25, 0.0], [1 / 3, 1 / 3, 1 / 3]]))
    found[:, 0].sum().backward()  # of the features with a positive value, what one gains the others lose
    torch.testing.assert_close(x.grad, torch.tensor([[0.5, -0.5, 0.0], [2 / 3, -1 / 3, -1 / 3]]))
    reconstruction, features = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [5.0]])  # spread: (1 + 1) ** 0.5
    loss = reconstruction_loss(reconstruction, features, torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(loss, torch.tensor(0.5))
    alone = reconstruction_loss(reconstruction[:1], features[:1], torch.tensor([[1.0]]))  # a last batch of one sample
    torch.testing.assert_close(alone, torch.tensor(0.0))


# -- modules of the user -----------------------------------------------------------------------------------------------


def test_a_module_in_a_file(tmp_path: Path) -> None:
    """The module is named by the path of the file, and called with the samples of the dataset."""
    file = tmp_path / "own_sum.py"
    file.write_text(OWN, encoding="utf-8")
    described = {"class": "Sum", "module_path": str(file), "kwargs": {"features": 6}}
    model = TorchModel(described, {"start": 0.5}, n_epochs=20, lr=0.05, batch_size=64)
    model.fit(rows())
    assert correlation(model, rows()) > 0.9
    wrong = TorchModel({**described, "kwargs": {"features": 5}}, n_epochs=1)
    with pytest.raises(ModelError, match=r"the module Sum fails on samples of shape \(6,\): RuntimeError"):
        wrong.fit(rows())


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"module": 7}, ConfigError, "module: must be a subclass of torch.nn.Module"),
        ({"module": NET, "loss": "msee"}, ConfigError, "Did you mean 'mse'"),
        ({"module": NET, "optimizer": "adamm"}, ConfigError, "Did you mean 'adam'"),
        ({"module": NET, "n_epochs": 0}, ConfigError, "n_epochs"),
        ({"module": NET, "lr": "fast"}, ConfigError, "lr"),
        ({"module": NET, "scheduler": "StepLRR"}, ConfigError, "Did you mean 'StepLR'"),
        ({"module": "rollforge.models.LinearModel"}, BuildError, "LinearModel is not a PyTorch module"),
        ({"module": NET, "module_kwargs": {"input_dim": 6, "output_dim": 2}}, ModelError, r"shape \(728, 2\)"),
        ({"module": NET, "module_kwargs": {"input_dim": 6}, "lr": 1e30, "clip": None, "optimizer": "gd"}, ModelError,
         "is not finite"),
    ],
)  # fmt: skip
def test_mistakes_are_one_message(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    """The message says what is wrong and where."""
    with pytest.raises(error, match=said):
        TorchModel(**{"n_epochs": 2, **arguments}).fit(rows())


def test_pretrained_weights_of_a_recurrent_network(tmp_path: Path) -> None:
    """GATs begins with those of an LSTM; a file of other weights is an error."""
    import torch

    lstm = LSTM(hidden_size=8, n_epochs=1)
    lstm.fit(rows())
    torch.save(lstm._network.state_dict(), tmp_path / "lstm.pt")
    arguments = {"hidden_size": 8, "base_model": "LSTM", "n_epochs": 1, "lr": 0.0}
    model = GATs(**arguments, model_path=str(tmp_path / "lstm.pt"))
    model.fit(rows())
    assert model.weights is not None
    np.testing.assert_array_equal(model.weights["rnn.weight_ih_l0"], lstm.weights["rnn.weight_ih_l0"])  # type: ignore[index]
    with pytest.raises(ConfigError, match="cannot be read"):
        GATs(**arguments, model_path=str(tmp_path / "none.pt")).fit(rows())
    with pytest.raises(ConfigError, match="no weights of a LSTM with hidden_size 4"):
        GATs(**{**arguments, "hidden_size": 4}, model_path=str(tmp_path / "lstm.pt")).fit(rows())


# -- saved models ------------------------------------------------------------------------------------------------------


def saved(model: Any, folder: Path) -> Path:
    files = LocalFiles(folder)
    artifact.save(files, "params.pkl", model)
    found = artifact.find(files, "params.pkl")
    assert found is not None
    return found


class Guarded(TorchModel):
    """A user's network with a lock."""

    def __init__(self, **options: Any) -> None:
        super().__init__(NET, {"input_dim": 6, "layers": [8]}, n_epochs=1, **options)
        self._lock, self.note = threading.Lock(), "kept"


def test_a_network_with_a_lock_is_saved_without_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Hidden attributes of a subclass that are no plain data are left out, with a warning; others are refused."""
    model, data = Guarded(), rows()
    model.fit(data)
    found = artifact.load_file(saved(model, tmp_path), trusted=True)
    assert (type(found), found.note, hasattr(found, "_lock")) == (Guarded, "kept", False)
    pd.testing.assert_series_equal(found.predict(data), model.predict(data))
    assert "Guarded is saved without _lock" in caplog.text
    model.note = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(TaskNotSerializable, match="note is a live object"):
        saved(model, tmp_path)


def test_weights_are_a_file_that_pytorch_reads(tmp_path: Path) -> None:
    """Reading it executes nothing; a file with anything else than weights is not loaded."""
    import torch

    model = net()
    model.fit(rows())
    file = saved(model, tmp_path)
    with zipfile.ZipFile(file) as archive:
        archive.extract("data/weights.pt", tmp_path)
        about = archive.read("data/about.json")
    weights = torch.load(tmp_path / "data" / "weights.pt", weights_only=True)
    assert {name: tuple(value.shape) for name, value in weights.items()} == {
        name: value.shape for name, value in model._network.state_dict().items()
    }
    pd.testing.assert_series_equal(artifact.load_file(file).predict(rows()), model.predict(rows()), check_exact=True)
    for content in (pickle.dumps(_Calls(tmp_path / "called")), b"no weights"):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("rollforge.json", '{"module": "rollforge.models.torch", "class": "TorchModel"}')
            archive.writestr("data/about.json", about)
            archive.writestr("data/weights.pt", content)
        with pytest.raises(ArtifactUnreadable):
            artifact.load_file(file)
    assert not (tmp_path / "called").exists()


class _Calls:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


LOADED = """
import sys
from pathlib import Path
from rollforge.errors import CodeNotAllowed
from rollforge.track import artifact
model = artifact.load_file(Path(sys.argv[1]))
try:
    print(type(model._restored_network()).__name__)
except CodeNotAllowed as exc:
    print(exc)
"""


def test_a_saved_module_of_a_user_is_code(tmp_path: Path) -> None:
    """Another process imports its file only if the user allows it."""
    file = tmp_path / "own_sum.py"
    file.write_text(OWN, encoding="utf-8")
    model = TorchModel({"class": "Sum", "module_path": str(file), "kwargs": {"features": 6}}, n_epochs=1)
    model.fit(rows())
    stored = saved(model, tmp_path / "run")
    said = []
    for allowed in ("", str(file)):
        environment = {**os.environ, "ROLLFORGE_ALLOW": allowed}
        done = subprocess.run(
            [sys.executable, "-c", LOADED, str(stored)], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.strip())
    assert "own_sum.py" in said[0]
    assert "ROLLFORGE_ALLOW" in said[0]
    assert said[1] == "Sum"


QLIB = {  # the defaults of Qlib's constructors that differ between the forms of a model
    "qlib.contrib.model.pytorch_tcn": ("TCN", {"lr": 1e-4, "dropout": 0.5, "num_layers": 5, "batch_size": 2000}),
    "qlib.contrib.model.pytorch_tcn_ts": ("TCN", {"lr": 1e-3, "dropout": 0.0, "num_layers": 2, "batch_size": 2000}),
    "qlib.contrib.model.pytorch_transformer": ("TransformerModel", {"d_feat": 20, "batch_size": 2048, "lr": 1e-4}),
    "qlib.contrib.model.pytorch_transformer_ts": (
        "TransformerModel",
        {"batch_size": 8192, "n_epochs": 100, "early_stop": 5},
    ),
    "qlib.contrib.model.pytorch_localformer": ("LocalformerModel", {"batch_size": 2048, "weight_decay": 1e-3}),
    "qlib.contrib.model.pytorch_localformer_ts": ("LocalformerModel", {"batch_size": 8192, "weight_decay": 1e-3}),
    "qlib.contrib.model.pytorch_gats": ("GATs", {"d_feat": 6, "by_day": True, "early_stop": 20}),
    "qlib.contrib.model.pytorch_gats_ts": ("GATs", {"d_feat": 20, "by_day": True, "early_stop": 20}),
    "qlib.contrib.model.pytorch_gru": ("GRU", {"d_feat": 6, "hidden_size": 64, "lr": 1e-3, "n_epochs": 200}),
    "qlib.contrib.model.pytorch_lstm_ts": ("LSTM", {"d_feat": 6, "num_layers": 2, "optimizer": "adam"}),
    "qlib.contrib.model.pytorch_alstm_ts": ("ALSTM", {"hidden_size": 64, "rnn_type": "GRU"}),
    "qlib.contrib.model.pytorch_krnn": ("KRNN", {"cnn_dim": 64, "rnn_dups": 3}),
    "qlib.contrib.model.pytorch_sandwich": ("Sandwich", {"cnn_dim_2": 32, "rnn_dim_2": 8}),
    "qlib.contrib.model.pytorch_sfm": ("SFM", {"freq_dim": 10, "optimizer": "gd"}),
    "qlib.contrib.model.pytorch_adarnn": ("ADARNN", {"n_epochs": 200, "pre_epoch": 40, "dw": 0.5, "len_seq": 60}),
    "qlib.contrib.model.pytorch_add": ("ADD", {"batch_size": 5000, "gamma": 0.1, "gamma_clip": 0.4, "mu": 0.05}),
    "qlib.contrib.model.pytorch_igmtf": ("IGMTF", {"d_feat": 6, "by_day": True, "lr": 1e-3, "early_stop": 20}),
    "qlib.contrib.model.pytorch_hist": ("HIST", {"d_feat": 6, "by_day": True, "stock_index": None, "n_epochs": 200}),
    "qlib.contrib.model.pytorch_tcts": (
        "TCTS",
        {"fore_lr": 5e-7, "weight_lr": 5e-7, "steps": 3, "output_dim": 5, "lowest_valid_performance": 0.993},
    ),
    "qlib.contrib.model.pytorch_tabnet": (
        "TabnetModel",
        {"batch_size": 4096, "lr": 0.01, "n_epochs": 100, "pretrain_n_epochs": 50, "ps": 0.3, "seed": 993},
    ),
    "qlib.contrib.model.pytorch_nn": (
        "DNNModelPytorch",
        {"max_steps": 300, "early_stop_rounds": 50, "optimizer": "gd"},
    ),
    "qlib.contrib.model.pytorch_general_nn": ("GeneralPTNN", {"batch_size": 2000, "weight_decay": 0.0}),
}


def test_defaults_are_qlibs() -> None:
    """Of the classes to which Qlib's paths refer: TSTCN, TSTransformerModel, TSLocalformerModel, TSGATs and the others."""
    for path, (name, expected) in QLIB.items():
        model = build({"class": name, "module_path": path})
        assert {key: getattr(model, key) for key in expected} == expected, path
    assert build({"class": "TCN", "module_path": "qlib.contrib.model.pytorch_tcn_ts"}).params["lr"] == 1e-3


def test_signatures_show_every_argument_with_its_default() -> None:
    """Also those that are written once, in TorchModel; the shown defaults are those that the constructors use."""
    for path, (name, _) in QLIB.items():
        kind = locate(name, path)
        model, shown = kind(), inspect.signature(kind).parameters
        other = {"DNNModelPytorch": {"n_epochs"}, "TCTS": {"lr"}}  # which have an argument of another name for it
        assert {"n_epochs", "lr", "batch_size", "seed", "GPU"} - set(shown) <= other.get(name, set())
        for argument, one in shown.items():
            if one.default not in (one.empty, None, "default") and hasattr(model, argument):
                assert getattr(model, argument) == one.default, (path, argument)

    class Small(GRU):
        def __init__(self, size: int = 4) -> None:
            super().__init__(hidden_size=size)

    assert list(inspect.signature(Small).parameters) == ["size"]
    assert inspect.signature(TSTCN).parameters["lr"].default == 0.001
    assert inspect.signature(TransformerModel).parameters["batch_size"].default == 2048


@pytest.mark.parametrize("name", ["torch_mlp", "torch_gru", "torch_own_module"])
def test_the_examples_run(name: str, torch_market: Path, tmp_path: Path) -> None:
    """Each one on a small market, from the plan to the report; nothing else is changed but the length of the training."""
    text = (EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8")
    for old, new in (
        ("demo/market", str(torch_market)), ("sqlite:///demo/mlflow.db", f"folder:{tmp_path}/runs"), ("demo300", "all"),
        ("sqlite:///demo/tasks.db", f"sqlite:///{tmp_path}/tasks.db"), ("n_epochs: 20", "n_epochs: 2"),
        ("max_steps: 400", "max_steps: 40"), ("step: 250", "step: 200"),
        ("2018-01-02", "2022-01-03"), ("2020-12-31", "2022-10-31"),
        ("2021-01-01", "2022-11-01"), ("2021-06-30", "2022-12-30"), ("2021-07-01", "2023-01-02"), ("2023-12-29", "2023-12-15"),
    ):  # fmt: skip
        text = text.replace(old, new)
    (tmp_path / "own_module.py").write_text((EXAMPLES / "own_module.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    done = call("run", tmp_path / f"{name}.yaml", "--jobs", "0", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    prediction = pd.read_parquet(tmp_path / "out" / "prediction.parquet")
    assert np.isfinite(prediction["score"]).all()
    assert (tmp_path / "out" / "report.html").exists()


def test_walk_forward_with_a_module_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is an object, its class is in a module, and the windows are trained in worker processes."""
    from rollforge import walk_forward

    code = "import torch\nclass Slope(torch.nn.Linear):\n    def forward(self, x):\n        return super().forward(x)[:, 0]\n"
    (tmp_path / "slope_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    from slope_module import Slope  # type: ignore[import-not-found]

    index = pd.MultiIndex.from_product([pd.bdate_range("2022-01-03", periods=120), list("ABCD")], names=["day", "code"])
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(len(index), 2)), index, ["a", "b"])
    frame["y"] = 2 * frame["a"] - frame["b"]
    session = Session(
        store_uri=f"sqlite:///{tmp_path}/tasks.db", tracking_uri=f"folder:{tmp_path}/runs", cache=str(tmp_path)
    )
    model = TorchModel(Slope, {"in_features": 2, "out_features": 1}, n_epochs=60, lr=0.1, batch_size=64, seed=1)
    result = walk_forward(model, frame, label="y", train=60, step=30, jobs=2, session=session)
    assert len(result.windows) == 2
    assert result.prediction.corr(frame["y"].loc[result.prediction.index]) > 0.99
