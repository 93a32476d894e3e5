"""The ledger against small models of itself: Hypothesis runs any order of calls on both, and they must agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from components.core.artifacts import Artifact, Kind, digest_of
from components.core.errors import NothingToDo, Refused
from components.core.items import item_from_bytes
from components.core.ledger import Lease, Ledger, NewCase
from components.core.ledger._life import NEXT

_NUMBER = itertools.count(1)
RUNS = st.sampled_from(["r1", "r2", "r3"])
NAMES = st.sampled_from(list("abcdef"))
VALUES = st.sampled_from(["5", "6"])


def artifact(kind: Kind, *content: Any, **metadata: Any) -> Artifact:
    return Artifact(kind, digest_of([kind, *content]), metadata)


def new(name: str, label: str | None, key: str | None = None) -> NewCase:
    return NewCase(item_from_bytes(name.encode(), "application/json"), "feedback", label, key=key)


class Machine(RuleBasedStateMachine):
    """Every example works in a scenario of its own."""

    def __init__(self, ledger: Ledger, clock: Any) -> None:
        super().__init__()
        self.ledger, self.clock = ledger, clock
        self.scenario = f"s{next(_NUMBER)}"

    def refused(self, call: Any) -> None:
        with pytest.raises(Refused):
            call()


class Leases(Machine):
    """Claims and leases with fencing tokens: whoever holds the lease works alone, and no case is committed twice or lost."""

    def __init__(self, ledger: Ledger, clock: Any) -> None:
        super().__init__(ledger, clock)
        self.holder: str | None = None
        self.token, self.until = 0, clock.time
        self.leases: list[Lease] = []
        self.labelled: set[str] = set()
        self.claims: dict[str, tuple[int, list[str]]] = {}
        self.versions: list[tuple[str, str, list[str]]] = []  # ref, run, cases

    @rule(name=NAMES)
    def deliver(self, name: str) -> None:
        receipt = self.ledger.add_case(self.scenario, new(name, "5", key="k"))
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
        dataset = artifact("Dataset", self.scenario, run)
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


class Deployments(Machine):
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
        given = artifact(
            "Blessing", self.scenario, len(self.blessings), model=model, baseline=baseline, accepted=accepted, evaluation_set="e"
        )
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


@dataclass
class _Case:
    state: str = "open"
    keys: set[str] = field(default_factory=set)
    newest: str | None = None
    closed_seq: int = 0

    def label(self, value: str) -> None:
        if not (self.newest == value and self.state in ("merged", "verified", "closed")):
            self.state = "labelled"
        self.newest = value


class Life(Machine):
    """The life of cases, from the first delivery to closed and back."""

    def __init__(self, ledger: Ledger, clock: Any) -> None:
        super().__init__(ledger, clock)
        self.known: dict[str, _Case] = {}
        self.turns = 0

    @rule(name=NAMES, value=st.none() | VALUES, key=st.sampled_from(["k1", "k2", "k3"]))
    def deliver(self, name: str, value: str | None, key: str) -> None:
        receipt = self.ledger.add_case(self.scenario, new(name, value, key))
        assert receipt.created == (receipt.case_id not in self.known)
        case = self.known.setdefault(receipt.case_id, _Case())
        if value is not None and key not in case.keys:
            case.keys.add(key)
            case.label(value)
        assert receipt.state == case.state

    @precondition(lambda self: self.known)
    @rule(data=st.data(), value=VALUES)
    def label(self, data: st.DataObject, value: str) -> None:
        case_id = data.draw(st.sampled_from(list(self.known)))
        number = f"by hand {next(_NUMBER)}"
        self.known[case_id].label(value)
        assert self.ledger.label_case(case_id, value, source="ann", key=number).state == self.known[case_id].state

    @precondition(lambda self: any(case.state == "labelled" for case in self.known.values()))
    @rule(data=st.data(), late=st.booleans())
    def turn(self, data: st.DataObject, late: bool) -> None:
        """One run: claim, merge, and deploy."""
        self.turns += 1
        run = f"{self.scenario}-{self.turns}"
        self.ledger.acquire(self.scenario, run)
        ids = [id for id, case in self.known.items() if case.state == "labelled"]
        assert [case.id for case in self.ledger.claim(self.scenario, run)] == sorted(ids)
        fates = {id: data.draw(st.sampled_from(["merged", "merged", "merged", "held", "quarantined"])) for id in ids}
        if late:  # a label that this run does not see
            self.ledger.label_case(ids[0], "7", source="late", key=run)
            self.known[ids[0]].label("7")
        some = {fate: {id: "why" for id in ids if fates[id] == fate} for fate in ("merged", "held", "quarantined")}
        dataset = artifact("Dataset", run)
        self.ledger.commit_dataset(
            self.scenario, run, dataset, merged=list(some["merged"]), held=some["held"], quarantined=some["quarantined"]
        )
        for id, fate in fates.items():
            self.known[id].state = "labelled" if late and id == ids[0] else fate
        self._deploy(run, data)
        assert self.ledger.release(self.scenario, run)

    def _deploy(self, run: str, data: st.DataObject) -> None:
        champion = self.ledger.champion(self.scenario)
        baseline, expected = (champion.model, champion.seq) if champion else (None, None)
        blessing = artifact("Blessing", run, model=run, baseline=baseline, accepted=True, evaluation_set="e")
        self.ledger.record_blessing(self.scenario, run, blessing)
        members = {case.id for case in self.ledger.merged_cases(self.scenario)}
        merged = [id for id in self.known if id in members]
        right = [id for id in merged if data.draw(st.booleans())]
        wrong = [id for id in merged if id not in right]
        done = self.ledger.deploy(self.scenario, run, model=run, blessing=blessing.ref, expected_seq=expected, right=right, wrong=wrong)
        for id in merged:
            case = self.known[id]
            if id in right and case.state in ("merged", "reopened"):
                case.state, case.closed_seq = "closed", done.seq
            elif id in wrong and case.state == "closed":
                case.state = "reopened"

    @precondition(lambda self: self.turns > 1)
    @rule()
    def roll_back(self) -> None:
        try:
            done = self.ledger.rollback(self.scenario)
        except Refused:
            return
        origin = min(link.seq for link in self.ledger.deployments(self.scenario) if link.model == done.model)
        for case in self.known.values():
            if case.state == "closed" and case.closed_seq > origin:
                case.state = "reopened"

    @invariant()
    def agree(self) -> None:
        cases = {case.id: case for case in self.ledger.cases(self.scenario)}
        assert {id: case.state for id, case in cases.items()} == {id: case.state for id, case in self.known.items()}
        assert sum(self.ledger.counts(self.scenario).values()) == len(cases)
        assert all((case.reason == "why") == (case.state in ("held", "quarantined")) for case in cases.values())

    def teardown(self) -> None:
        for id, case in self.known.items():
            history = self.ledger.history(id)
            assert history[-1].after == case.state
            for before, event in zip([None, *history], history, strict=False):
                assert event.before == (before.after if before else None)
                assert event.after in NEXT[event.before]


class MachinesContract:
    """Subclasses give `url` and how many examples a machine runs: PostgreSQL answers over a socket."""

    examples = 12

    @pytest.fixture
    def ledger(self, url: str, clock: Any) -> Iterator[Ledger]:
        with Ledger.open(url, clock=clock) as opened:
            yield opened

    @pytest.mark.parametrize("machine", [Leases, Deployments, Life])
    def test_it_agrees_with_its_model(self, machine: type[Machine], ledger: Ledger, clock: Any) -> None:
        bounds = settings(
            max_examples=self.examples,
            stateful_step_count=25,
            deadline=None,
            database=None,
            derandomize=True,  # the same examples, and so the same time, at every run
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(lambda: machine(ledger, clock), settings=bounds)


class TestSqlite(MachinesContract):
    examples = 20

    @pytest.fixture
    def url(self, sqlite_url: str) -> str:
        return sqlite_url


class TestPostgres(MachinesContract):
    examples = 10

    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url
