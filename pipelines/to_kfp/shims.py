"""Writes each step's KFP component: a function whose body hands everything to `pipelines.kfp_task`.

KFP copies a component's *source* into the pipeline, so the functions are generated as text and shown to `linecache`, where
`inspect.getsource` finds them. Input ports become `in_PORT`, because a step may read and write a port of the same name.
"""

from __future__ import annotations

import linecache
from typing import Any

from kfp import dsl

from components.core.contract import Spec

__all__ = ["TYPES", "component", "helper_component", "release_component"]

TYPES = {"Dataset": "Dataset", "Model": "Model"}
"""Kinds that KFP has a type for; the others are plain `Artifact`s whose metadata names the kind."""

_VIEWS = {"metrics": "Metrics", "confusion": "ClassificationMetrics", "page": "HTML"}
_DECIDES = ("ingest", "evaluate")
"""Steps that return a boolean: whether there is work, whether the gate accepted. It must be KFP's unnamed return value: its
local runner skips a branch on a *named* output without a word (kfp 2.17)."""


def component(spec: Spec, image: str) -> Any:
    """Return the KFP component of a step.

    Args:
        spec: The step.
        image: The container image that holds the step's libraries.
    """
    arguments = ["params: str"]
    for port, declared in spec.inputs.items():
        arguments += [f"in_{port}: Input[{_type(declared.kind)}]", f"in_{port}_ref: str"]
    for port, declared in spec.outputs.items():
        arguments += [f"{port}: Output[{_type(declared.kind)}]", f"{port}_ref: OutputPath(str)"]
    if spec.name == "evaluate":
        arguments += [f"{name}: Output[{kind}]" for name, kind in _VIEWS.items()]
    lines = [f"def {spec.name}({', '.join(arguments)}){' -> bool' if spec.name in _DECIDES else ''}:", f'    """{spec.summary}"""']
    inputs = ", ".join(f'"{port}": in_{port}_ref' for port in spec.inputs)
    outputs = ", ".join(f'"{port}": ({port}, {port}_ref)' for port in spec.outputs)
    call = f'run_step("{spec.name}", params, {{{inputs}}}, {{{outputs}}})'
    body = {"ingest": f"return bool({call})", "evaluate": f"return show_evaluation({call}, {', '.join(_VIEWS)})"}.get(spec.name, call)
    lines += ["    from pipelines.kfp_task import run_step, show_evaluation", f"    {body}"]
    return _component(spec.name, "\n".join(lines) + "\n", image)


def helper_component(spec: Spec, image: str) -> Any:
    """Return the KFP component of a pod that works on the search of another: a step's inputs, no outputs.

    Args:
        spec: The step.
        image: The container image that holds the step's libraries.
    """
    arguments = ["params: str", "helper: int", *(f"in_{port}_ref: str" for port in spec.inputs)]
    inputs = ", ".join(f'"{port}": in_{port}_ref' for port in spec.inputs)
    source = (
        f"def {spec.name}_helper({', '.join(arguments)}):\n"
        f'    """{spec.summary} This one helps."""\n'
        "    from pipelines.kfp_task import help_step\n"
        f'    help_step("{spec.name}", params, {{{inputs}}}, helper)\n'
    )
    return _component(f"{spec.name}_helper", source, image)


def release_component(image: str) -> Any:
    """Return the exit handler's component: release the scenario's lease, note how the run ended."""
    source = (
        "def release(scenario: str, status: PipelineTaskFinalStatus):\n"
        '    """Release the scenario\'s lease and note how the run ended."""\n'
        "    from pipelines.kfp_task import end\n"
        "    end(scenario, status.state)\n"
    )
    return _component("release", source, image)


def _type(kind: str) -> str:
    return TYPES.get(kind, "Artifact")


def _component(name: str, source: str, image: str) -> Any:
    filename = f"<kfp {name}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    # The names that KFP's executor has in scope where it runs the copied source.
    scope: dict[str, Any] = {key: getattr(dsl, key) for key in dsl.__all__}
    exec(compile(source, filename, "exec", dont_inherit=True), scope)  # this module's __future__ would turn types into text
    return dsl.component(base_image=image, install_kfp_package=False)(scope[name])
