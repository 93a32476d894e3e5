"""A step in a container: Airflow's DockerOperator, told what to run when the task starts (only then is the scenario known)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.docker.exceptions import DockerContainerFailedException, DockerContainerFailedSkipException
from airflow.providers.docker.operators.docker import DockerOperator
from docker.types import DeviceRequest, Mount

from components.core.settings import Settings
from pipelines.graph import Edge
from pipelines.to_airflow import backends
from pipelines.to_airflow.operators import StepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["DockerStep"]


class DockerStep(StepOperator, DockerOperator):
    """Runs one step in a container of the step's image; outputs' references come back in a mounted file."""

    def __init__(self, *, step: str, wires: Mapping[str, Edge], helper: int = 0, **kwargs: Any) -> None:
        given = {"step": step, "wires": wires, "helper": helper, **kwargs}
        super().__init__(image="chosen when it runs", mount_tmp_dir=False, auto_remove="never", api_version="auto", **given)

    def execute(self, context: Context) -> dict[str, str]:  # type: ignore[override]
        """Run the container; it is removed whatever happens, after its exit code was read."""
        settings = Settings.from_env()
        call = self.call(context)
        out = backends.out_file(call, settings)
        out.unlink(missing_ok=True)
        self._take(backends.docker_arguments(call, settings, os.environ, str(out)))
        try:
            DockerOperator.execute(self, context)
        except (DockerContainerFailedException, DockerContainerFailedSkipException) as error:
            code = int(self.cli.inspect_container(self.container["Id"])["State"]["ExitCode"])
            lines = [str(line) for line in error.logs or [] if str(line).strip()]
            self.check(code, lines[-1] if lines else str(error))
            raise
        finally:
            self._remove()
        return self.made(context, backends.refs(out))

    def on_kill(self) -> None:
        """Stop and remove the container when the task is ended."""
        DockerOperator.on_kill(self)
        self._remove()

    def _take(self, given: dict[str, Any]) -> None:
        """Set the operator's arguments; `gpus` becomes a device request."""
        gpus = given.pop("gpus")
        self.device_requests = [DeviceRequest(count=gpus, capabilities=[["gpu"]])] if gpus else None
        self.mounts = [Mount(**mount) for mount in given.pop("mounts")]
        self._private_environment = given.pop("private_environment")
        for name, value in given.items():
            setattr(self, name, value)

    def _remove(self) -> None:
        if self.container:
            self.cli.remove_container(self.container["Id"], force=True)
            self.container = {}
