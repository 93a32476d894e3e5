"""What goes wrong with what: confusion of characters or classes, calibration and ROC. All plain JSON data for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from components.core.params import Tabular, TextLine
from components.evaluate.gate import rounded
from components.evaluate.metrics import Answered, Floats, positive

__all__ = ["GAP", "align", "figures"]

GAP = "∅"
_MOST_LABELS = 40
_BINS = 10
_ROC_POINTS = 50


def figures(task: TextLine | Tabular, labels: Sequence[Any], answers: Sequence[Answered]) -> dict[str, Any]:
    """Return the task's figures: `confusion` (text lines, classes), `calibration` and `roc` (binary), `scatter` (regression)."""
    if isinstance(task, TextLine):
        pairs = Counter(pair for label, a in zip(labels, answers, strict=True) for pair in align(str(label), str(a.label)))
        return {"confusion": _confusion(pairs, [*task.alphabet, GAP])}
    if task.problem == "regression":
        return {"scatter": [[rounded(float(t)), rounded(float(a.label))] for t, a in list(zip(labels, answers, strict=True))[:500]]}
    found: dict[str, Any] = {
        "confusion": _confusion(Counter((str(t), str(a.label)) for t, a in zip(labels, answers, strict=True)), list(task.classes))
    }
    if task.problem == "binary":
        y = np.array([label == task.classes[1] for label in labels], dtype=np.float64)
        p = positive(task, answers)
        found |= {"calibration": _calibration(y, p), "roc": _roc(y, p)}
    return found


def align(truth: str, said: str) -> list[tuple[str, str]]:
    """Return one cheapest alignment as (true character, said character); `GAP` stands for a missing or an extra one."""
    if truth == said:
        return list(zip(truth, said, strict=True))
    cost = np.zeros((len(truth) + 1, len(said) + 1), dtype=np.int64)
    cost[:, 0], cost[0, :] = np.arange(len(truth) + 1), np.arange(len(said) + 1)
    for i, t in enumerate(truth, 1):
        for j, s in enumerate(said, 1):
            cost[i, j] = min(cost[i - 1, j] + 1, cost[i, j - 1] + 1, cost[i - 1, j - 1] + (t != s))
    pairs, i, j = [], len(truth), len(said)
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (truth[i - 1] != said[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((truth[i], said[j]))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            pairs.append((truth[i], GAP))
        else:
            j -= 1
            pairs.append((GAP, said[j]))
    return pairs[::-1]


def _confusion(pairs: Counter[tuple[str, str]], labels: list[str]) -> dict[str, Any]:
    """Rows are the truth, columns what the model said; beyond `_MOST_LABELS` labels only the worst pairs are kept."""
    worst = sorted(((n, t, s) for (t, s), n in pairs.items() if t != s), key=lambda w: (-w[0], w[1], w[2]))[:15]
    matrix = [[pairs[t, s] for s in labels] for t in labels] if len(labels) <= _MOST_LABELS else None
    return {"labels": labels if matrix else [], "matrix": matrix or [], "worst": [{"truth": t, "said": s, "count": n} for n, t, s in worst]}


def _calibration(y: Floats, p: Floats) -> list[dict[str, Any]]:
    """Bin by predicted probability; a calibrated model's `observed` equals its `predicted`."""
    which = np.minimum((p * _BINS).astype(int), _BINS - 1)
    return [
        {
            "predicted": rounded(float(p[which == b].mean())),
            "observed": rounded(float(y[which == b].mean())),
            "rows": int((which == b).sum()),
        }
        for b in range(_BINS)
        if (which == b).any()
    ]


def _roc(y: Floats, p: Floats) -> list[dict[str, Any]]:
    """At most `_ROC_POINTS` points, from the strictest threshold to the loosest; empty with one class only."""
    if not y.any() or y.all():
        return []
    order = np.argsort(-p, kind="stable")
    y, p = y[order], p[order]
    ends = np.append(np.flatnonzero(np.diff(p)), len(p) - 1)
    tpr, fpr = np.cumsum(y)[ends] / y.sum(), np.cumsum(1 - y)[ends] / (1 - y).sum()
    keep = np.unique(np.linspace(0, len(ends) - 1, min(_ROC_POINTS, len(ends))).round().astype(int))
    points = [{"fpr": rounded(float(fpr[i])), "tpr": rounded(float(tpr[i])), "threshold": rounded(float(p[ends[i]]))} for i in keep]
    return [{"fpr": 0.0, "tpr": 0.0, "threshold": 1.0}, *points]
