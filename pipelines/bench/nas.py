"""`atlas bench nas`: architecture search beside its rivals, on small spaces whose every architecture was trained.

The script keeps each run in ATLAS_HOME/bench/nas: started again, it goes on.
"""

from __future__ import annotations

from collections.abc import Iterator

from components.core.settings import Settings
from pipelines.bench.row import Row
from pipelines.bench.script import check_cases, printed, script

__all__ = ["CASES", "nas"]

CASES = ("search", "ranking", "budgets", "ocr")


def nas(cases: tuple[str, ...], *, quick: bool) -> Iterator[Row]:
    """Yield the rows of the cases of both spaces as they are measured.

    Args:
        cases: `budgets` takes minutes, `ocr` three quarters of an hour; the others, except when quick, hours and the ground truth that is
            made by truth.py.

    Raises:
        ConfigError: There is no such case, or this is no checkout.
        TryAgain: The script failed, because there is no ground truth for example; what it said last is the message.
    """
    check_cases(cases, CASES)
    path = script("nas", "compare")
    folder = Settings.from_env().home / "bench" / "nas"
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--cases", ",".join(cases or CASES), *(["--quick"] if quick else [])]
    yield from printed(path, options, folder / "compare.log")
