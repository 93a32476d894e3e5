"""Readers of text lines: the convolutions of CRNN (arXiv 1507.05717), of other widths and kernels, before its head.

Columns are halved twice, as `components.train.lines.STRIDE` asks, rows three times; by maxima: strides cost a tenth of the lines. No
multiplier touches the head, which is wider than CRNN's: narrow maps before such a head read as many lines as CRNN with fewer parameters
(`tests/benchmarks/RESULTS.md`).

What may be chosen is what a supernet can tell apart in a tenth of a scenario's budget. There are no widths an eighth apart: it took either.
No convolutions may be left out: it learned half as well, and took more of them for better, which alone they were not. And there is nothing
to choose where maps are large: 3x3 and 5x5 there took two fifths more time an epoch. So networks of like size take like time.
"""

from __future__ import annotations

from components.train.spaces.space import Head, Option, Space, Stage, Stem

__all__ = ["recognizer"]


def recognizer(inputs: tuple[int, int, int], classes: int) -> Space:
    """Return the space: three convolutions, the last of kernel 3 or 5; five widths.

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
        stages=(Stage(32, (2, 2), 1, options[:1], "plain"), Stage(64, (2, 1), 1, options, "plain")),
        head=Head("line", 112, 0.1, kernel=3, scaled=False),
        widths=(0.25, 0.5, 0.75, 1.0, 1.25),
    )
