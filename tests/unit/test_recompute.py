"""Recomputation changes what a step holds and never what it computes; plans keep to their budgets; micro-batches add up to the batch."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from components.core.errors import ConfigError, DataError
from components.train.memory import blocks, live, measure, micro_batch, plan, recompute
from components.train.memory.plan import Option, Problem

ROOT = Path(__file__).parents[2]
_loader = SourceFileLoader("gpt", str(ROOT / "tests" / "benchmarks" / "scale" / "gpt.py"))
gpt = module_from_spec(spec_from_loader("gpt", _loader))  # type: ignore[arg-type]
sys.modules["gpt"] = gpt  # its dataclass looks itself up
_loader.exec_module(gpt)

SIZE = {"layers": 4, "width": 32, "heads": 2, "tokens": 16, "vocabulary": 40}
PLANS: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "every": plan.every,
    "every second": lambda names: plan.every(names, 2),
    "selective": lambda names: plan.every(names, mode="selective"),
    "mixed": lambda names: dict(zip(names, ("full", "selective", "none", "full"), strict=True)),
}


def make_gpt(dropout: float = 0.0) -> tuple[nn.Module, Callable[[Tensor], Tensor], Tensor]:
    torch.manual_seed(0)
    model = gpt.Gpt(gpt.Size(**SIZE, dropout=dropout))
    ids = torch.randint(SIZE["vocabulary"], (4, SIZE["tokens"] + 1))

    def loss(part: Tensor) -> Tensor:
        logits_NV = model(part[:, :-1]).flatten(0, 1).float()
        return functional.cross_entropy(logits_NV, part[:, 1:].flatten())

    return model, loss, ids


def gradients(model: nn.Module, loss: Callable[[Any], Tensor], batch: Any) -> list[Tensor]:
    model.zero_grad()
    torch.manual_seed(7)
    value = loss(batch)
    torch.autograd.backward(value)
    return [value.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def same_bits(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


class Residual(nn.Module):
    """Convolutional blocks with batch statistics."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), norm(4), nn.GELU(), nn.Dropout(0.2)) for _ in range(3))
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        scores: Tensor = self.out(x.mean((2, 3)))
        return scores


class Counted(TorchDispatchMode):
    """Counts calls of operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


class TestGradients:
    @pytest.mark.parametrize("dropout", [0.0, 0.2])
    @pytest.mark.parametrize("autocast", [False, True])
    @pytest.mark.parametrize("name", PLANS)
    def test_are_the_same_bits(self, name: str, autocast: bool, dropout: float) -> None:
        model, loss, ids = make_gpt(dropout)

        def step(part: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
                return loss(part)

        before = gradients(model, step, ids)
        recompute.apply(model, PLANS[name](list(blocks.find(model))))
        assert same_bits(gradients(model, step, ids), before)
        assert same_bits(gradients(model, step, ids), before)  # now `selective` knows what it need not keep

    @pytest.mark.parametrize("name", PLANS)
    def test_are_the_same_over_several_forward_passes(self, name: str) -> None:
        model, loss, ids = make_gpt(0.1)

        def twice(part: Tensor) -> Tensor:
            return loss(part[:2]) + loss(part[2:]) * loss(part)

        before = gradients(model, twice, ids)
        recompute.apply(model, PLANS[name](list(blocks.find(model))))
        assert same_bits(gradients(model, twice, ids), before)

    @pytest.mark.parametrize("mode", ["full", "selective"])
    def test_masks_are_drawn_once(self, mode: recompute.Mode) -> None:
        model, loss, ids = make_gpt(0.2)
        counted = Counted()
        with counted:
            before = gradients(model, loss, ids)
        drawn, after = counted.calls["bernoulli_"], torch.get_rng_state()
        recompute.apply(model, plan.every(list(blocks.find(model)), mode=mode))
        counted.calls.clear()
        with counted:
            assert same_bits(gradients(model, loss, ids), before)
        assert counted.calls["bernoulli_"] == drawn > 0
        assert torch.equal(torch.get_rng_state(), after)

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize("mode", ["full", "selective"])
    def test_are_the_same_where_not_only_masks_are_drawn(self, mode: recompute.Mode, first: bool) -> None:
        class Noisy(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner, self.dropout = nn.Linear(4, 4), nn.Dropout(0.5)

            def forward(self, x: Tensor) -> Tensor:
                noise = torch.randn(4) if first else 1.0
                dropped = self.dropout(self.inner(x) * noise)
                return torch.tanh(self.inner(dropped * (1.0 if first else torch.randn(4))))

        torch.manual_seed(0)
        model, x = nn.ModuleList([Noisy(), Noisy()]), torch.randn(8, 4)

        def loss(rows: Tensor) -> Tensor:
            scores: Tensor = model[1](model[0](rows)).square().mean()
            return scores

        before = gradients(model, loss, x)
        recompute.apply(model, plan.every(["0", "1"], mode=mode))
        for _ in range(2):
            assert same_bits(gradients(model, loss, x), before)

    def test_keyword_arguments_and_frozen_weights(self) -> None:
        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(4, 4)

            def forward(self, x: Tensor, *, debug: Tensor, context_fn: float) -> Tensor:
                return torch.tanh(self.inner(x) * debug) * context_fn

        model = nn.ModuleList([Scaled(), Scaled()])
        model[0].requires_grad_(False)
        x, scale = torch.randn(3, 4), torch.randn(4, requires_grad=True)

        def loss(given: Tensor) -> Tensor:
            for block in model:
                given = block(given, debug=scale, context_fn=2.0)
            return given.sum()

        before = [*gradients(model, loss, x), scale.grad]
        scale.grad = None
        recompute.apply(model, plan.every(list(blocks.find(model))))
        assert same_bits([*gradients(model, loss, x), scale.grad], before)


class TestBuffers:
    @pytest.mark.parametrize("mode", ["full", "selective"])
    def test_batch_statistics_are_updated_once(self, mode: recompute.Mode) -> None:
        torch.manual_seed(0)
        model, x, y = Residual(), torch.randn(6, 4, 5, 5), torch.randint(3, (6,))
        other = copy.deepcopy(model)
        recompute.apply(other, plan.every(list(blocks.find(other)), mode=mode))
        for _ in range(2):
            ours, theirs = (gradients(m, lambda x, m=m: functional.cross_entropy(m(x), y), x) for m in (other, model))
            assert same_bits(ours, theirs)
        assert same_bits(list(other.buffers()), list(model.buffers()))
        assert int(other.blocks[0][1].num_batches_tracked) == 2  # type: ignore[index, union-attr]

    def test_a_buffer_that_the_block_reads_again_is_refused(self) -> None:
        class Ema(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(4, 4)
                self.register_buffer("mean", torch.zeros(4))

            def forward(self, x: Tensor) -> Tensor:
                self.mean.lerp_(x.detach().mean(0), 0.1)
                return torch.tanh(self.inner(x - self.mean))

        model = nn.ModuleList([Ema()])
        recompute.apply(model, {"0": "full"})
        with pytest.raises(ConfigError, match=r"Ema changes its buffer 'mean'.*leave this block out"):
            model[0](torch.randn(2, 4))

    def test_a_product_that_is_changed_in_place_is_refused(self) -> None:
        model = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Tanh())])
        recompute.apply(model, {"0": "selective"})
        with pytest.raises(ConfigError, match=r"in place.*use the mode `full`"):
            torch.autograd.backward(model[0](torch.randn(2, 4)).sum())

    @pytest.mark.parametrize("mode", ["full", "selective"])
    def test_an_input_that_is_changed_in_place_is_an_error(self, mode: recompute.Mode) -> None:
        class Shifts(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(4, 4)

            def forward(self, x: Tensor) -> Tensor:
                return torch.tanh(self.inner(x.add_(1)))

        model = nn.ModuleList([Shifts()])
        recompute.apply(model, {"0": mode})
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.backward(model[0](torch.ones(2, 4, requires_grad=True) * 2).sum())


class TestApply:
    def test_leaves_names_classes_and_copies_alone(self) -> None:
        model, _, _ = make_gpt()
        names, classes = list(model.state_dict()), [type(module) for module in model.modules()]
        recompute.apply(model, plan.every(list(blocks.find(model)), 2))
        assert list(model.state_dict()) == names
        assert all(isinstance(block, gpt.Block) for block in blocks.find(model).values())
        twin = copy.deepcopy(model)
        assert recompute.modes_of(twin) == recompute.modes_of(model) == {"blocks.0": "full", "blocks.2": "full"}
        with recompute.applied(model, {"blocks.1": "selective"}):
            assert recompute.modes_of(model) == {"blocks.1": "selective"}
        assert recompute.modes_of(model) == recompute.modes_of(twin)
        recompute.remove(model)
        assert [type(module) for module in model.modules()] == classes

    def test_says_what_is_wrong(self) -> None:
        model, _, _ = make_gpt()
        with pytest.raises(ConfigError, match=r"no block 'blocks.9'.*did you mean 'blocks"):
            recompute.apply(model, {"blocks.9": "full"})
        with pytest.raises(ConfigError, match=r"'ful' is no mode.*did you mean 'full'"):
            recompute.apply(model, {"blocks.1": "ful"})  # type: ignore[dict-item]
        with pytest.raises(ConfigError, match="every 0th"):
            plan.every(["a"], 0)
        assert not recompute.modes_of(model)

    def test_blocks_are_the_largest_list_or_what_is_named(self) -> None:
        model, _, _ = make_gpt()
        assert list(blocks.find(model)) == [f"blocks.{i}" for i in range(4)]
        assert list(blocks.find(model, ["blocks.*.rise", "head"])) == [*(f"blocks.{i}.rise" for i in range(4)), "head"]
        with pytest.raises(ConfigError, match=r"lies within block 'blocks.0'"):
            blocks.find(model, ["blocks.0", "blocks.0.rise"])
        with pytest.raises(ConfigError, match=r"no module 'block\.\*'"):
            blocks.find(model, ["block.*"])
        with pytest.raises(ConfigError, match=r"no nn\.ModuleList"):
            blocks.find(nn.Sequential(nn.Linear(1, 1)))


class TestBytes:
    @pytest.mark.parametrize("dropout", [0.0, 0.2])
    def test_forecasts_are_what_a_step_takes(self, dropout: float) -> None:
        model, loss, ids = make_gpt(dropout)
        names = list(blocks.find(model))
        before = [p.clone() for p in model.parameters()]
        state = torch.get_rng_state()
        for make in (lambda _: {}, *PLANS.values()):
            told, seen = (of(model, loss, ids, make(names)) for of in (measure.forecast, measure.measured))
            assert (told.held_bytes, told.peak_bytes) == (seen.held_bytes, seen.peak_bytes)
        assert measure.forecast(model, loss, ids[:1], rows=4).peak_bytes == measure.forecast(model, loss, ids).peak_bytes
        assert torch.equal(torch.get_rng_state(), state)
        assert same_bits(list(model.parameters()), before)
        assert all(p.grad is None for p in model.parameters())

    def test_what_is_held_falls(self) -> None:
        model, loss, ids = make_gpt()
        names = list(blocks.find(model))
        none, second, selective, every = (
            measure.forecast(model, loss, ids, modes).held_bytes
            for modes in ({}, PLANS["every second"](names), PLANS["selective"](names), PLANS["every"](names))
        )
        assert every < second < none
        assert every < selective < none
        outside = measure.saved(model, loss, ids, blocks.find(model))[""]
        assert every - outside < 0.2 * (none - outside)
        assert 0.45 < (second - every) / (none - every) < 0.55

    def test_autograd_saves_a_blocks_input_only(self) -> None:
        model, loss, ids = make_gpt()
        found = blocks.find(model)
        whole = measure.saved(model, loss, ids, found)
        recompute.apply(model, plan.every(list(found)))
        rest = measure.saved(model, loss, ids, found)
        stream = 4 * SIZE["tokens"] * SIZE["width"] * 4
        assert rest == {"": whole[""], **dict.fromkeys(found, stream)}
        assert min(whole[name] for name in found) > 10 * stream

    def test_torchs_own_tracker_sees_the_same(self) -> None:
        from torch.distributed._tools.mem_tracker import MemTracker

        model, loss, ids = make_gpt()
        for modes in ({}, PLANS["every"](list(blocks.find(model)))):
            ours = measure.forecast(model, loss, ids, modes).peak_bytes
            with live.pretended(model, ids) as given, recompute.applied(model, modes):
                tracker = MemTracker()
                tracker.track_external(model)
                with tracker:
                    torch.autograd.backward(loss(given))
            peak = {kind.name: size for kind, size in tracker.get_tracker_snapshot("peak")[torch.device("cpu")].items() if kind != "Total"}
            assert peak["ACT"] + peak["TEMP"] == ours + ids.nbytes  # to it, the batch is an activation

    def test_a_model_that_looks_at_values_has_no_forecast(self) -> None:
        class Looks(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Linear(2, 2)

            def forward(self, x: Tensor) -> Tensor:
                y: Tensor = self.inner(x)
                return y if float(y.detach().sum()) > 0 else -y

        model = Looks()
        with pytest.raises(ConfigError, match=r"depends on values.*use `measured`"):
            measure.forecast(model, lambda x: model(x).sum(), torch.ones(3, 2))
        assert measure.measured(model, lambda x: model(x).sum(), torch.ones(3, 2)).peak_bytes > 0

    def test_recurrent_layers_and_tied_weights_are_given_back(self) -> None:
        model = nn.ModuleDict({"blocks": nn.ModuleList(nn.LSTM(3, 3, batch_first=True) for _ in range(2))})
        model["blocks"][1].weight_ih_l0 = model["blocks"][0].weight_ih_l0  # type: ignore[index]

        def loss(x: Tensor) -> Tensor:
            for block in model["blocks"]:  # type: ignore[union-attr]
                x = block(x)[0]
            return x.sum()

        before = gradients(model, loss, torch.ones(2, 4, 3))
        assert measure.forecast(model, loss, torch.ones(2, 4, 3)).held_bytes > 0
        assert same_bits(gradients(model, loss, torch.ones(2, 4, 3)), before)


OPTIONS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 20)).map(lambda v: Option("full", v[0], v[1], float(v[2]))),
    min_size=1,
    max_size=3,
)
PROBLEMS = st.builds(
    Problem,
    st.integers(0, 20),
    st.lists(OPTIONS, min_size=1, max_size=5).map(lambda each: {str(i): options for i, options in enumerate(each)}),
    st.integers(0, 40),
)


def peak_of(problem: Problem, chosen: Any) -> int:
    held, peak = problem.start, 0
    for option in chosen:
        peak = max(peak, held + option.local)
        held += option.held
    return max(peak, held + problem.head)


class TestSolve:
    @given(PROBLEMS, st.integers(0, 300))
    def test_is_the_best_of_all_that_fit(self, problem: Problem, budget: int) -> None:
        fitting = [chosen for chosen in product(*problem.options.values()) if peak_of(problem, chosen) <= budget]
        found = plan.solve(problem, budget)
        assert (found is None) == (not fitting)
        if found is not None:
            assert peak_of(problem, found.values()) <= budget
            assert sum(o.seconds for o in found.values()) == min(sum(o.seconds for o in chosen) for chosen in fitting)
            assert found == plan.solve(problem, budget)

    @given(PROBLEMS)
    def test_the_least_budget_is_the_least(self, problem: Problem) -> None:
        assert plan.least(problem) == min(peak_of(problem, chosen) for chosen in product(*problem.options.values()))


@cache
def survey(rows: int) -> tuple[plan.Survey, nn.Module, Callable[[Tensor], Tensor], Tensor]:
    model, loss, ids = make_gpt(0.1)
    return plan.Survey(model, loss, ids, rows=rows), model, loss, ids


class TestAuto:
    @settings(max_examples=20, deadline=None)
    @given(share=st.floats(0.1, 1.1), rows=st.sampled_from([1, 4, 16]))
    @pytest.mark.slow
    def test_keeps_to_every_budget_or_says_what_is_possible(self, share: float, rows: int) -> None:
        of, model, loss, ids = survey(rows)
        budget = int(of.whole.peak_bytes * share)
        try:
            found = of.plan(budget)
        except ConfigError as error:
            possible = int(str(error).split("least possible is ")[1].split(" bytes")[0].replace(",", ""))
            assert budget < possible <= measure.forecast(model, loss, ids, PLANS["every"](list(blocks.find(model))), rows=rows).peak_bytes
            assert of.plan(possible).peak_bytes == possible
            return
        step = measure.forecast(model, loss, ids, found.modes, rows=rows)
        assert (step.peak_bytes, step.held_bytes) == (found.peak_bytes, found.held_bytes)
        assert step.peak_bytes <= budget
        assert found == of.plan(budget)
        assert not recompute.modes_of(model)

    def test_real_steps_keep_to_the_budget(self) -> None:
        of, model, loss, ids = survey(4)
        for share in (0.75, 0.5):
            found = of.plan(int(of.whole.peak_bytes * share))
            assert measure.measured(model, loss, ids, found.modes).peak_bytes <= of.whole.peak_bytes * share

    def test_takes_no_more_time_than_recomputing_every_block(self) -> None:
        of, _, _, _ = survey(4)
        every = sum(option.seconds for options in of.problem.options.values() for option in options if option.mode == "full")
        for share in (0.95, 0.7, 0.5):
            chosen = plan.solve(of.problem, int(of.whole.peak_bytes * share)) or {}
            assert sum(option.seconds for option in chosen.values()) <= every
            assert of.plan(int(of.whole.peak_bytes * share)).held_bytes <= of.whole.held_bytes * share

    def test_recomputes_nothing_where_everything_fits(self) -> None:
        model, loss, ids = make_gpt()
        found = plan.auto(model, loss, ids, measure.forecast(model, loss, ids).peak_bytes)
        assert (set(found.modes.values()), found.extra_share) == ({"none"}, 0.0)

    def test_blocks_that_are_called_twice(self) -> None:
        model, loss, ids = make_gpt()
        twice = lambda part: loss(part) + loss(part.flip(0))  # noqa: E731
        none = measure.forecast(model, twice, ids).peak_bytes
        found = plan.auto(model, twice, ids, int(none * 0.6))
        assert measure.measured(model, twice, ids, found.modes).peak_bytes <= none * 0.6


class TestMicroBatch:
    @given(st.integers(1, 50), st.integers(0, 30), st.integers(0, 2000), st.integers(1, 64))
    def test_is_the_largest_that_fits(self, slope: int, fixed: int, budget: int, most: int) -> None:
        peak = lambda rows: fixed + slope * rows  # noqa: E731
        if peak(1) > budget:
            with pytest.raises(ConfigError, match=f"one row takes {peak(1):,} bytes"):
                micro_batch.largest(peak, budget, most)
            return
        rows, count = micro_batch.largest(peak, budget, most)
        assert rows == max(n for n in range(1, most + 1) if peak(n) <= budget)
        assert rows * (count - 1) < most <= rows * count
        assert micro_batch.largest(peak, budget + slope, most)[0] >= rows

    @pytest.mark.slow
    def test_more_fits_with_recomputation(self) -> None:
        model, loss, ids = make_gpt()
        budget = measure.forecast(model, loss, ids, rows=5).peak_bytes
        every = PLANS["every"](list(blocks.find(model)))

        def most(modes: dict[str, Any]) -> int:
            return micro_batch.largest(lambda rows: measure.forecast(model, loss, ids, modes, rows=rows).peak_bytes, budget, 64)[0]

        assert most({}) == 5
        assert most(every) > 10

    def test_a_forecast_that_falls_is_refused(self) -> None:
        with pytest.raises(DataError, match="falls"):
            micro_batch.largest(lambda rows: 10 - rows, 100, 8)

    @pytest.mark.parametrize("rows", [1, 3, 4, 7, 9])
    def test_accumulated_gradients_are_the_batchs(self, rows: int) -> None:
        model, _, _ = make_gpt()
        model.double()
        ids = torch.randint(SIZE["vocabulary"], (7, SIZE["tokens"] + 1))
        labels = ids[:, 1:].masked_fill(torch.rand(7, SIZE["tokens"]) < 0.4, -100)
        labels[2] = -100  # a row without a term
        batch = {"ids": ids[:, :-1], "labels": labels}

        def loss(part: dict[str, Tensor]) -> Tensor:
            return functional.cross_entropy(model(part["ids"]).flatten(0, 1), part["labels"].flatten())

        whole = gradients(model, loss, batch)
        recompute.apply(model, plan.every(list(blocks.find(model)), 2))
        model.zero_grad()
        mean = micro_batch.accumulate(model, loss, batch, rows, count=lambda part: int((part["labels"] >= 0).sum()))
        ours = [mean, *(p.grad for p in model.parameters())]
        for a, b in zip(ours, whole, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

    def test_batch_statistics_of_parts_are_refused(self) -> None:
        model, x = Residual(), torch.randn(6, 4, 5, 5)
        loss = lambda x: model(x).square().mean()  # noqa: E731
        with pytest.raises(ConfigError, match=r"BatchNorm 'blocks.0.1' sees one micro-batch"):
            micro_batch.accumulate(model, loss, x, 2)
        micro_batch.accumulate(model, loss, x, 6)
        micro_batch.accumulate(model, loss, x, 2, exact=False)
        micro_batch.accumulate(model.eval(), loss, x, 2)

    def test_batches_without_rows_or_terms(self) -> None:
        model, x = nn.Linear(2, 1), torch.ones(3, 2)
        loss = lambda x: model(x).mean()  # noqa: E731
        with pytest.raises(DataError, match="no terms"):
            micro_batch.accumulate(model, loss, x, 2, count=lambda _: 0)
        with pytest.raises(DataError, match=r"tensors have \[2, 3\] rows"):
            micro_batch.rows_of([x, x[:2]])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_wrapped_models_have_the_whole_batchs_gradients(kind: str) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, kind]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal") == 2


def _worker(kind: str) -> None:
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    from components.train.parallel.ending import disband, leave

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model, _, _ = make_gpt()
    model.double()
    ids = torch.randint(SIZE["vocabulary"], (7, SIZE["tokens"] + 1))
    own = [ids[:4], ids[4:]][rank]

    def loss_of(net: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda part: functional.cross_entropy(net(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten())

    whole = gradients(model, loss_of(model), ids)
    model.zero_grad()
    recompute.apply(model, PLANS["mixed"](list(blocks.find(model))))
    wrapped: Any = model
    if kind == "ddp":
        wrapped = nn.parallel.DistributedDataParallel(model)
    else:
        for block in blocks.find(model).values():
            fully_shard(block)
        wrapped = fully_shard(model)
    with pytest.raises(ConfigError, match="wrapped by DDP or FSDP already"):
        recompute.remove(wrapped)
    for _ in range(2):
        wrapped.zero_grad()
        mean = micro_batch.accumulate(wrapped, loss_of(wrapped), own, 2, group=dist.group.WORLD)
    found = [p.grad.full_tensor() if kind == "fsdp2" else p.grad for p in model.parameters()]
    for a, b in zip([mean, *found], whole, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    sys.stdout.write("equal\n")
    disband()
    leave(0)


if __name__ == "__main__":
    _worker(sys.argv[1])
