"""Airflow's scheduler imports this module by its name; `standalone.sh` puts this folder on its path."""

from __future__ import annotations

import pipelines.loop
import pipelines.to_airflow.request  # noqa: F401
from pipelines.to_airflow.policy import place as task_instance_mutation_hook

__all__ = ["task_instance_mutation_hook"]
