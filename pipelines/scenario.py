"""Scenarios: what users write. One YAML file, one section a step in loop order, checked before anything runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

import components.automl.spec as automl
import components.deploy.spec as deploy
import components.evaluate.spec as evaluate
import components.ingest.spec as ingest
import components.label_merge.spec as label_merge
import components.train.spec as train
import components.validate.spec as validate
from components.core.contract import STEPS
from components.core.errors import ConfigError, nearest
from components.core.params import NAME, Frozen, Task
from components.core.settings import Settings
from serving.spec import Serving

__all__ = ["Orchestration", "Scenario", "copy", "find", "load", "names", "shipped"]

_NO_SUITE: dict[str, dict[str, Any]] = {"validate": {"suite": {"name": "none", "expectations": []}}}
_MEMBERS_SHARE = 0.9
_SHIPPED = Path(__file__).parent / "scenarios"


class Orchestration(Frozen):
    """How engines run the loop.

    Attributes:
        sweep: Cron expression (UTC) of the sweep that finds what an event missed.
        pool: Airflow pool; `priority` is the weight in it.
        retries: Per step, with exponential backoff from `retry_delay_s`.
        search_tasks: Tasks (Airflow) or pods (Kubeflow) that share one search; they must see the same ATLAS_HOME. On one machine,
            `automl.workers` is cheaper.
        approval: Whether a person must approve each deploy (Airflow).
        approval_timeout_s: After this, an unanswered approval counts as a refusal.
    """

    sweep: str = "*/10 * * * *"
    pool: str = "default_pool"
    priority: int = Field(1, ge=1)
    retries: int = Field(3, ge=0)
    retry_delay_s: float = Field(30, gt=0)
    search_tasks: int = Field(1, ge=1, le=64)
    approval: bool = False
    approval_timeout_s: float = Field(86_400, gt=0)


class Scenario(Frozen):
    """One deployed model and the loop that keeps it right."""

    name: str = Field(pattern=NAME)
    title: str = ""
    task: Task
    ingest: ingest.Params
    validate_: validate.Params = Field(alias="validate")
    label_merge: label_merge.Params
    automl: automl.Params
    train: train.Params
    evaluate: evaluate.Params
    deploy: deploy.Params
    serving: Serving = Serving()
    orchestration: Orchestration = Orchestration()

    @model_validator(mode="before")
    @classmethod
    def _sections(cls, given: Any) -> Any:
        """Give every step's section the scenario's name and task."""
        if not isinstance(given, Mapping):
            raise ValueError("a scenario is a mapping of sections")
        shared = {"scenario": given.get("name"), "task": given.get("task")}
        usual = {"automl": _limits(given.get("evaluate"))}
        return {**given, **{step: {**usual.get(step, {}), **(given.get(step) or {}), **shared} for step in STEPS}}

    def params(self, step: str) -> dict[str, Any]:
        """Return a step's params as plain JSON data."""
        section: BaseModel = getattr(self, "validate_" if step == "validate" else step)
        return section.model_dump(mode="json")

    def serving_json(self) -> dict[str, Any]:
        """Return what a server needs to know, as plain JSON data."""
        return self.model_dump(mode="json", include={"name", "title", "task", "serving"})


def _limits(evaluate: Any) -> dict[str, Any]:
    """What the gate will ask for limits the search, unless its own section says otherwise."""
    gate = evaluate.get("gate") if isinstance(evaluate, Mapping) else None
    size = gate.get("max_size_mb") if isinstance(gate, Mapping) else None
    # The description and the card are weighed too.
    return {"max_size_mb": _MEMBERS_SHARE * size} if isinstance(size, int | float) and size > 0 else {}


def folders(settings: Settings) -> list[Path]:
    """Return where scenario files are looked for, first match wins."""
    return [folder for folder in (settings.scenarios, settings.home / "scenarios", _SHIPPED) if folder and folder.is_dir()]


def names(settings: Settings) -> list[str]:
    """Return every scenario's name."""
    return sorted({path.stem for folder in folders(settings) for path in folder.glob("*.yaml")})


def find(name: str, settings: Settings, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Scenario:
    """Load a scenario by name; see `load`.

    Raises:
        ConfigError: There is none, or its file is wrong.
    """
    for folder in folders(settings):
        if (path := folder / f"{name}.yaml").is_file():
            return load(path, overrides)
    raise ConfigError(f"there is no scenario '{name}'", do=nearest(name, names(settings)))


def shipped() -> list[Scenario]:
    """Load every scenario that comes with ATLAS."""
    return [load(path) for path in sorted(_SHIPPED.glob("*.yaml"))]


def copy(like: str, name: str, folder: Path, settings: Settings) -> list[Path]:
    """Write scenario `name` into `folder`, started from the file of `like`, its suite beside it.

    Returns:
        The files written.

    Raises:
        ConfigError: There is no scenario `like`, or `name` is not a name.
    """
    source = next((path for f in folders(settings) if (path := f / f"{like}.yaml").is_file()), None)
    if source is None:
        raise ConfigError(f"there is no scenario '{like}'", do=nearest(like, names(settings)))
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"'{name}' is not a scenario's name", do="use small letters, digits and _, starting with a letter")
    text = re.sub(rf"^name: {like}$", f"name: {name}", source.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^  port: \d+.*$", f"  port: {_free_port(settings)}", text, flags=re.MULTILINE)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{name}.yaml"]
    suite = yaml.safe_load(text)["validate"]["suite"]
    if isinstance(suite, str):
        written.append(folder / suite.replace(like, name))
        written[1].write_bytes((source.parent / suite).read_bytes())
        text = text.replace(suite, written[1].name)
    written[0].write_text(text)
    return written


def _free_port(settings: Settings) -> int:
    """Return a serving port that no scenario uses yet."""
    return max((find(name, settings, _NO_SUITE).serving.port for name in names(settings)), default=Serving().port) + 1


def load(path: Path, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Scenario:
    """Read and check a scenario file.

    Args:
        path: The YAML file; files it names lie beside it.
        overrides: Section -> key -> value, laid over the file.

    Raises:
        ConfigError: The file can't be read, or a key is unknown or wrong.
    """
    try:
        given = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"scenario file {path} can't be read: {error.strerror}", do="check the path") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"scenario file {path} is not YAML: {error}", do="mend the line it names") from error
    if not isinstance(given, dict):
        raise ConfigError(f"scenario file {path} holds no mapping", do="start from a shipped scenario: atlas init NAME")
    for section, values in (overrides or {}).items():
        given[section] = {**(given.get(section) or {}), **values}
    _inline_suite(given, path)
    try:
        scenario = Scenario.model_validate(given)
    except ValidationError as error:
        raise _readable(error, path) from error
    if scenario.name != path.stem:
        raise ConfigError(f"scenario file {path} is named '{scenario.name}' inside", do="give file and scenario the same name")
    return scenario


def _inline_suite(given: dict[str, Any], path: Path) -> None:
    section = given.get("validate")
    if not isinstance(section, dict) or not isinstance(section.get("suite"), str):
        return
    suite = path.parent / section["suite"]
    try:
        given["validate"] = {**section, "suite": json.loads(suite.read_text())}
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"the suite {suite} can't be read: {error}", do=f"draft one: atlas profile {path.stem}") from error


def _readable(error: ValidationError, path: Path) -> ConfigError:
    """Turn pydantic's first complaint into one line; unknown keys get the nearest known one."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part not in ("text_line", "tabular", "node")]
    do = "correct the value"
    if first["type"] == "extra_forbidden":
        do = nearest(where[-1], _fields(Scenario, where[:-1]))
    return ConfigError(f"scenario file {path.name}: {'.'.join(where)}: {first['msg']}", do=do)


def _fields(model: type[BaseModel], where: list[str]) -> list[str]:
    for part in where:
        field = next((f for name, f in model.model_fields.items() if part in (name, f.alias)), None)
        annotations = [field.annotation, *get_args(field.annotation)] if field else []
        found = [a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]
        if not found:
            return []
        model = found[0]
    hidden = {"scenario", "task"} if where else set()
    return [field.alias or name for name, field in model.model_fields.items() if name not in hidden]
