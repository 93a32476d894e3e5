"""The scenarios whose models several processes train: from a first model through its bad cases to a better one that serves."""

from __future__ import annotations

from typing import Any

import pytest

from components.core.artifacts import OBSERVED
from components.core.items import item_from_json
from components.core.ledger import Ledger, NewCase
from components.core.settings import Settings
from components.core.store import open_store
from components.ingest.readers import identities, nodes
from components.model import Predictor, load
from pipelines import scenario
from pipelines.local import run_local
from pipelines.loop import build

pytestmark = pytest.mark.slow

Rows = list[tuple[dict[str, Any], str]]


def face(first: int, last: int) -> Rows:
    rows = identities.compose(first=first, last=last).to_pylist()
    return [({name: value for name, value in row.items() if name.startswith("f")}, row["_label"]) for row in rows]


def graph(first: int, last: int, given: scenario.Scenario) -> Rows:
    options = {**given.ingest.source.options, "first": first, "last": last}
    return [({"node": row["node"]}, row["_label"]) for row in nodes.read(options, None).to_pylist()]


def right(model: Predictor, rows: Rows) -> float:
    answers = model.predict([features for features, _ in rows])
    return sum(answer.label == label for answer, (_, label) in zip(answers, rows, strict=True)) / len(rows)


@pytest.mark.parametrize("name", ["face", "graph"])
def test_the_loop_turns_to_a_better_model(name: str, settings: Settings) -> None:
    given = scenario.find(name, settings)
    small = build(scenario.find(name, settings, {"automl": {"trials": 1}}))
    first = run_local(small, run_id="first", settings=settings)
    assert first["evaluate"]["blessing"].metadata["accepted"]
    store = open_store(settings)
    before = load(store.fetch(first["train"]["model"].ref))
    if name == "face":
        traffic, unseen = face(10, 20), face(20, 24)
        assert list((store.fetch(first["train"]["model"].ref) / OBSERVED).glob("watch-*.html"))
    else:
        traffic, unseen = graph(1000, 2200, given), graph(2200, 3000, given)
    answers = before.predict([features for features, _ in traffic])
    wrong = [row for answer, row in zip(answers, traffic, strict=True) if answer.label != row[1]]
    with Ledger.open(settings.ledger) as ledger:
        ledger.add_cases(
            name,
            [
                NewCase(item=item_from_json(given.task, {"features": features}), source="test", label=label, reviewed=True)
                for features, label in wrong
            ],
        )
    second = run_local(small, run_id="second", settings=settings)
    after = load(store.fetch(second["train"]["model"].ref))
    with Ledger.open(settings.ledger) as ledger:
        champion, counts = ledger.champion(name), ledger.counts(name)
    assert champion is not None
    assert champion.model == second["train"]["model"].ref
    assert counts["closed"] > 0.3 * len(wrong)
    # Few labels more tell little of other nodes; what a node's own label and its neighbours' say is what is gained there.
    assert right(after, unseen) > right(before, unseen) + (0.01 if name == "face" else -0.02)
    assert right(after, traffic) > right(before, traffic) + 0.01
    assert not list((settings.home / "training").glob("*")), "what a training leaves behind is removed"
    print(name, len(wrong), counts, right(before, unseen), right(after, unseen))
