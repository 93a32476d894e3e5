"""Synthetic identities: what a frozen face network would say of photographs, for metric learning where no data set is at hand.

An identity and a pose go through a fixed random layer, so that poses bend the space and are not merely added. A session is one day's
photographs of one identity, and its group. Poses widen from session to session: the first ones are the labelled base, later ones the
traffic, with poses that a model of the base has hardly seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from components.core.errors import ConfigError
from components.core.params import Frozen
from components.ingest.readers import checked

__all__ = ["compose", "read"]

_TRAITS, _POSE, _MIXED = 24, 6, 96


class _Options(Frozen):
    identities: int = Field(60, ge=2, le=1_000_000)
    dim: int = Field(32, ge=2, le=4096)
    first: int = Field(0, ge=0)
    last: int = Field(6, gt=0)
    of: int = Field(24, gt=0)
    shots: int = Field(4, gt=0)
    pose: tuple[float, float] = (0.3, 1.6)
    noise: float = Field(0.15, ge=0)
    seed: int = 0


def read(options: Mapping[str, Any], data: Path | None) -> pa.Table:
    """Compose the base annotations. Options: those of `compose`, all with defaults."""
    return compose(**checked(_Options, options, "identities").model_dump())


def compose(
    identities: int = 60,
    dim: int = 32,
    *,
    first: int = 0,
    last: int = 6,
    of: int = 24,
    shots: int = 4,
    pose: tuple[float, float] = (0.3, 1.6),
    noise: float = 0.15,
    seed: int = 0,
) -> pa.Table:
    """Compose the photographs of sessions `first` (included) to `last` (excluded).

    Args:
        identities: How many.
        dim: Numbers that a photograph is described by.
        first: Session.
        last: Session.
        of: Sessions in all: poses widen evenly over them.
        shots: Photographs of an identity in a session.
        pose: Spread of the poses in the first and in the last session.
        noise: Spread of what says nothing.
        seed: Of everything; a session's photographs depend on it and on the session alone.

    Returns:
        Columns `f00` …, `_label` (`p00` …), `_group`; oldest sessions first.

    Raises:
        ConfigError: The sessions are no range.
    """
    if not 0 <= first < last <= of:
        raise ConfigError(f"sessions {first} to {last} are no range of {of}", do=f"give 0 <= first < last <= {of}")
    draw = np.random.default_rng([seed, 0])
    traits = draw.normal(size=(identities, _TRAITS))
    mixing = draw.normal(size=(_TRAITS + _POSE, _MIXED)) / np.sqrt(_TRAITS)
    camera = draw.normal(size=(_MIXED, dim)) / np.sqrt(_MIXED)
    width = len(str(identities - 1))
    rows, labels, groups = [], [], []
    for session in range(first, last):
        draw = np.random.default_rng([seed, 1, session])
        spread = pose[0] + (pose[1] - pose[0]) * session / max(of - 1, 1)
        poses = draw.normal(size=(identities, shots, _POSE)) * spread
        seen = np.concatenate([np.repeat(traits[:, None], shots, axis=1), poses], axis=2)
        rows.append((np.tanh(seen @ mixing) @ camera + draw.normal(size=(identities, shots, dim)) * noise).reshape(-1, dim))
        names = [f"p{number:0{width}d}" for number in range(identities) for _ in range(shots)]
        labels += names
        groups += [f"{name}-{session:03d}" for name in names]
    values = np.concatenate(rows).astype(np.float32).astype(np.float64)
    digits = len(str(dim - 1))
    columns = {f"f{number:0{digits}d}": pa.array(values[:, number]) for number in range(dim)}
    return pa.table({**columns, "_label": pa.array(labels, pa.string()), "_group": pa.array(groups, pa.string())})
