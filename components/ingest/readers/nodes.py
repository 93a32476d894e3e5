"""Labelled nodes of a graph, drawn or from a folder's `labels.npy`. Their numbers say nothing, so the first ones are the base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from components.core.errors import ConfigError, DataError
from components.core.params import Frozen, GraphSource
from components.ingest.readers import checked
from components.train.graph.source import LABELS, folder_of, planted

__all__ = ["read"]


class _Options(Frozen):
    graph: GraphSource = GraphSource()
    classes: tuple[str, ...] = Field(min_length=2)
    first: int = Field(0, ge=0)
    last: int = Field(gt=0)


def read(options: Mapping[str, Any], data: Path | None) -> pa.Table:
    """Return the nodes `first` (included) to `last` (excluded); a node is its own group.

    Options: `graph` as in the task, `classes` in the order of the communities or of the numbers in labels.npy, `first`, `last`.

    Raises:
        ConfigError: The range is none of the graph's, or there are more kinds of labels than classes.
        DataError: labels.npy can't be read.
    """
    given = checked(_Options, options, "nodes")
    labels = _labels(given.graph)
    if not given.first < given.last <= len(labels):
        raise ConfigError(f"nodes {given.first} to {given.last} are no range of {len(labels)}", do="give 0 <= first < last <= nodes")
    if int(labels.max()) >= len(given.classes):
        raise ConfigError(f"labels go up to {labels.max()}, and {len(given.classes)} classes are named", do="name all of them")
    numbers = np.arange(given.first, given.last)
    known = numbers[labels[numbers] >= 0]
    return pa.table(
        {
            "node": pa.array(known.astype(np.float64)),
            "_label": pa.array([given.classes[label] for label in labels[known]], pa.string()),
            "_group": pa.array([f"node-{number}" for number in known], pa.string()),
        }
    )


def _labels(source: GraphSource) -> Any:
    if source.folder is None:
        return planted(source)[2]
    path = folder_of(source) / LABELS
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}", do="put an array of class numbers there, -1 where unknown") from error
