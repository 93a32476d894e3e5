"""A step in a pod: Airflow's KubernetesPodOperator, told what to run when the task starts.

The provider needs another Kubernetes client than Kubeflow's compiler does, so the two never share an environment: it is
installed in Airflow's image only (see infra/images).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator  # type: ignore[import-not-found]
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import ApiClient, models

from components.core.settings import Settings
from pipelines.graph import Edge
from pipelines.to_airflow import backends
from pipelines.to_airflow.operators import StepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["PodStep"]


class PodStep(StepOperator, KubernetesPodOperator):  # type: ignore[misc]  # the provider is not in this environment
    """Runs one step in a pod of the step's image; outputs' references come back through Airflow's sidecar."""

    def __init__(self, *, step: str, wires: Mapping[str, Edge], helper: int = 0, **kwargs: Any) -> None:
        given = {"step": step, "wires": wires, "helper": helper, **kwargs}
        super().__init__(do_xcom_push=True, on_finish_action="delete_pod", get_logs=True, **given)

    def execute(self, context: Context) -> dict[str, str]:
        """Run the pod; its exit code decides whether a failure is retried."""
        manifest = backends.pod(self.call(context), Settings.from_env(), os.environ)
        self.full_pod_spec = ApiClient()._ApiClient__deserialize(manifest, models.V1Pod)
        self.namespace = manifest["metadata"]["namespace"]
        try:
            result = KubernetesPodOperator.execute(self, context)
        except AirflowException as error:
            self.check(self._exit_code(), str(error))
            raise
        return self.made(context, {port: str(facts["ref"]) for port, facts in result.items()})

    def on_kill(self) -> None:
        """Delete the pod when the task is ended."""
        KubernetesPodOperator.on_kill(self)

    def _exit_code(self) -> int:
        """Return the step's own exit code from the pod's last status; 1 when it never ran."""
        status = self.remote_pod.status if self.remote_pod else None
        for container in (status.container_statuses or []) if status else []:
            if container.name == self.base_container_name and container.state and container.state.terminated:
                return int(container.state.terminated.exit_code)
        return 1
