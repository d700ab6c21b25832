"""TabNet, whose encoder first learns to reconstruct features. Importing this file does not import PyTorch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Unpack

from rollforge.arguments import check_choice, check_flag, whole_number
from rollforge.errors import ConfigError, shown
from rollforge.features.dataset import Dataset
from rollforge.models.base import Reweighter
from rollforge.models.torch import LIBRARY as LIBRARY, OwnOptions
from rollforge.models.torch_models import DescribedModel
from rollforge.models.torch_samples import learning_examples

if TYPE_CHECKING:
    from rollforge.models.torch_training import Stage

__all__ = ["TabnetModel"]


class TabnetModel(DescribedModel):
    """TabNet: several steps, each of which attends to a few of the features.

    Before the training, the encoder learns to reconstruct features that are hidden from it. For that it reads the segments
    ``pretrain`` and ``pretrain_validation``, or ``train`` and ``valid`` if the dataset has no segment ``pretrain``. Like the
    training, it reads rows that have a label, a weight above 0 and no missing feature. ``training_metrics()`` calls its loss
    ``pretrain_loss``.

    Parameters
    ----------
    d_feat : int
        Number of features.
    out_dim : int
        Size of the encoder's output.
    final_out_dim : int
        Number of outputs of the model; must be 1.
    batch_size : int
        Number of samples in a batch.
    n_d, n_a : int
        Size of what a step adds to the output, and of what the next step's attention is computed from.
    n_shared, n_ind : int
        Number of layers of a step that are shared by all steps, and of its own.
    n_steps : int
        Number of steps.
    n_epochs, pretrain_n_epochs : int
        Maximum number of epochs of the training, and of the pretraining.
    relax : float
        Not used, as in Qlib.
    vbs : int
        Size of the parts of a batch that are normalized on their own.
    seed : int, optional
        See :class:`TorchModel`.
    optimizer, loss, metric, early_stop, GPU, lr
        See :class:`TorchModel`. They apply to the pretraining too, except `loss` and `metric`.
    pretrain_loss : {"custom"}
        Loss of the pretraining: squared errors, divided by the spread of the feature.
    ps : float
        Probability that a feature of a sample is hidden during the pretraining.
    pretrain : bool
        Whether the encoder is trained before.
    pretrain_file : object
        Ignored: the weights are part of the model.
    **kwargs
        Other arguments of :class:`TorchModel`.
    """

    NETWORKS = "rollforge.models.torch_tabnet_network"
    NETWORK = "TabNetModel"

    def __init__(
        self,
        d_feat: int = 158,
        out_dim: int = 64,
        final_out_dim: int = 1,
        batch_size: int = 4096,
        n_d: int = 64,
        n_a: int = 64,
        n_shared: int = 2,
        n_ind: int = 2,
        n_steps: int = 5,
        n_epochs: int = 100,
        pretrain_n_epochs: int = 50,
        relax: float = 1.3,
        vbs: int = 2048,
        seed: int | None = 993,
        optimizer: str = "adam",
        loss: str = "mse",
        metric: str = "",
        early_stop: int = 20,
        GPU: int | str = 0,  # noqa: N803 - Qlib's name
        pretrain_loss: str = "custom",
        ps: float = 0.3,
        lr: float = 0.01,
        pretrain: bool = True,
        pretrain_file: object = None,
        **kwargs: Unpack[OwnOptions],
    ) -> None:
        sizes = {"d_feat": d_feat, "out_dim": out_dim, "n_d": n_d, "n_a": n_a, "n_steps": n_steps, "vbs": vbs}
        for name, count in {**sizes, "pretrain_n_epochs": pretrain_n_epochs}.items():
            whole_number(count, name)
        for name, count in (("n_shared", n_shared), ("n_ind", n_ind)):
            whole_number(count, name, least=0)
        if n_shared + n_ind == 0:
            raise ConfigError("must be at least 1, because n_shared is 0.", path="n_ind")
        if final_out_dim != 1:
            raise ConfigError(f"must be 1, found {shown(final_out_dim)}.", path="final_out_dim")
        check_choice("pretrain_loss", pretrain_loss, ("custom",))
        check_flag("pretrain", pretrain)
        if isinstance(ps, bool) or not isinstance(ps, (int, float)) or not 0 < ps < 1:
            raise ConfigError(f"must be a probability between 0 and 1, found {shown(ps)}.", path="ps")
        self.pretrain, self.pretrain_n_epochs, self.ps = bool(pretrain), pretrain_n_epochs, float(ps)
        self.pretrain_loss, self.pretrain_file = pretrain_loss, None
        options: Any = {
            "batch_size": batch_size, "n_epochs": n_epochs, "seed": seed, "optimizer": optimizer, "loss": loss,
            "metric": metric, "early_stop": early_stop, "GPU": GPU, "lr": lr, **kwargs,
        }  # fmt: skip
        layers = {"n_shared": n_shared, "n_ind": n_ind, "relax": relax, "final_out_dim": final_out_dim}
        self._of({**sizes, **layers}, options)

    def _stages(self, last: Stage, dataset: Dataset, reweighter: Reweighter | None) -> list[Stage]:
        if not self.pretrain:
            return [last]
        from rollforge.models import torch_training as training
        from rollforge.models.torch_tabnet_network import TabNetDecoder, TabNetPretraining

        segments = getattr(dataset, "segments", {"train": None, "valid": None})
        names = ("pretrain", "pretrain_validation") if "pretrain" in segments else ("train", "valid")
        train, valid = (
            learning_examples(dataset, name, model=type(self).__name__, reweighter=reweighter)
            if name in segments else None
            for name in names
        )  # fmt: skip
        assert train is not None
        given = self.module["kwargs"]
        decoder = TabNetDecoder(
            given["out_dim"], given["d_feat"], given["n_shared"], given["n_ind"], given["vbs"], given["n_steps"]
        )
        first = training.Stage(
            TabNetPretraining(last.network.encoder, decoder, self.ps), train, valid,
            dataclasses.replace(last.settings, epochs=self.pretrain_n_epochs, clip=None, scheduler=None, metric="loss"),
            name="pretrain_", arguments={"ps": self.ps},
        )  # fmt: skip
        return [first, last]
