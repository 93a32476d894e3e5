"""Studies in the ledger: kept once, read newest first, and frozen into the snapshot that a search starts from."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from components.core.artifacts import Artifact, describe
from components.core.effects import COSTS_FILE, STUDY_FILE, apply_effects
from components.core.errors import DataError, IntegrityError
from components.core.ledger import Ledger
from components.core.settings import Settings
from components.core.step import execute
from components.core.store import ArtifactStore, LocalStore

_loader = SourceFileLoader("ledger_world", str(Path(__file__).with_name("ledger_world.py")))
world = module_from_spec(spec_from_loader("ledger_world", _loader))  # type: ignore[arg-type]
_loader.exec_module(world)

TASK = {"kind": "tabular", "problem": "binary", "classes": ["good", "bad"], "features": {"amount": "number"}}


def record(ledger: Ledger, name: str, *, scenario: str = "credit", run: str = "r1", problem: str = "binary", **facts: Any) -> str:
    ref = f"Report/{name:0>64}"
    given: dict[str, Any] = {"dataset": None, "metric": "auc", "rows": 100, "meta": {"rows": 4.6}, "trials": [{"score": 0.7}]} | facts
    ledger.record_study(scenario, run, ref, problem=problem, **given)
    return ref


def report(store: ArtifactStore, folder: Path, study: Any, costs: Any = None, dataset: str | None = None) -> Artifact:
    folder.mkdir(parents=True)
    (folder / STUDY_FILE).write_text(json.dumps(study))
    if costs is not None:
        (folder / COSTS_FILE).parent.mkdir()
        (folder / COSTS_FILE).write_text(json.dumps(costs))
    artifact = describe(folder, "Report", {}, (dataset,) if dataset else ())
    store.put(folder, artifact)
    return artifact


def study(**facts: Any) -> dict[str, Any]:
    return {"problem": "binary", "metric": "auc", "rows": 9, "meta": {"rows": 2.2}, "trials": [{"score": 0.6}, {"score": None}], **facts}


class StudiesContract:
    """Runs on every database."""

    def test_a_study_is_kept_once(self, ledger: Ledger) -> None:
        ref = record(ledger, "1", dataset="Dataset/d", meta={"rows": 1.5}, trials=[{"score": 0.5, "seconds": 2.5}])
        record(ledger, "1", run="r2", trials=[])
        (found,) = ledger.studies()
        assert (found.ref, found.run_id, found.dataset, found.rows, found.problem, found.metric) == (
            ref, "r1", "Dataset/d", 100, "binary", "auc",
        )  # fmt: skip
        assert found.meta == {"rows": 1.5}
        assert found.trials == [{"score": 0.5, "seconds": 2.5}]
        assert found.created_at.tzinfo is not None
        assert record(ledger, "1", scenario="other") == ref
        assert [one.scenario for one in ledger.studies()] == ["other", "credit"]

    def test_newest_first_and_only_what_was_asked_for(self, ledger: Ledger) -> None:
        a, b = record(ledger, "a"), record(ledger, "b", scenario="churn", run="r2")
        c, d = record(ledger, "c", problem="regression"), record(ledger, "d", run="r3")

        def refs(**given: Any) -> list[str]:
            return [found.ref for found in ledger.studies(**given)]

        assert refs() == [d, c, b, a]
        assert refs(problem="binary") == [d, b, a]
        assert refs(problem="binary", scenario="credit") == [d, a]
        assert refs(problem="binary", other_than="credit") == [b]
        assert refs(scenario="credit", but_of_run="r3", limit=1) == [c]
        assert refs(limit=0) == []
        assert refs(scenario="nothing") == []

    @pytest.mark.parametrize(
        ("facts", "says"),
        [
            ({"meta": {"rows": float("nan")}}, "no JSON"),
            ({"trials": [{"score": object()}]}, "no JSON"),
            ({"rows": -1}, "a count"),
            ({"metric": ""}, "metric"),
        ],
    )
    def test_what_is_malformed_is_refused(self, facts: dict[str, Any], says: str, ledger: Ledger) -> None:
        with pytest.raises(DataError, match=says):
            record(ledger, "1", **facts)
        assert ledger.studies() == []

    def test_a_report_with_a_study_is_recorded_with_its_costs(self, ledger: Ledger, tmp_path: Path) -> None:
        store = LocalStore(tmp_path / "store")
        dataset = f"Dataset/{'d' * 64}"
        costs = [{"seconds": 1.5, "memory_mb": 200.0}, {"seconds": 0.1, "memory_mb": None}]
        made = report(store, tmp_path / "full", study(), costs, dataset)
        plain = report(store, tmp_path / "plain", study(rows=10))
        for _ in range(2):
            apply_effects(ledger, store, "credit", "r1", "automl", {"report": made})
        apply_effects(ledger, store, "credit", "r1", "automl", {"report": plain})
        newest, first = ledger.studies()
        assert (first.ref, first.dataset, first.trials[0]) == (made.ref, dataset, {"score": 0.6, "seconds": 1.5, "memory_mb": 200.0})
        assert newest.trials == study()["trials"]
        assert ledger.outputs("r1") == {"automl": {"report": plain.ref}}

    def test_a_damaged_study_is_a_clear_error(self, ledger: Ledger, tmp_path: Path) -> None:
        store = LocalStore(tmp_path / "store")
        for number, (what, costs) in enumerate([({"problem": "binary"}, None), (study(), [{"seconds": 1.0}]), ([], None)]):
            damaged = report(store, tmp_path / str(number), what, costs)
            with pytest.raises(IntegrityError, match="can't be read"):
                apply_effects(ledger, store, "credit", "r1", "automl", {"report": damaged})
        assert ledger.studies() == []

    def test_a_ledger_of_the_first_schema_is_brought_up_to_date(self, own_url: str, clock: Any) -> None:
        engine = sa.create_engine(own_url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE studies"))
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
        with Ledger.open(own_url, clock=clock) as ledger:
            record(ledger, "1")
            assert len(ledger.studies()) == 1


class SnapshotContract:
    """What ingest freezes, with either database behind it."""

    @pytest.fixture
    def settings(self, url: str, tmp_path: Path) -> Settings:
        pq.write_table(pa.table({"amount": [1.0, 2.0], "outcome": ["good", "bad"]}), tmp_path / "loans.parquet")
        return Settings.from_env({"ATLAS_HOME": str(tmp_path / "home"), "ATLAS_LEDGER": url})

    def snapshot(self, settings: Settings, run: str) -> tuple[list[str], str]:
        options = {"path": str(settings.home.parent / "loans.parquet"), "label": "outcome"}
        given = {"scenario": "credit", "task": TASK, "source": {"reader": "table", "options": options}}
        made = execute("ingest", given, {}, run_id=run, settings=settings)["snapshot"]
        with Ledger.open(settings.ledger) as ledger:
            ledger.release("credit", run)
        folder = LocalStore(Path(settings.store)).fetch(made.ref)
        found: list[str] = json.loads((folder / "snapshot.json").read_text())["studies"]
        return found, made.ref

    def test_own_studies_first_then_others_of_the_same_problem(self, settings: Settings, tmp_path: Path) -> None:
        store = LocalStore(Path(settings.store))
        made = {n: report(store, tmp_path / "made" / str(n), study(rows=n)) for n in range(70)}
        with Ledger.open(settings.ledger) as ledger:
            for n, artifact in made.items():
                scenario = "credit" if n < 25 else "churn"
                apply_effects(ledger, store, scenario, f"r{n}", "automl", {"report": artifact})
            record(ledger, "5", scenario="prices", problem="regression")
        found, _ = self.snapshot(settings, "r100")
        assert found == [made[n].ref for n in (*range(24, 4, -1), *range(69, 29, -1))]

    def test_equal_ledgers_give_equal_snapshots(
        self, settings: Settings, tmp_path: Path, clock: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = LocalStore(Path(settings.store))
        first, second = (report(store, tmp_path / "made" / str(n), study(rows=n)) for n in range(2))
        other = Settings.from_env({"ATLAS_HOME": str(tmp_path / "other")})
        shutil.copytree(settings.store, other.store)
        for place, days in ((settings, 0), (other, 9)):
            clock.move(days * 86400)
            with Ledger.open(place.ledger, clock=clock) as ledger:
                for artifact in (first, second):
                    apply_effects(ledger, store, "credit", f"at {days}", "automl", {"report": artifact})
                record(ledger, "404", run="r0")
        caplog.set_level(logging.INFO)
        ours = self.snapshot(settings, "r1")
        assert ours[0] == [second.ref, first.ref]
        assert "is gone" in caplog.text
        assert self.snapshot(other, "r2") == ours

    def test_a_run_that_starts_again_does_not_see_its_own(self, settings: Settings, tmp_path: Path) -> None:
        store = LocalStore(Path(settings.store))
        before = self.snapshot(settings, "r1")
        made = report(store, tmp_path / "made", study())
        with Ledger.open(settings.ledger) as ledger:
            apply_effects(ledger, store, "credit", "r1", "automl", {"report": made})
        shutil.rmtree(Path(settings.store) / "steps")  # as if the step had been killed before it was recorded
        assert self.snapshot(settings, "r1") == before
        assert self.snapshot(settings, "r2")[0] == [made.ref]


class TestSqlite(world.OnSqlite, StudiesContract, SnapshotContract):
    pass


class TestPostgres(world.OnPostgres, StudiesContract, SnapshotContract):
    @pytest.fixture
    def own_url(self, postgres: Callable[[str], str]) -> str:
        return postgres("template")
