"""atlas_dispatch: an event, a schedule or a person -> one loop run for each scenario that has work.

An event is only a hint that the ledger has changed. Whatever started it, this DAG asks the ledger which scenarios have work
and hands each one, as a partition of the asset `atlas_work`, to atlas_loop.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow.sdk import (
    DAG,
    Asset,
    AssetOrTimeSchedule,
    AssetWatcher,
    MultipleCronTriggerTimetable,
    Param,
    get_current_context,
    get_parsing_context,
    task,
)
from airflow.sdk.exceptions import AirflowSkipException
from croniter import croniter  # type: ignore[import-untyped]

from components.core.errors import AtlasError
from components.core.ledger import Ledger
from components.core.settings import Settings
from pipelines import scenario
from pipelines.airflow_trigger import BadCaseTrigger
from pipelines.to_airflow.operators import said_to_airflow
from pipelines.to_airflow.request import Request, has_work, load

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["CASES", "WORK", "dispatch_dag"]

logger = logging.getLogger(__name__)
CASES = Asset(name="atlas_cases", uri="atlas://cases", watchers=[AssetWatcher(name="atlas_bad_cases", trigger=BadCaseTrigger())])
WORK = Asset(name="atlas_work", uri="atlas://scenarios")
ALL = "all"
AS_SCENARIO = "as the scenario says"
DEFAULT_SWEEP = "*/10 * * * *"


def dispatch_dag(settings: Settings | None = None) -> DAG:
    """Build the DAG; it names every scenario that there is when the file is read."""
    settings = settings or Settings.from_env()
    with DAG(
        "atlas_dispatch",
        description="Bad cases, the clock or a person: starts the loop of each scenario that has work.",
        doc_md=__doc__,
        schedule=AssetOrTimeSchedule(assets=[CASES], timetable=MultipleCronTriggerTimetable(*_sweeps(settings), timezone="UTC")),
        params=_params(settings),
        catchup=False,
        is_paused_upon_creation=False,
        render_template_as_native_obj=False,
        tags=["atlas"],
        default_args={"retries": 3, "retry_delay": 5, "retry_exponential_backoff": 2},
    ) as dag:
        _dispatch()
    return dag


def _params(settings: Settings) -> dict[str, Param]:
    names = [ALL, *scenario.names(settings)]
    return {
        "scenario": Param(ALL, type="string", enum=names, title="Scenario", description="'all' starts those that have work"),
        "trials": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            maximum=100_000,
            title="Trials",
            description="trial budget of the search; empty: the scenario's",
        ),
        "budget_s": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            maximum=604_800,
            title="Budget (s)",
            description="seconds the search may take; empty: the scenario's",
        ),
        "approval": Param(
            AS_SCENARIO,
            type="string",
            enum=[AS_SCENARIO, "yes", "no"],
            title="Approval",
            description="ask a person before the new model goes live",
        ),
        "deploy": Param(True, type="boolean", title="Deploy", description="off: stop after the verdict"),
    }


def _sweeps(settings: Settings) -> list[str]:
    """Return every scenario's cron expression; a broken scenario file must not take the others' DAG away."""
    if get_parsing_context().dag_id is not None:  # a task reads this file for its code only
        return [DEFAULT_SWEEP]
    found = {sweep for name in scenario.names(settings) if (sweep := _sweep(name, settings))}
    return sorted(found) or [DEFAULT_SWEEP]


def _sweep(name: str, settings: Settings) -> str | None:
    try:
        return scenario.find(name, settings).orchestration.sweep
    except AtlasError as error:
        logger.warning("scenario '%s' is left out: %s", name, error)
        return None


@task(task_id="dispatch", outlets=[WORK])
def _dispatch() -> list[str]:
    """Ask the ledger who has work; one partition each."""
    context, settings = get_current_context(), Settings.from_env()
    run, params = context["dag_run"], context["params"]
    how = {"manual": "manual", "scheduled": "schedule"}.get(str(run.run_type.value), "event")
    with said_to_airflow():
        chosen = (
            [params["scenario"]] if params["scenario"] != ALL else _with_work(settings, run.logical_date if how == "schedule" else None)
        )
        for name in chosen:
            load(name, settings)
    if not chosen:
        raise AirflowSkipException("no scenario has work")
    asked = Request(how)
    if how == "manual":
        approval = {"yes": True, "no": False}.get(params["approval"])
        asked = Request(how, trials=params["trials"], budget_s=params["budget_s"], approval=approval, deploy=params["deploy"])
    events = context["outlet_events"][WORK]
    events.extra = asked.to_extra()
    events.add_partitions(chosen)
    return chosen


def _with_work(settings: Settings, swept_at: datetime | None) -> list[str]:
    """Return the scenarios a run should start for now; on a sweep also those that run without cases, when theirs is due."""
    found = []
    with Ledger.open(settings.ledger) as ledger:
        for name in scenario.names(settings):
            work = ledger.work(name)
            if work.holder is not None or (swept_at is None and not work.unfinished and not work.claimable):
                continue
            try:
                chosen = scenario.find(name, settings)
            except AtlasError as error:
                logger.error("scenario '%s' is left out: %s", name, error)
                continue
            due = swept_at is not None and chosen.ingest.mode == "always" and croniter.match(chosen.orchestration.sweep, swept_at)
            if due or has_work(ledger, name, chosen.ingest.at_least, work):
                found.append(name)
    return found
