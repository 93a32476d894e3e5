"""What can be measured of a picture of a text line; also the check that it is one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MEASURES", "measure"]

MEASURES = ("_width", "_height", "_intensity", "_ink", "_length")
"""Pixels, pixels, mean grey (0 black to 1 white), share of pixels darker than the middle of the picture's range, characters."""
_MOST_PIXELS = 1 << 24


def measure(images: Sequence[bytes], labels: Sequence[str | None]) -> tuple[pa.Table, dict[int, str]]:
    """Decode every picture once.

    Returns:
        The columns `MEASURES` (null where a picture can't be read), and row -> why.
    """
    rows: list[tuple[float | None, ...]] = []
    unreadable: dict[int, str] = {}
    seen: dict[bytes, tuple[float | None, ...] | str] = {}
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        if image not in seen:
            seen[image] = _measure(image)
        found = seen[image]
        if isinstance(found, str):
            unreadable[row] = found
            found = (None,) * 4
        rows.append((*found, None if label is None else float(len(label))))
    columns = list(zip(*rows, strict=True)) or [()] * len(MEASURES)
    return pa.table({name: pa.array(values, pa.float64()) for name, values in zip(MEASURES, columns, strict=True)}), unreadable


def _measure(payload: bytes) -> tuple[float | None, ...] | str:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(payload), formats=("PNG", "JPEG")) as picture:
            picture.verify()
        with Image.open(io.BytesIO(payload), formats=("PNG", "JPEG")) as picture:  # verify leaves a picture unusable
            return _figures(picture)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"the picture can't be read: {error}".replace("\n", " ")[:200].partition("<_io")[0].strip()


def _figures(picture: Image) -> tuple[float, ...] | str:
    if picture.width * picture.height > _MOST_PIXELS:
        return f"the picture has {picture.width} × {picture.height} pixels, at most {_MOST_PIXELS} are allowed"
    grey = np.asarray(picture.convert("L"), dtype=np.float64) / 255
    middle = (grey.min() + grey.max()) / 2
    ink = float((grey < middle).mean())
    return float(picture.width), float(picture.height), round(float(grey.mean()), 9), round(ink, 9)
