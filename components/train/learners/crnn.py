"""crnn: reads lines of text. Convolutions and a recurrent or convolutional head (Shi, Bai & Yao, arXiv 1507.05717)."""

from __future__ import annotations

from components.core.params import Frozen
from components.train.crnn import Crnn, Shape, to_onnx
from components.train.learners.base import Progress, Trained
from components.train.lines import LineLearner, Lines, Reading, fit_reader

__all__ = ["LEARNER"]


class Params(Shape, Reading):
    """The recipe's `params`: the network's `Shape` and how it is trained."""


class _Crnn(LineLearner):
    name = "crnn"
    params: type[Frozen] = Params

    def fit(self, part: Lines, params: Params, *, seed: int, progress: Progress) -> Trained:
        def build() -> Crnn:
            return Crnn(params, part.rule.height, len(part.task.alphabet) + 1, params.dropout)

        return fit_reader(build, to_onnx, part, params, seed=seed, progress=progress)


LEARNER = _Crnn()
