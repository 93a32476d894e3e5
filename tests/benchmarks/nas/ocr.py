"""Reading receipt lines: a scenario with `automl.nas` beside the default CRNN, each with the same CPU seconds in all.

    python tests/benchmarks/nas/ocr.py [--quick] [--seeds 5] [--seconds 600] [--only SYSTEM/SEED] [--without SYSTEM]

What a system may use: its `automl` step, if it has one, and training. Lines are those of scenario `ocr_receipts`, of more receipts; those
to judge by are of other receipts. No searched network may have more parameters than the default CRNN. Two more systems tell what is whose
merit: the searched network, trained as the default CRNN is, and Genesis without the search among networks. Kept in ATLAS_HOME/bench/nas,
a file a run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from components.automl.genesis.architecture import offered
from components.automl.genesis.configuration import Configuration
from components.automl.genesis.solve import Setting, solve
from components.automl.genesis.space import completed
from components.automl.nas.budget import cost
from components.automl.nas.offer import search
from components.automl.spec import Nas, Params
from components.core.artifacts import digest_of
from components.core.params import TextLine
from components.core.settings import Settings
from components.core.step import code_version
from components.ingest.readers import receipts
from components.model.text_line import TextLineModel, pixels_of
from components.train.crnn import Crnn, Shape
from components.train.data import Data, Rows
from components.train.learners import Trained, learner, never
from components.train.learners.base import Inheriting, Weights
from components.train.learners.recognizer import space_of
from components.train.lines import Lines
from components.train.reproducible import reproducible
from components.train.spaces.space import Architecture
from components.train.validation import Validation
from pipelines.bench.row import Row, row

__all__ = ["ocr_rows"]

_ALPHABET = " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_"
_TASK = TextLine(alphabet=_ALPHABET, max_length=16)
_HOLDOUT = Validation(kind="holdout", folds=1)
OURS, DEFAULT, ALONE, WITHOUT = "automl with nas", "default CRNN", "searched network, trained as the default", "automl without nas"
SYSTEMS = (DEFAULT, ALONE, WITHOUT, OURS)


@dataclass(frozen=True)
class Sizes:
    """How much there is.

    Attributes:
        cpu_s: Of each system, in all.
        automl_s: Of them for the `automl` step, if a system has one: the `budget_s` of scenario `ocr`.
        receipts: (first of the validation's, first of the test's, end). The test has all that are left: 80 of them, as it once had, say
            more about which 80 they are than about the network.
    """

    cpu_s: float = 600.0
    automl_s: float = 300.0
    receipts: tuple[int, int, int] = (100, 120, 501)


QUICK = Sizes(6.0, 3.0, (6, 8, 10))


def ocr_rows(sizes: Sizes, seeds: int, work: Path, systems: Sequence[str] = SYSTEMS) -> Iterator[Row]:
    """Yield the rows; means over seeds."""
    runs = {system: [kept(system, seed, sizes, work) for seed in range(seeds)] for system in systems}
    case = f"ocr: receipt lines, {sizes.cpu_s:g} CPU s in all, mean of {seeds} seeds"

    def mean(system: str, figure: str) -> float:
        return float(np.mean([run[figure] for run in runs[system]]))

    for rival in [system for system in systems if system != OURS]:
        yield row(f"{case}: lines not read exactly", 1 - mean(OURS, "exact"), "share", rival, 1 - mean(rival, "exact"), "")
        yield row(f"{case}: parameters", mean(OURS, "params"), "", rival, mean(rival, "params"), "<=" if rival == DEFAULT else "")
        more = np.array([one["exact"] - other["exact"] for one, other in zip(runs[OURS], runs[rival], strict=True)])
        yield row(f"{case}: seeds in which it is better", float(np.mean(more > 0)), "share", rival, None, "")
        if seeds > 1:  # one seed is no verdict, and to read more by less than two standard errors is a tie
            error = float(more.std(ddof=1)) / math.sqrt(seeds)
            yield row(f"{case}: standard error of what it reads more", error, "share", rival, None, "")
            most, theirs = 1 - mean(OURS, "exact") + 2 * error, 1 - mean(rival, "exact")
            yield row(
                f"{case}: lines not read exactly, plus two standard errors", most, "share", rival, theirs, "<" if rival == DEFAULT else ""
            )
    for system in systems:
        yield row(f"{case}: CPU s of {system}", mean(system, "cpu_s"), "CPU s", "limit", 1.1 * sizes.cpu_s, "<=")


def kept(system: str, seed: int, sizes: Sizes, work: Path) -> dict[str, Any]:
    """Return a run's figures; measure them if they are not there yet."""
    asked = {"system": system, "seed": seed, "cpu_s": sizes.cpu_s, "automl_s": sizes.automl_s, "receipts": list(sizes.receipts)}
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
    found, start = _chosen(system, data, seed, sizes)
    chosen = learner(found.learner)
    part = chosen.prepare(data, chosen.features.model_validate(found.features), _HOLDOUT).part(0)
    automl_s = time.process_time() - began

    def fitted(epochs: int) -> Trained:
        given = chosen.params.model_validate({**found.params, "epochs": epochs})
        if start is not None and isinstance(chosen, Inheriting):
            return chosen.fit_from(part, given, start=start, seed=seed, progress=never)
        return chosen.fit(part, given, seed=seed, progress=never)

    took = []
    for epochs in (1, 2):  # only to measure how long an epoch takes
        before = time.process_time()
        fitted(epochs)
        took.append(time.process_time() - before)
    # The first finds nothing prepared, so the difference is an epoch; on a busy machine it may be much too small.
    an_epoch = max(took[1] - took[0], took[1] / 2)
    epochs = max(1, math.floor((sizes.cpu_s - automl_s) / an_epoch))
    before = time.process_time()
    trained = fitted(epochs)
    cpu_s = automl_s + time.process_time() - before
    told = {"recipe": {"learner": found.learner, "features": dict(found.features), "params": {**found.params, "epochs": epochs}}}
    return told | {"params": _size(part, found), "automl_s": automl_s, "cpu_s": cpu_s, "exact": _exact(part, trained, test)}


def _chosen(system: str, data: Data, seed: int, sizes: Sizes) -> tuple[Configuration, Weights | None]:
    """Return what a system trains, and the weights that it begins with."""
    default = completed("crnn", {}, {}, "default")
    if system == DEFAULT:
        return default, None
    chosen = learner("crnn")
    nas = Nas(max_params=_size(chosen.prepare(data, chosen.features(), _HOLDOUT).part(0), default))
    if system == ALONE:
        offer = search(data, nas, seed=seed, seconds=nas.share * sizes.automl_s)
        return completed("recognizer", offer.features, offer.params, "nas"), offer.start
    given = {"scenario": "receipts", "task": _TASK, "budget_s": sizes.automl_s, "workers": 1, "seed": seed, "transfer": False}
    searched = Params.model_validate(given | ({"learners": ("recognizer",), "nas": nas} if system == OURS else {"learners": ("crnn",)}))
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        offers = [offered(data, searched, Path(folder), None)] if searched.nas else []
        solved = solve(Setting(data, searched, Path(folder), started, offered=offers))
    (member,) = solved.recipe.members
    return Configuration(member.learner, member.features, member.params, system), solved.starts.get(member.start or "")


def _size(part: Lines, found: Configuration) -> int:
    """Return a network's trained numbers."""
    params, symbols = found.params, len(part.task.alphabet) + 1
    if found.learner == "crnn":
        shape = Shape.model_validate({name: params[name] for name in Shape.model_fields})
        return sum(parameter.numel() for parameter in Crnn(shape, part.rule.height, symbols).parameters())
    whole = space_of(params["space"], part.rule.height, symbols)
    return cost(whole, Architecture(whole.widths.index(params["width"]), tuple(params["options"]))).params


def _exact(part: Lines, trained: Trained, test: Rows) -> float:
    images = [pixels_of(image, part.rule) for image in test.columns["image"]]
    answers = TextLineModel(_TASK, part.rule.model_dump(), trained.scores).read(images)
    return float(np.mean([answer.label == label for answer, label in zip(answers, test.labels, strict=True)]))


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
    parser.add_argument("--without", action="append", default=[], choices=[name for name in SYSTEMS if name != OURS], help="a rival")
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
