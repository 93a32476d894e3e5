"""What the server reads from its environment, once, at the door."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, ValidationError

from components.core.artifacts import parse_ref
from components.core.errors import ConfigError
from components.core.params import Task
from components.core.settings import Settings
from serving.spec import Serving

if TYPE_CHECKING:
    from components.core.params import Tabular, TextLine

__all__ = ["FEEDBACK_RATE", "MIN_TOKEN", "MODEL", "PREDICT_RATE", "SCENARIO", "TOKEN", "Config"]

SCENARIO = "ATLAS_SCENARIO_JSON"
"""JSON text, or `@FILE`: the scenario's `name`, `task` and `serving` section; other keys are ignored."""
MODEL = "ATLAS_SERVE_MODEL"
TOKEN = "ATLAS_TOKEN"
MIN_TOKEN = 16
PREDICT_RATE, FEEDBACK_RATE = "ATLAS_PREDICT_PER_S", "ATLAS_FEEDBACK_PER_S"
_MAX_PER_S = {PREDICT_RATE: 10_000.0, FEEDBACK_RATE: 500.0}


class _Parts(BaseModel):
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    task: Task
    serving: Serving = Serving()


@dataclass(frozen=True)
class Config:
    """One server's configuration.

    Attributes:
        scenario: The scenario's name.
        task: What an item and a label look like.
        serving: The scenario's `serving` section.
        settings: The installation's places.
        token: What a caller of `/feedback` must show; None refuses all feedback.
        pinned: Serve this model only, and write nothing: how the deploy step tries a challenger.
        predict_per_s: Requests a second before 429.
        feedback_per_s: The same, for `/feedback`.
    """

    scenario: str
    task: TextLine | Tabular
    serving: Serving
    settings: Settings
    token: str | None = None
    pinned: str | None = None
    predict_per_s: float = _MAX_PER_S[PREDICT_RATE]
    feedback_per_s: float = _MAX_PER_S[FEEDBACK_RATE]

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Config:
        """Read and check the environment; nothing is created.

        Raises:
            ConfigError: The scenario is missing or wrong, the token too short, the model no reference, a rate no number.
        """
        env = os.environ if env is None else env
        parts = _parts(env.get(SCENARIO, ""))
        token = env.get(TOKEN) or None
        if token is not None and len(token) < MIN_TOKEN:
            raise ConfigError(
                f"{TOKEN} has {len(token)} characters, at least {MIN_TOKEN} are needed", do="choose a longer one: openssl rand -hex 32"
            )
        pinned = env.get(MODEL) or None
        if pinned is not None:
            parse_ref(pinned)
        return cls(
            scenario=parts.name,
            task=parts.task,
            serving=parts.serving,
            settings=Settings.from_env(env),
            token=token,
            pinned=pinned,
            predict_per_s=_rate(env, PREDICT_RATE),
            feedback_per_s=_rate(env, FEEDBACK_RATE),
        )


def _parts(given: str) -> _Parts:
    if not given:
        raise ConfigError(f"{SCENARIO} is not set", do="start the server with: atlas serve SCENARIO")
    try:
        text = Path(given[1:]).read_text() if given.startswith("@") else given
        return _Parts.model_validate_json(text)
    except OSError as error:
        raise ConfigError(f"the scenario file {given[1:]} can't be read: {error.strerror}", do="check the path") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        raise ConfigError(f"{SCENARIO}: {where}: {first['msg']}", do="start the server with: atlas serve SCENARIO") from error


def _rate(env: Mapping[str, str], name: str) -> float:
    given = env.get(name)
    if not given:
        return _MAX_PER_S[name]
    try:
        rate = float(given)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise ConfigError(
            f"{name} is '{given}', a number of requests a second above 0 is expected", do=f"leave it out for {_MAX_PER_S[name]:g}"
        )
    return rate
