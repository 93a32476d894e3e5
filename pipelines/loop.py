"""The bad-case loop, wired once for every engine."""

from __future__ import annotations

from components.core.step import load_spec
from pipelines.graph import Edge, Graph, Node
from pipelines.scenario import Scenario

__all__ = ["WIRES", "build"]

WIRES: dict[str, dict[str, Edge]] = {
    "ingest": {},
    "validate": {"dataset": Edge("ingest", "dataset"), "snapshot": Edge("ingest", "snapshot")},
    "label_merge": {
        "dataset": Edge("validate", "dataset"),
        "quarantine": Edge("validate", "quarantine"),
        "snapshot": Edge("ingest", "snapshot"),
    },
    "automl": {"dataset": Edge("label_merge", "dataset"), "snapshot": Edge("ingest", "snapshot")},
    "train": {"dataset": Edge("label_merge", "dataset"), "recipe": Edge("automl", "recipe")},
    "evaluate": {
        "dataset": Edge("label_merge", "dataset"),
        "model": Edge("train", "model"),
        "snapshot": Edge("ingest", "snapshot"),
    },
    "deploy": {
        "model": Edge("train", "model"),
        "blessing": Edge("evaluate", "blessing"),
        "dataset": Edge("label_merge", "dataset"),
        "snapshot": Edge("ingest", "snapshot"),
    },
}
"""Step -> input port -> where it comes from; the same for every scenario."""


def build(scenario: Scenario, *, deploy: bool = True) -> Graph:
    """Wire the loop of one scenario.

    Args:
        scenario: Its sections become the steps' params.
        deploy: False ends the loop with the blessing.
    """
    names = [name for name in WIRES if deploy or name != "deploy"]
    return Graph(scenario.name, tuple(Node(load_spec(name), scenario.params(name), WIRES[name]) for name in names))
