"""The code-free model format, version 2: a folder with `model.json`, `member-0.txt | .onnx`, `member-1…`, and `card.md`.

`model.json` says everything that is needed to predict: the task, the signature, each member's preprocessing and weight, and the
sha256 of the other files. Reading one never runs code: no pickle, no module path, no custom operator.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from components.core.artifacts import canonical, file_sha256
from components.core.errors import DataError, IntegrityError
from components.core.params import Frozen, Task, TextLine

__all__ = [
    "CARD",
    "DESCRIPTION",
    "MAX_MODEL_BYTES",
    "SUFFIX",
    "FileFacts",
    "Member",
    "ModelSpec",
    "Runtime",
    "read_spec",
    "save",
    "signature_of",
    "spec_of",
]

Runtime = Literal["onnx", "lightgbm"]

DESCRIPTION = "model.json"
CARD = "card.md"
SUFFIX: Mapping[str, str] = {"onnx": "onnx", "lightgbm": "txt"}
"""Runtime -> what its files' names end with."""
MAX_MODEL_BYTES = 512 << 20
"""Of all members together."""
MAX_DESCRIPTION_BYTES = 32 << 20
_ROUNDING = 1e-9
_AGAIN = "restore the artifact from a backup, or train the model again"


class Member(Frozen):
    """One member of the ensemble: the fold models of one pipeline, merged into one file.

    Attributes:
        learner: What made it.
        runtime: What executes the file.
        file: Its name.
        weight: Its share of the answer; the shares sum to 1.
        folds: For each fold's model, in order: LightGBM's iterations, which follow each other in the file; 1 for a network. A
            LightGBM file averages the folds' raw sums (leaf values are divided by the number of folds), an ONNX file their outputs.
        preprocessing: Plain JSON that `components.model.plan` or `text_line` executes.
    """

    learner: str = Field(min_length=1)
    runtime: Runtime
    file: str = Field(pattern=r"^member-[0-9]{1,3}\.(txt|onnx)$")
    weight: float = Field(gt=0, le=1)
    folds: tuple[int, ...] = Field(min_length=1)
    preprocessing: dict[str, Any]

    @model_validator(mode="after")
    def _fits(self) -> Member:
        if not self.file.endswith(f".{SUFFIX[self.runtime]}"):
            raise ValueError(f"the file of a member of '{self.runtime}' ends with .{SUFFIX[self.runtime]}, not {self.file}")
        if min(self.folds) < 1 or (self.runtime == "onnx" and max(self.folds) > 1):
            raise ValueError(f"folds are {list(self.folds)}: LightGBM's iterations, at least 1 each, or 1 for each network")
        return self


class FileFacts(Frozen):
    """What a file must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class ModelSpec(Frozen):
    """What `model.json` holds.

    Attributes:
        format: Version of this layout.
        task: The scenario's task, as it was when the model was trained.
        members: The ensemble. All have the same number of folds, made by the same rule.
        signature: Inputs and output, for people and for clients.
        recipe: What was trained; the next search tries it first.
        files: Name -> facts of the members' files and the card.
    """

    format: Literal[2]
    task: Task
    members: tuple[Member, ...] = Field(min_length=1, max_length=1000)
    signature: dict[str, Any]
    recipe: dict[str, Any]
    files: dict[str, FileFacts]

    @model_validator(mode="after")
    def _whole(self) -> ModelSpec:
        names = {member.file for member in self.members}
        if len(names) != len(self.members) or set(self.files) != {*names, CARD}:
            raise ValueError(f"files must be {CARD} and one a member, not {sorted(self.files)}")
        if abs(math.fsum(member.weight for member in self.members) - 1) > _ROUNDING:
            raise ValueError(f"the members' weights are {[member.weight for member in self.members]}; they must sum to 1")
        if len({len(member.folds) for member in self.members}) > 1:
            raise ValueError("the members differ in their number of folds")
        first = self.members[0]
        if isinstance(self.task, TextLine) and (len(self.members), first.runtime, first.folds) != (1, "onnx", (1,)):
            raise ValueError("a text_line model is one network")
        if self.signature != signature_of(self.task):
            raise ValueError("the signature is not the task's")
        return self

    @property
    def learner(self) -> str:
        """What made the heaviest member; the first of equals."""
        return max(self.members, key=lambda member: member.weight).learner


def signature_of(task: Task) -> dict[str, Any]:
    """Return the inputs and the output of a task's models as plain JSON."""
    if isinstance(task, TextLine):
        output = {"kind": "text", "alphabet": task.alphabet, "max_length": task.max_length}
        return {"inputs": {"image": "image/png | image/jpeg"}, "output": output}
    if task.problem == "regression":
        return {"inputs": dict(task.features), "output": {"kind": "number"}}
    return {"inputs": dict(task.features), "output": {"kind": "class", "classes": list(task.classes)}}


def spec_of(task: Task, members: Sequence[tuple[Member, bytes]], recipe: Mapping[str, Any], card: str) -> ModelSpec:
    """Describe a model that is in memory; Args and Raises as in `save`."""
    size = sum(len(content) for _, content in members)
    if size > MAX_MODEL_BYTES:
        raise DataError(f"the model has {size} bytes, at most {MAX_MODEL_BYTES} are allowed", do="train a smaller one")
    contents = {**{member.file: content for member, content in members}, CARD: card.encode()}
    facts = {name: FileFacts(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)) for name, content in contents.items()}
    try:
        return ModelSpec(
            format=2,
            task=task,
            members=tuple(_plain(member) for member, _ in members),
            signature=signature_of(task),
            recipe=json.loads(canonical(dict(recipe))),
            files=facts,
        )
    except ValidationError as error:
        raise DataError(f"these members are no model: {error.errors()[0]['msg']}", do="correct the members") from error


def _plain(member: Member) -> Member:
    return member.model_copy(update={"preprocessing": json.loads(canonical(member.preprocessing))})


def save(folder: Path, *, task: Task, members: Sequence[tuple[Member, bytes]], recipe: Mapping[str, Any], card: str) -> None:
    """Write a model into `folder`; equal arguments give equal bytes.

    Args:
        folder: An existing, empty folder.
        task: The scenario's task.
        members: Each with its file's bytes: LightGBM's text, or an ONNX graph.
        recipe: Plain JSON.
        card: The model card, Markdown.

    Raises:
        DataError: The weights don't sum to 1, two members share a file, a text_line model has several members, or all files
            together are larger than a model may be.
    """
    spec = spec_of(task, members, recipe, card)
    text = json.dumps(spec.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False)
    for member, content in members:
        (folder / member.file).write_bytes(content)
    (folder / CARD).write_bytes(card.encode())
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
        raise IntegrityError(f"{DESCRIPTION} is not of format 2: {where}: {first['msg']}", do=_AGAIN) from error
    if sum(facts.bytes for facts in spec.files.values()) > MAX_MODEL_BYTES:
        raise IntegrityError(f"the model's files have more than {MAX_MODEL_BYTES} bytes", do=_AGAIN)
    for name, facts in spec.files.items():
        _check_file(folder / name, facts)
    return spec


def _check_file(path: Path, facts: FileFacts) -> None:
    if not path.is_file():
        raise IntegrityError(f"the model's file {path.name} is missing", do=_AGAIN)
    size = path.stat().st_size
    if size != facts.bytes:
        raise IntegrityError(f"{path.name} has {size} bytes, not the {facts.bytes} that are written down", do=_AGAIN)
    if file_sha256(path) != facts.sha256:
        raise IntegrityError(f"{path.name} does not have the sha256 that {DESCRIPTION} says", do=_AGAIN)
