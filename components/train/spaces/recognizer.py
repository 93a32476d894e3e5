"""Readers of text lines: more and other convolutions than CRNN's (arXiv 1507.05717), which they add to what came before; an elastic head.

Columns are halved twice, as `components.train.lines.STRIDE` asks; rows three times. The stem sees the line as it is: one that halves it at once
costs a tenth of the lines. Widths are multiples of 16, for which a CPU's kernels are made.
"""

from __future__ import annotations

from components.train.spaces.space import Head, Option, Space, Stage, Stem

__all__ = ["recognizer"]


def recognizer(inputs: tuple[int, int, int], classes: int) -> Space:
    """Return the space: kernel 3 or 5; three stages of 1 to 3 convolutions; four widths.

    Args:
        inputs: Channels and rows of a line, and the columns for which costs are counted.
        classes: Symbols of the alphabet and the blank.
    """
    options = (Option(3), Option(5))
    return Space(
        name="recognizer",
        input=inputs,
        classes=classes,
        stem=Stem(16),
        stages=(
            Stage(32, (2, 2), 3, options, "plain"),
            Stage(64, (2, 2), 3, options, "plain"),
            Stage(64, (2, 1), 3, options, "plain"),
        ),
        head=Head("line", 112, 0.1),
        widths=(0.5, 0.75, 1.0, 1.25),
        divisor=16,
    )
