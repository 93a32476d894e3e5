"""The life of cases against a small model of it: any order of calls, and ledger and model must agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from components.core.errors import Refused
from components.core.ledger import Ledger
from components.core.ledger._life import NEXT

_loader = SourceFileLoader("ledger_world", str(Path(__file__).with_name("ledger_world.py")))
world = module_from_spec(spec_from_loader("ledger_world", _loader))  # type: ignore[arg-type]
_loader.exec_module(world)


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


class Life(world.Machine):
    """The life of cases, from the first delivery to closed and back."""

    def __init__(self, ledger: Ledger, clock: Any) -> None:
        super().__init__(ledger, clock)
        self.known: dict[str, _Case] = {}
        self.turns = 0

    @rule(name=st.sampled_from("abcdef"), value=st.none() | st.sampled_from("56"), key=st.sampled_from(["k1", "k2", "k3"]))
    def deliver(self, name: str, value: str | None, key: str) -> None:
        receipt = self.ledger.add_case(self.scenario, world.new(name, value, key=key))
        assert receipt.created == (receipt.case_id not in self.known)
        case = self.known.setdefault(receipt.case_id, _Case())
        if value is not None and key not in case.keys:
            case.keys.add(key)
            case.label(value)
        assert receipt.state == case.state

    @precondition(lambda self: self.known)
    @rule(data=st.data(), value=st.sampled_from("56"))
    def label(self, data: st.DataObject, value: str) -> None:
        case_id = data.draw(st.sampled_from(list(self.known)))
        number = f"by hand {next(world.NUMBER)}"
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
        dataset = world.artifact("Dataset", run)
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
        blessing = world.artifact("Blessing", run, model=run, baseline=baseline, accepted=True, evaluation_set="e")
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
    """Runs on every database; PostgreSQL, which answers over a socket, gets fewer examples."""

    examples: int

    def test_it_agrees_with_its_model(self, ledger: Ledger, clock: Any) -> None:
        Life.agrees(ledger, clock, self.examples)


class TestSqlite(world.OnSqlite, MachinesContract):
    examples = 20


class TestPostgres(world.OnPostgres, MachinesContract):
    examples = 10
