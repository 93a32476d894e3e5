"""One network that holds every architecture of a space as slices of its weights.

Two ways to compute with it: along a single path (one architecture), or through a superposition of all options (TangleNAS, arXiv 2312.10440),
which costs one convolution a layer however many options there are.

Batch normalisation: in training both use the batch's statistics. Running statistics belong to one path and are computed by `recalibrate`
(as in BigNAS, arXiv 2003.11142, section 3.2), because those of other paths would be wrong for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.automl.nas.space import Architecture, Space

__all__ = ["Mix", "Supernet", "one_hot", "recalibrate"]


@dataclass(frozen=True)
class Mix:
    """A superposition.

    Attributes:
        blocks: For each block, (options,) probabilities.
        width: (widths,) probabilities, or the number of the one width to compute with, which costs less.
    """

    blocks: Sequence[Tensor]
    width: Tensor | int


def one_hot(space: Space, architecture: Architecture, *, dtype: torch.dtype = torch.float32) -> Mix:
    """Return the superposition that is this architecture alone."""
    raise NotImplementedError


class Supernet(nn.Module):
    """The space's largest network, whose slices are its members.

    Args:
        space: Whose architectures it holds. Weights are drawn from torch's global generator.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    def forward(self, x: Tensor, choice: Architecture | Mix) -> Tensor:
        """Compute one architecture, or a superposition.

        A superposition always uses the batch's statistics; a single path does in training, and its recalibrated ones in evaluation.

        Raises:
            DataError: The architecture is of another space, or is evaluated before it was recalibrated.
        """
        raise NotImplementedError

    def inherited(self, architecture: Architecture) -> dict[str, Tensor]:
        """Return a copy of the weights that an architecture has here: the state of `network(space, architecture)`.

        Its batch statistics are those of the last `recalibrate`, or fresh ones when there was none since training went on.
        """
        raise NotImplementedError


def recalibrate(supernet: Supernet, architecture: Architecture, batches: Iterable[Tensor]) -> None:
    """Compute the batch statistics of one path: the mean over these batches of inputs. Weights do not change.

    Statistics of the 16 latest paths are kept; `supernet.train()` forgets them all.
    """
    raise NotImplementedError
