"""Promise 7: after kill -9 at any point, a re-run ends with the digests of a run that was never disturbed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping

import psutil
import pytest

from components.core.contract import STEPS
from components.core.ledger import Ledger
from components.core.settings import Settings
from pipelines import scenario
from pipelines.local import Outputs, StepReport, run_local
from pipelines.loop import build

pytestmark = pytest.mark.slow

KILLS_A_STEP = 4
KILLS = 20
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
    calm = clone(bootstrapped("credit"), "calm")
    seconds: dict[str, float] = {}

    def note(report: StepReport) -> None:
        seconds[report.step] = report.seconds

    expected = run_local(build(scenario.find("credit", calm)), run_id="loop", settings=calm, on_step=note)

    dice, kills = random.Random(0), Counter[str]()
    for attempt in range(3):  # a step that ends sooner than when it was timed saves itself a kill: then another loop goes on
        if kills.total() < KILLS:
            wild = clone(bootstrapped("credit"), f"wild-{attempt}")
            kills += _disturbed(wild, dice, seconds)
            _same(expected, calm, wild)
    assert kills.total() >= KILLS
    assert set(kills) == set(STEPS)


def _disturbed(settings: Settings, dice: random.Random, seconds: Mapping[str, float]) -> Counter[str]:
    """Run one loop to its end, killing it again and again on the way; return the kills of each step."""
    kills = Counter[str]()
    while True:
        said = settings.home / "said"
        with said.open("w") as stderr:
            process = subprocess.Popen([sys.executable, "-c", RUN, "credit"], env=os.environ | settings.env(), stderr=stderr)
        began = time.time()
        while (step := _newest_step(settings, began)) is None or kills[step] >= KILLS_A_STEP:
            if process.poll() is not None:
                assert process.returncode == 0, said.read_text()
                return kills
            time.sleep(0.01)
        deadline = time.monotonic() + dice.uniform(0, 0.8 * seconds[step])
        while time.monotonic() < deadline and process.poll() is None and _newest_step(settings, began) == step:
            time.sleep(0.01)
        if process.poll() is None:
            kills[_newest_step(settings, began) or step] += 1
            _kill(process)


def _newest_step(settings: Settings, since: float) -> str | None:
    """Return the step that the present attempt is in; None while it still looks for where to go on."""
    begun = {path.name.partition(".")[0]: path.stat().st_mtime for path in (settings.home / "runs" / "loop").glob("*.params.json")}
    return max((step for step, at in begun.items() if at >= since), key=STEPS.index, default=None)


def _kill(process: subprocess.Popen[bytes]) -> None:
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGKILL)
    psutil.wait_procs(family[:-1], timeout=30)
    process.wait()


def _same(expected: Outputs, calm: Settings, wild: Settings) -> None:
    made = run_local(build(scenario.find("credit", wild)), run_id="loop", settings=wild)
    assert {s: {p: a.ref for p, a in ports.items()} for s, ports in made.items()} == {
        s: {p: a.ref for p, a in ports.items()} for s, ports in expected.items()
    }
    with Ledger.open(calm.ledger) as one, Ledger.open(wild.ledger) as other:
        assert one.counts("credit") == other.counts("credit")
        assert [d.seq for d in one.deployments("credit")] == [d.seq for d in other.deployments("credit")]
        assert [v.ref for v in one.dataset_versions("credit")] == [v.ref for v in other.dataset_versions("credit")]
