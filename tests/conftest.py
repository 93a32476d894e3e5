"""Fixtures every test may use: a fresh installation in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import Artifact
from components.core.ledger import Ledger
from components.core.settings import Settings
from components.core.step import execute
from components.core.store import ArtifactStore, open_store

RunStep = Callable[..., dict[str, Artifact]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A fresh installation: SQLite ledger, local store."""
    env = {"ATLAS_HOME": str(tmp_path / ".atlas")}
    (tmp_path / ".atlas").mkdir()
    return Settings.from_env(env)


@pytest.fixture
def store(settings: Settings) -> ArtifactStore:
    """The installation's artifact store."""
    return open_store(settings)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    """The installation's ledger."""
    with Ledger.open(settings.ledger) as opened:
        yield opened


@pytest.fixture
def run_step(settings: Settings) -> RunStep:
    """Run a step in this process: `run_step("validate", params, {"dataset": artifact, …}, run_id="r1")`."""

    def run(step: str, params: Mapping[str, Any], inputs: Mapping[str, Artifact] | None = None, run_id: str = "r1") -> dict[str, Artifact]:
        return execute(step, params, {port: a.ref for port, a in (inputs or {}).items()}, run_id=run_id, settings=settings)

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny networks are computed by one thread: several wait for one another longer than they work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
