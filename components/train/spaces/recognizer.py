"""Readers of text lines: the convolutions of CRNN (arXiv 1507.05717) become residual blocks, its head becomes elastic.

Columns are halved twice, as `components.train.lines.STRIDE` asks; rows four times, so that the head's first layer stays small.
"""

from __future__ import annotations

from components.train.spaces.space import Head, Option, Space, Stage, Stem

__all__ = ["recognizer"]


def recognizer(inputs: tuple[int, int, int], classes: int) -> Space:
    """Return the space: kernel 3 or 5, inner width of half or the whole stage's; three stages of 1 to 3 blocks; four widths.

    Args:
        inputs: Channels and rows of a line, and the columns for which costs are counted.
        classes: Symbols of the alphabet and the blank.
    """
    options = tuple(Option(kernel, expansion) for expansion in (0.5, 1.0) for kernel in (3, 5))
    return Space(
        name="recognizer",
        input=inputs,
        classes=classes,
        stem=Stem(16, (2, 2)),
        stages=(
            Stage(32, (2, 2), 3, options, "basic"),
            Stage(48, (2, 1), 3, options, "basic"),
            Stage(64, (2, 1), 3, options, "basic"),
        ),
        head=Head("line", 96, 0.1),
        widths=(0.5, 0.625, 0.75, 1.0),
    )
