"""Margins: what the cosine of a row and its own class becomes, so that the others must be further away.

ArcFace: Deng et al. 2019 (arXiv 1801.07698), §2.1. CosFace: Wang et al. 2018 (arXiv 1801.09414), §3.2.
Shapes: T rows whose class lies in the shard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from components.core.errors import ConfigError

__all__ = ["Margin"]

_LARGEST = {"plain": 0.0, "arcface": math.pi / 2, "cosface": 1.0}


@dataclass(frozen=True)
class Margin:
    """The logit of class j is `scale · cos_j`; that of the row's own class is `scale · φ(cos)`.

    Attributes:
        kind: `plain`: φ(c) = c. `cosface`: φ(c) = c - margin. `arcface`: φ(cos θ) = cos(θ + margin) while θ + margin ≤ π, then
            c - margin · sin(margin), which goes on falling (as the authors' code does).
        scale: The radius of the sphere.
        margin: A cosine, or an angle in radians.

    Raises:
        ConfigError: An unknown kind, or a figure out of its range.
    """

    kind: Literal["plain", "arcface", "cosface"] = "arcface"
    scale: float = 64.0
    margin: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in _LARGEST:
            raise ConfigError(f"margin '{self.kind}'", do=f"use one of: {', '.join(_LARGEST)}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(f"the margin's scale is {self.scale}", do="give a positive number; 64 is usual")
        if not 0 <= self.margin <= _LARGEST[self.kind]:
            raise ConfigError(f"{self.kind} with a margin of {self.margin}", do=f"give a number from 0 to {_LARGEST[self.kind]:.3g}")

    def apply(self, cosine_T: Tensor, *, least_sine: float) -> tuple[Tensor, Tensor]:
        """Return φ (T,) and its derivative (T,).

        Args:
            cosine_T: (T,) of rows with their own class; rounding may carry it beyond 1.
            least_sine: ArcFace's derivative is divided by sin θ, which is 0 where row and class coincide. There the gradient has no
                direction, and its length is what cos θ's gradient, sin θ long, makes of it: below this sine it goes to 0 with it.
        """
        one_T = torch.ones_like(cosine_T)
        if self.kind != "arcface":
            return cosine_T - self.margin, one_T
        sin_m, cos_m = math.sin(self.margin), math.cos(self.margin)
        c_T = cosine_T.clamp(-1.0, 1.0)
        sine_T = ((1 - c_T) * (1 + c_T)).sqrt()
        bends_T = c_T > -cos_m
        phi_T = torch.where(bends_T, c_T * cos_m - sine_T * sin_m, cosine_T - self.margin * sin_m)
        slope_T = torch.where(bends_T, cos_m + c_T * sin_m / sine_T.clamp_min(least_sine), one_T)
        return phi_T, slope_T
