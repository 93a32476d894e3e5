"""What the ground truths are of: small spaces, every architecture of which is trained, with options of the spaces that are shipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.automl.nas.training import Fitting
from components.train.spaces.space import Head, Option, Space, Stage, Stem

__all__ = ["WORLDS", "World"]

_ALONE = Fitting(epochs=5.0)


@dataclass(frozen=True)
class World:
    """Everything that decides a ground truth.

    Attributes:
        fitting: Of each architecture alone.
        images: To train on, to choose by (searches see both), and to judge by (no search sees them).
        seeds: Trainings of each architecture.
        hours: Whether it takes so long that its trainings are checked in.
    """

    space: Space
    fitting: Fitting = _ALONE
    images: tuple[int, int, int] = (8000, 2000, 10000)
    seeds: int = 2
    hours: bool = True


_INPUT, _CLASSES = (3, 16, 16), 10
_MOBILENET = (Option(3, 2), Option(5, 2), Option(3, 6), Option(5, 6), Option(3, 6, se=True), Option(5, 6, se=True))
_RESNET = (Option(3, 0.25), Option(3, 1.0), Option(5, 1.0))

_OF_MOBILENET = Space(  # 6 x 7 x 6 = 252 architectures
    name="truth-mobilenet",
    input=_INPUT,
    classes=_CLASSES,
    stem=Stem(16, activation="hard_swish"),
    stages=(Stage(24, (2, 2), 2, _MOBILENET, "inverted", "relu"), Stage(40, (2, 2), 1, _MOBILENET, "inverted", "hard_swish")),
    head=Head("classes", 128),
)
_OF_RESNET = Space(  # 3 x 4 x 3 = 36 architectures
    name="truth-resnet",
    input=_INPUT,
    classes=_CLASSES,
    stem=Stem(16),
    stages=(Stage(32, (2, 2), 2, _RESNET, "bottleneck"), Stage(64, (2, 2), 1, _RESNET, "bottleneck")),
    head=Head("classes", 0),
)
_QUICK = Space(  # 2 x 3 = 6 architectures: shows that everything runs, and nothing else
    name="truth-quick",
    input=_INPUT,
    classes=_CLASSES,
    stem=Stem(8, (2, 2)),
    stages=(Stage(8, (1, 1), 2, (Option(3, 2), Option(5, 6, se=True)), "inverted"),),
    head=Head("classes", 16),
)

WORLDS: Mapping[str, World] = {
    "mobilenet": World(_OF_MOBILENET, seeds=3),  # a mean of two is off by .4 points, and half a point is asked for
    "resnet": World(_OF_RESNET, images=(4000, 1000, 10000)),
    "quick": World(_QUICK, Fitting(epochs=1.0), (640, 256, 256), hours=False),
}
