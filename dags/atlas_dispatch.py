"""The Airflow DAG that starts atlas_loop for each scenario that has work."""

from __future__ import annotations

from pipelines.to_airflow.dispatch import dispatch_dag

dag = dispatch_dag()
