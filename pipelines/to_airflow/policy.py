"""Pool and priority of a run's tasks come from its scenario. Airflow calls this while it creates them; no airflow is imported here.

One DAG serves every scenario, so neither can be written into the DAG. `infra/airflow/config/airflow_local_settings.py` hands
this function to the scheduler.
"""

from __future__ import annotations

import logging
from typing import Any

from components.core.errors import AtlasError
from components.core.settings import Settings
from pipelines import scenario

__all__ = ["LOOP", "place"]

LOOP = "atlas_loop"
logger = logging.getLogger(__name__)


def place(task_instance: Any, dag_run: Any) -> None:
    """Set a task's pool and priority.

    Args:
        task_instance: Airflow's; only its `dag_id`, `pool` and `priority_weight` are touched.
        dag_run: Airflow's run, whose partition key is the scenario; None while a task has no run yet.
    """
    key = getattr(dag_run, "partition_key", None)
    if task_instance.dag_id != LOOP or not key:
        return
    try:
        wanted = scenario.find(key, Settings.from_env()).orchestration
    except AtlasError as error:  # the run's first task says it to the user; the scheduler must go on
        logger.warning("scenario '%s': %s", key, error)
        return
    task_instance.pool = wanted.pool
    task_instance.priority_weight = wanted.priority
