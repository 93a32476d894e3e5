"""Models, verdicts, deployments, predictions and runs in the ledger. One suite for both databases."""

from __future__ import annotations

from datetime import timedelta
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import digest_of
from components.core.errors import DataError, Refused
from components.core.ledger import Ledger, Prediction

_loader = SourceFileLoader("ledger_world", str(Path(__file__).with_name("ledger_world.py")))
world = module_from_spec(spec_from_loader("ledger_world", _loader))  # type: ignore[arg-type]
_loader.exec_module(world)
S, artifact, committed, deployed, item, new, prediction = (
    world.S,
    world.artifact,
    world.committed,
    world.deployed,
    world.item,
    world.new,
    world.prediction,
)


class ServingContract:
    """Runs on every database."""

    # models, blessings, deployments

    def test_models_and_verdicts_are_recorded_once(self, ledger: Ledger) -> None:
        model = artifact("Model", "m", ("Recipe/" + "0" * 64, "Dataset/" + "1" * 64), learner="svm")
        blessing = artifact("Blessing", "b", accepted=True, model=model.ref, baseline=None, evaluation_set="e")
        for run in ("r1", "r2"):
            ledger.record_model(S, run, model)
            ledger.record_blessing(S, run, blessing)
        (known,) = ledger.models(S)
        assert (known.ref, known.dataset, known.run_id, known.metadata) == (model.ref, "Dataset/" + "1" * 64, "r1", {"learner": "svm"})
        verdict = ledger.blessing(S, model.ref, None)
        assert verdict is not None
        assert (verdict.ref, verdict.accepted) == (blessing.ref, True)
        assert ledger.blessing(S, model.ref, "Model/x") is None

    def test_a_blessing_without_a_verdict_is_refused(self, ledger: Ledger) -> None:
        with pytest.raises(DataError, match="names no verdict"):
            ledger.record_blessing(S, "r1", artifact("Blessing", "b", accepted=True))

    def test_deploying_closes_and_reopens_cases(self, ledger: Ledger) -> None:
        a, b = (ledger.add_case(S, new(name, "5")).case_id for name in "ab")
        committed(ledger, "r1")
        assert deployed(ledger, "r1", [a], [b]) == 1
        assert (ledger.case(a).state, ledger.case(b).state) == ("closed", "merged")
        assert [event.after for event in ledger.history(a)] == ["open", "labelled", "merged", "verified", "closed"]
        ledger.acquire(S, "r2")
        assert deployed(ledger, "r2", [b], [a]) == 2
        assert (ledger.case(a).state, ledger.case(b).state) == ("reopened", "closed")
        champion = ledger.champion(S)
        assert champion is not None
        assert (champion.seq, champion.previous, champion.kind, champion.dataset) == (2, 1, "deploy", artifact("Dataset", "r1").ref)

    @pytest.mark.parametrize("blessing", ["missing", "refused", "of another model", "against another champion"])
    def test_no_deployment_without_its_blessing(self, ledger: Ledger, blessing: str) -> None:
        ledger.acquire(S, "r1")
        facts = {"accepted": blessing != "refused", "model": "Model/m", "baseline": None, "evaluation_set": "e"}
        facts |= {"of another model": {"model": "Model/x"}, "against another champion": {"baseline": "Model/x"}}.get(blessing, {})
        given = artifact("Blessing", blessing, **facts)
        if blessing != "missing":
            ledger.record_blessing(S, "r1", given)
        with pytest.raises(Refused):
            ledger.deploy(S, "r1", model="Model/m", blessing=given.ref, expected_seq=None, right=[], wrong=[])
        assert ledger.champion(S) is None

    def test_a_deployment_repeated_changes_nothing(self, ledger: Ledger) -> None:
        ledger.acquire(S, "r1")
        given = artifact("Blessing", "b", accepted=True, model="Model/m", baseline=None, evaluation_set="e")
        ledger.record_blessing(S, "r1", given)
        first, again = (
            ledger.deploy(S, "r1", model="Model/m", blessing=given.ref, expected_seq=None, right=[], wrong=[]) for _ in range(2)
        )
        assert ledger.deployments(S) == [first] == [again]

    def test_a_stale_pointer_is_refused(self, ledger: Ledger) -> None:
        for run in ("r1", "r2", "r3"):
            ledger.acquire(S, run)
            if run != "r3":
                deployed(ledger, run, [])
        ledger.rollback(S)  # r1's model serves again: what r3 compared with is not what serves now
        given = artifact("Blessing", "b", accepted=True, model="Model/m", baseline=artifact("Model", "r1").ref, evaluation_set="e")
        ledger.record_blessing(S, "r3", given)
        with pytest.raises(Refused, match=r"deployment 3 .* serves now, the run compared with 1"):
            ledger.deploy(S, "r3", model="Model/m", blessing=given.ref, expected_seq=1, right=[], wrong=[])

    def test_rolling_back_goes_further_back_each_time(self, ledger: Ledger) -> None:
        case_id = ledger.add_case(S, new("a", "5")).case_id
        committed(ledger, "r1")
        deployed(ledger, "r1", [])
        for run in ("r2", "r3"):
            ledger.acquire(S, run)
            deployed(ledger, run, [case_id] if run == "r3" else [])
        assert ledger.rollback(S).model == artifact("Model", "r2").ref
        assert ledger.case(case_id).state == "reopened"  # what serves now does not read it
        back = ledger.rollback(S)
        assert (back.seq, back.previous, back.kind, back.run_id, back.model) == (5, 4, "rollback", None, artifact("Model", "r1").ref)
        with pytest.raises(Refused, match="no earlier model"):
            ledger.rollback(S)
        assert ledger.rollback(S, to_seq=3).model == artifact("Model", "r3").ref
        with pytest.raises(Refused, match="serves already"):
            ledger.rollback(S, to_seq=3)
        with pytest.raises(DataError, match="no deployment 99"):
            ledger.rollback(S, to_seq=99)

    def test_nothing_to_roll_back(self, ledger: Ledger) -> None:
        with pytest.raises(Refused, match="nothing serves"):
            ledger.rollback(S)

    # predictions and runs

    def test_lineage_names_everything_behind_a_prediction(self, ledger: Ledger, clock: Any) -> None:
        case_id = ledger.add_case(S, new("a", "5")).case_id
        ledger.start_run(S, "r1", "local", "cli")
        committed(ledger, "r1")
        deployed(ledger, "r1", [case_id])
        prediction(ledger, "p1", artifact("Model", "r1").ref, clock())
        reported = ledger.add_case(S, new("b", "6", prediction_id="p1")).case_id
        found = ledger.lineage("p1")
        assert found["model"]["ref"] == artifact("Model", "r1").ref
        assert (found["deployment"]["seq"], found["dataset"]["seq"], found["run"]["run_id"]) == (1, 1, "r1")
        assert found["dataset"]["chain"] == [{"seq": 1, "ref": artifact("Dataset", "r1").ref, "cases": 1}]
        assert found["cases"] == [{"id": case_id, "state": "closed"}]
        assert found["reported"] == [{"id": reported, "state": "labelled"}]
        digest_of(found)  # plain JSON data

    def test_predictions_are_kept_once_and_pruned(self, ledger: Ledger, clock: Any) -> None:
        for number in [*range(10), 3]:
            prediction(ledger, f"p{number}", "Model/m", clock())
        ledger.add_case(S, new("a", "5", prediction_id="p0"))
        assert ledger.prediction("p3").answer == {"label": "5"}
        assert ledger.prune_predictions(S, 4) == 5
        assert ledger.prediction("p0").payload == b"a"  # a case is about it
        with pytest.raises(DataError, match="no prediction 'p5'"):
            ledger.prediction("p5")
        with pytest.raises(DataError, match="no prediction 'p5'"):
            ledger.lineage("p5")

    def test_an_answer_that_is_no_json_is_refused(self, ledger: Ledger, clock: Any) -> None:
        about = item("a")
        given = Prediction("p", S, "m", about.content, about.group, about.media_type, about.payload, {"score": float("nan")}, 0.1, clock())
        with pytest.raises(DataError, match="JSON"):
            ledger.log_predictions([given])

    def test_runs_are_written_down(self, ledger: Ledger, clock: Any) -> None:
        ledger.start_run(S, "r1", "local", "cli")
        clock.move(5)
        ledger.start_run(S, "r1", "local", "cli")  # after a kill
        ledger.finish_run("r1", "success", {"steps": 7})
        (run,) = ledger.runs(S)
        assert (run.state, run.engine, run.detail) == ("success", "local", {"steps": 7})
        assert run.finished_at == run.started_at + timedelta(seconds=5)
        with pytest.raises(DataError, match="belongs to scenario 'ocr'"):
            ledger.start_run("credit", "r1", "local", "cli")
        with pytest.raises(DataError, match="no run 'r2'"):
            ledger.finish_run("r2", "failed")


class TestSqlite(world.OnSqlite, ServingContract):
    pass


class TestPostgres(world.OnPostgres, ServingContract):
    pass
