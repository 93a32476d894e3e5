"""What the serving tests share: an installation, models to deploy, a fake model for the `load` seam, and a client.

Not a test module; a test loads it by path, because an installed package may own the name `tests`.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from components.core.artifacts import Artifact, describe
from components.core.errors import DataError
from components.core.ledger import Ledger
from components.core.params import Tabular
from components.core.settings import Settings
from components.core.store import ArtifactStore
from components.model import Answer
from serving.app import Server, create_app
from serving.config import Config
from serving.spec import Serving

SCENARIO = "credit"
TASK = Tabular(problem="binary", classes=("no", "yes"), features={"a": "number", "b": "category"})
TOKEN = "0123456789abcdef"
AUTH = {"authorization": f"Bearer {TOKEN}"}
UNLUCKY = 13.0


class FakeModel:
    """Answers one label; rows whose `a` is 13 can't be read, and `hold` stops it in the middle of a batch."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "model.json").read_text())
        if told.get("broken"):
            raise DataError("this model is broken", do="train another")
        self.label: str = told["label"]
        self.confidence: float = told.get("confidence", 0.9)
        self.begun, self.hold = threading.Event(), threading.Event()
        self.hold.set()
        self.batches: list[int] = []

    def check(self, row: Mapping[str, Any]) -> None:
        if row["a"] == UNLUCKY:
            raise DataError("13 can't be read", do="send another number")

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
        self.begun.set()
        assert self.hold.wait(10)
        self.batches.append(len(rows))
        for row in rows:
            self.check(row)
        return [Answer(self.label, self.confidence) for _ in rows]


class Rig:
    """An installation with models to deploy, and servers to talk to."""

    def __init__(self, tmp: Path, settings: Settings, store: ArtifactStore, ledger: Ledger, stack: ExitStack) -> None:
        self.tmp, self.settings, self.store, self.ledger = tmp, settings, store, ledger
        self.loaded: list[FakeModel] = []
        self._stack = stack
        self._runner = stack.enter_context(asyncio.Runner())

    def model(self, **told: Any) -> Artifact:
        folder = self.tmp / f"model-{len(list(self.tmp.glob('model-*')))}"
        folder.mkdir()
        (folder / "model.json").write_text(json.dumps(told))
        artifact = describe(folder, "Model", {}, ())
        self.store.put(folder, artifact)
        return artifact

    def deploy(self, model: Artifact, right: Sequence[str] = ()) -> str:
        champion = self.ledger.champion(SCENARIO)
        run, baseline = f"run-{champion.seq if champion else 0}", champion.model if champion else None
        facts = {"accepted": True, "model": model.ref, "baseline": baseline, "evaluation_set": "0" * 64}
        blessing = Artifact("Blessing", f"{champion.seq if champion else 0:064x}", facts)
        self.ledger.acquire(SCENARIO, run)
        self.ledger.record_model(SCENARIO, run, model)
        self.ledger.record_blessing(SCENARIO, run, blessing)
        seq = champion.seq if champion else None
        self.ledger.deploy(SCENARIO, run, model=model.ref, blessing=blessing.ref, expected_seq=seq, right=right, wrong=[])
        self.ledger.release(SCENARIO, run)
        return model.ref

    def load(self, folder: Path) -> FakeModel:
        self.loaded.append(FakeModel(folder))
        return self.loaded[-1]

    def config(self, **changes: Any) -> Config:
        given: dict[str, Any] = {"scenario": SCENARIO, "task": TASK, "serving": Serving(max_batch=4, max_body_bytes=10_000), "token": TOKEN}
        return Config(**{**given, "settings": self.settings, **changes})

    def start(self, *, load: Callable[[Path], Any] | None = None, **changes: Any) -> Client:
        server: list[Server] = []

        def make() -> Server:
            server.append(Server(self.config(**changes), load=load or self.load))
            return server[0]

        app = create_app(make)
        lifespan = app.router.lifespan_context(app)
        self._runner.run(lifespan.__aenter__())
        self._stack.callback(lambda: self._runner.run(lifespan.__aexit__(None, None, None)))
        return Client(self._runner, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://atlas"), server[0])


class Client:
    """Requests to one server, from outside the event loop."""

    def __init__(self, runner: asyncio.Runner, http: httpx.AsyncClient, server: Server) -> None:
        self.runner, self.http, self.server = runner, http, server

    def get(self, path: str) -> httpx.Response:
        return self.runner.run(self.http.get(path))

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.runner.run(self.http.post(path, content=content, headers=dict(headers or {})))

    def predict(self, a: float = 1.0, **more: Any) -> dict[str, Any]:
        response = self.post("/predict", item(a, **more))
        assert response.status_code == 200, response.text
        return dict(response.json())

    def feedback(self, **body: Any) -> httpx.Response:
        return self.post("/feedback", body, AUTH)

    def metric(self, line: str) -> float:
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        assert found, line
        return float(found[1])


def item(a: Any = 1.0, b: Any = "x", **more: Any) -> dict[str, Any]:
    return {"features": {"a": a, "b": b}, **more}


def until(true: Callable[[], bool]) -> None:
    wait = threading.Event()
    for _ in range(200):
        if true():
            return
        wait.wait(0.025)
    raise AssertionError("it did not become true in 5 s")
