"""Standardised columns for learners that need them, whatever the recipe's features did; the same in NumPy and in ONNX."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from components.model.runtime import Float32
from components.train.onnx_graph import OnnxGraph

__all__ = ["Standard", "standard_of"]

_CLIP = 10.0


@dataclass(frozen=True)
class Standard:
    """(x * scale + shift), clipped to ±10; missing values become 0, the mean. Both have shape (D,)."""

    scale: Float32
    shift: Float32

    def apply(self, x: Float32) -> Float32:
        """Return (N, D) standardised columns."""
        z: Float32 = np.clip(x * self.scale + self.shift, -_CLIP, _CLIP)
        return np.where(np.isnan(x), np.float32(0), z)

    def write(self, graph: OnnxGraph) -> str:
        """Add the same to a graph, for its input."""
        z = graph.add("Add", graph.add("Mul", "x", graph.weight(self.scale)), graph.weight(self.shift))
        z = graph.add("Clip", z, graph.weight(np.array(-_CLIP)), graph.weight(np.array(_CLIP)))
        return graph.add("Where", graph.add("IsNaN", "x"), graph.weight(np.array(0.0)), z)


def standard_of(x: Float32) -> Standard:
    """Learn from (N, D) what is known; a column without a value, or with only one, is merely shifted."""
    known = ~np.isnan(x)
    count = np.maximum(known.sum(axis=0), 1)
    values = np.where(known, x, 0.0).astype(np.float64)
    mean = values.sum(axis=0) / count
    spread = np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(axis=0) / count)
    spread = np.where(spread > 1e-6 * np.maximum(1.0, np.abs(mean)), spread, 1.0)
    return Standard((1 / spread).astype(np.float32), (-mean / spread).astype(np.float32))
