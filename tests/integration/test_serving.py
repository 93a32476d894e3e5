"""A real server: BentoML in its own processes, real ONNX models, a real ledger."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from components.core.artifacts import Artifact, describe
from components.core.ledger import Ledger
from components.core.params import Tabular
from components.core.settings import Settings
from components.core.store import open_store
from components.model import Member, save
from serving import launch

SCENARIO = "credit"
TASK = Tabular(problem="binary", classes=("no", "yes"), features={"a": "number", "b": "number"})
TOKEN = "a token of the integration tests"
AUTH = {"authorization": f"Bearer {TOKEN}"}
TELL = {"name": SCENARIO, "task": TASK.model_dump(mode="json"), "serving": {"max_body_bytes": 1 << 20}}
START_S = 60
MIB = 1 << 20


def onnx_model(bias: float) -> bytes:
    """A two-feature softmax regression: a positive bias says yes to (0, 0), a negative one says no."""
    weights = numpy_helper.from_array(np.array([[-1, 1], [-1, 1]], dtype=np.float32), "w")
    biases = numpy_helper.from_array(np.array([-bias, bias], dtype=np.float32), "b")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    p = helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 2])
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["z"]), helper.make_node("Softmax", ["z"], ["p"], axis=1)]
    graph = helper.make_graph(nodes, "g", [x], [p], [weights, biases])
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    assert onnx.load_from_string(content)
    return content


class Place:
    """An installation with two models."""

    def __init__(self, tmp: Path) -> None:
        self.settings = Settings.from_env({"ATLAS_HOME": str(tmp / "atlas")})
        self.ledger = Ledger.open(self.settings.ledger)
        self.no, self.yes = self._model(tmp / "no", -3.0), self._model(tmp / "yes", 3.0)

    def _model(self, folder: Path, bias: float) -> Artifact:
        folder.mkdir()
        columns = [{"kind": "number", "name": name} for name in TASK.features]
        plan = {"columns": columns}
        member = Member(learner="test", runtime="onnx", file="member-0.onnx", weight=1.0, folds=(1,), preprocessing=plan)
        save(folder, task=TASK, members=[(member, onnx_model(bias))], recipe={}, card="# A model of the tests")
        artifact = describe(folder, "Model", {"learner": "test"}, ())
        open_store(self.settings).put(folder, artifact)
        return artifact

    def deploy(self, model: Artifact) -> None:
        champion = self.ledger.champion(SCENARIO)
        seq, baseline = (champion.seq, champion.model) if champion else (None, None)
        blessing = Artifact(
            "Blessing", f"{seq or 0:064x}", {"accepted": True, "model": model.ref, "baseline": baseline, "evaluation_set": "0" * 64}
        )
        self.ledger.acquire(SCENARIO, "run")
        self.ledger.record_model(SCENARIO, "run", model)
        self.ledger.record_blessing(SCENARIO, "run", blessing)
        self.ledger.deploy(SCENARIO, "run", model=model.ref, blessing=blessing.ref, expected_seq=seq, right=[], wrong=[])
        self.ledger.release(SCENARIO, "run")


class Served:
    """A server's process and a client of it."""

    def __init__(self, settings: Settings, *more: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        path = settings.home / "scenario.json"
        path.write_text(json.dumps(TELL))
        line = [sys.executable, "-m", "serving.launch", "--scenario-json", f"@{path}", "--port", str(port), *more]
        root = str(Path(launch.__file__).parent.parent)
        env = {**os.environ, **settings.env(), "ATLAS_TOKEN": TOKEN, "PYTHONPATH": root}
        self.log = settings.home / f"server-{port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(line, env=env, cwd=settings.home, stdout=log, stderr=log)
        self.http = httpx.Client(base_url=self.url, timeout=20)
        self.wait()

    def wait(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if self.http.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def worker(self) -> psutil.Process:
        return psutil.Process(self.process.pid).children(recursive=True)[0]

    def predict(self, a: float = 0.0) -> dict[str, Any]:
        response = self.http.post("/predict", json={"features": {"a": a, "b": 0.0}})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def feedback(self, body: Mapping[str, Any], headers: Mapping[str, str] = AUTH) -> httpx.Response:
        return self.http.post("/feedback", json=body, headers=headers)

    def stop(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("place"))
    made.deploy(made.no)
    yield made
    made.ledger.close()


@pytest.fixture(scope="module")
def served(place: Place) -> Iterator[Served]:
    server = Served(place.settings)
    yield server
    server.stop()


def test_a_prediction_its_correction_and_the_case(place: Place, served: Served) -> None:
    one = served.predict()
    assert (one["label"], one["model"]) == ("no", place.no.ref)
    assert served.feedback({"prediction_id": one["prediction_id"], "label": "yes"}, {}).status_code == 401
    told = served.feedback({"prediction_id": one["prediction_id"], "label": "yes"})
    assert told.status_code == 202, told.text
    case = place.ledger.case(told.json()["case_id"])
    assert (case.state, case.prediction_id, case.labels[0].value) == ("labelled", one["prediction_id"], "yes")
    assert place.ledger.lineage(one["prediction_id"])["deployment"]["seq"] == 1
    assert "atlas_serving_cases_total" in served.http.get("/metrics").text


def test_champions_change_under_load_and_no_request_fails(place: Place, served: Served) -> None:
    refs = {place.no.ref: "no", place.yes.ref: "yes"}
    seen: Counter[tuple[int, str]] = Counter()
    done = threading.Event()
    lock = threading.Lock()
    visible: dict[str, float] = {}

    def ask() -> None:
        with httpx.Client(base_url=served.url, timeout=20) as http:
            while not done.is_set():
                response = http.post("/predict", json={"features": {"a": 0.0, "b": 0.0}})
                told = response.json()
                right = refs.get(told.get("model")) == told.get("label")
                with lock:
                    seen[response.status_code, told["model"] if right else "neither"] += 1
                    visible.setdefault(told["model"], time.monotonic())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    waits = []
    for turn in range(4):
        time.sleep(0.5)
        visible.clear()
        next_ = place.yes if turn % 2 == 0 else place.no
        place.deploy(next_)
        moved = time.monotonic()
        while next_.ref not in visible and time.monotonic() < moved + 10:
            time.sleep(0.01)
        waits.append(visible[next_.ref] - moved)
    done.set()
    for thread in threads:
        thread.join()
    assert set(seen) == {(200, place.no.ref), (200, place.yes.ref)}, seen
    assert sum(seen.values()) > 300
    assert max(waits) < 2, waits


def test_a_body_of_50_mb_is_refused_and_not_held(served: Served) -> None:
    worker = served.worker()
    before = worker.memory_info().rss

    def parts() -> Iterator[bytes]:
        for _ in range(50):
            yield bytes(MIB)

    most = 0
    for body in (bytes(50 * MIB), parts()):  # with its length, and chunked
        answers: list[httpx.Response] = []
        sending = threading.Thread(target=lambda a=answers, b=body: a.append(served.http.post("/predict", content=b)))
        sending.start()
        while sending.is_alive():
            most = max(most, worker.memory_info().rss)
            time.sleep(0.002)
        assert answers[0].status_code == 413
        assert "1048576 bytes" in answers[0].json()["error"]
    assert most - before < 16 * MIB, (most - before) / MIB
    assert served.feedback({"item": {"features": {"a": 1, "b": 1}}, "label": "x" * 2 * MIB}).status_code == 413


def test_the_ledger_goes_and_comes_back(place: Place, served: Served) -> None:
    early = served.predict(0.25)
    time.sleep(0.3)
    place.ledger.close()
    home = place.settings.home
    away = home.with_name("away")
    home.rename(away)
    try:
        assert served.predict(0.5)["label"] in TASK.classes
        wrong = {"no": "yes", "yes": "no"}[early["label"]]
        refused = served.feedback({"prediction_id": early["prediction_id"], "label": wrong})
        assert (refused.status_code, "retry-after" in refused.headers, "do" in refused.json()) == (503, True, True)
        assert served.http.get("/readyz").status_code == 200
    finally:
        away.rename(home)
    end = time.monotonic() + 10
    while served.feedback({"prediction_id": early["prediction_id"], "label": wrong}).status_code not in (200, 202):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_an_acknowledged_correction_outlives_the_server(place: Place, served: Served) -> None:
    acknowledged = []
    for turn in range(3):
        one = served.predict(10.0 + turn)
        assert one["label"] == "yes"
        told = served.feedback({"prediction_id": one["prediction_id"], "label": "no"})
        acknowledged.append((told.json()["case_id"], one["prediction_id"]))
    served.worker().kill()
    for case, prediction in acknowledged:
        assert place.ledger.case(case).labels[0].value == "no"
        assert place.ledger.lineage(prediction)["reported"][0]["id"] == case
    served.http.close()
    served.http = httpx.Client(base_url=served.url, timeout=20)
    served.wait()  # BentoML's supervisor looks every ten seconds; requests wait at its socket meanwhile


def test_a_challenger_is_tried_apart(place: Place) -> None:
    apart = Settings.from_env({"ATLAS_HOME": str(place.settings.home.with_name("apart")), "ATLAS_STORE": place.settings.store})
    apart.home.mkdir()
    server = Served(apart, "--model", place.yes.ref)
    assert server.predict()["model"] == place.yes.ref
    assert server.feedback({"item": {"features": {"a": 1, "b": 1}}, "label": "no"}).status_code == 403
    assert not (apart.home / "ledger.db").exists()
    worker = server.worker()
    os.kill(server.process.pid, signal.SIGKILL)  # whoever started it may die like that: nothing must stay behind
    worker.wait(5)
    server.stop()


def test_a_client_that_stalls_is_answered(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as stalled:
        stalled.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert stalled.recv(100).startswith(b"HTTP/1.1 504")
    served.predict()


def test_a_server_that_is_stopped_writes_what_waits(place: Place, served: Served) -> None:
    asked = [served.predict(100.0 + n)["prediction_id"] for n in range(50)]
    served.stop()
    assert served.process.returncode == 0
    for prediction_id in asked:
        assert place.ledger.prediction(prediction_id)
