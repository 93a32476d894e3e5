"""atlas_loop: the bad-case loop of one scenario; the run's partition key says which.

`begin` fixes the plan and takes the scenario's lease; the steps follow the one wiring of `pipelines.loop`; `gate` shows the
verdict and `approve` asks a person, if wanted, before `deploy`; `finish` gives the lease back, whatever happened. Gate and
approval are views: `deploy` reads the blessing again and refuses without one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, IdentityMapper, PartitionedAssetTimetable, TriggerRule, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from components.core.contract import STEPS
from components.core.ledger import LEASE_TTL_S, Ledger
from components.core.settings import Settings
from components.core.step import load_spec
from components.core.store import open_store
from pipelines.loop import WIRES
from pipelines.to_airflow.dispatch import WORK
from pipelines.to_airflow.operators import BEGIN, OUTLETS, ScenarioRetry, StepOperator, plan_of, refs_of, said_to_airflow, step_operator
from pipelines.to_airflow.policy import LOOP
from pipelines.to_airflow.request import Request, make_plan, summary

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["loop_dag"]

logger = logging.getLogger(__name__)
MOST_RETRIES = 10
"""Bounds the attempts that our code never saw (a restart of Airflow burns some); the others end at the scenario's number."""


def loop_dag(env: Mapping[str, str] | None = None) -> DAG:
    """Build the DAG: one structure for every scenario; `env` (default: the environment) names the backend."""
    operator = step_operator(env)
    with DAG(
        LOOP,
        description="The bad-case loop of one scenario (the partition key).",
        doc_md=__doc__,
        schedule=PartitionedAssetTimetable(assets=WORK, default_partition_mapper=IdentityMapper()),
        catchup=False,
        is_paused_upon_creation=False,
        tags=["atlas"],
        default_args={
            "retries": MOST_RETRIES,
            "retry_delay": timedelta(seconds=30),
            "retry_exponential_backoff": 2,
            "max_retry_delay": timedelta(minutes=10),
            "retry_policy": ScenarioRetry(),
        },
    ) as dag:
        begin, helpers, gate, finish = _begin(), _helpers(), _gate(), _finish()
        begin.as_setup()
        steps = {step: _step(operator, step) for step in STEPS}
        approve = Approval(task_id="approve", subject="Deploy the new model?", defaults="Reject")
        for step, wires in WIRES.items():
            for earlier in sorted({edge.node for edge in wires.values()}):
                if step != "deploy":  # its inputs come from further up; what decides whether it runs is gate and approval alone
                    steps[earlier] >> steps[step]
        begin >> steps["ingest"]
        steps["ingest"] >> helpers
        more = _searchers(operator, helpers)
        [steps[earlier] for earlier in sorted({edge.node for edge in WIRES["automl"].values()})] >> more >> finish
        steps["evaluate"] >> gate >> approve >> steps["deploy"] >> finish.as_teardown()
        gate >> steps["deploy"]
        begin >> finish  # a setup and its teardown: whenever one ran, so does the other
    return dag


def _step(operator: type[StepOperator], step: str) -> StepOperator:
    spec = load_spec(step)
    return operator(
        task_id=step,
        step=step,
        wires=WIRES[step],
        doc_md=spec.summary,
        outlets=[OUTLETS[step]] if step in OUTLETS else [],
        execution_timeout=timedelta(seconds=spec.resources.timeout_s),
        trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS if step == "deploy" else TriggerRule.ALL_SUCCESS,
    )


def _searchers(operator: type[StepOperator], helpers: Any) -> Any:
    """Map tasks that search beside `automl`: as many as the scenario wants, usually none. One that fails is not missed."""
    return operator.partial(
        task_id="automl_helpers",
        step="automl",
        wires=WIRES["automl"],
        doc_md="Works on automl's search from another task, perhaps on another machine.",
        execution_timeout=timedelta(seconds=load_spec("automl").resources.timeout_s),
        retries=0,
        retry_policy=None,
    ).expand(helper=helpers)


@task(task_id="helpers")
def _helpers() -> list[int]:
    """Number the tasks that search beside `automl`."""
    return list(range(1, plan_of(get_current_context()).search_tasks))


@task(task_id=BEGIN)
def _begin() -> dict[str, Any]:
    """Fix the run's plan, take the scenario's lease, tell the ledger."""
    context, settings = get_current_context(), Settings.from_env()
    events = [event for events in context["triggering_asset_events"].values() for event in events]
    request = Request.merged(event.extra for event in sorted(events, key=lambda event: event.timestamp))
    with said_to_airflow():
        plan = make_plan(context["dag_run"].partition_key, context["run_id"], request, settings)
        with Ledger.open(settings.ledger) as ledger:
            ledger.acquire(plan.scenario, plan.run_id)
            ledger.start_run(plan.scenario, plan.run_id, engine="airflow", trigger=request.trigger)
    return plan.to_xcom()


@task.short_circuit(task_id="gate", ignore_downstream_trigger_rules=True)
def _gate() -> bool:
    """Show the verdict; without an accepted blessing, or when no deploy is wanted, skip what follows."""
    context = get_current_context()
    with said_to_airflow():
        blessing = open_store(Settings.from_env()).get(refs_of(context, "evaluate")["blessing"])
    accepted, wanted = bool(blessing.metadata["accepted"]), plan_of(context).deploy
    logger.info("blessing %s: %s; deploy %s", blessing.ref, "accepted" if accepted else "refused", "wanted" if wanted else "not wanted")
    return accepted and wanted


class Approval(ApprovalOperator):
    """Asks a person, with the verdict as text; skipped when neither scenario nor request wants it. No answer is a refusal."""

    def execute(self, context: Context) -> Any:
        """Wait for the answer, in no worker's slot."""
        plan = plan_of(context)
        if not plan.approval:
            raise AirflowSkipException("no approval wanted")
        with said_to_airflow():
            folder = open_store(Settings.from_env()).fetch(refs_of(context, "evaluate")["blessing"])
            with Ledger.open(Settings.from_env().ledger) as ledger:  # nobody renews while a person thinks; `finish` gives it back
                ledger.acquire(plan.scenario, plan.run_id, plan.approval_timeout_s + LEASE_TTL_S)
        self.subject = f"Deploy the new model of {plan.scenario}?"
        self.body = summary(json.loads((folder / "blessing.json").read_text()))
        self.response_timeout = timedelta(seconds=plan.approval_timeout_s)
        return super().execute(context)


@task(task_id="finish")
def _finish() -> str:
    """Record how the run ended and give the lease back, so that the next run can start at once."""
    context = get_current_context()
    plan, run_id = plan_of(context), context["run_id"]
    states = context["ti"].get_task_states(dag_id=LOOP, run_ids=[run_id])[run_id]
    failed = sorted(name for name, state in states.items() if state == "failed")
    state = "failed" if failed else "done" if states.get("evaluate") == "success" else "nothing"
    settings = Settings.from_env()
    with said_to_airflow(), Ledger.open(settings.ledger) as ledger:
        ledger.finish_run(plan.run_id, state, f"failed: {', '.join(failed)}" if failed else "")
        ledger.release(plan.scenario, plan.run_id)
    return state
