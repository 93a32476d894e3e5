"""Merging the models of a pipeline's folds into one file: the trees of all folds in one LightGBM text, or the folds' graphs in one graph.

A fold's model may see only some of the plan's columns: the shared ones, and those learned from labels without the fold's rows. The
merged file takes all columns. Shapes: F folds, N rows, D columns of the plan, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.core.errors import IntegrityError
from components.model.runtime import FOLDS

__all__ = ["iterations_of", "merge_lightgbm", "merge_onnx"]

_END = "\nend of trees"
_TREE = "\nTree="
_TAIL = "\n\nfeature_importances:\n\nparameters:\n\nend of parameters\n\npandas_categorical:null\n"
_MUST_AGREE = ("num_class", "num_tree_per_iteration", "objective")
_AGAIN = "report this: the fold models are not merged"


@dataclass(frozen=True)
class _Text:
    header: dict[str, str]
    trees: list[str]

    @property
    def iterations(self) -> int:
        return len(self.trees) // int(self.header["num_tree_per_iteration"])


def iterations_of(text: bytes) -> int:
    """Return how many iterations a LightGBM text has.

    Raises:
        IntegrityError: It is none.
    """
    return _parsed(text).iterations


def merge_lightgbm(texts: Sequence[bytes], columns: Sequence[Sequence[int]], width: int) -> tuple[bytes, tuple[int, ...]]:
    """Put the trees of all folds into one text; its raw sum is the mean of the folds' raw sums.

    Args:
        texts: F LightGBM texts of one objective.
        columns: For each fold, the plan's columns that its model sees, in the model's order.
        width: D.

    Returns:
        The text, and each fold's iterations, which follow each other in it.

    Raises:
        IntegrityError: A text is none, or the folds differ in their objective.
    """
    parts = [_parsed(text) for text in texts]
    if len(parts) == 1 and list(columns[0]) == list(range(width)):
        return texts[0], (parts[0].iterations,)
    for name in _MUST_AGREE:
        if len({part.header.get(name) for part in parts}) > 1:
            raise IntegrityError(f"the folds' models differ in their {name}", do=_AGAIN)
    trees: list[str] = []
    for part, seen in zip(parts, columns, strict=True):
        if int(part.header["max_feature_idx"]) + 1 != len(seen):
            raise IntegrityError(f"a model takes {int(part.header['max_feature_idx']) + 1} columns, its fold has {len(seen)}", do=_AGAIN)
        trees += [_tree(number, tree, seen, len(parts)) for number, tree in enumerate(part.trees, start=len(trees))]
    header = {
        **{name: parts[0].header[name] for name in ("version", "num_class", "num_tree_per_iteration", "label_index")},
        "max_feature_idx": str(width - 1),
        **({"objective": parts[0].header["objective"]} if "objective" in parts[0].header else {}),
        "feature_names": " ".join(f"c{index}" for index in range(width)),
        "feature_infos": " ".join(["none"] * width),
        "tree_sizes": " ".join(str(len(tree) + 1) for tree in trees),
    }
    lines = "\n".join(f"{name}={value}" for name, value in header.items())
    # A blank line, then the trees; each ends with the newline that its size counts.
    text = f"tree\n{lines}\n\n" + "\n".join(trees) + _END + _TAIL
    return text.encode("ascii"), tuple(part.iterations for part in parts)


def _parsed(text: bytes) -> _Text:
    try:
        body, end, _ = text.decode("ascii").partition(_END)
        header, *trees = body.split(_TREE)
        facts = dict(line.split("=", 1) for line in header.split("\n")[1:] if line)
        if not (header.startswith("tree\n") and end and trees and int(facts["num_tree_per_iteration"]) > 0):
            raise ValueError("it has no header, no trees or no end")
    except (ValueError, KeyError) as error:
        raise IntegrityError(f"a fold's model is no LightGBM text: {error}", do=_AGAIN) from error
    return _Text(facts, trees)


def _tree(number: int, tree: str, columns: Sequence[int], folds: int) -> str:
    """Renumber a tree, share its values between the folds, and name its features by the plan's columns."""
    _, *lines = tree.split("\n")
    for index, line in enumerate(lines):
        name, _, values = line.partition("=")
        if name in ("leaf_value", "internal_value"):
            lines[index] = f"{name}={' '.join(repr(float(value) / folds) for value in values.split())}"
        elif name == "split_feature":
            lines[index] = f"{name}={' '.join(str(columns[int(value)]) for value in values.split())}"
    return "\n".join([f"Tree={number}", *lines])


def merge_onnx(graphs: Sequence[bytes], columns: Sequence[Sequence[int]], width: int) -> bytes:
    """Put the graphs of all folds into one: `x` (N, D) to `y` (N, K), their mean, and `folds` (F, N, K), what each says.

    Args:
        graphs: F graphs that `components.train.onnx_graph.OnnxGraph` wrote, from `x` (N, columns) to `y` (N, K).
        columns: For each fold, the plan's columns that its model sees, in the model's order.
        width: D.

    Raises:
        IntegrityError: The graphs differ in their outputs, or are not of that kind.
    """
    from components.train.onnx_graph import OnnxGraph

    everything = list(range(width))
    if len(graphs) == 1 and list(columns[0]) == everything:
        return graphs[0]
    merged = OnnxGraph(["N", width])
    answers, outputs = [], set()
    for content, seen in zip(graphs, columns, strict=True):
        x = "x" if list(seen) == everything else merged.add("Gather", "x", merged.weight(np.asarray(seen, dtype=np.int64)), axis=1)
        y, shape = merged.include(content, x, columns=len(seen))
        answers.append(y)
        outputs.add(tuple(shape))
    if len(outputs) > 1 or len(shape) != 2 or not isinstance(shape[1], int):
        raise IntegrityError(f"the folds' graphs answer with the shapes {sorted(map(str, outputs))}, one (N, K) is needed", do=_AGAIN)
    if len(graphs) == 1:
        return merged.to_bytes(answers[0], shape)
    first = merged.weight(np.array([0]))
    folds = merged.add("Concat", *[merged.add("Unsqueeze", y, first) for y in answers], axis=0)
    return merged.to_bytes(merged.add("ReduceMean", folds, axes=[0], keepdims=0), shape, {FOLDS: (folds, [len(graphs), *shape])})
