"""Trees of any library as LightGBM text: one runtime, and one code-free format, serve them all.

Shapes: M nodes of T trees, one after the other; K outputs. Inputs are float32, so every rule of the kinds `x < t` (XGBoost),
`x <= t` (scikit-learn) and `x > t` goes right (CatBoost) has a float32 threshold for which `x <= t` says the same. Only numbers
closer to zero than 1e-35 may answer otherwise: LightGBM takes them for zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from components.core.errors import IntegrityError

__all__ = ["OBJECTIVES", "Forest", "at_most", "below", "constant", "per_output", "to_text"]

OBJECTIVES = {
    "binary": "binary sigmoid:1",
    "multiclass": "multiclass num_class:{outputs}",
    "regression": "regression",
    "poisson": "poisson",
    "mean": None,
}
"""What the sum of a row's leaves becomes: sigmoid, softmax, itself, or its exponential; `mean`: it already is a probability."""

_NAN_LEFT, _NAN_RIGHT = 10, 8  # LightGBM's decision_type: a number, missing is NaN, and bit 1 says that it goes left
_BEYOND = 1e39
_DIGITS = 9  # significant ones of a threshold that lies in the middle between two neighbouring float32 numbers


@dataclass(frozen=True)
class Forest:
    """Binary trees over one float32 row; a number goes left when it is <= the node's threshold.

    Attributes:
        root: (T,) the trees' first nodes. With K outputs the trees of one iteration follow each other: output 0, 1, ….
        left: (M,) the child's node; -1: the node is a leaf.
        right: (M,) the other child.
        feature: (M,) which input a node asks for.
        threshold: (M,) float32.
        missing_left: (M,) where NaN goes.
        value: (M,) float64, of leaves.
    """

    root: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float32]
    missing_left: NDArray[np.bool_]
    value: NDArray[np.float64]


def below(threshold: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return t' with `x <= t'` for `x < threshold`."""
    with np.errstate(over="ignore", under="ignore"):
        found: NDArray[np.float32] = np.nextafter(threshold.astype(np.float32), np.float32(-np.inf))
    return found


def at_most(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the largest float32 numbers that are not above float64 thresholds."""
    with np.errstate(over="ignore", under="ignore"):
        near = threshold.astype(np.float32)
    return np.where(near.astype(np.float64) > threshold, below(near), near)


def per_output(forest: Forest, value_MK: NDArray[np.float64]) -> Forest:
    """Copy each tree once for each output, with that output's values; subtrees that say the same everywhere become leaves."""
    nodes, outputs = value_MK.shape
    shift = np.repeat(np.arange(outputs) * nodes, nodes)
    left, right = (np.where(np.tile(child, outputs) < 0, -1, np.tile(child, outputs) + shift) for child in (forest.left, forest.right))
    copied = Forest(
        root=(forest.root[:, None] + np.arange(outputs) * nodes).ravel(),
        left=left,
        right=right,
        feature=np.tile(forest.feature, outputs),
        threshold=np.tile(forest.threshold, outputs),
        missing_left=np.tile(forest.missing_left, outputs),
        value=np.ascontiguousarray(value_MK.T).ravel(),
    )
    return simplified(copied)


def simplified(forest: Forest) -> Forest:
    """Turn nodes whose two leaves are equal into a leaf, until there are none."""
    left, value = forest.left.copy(), forest.value.copy()
    inner = np.flatnonzero(left >= 0)
    while len(inner):
        a, b = left[inner], forest.right[inner]
        equal = (left[a] < 0) & (left[b] < 0) & (value[a] == value[b])
        if not equal.any():
            break
        value[inner[equal]] = value[a[equal]]
        left[inner[equal]] = -1
        inner = inner[~equal]
    return replace(forest, left=left, value=value)


def constant(values: Sequence[float], features: int, objective: str) -> bytes:
    """Return the text of a model that gives every row the same raw values, one an output."""
    size = len(values)
    leaves = np.full(size, -1, dtype=np.int64)
    zeros = np.zeros(size, dtype=np.int64)
    forest = Forest(
        np.arange(size), leaves, leaves, zeros, zeros.astype(np.float32), zeros.astype(np.bool_), np.asarray(values, dtype=np.float64)
    )
    return to_text(forest, np.zeros(size), features, objective)


def to_text(forest: Forest, bias_K: NDArray[np.float64], features: int, objective: str) -> bytes:
    """Write a forest as LightGBM text.

    Args:
        forest: T trees, a multiple of K.
        bias_K: (K,) is added to every row's sums; it goes into the leaves of the first iteration.
        features: D, the columns of a row.
        objective: A name of `OBJECTIVES`.

    Raises:
        IntegrityError: The trees are no whole iterations, or a leaf or a threshold is not finite.
    """
    outputs = len(bias_K)
    if not len(forest.root) or len(forest.root) % outputs:
        raise IntegrityError(f"{len(forest.root)} trees are no whole iterations of {outputs}", do="report this: the model is not saved")
    node, tree = _numbered(forest)
    leaf = forest.left[node] < 0
    value = forest.value[node] + np.where(tree < outputs, bias_K[tree % outputs], 0.0)
    number = np.empty(len(forest.left), dtype=np.int64)  # of a node as LightGBM counts: splits from 0 up, leaves from -1 down
    number[node] = np.where(leaf, -_count(leaf, tree), _count(~leaf, tree) - 1)
    split = node[~leaf]
    threshold = _middle(forest.threshold[split])
    if not (np.isfinite(value[leaf]).all() and np.isfinite(threshold).all()):
        raise IntegrityError("a leaf or a threshold is not finite", do="report this: the model is not saved")
    columns = (
        list(map(str, forest.feature[split].tolist())),
        [f"{t:.{_DIGITS}g}" for t in threshold.tolist()],
        [str(_NAN_LEFT if left else _NAN_RIGHT) for left in forest.missing_left[split].tolist()],
        list(map(str, number[forest.left[split]].tolist())),
        list(map(str, number[forest.right[split]].tolist())),
    )
    leaves = np.searchsorted(tree[leaf], np.arange(len(forest.root) + 1)).tolist()
    splits = np.searchsorted(tree[~leaf], np.arange(len(forest.root) + 1)).tolist()
    values = list(map(repr, value[leaf].tolist()))
    trees = [
        _tree(index, [" ".join(column[splits[index] : splits[index + 1]]) for column in columns], values[leaves[index] : leaves[index + 1]])
        for index in range(len(forest.root))
    ]
    return _file(trees, outputs, features, objective).encode("ascii")


def _numbered(forest: Forest) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the nodes that a root reaches, tree by tree and parents first, and their trees."""
    level, tree = forest.root, np.arange(len(forest.root))
    nodes, trees = [], []
    while len(level):
        nodes.append(level)
        trees.append(tree)
        inner = forest.left[level] >= 0
        parents, tree = level[inner], np.concatenate([tree[inner], tree[inner]])
        level = np.concatenate([forest.left[parents], forest.right[parents]])
    node, tree = np.concatenate(nodes), np.concatenate(trees)
    order = np.argsort(tree, kind="stable")
    return node[order], tree[order]


def _count(chosen: NDArray[np.bool_], tree: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each node how many chosen ones of its tree come up to it; `tree` ascends."""
    counted = np.cumsum(chosen)
    first = np.searchsorted(tree, np.arange(tree[-1] + 1))
    before: NDArray[np.int64] = counted[first] - chosen[first]
    return counted - before[tree]


def _middle(threshold: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return numbers between the thresholds and the next float32: rounding them to 9 digits stays between, and is short.

    A split with an infinite threshold tells missing values from others; a number beyond float32 does the same.
    """
    with np.errstate(over="ignore", under="ignore"):
        after = np.nextafter(threshold, np.float32(np.inf)).astype(np.float64)
    return (np.clip(threshold.astype(np.float64), -_BEYOND, _BEYOND) + np.clip(after, -_BEYOND, _BEYOND)) / 2


def _tree(index: int, columns: Sequence[str], values: Sequence[str]) -> str:
    feature, threshold, decision, left, right = columns
    splits, leaves = " ".join(["0"] * (len(values) - 1)), " ".join(["0"] * len(values))
    return (
        f"Tree={index}\nnum_leaves={len(values)}\nnum_cat=0\nsplit_feature={feature}\nsplit_gain={splits}\nthreshold={threshold}\n"
        f"decision_type={decision}\nleft_child={left}\nright_child={right}\nleaf_value={' '.join(values)}\nleaf_weight={leaves}\n"
        f"leaf_count={leaves}\ninternal_value={splits}\ninternal_weight={splits}\ninternal_count={splits}\nis_linear=0\nshrinkage=1\n\n\n"
    )


def _file(trees: Sequence[str], outputs: int, features: int, objective: str) -> str:
    known = OBJECTIVES[objective]
    line = "" if known is None else f"objective={known.format(outputs=outputs)}\n"
    return (
        f"tree\nversion=v4\nnum_class={outputs}\nnum_tree_per_iteration={outputs}\nlabel_index=0\nmax_feature_idx={features - 1}\n{line}"
        f"feature_names={' '.join(f'c{index}' for index in range(features))}\nfeature_infos={' '.join(['none'] * features)}\n"
        f"tree_sizes={' '.join(str(len(tree)) for tree in trees)}\n\n{''.join(trees)}"
        "end of trees\n\nfeature_importances:\n\nparameters:\n\nend of parameters\n\npandas_categorical:null\n"
    )
