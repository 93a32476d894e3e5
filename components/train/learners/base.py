"""What a learner is. One file each in this folder; `components.train.learners.LEARNERS` names them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from components.core.errors import ConfigError, nearest
from components.core.params import Frozen, Task
from components.model.format import ModelSpec, Runtime, signature_of
from components.model.predictor import Predictor, predictor_of
from components.model.runtime import Scores
from components.train.data import Data

__all__ = ["Learner", "Progress", "Trained", "never", "options"]

Progress = Callable[[int, float], bool]
"""Called with (epochs done, validation score) after an epoch that was scored; True ends the training."""

Model = TypeVar("Model", bound=Frozen)


@dataclass(frozen=True)
class Trained:
    """What a learner returns: everything `components.model.save` needs, and the model as it is in memory.

    Attributes:
        runtime: What executes `weights`.
        weights: The file's bytes.
        preprocessing: Plain JSON.
        scores: The in-memory model; loading `weights` must give the same.
        log: What happened, epoch by epoch or round by round; deterministic.
    """

    runtime: Runtime
    weights: bytes
    preprocessing: Mapping[str, Any]
    scores: Scores
    log: list[dict[str, Any]] = field(default_factory=list)

    def predictor(self, task: Task, learner: str) -> Predictor:
        """Return a predictor over the in-memory model."""
        spec = ModelSpec(
            format=1,
            task=task,
            learner=learner,
            runtime=self.runtime,
            signature=signature_of(task),
            preprocessing=dict(self.preprocessing),
            recipe={},
            files={},
        )
        return predictor_of(spec, self.scores)


class Learner(Protocol):
    """Every implementation passes `tests/contract/test_learners.py`.

    Attributes:
        name: Its name in a recipe.
        features: The pydantic model of the recipe's `features`.
        params: The pydantic model of the recipe's `params`.
    """

    name: str
    features: type[Frozen]
    params: type[Frozen]

    def fits(self, task: Task) -> bool:
        """Whether it can learn this task."""

    def train(self, data: Data, features: Mapping[str, Any], params: Mapping[str, Any], *, seed: int, progress: Progress) -> Trained:
        """Fit on `data.train`, stop early by `data.validation`. Equal arguments give equal bytes on one thread.

        Raises:
            ConfigError: `features` or `params` has an unknown or wrong key.
            DataError: There is too little to learn from.
        """


def never(epoch: int, score: float) -> bool:
    """The `Progress` that never ends a training."""
    return False


def options(model: type[Model], given: Mapping[str, Any], what: str) -> Model:
    """Check one part of a recipe.

    Raises:
        ConfigError: A key is unknown, or a value is out of range.
    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        do = nearest(key, model.model_fields) if first["type"] == "extra_forbidden" else "correct the value"
        raise ConfigError(f"{what}: {key}: {first['msg']}", do=do) from error
