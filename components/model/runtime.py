"""Executing weights: ONNX Runtime or LightGBM, one thread, loaded only when a model needs them.

Both loaders take bytes that already matched their sha256. ONNX Runtime reports a damaged file as an error; LightGBM's text
parser aborts the process, so such a text is first read, and tried, in a child process.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import ConfigError, IntegrityError
from components.model.lightgbm_text import check_trees

__all__ = ["Float32", "Scores", "load_lightgbm", "load_onnx", "scores_of_booster"]

Float32 = NDArray[np.float32]
Scores = Callable[[Float32], NDArray[np.float64]]
"""Model input -> raw output, both with the batch first."""

_TRY_S = 60
# LightGBM's C interface without its Python package, which takes a second to import. Arguments: the library.
_TRY = """
import ctypes, sys
text, lib = sys.stdin.buffer.read(), ctypes.CDLL(sys.argv[1])
rounds, features, booster, size, value = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p(), ctypes.c_int64(), (ctypes.c_double * 10000)()
def call(name, *args):
    if getattr(lib, name)(*args) != 0:
        lib.LGBM_GetLastError.restype = ctypes.c_char_p
        sys.exit(lib.LGBM_GetLastError().decode(errors="replace"))
call("LGBM_BoosterLoadModelFromString", ctypes.c_char_p(text), ctypes.byref(rounds), ctypes.byref(booster))
call("LGBM_BoosterGetNumFeature", booster, ctypes.byref(features))
call("LGBM_BoosterGetLoadedParam", booster, ctypes.c_int64(0), ctypes.byref(size), None)
row = (ctypes.c_double * features.value)()
call("LGBM_BoosterPredictForMat", booster, row, 1, 1, features, 1, 0, 0, -1, b"num_threads=1", ctypes.byref(size), value)
"""
_AGAIN = "restore the artifact from a backup, or train the model again"
# A tensor that lives in another file names it under the key 'location': a model must be whole, and may not point elsewhere.
_EXTERNAL = b"\n\x08location\x12"
_tried: set[bytes] = set()


def load_onnx(content: bytes) -> Scores:
    """Return a function that runs the graph's only input to its first output.

    Raises:
        IntegrityError: The bytes are no ONNX model, or one that needs other files or unknown operators.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    if _EXTERNAL in content:
        raise IntegrityError("the ONNX model keeps tensors in other files", do="export it as one file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4
    try:
        session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise IntegrityError(f"the ONNX model can't be loaded: {str(error).splitlines()[0]}", do=_AGAIN) from error
    if len(session.get_inputs()) != 1:
        raise IntegrityError("the ONNX model has more than one input", do=_AGAIN)
    name = session.get_inputs()[0].name
    output = session.get_outputs()[0].name

    def scores(x: Float32) -> NDArray[np.float64]:
        result: NDArray[np.float32] = session.run([output], {name: np.ascontiguousarray(x, dtype=np.float32)})[0]
        return result.astype(np.float64)

    return scores


def load_lightgbm(path: Path) -> Scores:
    """Return a function that runs the booster.

    Raises:
        IntegrityError: The text is damaged.
    """
    content = path.read_bytes()
    check_trees(content)
    digest = hashlib.sha256(content).digest()
    if digest not in _tried:
        _try_elsewhere(content)
    import lightgbm

    booster = lightgbm.Booster(model_str=content.decode())
    _tried.add(digest)
    return scores_of_booster(booster)


def scores_of_booster(booster: Any) -> Scores:
    """Return a function that runs a LightGBM booster on one thread."""

    def scores(x: Float32) -> NDArray[np.float64]:
        return np.asarray(booster.predict(x.astype(np.float64), num_threads=1), dtype=np.float64)

    return scores


def _try_elsewhere(content: bytes) -> None:
    """Load and use the text in a child process: LightGBM answers damage with abort(), which nothing here could catch."""
    try:
        command = [sys.executable, "-I", "-c", _TRY, str(_library())]
        tried = subprocess.run(command, input=content, capture_output=True, timeout=_TRY_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise IntegrityError(f"LightGBM did not finish reading model.txt in {_TRY_S} s", do=_AGAIN) from error
    if tried.returncode != 0:
        lines = tried.stderr.decode(errors="replace").strip().splitlines() or [f"ended with {tried.returncode}"]
        raise IntegrityError(f"LightGBM can't read model.txt: {lines[-1][:200]}", do=_AGAIN)


def _library() -> Path:
    """Return LightGBM's shared library."""
    package = find_spec("lightgbm")
    for folder in (package.submodule_search_locations or []) if package else []:
        for path in sorted(Path(folder).rglob("lib_lightgbm.*")):
            return path
    raise ConfigError("LightGBM is not installed", do="install the extra that this step needs: learn or serve")
