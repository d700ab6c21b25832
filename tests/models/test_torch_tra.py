"""TRA: its formulas are Qlib's, its memory contains only losses of known labels, and a saved model needs no memory."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.models.test_torch import filled, interrupted, waves

from rollforge.features.handler import DataHandlerLP
from rollforge.features.memory import MTSDatasetH
from rollforge.models.torch_tra import TRAModel
from rollforge.session import Session, using
from rollforge.testing.model import ModelSuite
from rollforge.track import artifact
from rollforge.track.artifact_files import LocalFiles

HAVE = all(find_spec(name) is not None for name in ("torch", "skorch"))
pytestmark = pytest.mark.skipif(not HAVE, reason="PyTorch is not installed: make .venv/torch")

SEGMENTS = {
    "train": ("2020-01-01", "2020-01-31"),
    "valid": ("2020-02-01", "2020-02-10"),
    "test": ("2020-02-11", "2020-02-29"),
}
HORIZON = 2


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path) -> Iterator[None]:
    """Each test trains on one thread, with a cache of its own."""
    with using(Session(threads=1, cache=str(tmp_path / "cache"))):
        yield


def table() -> pd.DataFrame:
    """Two features and a label of five instruments, one of which lacks some days."""
    numbers = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", "2020-02-29"), list("ABCDE")], names=["datetime", "instrument"]
    )
    x = numbers.standard_normal((len(index), 2))
    y = np.where(np.arange(len(index)) % 5 < 2, x[:, 0], -x[:, 1]) + 0.1 * numbers.standard_normal(len(index))
    columns = pd.MultiIndex.from_tuples([("feature", "a"), ("feature", "b"), ("label", "y")])
    frame = pd.DataFrame(np.column_stack([x, y]).astype(np.float32), index, columns)
    return frame.drop([(pd.Timestamp("2020-01-20") + pd.Timedelta(days=i), "C") for i in range(4)])


def data(frame: pd.DataFrame | None = None, segments: Any = None, **kwargs: Any) -> MTSDatasetH:
    options: dict[str, Any] = {"seq_len": 4, "horizon": HORIZON, "num_states": 2, "batch_size": 64, **kwargs}
    handler = DataHandlerLP.from_df(table() if frame is None else frame)
    return MTSDatasetH(handler=handler, segments=dict(SEGMENTS if segments is None else segments), **options)


def tra(router: dict[str, Any] | None = None, **kwargs: Any) -> TRAModel:
    options: dict[str, Any] = {
        "transport_method": "router", "pretrain": True, "lamb": 1.0, "alpha": 0.5, "n_epochs": 3, "lr": 0.02,
        "checkpoint_seconds": 0.0, **kwargs,
    }  # fmt: skip
    return TRAModel(
        {"input_size": 2, "hidden_size": 4, "num_layers": 1},
        {"num_states": 2, "hidden_size": 3, **(router or {})},
        **options,
    )


def daily(**kwargs: Any) -> tuple[TRAModel, MTSDatasetH]:
    return (
        tra({"src_info": "TPE"}, memory_mode="daily", **kwargs),
        data(memory_mode="daily", batch_size=-3, n_samples=4),
    )


class TestRouter(ModelSuite):
    """A model that is trained in two stages, and predicts with the labels of earlier days."""

    missing_features = "accepted"
    remembers_labels = True

    def make_model(self) -> TRAModel:
        return TRAModel(
            {"input_size": 3, "hidden_size": 6, "num_layers": 1}, {"num_states": 2, "hidden_size": 2}, n_epochs=3, lr=0.05,
            transport_method="router", pretrain=True, lamb=0.5, alpha=0.5,
        )  # fmt: skip

    def make_frame(self, labels: int = 1) -> pd.DataFrame:
        return super().make_frame(labels).sort_index()  # as samples are sorted

    def make_dataset(self, frame: pd.DataFrame, segments: Any = None) -> MTSDatasetH:
        chosen = dict(self.segments if segments is None else segments)
        handler = DataHandlerLP.from_df(frame)
        return MTSDatasetH(handler=handler, segments=chosen, seq_len=2, horizon=1, num_states=2, batch_size=64)


# -- numbers -----------------------------------------------------------------------------------------------------------

QLIB = {  # the loss with a router, and by assignment
    "gru": (("RNN", {"input_size": 2, "hidden_size": 3}), {"hidden_size": 4, "rnn_arch": "LSTM", "tau": 0.7}, 1.014693, 0.508848),
    "lstm": (
        ("RNN", {"input_size": 4, "hidden_size": 3, "rnn_arch": "LSTM", "num_layers": 1}), {"src_info": "LR"},
        0.994110, 0.508019,
    ),
    "rnn": (
        ("RNN", {"input_size": 2, "hidden_size": 3, "rnn_arch": "RNN", "use_attn": False}),
        {"hidden_size": 4, "rnn_arch": "LSTM", "tau": 0.7}, 1.550197, 0.740046,
    ),
    "transformer": (
        ("Transformer", {"input_size": 4, "hidden_size": 6, "num_heads": 2}), {"src_info": "TPE", "num_layers": 2},
        1.447303, 1.670832,
    ),
}  # fmt: skip


def loss_of(network: Any, method: str, data: MTSDatasetH, x: Any, past: Any) -> tuple[float, Any]:
    """Return the loss of all samples of the test segment, whose memory is `past`, and the losses that are stored.

    The router has no random numbers, so that the loss can be compared with Qlib's.
    """
    import torch

    from rollforge.models import torch_tra_training as training
    from rollforge.models.torch_training import Target

    def likeliest(logits: Any, tau: float, hard: bool) -> Any:
        return torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()

    sampler = data.prepare("test", "feature")
    _, places = sampler.own_days()
    episode = training.Episode(None, sampler, places, np.zeros(len(places), bool))  # type: ignore[arg-type]
    trained = training.TRATraining(
        network,
        episode,
        np.empty(0, np.int64),
        None,
        None,
        training.Transport(method, 0.4),
        lamb=0.3,  # type: ignore[arg-type]
    ).eval()
    first = places if data.memory_mode == "sample" else places[[0, 2]]
    trained.memory[torch.from_numpy(sampler.remembered(first))] = past
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "gumbel_softmax", likeliest)
        loss = trained.training_loss(x, Target(waves(6), None, torch.arange(6))).item()
    slots = torch.from_numpy(np.unique(sampler.own_slots(places)))
    return loss, trained.memory[slots]


@pytest.mark.parametrize("kind", QLIB)
def test_the_loss_is_qlibs(kind: str) -> None:
    """The expected numbers are those of Qlib's modules and functions with the same weights."""
    from rollforge.models.torch_tra_network import TRANetwork

    (name, network), router, routed, assigned = QLIB[kind]
    days = pd.date_range("2020-01-01", periods=7)
    index = pd.MultiIndex.from_product([days, list("ABCDEF")], names=["datetime", "instrument"])
    frame = pd.DataFrame({("feature", "a"): 0.0, ("label", "y"): 0.0}, index)
    samples = data(frame, {"test": (days[-1], days[-1])}, seq_len=6)
    x = waves(6, 5, network["input_size"])
    for method, expected in (("router", routed), ("oracle", assigned)):
        made = filled(TRANetwork(name, network, {"num_states": 3, **router}))
        assert loss_of(made, method, samples, x, waves(6, 4, 3).abs())[0] == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_days_is_qlibs() -> None:
    """A batch of two days, of two and four samples; the losses that are remembered are the means of each day."""
    from rollforge.models.torch_tra_network import TRANetwork

    days = pd.date_range("2020-01-01", periods=12)
    index = pd.MultiIndex.from_product([days, list("ABCD")], names=["datetime", "instrument"])
    frame = pd.DataFrame({("feature", "a"): 0.0, ("label", "y"): 0.0}, index).drop([(days[-6], c) for c in "CD"])
    samples = data(
        frame, {"test": [(days[-6], days[-6]), (days[-1], days[-1])]}, seq_len=4, horizon=1, memory_mode="daily",
        batch_size=-2,
    )  # fmt: skip
    for method, expected in (("router", 0.877858), ("oracle", 0.497501)):
        made = filled(
            TRANetwork(
                "RNN", {"input_size": 2, "hidden_size": 3},
                {"num_states": 3, "src_info": "TPE", "num_layers": 2},
            )
        )  # fmt: skip
        loss, stored = loss_of(made, method, samples, waves(6, 5, 2), waves(2, 4, 3).abs())
        assert loss == pytest.approx(expected, rel=1e-5)
        assert stored.flatten().tolist() == pytest.approx([0.251192, 0.0, 1.0, 0.799116, 1.0, 0.0], abs=1e-5)


def test_assignment() -> None:
    """The expected numbers are computed by hand."""
    import torch

    from rollforge.models.torch_tra_network import assigned, scaled, sinkhorn

    torch.testing.assert_close(
        scaled(torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]])), torch.tensor([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0]])
    )
    sizes = torch.tensor([[3.0, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(sinkhorn(sizes.log() * 0.1, rounds=1), torch.tensor([[3 / 5, 2 / 5], [1 / 3, 2 / 3]]))
    new, past = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[9.0, 3.0], [3.0, 9.0]])
    least = float(np.exp(-10.0) / (1 + np.exp(-10.0)))
    for alpha, share in ((1.0, 1 - least), (0.0, least), (0.5, 0.5)):
        torch.testing.assert_close(assigned(new, past, alpha)[0], torch.tensor([share, 1 - share]))


# -- the memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sample", "daily"])
def test_a_score_does_not_depend_on_labels_that_are_not_known_yet(mode: str) -> None:
    """The last label that is read is that of `horizon` rows before; a memory of days ends one day earlier."""
    model, frame = (tra(), table()) if mode == "sample" else (daily()[0], table())
    options = {} if mode == "sample" else {"memory_mode": "daily", "batch_size": -3}
    model.fit(data(frame, **options))
    hard = model._network.tra  # the choice is made visible, also where it is clear
    with_memory = model.predict(data(frame, **options))
    day = pd.Timestamp("2020-02-20")
    changed = frame.copy()
    later = frame.index.get_level_values("datetime") > day - pd.Timedelta(days=HORIZON)
    changed.loc[later, ("label", "y")] = np.nan
    found = model.predict(data(changed, **options))
    pd.testing.assert_series_equal(found.loc[:day], with_memory.loc[:day], check_exact=True)
    assert hard.num_states == 2
    sampler = data(frame, **options).prepare("test", "feature")
    one = sampler._place(day, "C")
    place = int(np.flatnonzero((sampler.idx_map == one).all(axis=1))[0])
    known = sampler.remembered(np.array([place]))[0]
    days = frame.index.get_level_values("datetime")
    last = days[known[-1]] if mode == "sample" else sampler._days[known[-1]]
    assert last == day - pd.Timedelta(days=HORIZON if mode == "sample" else HORIZON + 1)


def test_earlier_losses_matter() -> None:
    """The router reads them: with other labels before the segment, it chooses another predictor for some samples."""
    model, frame = tra(n_epochs=6), table()
    model.fit(data(frame))
    other = frame.copy()
    other[("label", "y")] *= -1.0
    assert not model.predict(data(other)).equals(model.predict(data(frame)))


def test_scores_do_not_depend_on_the_segment() -> None:
    """The losses before the segment are computed again; also if instruments lack days, and without the train segment."""
    for model, samples in ((tra(), data()), daily()):
        model.fit(samples)
        expected = model.predict(samples)
        for day in ("2020-02-11", "2020-02-15", "2020-02-29"):
            one = model.predict(samples, slice(day, day))
            pd.testing.assert_series_equal(one, expected.loc[day:day], rtol=1e-4)
        late = data(
            table().loc["2020-02-01":], {"test": SEGMENTS["test"]}, memory_mode=samples.memory_mode,
            batch_size=samples.batch_size,
        )  # fmt: skip
        pd.testing.assert_series_equal(model.predict(late), expected, rtol=1e-4)


def test_a_saved_model_predicts_with_a_new_dataset(tmp_path: Path) -> None:
    """Model and dataset are read from files, without trust in them; nothing else is needed."""
    model, samples = daily()
    model.fit(samples)
    files = LocalFiles(tmp_path)
    for name, one in (("params.pkl", model), ("dataset", samples)):
        artifact.save(files, name, one)
    found, other = (artifact.load_file(artifact.find(files, name), trusted=False) for name in ("params.pkl", "dataset"))
    pd.testing.assert_series_equal(found.predict(other), model.predict(samples), check_exact=True)
    assert pickle.loads(pickle.dumps(other)).horizon == HORIZON
    assert {name.partition(".")[0] for name in found.weights} == {"model", "tra"}


def test_the_dataset_is_not_changed_and_the_memory_not_shared() -> None:
    """A second training gives the same bits as the first one."""
    samples, first, second = data(), tra(), tra()
    first.fit(samples)
    second.fit(samples)
    pd.testing.assert_series_equal(second.predict(samples), first.predict(samples), check_exact=True)


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "options", "again"),
    [
        ("TRAPretraining", {}, ["TRAPretraining", *["TRATraining"] * 3]),
        ("TRATraining", {}, ["TRATraining"]),
        ("TRATraining", {"transport_method": "oracle"}, ["TRATraining"]),
    ],
)
def test_a_stage_continues_where_it_was_interrupted(module: str, options: dict[str, Any], again: list[str]) -> None:
    """The memory is part of the checkpoint: the result has the same bits as that of an undisturbed training."""
    continued, undisturbed = tra(**options), tra(**options)
    assert interrupted(continued, data(), module, 3)[-1] == "interrupted"
    assert interrupted(continued, data(), module, -1) == again
    undisturbed.fit(data())
    assert continued.training_metrics() == undisturbed.training_metrics()
    pd.testing.assert_series_equal(continued.predict(data()), undisturbed.predict(data()), check_exact=True)


def test_the_pretraining_leaves_the_router_alone() -> None:
    """Both stages have metrics; only the router learns if everything else is frozen."""
    from rollforge.models.torch_training import limited, weights_of

    model = tra(n_epochs=2)
    model.fit(data())
    assert set(model.training_metrics()) == {
        f"{stage}{metric}" for stage in ("pretrain_", "") for metric in ("loss.train", "loss.valid", "rank_ic.valid")
    }
    plain = tra(pretrain=False, freeze_model=True, freeze_predictors=True, n_epochs=2)
    plain.fit(data())
    with limited(0, "cpu"):
        first = weights_of(plain._first_network())
    same = {name for name, value in plain.weights.items() if np.array_equal(value, first[name])}
    assert {name.partition(".")[2].partition(".")[0] for name in set(first) - same} == {"router", "fc"}
