"""`atlas demo`: the main job, from nothing, on real handwriting, with the real parts.

A first OCR model learns from the first writers of scikit-learn's digits and serves. Later writers are its traffic; what it
misreads is reported to `/feedback`. Airflow, running beside it, sees the bad cases arrive and turns the loop; the better model
goes live while requests keep coming. Writers that neither model ever saw measure both.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from components.core.errors import TryAgain
from components.core.ledger import Deployment, Ledger
from components.core.settings import Settings
from components.core.store import open_store
from components.ingest.readers.digits import compose
from pipelines import scenario, show, stack
from pipelines.local import run_local
from pipelines.loop import build

__all__ = ["run_demo"]

SCENARIO = "ocr"
TRAFFIC = (250, 1300)
"""Digits of the writers whose strings the first model is asked to read after it was deployed."""
UNSEEN = (1300, 1797)
"""Digits of the last writers: only ever looked at to measure."""
LOOP_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Line:
    """One line of handwriting as a client has it: the request's item, and the truth that comes later."""

    item: dict[str, Any]
    truth: str


class Steady:
    """Requests that keep coming, one after the other, until told to stop; counts what fails."""

    def __init__(self, url: str, lines: Sequence[Line]) -> None:
        self._url, self._lines, self._stop = url, lines, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = self.failed = 0
        self.models: list[str] = []

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=10) as client:
            while not self._stop.wait(0.05):
                line = self._lines[self.sent % len(self._lines)]
                self.sent += 1
                try:
                    answer = client.post("/predict", json=line.item)
                    answer.raise_for_status()
                except httpx.HTTPError:
                    self.failed += 1
                    continue
                model = answer.json()["model"]
                if model not in self.models:
                    self.models.append(model)


def run_demo(console: Console, settings: Settings, *, seed: int, keep: bool) -> None:
    """Run the demo in `ATLAS_HOME/demo`, which is emptied first, and print what it showed.

    Args:
        console: Where progress and the table go.
        settings: The installation; only its `home/demo` is touched.
        seed: Which strings the traffic is.
        keep: Leave serving and Airflow running.

    Raises:
        AtlasError: A part did not start, or the loop ended without a better model.
    """
    began = time.monotonic()
    stack.down(_settings(settings))
    shutil.rmtree(settings.home / "demo", ignore_errors=True)
    demo = _settings(settings)
    os.environ["ATLAS_TOKEN"] = os.environ.get("ATLAS_TOKEN") or secrets.token_urlsafe(24)
    with _stopped_at_the_end(demo, keep):
        _step(console, began, "Airflow starts beside; meanwhile a first model learns from the first 250 digits")
        stack.start_airflow(demo)
        chosen = scenario.find(SCENARIO, demo)
        run_local(build(chosen), run_id="first-model", settings=demo, trigger="demo", on_step=lambda r: _say_step(console, r))
        url = stack.start_serving(chosen, demo)
        unseen, traffic = _lines(UNSEEN, 300, seed=1000), _lines(TRAFFIC, 1200, seed=seed)
        before = _accuracy(url, unseen)
        airflow = stack.wait_for_airflow(demo)
        _step(console, began, f"it serves at {url} and reads {before:.1%} of the unseen writers' lines; traffic of other writers begins")
        with Ledger.open(demo.ledger) as ledger, Steady(url, traffic) as steady:
            first = ledger.champion(SCENARIO)
            wrong = _report_mistakes(url, traffic)
            _step(console, began, f"{wrong} of {len(traffic)} lines were misread and reported to /feedback; Airflow takes over")
            second = _wait_for_swap(console, ledger, first, url)
            time.sleep(1)
        after = _accuracy(url, unseen)
        with Ledger.open(demo.ledger) as ledger:
            counts = ledger.counts(SCENARIO)
            console.print(_table(before, after, counts, steady, time.monotonic() - began))
            show.outcome(console, ledger, open_store(demo), SCENARIO, second.run_id or "")
    here = os.path.relpath(demo.home)
    console.print(f"Airflow ran it{f' at {airflow}' if keep else ''}; look around again with: ATLAS_HOME={here} make up", highlight=False)


def _settings(settings: Settings) -> Settings:
    home = settings.home / "demo"
    return replace(settings, home=home, ledger=f"sqlite:///{home / 'ledger.db'}", store=str(home / "store"))


@contextmanager
def _stopped_at_the_end(settings: Settings, keep: bool) -> Iterator[None]:
    try:
        yield
    finally:
        if not keep:
            stack.down(settings)


def _lines(digits: tuple[int, int], count: int, *, seed: int) -> list[Line]:
    table = compose(first=digits[0], last=digits[1], strings=count, length=(5, 5), block=5, seed=seed)
    return [
        Line({"image": base64.b64encode(row["image"]).decode(), "group": row["_group"]}, row["_label"])
        for row in table.select(["image", "_group", "_label"]).to_pylist()
    ]


def _predict(client: httpx.Client, lines: Sequence[Line]) -> list[dict[str, Any]]:
    predictions: list[dict[str, Any]] = []
    for start in range(0, len(lines), 50):
        answer = client.post("/predict", json={"items": [line.item for line in lines[start : start + 50]]})
        answer.raise_for_status()
        predictions += answer.json()["predictions"]
    return predictions


def _accuracy(url: str, lines: Sequence[Line]) -> float:
    with httpx.Client(base_url=url, timeout=30) as client:
        predictions = _predict(client, lines)
    right = sum(bool(p["label"] == line.truth) for p, line in zip(predictions, lines, strict=True))
    return right / len(lines)


def _report_mistakes(url: str, lines: Sequence[Line]) -> int:
    """Ask for every line; report each wrong answer with its truth, as a client who learns it later would."""
    headers = {"Authorization": f"Bearer {os.environ['ATLAS_TOKEN']}"}
    with httpx.Client(base_url=url, timeout=30) as client, ThreadPoolExecutor(8) as pool:
        wrong = [(p, line) for p, line in zip(_predict(client, lines), lines, strict=True) if p["label"] != line.truth]

        def report(pair: tuple[dict[str, Any], Line]) -> None:
            body = {"prediction_id": pair[0]["prediction_id"], "label": pair[1].truth}
            client.post("/feedback", json=body, headers=headers).raise_for_status()

        list(pool.map(report, wrong))
    return len(wrong)


def _wait_for_swap(console: Console, ledger: Ledger, first: Deployment | None, url: str) -> Deployment:
    """Wait until another model than `first` is the champion and the server answers with it."""
    deadline = time.monotonic() + LOOP_TIMEOUT_S
    seen: set[tuple[str, str]] = set()
    while time.monotonic() < deadline:
        for run in ledger.runs(SCENARIO):
            if run.engine != "airflow":
                continue
            for step in ledger.outputs(run.run_id):
                if (run.run_id, step) not in seen:
                    seen.add((run.run_id, step))
                    console.print(f"         airflow: {step} done", highlight=False)
        now = ledger.champion(SCENARIO)
        if now is not None and first is not None and now.seq > first.seq and _serves(url, now.model):
            return now
        time.sleep(0.5)
    raise TryAgain(f"no better model went live within {LOOP_TIMEOUT_S:.0f} s", do=f"see the logs in {stack.LOGS}, and atlas status")


def _serves(url: str, model: str) -> bool:
    ready: dict[str, Any] = httpx.get(f"{url}/readyz", timeout=10).json()
    return ready.get("model") == model


def _step(console: Console, began: float, text: str) -> None:
    console.print(f"[bold]{time.monotonic() - began:5.0f} s[/]  {text}", highlight=False)


def _say_step(console: Console, report: Any) -> None:
    if report.state != "started":
        console.print(f"         {report.step} {report.state} in {report.seconds:.1f} s", highlight=False)


def _table(before: float, after: float, counts: Mapping[Any, int], steady: Steady, seconds: float) -> Table:
    table = Table(title="One turn of the loop")
    table.add_column("what")
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    table.add_row("lines of unseen writers read without an error", f"{before:.1%}", f"{after:.1%}")
    table.add_row("bad cases fixed (verified and closed)", "0", str(counts["closed"]))
    table.add_row("bad cases merged, still wrong", "", str(counts["merged"]))
    table.add_row("bad cases labelled since, for the next turn", "", str(counts["labelled"]))
    table.add_row("closed cases lost", "", str(counts["reopened"]))
    table.add_row("unsure answers captured, waiting for a label", "", str(counts["open"]))
    table.add_row("requests sent while the model was replaced", "", str(steady.sent))
    table.add_row("requests failed", "", str(steady.failed))
    table.add_row("models that answered them", "", str(len(steady.models)))
    table.add_row("seconds in all", "", f"{seconds:.0f}")
    return table
