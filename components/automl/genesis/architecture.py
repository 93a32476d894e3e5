"""Genesis and the search among networks: `automl.nas` takes its share of the budget first, what it finds is judged beside all others.

It is done once a study, whichever process comes first, and kept in the study's folder: a killed step goes on without it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shutil
from pathlib import Path

from components.automl.genesis.solve import Offered
from components.automl.genesis.space import completed
from components.automl.spec import Params
from components.core.artifacts import OBSERVED
from components.core.errors import ConfigError
from components.core.params import TextLine
from components.train.data import Data
from components.train.learners.base import Weights
from components.train.starts import read_weights, write_weights

__all__ = ["SUPERNET", "offered", "publish"]

logger = logging.getLogger(__name__)
SUPERNET = "supernet.npz"
"""File of a Report artifact: what the next search goes on from."""
_FOLDER, _START, _OFFER, _PAGE = "architecture", "start.npz", "offer.json", "architecture.html"
_REPORT, _COSTS = "architecture.json", "architecture_costs.json"


def offered(data: Data, params: Params, folder: Path, past: tuple[str, Weights] | None) -> Offered:
    """Search, or read what was found before in this study.

    Args:
        folder: The study's.
        past: An earlier search and its supernet.

    Raises:
        ConfigError: The task is not to read lines, or the space does not.
        DataError: There is too little to learn from, or no network of the space is within the limits.
    """
    if not isinstance(data.task, TextLine):
        raise ConfigError(f"automl.nas is for lines of text, the task is {data.task.kind}", do="remove automl.nas from the scenario")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "architecture.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (folder / _FOLDER).is_dir():
            _search(data, params, folder, past)
    kept = folder / _FOLDER
    offer = json.loads((kept / _OFFER).read_text())
    configuration = completed("recognizer", offer["features"], offer["params"], "nas")
    return Offered(configuration, read_weights(kept / _START) if (kept / _START).is_file() else None)


def publish(folder: Path, report: Path) -> None:
    """Copy what a study's search among networks left, if there was one, into its report."""
    kept = folder / _FOLDER
    if not kept.is_dir():
        return
    (report / OBSERVED).mkdir(exist_ok=True)
    shutil.copy(kept / _REPORT, report / _REPORT)
    for name in (_PAGE, _COSTS):
        shutil.copy(kept / name, report / OBSERVED / name)
    if (kept / SUPERNET).is_file():
        shutil.copy(kept / SUPERNET, report / SUPERNET)


def _search(data: Data, params: Params, folder: Path, past: tuple[str, Weights] | None) -> None:
    from components.automl.nas.offer import search
    from components.automl.nas.page import page
    from components.automl.nas.searched import encode

    if params.nas is None:
        raise ConfigError("the scenario has no automl.nas", do="add it, or leave the search among networks out")
    seconds = math.inf if params.trials is not None else params.nas.share * params.budget_s
    logger.info("searching networks of space %s within %s s", params.nas.space, "any" if math.isinf(seconds) else f"{seconds:.0f}")
    offer = search(data, params.nas, seed=params.seed, seconds=seconds, past=past)
    found = offer.searched
    logger.info("found %s: %d parameters", found.space.describe(found.found.architecture), found.found.cost.params)
    aside = folder / f"{_FOLDER}.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    (aside / _OFFER).write_text(json.dumps({"features": offer.features, "params": offer.params}))
    (aside / _REPORT).write_text(json.dumps(encode(found), indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    costs = {"supernet_s": found.supernet_s, "search_s": found.search_s, "sample_s": found.sample_s}
    (aside / _COSTS).write_text(json.dumps(costs))
    (aside / _PAGE).write_text(page(found, title=params.scenario), encoding="utf-8")
    for name, weights in ((_START, offer.start), (SUPERNET, offer.supernet)):
        if weights is not None:
            write_weights(aside / name, weights)
    os.replace(aside, folder / _FOLDER)
