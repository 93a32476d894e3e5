"""FLAML: `AutoML.fit(time_budget=…)`; warm by `starting_points`, as its documentation says.

It is not told that rows are in the order of time (`split_type="time"`): tried at 20 s, that made it much worse on `bike` and
`air_quality`, and no better on `weather`.
"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from flaml import AutoML
from protocol import finish, read_job

METRICS = {"auc": "roc_auc", "logloss": "log_loss", "rmse": "rmse"}
WINNERS = "winners.json"


def main() -> None:
    """Fit, pickle, answer."""
    job, _ = read_job()
    table = job.table("train")
    regression = job.task["problem"] == "regression"
    more: dict[str, Any] = {}
    if job.yesterday:
        more["starting_points"] = json.loads((job.yesterday / WINNERS).read_text())
    automl = AutoML()
    automl.fit(
        X_train=table.drop(columns=job.target),
        y_train=table[job.target],
        task="regression" if regression else "classification",
        metric=METRICS[job.task["metric"]],
        time_budget=job.budget_s,
        n_jobs=job.cores,
        seed=job.seed,
        verbose=1,
        **more,
    )
    model = job.folder / "model.pkl"
    automl.pickle(str(model))
    if job.keep:
        found = {name: config for name, config in automl.best_config_per_estimator.items() if config}
        (job.keep / WINNERS).write_text(json.dumps(found, default=float))

    def predict(rows: pd.DataFrame) -> Any:
        if regression:
            return automl.predict(rows)
        order = [str(name) for name in automl.classes_]
        return automl.predict_proba(rows)[:, [order.index(name) for name in job.task["classes"]]]

    finish(job, predict, model=model, best=automl.best_estimator)


if __name__ == "__main__":
    main()
