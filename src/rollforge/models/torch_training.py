"""Training of PyTorch modules by skorch's loop, with early stopping and checkpoints. The only file that imports skorch.

An epoch depends on the seed, its number and the state after the epoch before it, and on nothing else. A training that was
interrupted and continues from a checkpoint therefore gives the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import skorch
import torch
from numpy.typing import NDArray

from rollforge.errors import ConfigError, ModelError
from rollforge.models.torch_samples import Examples, Sampling
from rollforge.session import current_session
from rollforge.task import Document

log = logging.getLogger(__name__)

Network: TypeAlias = torch.nn.Module
Curves: TypeAlias = dict[str, list[float]]

_KEPT_DAYS = 7.0
"""Checkpoints of trainings that never continued are deleted after this time."""
_LOSSES = {
    "mse": torch.nn.functional.mse_loss,
    "mae": torch.nn.functional.l1_loss,
    "huber": torch.nn.functional.smooth_l1_loss,
    "binary": torch.nn.functional.binary_cross_entropy_with_logits,
}


class Target(NamedTuple):
    """The labels and weights of the samples of a batch."""

    label: torch.Tensor
    weight: torch.Tensor | None
    """None if all weights are 1."""
    group: torch.Tensor | None = None
    """See :class:`~rollforge.models.torch_samples.Examples`."""

    def to(self, device: torch.device | str) -> Target:
        """Return the same tensors on a device."""
        return Target(*(None if value is None else value.to(device) for value in self))


Batch: TypeAlias = tuple[torch.Tensor, Target]


@runtime_checkable
class SupportsOwnLoss(Protocol):
    """A module that computes itself what the training minimizes."""

    def training_loss(self, features: torch.Tensor, target: Target) -> torch.Tensor:
        """Return the loss of a batch."""


@runtime_checkable
class SupportsOwnValidation(Protocol):
    """A module that computes itself what is compared on the valid segment."""

    def validation_loss(self, features: torch.Tensor, target: Target) -> torch.Tensor:
        """Return the loss of a batch."""


@runtime_checkable
class SupportsFurtherLoss(Protocol):
    """A module that also learns from other samples after each epoch; see :class:`Further`."""

    def further_loss(self, features: torch.Tensor, target: Target) -> torch.Tensor:
        """Return the loss of a batch of them."""


@runtime_checkable
class SupportsMemory(Protocol):
    """A module that compares samples with those of the train segment."""

    def remember(self, days: Iterable[torch.Tensor], *, trained: bool) -> None:
        """Called before each epoch, and with `trained` after the training, with the features of each batch of the segment.

        After the training, what is remembered is part of the ``state_dict``.
        """


@runtime_checkable
class SupportsGroups(Protocol):
    """A module whose output depends on the groups of the samples; see :class:`~rollforge.models.torch_samples.Examples`."""

    def of_groups(self, features: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
        """Return one number for each sample."""


@runtime_checkable
class SupportsOwnScores(Protocol):
    """A module that scores the valid segment as a whole, because a sample's score depends on earlier samples."""

    def valid_scores(self) -> NDArray[np.float32]:
        """Return the score of each usable sample of the valid segment."""


@runtime_checkable
class SupportsEpochs(Protocol):
    """A module that changes between two epochs. What it changes must be part of its ``state_dict``."""

    def end_epoch(self) -> None:
        """Called after each epoch of the training."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a training; see :class:`~rollforge.models.torch.TorchModel`."""

    model: str
    """Name of the model, for messages."""
    epochs: int
    lr: float
    batch_size: int
    early_stop: int
    loss: str
    metric: str
    optimizer: str
    optimizer_kwargs: Document
    scheduler: Document | None
    clip: float | None
    by_day: bool
    batches: int | None
    """Number of batches in an epoch, drawn with replacement; None for each sample once."""
    last_batches: int | None
    """The same in the last epoch."""
    balanced: bool
    """Whether a batch has equally many samples of each group."""
    accumulated: int
    """Number of batches whose gradients are added up before the weights change."""
    seed: int
    device: str
    mixed_precision: str | None


@dataclass
class State:
    """The state of a training after an epoch."""

    weights: dict[str, torch.Tensor]
    optimizer: dict[str, object]
    scheduler: dict[str, object] | None
    scaler: dict[str, object]
    curves: dict[str, list[float]] = field(default_factory=dict)
    """Metric and segment, such as ``loss.train`` -> value after each epoch."""
    scores: list[float] = field(default_factory=list)
    """What is minimized on the valid segment, after each epoch."""
    best: dict[str, torch.Tensor] | None = None
    """Weights after the epoch with the best score; None without a valid segment."""
    further: dict[str, object] | None = None
    """The optimizer of what is learned after each epoch."""


class Batches:
    """The samples of a segment in batches, as tensors; training batches are drawn again in each epoch."""

    def __init__(
        self,
        examples: Examples,
        settings: Settings,
        *,
        training: bool,
        passes: int = 1,
        sampling: Sampling | None = None,
    ) -> None:
        self._examples = examples
        self._settings = settings
        self._training = training
        self._passes = passes
        self._sampling = sampling
        self._memory: np.ndarray | None = None
        self._day_starts = _starts(examples.days()) if settings.by_day else None
        self.epoch = 0

    def __iter__(self) -> Iterator[Batch]:
        parts = self._examples.label, self._examples.weight, self._examples.group
        for _ in range(self._passes):
            for chosen in self.places():
                yield (
                    self.features(chosen),
                    Target(*(None if part is None else torch.from_numpy(part[chosen]) for part in parts)),
                )

    def features(self, chosen: NDArray[np.int64]) -> torch.Tensor:
        """Return the features of some usable samples, in memory that the next batch uses again."""
        places, memory = self._examples.usable[chosen], self._memory
        whole = memory is not None and len(places) <= len(memory)
        values = self._examples.source.take(places, memory[: len(places)] if memory is not None and whole else None)
        if not whole and values.flags.c_contiguous:
            self._memory = values
        return torch.from_numpy(np.ascontiguousarray(values, np.float32))

    def groups(self, chosen: NDArray[np.int64]) -> torch.Tensor | None:
        """Return the groups of some usable samples, if they have any."""
        return None if self._examples.group is None else torch.from_numpy(self._examples.group[chosen])

    def loss(self, scores: NDArray[np.float32]) -> float:
        """Return the mean loss of scores, one for each usable sample."""
        found = torch.from_numpy(scores), torch.from_numpy(self._examples.label)
        losses = _LOSSES[self._settings.loss](*found, reduction="none").numpy()
        weight = self._examples.weight
        return float((losses if weight is None else losses * weight).mean())

    def places(self) -> Iterator[NDArray[np.int64]]:
        """Yield positions among the usable samples."""
        size, count = self._settings.batch_size, len(self._examples.usable)
        numbers = np.random.default_rng([self._settings.seed, self.epoch])
        if self._training and self._sampling is not None:
            yield from self._sampling.batches(self._examples.days(), numbers)
            return
        if self._day_starts is not None:
            starts = self._day_starts
            days = np.arange(len(starts) - 1)
            for day in numbers.permutation(days) if self._training else days:
                yield np.arange(starts[day], starts[day + 1])
            return
        if self._training and self._settings.batches is not None:
            last = self.epoch == self._settings.epochs - 1
            wanted = (self._settings.last_batches if last else None) or self._settings.batches
            for _ in range(wanted):
                yield np.sort(numbers.integers(0, count, size))
            return
        if self._training and self._settings.balanced:
            yield from self._balanced(numbers)
            return
        order = numbers.permutation(count) if self._training else np.arange(count)
        for at in range(0, count, size):
            if self._training and at > 0 and at + size > count:
                return  # the gradient of a small batch is noisy; other samples are left out in the next epoch
            yield np.sort(order[at : at + size])  # which are close together on disk

    def _balanced(self, numbers: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Yield the samples of the first group, of the next one, and so on, in batches of equally many of each."""
        group = self._examples.group
        assert group is not None
        orders = [numbers.permutation(np.flatnonzero(group == one)) for one in np.unique(group)]
        least = min(len(order) for order in orders)
        size = min(self._settings.batch_size, least)
        for at in range(0, least - size + 1, size):
            yield np.concatenate([np.sort(order[at : at + size]) for order in orders])


def _starts(days: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.flatnonzero(np.diff(days)) + 1, [len(days)]]).astype(np.int64)


class Checkpoint:
    """The state of a training on disk, replaced atomically.

    Parameters
    ----------
    file : path
        Where it is stored.
    seconds : float
        Shortest time between two writes.
    """

    def __init__(self, file: Path, seconds: float) -> None:
        self._file = file
        self._seconds = seconds
        self._written = time.monotonic()

    def load(self) -> State | None:
        """Return the state of an earlier training; None if there is none, or it cannot be read."""
        try:
            return State(**torch.load(self._file, map_location="cpu", weights_only=True))
        except FileNotFoundError:
            return None
        except Exception as exc:  # noqa: BLE001 - damaged files can raise anything; the training begins anew
            log.warning("the checkpoint %s cannot be read, so the training begins anew: %s", self._file, exc)
            return None

    def save(self, state: State, *, always: bool = False) -> None:
        """Write a state; unless `always` is True, only if the last one was not written a short time ago."""
        if not always and time.monotonic() - self._written < self._seconds:
            return
        draft = self._file.with_name(f"{uuid.uuid4().hex}.draft")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as stream:
                torch.save(vars(state), stream)
            draft.replace(self._file)
        except (OSError, RuntimeError) as exc:  # the disk is full; PyTorch raises RuntimeError
            log.warning("the checkpoint %s cannot be written: %s", self._file, exc)
            draft.unlink(missing_ok=True)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Delete the state, and states that other trainings left a long time ago."""
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
            for other in self._file.parent.iterdir():
                if time.time() - other.stat().st_mtime > _KEPT_DAYS * 86400:
                    other.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Further:
    """Samples from which a module learns after the batches of each epoch, by its ``further_loss``, with its own optimizer."""

    examples: Examples
    optimizer: str
    lr: float


@dataclass(frozen=True, slots=True)
class Stage:
    """A training: a module, and what it learns from.

    A model can have several, one after another. The module of an earlier stage contains modules of the next one, which
    begins with their trained weights.
    """

    network: Network
    train: Examples
    valid: Examples | None
    settings: Settings
    checkpoint: Checkpoint | None = None
    """Where the state is stored after an epoch, and from where the training continues."""
    name: str = ""
    """What the names of its metrics begin with."""
    sampling: Sampling | None = None
    """How its batches are drawn; by default as the settings say."""
    arguments: Document = field(default_factory=dict)
    """Arguments on which the result depends, in addition to those of the settings and the module."""
    passes: int = 1
    """How often an epoch reads the train segment, each time in the same batches."""
    further: Further | None = None


class _Stopped(Exception):
    """The score has not improved for a while."""


class _Net(skorch.NeuralNet):
    """skorch's loop over our batches."""

    def __init__(self, *args: object, valid: Batches | None, settings: Settings, **kwargs: object) -> None:
        self.valid = valid
        self.settings = settings
        self.step_ = 0
        super().__init__(*args, **kwargs)

    def get_split_datasets(
        self,
        X: Batches,  # noqa: N803 - skorch's name
        y: object = None,
        **fit_params: object,
    ) -> tuple[Batches, Batches | None]:
        return X, self.valid

    def get_iterator(self, dataset: Batches, training: bool = False) -> Batches:
        return dataset

    def scores(self, features: torch.Tensor, target: Target) -> torch.Tensor:
        with autocast(self.settings):
            return _scores(self.module_, features.to(self.device), target.to(self.device).group, self.settings.model)

    def get_loss(
        self,
        y_pred: torch.Tensor,
        y_true: Target,
        X: object = None,  # noqa: N803
        training: bool = False,
    ) -> torch.Tensor:
        target = y_true.to(self.device)
        losses = _LOSSES[self.settings.loss](y_pred, target.label, reduction="none")
        return losses.mean() if target.weight is None else (losses * target.weight).mean()

    def train_step(self, batch: Batch, **fit_params: object) -> dict[str, torch.Tensor]:
        self._set_training(True)
        features, target = batch
        if self.step_ % self.settings.accumulated == 0:
            self._zero_grad_optimizer()
        self.step_ += 1
        if isinstance(self.module_, SupportsOwnLoss):
            with autocast(self.settings):
                loss = self.module_.training_loss(features.to(self.device), target.to(self.device))
        else:
            loss = self.get_loss(self.scores(features, target), target, training=True)
        batches = self.settings.accumulated
        self._learn(loss, self.optimizer_, batches=batches, last=self.step_ % batches == 0)
        return {"loss": loss}

    def further_step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
        """Learn from a batch of :class:`Further`."""
        self._set_training(True)
        features, target = batch
        optimizer.zero_grad()
        with autocast(self.settings):
            loss = self.module_.further_loss(features.to(self.device), target.to(self.device))
        self._learn(loss, optimizer)

    def _learn(
        self, loss: torch.Tensor, optimizer: torch.optim.Optimizer, *, batches: int = 1, last: bool = True
    ) -> None:
        """Add the gradients of one of several batches, and after the last one change the weights."""
        scaler = self.scaler
        scaler.scale(loss / batches).backward()
        if not last:
            return
        if self.settings.clip is not None:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_value_(self.module_.parameters(), self.settings.clip)
        scaler.step(optimizer)
        scaler.update()

    def validation_step(self, batch: Batch, **fit_params: object) -> dict[str, torch.Tensor]:
        self._set_training(False)
        features, target = batch
        with torch.no_grad():
            if isinstance(self.module_, SupportsOwnValidation):
                with autocast(self.settings):
                    return {"loss": self.module_.validation_loss(features.to(self.device), target.to(self.device))}
            return {"loss": self.get_loss(self.scores(features, target), target)}


def _scores(network: Network, features: torch.Tensor, group: torch.Tensor | None, model: str) -> torch.Tensor:
    """Return the output of a module as one float32 number for each sample."""
    count = len(features)
    found = network.of_groups(features, group) if isinstance(network, SupportsGroups) else network(features)
    if not isinstance(found, torch.Tensor):
        raise ModelError(f"The module of {model} returns a {type(found).__name__}; it must return a tensor.")
    if found.numel() != count:
        raise ModelError(
            f"The module of {model} returns values of shape {tuple(found.shape)} for {count} samples; it must return one "
            "number for each."
        )
    return found.reshape(-1).float()


class _Progress(skorch.callbacks.Callback):
    """Seeds each epoch, and after it records the metrics, decides whether to stop, and writes the checkpoint."""

    def __init__(self, train: Batches, valid: Batches | None, stage: Stage, curves: Curves) -> None:
        self._train = train
        self._valid = valid
        self._settings = stage.settings
        self._checkpoint = stage.checkpoint
        self._first_curves = curves  # of earlier stages
        self._stage = stage
        self._further = stage.further
        self._further_optimizer: torch.optim.Optimizer | None = None
        self._scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
        self.state: State | None = None

    def begin(self, net: _Net, found: State | None) -> int:
        """Restore the state of an earlier training, and return its number of epochs."""
        if self._settings.scheduler is not None:
            kind = getattr(torch.optim.lr_scheduler, self._settings.scheduler["class"])
            self._scheduler = kind(net.optimizer_, **self._settings.scheduler.get("kwargs", {}))
        if self._further is not None:
            kind = getattr(torch.optim, self._further.optimizer)
            self._further_optimizer = kind(net.module_.parameters(), lr=self._further.lr)
        if found is None:
            return 0
        net.module_.load_state_dict(found.weights)
        net.optimizer_.load_state_dict(found.optimizer)
        net.scaler.load_state_dict(found.scaler)
        if self._scheduler is not None:
            self._scheduler.load_state_dict(found.scheduler)
        if self._further_optimizer is not None:
            self._further_optimizer.load_state_dict(found.further)
        self.state = found
        done = len(found.curves["loss.train"])
        log.info("%s: training continues after epoch %d", self._settings.model, done)
        return done

    @property
    def is_over(self) -> bool:
        """Whether the score has not improved for `early_stop` epochs."""
        scores = [] if self.state is None else self.state.scores
        return bool(scores) and len(scores) - 1 - int(np.argmin(scores)) >= self._settings.early_stop

    def on_epoch_begin(self, net: _Net, **kwargs: object) -> None:
        epoch = 0 if self.state is None else len(self.state.curves["loss.train"])
        self._train.epoch = epoch
        _remember(self._stage, net.device, trained=False)
        net.step_ = 0  # gradients that the last batches of an epoch added up are left out
        torch.manual_seed(int(np.random.SeedSequence([self._settings.seed, epoch]).generate_state(1, np.uint64)[0]))

    def on_epoch_end(self, net: _Net, **kwargs: object) -> None:
        self._learn_further(net)
        if isinstance(net.module_, SupportsEpochs):
            net.module_.end_epoch()
        new = {"loss.train": float(net.history[-1, "train_loss"])}
        if self._valid is not None:
            new |= self._compared(net, self._valid)
        if not np.isfinite(list(new.values())).all():
            raise ModelError(
                f"The loss of {self._settings.model} is not finite after epoch {len(net.history)}. Use a smaller lr, or "
                "processors that normalize the features and the label."
            )
        earlier = self.state
        curves = dict(self._first_curves if earlier is None else earlier.curves)
        curves |= {key: [*curves.get(key, []), value] for key, value in new.items()}
        history = list(earlier.scores) if earlier is not None else []
        best = earlier.best if earlier is not None else None
        if self._valid is not None:
            correlation = new.get(f"{self._settings.metric}.valid") if "ic" in self._settings.metric else None
            history.append(new["loss.valid"] if correlation is None else -correlation)
            if int(np.argmin(history)) == len(history) - 1:
                best = _on_cpu(net.module_.state_dict())
        self._step(new.get("loss.valid", new["loss.train"]))
        schedule = None if self._scheduler is None else self._scheduler.state_dict()
        # The tensors are those of the module and the optimizer, which change in the next epoch, after they were written.
        further = None if self._further_optimizer is None else self._further_optimizer.state_dict()
        self.state = State(
            net.module_.state_dict(), net.optimizer_.state_dict(), schedule, net.scaler.state_dict(), curves, history, best,
            further,
        )  # fmt: skip
        log.debug("%s: epoch %d: %s", self._settings.model, len(curves["loss.train"]), new)
        if self._checkpoint is not None:
            self._checkpoint.save(self.state)
        if self.is_over:
            raise _Stopped

    def _learn_further(self, net: _Net) -> None:
        if self._further is None or self._further_optimizer is None:
            return
        batches = Batches(self._further.examples, self._settings, training=True)
        batches.epoch = self._train.epoch
        for batch in batches:
            net.further_step(batch, self._further_optimizer)

    def _compared(self, net: _Net, valid: Batches) -> dict[str, float]:
        """Return the metrics of the valid segment."""
        metric, network = self._settings.metric, net.module_
        scores = network.valid_scores() if isinstance(network, SupportsOwnScores) else None
        found = {"loss.valid": float(net.history[-1, "valid_loss"]) if scores is None else valid.loss(scores)}
        if metric in ("ic", "rank_ic"):
            if scores is None:
                scores = predict(network, valid, net.device, autocast(self._settings))
            found[f"{metric}.valid"] = _mean_ic(valid, scores, ranks=metric == "rank_ic")
        return found

    def _step(self, loss: float) -> None:
        if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(loss)
        elif self._scheduler is not None:
            self._scheduler.step()


def _remember(stage: Stage, device: str, *, trained: bool) -> None:
    if isinstance(stage.network, SupportsMemory):
        batches = Batches(stage.train, stage.settings, training=False)
        with autocast(stage.settings):
            stage.network.remember((batches.features(one).to(device) for one in batches.places()), trained=trained)


def _mean_ic(valid: Batches, scores: NDArray[np.float32], *, ranks: bool) -> float:
    """Return the mean correlation of scores and labels, or of their ranks, over the days; 0 if no day has one."""
    examples = valid._examples
    found = []
    starts = _starts(examples.days())
    for first, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        x: NDArray[np.float64] = scores[first:stop].astype(np.float64)
        y: NDArray[np.float64] = examples.label[first:stop].astype(np.float64)
        if ranks:
            x, y = (np.asarray(pd.Series(values).rank(), np.float64) for values in (x, y))
        x, y = x - x.mean(), y - y.mean()
        size = float(np.sqrt((x * x).sum() * (y * y).sum()))
        if size > 0:
            found.append(float((x * y).sum()) / size)
    return float(np.mean(found)) if found else 0.0


def _on_cpu(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in weights.items()}


def checksum(network: Network) -> int:
    """Return a checksum of the weights of a module."""
    total = 0
    for value in _on_cpu(network.state_dict()).values():
        total = zlib.crc32(np.ascontiguousarray(value.numpy()).reshape(-1).view(np.uint8).data, total)
    return total


@contextlib.contextmanager
def limited(seed: int, device: str) -> Iterator[None]:
    """Inside the ``with`` block, PyTorch uses the threads of the session and a seed of its own."""
    threads = torch.get_num_threads()
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    cudnn = torch.backends.cudnn
    kept = cudnn.benchmark, cudnn.deterministic
    torch.set_num_threads(current_session().threads)
    try:
        cudnn.benchmark, cudnn.deterministic = False, True
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = kept
        torch.set_num_threads(threads)


class Trained(NamedTuple):
    """A trained module."""

    network: Network
    curves: Curves
    """Each metric after each epoch."""
    weights: dict[str, NDArray[np.generic]]
    """The best ones, which are also those of `network`."""


def train(stages: Sequence[Stage]) -> Trained:
    """Train the stages one after another, and return the module of the last one.

    Parameters
    ----------
    stages : sequence of Stage
        What is trained. The modules have their first weights, and afterwards the best ones.

    Raises
    ------
    ModelError
        If the loss is not finite, or the output of a module has another shape.
    """
    return _found(_trained(stages), stages[-1].network, [stages])


def train_until(
    limit: float, settings: Sequence[Settings], begin: Callable[[Settings], Sequence[Stage]]
) -> tuple[Trained, int]:
    """Repeat a training until the score on the valid segment is at most `limit`; return the best one, and their number.

    Parameters
    ----------
    limit : float
        The score with which the repetitions end.
    settings : sequence of Settings
        Those of each training, with different seeds. There are no more trainings than these.
    begin : callable
        Returns the stages of a training, with its first weights.

    Raises
    ------
    ModelError
        See :func:`train`.
    """
    begun: list[Sequence[Stage]] = []
    best: tuple[float, State, Network] | None = None
    for one in settings:
        torch.manual_seed(one.seed)
        stages = begin(one)
        begun.append(stages)
        state = _trained(stages)
        if stages[-1].checkpoint is not None:  # so that an interrupted repetition continues with the one after it
            stages[-1].checkpoint.save(state, always=True)
        score = min(state.scores)
        if best is None or score < best[0]:
            best = score, state, stages[-1].network
        if score <= limit:
            break
    assert best is not None
    return _found(best[1], best[2], begun), len(begun)


def _found(state: State, network: Network, begun: Sequence[Sequence[Stage]]) -> Trained:
    for stages in begun:  # not earlier: a later stage that is interrupted begins with the weights of the one before
        for stage in stages:
            if stage.checkpoint is not None:
                stage.checkpoint.remove()
    return Trained(network, state.curves, weights_of(network))


def weights_of(network: Network) -> dict[str, NDArray[np.generic]]:
    """Return a copy of the weights of a module."""
    return {name: value.numpy() for name, value in _on_cpu(network.state_dict()).items()}


def _trained(stages: Sequence[Stage]) -> State:
    """Train the last stage, and before it the earlier ones, unless there is a checkpoint of the last one."""
    *earlier, stage = stages
    settings, network = stage.settings, stage.network
    found = None if stage.checkpoint is None else stage.checkpoint.load()
    curves: Curves = _trained(earlier).curves if earlier and found is None else {}
    batches = Batches(stage.train, settings, training=True, passes=stage.passes, sampling=stage.sampling)
    judged = None if stage.valid is None else Batches(stage.valid, settings, training=False)
    progress = _Progress(batches, judged, stage, {f"{earlier[-1].name}{key}": curve for key, curve in curves.items()})
    options = {f"optimizer__{name}": value for name, value in settings.optimizer_kwargs.items()}
    net = _Net(
        network, criterion=torch.nn.Identity, optimizer=getattr(torch.optim, settings.optimizer), lr=settings.lr,
        valid=None if isinstance(network, SupportsOwnScores) else judged,
        settings=settings, device=settings.device, callbacks=[("progress", progress)],
        callbacks__print_log=None, callbacks__epoch_timer=None, verbose=0, **options,
    )  # fmt: skip
    net.scaler = torch.amp.GradScaler(torch.device(settings.device).type, enabled=settings.mixed_precision == "fp16")
    net.initialize()
    done = progress.begin(net, found)
    if not progress.is_over:
        with contextlib.suppress(_Stopped):
            # Not fit(), which takes an interruption by the user for the end of the training.
            net.notify("on_train_begin", X=batches, y=None)
            net.fit_loop(batches, epochs=max(settings.epochs - done, 0))
    state = progress.state
    assert state is not None
    network.load_state_dict(state.best if state.best is not None else state.weights)
    _remember(stage, settings.device, trained=True)
    return state


def predict(network: Network, batches: Batches, device: str, autocast: torch.autocast) -> NDArray[np.float32]:
    """Return the output of a module for each usable sample."""
    found: list[NDArray[np.float32]] = []
    network.train(False)
    with torch.no_grad(), autocast:
        for chosen in batches.places():
            features, group = batches.features(chosen).to(device), batches.groups(chosen)
            scores = _scores(network, features, None if group is None else group.to(device), type(network).__name__)
            found.append(scores.cpu().numpy())
    return np.concatenate(found) if found else np.empty(0, np.float32)


def scores_of(network: Network, examples: Examples, settings: Settings) -> NDArray[np.float32]:
    """Return the score of each usable sample."""
    with limited(settings.seed, settings.device):
        network.to(settings.device)
        batches = Batches(examples, settings, training=False)
        return predict(network, batches, settings.device, autocast(settings))


def autocast(settings: Settings) -> torch.autocast:
    """Return the context in which a module computes with mixed precision, if that is wanted."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.mixed_precision or "")
    return torch.autocast(torch.device(settings.device).type, dtype=kind, enabled=kind is not None)


def device_named(wanted: int | str) -> str:
    """Return the device to use: the GPU of a number if there is one, or else the CPU; a name as it is.

    Raises
    ------
    ConfigError
        If PyTorch has no device of the name.
    """
    if isinstance(wanted, str):
        try:
            return str(torch.device(wanted))
        except RuntimeError as exc:
            raise ConfigError(f"PyTorch has no device {wanted!r}: {str(exc).splitlines()[0]}", path="GPU") from exc
    available = wanted >= 0 and torch.cuda.is_available() and wanted < torch.cuda.device_count()
    return f"cuda:{wanted}" if available else "cpu"


def write_weights(weights: Mapping[str, NDArray[np.generic]], file: Path) -> None:
    """Write the weights of a module as PyTorch's own file of a ``state_dict``."""
    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, file)


def read_weights(file: Path) -> dict[str, NDArray[np.generic]]:
    """Read a file of weights; only tensors are read, and nothing in the file is executed.

    Raises
    ------
    ValueError
        If it contains anything else.
    """
    return _as_weights(torch.load(file, map_location="cpu", weights_only=True))


def read_weight_groups(file: Path, names: Sequence[str]) -> dict[str, dict[str, NDArray[np.generic]]]:
    """Read a file of the weights of several modules; see :func:`read_weights`.

    Raises
    ------
    ValueError
        If it contains anything else, or lacks one of the modules.
    """
    found = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or any(name not in found for name in names):
        raise ValueError(f"it does not contain the weights {' and '.join(map(repr, names))}")
    return {name: _as_weights(found[name]) for name in names}


def _as_weights(found: object) -> dict[str, NDArray[np.generic]]:
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ValueError("it contains other values than tensors")
    return {str(name): value.numpy() for name, value in found.items()}


def with_weights(network: Network, weights: Mapping[str, NDArray[np.generic]]) -> Network:
    """Return a module after its weights were set.

    Raises
    ------
    RuntimeError
        If the module has other weights.
    """
    network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return network
