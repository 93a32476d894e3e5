"""What the ledger's contract tests share: short ways to make cases, runs and deployments, the two databases, state machines.

Not a test module; a test loads it by path, because an installed package may own the name `tests`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from components.core.artifacts import Artifact, Kind, digest_of
from components.core.errors import Refused
from components.core.items import Item, item_from_bytes
from components.core.ledger import Case, Ledger, NewCase, Prediction

S = "ocr"
NUMBER = itertools.count(1)


def item(name: str) -> Item:
    return item_from_bytes(name.encode(), "application/json", "writer-1")


def new(name: str, label: str | float | None = None, **rest: Any) -> NewCase:
    return NewCase(item(name), rest.pop("source", "feedback"), label, **rest)


def artifact(kind: Kind, name: str, parents: tuple[str, ...] = (), **metadata: Any) -> Artifact:
    return Artifact(kind, digest_of([kind, name]), metadata, parents)


def committed(ledger: Ledger, run: str, *, merged: bool = True) -> list[Case]:
    """Acquire, claim and commit everything that is labelled; the lease stays with the run."""
    ledger.acquire(S, run)
    claimed = ledger.claim(S, run)
    ids = [case.id for case in claimed]
    held = {} if merged else dict.fromkeys(ids, "two labels")
    ledger.commit_dataset(S, run, artifact("Dataset", run), merged=ids if merged else [], held=held, quarantined={})
    return claimed


def deployed(ledger: Ledger, run: str, right: list[str], wrong: list[str] = []) -> int:  # noqa: B006
    """Train, bless and deploy a model named after the run that holds the lease."""
    head, champion = ledger.head(S), ledger.champion(S)
    model = artifact("Model", run, (head.ref,) if head else ())
    ledger.record_model(S, run, model)
    baseline = champion.model if champion else None
    blessing = artifact("Blessing", run, accepted=True, model=model.ref, baseline=baseline, evaluation_set="e")
    ledger.record_blessing(S, run, blessing)
    expected = champion.seq if champion else None
    done = ledger.deploy(S, run, model=model.ref, blessing=blessing.ref, expected_seq=expected, right=right, wrong=wrong)
    ledger.release(S, run)
    return done.seq


def prediction(ledger: Ledger, id: str, model: str, at: datetime) -> str:
    about = item("a")
    ledger.log_predictions([Prediction(id, S, model, about.content, about.group, about.media_type, about.payload, {"label": "5"}, 0.4, at)])
    return id


class OnSqlite:
    """Fixtures: `url`, an empty ledger; `own_url`, one that a test may spoil; `ledger`, with a clock that tests move."""

    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        return sqlite_url

    @pytest.fixture
    def own_url(self, sqlite_url: str) -> str:
        return sqlite_url

    @pytest.fixture
    def ledger(self, url: str, clock: Any) -> Iterator[Ledger]:
        with Ledger.open(url, clock=clock) as opened:
            yield opened


class OnPostgres:
    """The same on PostgreSQL."""

    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

    @pytest.fixture
    def own_url(self, postgres: Callable[[str], str]) -> str:
        return postgres("template")

    @pytest.fixture
    def ledger(self, url: str, clock: Any) -> Iterator[Ledger]:
        with Ledger.open(url, clock=clock) as opened:
            yield opened


class Machine(RuleBasedStateMachine):
    """Every example works in a scenario of its own."""

    def __init__(self, ledger: Ledger, clock: Any) -> None:
        super().__init__()
        self.ledger, self.clock = ledger, clock
        self.scenario = f"s{next(NUMBER)}"

    def refused(self, call: Any) -> None:
        with pytest.raises(Refused):
            call()

    @classmethod
    def agrees(cls, ledger: Ledger, clock: Any, examples: int) -> None:
        """Run the machine with the ledger; Hypothesis names the shortest run in which they disagree."""
        bounds = settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            database=None,
            derandomize=True,  # the same examples, and so the same time, at every run
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(lambda: cls(ledger, clock), settings=bounds)
