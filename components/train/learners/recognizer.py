"""recognizer: reads lines of text by a network of a searched space (`components.train.spaces`); `automl.nas` finds which."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from pydantic import Field, model_validator

from components.core.errors import AtlasError, ConfigError, IntegrityError
from components.core.params import Frozen
from components.train.learners.base import Progress, Trained, Weights
from components.train.lines import LineLearner, Lines, Reading, fit_reader
from components.train.spaces import space
from components.train.spaces.export import to_onnx
from components.train.spaces.network import Network, network
from components.train.spaces.space import Architecture, Space

__all__ = ["LEARNER", "Params", "space_of"]

_COLUMNS = 160  # of a space whose costs nobody asks for
_INHERITED = 0.4
"""Share of the inherited weights, the rest is drawn: networks that begin where another training ended learn the training lines as well, and
read fewer others (shrink and perturb: Ash & Adams, "On warm-starting neural network training", arXiv 1910.08475)."""


class Params(Reading):
    """The recipe's `params`.

    Attributes:
        space: A space of `components.train.spaces` whose head reads lines.
        width: One of its width multipliers; None: the widest.
        options: For each block the number of its option; empty: the largest network of the space.
    """

    space: str = "recognizer"
    width: float | None = None
    options: tuple[int, ...] = Field(())

    @model_validator(mode="after")
    def _is_a_member(self) -> Params:
        """A recipe of an earlier shape of the space is refused where recipes are read, not when it is trained."""
        try:
            whole = space_of(self.space, 32, 2)  # what may be chosen depends on neither height nor alphabet
            whole.check(_architecture(whole, self))
        except AtlasError as error:
            raise ValueError(str(error)) from error
        return self


class _Recognizer(LineLearner):
    name = "recognizer"
    params: type[Frozen] = Params

    def fit(self, part: Lines, params: Params, *, seed: int, progress: Progress) -> Trained:
        return fit_reader(lambda: _network(part, params), to_onnx, part, params, seed=seed, progress=progress)

    def fit_from(self, part: Lines, params: Params, *, start: Weights, seed: int, progress: Progress) -> Trained:
        def build() -> Network:
            net = _network(part, params)
            fresh = {name: values.clone() for name, values in net.state_dict().items()}
            try:
                net.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in start.items()})
            except (RuntimeError, TypeError) as error:
                raise IntegrityError(f"the inherited weights are not this network's: {error}", do="run automl again") from error
            for name, values in net.state_dict().items():
                if values.is_floating_point():
                    values.lerp_(fresh[name], 1 - _INHERITED)
            return net

        return fit_reader(build, to_onnx, part, params, seed=seed, progress=progress)


def space_of(name: str, height: int, symbols: int, *, columns: int = _COLUMNS, dropout: float = 0.0) -> Space:
    """Return a space of readers for lines of one height.

    Args:
        symbols: Of the alphabet, and the blank.
        columns: Of the line that costs are counted for.

    Raises:
        ConfigError: There is no such space, or its networks do not read lines.
    """
    found = space(name, (1, height, columns), symbols)
    if found.head.kind != "line":
        raise ConfigError(f"networks of space '{name}' do not read lines of text", do="use space recognizer")
    return replace(found, head=replace(found.head, dropout=dropout))


def _network(part: Lines, params: Params) -> Network:
    whole = space_of(params.space, part.rule.height, len(part.task.alphabet) + 1, dropout=params.dropout)
    return network(whole, _architecture(whole, params))


def _architecture(whole: Space, params: Params) -> Architecture:
    largest = whole.largest()
    if params.width is not None and params.width not in whole.widths:
        raise ConfigError(f"space {whole.name} has no width {params.width}", do=f"use one of {list(whole.widths)}")
    width = largest.width if params.width is None else whole.widths.index(params.width)
    return Architecture(width, params.options or largest.options)


LEARNER = _Recognizer()
