"""A task of the loop: it knows its step and its wires; scenario, params and references it learns when it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.asset import Dataset, Model
from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from components.core.artifacts import parse_ref
from components.core.errors import AtlasError, ContractError, NothingToDo
from components.core.ledger import Ledger
from components.core.settings import Settings
from components.core.step import load_spec, parse_params, reuse
from components.core.store import open_store
from pipelines.graph import Edge
from pipelines.to_airflow import backends
from pipelines.to_airflow.backends import Call, Child
from pipelines.to_airflow.request import Plan

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = [
    "BEGIN",
    "DATASETS",
    "MODELS",
    "OUTLETS",
    "ScenarioRetry",
    "StepOperator",
    "check_exit",
    "plan_of",
    "refs_of",
    "said_to_airflow",
    "step_operator",
]

BEGIN = "begin"
"""The task whose result is the run's plan."""
DATASETS = Dataset(name="atlas_datasets", uri="atlas://datasets")
MODELS = Model(name="atlas_models", uri="atlas://models")
OUTLETS = {"label_merge": DATASETS, "train": MODELS}
"""Step -> the asset that gets an event when it has made a new version."""
LONGEST_DELAY_S = 600.0


def plan_of(context: Context) -> Plan:
    """Return what the run's first task decided."""
    return Plan.from_xcom(context["ti"].xcom_pull(task_ids=BEGIN))


def refs_of(context: Context, step: str) -> dict[str, str]:
    """Return the references that an earlier step made: port -> KIND/SHA256."""
    refs: dict[str, str] = context["ti"].xcom_pull(task_ids=step)
    return refs


@contextmanager
def said_to_airflow() -> Iterator[None]:
    """Turn our errors, raised in a task's own process, into Airflow's.

    Raises:
        AirflowException: One of the three that `check_exit` raises.
    """
    try:
        yield
    except AtlasError as error:
        check_exit(type(error).__name__, error.exit_code, str(error))


def check_exit(step: str, code: int, last: str) -> None:
    """Turn a step's exit code into what Airflow understands.

    Raises:
        AirflowSkipException: 99, there was nothing to do.
        AirflowFailException: 64, a contract is violated: no retry can help.
        AirflowException: Anything else: try again.
    """
    if code == NothingToDo.exit_code:
        raise AirflowSkipException(last or "nothing to do")
    if code == ContractError.exit_code:
        raise AirflowFailException(f"{step}: {last or 'its contract is violated'}")
    if code != 0:
        raise AirflowException(f"{step} ended with exit code {code}: {last}")


class ScenarioRetry(RetryPolicy):
    """How often and when a task is tried again is the scenario's choice; the DAG's own numbers hold until its code runs."""

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None) -> RetryDecision:
        """Decide after attempt `try_number` (from 1)."""
        plan = _plan_or_none(context)
        if plan is None:
            return RetryDecision.default()
        if try_number > plan.retries:
            return RetryDecision.fail(f"the scenario allows {plan.retries} retries")
        delay_s = min(plan.retry_delay_s * 2 ** (try_number - 1), LONGEST_DELAY_S)
        return RetryDecision.retry(timedelta(seconds=delay_s), "try again")

    def serialize(self) -> dict[str, Any]:
        """Return what Airflow keeps of it: nothing, only the task uses it."""
        return {}


def _plan_or_none(context: Context | None) -> Plan | None:
    if context is None or context["ti"].task_id == BEGIN:
        return None
    return plan_of(context)


class StepOperator(BaseOperator):
    """Runs one step as a subprocess.

    Args:
        step: One of `STEPS`.
        wires: Input port -> the earlier step's output.
        helper: Number of a task that only works with the one that makes the step's outputs (0).
    """

    ui_color = "#d6eaf8"

    def __init__(self, *, step: str, wires: Mapping[str, Edge], helper: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = step
        self.wires = dict(wires)
        self.helper = helper
        self._child: Child | None = None

    def execute(self, context: Context) -> dict[str, str]:
        """Run the step, or take an earlier result; what is returned is port -> reference, nothing else travels."""
        settings = Settings.from_env()
        call = self.call(context)
        if (earlier := _earlier(call, settings)) is not None:
            self.log.info("nothing changed: an earlier result is taken, no process is started")
            return self.made(context, earlier)
        out = backends.out_file(call, settings)
        out.unlink(missing_ok=True)
        self._child = Child(call, settings, out)
        self.check(*self._child.wait(self.log.info))
        return self.made(context, backends.refs(out))

    def check(self, code: int, last: str) -> None:
        """Turn the step's exit code into Airflow's exceptions (`check_exit`); a helper that failed is skipped: nobody waits for it."""
        if self.helper and code:
            raise AirflowSkipException(f"the search goes on without helper {self.helper}: {last}")
        check_exit(self.step, code, last)

    def on_kill(self) -> None:
        """End the step when the task is ended."""
        if self._child is not None:
            self._child.stop()

    def call(self, context: Context) -> Call:
        """Gather what the step needs from the run's plan and the earlier tasks."""
        plan = plan_of(context)
        earlier = {node: refs_of(context, node) for node in sorted({edge.node for edge in self.wires.values()})}
        inputs = {port: earlier[edge.node][edge.port] for port, edge in self.wires.items()}
        return Call(
            self.step, plan.scenario, plan.run_id, json.loads(plan.params[self.step]), inputs, load_spec(self.step).resources, self.helper
        )

    def made(self, context: Context, refs: dict[str, str]) -> dict[str, str]:
        """Tell Airflow's assets of a new dataset or model version; return the step's references."""
        plan = plan_of(context)
        for asset in self.outlets:
            port = "model" if asset == MODELS else "dataset"
            kind, sha256 = parse_ref(refs[port])
            context["outlet_events"][asset].extra = {
                "scenario": plan.scenario,
                "run": plan.run_id,
                "ref": refs[port],
                "kind": kind,
                "sha256": sha256,
            }
        return refs


def _earlier(call: Call, settings: Settings) -> dict[str, str] | None:
    """Return the references of an earlier result with the same key, as `pipelines.local` does; only where steps share this code."""
    spec = load_spec(call.step)
    with said_to_airflow(), Ledger.open(settings.ledger) as ledger:
        ledger.acquire(call.scenario, call.run_id)
        params = parse_params(spec, call.params)
        found = reuse(spec, params, call.inputs, run_id=call.run_id, store=open_store(settings), ledger=ledger)
        return None if found is None else {port: artifact.ref for port, artifact in found.items()}


def step_operator(env: Mapping[str, str] | None = None) -> type[StepOperator]:
    """Return the operator of the backend that `ATLAS_AIRFLOW_BACKEND` names; only that one's libraries are imported."""
    chosen = backends.backend(os.environ if env is None else env)
    if chosen == "docker":
        from pipelines.to_airflow.docker import DockerStep

        return DockerStep
    if chosen == "kubernetes":
        from pipelines.to_airflow.kubernetes import PodStep

        return PodStep
    return StepOperator
