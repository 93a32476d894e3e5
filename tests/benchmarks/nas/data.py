"""CIFAR-10 pooled to 16 x 16: small enough for a CPU, hard enough to tell architectures apart (MNIST does not).

The images are the JPEG copies of ATLAS_DATA/images, so accuracies are comparable with one another only.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from components.automl.nas.problem import Images, Split
from components.core.errors import ConfigError
from components.core.settings import Settings

__all__ = ["BATCH", "Pictures", "pictures"]

BATCH = 64
_SIDE = 16


@dataclass(frozen=True)
class Pictures:
    """`problem` is what searches see, `test` what they do not."""

    problem: Images
    test: Split


@cache
def pictures(train: int, validation: int, test: int) -> Pictures:
    """Read the images: (N, 3, 16, 16), channels standardised by the training images' mean and spread.

    Raises:
        ConfigError: ATLAS_DATA does not hold them, or not as many.
    """
    folder = Settings.from_env().data
    path = folder / "images" / "cifar10_jpeg_all.npz" if folder else None
    if path is None or not path.is_file():
        raise ConfigError(f"there are no CIFAR-10 images in ATLAS_DATA ({path})", do="set ATLAS_DATA to the folder with images/")
    seen, seen_labels = _read(path, "train", train + validation)
    unseen, unseen_labels = _read(path, "test", test)
    mean, spread = seen[:train].mean(axis=(0, 2, 3), keepdims=True), seen[:train].std(axis=(0, 2, 3), keepdims=True)

    def split(pixels: NDArray[np.float32], labels: NDArray[np.int64]) -> Split:
        return Split(torch.from_numpy((pixels - mean) / spread), torch.from_numpy(labels))

    problem = Images(split(seen[:train], seen_labels[:train]), split(seen[train:], seen_labels[train:]), BATCH)
    return Pictures(problem, split(unseen, unseen_labels))


def _read(path: Path, part: str, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the first images of a part, (count, 3, 16, 16) in 0 to 1, and their classes; the file's order is random already."""
    with np.load(path, allow_pickle=False) as file:
        content, offsets, labels = file[f"jpeg_{part}"], file[f"off_{part}"], file[f"y_{part}"]
    if count > len(labels):
        raise ConfigError(f"{count} images were asked for, {path} has {len(labels)} for '{part}'", do="ask for fewer")
    found = np.empty((count, 3, _SIDE, _SIDE), np.float32)
    for at in range(count):
        with Image.open(io.BytesIO(content[offsets[at] : offsets[at + 1]].tobytes())) as image:
            pixels = np.asarray(image.convert("RGB"), np.float32) / 255
        found[at] = pixels.reshape(_SIDE, 2, _SIDE, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    return found, labels[:count].astype(np.int64)
