"""What a training step holds for its backward pass, and when: per block and as a whole, forecast or measured; and the blocks' times.

| function | tensors | use it |
|---|---|---|
| `forecast` | fake (`FakeTensorMode`): no memory, no arithmetic, any size, on any machine | to decide before anything runs; the default |
| `measured` | real, on the device of the parameters | for a model whose control flow depends on values, and to check a forecast |
| `saved` | as given | what autograd itself saves, by block (saved-tensor hooks); blind to what `selective` keeps |
| `seconds` | real, few rows | what a block's mode costs: sizes can be forecast, times can not |

Bytes are of activations and temporaries: without parameters, buffers, the optimiser's state, and gradients of parameters, which are
taken to exist. Only the gradient on its way into them counts. No function leaves a trace in the model or in the random numbers.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._pytree import tree_leaves

from components.core.errors import ConfigError
from components.train.memory.live import LiveBytes, held_by, pretended
from components.train.memory.micro_batch import resized
from components.train.memory.recompute import MODES, Mode, applied, modes_of, refuse_wrapped

__all__ = ["Loss", "Region", "Step", "forecast", "measured", "saved", "seconds"]

Loss = Callable[[Any], Tensor]
"""A batch -> its scalar loss, by calling the model."""


@dataclass(frozen=True)
class Region:
    """The time from one mark to the next.

    Attributes:
        kind: `start`; `forward` and `after` of a block: it is entered, left; `loss`: the forward pass is over; `backward` of a block: the
            gradient of what it gave is known. The last one ends with the step.
        block: Its name, or empty.
        before: Bytes alive when it begins.
        peak: The most bytes alive within it.
        seconds: Its duration: CPU time of the process on a CPU, else wall time.
    """

    kind: str
    block: str
    before: int
    peak: int
    seconds: float


@dataclass(frozen=True)
class Step:
    """One forward and backward pass.

    Attributes:
        held_bytes: Alive when the forward pass has ended: what is kept for the backward pass.
        peak_bytes: The most alive at once.
        regions: In the order of time.
    """

    held_bytes: int
    peak_bytes: int
    regions: tuple[Region, ...]


def forecast(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    modes: Mapping[str, Mode] | None = None,
    *,
    rows: int | None = None,
    blocks: Collection[str] = (),
) -> Step:
    """Return what a step would take, without memory or arithmetic.

    Args:
        model: With plain parameters, in the mode (train or eval) that is asked about.
        loss: Calls the model.
        batch: Any nesting of tensors, rows first; their values do not matter.
        modes: Block -> mode of recomputation; None: as the model is.
        rows: As if the batch had so many; None: as many as it has.
        blocks: Names of those whose regions are wanted.

    Raises:
        ConfigError: The model is wrapped, or its control flow depends on values, which fake tensors do not have.
    """
    refuse_wrapped(model)
    with applied(model, modes_of(model) if modes is None else modes), pretended(model, batch) as given:
        given = given if rows is None else resized(given, rows)
        try:
            if "selective" in modes_of(model).values():
                _run(model, loss, given, ())  # learns which products need not be kept
            return _run(model, loss, given, blocks)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise ConfigError(f"the forward pass depends on values: {error.func}", do="use `measured` instead of a forecast") from error


def measured(model: nn.Module, loss: Loss, batch: Any, modes: Mapping[str, Mode] | None = None, *, blocks: Collection[str] = ()) -> Step:
    """Return what a step takes, by running it; arguments as `forecast`'s."""
    refuse_wrapped(model)
    with applied(model, modes_of(model) if modes is None else modes), _undone(model):
        for param in model.parameters():
            param.grad = torch.zeros_like(param) if param.requires_grad else None
        return _run(model, loss, batch, blocks)


def seconds(model: nn.Module, loss: Loss, batch: Any, blocks: Sequence[str], *, repeats: int = 3) -> dict[Mode, dict[str, float]]:
    """Return mode -> block -> the duration of its forward and backward pass; "" stands for the rest of the step.

    Args:
        model: With plain parameters.
        loss: Calls the model.
        batch: Real rows; they must fit without recomputation. A few do.
        blocks: Names.
        repeats: Rounds over the modes; the least of each duration counts.
    """
    refuse_wrapped(model)
    found: dict[Mode, dict[str, float]] = {mode: {} for mode in MODES}
    with _undone(model):
        for turn in range(repeats + 1):
            for mode in MODES:
                with applied(model, dict.fromkeys(blocks, mode)):
                    step = _run(model, loss, batch, blocks, counted=False)
                if turn:  # the first one warms up
                    for block, duration in _by_block(step).items():
                        found[mode][block] = min(duration, found[mode].get(block, duration))
    return found


def saved(model: nn.Module, loss: Loss, batch: Any, blocks: Mapping[str, nn.Module]) -> dict[str, int]:
    """Return block -> bytes that autograd saves in its forward pass; "" stands for the rest of the model.

    A storage counts once, for the first that saves it; parameters, buffers and the batch do not count.
    """
    known = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in held_by(model, batch))}
    found: dict[str, int] = defaultdict(int)
    inside = [""]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in known:
            known[id(storage)] = storage
            found[inside[-1]] += storage.nbytes()
        return tensor

    with ExitStack() as stack:
        stack.enter_context(_undone(model))
        for name, block in blocks.items():
            stack.callback(block.register_forward_pre_hook(lambda *_, name=name: inside.append(name)).remove)
            stack.callback(block.register_forward_hook(lambda *_: inside.__delitem__(-1)).remove)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss(batch)
    return {name: found[name] for name in ("", *blocks)}


def _by_block(step: Step) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for region in step.regions:
        sums[region.block if region.kind in ("forward", "backward") else ""] += region.seconds
    return sums


def _run(model: nn.Module, loss: Loss, batch: Any, blocks: Collection[str], *, counted: bool = True) -> Step:
    """Without `counted` all bytes are 0, and durations are free of the cost of counting."""
    live = LiveBytes(held_by(model, batch))
    with ExitStack() as stack:
        if counted:
            stack.enter_context(live)
        marks = _Marks(live, _clock(model))
        for name in blocks:
            block = model.get_submodule(name)
            stack.callback(block.register_forward_pre_hook(lambda *_, name=name: marks("forward", name)).remove)
            stack.callback(block.register_forward_hook(lambda _block, _args, out, name=name: marks.left(name, out)).remove)
        value = loss(batch)
        marks("loss", "")
        held = live.now
        torch.autograd.backward(value)
        marks("end", "")
    return Step(held, max(region.peak for region in marks.regions), tuple(marks.regions))


class _Marks:
    """Cuts a step into regions."""

    def __init__(self, live: LiveBytes, clock: Callable[[], float]) -> None:
        self.regions: list[Region] = []
        self._live, self._clock = live, clock
        self._kind, self._block, self._before, self._since = "start", "", live.now, clock()

    def __call__(self, kind: str, block: str) -> None:
        now = self._clock()
        self.regions.append(Region(self._kind, self._block, self._before, self._live.restart(), now - self._since))
        self._kind, self._block, self._before, self._since = kind, block, self._live.now, self._clock()

    def left(self, block: str, out: Any) -> None:
        given = next((leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.requires_grad), None)
        if given is not None:
            given.register_hook(lambda _gradient: self("backward", block))  # type: ignore[no-untyped-call]
        self("after", block)


def _clock(model: nn.Module) -> Callable[[], float]:
    device = next((param.device for param in model.parameters()), torch.device("cpu"))
    if device.type == "cpu":
        return time.process_time

    def synchronised() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return synchronised


@contextmanager
def _undone(model: nn.Module) -> Iterator[None]:
    """Gradients, buffers and random numbers are afterwards what they were."""
    gradients = [(param, param.grad) for param in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    for param, _ in gradients:
        param.grad = None
    try:
        with torch.random.fork_rng():
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for param, gradient in gradients:
            param.grad = gradient
