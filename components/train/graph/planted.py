"""A graph with known communities (the planted-partition model: Condon & Karp, RSA 18:2, 2001) whose nodes are to be classified.

Features alone say little and a neighbourhood says much, so a model that does not aggregate can't be right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.train.graph.files import TEST, TRAIN, VALIDATION, NodeData
from components.train.graph.ids import Ids

__all__ = ["planted_partition"]


def planted_partition(
    nodes: int, classes: int, *, degree: float = 12.0, inside: float = 0.9, features: int = 16, signal: float = 0.5, seed: int = 0
) -> tuple[Ids, NodeData]:
    """Draw a graph.

    Args:
        nodes: N; numbered at random, so that ranges of numbers say nothing.
        classes: Communities of equal size, which are the labels.
        degree: Mean neighbours a node.
        inside: Share of edges that stay in a community.
        features: F.
        signal: Distance of the classes' means, in units of the noise.
        seed: Of all that is drawn.

    Returns:
        ((E, 2) edges, both directions of each; what is known of the nodes: 60 % train, 20 % validation, 20 % test).

    Raises:
        DataError: There are fewer than two nodes a class, or a share is not one.
    """
    if classes < 2 or nodes < 2 * classes or not 0 <= inside <= 1:
        raise DataError(
            f"{nodes} nodes of {classes} classes, {inside} inside", do="give 2 classes or more, 2 nodes a class, a share from 0 to 1"
        )
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.arange(nodes) % classes)
    members = np.argsort(labels, kind="stable")
    begins = np.searchsorted(labels[members], np.arange(classes + 1))
    source = draw.integers(0, nodes, round(nodes * degree / 2))
    wanted = np.where(draw.random(len(source)) < inside, labels[source], _another(labels[source], classes, draw))
    sizes = np.diff(begins)[wanted]
    target = members[begins[wanted] + (draw.random(len(source)) * sizes).astype(np.int64)]
    kept = source != target
    pairs = np.stack([source[kept], target[kept]], axis=1)
    means = draw.normal(size=(classes, features)) * signal
    rows: NDArray[np.float32] = (means[labels] + draw.normal(size=(nodes, features))).astype(np.float32)
    split = draw.choice(np.array([TRAIN, VALIDATION, TEST], np.uint8), nodes, p=[0.6, 0.2, 0.2])
    return np.concatenate([pairs, pairs[:, ::-1]]), NodeData(rows, labels, split, classes)


def _another(labels: Ids, classes: int, draw: np.random.Generator) -> Ids:
    return (labels + draw.integers(1, classes, len(labels))) % classes
