"""Executing weights: ONNX Runtime or LightGBM's library, one thread, loaded only when a model needs them.

Shapes: N rows, D columns, K outputs, F folds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import IntegrityError
from components.model.format import Runtime
from components.model.lightgbm_text import check_trees

__all__ = ["Executable", "Float32", "Scores", "load_onnx", "load_weights", "scores_of_text"]

Float32 = NDArray[np.float32]
Scores = Callable[[Float32], NDArray[np.float64]]
"""Model input -> raw output, both with the batch first."""

_AGAIN = "restore the artifact from a backup, or train the model again"
# A tensor that lives in another file names it under the key 'location': a model must be whole, and may not point elsewhere.
_EXTERNAL = b"\n\x08location\x12"
FOLDS = "folds"
"""A merged graph's second output: (F, N, K)."""


@dataclass(frozen=True)
class Executable:
    """A member's weights, loaded. It can be used by several threads at once.

    Attributes:
        scores: (N, D) -> (N, K), (N,) for a single output: all folds' models together.
        folds: (N, D), numbers of folds -> an array as from `scores` for each, stacked: what each fold's model alone says.
        width: D; None where the weights leave it open.
    """

    scores: Scores
    folds: Callable[[Float32, Sequence[int]], NDArray[np.float64]]
    width: int | None


def load_weights(runtime: Runtime, content: bytes, folds: Sequence[int]) -> Executable:
    """Load what `Member` describes.

    Args:
        runtime: What executes the bytes.
        content: LightGBM's text or an ONNX graph.
        folds: The member's `folds`.

    Raises:
        IntegrityError: The bytes are damaged, or do not hold these folds.
    """
    if runtime == "onnx":
        return _graph(content, len(folds))
    from components.model.lightgbm_lib import open_trees

    trees = open_trees(content)
    if trees.forest.iterations != sum(folds):
        raise IntegrityError(f"the trees have {trees.forest.iterations} iterations, the folds {sum(folds)} together", do=_AGAIN)
    kept = tuple(folds)

    def each(x: Float32, numbers: Sequence[int]) -> NDArray[np.float64]:
        return np.stack([trees.fold(x, kept, number) for number in numbers])

    return Executable(trees.scores, each, trees.forest.features)


def _graph(content: bytes, folds: int) -> Executable:
    session = _session(content)
    inputs, outputs = session.get_inputs()[0], [output.name for output in session.get_outputs()]
    if (folds > 1) != (FOLDS in outputs[1:]):
        raise IntegrityError(f"the ONNX model has the outputs {outputs}, which do not fit {folds} folds", do=_AGAIN)
    width = inputs.shape[1] if len(inputs.shape) == 2 and isinstance(inputs.shape[1], int) else None
    scores = _runner(session, outputs[0])
    every = _runner(session, FOLDS) if folds > 1 else lambda x: scores(x)[None]

    def each(x: Float32, numbers: Sequence[int]) -> NDArray[np.float64]:
        found = every(x)
        if found.shape[:2] != (folds, len(x)):
            raise IntegrityError(f"the folds' answers have shape {found.shape}, not ({folds}, {len(x)}, K)", do=_AGAIN)
        answers: NDArray[np.float64] = found[list(numbers)]
        return answers

    return Executable(scores, each, width)


def load_onnx(content: bytes) -> Scores:
    """Return a function that runs the graph's only input to its first output.

    Raises:
        IntegrityError: The bytes are no ONNX model, or one that needs other files or unknown operators.
    """
    session = _session(content)
    return _runner(session, session.get_outputs()[0].name)


def _session(content: bytes) -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    if _EXTERNAL in content:
        raise IntegrityError("the ONNX model keeps tensors in other files", do="export it as one file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    try:
        session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise IntegrityError(f"the ONNX model can't be loaded: {str(error).splitlines()[0]}", do=_AGAIN) from error
    if len(session.get_inputs()) != 1:
        raise IntegrityError("the ONNX model has more than one input", do=_AGAIN)
    return session


def _runner(session: Any, output: str) -> Scores:
    name = session.get_inputs()[0].name

    def scores(x: Float32) -> NDArray[np.float64]:
        try:
            result: NDArray[np.float32] = session.run([output], {name: np.ascontiguousarray(x, dtype=np.float32)})[0]
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise IntegrityError(f"the ONNX model can't be run: {str(error).splitlines()[0]}", do=_AGAIN) from error
        return result.astype(np.float64)

    return scores


def scores_of_text(content: bytes) -> Scores:
    """Return a function that runs a LightGBM text that this process has just made: (N, K), (N,) for a single output.

    Raises:
        IntegrityError: It is no LightGBM text, or has an objective that is not known here.
    """
    from components.model.lightgbm_lib import Trees

    trees = Trees(content, check_trees(content))

    def scores(x: Float32) -> NDArray[np.float64]:
        found = trees.scores(x)
        return found[:, 0] if found.shape[1] == 1 else found

    return scores
