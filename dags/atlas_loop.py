"""The Airflow DAG that turns the bad-case loop of one scenario."""

from __future__ import annotations

from pipelines.to_airflow.loop import loop_dag

dag = loop_dag()
