"""Spaces and architectures: what may be drawn, changed, written down; sizes of layers."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.errors import ConfigError, DataError
from components.train.spaces import SPACES, space
from components.train.spaces.geometry import Geometry, enclosing, geometry, option_shapes
from components.train.spaces.space import SKIP, Architecture, Option, Space

INPUTS = {"mobilenet": (3, 16, 16), "resnet": (3, 16, 16), "recognizer": (1, 32, 128)}
ALL = {name: space(name, INPUTS[name], 10) for name in SPACES}

names = st.sampled_from(sorted(ALL))
seeds = st.integers(0, 2**32 - 1)


def decisions(architecture: Architecture) -> list[int]:
    return [architecture.width, *architecture.options]


def few(options: int = 2) -> Space:
    """A space that can be enumerated."""
    whole = ALL["mobilenet"]
    stages = tuple(replace(stage, blocks=2, options=stage.options[:options]) for stage in whole.stages[:2])
    return replace(whole, stages=stages, widths=(0.5, 1.0))


def test_the_size_is_the_number_of_architectures() -> None:
    small = few()
    every = list(small.architectures())
    assert small.size == len(every) == len(set(every)) == 2 * 2 * 3 * 2 * 3
    assert all(small.check(architecture) is architecture for architecture in every)


def test_all_but_a_stages_first_block_may_be_skipped() -> None:
    for whole in ALL.values():
        for block in whole.blocks:
            assert (SKIP in block.options) == (not block.name.endswith(".0"))


@given(names, seeds)
def test_what_is_encoded_is_decoded(name: str, seed: int) -> None:
    whole = ALL[name]
    architecture = whole.sample(random.Random(seed))
    assert whole.decode(json.loads(json.dumps(whole.encode(architecture)))) == architecture


@pytest.mark.parametrize(
    "change",
    [
        {"space": "another"},
        {"width": 0.9},
        {"options": [0]},
        {"options": None},
        {"options": ["0"] * 9},
        {"options": [99] * 9},
        {"options": [-1] * 9},
        {"options": [True] * 9},
    ],
)
def test_what_no_space_encoded_is_refused(change: dict[str, object]) -> None:
    whole = ALL["mobilenet"]
    document = {**whole.encode(whole.smallest()), **change}
    with pytest.raises(DataError):
        whole.decode(document)


@given(names, seeds)
def test_neighbours_differ_in_one_decision(name: str, seed: int) -> None:
    whole, rng = ALL[name], random.Random(seed)
    architecture = whole.sample(rng)
    found = whole.neighbours(architecture, rng)
    assert len(found) == len(set(found)) == len(whole.widths) - 1 + sum(len(block.options) - 1 for block in whole.blocks)
    for other in found:
        whole.check(other)
        assert sum(a != b for a, b in zip(decisions(architecture), decisions(other), strict=True)) == 1


@given(names, seeds, st.floats(0.01, 1.0))
def test_mutants_differ_and_children_have_their_parents_decisions(name: str, seed: int, share: float) -> None:
    whole, rng = ALL[name], random.Random(seed)
    a, b = whole.sample(rng), whole.sample(rng)
    mutant = whole.mutated(a, rng, share)
    assert whole.check(mutant) != a
    child = whole.crossed(a, b, rng)
    assert all(c in pair for c, *pair in zip(decisions(child), decisions(a), decisions(b), strict=True))


def test_a_space_of_one_has_no_mutants() -> None:
    stages = tuple(replace(stage, blocks=1, options=stage.options[:1]) for stage in ALL["resnet"].stages)
    one = replace(ALL["resnet"], stages=stages, widths=(1.0,))
    assert one.size == 1
    assert one.mutated(one.smallest(), random.Random(0)) == one.smallest() == one.largest()
    assert one.neighbours(one.smallest(), random.Random(0)) == []


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_draw_comes_up(name: str) -> None:
    whole, rng = ALL[name], random.Random(0)
    drawn = [decisions(whole.sample(rng)) for _ in range(2000)]
    counts = [len(whole.widths), *(len(block.options) for block in whole.blocks)]
    assert [len(set(column)) for column in zip(*drawn, strict=True)] == counts


def layers(shape: Geometry) -> list[tuple[int, ...]]:
    blocks = [(b.inputs, b.outputs, b.hidden, b.kernel, b.gate) for b in shape.blocks]
    return [(shape.stem.outputs,), *blocks, (shape.head.inputs, shape.head.hidden)]


@given(names, seeds)
def test_every_architecture_lies_within_the_enclosing_network(name: str, seed: int) -> None:
    whole = ALL[name]
    architecture = whole.sample(random.Random(seed))
    shape = geometry(whole, architecture)
    for outer in (enclosing(whole), enclosing(whole, architecture.width)):
        for mine, theirs in zip(layers(shape), layers(outer), strict=True):
            assert all(a <= b for a, b in zip(mine, theirs, strict=True))
        assert [(b.rows, b.columns, b.stride) for b in shape.blocks] == [(b.rows, b.columns, b.stride) for b in outer.blocks]
    by_option = option_shapes(whole, architecture.width)
    assert shape.blocks == tuple(by_option[n][option] for n, option in enumerate(architecture.options))


def test_the_recognizer_halves_columns_twice() -> None:
    head = enclosing(ALL["recognizer"]).head
    assert (head.rows, head.columns) == (4, 32)


def test_a_description_names_what_was_chosen() -> None:
    small = few()
    assert small.describe(Architecture(1, (0, 2, 1, 0))) == "x1: k3 e2, skip | k5 e2, k3 e2"


@pytest.mark.parametrize(
    "change",
    [
        {"widths": ()},
        {"widths": (1.0, 0.5)},
        {"widths": (0.0, 1.0)},
        {"widths": (1.0, 1.0)},
    ],
)
def test_widths_ascend(change: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ConfigError, match="widths"):
        replace(few(), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [(), (Option(4),), (Option(), Option()), (SKIP,), (Option(expansion=0.0),)])
def test_stages_have_different_options_with_odd_kernels(options: tuple[Option, ...]) -> None:
    stages = (replace(few().stages[0], options=options),)
    with pytest.raises(ConfigError, match="a stage has the options"):
        replace(few(), stages=stages)


def test_only_inverted_blocks_have_gates() -> None:
    stages = (replace(ALL["resnet"].stages[0], options=(Option(se=True),)),)
    with pytest.raises(ConfigError, match="no gate"):
        replace(ALL["resnet"], stages=stages)


def test_an_unknown_space_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mobilenet'"):
        space("mobilnet", (3, 16, 16), 10)
