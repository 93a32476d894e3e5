"""A pipeline to try, and what became of pipelines that were tried before: the vocabulary of the search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.core.artifacts import digest_of

__all__ = ["Configuration", "PastStudy", "PastTrial"]


@dataclass(frozen=True)
class Configuration:
    """One pipeline.

    Attributes:
        learner: A name of `components.train.learners`.
        features: The learner's feature options, complete.
        params: Its hyperparameters, complete.
        origin: Who proposed it: `portfolio`, `champion`, `expert`, `replay`, or a sampler's name. Not part of its identity.
    """

    learner: str
    features: Mapping[str, Any]
    params: Mapping[str, Any]
    origin: str

    @property
    def identity(self) -> str:
        """Equal for equal pipelines, wherever they come from: 16 hexadecimal digits."""
        return digest_of([self.learner, dict(self.features), dict(self.params)])[:16]


@dataclass(frozen=True)
class PastTrial:
    """What a search found out about one pipeline.

    Attributes:
        score: The metric at the highest rung it reached; None when it failed.
        rung: That rung; the study's `rungs` - 1 is full fidelity.
        seconds: CPU seconds of all its fits; None where the costs were not kept.
        memory_mb: Peak; None where it was not kept.
        weight: Its share of the final ensemble; 0: not in it.
    """

    configuration: Configuration
    score: float | None
    rung: int
    seconds: float | None = None
    memory_mb: float | None = None
    weight: float = 0.0


@dataclass(frozen=True)
class PastStudy:
    """One finished search.

    Attributes:
        scenario: Whose.
        problem: `binary`, `multiclass`, `regression` or `text_line`.
        metric: What was optimised.
        higher_is_better: Its direction.
        rows: Rows that were searched on, all folds together.
        meta: Meta-features: name -> finite number.
        rungs: How many fidelities there were.
        trials: In the order in which they were settled.
    """

    scenario: str
    problem: str
    metric: str
    higher_is_better: bool
    rows: int
    meta: Mapping[str, float]
    rungs: int
    trials: tuple[PastTrial, ...] = field(default=())
