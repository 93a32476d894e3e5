"""Writing ONNX graphs by hand: the same weights give the same bytes, whatever exporter or library version is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["OnnxGraph"]

_OPSET = 17
_IR_VERSION = 8


class OnnxGraph:
    """A graph with one input `x`, built node by node.

    Args:
        shape: The input's shape; a name stands for a dimension that varies.
    """

    def __init__(self, shape: Sequence[int | str]) -> None:
        self._input = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def weight(self, values: NDArray[Any]) -> str:
        """Add a constant tensor; float ones as float32, others as int64. Returns its name."""
        kept = values.astype(np.float32 if values.dtype.kind == "f" else np.int64)
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(kept), name))
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return its output's name; an empty input name leaves an optional input out."""
        name = f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def dense(self, x: str, weight_OI: NDArray[Any], bias_O: NDArray[Any]) -> str:
        """Add x @ weight.T + bias for a matrix x of shape (N, I)."""
        return self.add("Gemm", x, self.weight(weight_OI), self.weight(bias_O), transB=1)

    def to_bytes(self, output: str, shape: Sequence[int | str]) -> bytes:
        """Finish with `output`, renamed to `y`; nothing that varies between machines or versions is written."""
        self._nodes.append(helper.make_node("Identity", [output], ["y"], name="y"))
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, list(shape))
        graph = helper.make_graph(self._nodes, "model", [self._input], [y], initializer=self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
        model.ir_version = _IR_VERSION
        model.producer_name, model.producer_version, model.doc_string = "atlas", "1", ""
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString(deterministic=True)
        return content
