"""Readers of text lines: the convolutions of CRNN (arXiv 1507.05717), of other widths, kernels and number, before its head.

Columns are halved twice, as `components.train.lines.STRIDE` asks, rows three times; by maxima: strides cost a tenth of the lines. What
reads most lines in a given time is a wide head on narrow maps, so no multiplier touches the head: the convolution before its GRU looks at
three columns of four rows, and with fewer rows, or one column, new receipts are read worse.

There is nothing to choose where maps are large: a larger convolution there takes half as much time again a step, and a supernet that was
trained for a few steps finds it the best of all. So networks of like size take like time, and what is left to find is where parameters go.
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
