"""What a search leaves behind: `report.json` (deterministic), and in `observed/` what took how long, with the page."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.automl.genesis.board import FAILED, Board, Settled
from components.automl.genesis.concerns import concerns
from components.automl.genesis.configuration import Configuration
from components.automl.genesis.evaluators.table import FoldFit
from components.automl.genesis.footprint import megabytes, microseconds
from components.automl.genesis.importance import importance
from components.automl.genesis.page import page
from components.automl.genesis.scoring import trivial
from components.automl.genesis.solve import Solved
from components.automl.spec import Params
from components.core.artifacts import OBSERVED
from components.core.params import Tabular
from components.train.data import Data
from components.train.features.matrices import targets
from components.train.fitting import Fitted

__all__ = ["JOBS_FILE", "report_of", "write_report"]

JOBS_FILE = f"{OBSERVED}/jobs.json"
"""One `{"seconds": …, "memory_mb": …, "clock": …}` a trial of the report, in the same order."""
_INHERITED = "inherited:"


def report_of(solved: Solved, params: Params, data: Data, *, champion: float | None = None) -> dict[str, Any]:
    """Return the report as plain JSON; equal searches give equal reports.

    Args:
        solved: What the search came to.
        params: Its section of the scenario.
        data: What was searched on.
        champion: What the model that serves now reaches on today's rows, each judged by models that had not seen it; None: unknown.
    """
    board, task = solved.board, params.task
    weights = solved.selection.weights if solved.selection else _alone(solved)
    warnings = concerns(task, data.pooled()) if isinstance(task, Tabular) else []
    trials = [_trial(number, entry) for number, entry in enumerate(board.settled)]
    return {
        "scenario": params.scenario,
        "problem": task.problem if isinstance(task, Tabular) else task.kind,
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "rows": {"train": len(data.train), "validation": len(data.validation)},
        "seed": params.seed,
        "validation": solved.recipe.validation.model_dump(mode="json"),
        "rungs": _rungs(board, solved.rungs),
        "score": solved.recipe.score,
        "against": _against(solved, champion, _trivial(data)),
        "pipelines": {"tried": board.started, "failed": len({t["identity"] for t in trials if t["state"] == "failed"})},
        "ensemble": {"members": _members(solved, weights), "path": _path(solved)},
        "limits": _limits(solved, params),
        "learners": _groups(solved, weights, "learner"),
        "origins": _groups(solved, weights, "origin"),
        "importance": _importance(trials, maximize=board.maximize),
        "notes": [text for text in solved.notes if text not in warnings],
        "warnings": warnings,
        "trials": trials,
    }


def write_report(folder: Path, solved: Solved, params: Params, data: Data, *, champion: float | None = None) -> None:
    """Write the report, its costs and its page; arguments as in `report_of`."""
    report = report_of(solved, params, data, champion=champion)
    (folder / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")
    (folder / OBSERVED).mkdir(exist_ok=True)
    jobs = [{"seconds": e.seconds, "memory_mb": e.memory_mb, "clock": e.clock} for e in solved.board.settled]
    (folder / JOBS_FILE).write_text(json.dumps(jobs))
    (folder / OBSERVED / "report.html").write_text(page(report, jobs), encoding="utf-8")


def _trial(number: int, entry: Settled) -> dict[str, Any]:
    c = entry.job.configuration
    return {
        "number": number,
        "identity": c.identity,
        "origin": c.origin,
        "learner": c.learner,
        "features": dict(c.features),
        "params": dict(c.params),
        "rung": entry.job.rung,
        "state": entry.state,
        "value": entry.value,
        "figures": dict(entry.figures),
    }


def _alone(solved: Solved) -> dict[str, float]:
    """Return the weights where nothing was selected: the recipe is one pipeline."""
    return {Configuration(m.learner, m.features, m.params, "").identity: m.weight for m in solved.recipe.members}


def _rungs(board: Board, rungs: int) -> list[str]:
    """Say in words how pipelines were judged at each rung, from what was noted of them."""
    seen = {entry.job.rung: entry.figures for entry in board.settled if entry.value is not None}
    folds = {rung: len(figures["folds"]) for rung, figures in seen.items() if "folds" in figures}
    names = []
    for rung in range(rungs):
        count = folds.get(rung)
        if count is not None:
            sampled = rung + 1 < rungs and folds.get(rung + 1) == count
            names.append(f"{count} {'fold' if count == 1 else 'folds'}" + (" on a sample" if sampled else ""))
        else:
            names.append("full" if rung == rungs - 1 else f"step {rung + 1} of {rungs}")
    return names


def _trivial(data: Data) -> float | None:
    """Return what a constant answer scores; None for lines of text."""
    if not isinstance(data.task, Tabular):
        return None
    return float(trivial(data.task, targets(data.task, data.pooled())))


def _against(solved: Solved, champion: float | None, constant: float | None) -> list[dict[str, Any]]:
    """Return what the ensemble is compared with; what does not exist is left out."""
    top = solved.rungs - 1
    complete = [entry for entry in solved.board.settled if entry.job.rung == top and entry.value is not None]
    found: list[dict[str, Any]] = []
    if constant is not None:
        found.append({"name": "a constant answer", "score": constant, "learner": None})
    if complete:
        found.append(_rival("the first pipeline", complete[0]))
    if solved.selection and len(solved.selection.weights) > 1:
        name, score = solved.selection.best_single
        learner = _configurations(solved)[name.removeprefix(_INHERITED)].learner
        found.append({"name": "the best single pipeline", "score": score, "learner": learner})
    for origin, text in (("expert", "your own pipeline"), ("champion", "the serving model's pipelines, fitted anew")):
        own = sorted((entry for entry in complete if entry.job.configuration.origin == origin), key=solved.board.loss)
        found += [_rival(text, entry) for entry in own[:1]]
    if champion is not None:
        found.append({"name": "the serving model", "score": champion, "learner": None})
    return found


def _rival(name: str, entry: Settled) -> dict[str, Any]:
    return {"name": name, "score": entry.value, "learner": entry.job.configuration.learner}


def _configurations(solved: Solved) -> dict[str, Configuration]:
    """Return identity -> pipeline, of all that were tried and of the members."""
    found = {entry.job.configuration.identity: entry.job.configuration for entry in solved.board.settled}
    for member in solved.recipe.members:
        c = Configuration(member.learner, member.features, member.params, "champion")
        found.setdefault(c.identity, c)
    return found


def _members(solved: Solved, weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the ensemble, the heaviest first; size and latency are estimates of each member alone."""
    alone = {name: entry.value for name, entry in solved.board.highest().items()}
    if solved.selection:
        name, value = solved.selection.best_single
        alone[name] = value
    known = _configurations(solved)
    members = []
    for index, (member, name) in enumerate(zip(solved.recipe.members, weights, strict=True)):
        size, latency = _footprint(solved.fitted[index]) if solved.fitted else (None, None)
        members.append(
            {
                "identity": name,
                "learner": member.learner,
                "origin": known[name.removeprefix(_INHERITED)].origin,
                "weight": member.weight,
                "score": alone.get(name),
                "inherited": member.inherited,
                "size_mb": size,
                "us_per_row": latency,
                "features": member.features,
                "params": member.params,
            }
        )
    return members


def _footprint(fitted: Fitted) -> tuple[float, float]:
    """Return megabytes, and microseconds a row as the search estimates them."""
    fit = [FoldFit(np.zeros((0, 1), np.float32), fitted.member.runtime, fitted.weights, None)]
    return megabytes(fit), microseconds(fit)


def _path(solved: Solved) -> list[dict[str, Any]]:
    """Return the greedy selection, step by step: who was added, and what the ensemble then reached."""
    known = _configurations(solved)
    return [
        {"identity": name, "learner": known[name.removeprefix(_INHERITED)].learner, "score": score}
        for name, score in (solved.selection.path if solved.selection else ())
    ]


def _limits(solved: Solved, params: Params) -> list[dict[str, Any]]:
    """Return what the ensemble needs of what it may need."""
    if not solved.fitted:
        return []
    sizes, latencies = zip(*(_footprint(entry) for entry in solved.fitted), strict=True)
    return [
        {"name": "members", "used": len(solved.recipe.members), "limit": params.members, "unit": ""},
        {"name": "size", "used": math.fsum(sizes), "limit": params.max_size_mb, "unit": "MB"},
        {"name": "batch prediction (estimate)", "used": math.fsum(latencies), "limit": params.max_us_per_row, "unit": "µs a row"},
    ]


def _groups(solved: Solved, weights: Mapping[str, float], key: str) -> list[dict[str, Any]]:
    """Compare learners, or origins; those with the best pipeline at the last rung first.

    `median` is over all its pipelines at the first rung, `best` of those that reached the last one.
    """
    board, top = solved.board, solved.rungs - 1
    names = dict.fromkeys(getattr(entry.job.configuration, key) for entry in board.settled)
    found = []
    for name in names:
        own = [entry for entry in board.settled if getattr(entry.job.configuration, key) == name]
        first = [entry.value for entry in own if entry.job.rung == 0 and entry.value is not None]
        last = sorted((entry for entry in own if entry.job.rung == top and entry.value is not None), key=board.loss)
        identities = {entry.job.configuration.identity for entry in own}
        found.append(
            {
                "name": name,
                "pipelines": len(identities),
                "failed": len({entry.job.configuration.identity for entry in own if entry.state == FAILED}),
                "climbed": len(last),
                "best": last[0].value if last else None,
                "median": statistics.median(first) if first else None,
                "weight": math.fsum(weight for identity, weight in weights.items() if identity in identities),
            }
        )
    sign = -1.0 if board.maximize else 1.0
    return sorted(found, key=lambda g: (g["best"] is None, sign * (g["best"] or 0.0), g["name"]))


def _importance(trials: Sequence[Mapping[str, Any]], *, maximize: bool) -> list[dict[str, Any]]:
    """Tell what mattered, a learner at a time: all of its pipelines, as the first rung judged them."""
    judged = [trial for trial in trials if trial["rung"] == 0 and trial["value"] is not None]
    found = []
    for learner in dict.fromkeys(trial["learner"] for trial in judged):
        own = [trial for trial in judged if trial["learner"] == learner]
        method, shares = importance(own, maximize=maximize)
        if shares:
            found.append({"learner": learner, "method": method, "pipelines": len(own), "shares": [list(pair) for pair in shares.items()]})
    return found
