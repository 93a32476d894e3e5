"""AdamW without torch's optimiser objects, whose making imports torch's compiler: 1 s and 100 MB in every process of a search.

Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization". torch's own fused kernel does the sums.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adamw import adamw

__all__ = ["AdamW", "LazyAdamW"]

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


class AdamW:
    """Steps as `torch.optim.AdamW(…, fused=True)` does, bit for bit.

    Args:
        params: Dense; one without a gradient has one of zeros.
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
        grads = [torch.zeros_like(param) if param.grad is None else param.grad for param in self.params]
        adamw(
            self.params,
            grads,
            self._mean,
            self._square,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=_BETA1,
            beta2=_BETA2,
            lr=lr,
            weight_decay=self._decay,
            eps=_EPS,
            maximize=False,
        )
        for param in self.params:
            param.grad = None


class LazyAdamW:
    """AdamW element by element: one without a gradient stays as it is, and so do its moments and its count of steps.

    What `torch.optim.SparseAdam` does for rows. A slice that one step in six trains would by AdamW go on along old gradients for the other
    five, and then take smaller steps than a slice that each step trains. Where every element has a gradient, it steps as AdamW does.

    Args:
        params: Those of a network that is trained in parts.
        weight_decay: A share of the learning rate.
    """

    def __init__(self, params: Iterable[Tensor], *, weight_decay: float) -> None:
        self.params = list(params)
        self._decay = weight_decay
        self._sizes = [param.numel() for param in self.params]
        self._mean, self._square, self._steps = (torch.zeros_like(_joined(self.params)) for _ in range(3))

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move the params along their gradients, which are forgotten then."""
        grad = _joined([torch.zeros_like(param) if param.grad is None else param.grad for param in self.params])
        used = (grad != 0).to(grad.dtype)
        self._steps += used
        self._mean.lerp_(grad, (1 - _BETA1) * used)
        self._square.lerp_(grad.square_(), (1 - _BETA2) * used)
        count = self._steps.clamp(min=1)
        spread = (self._square / (1 - _BETA2**count)).sqrt_().add_(_EPS)
        move = (self._mean / (1 - _BETA1**count)).div_(spread).add_(_joined(self.params), alpha=self._decay).mul_(used)
        for param, part in zip(self.params, torch.split(move, self._sizes), strict=True):
            param.add_(part.view(param.shape), alpha=-lr)
            param.grad = None


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    """Return (elements,): one kernel for all of many small tensors."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
