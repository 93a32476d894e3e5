"""LightGBM as it comes: 100 trees, no search, categories as categories. It ignores the budget."""

from __future__ import annotations

from typing import Any

import lightgbm
import pandas as pd
from protocol import finish, read_job


def main() -> None:
    """Fit, write LightGBM's text, answer."""
    job, _ = read_job()
    table = job.table("train")
    categories = {name: pd.CategoricalDtype(sorted(table[name].dropna().unique())) for name in table if table[name].dtype == object}
    categories.pop(job.target, None)
    regression = job.task["problem"] == "regression"
    kind = lightgbm.LGBMRegressor if regression else lightgbm.LGBMClassifier
    fitted = kind(n_jobs=job.cores, random_state=job.seed, verbose=-1)
    fitted.fit(table.drop(columns=job.target).astype(categories), table[job.target])
    model = job.folder / "model.txt"
    fitted.booster_.save_model(model)

    def predict(rows: pd.DataFrame) -> Any:
        rows = rows.astype(categories)
        if regression:
            return fitted.predict(rows)
        order = [str(name) for name in fitted.classes_]
        return fitted.predict_proba(rows)[:, [order.index(name) for name in job.task["classes"]]]

    finish(job, predict, model=model)


if __name__ == "__main__":
    main()
