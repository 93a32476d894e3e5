"""All options of a space in one forward pass: Σ p_k pad(crop_k(W)) for every weight (TangleNAS, arXiv 2312.10440, section 3).

What is not a weight is mixed where it acts. A block that is left out with probability p adds (1 - p) times what its other options add;
a gate that is there with probability q scales by 1 + q (gate - 1). The weights within are mixed by the probabilities given that they are
there. So a superposition whose probabilities are all 0 or 1 is a single path.

Channels beyond an option's width are not zero behind a batch normalisation, but the weights of the next layer are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from components.automl.nas.entangled import crop, masks, superposed
from components.core.errors import DataError
from components.train.spaces.geometry import BlockShape, enclosing, geometry, option_shapes
from components.train.spaces.network import Gate, Inverted, Network, block_module, groups
from components.train.spaces.space import SKIP, Architecture, Space

__all__ = ["Mix", "Superposition", "batch_statistics_only", "one_hot"]

_TINY = 1e-12  # a probability below it may as well be 0: nothing is divided by it


@dataclass(frozen=True)
class Mix:
    """Probabilities of options.

    Attributes:
        blocks: For each block, (options,); they sum to 1.
        width: (widths,), or the number of the one width to compute with, which costs less.
    """

    blocks: Sequence[Tensor]
    width: Tensor | int


def one_hot(space: Space, architecture: Architecture, *, dtype: torch.dtype = torch.float32) -> Mix:
    """Return the superposition that is this architecture alone."""
    space.check(architecture)
    counts = [len(block.options) for block in space.blocks]
    chosen = zip(architecture.options, counts, strict=True)
    return Mix([torch.eye(count, dtype=dtype)[option] for option, count in chosen], architecture.width)


@dataclass(frozen=True)
class _Part:
    """How one weight is mixed.

    Attributes:
        name: Of the weight.
        block: Whose options decide; None: only the width does.
        shape: Of the weight in the enclosing network.
        parts: For `crop`.
        windows: (windows, ...) of `masks`; None: every option has the whole weight.
        places: (windows, widths * options): which options have which window.
    """

    name: str
    block: int | None
    shape: tuple[int, ...]
    parts: Mapping[int, int]
    windows: Tensor | None
    places: Tensor | None


class Superposition:
    """The mixed network of a space.

    Args:
        space: Whose options are mixed.
        width: The number of the one width to compute with; None: all, by their probabilities.
        like: Gives type and device.
    """

    def __init__(self, space: Space, width: int | None, like: Tensor) -> None:
        self.space, self.width = space, width
        self._shapes = [option_shapes(space, number) for number in self._widths]
        with torch.device("meta"):
            self.net = Network(enclosing(space, width))
            for block in self.net.blocks:
                if isinstance(block, Inverted) and isinstance(block.gate, Gate):
                    block.gate = _SharedGate(block.gate.reduce.in_features, block.gate.reduce.out_features)
        batch_statistics_only(self.net)
        self._parts = self._mixed(like)

    @property
    def _widths(self) -> Sequence[int]:
        return range(len(self.space.widths)) if self.width is None else [self.width]

    def forward(self, x: Tensor, weights: Mapping[str, Tensor], mix: Mix, *, training: bool) -> Tensor:
        """Compute with the supernet's weights, and with the batch's own statistics.

        Args:
            x: (N, C, H, W).
            weights: By name, of the space's enclosing network.
            mix: Over this width, or over all.
            training: Whether dropout acts.

        Raises:
            DataError: The mix has other options than the space.
        """
        values = self._values(weights, self._checked(mix))
        self.net.train(training)
        answer: Tensor = torch.func.functional_call(self.net, values, (x,))
        return answer

    def _checked(self, mix: Mix) -> Mix:
        given = [len(p) for p in mix.blocks] + ([] if isinstance(mix.width, int) else [len(mix.width)])
        wanted = [len(b.options) for b in self.space.blocks] + ([] if self.width is not None else [len(self.space.widths)])
        if given != wanted:
            raise DataError(f"a superposition of {given} options", do=f"give {wanted} probabilities")
        return mix

    def _values(self, weights: Mapping[str, Tensor], mix: Mix) -> dict[str, Tensor]:
        pairs = list(zip(mix.blocks, self.space.blocks, strict=True))
        there = [_sum(p, [not option.skip for option in block.options]) for p, block in pairs]
        gated = [_sum(p, [option.se for option in block.options]) for p, block in pairs]
        values = {}
        for part in self._parts:
            value = crop(weights[part.name], part.shape, part.parts)
            if part.windows is not None and part.places is not None:
                value = superposed(value, part.windows, part.places @ self._shares(part, mix, there, gated))
            values[part.name] = value
        for number, (block, share) in enumerate(zip(self.space.blocks, there, strict=True)):
            if SKIP in block.options:
                for end in ("weight", "bias"):
                    name = f"blocks.{number}.project.norm.{end}"
                    values[name] = values[name] * share
            if any(option.se for option in block.options):
                values[f"blocks.{number}.gate.share"] = gated[number] / share.clamp(min=_TINY)
        return values

    def _shares(self, part: _Part, mix: Mix, there: Sequence[Tensor], gated: Sequence[Tensor]) -> Tensor:
        """Return (widths * options,) probabilities, given that the weight's layer is there; (widths,) for stem and head."""
        widths = mix.blocks[0].new_ones(1) if isinstance(mix.width, int) else mix.width
        if part.block is None:
            return widths
        given = gated[part.block] if ".gate." in part.name else there[part.block]
        return torch.outer(widths, mix.blocks[part.block] / given.clamp(min=_TINY)).flatten()

    def _mixed(self, like: Tensor) -> list[_Part]:
        ends = [self._ends(number) for number in self._widths]
        options = [[[_shapes(shape) for shape in block] for block in blocks] for blocks in self._shapes]
        found = []
        for name, parameter in self.net.named_parameters():
            full, parts, block = tuple(parameter.shape), groups(name, self.net.shape.head), None
            if name.startswith("blocks."):
                _, place, within = name.split(".", 2)
                block = int(place)
                shapes = [shape.get(within) for width in options for shape in width[block]]
            else:
                shapes = [end[name] for end in ends]
            found.append(_Part(name, block, full, parts, *_windows(full, shapes, parts, like)))
        return found

    def _ends(self, width: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of stem and head at a width."""
        first = Architecture(width, (0,) * len(self.space.blocks))
        with torch.device("meta"):
            net = Network(geometry(self.space, first))
        return {name: tuple(p.shape) for name, p in net.named_parameters() if not name.startswith("blocks.")}


class _SharedGate(Gate):
    """A gate that is there with some probability, its share."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(channels, hidden)
        self.register_buffer("share", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        share: Tensor = self.get_buffer("share")
        return x * (1 + share * (self.scale(x) - 1))


def batch_statistics_only(net: nn.Module) -> None:
    """Let batch normalisations use their batch's statistics in training and evaluation alike, and keep none."""
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.track_running_stats = False
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                module.register_buffer(name, None)


@lru_cache(maxsize=4096)
def _shapes(block: BlockShape) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of each parameter of a block."""
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in block_module(block).named_parameters()}


def _windows(
    full: tuple[int, ...], shapes: Sequence[tuple[int, ...] | None], parts: Mapping[int, int], like: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Return the different windows, and which option has which; nothing where all options have the whole weight.

    A vector (a scale, a shift, a bias) is never cut: what it adds beyond an option's width meets weights that are zero.
    """
    different = sorted({shape for shape in shapes if shape is not None})
    if len(full) == 1 or different == [full]:
        return None, None
    places = torch.tensor([[float(shape == each) for shape in shapes] for each in different], dtype=like.dtype, device=like.device)
    return masks(full, different, parts, like), places


def _sum(p: Tensor, chosen: Sequence[bool]) -> Tensor:
    return (p * p.new_tensor(chosen)).sum()
