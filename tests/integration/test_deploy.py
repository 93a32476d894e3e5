"""deploy against the real ledger, a real evaluate, a real Bento and the real server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import Artifact, describe
from components.core.errors import IntegrityError, NothingToDo, Refused, TryAgain
from components.core.items import item_from_bytes
from components.core.ledger import Ledger, NewCase
from components.core.settings import Settings
from components.core.store import ArtifactStore, LocalStore
from components.deploy import server
from components.deploy.pack import bento_environment, pack
from components.deploy.server import running

_loader = SourceFileLoader("makers", str(Path(__file__).parents[1] / "makers.py"))
makers = module_from_spec(spec_from_loader("makers", _loader))  # type: ignore[arg-type]
_loader.exec_module(makers)

NAME = "meters"
TASK = makers.DIGITS.model_dump(mode="json")
EVALUATE = {"scenario": NAME, "task": TASK, "gate": {"max_loss": 0.05, "min_cases_fixed": 0.5}, "bootstrap": 200}
DEPLOY = {"scenario": NAME, "task": TASK, "replay": 4}
Inputs = dict[str, Artifact]


@dataclass
class World:
    """An installation with one scenario, and the means to turn its loop by hand."""

    settings: Settings
    store: ArtifactStore
    ledger: Ledger
    run_step: Callable[..., Inputs]

    def base(self) -> list[dict[str, Any]]:
        texts = ["0124567"[i // 7 % 7] + "0124567"[i % 7] + "65"[i % 2] for i in range(60)]  # no 3, 8 or 9
        return [makers.text_row(text, ("train", "test")[i % 2]) for i, text in enumerate(texts)]

    def loop(self, run_id: str, mistakes: dict[str, str], texts: tuple[str, ...] = ()) -> Inputs:
        """Claim, commit a dataset version with the cases of `texts`, 'train' a reader, evaluate; returns deploy's inputs."""
        for text in texts:
            item = item_from_bytes(makers.line(text, 7), "image/png")
            self.ledger.add_case(NAME, NewCase(item, "feedback", label=text, reviewed=True))
        self.ledger.acquire(NAME, run_id)
        claimed = [case.id for case in self.ledger.claim(NAME, run_id)]
        rows = self.base()
        for i, case in enumerate([*self.ledger.merged_cases(NAME), *map(self.ledger.case, claimed)]):
            if case.id not in {row["_case"] for row in rows}:
                split = ("holdout", "train")[i % 2]
                rows.append({**makers.text_row(str(case.labels[-1].value), split, case=True, shade=7), "_case": case.id})
        states = {case.id: case.state for case in self.ledger.merged_cases(NAME)}
        serving = self.ledger.champion(NAME)
        champion = {"seq": serving.seq, "model": serving.model, "dataset": serving.dataset} if serving else None
        snapshot = makers.snapshot(self.store, NAME, champion=champion, claimed=claimed, states=states)
        dataset = makers.dataset(self.store, rows, run=run_id)
        self.ledger.commit_dataset(NAME, run_id, dataset, merged=claimed, held={}, quarantined={})
        model = makers.publish(self.store, "Model", lambda folder: makers.reader(folder, mistakes), parents=(dataset.ref,))
        self.ledger.record_model(NAME, run_id, model)
        judged = self.run_step("evaluate", EVALUATE, {"dataset": dataset, "model": model, "snapshot": snapshot}, run_id=run_id)
        return {"model": model, "blessing": judged["blessing"], "dataset": dataset, "snapshot": snapshot}

    def deploy(self, inputs: Inputs, run_id: str, **params: Any) -> Artifact:
        return self.run_step("deploy", DEPLOY | params, inputs, run_id=run_id)["deployment"]

    def states(self) -> list[str]:
        return sorted(case.state for case in self.ledger.cases(NAME))


@pytest.fixture
def world(settings: Settings, store: ArtifactStore, ledger: Ledger, run_step: Callable[..., Inputs]) -> World:
    """An installation where nothing serves yet."""
    return World(settings, store, ledger, run_step)


@pytest.fixture
def served(world: World) -> World:
    """An installation whose champion, which takes 7 for 1, went the ledger's way only: no server is started for it."""
    inputs = world.loop("r1", {"7": "1"})
    world.ledger.deploy(NAME, "r1", model=inputs["model"].ref, blessing=inputs["blessing"].ref, expected_seq=None, right=[], wrong=[])
    world.ledger.release(NAME, "r1")
    return world


def forged(world: World, inputs: Inputs, **changes: Any) -> Artifact:
    """Put a blessing whose digest is in order, with other contents."""
    said = json.loads((world.store.fetch(inputs["blessing"].ref) / "blessing.json").read_text()) | changes
    facts = {name: said[name] for name in ("accepted", "model", "baseline", "evaluation_set")}
    parents = tuple(inputs[port].ref for port in ("dataset", "model", "snapshot"))
    return makers.publish(
        world.store, "Blessing", lambda folder: (folder / "blessing.json").write_text(json.dumps(said)), parents=parents, **facts
    )


def test_a_good_challenger_is_tried_deployed_and_its_cases_closed(served: World) -> None:
    inputs = served.loop("r2", {"3": "8"}, ("1723", "7444", "1237", "5670"))
    deployment = served.deploy(inputs, "r2")

    champion = served.ledger.champion(NAME)
    assert champion is not None
    assert (champion.seq, champion.model, champion.blessing) == (2, inputs["model"].ref, inputs["blessing"].ref)
    folder = served.store.fetch(deployment.ref)
    said = json.loads((folder / "deployment.json").read_text())
    assert said == {"scenario": NAME, "seq": 2, "model": champion.model, "previous": 1, "blessing": champion.blessing}
    assert served.states() == ["closed", "closed", "merged", "merged"], "texts with a 3 are still misread"

    packed = json.loads((folder / "bento.json").read_text())
    name, _, number = packed["tag"].partition(":")
    source = served.settings.home / "bentoml" / "bentos" / name / number / "src"
    assert LocalStore(source / "store").fetch(inputs["model"].ref), "the Bento carries the model"
    assert number.startswith(inputs["model"].sha256[:16])

    again = served.deploy(inputs, "r2")
    assert again.ref == deployment.ref
    assert len(served.ledger.deployments(NAME)) == 2


def test_a_closed_case_that_the_next_model_misreads_is_reopened(served: World) -> None:
    served.deploy(served.loop("r2", {}, ("1722", "7444")), "r2")
    served.ledger.release(NAME, "r2")
    assert served.states() == ["closed", "closed"]

    generous = EVALUATE | {"gate": {"max_loss": 0.9, "max_closed_lost": 1.0, "max_slice_loss": 0.9}}
    inputs = served.loop("r3", {"2": "5"}, ("9123",))
    assert json.loads((served.store.fetch(inputs["blessing"].ref) / "blessing.json").read_text())["accepted"] is False
    with pytest.raises(Refused, match="refused by"):
        served.deploy(inputs, "r3")
    asked = {port: inputs[port] for port in ("dataset", "model", "snapshot")}
    inputs["blessing"] = served.run_step("evaluate", generous, asked, run_id="r3")["blessing"]
    served.deploy(inputs, "r3")
    assert served.states() == ["closed", "merged", "reopened"]


def test_after_a_kill_between_swap_and_record_the_rerun_ends_with_the_same_digest(served: World) -> None:
    inputs = served.loop("r2", {})
    first = served.deploy(inputs, "r2")
    for record in (served.settings.home / "store" / "steps").rglob("*.json"):
        record.unlink()  # as if the step had died before its record was written
    assert served.deploy(inputs, "r2").ref == first.ref
    assert len(served.ledger.deployments(NAME)) == 2


class TestRefused:
    """Nothing of this starts a server, and nothing moves the pointer."""

    @pytest.fixture(autouse=True)
    def _nothing_moves(self, served: World) -> Any:
        before = served.ledger.deployments(NAME)
        yield
        assert served.ledger.deployments(NAME) == before
        assert not (served.settings.home / "bentoml").exists()

    def test_a_refused_blessing(self, served: World) -> None:
        inputs = served.loop("r2", {"7": "1", "1": "7"})
        with pytest.raises(Refused, match=r"does not accept .*refused by loss"):
            served.deploy(inputs, "r2")

    def test_another_models_blessing(self, served: World) -> None:
        inputs = served.loop("r2", {})
        other = makers.publish(served.store, "Model", lambda folder: makers.reader(folder, {"9": "4"}))
        with pytest.raises(Refused, match=r"is about Model/.*, not about"):
            served.deploy({**inputs, "model": other}, "r2")

    def test_another_dataset(self, served: World) -> None:
        inputs = served.loop("r2", {})
        other = makers.dataset(served.store, served.base()[:30])
        with pytest.raises(Refused, match="measured on other rows"):
            served.deploy({**inputs, "dataset": other}, "r2")

    def test_another_snapshot(self, served: World) -> None:
        inputs = served.loop("r2", {})
        other = makers.snapshot(served.store, NAME, champion=None)
        with pytest.raises(Refused, match="was not made from Snapshot/"):
            served.deploy({**inputs, "snapshot": other}, "r2")

    def test_a_blessing_that_evaluate_did_not_write(self, served: World) -> None:
        inputs = served.loop("r2", {"7": "1", "1": "7"})
        rules = [{"name": "loss", "passed": True}]
        with pytest.raises(Refused, match="the ledger knows no accepted blessing"):
            served.deploy({**inputs, "blessing": forged(served, inputs, accepted=True, rules=rules)}, "r2")

    def test_a_blessing_that_says_accepted_over_a_failed_rule(self, served: World) -> None:
        inputs = served.loop("r2", {"7": "1", "1": "7"})
        with pytest.raises(Refused, match="refused by loss"):
            served.deploy({**inputs, "blessing": forged(served, inputs, accepted=True)}, "r2")

    def test_a_blessing_file_altered_in_the_store(self, served: World) -> None:
        inputs = served.loop("r2", {"7": "1", "1": "7"})
        path = served.store.fetch(inputs["blessing"].ref) / "blessing.json"
        path.chmod(0o644)
        path.write_text(path.read_text().replace('"accepted":false', '"accepted":true'))
        with pytest.raises(IntegrityError, match="altered"):
            served.deploy(inputs, "r2")

    def test_no_verdict_in_the_file(self, served: World) -> None:
        inputs = served.loop("r2", {})
        empty = makers.publish(served.store, "Blessing", lambda folder: (folder / "blessing.json").write_text("{}"))
        with pytest.raises(IntegrityError, match=r"blessing\.json can't be read"):
            served.deploy({**inputs, "blessing": empty}, "r2")

    def test_a_manifest_that_says_other_than_the_file(self, served: World) -> None:
        inputs = served.loop("r2", {})
        good, folder = inputs["blessing"], served.store.fetch(inputs["blessing"].ref)
        twisted = describe(folder, "Blessing", {**good.metadata, "baseline": None}, good.parents)
        served.store.put(folder, twisted)
        with pytest.raises(Refused, match="one thing in its file and another in its manifest"):
            served.deploy({**inputs, "blessing": twisted}, "r2")

    def test_another_live_run_holds_the_scenario(self, served: World) -> None:
        inputs = served.loop("r2", {})
        with pytest.raises(NothingToDo):
            served.deploy(inputs, "r3")


def test_a_late_run_cannot_overwrite_a_newer_model(served: World) -> None:
    late = served.loop("late", {})
    served.ledger.release(NAME, "late")
    newer = served.loop("newer", {"9": "4"})
    served.ledger.deploy(NAME, "newer", model=newer["model"].ref, blessing=newer["blessing"].ref, expected_seq=1, right=[], wrong=[])
    served.ledger.release(NAME, "newer")
    with pytest.raises(Refused, match=r"compared with deployment 1 .* but deployment 2 .* serves now"):
        served.deploy(late, "late")
    served.ledger.rollback(NAME)  # the same model serves again, but as deployment 3: still not what was compared with
    with pytest.raises(Refused, match="but deployment 3"):
        served.deploy(late, "late")
    assert [d.seq for d in served.ledger.deployments(NAME)] == [1, 2, 3]


def test_a_server_that_is_not_ready_in_time_means_try_again(served: World) -> None:
    inputs = served.loop("r2", {})
    with pytest.raises(TryAgain, match=r"not ready after 0\.2 s"):
        served.deploy(inputs, "r2", start_timeout_s=0.2)
    champion = served.ledger.champion(NAME)
    assert champion is not None
    assert champion.seq == 1


def test_a_server_that_ends_or_cannot_load_the_model_is_told_apart(world: World, tmp_path: Path) -> None:
    model = makers.publish(world.store, "Model", lambda folder: makers.reader(folder))
    home = world.settings.home
    bento = pack(model, world.store.fetch(model.ref), NAME, TASK, home=home)
    missing = f"Model/{'0' * 64}"
    env = {**os.environ, **bento_environment(home), "ATLAS_HOME": str(tmp_path), "ATLAS_STORE": str(bento.source / "store")}
    env["ATLAS_SCENARIO_JSON"] = f"@{bento.source / 'scenario.json'}"
    for tag, pinned, error, why in (
        (bento.tag, missing, Refused, f"can't load {missing}"),
        ("atlas-none:1", model.ref, TryAgain, r"ended with 1; its last lines:\n.*atlas-none"),
    ):
        trial = running(tag, model=pinned, env=env | {"ATLAS_SERVE_MODEL": pinned}, cwd=tmp_path, log=tmp_path / "log", timeout_s=60)
        with pytest.raises(error, match=f"(?s){why}"), trial:
            pass
    assert not _servers(str(home).encode())


def test_a_port_that_another_process_took_meanwhile_is_left_to_it(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = makers.publish(world.store, "Model", lambda folder: makers.reader(folder))
    home = world.settings.home
    bento = pack(model, world.store.fetch(model.ref), NAME, TASK, home=home)
    env = {**os.environ, **bento_environment(home), "ATLAS_HOME": str(tmp_path), "ATLAS_STORE": str(bento.source / "store")}
    env |= {"ATLAS_SCENARIO_JSON": f"@{bento.source / 'scenario.json'}", "ATLAS_SERVE_MODEL": model.ref}
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_server(("127.0.0.1", 0)) as probe:
        taken, free = other.getsockname()[1], probe.getsockname()[1]
        probe.close()
        ports = iter([taken, free])
        monkeypatch.setattr(server, "_free_port", lambda: next(ports))
        with running(bento.tag, model=model.ref, env=env, cwd=tmp_path, log=tmp_path / "log", timeout_s=60) as trial:
            assert trial.url.endswith(f":{free}")
    assert not _servers(str(home).encode())


@pytest.mark.slow
def test_a_killed_deploy_takes_its_server_along(served: World) -> None:
    inputs = served.loop("r2", {})
    line = [sys.executable, "-m", "components", "deploy", "--run-id", "r2", "--params", json.dumps(DEPLOY | {"replay": 1})]
    for port, artifact in inputs.items():
        line += ["--in", f"{port}={artifact.ref}"]
    env = {**os.environ, **served.settings.env(), "PYTHONPATH": os.pathsep.join(sys.path)}
    step = subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    marker = str(served.settings.home).encode()
    deadline = time.monotonic() + 60
    while not (servers := _servers(marker)) and step.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    step.send_signal(signal.SIGKILL)
    step.wait()
    assert servers, "the server was never seen"
    while _servers(marker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _servers(marker)
    served.deploy(inputs, "r2")
    champion = served.ledger.champion(NAME)
    assert champion is not None
    assert champion.seq == 2


def _servers(marker: bytes) -> list[int]:
    """Return the pids of BentoML servers whose environment names this test's home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"serve" in (folder / "cmdline").read_bytes().split(b"\0") and marker in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found
