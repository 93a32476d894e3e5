"""The ASGI app: five routes, one way in (limits, then the body) and one way out (JSON, a metric, never a traceback)."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from components.core.errors import AtlasError
from components.core.ledger import Ledger, NewCase, Prediction
from components.core.store import open_store
from components.model import load as load_model
from serving.batcher import Batcher
from serving.capture import Capture
from serving.champion import Champion, Live, Predicts
from serving.config import TOKEN, Config
from serving.door import LedgerDoor, sqlite_file
from serving.feedback import Feedback, Outcome
from serving.items import read_items, read_json
from serving.limits import TokenBucket, check_token, read_body
from serving.metrics import Metrics
from serving.page import render
from serving.payloads import PayloadLog
from serving.problems import Problem, answer, from_error

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from components.core.items import Item
    from components.model import Answer

__all__ = ["Server", "create_app"]

_log = logging.getLogger(__name__)
_ANSWER_S = 2.8
"""Less than BentoML's own timeout, so that the answer is ours and is counted."""
_FEEDBACK_S = 2.5
_FEEDBACK_THREADS = 4
_FEEDBACK_WAITING = 256
Endpoint = Callable[["Request"], Awaitable[Response]]


class Server:
    """Everything behind the routes, wired once.

    Args:
        config: See `Config.from_env`.
        load: Folder -> predictor; the seam where tests put a model of their own.
    """

    def __init__(self, config: Config, load: Callable[[Path], Predicts] | None = None) -> None:
        self.config = config
        self.metrics = Metrics()
        settings, serving = config.settings, config.serving
        self.door = LedgerDoor(lambda: Ledger.open(settings.ledger), self.metrics, sqlite_file(settings.ledger))
        self.champion = Champion(
            config.scenario,
            config.task,
            door=self.door,
            store=open_store(settings),
            load=load or load_model,
            metrics=self.metrics,
            pinned=config.pinned,
        )
        self.batcher = Batcher(lambda: self.champion.live)
        self.payloads = PayloadLog(config.scenario, self.door, self.metrics, keep=serving.keep_predictions)
        self.capture = Capture(serving.capture_below, serving.capture_per_hour)
        self._feedback = Feedback(config.scenario, config.task, self.door, self.payloads, self.metrics)
        self._predict_rate = TokenBucket(config.predict_per_s)
        self._feedback_rate = TokenBucket(config.feedback_per_s)
        self._threads = ThreadPoolExecutor(_FEEDBACK_THREADS, thread_name_prefix="feedback")
        self._feedback_waiting = 0

    async def start(self) -> None:
        """Load the champion, if there is one, and start the background work."""
        await asyncio.to_thread(self.champion.start)
        if self.config.pinned is None:
            self.payloads.start()

    async def stop(self) -> None:
        """Finish what was begun and write what waits."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self.champion.stop()
        self.batcher.close()
        self._threads.shutdown(wait=True)
        self.payloads.stop()
        self.door.close()

    async def predict(self, request: Request) -> Response:
        """`POST /predict`: one item, or `{"items": […]}`."""
        self._predict_rate.take()
        given = read_json(await read_body(request, self.config.serving.max_body_bytes))
        items, many = read_items(self.config.task, given, self.config.serving.max_batch)
        answers, live = await self.batcher.predict([item.row() for item in items])
        ids = [uuid.uuid4().hex for _ in items]
        self.metrics.predictions.labels(live.model).inc(len(items))
        if self.config.pinned is None:
            self._remember(items, ids, answers, live)
        found = [
            {"prediction_id": id_, "label": a.label, "confidence": a.confidence, "model": live.model, "dataset": live.dataset}
            for id_, a in zip(ids, answers, strict=True)
        ]
        return answer({"predictions": found} if many else found[0])

    async def feedback(self, request: Request) -> Response:
        """`POST /feedback`: the right answer."""
        if self.config.pinned is not None:
            raise Problem(403, "this server tries one model and writes nothing", do="send feedback to the scenario's own server")
        check_token(request, self.config.token, TOKEN)
        self._feedback_rate.take()
        given = read_json(await read_body(request, self.config.serving.max_body_bytes))
        if self._feedback_waiting >= _FEEDBACK_WAITING:
            raise Problem(503, f"{self._feedback_waiting} feedbacks are waiting for the ledger", do="send it again", retry_after_s=1)
        self._feedback_waiting += 1
        taking = asyncio.get_running_loop().run_in_executor(self._threads, self._feedback.take, given)
        taking.add_done_callback(self._taken)
        try:
            outcome = await asyncio.wait_for(asyncio.shield(taking), _FEEDBACK_S)
        except TimeoutError:
            raise Problem(
                503, f"the ledger did not answer in {_FEEDBACK_S} s", do="send it again: it counts once", retry_after_s=2
            ) from None
        return answer(outcome.as_json(), 202 if outcome.created else 200)

    async def livez(self, request: Request) -> Response:
        """`GET /livez`: the process answers."""
        return answer({"alive": True})

    async def readyz(self, request: Request) -> Response:
        """`GET /readyz`: a model is loaded."""
        status = self.champion.status()
        return answer(
            {"scenario": self.config.scenario, "pinned": self.config.pinned is not None, **status}, 200 if status["ready"] else 503
        )

    async def metrics_(self, request: Request) -> Response:
        """`GET /metrics`: for Prometheus."""
        self.metrics.waiting.set(self.batcher.waiting)
        return Response(self.metrics.render(), media_type="text/plain; version=0.0.4")

    async def index(self, request: Request) -> Response:
        """`GET /`: for people."""
        return HTMLResponse(render(self.config, self.champion.status(), str(request.base_url)))

    def _taken(self, taking: asyncio.Future[Outcome]) -> None:
        self._feedback_waiting -= 1
        if not taking.cancelled():
            taking.exception()  # whoever waited has been told, or has gone

    def _remember(self, items: list[Item], ids: list[str], answers: list[Answer], live: Live) -> None:
        now = datetime.now(UTC)
        predictions, cases = [], []
        for item, id_, found in zip(items, ids, answers, strict=True):
            predictions.append(
                Prediction(
                    id=id_,
                    scenario=self.config.scenario,
                    model=live.model,
                    content=item.content,
                    group=item.group,
                    media_type=item.media_type,
                    payload=item.payload,
                    answer={"label": found.label},
                    confidence=found.confidence,
                    created_at=now,
                )
            )
            if self.capture.wants(item.content, found.confidence):
                cases.append(NewCase(item, "capture", prediction_id=id_, confidence=found.confidence))
        self.payloads.add(predictions, cases)


def create_app(make: Callable[[], Server] | None = None) -> Starlette:
    """Return the app; the server behind it is made when the app starts.

    Args:
        make: Makes the server; by default from the environment.
    """
    servers: list[Server] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        server = make() if make else Server(Config.from_env())
        await server.start()
        servers[:] = [server]
        try:
            yield
        finally:
            await server.stop()

    def guarded(path: str, choose: Callable[[Server], Endpoint]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            if not servers:
                return Problem(503, "the server is starting", do="try again", retry_after_s=1).response()
            began = time.perf_counter()
            response = await _guard(choose(servers[0]), request)
            metrics = servers[0].metrics
            metrics.requests.labels(path, str(response.status_code)).inc()
            metrics.latency.labels(path).observe(time.perf_counter() - began)
            return response

        return endpoint

    return Starlette(
        routes=[
            Route("/predict", guarded("/predict", lambda server: server.predict), methods=["POST"]),
            Route("/feedback", guarded("/feedback", lambda server: server.feedback), methods=["POST"]),
            Route("/livez", guarded("/livez", lambda server: server.livez)),
            Route("/readyz", guarded("/readyz", lambda server: server.readyz)),
            Route("/metrics", guarded("/metrics", lambda server: server.metrics_)),
            Route("/", guarded("/", lambda server: server.index)),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: _no_such_route},
    )


async def _guard(endpoint: Endpoint, request: Request) -> Response:
    try:
        async with asyncio.timeout(_ANSWER_S):
            return await endpoint(request)
    except Problem as problem:
        return problem.response()
    except TimeoutError:
        return Problem(504, f"there was no answer within {_ANSWER_S} s", do="send less at once, or faster", retry_after_s=1).response()
    except AtlasError as error:
        return from_error(error).response()
    except ClientDisconnect:
        return Problem(400, "the connection ended before the body did", do="send the whole body").response()
    except Exception:
        _log.exception("%s %s failed", request.method, request.url.path)
        return Problem(
            500, "the server failed; this is not your request's fault", do="try again; the server's log has the details"
        ).response()


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return Problem(status, f"there is no {request.method} {request.url.path}", do="see / for the routes").response()
