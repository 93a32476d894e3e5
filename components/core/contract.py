"""What a step is: a `Spec` (light: ports, params, resources) and a `run(ctx, params)` (heavy).

A compiler of pipelines reads only the spec; a container needs both. `components.core.step` executes a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

from components.core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    from components.core.artifacts import Artifact, Kind
    from components.core.ledger import Ledger
    from components.core.settings import Settings
    from components.core.store import ArtifactStore

__all__ = ["STEPS", "Context", "Port", "Resources", "Run", "Spec", "check_ports"]

STEPS = ("ingest", "validate", "label_merge", "automl", "train", "evaluate", "deploy")


@dataclass(frozen=True)
class Port:
    """One typed input or output of a step."""

    kind: Kind
    doc: str


@dataclass(frozen=True)
class Resources:
    """What one run of a step needs.

    Attributes:
        cpu: Cores; also the number of threads that numeric libraries get, so that results do not depend on the machine.
        memory_mb: Memory, in MiB.
        gpu: Devices.
        image: The weight class of the container image that holds the step's libraries.
        timeout_s: After this many seconds the engine kills it.
    """

    cpu: int = 1
    memory_mb: int = 1024
    gpu: int = 0
    image: Literal["core", "learn", "serve"] = "core"
    timeout_s: int = 3600


@dataclass(frozen=True)
class Spec:
    """The light half of a step.

    Attributes:
        name: One of `STEPS`; also the folder.
        summary: One line for `--help` and the DAG's documentation.
        params: A frozen pydantic model; the scenario's section of the same name, plus `scenario` and `task`.
        inputs: Port name -> port.
        outputs: Port name -> port.
        resources: What a run needs.
        memory_of: What an earlier result may be reused for: `content`, any call with equal params and inputs; `run`, only a
            re-run of the same loop run (the two steps that read or move the ledger's present state).
    """

    name: str
    summary: str
    params: type[BaseModel]
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    resources: Resources = field(default_factory=Resources)
    memory_of: Literal["content", "run"] = "content"


@dataclass
class Context:
    """What a running step sees of the world.

    Attributes:
        scenario: The scenario's name.
        run_id: The loop run this step belongs to; never part of a digest.
        inputs: Port name -> the artifact given.
        work: A private folder, removed afterwards.
    """

    scenario: str
    run_id: str
    inputs: Mapping[str, Artifact]
    store: ArtifactStore
    settings: Settings
    work: Path
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, opened on first use."""
        from components.core.ledger import Ledger

        return Ledger.open(self.settings.ledger)

    def path(self, port: str) -> Path:
        """Return a local, verified, read-only folder with the input's files."""
        return self.store.fetch(self.inputs[port].ref)

    def open(self, ref: str) -> Path:
        """Like `path`, for an artifact that is named inside another (the champion in a snapshot, say)."""
        return self.store.fetch(ref)

    def out(self, port: str) -> Path:
        """Return the folder to write the output `port` into; it becomes an artifact when `run` returns."""
        folder = self.work / "out" / port
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def close(self) -> None:
        """Close the ledger if this step opened it."""
        if "ledger" in self.__dict__:
            self.ledger.close()

    def note(self, port: str, **facts: Any) -> None:
        """Add small JSON facts to an output's metadata. They enter its digest: nothing volatile."""
        self.metadata.setdefault(port, {}).update(facts)


class Run(Protocol):
    """The heavy half of a step: reads `ctx.path(port)`, writes `ctx.out(port)` for every output port."""

    def __call__(self, ctx: Context, params: Any) -> None: ...


def check_ports(spec: Spec, given: Mapping[str, Artifact]) -> None:
    """Check that `given` fills the spec's input ports with artifacts of the right kind.

    Raises:
        DataError: A port is missing, unknown or of another kind.
    """
    if missing := sorted(set(spec.inputs) - set(given)):
        raise DataError(f"step {spec.name} got no input for: {', '.join(missing)}", do="give each as --in PORT=KIND/SHA256")
    for name, artifact in given.items():
        port = spec.inputs.get(name)
        if port is None:
            raise DataError(f"step {spec.name} has no input '{name}'", do=f"its inputs are: {', '.join(spec.inputs) or 'none'}")
        if artifact.kind != port.kind:
            raise DataError(
                f"input '{name}' of {spec.name} is a {port.kind}, but {artifact.ref} was given", do="connect the right artifact"
            )
