"""The ground truth: every architecture of a small space, trained alone, as often as there are seeds. Looked up ever after.

    python tests/benchmarks/nas/truth.py [--space mobilenet|resnet] [--part 0/2] [--most N] [--estimate]

A training is one line in ATLAS_HOME/bench/nas, written when it is done: killed, it goes on. Several processes may work on parts of it at
once. When all trainings are there, truth_SPACE.json is written beside this file. Its trainings count as made, if the protocol is the same:
delete it to make them again. Order: all architectures, shuffled, with seed 0, then 1, …
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from data import BATCH, pictures
from worlds import WORLDS, World

from components.automl.nas.budget import Cost, Limits, cost
from components.automl.nas.problem import Images, score
from components.automl.nas.training import standalone
from components.core.artifacts import digest_of
from components.core.errors import IntegrityError, TryAgain
from components.core.settings import Settings
from components.train.reproducible import reproducible
from components.train.spaces.space import Architecture, Space

__all__ = ["Entry", "Truth", "measured", "truth_of"]


@dataclass(frozen=True)
class Entry:
    """One training.

    Attributes:
        validation: Share of right answers on images that a search may look at.
        test: On images that no search sees.
        cpu_s: Of training and validation, as a search has to pay for it; the test is the judge's.
    """

    options: tuple[int, ...]
    seed: int
    validation: float
    test: float
    cpu_s: float


@dataclass(frozen=True)
class Truth:
    """What the benchmark knows of a space: all its architectures, each trained with every seed."""

    space: Space
    entries: tuple[Entry, ...]

    @cached_property
    def seeds(self) -> int:
        """How often each was trained."""
        return 1 + max(entry.seed for entry in self.entries)

    @cached_property
    def trainings(self) -> Mapping[tuple[tuple[int, ...], int], Entry]:
        """(options, seed) -> training."""
        return {(entry.options, entry.seed): entry for entry in self.entries}

    @cached_property
    def tests(self) -> Mapping[Architecture, float]:
        """Architecture -> test score, mean over seeds."""
        found: dict[Architecture, list[float]] = {}
        for entry in self.entries:
            found.setdefault(Architecture(0, entry.options), []).append(entry.test)
        return {architecture: float(np.mean(values)) for architecture, values in found.items()}

    @cached_property
    def smooth(self) -> Mapping[Architecture, float]:
        """Architecture -> test score by least squares on its options and pairs of options, which has less noise of seeds than the mean."""
        names = list(self.tests)
        rows = np.array([architecture.options for architecture in names])
        columns = [np.ones((len(rows), 1))]
        one_hot = [np.eye(len(block.options))[rows[:, place]] for place, block in enumerate(self.space.blocks)]
        columns += one_hot
        for first in range(len(one_hot)):
            for second in range(first):
                columns.append((one_hot[first][:, :, None] * one_hot[second][:, None, :]).reshape(len(rows), -1))
        design, values = np.hstack(columns), np.array([self.tests[name] for name in names])
        fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
        return dict(zip(names, fitted.tolist(), strict=True))

    @cached_property
    def costs(self) -> Mapping[Architecture, Cost]:
        """Architecture -> what it costs."""
        return {architecture: cost(self.space, architecture) for architecture in self.tests}

    @cached_property
    def _bests(self) -> dict[tuple[Limits, bool], float]:
        return {}

    def noise(self) -> float:
        """Return the standard deviation between trainings of one architecture with different seeds."""
        found: dict[tuple[int, ...], list[float]] = {}
        for entry in self.entries:
            found.setdefault(entry.options, []).append(entry.test)
        return float(np.sqrt(np.mean([np.var(values, ddof=1) for values in found.values() if len(values) > 1])))

    def limits(self, share: float) -> Limits:
        """Return the limit of MACs that `share` of the architectures keep."""
        return Limits(max_macs=int(np.quantile([each.macs for each in self.costs.values()], share)))

    def regret(self, architecture: Architecture, limits: Limits, *, smooth: bool = True) -> float:
        """Return how many points of test score (0 to 100) an architecture is below the best within the limits."""
        key = (limits, smooth)
        known = self.smooth if smooth else self.tests
        if key not in self._bests:
            self._bests[key] = max(known[other] for other, each in self.costs.items() if limits.allow(each))
        return 100 * (self._bests[key] - known[architecture])

    def seconds(self, architecture: Architecture) -> float:
        """Return the CPU seconds of its first training: those were made on one day, later ones when the machine was otherwise busy."""
        return self.trainings[architecture.options, 0].cpu_s


def measured(world: World, architecture: Architecture, seed: int) -> Entry:
    """Train an architecture and judge it."""
    given = pictures(*world.images)
    began = time.process_time()
    net, validation = standalone(world.space, architecture, given.problem, world.fitting, seed)
    cpu_s = time.process_time() - began
    judged = Images(given.problem.training, given.test)
    test = score(net, judged.batches("validation"), judged)
    return Entry(architecture.options, seed, round(validation, 5), round(test, 5), round(cpu_s, 3))


def truth_of(name: str, work: Path, folder: Path = Path(__file__).parent) -> Truth:
    """Read the ground truth of a world, or build it where that takes seconds.

    Args:
        work: Where trainings are kept.
        folder: Where `truth_NAME.json` is checked in.

    Raises:
        TryAgain: It takes hours, and was not built yet.
        IntegrityError: What is checked in was made by another protocol, or has fewer trainings.
    """
    world, path = WORLDS[name], folder / f"truth_{name}.json"
    if not world.hours:
        book = Book(name, work)
        for _ in book.build():
            pass
        return Truth(world.space, tuple(book.trainings()))
    command = f"run `python tests/benchmarks/nas/truth.py --space {name}`"
    if not path.is_file():
        raise TryAgain(f"there is no ground truth {path.name}", do=command)
    entries = _checked_in(name, path)
    if not entries:
        raise IntegrityError(f"{path.name} was made by another protocol than this code's", do=command)
    truth = Truth(world.space, tuple(entries))
    if truth.seeds != world.seeds:
        raise IntegrityError(f"{path.name} has {truth.seeds} trainings of each architecture, not {world.seeds}", do=command)
    return truth


def protocol(name: str) -> dict[str, Any]:
    """Return everything that decides a training; how many there are is no part of it, so more can be added."""
    world = asdict(WORLDS[name])
    return {key: world[key] for key in ("space", "fitting", "images")} | {"batch": BATCH}


class Book:
    """The trainings of a world, a line each; a protocol that changed begins another file.

    Args:
        work: The folder it lies in.
        known: A checked-in file, whose trainings count as made if its protocol is today's.
    """

    def __init__(self, name: str, work: Path, known: Path | None = None) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self._name, self._world, self._known = name, WORLDS[name], known
        self._path = work / f"truth_{name}.{digest_of(protocol(name))[:12]}.jsonl"

    def trainings(self) -> list[Entry]:
        """Read what is there; a line that a kill cut off is left out."""
        found = _checked_in(self._name, self._known) if self._known and self._known.is_file() else []
        for line in self._path.read_text().splitlines() if self._path.is_file() else ():
            try:
                found.append(_entry(json.loads(line)))
            except json.JSONDecodeError:
                continue
        return found

    def build(self, part: tuple[int, int] = (0, 1), most: int | None = None) -> Iterator[Entry]:
        """Train what is not there yet, each `part[1]`-th from `part[0]` on, at most so many; yield what was trained."""
        known = {(entry.options, entry.seed) for entry in self.trainings()}
        missing = [job for job in self._jobs()[part[0] :: part[1]] if (job[0].options, job[1]) not in known]
        for architecture, seed in missing[:most]:
            entry = measured(self._world, architecture, seed)
            with self._path.open("a") as file:
                file.write(f"\n{json.dumps(asdict(entry))}")  # a cut-off line before it stays a line of its own
            yield entry

    def finish(self, to: Path) -> bool:
        """Write the checked-in file if every training is there; return whether it is."""
        found = {(entry.options, entry.seed): entry for entry in self.trainings()}
        wanted = [(architecture.options, seed) for architecture in self._world.space.architectures() for seed in range(self._world.seeds)]
        if any(job not in found for job in wanted):
            return False
        lines = ",\n".join(json.dumps(asdict(found[job])) for job in wanted)  # a training a line: the diff is read
        aside = to.with_suffix(".part")
        aside.write_text(f'{{"protocol": {json.dumps(protocol(self._name))},\n"trainings": [\n{lines}\n]}}\n')
        os.replace(aside, to)
        return True

    def estimate(self) -> str:
        """Say what is left, by what trainings took so far: a constant, and so much a MAC."""
        found = self.trainings()
        if not found:
            return "nothing was trained yet"
        line = len(found) >= 3
        macs = [self._macs(Architecture(0, entry.options)) for entry in found]
        seconds = np.array([entry.cpu_s for entry in found])
        design = np.stack([np.ones(len(found)), np.array(macs)], axis=1)[:, 0 if line else 1 :]
        weights = np.linalg.lstsq(design, seconds, rcond=None)[0]
        done = {(entry.options, entry.seed) for entry in found}
        left = [self._macs(architecture) for architecture, seed in self._jobs() if (architecture.options, seed) not in done]
        rest = sum(float(weights[-1] * each + (weights[0] if line else 0.0)) for each in left)
        return f"{len(found)} done, mean {seconds.mean():.1f} CPU s; {len(left)} left, about {rest / 3600:.2f} CPU h"

    def _jobs(self) -> list[tuple[Architecture, int]]:
        architectures = list(self._world.space.architectures())
        random.Random(0).shuffle(architectures)
        return [(architecture, seed) for seed in range(self._world.seeds) for architecture in architectures]

    def _macs(self, architecture: Architecture) -> int:
        return cost(self._world.space, architecture).macs


def _checked_in(name: str, path: Path) -> list[Entry]:
    """Read a finished ground truth; none if it was made by another protocol."""
    content = json.loads(path.read_text())
    return [_entry(line) for line in content["trainings"]] if content["protocol"] == json.loads(json.dumps(protocol(name))) else []


def _entry(line: Mapping[str, Any]) -> Entry:
    return Entry(**{**line, "options": tuple(line["options"])})


def _main() -> None:
    parser = argparse.ArgumentParser(description="Train every architecture of a small space.")
    parser.add_argument("--space", choices=tuple(WORLDS), default="mobilenet")
    parser.add_argument("--part", default="0/1", help="which of how many processes this is, from 0")
    parser.add_argument("--most", type=int, help="trainings in this run")
    parser.add_argument("--estimate", action="store_true", help="say what is left, and train nothing")
    parser.add_argument("--work", type=Path, default=Settings.from_env().home / "bench" / "nas")
    given = parser.parse_args()
    number, of = map(int, given.part.split("/"))
    to = Path(__file__).with_name(f"truth_{given.space}.json")
    book = Book(given.space, given.work, to)
    with reproducible():
        for entry in [] if given.estimate else book.build((number, of), given.most):
            print(f"{entry.options} seed {entry.seed}: test {entry.test:.4f}, {entry.cpu_s:.1f} CPU s; {book.estimate()}", flush=True)
    print(book.estimate())
    if WORLDS[given.space].hours:
        print(f"wrote {to.name}" if book.finish(to) else "not complete: run it again to go on")


if __name__ == "__main__":
    _main()
