"""The promise 'the gate is data': what a blessing must say, about what, before anything is deployed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.errors import IntegrityError, Refused

if TYPE_CHECKING:
    from components.core.artifacts import Artifact
    from components.core.ledger import Deployment, Ledger

__all__ = ["Blessing", "check_bound", "check_present", "read_blessing"]

_NEW_RUN = "start a new run: its baseline is what serves now"


@dataclass(frozen=True)
class Blessing:
    """What `blessing.json` says; see `components.evaluate`.

    Attributes:
        model: The model it is about.
        baseline: The model it was compared with; None: nothing served.
        evaluation_set: Digest of the rows it was measured on.
        right: Ids of the cases that the model gets right.
        wrong: Ids of those that it gets wrong.
    """

    accepted: bool
    model: str
    baseline: str | None
    evaluation_set: str
    failed: tuple[str, ...]
    right: tuple[str, ...]
    wrong: tuple[str, ...]


def read_blessing(folder: Path) -> Blessing:
    """Read the verdict.

    Raises:
        IntegrityError: The file is missing, or is no verdict.
    """
    try:
        said: dict[str, Any] = json.loads((folder / "blessing.json").read_text())
        return Blessing(
            accepted=said["accepted"] is True,
            model=said["model"],
            baseline=said["baseline"],
            evaluation_set=said["evaluation_set"],
            failed=tuple(rule["name"] for rule in said["rules"] if rule["passed"] is not True),
            right=tuple(said["cases"]["right"]),
            wrong=tuple(said["cases"]["wrong"]),
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise IntegrityError(f"blessing.json can't be read: {error}", do="let evaluate judge the model again") from error


def check_bound(said: Blessing, inputs: Mapping[str, Artifact], *, evaluation_set: str) -> None:
    """Check that the verdict is favourable, and about exactly these artifacts.

    Args:
        said: The verdict.
        inputs: The step's inputs: model, blessing, dataset, snapshot.
        evaluation_set: Recomputed from the dataset.

    Raises:
        Refused: It is not.
    """
    model, artifact = inputs["model"].ref, inputs["blessing"]
    if not said.accepted or said.failed:
        rules = ", ".join(said.failed) or "the gate"
        raise Refused(f"{artifact.ref} does not accept {said.model}: refused by {rules}", do="read evaluate's report: it says what to do")
    if said.model != model:
        raise Refused(f"{artifact.ref} is about {said.model}, not about {model}", do="let evaluate judge this model")
    if said.evaluation_set != evaluation_set:
        raise Refused(f"{artifact.ref} was measured on other rows than this dataset's", do="let evaluate judge the model on this dataset")
    given = {inputs[port].ref for port in ("model", "dataset", "snapshot")}
    if set(artifact.parents) != given:
        strange = sorted(given - set(artifact.parents))
        raise Refused(f"{artifact.ref} was not made from {', '.join(strange) or 'these inputs alone'}", do="let evaluate judge this model")
    facts = {"accepted": said.accepted, "model": said.model, "baseline": said.baseline, "evaluation_set": said.evaluation_set}
    if any(artifact.metadata.get(name) != value for name, value in facts.items()):
        raise Refused(f"{artifact.ref} says one thing in its file and another in its manifest", do="let evaluate judge the model again")


def check_present(
    said: Blessing, blessing: str, compared: Mapping[str, Any] | None, ledger: Ledger, scenario: str, serving: Deployment | None
) -> None:
    """Check that the verdict was compared with what serves *now*, and that the ledger knows it.

    Args:
        said: The verdict.
        blessing: Its reference.
        compared: The snapshot's champion.
        ledger: Asked for the verdict.
        scenario: The scenario.
        serving: What serves now.

    Raises:
        Refused: It is stale, or no evaluate step of this installation wrote it.
    """
    baseline = compared["model"] if compared else None
    if said.baseline != baseline:
        raise Refused(f"{blessing} compares with {said.baseline or 'nothing'}, the snapshot with {baseline or 'nothing'}", do=_NEW_RUN)
    now = (serving.seq, serving.model) if serving else None
    then = (compared["seq"], compared["model"]) if compared else None
    if now != then:
        raise Refused(f"the run compared with {_name(then)}, but {_name(now)} serves now", do=_NEW_RUN)
    known = ledger.blessing(scenario, said.model, said.baseline)
    if known is None or not known.accepted:
        raise Refused(f"the ledger knows no accepted blessing of {said.model} against {said.baseline or 'nothing'}", do="run evaluate")


def _name(deployment: tuple[int, str] | None) -> str:
    return f"deployment {deployment[0]} ({deployment[1]})" if deployment else "nothing"
