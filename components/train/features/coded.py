"""Learning coded columns: vocabularies, intervals and pairs, from training rows without their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from components.model.plan import MISSING, Bins, Category, Joined, Number, Reader
from components.train.features.kinds import Kind, counted, different_wholes
from components.train.features.options import Features

__all__ = ["Draft", "Method", "binned", "category", "joined", "number_as_bins", "whole"]

_MOST_VALUES = 5000
Method = Literal["target", "woe"]
Value = TypeVar("Value", str, int)


@dataclass(frozen=True)
class Draft:
    """A coded column before labels were looked at.

    Attributes:
        column: What needs no labels.
        methods: How its tables of labels are to be learned, side by side; empty: there are none.
    """

    column: Category | Bins | Joined
    methods: tuple[Method, ...]


def category(name: str, reader: Reader, features: Features) -> Draft:
    """Learn a text's vocabulary."""
    counts = counted(name, reader)
    by_count = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    kept, own, shares = _vocabulary(by_count, len(reader.texts(name)) - counts.total(), features)
    settings, methods = _settings(features, shares, own, len(counts))
    return Draft(Category(name=name, values=tuple(kept), shares=shares, **settings), methods)


def whole(number: Number, reader: Reader, features: Features) -> Draft | None:
    """Learn the values of a number that is also a category; None if it is not."""
    values = different_wholes(reader.numbers(number.name, text=number.text), features.whole)
    if values is None:
        return None
    edges = tuple(float(edge) for edge in (values[1:] + values[:-1]) / 2)
    shares = _bin_shares(number, edges, reader)
    settings, methods = _settings(features, shares, len(values), len(values))
    return Draft(Bins(name=number.name, text=number.text, edges=edges, shares=shares, **settings), methods)


def binned(number: Number, reader: Reader, features: Features) -> Draft | None:
    """Cut a number into intervals of equal count; None if it has one value."""
    values = reader.numbers(number.name, text=number.text)
    known = values[~np.isnan(values)]
    cuts = np.unique(np.quantile(known, np.linspace(0, 1, features.bins + 1)[1:-1], method="higher")) if len(known) else known
    cuts = cuts[cuts > known.min()] if len(cuts) else cuts
    if not len(cuts):
        return None
    edges = tuple(float(cut) for cut in cuts)
    shares = _bin_shares(number, edges, reader)
    settings, methods = _encoded(features.binned, "none", shares, None)
    return Draft(Bins(name=number.name, text=number.text, edges=edges, shares=shares, **settings), methods)


def joined(left: Draft, right: Draft, reader: Reader, features: Features) -> Draft:
    """Learn the pairs of two coded columns."""
    halves = [draft.column.model_copy(update={"encoding": "none", "beside": False}) for draft in (left, right)]
    codes = halves[0].read(reader) * halves[1].size + halves[1].read(reader)
    counts = np.bincount(codes, minlength=1)
    order = np.argsort(-counts, kind="stable")
    by_count = [(int(code), int(counts[code])) for code in order if counts[code]]
    kept, own, shares = _vocabulary(by_count, 0, features)
    settings, methods = _settings(features, shares, own, len(by_count))
    return Draft(Joined(left=halves[0], right=halves[1], values=tuple(kept), shares=shares, **settings), methods)


def number_as_bins(name: str, kind: Kind, reader: Reader, features: Features) -> Draft | None:
    """Cut a number for a pair with a category: a tenth of the rows in each interval, if the recipe says nothing else."""
    cut = features.model_copy(update={"bins": features.bins or 10})
    return binned(Number(name=name, text=kind.text), reader, cut)


def _vocabulary(by_count: Sequence[tuple[Value, int]], missing: int, features: Features) -> tuple[list[Value], int, tuple[float, ...]]:
    """Return the kept values, how many of them have a code of their own, and the shares.

    Rarer ones are kept if something tells them apart that takes one column for all of them: shares and tables of labels.
    """
    own = sum(count >= features.min_count for _, count in by_count[: features.max_values])
    most = _MOST_VALUES if {features.category, features.beside} & {"frequency", "target", "woe"} else own
    kept: list[tuple[Value, int]] = [(value, count) for index, (value, count) in enumerate(by_count[:most]) if index < own or count > 1]
    known = sum(count for _, count in by_count)
    total: int = max(known + missing, 1)
    rare: int = known - sum(count for _, count in kept)
    return [value for value, _ in kept], own, (missing / total, rare / total, *(count / total for _, count in kept))


def _settings(features: Features, shares: tuple[float, ...], own: int, different: int) -> tuple[dict[str, Any], tuple[Method, ...]]:
    return _encoded(features.category, features.beside if different >= features.beside_from else "none", shares, own)


def _encoded(main: str, beside: str, shares: tuple[float, ...], own: int | None) -> tuple[dict[str, Any], tuple[Method, ...]]:
    methods: tuple[Method, ...] = tuple(method for method in ("target", "woe") if method in (main, beside))
    if own is not None and own >= len(shares) - 2:
        own = None
    settings: dict[str, Any] = {"encoding": "none" if main in methods else main, "beside": beside == "frequency", "own": own}
    if main == "onehot":
        ends = len(shares) if own is None else 2 + own
        some = [code for code in range(ends) if shares[code] > 0]
        if own is not None and shares[1] == 0:
            some = sorted({*some, 1})
        settings["levels"] = tuple(some) or (MISSING,)
    return settings, methods


def _bin_shares(number: Number, edges: tuple[float, ...], reader: Reader) -> tuple[float, ...]:
    size = 3 + len(edges)
    bins = Bins(name=number.name, text=number.text, edges=edges, shares=(0.0,) * size, encoding="none")
    codes = bins.read(reader)
    return tuple(float(count) / max(len(codes), 1) for count in np.bincount(codes, minlength=size))
