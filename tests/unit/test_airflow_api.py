"""The client of Airflow's REST API against a server that fails now and then, as Airflow on SQLite does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from components.core.errors import ContractError, TryAgain
from pipelines.to_airflow.api import Airflow

Server = Callable[..., tuple[Airflow, list[dict[str, Any]]]]


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that gives the statuses in turn, then 200s; and the bodies that it was sent."""
    servers: list[ThreadingHTTPServer] = []

    def serve(*statuses: int) -> tuple[Airflow, list[dict[str, Any]]]:
        left, bodies = list(statuses), []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                token = self.path == "/auth/token"
                if not token:
                    bodies.append(body)
                self.send_response(200 if token or not left else left.pop(0))
                answer = b'{"access_token": "t"}'
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return Airflow(f"http://127.0.0.1:{servers[-1].server_port}", "admin", "secret"), bodies

    yield serve
    for each in servers:
        each.shutdown()
        each.server_close()


def test_a_failed_request_is_put_again_for_the_same_run(server: Server) -> None:
    airflow, bodies = server(500, 503)
    run = airflow.start("credit", trials=3)
    assert [body["dag_run_id"] for body in bodies] == [run] * 3


def test_a_run_that_a_failed_request_made_all_the_same_is_not_made_twice(server: Server) -> None:
    airflow, bodies = server(500, 409)
    assert airflow.start("credit") == bodies[0]["dag_run_id"]


def test_what_is_refused_is_not_put_again(server: Server) -> None:
    airflow, bodies = server(409)
    with pytest.raises(ContractError, match="409"):
        airflow.start("credit")
    assert len(bodies) == 1


@pytest.mark.slow
def test_what_keeps_failing_is_said(server: Server) -> None:
    airflow, bodies = server(*[500] * 9)
    with pytest.raises(TryAgain, match="500"):
        airflow.start("credit")
    assert len(bodies) == 5
