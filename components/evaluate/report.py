"""The report's figures as plain JSON data: everything the page shows but images and timings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from components.core.params import TextLine
from components.evaluate.bootstrap import Interval
from components.evaluate.compare import Comparison, Figure
from components.evaluate.figures import figures
from components.evaluate.gate import Slice, Verdict, rounded
from components.evaluate.metrics import LOWER_IS_BETTER, Answered

__all__ = ["examples", "metrics_json", "report"]

_MOST_EXAMPLES = 24


def report(
    compared: Comparison, verdicts: Sequence[Verdict], slices: Sequence[Slice], *, scenario: str, models: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `report.json`.

    Args:
        compared: Both models' answers.
        verdicts: The gate's rules.
        slices: Measured slices.
        scenario: Its name.
        models: `{"challenger": ref, "champion": ref | None}`.
    """
    task, rows, cases = compared.task, compared.rows, compared.cases()
    both = {"challenger": compared.challenger, **({"champion": compared.champion} if compared.champion is not None else {})}
    at = compared.judged
    test = np.flatnonzero(rows.test)
    # Characters mistaken are looked at, not judged: the case holdout has the interesting ones.
    seen = np.flatnonzero(rows.test | rows.holdout) if isinstance(task, TextLine) else at
    return {
        "scenario": scenario,
        "task": task.kind,
        "metric": task.metric,
        "lower_is_better": sorted(LOWER_IS_BETTER),
        "models": dict(models),
        "accepted": all(verdict.passed for verdict in verdicts),
        "rules": [verdict.as_json() for verdict in verdicts],
        "confidence": compared.resampling.confidence,
        "rows": {
            "judged": len(at),
            "groups": len({rows.groups[i] for i in at}),
            "test": int(rows.test.sum()),
            "holdout": int(rows.holdout.sum()),
            "cases": int(rows.is_case.sum()),
            "claimed": int(rows.is_claimed.sum()),
        },
        "metrics": {
            "judged": _figures(compared.verdict_figures),
            "test": _figures(compared.verdict_figures if len(test) == len(at) else compared.figures(test)),
            "holdout": _figures(compared.figures(np.flatnonzero(rows.holdout))),
        },
        "cases": {name: len(ids) for name, ids in cases.items()} | {"matrix": _matrix(compared)},
        "slices": [_slice(s) for s in slices],
        "figures": {name: figures(task, [rows.labels[i] for i in seen], [answers[i] for i in seen]) for name, answers in both.items()},
        "examples": examples(compared),
    }


def metrics_json(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Return `{"challenger": {name: value}, "champion": {name: value} | None}`."""
    champion = {name: rounded(f.champion.value) for name, f in figures.items() if f.champion is not None}
    return {"challenger": {name: rounded(f.challenger.value) for name, f in figures.items()}, "champion": champion or None}


def examples(compared: Comparison) -> list[dict[str, Any]]:
    """Choose up to 24 rows to look at: fixed, lost and still wrong cases; without any, the challenger's mistakes on the judged rows."""
    rows, before = compared.rows, compared.before
    case, after = rows.is_case, compared.after
    failed = ~after if before is None else ~before
    kinds = {
        "lost": case & ~failed & ~after,
        "fixed": case & failed & after if before is not None else np.zeros(len(rows), dtype=bool),
        "still wrong": case & failed & ~after,
    }
    if not any(mask.any() for mask in kinds.values()):
        judged = np.zeros(len(rows), dtype=bool)
        judged[compared.judged] = True
        kinds = {"wrong": judged & ~after}
    quota = {name: int(mask.sum()) for name, mask in kinds.items()}
    while sum(quota.values()) > _MOST_EXAMPLES:  # shrink the largest kind first, so that no kind disappears
        quota[max(quota, key=lambda name: quota[name])] -= 1
    chosen: list[dict[str, Any]] = []
    for name, mask in kinds.items():
        unseen_first = sorted(np.flatnonzero(mask), key=lambda i: (rows.splits[i] in ("train", "validation"), i))
        chosen += [_example(compared, int(i), name) for i in unseen_first[: quota[name]]]
    return chosen


def _example(compared: Comparison, i: int, kind: str) -> dict[str, Any]:
    rows = compared.rows
    return {
        "kind": kind,
        "row": i,
        "case": rows.cases[i],
        "split": rows.splits[i],
        "truth": rows.labels[i],
        "before": None if compared.champion is None or compared.before is None else _answer(compared.champion[i], compared.before[i]),
        "after": _answer(compared.challenger[i], compared.after[i]),
    }


def _answer(answer: Answered, right: Any) -> dict[str, Any]:
    if isinstance(answer.label, str):
        return {"label": answer.label, "confidence": round(float(answer.confidence), 4), "right": bool(right)}
    return {"label": rounded(float(answer.label)), "confidence": None, "right": bool(right)}


def _matrix(compared: Comparison) -> list[dict[str, Any]]:
    """Count the case rows by split and by right or wrong, before and after."""
    found = []
    for split in ("train", "validation", "test", "holdout"):
        mask = compared.rows.is_case & np.array([s == split for s in compared.rows.splits], dtype=bool)
        if not mask.any():
            continue
        before = compared.before
        line: dict[str, Any] = {"split": split, "rows": int(mask.sum()), "right_after": int((mask & compared.after).sum())}
        if before is not None:
            line |= {
                "right_before": int((mask & before).sum()),
                "fixed": int((mask & ~before & compared.after).sum()),
                "lost": int((mask & before & ~compared.after).sum()),
            }
        found.append(line)
    return found


def _figures(figures: Mapping[str, Figure]) -> dict[str, Any]:
    parts = ("challenger", "champion", "gain")
    return {name: {part: _three(getattr(f, part)) for part in parts} for name, f in figures.items()}


def _slice(s: Slice) -> dict[str, Any]:
    return {
        "column": s.column,
        "value": s.value,
        "rows": s.rows,
        "groups": s.groups,
        "challenger": rounded(s.challenger),
        "champion": None if s.champion is None else rounded(s.champion),
        "gain": _three(s.gain),
    }


def _three(interval: Interval | None) -> list[float | None] | None:
    return None if interval is None else [rounded(interval.value), rounded(interval.low), rounded(interval.high)]
