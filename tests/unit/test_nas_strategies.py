"""Search strategies: always within limits, reproducible, honest about time; and the training that they rest on."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.automl.nas.budget import Limits, cost
from components.automl.nas.mixing import Alphas, Mixing, Scores, train_superposed
from components.automl.nas.problem import Images, Split, likelihood, score
from components.automl.nas.strategies import Budget, Darts, Effects, Evolutionary, Gradient, Meter, Random, SearchTask, strategy
from components.automl.nas.strategies.base import drawn, nearest
from components.automl.nas.strategies.effects import main_effects
from components.automl.nas.strategies.on_supernet import calibration
from components.automl.nas.supernet import Supernet
from components.automl.nas.training import Draws, Fitting, inherited_score, rate, sandwich, seeded, single_path, standalone, train_supernet
from components.core.errors import ConfigError, DataError
from components.train.spaces.space import Architecture, Head, Option, Space, Stage, Stem

pytestmark = pytest.mark.usefixtures("one_thread")

SPACE = Space(
    name="tiny",
    input=(3, 8, 8),
    classes=4,
    stem=Stem(4, (2, 2)),
    stages=(Stage(4, (1, 1), 2, (Option(3, 1), Option(3, 3), Option(5, 3, se=True)), "inverted", "hard_swish"),),
    head=Head("classes", 8),
    widths=(1.0, 2.0),
    divisor=4,
)
ALL = list(SPACE.architectures())
COSTS = {architecture: cost(SPACE, architecture) for architecture in ALL}
SHORT = Fitting(epochs=0.5)
MACS = st.integers(min(each.macs for each in COSTS.values()), max(each.macs for each in COSTS.values()))


@cache
def gratings(count: int = 256) -> Images:
    """Noisy waves of four directions."""
    draw = np.random.default_rng(0)

    def split() -> Split:
        labels = draw.integers(0, 4, count)
        y, x = np.mgrid[:8, :8]
        along = np.cos(np.pi * labels / 4)[:, None, None] * x + np.sin(np.pi * labels / 4)[:, None, None] * y
        wave = np.sin(1.6 * along + draw.uniform(0, 6.3, (count, 1, 1)))
        pixels = wave[:, None] + draw.normal(0, 0.4, (count, 3, 8, 8))
        return Split(torch.from_numpy(pixels.astype(np.float32)), torch.from_numpy(labels))

    return Images(split(), split(), batch=32)


def task(**changes: Any) -> SearchTask:
    return replace(SearchTask(SPACE, gratings(), Limits(max_macs=sorted(each.macs for each in COSTS.values())[len(ALL) // 2])), **changes)


class StrategyContract:
    """What every strategy promises."""

    @pytest.fixture
    def made(self) -> Any:
        raise NotImplementedError

    def test_what_it_finds_is_within_the_limits(self, made: Any) -> None:
        given_task = task()
        found = made.search(given_task, Budget())
        assert all(given_task.limits.allow(cost(SPACE, moment.architecture)) for moment in found.moments)
        assert all(given_task.limits.allow(cost(SPACE, architecture)) for architecture in found.ranking)

    def test_its_last_moment_is_what_it_finds(self, made: Any) -> None:
        found = made.search(task(), Budget())
        times = [moment.cpu_s for moment in found.moments]
        assert found.moments[-1].architecture == found.architecture
        assert times == sorted(times)
        assert times[-1] <= found.cpu_s

    def test_the_seed_decides(self, made: Any) -> None:
        one, two = (made.search(task(seed=3), Budget()) for _ in range(2))
        assert one.architecture == two.architecture
        assert one.ranking == two.ranking
        assert [moment.scores for moment in one.moments] == [moment.scores for moment in two.moments]

    def test_it_leaves_the_global_generator_as_it_was(self, made: Any) -> None:
        before = torch.random.get_rng_state()
        made.search(task(), Budget())
        assert torch.equal(before, torch.random.get_rng_state())

    def test_a_spent_budget_still_has_an_answer(self, made: Any) -> None:
        found = made.search(task(), Budget(cpu_s=0.0))
        assert len(found.moments) == 1
        assert task().limits.allow(cost(SPACE, found.architecture))


def summed(worth: Scores, architecture: Architecture) -> float:
    options = zip(worth.blocks, architecture.options, strict=True)
    return worth.widths[architecture.width] + sum(row[option] for row, option in options)


class TestGradient(StrategyContract):
    @pytest.fixture(params=["softmax", "dirichlet"])
    def made(self, request: pytest.FixtureRequest) -> Any:
        return Gradient(SHORT, Mixing(request.param))

    def test_a_moment_can_choose_again_under_other_limits(self) -> None:
        found = Gradient(SHORT).search(task(), Budget())
        scores = found.moments[-1].scores
        assert scores is not None
        assert [len(row) for row in scores.blocks] == [3, 4]
        assert len(scores.widths) == 2
        for row in (*scores.blocks, scores.widths):
            assert np.exp(row).sum() == pytest.approx(1)


class TestDarts(StrategyContract):
    @pytest.fixture
    def made(self) -> Any:
        return Darts(epochs=0.5)

    def test_it_keeps_to_the_smallest_width(self, made: Any) -> None:
        assert made.search(task(limits=Limits()), Budget()).architecture.width == 0


class TestEvolutionary(StrategyContract):
    @pytest.fixture(params=[sandwich, single_path])
    def made(self, request: pytest.FixtureRequest) -> Any:
        return Evolutionary(SHORT, request.param, population=4, judged=8, batches=2)

    def test_each_architecture_is_judged_once_and_the_best_is_found(self, made: Any) -> None:
        found = made.search(task(), Budget())
        assert len(found.moments) == len(found.ranking) <= 8
        assert found.ranking[found.architecture] == max(found.ranking.values())
        assert list(found.ranking.values()) == sorted(found.ranking.values(), reverse=True)

    def test_a_space_that_is_exhausted_ends_the_search(self) -> None:
        least = min(each.macs for each in COSTS.values())
        found = Evolutionary(SHORT, judged=50).search(task(limits=Limits(max_macs=least)), Budget())
        assert {COSTS[architecture].macs for architecture in found.ranking} == {least}

    def test_a_supernet_that_was_trained_serves_other_limits_and_later_searches(self) -> None:
        evolution, wide, narrow = Evolutionary(SHORT, judged=4), task(limits=Limits()), task()
        (supernet,) = evolution.trained(wide, Meter(Budget()))
        found = evolution.select(narrow, [supernet], Meter(Budget(), spent_s=100.0))
        assert found.moments[0].cpu_s > 100
        assert narrow.limits.allow(cost(SPACE, found.architecture))
        again = replace(narrow, start=supernet.state_dict()).supernet()
        assert all(torch.equal(value, supernet.state_dict()[name]) for name, value in again.state_dict().items())


class TestEffects(StrategyContract):
    @pytest.fixture(params=[1, 2])
    def made(self, request: pytest.FixtureRequest) -> Any:
        return Effects(SHORT, single_path, judged=8, batches=2, supernets=request.param)

    def test_supernets_differ_and_their_judgements_are_averaged(self) -> None:
        made, given_task = Effects(SHORT, single_path, judged=4, batches=2, supernets=2), task()
        one, two = made.trained(given_task, Meter(Budget()))
        found = made.select(given_task, [one, two], Meter(Budget()))
        batches = calibration(given_task, 4)
        alone = [{each: inherited_score(net, each, given_task.problem, batches, 2) for each in found.ranking} for net in (one, two)]
        assert alone[0] != alone[1]
        assert found.ranking == pytest.approx({each: (alone[0][each] + alone[1][each]) / 2 for each in found.ranking})

    def test_only_the_first_supernet_may_be_cut_off(self) -> None:
        made = Effects(SHORT, single_path, judged=4, batches=2, supernets=3)
        assert len(made.trained(task(), Meter(Budget(cpu_s=0.0)))) == 1
        assert len(made.trained(task(), Meter(Budget()))) == 3

    def test_it_finds_what_is_judged_well_and_has_options_that_are(self, made: Any) -> None:
        found = made.search(task(), Budget())
        worth = main_effects(SPACE, found.ranking)
        both = {each: score + summed(worth, each) for each, score in found.ranking.items()}
        assert both[found.architecture] == pytest.approx(max(both.values()))

    def test_it_judges_what_might_be_best_and_ends_when_nothing_else_might(self) -> None:
        true = {each: float(each.options[0] == 2) + 0.1 * each.options[1] + 0.3 * each.width for each in ALL}
        made, given_task, known = Effects(drawn=6), task(limits=Limits()), dict[Architecture, float]()
        rng = random.Random(0)
        while (candidate := made.candidate(given_task, known, rng)) is not None:
            known[candidate] = true[candidate]
        assert made.answer(given_task, known) == max(ALL, key=lambda each: true[each])
        assert len(known) < len(ALL)

    @given(st.lists(st.sampled_from(ALL), min_size=1, unique=True), st.integers(0, 999))
    def test_effects_are_those_that_made_the_scores(self, some: list[Architecture], seed: int) -> None:
        draw = np.random.default_rng(seed)
        true = Scores(tuple(tuple(draw.random(len(block.options)).tolist()) for block in SPACE.blocks), (0.0, float(draw.random())))
        every = main_effects(SPACE, {each: summed(true, each) for each in ALL})
        for found, made in zip((*every.blocks, every.widths), (*true.blocks, true.widths), strict=True):
            assert np.argsort(found).tolist() == np.argsort(made).tolist()
            assert (np.abs(found) <= np.abs(np.subtract(made, np.mean(made))) + 1e-9).all()  # every option begins at the mean
        fewer = main_effects(SPACE, {each: summed(true, each) for each in some})
        assert len(fewer.widths) == len(SPACE.widths)
        seen = [{each.options[place] for each in some} for place in range(2)]
        assert all(fewer.blocks[place][option] == 0 for place in range(2) for option in {0, 1, 2} - seen[place])


class TestRandom(StrategyContract):
    @pytest.fixture
    def made(self) -> Any:
        return Random(lambda _, architecture, meter: self.looked_up(architecture, meter), judged=6)

    @staticmethod
    def looked_up(architecture: Architecture, meter: Meter) -> float:
        meter.charge(10.0)
        return -abs(COSTS[architecture].macs - 30_000)

    def test_look_ups_cost_what_they_stand_for(self, made: Any) -> None:
        found = made.search(task(), Budget(cpu_s=35.0))
        assert [round(moment.cpu_s, -1) for moment in found.moments] == [10, 20, 30, 40]
        assert len(found.ranking) == 4

    def test_it_finds_the_best_of_a_space_it_has_exhausted(self) -> None:
        made = Random(lambda _, architecture, meter: self.looked_up(architecture, meter), draw=lambda _, rng: rng.choice(ALL))
        found = made.search(task(limits=Limits()), Budget())
        assert len(found.ranking) == len(ALL)
        assert found.ranking[found.architecture] == max(-abs(each.macs - 30_000) for each in COSTS.values())

    def test_it_trains_when_nothing_can_be_looked_up(self) -> None:
        found = replace(strategy("random"), judged=1).search(task(problem=gratings(64)), Budget())
        assert 0 <= found.ranking[found.architecture] <= 1


@pytest.mark.slow
@given(st.sampled_from(ALL), MACS, st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_the_nearest_within_the_limits_changes_as_little_as_can_be(wanted: Architecture, macs: int, seed: int) -> None:
    limits = Limits(max_macs=macs)
    found = nearest(wanted, task(limits=limits), random.Random(seed))

    def shared(other: Architecture) -> int:
        return (other.width == wanted.width) + sum(a == b for a, b in zip(other.options, wanted.options, strict=True))

    assert limits.allow(COSTS[found])
    assert shared(found) == max(shared(other) for other in ALL if limits.allow(COSTS[other]))


@pytest.mark.slow
@given(MACS, st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_what_is_drawn_is_within_the_limits(macs: int, seed: int) -> None:
    limits = Limits(max_macs=macs)
    assert limits.allow(COSTS[drawn(task(limits=limits), random.Random(seed))])


@pytest.mark.slow
def test_without_limits_every_architecture_is_drawn_alike() -> None:
    rng = random.Random(0)
    counts = dict.fromkeys(ALL, 0)
    for _ in range(20 * len(ALL)):
        counts[drawn(task(limits=Limits()), rng)] += 1
    assert sum((count - 20) ** 2 / 20 for count in counts.values()) < 2 * len(ALL)  # chi-square


def test_limits_that_nothing_keeps() -> None:
    with pytest.raises(DataError, match="max_params=1"):
        task(limits=Limits(max_params=1))


def test_an_unknown_strategy() -> None:
    with pytest.raises(ConfigError, match="did you mean 'evolutionary'"):
        strategy("evolutionry")


@given(st.integers(1, 500), st.floats(1e-5, 1))
def test_the_learning_rate_rises_and_falls(steps: int, peak: float) -> None:
    rates = [rate(step, steps, peak) for step in range(steps)]
    top = rates.index(max(rates))
    assert 0 < min(rates)
    assert max(rates) <= peak
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_every_option_is_drawn_once_before_any_is_drawn_again() -> None:
    draws = Draws(SPACE, 0)
    found = [draws.one() for _ in range(60)]
    assert len(set(found)) > 10  # decisions are drawn apart from one another
    for place, block in enumerate(SPACE.blocks):
        count = len(block.options)
        numbers = [each.options[place] for each in found]
        assert all(sorted(numbers[at : at + count]) == list(range(count)) for at in range(0, 60 - count + 1, count))


def test_a_sandwich_adds_the_gradients_of_three_paths() -> None:
    batch = next(gratings().batches("train"))
    with seeded(0):
        supernet = Supernet(SPACE).double().train()
    x = batch[0].double()
    draws = Draws(SPACE, 5)
    path = Draws(SPACE, 5).one()
    sandwich(supernet, gratings(), (x, batch[1]), draws)
    found = {name: param.grad.clone() for name, param in supernet.named_parameters() if param.grad is not None}
    supernet.zero_grad()
    loss = torch.nn.CrossEntropyLoss()
    loss(supernet(x, SPACE.largest()), batch[1]).backward()
    teacher = supernet(x, SPACE.largest()).softmax(1).detach()
    for student in (SPACE.smallest(), path):
        loss(supernet(x, student), teacher).backward()
    for name, param in supernet.named_parameters():
        assert param.grad is not None
        torch.testing.assert_close(found[name], param.grad)


def test_a_single_path_trains_its_own_slice_only() -> None:
    batch, path = next(gratings().batches("train")), Draws(SPACE, 0).one()
    with seeded(0):
        supernet = Supernet(SPACE).train()
    single_path(supernet, gratings(), batch, Draws(SPACE, 0))
    found = {name: param.grad for name, param in supernet.named_parameters()}
    supernet.zero_grad()
    torch.nn.functional.cross_entropy(supernet(batch[0], path), batch[1]).backward()
    for name, param in supernet.named_parameters():
        assert (param.grad is None) == (found[name] is None)
        assert param.grad is None or torch.equal(param.grad, found[name])


def test_a_training_can_be_stopped() -> None:
    with seeded(0):
        supernet = Supernet(SPACE)
    assert train_supernet(supernet, gratings(), SHORT, 0, rule=single_path, stop=lambda step: step == 2) == 2


@pytest.mark.slow
def test_networks_and_supernets_learn() -> None:
    fitting, net_of = Fitting(epochs=8.0), SPACE.largest()
    _, alone = standalone(SPACE, net_of, gratings(), fitting, 0)
    with seeded(0):
        supernet = Supernet(SPACE)
    train_supernet(supernet, gratings(), fitting, 0)
    calibration = [x for x, _ in gratings().batches("train")]
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    inherited = inherited_score(supernet, net_of, gratings(), calibration)
    assert alone > 0.6
    assert inherited > 0.6
    assert inherited == inherited_score(supernet, net_of, gratings(), calibration)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_alpha_waits_moves_and_can_share_the_weights_backward_pass() -> None:
    def scores(mixing: Mixing) -> Any:
        with seeded(0):
            supernet = Supernet(SPACE)
        return train_superposed(supernet, gratings(), SHORT, 0, mixing)

    assert all(len(set(row)) == 1 for row in scores(Mixing(warm_up=1.0)).blocks)
    for mixing in (Mixing(warm_up=0.0), Mixing(warm_up=0.0, bilevel=False), Mixing("dirichlet", warm_up=0.0, every=2)):
        found = scores(mixing)
        assert all(len(set(row)) > 1 for row in (*found.blocks, found.widths))


def test_a_decision_that_changes_nothing_does_not_end_a_superposition() -> None:
    fixed = Stage(4, (1, 1), 1, (Option(3, 1),), "inverted")  # one option, the same at both widths: four channels
    whole = replace(SPACE, stages=(fixed, *SPACE.stages), widths=(1.0, 1.1))
    scores = train_superposed(Supernet(whole), gratings(), SHORT, 0, Mixing(warm_up=0.0, every=1))
    assert len(set(scores.blocks[1])) > 1


@pytest.mark.parametrize("how", ["softmax", "dirichlet"])
def test_probabilities_are_differentiable(how: Any) -> None:
    alphas = Alphas(SPACE, how)
    mix = alphas.mix()
    assert isinstance(mix.width, torch.Tensor)
    for vector in (*mix.blocks, mix.width):
        assert vector.detach().sum().item() == pytest.approx(1)
        (gradient,) = torch.autograd.grad(
            vector[0], [alphas.tensors[-1] if vector is mix.width else alphas.tensors[_index(mix.blocks, vector)]]
        )
        assert gradient.abs().sum() > 0


def _index(vectors: Any, vector: Any) -> int:
    return next(number for number, each in enumerate(vectors) if each is vector)


def test_images_that_are_too_few() -> None:
    few = Split(torch.zeros(3, 3, 8, 8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(DataError, match="batches have 4"):
        Images(few, few, batch=4)
    with pytest.raises(DataError, match="nothing to judge by"):
        score(lambda x: x, [], gratings())
    with pytest.raises(DataError, match="nothing to judge by"):
        likelihood(lambda x: x, [], gratings())


def test_likelihood_is_the_geometric_mean_of_what_is_given_to_the_truth() -> None:
    rows, truth = torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]]), torch.tensor([0, 0, 1])
    parts = [(rows[:2], truth[:2]), (rows[2:], truth[2:])]  # the last batch is smaller, its item counts as much
    assert likelihood(torch.log, parts, gratings()) == pytest.approx((0.7 * 0.4 * 0.1) ** (1 / 3))
    assert likelihood(lambda x: torch.log(x.roll(1, 1)), parts, gratings()) == pytest.approx((0.3 * 0.6 * 0.9) ** (1 / 3))


def test_an_epoch_has_every_image_once_and_whole_batches() -> None:
    problem = Images(gratings().training, gratings().validation, batch=100)
    shuffled = [len(y) for _, y in problem.batches("train", torch.Generator().manual_seed(0))]
    assert shuffled == [100, 100]
    assert sum(len(y) for _, y in problem.batches("validation")) == 256
