"""AutoGluon, preset `medium_quality`; fed its old winners as `hyperparameters`: the models that its ensemble gave weight to.

It is not told which column is the time (`validation_structure={"time_on": …}`): tried at 20 s, that made it worse on `bike` and
`air_quality`, because `medium_quality` puts the latest rows aside to validate and never learns from them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
from autogluon.tabular import TabularPredictor
from autogluon.tabular.registry import ag_model_registry
from protocol import Job, finish, read_job

METRICS = {"auc": "roc_auc", "logloss": "log_loss", "rmse": "root_mean_squared_error"}
WINNERS = "winners.json"
LEADERS = 5
"""So many of the leaderboard's best are fed besides the ensemble's members."""


def main() -> None:
    """Fit, answer; the size is that of its own deployment clone."""
    job, _ = read_job()
    more: dict[str, Any] = {}
    if job.yesterday:
        more["hyperparameters"] = json.loads((job.yesterday / WINNERS).read_text())
    predictor = TabularPredictor(
        label=job.target,
        problem_type=job.task["problem"],
        eval_metric=METRICS[job.task["metric"]],
        path=str(job.folder / "ag"),
        verbosity=1,
    ).fit(job.table("train"), presets="medium_quality", time_limit=job.budget_s, num_cpus=job.cores, num_gpus=0, **more)
    if job.keep:
        (job.keep / WINNERS).write_text(json.dumps(_winners(predictor), default=float))

    def predict(rows: pd.DataFrame) -> Any:
        if job.task["problem"] == "regression":
            return predictor.predict(rows)
        answers = predictor.predict_proba(rows)
        return answers.rename(columns=str)[job.task["classes"]]

    finish(job, predict, model=lambda: _clone(predictor, job), best=predictor.model_best)


def _clone(predictor: TabularPredictor, job: Job) -> Path:
    return Path(predictor.clone_for_deployment(str(job.folder / "deployed")))


def _winners(predictor: TabularPredictor) -> dict[str, list[dict[str, Any]]]:
    """Model type -> hyperparameters, as `fit` takes them: of the ensemble's members and of the leaderboard's best."""
    keys = {kind.__name__: ag_model_registry.key(kind) for kind in ag_model_registry.model_cls_list}
    leaders = [name for name in predictor.leaderboard()["model"] if not name.startswith("WeightedEnsemble")][:LEADERS]
    members = predictor.model_info(predictor.model_best).get("stacker_info", {}).get("base_model_names", [])
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name in dict.fromkeys([*members, *leaders]):
        found[keys[predictor.model_info(name)["model_type"]]].append(predictor.model_hyperparameters(name))
    return dict(found)


if __name__ == "__main__":
    main()
