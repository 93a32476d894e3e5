"""AdamW without torch's optimiser objects, whose making imports torch's compiler: 1 s and 100 MB in every process of a search.

Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization". torch's own fused kernel does the sums.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adamw import adamw

__all__ = ["AdamW"]


class AdamW:
    """Steps as `torch.optim.AdamW(…, fused=True)` does, bit for bit.

    Args:
        params: Dense, all of them in use.
        weight_decay: A share of the learning rate.
    """

    def __init__(self, params: Iterable[Tensor], *, weight_decay: float) -> None:
        self.params = list(params)
        self._decay = weight_decay
        self._mean, self._square = ([torch.zeros_like(param) for param in self.params] for _ in range(2))
        self._steps = [torch.tensor(0.0) for _ in self.params]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move the params along their gradients, which are forgotten then."""
        grads = [param.grad for param in self.params if param.grad is not None]
        adamw(
            self.params,
            grads,
            self._mean,
            self._square,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=lr,
            weight_decay=self._decay,
            eps=1e-8,
            maximize=False,
        )
        for param in self.params:
            param.grad = None
