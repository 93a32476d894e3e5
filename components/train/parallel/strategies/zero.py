"""DeepSpeed's ZeRO 1, 2 and 3 (Rajbhandari et al., arXiv 1910.02054) around a torch optimizer.

DeepSpeed computes in float32 here, whatever the model's precision. Its own checkpoints only resume at the world size they were saved at;
`state` therefore gathers each tensor through `deepspeed.utils.safe_get_full_*`: the whole must fit in each process's CPU memory.
On a CPU, DeepSpeed compiles a communication operator at its first start (about a minute): it needs g++ and ninja on the PATH.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from deepspeed import utils
from torch import Tensor, nn
from torch import distributed as dist

from components.core.errors import ConfigError, IntegrityError
from components.train.parallel.mesh import Mesh
from components.train.parallel.section import Parallel
from components.train.parallel.state import MODEL, OPTIM
from components.train.parallel.strategies.base import Batch, State, Strategy, Work, base_rates, build, mean_loss, parts_of, set_rate

__all__ = ["make"]


def make(parallel: Parallel, mesh: Mesh, work: Work, device: torch.device) -> Strategy:
    """Return the strategy.

    Raises:
        ConfigError: The world is not the mesh, or the optimizer has several parameter groups.
    """
    place = mesh.device_mesh(device.type)["data"].get_local_rank()
    stage = int(parallel.strategy.removeprefix("zero"))
    model = build(work).float()
    optimiser = work.optimiser(model.parameters())
    if len(optimiser.param_groups) != 1:
        raise ConfigError(f"the optimizer has {len(optimiser.param_groups)} parameter groups, ZeRO is given one here", do="use fsdp2")
    config = {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only multiplies it; rows are ours to count
        "gradient_accumulation_steps": parallel.micro_batches,
        "gradient_clipping": work.clip or 0.0,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }
    # On a CPU its ranks map each other's shared memory and do not wait until the owner has filled it.
    deepspeed.init_distributed(dist_backend=dist.get_backend(), dist_init_required=False, verbose=False)
    dist.barrier()
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimiser, config=config, dist_init_required=False)
    return _Zero(engine, stage, work, device, place, mesh.data, parallel.micro_batches)


@dataclass
class _Zero:
    """`strategies.base.Strategy` says what the methods do."""

    engine: Any
    stage: int
    work: Work
    device: torch.device
    place: int
    places: int
    parts: int

    def __post_init__(self) -> None:
        self.base = self.engine.optimizer.optimizer
        self.rates = base_rates([self.base])

    def step(self, batch: Batch, rate: float = 1.0) -> float:
        """Let DeepSpeed accumulate, average and step."""
        cut = list(parts_of(batch, self.place, self.places, self.parts, self.device))
        if len(cut) < self.parts:
            raise ConfigError(f"a slice of {len(cut)} rows can't be cut into {self.parts} micro-batches", do="use larger batches")
        self.engine.train()
        set_rate([self.base], self.rates, rate)
        shares: list[Tensor] = []
        for x, y, share in cut:
            x = x.float() if x.is_floating_point() else x
            y = y.float() if y.is_floating_point() else y
            loss = self.work.loss(self.engine(x), y) * share
            # DeepSpeed divides by the places and by the micro-batches.
            self.engine.backward(loss * (self.places * self.parts))
            self.engine.step()
            shares.append(loss.detach())
        return mean_loss(torch.stack(shares).sum().double(), dist.group.WORLD)

    def _params(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, param) for name, param in self.engine.module.named_parameters() if param.requires_grad)

    def _flats(self) -> list[Tensor]:
        """Return this rank's flat partitions in float32, over which the torch optimizer steps (attributes of DeepSpeed 0.19)."""
        optimiser = self.engine.optimizer
        return list(optimiser.fp32_partitioned_groups_flat if self.stage == 3 else optimiser.single_partition_of_fp32_groups)

    def _start_optimiser(self) -> None:
        """Let the torch optimizer make its state by a step of rate zero with gradients of zero, which changes no weight."""
        groups = self.base.param_groups
        for flat in self._flats():
            if not self.base.state.get(flat):
                flat.grad = torch.zeros_like(flat)
                self.base.param_groups = [{**groups[0], "params": [flat], "lr": 0.0, "weight_decay": 0.0}]
                self.base.step()
                flat.grad = None
                for value in self.base.state[flat].values():
                    value.zero_()
        self.base.param_groups = groups
        if self.stage < 3:
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _entries(self) -> tuple[list[str], dict[str, Tensor]]:
        """Return the names of the optimizer's entries that have a weight's shape, and those that are one number for all weights."""
        flat = self._flats()[0]
        state = {name: value for name, value in self.base.state[flat].items() if isinstance(value, Tensor)}
        alike = [name for name, value in state.items() if value.shape == flat.shape]
        return alike, {name: value for name, value in state.items() if name not in alike}

    def state(self) -> State:
        """Gather everything on every rank."""
        self._start_optimiser()
        alike, single = self._entries()
        found: State = {}
        for name, param in self._params():
            found[MODEL + name] = utils.safe_get_full_fp32_param(param).cpu()
            for entry in alike:
                found[f"{OPTIM}state.{name}.{entry}"] = utils.safe_get_full_optimizer_state(param, entry).cpu()
            found |= {f"{OPTIM}state.{name}.{entry}": value.detach().clone().cpu() for entry, value in single.items()}
        return found | {MODEL + name: value.detach().clone().cpu() for name, value in self.engine.module.named_buffers()}

    def load(self, state: State) -> None:
        """Let every rank take its partition of each tensor."""
        self._start_optimiser()
        alike, single = self._entries()
        try:
            for name, param in self._params():
                self._set(param, state[MODEL + name], {entry: state[f"{OPTIM}state.{name}.{entry}"] for entry in alike})
            for name, buffer in self.engine.module.named_buffers():
                buffer.copy_(state[MODEL + name])
            first = next(self._params())[0]
            for flat in self._flats():
                for entry in single:
                    self.base.state[flat][entry].copy_(state[f"{OPTIM}state.{first}.{entry}"])
        except KeyError as error:
            raise IntegrityError(
                f"the checkpoint has no {error}", do="resume it with the model and the optimizer that it was made of"
            ) from error

    def _set(self, param: nn.Parameter, weights: Tensor, entries: State) -> None:
        with deepspeed.zero.GatheredParameters([param], modifier_rank=0, enabled=self.stage == 3), torch.no_grad():
            param.copy_(weights)
        utils.safe_set_full_fp32_param(param, weights.float().to(self.device))
        for entry, value in entries.items():
            utils.safe_set_full_optimizer_state(param, value.float().to(self.device), entry)

    def full_state(self) -> State:
        """Gather the weights on rank 0."""
        found = {name: utils.safe_get_full_fp32_param(param).cpu() for name, param in self._params()}
        found |= {name: value.detach().clone().cpu() for name, value in self.engine.module.named_buffers()}
        frozen = {name for name, _ in self.engine.module.named_parameters()} - found.keys()
        if frozen:
            raise ConfigError(f"{len(frozen)} parameters are frozen, which ZeRO does not gather here", do="use fsdp2")
        return {} if dist.get_rank() else found
