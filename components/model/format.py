"""The code-free model format: a folder with `model.json`, one of `model.onnx` | `model.txt`, and `card.md`.

`model.json` says everything that is needed to predict: the task, the signature, the preprocessing and the sha256 of the other
files. Reading one never runs code: no pickle, no module path, no custom operator.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from components.core.artifacts import canonical, file_sha256
from components.core.errors import DataError, IntegrityError
from components.core.params import Frozen, Task, TextLine

__all__ = ["CARD", "DESCRIPTION", "FILE_OF", "MAX_MODEL_BYTES", "ModelSpec", "Runtime", "read_spec", "save", "signature_of"]

Runtime = Literal["onnx", "lightgbm"]

DESCRIPTION = "model.json"
CARD = "card.md"
FILE_OF: Mapping[str, str] = {"onnx": "model.onnx", "lightgbm": "model.txt"}
MAX_MODEL_BYTES = 512 << 20
MAX_DESCRIPTION_BYTES = 32 << 20
_AGAIN = "restore the artifact from a backup, or train the model again"


class ModelSpec(Frozen):
    """What `model.json` holds.

    Attributes:
        format: Version of this layout.
        task: The scenario's task, as it was when the model was trained.
        learner: What made it.
        runtime: What executes it; decides the weights' file name.
        signature: Inputs and output, for people and for clients.
        preprocessing: Plain JSON that `components.model.tabular` or `text_line` executes.
        recipe: What was trained; the next search tries it first.
        files: File name -> {"sha256", "bytes"} of the weights and the card.
    """

    format: Literal[1]
    task: Task
    learner: str = Field(min_length=1)
    runtime: Runtime
    signature: dict[str, Any]
    preprocessing: dict[str, Any]
    recipe: dict[str, Any]
    files: dict[str, dict[str, Any]]

    @property
    def weights(self) -> str:
        """The name of the file that the runtime loads."""
        return FILE_OF[self.runtime]


def signature_of(task: Task) -> dict[str, Any]:
    """Return the inputs and the output of a task's models as plain JSON."""
    if isinstance(task, TextLine):
        output = {"kind": "text", "alphabet": task.alphabet, "max_length": task.max_length}
        return {"inputs": {"image": "image/png | image/jpeg"}, "output": output}
    if task.problem == "regression":
        return {"inputs": dict(task.features), "output": {"kind": "number"}}
    return {"inputs": dict(task.features), "output": {"kind": "class", "classes": list(task.classes)}}


def save(
    folder: Path,
    *,
    task: Task,
    learner: str,
    runtime: Runtime,
    weights: bytes,
    preprocessing: Mapping[str, Any],
    recipe: Mapping[str, Any],
    card: str,
) -> None:
    """Write a model into `folder`; equal arguments give equal bytes.

    Args:
        folder: An existing, empty folder.
        task: The scenario's task.
        learner: What made the model.
        runtime: What executes `weights`.
        weights: An ONNX file, or LightGBM's text.
        preprocessing: Plain JSON; executed by `components.model`.
        recipe: Plain JSON.
        card: The model card, Markdown.

    Raises:
        DataError: The weights are larger than a model may be.
    """
    if len(weights) > MAX_MODEL_BYTES:
        raise DataError(f"the model has {len(weights)} bytes, at most {MAX_MODEL_BYTES} are allowed", do="train a smaller one")
    contents = {FILE_OF[runtime]: weights, CARD: card.encode()}
    spec = ModelSpec(
        format=1,
        task=task,
        learner=learner,
        runtime=runtime,
        signature=signature_of(task),
        preprocessing=json.loads(canonical(dict(preprocessing))),
        recipe=json.loads(canonical(dict(recipe))),
        files={name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in contents.items()},
    )
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    text = json.dumps(spec.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_spec(folder: Path) -> ModelSpec:
    """Read `model.json` and check every file it names against size and sha256.

    Raises:
        IntegrityError: Something is missing, altered, too large, or of another format.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise IntegrityError(f"the folder holds no {DESCRIPTION}", do="only folders written by components.model.save are models")
    if path.stat().st_size > MAX_DESCRIPTION_BYTES:
        raise IntegrityError(f"{DESCRIPTION} has more than {MAX_DESCRIPTION_BYTES} bytes", do=_AGAIN)
    try:
        spec = ModelSpec.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise IntegrityError(f"{DESCRIPTION} is not of format 1: {where}: {first['msg']}", do=_AGAIN) from error
    if set(spec.files) != {spec.weights, CARD}:
        raise IntegrityError(f"a model of '{spec.runtime}' has {spec.weights} and {CARD}, not {sorted(spec.files)}", do=_AGAIN)
    for name, facts in spec.files.items():
        _check_file(folder / name, facts)
    return spec


def _check_file(path: Path, facts: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise IntegrityError(f"the model's file {path.name} is missing", do=_AGAIN)
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES or size != facts.get("bytes"):
        raise IntegrityError(f"{path.name} has {size} bytes, not the {facts.get('bytes')} that are written down", do=_AGAIN)
    if file_sha256(path) != facts.get("sha256"):
        raise IntegrityError(f"{path.name} does not have the sha256 that {DESCRIPTION} says", do=_AGAIN)
