"""Digit strings ("amounts") composed of real handwriting: scikit-learn's 1,797 digits, in the order of their writers.

The order is the point: the first 250 images are the labelled base, later writers are the traffic, and the last 497 (from 1300)
are looked at only to measure. Images are cut into blocks of consecutive ones; a string takes its digits from one block and
names the block as its group, so no handwriting is on both sides of a split, however the strings are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from components.core.errors import ConfigError
from components.core.params import Frozen
from components.ingest.readers import checked
from components.ingest.readers._images import encode_png

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BASE_END", "IMAGES", "TRAFFIC_END", "compose", "compose_strings", "read"]

IMAGES = 1797
BASE_END = 250
"""Images before this one are the labelled base."""
TRAFFIC_END = 1300
"""Images before this one, from `BASE_END`, are traffic; the rest only measures."""


class _Options(Frozen):
    first: int = Field(0, ge=0, lt=IMAGES)
    last: int = Field(BASE_END, gt=0, le=IMAGES)
    strings: int = Field(800, gt=0)
    length: tuple[int, int] = (3, 6)
    block: int = Field(25, gt=0)
    seed: int = 0


def read(options: Mapping[str, Any], data: Path | None) -> pa.Table:
    """Compose the base annotations. Options: those of `compose`, all with defaults."""
    return compose(**checked(_Options, options, "digits").model_dump())


def compose(
    first: int = 0, last: int = BASE_END, strings: int = 800, *, length: tuple[int, int] = (3, 6), block: int = 25, seed: int = 0
) -> pa.Table:
    """Compose digit strings from the images `first` (included) to `last` (excluded).

    Args:
        first: Index of the first image, in writer order.
        last: Index after the last image.
        strings: How many strings; every block gives the same number, the first ones one more if need be.
        length: Fewest and most digits in a string.
        block: Images in a block; blocks start at multiples of it, so two calls name the same images alike.
        seed: Of the draw. A block's strings depend on the seed and the block alone.

    Returns:
        Columns `image` (PNG, grey, dark ink on light paper, 16 pixels high), `_label`, `_group`.

    Raises:
        ConfigError: The range is empty, or `length` is not a range.
    """
    if not 0 <= first < last <= IMAGES:
        raise ConfigError(f"digits {first} to {last} are no range of the {IMAGES} images", do=f"give 0 <= first < last <= {IMAGES}")
    images, labels = _digits()
    return compose_strings(
        images[first:last], labels[first:last], strings, length=length, block=block, seed=seed, offset=first, prefix="digits"
    )


def compose_strings(
    images_NHW: NDArray[np.uint8],
    labels_N: NDArray[Any],
    strings: int,
    *,
    length: tuple[int, int],
    block: int,
    seed: int,
    offset: int,
    prefix: str,
) -> pa.Table:
    """Draw strings from single characters, block by block (N images, H × W pixels, dark ink on light paper).

    Raises:
        ConfigError: `length` is not a range.
    """
    low, high = length
    if not 0 < low <= high:
        raise ConfigError(f"length {list(length)} is not [fewest, most] with 1 <= fewest <= most", do="give, say, [3, 6]")
    of_block = (np.arange(len(images_NHW)) + offset) // block
    blocks = np.unique(of_block)
    rows: list[tuple[bytes, str, str]] = []
    for position, number in enumerate(blocks.tolist()):
        members = np.flatnonzero(of_block == number)
        rng = np.random.default_rng([seed, number])
        for _ in range(strings // len(blocks) + (position < strings % len(blocks))):
            chosen = rng.choice(members, size=int(rng.integers(low, high + 1)))
            picture = np.concatenate(list(images_NHW[chosen]), axis=1)
            rows.append((encode_png(picture), "".join(str(labels_N[i]) for i in chosen), f"{prefix}-{number:05d}"))
    png, label, group = zip(*rows, strict=True)
    return pa.table({"image": pa.array(png, pa.binary()), "_label": pa.array(label, pa.string()), "_group": pa.array(group, pa.string())})


@cache
def _digits() -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Return the images (1797 × 16 × 16, ink dark) and their labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    paper = 255 - np.round(bunch.images * (255 / 16)).astype(np.uint8)  # the source counts ink from 0 to 16
    return paper.repeat(2, axis=1).repeat(2, axis=2), bunch.target
