"""A finished search as plain JSON, so that later searches, of this and of other scenarios, can learn from it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from components.automl.genesis.configuration import Configuration, PastStudy, PastTrial
from components.core.effects import COSTS_FILE, STUDY_FILE
from components.core.errors import IntegrityError

__all__ = ["read_study", "write_study"]

_FORMAT = 1


def write_study(folder: Path, study: PastStudy) -> None:
    """Write `study.json`, equal bytes for equal studies, and beside it, outside the digest, what the trials cost.

    Args:
        folder: The report's.
        study: The search.
    """
    content = {
        "format": _FORMAT,
        "scenario": study.scenario,
        "problem": study.problem,
        "metric": study.metric,
        "higher_is_better": study.higher_is_better,
        "rows": study.rows,
        "rungs": study.rungs,
        "meta": dict(study.meta),
        "trials": [_plain(trial) for trial in study.trials],
    }
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (folder / STUDY_FILE).write_text(text + "\n", encoding="utf-8")
    costs = [{"seconds": trial.seconds, "memory_mb": trial.memory_mb} for trial in study.trials]
    (folder / COSTS_FILE).parent.mkdir(exist_ok=True)
    (folder / COSTS_FILE).write_text(json.dumps(costs, allow_nan=False))


def read_study(folder: Path) -> PastStudy:
    """Read what `write_study` wrote; costs that are missing or do not fit are None.

    Raises:
        IntegrityError: There is no study, or it is damaged.
    """
    try:
        content = json.loads((folder / STUDY_FILE).read_text(encoding="utf-8"))
        costs = _costs(folder, len(content["trials"]))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']}, not {_FORMAT}")
        return PastStudy(
            scenario=str(content["scenario"]),
            problem=str(content["problem"]),
            metric=str(content["metric"]),
            higher_is_better=_flag(content["higher_is_better"]),
            rows=int(content["rows"]),
            meta={str(name): _finite(value) for name, value in content["meta"].items()},
            rungs=int(content["rungs"]),
            trials=tuple(_trial(trial, *cost) for trial, cost in zip(content["trials"], costs, strict=True)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise IntegrityError(f"the {STUDY_FILE} of a report can't be read: {why}", do="run automl again, or restore the report") from error


def _plain(trial: PastTrial) -> dict[str, Any]:
    tried = trial.configuration
    return {
        "learner": tried.learner,
        "features": dict(tried.features),
        "params": dict(tried.params),
        "origin": tried.origin,
        "score": trial.score,
        "rung": trial.rung,
        "weight": trial.weight,
    }


def _trial(content: dict[str, Any], seconds: float | None, memory_mb: float | None) -> PastTrial:
    configuration = Configuration(str(content["learner"]), dict(content["features"]), dict(content["params"]), str(content["origin"]))
    score = None if content["score"] is None else _finite(content["score"])
    return PastTrial(configuration, score, int(content["rung"]), seconds, memory_mb, _finite(content["weight"]))


def _costs(folder: Path, trials: int) -> list[tuple[float | None, float | None]]:
    """Costs only speed a later search up: without them it does as if nothing was known."""
    unknown: list[tuple[float | None, float | None]] = [(None, None)] * trials
    try:
        found = json.loads((folder / COSTS_FILE).read_text())
        costs = [tuple(None if one[name] is None else _finite(one[name]) for name in ("seconds", "memory_mb")) for one in found]
    except (OSError, ValueError, KeyError, TypeError):
        return unknown
    return [(seconds, memory) for seconds, memory in costs] if len(costs) == trials else unknown


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value
