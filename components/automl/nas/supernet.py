"""One network that holds every architecture of a space as slices of its weights.

Two ways to compute with it: along a single path (one architecture), or through a superposition of all options, which costs one convolution
a layer however many options there are.

Batch normalisation: in training both use the batch's statistics. Running statistics belong to one path and are computed by `recalibrate`
(as in BigNAS, arXiv 2003.11142, section 3.2), because those of other paths would be wrong for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from components.automl.nas.entangled import crop
from components.automl.nas.superposition import Mix, Superposition, batch_statistics_only, one_hot
from components.core.errors import DataError
from components.train.spaces.geometry import enclosing, geometry
from components.train.spaces.network import Network, built, groups
from components.train.spaces.space import Architecture, Space

__all__ = ["Mix", "Supernet", "one_hot", "recalibrate"]

_KEPT = 256
"""Paths, modules without weights: to make one takes a tenth of a small network's step, and those recalibrated are judged later."""


class Supernet(nn.Module):
    """The space's largest network, whose slices are its members.

    Args:
        space: Whose architectures it holds. Weights are drawn from torch's global generator.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.weights = built(enclosing(space))
        batch_statistics_only(self.weights)
        self._paths: OrderedDict[Architecture, Network] = OrderedDict()
        self._calibrated: set[Architecture] = set()
        self._superpositions: dict[int | None, Superposition] = {}

    def forward(self, x: Tensor, choice: Architecture | Mix) -> Tensor:
        """Compute one architecture, or a superposition.

        A superposition always uses the batch's statistics; a single path does in training, and its recalibrated ones in evaluation.

        Args:
            x: (N, C, H, W).
            choice: What is computed with.

        Returns:
            What `Network` returns.

        Raises:
            DataError: The choice is of another space, or it is a path to be evaluated that was not recalibrated.
        """
        if isinstance(choice, Mix):
            width = choice.width if isinstance(choice.width, int) else None
            if width not in self._superpositions:
                self._superpositions[width] = Superposition(self.space, width, self._like)
            return self._superpositions[width].forward(x, dict(self.weights.named_parameters()), choice, training=self.training)
        path = self._path(choice)
        if not self.training and choice not in self._calibrated:
            raise DataError(f"{self.space.describe(choice)} has no batch statistics", do="call recalibrate before evaluating it")
        path.train(self.training)
        answer: Tensor = torch.func.functional_call(path, self._slices(path), (x,))
        return answer

    def inherited(self, architecture: Architecture) -> dict[str, Tensor]:
        """Return a copy of the weights that an architecture has here: the state of `network(space, architecture)`.

        Its batch statistics are those of the last `recalibrate`, or fresh ones when there was none since training went on.

        Raises:
            DataError: The architecture is of another space.
        """
        path = self._path(architecture)
        if architecture not in self._calibrated:
            _reset(path, self._like)
        return {name: value.detach().clone() for name, value in {**path.state_dict(), **self._slices(path)}.items()}

    def train(self, mode: bool = True) -> Supernet:
        """Set the mode, as any module's; training forgets the statistics of all paths, because weights will change."""
        if mode:
            self._calibrated.clear()
        return super().train(mode)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        """Load weights, as any module does; the statistics of all paths are forgotten."""
        self._calibrated.clear()
        return super().load_state_dict(*args, **options)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Supernet:
        # What is kept beside the weights has their type and device.
        self._paths.clear()
        self._calibrated.clear()
        self._superpositions.clear()
        applied: Supernet = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return applied

    @property
    def _like(self) -> Tensor:
        return next(self.weights.parameters())

    def _slices(self, path: Network) -> dict[str, Tensor]:
        weights, head = dict(self.weights.named_parameters()), path.shape.head
        return {name: crop(weights[name], p.shape, groups(name, head)) for name, p in path.named_parameters()}

    def _path(self, architecture: Architecture) -> Network:
        """Return the architecture's network without weights of its own, but with its batch statistics."""
        path = self._paths.get(architecture)
        if path is None:
            with torch.device("meta"):
                path = Network(geometry(self.space, architecture))
            _reset(path, self._like)
            self._paths[architecture] = path
            if len(self._paths) > _KEPT:
                self._calibrated.discard(self._paths.popitem(last=False)[0])
        self._paths.move_to_end(architecture)
        return path


def recalibrate(supernet: Supernet, architecture: Architecture, batches: Iterable[Tensor]) -> None:
    """Compute the batch statistics of one path: the mean over these batches of inputs. Weights do not change.

    Statistics of the 256 latest paths are kept; `supernet.train()` forgets them all.

    Args:
        supernet: In either mode, which stays.
        architecture: The path.
        batches: (N, C, H, W) each, N at least 2.

    Raises:
        DataError: There is no batch, or the architecture is of another space.
    """
    path = supernet._path(architecture)
    _reset(path, supernet._like)
    slices = supernet._slices(path)
    path.eval()
    norms = _norms(path)
    for norm in norms:
        # Without a momentum, PyTorch keeps the plain mean over all batches.
        norm.momentum, norm.track_running_stats = None, True
        norm.train()
    seen = 0
    with torch.no_grad():
        for x in batches:
            torch.func.functional_call(path, slices, (x,))
            seen += 1
    for norm in norms:
        norm.track_running_stats = False
    if not seen:
        raise DataError("no batch to compute statistics of", do="give at least one batch of training inputs")
    supernet._calibrated.add(architecture)


def _norms(net: nn.Module) -> list[_BatchNorm]:
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]


def _reset(path: Network, like: Tensor) -> None:
    """Give fresh batch statistics, which training neither uses nor changes."""
    for norm in _norms(path):
        norm.track_running_stats = False
        norm.running_mean, norm.running_var = like.new_zeros(norm.num_features), like.new_ones(norm.num_features)
        norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=like.device)
