"""What a loop run was asked for, and what follows from it: no airflow here.

A person's overrides travel in the `extra` of the asset event that starts the run, not in the partition key: the key stays the
scenario's name (one partition a scenario in Airflow's UI, no length limit, nothing to parse), Airflow keeps the event with
the run, so that retries and cleared tasks see the same, and events that fell together into one run can be merged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from components.core.contract import STEPS
from components.core.errors import ConfigError
from components.core.ledger import Ledger, Work
from components.core.settings import Settings
from pipelines import scenario
from pipelines.scenario import Scenario

__all__ = ["Plan", "Request", "has_work", "load", "make_plan", "safe_run_id", "summary"]


@dataclass(frozen=True)
class Request:
    """What a person chose in Airflow's form; None leaves it to the scenario.

    Attributes:
        trigger: Why the run was started: `event`, `schedule` or `manual`.
        trials: Trial budget of the search.
        budget_s: Its wall-clock budget.
        approval: Whether a person must approve the deploy.
        deploy: False ends the loop with the blessing.
    """

    trigger: str = "event"
    trials: int | None = None
    budget_s: float | None = None
    approval: bool | None = None
    deploy: bool = True

    def to_extra(self) -> dict[str, Any]:
        """Return plain JSON data for an asset event."""
        return asdict(self)

    @classmethod
    def merged(cls, extras: Iterable[Mapping[str, Any]]) -> Request:
        """Read the request of a run that several events may have started: the newest that a person made, else the newest."""
        given = [cls(**{key: extra[key] for key in cls.__dataclass_fields__ if key in extra}) for extra in extras]
        return next((request for request in reversed(given) if request.trigger == "manual"), given[-1] if given else cls())


@dataclass(frozen=True)
class Plan:
    """All that a run's tasks need, fixed when it starts: a scenario file edited meanwhile changes the next run, not this one.

    Attributes:
        scenario: Its name; also the run's partition key.
        run_id: The ledger's name of the run.
        params: Step -> its params as JSON text: the order of features is theirs, and a database may reorder an object's keys.
        retries: Attempts after the first, at most.
        retry_delay_s: Before the first retry; doubled each time.
        search_tasks: Tasks that share one search.
    """

    scenario: str
    run_id: str
    params: dict[str, str]
    deploy: bool
    approval: bool
    approval_timeout_s: float
    retries: int
    retry_delay_s: float
    search_tasks: int = 1

    def to_xcom(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)

    @classmethod
    def from_xcom(cls, given: Mapping[str, Any]) -> Plan:
        """Read what `to_xcom` wrote."""
        return cls(**given)


def load(name: str, settings: Settings, request: Request | None = None) -> Scenario:
    """Load a scenario with a request's overrides laid over its file.

    Raises:
        ConfigError: There is no such scenario, or its file is wrong.
    """
    request = request or Request()
    search = {key: value for key, value in (("trials", request.trials), ("budget_s", request.budget_s)) if value is not None}
    overrides: dict[str, dict[str, Any]] = {"automl": search} if search else {}
    if request.approval is not None:
        overrides["orchestration"] = {"approval": request.approval}
    return scenario.find(name, settings, overrides)


def make_plan(name: str | None, run_id: str, request: Request, settings: Settings) -> Plan:
    """Decide what a run does.

    Args:
        name: The run's partition key.
        run_id: Airflow's run id.
        request: What it was asked for.
        settings: Where scenario files are.

    Raises:
        ConfigError: The run has no partition key, or the scenario is wrong.
    """
    if not name:
        raise ConfigError("this run has no partition key, so no scenario", do="start atlas_dispatch instead and choose the scenario there")
    chosen = load(name, settings, request)
    orchestration = chosen.orchestration
    return Plan(
        scenario=chosen.name,
        run_id=safe_run_id(run_id),
        params={step: json.dumps(chosen.params(step)) for step in STEPS},
        deploy=request.deploy,
        approval=orchestration.approval,
        approval_timeout_s=orchestration.approval_timeout_s,
        retries=orchestration.retries,
        retry_delay_s=orchestration.retry_delay_s,
        search_tasks=orchestration.search_tasks,
    )


def safe_run_id(run_id: str) -> str:
    """Return a run id that can be a file name, a label and a ledger key; the same for every attempt of the run."""
    return "airflow-" + re.sub(r"[^A-Za-z0-9_.]+", "-", run_id).strip("-")


def has_work(ledger: Ledger, name: str, at_least: int, work: Work | None = None) -> bool:
    """Return whether a run of the scenario should start now.

    It should when enough labelled cases wait (any number before the first model serves), or a committed dataset version never
    got a verdict, and no run holds the scenario.

    Args:
        ledger: Asked for what is not given.
        name: The scenario.
        at_least: Its `ingest.at_least`.
        work: What the ledger has just said.
    """
    work = work or ledger.work(name)
    if work.holder is not None:
        return False
    if work.unfinished or work.claimable >= at_least:
        return True
    return work.claimable > 0 and ledger.champion(name) is None


def summary(blessing: Mapping[str, Any]) -> str:
    """Return the verdict as Markdown, for the person who must approve it."""
    cases = blessing["cases"]
    lines = [
        f"**{'Accepted' if blessing['accepted'] else 'Refused'}** by the gate: `{blessing['model']}`",
        f"against {_code(blessing['baseline']) if blessing['baseline'] else 'nothing: it is the first model'}.",
        "",
        f"Cases: {len(cases['fixed'])} fixed, {len(cases['lost'])} lost.",
        "",
        "| rule | passed | value | limit | interval |",
        "|---|---|---|---|---|",
    ]
    for rule in blessing["rules"]:
        interval = f"{_number(rule['low'])} … {_number(rule['high'])}" if rule["low"] is not None else ""
        cells = [rule["name"], "yes" if rule["passed"] else "**no**", _number(rule["value"]), _number(rule["limit"]), interval]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _code(text: str) -> str:
    return f"`{text}`"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
