"""Slices of one weight: prefix channels and centred kernels (AutoFormer, arXiv 2107.00651; Once-for-All, arXiv 1908.09791).

A *window* is where a smaller tensor lies in a larger one. Dimensions 0 and 1 (channels out and in) are cut at their end, later ones (the
kernel) at both. A dimension that consists of equal parts (a GRU's gates) is cut at the end of each part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["crop", "masks", "superposed"]

_CHANNELS = 2  # dimensions that are channels; the others are the kernel's


def crop(weight: Tensor, shape: Sequence[int], parts: Mapping[int, int]) -> Tensor:
    """Cut a smaller weight out of a larger one; gradients flow back into the slice.

    Args:
        weight: Contiguous.
        shape: At most the weight's, dimension by dimension; odd kernels.
        parts: Dimension -> how many equal parts it consists of, where more than one.
    """
    if tuple(weight.shape) == tuple(shape):
        return weight
    view: list[int] = []
    window: list[slice] = []
    for dimension, (full, kept) in enumerate(zip(weight.shape, shape, strict=True)):
        count = parts.get(dimension, 1)
        if count > 1:
            view.append(count)
            window.append(slice(None))
        view.append(full // count)
        window.append(_kept(dimension, full // count, kept // count))
    # Contiguous, as the standalone network's weights are: then the same kernels run, and the answers agree to the last bit.
    return weight.view(view)[tuple(window)].reshape(tuple(shape)).contiguous()


def masks(full: Sequence[int], shapes: Sequence[Sequence[int]], parts: Mapping[int, int], like: Tensor) -> Tensor:
    """Return (windows, *full) ones inside and zeros outside of each window, so that Σ p_k pad(crop_k(W)) is W times their sum by p.

    Dimensions that no window cuts have size 1.

    Args:
        full: The larger shape.
        shapes: The smaller ones.
        parts: As for `crop`.
        like: Gives type and device.
    """
    found = like.new_ones((len(shapes), *[1] * len(full)))
    for dimension, size in enumerate(full):
        kept = [shape[dimension] for shape in shapes]
        if all(each == size for each in kept):
            continue
        count = parts.get(dimension, 1)
        inside = like.new_zeros((len(shapes), count, size // count))
        for row, each in enumerate(kept):
            inside[row, :, _kept(dimension, size // count, each // count)] = 1
        found = found * inside.reshape(len(shapes), *(size if d == dimension else 1 for d in range(len(full))))
    return found


def superposed(weight: Tensor, windows: Tensor, shares: Tensor) -> Tensor:
    """Return Σ p_k pad(crop_k(W)).

    Args:
        windows: Of `masks`, (windows, ...).
        shares: (windows,) probabilities.
    """
    mask: Tensor = torch.tensordot(shares, windows, 1)
    return weight * mask


def _kept(dimension: int, full: int, kept: int) -> slice:
    first = 0 if dimension < _CHANNELS else (full - kept) // 2
    return slice(first, first + kept)
