"""ResNet's space (He et al., arXiv 1512.03385; elastic as in Once-for-All's ResNet-50D), for small images."""

from __future__ import annotations

from components.train.spaces.space import Head, Option, Space, Stage, Stem

__all__ = ["resnet"]


def resnet(inputs: tuple[int, int, int], classes: int) -> Space:
    """Return the space: bottlenecks of 1/4, 1/2 or the whole width, kernel 3 or 5; three stages of 1 to 4 blocks; three widths."""
    options = tuple(Option(kernel, expansion) for expansion in (0.25, 0.5, 1.0) for kernel in (3, 5))
    return Space(
        name="resnet",
        input=inputs,
        classes=classes,
        stem=Stem(16),
        stages=(
            Stage(32, (1, 1), 4, options, "bottleneck"),
            Stage(64, (2, 2), 4, options, "bottleneck"),
            Stage(128, (2, 2), 4, options, "bottleneck"),
        ),
        head=Head("classes", 0),
        widths=(0.5, 1.0, 1.5),
    )
