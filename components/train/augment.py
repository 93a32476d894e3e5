"""Light changes to line images while training: shift, scale, shear, an elastic field, noise, faintness; all from one generator.

Shapes: N images, H height, W width; x is (N, 1, H, W) ink values in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

__all__ = ["augmented"]


def augmented(x: Tensor, strength: float, draw: Generator) -> Tensor:
    """Return changed copies.

    Args:
        x: (N, 1, H, W).
        strength: 0 changes nothing, 1 is strong.
        draw: Where every random number comes from.
    """
    if strength <= 0:
        return x
    N, _, H, W = x.shape

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=draw) * 2 - 1

    # The affine map is in units of half the image; the line is wide, so shear and shift along it are scaled by H / W.
    theta = torch.zeros(N, 2, 3)
    theta[:, 0, 0] = 1 + 0.08 * strength * uniform(N)
    theta[:, 0, 1] = 0.35 * strength * uniform(N) * H / W
    theta[:, 0, 2] = 0.25 * strength * uniform(N) * H / W
    theta[:, 1, 0] = 0.10 * strength * uniform(N)
    theta[:, 1, 1] = 1 + 0.15 * strength * uniform(N)
    theta[:, 1, 2] = 0.15 * strength * uniform(N)
    grid = functional.affine_grid(theta, [N, 1, H, W], align_corners=False)
    coarse = uniform(N, 2, 4, max(2, W // 6)) * 0.22 * strength
    coarse[:, 0] *= H / W
    grid = grid + functional.interpolate(coarse, size=(H, W), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    x = functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    x = x.clamp(0, 1) ** torch.exp(0.5 * strength * uniform(N, 1, 1, 1))  # thinner or bolder strokes
    x = x * (1 - 0.3 * strength * torch.rand(N, 1, 1, 1, generator=draw))
    x = x + 0.06 * strength * torch.randn(N, 1, H, W, generator=draw)
    return x.clamp(0, 1)
