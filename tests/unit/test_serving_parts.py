"""The parts of the server, each alone: payload log, policies, limits, start."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ConfigError, DataError
from components.core.ledger import Ledger, NewCase, Prediction
from components.core.settings import Settings
from components.core.store import ArtifactStore
from serving import launch
from serving.capture import Capture
from serving.champion import trial_row
from serving.config import Config
from serving.door import LedgerDoor
from serving.feedback import Feedback, case_id
from serving.items import read_item
from serving.limits import TokenBucket
from serving.metrics import Metrics
from serving.payloads import PayloadLog
from serving.problems import Problem
from serving.spec import Serving

_loader = SourceFileLoader("serving_rig", str(Path(__file__).parents[1] / "serving_rig.py"))
rigs = module_from_spec(spec_from_loader("serving_rig", _loader))  # type: ignore[arg-type]
_loader.exec_module(rigs)
SCENARIO, TASK, TOKEN, item = rigs.SCENARIO, rigs.TASK, rigs.TOKEN, rigs.item


@pytest.fixture
def rig(tmp_path: Path, settings: Settings, store: ArtifactStore, ledger: Ledger) -> Iterator[Any]:
    with ExitStack() as stack:
        yield rigs.Rig(tmp_path, settings, store, ledger, stack)


class TestPayloadLog:
    @pytest.fixture
    def metrics(self) -> Metrics:
        return Metrics()

    def log(self, ledger: Ledger, metrics: Metrics, **bounds: int) -> PayloadLog:
        return PayloadLog(SCENARIO, LedgerDoor(lambda: ledger, metrics), metrics, keep=bounds.pop("keep", 100_000), **bounds)

    def test_the_oldest_go_when_it_is_full(self, ledger: Ledger, metrics: Metrics) -> None:
        log = self.log(ledger, metrics, most=3)
        log.add([prediction(n) for n in range(5)], [])
        assert [log.find(prediction(n).id) is not None for n in range(5)] == [False, False, True, True, True]
        assert log.write() == 3
        assert metrics.registry.get_sample_value("atlas_serving_dropped_total", {"what": "prediction"}) == 2
        assert ledger.prediction(prediction(4).id).payload == prediction(4).payload

    def test_bytes_are_bounded_too(self, ledger: Ledger, metrics: Metrics) -> None:
        size = len(prediction(0).payload)
        log = self.log(ledger, metrics, most_bytes=2 * size)
        log.add([prediction(n) for n in range(5)], [])
        assert log.write() == 2

    def test_one_that_the_ledger_refuses_stops_no_other(self, ledger: Ledger, metrics: Metrics) -> None:
        log = self.log(ledger, metrics)
        log.add([prediction(1), prediction(2, group="\0"), prediction(3)], [])
        log.write()
        assert log.write() == 0
        assert ledger.prediction(prediction(3).id)
        assert metrics.registry.get_sample_value("atlas_serving_dropped_total", {"what": "prediction"}) == 1

    def test_old_predictions_are_pruned(self, ledger: Ledger, metrics: Metrics) -> None:
        log = self.log(ledger, metrics, keep=10)
        log.add([prediction(n) for n in range(1200)], [])
        while log.write():
            pass
        assert ledger.prediction(prediction(1199).id)
        with pytest.raises(DataError, match="no prediction"):
            ledger.prediction(prediction(0).id)

    def test_feedback_finds_what_waits(self, ledger: Ledger, metrics: Metrics) -> None:
        log = self.log(ledger, metrics)
        log.add([prediction(1)], [])
        feedback = Feedback(SCENARIO, TASK, LedgerDoor(lambda: ledger, metrics), log, metrics)
        outcome = feedback.take({"prediction_id": prediction(1).id, "label": "yes"})
        assert (outcome.outcome, outcome.state) == ("case", "labelled")
        assert outcome.case_id == case_id(SCENARIO, prediction(1).content)
        assert ledger.lineage(prediction(1).id)["reported"] == [{"id": outcome.case_id, "state": "labelled"}]
        assert log.write() == 1  # once more: the ledger knows it already

    def test_captured_cases_are_written(self, ledger: Ledger, metrics: Metrics) -> None:
        log = self.log(ledger, metrics)
        one = read_item(TASK, item())
        log.add([], [NewCase(one, "capture"), NewCase(one, "capture")])
        log.write()
        assert [case.state for case in ledger.cases(SCENARIO)] == ["open"]
        assert metrics.registry.get_sample_value("atlas_serving_cases_total", {"source": "capture"}) == 1


def prediction(n: int, group: str = "g") -> Prediction:
    one = read_item(TASK, item(1000 + n))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Prediction(f"{n:032x}", SCENARIO, "Model/x", one.content, group, one.media_type, one.payload, {"label": "no"}, 0.5, now)


class TestPolicies:
    def test_capture_has_an_hourly_budget(self) -> None:
        now = [0.0]
        capture = Capture(0.5, 2, clock=lambda: now[0])
        assert not capture.wants("sure", 0.5)
        assert [capture.wants(content, 0.4) for content in ("a", "a", "b", "c")] == [True, False, True, False]
        now[0] = 3599.0
        assert not capture.wants("d", 0.1)
        now[0] = 3600.0
        assert capture.wants("e", 0.1)

    def test_no_capture_by_default(self) -> None:
        assert not Capture(Serving().capture_below, 100).wants("a", 0.0)

    def test_a_bucket_refills(self) -> None:
        now = [0.0]
        bucket = TokenBucket(10, clock=lambda: now[0])
        for _ in range(20):
            bucket.take()
        with pytest.raises(Problem, match="more than 10 requests"):
            bucket.take()
        now[0] = 0.2
        bucket.take()

    def test_a_streamed_body_is_not_held(self, rig: Any) -> None:
        client = rig.start()
        sent = [0]

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(50):
                sent[0] += 1
                yield bytes(1 << 20)

        response = client.runner.run(client.http.post("/predict", content=parts()))
        assert (response.status_code, response.headers["connection"]) == (413, "close")

    def test_trial_rows_fit_every_task(self) -> None:
        from components.core.params import TextLine

        assert trial_row(TASK) == {"a": None, "b": None}
        assert trial_row(TextLine())["image"].startswith(b"\x89PNG")


ENV = {"ATLAS_SCENARIO_JSON": json.dumps({"name": SCENARIO, "task": TASK.model_dump(mode="json"), "title": "ignored"})}


class TestStart:
    def test_a_whole_environment(self, settings: Settings) -> None:
        env = launch.environment(json.loads(ENV["ATLAS_SCENARIO_JSON"]), settings, base={"ATLAS_TOKEN": TOKEN}, model=f"Model/{'0' * 64}")
        config = Config.from_env(env)
        assert (config.scenario, config.token, config.settings.ledger) == (SCENARIO, TOKEN, settings.ledger)
        assert config.pinned == f"Model/{'0' * 64}"
        assert env["BENTOML_DO_NOT_TRACK"] == "True"
        assert launch.command(3001)[3:9] == ["serve", "serving.service:Atlas", "--host", "127.0.0.1", "--port", "3001"]

    def test_a_large_scenario_goes_by_file(self, settings: Settings) -> None:
        features = {f"feature_with_a_long_name_{n}": "number" for n in range(5000)}
        scenario = {"name": "wide", "task": {"kind": "tabular", "problem": "regression", "features": features}}
        env = launch.environment(scenario, settings, base={})
        assert len(env["ATLAS_SCENARIO_JSON"]) < 500
        assert len(Config.from_env(env).task.features) == 5000  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"ATLAS_SCENARIO_JSON": ""}, "not set"),
            ({"ATLAS_SCENARIO_JSON": "{}"}, "name"),
            ({"ATLAS_SCENARIO_JSON": "@/nowhere.json"}, "can't be read"),
            ({"ATLAS_TOKEN": "short"}, "16"),
            ({"ATLAS_SERVE_MODEL": "latest"}, "not an artifact reference"),
            ({"ATLAS_PREDICT_PER_S": "fast"}, "a number of requests"),
            ({"ATLAS_FEEDBACK_PER_S": "0"}, "a number of requests"),
        ],
    )
    def test_a_wrong_environment(self, change: dict[str, str], says: str) -> None:
        with pytest.raises((ConfigError, DataError), match=says):
            Config.from_env({**ENV, **change})

    def test_launch_says_what_is_wrong(self, capsys: pytest.CaptureFixture[str], settings: Settings) -> None:
        assert launch.main(["--scenario-json", "{}", "--port", "3001"]) == 64
        assert "ATLAS_SCENARIO_JSON" in capsys.readouterr().err
