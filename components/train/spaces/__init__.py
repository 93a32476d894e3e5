"""The spaces, by name: adding one is one file here and one line below."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from components.core.errors import ConfigError, nearest
from components.train.spaces.mobilenet import mobilenet
from components.train.spaces.recognizer import recognizer
from components.train.spaces.resnet import resnet
from components.train.spaces.space import Space

__all__ = ["SPACES", "mobilenet", "recognizer", "resnet", "space"]

Maker = Callable[[tuple[int, int, int], int], Space]
"""(channels, rows, columns) of the input and the number of classes -> a space."""

SPACES: Mapping[str, Maker] = {"mobilenet": mobilenet, "recognizer": recognizer, "resnet": resnet}


def space(name: str, inputs: tuple[int, int, int], classes: int) -> Space:
    """Return a space for images of one size.

    Raises:
        ConfigError: No space has this name.
    """
    if name not in SPACES:
        raise ConfigError(f"there is no space '{name}'", do=nearest(name, SPACES))
    return SPACES[name](inputs, classes)
