"""Running LightGBM's text format through its C interface: without the Python package, whose imports take a second and 100 MB.

LightGBM answers damage in a text with abort(), which nothing here could catch, so a text is read, and tried, in a child process
before this one takes it. Source: `LightGBM/c_api.h`, version 4. Shapes: N rows, D columns, K outputs, F folds.
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import ConfigError, IntegrityError
from components.model.lightgbm_text import Forest, check_trees

__all__ = ["Trees", "link_of", "open_trees"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Link = Callable[[Float64], Float64]

_TRY_S = 60
# Arguments: the library, columns.
_TRY = """
import ctypes, sys
text, lib, features = sys.stdin.buffer.read(), ctypes.CDLL(sys.argv[1]), int(sys.argv[2])
rounds, booster, size, value = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int64(), (ctypes.c_double * 10000)()
def call(name, *args):
    if getattr(lib, name)(*args) != 0:
        lib.LGBM_GetLastError.restype = ctypes.c_char_p
        sys.exit(lib.LGBM_GetLastError().decode(errors="replace"))
call("LGBM_BoosterLoadModelFromString", ctypes.c_char_p(text), ctypes.byref(rounds), ctypes.byref(booster))
row = (ctypes.c_double * features)()
call("LGBM_BoosterPredictForMat", booster, row, 1, 1, features, 1, 1, 0, -1, b"num_threads=1", ctypes.byref(size), value)
"""
_AGAIN = "restore the artifact from a backup, or train the model again"
_FLOAT32, _ROW_MAJOR, _RAW = 0, 1, 1
_MANY, _BLOCK_BYTES = 64, 96 << 10
"""With so many rows or more, so much text of trees is worked on at once."""
_SETTINGS = b"num_threads=1 verbosity=-1"
_SAME = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")
_tried: set[bytes] = set()


class Trees:
    """A LightGBM text, loaded. It can be used by several threads at once.

    Attributes:
        forest: What the text says of itself.
    """

    def __init__(self, content: bytes, forest: Forest) -> None:
        self.forest = forest
        self._link = link_of(forest.objective)
        self._content = content
        self._free = deque([_Booster(content, forest)])

    def scores(self, x: Float32) -> Float64:
        """Return (N, K) what the objective makes of the raw sums."""
        with self._borrowed() as booster:
            return self._link(booster.row(x) if len(x) == 1 else booster.rows(x, 0, self.forest.iterations))

    def fold(self, x: Float32, folds: Sequence[int], number: int) -> Float64:
        """Return (N, K) what one fold's model says.

        Args:
            x: (N, D).
            folds: Iterations of each fold, in the order of the file. Its leaf values are divided by how many there are.
            number: Which fold.
        """
        with self._borrowed() as booster:
            return self._link(booster.rows(x, sum(folds[:number]), folds[number]) * len(folds))

    @contextmanager
    def _borrowed(self) -> Iterator[_Booster]:
        """Give a handle to one thread; another thread at the same time gets another."""
        try:
            booster = self._free.popleft()
        except IndexError:
            booster = _Booster(self._content, self.forest)
        try:
            yield booster
        finally:
            self._free.append(booster)


class _Booster:
    """A handle of LightGBM's, for one thread at a time: it keeps the range of iterations of the last call."""

    def __init__(self, content: bytes, forest: Forest) -> None:
        self.forest = forest
        self._block = max(1, _BLOCK_BYTES * forest.iterations // len(content))
        self._whole = True
        self._handle, self._fast = ctypes.c_void_p(), ctypes.c_void_p()
        _call("LGBM_BoosterLoadModelFromString", content, ctypes.byref(ctypes.c_int()), ctypes.byref(self._handle))
        weakref.finalize(self, _call, "LGBM_BoosterFree", self._handle)
        shape = (_RAW, 0, forest.iterations, _FLOAT32, forest.features, _SETTINGS)
        _call("LGBM_BoosterPredictForMatSingleRowFastInit", self._handle, *shape, ctypes.byref(self._fast))
        weakref.finalize(self, _call, "LGBM_FastConfigFree", self._fast)

    def rows(self, x: Float32, start: int, count: int) -> Float64:
        """Return (N, K) raw sums over `count` iterations from `start`.

        Many rows go through a few trees at a time, which then stay in the processor's cache: 3 times faster.
        """
        x = np.ascontiguousarray(x, dtype=np.float32)
        step = self._block if len(x) >= _MANY else count
        total = np.zeros((len(x), self.forest.outputs))
        found, size = np.empty_like(total), ctypes.c_int64()
        for first in range(start, start + count, step):
            shape = (_FLOAT32, len(x), x.shape[1], _ROW_MAJOR, _RAW, first, min(step, start + count - first), _SETTINGS)
            _call("LGBM_BoosterPredictForMat", self._handle, _pointer(x), *shape, ctypes.byref(size), _pointer(found))
            total += found
        self._whole = (step, count) == (count, self.forest.iterations)
        return total

    def row(self, x: Float32) -> Float64:
        """Return (1, K) raw sums of one row; LightGBM keeps its settings between such calls, so they take a few µs."""
        x = np.ascontiguousarray(x, dtype=np.float32)
        if x.shape != (1, self.forest.features):
            raise IntegrityError(f"the trees take {self.forest.features} columns, {x.shape[1]} were given", do=_AGAIN)
        if not self._whole:
            return self.rows(x, 0, self.forest.iterations)
        found, size = np.empty((1, self.forest.outputs)), ctypes.c_int64()
        _call("LGBM_BoosterPredictForMatSingleRowFast", self._fast, _pointer(x), ctypes.byref(size), _pointer(found))
        return found


def open_trees(content: bytes) -> Trees:
    """Check and load a LightGBM text.

    Raises:
        IntegrityError: It is damaged, or has an objective that is not known here.
    """
    forest = check_trees(content)
    link_of(forest.objective)
    digest = hashlib.sha256(content).digest()
    if digest not in _tried:
        _try_elsewhere(content, forest.features)
        _tried.add(digest)
    return Trees(content, forest)


def link_of(objective: str | None) -> Link:
    """Return what turns raw sums (N, K) into answers of the same shape.

    Raises:
        IntegrityError: The objective is not known here.
    """
    name, *settings = (objective or "regression").split(" ")
    given = dict(setting.partition(":")[::2] for setting in settings)
    if name in _SAME and not settings:
        return lambda raw: raw
    if name in ("binary", "cross_entropy") and set(given) <= {"sigmoid"}:
        slope = _slope(given.get("sigmoid", "1"))
        return lambda raw: np.exp(-np.logaddexp(0.0, -slope * raw))
    if name == "multiclass" and set(given) <= {"num_class"}:
        return _softmax
    if name in ("poisson", "gamma", "tweedie") and not settings:
        return np.exp
    raise IntegrityError(f"LightGBM's objective '{objective}' is not known here", do="train with a usual objective")


def _slope(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise IntegrityError(f"the slope of the objective is '{text}'", do=_AGAIN) from error


def _softmax(raw: Float64) -> Float64:
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    shares: Float64 = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _call(name: str, *arguments: Any) -> None:
    library = _library()
    if getattr(library, name)(*arguments) != 0:
        raise IntegrityError(f"LightGBM: {library.LGBM_GetLastError().decode(errors='replace')[:200]}", do=_AGAIN)


@cache
def _library() -> Any:
    library = ctypes.CDLL(str(_path()))
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    return library


def _path() -> Path:
    package = find_spec("lightgbm")
    for folder in (package.submodule_search_locations or []) if package else []:
        for path in sorted(Path(folder).rglob("lib_lightgbm.*")):
            return path
    raise ConfigError("LightGBM is not installed", do="install the extra that this step needs: learn or serve")


def _try_elsewhere(content: bytes, features: int) -> None:
    """Load and use the text in a child process."""
    try:
        command = [sys.executable, "-I", "-c", _TRY, str(_path()), str(features)]
        tried = subprocess.run(command, input=content, capture_output=True, timeout=_TRY_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise IntegrityError(f"LightGBM did not finish reading the trees in {_TRY_S} s", do=_AGAIN) from error
    if tried.returncode != 0:
        lines = tried.stderr.decode(errors="replace").strip().splitlines() or [f"ended with {tried.returncode}"]
        raise IntegrityError(f"LightGBM can't read the trees: {lines[-1][:200]}", do=_AGAIN)
