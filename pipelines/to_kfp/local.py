"""Runs the compiled graph here, with KFP's own local runners: subprocesses, or the containers of infra/images."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from kfp import local
from kfp.local import docker_task_handler

from components.core.errors import AtlasError, ConfigError, ContractError, NothingToDo, TryAgain
from components.core.ledger import Ledger
from components.core.settings import Settings
from components.core.store import open_store
from pipelines.graph import Graph
from pipelines.kfp_task import FAILURE
from pipelines.local import Outputs
from pipelines.to_kfp.pipeline import image_names, make_pipeline

__all__ = ["run_local"]

_CODE = Path(__file__).parents[2]


def run_local(
    graph: Graph,
    *,
    run_id: str,
    settings: Settings,
    runner: Literal["subprocess", "docker"] = "subprocess",
    images: str | None = None,
    helpers: int = 0,
) -> Outputs:
    """Run all steps of `graph` by Kubeflow's local runner. Retries are the cluster's: here a failure shows at once.

    The same `run_id` again resumes: finished steps are reused.

    Args:
        graph: From `pipelines.loop.build`.
        run_id: Names the run in the ledger.
        settings: Handed to the tasks; in containers, its folders are mounted at the same paths.
        runner: `subprocess` in this environment, or `docker` in the images, through a Docker socket.
        images: See `image_names`.
        helpers: Tasks that work on the search beside `automl`; here, `automl.workers` is cheaper.

    Returns:
        Step -> output port -> artifact; deploy is missing if the gate refused.

    Raises:
        NothingToDo: There was no work, or another run holds the scenario.
        ContractError: A step refused its input.
        TryAgain: A step could not reach something, or was killed.
        ConfigError: There is no container engine, or no image.
    """
    chosen = _runner(runner, settings)
    folder = settings.home / "runs" / run_id
    root = settings.home / "kfp" / run_id
    shutil.rmtree(root, ignore_errors=True)  # an earlier attempt's; what its steps made is in the store
    for place in (folder, root / "workspace"):
        place.mkdir(parents=True, exist_ok=True)
    log = folder / "kfp.log"
    env = settings.env() | {"ATLAS_RUN_ID": run_id}
    env |= {"PYTHONPATH": str(_CODE)} if runner == "subprocess" else {"HOME": str(root)}
    failure: Exception | None = None
    try:
        with log.open("w") as file, contextlib.redirect_stdout(file), _quiet(), _containers_kept():
            pipeline = make_pipeline(graph, images=images or image_names(os.environ), env=env, helpers=helpers)
            local.init(chosen, pipeline_root=str(root), workspace_root=str(root / "workspace"), raise_on_error=True)
            pipeline()
    except Exception as error:  # kfp raises RuntimeError for a failed task; what failed lies beside the task's outputs
        failure = error
    finally:
        _release(graph.scenario, run_id, settings)
    _raise_for(root, log, failure)
    return _collect(run_id, settings)


def _runner(kind: str, settings: Settings) -> Any:
    if kind == "subprocess":
        return local.SubprocessRunner(use_venv=False)
    import docker
    from docker.errors import DockerException
    from docker.types import Mount

    try:
        docker.from_env().close()
    except DockerException as error:
        raise ConfigError(f"no container engine answers: {error}", do="start one, or set DOCKER_HOST") from error
    if "://" in settings.store:
        raise ConfigError(f"the containers can't see the store {settings.store}", do="use a folder as ATLAS_STORE")
    folders = {settings.home, Path(settings.store), *filter(None, (settings.data, settings.scenarios))}
    if settings.ledger.startswith("sqlite"):
        folders.add(Path(settings.ledger.partition("///")[2]).parent)
    outer = [place for place in folders if not any(other in place.parents for other in folders)]
    mounts = [Mount(str(place), str(place), type="bind", read_only=place == settings.data) for place in sorted(outer)]
    return local.DockerRunner(user=f"{os.getuid()}:{os.getgid()}", network_mode="host", mounts=mounts)


def _collect(run_id: str, settings: Settings) -> Outputs:
    store = open_store(settings)
    with Ledger.open(settings.ledger) as ledger:
        made = ledger.outputs(run_id)
    return {step: {port: store.get(ref) for port, ref in ports.items()} for step, ports in made.items()}


def _raise_for(root: Path, log: Path, failure: Exception | None) -> None:
    """Turn what the tasks left behind into the error that the step raised."""
    for path in root.rglob(FAILURE):
        told = json.loads(path.read_text())
        message, _, do = told["message"].partition(" -> ")
        kinds: dict[int, type[AtlasError]] = {99: NothingToDo, 64: ContractError, 75: TryAgain}
        if told["code"] == NothingToDo.exit_code:
            raise NothingToDo(message, do=do)
        if told["code"] < 0:
            raise TryAgain(f"step {told['step']} was killed", do=f"run again with the same run id; see {log}")
        raise kinds.get(told["code"], AtlasError)(f"{told['step']}: {message}", do=do or f"see {log}")
    if isinstance(failure, AtlasError):
        raise failure
    if failure is not None:
        raise AtlasError(f"Kubeflow's local runner failed: {failure}", do=f"see {log}") from failure


def _release(scenario: str, run_id: str, settings: Settings) -> None:
    """Do what the exit handler does, for the case that it did not get to run; both are idempotent."""
    with Ledger.open(settings.ledger) as ledger:
        for run in ledger.runs(scenario):
            if run.run_id == run_id and run.finished_at is None:
                ledger.finish_run(run_id, "failed", "stopped")
        ledger.release(scenario, run_id)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence kfp's remarks that limits have no effect locally."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _containers_kept() -> Iterator[None]:
    """Keep each container until its exit code was read.

    kfp 2.17 starts containers with auto_remove and asks for the exit code afterwards; if they are gone by then, it takes a
    failed task for a success (kubeflow/pipelines#13332). It offers no setting, hence the exchange of one function.
    """
    from docker.errors import ImageNotFound

    def run(client: Any, image: str, command: list[str], volumes: dict[str, Any], **arguments: Any) -> int:
        try:
            client.images.get(image)
        except ImageNotFound as error:
            raise ConfigError(f"there is no image {image}", do="build the images: infra/images/build.sh") from error
        container = client.containers.create(image=image, command=command, volumes=volumes, **arguments)
        try:
            container.start()
            for line in container.logs(stream=True, follow=True):
                print(line.decode(errors="replace"), end="")  # noqa: T201  (kfp's own way: it indents what is printed)
            return int(container.wait()["StatusCode"])
        finally:
            container.remove(force=True)

    stock = docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = run
    try:
        yield
    finally:
        docker_task_handler.run_docker_container = stock
