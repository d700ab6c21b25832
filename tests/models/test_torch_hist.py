"""HIST reads the concepts of instruments from files, and keeps them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from networks import filled, interrupted, waves
from rollforge.errors import ConfigError
from rollforge.features.dataset import DatasetH
from rollforge.features.handler import DataHandlerLP
from rollforge.models.torch_hist import HIST
from rollforge.session import Session, using
from rollforge.testing.model import ModelSuite
from rollforge.track import artifact
from rollforge.track.artifact_files import LocalFiles

HAVE = all(find_spec(name) is not None for name in ("torch", "skorch"))
pytestmark = pytest.mark.skipif(not HAVE, reason="PyTorch is not installed: make .venv/torch")

CONCEPTS = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], np.int8)
NUMBERS = {f"I{i}": i % 4 for i in range(10)}  # but not of I10 and I11
SEGMENTS = {**ModelSuite.segments, "train": ("2020-03-01", "2020-03-31"), "valid": ("2020-04-01", "2020-04-10")}
"""Fewer days, because each of them is a batch."""


@pytest.fixture(autouse=True)
def one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test trains on one thread, with a cache and files of its own."""
    monkeypatch.chdir(tmp_path)
    np.save("concepts.npy", CONCEPTS)
    np.save("index.npy", NUMBERS)  # type: ignore[arg-type]
    with using(Session(threads=1, cache=str(tmp_path / "cache"))):
        yield


def hist(**kwargs: Any) -> HIST:
    options: dict[str, Any] = {
        "d_feat": 3, "hidden_size": 8, "num_layers": 1, "n_epochs": 3, "lr": 0.02, "checkpoint_seconds": 0.0,
        "stock2concept": "concepts.npy", "stock_index": "index.npy", **kwargs,
    }  # fmt: skip
    return HIST(**options)


def data() -> DatasetH:
    return DatasetH(DataHandlerLP.from_df(ModelSuite().make_frame()), dict(SEGMENTS))


@pytest.mark.slow
class TestConcepts(ModelSuite):
    """A model that reads files when it is fitted, and nothing when it predicts."""

    missing_features = "excluded"
    segments = SEGMENTS

    def make_model(self) -> HIST:
        folder = Path.cwd()
        paths = {"stock2concept": folder / "concepts.npy", "stock_index": folder / "index.npy"}
        return hist(n_epochs=3, lr=0.06, checkpoint_seconds=1.0, **paths)


QLIB = {  # the scores, and those after a step against the gradient
    "GRU": (
        [1.608883, 1.609632, 1.609044, 1.608322, 1.608254],
        [-0.883155, -0.883247, -0.883266, -0.883201, -0.883103],
    ),
    "LSTM": (
        [1.713625, 1.713445, 1.713498, 1.713978, 1.714525],
        [-0.980749, -0.981039, -0.980987, -0.980303, -0.979595],
    ),
}


@pytest.mark.parametrize("kind", QLIB)
def test_it_computes_what_qlibs_does(kind: str) -> None:
    """The expected numbers are those of Qlib's module with the same weights; one concept has no sample, and one sample no
    concept."""
    import torch

    from rollforge.models.torch_hist_network import HISTModel

    network = filled(HISTModel(2, 3, 2, 0.0, kind))
    network.set_concepts(np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32))
    x, group = waves(5, 8), torch.tensor([0, 1, 2, -1, 0])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
    first = network.of_groups(x, group)[:, 0]
    (first - waves(5)).square().mean().backward()
    optimizer.step()
    torch.testing.assert_close(first, torch.tensor(QLIB[kind][0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(network.of_groups(x, group)[:, 0], torch.tensor(QLIB[kind][1]), atol=1e-5, rtol=0)
    assert torch.isfinite(network.of_groups(x[:1], group[3:4])).all()  # a day of one instrument, without a concept


def test_concepts_count_and_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A saved model predicts without its files; with other concepts, it predicts something else."""
    model = hist()
    model.fit(data())
    assert caplog.text.count("not in stock_index, so they have no concepts") == 1
    assert "2 of the 12 instruments of the 'train' segment are not in stock_index" in caplog.text
    expected = model.predict(data())
    files = LocalFiles(tmp_path / "run")
    artifact.save(files, "params.pkl", model)
    np.save("concepts.npy", CONCEPTS[::-1])
    other = hist()
    other.fit(data())
    assert not other.predict(data()).equals(expected)
    for name in ("concepts.npy", "index.npy"):
        Path(name).unlink()
    saved = artifact.find(files, "params.pkl")
    assert saved is not None
    pd.testing.assert_series_equal(artifact.load_file(saved).predict(data()), expected, check_exact=True)


def test_an_interrupted_training_continues_with_the_same_concepts(tmp_path: Path) -> None:
    """With the same bits; with another content of the file it begins anew."""
    continued, undisturbed = hist(), hist()
    assert interrupted(continued, data(), "HISTModel", 3)[-1] == "interrupted"
    np.save("concepts.npy", CONCEPTS[::-1])
    assert interrupted(hist(), data(), "HISTModel", 2)[-1] == "interrupted"
    assert len(list((tmp_path / "cache" / "checkpoints").iterdir())) == 2
    np.save("concepts.npy", CONCEPTS)
    assert interrupted(continued, data(), "HISTModel", -1) == ["HISTModel"]
    undisturbed.fit(data())
    pd.testing.assert_series_equal(continued.predict(data()), undisturbed.predict(data()), check_exact=True)


class _Calls:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("called"),)


@pytest.mark.parametrize(
    ("concepts", "numbers", "said"),
    [
        (None, NUMBERS, r"^stock2concept: The file 'concepts\.npy' does not exist\. It has to contain a matrix"),
        (CONCEPTS, None, r"^stock_index: The file 'index\.npy' does not exist\. It has to contain a dictionary"),
        (CONCEPTS[0], NUMBERS, "^stock2concept: 'concepts.npy' does not contain a matrix"),
        (CONCEPTS * np.nan, NUMBERS, "^stock2concept: .* missing, infinite or negative values"),
        (CONCEPTS, {"I0": 0, "I7": 4}, r"^stock_index: I7 has the number 4, but the matrix .* has 4 rows\."),
        (CONCEPTS, {"I0": -1}, "^stock_index: 'index.npy' does not contain a dictionary"),
        (CONCEPTS, {}, "^stock_index: 'index.npy' does not contain a dictionary"),
        (CONCEPTS, [1, 2], "^stock_index: 'index.npy' cannot be read as a dictionary"),
        (CONCEPTS, _Calls(), "^stock_index: 'index.npy' cannot be read as a dictionary .*UntrustedPickle"),
        (b"\x93NUMPY", NUMBERS, "^stock2concept: 'concepts.npy' cannot be read as a matrix"),
    ],
)
def test_files_are_checked_before_the_data_are_read(concepts: Any, numbers: Any, said: str) -> None:
    """The message says what the file has to contain. The dictionary is read as data: nothing that it names is called."""
    for name, content in (("concepts.npy", concepts), ("index.npy", numbers)):
        Path(name).unlink()
        if isinstance(content, bytes):
            Path(name).write_bytes(content)
        elif content is not None:
            np.save(name, content)
    with pytest.raises(ConfigError, match=said):
        hist().fit(None)  # type: ignore[arg-type]
    assert not Path("called").exists()


def test_both_files_must_be_named() -> None:
    """Qlib's default is None for both."""
    with pytest.raises(ConfigError, match=r"^stock_index: must be the path of a dictionary"):
        hist(stock_index=None).fit(data())
    with pytest.raises(ConfigError, match=r"^stock2concept: must be a path, found 7\.$"):
        hist(stock2concept=7)
    assert pickle.loads(pickle.dumps(hist())).stock_index == "index.npy"
