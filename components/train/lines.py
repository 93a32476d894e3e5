"""Readers of lines of text: pixels, batches, and training by connectionist temporal classification (Graves et al. 2006).

A reader is any network (N, 1, H, W) -> (N, T, C) log-probabilities with T = W / 4 and class 0 the blank; learners say which.
Shapes: N images, H height, W width, T time steps, C = 1 + len(alphabet) symbols.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from components.core.errors import ConfigError, DataError, IntegrityError
from components.core.params import Frozen, Task, TextLine
from components.model.answer import Answer
from components.model.runtime import Float32, Scores, load_onnx
from components.model.text_line import Pixels, TextLineModel, pixels_of, size_of
from components.train.augment import augmented
from components.train.data import Data, Rows
from components.train.folds import Validation, holdout
from components.train.learners.base import Progress, Trained

__all__ = ["STRIDE", "Album", "Features", "Line", "LineLearner", "Lines", "Reading", "batches", "ctc", "fit_reader", "padded"]

STRIDE = 4
"""Pixels of width that become one time step."""
Line = tuple[Float32, list[int]]
_LARGEST_DIFFERENCE = 1e-3
_SCORED_SHARE = 0.3  # of the epochs, at the start, are not scored: nothing is read yet


class Features(Frozen):
    """The recipe's `features`.

    Attributes:
        height: Pixels; every line is scaled to it. None: the training lines' median height, rounded to a multiple of 8, 16 to 32.
        augment: Strength of the changes made to training images, 0 to 2.
    """

    height: int | None = Field(None, ge=16, le=64, multiple_of=8)
    augment: float = Field(0.6, ge=0, le=2)


class Reading(Frozen):
    """How a reader is trained: AdamW, one cycle of the learning rate, the best scored epoch is kept."""

    epochs: int = Field(20, ge=1, le=1000)
    lr: float = Field(4e-3, gt=0, le=0.1)
    batch: int = Field(32, ge=2, le=512)
    dropout: float = Field(0.1, ge=0, lt=0.9)
    weight_decay: float = Field(1e-3, ge=0, le=1)


@dataclass(frozen=True)
class Lines:
    """Images and texts of the only fold.

    Attributes:
        task: The alphabet.
        rule: Made the pixels.
        augment: Strength of the changes made to training images.
        learned: (N,) image and codes of training lines.
        images: (V,) validation images; V may be 0: then the network of the last epoch is kept.
        labels: (V,) their texts.
    """

    task: TextLine
    rule: Pixels
    augment: float
    learned: list[Line]
    images: list[Float32]
    labels: list[Any]


class Album:
    """A dataset of lines, decoded once; it has one fold, the validation split."""

    def __init__(self, task: TextLine, rule: Pixels, augment: float, data: Data) -> None:
        self._task, self._rule, self._augment, self._data = task, rule, augment, data

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The size rules as plain JSON."""
        return self._rule.model_dump(mode="json")

    def part(self, fold: int, limit: int | None = None) -> Lines:
        """Return the lines that are long enough for their texts, at most `limit` of them, and the validation lines.

        Raises:
            DataError: No line is long enough.
        """
        lines, (images, labels) = self._lines, self._judged
        if limit is not None and limit < len(lines):
            keys = [self._data.train.keys[row] if self._data.train.keys else str(row) for row in range(len(self._data.train))]
            kept = holdout(len(keys), 0, keys).learned(fold, limit)
            lines = {row: lines[row] for row in kept.tolist() if row in lines}
        if not lines:
            raise DataError("no training line is long enough for its text", do="check that images and labels belong together")
        return Lines(self._task, self._rule, self._augment, list(lines.values()), images, labels)

    @cached_property
    def _lines(self) -> dict[int, Line]:
        """Row -> (image, codes) of lines that have a time step for every character, and one between equal ones."""
        code = {character: index + 1 for index, character in enumerate(self._task.alphabet)}
        found = {}
        for row, (image, label) in enumerate(zip(_images(self._data.train, self._rule), self._data.train.labels, strict=True)):
            codes = [code[character] for character in self._task.check_label(label)]
            steps = len(codes) + sum(a == b for a, b in pairwise(codes))
            if steps <= image.shape[1] // STRIDE:
                found[row] = (image, codes)
        return found

    @cached_property
    def _judged(self) -> tuple[list[Float32], list[Any]]:
        return _images(self._data.validation, self._rule), list(self._data.validation.labels)


class LineLearner:
    """What learners of lines share; see `components.train.learners.base.Learner`."""

    name: str
    features: type[Frozen] = Features

    def fits(self, task: Task) -> bool:
        return isinstance(task, TextLine)

    def prepare(self, data: Data, features: Features, validation: Validation) -> Album:
        if not isinstance(data.task, TextLine):
            raise DataError(f"{self.name} reads lines of text only", do="use a learner for tables")
        if validation.kind != "holdout":
            given = f"{self.name} can't be validated by '{validation.kind}': it is one network"
            raise ConfigError(given, do="use a validation of kind holdout")
        rule = Pixels.model_validate({"height": features.height or _usual_height(data.train)})
        return Album(data.task, rule, features.augment, data)


def fit_reader(
    build: Callable[[], nn.Module], write: Callable[[Any], bytes], part: Lines, params: Reading, *, seed: int, progress: Progress
) -> Trained:
    """Train a network on lines; equal arguments give equal bytes.

    Args:
        build: Returns it; what it draws is seeded.
        write: Turns it, in evaluation mode, into an ONNX graph.

    Raises:
        IntegrityError: The graph answers differently.
    """
    fit = _Fit(build, part, params, seed)
    best, log = fit.run(progress)
    fit.net.eval()
    weights = write(fit.net)
    _check_equal(fit.net, weights, [image for image, _ in part.learned[:8]])
    return Trained("onnx", weights, _in_memory(fit.net), best, log)


def ctc(log_NTC: Tensor, codes: Sequence[list[int]]) -> Tensor:
    """Return the mean loss of a batch; texts that have no alignment count 0."""
    lengths = torch.full((len(codes),), log_NTC.shape[1])
    targets = torch.tensor([code for text in codes for code in text])
    sizes = torch.tensor([len(text) for text in codes])
    return functional.ctc_loss(log_NTC.transpose(0, 1), targets, lengths, sizes, zero_infinity=True)


class _Fit:
    """One training: the network, its optimiser and its source of random numbers."""

    def __init__(self, build: Callable[[], nn.Module], part: Lines, params: Reading, seed: int) -> None:
        self.part, self.params = part, params
        self.draw = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = build()

    def run(self, progress: Progress) -> tuple[int, list[dict[str, Any]]]:
        """Train; the network ends with the weights of its best scored epoch, or of the last one. Returns which, and what happened."""
        p = self.params
        steps = math.ceil(len(self.part.learned) / p.batch) * p.epochs
        optimiser = torch.optim.AdamW(self.net.parameters(), lr=p.lr, weight_decay=p.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, p.lr, total_steps=steps, pct_start=0.25)
        best, best_epoch, kept, log = (-1.0, 0.0), p.epochs, self.net.state_dict(), []
        for epoch in range(1, p.epochs + 1):
            loss = self._epoch(self.part.learned, optimiser, schedule)
            log.append({"epoch": epoch, "loss": round(loss, 6)})
            if not self.part.images or (epoch < p.epochs * _SCORED_SHARE and epoch < p.epochs):
                continue
            exact, confidence = self._score()
            log[-1]["exact_match"] = exact
            if (exact, confidence) > best:
                best, best_epoch, kept = (exact, confidence), epoch, copy.deepcopy(self.net.state_dict())
            if progress(epoch, exact):
                break
        self.net.load_state_dict(kept)
        return best_epoch, log

    def _epoch(self, lines: list[Line], optimiser: Any, schedule: Any) -> float:
        self.net.train()
        total = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=self.draw)))  # dropout draws from the global generator
            for part in batches(lines, self.params.batch, self.draw):
                x = channels_last(augmented(padded([image for image, _ in part]), self.part.augment, self.draw))
                loss = ctc(self.net(x), [codes for _, codes in part])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
                optimiser.step()
                schedule.step()
                total += loss.item() * len(part)
        return total / len(lines)

    def _score(self) -> tuple[float, float]:
        """Return the share of lines read right, and the mean confidence in them, which breaks ties."""
        self.net.eval()
        images, labels, rule = self.part.images, self.part.labels, self.part.rule.model_dump()
        answers: list[Answer] = TextLineModel(self.part.task, rule, _in_memory(self.net)).read(images)
        right = [answer.confidence for answer, label in zip(answers, labels, strict=True) if answer.label == label]
        return len(right) / len(labels), sum(right) / len(labels)


def batches(lines: Sequence[Line], size: int, draw: torch.Generator) -> Iterator[list[Line]]:
    """Yield batches of lines of similar width, in random order: little padding, and every epoch another mix."""
    order = torch.randperm(len(lines), generator=draw).tolist()
    order.sort(key=lambda index: lines[index][0].shape[1])  # stable: equal widths stay shuffled
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    for index in torch.randperm(len(parts), generator=draw).tolist():
        yield [lines[i] for i in parts[index]]


def _usual_height(rows: Rows) -> int:
    heights = [size_of(image)[1] for image in rows.columns["image"]]
    return int(np.clip(round(float(np.median(heights)) / 8) * 8, 16, 32))


def _images(rows: Rows, rule: Pixels) -> list[Float32]:
    return [pixels_of(image, rule) for image in rows.columns["image"]]


def padded(images: Sequence[Float32]) -> Tensor:
    """Return (N, 1, H, W): images of one height, filled to the widest with background."""
    widest = max(image.shape[1] for image in images)
    return torch.from_numpy(np.stack([np.pad(image, ((0, 0), (0, widest - image.shape[1]))) for image in images]))[:, None]


def channels_last(x: Tensor) -> Tensor:
    """Return (N, C, H, W) laid out so that channels are neighbours: on a CPU a reader's step then takes two thirds of the time.

    `contiguous` would leave images of one channel as they are, which are laid out both ways, and convolutions would go on the slow way.
    """
    return x.to(memory_format=torch.channels_last)


def _in_memory(net: nn.Module) -> Scores:
    def scores(x: Float32) -> NDArray[np.float64]:
        with torch.inference_mode():
            log_NTC: NDArray[np.float64] = net(torch.from_numpy(x)).double().numpy()
            return log_NTC

    return scores


def _check_equal(net: nn.Module, weights: bytes, images: Sequence[Float32]) -> None:
    """Refuse an export that answers differently from the network it was made from, at several batch sizes and widths."""
    ours, theirs = _in_memory(net), load_onnx(weights)
    for extra in (0, 8):
        for x in (padded(images[:1]).numpy(), padded(images).numpy()):
            x = np.pad(x, ((0, 0), (0, 0), (0, 0), (0, extra)))
            difference = float(np.abs(np.exp(ours(x)) - np.exp(theirs(x))).max())
            if difference > _LARGEST_DIFFERENCE:
                raise IntegrityError(f"the ONNX export differs from the network by {difference}", do="report this: the model is not saved")
