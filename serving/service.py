"""The BentoML service: `bentoml serve serving.service:Atlas`. Start it with `serving.launch`, which sets the environment."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

# BentoML's workers share metrics through files; this one has its own registry, and one worker.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import bentoml

from components.core.log import setup
from serving.app import create_app

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Atlas"]

setup()
ours = create_app()


class _Straight:
    """Hands every request to our app: BentoML's own `/readyz`, `/livez` and index know nothing of models and cases."""

    def __init__(self, app: ASGIApp) -> None:
        self._bentoml = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (ours if scope["type"] == "http" else self._bentoml)(scope, receive, send)


# BentoML's timeout never cancels its timer, so each request is kept until it fires: 3 s, not the default 60. Our app counts
# what matters itself; a mounted app without BentoML's access log and metrics was measured at three times the requests a second.
@bentoml.service(
    name="atlas",
    workers=1,
    traffic={"timeout": 3},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(ours, path="/")
class Atlas:
    """Serves the champion of one scenario."""

    def __init__(self) -> None:
        threading.Thread(target=_end_with, args=(os.getppid(),), name="orphan", daemon=True).start()


Atlas.add_asgi_middleware(_Straight)  # type: ignore[attr-defined, unused-ignore]


def _end_with(parent: int) -> None:
    """End when the supervisor was killed: an orphan would hold the port and serve an old model for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
