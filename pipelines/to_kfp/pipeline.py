"""From the engine-neutral graph to a KFP pipeline.

    ExitHandler(release)
        ingest -> If(has work)
            validate -> label_merge -> automl -> train -> evaluate -> If(accepted)
                                    -> ParallelFor(automl_helper)         deploy

The branch around deploy shows the gate; it does not make it: deploy re-reads the blessing whatever a pipeline did. Each
artifact travels with its reference as a *parameter*: KFP caches by parameter values and artifact names, and only the former
change with the content. The run id is not among the inputs, else no two runs would share a cache entry: on a cluster it is
KFP's own run id, read from the pod's label.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes

from pipelines.graph import Graph, Node
from pipelines.loop import build
from pipelines.scenario import Orchestration, Scenario
from pipelines.to_kfp.shims import component, helper_component, release_component

__all__ = ["compile_pipeline", "image_names", "make_pipeline"]

_CONFIG = "atlas"
"""The name of the ConfigMap, the Secret and the volume claim in infra/k8s."""
_HOME = "/atlas"
_LEDGER = {"ATLAS_LEDGER": "ATLAS_LEDGER"}
_KEYS = {name: name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
_SETTINGS = {name: name for name in ("ATLAS_STORE", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")}


def image_names(env: Mapping[str, str]) -> str:
    """Return what images are called, `{image}` standing for a step's weight class: ATLAS_IMAGE_PREFIX and ATLAS_IMAGE_TAG."""
    return f"{env.get('ATLAS_IMAGE_PREFIX') or 'localhost/atlas'}-{{image}}:{env.get('ATLAS_IMAGE_TAG') or 'latest'}"


def compile_pipeline(scenario: Scenario, path: Path, *, deploy: bool = True, images: str | None = None) -> None:
    """Write a scenario's pipeline as YAML: the same bytes on every machine.

    Args:
        scenario: Its sections become the defaults of the pipeline's inputs.
        path: The file to write.
        deploy: False ends the loop with the blessing.
        images: See `image_names`. Use an immutable tag on a cluster: KFP's cache knows an image by its name.
    """
    graph, chosen = build(scenario, deploy=deploy), scenario.orchestration
    loop = make_pipeline(graph, chosen, images=images or image_names(os.environ), helpers=chosen.search_tasks - 1)
    compiler.Compiler().compile(loop, str(path))


def make_pipeline(
    graph: Graph, orchestration: Orchestration | None = None, *, images: str, env: Mapping[str, str] | None = None, helpers: int = 0
) -> Any:
    """Return the pipeline of a graph.

    Args:
        graph: From `pipelines.loop.build`.
        orchestration: Retries; None for none.
        images: See `image_names`.
        env: The tasks' environment for a local run; None on a cluster, where ConfigMap, Secret and volume give it.
        helpers: Tasks that work on the search beside `automl`.
    """

    def task(node: Node, done: Mapping[str, Any], params: Any) -> Any:
        arguments: dict[str, Any] = {"params": params}
        for port, edge in node.inputs.items():
            source = done[edge.node].outputs
            arguments |= {f"in_{port}": source[edge.port], f"in_{port}_ref": source[f"{edge.port}_ref"]}
        made = component(node.spec, images.format(image=node.spec.resources.image))(**arguments)
        made.set_caching_options(node.spec.memory_of == "content")
        _equip(made, node, orchestration)
        _place(made, env)
        return made

    def help_search(node: Node, done: Mapping[str, Any], params: Any) -> None:
        refs = {f"in_{port}_ref": done[edge.node].outputs[f"{edge.port}_ref"] for port, edge in node.inputs.items()}
        with dsl.ParallelFor(list(range(1, helpers + 1)), name="search") as number:
            made = helper_component(node.spec, images.format(image=node.spec.resources.image))(params=params, helper=number, **refs)
            made.set_caching_options(False)
            _equip(made, node, None)
            _place(made, env)

    def loop(*given: Any) -> None:
        params = dict(zip((node.name for node in graph.nodes), given, strict=True))
        release = release_component(images.format(image="core"))(scenario=graph.scenario)
        release.set_caching_options(False)
        _place(release, env)
        done: dict[str, Any] = {}
        first, *rest = graph.nodes
        with dsl.ExitHandler(release, name="lease"):
            done[first.name] = task(first, done, params[first.name])
            with dsl.If(done[first.name].outputs["Output"] == True, name="has-work"):  # noqa: E712
                for node in rest:
                    if node.name == "automl" and helpers:
                        help_search(node, done, params[node.name])
                    if node.name != "deploy":
                        done[node.name] = task(node, done, params[node.name])
                        continue
                    with dsl.If(done["evaluate"].outputs["Output"] == True, name="accepted"):  # noqa: E712
                        done[node.name] = task(node, done, params[node.name])

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    inputs = [inspect.Parameter(n.name, kind, annotation=str, default=json.dumps(n.params, sort_keys=True)) for n in graph.nodes]
    loop.__signature__ = inspect.Signature(inputs)  # type: ignore[attr-defined]
    loop.__annotations__ = {parameter.name: str for parameter in inputs}
    name = f"atlas-{graph.scenario.replace('_', '-')}"
    return dsl.pipeline(name=name, description=f"The bad-case loop of {graph.scenario}.")(loop)


def _equip(task: Any, node: Node, orchestration: Orchestration | None) -> None:
    need = node.spec.resources
    task.set_cpu_limit(str(need.cpu)).set_memory_limit(f"{need.memory_mb}Mi")
    if need.gpu:
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(need.gpu)
    if orchestration is not None and orchestration.retries:
        task.set_retry(orchestration.retries, backoff_duration=f"{round(orchestration.retry_delay_s)}s", backoff_factor=2.0)
    kubernetes.set_timeout(task, need.timeout_s)


def _place(task: Any, env: Mapping[str, str] | None) -> None:
    """Tell a task where store, ledger and work folder are; no value is compiled in."""
    if env is not None:
        for key, value in sorted(env.items()):
            task.set_env_variable(key, value)
        return
    task.set_env_variable("ATLAS_HOME", _HOME)
    kubernetes.mount_pvc(task, pvc_name=_CONFIG, mount_path=_HOME)
    kubernetes.use_field_path_as_env(task, "ATLAS_RUN_ID", "metadata.labels['pipeline/runid']")
    kubernetes.use_secret_as_env(task, _CONFIG, _LEDGER)
    kubernetes.use_secret_as_env(task, _CONFIG, _KEYS, optional=True)
    kubernetes.use_config_map_as_env(task, _CONFIG, _SETTINGS, optional=True)
    kubernetes.set_security_context(task, run_as_user=10001, run_as_group=10001, run_as_non_root=True)
