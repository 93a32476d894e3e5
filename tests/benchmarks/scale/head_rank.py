"""One rank of a job that head.py measures: prints one JSON object.

    RANK=0 WORLD_SIZE=2 python tests/benchmarks/scale/head_rank.py '{"do": "memory", "head": "ours", …}'

Memory is what the kernel says: the process's largest resident set (VmHWM, reset before the step) less the set before it. Each head gets
processes of its own, that have done a small step, so that libraries and the process group's buffers are there already.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from head_rivals import HEADS
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional

from components.train.parallel.ending import disband, leave
from components.train.parallel.head import ShardedHead
from components.train.parallel.margins import Margin
from components.train.parallel.mesh import Mesh

_SMALL = 2000  # classes of the step before


def _resident(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def _batch(job: Mapping[str, Any], rank: int, world: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(job["seed"])
    e_BD = torch.randn(job["rows"], job["dim"], generator=draw)
    label_B = torch.randint(job["classes"], (job["rows"],), generator=draw)
    return e_BD[rank::world].clone().requires_grad_(), label_B[rank::world].clone()


def memory(job: Mapping[str, Any], mesh: DeviceMesh) -> dict[str, Any]:
    """Peak extra bytes of one step, peak bytes of the process in it, its wall and CPU seconds."""
    make, rank, world = HEADS[job["head"]], mesh.get_local_rank(), mesh.size()
    small = {**job, "classes": _SMALL}
    make(_SMALL, job["dim"], mesh)[0](*_batch(small, rank, world))
    step, _ = make(job["classes"], job["dim"], mesh)
    batch = _batch(job, rank, world)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    distributed.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident set is counted from here
    before, began, cpu = _resident("VmRSS"), time.perf_counter(), time.process_time()
    loss = step(*batch)
    wall_s, cpu_s, peak = time.perf_counter() - began, time.process_time() - cpu, _resident("VmHWM")
    return {"extra": peak - before, "peak": peak, "wall_s": wall_s, "cpu_s": cpu_s, "loss": loss}


def speed(job: Mapping[str, Any], mesh: DeviceMesh) -> dict[str, Any]:
    """CPU seconds of a step of each head, interleaved: the least of all repetitions, and of wall seconds."""
    rank, world = mesh.get_local_rank(), mesh.size()
    made = {name: HEADS[name](job["classes"], job["dim"], mesh) for name in job["heads"]}
    found: dict[str, Any] = {name: {"cpu_s": math.inf, "wall_s": math.inf} for name in made}
    for _ in range(job["repetitions"] + 1):
        for name, (step, weight) in made.items():
            e_bD, label_b = _batch(job, rank, world)
            distributed.barrier()
            began, cpu = time.perf_counter(), time.process_time()
            loss = step(e_bD, label_b)
            cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - began
            best = found[name]
            best |= {"cpu_s": min(best["cpu_s"], cpu_s), "wall_s": min(best["wall_s"], wall_s)}
            best.setdefault("first_loss", loss)
            weight.grad = None
    return found


def exact(job: Mapping[str, Any], mesh: DeviceMesh) -> dict[str, Any]:
    """Of every case: the largest difference in loss, dE and dW from dense autograd, over three steps of SGD with momentum, in float64."""
    return {name: _worst({**job, **case}, mesh) for name, case in job["cases"].items()}


def _worst(job: Mapping[str, Any], mesh: DeviceMesh) -> float:
    rank, world, margin = mesh.get_local_rank(), mesh.size(), Margin(*job["margin"])
    draw = torch.Generator().manual_seed(job["seed"])
    e_BD, w_CD = (torch.randn(count, job["dim"], generator=draw, dtype=torch.float64) for count in (job["rows"], job["classes"]))
    e_bD, e_BD, w_CD = (nn.Parameter(values.clone()) for values in (e_BD[rank::world], e_BD, w_CD))
    head = ShardedHead(job["classes"], job["dim"], mesh=mesh, margin=margin, dtype=torch.float64, chunk=job["chunk"])
    here = slice(head.first, head.first + len(head.local_weight()))
    with torch.no_grad():
        head.local_weight().copy_(w_CD[here])
    sgd = [torch.optim.SGD(pair, lr=0.1, momentum=0.9) for pair in ([e_bD, head.weight], [e_BD, w_CD])]
    worst = 0.0
    for _ in range(3):
        label_B = torch.randint(job["below"], (job["rows"],), generator=draw)
        losses = head(e_bD, label_B[rank::world]), _dense(e_BD, w_CD, label_B, margin)
        for loss, optimiser in zip(losses, sgd, strict=True):
            optimiser.zero_grad()
            loss.backward()
        pairs = (losses, (e_bD.grad, e_BD.grad[rank::world]), (head.weight.grad.to_local(), w_CD.grad[here]))
        for got, whole in pairs:
            worst = max(worst, float((got.detach() - whole.detach()).abs().max()) if got.numel() else 0.0)
        for optimiser in sgd:
            optimiser.step()
    return worst


def _dense(e_BD: Tensor, w_CD: Tensor, label_B: Tensor, margin: Margin) -> Tensor:
    cosine_BC = functional.normalize(e_BD) @ functional.normalize(w_CD).T
    angle_BC = cosine_BC.acos() + margin.margin
    bent_BC = torch.where(angle_BC <= math.pi, angle_BC.cos(), cosine_BC - margin.margin * math.sin(margin.margin))
    moved_BC = bent_BC if margin.kind == "arcface" else cosine_BC - margin.margin
    own_BC = functional.one_hot(label_B, len(w_CD)).bool()
    return functional.cross_entropy(margin.scale * torch.where(own_BC, moved_BC, cosine_BC), label_B)


def main() -> None:
    """Do the job that the command line gives."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    world = int(os.environ["WORLD_SIZE"])
    distributed.init_process_group("gloo", init_method=f"file://{job['meet']}", rank=int(os.environ["RANK"]), world_size=world)
    mesh = Mesh(tensor=world).device_mesh("cpu")["tensor"]
    print(json.dumps({"memory": memory, "speed": speed, "exact": exact}[job["do"]](job, mesh)))
    distributed.barrier()
    disband()
    leave(0)


if __name__ == "__main__":
    main()
