"""A small client of a running Airflow's REST API. No airflow here."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import tenacity

from components.core.errors import ConfigError, ContractError, TryAgain
from components.core.settings import Settings

__all__ = ["PASSWORDS", "Airflow", "LoopRun"]

PASSWORDS = "airflow/simple_auth_manager_passwords.json.generated"
LOOP = "atlas_loop"
DISPATCH = "atlas_dispatch"


@dataclass(frozen=True)
class LoopRun:
    """One run of atlas_loop as Airflow sees it; `scenario` is its partition key."""

    run_id: str
    scenario: str | None
    state: str
    created_at: datetime
    started_at: datetime | None


class Airflow:
    """A running Airflow.

    Args:
        url: Of its API server.
        user: For the simple auth manager.
        password: Likewise.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)
        self._login = {"username": user, "password": password}

    @classmethod
    def of(cls, settings: Settings, url: str = "http://127.0.0.1:8080") -> Airflow:
        """Connect to this installation's Airflow with the password that it generated.

        Raises:
            ConfigError: Airflow has not been started here.
        """
        path = settings.home / PASSWORDS
        try:
            user, password = next(iter(json.loads(path.read_text()).items()))
        except (OSError, ValueError, StopIteration) as error:
            raise ConfigError(f"Airflow's password file {path} can't be read: {error}", do="start Airflow: make up") from error
        return cls(url, user, password)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPStatusError as error:
            text = f"Airflow answers {error.response.status_code}: {error.response.text[:500]}"
            kind = TryAgain if error.response.status_code >= 500 else ContractError
            raise kind(text, do="correct the request" if kind is ContractError else "try again") from error
        except httpx.HTTPError as error:
            raise TryAgain(f"Airflow at {self._client.base_url} can't be reached: {error}", do="start it: make up") from error

    def call(self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON answer of `/api/v2{path}`; a request that fails on Airflow's side (5xx, no answer) is put up to five times.

        What is made by POST must be named in `body`: if a failed request made it all the same, the next is told so (409), and
        that counts as done; None is returned then.

        Raises:
            ContractError: Airflow refuses the request.
            TryAgain: It is not there, or failed.
        """
        with self._said():
            if "Authorization" not in self._client.headers:
                token = self._client.post("/auth/token", json=self._login).raise_for_status().json()["access_token"]
                self._client.headers["Authorization"] = f"Bearer {token}"
            for attempt in _attempts():
                with attempt:
                    answer = self._client.request(method, f"/api/v2{path}", json=body, params=params)
                    if method == "POST" and answer.status_code == httpx.codes.CONFLICT and attempt.retry_state.attempt_number > 1:
                        return None
                    answer.raise_for_status()
        return answer.json() if answer.content else None

    def healthy(self) -> bool:
        """Return whether scheduler, triggerer and DAG processor all beat."""
        try:
            health = self._client.get("/api/v2/monitor/health").raise_for_status().json()
        except httpx.HTTPError:
            return False
        return all(
            (health.get(part) or {}).get("status") == "healthy" for part in ("metadatabase", "scheduler", "triggerer", "dag_processor")
        )

    def wait(self, timeout_s: float) -> None:
        """Wait until Airflow is healthy and has read both DAGs.

        Raises:
            TryAgain: It takes longer than `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.healthy() and {LOOP, DISPATCH} <= {dag["dag_id"] for dag in self.call("GET", "/dags")["dags"]}:
                return
            time.sleep(0.5)
        raise TryAgain(f"Airflow was not ready after {timeout_s:.0f} s", do="see its log")

    def start(self, scenario: str, **params: Any) -> str:
        """Start atlas_dispatch as its form does; return the run's id.

        Args:
            scenario: A name, or `all`.
            params: `trials`, `budget_s`, `approval`, `deploy`.

        Raises:
            ContractError: A param is not valid.
        """
        run = f"asked__{uuid.uuid4()}"
        self.call("POST", f"/dags/{DISPATCH}/dagRuns", {"dag_run_id": run, "logical_date": None, "conf": {"scenario": scenario, **params}})
        return run

    def loops(self, scenario: str | None = None) -> list[LoopRun]:
        """Return the newest 100 runs of atlas_loop, newest first."""
        runs = self.call("GET", f"/dags/{LOOP}/dagRuns", params={"order_by": "-run_after", "limit": 100})["dag_runs"]
        found = [
            LoopRun(run["dag_run_id"], run.get("partition_key"), run["state"], _time(run["run_after"]), _time_or_none(run["start_date"]))
            for run in runs
        ]
        return [run for run in found if scenario in (None, run.scenario)]

    def tasks(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Return the tasks of a loop run: id -> what Airflow knows of it."""
        found = self.call("GET", f"/dags/{LOOP}/dagRuns/{run_id}/taskInstances", params={"limit": 100})["task_instances"]
        return {task["task_id"]: task for task in found}

    def answer(self, run_id: str, option: str) -> None:
        """Answer a loop run's approval: `Approve` or `Reject`.

        Airflow 3.3.2 loses an answer that comes in the first second or so after the question (its executor's report that the
        question was put arrives when the task already runs again); it then puts the question once more.
        """
        self.call(
            "PATCH", f"/dags/{LOOP}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails", {"chosen_options": [option], "params_input": {}}
        )

    def add_pool(self, name: str, slots: int) -> None:
        """Make a pool, unless it is there."""
        known = {pool["name"] for pool in self.call("GET", "/pools", params={"limit": 1000})["pools"]}
        if name not in known:
            self.call("POST", "/pools", {"name": name, "slots": slots, "description": "made for ATLAS"})


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, httpx.ReadTimeout) or (isinstance(error, httpx.HTTPStatusError) and error.response.is_server_error)


def _attempts() -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        stop=tenacity.stop_after_attempt(5),
        wait=tenacity.wait_exponential_jitter(initial=0.2, max=3, jitter=0.2),
        reraise=True,
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _time_or_none(text: str | None) -> datetime | None:
    return _time(text) if text else None
