"""A structural check of LightGBM's text format.

LightGBM trusts its files: an array that is too short, or a child index out of range, is a read out of bounds or an abort; a child
that points back is an endless loop. So every array's length and every index is checked here before LightGBM sees the text.
Source: `Tree::ToString` and `GBDT::SaveModelToString` of LightGBM 4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from components.core.errors import IntegrityError

__all__ = ["Forest", "check_trees"]

_PER_LEAF = {"leaf_value": float, "leaf_weight": float, "leaf_count": int}
_PER_SPLIT = {
    "split_feature": int,
    "split_gain": float,
    "threshold": float,
    "decision_type": int,
    "left_child": int,
    "right_child": int,
    "internal_value": float,
    "internal_weight": float,
    "internal_count": int,
}
_SINGLE = {"num_leaves", "num_cat", "is_linear", "shrinkage"}
_SETS = {"cat_boundaries", "cat_threshold"}
_FEATURES = {"max_feature_idx", "feature_names", "feature_infos"}
_HEADER = {"version", "num_class", "num_tree_per_iteration", "label_index", "tree_sizes", *_FEATURES}
_END = "end of trees"
_TAIL = re.compile(
    r"\n\nfeature_importances:\n([^=\n]+=\d+\n)*"
    r"\nparameters:\n(\[\w+: [^\]\n\0]*\]\n)*\nend of parameters\n\npandas_categorical:null\n"
)


@dataclass(frozen=True)
class Forest:
    """What a LightGBM text says of itself.

    Attributes:
        features: Columns of the matrix that it takes.
        outputs: Trees of one iteration: 1, or one a class.
        iterations: How many.
        objective: Decides what becomes of the raw sums, as LightGBM writes it; None: they are the answer.
    """

    features: int
    outputs: int
    iterations: int
    objective: str | None


def check_trees(content: bytes) -> Forest:
    """Check that a LightGBM text holds whole trees over known features.

    Raises:
        IntegrityError: The text is cut, or a tree's arrays are not those of a tree.
    """
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError as error:
        raise _broken("it is not plain ASCII text") from error
    body, end, tail = text.partition("\n" + _END)
    header, *trees = body.split("\nTree=")
    if not header.startswith("tree\n") or not end or not _TAIL.fullmatch(tail):
        raise _broken("it has no header or no end")
    try:
        facts = _fields(header.removeprefix("tree\n"))
        if set(facts) - {"objective"} != _HEADER:
            raise _broken("its header is not LightGBM's")
        features = int(facts["max_feature_idx"]) + 1
        if len(facts["feature_names"].split()) != features or len(facts["feature_infos"].split()) != features:
            raise _broken("its header names not as many features as it counts")
        # LightGBM jumps from tree to tree by these sizes; a tree's text is "Tree=" to its last newline.
        if [int(size) for size in facts["tree_sizes"].split()] != [len("Tree=") + len(tree) + 1 for tree in trees]:
            raise _broken("its trees do not have the sizes written down")
        outputs = int(facts["num_tree_per_iteration"])
        if outputs < 1 or int(facts["num_class"]) != outputs or not trees or len(trees) % outputs:
            raise _broken("it has no whole number of iterations")
        for index, tree in enumerate(trees):
            number, _, fields = tree.partition("\n")
            if number != str(index):
                raise _broken(f"tree {index} is not where it belongs")
            _check_tree(_fields(fields), features)
    except (KeyError, ValueError, OverflowError) as error:
        raise _broken(f"a field is missing or no number: {error}") from error
    return Forest(features, outputs, len(trees) // outputs, facts.get("objective"))


def _check_tree(tree: Mapping[str, str], features: int) -> None:
    leaves = int(tree["num_leaves"])
    float(tree["shrinkage"])
    sets = int(tree["num_cat"])
    if set(tree) != {*_PER_LEAF, *_PER_SPLIT, *_SINGLE, *(_SETS if sets else ())} or tree["is_linear"] != "0" or leaves < 1:
        raise _broken("a tree's fields are not those of a plain tree")
    for names, length in ((_PER_LEAF, leaves), (_PER_SPLIT, leaves - 1)):
        for name, kind in names.items():
            values = [kind(value) for value in tree[name].split()]
            if len(values) != length and not (leaves == 1 and name in ("leaf_weight", "leaf_count") and not values):
                raise _broken(f"a tree has {len(values)} values of {name}, not {length}")
    if leaves == 1:
        return
    left, right, split, decision = (_ints(tree[name]) for name in ("left_child", "right_child", "split_feature", "decision_type"))
    # LightGBM numbers a node after its parent, so a child with a smaller number is a cycle; a leaf is the complement of its number.
    if sorted(left + right) != [*range(-leaves, 0), *range(1, leaves - 1)]:
        raise _broken("a node is reached twice or never")
    if any(0 <= child <= node for children in (left, right) for node, child in enumerate(children)):
        raise _broken("a node points back")
    if not all(0 <= feature < features for feature in split):
        raise _broken("a split uses an unknown feature")
    used = [int(float(t)) for t, d in zip(tree["threshold"].split(), decision, strict=True) if d & 1]
    _check_sets(tree, sets, used)


def _check_sets(tree: Mapping[str, str], sets: int, used: list[int]) -> None:
    """Categorical splits (bit 0 of decision_type) keep their values as bit sets in `cat_threshold`, cut at `cat_boundaries`."""
    if any(not 0 <= index < sets for index in used):
        raise _broken("a categorical split has no value set")
    if sets:
        bounds, words = _ints(tree["cat_boundaries"]), _ints(tree["cat_threshold"])
        if len(bounds) != sets + 1 or bounds[0] != 0 or bounds[-1] != len(words) or sorted(bounds) != bounds:
            raise _broken("the value sets of its categorical splits are cut")


def _ints(text: str) -> list[int]:
    return [int(value) for value in text.split()]


def _fields(block: str) -> dict[str, str]:
    lines = [line for line in block.split("\n") if line]
    found = dict(line.split("=", 1) for line in lines)
    if len(found) != len(lines):
        raise _broken("a field occurs twice")
    return found


def _broken(why: str) -> IntegrityError:
    return IntegrityError(f"this is no LightGBM text: {why}", do="restore the artifact from a backup, or train the model again")
