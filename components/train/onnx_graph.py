"""Writing ONNX graphs by hand: the same weights give the same bytes, whatever exporter or library version is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from components.core.errors import IntegrityError

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

    def include(self, content: bytes, x: str, *, columns: int) -> tuple[str, list[int | str]]:
        """Add the nodes of another graph that this class wrote, with `x` as its input; returns its output's name and shape.

        Raises:
            IntegrityError: It is of another version, has another input, or has graphs within nodes.
        """
        model = onnx.load_model_from_string(content)
        graph = model.graph
        versions = [(entry.domain, entry.version) for entry in model.opset_import]
        if versions != [("", _OPSET)] or len(graph.input) != 1 or _shape(graph.input[0])[1:] != [columns]:
            raise IntegrityError(f"a graph of versions {versions} can't be merged: it must take {columns} columns", do="report this")
        names = {"": "", graph.input[0].name: x}
        for tensor in graph.initializer:
            names[tensor.name] = f"w{len(self._weights)}"
            self._weights.append(_renamed(tensor, names[tensor.name]))
        for node in graph.node:
            if any(attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in node.attribute):
                raise IntegrityError(f"a graph with the operator {node.op_type} can't be merged", do="report this")
            kept = onnx.NodeProto()
            kept.CopyFrom(node)
            name = f"n{len(self._nodes)}"
            names.update({output: f"{name}_{index}" if index else name for index, output in enumerate(node.output) if output})
            kept.name, kept.input[:], kept.output[:] = name, [names[i] for i in node.input], [names[o] for o in node.output]
            self._nodes.append(kept)
        return names[graph.output[0].name], _shape(graph.output[0])

    def to_bytes(self, output: str, shape: Sequence[int | str], more: Mapping[str, tuple[str, Sequence[int | str]]] | None = None) -> bytes:
        """Finish with `output`, renamed to `y`; nothing that varies between machines or versions is written.

        Args:
            output: What `add` returned.
            shape: Its shape.
            more: Further outputs: name -> (what `add` returned, shape).
        """
        found = []
        for name, (node, dimensions) in {"y": (output, shape), **(more or {})}.items():
            self._nodes.append(helper.make_node("Identity", [node], [name], name=name))
            found.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dimensions)))
        graph = helper.make_graph(self._nodes, "model", [self._input], found, initializer=self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
        model.ir_version = _IR_VERSION
        model.producer_name, model.producer_version, model.doc_string = "atlas", "1", ""
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString(deterministic=True)
        return content


def _shape(value: Any) -> list[int | str]:
    return [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def _renamed(tensor: Any, name: str) -> Any:
    kept = onnx.TensorProto()
    kept.CopyFrom(tensor)
    kept.name = name
    return kept
