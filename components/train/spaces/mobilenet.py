"""MobileNetV3's space (Howard et al., arXiv 1905.02244; elastic as in Once-for-All, arXiv 1908.09791), for small images."""

from __future__ import annotations

from components.train.spaces.space import Head, Option, Space, Stage, Stem

__all__ = ["mobilenet"]


def mobilenet(inputs: tuple[int, int, int], classes: int) -> Space:
    """Return the space: kernel 3, 5 or 7, expansion 2, 4 or 6, with or without a gate; three stages of 1 to 3 blocks; three widths."""
    options = tuple(Option(kernel, expansion, se) for se in (False, True) for expansion in (2, 4, 6) for kernel in (3, 5, 7))
    return Space(
        name="mobilenet",
        input=inputs,
        classes=classes,
        stem=Stem(16, activation="hard_swish"),
        stages=(
            Stage(16, (1, 1), 3, options, "inverted", "relu"),
            Stage(32, (2, 2), 3, options, "inverted", "hard_swish"),
            Stage(64, (2, 2), 3, options, "inverted", "hard_swish"),
        ),
        head=Head("classes", 128),
        widths=(0.5, 1.0, 1.5),
    )
