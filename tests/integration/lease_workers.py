"""The processes of `test_leases.py`. Each exits as a step would: 0 done, 64 refused, 99 another run is at work.

python lease_workers.py race URL RUN GO_FILE
python lease_workers.py commit|deploy URL RUN
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from components.core.artifacts import Artifact, digest_of
from components.core.errors import AtlasError
from components.core.ledger import Ledger

SCENARIO = "ocr"


def race(ledger: Ledger, run: str, go: Path) -> None:
    """Wait for the starting gun, then take the lease."""
    go.with_name(f"ready-{run}").touch()
    while not go.exists():
        time.sleep(0.001)
    ledger.acquire(SCENARIO, run)


def commit(ledger: Ledger, run: str) -> None:
    """Claim, fall asleep for longer than the lease lives, wake up and commit."""
    ledger.acquire(SCENARIO, run, ttl_s=0.1)
    claimed = [case.id for case in ledger.claim(SCENARIO, run)]
    os.kill(os.getpid(), signal.SIGSTOP)
    dataset = Artifact("Dataset", digest_of([run, claimed]))
    ledger.commit_dataset(SCENARIO, run, dataset, merged=claimed, held={}, quarantined={})


def deploy(ledger: Ledger, run: str) -> None:
    """Get a blessing, fall asleep for longer than the lease lives, wake up and deploy."""
    ledger.acquire(SCENARIO, run, ttl_s=0.1)
    champion = ledger.champion(SCENARIO)
    model = Artifact("Model", digest_of(run))
    facts = {"accepted": True, "model": model.ref, "baseline": champion.model if champion else None, "evaluation_set": "e"}
    blessing = Artifact("Blessing", digest_of([run, facts]), facts)
    ledger.record_model(SCENARIO, run, model)
    ledger.record_blessing(SCENARIO, run, blessing)
    if run.startswith("zombie"):
        os.kill(os.getpid(), signal.SIGSTOP)
    expected = champion.seq if champion else None
    ledger.deploy(SCENARIO, run, model=model.ref, blessing=blessing.ref, expected_seq=expected, right=[], wrong=[])
    ledger.release(SCENARIO, run)


def main(what: str, url: str, run: str, *rest: str) -> int:
    """Run one worker and return its exit code."""
    try:
        with Ledger.open(url) as ledger:
            if what == "race":
                race(ledger, run, Path(rest[0]))
            else:
                {"commit": commit, "deploy": deploy}[what](ledger, run)
    except AtlasError as error:
        sys.stdout.write(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
