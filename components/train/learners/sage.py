"""sage: GraphSAGE (Hamilton et al. 2017) for nodes of a graph; the deployed model is the table of every node's answer.

Nodes are judged where the graph is known, so all that is needed in production is computed when the model is trained: (N + 1, K) logits,
whose last row answers for a node that is not in the graph.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnxruntime  # noqa: F401 - `load_onnx` needs it: imported here, it is imported before a search forks
from numpy.typing import NDArray
from pydantic import Field

from components.core.errors import ConfigError, DataError
from components.core.params import Frozen, GraphSource, Node, Task
from components.model.runtime import load_onnx
from components.train.data import Data
from components.train.features import Encoding, Features, Fill, Intervals, Log, Matrices, Scale, Table, prepare
from components.train.features.options import Clean, Dates, Parse
from components.train.folds import Validation
from components.train.learners.base import Progress, Trained
from components.train.onnx_graph import OnnxGraph
from components.train.parallel.section import Parallel

if TYPE_CHECKING:
    from components.train.graph.files import NodeData
    from components.train.graph.training import Options

__all__ = ["LEARNER"]

_INT64 = 7  # onnx.TensorProto
_LEAST_SHARE = 1e-9


class NodeFeatures(Features):
    """The recipe's `features`: a node's number must stay what it is."""

    clean: Clean = "none"
    parse: Parse = "none"
    dates: Dates = "none"
    fill: Fill = "none"
    indicator: bool = False
    log: Log = "none"
    scale: Scale = "none"
    bins: Intervals = 0
    category: Encoding = "code"


class Params(Frozen):
    """The recipe's `params`.

    Attributes:
        fanouts: Neighbours that are drawn a node, the hop from the asked nodes first; 0: all.
        hidden: Width of a layer.
        aggregate: How a node takes in its neighbours.
        batch: Nodes a step, over all processes, on average.
        epochs: All of them are trained.
    """

    fanouts: tuple[int, ...] = Field((10, 5), min_length=1, max_length=4)
    hidden: int = Field(64, ge=4, le=1024, multiple_of=4)
    aggregate: Literal["mean", "attention"] = "mean"
    dropout: float = Field(0.0, ge=0, lt=1)
    batch: int = Field(256, ge=1)
    epochs: int = Field(20, ge=1, le=1000)
    learning_rate: float = Field(0.01, gt=0, le=1)
    weight_decay: float = Field(5e-4, ge=0, le=1)


@dataclass(frozen=True)
class Nodes(Matrices):
    """A fold: node numbers in the only column, and the graph they are of."""

    graph: GraphSource = field(default_factory=GraphSource)


@dataclass(frozen=True)
class _NodeTable(Table):
    graph: GraphSource = field(default_factory=GraphSource)

    def part(self, fold: int, limit: int | None = None) -> Nodes:
        return Nodes(**vars(super().part(fold, limit)), graph=self.graph)


class _Sage:
    name = "sage"
    features: type[Frozen] = NodeFeatures
    params: type[Frozen] = Params

    def fits(self, task: Task) -> bool:
        return isinstance(task, Node)

    def prepare(self, data: Data, features: NodeFeatures, validation: Validation) -> Table:
        table = prepare(data, features, validation)
        if not isinstance(data.task, Node):
            raise DataError("this learner learns from nodes of a graph only", do="use a task of kind 'node'")
        return _NodeTable(**vars(table), graph=data.task.graph)

    def fit(self, part: Nodes, params: Params, *, seed: int, progress: Progress) -> Trained:
        from components.train.graph.files import VALIDATION, whole
        from components.train.graph.source import load
        from components.train.graph.training import Trainer

        edges, _ = load(part.graph)
        trainer = Trainer(whole(edges, _node_data(part)), _options(params, seed))
        log: list[dict[str, Any]] = []
        for epoch in range(params.epochs):
            loss, accuracy = trainer.epoch(epoch), trainer.accuracy(VALIDATION)
            log.append({"round": epoch + 1, "loss": round(loss, 6)})
            if progress(epoch + 1, -loss if accuracy is None else accuracy):
                break
        return _trained(part, trainer.every(), log)

    def fit_together(self, part: Nodes, params: Params, *, seed: int, parallel: Parallel, folder: Path) -> Trained:
        """Fit one fold by `parallel.data` processes, one a partition; after a kill, the partitions on disk are used again.

        Args:
            part: The fold.
            params: Hyperparameters.
            seed: Of everything random.
            parallel: Strategy `graph`.
            folder: Of this fit alone.

        Raises:
            ConfigError: The strategy is another.
            TryAgain: A process was killed, or did not hear from another.
            ContractError: It failed for another reason.
        """
        from components.train.graph.files import whole
        from components.train.graph.source import load
        from components.train.graph.training import Trainer
        from components.train.parallel.launch import run_ranks

        if parallel.strategy != "graph":
            raise ConfigError(f"learner 'sage' can't be trained by strategy '{parallel.strategy}'", do="use strategy graph, and data")
        options, result = _options(params, seed), folder / "result"
        _write_partitions(part, parallel, folder)
        if not result.is_dir():
            given = ["components.train.graph", str(folder / "parts"), "--to", str(result), "--options", options.model_dump_json()]
            run_ranks(parallel.world, given, folder)
        edges, _ = load(part.graph)
        trainer = Trainer(whole(edges, _node_data(part)), options)
        with np.load(result / "weights.npz", allow_pickle=False) as kept:
            trainer.restore({name: kept[name] for name in kept.files})
        epochs = json.loads((result / "result.json").read_text())["epochs"]
        log = [{"round": number, "loss": round(epoch["loss"], 6)} for number, epoch in enumerate(epochs, start=1)]
        return _trained(part, trainer.every(), log)


def _options(params: Params, seed: int) -> Options:
    from components.train.graph.training import Options

    return Options(**params.model_dump(), seed=seed)


def _node_data(m: Nodes) -> NodeData:
    """Return what is known of all nodes: labels of rows that learn, and of those that judge.

    Raises:
        DataError: A row names a node that is not in the graph.
    """
    from components.train.graph.files import TEST, TRAIN, VALIDATION, NodeData
    from components.train.graph.source import load

    _, features = load(m.graph)
    labels, split = np.full(len(features), -1, dtype=np.int64), np.full(len(features), TEST, dtype=np.uint8)
    for x, y, of in ((m.x_validation, m.y_validation, VALIDATION), (m.x, m.y, TRAIN)):
        if len(x) and not (np.isfinite(x).all() and 0 <= x.min() and x.max() < len(features)):
            raise DataError(f"a row names a node outside the graph of {len(features)} nodes", do="give node numbers from 0")
        number = x[:, 0].astype(np.int64)
        labels[number], split[number] = y.astype(np.int64), of
    return NodeData(features, labels, split, m.classes)


def _write_partitions(m: Nodes, parallel: Parallel, folder: Path) -> None:
    from components.train.graph.files import write_partitions
    from components.train.graph.partition import partitioner
    from components.train.graph.relabel import read_relabelled, relabel
    from components.train.graph.source import load

    if (folder / "parts").is_dir():
        return
    edges, features = load(m.graph)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "edges.npy", edges, allow_pickle=False)
    np.save(folder / "owner.npy", partitioner(parallel.partitioner)(edges, len(features), parallel.world), allow_pickle=False)
    if (folder / "graph").is_dir():
        graph = read_relabelled(folder / "graph")
    else:
        graph = relabel(folder / "owner.npy", folder / "edges.npy", folder / "graph", parallel.world)
    write_partitions(graph, _node_data(m), folder / "parts")


def _trained(m: Nodes, logits_NK: NDArray[Any], log: list[dict[str, Any]]) -> Trained:
    share = np.bincount(m.y.astype(np.int64), minlength=m.classes) / len(m.y)
    content = _to_onnx(np.concatenate([logits_NK, np.log(np.maximum(share, _LEAST_SHARE))[None]]))
    return Trained("onnx", content, load_onnx(content), len(log), log)


def _to_onnx(logits: NDArray[Any]) -> bytes:
    graph = OnnxGraph(["N", 1])
    unknown = len(logits) - 1
    known = graph.add(
        "And", graph.add("GreaterOrEqual", "x", graph.weight(np.array(0.0))), graph.add("Less", "x", graph.weight(np.array(float(unknown))))
    )
    number = graph.add("Where", known, "x", graph.weight(np.array(float(unknown))))  # a missing number compares as false, too
    number = graph.add("Reshape", graph.add("Cast", number, to=_INT64), graph.weight(np.array([-1])))
    found = graph.add("Gather", graph.weight(logits.astype(np.float32)), number, axis=0)
    return graph.to_bytes(graph.add("Softmax", found, axis=1), ["N", logits.shape[1]])


LEARNER = _Sage()
