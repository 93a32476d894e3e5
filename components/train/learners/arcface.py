"""arcface: metric learning over many classes (Deng et al. 2019), for identities; `train.parallel` shares it among processes.

Trained by `components.train.parallel`: one process is its strategy `single`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime  # noqa: F401 - `load_onnx` needs it: imported here, it is imported before a search forks
import torch
from pydantic import Field
from torch import Tensor

from components.core.errors import IntegrityError
from components.core.params import Frozen, Tabular, Task
from components.model.runtime import Float32, load_onnx
from components.train.features import Matrices, prepare
from components.train.learners.base import Progress, Trained
from components.train.learners.tabular import NetworkFeatures
from components.train.onnx_graph import OnnxGraph
from components.train.parallel.section import Parallel
from components.train.standard import Standard, standard_of

__all__ = ["LEARNER"]

_LEAST_CLASSES = 50
"""Fewer are better told apart by learners that need not find directions first."""
_OFTEN = 16  # batches between two calls of `progress`
_LARGEST_DIFFERENCE = 1e-4
_CHECKED = 256
_LEAST_NORM = 1e-12  # as functional.normalize


class Params(Frozen):
    """Hyperparameters.

    Attributes:
        hidden: Width of the body's layers.
        layers: Of the body, before the one that makes the direction.
        dim: D.
        kind: Of the margin.
        margin: An angle in radians for `arcface`, a cosine for `cosface`.
        scale: What cosines are multiplied by.
        share: Partial FC: the share of classes that takes part in a step, with strategy `sharded_head`; 1 is exact.
        keep_mib: Of logits that a process keeps from the forward to the backward pass instead of computing them twice, with `sharded_head`.
        epochs: All of them are trained; the learning rate rises, then falls along a cosine.
        batch: Rows of a global batch.
    """

    hidden: int = Field(256, ge=2, le=8192)
    layers: int = Field(2, ge=1, le=8)
    dim: int = Field(64, ge=2, le=4096)
    kind: Literal["arcface", "cosface", "plain"] = "arcface"
    margin: float = Field(0.2, ge=0, le=1)
    scale: float = Field(24.0, gt=0, le=64)
    share: float = Field(1.0, gt=0, le=1)
    keep_mib: int = Field(0, ge=0, le=1 << 20)
    epochs: int = Field(30, ge=1, le=2000)
    batch: int = Field(128, ge=1, le=65536)
    lr: float = Field(2e-3, gt=0, le=0.1)
    weight_decay: float = Field(1e-2, ge=0, le=1)


class _ArcFace:
    name = "arcface"
    features: type[Frozen] = NetworkFeatures
    params: type[Frozen] = Params
    prepare = staticmethod(prepare)

    def fits(self, task: Task) -> bool:
        return isinstance(task, Tabular) and task.kind == "tabular" and len(task.classes) >= _LEAST_CLASSES

    def fit(self, part: Matrices, params: Params, *, seed: int, progress: Progress) -> Trained:
        from components.train.parallel import strategies  # torch.distributed: 1 s and 100 MB, for searches that may not want it
        from components.train.parallel.works.metric import training_of

        standard = standard_of(part.x)
        what = training_of(standard.apply(part.x), part.y.astype(np.int64), part.classes, params, seed)
        steps = what.steps or 0
        # The models of one process are whole and seeded where they are made: nothing here draws from torch's global generator.
        strategy = strategies.make(Parallel(), what.work, torch.device("cpu"))
        losses: list[float] = []
        for step in range(steps):
            losses.append(strategy.step(what.batch(step), what.rate(step)))
            if step % _OFTEN == _OFTEN - 1 and progress(step * params.epochs // steps, -losses[-1]):
                break
        return _trained(part, params, standard, strategy.full_state(), losses, steps // params.epochs)

    def fit_together(self, part: Matrices, params: Params, *, seed: int, parallel: Parallel, folder: Path) -> Trained:
        """Fit one fold by several processes; call again with the same folder to go on after one was killed.

        Args:
            part: The fold.
            params: Hyperparameters.
            seed: Of everything random.
            parallel: How many, and what they share.
            folder: Of this fit alone; see `components.train.parallel.job`.

        Raises:
            TryAgain: A process was killed, or did not hear from another.
            ContractError: It failed for another reason.
        """
        from components.train.parallel.job import WEIGHTS, Job
        from components.train.parallel.launch import launch
        from components.train.parallel.works.metric import INPUTS, LABELS, Options, training_of

        standard = standard_of(part.x)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / INPUTS, standard.apply(part.x), allow_pickle=False)
        np.save(folder / LABELS, part.y.astype(np.int64), allow_pickle=False)
        steps = training_of(part.x, part.y, part.classes, params, seed).steps or 0
        options = Options(folder=folder.resolve(), classes=part.classes, params=params, seed=seed)
        losses = launch(Job(work="metric", options=options.model_dump(mode="json"), parallel=parallel, steps=steps), folder)
        with np.load(folder / WEIGHTS, allow_pickle=False) as kept:
            weights = {name: torch.from_numpy(kept[name]) for name in kept.files}
        return _trained(part, params, standard, weights, losses, steps // params.epochs)


def _trained(m: Matrices, params: Params, standard: Standard, weights: Mapping[str, Tensor], losses: list[float], each: int) -> Trained:
    """Export; `each` is the number of steps in an epoch."""
    content = _to_onnx(m, params, standard, {name: value.numpy() for name, value in weights.items()})
    scores = load_onnx(content)
    _check_equal(m.x[:_CHECKED], params, standard, weights, scores(m.x[:_CHECKED]))
    log = [{"round": at // each + 1, "loss": round(float(np.mean(losses[at : at + each])), 6)} for at in range(0, len(losses), each)]
    return Trained("onnx", content, scores, len(log), log)


def _to_onnx(m: Matrices, params: Params, standard: Standard, weights: Mapping[str, Any]) -> bytes:
    graph = OnnxGraph(["N", m.x.shape[1]])
    x = standard.write(graph)
    for number in range(params.layers + 1):
        x = graph.dense(x, weights[f"body.{2 * number}.weight"], weights[f"body.{2 * number}.bias"])
        x = graph.add("Relu", x) if number < params.layers else x
    least = graph.weight(np.array(_LEAST_NORM))
    x = graph.add("Div", x, graph.add("Max", graph.add("ReduceL2", x, axes=[1], keepdims=1), least))
    head = weights["head.weight"].astype(np.float64)
    head = params.scale * head / np.maximum(np.linalg.norm(head, axis=1, keepdims=True), _LEAST_NORM)
    y = graph.add("Softmax", graph.dense(x, head, np.zeros(len(head))), axis=1)
    return graph.to_bytes(y, ["N", m.classes])


def _check_equal(x: Float32, params: Params, standard: Standard, weights: Mapping[str, Tensor], exported: Any) -> None:
    z = torch.from_numpy(standard.apply(x)).double()
    for number in range(params.layers + 1):
        z = torch.nn.functional.linear(z, weights[f"body.{2 * number}.weight"].double(), weights[f"body.{2 * number}.bias"].double())
        z = z.relu() if number < params.layers else z
    normal = torch.nn.functional.normalize
    ours = (params.scale * normal(z) @ normal(weights["head.weight"].double()).T).softmax(dim=1).numpy()
    difference = float(np.abs(ours - exported).max())
    if not difference <= _LARGEST_DIFFERENCE:
        raise IntegrityError(f"the ONNX export differs from the network by {difference}", do="report this: the model is not saved")


LEARNER = _ArcFace()
