"""Manifests of a training job on Kubernetes: a TrainJob (Kubeflow Trainer 2) or a PyTorchJob (Kubeflow Training Operator 1).

Both operators tell torchrun by PET_* variables which node it is and where the first one is; each node is a pod that starts as many ranks
as it has devices. ATLAS's ConfigMap, Secret and volume claim (infra/k8s/base) are expected in the namespace.
"""

from __future__ import annotations

from typing import Any

import yaml

from components.core.contract import Resources
from components.core.errors import ConfigError, nearest

__all__ = ["manifest", "pytorch_job", "to_yaml", "train_job"]

_KINDS = ("TrainJob", "PyTorchJob")
_HOME = "/atlas"
_NAME = "atlas"
"""Of the ConfigMap, the Secret and the volume claim in infra/k8s."""


def manifest(
    kind: str,
    name: str,
    world: int,
    resources: Resources,
    *,
    image: str,
    folder: str,
    runtime: str = "atlas-torch",
) -> dict[str, Any]:
    """Return the manifest of one job.

    Args:
        kind: `TrainJob` or `PyTorchJob`: which operator runs it.
        name: Of the job, a DNS label.
        world: Its ranks.
        resources: What one node has; with `gpu` devices it gets as many ranks, without any, one.
        image: Has ATLAS and its `learn` libraries.
        folder: The job's folder on the shared volume, with its `job.json`.
        runtime: Of a TrainJob: the TrainingRuntime, which mounts the volume.

    Raises:
        ConfigError: There is no such kind, or the ranks do not fill whole nodes.
    """
    if kind not in _KINDS:
        raise ConfigError(f"there is no manifest of kind '{kind}'", do=nearest(kind, _KINDS))
    each = max(1, resources.gpu)
    nodes, left = divmod(world, each)
    if left or not nodes:
        raise ConfigError(f"{world} ranks do not fill nodes of {each} devices", do=f"use a multiple of {each}, or change the step's gpu")
    if kind == "TrainJob":
        return train_job(name, nodes, each, resources, image=image, folder=folder, runtime=runtime)
    return pytorch_job(name, nodes, each, resources, image=image, folder=folder)


def train_job(name: str, nodes: int, each: int, resources: Resources, *, image: str, folder: str, runtime: str) -> dict[str, Any]:
    """Return a TrainJob, trainer.kubeflow.org/v1alpha1, of `nodes` pods with `each` ranks."""
    need = _need(resources)
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": runtime},
            "trainer": {
                "image": image,
                "command": _command(folder, each),
                "numNodes": nodes,
                "numProcPerNode": each,
                "env": _env(resources),
                "resourcesPerNode": {"requests": need, "limits": need},
            },
        },
    }


def pytorch_job(name: str, nodes: int, each: int, resources: Resources, *, image: str, folder: str) -> dict[str, Any]:
    """Return a PyTorchJob, kubeflow.org/v1, of one master and `nodes` - 1 workers with `each` ranks."""
    need = _need(resources)
    pod = {
        "serviceAccountName": _NAME,
        "containers": [
            {
                "name": "pytorch",
                "image": image,
                "command": _command(folder, each),
                "env": _env(resources),
                "envFrom": [{"configMapRef": {"name": _NAME}}, {"secretRef": {"name": _NAME}}],
                "resources": {"requests": need, "limits": need},
                "volumeMounts": [{"name": "home", "mountPath": _HOME}],
            }
        ],
        "volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": _NAME}}],
    }

    def replica(count: int) -> dict[str, Any]:
        # A pod that failed is started again, and its ranks go on from the newest checkpoint.
        return {"replicas": count, "restartPolicy": "OnFailure", "template": {"spec": pod}}

    replicas = {"Master": replica(1)} | ({"Worker": replica(nodes - 1)} if nodes > 1 else {})
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {"nprocPerNode": str(each), "pytorchReplicaSpecs": replicas},
    }


def to_yaml(document: dict[str, Any]) -> str:
    """Return a manifest as YAML; equal manifests give equal text."""

    class _Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True  # kubectl reads anchors, people do not

    return yaml.dump(document, Dumper=_Plain, sort_keys=False, width=140)


def _command(folder: str, each: int) -> list[str]:
    return ["python", "-m", "torch.distributed.run", "--nproc-per-node", str(each), "-m", "components.train.parallel.job", folder]


def _env(resources: Resources) -> list[dict[str, str]]:
    threads = max(1, resources.cpu // max(1, resources.gpu))
    return [{"name": "OMP_NUM_THREADS", "value": str(threads)}, {"name": "ATLAS_HOME", "value": _HOME}]


def _need(resources: Resources) -> dict[str, str]:
    need = {"cpu": str(resources.cpu), "memory": f"{resources.memory_mb}Mi"}
    return need | ({"nvidia.com/gpu": str(resources.gpu)} if resources.gpu else {})
