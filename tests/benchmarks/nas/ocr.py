"""Reading receipt lines: a searched network beside the default CRNN and a network drawn at random, each with the same CPU seconds in all.

    python tests/benchmarks/nas/ocr.py [--quick] [--seeds 5] [--seconds 300] [--only SYSTEM/SEED] [--without SYSTEM]

What a system may use: searching, if it searches, and training. Lines are those of scenario `ocr_receipts`, of more receipts; those to judge
by are of other receipts. No searched network may have more parameters than the default CRNN. Kept in ATLAS_HOME/bench/nas, a file a run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from components.automl.nas.budget import Limits, cost
from components.automl.nas.offer import search
from components.automl.nas.strategies.base import SearchTask, drawn
from components.automl.nas.texts import Texts
from components.automl.spec import Nas
from components.core.artifacts import digest_of
from components.core.params import TextLine
from components.core.settings import Settings
from components.core.step import code_version
from components.ingest.readers import receipts
from components.model.text_line import TextLineModel, pixels_of
from components.train.crnn import Crnn, Shape
from components.train.data import Data, Rows
from components.train.learners import Trained, learner, never
from components.train.learners.recognizer import LEARNER, space_of
from components.train.lines import Lines
from components.train.reproducible import reproducible
from components.train.validation import Validation
from pipelines.bench.row import Row, row

__all__ = ["ocr_rows"]

_ALPHABET = " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_"
_TASK = TextLine(alphabet=_ALPHABET, max_length=16)
_HOLDOUT = Validation(kind="holdout", folds=1)
OURS, DEFAULT, DRAWN = "searched", "default CRNN", "drawn at random"
SYSTEMS = (DEFAULT, DRAWN, OURS)


@dataclass(frozen=True)
class Sizes:
    """How much there is.

    Attributes:
        cpu_s: Of each system, in all: the `budget_s` of scenario `ocr`.
        search_share: Of them for the search, if a system searches; what is left trains what it found.
        receipts: (first of the validation's, first of the test's, end). The test has all that are left: 80 of them, as it once had, say
            more about which 80 they are than about the network.
    """

    cpu_s: float = 300.0
    search_share: float = 0.12
    receipts: tuple[int, int, int] = (100, 120, 501)


QUICK = Sizes(4.0, 0.2, (6, 8, 10))


def ocr_rows(sizes: Sizes, seeds: int, work: Path, systems: Sequence[str] = SYSTEMS) -> Iterator[Row]:
    """Yield the rows; means over seeds."""
    runs = {system: [kept(system, seed, sizes, work) for seed in range(seeds)] for system in systems}
    case = f"ocr: receipt lines, {sizes.cpu_s:g} CPU s in all, mean of {seeds} seeds"

    def mean(system: str, figure: str) -> float:
        return float(np.mean([run[figure] for run in runs[system]]))

    for rival in [system for system in systems if system != OURS]:
        yield row(f"{case}: lines not read exactly", 1 - mean(OURS, "exact"), "share", rival, 1 - mean(rival, "exact"), "<")
        yield row(f"{case}: parameters", mean(OURS, "params"), "", rival, mean(rival, "params"), "<=" if rival == DEFAULT else "")
        more = np.array([ours["exact"] - theirs["exact"] for ours, theirs in zip(runs[OURS], runs[rival], strict=True)])
        yield row(f"{case}: seeds in which it is better", float(np.mean(more > 0)), "share", rival, None, "")
        if seeds > 1:  # to read more by less than about twice this is a tie
            error = float(more.std(ddof=1)) / math.sqrt(seeds)
            yield row(f"{case}: standard error of what it reads more", error, "share", rival, None, "")
    for system in systems:
        yield row(f"{case}: CPU s of {system}", mean(system, "cpu_s"), "CPU s", "limit", 1.1 * sizes.cpu_s, "<=")


def kept(system: str, seed: int, sizes: Sizes, work: Path) -> dict[str, Any]:
    """Return a run's figures; measure them if they are not there yet."""
    asked = {"system": system, "seed": seed, "cpu_s": sizes.cpu_s, "search_share": sizes.search_share, "receipts": list(sizes.receipts)}
    key = digest_of({**asked, "code": code_version(), "script": Path(__file__).read_text()})[:16]
    path = work / f"ocr.{key}.json"
    if not path.is_file():
        work.mkdir(parents=True, exist_ok=True)
        found = _run(system, seed, sizes)
        aside = path.with_suffix(f".{os.getpid()}.part")
        aside.write_text(json.dumps({"asked": asked, "found": found}))
        os.replace(aside, path)
    answer: dict[str, Any] = json.loads(path.read_text())["found"]
    return answer


def _run(system: str, seed: int, sizes: Sizes) -> dict[str, Any]:
    data, test = _data(sizes)
    began = time.process_time()
    spare = 0.0  # seconds that only measure how long an epoch takes
    found: dict[str, Any] = {}
    start = None
    if system == DEFAULT:
        chosen = learner("crnn")
        part = chosen.prepare(data, chosen.features(), _HOLDOUT).part(0)
        params = chosen.params().model_dump()
        found["params"] = _default_params(part)
    else:
        chosen = LEARNER
        part = chosen.prepare(data, chosen.features(), _HOLDOUT).part(0)
        limit = _default_params(part)
        if system == OURS:
            offer = search(data, Nas(max_params=limit, epochs=100), seed=seed, seconds=sizes.search_share * sizes.cpu_s)
            params, start = dict(offer.params), offer.start
            found |= {"params": offer.searched.found.cost.params, "text": offer.searched.space.describe(offer.searched.found.architecture)}
        else:
            whole = space_of("recognizer", part.rule.height, len(_ALPHABET) + 1)
            task = SearchTask(whole, Texts.of(part, min(32, len(part.learned))), Limits(max_params=limit), seed=seed)
            architecture = drawn(task, random.Random(seed))
            encoded = whole.encode(architecture)
            params = chosen.params.model_validate({**encoded, "options": tuple(encoded["options"])}).model_dump()
            found |= {"params": cost(whole, architecture).params, "text": whole.describe(architecture)}

    def fitted(epochs: int) -> Trained:
        given = chosen.params.model_validate({**params, "epochs": epochs})
        if start is not None:
            return LEARNER.fit_from(part, given, start=start, seed=seed, progress=never)
        return chosen.fit(part, given, seed=seed, progress=never)

    took = []
    for epochs in (1, 2):
        before = time.process_time()
        fitted(epochs)
        took.append(time.process_time() - before)
    # The first finds nothing prepared, so the difference is an epoch; on a busy machine it may be much too small.
    an_epoch = max(took[1] - took[0], took[1] / 2)
    spare += sum(took)
    left = sizes.cpu_s - (time.process_time() - began - spare)
    epochs = max(1, math.floor(left / an_epoch))
    trained = fitted(epochs)
    cpu_s = time.process_time() - began - spare
    return found | {"epochs": epochs, "cpu_s": cpu_s, "exact": _exact(part, trained, test)}


def _exact(part: Lines, trained: Trained, test: Rows) -> float:
    images = [pixels_of(image, part.rule) for image in test.columns["image"]]
    answers = TextLineModel(_TASK, part.rule.model_dump(), trained.scores).read(images)
    return float(np.mean([answer.label == label for answer, label in zip(answers, test.labels, strict=True)]))


def _default_params(part: Lines) -> int:
    net = Crnn(Shape(), part.rule.height, len(part.task.alphabet) + 1)
    return sum(parameter.numel() for parameter in net.parameters())


def _data(sizes: Sizes) -> tuple[Data, Rows]:
    judged, tested, end = sizes.receipts
    train, validation, test = (_rows(first, last) for first, last in ((0, judged), (judged, tested), (tested, end)))
    return Data(_TASK, train, validation), test


def _rows(first: int, last: int) -> Rows:
    given: Mapping[str, Any] = {"first": first, "last": last, "max_length": 16, "max_width": 200, "alphabet": _ALPHABET}
    table = receipts.read(given, Settings.from_env().data)
    return Rows({"image": table["image"].to_pylist()}, table["_label"].to_pylist())


def main() -> None:
    """Print the rows, one JSON object a line; with `--only`, measure one run and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="CPU seconds of each system")
    parser.add_argument("--only", help="SYSTEM/SEED, to measure several at once")
    parser.add_argument("--without", action="append", default=[], choices=[DEFAULT, DRAWN], help="a rival")
    given = parser.parse_args()
    sizes, work = QUICK if given.quick else Sizes(), Settings.from_env().home / "bench" / "nas"
    if given.seconds:
        sizes = replace(sizes, cpu_s=given.seconds)
    with reproducible():
        if given.only:
            system, seed = given.only.rsplit("/", 1)
            print(json.dumps(kept(system, int(seed), sizes, work)))
            return
        systems = [system for system in SYSTEMS if system not in given.without]
        for found in ocr_rows(sizes, 1 if given.quick else given.seeds, work, systems):
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
