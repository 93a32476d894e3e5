"""The serving app, without BentoML: predictions, swaps, and life without a ledger."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from components.core.ledger import Ledger
from components.core.settings import Settings
from components.core.store import ArtifactStore
from components.model import load
from serving.spec import Serving


def by_path(name: str) -> Any:
    loader = SourceFileLoader(name, str(Path(__file__).parents[1] / f"{name}.py"))
    module = module_from_spec(spec_from_loader(name, loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    return module


rigs, makers = by_path("serving_rig"), by_path("makers")
SCENARIO, UNLUCKY, item, until = rigs.SCENARIO, rigs.UNLUCKY, rigs.item, rigs.until


@pytest.fixture
def rig(tmp_path: Path, settings: Settings, store: ArtifactStore, ledger: Ledger) -> Iterator[Any]:
    with ExitStack() as stack:
        yield rigs.Rig(tmp_path, settings, store, ledger, stack)


class TestPredict:
    def test_one_item_and_a_batch(self, rig: Any) -> None:
        ref = rig.deploy(rig.model(label="no"))
        client = rig.start()
        one = client.predict()
        assert (one["label"], one["confidence"], one["model"], one["dataset"]) == ("no", 0.9, ref, None)
        many = client.post("/predict", {"items": [item(1), item(2)]}).json()["predictions"]
        assert [p["label"] for p in many] == ["no", "no"]
        assert len({one["prediction_id"], *(p["prediction_id"] for p in many)}) == 3
        assert client.metric(f'atlas_serving_predictions_total{{model="{ref}"}}') == 3
        assert client.metric('atlas_serving_requests_total{route="/predict",status="200"}') == 2

    def test_is_logged_and_can_be_traced(self, rig: Any) -> None:
        ref = rig.deploy(rig.model(label="no"))
        client = rig.start()
        one = client.predict(group="writer 1")
        until(lambda: client.metric("atlas_serving_queue_length") == 0)
        logged = rig.ledger.prediction(one["prediction_id"])
        assert (logged.model, logged.group, logged.answer, logged.confidence) == (ref, "writer 1", {"label": "no"}, 0.9)
        assert json.loads(logged.payload) == {"a": 1.0, "b": "x"}
        assert rig.ledger.lineage(one["prediction_id"])["deployment"]["seq"] == 1

    @pytest.mark.parametrize(
        ("body", "status", "says"),
        [
            (b"{", 400, "not JSON"),
            (b"\xff\xfe", 400, "not JSON"),
            (b'{"features": {"a": NaN, "b": "x"}}', 400, "not JSON"),
            ([], 422, "keys"),
            ({"items": []}, 422, "0 items"),
            ({"items": [item()] * 5}, 422, "5 items"),
            ({"items": [item()], "more": 1}, 422, "nothing else"),
            ({"items": "x"}, 422, "nothing else"),
            ({"items": [item(), item(b=3)]}, 422, "items[1]"),
            ({"items": [item(), item(UNLUCKY)]}, 422, "items[1]: 13"),
            (item(UNLUCKY), 422, "13 can't be read"),
            (item("one"), 422, "finite number"),
            (item(True), 422, "finite number"),
            (item(10**400), 422, ""),
            ({"features": {"a": 1}}, 422, "missing features: b"),
            ({"features": {"a": 1, "b": "x", "c": 1}}, 422, "unknown features: c"),
            (item(group="\0"), 422, "NUL"),
            (b'{"features": {"a": 1, "b": "\\ud800"}}', 400, "not JSON"),
            (b"[" * 9000, 400, "not JSON"),
            (b" " * 10_001, 413, "10000 bytes"),
        ],
    )
    def test_bad_input_is_the_callers_to_mend(self, rig: Any, body: Any, status: int, says: str) -> None:
        rig.deploy(rig.model(label="no"))
        client = rig.start()
        response = client.post("/predict", body)
        assert response.status_code == status, response.text
        assert says in response.json()["error"]
        assert response.json()["do"]
        client.predict()  # and the server goes on

    def test_other_routes(self, rig: Any) -> None:
        ref = rig.deploy(rig.model(label="no"))
        client = rig.start()
        assert client.get("/livez").json() == {"alive": True}
        ready = client.get("/readyz").json()
        assert (ready["ready"], ready["model"], ready["seq"], ready["scenario"]) == (True, ref, 1, SCENARIO)
        assert ref in client.get("/").text
        assert client.get("/predict").status_code == 405
        assert client.get("/nothing").json()["do"] == "see / for the routes"

    def test_a_bad_row_harms_only_its_sender(self, rig: Any) -> None:
        rig.deploy(rig.model(label="no"))
        client = rig.start()
        model = rig.loaded[0]

        async def together() -> list[int]:
            model.hold.clear()
            first = asyncio.create_task(client.http.post("/predict", json=item()))
            await asyncio.to_thread(model.begun.wait, 5)
            rest = [asyncio.create_task(client.http.post("/predict", json=item(a))) for a in (1, UNLUCKY, 3)]
            await asyncio.sleep(0.05)
            model.hold.set()
            return [(await task).status_code for task in (first, *rest)]

        assert client.runner.run(together()) == [200, 200, 422, 200]
        assert 3 in model.batches  # what queued meanwhile was one batch

    def test_without_a_model(self, rig: Any) -> None:
        client = rig.start()
        response = client.post("/predict", item())
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert client.get("/readyz").status_code == 503
        assert "no champion" in client.get("/readyz").json()["error"]
        rig.deploy(rig.model(label="yes"))
        until(lambda: client.get("/readyz").status_code == 200)
        assert client.predict()["label"] == "yes"

    def test_too_many_requests(self, rig: Any) -> None:
        rig.deploy(rig.model(label="no"))
        client = rig.start(predict_per_s=1.0)
        answers = [client.post("/predict", item()) for _ in range(4)]
        assert [answer.status_code for answer in answers[:2]] == [200, 200]
        assert answers[3].status_code == 429
        assert answers[3].headers["retry-after"] == "1"


class TestImages:
    def test_a_real_reader(self, rig: Any) -> None:
        ref = makers.publish(rig.store, "Model", makers.reader).ref
        client = rig.start(task=makers.DIGITS, pinned=ref, serving=Serving(), load=load)
        image = makers.line("407")
        assert client.post("/predict", picture(image)).json()["label"] == "407"
        for broken, says in ((image[:60], "decoded"), (b"GIF89a", "neither PNG nor JPEG"), (b"", "neither")):
            response = client.post("/predict", picture(broken))
            assert response.status_code == 422
            assert says in response.json()["error"]
        assert client.post("/predict", {"image": "!"}).status_code == 422
        both = client.post("/predict", {"items": [picture(image), picture(image[:60])]})
        assert (both.status_code, both.json()["error"][:9]) == (422, "items[1]:")


def picture(image: bytes) -> dict[str, str]:
    return {"image": base64.b64encode(image).decode()}


class TestSwap:
    def test_what_is_in_flight_ends_on_the_old_model(self, rig: Any) -> None:
        old = rig.deploy(rig.model(label="no"))
        client = rig.start()
        model = rig.loaded[0]

        async def across() -> tuple[Any, Any]:
            model.begun.clear()
            model.hold.clear()
            before = asyncio.create_task(client.http.post("/predict", json=item()))
            await asyncio.to_thread(model.begun.wait, 5)
            new = await asyncio.to_thread(rig.deploy, rig.model(label="yes"))
            while client.server.champion.status()["model"] != new:
                await asyncio.sleep(0.02)
            after = asyncio.create_task(client.http.post("/predict", json=item()))
            await asyncio.sleep(0.02)
            model.hold.set()
            return (await before).json(), (await after).json()

        before, after = client.runner.run(across())
        assert (before["label"], before["model"]) == ("no", old)
        assert after["label"] == "yes"
        assert client.metric("atlas_serving_swaps_total") == 1

    def test_a_model_that_fails_leaves_the_old_one(self, rig: Any) -> None:
        old = rig.deploy(rig.model(label="no"))
        client = rig.start()
        broken = rig.deploy(rig.model(broken=True))
        until(lambda: "failed" in client.get("/readyz").json())
        status = client.get("/readyz")
        assert (status.status_code, status.json()["model"]) == (200, old)
        assert status.json()["failed"]["model"] == broken
        assert "broken" in status.json()["failed"]["error"]
        assert client.predict()["model"] == old
        assert client.metric("atlas_serving_load_failures_total") == 1
        rig.ledger.rollback(SCENARIO)
        until(lambda: "failed" not in client.get("/readyz").json())
        assert client.get("/readyz").json()["seq"] == 3

    def test_pinned_writes_nothing(self, rig: Any, tmp_path: Path) -> None:
        model = rig.model(label="yes")
        settings = Settings.from_env({"ATLAS_HOME": str(tmp_path / "other"), "ATLAS_STORE": rig.settings.store})
        client = rig.start(settings=settings, pinned=model.ref)
        assert client.predict()["model"] == model.ref
        assert client.feedback(prediction_id="x", label="no").status_code == 403
        assert not (tmp_path / "other").exists()


class TestLedgerGone:
    def test_predictions_go_on_and_nothing_is_acknowledged(self, rig: Any) -> None:
        rig.deploy(rig.model(label="no"))
        client = rig.start()
        early = client.predict()
        until(lambda: client.metric("atlas_serving_queue_length") == 0)
        rig.ledger.close()
        home, away = rig.settings.home, rig.settings.home.with_name("away")
        home.rename(away)
        try:
            late = client.predict(2)
            response = client.feedback(prediction_id=early["prediction_id"], label="yes")
            assert (response.status_code, "retry-after" in response.headers) == (503, True)
            until(lambda: client.metric("atlas_serving_ledger_up") == 0)
            assert client.get("/readyz").status_code == 200
            assert not home.exists()  # and no empty ledger in its place
        finally:
            away.rename(home)
        until(lambda: client.feedback(prediction_id=early["prediction_id"], label="yes").status_code in (200, 202))
        until(lambda: client.metric("atlas_serving_queue_length") == 0)
        assert rig.ledger.prediction(late["prediction_id"]).answer == {"label": "no"}
        assert len(rig.ledger.cases(SCENARIO)) == 1

    def test_started_before_its_ledger(self, rig: Any, tmp_path: Path) -> None:
        blocked = tmp_path / "file"
        blocked.write_text("")
        settings = Settings.from_env({"ATLAS_HOME": str(blocked / "below"), "ATLAS_STORE": rig.settings.store})
        client = rig.start(settings=settings)
        assert client.get("/readyz").status_code == 503
        assert client.feedback(item=item(), label="yes").status_code == 503
