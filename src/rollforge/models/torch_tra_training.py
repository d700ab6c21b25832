"""Training and prediction of TRA, with a memory of the losses of earlier predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from rollforge.features.memory import MTSDataSampler
from rollforge.models.torch_samples import Examples
from rollforge.models.torch_tra_network import TRANetwork, assigned, scaled
from rollforge.models.torch_training import Batches, Settings, Target, autocast

Tensor = Any  # torch.Tensor, whose types are not read

_CHUNK = 1024
"""Number of samples that are evaluated together, at least; all samples of a day are."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Batches of samples, or of the samples of some days.

    Parameters
    ----------
    batch_size : int
        Number of samples; if negative, number of days.
    n_samples : int, optional
        Number of samples of a day, if batches have days.
    shuffle, drop_last : bool
        Whether the order is random, and whether a last batch that is smaller is left out.
    steps : int, optional
        Maximum number of batches.
    """

    batch_size: int
    n_samples: int | None = None
    shuffle: bool = True
    drop_last: bool = False
    steps: int | None = None

    def batches(self, days: NDArray[np.int64], numbers: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Yield positions among the usable samples; at least one batch."""
        return islice(self._all(days, numbers), self.steps)

    def _all(self, days: NDArray[np.int64], numbers: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        size = abs(self.batch_size)
        count = len(days) if self.batch_size > 0 else int(days[-1]) + 1
        order = numbers.permutation(count) if self.shuffle else np.arange(count)
        starts = np.searchsorted(days, np.arange(count + 1)) if self.batch_size < 0 else None
        for at in range(0, count, size):
            chosen = order[at : at + size]
            if self.drop_last and at > 0 and len(chosen) < size:
                return
            if starts is None:
                yield np.sort(chosen)  # which are close together on disk
            else:
                yield np.concatenate([self._of_day(starts[day], starts[day + 1], numbers) for day in np.sort(chosen)])

    def _of_day(self, first: int, stop: int, numbers: np.random.Generator) -> NDArray[np.int64]:
        if self.n_samples is None or self.n_samples >= stop - first:
            return np.arange(first, stop)
        return first + np.sort(numbers.choice(stop - first, self.n_samples, replace=False))


@dataclass(frozen=True, slots=True)
class Transport:
    """Assignment of samples to predictors.

    Parameters
    ----------
    method : {"none", "router", "oracle"}
        By the mean of all predictors; by the router; or by the losses, known or remembered.
    alpha : float
        Share of the new losses in an assignment; the others are remembered.
    """

    method: str
    alpha: float

    def reads_memory(self, network: TRANetwork) -> bool:
        """Return whether a score depends on the losses of earlier samples."""
        return self.method == "oracle" or (self.method == "router" and "TPE" in network.tra.src_info)


@dataclass(frozen=True, slots=True)
class Episode:
    """Samples in the order of their days, each of which remembers the losses of earlier ones."""

    examples: Examples
    """Its labels are NaN where they are not known."""
    sampler: MTSDataSampler
    places: NDArray[np.int64]
    """(usable,): position of each usable sample in `sampler`."""
    scored: NDArray[np.bool_]
    """(usable,): which samples are scored; the others are only remembered."""

    def chunks(self) -> Iterator[NDArray[np.int64]]:
        """Yield positions among the usable samples: those of some days."""
        days = self.examples.days()
        starts = np.concatenate([[0], np.flatnonzero(np.diff(days)) + 1])
        first = 0
        for stop in (*starts[1:].tolist(), len(days)):
            if stop - first >= _CHUNK or stop == len(days):
                yield np.arange(first, stop)
                first = stop


def new_memory(sampler: MTSDataSampler, states: int) -> Tensor:
    """Return a memory of zeros, (slots + 1, states); the last slot stands for those before the first one."""
    return torch.zeros(sampler.slots + 1, states)


def by_slot(losses: Tensor, known: Tensor, slot: Tensor, count: int) -> Tensor:
    """Return the mean of the known losses of each slot, (count, states); 0 if there are none.

    Parameters
    ----------
    losses : tensor, (samples, states)
        Losses of samples; 0 where they are not known.
    known : bool tensor, (samples,)
        Which losses are known.
    slot : int tensor, (samples,)
        Number of the slot of each sample.
    count : int
        Number of slots.
    """
    if count == len(losses):  # each sample has its own, in the same order
        return losses
    # A product of matrices has the same bits each time, also on a GPU.
    members = (slot == torch.arange(count, device=slot.device)[:, None]) & known
    return (members.to(losses) @ losses) / members.sum(dim=1, keepdim=True).clamp(min=1)


def squared_errors(found: Tensor, label: Tensor) -> Tensor:
    """Return the squared error of each predictor, (samples, states); 0 where the label is NaN."""
    known = ~torch.isnan(label)
    return (found - torch.nan_to_num(label)[:, None]).square() * known[:, None]


def evaluate(
    network: TRANetwork,
    episode: Episode,
    settings: Settings,
    transport: Transport,
    memory: Tensor | None,
    *,
    known_labels: bool = False,
) -> NDArray[np.float32]:
    """Return the score of each scored sample, and store the losses of all samples in the memory.

    Parameters
    ----------
    network : TRANetwork
        The network. Its mode is restored.
    episode : Episode
        The samples.
    settings : Settings
        Settings of the training.
    transport : Transport
        How samples are assigned to predictors.
    memory : tensor, (slots + 1, states), optional
        Losses of earlier samples. None if they are not read.
    known_labels : bool
        Whether ``oracle`` assigns a sample by its own loss too, which a prediction does not know.
    """
    weight = next(network.parameters())
    batches = Batches(episode.examples, settings, training=False)
    found: list[NDArray[np.float32]] = []
    training = network.training
    network.train(False)
    with torch.no_grad():
        for chosen in episode.chunks():
            with autocast(settings):
                hidden = network.model(batches.features(chosen).to(weight))
                predicted = network.tra.predictors(hidden)
            hidden, predicted = hidden.to(weight), predicted.to(weight)
            label = torch.from_numpy(episode.examples.label[chosen]).to(weight)
            if memory is not None:
                _remember(episode, chosen, predicted, label, memory)
            wanted = episode.scored[chosen]
            if wanted.any():
                rows = torch.from_numpy(np.flatnonzero(wanted)).to(weight.device)
                scores = _scores(
                    network, episode, chosen[wanted], hidden[rows], predicted[rows], transport, memory,
                    label[rows] if known_labels else None,
                )  # fmt: skip
                found.append(scores.float().cpu().numpy())
    network.train(training)
    return np.concatenate(found) if found else np.empty(0, np.float32)


def _remember(episode: Episode, chosen: NDArray[np.int64], predicted: Tensor, label: Tensor, memory: Tensor) -> None:
    slots, numbers = _slots(episode, chosen, memory.device)
    losses = by_slot(squared_errors(predicted, label), ~torch.isnan(label), numbers, len(slots))
    memory[slots] = scaled(losses)


def _slots(episode: Episode, chosen: NDArray[np.int64], device: Any) -> tuple[Tensor, Tensor]:
    """Return the slots of some samples, and the number of each sample's slot among them: both ascending."""
    slots, numbers = np.unique(episode.sampler.own_slots(episode.places[chosen]), return_inverse=True)
    return torch.from_numpy(slots).to(device), torch.from_numpy(numbers.reshape(-1)).to(device)


def _remembered(episode: Episode, chosen: NDArray[np.int64], numbers: Tensor, count: int, memory: Tensor) -> Tensor:
    """Return what each slot of some samples remembers, (slots, steps, states)."""
    first = np.empty(count, np.int64)  # a sample of each slot: those of a day remember the same
    first[numbers.cpu().numpy()[::-1]] = chosen[::-1]
    return memory[torch.from_numpy(episode.sampler.remembered(episode.places[first])).to(memory.device)]


def _scores(
    network: TRANetwork,
    episode: Episode,
    chosen: NDArray[np.int64],
    hidden: Tensor,
    predicted: Tensor,
    transport: Transport,
    memory: Tensor | None,
    label: Tensor | None,
) -> Tensor:
    if transport.method == "none":
        return predicted.mean(dim=1)
    slots, numbers = _slots(episode, chosen, predicted.device)
    past = None if memory is None else _remembered(episode, chosen, numbers, len(slots), memory)
    if transport.method == "router":
        state = network.tra.logits(hidden, past).argmax(dim=-1)[numbers]
        return predicted.gather(1, state[:, None])[:, 0]
    assert past is not None
    known = torch.full_like(predicted[:, 0], torch.nan) if label is None else label
    losses = scaled(by_slot(squared_errors(predicted, known), ~torch.isnan(known), numbers, len(slots)))
    shares = torch.empty_like(losses)
    for slot in _days(episode, chosen, numbers):  # the shares of a day's samples add up
        shares[slot] = assigned(losses[slot], past[slot].mean(dim=1), transport.alpha)
    return (predicted * shares[numbers]).sum(dim=1)


def _days(episode: Episode, chosen: NDArray[np.int64], numbers: Tensor) -> Iterator[Tensor]:
    """Yield the slots of the samples of each day."""
    days = episode.sampler.idx_map[episode.places[chosen], 0]
    for day in np.unique(days):
        yield torch.unique(numbers[torch.from_numpy(np.flatnonzero(days == day)).to(numbers.device)])


class TRATraining(nn.Module):
    """Trains a network on batches, and remembers the losses of its predictors.

    Parameters
    ----------
    network : TRANetwork
        What is trained.
    train : Episode
        Samples of the train segment, all of which are usable.
    unknown : int array
        Slots of samples without a label; their losses are 1, as in Qlib.
    valid : Episode, optional
        Samples of the valid segment, and earlier ones that they remember.
    settings : Settings
        Settings of the training.
    transport : Transport
        How samples are assigned to predictors.
    lamb, rho : float
        Weight of the router's own loss, and the factor by which it decreases every 100 batches.
    refreshed : bool
        Whether all losses of the train segment are computed before the first epoch.
    renewed : bool
        Whether they are computed again after each epoch.
    known_labels : bool
        Whether samples of the valid segment are assigned by their own losses too.
    """

    def __init__(
        self,
        network: TRANetwork,
        train: Episode,
        unknown: NDArray[np.int64],
        valid: Episode | None,
        settings: Settings,
        transport: Transport,
        *,
        lamb: float = 0.0,
        rho: float = 1.0,
        refreshed: bool = False,
        renewed: bool = False,
        known_labels: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self._train, self._unknown, self._valid, self._settings = train, unknown, valid, settings
        self._transport, self._lamb, self._rho = transport, lamb, rho
        self._refreshed, self._renewed, self._known_labels = refreshed, renewed, known_labels
        # Both are part of a checkpoint.
        self.register_buffer("memory", new_memory(train.sampler, network.tra.num_states))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._clear()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def _clear(self) -> None:
        self.memory.zero_()
        self.memory[torch.from_numpy(self._unknown).to(self.memory.device)] = 1.0

    def _renew(self) -> None:
        self._clear()
        evaluate(self.network, self._train, self._settings, self._transport, self.memory)

    def training_loss(self, features: Tensor, target: Target) -> Tensor:
        """Return the loss of a batch. The group of a sample is its position in the train segment."""
        if self._refreshed and int(self.step) == 0:
            self._renew()
        assert target.group is not None
        chosen = target.group.cpu().numpy()
        hidden = self.network.model(features)
        predicted = self.network.tra.predictors(hidden).to(target.label)
        weight = torch.ones_like(target.label) if target.weight is None else target.weight
        if self._transport.method == "none":
            loss = (weight * (predicted.mean(dim=1) - target.label).square()).mean()
        else:
            loss = self._assigned_loss(chosen, hidden, predicted, target.label, weight)
        self.step += 1
        return loss

    def _assigned_loss(
        self, chosen: NDArray[np.int64], hidden: Tensor, predicted: Tensor, label: Tensor, weight: Tensor
    ) -> Tensor:
        slots, numbers = _slots(self._train, chosen, predicted.device)
        count = len(slots)
        past = _remembered(self._train, chosen, numbers, count, self.memory)
        errors, known = squared_errors(predicted, label), ~torch.isnan(label)
        new = scaled(by_slot(errors.detach(), known, numbers, count)).to(self.memory.dtype)
        shares = assigned(new, past.mean(dim=1), self._transport.alpha)
        self.memory[slots] = new
        if self._transport.method == "oracle":
            return (by_slot(errors * weight[:, None], known, numbers, count) * shares).sum(dim=1).mean()
        logits = self.network.tra.logits(hidden, past)
        choice = functional.gumbel_softmax(logits, tau=self.network.tra.tau, hard=True)
        found = (predicted * choice[numbers]).sum(dim=1)
        loss = (weight * (found - label).square()).mean()
        likely = (torch.log_softmax(logits / self.network.tra.tau, dim=-1) * shares).sum(dim=1)
        weights = by_slot(weight[:, None], known, numbers, count)[:, 0]
        lamb = self._lamb * self._rho ** (int(self.step) // 100)
        return loss - lamb * (weights * likely).mean()

    def end_epoch(self) -> None:
        """Compute the losses again with the weights after the epoch."""
        if self._renewed:
            self._renew()

    def valid_scores(self) -> NDArray[np.float32]:
        """Return the score of each usable sample of the valid segment."""
        assert self._valid is not None
        memory = None
        if self._transport.reads_memory(self.network):
            memory = new_memory(self._valid.sampler, self.network.tra.num_states).to(self.memory)
        return evaluate(
            self.network, self._valid, self._settings, self._transport, memory, known_labels=self._known_labels
        )


class TRAPretraining(TRATraining):
    """Trains everything but the router: samples are assigned by their losses, also those of the valid segment."""

    def __init__(
        self,
        network: TRANetwork,
        train: Episode,
        unknown: NDArray[np.int64],
        valid: Episode | None,
        settings: Settings,
        alpha: float,
    ) -> None:
        super().__init__(network, train, unknown, valid, settings, Transport("oracle", alpha), known_labels=True)
