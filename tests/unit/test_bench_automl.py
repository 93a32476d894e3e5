"""`atlas bench automl`: splits, judging, statistics, order, resuming, what a watched process used, and what the rows say."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.errors import ConfigError, DataError, TryAgain
from components.core.settings import Settings
from pipelines import bench as benches
from pipelines.bench import paired, systems, tables, verdict
from pipelines.bench.automl import Choice, groups
from pipelines.bench.row import row
from pipelines.bench.runs import Bench, Moment, Result, Run, lock
from pipelines.bench.watch import Watched, watch

ROWS = 200
RIVAL = """
import json, sys, time
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
folder = Path(sys.argv[1])
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
task = json.loads((folder / "task.json").read_text())
assert task["target"] not in pq.read_schema(folder / "test.parquet").names
if task["name"] == "broken":
    sys.exit("no such model")
train, test = pq.read_table(folder / "train.parquet"), pq.read_table(folder / "test.parquet")
kept = Path(options["--keep"])
(kept / "rows.json").write_text(json.dumps(len(train)))
yesterday = json.loads((Path(options["--yesterday"]) / "rows.json").read_text()) if "--yesterday" in options else None
(folder / "model").write_bytes(b"x" * 1024)
pq.write_table(pa.table({"value": [2.0 * x for x in test.column("x").to_pylist()]}), folder / "predictions.parquet")
facts = {"fitted_at": time.monotonic(), "us_per_row": 1.5, "model_bytes": 1024, "rows": len(train), "yesterday": yesterday}
(folder / "facts.json").write_text(json.dumps(facts))
"""


def data_folder(folder: Path, *, names: Sequence[str] = ("plain", "timed")) -> Settings:
    """An index and tables: y is 2 x with a little noise."""
    (folder / "tabular").mkdir(parents=True)
    lines = ["name,file,target,task,metric,time_ordered"]
    for name in names:
        x = np.arange(ROWS, dtype=np.float64)
        y = 2 * x + np.where(x % 2 == 0, 1.0, -1.0)
        colours = np.array(["red", "blue"])[(x % 3 == 0).astype(int)]
        pq.write_table(pa.table({"x": x, "colour": colours, "y": y}), folder / "tabular" / f"{name}.parquet")
        lines.append(f"{name},{name}.parquet,y,regression,rmse,{name == 'timed'}")
    (folder / "tabular" / "index.csv").write_text("\n".join(lines) + "\n")
    return replace(Settings.from_env({}), data=folder, home=folder / "home")


def split_of(settings: Settings, name: str, seed: int = 0) -> tables.Split:
    return tables.split(*tables.read(tables.index(settings), name), seed)


def binary(answers: Sequence[float]) -> tuple[tables.Split, pa.Table]:
    """A split whose test rows alternate between the classes, and answers about them."""
    table = pa.table({"x": [1.0] * len(answers), "y": [n % 2 for n in range(len(answers))]})
    entry = tables.Entry("b", Path("b"), "y", "binary", "auc", True)
    split = tables.Split(entry, tables.task_of(entry, table), table, table, np.arange(len(answers)))
    return split, pa.table({"0": [1 - p for p in answers], "1": list(answers)})


def result(
    system: str, score: float | None, *, case: Any = "cold", table: str = "t", budget_s: float = 20, seed: int = 0, **more: Any
) -> Result:
    run = Run(case, table, system, budget_s, seed)
    return Result(run, more.pop("metric", "auc"), score=score, error=None if score is not None else "it broke", **more)


def choice(**given: Any) -> Choice:
    usual: dict[str, Any] = {"quick": False, "tables": ("a", "b"), "systems": (), "cases": (), "budgets": (), "seeds": (), "again": False}
    return Choice.of(**usual | given)


class TestSplits:
    def test_random_tables_are_permuted_by_the_seed_and_time_ordered_ones_are_cut(self, tmp_path: Path) -> None:
        settings = data_folder(tmp_path)
        plain, other, timed = split_of(settings, "plain"), split_of(settings, "plain", 1), split_of(settings, "timed")
        assert len(plain.test) == 50
        assert len(plain.train) == 150
        assert plain.train.equals(split_of(settings, "plain").train)
        assert not plain.train.equals(other.train)
        assert timed.train.column("x").to_pylist() == list(range(150))
        assert timed.test.column(tables.TIME).to_pylist() == list(range(150, 200))
        assert tables.TIME not in plain.train.column_names
        together = plain.train.column("x").to_pylist() + plain.test.column("x").to_pylist()
        assert sorted(together) == list(range(ROWS))

    def test_yesterday_is_a_prefix_with_the_same_row_numbers_and_test_rows(self, tmp_path: Path) -> None:
        today = split_of(data_folder(tmp_path), "plain")
        yesterday = tables.smaller(today)
        assert len(yesterday.train) == 105
        assert yesterday.numbers.tolist() == today.numbers[:105].tolist() == yesterday.train.column("x").to_pylist()
        assert yesterday.test is today.test

    def test_what_is_written_holds_no_target_of_test_rows(self, tmp_path: Path) -> None:
        today = split_of(data_folder(tmp_path / "data"), "timed")
        tables.write(today, tmp_path)
        assert pq.read_schema(tmp_path / "test.parquet").names == ["x", "colour", tables.TIME]
        task = json.loads((tmp_path / "task.json").read_text())
        assert task["features"] == {"x": "number", "colour": "category", tables.TIME: "number"}
        assert (task["target"], task["problem"], task["metric"], task["time"]) == ("y", "regression", "rmse", tables.TIME)

    def test_a_missing_folder_or_table_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="ATLAS_DATA"):
            tables.index(replace(Settings.from_env({}), data=tmp_path))
        with pytest.raises(ConfigError, match="did you mean 'plain'"):
            tables.read(tables.index(data_folder(tmp_path / "data")), "plane")


class TestJudging:
    def test_auc_and_its_standard_error(self) -> None:
        noise = np.random.default_rng(0).normal(size=400)
        split, answers = binary([0.5 + 0.1 * (n % 2) + 0.1 * noise[n] for n in range(400)])
        score, se = tables.judge(split, answers, 0)
        assert 0.7 < score < 0.8
        # Hanley & McNeil 1982: about sqrt(a (1 - a) / min(positives, negatives)) or less
        assert 0.5 * math.sqrt(score * (1 - score) / 200) < se < math.sqrt(score * (1 - score) / 200)

    def test_answers_that_are_missing_or_not_finite_are_refused(self) -> None:
        split, answers = binary([0.1, 0.9, 0.1, 0.9])
        with pytest.raises(DataError, match="lack the columns 1"):
            tables.judge(split, answers.select(["0"]), 0)
        with pytest.raises(DataError, match="3 answers for 4 rows"):
            tables.judge(split, answers.slice(0, 3), 0)
        with pytest.raises(DataError, match="not finite"):
            tables.judge(split, binary([0.1, math.nan, 0.1, 0.9])[1], 0)


class TestStatistics:
    def test_ranks_share_ties_and_put_failures_last(self) -> None:
        scores: list[Mapping[str, float | None]] = [{"a": 0.9, "b": 0.9, "c": 0.8, "d": None}, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}]
        assert paired.mean_ranks(scores, higher_is_better=[True, False]) == {"a": 1.25, "b": 1.75, "c": 3.0, "d": 4.0}
        assert paired.mean_ranks([{"a": None, "b": None}], higher_is_better=[True]) == {"a": 1.5, "b": 1.5}
        assert paired.mean_ranks([], higher_is_better=[]) == {}

    def test_differences_are_positive_when_we_are_better(self) -> None:
        assert paired.error_cut(0.99, 0.98, higher_is_better=True) == pytest.approx(0.5)
        assert paired.error_cut(2.0, 1.0, higher_is_better=False) == pytest.approx(-0.5)
        assert paired.error_cut(1.0, 1.0, higher_is_better=True) == 0.0
        assert paired.gain(0.99, 1.0, higher_is_better=True) == pytest.approx(-0.01)
        assert paired.gain(0.99, 1.0, higher_is_better=False) == pytest.approx(0.01)

    def test_wilcoxon_is_one_sided_and_exact_on_small_samples(self) -> None:
        ahead = [0.01, 0.02, 0.03, 0.04, 0.05]
        assert paired.wilcoxon(ahead) == pytest.approx(1 / 32)  # only one of 2^5 sign patterns is as good
        assert paired.wilcoxon([-d for d in ahead]) == pytest.approx(1.0)
        assert paired.wilcoxon([0.0, 0.0]) == 1.0
        assert paired.wilcoxon([0.0, *ahead]) < 0.1
        assert math.isnan(paired.wilcoxon([]))

    def test_a_margin_asks_whether_we_are_not_worse(self) -> None:
        behind = [-0.001, -0.002, -0.0015, -0.0005, -0.0012, -0.0008]
        assert paired.wilcoxon(behind) > 0.9
        assert paired.wilcoxon(behind, margin=0.005) == pytest.approx(1 / 64)

    def test_a_quantile_bears_infinities(self) -> None:
        assert paired.quantile([0.2, 0.1, math.inf], 0.5) == 0.2
        assert paired.quantile([0.2, 0.1, math.inf], 0.9) == math.inf
        assert math.isnan(paired.quantile([], 0.9))


class TestOrder:
    def test_systems_take_turns_within_each_table_and_rotate(self) -> None:
        found = list(groups(choice()))
        cold = [group for group in found if group[0].case == "cold"]
        assert [(group[0].table, max(run.budget_s for run in group)) for group in cold] == [("a", 20), ("b", 20), ("a", 60), ("b", 60)]
        assert [run.system for run in cold[0]] == ["ours", "flaml", "autogluon", "lightgbm"]
        assert [run.system for run in cold[1]] == ["flaml", "autogluon", "lightgbm", "ours"]
        assert {run.budget_s for group in cold for run in group if run.system == "lightgbm"} == {0.0}

    def test_warm_runs_follow_their_yesterday_and_leave_out_who_cannot_remember(self) -> None:
        warm = [group for group in groups(choice(tables=("a",))) if group[0].case in ("yesterday", "warm")]
        assert [(group[0].case, group[0].budget_s) for group in warm] == [("yesterday", 60), ("warm", 20), ("warm", 60)]
        assert all(run.system != "lightgbm" for group in warm for run in group)
        assert warm[1][0].yesterday in warm[0]

    def test_budgets_may_be_chosen(self) -> None:
        assert choice(budgets=("30", "7.5")).budgets_s == (7.5, 30.0)
        for wrong in ("soon", "0", "inf"):
            with pytest.raises(ConfigError, match=f"'{wrong}'.*seconds above 0"):
                choice(budgets=(wrong,))

    def test_several_splits_are_measured_one_after_the_other(self) -> None:
        assert [group[0].seed for group in groups(choice(tables=("a",), cases=("cold",), seeds=("3", "1")))] == [3, 3, 1, 1]
        for wrong in ("x", "-1", "1.5"):
            with pytest.raises(ConfigError, match=f"'{wrong}'.*whole number"):
                choice(seeds=(wrong,))

    def test_unknown_names_are_refused_with_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'flaml'"):
            choice(systems=("flamel",))
        with pytest.raises(ConfigError, match="did you mean 'cold'"):
            choice(cases=("gold",))
        with pytest.raises(ConfigError, match="did you mean 'automl'"):
            benches.run("autml", quick=True)

    def test_the_default_tables_are_a_dozen_with_all_time_ordered_ones(self) -> None:
        assert len(set(tables.TABLES)) == len(tables.TABLES) >= 12
        assert {"bank_marketing", "weather", "bike", "air_quality", "diamonds"} <= set(tables.TABLES)


@pytest.fixture
def rival(tmp_path: Path) -> systems.System:
    """A system that needs no environment of its own."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "protocol.py").write_text("VERSION = 1\n")
    (folder / "rival.py").write_text(RIVAL)
    return systems.System("rival", "rival.py", scripts=folder)


def bench_of(tmp_path: Path, rival: systems.System, *, again: bool = False) -> Bench:
    return Bench(tmp_path / "bench", again=again, known={"rival": rival})


class TestRuns:
    @pytest.mark.slow
    def test_a_run_is_measured_once(self, tmp_path: Path, rival: systems.System) -> None:
        today = split_of(data_folder(tmp_path / "data"), "plain")
        run = Run("cold", "plain", "rival", 5, 0)
        bench = bench_of(tmp_path, rival)
        first = bench.result(run, today)
        assert first.score == pytest.approx(1.0)
        assert first.error is None
        assert 0 < first.wall_s < 60
        assert first.cpu_s > 0
        assert first.peak_mb > 5
        assert first.model_mb == 1 / 1024
        assert first.facts == {"rows": 150, "yesterday": None}
        file = next((tmp_path / "bench" / "results").glob("*.json"))
        stamp = file.stat().st_mtime_ns
        assert bench_of(tmp_path, rival).result(run, today) == first
        assert file.stat().st_mtime_ns == stamp
        bench_of(tmp_path, rival, again=True).result(run, today)
        assert file.stat().st_mtime_ns != stamp
        assert not list((tmp_path / "bench" / "work").iterdir())

    def test_comments_keep_a_result_and_code_makes_it_stale(self, tmp_path: Path, rival: systems.System) -> None:
        run, bench = Run("cold", "plain", "rival", 5, 0), bench_of(tmp_path, rival)
        key = bench.key(run)
        (rival.scripts / "rival.py").write_text("# a comment\n" + RIVAL)
        assert bench.key(run) == key
        (rival.scripts / "rival.py").write_text(RIVAL.replace("2.0 * x", "3.0 * x"))
        assert bench.key(run) != key
        assert len({bench.key(other) for other in (run, replace(run, seed=1), replace(run, budget_s=6), replace(run, workers=1))}) == 4

    @pytest.mark.slow
    def test_a_warm_run_gets_what_yesterday_kept(self, tmp_path: Path, rival: systems.System) -> None:
        today = split_of(data_folder(tmp_path / "data"), "plain")
        warm = Run("warm", "plain", "rival", 5, 0, yesterday_s=10)
        facts = bench_of(tmp_path, rival).result(warm, today).facts
        assert facts == {"rows": 150, "yesterday": 105}
        assert len(list((tmp_path / "bench" / "results").glob("yesterday.plain.rival.10s.*.json"))) == 1

    def test_a_failure_is_a_result_with_the_end_of_its_log(self, tmp_path: Path, rival: systems.System) -> None:
        today = split_of(data_folder(tmp_path / "data", names=["broken"]), "broken")
        bench = bench_of(tmp_path, rival)
        failed = bench.result(Run("warm", "broken", "rival", 5, 0, yesterday_s=5), today)
        assert failed.score is None
        assert "yesterday's run failed: exit code 1" in str(failed.error)
        assert "no such model" in str(failed.error)

    def test_only_one_may_measure(self, tmp_path: Path) -> None:
        with lock(tmp_path), pytest.raises(TryAgain, match="is measuring"), lock(tmp_path):
            pass

    def test_a_system_may_keep_bytecode_and_sees_no_package_of_ours(self, rival: systems.System, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "OTHER"):
            monkeypatch.setenv(name, "1")
        found = systems.environment(rival)
        assert found["OTHER"] == "1"
        assert not {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH"} & set(found)

    def test_our_version_follows_the_code_of_all_steps_and_a_rivals_its_pins(self) -> None:
        found = {name: systems.version(system) for name, system in systems.SYSTEMS.items()}
        assert len(set(found.values())) == len(found)
        for system in systems.SYSTEMS.values():
            assert (systems.SCRIPTS / system.script).is_file()
        assert "flaml==2.7.0" in (systems.SCRIPTS / "flaml.txt").read_text()
        assert "autogluon-tabular==1.6.3" in (systems.SCRIPTS / "autogluon.txt").read_text()


class TestWatch:
    def test_children_count(self, tmp_path: Path) -> None:
        burn = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); block = bytearray(64 << 20)"
        seen = watch([sys.executable, "-c", code], env=os.environ, cores=1, folder=tmp_path, log=tmp_path / "log", limit_s=60)
        assert seen.code == 0
        assert seen.cpu_s >= 0.5
        assert [cpu for _, cpu in seen.samples] == sorted(cpu for _, cpu in seen.samples)

    def test_what_takes_too_long_is_ended_with_its_children(self, tmp_path: Path) -> None:
        code = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); import time; time.sleep(60)"
        seen = watch([sys.executable, "-c", code], env=os.environ, cores=1, folder=tmp_path, log=tmp_path / "log", limit_s=1)
        assert seen.overdue
        assert seen.code == -9
        child = Path("/proc") / (tmp_path / "log").read_text().strip() / "stat"
        assert not child.exists() or ") Z " in child.read_text()

    def test_cpu_is_interpolated_between_samples(self) -> None:
        seen = Watched(0, 0.0, 10.0, 12.0, 1.0, ((2.0, 1.0), (4.0, 5.0)), False)
        assert [seen.cpu_at(at) for at in (0.0, 1.0, 3.0, 4.0, 7.0, 99.0)] == [0.0, 0.5, 3.0, 5.0, 8.5, 12.0]


class TestRows:
    def test_a_goal_holds_or_not_and_infinity_is_shown(self) -> None:
        assert row("c", 1.0, "s", "limit", 2.0, "<=")["holds"] is True
        assert row("c", 2.0, "s", "limit", 2.0, "<")["holds"] is False
        assert row("c", None, "s", "flaml", 2.0, "<=")["holds"] is None
        assert row("c", 1.0, "s", "facts: theirs", 2.0, "<=")["holds"] is None
        late = row("c", math.inf, "s", "limit", 1.0, "<=")
        assert (late["ours"], late["ratio"], late["holds"]) == ("inf", None, False)
        assert json.loads(json.dumps(late, allow_nan=False)) == late

    def test_a_table_has_a_row_a_rival_and_one_for_our_cold_run(self) -> None:
        cold = [result("ours", 0.8), result("flaml", 0.9), result("autogluon", None)]
        rows = list(verdict.table_rows(cold, cold))
        assert [(line["against"], line["holds"]) for line in rows] == [("flaml", False), ("autogluon (failed)", None)]
        warm = [result("ours", 0.81, case="warm")]
        assert [(line["against"], line["holds"]) for line in verdict.table_rows(warm, cold + warm)] == [("ours, cold", True)]

    def test_only_tables_that_all_were_measured_on_are_ranked(self) -> None:
        found = [result(name, score, table=table) for table in "abcde" for name, score in (("ours", 0.9), ("flaml", 0.8))]
        found.append(result("flaml", 1.0, table="f"))
        rows = list(verdict.cold_rows(found, choice(systems=("ours", "flaml"))))
        rank = next(line for line in rows if "mean rank" in line["case"])
        assert (rank["case"], rank["ours"], rank["theirs"], rank["holds"]) == ("cold 20 s: mean rank of 5 tables", 1.0, 2.0, True)
        p = next(line for line in rows if "no better" in line["case"])
        assert p["ours"] == pytest.approx(1 / 32, abs=1e-4)
        assert p["holds"] is True

    def test_a_table_counts_once_by_the_mean_of_its_splits(self) -> None:
        # On one split of five tables ours wins by little and loses the other by much: the mean of each table is a loss.
        found = [
            result(name, score, table=table, seed=seed)
            for table in "abcde"
            for name, seed, score in (("ours", 0, 0.85), ("flaml", 0, 0.84), ("ours", 1, 0.80), ("flaml", 1, 0.90))
        ]
        rows = list(verdict.cold_rows(found, choice(systems=("ours", "flaml"), seeds=("0", "1"))))
        rank = next(line for line in rows if "mean rank" in line["case"])
        assert (rank["case"], rank["ours"], rank["seed"]) == ("cold 20 s: mean rank of 5 tables, 10 splits", 1.5, [0, 1])
        assert next(line for line in rows if "no better" in line["case"])["ours"] == 1.0
        assert next(line for line in rows if "tables not worse" in line["case"])["ours"] == 0.0

    def test_warm_is_compared_with_cold_on_the_same_split(self) -> None:
        found = [result("ours", score, seed=seed, case=case, se=0.01) for case in ("cold", "warm") for seed, score in ((0, 0.9), (1, 0.7))]
        rows = list(verdict.warm_rows(found, choice(systems=("ours",), seeds=("0", "1"))))
        assert next(line for line in rows if "worse than cold" in line["case"])["ours"] == 0.0

    def test_parity_is_the_share_of_the_cold_searchs_cpu(self) -> None:
        cold = result("ours", 0.9, se=0.004, trajectory=(Moment(1, 10, 0.7, 0.8), Moment(2, 30, 0.8, 0.8995), Moment(3, 60, 0.9, 0.9)))
        warm = result("ours", 0.9, case="warm", trajectory=(Moment(1, 6, 0.85, 0.899), Moment(2, 20, 0.91, 0.9)))
        assert verdict.parity(cold, warm, "score") == pytest.approx(
            (6 / 60, 6 / 30)
        )  # .899 and .8995 lack no more than .25 standard errors
        assert verdict.parity(cold, warm, "validation") == pytest.approx((20 / 60, 20 / 60))
        assert verdict.parity(cold, replace(warm, trajectory=warm.trajectory[:1]), "validation") == (math.inf, math.inf)
        assert verdict.parity(cold, replace(warm, trajectory=()), "score") is None

    def test_negative_transfer_counts_losses_beyond_a_standard_error(self) -> None:
        found = []
        for table, warm in (("a", 0.90), ("b", 0.896), ("c", 0.88)):
            found += [result("ours", 0.9, table=table, se=0.005), result("ours", warm, table=table, case="warm")]
        rows = list(verdict.warm_rows(found, choice(systems=("ours",))))
        share = next(line for line in rows if "worse than cold" in line["case"])
        assert (share["ours"], share["theirs"], share["holds"]) == (pytest.approx(1 / 3, abs=1e-4), 0.1, False)

    def test_costs_stand_beside_their_limits(self) -> None:
        costs = {"wall_s": 20.5, "peak_mb": 500.0, "model_mb": 70.0, "us_per_row": 10.0}
        found = [result("ours", 0.9, table="diamonds", **costs), result("flaml", 0.9, table="diamonds", **costs | {"wall_s": 30.0})]
        found.append(result("flaml", None, table="a"))
        rows = [line for line in verdict.cost_rows(found, choice(systems=("ours", "flaml"))) if line["against"] == "limit"]
        assert [line["holds"] for line in rows] == [True, True, False, True, None, False]
        assert rows[0]["ours"] == pytest.approx(1.025)
        assert rows[-1]["case"] == "runs of flaml that failed"

    def test_two_workers_are_compared_with_one(self) -> None:
        lines = {
            1: [("a/0", 0.0, 10.0), ("b/0", 10.0, 20.0), ("c/0", 20.0, 30.0)],
            2: [("a/0", 1.0, 12.5), ("b/0", 1.0, 12.0), ("c/0", 12.0, 40.0)],  # nobody is idle before c is taken
        }
        found = [
            Result(
                Run("workers", "bike", "ours", 30, 0, workers=workers),
                "rmse",
                score=1.0,
                facts={"jobs": [{"job": job, "began": began, "ended": ended, "cpu_s": 10.0 * workers} for job, began, ended in line]},
            )
            for workers, line in lines.items()
        ]
        seen, own = verdict.workers_rows(found, choice())
        assert seen["ours"] == pytest.approx((11 / 11.5 + 1) * 10 / 11, abs=1e-4)
        assert (seen["theirs"], seen["holds"]) == (1.8, False)
        assert own["ours"] == pytest.approx(2 * seen["ours"], abs=1e-3)
        assert own["holds"] is None  # it explains the first row and is no goal
