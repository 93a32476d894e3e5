"""An engine-neutral graph: steps, edges, checks. It knows names and kinds, never data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.core.contract import Spec
from components.core.errors import ConfigError, nearest

__all__ = ["Edge", "Graph", "Node"]


@dataclass(frozen=True)
class Edge:
    """The output port of an earlier node."""

    node: str
    port: str


@dataclass(frozen=True)
class Node:
    """One step of a pipeline.

    Attributes:
        spec: The step.
        params: Plain JSON data for it.
        inputs: Input port -> where it comes from.
    """

    spec: Spec
    params: Mapping[str, Any]
    inputs: Mapping[str, Edge]

    @property
    def name(self) -> str:
        """The step's name; a step occurs once in a graph."""
        return self.spec.name


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run.

    Raises:
        ConfigError: A port is left open, unknown, of another kind, or points to a later node.
    """

    scenario: str
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        seen: dict[str, Node] = {}
        for node in self.nodes:
            if node.name in seen:
                raise ConfigError(f"step '{node.name}' occurs twice", do="wire each step once")
            if missing := sorted(set(node.spec.inputs) - set(node.inputs)):
                raise ConfigError(f"step '{node.name}' has open inputs: {', '.join(missing)}", do="connect each to an earlier output")
            for port, edge in node.inputs.items():
                _check_edge(node, port, edge, seen)
            seen[node.name] = node

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise ConfigError(f"the graph has no step '{name}'", do=nearest(name, [node.name for node in self.nodes]))


def _check_edge(node: Node, port: str, edge: Edge, seen: Mapping[str, Node]) -> None:
    if port not in node.spec.inputs:
        raise ConfigError(f"step '{node.name}' has no input '{port}'", do=nearest(port, node.spec.inputs))
    if edge.node not in seen:
        raise ConfigError(f"'{node.name}.{port}' comes from '{edge.node}', which does not run before it", do=nearest(edge.node, seen))
    outputs = seen[edge.node].spec.outputs
    if edge.port not in outputs:
        raise ConfigError(f"step '{edge.node}' has no output '{edge.port}'", do=nearest(edge.port, outputs))
    if outputs[edge.port].kind != node.spec.inputs[port].kind:
        raise ConfigError(
            f"'{node.name}.{port}' takes a {node.spec.inputs[port].kind}, '{edge.node}.{edge.port}' is a {outputs[edge.port].kind}",
            do="connect ports of the same kind",
        )
