"""The largest micro-batch that fits a budget, and gradients accumulated over micro-batches that equal the whole batch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from operator import itemgetter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map_only

from components.core.errors import ConfigError, DataError

__all__ = ["accumulate", "largest", "resized", "rows_of", "split"]


def rows_of(batch: Any) -> int:
    """Return the length of the first dimension of the batch's tensors.

    Raises:
        DataError: The batch has no tensors, or they differ in it.
    """
    counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)}
    if len(counts) != 1 or counts == {0}:
        raise DataError(f"the batch's tensors have {sorted(counts)} rows", do="give tensors whose first dimension are the rows")
    return counts.pop()


def split(batch: Any, rows: int) -> Iterator[Any]:
    """Yield the batch's parts of `rows` rows; the last one may have fewer."""
    for first in range(0, rows_of(batch), rows):
        part = slice(first, first + rows)
        yield tree_map_only(Tensor, itemgetter(part), batch)


def resized(batch: Any, rows: int) -> Any:
    """Return a batch of the same shapes, `rows` rows and no particular values."""
    rows_of(batch)
    return tree_map_only(Tensor, lambda tensor: tensor.new_empty((rows, *tensor.shape[1:])), batch)


def largest(peak_of: Callable[[int], int], budget_bytes: int, most: int) -> tuple[int, int]:
    """Return the most rows whose peak fits the budget, by bisection, and the number of micro-batches that make up `most` rows.

    Args:
        peak_of: Rows -> peak bytes, not falling; `forecast(…, rows=rows).peak_bytes`, or that of an `auto` plan.
        budget_bytes: For what `peak_of` counts.
        most: Rows of the whole batch.

    Raises:
        ConfigError: Not even one row fits.
        DataError: `peak_of` falls, so bisection can't be trusted.
    """
    known: dict[int, int] = {}

    def fits(rows: int) -> bool:
        known[rows] = peak_of(rows)
        if any((other < rows) != (peak < known[rows]) for other, peak in known.items() if other != rows and peak != known[rows]):
            raise DataError(f"the forecast falls where rows are added: {dict(sorted(known.items()))}", do="choose the micro-batch by hand")
        return known[rows] <= budget_bytes

    if not fits(1):
        what = f"one row takes {known[1]:,} bytes, the budget is {budget_bytes:,}"
        raise ConfigError(what, do="allow more, recompute more blocks, or shorten the row")
    if fits(most):
        return most, 1
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low, math.ceil(most / low)


def accumulate(
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    batch: Any,
    rows: int,
    *,
    count: Callable[[Any], int] = rows_of,
    group: dist.ProcessGroup | None = None,
    exact: bool = True,
) -> Tensor:
    """Add the gradients of the mean loss over the whole batch to the parameters', one micro-batch at a time.

    Each part's mean loss is weighted by its share of the terms, so an uneven last part, or padding, is counted right. Across processes the
    mean is over all processes' terms, whatever each one has; DDP and FSDP2, which divide by the number of processes, exchange gradients
    once, in the last part.

    Args:
        model: As trained: plain, DDP or FSDP2. Recomputation may be applied.
        loss: A part -> the mean over its terms, by calling `model`.
        batch: This process' batch, rows first.
        rows: Of a micro-batch.
        count: A part -> the number of terms its mean is over: rows, or tokens that are not padding.
        group: Its processes share the mean; None: this one alone. If nothing wraps the model, gradients are this process' share: add them
            up.
        exact: Refuse BatchNorm in training, whose statistics would be the parts' instead of the batch's.

    Returns:
        The mean loss over all terms (of all processes), without gradient.

    Raises:
        ConfigError: BatchNorm, see `exact`.
        DataError: A process has no terms; or FSDP2's processes have different numbers of micro-batches, and would wait for one another
            for ever. All processes raise it.
    """
    norm = next((name for name, module in model.named_modules() if isinstance(module, _BatchNorm) and module.training), None)
    terms_of = [(part, count(part)) for part in split(batch, rows)]
    parts = [(part, own) for part, own in terms_of if own]
    if exact and norm is not None and len(parts) > 1:
        what = f"BatchNorm '{norm}' sees one micro-batch at a time, so gradients differ from the whole batch's"
        raise ConfigError(what, do="use GroupNorm or LayerNorm, freeze it by eval(), or give exact=False")
    device = next(leaf.device for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
    total, world = _shared(model, [own for _, own in parts], group, device)
    mean = torch.zeros((), dtype=torch.float64, device=device)
    for index, (part, own) in enumerate(parts):
        with _quiet(model, last=index == len(parts) - 1):
            share = loss(part) * (own / total)
            torch.autograd.backward(share * world)
        mean += share.detach()
    if group is not None:
        dist.all_reduce(mean, group=group)
    return mean


def _shared(model: nn.Module, terms: list[int], group: dist.ProcessGroup | None, device: torch.device) -> tuple[int, int]:
    """Return the terms of all processes, and what the wrapper divides gradients by."""
    if group is None:
        totals, numbers = [sum(terms)], {len(terms)}
    else:
        counts = torch.tensor([sum(terms), len(terms)], device=device)
        gathered = [torch.empty_like(counts) for _ in range(group.size())]
        dist.all_gather(gathered, counts, group=group)
        totals, numbers = [int(each[0]) for each in gathered], {int(each[1]) for each in gathered}
    if 0 in totals:
        raise DataError("a process' batch has no terms to take the mean of", do="leave such a batch out in all processes")
    sharded = _sharded(model)
    if sharded and len(numbers) > 1:
        raise DataError(f"FSDP2's processes have {sorted(numbers)} micro-batches with terms", do="give every process as many")
    averages = sharded or isinstance(model, nn.parallel.DistributedDataParallel)
    return sum(totals), len(totals) if averages else 1


def _quiet(model: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Gradients are exchanged in the last part only."""
    if isinstance(model, nn.parallel.DistributedDataParallel) and not last:
        return model.no_sync()
    if _sharded(model):
        sharded: Any = model
        sharded.set_requires_gradient_sync(last)
        sharded.set_is_last_backward(last)
    return nullcontext()


def _sharded(model: nn.Module) -> bool:
    """FSDP2's classes are not asked for: importing them imports torch's compiler."""
    return hasattr(model, "set_requires_gradient_sync")
