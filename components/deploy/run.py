"""deploy: check the blessing, pack, try the real server, swap the pointer. Nothing changes for clients before the swap."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from components.core.artifacts import OBSERVED, canonical
from components.core.contract import Context
from components.core.errors import Refused
from components.core.ledger import Deployment
from components.core.settings import Settings
from components.deploy.checks import check_bound, check_present, read_blessing
from components.deploy.pack import Bento, bento_environment, pack
from components.deploy.replay import compare, sample
from components.deploy.server import running
from components.deploy.spec import Params
from components.evaluate.rows import evaluation_set, read_table
from components.model import load

__all__ = ["run"]

logger = logging.getLogger(__name__)


def run(ctx: Context, params: Params) -> None:
    """Deploy the challenger; see `components.deploy.spec`.

    Raises:
        Refused: The blessing is not about this model, these rows and what serves now; or the server answers differently.
        TryAgain: The server did not start.
    """
    model, blessing = ctx.inputs["model"].ref, ctx.inputs["blessing"].ref
    said = read_blessing(ctx.path("blessing"))
    table = read_table(ctx.path("dataset"))
    check_bound(said, ctx.inputs, evaluation_set=evaluation_set(table))
    compared = json.loads((ctx.path("snapshot") / "snapshot.json").read_text())["champion"]

    serving = ctx.ledger.champion(params.scenario)
    done = serving if _is_ours(serving, ctx.run_id, model, blessing) else None
    if done is None:
        check_present(said, blessing, compared, ctx.ledger, params.scenario, serving)
    bento = _packed(ctx, params)
    if done is None:
        rows = sample(table, params.task, params.replay)
        off = _tried(ctx, params, bento, rows)
        logger.info("the server of %s answered %d requests as evaluated (largest difference %.2g)", bento.tag, len(rows), off)
        done = ctx.ledger.deploy(
            params.scenario, ctx.run_id, model=model, blessing=blessing, expected_seq=compared["seq"] if compared else None,
            right=list(said.right), wrong=list(said.wrong),
        )  # fmt: skip
    _write(ctx, done, bento)
    logger.info("deployment %d of '%s' serves %s", done.seq, params.scenario, model)


def _is_ours(serving: Deployment | None, run_id: str, model: str, blessing: str) -> bool:
    """Whether a killed attempt of this very run has moved the pointer already."""
    return serving is not None and (serving.run_id, serving.model, serving.blessing, serving.kind) == (run_id, model, blessing, "deploy")


def _packed(ctx: Context, params: Params) -> Bento:
    task = params.task.model_dump(mode="json")
    return pack(ctx.inputs["model"], ctx.path("model"), params.scenario, task, home=ctx.settings.home)


def _tried(ctx: Context, params: Params, bento: Bento, rows: list[dict[str, Any]]) -> float:
    """Serve the packed model from its own files, apart from this installation's store and ledger, and replay."""
    if not rows:
        raise Refused("the dataset has no row to replay", do="give the scenario base annotations, or label cases")
    model = ctx.inputs["model"].ref
    answers = load(ctx.path("model")).predict(rows)
    trial = ctx.work / "trial"
    trial.mkdir()
    places = Settings(trial, f"sqlite:///{trial / 'ledger.db'}", str(bento.source / "store"), None, None)
    env = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_") and name != "PYTHONPATH"}
    env |= places.env() | bento_environment(ctx.settings.home)
    env |= {"ATLAS_SCENARIO_JSON": f"@{bento.source / 'scenario.json'}", "ATLAS_SERVE_MODEL": model, "ORT_DISABLE_TELEMETRY": "1"}
    with running(bento.tag, model=model, env=env, cwd=trial, log=ctx.work / "server.log", timeout_s=params.start_timeout_s) as server:
        return compare(server, rows, answers, model=model, tolerance=params.tolerance)


def _write(ctx: Context, done: Deployment, bento: Bento) -> None:
    out = ctx.out("deployment")
    deployment = {"scenario": done.scenario, "seq": done.seq, "model": done.model, "previous": done.previous, "blessing": done.blessing}
    packed = {"tag": bento.tag, "sha256": bento.sha256, "files": dict(bento.files)}
    (out / "deployment.json").write_bytes(canonical(deployment) + b"\n")
    (out / "bento.json").write_bytes(canonical(packed) + b"\n")
    (out / OBSERVED).mkdir(exist_ok=True)
    (out / OBSERVED / "SERVE.md").write_text(_HOW.format(tag=bento.tag, model=done.model, home=ctx.settings.home / "bentoml"))
    ctx.note("deployment", **deployment, bento=bento.tag)


_HOW = """# The Bento of this deployment

Bento `{tag}` lies in `BENTOML_HOME={home}`. It holds the code that serves and the model itself.

Take it elsewhere: `BENTOML_HOME={home} bentoml export {tag} atlas.bento`, then there `bentoml import atlas.bento`.

Serve it alone, without a ledger (no feedback, no payload log): in the folder `bentos/…/src` of the Bento,

    ATLAS_STORE=store ATLAS_SCENARIO_JSON=@scenario.json ATLAS_SERVE_MODEL={model} bentoml serve {tag}

Build an image of it: `bentoml containerize {tag}`.
"""
