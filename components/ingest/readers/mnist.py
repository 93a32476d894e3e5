"""Digit strings composed of MNIST (70,000 images), from `images/mnist.npz` in the data folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from components.core.errors import ConfigError
from components.core.params import Frozen
from components.ingest.readers import checked, need_data
from components.ingest.readers.digits import compose_strings

__all__ = ["read"]


class _Options(Frozen):
    part: str = Field("train", pattern="^(train|test)$")
    first: int = Field(0, ge=0)
    last: int = Field(2000, gt=0)
    strings: int = Field(800, gt=0)
    length: tuple[int, int] = (3, 6)
    block: int = Field(100, gt=0)
    seed: int = 0


def read(options: Mapping[str, Any], data: Path | None) -> pa.Table:
    """Compose strings as the reader `digits` does; pictures are 28 pixels high.

    Args:
        options: `part` (`train` or `test`) and those of `digits.compose`.
        data: The data folder.

    Raises:
        ConfigError: The data folder or its file is missing, or the range is empty.
    """
    given = checked(_Options, options, "mnist")
    with np.load(need_data(data, "images/mnist.npz"), allow_pickle=False) as arrays:
        images, labels = arrays[f"x_{given.part}"], arrays[f"y_{given.part}"]
    if not given.first < given.last <= len(images):
        raise ConfigError(
            f"images {given.first} to {given.last} are no range of the {len(images)}", do=f"give first < last <= {len(images)}"
        )
    wanted = slice(given.first, given.last)
    return compose_strings(
        255 - images[wanted],  # MNIST is light ink on black
        labels[wanted],
        given.strings,
        length=given.length,
        block=given.block,
        seed=given.seed,
        offset=given.first,
        prefix=f"mnist-{given.part}",
    )
