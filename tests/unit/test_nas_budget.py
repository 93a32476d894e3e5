"""Costs are exact, and what is chosen within limits is the best there is."""

from __future__ import annotations

import itertools
import random
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from components.automl.nas.budget import Cost, Costs, Limits, cost, costs
from components.automl.nas.knapsack import best, best_architecture, front
from components.automl.nas.latency import Table, measured, table
from components.automl.nas.selection import best_selection, front_selections
from components.core.errors import ConfigError, DataError
from components.train.spaces import SPACES, space
from components.train.spaces.geometry import enclosing, geometry
from components.train.spaces.network import network
from components.train.spaces.space import Architecture, Space

pytestmark = pytest.mark.usefixtures("one_thread")

INPUTS = {"mobilenet": (3, 16, 16), "resnet": (3, 16, 16), "recognizer": (1, 24, 50)}
ALL = {name: space(name, INPUTS[name], 7) for name in SPACES}


def few(name: str = "mobilenet") -> Space:
    """A space that can be enumerated."""
    whole = ALL[name]
    stages = tuple(replace(stage, blocks=2, options=stage.options[1::4] or stage.options) for stage in whole.stages[:2])
    return replace(whole, stages=stages, widths=(0.5, 1.0))


def random_scores(table: Costs, rng: np.random.Generator) -> list[list[float]]:
    return [np.log(rng.dirichlet(np.ones(len(block)))).tolist() for block in table.blocks]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALL))
def test_parameters_and_macs_are_those_of_the_network(name: str) -> None:
    whole, rng = ALL[name], random.Random(0)
    for architecture in [whole.smallest(), whole.largest(), *(whole.sample(rng) for _ in range(6))]:
        net = network(whole, architecture).eval()
        found = cost(whole, architecture)
        assert found.params == sum(parameter.numel() for parameter in net.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.zeros(1, *whole.input))
        assert 2 * found.macs == counter.get_total_flops()


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_extremes_are_the_smallest_and_the_largest(name: str) -> None:
    whole = ALL[name]
    least, most = costs(whole, 0).least.tolist(), costs(whole, len(whole.widths) - 1).most.tolist()
    smallest, largest = cost(whole, whole.smallest()), cost(whole, whole.largest())
    assert [smallest.params, smallest.macs] == least[:2]
    assert [largest.params, largest.macs] == most[:2]


Knapsack = tuple[list[list[float]], Costs, Limits]


@st.composite
def knapsacks(draw: st.DrawFn) -> Knapsack:
    """A few blocks and options with small costs, so that many selections tie; any of the three limits."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    scores = [draw(st.lists(st.integers(-9, 9).map(lambda n: n / 4), min_size=size, max_size=size)) for size in sizes]
    rows = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
    blocks = tuple(np.array(draw(st.lists(rows, min_size=size, max_size=size)), dtype=np.int64) for size in sizes)
    table = Costs(np.array(draw(rows), dtype=np.int64), blocks, timed=True)
    limits = [draw(st.none() | st.integers(0, 20 * (len(sizes) + 1))) for _ in range(3)]
    return scores, table, Limits(limits[0], limits[1], None if limits[2] is None else limits[2] / 1e6)


def enumerated(scores: list[list[float]], table: Costs, limits: Limits) -> list[tuple[float, Cost]]:
    every = itertools.product(*(range(len(row)) for row in scores))
    found = [(sum(row[o] for row, o in zip(scores, options, strict=True)), table.of(options)) for options in every]
    return [(score, spent) for score, spent in found if limits.allow(spent)]


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(knapsacks())
def test_the_best_is_what_enumeration_finds(case: Knapsack) -> None:
    scores, table, limits = case
    every = enumerated(scores, table, limits)
    if not every:
        with pytest.raises(DataError, match="no selection is within"):
            best(scores, table, limits)
        return
    found = best(scores, table, limits)
    assert limits.allow(found.cost)
    assert found.cost == table.of(found.options)
    assert found.score == pytest.approx(max(score for score, _ in every))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(knapsacks(), st.sampled_from(["params", "macs", "latency_ms"]))
def test_the_front_is_what_enumeration_finds(case: Knapsack, by: str) -> None:
    scores, table, limits = case
    every = {(score, getattr(spent, by)) for score, spent in enumerated(scores, table, limits)}
    if not every:
        with pytest.raises(DataError, match="no selection is within"):
            front(scores, table, by, limits)  # type: ignore[arg-type]
        return
    expected = [(s, c) for s, c in every if not any((t >= s and d <= c) and (t, d) != (s, c) for t, d in every)]
    found = front(scores, table, by, limits)  # type: ignore[arg-type]
    assert [(choice.score, getattr(choice.cost, by)) for choice in found] == sorted(expected, key=lambda pair: pair[1])
    assert all(limits.allow(choice.cost) and choice.cost == table.of(choice.options) for choice in found)


@pytest.mark.parametrize("limited", [1, 2, 3])
def test_many_selections_are_what_enumeration_finds(limited: int) -> None:
    rng = np.random.default_rng(limited)
    for _ in range(3):
        scores = [rng.normal(size=5) for _ in range(6)]
        blocks = [rng.integers(0, 1000, (5, limited)) for _ in range(6)]
        picks = np.array(list(itertools.product(range(5), repeat=6)))
        total = sum(score[picks[:, n]] for n, score in enumerate(scores))
        spent = sum(block[picks[:, n]] for n, block in enumerate(blocks))
        most = np.quantile(spent, 0.4, axis=0).astype(np.int64)
        within = np.flatnonzero((spent <= most).all(axis=1))
        found = best_selection(scores, blocks, most)
        assert found == tuple(picks[within[total[within].argmax()]].tolist())
        order = within[np.lexsort((-total[within], spent[within, 0]))]
        before = np.concatenate([[-np.inf], np.maximum.accumulate(total[order])[:-1]])
        assert front_selections(scores, blocks, most) == [tuple(row) for row in picks[order[total[order] > before]].tolist()]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(knapsacks(), st.floats(0.1, 10))
def test_a_used_budget_may_be_worth_something(case: Knapsack, fill: float) -> None:
    scores, table, limits = case
    every = enumerated(scores, table, limits)
    if not every:
        return
    found = best(scores, table, limits, fill=fill)
    expected = max(score + fill * limits.used(spent) for score, spent in every)
    # A limit of nothing is used up by nothing: it adds the same to all.
    if all(limit != 0 for limit in (limits.max_params, limits.max_macs, limits.max_latency_ms)):
        assert found.score + fill * limits.used(found.cost) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALL))
def test_random_budgets_are_kept_and_used(name: str) -> None:
    whole, rng = ALL[name], np.random.default_rng(0)
    tables = [costs(whole, width) for width in range(len(whole.widths))]
    used = []
    for _ in range(100):
        table = tables[rng.integers(len(tables))]
        scores = random_scores(table, rng)
        column = int(rng.integers(2))
        least, most = float(table.least[column]), float(table.most[column])
        budget = int(rng.uniform(least, most))
        limits = Limits(max_params=budget) if column == 0 else Limits(max_macs=budget)
        found = best(scores, table, limits)
        assert limits.allow(found.cost)
        free = best(scores, table, Limits())
        if not limits.allow(free.cost):
            used.append(limits.used(found.cost))
        filled = best(scores, table, limits, fill=1000.0)
        assert limits.allow(filled.cost)
        assert limits.used(filled.cost) >= limits.used(found.cost)
    assert len(used) > 20
    assert statistics.median(used) >= (0.8 if name == "recognizer" else 0.95)  # which at one width has one decision


def test_several_limits_at_once_over_all_widths() -> None:
    whole, rng = few(), np.random.default_rng(1)
    every = [(architecture, cost(whole, architecture)) for architecture in whole.architectures()]
    tables = [costs(whole, width) for width in range(2)]
    for _ in range(20):
        scores, widths = random_scores(tables[0], rng), rng.normal(size=2).tolist()
        goal = every[rng.integers(len(every))][1]
        limits = Limits(max_params=int(goal.params * 1.1), max_macs=int(goal.macs * 1.1))
        found = best_architecture(whole, scores, widths, limits)

        def value(architecture: Architecture, scores: list[list[float]] = scores, widths: list[float] = widths) -> float:
            return widths[architecture.width] + sum(row[o] for row, o in zip(scores, architecture.options, strict=True))

        assert limits.allow(cost(whole, found))
        assert value(found) == pytest.approx(max(value(a) for a, spent in every if limits.allow(spent)))


def test_what_cannot_be_kept_is_refused() -> None:
    whole = few()
    zeros = [[0.0] * len(block.options) for block in whole.blocks]
    with pytest.raises(DataError, match=r"no selection is within.*needs \d+ parameters"):
        best_architecture(whole, zeros, [0.0, 0.0], Limits(max_params=10))
    with pytest.raises(ConfigError, match="no layer was timed"):
        best(zeros, costs(whole, 0), Limits(max_latency_ms=1.0))
    with pytest.raises(DataError, match="scores for"):
        best(zeros[1:], costs(whole, 0), Limits())
    with pytest.raises(DataError, match="not finite"):
        best([[float("-inf")] * len(row) for row in zeros], costs(whole, 0), Limits())


def invented(whole: Space) -> Table:
    """A table with a made-up latency for every layer."""
    rng, times = random.Random(0), {}
    for architecture in whole.architectures():
        shape = geometry(whole, architecture)
        for layer in (shape.stem, *shape.blocks, shape.head):
            times.setdefault(layer, rng.random())
    return Table(times, 1.2, 0.05)


@pytest.mark.slow
def test_latencies_add_up_and_are_limited() -> None:
    whole = few()
    latencies = invented(whole)
    for architecture in whole.architectures():
        assert cost(whole, architecture, latencies).latency_ms == pytest.approx(latencies.total(geometry(whole, architecture)), abs=1e-5)
    zeros = [[0.0] * len(block.options) for block in whole.blocks]
    every = [cost(whole, architecture, latencies).latency_ms for architecture in whole.architectures()]
    limits = Limits(max_latency_ms=statistics.median(every))
    found = best_architecture(whole, zeros, [0.0, 0.0], limits, latency=latencies, fill=1.0)
    assert cost(whole, found, latencies).latency_ms == pytest.approx(max(ms for ms in every if ms <= statistics.median(every)), abs=1e-5)


def test_a_table_is_written_and_read() -> None:
    whole = few("resnet")
    latencies = invented(whole)
    again = Table.decode(latencies.encode())
    assert again == latencies
    with pytest.raises(DataError, match="was not timed"):
        again.of(enclosing(ALL["recognizer"]).head)
    with pytest.raises(DataError, match="no table of latencies"):
        Table.decode({"layers": [{"layer": "StemShape"}]})


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_measured_table_knows_every_layer(name: str) -> None:
    whole = few(name)
    latencies = table(whole, rounds=1, networks=2)
    drawn = [whole.sample(random.Random(seed)) for seed in range(3)]
    assert all(cost(whole, architecture, latencies).latency_ms >= 0 for architecture in drawn)
    assert all(ms > 0 for ms in measured(whole, drawn, rounds=1))
