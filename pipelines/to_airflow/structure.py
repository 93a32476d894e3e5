"""The DAGs' structure as plain data: what a golden file can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import DAG
from airflow.sdk.definitions.asset import Asset

from components.core.settings import Settings
from pipelines.to_airflow.dispatch import dispatch_dag
from pipelines.to_airflow.loop import loop_dag

__all__ = ["structure"]


def structure() -> dict[str, Any]:
    """Return both DAGs, built from the shipped scenarios only and with the default backend."""
    nowhere = Settings.from_env({"ATLAS_HOME": str(Path("/nonexistent/atlas"))})
    return {dag.dag_id: _dag(dag) for dag in (dispatch_dag(nowhere), loop_dag({}))}


def _dag(dag: DAG) -> dict[str, Any]:
    return {
        "schedule": _schedule(dag.timetable),
        "params": {name: {"default": param.value, **param.schema} for name in dag.params for param in [dag.params.get_param(name)]},
        "tasks": {task.task_id: _task(task) for task in dag.tasks},
    }


def _schedule(timetable: Any) -> dict[str, Any]:
    crons = getattr(getattr(timetable, "timetable", None), "timetables", [])
    condition = timetable.asset_condition
    assets: list[Asset] = [condition] if isinstance(condition, Asset) else list(condition.objects)
    return {
        "kind": type(timetable).__name__,
        "assets": [asset.uri for asset in assets],
        "watchers": [watcher.trigger.serialize()[0] for asset in assets for watcher in asset.watchers],
        "crons": [cron.expression for cron in crons],
    }


def _task(task: Any) -> dict[str, Any]:
    role = "setup" if task.is_setup else "teardown" if task.is_teardown else "work"
    return {
        "kind": type(task).__name__,
        "role": role,
        "after": sorted(task.upstream_task_ids),
        "trigger_rule": task.trigger_rule.value,
        "retries": task.retries,
        "timeout_s": task.execution_timeout.total_seconds() if task.execution_timeout else None,
        "events": [outlet.uri for outlet in task.outlets if isinstance(outlet, Asset)],
        "inputs": {port: f"{edge.node}.{edge.port}" for port, edge in sorted(getattr(task, "wires", {}).items())},
    }
