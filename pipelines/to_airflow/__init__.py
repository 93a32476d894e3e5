"""The loop on Airflow. Only this package and `pipelines.airflow_trigger` import airflow.

`dispatch` and `loop` hold the two DAGs, `operators` the ways a task runs a step; what needs no airflow (`request`, `backends`,
`policy`, `api`, `latency`) can be imported without it: this file stays light.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_structure"]


def write_structure(path: Path) -> None:
    """Write both DAGs' structure, with the shipped scenarios, as JSON: the golden file that shows what a change does to them."""
    import json

    from pipelines.to_airflow.structure import structure

    path.write_text(json.dumps(structure(), indent=1, sort_keys=True, ensure_ascii=False) + "\n")
