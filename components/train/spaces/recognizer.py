"""Readers of text lines: the convolutions of CRNN (arXiv 1507.05717), of other widths, kernels and number, before its head.

Columns are halved twice, as `components.train.lines.STRIDE` asks, rows three times; by maxima: strides cost a tenth of the lines. No
multiplier touches the head, which is wider than CRNN's: after a short training narrow maps before such a head read more lines than CRNN,
after a long one about as many (`tests/benchmarks/RESULTS.md`).

There is nothing to choose where maps are large: 3x3 and 5x5 there took two fifths more time an epoch than one 3x3, and a supernet that was
trained for a few steps found them the best of all. So networks of like size take like time.
"""

from __future__ import annotations

from components.train.spaces.space import Head, Option, Space, Stage, Stem

__all__ = ["recognizer"]


def recognizer(inputs: tuple[int, int, int], classes: int) -> Space:
    """Return the space: a convolution, then one to three of kernel 3 or 5; seven widths.

    Args:
        inputs: Channels and rows of a line, and the columns for which costs are counted.
        classes: Symbols of the alphabet and the blank.
    """
    options = (Option(3), Option(5))
    return Space(
        name="recognizer",
        input=inputs,
        classes=classes,
        stem=Stem(16, (2, 2), pooled=True),
        stages=(Stage(32, (2, 2), 1, options[:1], "plain"), Stage(64, (2, 1), 3, options, "plain")),
        head=Head("line", 112, 0.1, kernel=3, scaled=False),
        widths=(0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.125),
    )
