"""The ranks of a job as a small grid: pipeline stages × data × tensor parts. The product of the degrees is the world size."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from components.core.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["DEGREES", "Mesh", "Place"]

DEGREES = ("pipeline", "data", "tensor")
"""From the outermost to the innermost: ranks that are neighbours exchange the most, so they are parts of one tensor."""


@dataclass(frozen=True)
class Place:
    """Where a rank stands: its number, from 0, along every degree."""

    pipeline: int
    data: int
    tensor: int


@dataclass(frozen=True)
class Mesh:
    """How many ways a job is split.

    Attributes:
        data: Replicas that see different rows.
        tensor: Parts that one weight is cut into: the classes of a sharded head.
        pipeline: Stages that a model's layers are cut into.

    Raises:
        ConfigError: A degree is not a whole number of at least 1.
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1

    def __post_init__(self) -> None:
        for name, degree in asdict(self).items():
            if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
                raise ConfigError(f"the mesh's degree '{name}' is {degree!r}", do="give a whole number of at least 1")

    @property
    def shape(self) -> tuple[int, ...]:
        """The degrees, in the order of `DEGREES`."""
        return tuple(getattr(self, name) for name in DEGREES)

    @property
    def size(self) -> int:
        """Ranks that it needs."""
        return math.prod(self.shape)

    def check(self, world: int) -> None:
        """Check that it fits a job.

        Args:
            world: The job's ranks.

        Raises:
            ConfigError: It needs more or fewer ranks.
        """
        if self.size != world:
            product = " × ".join(f"{name} {degree}" for name, degree in zip(DEGREES, self.shape, strict=True))
            raise ConfigError(f"the mesh {product} needs {self.size} ranks, the job has {world}", do="make their product the world size")

    def place(self, rank: int) -> Place:
        """Return where a rank stands.

        Raises:
            ConfigError: The mesh has no such rank.
        """
        if not 0 <= rank < self.size:
            raise ConfigError(f"rank {rank} of a mesh of {self.size}", do=f"give a rank from 0 to {self.size - 1}")
        rest, tensor = divmod(rank, self.tensor)
        pipeline, data = divmod(rest, self.data)
        return Place(pipeline, data, tensor)

    def device_mesh(self, device_type: str) -> DeviceMesh:
        """Return torch's mesh with the dimensions `DEGREES`; `mesh["data"]` is one of them, `mesh["data"].get_group()` its process group.

        The groups are made when this is first called, and by every rank: it is a collective call.

        Args:
            device_type: Of the tensors that will travel: `cpu`, `cuda`.

        Raises:
            ConfigError: torch.distributed has not been initialised, or with another world size.
        """
        from torch import distributed

        if not distributed.is_initialized():
            raise ConfigError("the process group has not been initialised", do="start with torchrun, or call init_process_group first")
        self.check(distributed.get_world_size())
        return _device_mesh(self.shape, device_type, distributed.group.WORLD)


@lru_cache(maxsize=8)  # process groups are scarce; the world's group is part of the key, so a job that starts anew gets its own
def _device_mesh(shape: tuple[int, ...], device_type: str, world: Any) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device_type, shape, mesh_dim_names=DEGREES)
