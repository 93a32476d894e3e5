"""Parallel training without other processes: the section, how rows and layers are cut, checkpoints, manifests."""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from components.core.contract import Resources
from components.core.errors import ConfigError, DataError, IntegrityError
from components.train.parallel import checkpoint
from components.train.parallel.job import CURVE, WATCH, WEIGHTS, Job, train
from components.train.parallel.loading import flown
from components.train.parallel.manifest import manifest, to_yaml
from components.train.parallel.recomputing import with_recomputation
from components.train.parallel.section import STAGES_A_RANK, Parallel
from components.train.parallel.stages import cut, places_of, split
from components.train.parallel.strategies import make
from components.train.parallel.strategies.base import parts_of
from components.train.parallel.works import training
from components.train.spec import SPEC
from pipelines.cli import app

_loader = SourceFileLoader("parallel_curves", str(Path(__file__).parents[1] / "parallel_curves.py"))
curves = module_from_spec(spec_from_loader("parallel_curves", _loader))  # type: ignore[arg-type]
_loader.exec_module(curves)

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parents[1] / "golden"


def alone(folder: Path, steps: int, every: int = 0, **options: Any) -> list[float]:
    job = Job(work="probe", options=options, parallel=Parallel(checkpoint_every=every), steps=steps)
    return train(job, training("probe", options), folder, CPU, lambda event: None)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"data": 0}, "greater than or equal to 1"),
        ({"strategy": "horovod"}, "Input should be 'single'"),
        ({"workers": 2}, "Extra inputs are not permitted"),
        ({"data": 2}, "strategy 'single' is one process"),
        ({"strategy": "ddp", "tensor": 2}, "tensor 2 goes with strategy 'fsdp2'"),
        ({"strategy": "zero3", "pipeline": 2}, "pipeline 2 goes with strategy 'pipeline'"),
        ({"strategy": "pipeline"}, "at least 2 processes"),
        ({"strategy": "pipeline", "pipeline": 4, "micro_batches": 3}, "3 micro-batches leave processes of a pipeline of 4 idle"),
        ({"strategy": "pipeline", "pipeline": 2, "micro_batches": 5, "schedule": "interleaved"}, "5 is no multiple of 2, 4 is"),
        ({"strategy": "ddp", "data": 2, "schedule": "zbv"}, "schedule goes with strategy 'pipeline'"),
        ({"strategy": "fsdp2", "data": 2, "bucket_mb": 1}, "bucket_mb goes with strategy 'ddp'"),
        ({"strategy": "sharded_head", "data": 2}, "set tensor to 2, and data to 1"),
        ({"strategy": "ddp", "data": 2, "partitioner": "hash"}, "partitioner goes with strategy 'graph'"),
        ({"recompute": {"mode": "auto"}}, "'auto' needs it"),
        ({"recompute": {"mode": "full", "budget_mb": 1}}, "goes with mode 'auto'"),
        ({"micro_batches": 0}, "micro_batches 0 lets a memory budget decide"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(section: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Parallel.model_validate(section)


def test_the_world_is_the_product_of_the_degrees() -> None:
    assert Parallel(strategy="fsdp2", data=4, tensor=2).world == 8
    assert Parallel(strategy="pipeline", data=3, pipeline=2, micro_batches=2).world == 6
    assert Parallel().world == 1


@given(rows=st.integers(1, 60), places=st.integers(1, 8), parts=st.integers(1, 7))
def test_every_row_of_a_batch_is_taken_once_and_weighs_the_same(rows: int, places: int, parts: int) -> None:
    batch = torch.arange(rows), torch.arange(rows) * 2
    if rows < places:
        with pytest.raises(DataError, match="can't be divided among"):
            list(parts_of(batch, 0, places, parts, CPU))
        return
    taken = [part for place in range(places) for part in parts_of(batch, place, places, parts, CPU)]
    assert torch.cat([x for x, _, _ in taken]).tolist() == list(range(rows))
    assert all((y == 2 * x).all() and share == len(x) / rows for x, y, share in taken)


def test_inputs_and_targets_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="3 inputs and 2 targets"):
        list(parts_of((torch.zeros(3), torch.zeros(2)), 0, 1, 1, CPU))


@given(weights=st.lists(st.integers(0, 50), min_size=1, max_size=9), parts=st.integers(1, 5))
@settings(max_examples=60)
def test_layers_are_cut_so_that_the_heaviest_stage_is_as_light_as_can_be(weights: list[int], parts: int) -> None:
    parts = min(parts, len(weights))
    found = [weights[part] for part in cut(weights, parts)]
    assert list(itertools.chain.from_iterable(found)) == weights
    assert all(found)
    inner = itertools.combinations(range(1, len(weights)), parts - 1)
    best = min(max(sum(weights[a:b]) for a, b in itertools.pairwise([0, *ends, len(weights)])) for ends in inner)
    assert max(map(sum, found)) == best


def test_stages_keep_the_names_of_the_model() -> None:
    model = training("probe", {}).work.model()
    stages = split(model, 3)
    assert [name for stage in stages for name in stage.state_dict()] == list(model.state_dict())


def test_an_embedding_counts_as_little_work() -> None:
    model = nn.Sequential(OrderedDict(words=nn.Embedding(1000, 4), one=nn.Linear(4, 4), two=nn.Linear(4, 4), three=nn.Linear(4, 4)))
    assert [len(stage) for stage in split(model, 2)] == [2, 2]


def test_what_is_no_chain_or_too_short_is_not_cut() -> None:
    with pytest.raises(ConfigError, match="needs a chain of layers, the model is a Linear"):
        split(nn.Linear(2, 2), 2)
    with pytest.raises(ConfigError, match="1 layers can't be cut into 2 stages"):
        split(nn.Sequential(nn.Linear(2, 2)), 2)


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_ranks_of_a_schedule_hold_every_stage_once(ranks: int) -> None:
    for schedule, each in STAGES_A_RANK.items():
        held = [number for rank in range(ranks) for number in places_of(schedule, rank, ranks)]
        assert sorted(held) == list(range(each * ranks))


def test_one_process_repeats_the_golden_curve(tmp_path: Path) -> None:
    losses = alone(tmp_path, curves.STEPS)
    assert curves.deviation(losses, json.loads(curves.GOLDEN.read_text())["losses"]) <= 1e-9, "see rewrite in the golden file"
    assert json.loads((tmp_path / CURVE).read_text()) == {"losses": losses, "resumed_at": 0}
    assert losses[-1] < losses[0]


def test_the_curve_shows_a_gradient_that_is_wrong_by_a_thousandth() -> None:
    what, wrong = training("probe", {}), 1.001
    strategy = make(Parallel(), replace(what.work, loss=lambda x, y: wrong * what.work.loss(x, y)), CPU)
    losses = [strategy.step(what.batch(step), what.rate(step)) / wrong for step in range(curves.STEPS)]
    assert curves.deviation(losses, json.loads(curves.GOLDEN.read_text())["losses"]) > 10 * curves.SINGLE_PRECISION


def test_accumulating_micro_batches_changes_nothing() -> None:
    what = training("probe", {"rows": 30})
    whole, parts = (make(Parallel(micro_batches=count), what.work, CPU) for count in (1, 4))
    for step in range(5):
        assert parts.step(what.batch(step)) == pytest.approx(whole.step(what.batch(step)), rel=1e-12)
    assert all(torch.allclose(value, parts.full_state()[name], rtol=1e-9) for name, value in whole.full_state().items())


def test_the_rate_is_a_share_of_the_optimisers_own() -> None:
    what = training("probe", {"clip": None})
    still = make(Parallel(), what.work, CPU)
    before = {name: value.clone() for name, value in still.full_state().items()}
    still.step(what.batch(0), rate=0.0)
    assert all(torch.equal(value, before[name]) for name, value in still.full_state().items())


@pytest.mark.parametrize(
    "section",
    [
        {"recompute": {"mode": "full"}},
        {"recompute": {"mode": "selective", "every": 2}},
        {"recompute": {"mode": "auto", "budget_mb": 2.2}},
        {"prefetch": "on"},
        {"prefetch": "auto"},
    ],
    ids=str,
)
def test_memory_and_loading_change_nothing_but_memory_and_time(section: dict[str, Any], tmp_path: Path) -> None:
    plain = alone(tmp_path / "plain", 12)
    options = {"rows": 256, "width": 64} if "auto" in str(section) and "recompute" in section else {}
    if options:
        plain = alone(tmp_path / "large", 12, **options)
    job = Job(work="probe", options=options, parallel=Parallel.model_validate({"checkpoint_every": 0, **section}), steps=12)
    assert train(job, training("probe", options), tmp_path / "with", CPU, lambda event: None) == plain
    assert "<!doctype html>" in (tmp_path / "with" / WATCH / "watch.html").read_text()


def test_a_budget_decides_on_the_micro_batch(tmp_path: Path) -> None:
    section = Parallel.model_validate({"micro_batches": 0, "checkpoint_every": 0, "recompute": {"mode": "auto", "budget_mb": 0.7}})
    what = training("probe", {"rows": 256, "width": 64})
    _, planned = with_recomputation(what, section)
    assert planned.micro_batches == 3, "every block recomputed, 85 rows fit and 128 do not"
    _, roomy = with_recomputation(what, section.model_copy(update={"recompute": section.recompute.model_copy(update={"budget_mb": 64})}))
    assert roomy.micro_batches == 1
    plain = alone(tmp_path / "plain", 4, rows=256, width=64)
    job = Job(work="probe", options={"rows": 256, "width": 64}, parallel=section, steps=4)
    assert curves.deviation(train(job, what, tmp_path / "fitted", CPU, lambda event: None), plain) <= curves.EXACT


def test_a_job_that_measures_itself_first_forecasts_its_memory() -> None:
    what = training("probe", {"rows": 64})
    before = flown(what, Parallel(prefetch="auto"), range(100), CPU)
    assert before is not None
    memory = before.facts.memory
    assert memory is not None
    assert memory.how == "fake tensors"
    weights = sum(weight.nbytes for weight in what.work.model().parameters())
    assert memory.parts["Parameter"] == weights
    assert memory.parts["Optstate"] >= 2 * weights
    assert memory.peak_bytes > memory.parts["Process"] > 0
    assert before.facts.doubled is not None, "whether a larger batch would be cheaper is looked at, too"


def test_a_budget_that_nothing_fits_is_refused_with_the_least_that_does(tmp_path: Path) -> None:
    job = Job(work="probe", parallel=Parallel.model_validate({"recompute": {"mode": "auto", "budget_mb": 0.001}}), steps=2)
    with pytest.raises(ConfigError, match="the least possible is"):
        train(job, training("probe", {}), tmp_path, CPU, lambda event: None)


def test_a_strategy_for_graphs_is_for_learner_sage_only() -> None:
    with pytest.raises(ConfigError, match="for learner 'sage' only"):
        make(Parallel(strategy="graph", data=2), training("probe", {}).work, CPU)


def test_an_interrupted_job_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    alone(tmp_path / "two", 6, every=2)
    assert alone(tmp_path / "two", 10) == alone(tmp_path / "one", 10)
    assert json.loads((tmp_path / "two" / CURVE).read_text())["resumed_at"] == 6
    assert (tmp_path / "two" / WEIGHTS).read_bytes() == (tmp_path / "one" / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_only_complete_checkpoints_count_and_two_are_kept(tmp_path: Path) -> None:
    alone(tmp_path, 8, every=2)
    kept = tmp_path / "checkpoints"
    assert sorted(path.name for path in kept.iterdir()) == ["step-00000006", "step-00000008"]
    (kept / "step-00000008" / checkpoint.DONE).unlink()
    found = checkpoint.newest(kept)
    assert found is not None
    assert found[0].name == "step-00000006"
    alone(tmp_path, 8, every=2)  # the incomplete one is written again
    assert checkpoint.newest(kept)[1]["step"] == 8  # type: ignore[index]


def test_nothing_in_a_checkpoint_is_code(tmp_path: Path) -> None:
    alone(tmp_path, 1)
    found = checkpoint.newest(tmp_path / "checkpoints")
    assert found is not None
    assert {path.suffix for path in found[0].iterdir()} == {".json", ".distcp"}


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    alone(tmp_path, 1)
    with pytest.raises(IntegrityError, match=r"has \(24, 16\) for model.inlet.weight, which is \(30, 16\)"):
        alone(tmp_path, 2, width=30)
    with pytest.raises(IntegrityError, match=r"has nothing for model.block6"):
        alone(tmp_path, 2, blocks=7)


@pytest.mark.parametrize(
    "damage", ["{", '{"model.inlet.weight": {}}', '{"a": {"dtype": "float64", "size": [1], "chunks": [[[0], [1], "../x", 0, 1]]}}']
)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    alone(tmp_path, 1)
    found = checkpoint.newest(tmp_path / "checkpoints")
    assert found is not None
    (found[0] / "index.json").write_text(damage)
    with pytest.raises(IntegrityError, match=r"index\.json can't be read"):
        alone(tmp_path, 2)


def test_shards_that_are_cut_short_are_named(tmp_path: Path) -> None:
    alone(tmp_path, 1)
    found = checkpoint.newest(tmp_path / "checkpoints")
    assert found is not None
    shard = next(found[0].glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(IntegrityError, match="can't be read"):
        alone(tmp_path, 2)


def test_works_are_looked_up_by_name_never_imported_from_a_path() -> None:
    with pytest.raises(ConfigError, match="did you mean 'probe'"):
        training("prob", {})
    with pytest.raises(ConfigError, match=r"there is no work 'os\.system'"):
        training("os.system", {})
    with pytest.raises(ConfigError, match="options of 'probe' are wrong"):
        training("probe", {"rows": 0})


def test_several_processes_must_have_been_started() -> None:
    with pytest.raises(ConfigError, match="process group"):
        make(Parallel(strategy="ddp", data=2), training("probe", {}).work, CPU)


@pytest.mark.parametrize("kind", ["TrainJob", "PyTorchJob"])
def test_manifests_are_golden(kind: Any) -> None:
    need = Resources(cpu=16, memory_mb=65536, gpu=4, image="learn")
    made = to_yaml(manifest(kind, "face", 8, need, image="localhost/atlas-learn:latest", folder="/atlas/jobs/face"))
    assert made == (GOLDEN / f"parallel.{kind.lower()}.yaml").read_text(), "read the diff, then write the file anew from `to_yaml`"
    assert "&" not in made


def test_a_training_runtime_is_what_the_trainjob_refers_to() -> None:
    runtime = yaml.safe_load((Path(__file__).parents[2] / "infra/k8s/training/runtime.yaml").read_text())
    job = manifest("TrainJob", "x", 2, Resources(), image="i", folder="/atlas/x")
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert job["spec"]["trainer"]["numNodes"] == 2  # without devices, one rank a node


def test_ranks_that_do_not_fill_nodes_are_refused() -> None:
    with pytest.raises(ConfigError, match="6 ranks do not fill nodes of 4 devices"):
        manifest("TrainJob", "x", 6, Resources(gpu=4), image="i", folder="/atlas/x")
    with pytest.raises(ConfigError, match="no manifest of kind 'MPIJob'"):
        manifest("MPIJob", "x", 2, Resources(), image="i", folder="/atlas/x")


def test_a_scenarios_job_gets_the_train_steps_resources(capsys: pytest.CaptureFixture[str]) -> None:
    app(["manifest", "face", "--folder", "/atlas/jobs/face"], standalone_mode=False)
    trainer = yaml.safe_load(capsys.readouterr().out)["spec"]["trainer"]
    need = SPEC.resources
    assert trainer["resourcesPerNode"]["limits"] == {"cpu": str(need.cpu), "memory": f"{need.memory_mb}Mi"}
    assert (trainer["numNodes"], trainer["command"][-1]) == (2, "/atlas/jobs/face")
    with pytest.raises(ConfigError, match="asks for no job of several processes"):
        app(["manifest", "credit", "--folder", "/atlas/jobs/credit"], standalone_mode=False)
