"""The mesh: degrees, places, and what it refuses. Its process groups: test_sharded_head.py."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.errors import ConfigError
from components.train.parallel.mesh import Mesh

degrees = st.integers(1, 6)


@given(data=degrees, tensor=degrees, pipeline=degrees)
def test_every_rank_has_a_place_of_its_own(data: int, tensor: int, pipeline: int) -> None:
    mesh = Mesh(data=data, tensor=tensor, pipeline=pipeline)
    mesh.check(data * tensor * pipeline)
    places = [mesh.place(rank) for rank in range(mesh.size)]
    assert len(set(places)) == mesh.size
    assert places == sorted(places, key=lambda place: (place.pipeline, place.data, place.tensor))
    assert all(place.pipeline < pipeline and place.data < data and place.tensor < tensor for place in places)


@pytest.mark.parametrize("wrong", [{"data": 0}, {"tensor": -1}, {"pipeline": True}, {"data": 2.0}])
def test_a_degree_that_is_no_count(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Mesh(**wrong)


def test_a_product_that_is_not_the_world_size() -> None:
    with pytest.raises(ConfigError, match="pipeline 1 × data 2 × tensor 3 needs 6 ranks, the job has 4"):
        Mesh(data=2, tensor=3).check(4)


@pytest.mark.parametrize("rank", [-1, 4])
def test_a_rank_outside(rank: int) -> None:
    with pytest.raises(ConfigError, match=f"rank {rank} of a mesh of 4"):
        Mesh(data=4).place(rank)


def test_no_process_group_yet() -> None:
    with pytest.raises(ConfigError, match="torchrun"):
        Mesh(data=2).device_mesh("cpu")


def test_it_is_light() -> None:
    code = "import sys; from components.train.parallel.mesh import Mesh; Mesh(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
