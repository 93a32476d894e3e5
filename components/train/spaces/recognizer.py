"""Readers of text lines: the convolutions of CRNN (arXiv 1507.05717), more of them, of other widths and kernels, before a head of its kind.

Columns are halved twice, as `components.train.lines.STRIDE` asks, rows four times; by maxima: strides cost a tenth of the lines. CRNN
spends half of its parameters on the convolution between maps and GRU; here it looks at one column, and what is saved widens the GRU, whose
width no multiplier touches: a narrow GRU costs more lines than narrow convolutions do.

There is nothing to choose where maps are large: a larger convolution there takes half as much time again a step, and a supernet that was
trained for a few steps finds it the best of all. So networks of like size take like time, and what is left to find is where parameters go.
"""

from __future__ import annotations

from components.train.spaces.space import Head, Option, Space, Stage, Stem

__all__ = ["recognizer"]


def recognizer(inputs: tuple[int, int, int], classes: int) -> Space:
    """Return the space: a convolution, then two stages of one or two, of kernel 3 or 5; six widths.

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
        stages=(
            Stage(32, (2, 2), 1, options[:1], "plain"),
            Stage(64, (2, 1), 2, options, "plain"),
            Stage(64, (2, 1), 2, options, "plain"),
        ),
        head=Head("line", 112, 0.1, kernel=1, scaled=False),
        widths=(0.5, 0.625, 0.75, 0.875, 1.0, 1.125),
    )
