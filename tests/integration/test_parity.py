"""Promise 1: local and Kubeflow runs of the same loop, from the same ledger, make artifacts with the same digests.

Airflow's leg needs a running Airflow; it stands in `test_airflow.py` and compares with the same local run.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from components.core.settings import Settings
from pipelines import scenario
from pipelines.local import run_local
from pipelines.loop import build
from pipelines.to_kfp import run_local as run_kfp

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["ocr", "credit"])
def test_local_and_kubeflow_make_the_same_digests(
    name: str, bootstrapped: Callable[[str], Settings], clone: Callable[[Settings, str], Settings]
) -> None:
    here, there = clone(bootstrapped(name), "local"), clone(bootstrapped(name), "kfp")
    graph = build(scenario.find(name, here))
    local = run_local(graph, run_id="loop", settings=here)
    kubeflow = run_kfp(graph, run_id="another-name", settings=there)
    assert {step: {port: a.ref for port, a in ports.items()} for step, ports in local.items()} == {
        step: {port: a.ref for port, a in ports.items()} for step, ports in kubeflow.items()
    }
    assert set(local) == {node.name for node in graph.nodes}
