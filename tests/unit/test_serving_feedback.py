"""Feedback: what becomes a case, what does not, and who may say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import Artifact
from components.core.ledger import Ledger
from components.core.settings import Settings
from components.core.store import ArtifactStore
from serving.spec import Serving

_loader = SourceFileLoader("serving_rig", str(Path(__file__).parents[1] / "serving_rig.py"))
rigs = module_from_spec(spec_from_loader("serving_rig", _loader))  # type: ignore[arg-type]
_loader.exec_module(rigs)
AUTH, SCENARIO, TOKEN, item, until = rigs.AUTH, rigs.SCENARIO, rigs.TOKEN, rigs.item, rigs.until


@pytest.fixture
def rig(tmp_path: Path, settings: Settings, store: ArtifactStore, ledger: Ledger) -> Iterator[Any]:
    with ExitStack() as stack:
        yield rigs.Rig(tmp_path, settings, store, ledger, stack)


class TestFeedback:
    def test_a_wrong_answer_becomes_a_labelled_case(self, rig: Any) -> None:
        rig.deploy(rig.model(label="no"))
        client = rig.start()
        one = client.predict(group="g")
        response = client.feedback(prediction_id=one["prediction_id"], label="yes", reviewed=True)
        assert response.status_code == 202
        told = response.json()
        assert (told["outcome"], told["state"], told["created"]) == ("case", "labelled", True)
        case = rig.ledger.case(told["case_id"])
        assert (case.group, case.prediction_id, case.confidence) == ("g", one["prediction_id"], 0.9)
        assert [(label.value, label.source, label.reviewed) for label in case.labels] == [("yes", "feedback", True)]
        again = client.feedback(prediction_id=one["prediction_id"], label="yes", reviewed=True)
        assert (again.status_code, again.json()["created"]) == (200, False)
        assert len(rig.ledger.case(told["case_id"]).labels) == 1
        assert client.metric('atlas_serving_cases_total{source="feedback"}') == 1

    def test_a_confirmation_is_no_case(self, rig: Any) -> None:
        rig.deploy(rig.model(label="no"))
        client = rig.start()
        one = client.predict()
        response = client.feedback(prediction_id=one["prediction_id"], label="no")
        assert (response.status_code, response.json()["outcome"]) == (200, "confirmed")
        assert rig.ledger.cases(SCENARIO) == []

    def test_a_confirmation_labels_a_captured_case(self, rig: Any) -> None:
        rig.deploy(rig.model(label="no", confidence=0.4))
        client = rig.start(serving=Serving(capture_below=0.5))
        one = client.predict()
        until(lambda: len(rig.ledger.cases(SCENARIO, states=["open"])) == 1)
        told = client.feedback(prediction_id=one["prediction_id"], label="no").json()
        assert (told["outcome"], told["state"], told["created"]) == ("case", "labelled", False)

    def test_a_confirmation_by_a_newer_model_reopens_nothing(self, rig: Any) -> None:
        rig.deploy(rig.model(label="no"))
        client = rig.start()
        wrong = client.predict()
        case = client.feedback(prediction_id=wrong["prediction_id"], label="yes").json()["case_id"]
        rig.ledger.acquire(SCENARIO, "merging")
        rig.ledger.claim(SCENARIO, "merging")
        rig.ledger.commit_dataset(SCENARIO, "merging", Artifact("Dataset", "d" * 64), merged=[case], held={}, quarantined={})
        rig.ledger.release(SCENARIO, "merging")
        rig.deploy(rig.model(label="yes"), right=[case])
        assert rig.ledger.case(case).state == "closed"
        newer = rig.deploy(rig.model(label="yes", confidence=0.8))
        until(lambda: client.get("/readyz").json()["model"] == newer)
        right = client.predict()
        told = client.feedback(prediction_id=right["prediction_id"], label="yes").json()
        assert (told["case_id"], told["state"]) == (case, "closed")
        worse = rig.deploy(rig.model(label="no", confidence=0.7))
        until(lambda: client.get("/readyz").json()["model"] == worse)
        lost = client.predict()
        assert client.feedback(prediction_id=lost["prediction_id"], label="yes").json()["state"] == "reopened"

    def test_an_item_nobody_asked_about(self, rig: Any) -> None:
        client = rig.start()  # not even a model is needed
        told = client.feedback(item=item(5, group="g"), label="yes").json()
        assert told["created"]
        assert rig.ledger.case(told["case_id"]).group == "g"
        assert client.feedback(item=item(5, group="g"), label="yes").json()["created"] is False

    @pytest.mark.parametrize(
        ("body", "status", "says"),
        [
            ({"prediction_id": "PID", "label": "maybe"}, 422, "vocabulary"),
            ({"prediction_id": "PID", "label": ["yes"]}, 422, "vocabulary"),
            ({"prediction_id": "PID"}, 422, "label"),
            ({"label": "yes"}, 422, "either"),
            ({"prediction_id": "PID", "item": item(), "label": "yes"}, 422, "either"),
            ({"prediction_id": "PID", "label": "yes", "author": "me"}, 422, "author"),
            ({"prediction_id": "PID", "label": "yes", "reviewed": "yes"}, 422, "reviewed"),
            ({"prediction_id": "PID", "label": "yes", "id": ""}, 422, "id"),
            ({"prediction_id": "PID", "label": "yes", "id": "\0"}, 422, "id"),
            ({"prediction_id": "f" * 32, "label": "yes"}, 404, "unknown"),
            ({"item": {"features": {}}, "label": "yes"}, 422, "missing"),
            ([], 422, "body"),
            (b"nonsense", 400, "not JSON"),
            (b" " * 10_001, 413, "10000 bytes"),
        ],
    )
    def test_bad_feedback(self, rig: Any, body: Any, status: int, says: str) -> None:
        rig.deploy(rig.model(label="no"))
        client = rig.start()
        pid = client.predict()["prediction_id"]
        if isinstance(body, dict) and body.get("prediction_id") == "PID":
            body = {**body, "prediction_id": pid}
        response = client.post("/feedback", body, AUTH)
        assert response.status_code == status, response.text
        assert says in response.json()["error"]
        assert rig.ledger.cases(SCENARIO) == []

    def test_an_id_is_for_one_label(self, rig: Any) -> None:
        rig.deploy(rig.model(label="no"))
        client = rig.start()
        told = client.feedback(item=item(), label="yes", id="ticket 7")
        assert told.status_code == 202
        assert client.feedback(item=item(), label="yes", id="ticket 7").status_code == 200
        assert client.feedback(item=item(), label="no", id="ticket 7").status_code == 409
        assert [label.key for label in rig.ledger.case(told.json()["case_id"]).labels] == ["ticket 7"]

    @pytest.mark.parametrize(
        ("token", "headers", "status"),
        [
            (TOKEN, {}, 401),
            (TOKEN, {"authorization": "Bearer wrong"}, 401),
            (TOKEN, {"authorization": f"Basic {TOKEN}"}, 401),
            (TOKEN, {"authorization": b"Bearer \xff\xfe"}, 401),
            (None, AUTH, 503),
        ],
    )
    def test_who_may_write(self, rig: Any, token: str | None, headers: dict[str, Any], status: int) -> None:
        client = rig.start(token=token)
        response = client.post("/feedback", {"item": item(), "label": "yes"}, headers)
        assert response.status_code == status
        assert "ATLAS_TOKEN" in response.text
        assert rig.ledger.cases(SCENARIO) == []

    def test_too_much_feedback(self, rig: Any) -> None:
        client = rig.start(feedback_per_s=1.0)
        statuses = [client.feedback(item=item(a), label="yes").status_code for a in range(4)]
        assert statuses[:2] == [202, 202]
        assert 429 in statuses
