"""ShardedHead against dense autograd in float64: one rank in this process, two to four gloo processes of tiny tensors."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from components.core.errors import ConfigError
from components.train.parallel.head import ShardedHead
from components.train.parallel.margins import Margin
from components.train.parallel.sampling import sample

RANKS = Path(__file__).parents[1] / "head_ranks.py"
_loader = SourceFileLoader("head_ranks", str(RANKS))
ranks = module_from_spec(spec_from_loader("head_ranks", _loader))  # type: ignore[arg-type]
_loader.exec_module(ranks)

EXACT = 1e-12
ROWS = 12
MARGINS = {"plain": ("plain", 16.0, 0.0), "arcface": ("arcface", 64.0, 0.5), "cosface": ("cosface", 30.0, 0.35)}
SIZES = {1: [ROWS], 2: [9, 3], 3: [4, 4, 4], 4: [7, 0, 4, 1]}
Job = Mapping[str, Any]


def _labels(classes: int, *, of: int | None = None) -> list[list[int]]:
    """Of three steps; below `of`."""
    draw = np.random.default_rng(classes)
    return [draw.integers(of or classes, size=ROWS).tolist() for _ in range(3)]


def _train(margin: str, classes: int, world: int, *, even: bool = False, of: int | None = None, lr: float = 0.05, **options: Any) -> Job:
    sizes = [ROWS // world] * world if even else SIZES[world]
    return {
        "do": "train", "margin": MARGINS[margin], "classes": classes, "sizes": sizes, "labels": _labels(classes, of=of), "lr": lr,
        "options": options,
    }  # fmt: skip


def _trainings(world: int) -> dict[str, Job]:
    return {
        **{f"{margin}-13": _train(margin, 13, world, chunk=3) for margin in MARGINS},
        "even": _train("arcface", 12, world, even=True),
        "empty": _train("arcface", 5, world, chunk=1),
        "one-rank": _train("cosface", 13, world, of=3, chunk=4),
        "one-class": _train("arcface", 1, world),
        "fused": _train("arcface", 13, world, fused_lr=0.05, chunk=3),
        "kept": _train("arcface", 13, world, chunk=3, keep=400),
        "fused-kept": _train("cosface", 13, world, fused_lr=0.05, chunk=3, keep=1 << 20),
        "sampled-kept": _train("arcface", 40, world, share=0.3, seed=3, chunk=4, keep=1 << 20),
        "sampled": _train("arcface", 40, world, share=0.3, seed=3, chunk=4),
        "all-sampled": _train("arcface", 13, world, share=1 - 2**-54, seed=3, chunk=3),
    }


def dense(e_BD: Tensor, w_CD: Tensor, label_B: Tensor, margin: Sequence[Any]) -> Tensor:
    """The oracle: every logit, by torch's own operations."""
    kind, scale, m = margin
    cosine_BC = functional.normalize(e_BD) @ functional.normalize(w_CD).T
    own_BC = functional.one_hot(label_B, len(w_CD)).bool()
    moved_BC = cosine_BC - m
    if kind == "arcface":
        angle_BC = cosine_BC.clamp(-1 + 1e-12, 1 - 1e-12).acos()
        moved_BC = torch.where(angle_BC + m <= math.pi, (angle_BC + m).cos(), cosine_BC - m * math.sin(m))
    return functional.cross_entropy(scale * torch.where(own_BC, moved_BC, cosine_BC), label_B)


def expected(job: Job) -> dict[str, Tensor]:
    """What `head_ranks.train` must find, of all ranks together."""
    e_BD, w_CD = (nn.Parameter(part) for part in ranks.drawn(job["classes"], sum(job["sizes"])))
    options = job["options"]
    optimiser = torch.optim.SGD([e_BD, w_CD], lr=job["lr"], momentum=0.0 if "fused_lr" in options else 0.9)
    found = {}
    for step, labels in enumerate(job["labels"]):
        optimiser.zero_grad()
        label_B, taken_n = torch.tensor(labels), torch.arange(len(w_CD))
        if "share" in options:
            taken_n = sample(label_B, first=0, classes=len(w_CD), share=options["share"], seed=options["seed"], step=step)
        loss = dense(e_BD, w_CD[taken_n], torch.searchsorted(taken_n, label_B), job["margin"])
        loss.backward()
        found |= {f"loss{step}": loss.detach(), f"de{step}": e_BD.grad.clone(), f"dw{step}": w_CD.grad.clone()}
        optimiser.step()
        found[f"w{step}"] = w_CD.detach().clone()
    return found


def check_equal(job: Job, found: Sequence[Mapping[str, Any]]) -> None:
    """Check what the ranks found against the oracle."""
    for key, whole in expected(job).items():
        if key not in found[0]:
            assert key.startswith("dw")
            assert "fused_lr" in job["options"]
            continue
        parts = [np.asarray(part[key]) for part in found]
        got = np.concatenate(parts) if whole.ndim else parts[0]
        assert got.shape == whole.shape
        assert np.abs(got - whole.numpy()).max() <= EXACT, key
        if not whole.ndim:
            assert all(part == parts[0] for part in parts)


def launch(world: int, folder: Path, jobs: Mapping[str, Job]) -> dict[str, list[dict[str, Any]]]:
    """Run jobs on `world` processes; return what each rank found, by job."""
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs))
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": str(world), "PYTHONPATH": str(RANKS.parents[1])}
    command = [sys.executable, str(RANKS), str(folder)]
    started = []
    try:
        for rank in range(world):
            with (folder / f"{rank}.txt").open("w") as log:
                started.append(subprocess.Popen(command, env=env | {"RANK": str(rank)}, stdout=log, stderr=subprocess.STDOUT))
        codes = [process.wait(timeout=500) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert not any(codes), "\n".join((folder / f"{rank}.txt").read_text()[-2000:] for rank in range(world))
    return {name: [dict(np.load(folder / f"{name}.{rank}.npz")) for rank in range(world)] for name in jobs}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("head")


@pytest.fixture(scope="module")
def two(home: Path) -> dict[str, list[dict[str, Any]]]:
    jobs: dict[str, Job] = {
        "refuse": {"do": "refuse", "margin": MARGINS["arcface"], "classes": 5},
        "record": {"do": "record", "margin": MARGINS["arcface"], "classes": 20000, "options": {"chunk": 50}},
        "average": {**_train("arcface", 13, 2), "do": "average", "options": {"averaged": True}},
        "keep": {"do": "keep", "classes": 11, "folder": str(home / "checkpoint")},
    }
    return launch(2, home / "two", jobs | _trainings(2))


@pytest.fixture(scope="module")
def four(home: Path) -> dict[str, list[dict[str, Any]]]:
    return launch(4, home / "four", {"place": {"do": "place", "classes": 10, "mesh": {"data": 2, "tensor": 2}}} | _trainings(4))


@pytest.fixture(scope="module")
def three(home: Path, two: object) -> dict[str, list[dict[str, Any]]]:
    return launch(3, home / "three", {"resume": {"do": "resume", "classes": 11, "folder": str(home / "checkpoint")}})


@pytest.mark.parametrize("name", list(_trainings(1)))
def test_one_rank_equals_dense_autograd(name: str) -> None:
    job = _trainings(1)[name]
    check_equal(job, [ranks.train(job, None)])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(_trainings(2)))
def test_two_ranks_equal_dense_autograd(name: str, two: dict[str, list[dict[str, Any]]]) -> None:
    check_equal(_trainings(2)[name], two[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(_trainings(4)))
def test_four_ranks_equal_dense_autograd(name: str, four: dict[str, list[dict[str, Any]]]) -> None:
    check_equal(_trainings(4)[name], four[name])


@pytest.mark.slow
def test_a_step_is_three_collectives_and_none_is_as_large_as_the_classes(two: dict[str, list[dict[str, Any]]]) -> None:
    for found in two["record"]:
        names = ["_allgather_base_", "allreduce_", "_reduce_scatter_base_"]
        assert [str(name).split(".")[0] for name in found["names1"]] == names
        assert [str(name).split(".")[0] for name in found["names0"]] == [names[0], *names]  # the first step makes room
        rows = 16
        assert found["sizes1"].max() <= (rows + 2) * (ranks.DIM + 1) < 20000 // 2
        assert found["sizes1"][1] == 2 * rows


@pytest.mark.slow
def test_logits_never_exist_whole(two: dict[str, list[dict[str, Any]]]) -> None:
    shard, rows = 10000, 16
    for found in two["record"]:
        assert found["largest"] == shard * ranks.DIM < shard * rows  # the gradient of the weights is the largest tensor there is


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("label", "rank 1 has a label 5; the head has 5 classes"),
        ("negative", "rank 1 has a label -1"),
        ("shape", r"embeddings \(2, 3\)"),
        ("vector", r"embeddings \(8,\)"),
        ("type", "labels of torch.float32"),
        ("length", r"labels of shape \(2,\) for 3 embeddings"),
        ("nothing", "no rank has a row"),
    ],
)
def test_a_bad_input_of_one_rank_is_an_error_on_all(given: str, says: str, two: dict[str, list[dict[str, Any]]]) -> None:
    first, second = two["refuse"]
    assert re.search(says, str(second[given]))  # `head_ranks.refuse` keeps what a DataError says
    others = "rank 1 was given what the head can't use" if given in ("shape", "vector", "type", "length") else says
    assert re.search(others, str(first[given]))
    assert first[f"{given} then"] == second[f"{given} then"] == first["label then"]


@pytest.mark.slow
def test_averaged_gradients_of_a_backbone_are_those_of_the_loss(two: dict[str, list[dict[str, Any]]]) -> None:
    job = _train("arcface", 13, 2)
    e_BD, w_CD = ranks.drawn(13, ROWS)
    backbone = torch.eye(ranks.DIM, dtype=torch.float64, requires_grad=True)
    w_CD.requires_grad_()
    dense(e_BD @ backbone.T, w_CD, torch.tensor(job["labels"][0]), job["margin"]).backward()
    for found in two["average"]:
        assert np.abs(found["gradient"] - backbone.grad.numpy()).max() <= EXACT
    assert np.abs(np.concatenate([found["dw"] for found in two["average"]]) - w_CD.grad.numpy()).max() <= EXACT


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 3])
def test_saved_by_two_ranks_loaded_by_another_number(world: int, home: Path, two: Any, three: Any) -> None:
    found = three["resume"]
    if world == 1:
        with pytest.warns(UserWarning, match="in a single process"):
            found = [ranks.resume({"classes": 11, "folder": str(home / "checkpoint")}, None)]
    saved = np.concatenate([part["w"] for part in two["keep"]])
    assert (np.concatenate([np.asarray(part["w"]) for part in found]) == saved).all()
    assert {int(part["steps"]) for part in found} == {2}


@pytest.mark.slow
def test_the_inner_dimension_of_a_larger_mesh_shares_the_classes(four: dict[str, list[dict[str, Any]]]) -> None:
    assert [found["at"].tolist() for found in four["place"]] == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]
    assert [int(found["first"]) for found in four["place"]] == [0, 5, 0, 5]
    drawn = ShardedHead(10, ranks.DIM).weight.detach().numpy()  # the first values do not depend on the number of ranks
    assert (np.concatenate([found["w"] for found in four["place"]]) == np.concatenate([drawn, drawn])).all()
    assert all(found["same"] and found["names"].tolist() == ["pipeline", "data", "tensor"] for found in four["place"])


@settings(max_examples=40, deadline=None)
@given(
    margin=st.sampled_from(list(MARGINS.values())),
    classes=st.integers(1, 30),
    rows=st.integers(1, 9),
    chunk=st.integers(0, 31),
    seed=st.integers(0, 99),
)
def test_chunks_change_nothing(margin: tuple[Any, ...], classes: int, rows: int, chunk: int, seed: int) -> None:
    torch.manual_seed(seed)
    e_BD, w_CD = torch.randn(rows, 5, dtype=torch.float64), torch.randn(classes, 5, dtype=torch.float64)
    label_B = torch.randint(classes, (rows,))
    head = ShardedHead(classes, 5, margin=Margin(*margin), dtype=torch.float64, chunk=chunk)
    with torch.no_grad():
        head.weight.copy_(w_CD)
    e_BD.requires_grad_()
    w_CD.requires_grad_()
    loss = head(e_BD, label_B)
    ours = (loss, *torch.autograd.grad(loss, [e_BD, head.weight]))
    loss = dense(e_BD, w_CD, label_B, margin)
    for got, whole in zip(ours, (loss, *torch.autograd.grad(loss, [e_BD, w_CD])), strict=True):
        whole = whole.detach()
        assert (got.detach() - whole).abs().max() <= EXACT * max(1.0, float(whole.abs().max()))


@settings(max_examples=40, deadline=None)
@given(classes=st.integers(1, 400), cut=st.integers(0, 400), share=st.floats(0.01, 1), seed=st.integers(-5, 2**40), step=st.integers(0, 9))
def test_a_sample_keeps_the_batch_and_does_not_depend_on_the_shards(classes: int, cut: int, share: float, seed: int, step: int) -> None:
    label_B = torch.arange(0, classes, 7)
    cut = min(cut, classes)
    parts = [(0, classes), (0, cut), (cut, classes - cut)]
    whole, low, high = (sample(label_B, first=first, classes=count, share=share, seed=seed, step=step) for first, count in parts)
    assert whole.tolist() == [*low.tolist(), *(high + cut).tolist()]
    assert set(label_B.tolist()) <= set(whole.tolist()) <= set(range(classes))


def test_a_sample_has_the_share_asked_for_and_changes_with_the_step() -> None:
    drawn = [sample(torch.tensor([0]), first=0, classes=600_000, share=0.1, seed=1, step=step) for step in (0, 0, 1)]
    assert abs(len(drawn[0]) - 60_000) < 1500  # six standard deviations
    assert drawn[0].equal(drawn[1])
    both = len(set(drawn[0].tolist()) & set(drawn[2].tolist()))
    assert abs(both - 6000) < 500


def test_evaluation_is_exact_and_draws_nothing() -> None:
    e_BD, _ = ranks.drawn(50, 6)
    sampled, exact = (ShardedHead(50, ranks.DIM, dtype=torch.float64, share=share).eval() for share in (0.1, 1.0))
    with torch.no_grad():
        assert sampled(e_BD, torch.arange(6)) == exact(e_BD, torch.arange(6))
    assert sampled.steps == 0


@pytest.mark.parametrize("kind", ["plain", "arcface", "cosface"])
def test_float32_stays_finite_at_the_ends_of_the_range(kind: str) -> None:
    """Rows on their own class (no direction), opposite to it, and on another: losses from 0 to 3 · scale."""
    w_CD = torch.eye(8)
    head = ShardedHead(8, 8, margin=Margin(*MARGINS[kind]))
    with torch.no_grad():
        head.weight.copy_(w_CD)
    e_BD = torch.stack([w_CD[0], -w_CD[1], w_CD[2]]).requires_grad_()
    label_B = torch.tensor([0, 1, 3])
    loss = head(e_BD, label_B)
    loss.backward()
    assert loss.item() == pytest.approx(dense(e_BD.double(), w_CD.double(), label_B, MARGINS[kind]).item(), rel=1e-5)
    assert e_BD.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


def test_autocast_does_not_reach_the_head() -> None:
    e_BD, _ = ranks.drawn(50, 6)
    head = ShardedHead(50, ranks.DIM)
    plain = head(e_BD.float(), torch.arange(6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(e_BD.float(), torch.arange(6)) == plain
        assert head(e_BD.bfloat16(), torch.arange(6)).dtype == torch.float32


def test_a_fused_head_refuses_a_second_backward_of_one_forward() -> None:
    e_BD, _ = ranks.drawn(5, 4)
    head = ShardedHead(5, ranks.DIM, dtype=torch.float64, fused_lr=0.1)
    losses = [head(e_BD, torch.arange(4)) for _ in range(2)]
    losses[0].backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses[1].backward()


def test_first_values_differ_by_class_and_seed() -> None:
    first, second = (ShardedHead(9000, 4, seed=seed).weight for seed in (0, 1))
    assert not first.equal(second)
    assert len(first.unique(dim=0)) == 9000
    assert first.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"classes": 0}, "a head of 0 classes"),
        ({"dim": 0}, "0 dimensions"),
        ({"dtype": torch.bfloat16}, "torch.bfloat16"),
        ({"margin": Margin(scale=100)}, "a scale of 100"),
        ({"chunk": -1}, "chunks of -1"),
        ({"share": 0.0}, "a share of 0.0"),
        ({"share": 1.5}, "a share of 1.5"),
        ({"fused_lr": 0.0}, "a fused learning rate of 0.0"),
    ],
)
def test_an_argument_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ShardedHead(**{"classes": 3, "dim": 2} | options)


@pytest.mark.parametrize(
    "given",
    [("arc", 64, 0.5), ("arcface", 0, 0.5), ("arcface", 64, 1.6), ("cosface", 64, -0.1), ("plain", 64, 0.1), ("arcface", math.nan, 0.5)],
)
def test_a_margin_out_of_range(given: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError):
        Margin(*given)
