"""DARTS is what the paper says: gradients beside ones that autograd derives through the virtual step, optimisers beside torch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from components.automl.nas.darts import Adam, Bilevel, Momentum, Relaxed, Steps, unrolled_gradient
from components.automl.nas.problem import Images, Split
from components.train.spaces.network import network
from components.train.spaces.space import Architecture, Head, Option, Space, Stage, Stem

pytestmark = pytest.mark.usefixtures("one_thread")

SPACE = Space(
    name="tiny",
    input=(3, 8, 8),
    classes=4,
    stem=Stem(4, (2, 2)),
    stages=(Stage(4, (1, 1), 2, (Option(3, 1), Option(5, 2)), "inverted", "hard_swish"),),
    head=Head("classes", 8),
    divisor=4,
)
COUNTS = [len(block.options) for block in SPACE.blocks]
STEPS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 3e-3, "alpha_lr": 0.05}
SMALL = 1e-5  # a radius at which no activation's kink lies between the two points


def images(seed: int = 0, count: int = 24) -> Images:
    draw = torch.Generator().manual_seed(seed)
    parts = [
        Split(torch.randn(count, 3, 8, 8, generator=draw, dtype=torch.float64), torch.randint(4, (count,), generator=draw))
        for _ in range(2)
    ]
    return Images(parts[0], parts[1], batch=8)


def batches(problem: Images, part: Any, count: int) -> list[Any]:
    return list(problem.batches(part))[:count]


def relaxed() -> Relaxed:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Relaxed(SPACE).double().train()


def explicit_gradient(
    net: nn.Module,
    weights: dict[str, Tensor],
    alphas: Sequence[Tensor],
    problem: Images,
    train: Any,
    validation: Any,
    velocity: Any,
    lr: float,
) -> list[Tensor]:
    """Differentiate L_validation(w - lr * direction(w, alpha), alpha) by alpha through both networks: no differences, nothing shared."""

    def loss(values: dict[str, Tensor], batch: Any) -> Tensor:
        mix = [alpha.exp() / alpha.exp().sum() for alpha in alphas]
        return problem.loss(torch.func.functional_call(net, values, (batch[0], mix)), batch[1])

    gradients = torch.autograd.grad(loss(weights, train), list(weights.values()), create_graph=True)
    moved = {
        name: value - lr * (STEPS["momentum"] * speed + gradient + STEPS["weight_decay"] * value)
        for (name, value), gradient, speed in zip(weights.items(), gradients, velocity, strict=True)
    }
    return list(torch.autograd.grad(loss(moved, validation), list(alphas)))


@given(st.integers(0, 10_000), st.floats(0.0, 0.95), st.floats(0.0, 0.1), st.floats(1e-3, 0.5))
@settings(max_examples=40, deadline=None)
def test_the_unrolled_gradient_is_exact_where_the_training_loss_is_quadratic(seed: int, momentum: float, decay: float, xi: float) -> None:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    weights, alpha = normal(5).requires_grad_(), normal(3).requires_grad_()
    mixed, wanted, other = normal(3, 4, 5), normal(4), normal(5)

    def train(w: Tensor) -> Tensor:
        return ((torch.softmax(alpha, 0) @ mixed.flatten(1)).view(4, 5) @ w - wanted).pow(2).sum()

    def validation(w: Tensor) -> Tensor:
        return torch.sin(w * other).sum() * torch.tanh(alpha).sum() + w.pow(3).mean()

    descent = Momentum([weights], momentum=momentum, weight_decay=decay)
    speed = normal(5)
    descent.step([speed], 0.0)  # the velocity is no longer zero
    kept = weights.detach().clone()
    speed = speed + decay * kept
    found = unrolled_gradient(lambda: train(weights), lambda: validation(weights), [weights], [alpha], descent, xi)

    gradient = torch.autograd.grad(train(weights), weights, create_graph=True)[0]
    moved = weights - xi * (momentum * speed + gradient + decay * weights)
    wanted_gradient = torch.autograd.grad(validation(moved), alpha)[0]
    torch.testing.assert_close(found[0], wanted_gradient, rtol=1e-6, atol=1e-8)
    assert torch.equal(weights, kept)


def test_second_order_on_a_network_beside_two_backward_passes() -> None:
    problem, net = images(), relaxed()
    bilevel = Bilevel(net, COUNTS, problem, Steps(2, **STEPS, radius=SMALL))
    train, validation = batches(problem, "train", 3), batches(problem, "validation", 3)
    bilevel.step(train[0], validation[0], 0.1)  # alpha and velocity are no longer zero
    weights = {name: param for name, param in net.named_parameters() if param.requires_grad}
    velocity = bilevel.descent.velocity
    found = bilevel.alpha_gradient(train[1], validation[1], 0.1)
    exact = explicit_gradient(net, weights, bilevel.alphas, problem, train[1], validation[1], velocity, 0.1)
    plain = explicit_gradient(net, weights, bilevel.alphas, problem, train[1], validation[1], velocity, 0.0)
    for mine, theirs, first in zip(found, exact, plain, strict=True):
        apart = (mine - theirs).norm() / (theirs - first).norm()  # relative to what the second order adds
        assert apart < 1e-4


def test_first_order_is_the_gradient_where_the_weights_are() -> None:
    problem, net = images(), relaxed()
    bilevel = Bilevel(net, COUNTS, problem, Steps(1, **STEPS))
    train, validation = batches(problem, "train", 1)[0], batches(problem, "validation", 1)[0]
    weights = {name: param for name, param in net.named_parameters() if param.requires_grad}
    found = bilevel.alpha_gradient(train, validation, 0.1)
    zeros = [torch.zeros_like(weight) for weight in weights.values()]
    for mine, theirs in zip(found, explicit_gradient(net, weights, bilevel.alphas, problem, train, validation, zeros, 0.0), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("order", "tolerance"), [(1, 1e-9), (2, 1e-5)])
def test_a_search_step_by_step_beside_torchs_optimisers(order: Any, tolerance: float) -> None:
    problem, ours, theirs = images(), relaxed(), relaxed()
    bilevel = Bilevel(ours, COUNTS, problem, Steps(order, **STEPS, clip=0.5, radius=SMALL))
    weights = {name: param for name, param in theirs.named_parameters() if param.requires_grad}
    alphas = [torch.zeros(count, dtype=torch.float64, requires_grad=True) for count in COUNTS]
    sgd = torch.optim.SGD(weights.values(), lr=0.1, momentum=STEPS["momentum"], weight_decay=STEPS["weight_decay"])
    adam = torch.optim.Adam(alphas, lr=STEPS["alpha_lr"], betas=(0.5, 0.999), weight_decay=1e-3)
    for train, validation in zip(batches(problem, "train", 3), batches(problem, "validation", 3), strict=True):
        bilevel.step(train, validation, 0.1)
        velocity = [sgd.state[weight].get("momentum_buffer", torch.zeros_like(weight)) for weight in weights.values()]
        lr = 0.1 if order == 2 else 0.0
        for alpha, gradient in zip(
            alphas, explicit_gradient(theirs, weights, alphas, problem, train, validation, velocity, lr), strict=True
        ):
            alpha.grad = gradient
        adam.step()
        sgd.zero_grad()
        problem.loss(theirs(train[0], [torch.softmax(alpha, 0) for alpha in alphas]), train[1]).backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 0.5)
        sgd.step()
        for mine, exact in zip([*bilevel.alphas, *bilevel.weights], [*alphas, *weights.values()], strict=True):
            torch.testing.assert_close(mine, exact, rtol=tolerance, atol=tolerance)


@given(st.integers(0, 1000), st.floats(0.0, 0.9), st.floats(0.0, 0.1))
@settings(max_examples=15, deadline=None)
def test_optimisers_are_torchs(seed: int, momentum: float, decay: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    start = torch.randn(6, generator=draw, dtype=torch.float64)
    mine, theirs = [start.clone() for _ in range(2)], [start.clone().requires_grad_() for _ in range(2)]
    descent, adam = Momentum(mine[:1], momentum=momentum, weight_decay=decay), Adam(mine[1:], lr=0.1, betas=(0.5, 0.99), weight_decay=decay)
    sgd = torch.optim.SGD(theirs[:1], lr=0.1, momentum=momentum, weight_decay=decay)
    other = torch.optim.Adam(theirs[1:], lr=0.1, betas=(0.5, 0.99), weight_decay=decay)
    for _ in range(4):
        gradients = [torch.randn(6, generator=draw, dtype=torch.float64) for _ in range(2)]
        descent.step(gradients[:1], 0.1)
        adam.step(gradients[1:])
        for param, gradient in zip(theirs, gradients, strict=True):
            param.grad = gradient
        sgd.step()
        other.step()
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, two.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [(0, 0), (1, 2), (0, 1)])
def test_one_option_alone_is_the_plain_network(options: tuple[int, ...]) -> None:
    mixed = relaxed()
    plain = network(SPACE, Architecture(0, options)).double()
    for mine, theirs in [(plain.stem, mixed.stem), (plain.head, mixed.head)]:
        mine.load_state_dict(theirs.state_dict())
    for block, choices, option in zip(plain.blocks, mixed.blocks, options, strict=True):
        block.load_state_dict(list(choices.children())[option].state_dict())
    x = images().training.x[:8]
    one_hot = [torch.eye(count, dtype=torch.float64)[option] for count, option in zip(COUNTS, options, strict=True)]
    torch.testing.assert_close(mixed(x, one_hot), plain.train()(x), rtol=1e-9, atol=1e-10)


def test_weights_of_options_are_their_own() -> None:
    net = relaxed()
    params = [param for param in net.parameters() if param.requires_grad]
    assert len({param.data_ptr() for param in params}) == len(params)
    alone = sum(sum(p.numel() for p in network(SPACE, Architecture(0, (n, n))).parameters()) for n in range(2))
    shared = sum(p.numel() for part in (net.stem, net.head) for p in part.parameters())
    assert sum(p.numel() for p in net.parameters()) == alone - shared
