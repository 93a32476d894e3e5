"""Parallel training with two processes: loss curves, checkpoints across world sizes, ranks that are killed or fail."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.core.errors import ContractError, TryAgain
from components.train.parallel.job import CURVE, WEIGHTS, Job, train
from components.train.parallel.launch import launch
from components.train.parallel.section import Parallel
from components.train.parallel.works import training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

_loader = SourceFileLoader("parallel_curves", str(Path(__file__).parents[1] / "parallel_curves.py"))
curves = module_from_spec(spec_from_loader("parallel_curves", _loader))  # type: ignore[arg-type]
_loader.exec_module(curves)
CASES = curves.CASES[2]
HALF, MORE = curves.STEPS // 2, curves.STEPS + 4
LONG = 2000


def alone(folder: Path, steps: int, options: Mapping[str, Any]) -> list[float]:
    job = Job(work="probe", options=dict(options), parallel=Parallel(checkpoint_every=0), steps=steps)
    return train(job, training("probe", options), folder, torch.device("cpu"), lambda event: None)


@pytest.fixture(scope="module")
def golden() -> list[float]:
    return json.loads(curves.GOLDEN.read_text())["losses"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case's folder after its 20 steps with two processes; those called `-resumed` began with 10 steps of one process."""
    found = tmp_path_factory.mktemp("curves")
    for name, case in CASES.items():
        begun = found / f"{name}-resumed"
        alone(begun, HALF, case.options)
        (begun / CURVE).unlink()
    curves.run(2, found)
    return found


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return alone(tmp_path_factory.mktemp("longer"), MORE, {})


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_does(name: str, folder: Path, golden: list[float]) -> None:
    losses = json.loads((folder / name / CURVE).read_text())["losses"]
    assert curves.deviation(losses, golden) <= CASES[name].tolerance


@pytest.mark.parametrize("name", CASES)
def test_what_one_process_began_two_go_on_with(name: str, folder: Path, golden: list[float]) -> None:
    curve = json.loads((folder / f"{name}-resumed" / CURVE).read_text())
    assert curve["resumed_at"] == HALF
    assert curves.deviation(curve["losses"], golden) <= CASES[name].tolerance


@pytest.mark.parametrize("name", CASES)
def test_what_two_processes_began_one_goes_on_with(name: str, folder: Path, longer: list[float], tmp_path: Path) -> None:
    shutil.copytree(folder / name / "checkpoints", tmp_path / "checkpoints")
    assert curves.deviation(alone(tmp_path, MORE, CASES[name].options), longer) <= CASES[name].tolerance


@pytest.mark.parametrize("name", CASES)
def test_the_exported_weights_are_the_whole_models(name: str, folder: Path, tmp_path: Path) -> None:
    alone(tmp_path, curves.STEPS, {})
    with np.load(tmp_path / WEIGHTS) as one, np.load(folder / name / WEIGHTS) as two:
        assert set(one) == set(two)
        assert all(np.allclose(one[key], two[key], atol=1e4 * CASES[name].tolerance) for key in one)


def lines(react: Callable[[dict[str, Any]], None]) -> tuple[list[dict[str, Any]], Callable[[str], None]]:
    heard: list[dict[str, Any]] = []

    def say(line: str) -> None:
        heard.append(json.loads(line))
        react(heard[-1])

    return heard, say


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def check_gone(pids: list[int]) -> None:
    """A process that was killed may take a moment to end."""
    until = time.monotonic() + 60
    while any(map(is_alive, pids)):
        assert time.monotonic() < until, "a rank outlived its job"
        time.sleep(0.05)


def test_a_killed_rank_ends_the_job_and_the_next_run_resumes_it(tmp_path: Path) -> None:
    job = Job(work="probe", parallel=Parallel(strategy="fsdp2", data=2, checkpoint_every=20), steps=LONG)

    def kill(event: dict[str, Any]) -> None:
        if event.get("step") == 50:
            os.kill(heard[0]["ranks"][1], signal.SIGKILL)

    heard, say = lines(kill)
    with pytest.raises(
        TryAgain, match=r"rank 1 ended with signal SIGKILL; it said last: .* \d+ steps of 2000 are kept, loss .* -> run the job again"
    ):
        launch(job, tmp_path / "job", say=say, timeout_s=600)
    check_gone(heard[0]["ranks"])
    assert not (tmp_path / "job" / CURVE).exists()
    ended = max(event.get("step", 0) for event in heard)
    assert 50 <= ended < LONG - 1, "it was killed too late to show anything"
    shorter = job.model_copy(update={"steps": ended + 20})
    again, say = lines(lambda event: None)
    losses = launch(shorter, tmp_path / "job", say=say, timeout_s=600)
    assert 40 <= again[1]["resumed_at"] <= ended + 1
    uninterrupted = alone(tmp_path / "alone", ended + 20, {})
    assert losses == pytest.approx(uninterrupted, rel=1e-7)


def test_ranks_end_with_their_agent(tmp_path: Path) -> None:
    def kill(event: dict[str, Any]) -> None:
        if event.get("step") == 5:
            os.kill(int(Path(f"/proc/{heard[0]['ranks'][0]}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)

    heard, say = lines(kill)
    with pytest.raises(TryAgain, match="the job's agent ended with signal SIGKILL"):
        launch(Job(work="probe", parallel=Parallel(strategy="ddp", data=2), steps=LONG), tmp_path, say=say, timeout_s=600)
    check_gone(heard[0]["ranks"])


def test_a_rank_that_fails_says_which_and_why(tmp_path: Path) -> None:
    job = Job(work="probe", options={"rows": 1}, parallel=Parallel(strategy="ddp", data=2), steps=1)
    with pytest.raises(ContractError, match=r"rank [01] ended with exit code 64; it said last: DataError: a batch of 1 rows"):
        launch(job, tmp_path, timeout_s=600)


def test_a_job_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    heard, say = lines(lambda event: None)
    with pytest.raises(TryAgain, match=r"was not done after 0.5 s; rank 0 said last: nothing"):
        launch(Job(work="probe", steps=LONG), tmp_path, say=say, timeout_s=0.5)
    assert not heard
