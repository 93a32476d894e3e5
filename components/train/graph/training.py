"""Node classification, data-parallel: each process owns a partition, samples for its own nodes and fetches the rows it lacks.

A node's step in an epoch is a hash of its number, and so are its drawn neighbours. So all processes together make the very steps that one
process makes of the whole graph, whatever the partition: the loss curves are equal but for the order of sums (dropout aside).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from components.core.errors import DataError
from components.core.params import Frozen
from components.train.graph.exchange import Alone, Exchange, routed
from components.train.graph.files import TEST, TRAIN, VALIDATION, Partition
from components.train.graph.hashing import buckets, key
from components.train.graph.ids import Ids
from components.train.graph.prefetch import prefetched
from components.train.graph.sage import Aggregate, Edges, GraphSage
from components.train.graph.sampler import Sample, Sampler

__all__ = ["Epoch", "Options", "Rows", "Trained", "Trainer", "train"]

_TRAINING, _JUDGING = 0, 1
_EVERY = 3  # beside the splits


class Options(Frozen):
    """How a model is trained.

    Attributes:
        fanouts: Neighbours a node, the hop from the asked nodes first; as many layers. 0 takes all neighbours.
        hidden: Width of a layer.
        aggregate: How a node takes in its neighbours.
        heads: Of attention.
        batch: Nodes a step, over all processes, on average.
        prefetch: Batches made ahead by a thread.
    """

    fanouts: tuple[int, ...] = Field((10, 5), min_length=1, max_length=8)
    hidden: int = Field(64, ge=1, le=4096)
    aggregate: Aggregate = "mean"
    heads: int = Field(4, ge=1, le=64)
    dropout: float = Field(0.0, ge=0, lt=1)
    batch: int = Field(512, ge=1)
    epochs: int = Field(5, ge=1)
    learning_rate: float = Field(0.01, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    seed: int = 0
    prefetch: int = Field(2, ge=0, le=64)

    @model_validator(mode="after")
    def _whole_heads(self) -> Options:
        if self.aggregate == "attention" and self.hidden % self.heads:
            raise ValueError(f"hidden is {self.hidden}, which must be a multiple of heads, {self.heads}")
        return self


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to.

    Attributes:
        loss: Mean cross-entropy a training node, as the steps saw it.
        accuracy: Share of validation nodes that are right afterwards; None where there are none.
    """

    loss: float
    accuracy: float | None


@dataclass
class Rows:
    """Feature rows a process needed while training, and those of them that another process sent."""

    needed: int = 0
    remote: int = 0


@dataclass(frozen=True)
class Trained:
    """A trained model, the same on every process.

    Attributes:
        model: The network, in eval mode.
        epochs: One after the other.
        accuracy: Share of test nodes that are right; None where there are none.
        steps: Gradient steps made.
        sent: What for -> bytes this process handed over to others in all those steps, judging left out.
        rows: Feature rows of this process, likewise.
    """

    model: GraphSage
    epochs: tuple[Epoch, ...]
    accuracy: float | None
    steps: int
    sent: dict[str, int] = field(default_factory=dict)
    rows: Rows = field(default_factory=Rows)

    @property
    def bytes_a_step(self) -> float:
        """Bytes this process sent a step."""
        return sum(self.sent.values()) / max(self.steps, 1)


@dataclass(frozen=True)
class _Batch:
    sample: Sample
    x: NDArray[Any]
    labels: Ids


def train(partition: Partition, options: Options, exchange: Exchange | None = None, device: torch.device | None = None) -> Trained:
    """Train on all partitions; every process calls it with its own.

    Args:
        partition: This process' own.
        options: The same on every process.
        exchange: The way to the others; None: this process is alone with the only partition.
        device: Where the model computes; features travel and rest in host memory.

    Raises:
        DataError: No partition has a labelled training node, or partitions and processes do not match.
        TryAgain: Another process is gone.
    """
    trainer = Trainer(partition, options, exchange, device)
    epochs = []
    for number in range(options.epochs):
        loss = trainer.epoch(number)
        epochs.append(Epoch(loss, trainer.accuracy(VALIDATION)))
    accuracy = trainer.accuracy(TEST)
    return Trained(trainer.model.eval(), tuple(epochs), accuracy, trainer.steps * options.epochs, dict(trainer.sent), trainer.rows)


class Trainer:
    """One process' part of the training; every process makes the same calls. Arguments as of `train`.

    Attributes:
        model: The network.
        steps: Gradient steps an epoch.
        sent: What for -> bytes sent in epochs.
        rows: Feature rows needed in epochs.
    """

    def __init__(
        self, partition: Partition, options: Options, exchange: Exchange | None = None, device: torch.device | None = None
    ) -> None:
        self.partition, self.options = partition, options
        self.exchange, self.device = exchange or Alone(), device or torch.device("cpu")
        self.sampler = Sampler(partition, options.fanouts, self.exchange)
        self.rows, self.sent = Rows(), dict[str, int]()
        self._nodes = {split: np.flatnonzero((partition.split == split) & (partition.labels >= 0)) for split in (TRAIN, VALIDATION, TEST)}
        total = sum(self._all(len(self._nodes[TRAIN])))
        if not total:
            raise DataError("no training node has a label", do="label some nodes, or change the split")
        self.steps = max(1, round(total / options.batch))
        self.model = self._network().to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)

    def epoch(self, number: int) -> float:
        """Make an epoch's steps; return the mean loss a node. Raises as `train`."""
        before, loss, seen = dict(self.exchange.sent), 0.0, 0
        self.model.train()
        with closing(cast("Any", prefetched(self._batches(number), self.options.prefetch))) as batches:
            for batch in batches:
                summed, count = self._step(batch)
                loss, seen = loss + summed, seen + count
        for what, total in self.exchange.sent.items():
            self.sent[what] = self.sent.get(what, 0) + total - before.get(what, 0)
        return loss / max(seen, 1)

    def accuracy(self, split: int) -> float | None:
        """Return the share of a split's nodes, of all processes, that are right; None: there are none. Raises as `train`."""
        nodes, size = self._nodes[split], self.options.batch
        rounds = max(self._all(-(-len(nodes) // size)))
        right = 0
        self.model.eval()
        with torch.no_grad():
            for turn in range(rounds):
                batch = self._batch(nodes[turn * size : (turn + 1) * size], (_JUDGING, split))
                if len(batch.labels):
                    right += int((self._logits(batch).argmax(1).cpu().numpy() == batch.labels).sum())
        total = sum(self._all(len(nodes)))
        return sum(self._all(right)) / total if total else None

    def every(self) -> NDArray[Any]:
        """Return the (N, K) logits of this partition's nodes, whatever is known of them."""
        nodes, size = np.arange(len(self.partition)), self.options.batch
        self.model.eval()
        with torch.no_grad():
            parts = [self._batch(nodes[at : at + size], (_JUDGING, _EVERY)) for at in range(0, len(nodes), size)]
            return np.concatenate([self._logits(batch).cpu().numpy() for batch in parts])

    def restore(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Take another training's weights, by parameter name."""
        self.model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})

    def _network(self) -> GraphSage:
        options, features = self.options, self.partition.features
        with torch.random.fork_rng(devices=[]):  # equal on all processes, and nobody else's numbers change
            torch.manual_seed(options.seed)
            model = GraphSage(
                features.shape[1],
                options.hidden,
                self.partition.classes,
                len(options.fanouts),
                aggregate=options.aggregate,
                heads=options.heads,
                dropout=options.dropout,
            )
        return model.to(torch.from_numpy(np.empty(0, features.dtype)).dtype)

    def _batches(self, epoch: int) -> Iterator[_Batch]:
        nodes, seed = self._nodes[TRAIN], self.options.seed
        step_of = buckets(self.partition.original.take(nodes), self.steps, key(seed, _TRAINING, epoch))
        for step in range(self.steps):
            yield self._batch(nodes[step_of == step], (_TRAINING, epoch, step), self.rows)

    def _batch(self, nodes: Ids, step: tuple[int, ...], counted: Rows | None = None) -> _Batch:
        sample = self.sampler.sample(nodes, self.options.seed, *step)
        return _Batch(sample, self._fetch(sample.nodes, counted), self.partition.labels.take(nodes))

    def _fetch(self, nodes: Ids, counted: Rows | None) -> NDArray[Any]:
        """Return the (n, F) features of nodes, asking their owners."""
        owner, local = self.partition.ids.split(nodes)
        if counted is not None:
            counted.needed += len(nodes)
            counted.remote += int((owner != self.partition.number).sum())
        if self.exchange.world == 1:
            return self.partition.features.take(local, axis=0)
        order, cuts = routed(owner, self.exchange.world)
        asked = self.exchange.swap(np.split(local.take(order), cuts), "node ids")
        rows = self.exchange.swap([self.partition.features.take(ids, axis=0) for ids in asked], "features")
        x = np.empty((len(nodes), self.partition.features.shape[1]), self.partition.features.dtype)
        x[order] = np.concatenate(rows)
        return x

    def _step(self, batch: _Batch) -> tuple[float, int]:
        """Make one step; return (summed loss, nodes), both over all processes."""
        self.optimizer.zero_grad(set_to_none=False)
        loss = torch.zeros((), dtype=self.model.head.weight.dtype, device=self.device)
        if len(batch.labels):  # the hash may leave a process without a node in this step
            loss = functional.cross_entropy(self._logits(batch), torch.from_numpy(batch.labels).to(self.device), reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
        parameters = list(self.model.parameters())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        counted = loss.new_tensor([float(len(batch.labels))])
        packed = self.exchange.sum_(torch.cat([loss.detach().reshape(1), counted, *(g.reshape(-1) for g in gradients)]), "gradients")
        count = int(packed[1])
        if count:
            _unpack(packed[2:] / count, parameters)
            self.optimizer.step()
        return float(packed[0]), count

    def _logits(self, batch: _Batch) -> Tensor:
        logits: Tensor = self.model(
            torch.from_numpy(batch.x).to(self.device), [Edges.of(block, self.device) for block in batch.sample.blocks]
        )
        return logits

    def _all(self, number: int) -> list[int]:
        """Return every process' number."""
        return [int(part[0]) for part in self.exchange.swap([np.array([number])] * self.exchange.world, "counts")]


def _unpack(flat: Tensor, parameters: list[torch.nn.Parameter]) -> None:
    for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).clone()
