"""A scenario that searches among networks: from a first model through its bad cases to a better one, which serves."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from components.core.items import item_from_json
from components.core.ledger import Ledger, NewCase
from components.core.settings import Settings
from components.core.store import open_store
from components.ingest.readers import digits
from components.model import load
from pipelines import scenario
from pipelines.local import run_local
from pipelines.loop import build

pytestmark = pytest.mark.slow
MOST = 120_000
CHANGES: dict[str, Any] = {
    "automl": {"trials": 1, "learners": ["recognizer"], "nas": {"epochs": 6, "judged": 20, "max_params": MOST}},
    "train": {"epochs": 12},
}


def test_the_loop_turns_and_the_second_search_goes_on_from_the_first(settings: Settings) -> None:
    given = scenario.find("ocr", settings, CHANGES)
    graph, store = build(given), open_store(settings)
    first = run_local(graph, run_id="first", settings=settings)
    assert first["evaluate"]["blessing"].metadata["accepted"]
    before = load(store.fetch(first["train"]["model"].ref))

    traffic = digits.read({**given.ingest.source.options, "first": 250, "last": 900, "strings": 300, "seed": 7}, None).to_pylist()
    answers = before.predict([{"image": row["image"]} for row in traffic])
    wrong = [row for answer, row in zip(answers, traffic, strict=True) if answer.label != row["_label"]]
    with Ledger.open(settings.ledger) as ledger:
        items = [item_from_json(given.task, {"image": base64.b64encode(row["image"]).decode()}) for row in wrong]
        cases = [NewCase(item=item, source="test", label=row["_label"], reviewed=True) for item, row in zip(items, wrong, strict=True)]
        ledger.add_cases("ocr", cases)
    second = run_local(graph, run_id="second", settings=settings)

    found = [json.loads((store.fetch(out["automl"]["report"].ref) / "architecture.json").read_text()) for out in (first, second)]
    assert [each["start"] for each in found] == [None, first["automl"]["report"].ref]
    assert all(each["found"]["cost"]["params"] <= MOST for each in found)
    with Ledger.open(settings.ledger) as ledger:
        champion, counts = ledger.champion("ocr"), ledger.counts("ocr")
    assert champion is not None
    assert champion.model == second["train"]["model"].ref
    assert counts["closed"] > 0.2 * len(wrong)
    after = load(store.fetch(champion.model))
    assert after.spec.recipe["members"][0]["learner"] == "recognizer"
    right = [
        sum(
            answer.label == row["_label"]
            for answer, row in zip(model.predict([{"image": row["image"]} for row in traffic]), traffic, strict=True)
        )
        for model in (before, after)
    ]
    assert right[1] > right[0]
    print(len(wrong), counts, right, [each["found"]["text"] for each in found])
