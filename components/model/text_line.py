"""Reading a line of text: bytes -> grey pixels -> CTC log-probabilities -> text and its probability.

Shapes: N images, H height, W width, T time steps, C = 1 + len(alphabet) (0 is the blank), S = 2 * characters + 1.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import Field, ValidationError

from components.core.errors import DataError, IntegrityError
from components.core.params import Frozen, TextLine
from components.model.answer import Answer
from components.model.runtime import Float32, Scores

__all__ = ["BLANK", "Pixels", "TextLineModel", "decode", "pixels_of", "posterior", "size_of"]

BLANK = 0
_MAX_PIXELS = 1 << 24
_BATCH = 64
_FAINT = 0.05
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, *_BOMBS)
Float64 = NDArray[np.float64]


class Pixels(Frozen):
    """How an image becomes numbers; part of `model.json`.

    Attributes:
        height: Every image is scaled to this height, keeping its proportions, in pixels.
        multiple: The width is padded on the right to a multiple of this.
        min_width: The least width after padding.
        max_width: Wider images are squeezed to this.
    """

    height: int = Field(16, ge=8, le=128)
    multiple: int = Field(8, ge=1, le=64)
    min_width: int = Field(16, ge=8)
    max_width: int = Field(2048, ge=16, le=16_384)


def pixels_of(image: Any, rule: Pixels) -> Float32:
    """Decode an image into (H, W) ink values: 0 is background, 1 is the strongest stroke.

    Args:
        image: A PNG or JPEG file, as bytes.
        rule: Size rules.

    Raises:
        DataError: The bytes are no PNG or JPEG, cut, or more than 16 megapixels.
    """
    with _opened(image) as opened:
        try:
            grey = opened.convert("L")
        except (OSError, SyntaxError, ValueError) as error:
            raise _undecodable(error) from error
    width = min(rule.max_width, max(1, round(grey.width * rule.height / grey.height)))
    scaled = grey if grey.size == (width, rule.height) else grey.resize((width, rule.height), Image.Resampling.BILINEAR)
    ink = np.asarray(scaled, dtype=np.float32) / np.float32(255)
    border = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
    if float(np.median(border)) > 0.5:  # dark strokes on bright paper
        ink = np.float32(1) - ink
    low, high = float(ink.min()), float(ink.max())
    ink = (ink - np.float32(low)) / np.float32(max(high - low, _FAINT))
    padded = max(rule.min_width, math.ceil(width / rule.multiple) * rule.multiple)
    return np.pad(ink, ((0, 0), (0, padded - width)))


def size_of(image: Any) -> tuple[int, int]:
    """Return an image's (width, height) in pixels, from its header.

    Raises:
        DataError: See `pixels_of`.
    """
    with _opened(image) as opened:
        return opened.size


def _opened(image: Any) -> Image.Image:
    if not isinstance(image, bytes):
        raise DataError(f"'image' is {type(image).__name__}, bytes are expected", do="give the bytes of a PNG or JPEG file")
    try:
        opened = Image.open(io.BytesIO(image), formats=("PNG", "JPEG"))
    except _UNREADABLE as error:
        raise _undecodable(error) from error
    if opened.width * opened.height > _MAX_PIXELS:
        raise DataError(f"the image has {opened.width} x {opened.height} pixels", do=f"send at most {_MAX_PIXELS} pixels")
    return opened


def _undecodable(error: Exception) -> DataError:
    return DataError(f"the image can't be decoded: {error}", do="send a whole PNG or JPEG file")


class TextLineModel:
    """Executes a text_line model.

    Images are run in groups of equal width, so an answer never depends on what else is in the batch.

    Raises:
        IntegrityError: The preprocessing in `model.json` is not what this code executes.
    """

    def __init__(self, task: TextLine, preprocessing: Mapping[str, Any], scores: Scores) -> None:
        try:
            self.rule = Pixels.model_validate(preprocessing)
        except ValidationError as error:
            raise IntegrityError(f"the preprocessing can't be read: {error.errors()[0]['msg']}", do="train the model again") from error
        self.task = task
        self._scores = scores

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise DataError when the row's image can't be read."""
        pixels_of(row.get("image"), self.rule)

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Read each row's `image`."""
        return self.read([pixels_of(row.get("image"), self.rule) for row in rows])

    def read(self, images: Sequence[Float32]) -> list[Answer]:
        """Read images that `pixels_of` has made."""
        by_width: dict[int, list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            by_width[image.shape[1]].append(index)
        found: dict[int, Answer] = {}
        for indices in by_width.values():
            for start in range(0, len(indices), _BATCH):
                part = indices[start : start + _BATCH]
                log_NTC = self._scores(np.stack([images[i] for i in part])[:, None])
                found.update(zip(part, self._decoded(log_NTC), strict=True))
        return [found[index] for index in range(len(images))]

    def _decoded(self, log_NTC: Float64) -> Iterable[Answer]:
        if log_NTC.ndim != 3 or log_NTC.shape[2] != len(self.task.alphabet) + 1:
            raise IntegrityError(f"the output has shape {log_NTC.shape}, not (N, T, 1 + alphabet)", do="train the model again")
        codes = decode(log_NTC)
        for code, probability in zip(codes, posterior(log_NTC, codes), strict=True):
            yield Answer("".join(self.task.alphabet[c - 1] for c in code), float(probability))


def decode(log_NTC: Float64) -> list[list[int]]:
    """Greedy CTC: the best symbol of each step, repeats collapsed, blanks dropped."""
    best_NT = log_NTC.argmax(axis=2)
    changed_NT = np.diff(best_NT, axis=1, prepend=-1) != 0
    return [[int(c) for c in best[keep & (best != BLANK)]] for best, keep in zip(best_NT, changed_NT, strict=True)]


def posterior(log_NTC: Float64, codes: Sequence[Sequence[int]]) -> Float64:
    """Return (N,) the probability of each text, summed over all its alignments: the CTC forward pass (Graves et al. 2006).

    The greedy path alone understates short texts and overstates doubtful ones; the sum is the model's own probability.
    """
    N, T, _ = log_NTC.shape
    S = 2 * max((len(code) for code in codes), default=0) + 1
    symbols_NS = np.zeros((N, S), dtype=np.int64)
    for n, code in enumerate(codes):
        symbols_NS[n, 1 : 2 * len(code) : 2] = code
    # A step may skip the blank between two different characters.
    skip_NS = np.zeros((N, S), dtype=bool)
    skip_NS[:, 2:] = (symbols_NS[:, 2:] != BLANK) & (symbols_NS[:, 2:] != symbols_NS[:, :-2])
    log_NTS = np.take_along_axis(log_NTC, symbols_NS[:, None, :].repeat(T, axis=1), axis=2)
    alpha_NS = np.full((N, S), -np.inf)
    alpha_NS[:, :2] = log_NTS[:, 0, :2]
    for t in range(1, T):
        one_NS = np.concatenate([np.full((N, 1), -np.inf), alpha_NS[:, :-1]], axis=1)
        two_NS = np.concatenate([np.full((N, min(2, S)), -np.inf), alpha_NS[:, :-2]], axis=1)[:, :S]
        alpha_NS = np.logaddexp(np.logaddexp(alpha_NS, one_NS), np.where(skip_NS, two_NS, -np.inf)) + log_NTS[:, t]
    last_N = np.array([2 * len(code) for code in codes], dtype=np.int64)
    total_N = alpha_NS[np.arange(N), last_N]
    before_N = np.where(last_N > 0, alpha_NS[np.arange(N), np.maximum(last_N - 1, 0)], -np.inf)
    total: Float64 = np.minimum(np.exp(np.logaddexp(total_N, before_N)), 1.0)
    return total
