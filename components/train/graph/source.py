"""The graph that a task names: from files, or drawn."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.params import MOST_NODES, GraphSource
from components.core.settings import Settings
from components.train.graph.ids import Ids
from components.train.graph.planted import planted_partition

__all__ = ["EDGES", "FEATURES", "LABELS", "folder_of", "load", "planted"]

EDGES, FEATURES, LABELS = "edges.npy", "features.npy", "labels.npy"


@lru_cache(maxsize=2)
def load(source: GraphSource) -> tuple[Ids, NDArray[Any]]:
    """Return (E, 2) edges and (N, F) features; files are mapped.

    Raises:
        DataError: A file can't be read, or an edge names a node that is not there.
    """
    if source.folder is None:
        edges, features, _ = planted(source)
        return edges, features
    folder = folder_of(source)
    try:
        edges, features = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in (EDGES, FEATURES))
    except (OSError, ValueError) as error:
        raise DataError(f"the graph in {folder} can't be read: {error}", do=f"put {EDGES} and {FEATURES} there") from error
    if features.ndim != 2 or edges.ndim != 2 or edges.shape[1] != 2 or not 0 < len(features) <= MOST_NODES:
        raise DataError(
            f"edges have the shape {edges.shape} and features {features.shape}",
            do=f"give (edges, 2) and (nodes, features), at most {MOST_NODES} nodes",
        )
    if len(edges) and not 0 <= int(edges.min()) <= int(edges.max()) < len(features):
        raise DataError(f"edges name nodes from {edges.min()} to {edges.max()}", do=f"give 0 to {len(features) - 1}")
    return np.asarray(edges), np.asarray(features)


def folder_of(source: GraphSource) -> Path:
    """Return where the files are.

    Raises:
        DataError: The folder is a relative one, and no data folder is set.
    """
    folder, data = Path(source.folder or ""), Settings.from_env().data
    if folder.is_absolute() or data is None:
        if not folder.is_absolute():
            raise DataError(f"task.graph.folder is '{folder}', but no data folder is set", do="set ATLAS_DATA, or give the whole path")
        return folder
    return data / folder


def planted(source: GraphSource) -> tuple[Ids, NDArray[Any], Ids]:
    """Draw a planted partition: edges, features, and each node's community."""
    edges, data = planted_partition(
        source.nodes,
        source.communities,
        degree=source.degree,
        inside=source.inside,
        features=source.dims,
        signal=source.signal,
        seed=source.seed,
    )
    return edges, data.features, data.labels
