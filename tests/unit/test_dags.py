"""The DAG files: thin, fast to read, clean of heavy libraries, and with the structure that the golden file shows."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DAGS = sorted((ROOT / "dags").glob("*.py"))
GOLDEN = ROOT / "tests" / "golden" / "airflow_loop.json"
IMPORT_SHARE = 0.3
"""Of the CPU time that Airflow's own import takes in the same process: a machine's speed is in both."""
HEAVY = ("torch", "kfp", "feast", "optuna", "pandas", "pyarrow", "lightgbm", "bentoml", "great_expectations", "sklearn", "ibis", "docker")

IMPORT = """
import json, runpy, sys, time
began = time.process_time()
import airflow.sdk
airflow.sdk.DAG
between = time.process_time()
for path in sys.argv[1:]:
    runpy.run_path(path)
ours, theirs = time.process_time() - between, between - began
print(json.dumps({"share": ours / theirs, "modules": sorted(sys.modules)}))
"""

STRUCTURE = """
import sys
from pathlib import Path
from pipelines.to_airflow import write_structure
write_structure(Path(sys.argv[1]))
"""

SERIALIZE = """
import json, sys
from airflow.serialization.serialized_objects import DagSerialization
from pipelines.to_airflow.dispatch import dispatch_dag
from pipelines.to_airflow.loop import loop_dag
for dag in (dispatch_dag(), loop_dag()):
    back = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert sorted(back.task_ids) == sorted(dag.task_ids), dag.dag_id
"""


def run_python(code: str, tmp_path: Path, *args: str) -> str:
    """Run code in a fresh process, as Airflow does: nothing that another test imported counts."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("ATLAS_", "AIRFLOW"))}
    env |= {"AIRFLOW_HOME": str(tmp_path / "airflow"), "ATLAS_HOME": str(tmp_path / "atlas"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_two_dags() -> None:
    assert [path.name for path in DAGS] == ["atlas_dispatch.py", "atlas_loop.py"]


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.stem)
def test_a_dag_file_is_thin(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 20
    assert "dag" in text.lower()  # Airflow's safe mode skips a file that lacks either word
    assert "airflow" in text.lower()
    imported = [name for node in ast.walk(ast.parse(text)) for name in _imported(node)]
    assert imported
    for name in imported:
        top = name.partition(".")[0]
        assert top == "pipelines" or top in sys.stdlib_module_names, f"{path.name} imports {name}"


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or "."]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


@pytest.mark.slow
@pytest.mark.alone
def test_importing_the_dags_is_fast_and_clean(tmp_path: Path) -> None:
    runs = [json.loads(run_python(IMPORT, tmp_path, *map(str, DAGS)).splitlines()[-1]) for _ in range(3)]
    assert not set(HEAVY) & set(runs[0]["modules"])
    assert min(run["share"] for run in runs) < IMPORT_SHARE


@pytest.mark.slow
def test_the_structure_is_golden(tmp_path: Path) -> None:
    run_python(STRUCTURE, tmp_path, str(tmp_path / "structure.json"))
    assert json.loads((tmp_path / "structure.json").read_text()) == json.loads(GOLDEN.read_text()), "run: make golden, and read the diff"


@pytest.mark.slow
def test_airflow_can_store_the_dags(tmp_path: Path) -> None:
    run_python(SERIALIZE, tmp_path)


def test_the_loop_dag_follows_the_one_wiring() -> None:
    from pipelines.loop import WIRES

    tasks = json.loads(GOLDEN.read_text())["atlas_loop"]["tasks"]
    for step, wires in WIRES.items():
        assert tasks[step]["inputs"] == {port: f"{edge.node}.{edge.port}" for port, edge in wires.items()}
        if step != "deploy":
            assert {edge.node for edge in wires.values()} <= set(tasks[step]["after"])


def test_only_the_adapter_imports_airflow() -> None:
    found = set()
    for folder in ("components", "pipelines", "serving", "infra"):
        for path in (ROOT / folder).rglob("*.py"):
            if any(name.partition(".")[0] == "airflow" for node in ast.walk(ast.parse(path.read_text())) for name in _imported(node)):
                found.add(path.relative_to(ROOT).as_posix())
    assert found
    assert all(name.startswith(("pipelines/to_airflow/", "pipelines/airflow_trigger.py")) for name in found), found
