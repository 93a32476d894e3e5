"""What a learner is. One file each in this folder; `components.train.learners.LEARNERS` names them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from numpy.typing import NDArray
from pydantic import ValidationError

from components.core.errors import ConfigError, nearest
from components.core.params import Frozen, Task
from components.model.format import Runtime
from components.model.runtime import Scores
from components.train.data import Data
from components.train.folds import Validation
from components.train.parallel.section import Parallel

__all__ = ["Inheriting", "Learner", "Prepared", "Progress", "Together", "Trained", "Weights", "never", "options"]

Progress = Callable[[int, float], bool]
"""Called with (rounds or epochs done, score so far) as a fit goes on; True ends it there. It may raise, which abandons the fit."""

Weights = Mapping[str, NDArray[Any]]
"""A network's parameters and statistics, by name."""

Model = TypeVar("Model", bound=Frozen)


@dataclass(frozen=True)
class Trained:
    """One fitted model, of one fold.

    Attributes:
        runtime: What executes `weights`.
        weights: The file's bytes: LightGBM's text, or an ONNX graph from `x` to `y`.
        scores: The model in memory: (N, D) -> (N, K) probabilities, (N,) the positive class's, or (N,) values. Loading `weights`
            must give the same.
        rounds: Rounds or epochs that the kept model has; None where there are none.
        log: What happened, epoch by epoch or round by round; deterministic.
    """

    runtime: Runtime
    weights: bytes
    scores: Scores
    rounds: int | None = None
    log: list[dict[str, Any]] = field(default_factory=list)


class Prepared(Protocol):
    """Data made ready once for every fold and every set of params; `components.train.features.Table` is one."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Plain JSON, kept in `model.json`, that turns rows into the model's input."""

    def part(self, fold: int, limit: int | None = None) -> Any:
        """Return what a fold's model learns from (at most `limit` rows) and is judged on."""


class Learner(Protocol):
    """Every implementation passes `tests/contract/test_learners.py`.

    Attributes:
        name: Its name in a recipe.
        features: The pydantic model of the recipe's `features`; its defaults suit the learner.
        params: The pydantic model of the recipe's `params`.
    """

    name: str
    features: type[Frozen]
    params: type[Frozen]

    def fits(self, task: Task) -> bool:
        """Whether it can learn this task."""

    def prepare(self, data: Data, features: Any, validation: Validation) -> Prepared:
        """Make the data ready; `features` is an instance of the learner's own model.

        Raises:
            ConfigError: An option names an unknown feature.
            DataError: There is too little to learn from, or no usable feature.
        """

    def fit(self, part: Any, params: Any, *, seed: int, progress: Progress) -> Trained:
        """Fit one fold on one thread; equal arguments give equal bytes.

        `part` comes from `prepare`; `params` is an instance of the learner's own model. Without rows to judge by, exactly the
        given rounds are trained.

        Raises:
            DataError: There is too little to learn from.
        """


@runtime_checkable
class Together(Protocol):
    """A learner that several processes can train, as the scenario's `train.parallel` says."""

    def fit_together(self, part: Any, params: Any, *, seed: int, parallel: Parallel, folder: Path) -> Trained:
        """Fit one fold; call again with the same folder to go on after a process was killed.

        Raises:
            TryAgain: A process was killed, or did not hear from another.
            ContractError: It failed for another reason.
        """


@runtime_checkable
class Inheriting(Protocol):
    """A learner whose training may begin with weights that a search has found."""

    def fit_from(self, part: Any, params: Any, *, start: Weights, seed: int, progress: Progress) -> Trained:
        """Fit one fold, as `fit` does, but not from nothing.

        Raises:
            IntegrityError: The weights are not this network's.
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
