"""The architecture benchmark's own arithmetic: what regret is, when a search has arrived, and that a killed build goes on."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from components.automl.nas.budget import Limits
from components.core.errors import IntegrityError, TryAgain
from pipelines.bench import nas

FOLDER = Path(__file__).parents[1] / "benchmarks" / "nas"
SIBLINGS = ("budgets", "compare", "contest", "data", "truth", "worlds")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The benchmark's scripts, which import one another by their plain names."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the scripts set it, and a test must not
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in SIBLINGS:
        sys.modules.pop(name, None)


def truth(module: ModuleType, noise: float = 0.0) -> Any:
    """Every architecture of the quick world, twice: the score is what its options add, and what seeds do to it."""
    space = importlib.import_module("worlds").WORLDS["quick"].space
    entries = [
        module.Entry(a.options, seed, 0.5, 0.5 + 0.1 * a.options[0] - 0.05 * a.options[1] + noise * (2 * seed - 1), 1.0 + seed)
        for a in space.architectures()
        for seed in range(2)
    ]
    return module.Truth(space, tuple(entries))


def test_regret_is_the_distance_to_the_best_within_the_limits(bench: Any) -> None:
    known = truth(bench("truth"))
    values, costs = known.tests, known.costs
    for share in (0.3, 0.6, 1.0):
        limits = known.limits(share)
        allowed = [a for a in values if limits.allow(costs[a])]
        best = max(values[a] for a in allowed)
        assert min(known.regret(a, limits, smooth=False) for a in allowed) == 0
        assert all(known.regret(a, limits, smooth=False) == pytest.approx(100 * (best - values[a])) for a in values)
    assert len(allowed) == len(values)


def test_smoothing_keeps_what_pairs_of_options_explain(bench: Any) -> None:
    known = truth(bench("truth"), noise=0.01)
    assert known.smooth == pytest.approx(known.tests)
    assert known.noise() == pytest.approx(0.02 / 2**0.5)
    assert known.seconds(next(iter(known.tests))) == 1.0


def test_a_build_that_was_killed_goes_on(bench: Any, tmp_path: Path) -> None:
    module = bench("truth")
    book = module.Book("quick", tmp_path)
    assert book.estimate() == "nothing was trained yet"
    lines = [json.dumps(vars(entry)) for entry in truth(module).entries]
    (path,) = [tmp_path / f"truth_quick.{module.digest_of(module.protocol('quick'))[:12]}.jsonl"]
    path.write_text("\n".join(["", *lines[:3], lines[3][:20]]))
    assert len(book.trainings()) == 3
    assert not book.finish(tmp_path / "truth.json")
    assert "3 done" in book.estimate()
    assert "9 left" in book.estimate()
    path.write_text("\n".join(["", *lines[:3], lines[3][:20], *lines[3:]]))
    assert book.finish(tmp_path / "truth.json")
    assert len(json.loads((tmp_path / "truth.json").read_text())["trainings"]) == 12


def test_a_ground_truth_that_is_missing_or_of_another_protocol(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = bench("truth")
    with pytest.raises(TryAgain, match=r"truth\.py --space mobilenet"):
        module.truth_of("mobilenet", tmp_path, tmp_path)
    entries = [vars(entry) for entry in truth(module).entries]
    for name, message in (("quick", "another protocol"), ("mobilenet", "has 2 trainings of each architecture, not 3")):
        (tmp_path / "truth_mobilenet.json").write_text(json.dumps({"protocol": module.protocol(name), "trainings": entries}))
        with pytest.raises(IntegrityError, match=message):
            module.truth_of("mobilenet", tmp_path, tmp_path)


def test_more_trainings_are_added_to_those_that_are_checked_in(bench: Any, tmp_path: Path) -> None:
    module = bench("truth")
    known = tmp_path / "truth_quick.json"
    entries = [vars(entry) for entry in truth(module).entries if entry.seed == 0]
    known.write_text(json.dumps({"protocol": module.protocol("quick"), "trainings": entries}))
    assert "6 done" in module.Book("quick", tmp_path, known).estimate()
    known.write_text(json.dumps({"protocol": module.protocol("mobilenet"), "trainings": entries}))
    assert module.Book("quick", tmp_path, known).estimate() == "nothing was trained yet"


@pytest.mark.parametrize("space", ["mobilenet", "resnet"])
def test_the_ground_truth_that_is_checked_in_is_of_todays_protocol(bench: Any, tmp_path: Path, space: str) -> None:
    assert bench("truth").truth_of(space, tmp_path).seeds == bench("worlds").WORLDS[space].seeds


def test_a_search_has_arrived_when_it_stays(bench: Any) -> None:
    module, contest = bench("compare"), bench("contest")
    known = truth(bench("truth"))
    best, worst = (min(known.tests, key=lambda a, s=sign: s * known.tests[a]) for sign in (-1, 1))  # type: ignore[misc]
    line = [contest.Incumbent(t, 10.0 + t, best if good else worst) for t, good in enumerate((True, False, True, True))]
    rig = SimpleNamespace(truth=known)
    assert module._settled(rig, line, Limits(), alone=True) == 2
    assert module._settled(rig, line, Limits(), alone=False) == 12
    assert module._settled(rig, line[:2], Limits(), alone=True) == float("inf")
    assert module._at(line, 11.5) == worst
    assert module._at(line, 0.0) == best


def test_the_command_knows_the_scripts_cases(bench: Any) -> None:
    assert nas.CASES == bench("compare").CASES
