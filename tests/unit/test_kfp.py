"""The compiled pipeline: its bytes, its structure, what it says of each step."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components

from components.core.contract import STEPS
from components.core.errors import ConfigError
from components.core.settings import Settings
from components.core.step import load_spec
from pipelines import scenario
from pipelines.loop import build
from pipelines.to_kfp import compile_pipeline, run_local
from pipelines.to_kfp.pipeline import make_pipeline

ROOT = Path(__file__).parents[2]
SHIPPED = ("ocr", "credit")
SCENARIO = """
name: small
task: {kind: tabular, problem: binary, classes: ["0", "1"], features: {x: number}}
ingest: {source: {reader: table}}
validate: {suite: {}}
orchestration: {retries: 2, retry_delay_s: 45}
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> scenario.Scenario:
    path = tmp_path_factory.mktemp("scenario") / "small.yaml"
    path.write_text(SCENARIO)
    return scenario.load(path)


@pytest.fixture(scope="module")
def compiled(small: scenario.Scenario, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The pipeline's two documents in one: its spec, and `platforms`."""
    path = tmp_path_factory.mktemp("compiled") / "small.yaml"
    compile_pipeline(small, path)
    spec, platform = yaml.safe_load_all(path.read_text())
    return spec | platform


def tasks(compiled: dict[str, Any]) -> dict[str, Any]:
    found = dict(compiled["root"]["dag"]["tasks"])
    for component in compiled["components"].values():
        found |= component.get("dag", {}).get("tasks", {})
    return found


def container(compiled: dict[str, Any], step: str) -> dict[str, Any]:
    return compiled["deploymentSpec"]["executors"][f"exec-{step.replace('_', '-')}"]["container"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SHIPPED)
def test_golden(name: str, tmp_path: Path) -> None:
    compile_pipeline(scenario.find(name, Settings.from_env({"ATLAS_HOME": str(tmp_path)})), tmp_path / "new.yaml")
    golden = ROOT / "tests" / "golden" / f"{name}.kfp.yaml"
    assert (tmp_path / "new.yaml").read_text() == golden.read_text(), "run `make golden` and read the diff"


@pytest.mark.parametrize("name", SHIPPED)
def test_kfp_reads_what_it_compiled(name: str) -> None:
    loaded = components.load_component_from_file(str(ROOT / "tests" / "golden" / f"{name}.kfp.yaml"))
    assert loaded.name == f"atlas-{name}"
    assert set(loaded.component_spec.inputs) == set(STEPS)


def test_compiling_twice_gives_the_same_bytes_in_another_process_too(small: scenario.Scenario, tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    compile_pipeline(small, first)
    (tmp_path / "small.yaml").write_text(SCENARIO)
    code = (
        "from pathlib import Path; from pipelines import scenario; from pipelines.to_kfp import compile_pipeline;"
        f"compile_pipeline(scenario.load(Path({str(tmp_path / 'small.yaml')!r})), Path({str(second)!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={"PYTHONHASHSEED": "7", "ATLAS_STORE": "s3://secret/place"})
    assert first.read_bytes() == second.read_bytes()


def test_no_place_of_this_machine_is_compiled_in(small: scenario.Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_LEDGER", "postgresql+psycopg://user:hunter2@db/atlas")
    compile_pipeline(small, tmp_path / "p.yaml")
    text = (tmp_path / "p.yaml").read_text()
    assert "hunter2" not in text
    assert not [place for place in (str(ROOT), str(tmp_path), str(Path.home())) if len(place) > 1 and f"{place}/" in text]


def test_the_exit_handler_releases_the_lease_whatever_happened(compiled: dict[str, Any]) -> None:
    top = compiled["root"]["dag"]["tasks"]
    assert set(top) == {"exit-handler-1", "release"}
    assert top["release"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert top["release"]["inputs"]["parameters"]["scenario"]["runtimeValue"]["constant"] == "small"


def test_work_comes_before_everything_and_the_gate_before_deploy(compiled: dict[str, Any]) -> None:
    handler = compiled["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert set(handler) == {"ingest", "condition-2"}
    assert "pipelinechannel--ingest-Output" in handler["condition-2"]["triggerPolicy"]["condition"]
    inner = compiled["components"]["comp-condition-2"]["dag"]["tasks"]
    assert set(inner) == {"validate", "label-merge", "automl", "train", "evaluate", "condition-3"}
    assert "pipelinechannel--evaluate-Output" in inner["condition-3"]["triggerPolicy"]["condition"]
    assert set(compiled["components"]["comp-condition-3"]["dag"]["tasks"]) == {"deploy"}


@pytest.mark.parametrize("step", STEPS)
def test_each_step_carries_its_resources_retries_and_caching(step: str, compiled: dict[str, Any]) -> None:
    spec = load_spec(step)
    box, task = container(compiled, step), tasks(compiled)[step.replace("_", "-")]
    assert box["image"] == f"localhost/atlas-{spec.resources.image}:latest"
    assert box["resources"]["resourceCpuLimit"] == str(spec.resources.cpu)
    assert box["resources"]["resourceMemoryLimit"] == f"{spec.resources.memory_mb}Mi"
    assert task["retryPolicy"] == {"backoffDuration": "45s", "backoffFactor": 2.0, "backoffMaxDuration": "3600s", "maxRetryCount": 2}
    assert task["cachingOptions"].get("enableCache", False) is (step not in ("ingest", "deploy"))
    place = compiled["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{step.replace('_', '-')}"]
    assert place["activeDeadlineSeconds"] == str(spec.resources.timeout_s)
    assert place["securityContext"]["runAsNonRoot"] is True
    assert {env["envVar"] for secret in place["secretAsEnv"] for env in secret["keyToEnv"]} >= {"ATLAS_LEDGER"}


@pytest.mark.parametrize("step", STEPS)
def test_the_run_id_is_no_input_so_that_runs_share_the_cache(step: str, compiled: dict[str, Any]) -> None:
    name = step.replace("_", "-")
    assert not [key for key in compiled["components"][f"comp-{name}"]["inputDefinitions"]["parameters"] if "run" in key]
    place = compiled["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{name}"]
    assert place["fieldPathAsEnv"] == [{"name": "ATLAS_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}]


@pytest.mark.parametrize("step", STEPS)
def test_ports_are_typed_and_their_references_travel_as_parameters(step: str, compiled: dict[str, Any]) -> None:
    component, spec = compiled["components"][f"comp-{step.replace('_', '-')}"], load_spec(step)
    titles = {"Dataset": "system.Dataset", "Model": "system.Model"}
    given, made = component["inputDefinitions"], component["outputDefinitions"]
    for port, declared in spec.inputs.items():
        assert given["artifacts"][f"in_{port}"]["artifactType"]["schemaTitle"] == titles.get(declared.kind, "system.Artifact")
        assert f"in_{port}_ref" in given["parameters"]
    for port, declared in spec.outputs.items():
        assert made["artifacts"][port]["artifactType"]["schemaTitle"] == titles.get(declared.kind, "system.Artifact")
        assert f"{port}_ref" in made["parameters"]


def test_evaluate_shows_metrics_confusion_and_a_page(compiled: dict[str, Any]) -> None:
    shown = compiled["components"]["comp-evaluate"]["outputDefinitions"]["artifacts"]
    titles = {name: shown[name]["artifactType"]["schemaTitle"] for name in ("metrics", "confusion", "page")}
    assert titles == {"metrics": "system.Metrics", "confusion": "system.ClassificationMetrics", "page": "system.HTML"}


def test_params_are_inputs_whose_defaults_are_the_scenarios(compiled: dict[str, Any], small: scenario.Scenario) -> None:
    inputs = compiled["root"]["inputDefinitions"]["parameters"]
    assert set(inputs) == set(STEPS)
    for step, given in inputs.items():
        assert json.loads(given["defaultValue"]) == small.params(step)


@pytest.mark.slow
def test_helpers_of_the_search_run_beside_it_and_nobody_waits_for_them(small: scenario.Scenario, tmp_path: Path) -> None:
    more = small.orchestration.model_copy(update={"search_tasks": 3})
    compile_pipeline(small.model_copy(update={"orchestration": more}), tmp_path / "p.yaml")
    compiled = next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))
    found = tasks(compiled)
    [loop] = [task for task in found.values() if "parameterIterator" in task]
    assert json.loads(loop["parameterIterator"]["items"]["raw"]) == [1, 2]
    assert loop["dependentTasks"] == ["label-merge"]
    assert not any("for-loop" in name for task in found.values() for name in task.get("dependentTasks", []))
    assert "help_step" in json.dumps(container(compiled, "automl_helper"))


def test_without_deploy_the_pipeline_ends_with_the_blessing(small: scenario.Scenario, tmp_path: Path) -> None:
    compile_pipeline(small, tmp_path / "p.yaml", deploy=False, images="registry/atlas-{image}:v1")
    spec = next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))
    assert "comp-deploy" not in spec["components"]
    assert spec["deploymentSpec"]["executors"]["exec-train"]["container"]["image"] == "registry/atlas-learn:v1"


@pytest.mark.slow
def test_a_local_pipeline_gets_its_places_by_environment(small: scenario.Scenario) -> None:
    spec = make_pipeline(build(small), images="{image}", env={"ATLAS_HOME": "/h", "ATLAS_RUN_ID": "r"}).pipeline_spec
    env = spec.deployment_spec["executors"]["exec-train"]["container"]["env"]
    assert {each["name"]: each["value"] for each in env} == {"ATLAS_HOME": "/h", "ATLAS_RUN_ID": "r"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # docker's client forgets a socket it could not connect
def test_no_container_engine_is_said_before_anything_runs(
    small: scenario.Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    settings = Settings.from_env({"ATLAS_HOME": str(tmp_path / "home")})
    with pytest.raises(ConfigError, match="no container engine"):
        run_local(build(small), run_id="r", settings=settings, runner="docker")
    assert not (tmp_path / "home").exists()
    gc.collect()


def test_kfp_is_imported_by_its_adapter_only() -> None:
    code = (
        "import sys; import pipelines.cli, pipelines.loop, pipelines.local, pipelines.scenario, pipelines.kfp_task, components.__main__;"
        "sys.exit(any(name == 'kfp' or name.startswith('kfp.') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    importers = [
        path.relative_to(ROOT)
        for package in ("components", "pipelines", "serving", "dags")
        for path in (ROOT / package).rglob("*.py")
        if any(line.strip().startswith(("import kfp", "from kfp")) for line in path.read_text().splitlines())
    ]
    assert {path.parts[:2] for path in importers} == {("pipelines", "to_kfp")}
