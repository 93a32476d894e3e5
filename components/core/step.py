"""Executing one step: key, reuse, run aside, digest, keep, record.

A step's key is the hash of what decides its result: its name, the code, its params and the digests of its inputs. Order
matters for `kill -9`: the outputs are stored first, then the ledger learns of them, the step record comes last; each of the
three is idempotent, so a re-run finishes whatever was left.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from components.core.artifacts import Artifact, canonical, describe, digest_of
from components.core.contract import STEPS, Context, Spec, check_ports
from components.core.effects import apply_effects
from components.core.errors import AtlasError, ConfigError, ContractError, nearest
from components.core.ledger import LEASE_TTL_S
from components.core.store import open_store

if TYPE_CHECKING:
    from components.core.ledger import Ledger
    from components.core.settings import Settings
    from components.core.store import ArtifactStore

__all__ = ["code_version", "execute", "load_spec", "parse_params", "result_json", "reuse", "step_key"]

logger = logging.getLogger(__name__)


def load_spec(step: str) -> Spec:
    """Return the step's light half.

    Raises:
        ConfigError: There is no such step.
    """
    if step not in STEPS:
        raise ConfigError(f"there is no step '{step}'", do=nearest(step, STEPS))
    spec: Spec = importlib.import_module(f"components.{step}.spec").SPEC
    return spec


def parse_params(spec: Spec, given: Mapping[str, Any]) -> Any:
    """Check params against the step's model.

    Keys are put in order first: engines hand JSON on in orders of their own, and the order of features is one of columns.

    Raises:
        ConfigError: A key is unknown, missing or of the wrong type.
    """
    try:
        return spec.params.model_validate(json.loads(canonical(given)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"params of {spec.name}: {where}: {first['msg']}", do=f"see python -m components {spec.name} --help") from error


@cache
def code_version() -> str:
    """Hash the source of all steps: a change of code makes every earlier result stale."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def step_key(spec: Spec, params: Any, inputs: Mapping[str, str], run_id: str) -> str:
    """Return the step's idempotency key; `inputs` is port -> reference."""
    decides = {"step": spec.name, "code": code_version(), "params": params.model_dump(mode="json"), "inputs": dict(inputs)}
    return digest_of(decides | ({"run": run_id} if spec.memory_of == "run" else {}))


def reuse(
    spec: Spec, params: Any, inputs: Mapping[str, str], *, run_id: str, store: ArtifactStore, ledger: Ledger
) -> dict[str, Artifact] | None:
    """Return an earlier result of the same key, after making sure that the ledger knows it; None when there is none."""
    recorded = store.recorded(step_key(spec, params, inputs, run_id))
    if recorded is None:
        return None
    outputs = {port: store.get(ref) for port, ref in recorded.items()}
    apply_effects(ledger, store, params.scenario, run_id, spec.name, outputs)
    return outputs


def execute(
    step: str, params: Mapping[str, Any], inputs: Mapping[str, str], *, run_id: str, settings: Settings, join: bool = False
) -> dict[str, Artifact]:
    """Run one step, or reuse its earlier result, and return port -> artifact.

    Args:
        step: One of `STEPS`.
        params: Plain JSON data for the step's params model.
        inputs: Port -> artifact reference.
        run_id: The loop run.
        settings: Where the store and the ledger are.
        join: Work with a process that runs the same step, and return nothing: what is made is that one's.

    Raises:
        AtlasError: See the tree in `components.core.errors`.
    """
    spec = load_spec(step)
    parsed = parse_params(spec, params)
    store = open_store(settings)
    given = {port: store.get(ref) for port, ref in inputs.items()}
    check_ports(spec, given)
    work_root = settings.home / "work"
    work_root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{step}-", dir=work_root))
    ctx = Context(parsed.scenario, run_id, given, store, settings, work)
    try:
        with _lease_held(ctx):
            if (found := reuse(spec, parsed, inputs, run_id=run_id, store=store, ledger=ctx.ledger)) is not None:
                logger.info("%s: nothing changed, reused", step)
                return found
            began = time.monotonic()
            module = importlib.import_module(f"components.{step}.run")
            if join:
                if not hasattr(module, "join"):
                    raise ConfigError(f"step {step} is done by one process", do="leave out --join")
                module.join(ctx, parsed)
                return {}
            module.run(ctx, parsed)
            outputs = _collect(spec, ctx)
            apply_effects(ctx.ledger, store, parsed.scenario, run_id, step, outputs)
            store.record(step_key(spec, parsed, inputs, run_id), {port: artifact.ref for port, artifact in outputs.items()})
            logger.info("%s: done in %.1f s", step, time.monotonic() - began)
            return outputs
    finally:
        shutil.rmtree(work, ignore_errors=True)
        ctx.close()


@contextmanager
def _lease_held(ctx: Context) -> Iterator[None]:
    """Hold the scenario's lease while a step works; the engine, not the step, releases it at the end of the run."""
    lease = ctx.ledger.acquire(ctx.scenario, ctx.run_id)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(LEASE_TTL_S / 5):
            try:
                ctx.ledger.renew(lease)
            except AtlasError as error:  # the ledger's own checks refuse what a lost lease would do
                logger.warning("the lease could not be renewed: %s", error)

    beat = threading.Thread(target=renew, name="lease", daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()


def _collect(spec: Spec, ctx: Context) -> dict[str, Artifact]:
    parents = tuple(artifact.ref for artifact in ctx.inputs.values())
    outputs = {}
    for port, declared in spec.outputs.items():
        folder = ctx.work / "out" / port
        if not folder.is_dir():
            raise ContractError(f"step {spec.name} wrote nothing to its output '{port}'", do="write to ctx.out(port) in run.py")
        outputs[port] = describe(folder, declared.kind, ctx.metadata.get(port, {}), parents)
        ctx.store.put(folder, outputs[port])
    return outputs


def result_json(outputs: Mapping[str, Artifact], store: ArtifactStore) -> str:
    """Return what a step prints for its engine: port -> {ref, uri, kind, sha256, metadata}."""
    return json.dumps(
        {
            port: {"ref": a.ref, "uri": store.uri(a.ref), "kind": a.kind, "sha256": a.sha256, "metadata": dict(a.metadata)}
            for port, a in outputs.items()
        },
        sort_keys=True,
    )
