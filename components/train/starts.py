"""Weights that a training begins with: files of a Recipe artifact, plain arrays, nothing that could run."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from components.core.errors import IntegrityError
from components.train.learners.base import Weights
from components.train.recipe import Recipe

__all__ = ["read_starts", "read_weights", "write_weights"]


def write_weights(path: Path, weights: Weights) -> None:
    """Write named arrays as one file; equal ones give equal bytes."""
    with path.open("wb") as file:
        named: dict[str, Any] = dict(sorted(weights.items()))
        np.savez(file, **named)


def read_weights(path: Path) -> Weights:
    """Read what `write_weights` wrote.

    Raises:
        IntegrityError: The file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"the weights {path.name} can't be read: {error}", do="run automl again") from error


def read_starts(folder: Path, recipe: Recipe) -> Mapping[int, Weights]:
    """Return member's number -> the weights that its training begins with, for members that have some.

    Args:
        folder: Of the Recipe artifact.

    Raises:
        IntegrityError: A file is missing or damaged.
    """
    return {number: read_weights(folder / member.start) for number, member in enumerate(recipe.members) if member.start}
