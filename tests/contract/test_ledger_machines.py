"""Leases, claims and deployments against small models of them: any order of calls, and ledger and model must agree."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from components.core.errors import NothingToDo
from components.core.ledger import Lease, Ledger

_loader = SourceFileLoader("ledger_world", str(Path(__file__).with_name("ledger_world.py")))
world = module_from_spec(spec_from_loader("ledger_world", _loader))  # type: ignore[arg-type]
_loader.exec_module(world)

RUNS = st.sampled_from(["r1", "r2", "r3"])


class Leases(world.Machine):
    """Claims and leases with fencing tokens: whoever holds the lease works alone, and no case is committed twice or lost."""

    def __init__(self, ledger: Ledger, clock: Any) -> None:
        super().__init__(ledger, clock)
        self.holder: str | None = None
        self.token, self.until = 0, clock.time
        self.leases: list[Lease] = []
        self.labelled: set[str] = set()
        self.claims: dict[str, tuple[int, list[str]]] = {}
        self.versions: list[tuple[str, str, list[str]]] = []  # ref, run, cases

    @rule(name=st.sampled_from("abcdef"))
    def deliver(self, name: str) -> None:
        receipt = self.ledger.add_case(self.scenario, world.new(name, "5", key="k"))
        if receipt.created:
            self.labelled.add(receipt.case_id)

    @rule(seconds=st.integers(1, 15))
    def wait(self, seconds: int) -> None:
        self.clock.move(seconds)

    @rule(run=RUNS, ttl_s=st.sampled_from([5, 20]))
    def acquire(self, run: str, ttl_s: int) -> None:
        if self.holder not in (None, run) and self.until > self.clock.time:
            with pytest.raises(NothingToDo):
                self.ledger.acquire(self.scenario, run, ttl_s)
            return
        self.token += self.holder != run
        self.holder = run
        lease = self.ledger.acquire(self.scenario, run, ttl_s)
        assert (lease.token, lease.run_id) == (self.token, run)
        self.until = lease.expires_at
        self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        if (self.holder, self.token) != (lease.run_id, lease.token):
            self.refused(lambda: self.ledger.renew(lease))
            return
        self.until = self.ledger.renew(lease).expires_at

    @rule(run=RUNS)
    def release(self, run: str) -> None:
        assert self.ledger.release(self.scenario, run) == (self.holder == run)
        self.holder = None if self.holder == run else self.holder

    def _moved(self, run: str) -> bool:
        """Whether another run committed since this one claimed."""
        return any(other != run for _, other, _ in self.versions[self.claims[run][0] :])

    @rule(run=RUNS)
    def claim(self, run: str) -> None:
        if self.holder != run or (run in self.claims and self._moved(run)):
            self.refused(lambda: self.ledger.claim(self.scenario, run))
            return
        self.claims.setdefault(run, (len(self.versions), sorted(self.labelled)))
        assert [case.id for case in self.ledger.claim(self.scenario, run)] == self.claims[run][1]

    @rule(run=RUNS)
    @precondition(lambda self: self.claims)
    def commit(self, run: str) -> None:
        if run not in self.claims:
            return
        cases = self.claims[run][1]
        dataset = world.artifact("Dataset", f"{self.scenario} {run}")
        known = [ref for ref, _, _ in self.versions]
        if self.holder != run or (dataset.ref not in known and self._moved(run)):
            self.refused(lambda: self.ledger.commit_dataset(self.scenario, run, dataset, merged=cases, held={}, quarantined={}))
            return
        version = self.ledger.commit_dataset(self.scenario, run, dataset, merged=cases, held={}, quarantined={})
        if dataset.ref not in known:
            self.versions.append((dataset.ref, run, cases))
            self.labelled -= set(cases)
        assert version.ref == dataset.ref
        assert list(version.cases) == cases

    @invariant()
    def agree(self) -> None:
        lease = self.ledger.lease(self.scenario)
        alive = self.holder is not None and self.until > self.clock.time
        assert (lease and (lease.run_id, lease.token)) == ((self.holder, self.token) if alive else None)
        chain = self.ledger.dataset_versions(self.scenario)
        assert [(version.seq, version.ref, version.run_id, list(version.cases)) for version in chain] == [
            (seq, *version) for seq, version in enumerate(self.versions, 1)
        ]
        members = [case for version in chain for case in version.cases]
        assert len(members) == len(set(members))
        assert {case.id for case in self.ledger.cases(self.scenario, states=["labelled"])} == self.labelled
        claimed = set(self.claims[self.holder][1]) if alive and self.holder in self.claims else set()
        assert self.ledger.work(self.scenario).claimable == len(self.labelled - claimed)


@dataclass
class _Link:
    model: str
    blessing: str | None
    run: str | None
    restores: int | None = None


class Deployments(world.Machine):
    """The serving history: linear, moved by compare-and-swap and rollback only."""

    def __init__(self, ledger: Ledger, clock: Any) -> None:
        super().__init__(ledger, clock)
        self.holder: str | None = None
        self.chain: list[_Link] = []
        self.blessings: list[tuple[str, str, str | None, bool]] = []  # ref, model, baseline, accepted

    @rule(run=RUNS)
    def take_over(self, run: str) -> None:
        self.clock.move(1000)
        self.ledger.acquire(self.scenario, run)
        self.holder = run

    @rule(model=st.sampled_from(["m1", "m2", "m3"]), serving=st.booleans(), accepted=st.sampled_from([True, True, False]))
    def bless(self, model: str, serving: bool, accepted: bool) -> None:
        baseline = (self.chain[-1].model if self.chain else None) if serving else "m3"
        name = f"{self.scenario} {len(self.blessings)}"
        given = world.artifact("Blessing", name, model=model, baseline=baseline, accepted=accepted, evaluation_set="e")
        self.ledger.record_blessing(self.scenario, "r1", given)
        self.blessings.append((given.ref, model, baseline, accepted))

    @precondition(lambda self: self.blessings)
    @rule(run=RUNS, stale=st.integers(0, 2), other_model=st.sampled_from([False, False, True]), data=st.data())
    def deploy(self, run: str, stale: int, other_model: bool, data: st.DataObject) -> None:
        ref, model, baseline, accepted = data.draw(st.sampled_from(self.blessings[-3:]))
        model = "m9" if other_model else model
        last = self.chain[-1] if self.chain else None
        expected = (len(self.chain) - (stale == 2)) or None

        def call() -> Any:
            return self.ledger.deploy(self.scenario, run, model=model, blessing=ref, expected_seq=expected, right=[], wrong=[])

        repeated = last is not None and (last.run, last.model, last.blessing) == (run, model, ref)
        fits = accepted and not other_model and baseline == (last.model if last else None) and expected == (len(self.chain) or None)
        if self.holder != run or not (repeated or fits):
            self.refused(call)
            return
        if not repeated:
            self.chain.append(_Link(model, ref, run))
        assert call().seq == len(self.chain)

    @rule(to_seq=st.none() | st.integers(1, 6))
    def roll_back(self, to_seq: int | None) -> None:
        if to_seq is not None and to_seq > len(self.chain):
            return
        last = self.chain[-1] if self.chain else None
        origin = (last.restores or len(self.chain)) if last else 0
        wanted = [to_seq] if to_seq else range(origin - 1, 0, -1)
        target = next((seq for seq in wanted if last and self.chain[seq - 1].model != last.model), None)
        if target is None:
            self.refused(lambda: self.ledger.rollback(self.scenario, to_seq=to_seq))
            return
        link = self.chain[target - 1]
        self.chain.append(_Link(link.model, link.blessing, None, link.restores or target))
        assert self.ledger.rollback(self.scenario, to_seq=to_seq).model == link.model

    @invariant()
    def agree(self) -> None:
        history = self.ledger.deployments(self.scenario)
        assert [(link.seq, link.previous, link.model, link.blessing, link.run_id) for link in history] == [
            (seq, seq - 1 or None, link.model, link.blessing, link.run) for seq, link in enumerate(self.chain, 1)
        ]
        assert self.ledger.champion(self.scenario) == (history[-1] if history else None)


class MachinesContract:
    """Runs on every database; PostgreSQL, which answers over a socket, gets fewer examples."""

    examples: int

    @pytest.mark.parametrize("machine", [Leases, Deployments])
    def test_it_agrees_with_its_model(self, machine: Any, ledger: Ledger, clock: Any) -> None:
        machine.agrees(ledger, clock, self.examples)


class TestSqlite(world.OnSqlite, MachinesContract):
    examples = 20


class TestPostgres(world.OnPostgres, MachinesContract):
    examples = 10
