"""The processes of `test_exactly_once.py`: writers that deliver cases, and a consumer that is killed again and again.

python exactly_once_workers.py write URL UNIQUE SEED
python exactly_once_workers.py consume URL KILLS SEED READY_FILE
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import event
from sqlalchemy.engine import Engine

from components.core.artifacts import Artifact, digest_of
from components.core.errors import NothingToDo, Refused, TryAgain
from components.core.items import item_from_bytes
from components.core.ledger import Ledger, NewCase

T = TypeVar("T")
SCENARIO = "ocr"
LEASE_S = 0.2


def write(url: str, unique: int, seed: int) -> None:
    """Deliver every case once or twice, shuffled, in bursts; a delivery that fails is made again, as a client would."""
    chance = random.Random(seed)
    numbers = [number for number in range(unique) for _ in range(chance.choice((1, 1, 2)))]
    chance.shuffle(numbers)
    with Ledger.open(url) as ledger:
        while numbers:
            burst = [numbers.pop() for _ in range(min(len(numbers), chance.choice((1, 1, 5, 50, 300))))]
            cases = [NewCase(item_from_bytes(b"case %d" % n, "application/json"), "feedback", str(n % 10), key=f"f{n}") for n in burst]
            patiently(lambda: ledger.add_cases(SCENARIO, cases))  # noqa: B023
            time.sleep(chance.random() * 0.04)


def consume(url: str, kills: int, seed: int, done: Path) -> None:
    """Fork a consumer and, `kills` times, let it be killed at a seeded point and fork the next; then let one end by itself."""
    chance = random.Random(seed)
    killed, run = 0, 0
    Ledger.open(url).close()  # imports the driver, once for all forks
    while True:
        fresh = chance.random() < 0.5  # else the engine starts the same run again
        run += fresh or run == 0
        point = chance.randint(1, 90) if killed < kills else 0
        child = os.fork()
        if child == 0:
            _die_at(point)
            _turn(url, run, done)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            killed += 1
        elif status == 0 and killed == kills:
            break
        elif status:
            sys.exit(f"a consumer failed: status {status}")
        run += 10 * (chance.random() < 0.1)
    sys.stdout.write(json.dumps({"killed": killed}))


def _die_at(point: int) -> None:
    """Kill this process with SIGKILL at its `point`-th statement or commit, inside transactions or between them."""
    if not point:
        return
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == point:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    event.listen(Engine, "commit", count)


def _turn(url: str, run: int, done: Path) -> None:
    """Run after run, until the writers are done and nothing is left: acquire, claim, commit, release."""
    with Ledger.open(url) as ledger:
        while True:
            run_id = f"run {run}"
            last = done.exists()
            try:
                patiently(lambda: ledger.acquire(SCENARIO, run_id, LEASE_S))  # noqa: B023
                _commit(ledger, run_id)
            except Refused:
                pass  # this run was overtaken while it was dead; the next one is new
            finally:
                patiently(lambda: ledger.release(SCENARIO, run_id))  # noqa: B023
            if last and ledger.work(SCENARIO).claimable == 0:
                return
            run += 1000  # ids that no other life of the consumer uses
            time.sleep(0.02)


def _commit(ledger: Ledger, run_id: str) -> None:
    claimed = patiently(lambda: ledger.claim(SCENARIO, run_id))
    ids = [case.id for case in claimed]
    dataset = Artifact("Dataset", digest_of([run_id, ids]))
    patiently(lambda: ledger.commit_dataset(SCENARIO, run_id, dataset, merged=ids, held={}, quarantined={}))


def patiently(call: Callable[[], T]) -> T:
    """Repeat a call until the database, or the lease's other holder, lets it through."""
    give_up = time.monotonic() + 60
    while True:
        try:
            return call()
        except (NothingToDo, TryAgain):
            if time.monotonic() > give_up:
                raise
            time.sleep(LEASE_S / 2)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        consume(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
