"""One rank of a small job with a sharded head. Not a test module: test_sharded_head.py starts it, and imports it by path for one rank.

    RANK=0 WORLD_SIZE=2 python tests/head_ranks.py FOLDER

FOLDER/jobs.json lists what to do; the arrays that come of it are FOLDER/NAME.RANK.npz. The ranks meet at FOLDER/meet.
Shapes: B rows of all ranks, C classes, D dimensions; c and b of this rank.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from components.core.errors import DataError
from components.train.parallel.ending import disband, leave
from components.train.parallel.head import ShardedHead
from components.train.parallel.margins import Margin
from components.train.parallel.mesh import Mesh

__all__ = ["JOBS", "drawn", "train"]

Arrays = dict[str, Any]
DIM = 8


def drawn(classes: int, rows: int) -> tuple[Tensor, Tensor]:
    """The same embeddings (B, D) and weights (C, D) in every process."""
    draw = torch.Generator().manual_seed(classes)
    return (torch.randn(count, DIM, generator=draw, dtype=torch.float64) for count in (rows, classes))


def _head(job: Mapping[str, Any], mesh: DeviceMesh | None, w_CD: Tensor) -> ShardedHead:
    head = ShardedHead(len(w_CD), DIM, margin=Margin(*job["margin"]), mesh=mesh, dtype=torch.float64, **job.get("options", {}))
    with torch.no_grad():
        head.local_weight().copy_(w_CD[head.first : head.first + len(head.local_weight())])
    return head


def train(job: Mapping[str, Any], mesh: DeviceMesh | None) -> Arrays:
    """Three steps of SGD with momentum on embeddings and weights; losses, gradients and weights of every step."""
    e_BD, w_CD = drawn(job["classes"], sum(job["sizes"]))
    head = _head(job, mesh, w_CD)
    rank = mesh.get_local_rank() if mesh else 0
    embedding = nn.Parameter(e_BD.split(job["sizes"])[rank].clone())
    momentum = 0.0 if head.fused_lr else 0.9
    optimiser = torch.optim.SGD([embedding, head.weight], lr=job["lr"], momentum=momentum)
    found: Arrays = {"first": head.first}
    for step, labels in enumerate(job["labels"]):
        optimiser.zero_grad()
        loss = head(embedding, torch.tensor(labels).split(job["sizes"])[rank])
        loss.backward()
        found[f"loss{step}"], found[f"de{step}"] = loss.detach(), embedding.grad.clone()
        if head.weight.grad is not None:
            found[f"dw{step}"] = (head.weight.grad.to_local() if mesh else head.weight.grad).clone()
        optimiser.step()
        found[f"w{step}"] = head.local_weight().detach().clone()
    return found


def refuse(job: Mapping[str, Any], mesh: DeviceMesh) -> Arrays:
    """Rank 1 is given something wrong, then all are given something right."""
    e_BD, w_CD = drawn(job["classes"], 4)
    head = _head(job, mesh, w_CD)
    good = (e_BD[:2], torch.tensor([0, 1]))
    bad = {
        "label": (e_BD[:2], torch.tensor([0, job["classes"]])),
        "negative": (e_BD[:3], torch.tensor([0, -1, 1])),
        "shape": (e_BD[:2, :3], good[1]),
        "vector": (e_BD[0], good[1]),
        "type": (good[0], torch.tensor([0.0, 1.0])),
        "length": (e_BD[:3], good[1]),
        "nothing": (e_BD[:0], good[1][:0]),
    }
    found: Arrays = {}
    for name, given in bad.items():
        try:
            head(*(given if mesh.get_local_rank() == 1 or name == "nothing" else good))
        except DataError as error:
            found[name] = str(error)
        found[f"{name} then"] = head(*good).detach()
    return found


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, int]] = []
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "c10d":
            self.sent.append((func.__name__, max(_sizes(args))))
        self.largest = max([self.largest, *_sizes(result)])
        return result


def _sizes(values: Any) -> list[int]:
    """Of the tensors among values; a DTensor is only a name for its shard."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return [tensor.numel() for tensor in tensors if not isinstance(tensor, DTensor)]


def record(job: Mapping[str, Any], mesh: DeviceMesh) -> Arrays:
    """What is sent in the first step and in the second, and the size of the largest tensor that any operation gives."""
    e_BD, w_CD = drawn(job["classes"], 8)
    head = _head(job, mesh, w_CD)
    found: Arrays = {"largest": 0}
    for step in range(2):
        with _Recorder() as recorder:
            head(e_BD.requires_grad_(), torch.arange(8)).backward()
        found[f"names{step}"], found[f"sizes{step}"] = map(list, zip(*recorder.sent, strict=True))
        found["largest"] = max(found["largest"], recorder.largest)
    return found


def average(job: Mapping[str, Any], mesh: DeviceMesh) -> Arrays:
    """A backbone in DDP before the head: its gradient after the average over the ranks."""
    e_BD, w_CD = drawn(job["classes"], sum(job["sizes"]))
    head = _head(job, mesh, w_CD)
    backbone = nn.Linear(DIM, DIM, bias=False, dtype=torch.float64)
    with torch.no_grad():
        backbone.weight.copy_(torch.eye(DIM))
    wrapped = DistributedDataParallel(backbone)
    rank = mesh.get_local_rank()
    head(wrapped(e_BD.split(job["sizes"])[rank]), torch.tensor(job["labels"][0]).split(job["sizes"])[rank]).backward()
    return {"gradient": backbone.weight.grad, "dw": head.weight.grad.to_local(), "first": head.first}


def keep(job: Mapping[str, Any], mesh: DeviceMesh) -> Arrays:
    """Two sampled steps, saved."""
    head = ShardedHead(job["classes"], DIM, mesh=mesh, dtype=torch.float64, share=0.5, seed=7)
    e_BD, _ = drawn(job["classes"], 4)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.01)
    for _ in range(2):
        head(e_BD[mesh.get_local_rank() :: mesh.size()], torch.arange(4)[mesh.get_local_rank() :: mesh.size()]).backward()
        optimiser.step()
    checkpoint.save(head.state_dict(), checkpoint_id=job["folder"])
    return {"w": head.local_weight().detach(), "steps": head.steps}


def resume(job: Mapping[str, Any], mesh: DeviceMesh | None) -> Arrays:
    """The saved head in another job."""
    head = ShardedHead(job["classes"], DIM, mesh=mesh, dtype=torch.float64, share=0.5, seed=8)
    state = head.state_dict()
    checkpoint.load(state, checkpoint_id=job["folder"], no_dist=mesh is None)
    head.load_state_dict(state)
    return {"w": head.local_weight().detach(), "steps": head.steps}


def place(job: Mapping[str, Any], mesh: DeviceMesh) -> Arrays:
    """Where torch's mesh sees this rank, and a head over the inner dimension of a larger mesh."""
    whole = Mesh(**job["mesh"])
    found = whole.device_mesh("cpu")
    same = whole.device_mesh("cpu") is found
    head = ShardedHead(job["classes"], DIM, mesh=found["tensor"])
    return {
        "at": found.get_coordinate(),
        "names": list(found.mesh_dim_names),
        "same": same,
        "first": head.first,
        "w": head.local_weight().detach(),
    }


JOBS: Mapping[str, Callable[..., Arrays]] = {job.__name__: job for job in (train, refuse, record, average, keep, resume, place)}


def main() -> None:
    """Do every job, then end together."""
    folder, rank, world = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=world)
    mesh = Mesh(tensor=world).device_mesh("cpu")["tensor"]
    for name, job in json.loads((folder / "jobs.json").read_text()).items():
        found = JOBS[job["do"]](job, mesh)
        np.savez(folder / f"{name}.{rank}.npz", **{key: np.asarray(value) for key, value in found.items()})
    distributed.barrier()
    disband()
    leave(0)


if __name__ == "__main__":
    main()
