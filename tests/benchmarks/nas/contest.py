"""The contest of search strategies on a ground truth: each is run for real, what it finds is looked up.

Everything counts, in CPU seconds of the process: a supernet's training, the search, judging on validation images, and at last the training
of the architecture that was found, which random search has done already. The look-ups of random search cost what the trainings took,
times `speed`: how this machine compares today with the day the truth was made.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data import pictures
from truth import measured, protocol, truth_of
from worlds import WORLDS

from components.automl import nas
from components.automl.nas.budget import Limits
from components.automl.nas.darts import Steps
from components.automl.nas.mixing import Mixing
from components.automl.nas.strategies import Budget, Darts, Effects, Evolutionary, Found, Gradient, Meter, Random, SearchTask
from components.automl.nas.strategies.base import chosen, drawn
from components.automl.nas.strategies.on_supernet import OnSupernet, calibration, mean_score
from components.automl.nas.supernet import Supernet
from components.automl.nas.training import Fitting, single_path
from components.core.artifacts import digest_of
from components.train import spaces
from components.train.spaces.space import Architecture

__all__ = ["SHARES", "SYSTEMS", "Contest", "Incumbent"]

SHARES = (0.25, 0.5, 0.75)
"""Of the architectures are within the limit of MACs: three limits a seed."""
RANKED = 100
"""Architectures whose order by inherited weights is compared with the truth's."""
_VERSION = 1
"""Raise it when what a run keeps changes: every run becomes stale."""
_SHARED = ("problem", "training", "knapsack", "selection", "strategies/base")
_DECIDES: Mapping[type, tuple[str, ...]] = {
    Darts: ("darts", "strategies/gradient"),
    Gradient: ("mixing", "supernet", "superposition", "entangled", "strategies/gradient"),
    Effects: ("supernet", "entangled", "strategies/on_supernet", "strategies/effects"),
    Evolutionary: ("supernet", "entangled", "strategies/on_supernet", "strategies/evolutionary"),
}
"""Modules that a kind of strategy is made of: when one changes, its runs are stale, and no others."""
_OF_NETWORKS = ("network", "geometry", "space")
_SHORT = 0.1  # of the usual epochs, in the world that only shows that everything runs

Strategy = Gradient | Darts | OnSupernet


def _on_supernets(kind: type[Effects] | type[Evolutionary], share: float) -> OnSupernet:
    return kind(Fitting(2 * share, lr=8e-3), single_path, judged=16, batches=16, calibrating=1, supernets=2)


SYSTEMS: Mapping[str, Callable[[float], Strategy]] = {
    "single path": lambda share: _on_supernets(Effects, share),
    "single path, evolution": lambda share: _on_supernets(Evolutionary, share),
    "superposition": lambda share: Gradient(Fitting(4 * share), Mixing("dirichlet")),
    "DARTS, first order": lambda share: Darts(Steps(1, alpha_lr=3e-3), 6 * share),
    "DARTS, second order": lambda share: Darts(Steps(2, alpha_lr=3e-3), 5 * share),
}
"""Name -> share of the usual epochs -> strategy. DARTS has its released settings, but a step of alpha ten times larger: its own takes 50
epochs to tell options apart. Its epochs are few: enough to spend a little more than five and ten times what `single path` does. The
settings of `single path` were chosen on this ground truth, with other seeds (0 to 2, 10, 11), so they flatter it.
"""


@dataclass(frozen=True)
class Incumbent:
    """What a search would have returned at a moment.

    Attributes:
        search_s: CPU seconds of the search until then; of random search, the trainings it looked up.
        cpu_s: CPU seconds until its network is trained too.
    """

    search_s: float
    cpu_s: float
    architecture: Architecture


class Contest:
    """Runs of one world, each kept as a JSON file: killed, it goes on.

    Args:
        work: Of the ground truth; runs are kept in a folder below it.
        systems: Names of those that take part.
    """

    def __init__(self, name: str, work: Path, systems: Sequence[str] = tuple(SYSTEMS)) -> None:
        self.name, self.world, self.truth, self.systems = name, WORLDS[name], truth_of(name, work), tuple(systems)
        self._folder = work / "contest"
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def speed(self) -> float:
        """CPU seconds of a training today, over those in the truth: three architectures are trained again."""
        return float(self._kept({"what": "speed"}, self._speed))

    def limits(self) -> dict[float, Limits]:
        """Return share of the architectures that are within -> limits."""
        return {share: self.truth.limits(share) for share in SHARES}

    def incumbents(self, system: str, seed: int, share: float) -> list[Incumbent]:
        """Return what a system would have found, moment by moment, if the network found is then trained alone."""
        line = self._run(system, seed)["moments"][str(share)]
        found = [(cpu_s, Architecture(0, tuple(options))) for cpu_s, options in line]
        return [Incumbent(cpu_s, cpu_s + self.speed * self.truth.seconds(architecture), architecture) for cpu_s, architecture in found]

    def most(self, share: float) -> list[Incumbent]:
        """Return what needs no search: the architecture within the limits with the most MACs."""
        costs, limits = self.truth.costs, self.limits()[share]
        architecture = max((a for a, each in costs.items() if limits.allow(each)), key=lambda a: costs[a].macs)
        return [Incumbent(0.0, self.speed * self.truth.seconds(architecture), architecture)]

    def ranking(self, system: str, seed: int) -> dict[Architecture, float]:
        """Return architecture -> score with the supernet's weights; empty for a system without a supernet."""
        return {Architecture(0, tuple(options)): score for options, score in self._run(system, seed)["ranking"]}

    def random(self, order: int, limits: Limits, *, uniform: bool, most: int, cpu_s: float = float("inf")) -> list[Incumbent]:
        """Return what random search finds: architectures are drawn in one of many orders, and looked up.

        Args:
            order: Of the draws; also decides which seed's trainings are looked up.
            uniform: Whether all architectures within the limits are equally likely, or those near the limits are more so (`drawn`).
            most: Architectures.
            cpu_s: After these the search is stopped.
        """
        allowed = [architecture for architecture, each in self.truth.costs.items() if limits.allow(each)]

        def look_up(task: SearchTask, architecture: Architecture, meter: Meter) -> float:
            meter.charge(self.truth.seconds(architecture) * self.speed)
            return self.truth.trainings[architecture.options, task.seed % self.truth.seeds].validation

        draw = (lambda _, rng: rng.choice(allowed)) if uniform else drawn
        found = Random(look_up, min(most, len(allowed)), draw).search(self._task(order, limits), Budget(cpu_s))
        return [Incumbent(moment.cpu_s, moment.cpu_s, moment.architecture) for moment in found.moments]

    def _run(self, system: str, seed: int) -> Any:
        strategy = SYSTEMS[system](1.0 if self.world.hours else _SHORT)
        what = {"what": "run", "system": system, "seed": seed, "strategy": _settings(strategy), "code": _code(type(strategy))}
        return self._kept(what, lambda: self._search(strategy, seed))

    def _search(self, strategy: Strategy, seed: int) -> dict[str, Any]:
        task = self._task(seed, Limits())
        tasks = {share: replace(task, limits=limits) for share, limits in self.limits().items()}
        if isinstance(strategy, OnSupernet):
            meter = Meter(Budget())
            supernets = strategy.trained(task, meter)
            spent_s = meter.spent_s
            lines = {share: _line(strategy.select(each, supernets, Meter(Budget(), spent_s=spent_s))) for share, each in tasks.items()}
        else:
            found = strategy.search(task, Budget())
            supernets = [] if found.supernet is None else [found.supernet]
            lines = {
                share: [[moment.cpu_s, chosen(moment.scores, each).options] for moment in found.moments if moment.scores]
                for share, each in tasks.items()
            }
        ranking = list(self._ranked(task, supernets)) if supernets else []
        return {"moments": {str(share): line for share, line in lines.items()}, "ranking": ranking}

    def _ranked(self, task: SearchTask, supernets: Sequence[Supernet]) -> Iterator[tuple[tuple[int, ...], float]]:
        """Judge a sample of all architectures with the supernets' weights; this is no part of a search."""
        sample = sorted(self.truth.tests, key=lambda architecture: architecture.options)
        random.Random(1).shuffle(sample)
        batches = calibration(task, 2)
        for architecture in sample[:RANKED]:
            yield architecture.options, mean_score(supernets, architecture, task.problem, batches, 16)

    def _speed(self) -> float:
        sample = list(self.truth.tests)
        random.Random(2).shuffle(sample)
        again = [measured(self.world, architecture, 0).cpu_s for architecture in sample[:3]]
        return sum(again) / sum(self.truth.trainings[architecture.options, 0].cpu_s for architecture in sample[:3])

    def _task(self, seed: int, limits: Limits) -> SearchTask:
        return SearchTask(self.world.space, pictures(*self.world.images).problem, limits, seed=seed)

    def _kept(self, what: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        key = digest_of({**what, "protocol": json.loads(json.dumps(protocol(self.name))), "version": _VERSION})[:16]
        path = self._folder / f"{self.name}.{what['what']}.{key}.json"
        if not path.is_file():
            began = time.process_time()
            found = work()
            aside = path.with_suffix(f".{os.getpid()}.part")
            aside.write_text(json.dumps({"asked": what, "cpu_s": time.process_time() - began, "found": found}))
            os.replace(aside, path)
        return json.loads(path.read_text())["found"]


def _line(found: Found) -> list[list[Any]]:
    return [[moment.cpu_s, moment.architecture.options] for moment in found.moments]


def _settings(strategy: Strategy) -> Any:
    """Return a strategy's settings as plain JSON; rules are functions, and go by their names."""
    return json.loads(json.dumps(asdict(strategy), default=lambda rule: rule.__name__))


def _code(kind: type) -> str:
    """Hash the modules that decide what a strategy of this kind finds."""
    root, networks = Path(nas.__file__).parent, Path(spaces.__file__).parent
    files = [*(root / f"{name}.py" for name in (*_SHARED, *_DECIDES[kind])), *(networks / f"{name}.py" for name in _OF_NETWORKS)]
    files += [] if kind is Darts else [networks.parent / "adamw.py"]  # DARTS has optimisers of its own
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
