"""Promise 7: after kill -9 at any point, a re-run ends with the digests of a run that was never disturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from components.core.contract import STEPS
from components.core.ledger import Ledger
from components.core.settings import Settings
from pipelines import scenario
from pipelines.local import StepReport, run_local
from pipelines.loop import build

pytestmark = pytest.mark.slow

KILLS_A_STEP = 4  # a step may end sooner than when it was timed: 28 tries give 20 kills even so

RUN = """
import sys
from components.core.settings import Settings
from pipelines import scenario
from pipelines.local import run_local
from pipelines.loop import build
settings = Settings.from_env()
run_local(build(scenario.find(sys.argv[1], settings)), run_id="loop", settings=settings)
"""


@pytest.mark.timeout(900)
def test_killed_at_seeded_points_of_every_step_the_loop_ends_with_the_same_digests(
    bootstrapped: Callable[[str], Settings], clone: Callable[[Settings, str], Settings]
) -> None:
    calm, wild = clone(bootstrapped("credit"), "calm"), clone(bootstrapped("credit"), "wild")
    seconds: dict[str, float] = {}

    def note(report: StepReport) -> None:
        seconds[report.step] = report.seconds

    expected = run_local(build(scenario.find("credit", calm)), run_id="loop", settings=calm, on_step=note)

    dice = random.Random(0)
    killed = 0
    for step in STEPS:
        for _ in range(KILLS_A_STEP):
            killed += _killed_in(wild, step, dice.uniform(0, 0.9 * seconds[step]))
    assert killed >= 20

    made = run_local(build(scenario.find("credit", wild)), run_id="loop", settings=wild)
    assert {s: {p: a.ref for p, a in ports.items()} for s, ports in made.items()} == {
        s: {p: a.ref for p, a in ports.items()} for s, ports in expected.items()
    }
    with Ledger.open(calm.ledger) as one, Ledger.open(wild.ledger) as other:
        assert one.counts("credit") == other.counts("credit")
        assert [d.seq for d in one.deployments("credit")] == [d.seq for d in other.deployments("credit")]
    assert not list((wild.home / "store" / "tmp").glob("*/manifest.json"))


def _killed_in(settings: Settings, step: str, after_s: float) -> bool:
    """Run the loop in a process of its own; kill -9 it and all its children `after_s` after `step` began. True if it was alive."""
    began = settings.home / "runs" / "loop" / f"{step}.params.json"
    began.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, "-c", RUN, "credit"], env=os.environ | settings.env(), stderr=subprocess.DEVNULL)
    _wait_for(began, process)
    time.sleep(after_s)
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        try:
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=30)
    return process.wait() == -signal.SIGKILL


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
