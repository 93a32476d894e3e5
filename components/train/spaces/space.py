"""What may be searched: a space is data, an architecture is a row of numbers into it.

A space is a stem, stages of blocks and a head. Each block is one decision among its options; that a block is left out is an option too, so
depth needs no rule of its own. One more decision is the width multiplier, which scales every stage.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from components.core.errors import ConfigError, DataError

__all__ = ["SKIP", "Activation", "Architecture", "Block", "Head", "Kind", "Option", "Space", "Stage", "Stem"]

Kind = Literal["inverted", "bottleneck", "plain"]
Activation = Literal["relu", "hard_swish"]


@dataclass(frozen=True)
class Option:
    """What one block may be.

    Attributes:
        kernel: Of the convolution over space; odd.
        expansion: The block's inner width: times its input's (`inverted`) or its output's (`bottleneck`); `plain` has none.
        se: Whether a squeeze-and-excitation gate (Hu et al., arXiv 1709.01507) follows the convolution over space.
        skip: The block is left out; the other fields then mean nothing.
    """

    kernel: int = 3
    expansion: float = 1.0
    se: bool = False
    skip: bool = False

    def __str__(self) -> str:
        return "skip" if self.skip else f"k{self.kernel} e{self.expansion:g}{' se' if self.se else ''}"


SKIP = Option(skip=True)


@dataclass(frozen=True)
class Block:
    """One decision.

    Attributes:
        name: `stage.block`, both counted from 0.
        options: What it may be, in the order of an architecture's numbers.
    """

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Stem:
    """The first convolution, 3x3, always there.

    Attributes:
        width: Channels at multiplier 1.
        stride: Rows, columns.
        pooled: Whether all pixels are convolved, and the stride is that of a maximum after it.
    """

    width: int
    stride: tuple[int, int] = (1, 1)
    activation: Activation = "relu"
    pooled: bool = False


@dataclass(frozen=True)
class Stage:
    """Blocks of one width. The first block changes width and resolution and is always there; each later one may be skipped.

    Attributes:
        width: Channels at multiplier 1.
        stride: Rows, columns, of the first block.
        blocks: At most so many.
        options: What a block may be, `SKIP` left out.
        kind: `inverted`: MobileNet's (1x1, depthwise, 1x1). `bottleneck`: ResNet-50's (1x1, k x k, 1x1). `plain`: VGG's, one k x k
            at all pixels and a maximum over as many as the stride says; its input is added where the shape stays.
    """

    width: int
    stride: tuple[int, int]
    blocks: int
    options: tuple[Option, ...]
    kind: Kind
    activation: Activation = "relu"


@dataclass(frozen=True)
class Head:
    """What makes answers of the last stage's channels.

    Attributes:
        kind: `classes`: a 1x1 convolution to `width`, the mean over space, a linear layer. `line`: rows are laid into channels, then a
            convolution over columns to `width`, a bidirectional GRU, log-probabilities for each column (CTC; class 0 is the blank).
        width: At multiplier 1; 0, with `classes` only: no 1x1 convolution.
        dropout: Before the last layer.
        kernel: Of the convolution over columns; odd; `line` only.
        scaled: Whether the width multiplier scales its width too, and not only the stages.
    """

    kind: Literal["classes", "line"]
    width: int
    dropout: float = 0.0
    kernel: int = 3
    scaled: bool = True


@dataclass(frozen=True)
class Architecture:
    """A member of a space.

    Attributes:
        width: Number of the width multiplier.
        options: Number of the option, for each block.
    """

    width: int
    options: tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """What may be searched.

    Attributes:
        input: Channels, rows, columns. A `line` network takes any number of columns; this one is what costs are counted for.
        classes: Width of the answer.
        widths: Multipliers, ascending.
        divisor: Scaled widths are multiples of it.
    """

    name: str
    input: tuple[int, int, int]
    classes: int
    stem: Stem
    stages: tuple[Stage, ...]
    head: Head
    widths: tuple[float, ...] = (1.0,)
    divisor: int = 8

    def __post_init__(self) -> None:
        if not self.widths or list(self.widths) != sorted(set(self.widths)) or self.widths[0] <= 0:
            raise ConfigError(f"space {self.name}: the widths {self.widths} do not ascend from above 0", do="sort them, each once")
        for stage in self.stages:
            options = stage.options
            if not options or len(set(options)) != len(options) or any(o.skip or o.kernel % 2 == 0 or o.expansion <= 0 for o in options):
                raise ConfigError(
                    f"space {self.name}: a stage has the options {[str(o) for o in options]}",
                    do="give each option once, odd kernels, expansions above 0, and leave SKIP out: every block but the first gets it",
                )
            if stage.kind == "plain" and any(option.expansion != 1.0 for option in options):
                raise ConfigError(f"space {self.name}: plain blocks have no inner width", do="leave their expansion at 1")
            if stage.kind != "inverted" and any(option.se for option in options):
                raise ConfigError(f"space {self.name}: {stage.kind} blocks have no gate", do="use se with inverted blocks only")

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Every decision but the width, from input to output."""
        return tuple(
            Block(f"{number}.{place}", stage.options if place == 0 else (*stage.options, SKIP))
            for number, stage in enumerate(self.stages)
            for place in range(stage.blocks)
        )

    @property
    def size(self) -> int:
        """How many architectures it has."""
        return len(self.widths) * math.prod(len(block.options) for block in self.blocks)

    def architectures(self) -> Iterator[Architecture]:
        """Yield every architecture; the last block varies fastest."""
        for width in range(len(self.widths)):
            for options in itertools.product(*(range(len(block.options)) for block in self.blocks)):
                yield Architecture(width, options)

    def option(self, architecture: Architecture, block: int) -> Option:
        """Return what a block is."""
        return self.blocks[block].options[architecture.options[block]]

    def smallest(self) -> Architecture:
        """Return the architecture with the least of everything."""
        return Architecture(0, tuple(_extremes(block)[0] for block in self.blocks))

    def largest(self) -> Architecture:
        """Return the architecture with the most of everything; inner width counts before kernel, kernel before gate."""
        return Architecture(len(self.widths) - 1, tuple(_extremes(block)[1] for block in self.blocks))

    def sample(self, rng: random.Random) -> Architecture:
        """Draw each decision uniformly."""
        return Architecture(rng.randrange(len(self.widths)), tuple(rng.randrange(len(block.options)) for block in self.blocks))

    def neighbours(self, architecture: Architecture, rng: random.Random) -> list[Architecture]:
        """Return every architecture that differs in one decision, in random order."""
        width, options = self.check(architecture).width, architecture.options
        found = [Architecture(other, options) for other in range(len(self.widths)) if other != width]
        for place, block in enumerate(self.blocks):
            others = (other for other in range(len(block.options)) if other != options[place])
            found += [Architecture(width, (*options[:place], other, *options[place + 1 :])) for other in others]
        rng.shuffle(found)
        return found

    def mutated(self, architecture: Architecture, rng: random.Random, share: float = 0.1) -> Architecture:
        """Draw each decision anew with probability `share`; at least one differs, where the space has more than one architecture."""
        self.check(architecture)
        if self.size == 1:
            return architecture
        while True:
            drawn = self.sample(rng)
            width = drawn.width if rng.random() < share else architecture.width
            pairs = zip(architecture.options, drawn.options, strict=True)
            found = Architecture(width, tuple(new if rng.random() < share else old for old, new in pairs))
            if found != architecture:
                return found

    def crossed(self, a: Architecture, b: Architecture, rng: random.Random) -> Architecture:
        """Take each decision from either parent, by a coin."""
        pairs = zip(self.check(a).options, self.check(b).options, strict=True)
        return Architecture(rng.choice((a.width, b.width)), tuple(rng.choice(pair) for pair in pairs))

    def check(self, architecture: Architecture) -> Architecture:
        """Return the architecture.

        Raises:
            DataError: It is not a member.
        """
        allowed = [len(self.widths), *(len(block.options) for block in self.blocks)]
        given = [architecture.width, *architecture.options]
        if len(given) != len(allowed) or not all(0 <= number < most for number, most in zip(given, allowed, strict=True)):
            raise DataError(
                f"width {architecture.width} with options {list(architecture.options)} is not in space {self.name}",
                do=f"give a width below {allowed[0]} and {len(self.blocks)} options below {allowed[1:]}",
            )
        return architecture

    def encode(self, architecture: Architecture) -> dict[str, Any]:
        """Return plain JSON that `decode` reads."""
        self.check(architecture)
        return {"space": self.name, "width": self.widths[architecture.width], "options": list(architecture.options)}

    def decode(self, document: Mapping[str, Any]) -> Architecture:
        """Read what `encode` wrote.

        Raises:
            DataError: It is of another space, or is no architecture.
        """
        if document.get("space") != self.name or document.get("width") not in self.widths:
            raise DataError(
                f"{dict(document)} is no architecture of space {self.name} with the widths {list(self.widths)}",
                do="decode it with the space that encoded it",
            )
        options = document.get("options")
        if not isinstance(options, list) or not all(type(number) is int for number in options):
            raise DataError(f"the options {options} are no list of numbers", do="give what encode returned")
        return self.check(Architecture(self.widths.index(document["width"]), tuple(options)))

    def describe(self, architecture: Architecture) -> str:
        """Return it for people: the width multiplier, then the stages."""
        texts = {block.name: str(self.option(architecture, place)) for place, block in enumerate(self.blocks)}
        stages = [", ".join(texts[f"{n}.{place}"] for place in range(stage.blocks)) for n, stage in enumerate(self.stages)]
        return f"x{self.widths[architecture.width]:g}: {' | '.join(stages)}"


def _extremes(block: Block) -> tuple[int, int]:
    """Return the numbers of the smallest and the largest option."""
    order = sorted(range(len(block.options)), key=lambda n: (not block.options[n].skip, *_sizes(block.options[n])))
    return order[0], order[-1]


def _sizes(option: Option) -> tuple[float, int, bool]:
    return option.expansion, option.kernel, option.se
