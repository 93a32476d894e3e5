"""Reading lines of text as a problem of a search: CTC, judged by characters, because a young supernet reads no whole line.

Shapes: N lines, H height, W width, T time steps, C symbols.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from components.automl.nas.problem import Batch, Part
from components.core.errors import DataError
from components.evaluate.metrics import edit_distance
from components.model.text_line import decode
from components.train.augment import augmented
from components.train.lines import Line, Lines, batches, channels_last, ctc, padded

__all__ = ["Texts"]


@dataclass(frozen=True)
class Texts:
    """Reading of lines.

    Attributes:
        training: (image, codes) of each.
        validation: The same, of lines to judge by.
        augment: Strength of the changes made to training images.

    Raises:
        DataError: There is not one whole batch to train on, or no line to validate on.
    """

    training: list[Line]
    validation: list[Line]
    augment: float = 0.0
    batch: int = 32

    def __post_init__(self) -> None:
        if len(self.training) < self.batch or not self.validation:
            given = f"{len(self.training)} lines to train on and {len(self.validation)} to validate on"
            raise DataError(f"{given}; a search needs at least {self.batch} and one", do="give more lines, or remove automl.nas")

    @classmethod
    def of(cls, part: Lines, batch: int = 32) -> Texts:
        """Make the problem of what a learner of lines learns from."""
        code = {character: index + 1 for index, character in enumerate(part.task.alphabet)}
        judged = [(image, [code[c] for c in part.task.check_label(label)]) for image, label in zip(part.images, part.labels, strict=True)]
        return cls(part.learned, judged, part.augment, batch)

    def steps(self) -> int:
        """Return the whole batches of an epoch."""
        return len(self.training) // self.batch

    def batches(self, part: Part, draw: torch.Generator | None = None) -> Iterator[Batch]:
        """Yield (N, 1, H, W) images and their codes; training images are changed a little each time."""
        lines = self.training if part == "train" else self.validation
        if draw is None:
            ordered = sorted(lines, key=lambda line: line[0].shape[1])  # little padding
            for start in range(0, len(ordered), self.batch):
                x, codes = _together(ordered[start : start + self.batch])
                yield channels_last(x), codes
            return
        for chosen in batches(lines, min(self.batch, len(lines)), draw):
            if len(chosen) == min(self.batch, len(lines)):
                x, codes = _together(chosen)
                yield channels_last(augmented(x, self.augment, draw) if part == "train" else x), codes

    def loss(self, outputs: Tensor, target: Any) -> Tensor:
        """Return the CTC loss of (N, T, C) log-probabilities."""
        return ctc(outputs, target)

    def right(self, outputs: Tensor, target: Any) -> tuple[int, int]:
        """Count characters: those of each text, less the edits that what was read needs to become it."""
        read = decode(outputs.double().numpy())
        wrong = [min(edit_distance(_text(codes), _text(said)), len(codes)) for codes, said in zip(target, read, strict=True)]
        total = sum(map(len, target))
        return total - sum(wrong), total


def _together(lines: list[Line]) -> Batch:
    return padded([image for image, _ in lines]), [codes for _, codes in lines]


def _text(codes: list[int]) -> str:
    return "".join(map(chr, codes))
