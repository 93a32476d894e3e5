"""A supernet's slices are its architectures: paths, superpositions, inherited weights, batch statistics."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from components.automl.nas.entangled import crop, masks, superposed
from components.automl.nas.supernet import Mix, Supernet, one_hot, recalibrate
from components.core.errors import DataError
from components.train.spaces import SPACES, space
from components.train.spaces.geometry import enclosing
from components.train.spaces.network import Network, built, network
from components.train.spaces.space import Architecture, Space

pytestmark = pytest.mark.usefixtures("one_thread")

INPUTS = {"mobilenet": (3, 8, 8), "resnet": (3, 8, 8), "recognizer": (1, 16, 20)}


def small(name: str, *, dropout: float = 0.0) -> Space:
    """The named space with few, narrow blocks."""
    whole = space(name, INPUTS[name], 5)
    options = max((stage.options for stage in whole.stages), key=len)
    numbers = {0, 4 % len(options), 5 % len(options), min(len(options) // 2 + 1, len(options) - 1), len(options) - 1}
    kept = tuple(options[number] for number in sorted(numbers))
    stages = tuple(replace(stage, width=8 * (n + 1), blocks=2, options=kept) for n, stage in enumerate(whole.stages[:2]))
    head = replace(whole.head, width=16 if whole.head.width else 0, dropout=dropout)
    return replace(whole, stem=replace(whole.stem, width=8), stages=stages, head=head, widths=(0.5, 1.0, 1.5), divisor=4)


def drawn(whole: Space, count: int = 4) -> list[Architecture]:
    rng = random.Random(1)
    return list(dict.fromkeys([whole.smallest(), whole.largest(), *(whole.sample(rng) for _ in range(count))]))


def seeded(make: Callable[[], Supernet], seed: int = 0) -> Supernet:
    """A supernet whose normalisations are not the ones of a fresh network."""
    torch.manual_seed(seed)
    supernet = make()
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if ".norm." in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return supernet


def batches(whole: Space, count: int = 3, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(7)
    return [torch.randn(6, *whole.input, dtype=dtype) + n for n in range(count)]


def standalone(supernet: Supernet, architecture: Architecture) -> Network:
    net = network(supernet.space, architecture).to(next(supernet.parameters()).dtype)
    net.load_state_dict(supernet.inherited(architecture))
    return net


@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_path_in_training_is_the_standalone_network_to_the_last_bit(name: str) -> None:
    whole = small(name, dropout=0.3)
    supernet, x = seeded(lambda: Supernet(whole)), batches(whole)[0]
    for architecture in drawn(whole):
        net = standalone(supernet, architecture).train()
        torch.manual_seed(3)  # dropout
        expected = net(x)
        torch.manual_seed(3)
        found = supernet.train()(x, architecture)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_path_in_evaluation_is_the_standalone_network_to_the_last_bit(name: str) -> None:
    whole = small(name, dropout=0.3)
    supernet = seeded(lambda: Supernet(whole)).eval()
    *learned, judged = batches(whole)
    for architecture in drawn(whole):
        fresh = standalone(supernet, architecture).eval()
        recalibrate(supernet, architecture, learned)
        net = standalone(supernet, architecture).eval()
        assert torch.equal(supernet(judged, architecture), net(judged))
        for module in fresh.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = None
                module.train()
        with torch.no_grad():
            for x in learned:
                fresh(x)
        assert torch.equal(fresh.eval()(judged), net(judged))


@pytest.mark.parametrize("name", sorted(SPACES))
def test_gradients_of_a_path_are_the_standalone_networks_and_nothing_beyond(name: str) -> None:
    whole = small(name)
    supernet, x = seeded(lambda: Supernet(whole)), batches(whole)[0]
    architecture = drawn(whole)[2]
    net = standalone(supernet, architecture).train()
    torch.autograd.backward(net(x).square().sum())
    torch.autograd.backward(supernet(x, architecture).square().sum())
    total = sum(float(p.grad.abs().sum()) for p in supernet.parameters() if p.grad is not None)
    assert total == pytest.approx(sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None), rel=1e-5)
    within = {name: p.grad for name, p in supernet.weights.named_parameters()}
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None
        if parameter.ndim == 1 and not key.startswith("head.gru"):
            gradient = within[key]
            assert gradient is not None
            torch.testing.assert_close(gradient[: len(parameter)], parameter.grad)


@pytest.mark.parametrize("name", sorted(SPACES))
@pytest.mark.parametrize("all_widths", [False, True])
def test_a_superposition_of_one_is_the_path(name: str, all_widths: bool) -> None:
    whole = small(name)
    supernet, x = seeded(lambda: Supernet(whole).double()), batches(whole, dtype=torch.float64)[0]
    for architecture in drawn(whole):
        mix = one_hot(whole, architecture, dtype=torch.float64)
        if all_widths:
            mix = Mix(mix.blocks, torch.eye(3, dtype=torch.float64)[architecture.width])
        torch.testing.assert_close(supernet(x, mix), supernet(x, architecture), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SPACES))
@pytest.mark.parametrize("all_widths", [False, True])
def test_a_superpositions_gradient_is_the_finite_difference(name: str, all_widths: bool) -> None:
    whole = small(name)
    supernet, x = seeded(lambda: Supernet(whole).double()), batches(whole, dtype=torch.float64)[0]
    torch.manual_seed(5)
    counts = [len(block.options) for block in whole.blocks]
    alphas = [torch.randn(count, dtype=torch.float64, requires_grad=True) for count in [*counts, len(whole.widths)]]
    weights = torch.randn_like(supernet(x, drawn(whole)[0]))

    def loss(*given: Tensor) -> Tensor:
        *blocks, width = (torch.softmax(alpha, 0) for alpha in given)
        return (supernet(x, Mix(blocks, width if all_widths else 1)) * weights).sum()

    chosen = alphas if all_widths else alphas[:-1]
    found = torch.autograd.grad(loss(*alphas), chosen)
    assert all(gradient.abs().max() > 1e-6 for gradient in found)
    for alpha, gradient in zip(chosen, found, strict=True):
        near, nearer = (_differences(lambda: loss(*alphas), alpha, step) for step in (1e-6, 1e-7))
        right = torch.isclose(near, gradient, rtol=1e-4, atol=1e-5) | torch.isclose(nearer, gradient, rtol=1e-4, atol=1e-5)
        assert right.all(), (near, nearer, gradient)


def _differences(loss: Callable[[], Tensor], at: Tensor, step: float) -> Tensor:
    """Central differences. Within a step may lie a kink of a ReLU, and then they are wrong: of two steps one has to be right."""
    found = torch.empty_like(at, requires_grad=False)
    with torch.no_grad():
        for place in range(len(at)):
            value = at[place].item()
            sides = []
            for moved in (value + step, value - step):
                at[place] = moved
                sides.append(loss())
            at[place] = value
            found[place] = (sides[0] - sides[1]) / (2 * step)
    return found


def test_a_superposition_costs_what_the_enclosing_network_costs() -> None:
    whole = small("mobilenet")
    supernet, x = seeded(lambda: Supernet(whole)), batches(whole)[0]
    mix = Mix([torch.full((len(block.options),), 1 / len(block.options)) for block in whole.blocks], 2)
    with FlopCounterMode(display=False) as mixed, torch.no_grad():
        supernet(x, mix)
    with FlopCounterMode(display=False) as plain, torch.no_grad():
        built(enclosing(whole))(x)
    assert _convolutions(mixed) == _convolutions(plain) > 0


def _convolutions(counter: FlopCounterMode) -> int:
    return sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if "conv" in str(op))


Windows = tuple[tuple[int, ...], list[tuple[int, ...]], dict[int, int]]


@st.composite
def windows(draw: st.DrawFn) -> Windows:
    """A shape, smaller ones, and the parts of its dimensions."""
    parts = {d: draw(st.integers(1, 3)) for d in range(2)}
    channels = [draw(st.integers(1, 4)) for _ in range(2)]
    kernel = draw(st.sampled_from([1, 3, 5]))
    full = (channels[0] * parts[0], channels[1] * parts[1], kernel, kernel)
    found = []
    for _ in range(draw(st.integers(1, 4))):
        each = draw(st.sampled_from([k for k in (1, 3, 5) if k <= kernel]))
        found.append((*(draw(st.integers(1, c)) * parts[d] for d, c in enumerate(channels)), each, each))
    return full, found, {d: count for d, count in parts.items() if count > 1}


@given(windows(), st.integers(0, 1000))
def test_superposed_weights_are_the_sum_of_padded_crops(case: Windows, seed: int) -> None:
    full, shapes, parts = case
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(full, generator=generator, dtype=torch.float64)
    shares = torch.softmax(torch.randn(len(shapes), generator=generator, dtype=torch.float64), 0)
    expected = torch.zeros_like(weight)
    for share, shape in zip(shares, shapes, strict=True):
        padded, rows = torch.zeros_like(weight), [_kept(full[d], shape[d], parts.get(d, 1)) for d in range(2)]
        off = (full[2] - shape[2]) // 2
        for a, row in enumerate(rows[0]):
            for b, column in enumerate(rows[1]):
                inner = weight[row, column, off : off + shape[2], off : off + shape[3]]
                padded[row, column, off : off + shape[2], off : off + shape[3]] = inner
                assert torch.equal(crop(weight, shape, parts)[a, b], inner)
        expected += share * padded
    torch.testing.assert_close(superposed(weight, masks(full, shapes, parts, weight), shares), expected)


def _kept(full: int, kept: int, parts: int) -> list[int]:
    return [part * (full // parts) + n for part in range(parts) for n in range(kept // parts)]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(SPACES)), st.integers(0, 2**32 - 1))
def test_inherited_weights_fit_the_network(name: str, seed: int) -> None:
    whole = small(name)
    supernet, architecture = Supernet(whole), whole.sample(random.Random(seed))
    expected = {key: value.shape for key, value in network(whole, architecture).state_dict().items()}
    assert {key: value.shape for key, value in supernet.inherited(architecture).items()} == expected


def test_inherited_weights_are_a_copy() -> None:
    whole = small("mobilenet")
    supernet = Supernet(whole)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    for value in supernet.inherited(whole.largest()).values():
        value.zero_()
    assert all(torch.equal(before[name], value) for name, value in supernet.state_dict().items())


def test_training_and_new_weights_forget_the_statistics() -> None:
    whole = small("mobilenet")
    supernet, x = Supernet(whole), batches(whole)
    path = whole.largest()
    for forget in (lambda: supernet.train(), lambda: supernet.load_state_dict(supernet.state_dict()), lambda: supernet.double().float()):
        recalibrate(supernet.eval(), path, x)
        assert not torch.equal(supernet.inherited(path)["stem.norm.running_mean"], torch.zeros(12))
        supernet(x[0], path)
        forget()
        with pytest.raises(DataError, match="recalibrate"):
            supernet.eval()(x[0], path)
        assert torch.equal(supernet.inherited(path)["stem.norm.running_mean"], torch.zeros(12))


def test_paths_keep_their_own_statistics() -> None:
    whole = small("resnet")
    supernet, x = Supernet(whole).eval(), batches(whole)
    first = {}
    for architecture in drawn(whole):
        recalibrate(supernet, architecture, x)
        first[architecture] = supernet(x[0], architecture)
    assert all(torch.equal(found, supernet(x[0], architecture)) for architecture, found in first.items())


def test_the_latest_paths_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.automl.nas.supernet._KEPT", 16)
    whole = small("resnet")
    supernet, x = Supernet(whole).eval(), batches(whole)
    every = list(whole.architectures())[:17]
    for architecture in every:
        recalibrate(supernet, architecture, x)
    supernet(x[0], every[1])
    with pytest.raises(DataError, match="recalibrate"):
        supernet(x[0], every[0])


def test_statistics_need_a_batch() -> None:
    whole = small("mobilenet")
    with pytest.raises(DataError, match="no batch"):
        recalibrate(Supernet(whole), whole.smallest(), [])


def test_a_superposition_of_another_space_is_refused() -> None:
    whole, other = small("mobilenet"), small("resnet")
    with pytest.raises(DataError, match="superposition"):
        Supernet(whole)(batches(whole)[0], Mix([torch.ones(1)], torch.ones(3) / 3))
    with pytest.raises(DataError, match="is not in space"):
        Supernet(other)(batches(other)[0], Architecture(0, (0,)))


def test_computing_draws_no_random_numbers() -> None:
    whole = small("mobilenet")
    supernet = Supernet(whole)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    for choice in (whole.largest(), one_hot(whole, whole.largest())):
        supernet(torch.zeros(2, *whole.input), choice)
    assert torch.equal(torch.rand(3), expected)
