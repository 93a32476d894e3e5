"""Makes the Airflow pools that scenarios name: a task whose pool is missing would wait for ever. Run by `infra/airflow/standalone.sh`."""

from __future__ import annotations

import logging
import os
import time

from components.core import log
from components.core.errors import AtlasError
from components.core.settings import Settings
from pipelines import scenario
from pipelines.to_airflow.api import Airflow

__all__ = ["main", "named_pools"]

logger = logging.getLogger(__name__)
TIMEOUT_S = 300.0


def named_pools(settings: Settings) -> set[str]:
    """Return the pools that scenarios name beside Airflow's own."""
    found = set()
    for name in scenario.names(settings):
        try:
            found.add(scenario.find(name, settings).orchestration.pool)
        except AtlasError as error:
            logger.warning("scenario '%s' is left out: %s", name, error)
    return found - {"default_pool"}


def main() -> None:
    """Wait for Airflow's API, then make what is missing; `ATLAS_POOL_SLOTS` (2) slots each."""
    log.setup(as_json=os.environ.get("ATLAS_LOG") == "json", verbose=False)
    settings = Settings.from_env()
    pools = named_pools(settings)
    deadline = time.monotonic() + TIMEOUT_S
    while pools and time.monotonic() < deadline:
        try:
            airflow = Airflow.of(settings, os.environ.get("AIRFLOW__API__BASE_URL", "http://127.0.0.1:8080"))
            for pool in sorted(pools):
                airflow.add_pool(pool, int(os.environ.get("ATLAS_POOL_SLOTS", "2")))
            logger.info("pools are there: %s", ", ".join(sorted(pools)))
            return
        except AtlasError:
            time.sleep(2)


if __name__ == "__main__":
    main()
