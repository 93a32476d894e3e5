"""What people see of a search: its report, its page, its progress, and `atlas report`."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from components.automl.genesis.board import DONE, FAILED, Board, Job, Settled, read_board
from components.automl.genesis.concerns import concerns
from components.automl.genesis.configuration import Configuration
from components.automl.genesis.cost import Costs
from components.automl.genesis.ensemble import Selection
from components.automl.genesis.importance import importance, varied
from components.automl.genesis.page import page
from components.automl.genesis.plots import colours
from components.automl.genesis.progress import status_of, watching
from components.automl.genesis.report import JOBS_FILE, report_of, write_report
from components.automl.genesis.schedule import Ladder
from components.automl.genesis.solve import Setting, Solved, run_workers, solve
from components.automl.genesis.space import Space, completed
from components.automl.genesis.storage import Workplace, open_study
from components.automl.genesis.worker import Budget, Result, Search
from components.automl.spec import Params
from components.core.params import Tabular, TextLine
from components.train.data import Data, Rows
from components.train.recipe import Pipeline, Recipe
from components.train.validation import Validation
from pipelines.show import last_said
from pipelines.show_search import show_search

TASK = Tabular.model_validate({"problem": "binary", "classes": ["no", "yes"], "features": {"x": "number", "kind": "category"}})
DATA = Data(TASK, Rows({"x": np.arange(4.0), "kind": list("abab")}, ["no", "yes", "no", "yes"]), Rows({"x": np.zeros(0), "kind": []}, []))
PARAMS = Params(scenario="demo", task=TASK)


def entry(learner: str, rung: int, value: float | None, *, origin: str = "tpe", error: str = "", **params: Any) -> Settled:
    configuration = Configuration(learner, {"log": "none"}, params, origin)
    folds = [value - 0.01, value + 0.01] if value is not None and rung else [value]
    figures = {"error": error} if error else {"folds": folds}
    return Settled(Job(configuration, rung), 0, DONE if value is not None else FAILED, value, figures, 0.25, 100.0, 1.5)


def solved(
    settled: Sequence[Settled], chosen: Sequence[Settled], *, score: float = 0.91, inherited: Sequence[bool] = (), **given: Any
) -> Solved:
    """An ensemble of equal weights; members may be marked as taken over from the model that serves."""
    kept = [*inherited, *[False] * len(chosen)][: len(chosen)]
    pipelines = [
        Pipeline(
            learner=c.learner,
            features=dict(c.features),
            params=dict(c.params),
            weight=1 / len(chosen),
            inherited="Model/old" if old else None,
        )
        for c, old in zip([e.job.configuration for e in chosen], kept, strict=True)
    ]
    names = [("inherited:" if old else "") + e.job.configuration.identity for e, old in zip(chosen, kept, strict=True)]
    values = [float(e.value or 0.0) for e in chosen]
    selection = Selection(
        dict.fromkeys(names, 1 / len(chosen)), score, tuple(zip(names, [*values[:-1], score], strict=True)), (names[0], max(values))
    )
    recipe = Recipe(task="tabular", members=tuple(pipelines), validation=Validation(folds=2), score=score, metric="auc", seed=0)
    return Solved(recipe, [], selection, Board(tuple(settled), (), True), 2, {}, **given)


def usual() -> list[Settled]:
    return [
        entry("lightgbm", 0, 0.80, origin="portfolio", rate=0.05, leaves=31),
        entry("lightgbm", 1, 0.85, origin="portfolio", rate=0.05, leaves=31),
        entry("<b>odd</b>", 0, 0.82, origin="expert", depth=3),
        entry("<b>odd</b>", 1, 0.88, origin="expert", depth=3),
        entry("broken", 0, None, error="<script>singular</script>"),
        *[entry("lightgbm", 0, 0.7 + i / 200, rate=0.01 * (i + 1), leaves=4 + (i * 7) % 20) for i in range(14)],
    ]


def search_page(search: Solved, **given: Any) -> str:
    report = report_of(search, PARAMS, DATA, **given)
    return page(report, [{"seconds": 0.5, "memory_mb": 1.0, "clock": float(n)} for n in range(len(report["trials"]))])


def stands_alone(text: str) -> bool:
    return not re.search(r"""(src|href)=["'](?!#)|@import|<script|url\(|https?:""", text)


class TestReport:
    def test_it_compares_the_ensemble_with_what_a_reader_asks_for(self) -> None:
        settled = usual()
        report = report_of(solved(settled, [settled[3], settled[1]]), PARAMS, DATA, champion=0.86)
        found = {rival["name"]: rival["score"] for rival in report["against"]}
        assert found == {
            "a constant answer": 0.5,
            "the first pipeline": 0.85,
            "the best single pipeline": 0.88,
            "your own pipeline": 0.88,
            "the serving model": 0.86,
        }
        assert report["rungs"] == ["1 fold", "2 folds"]
        assert report["pipelines"] == {"tried": 17, "failed": 1}
        assert [member["score"] for member in report["ensemble"]["members"]] == [0.88, 0.85]
        assert [step["score"] for step in report["ensemble"]["path"]] == [0.88, 0.91]

    def test_learners_are_ranked_by_their_best_and_none_is_lost(self) -> None:
        settled = usual()
        learners = report_of(solved(settled, [settled[3]]), PARAMS, DATA)["learners"]
        assert [(g["name"], g["pipelines"], g["climbed"], g["failed"]) for g in learners] == [
            ("<b>odd</b>", 1, 1, 0), ("lightgbm", 15, 1, 0), ("broken", 1, 0, 1),
        ]  # fmt: skip
        assert [g["weight"] for g in learners] == [1.0, 0.0, 0.0]

    def test_what_varies_from_run_to_run_stays_out_of_it(self, tmp_path: Path) -> None:
        def written(name: str, seconds: float) -> Path:
            settled = [replace(e, seconds=seconds, clock=seconds, memory_mb=seconds) for e in usual()]
            (tmp_path / name).mkdir()
            write_report(tmp_path / name, solved(settled, [settled[3]]), PARAMS, DATA)
            return tmp_path / name

        one, two = written("one", 1.0), written("two", 2.0)
        assert (one / "report.json").read_bytes() == (two / "report.json").read_bytes()
        assert (one / JOBS_FILE).read_bytes() != (two / JOBS_FILE).read_bytes()
        assert {path.relative_to(one).as_posix() for path in one.rglob("*.*")} == {"report.json", JOBS_FILE, "observed/report.html"}

    def test_members_taken_over_are_named(self) -> None:
        settled = usual()
        report = report_of(solved(settled, [settled[1], settled[3]], inherited=[True]), PARAMS, DATA)
        assert [member["inherited"] for member in report["ensemble"]["members"]] == ["Model/old", None]

    def test_lines_of_text_have_no_ensemble(self) -> None:
        params = Params(scenario="demo", task=TextLine())
        settled = [replace(entry("crnn", rung, 0.5 + rung / 10, hidden=64), state=DONE) for rung in (0, 1)]
        settled = [replace(e, figures={"steps": [[1, e.value]]}) for e in settled]
        member = Pipeline(learner="crnn", features={"log": "none"}, params={"hidden": 64})
        holdout = Validation(kind="holdout", folds=1)
        recipe = Recipe(task="text_line", members=(member,), validation=holdout, score=0.6, metric="exact_match", seed=0)
        rows = Rows({"image": [b""]}, ["1"])
        search = Solved(recipe, [], None, Board(tuple(settled), (), True), 2, {})
        report = report_of(search, params, Data(TextLine(), rows, rows))
        assert [rival["name"] for rival in report["against"]] == ["the first pipeline"]
        assert report["learners"][0]["weight"] == 1.0
        text = page(report, [{"seconds": 1.0, "memory_mb": 1.0, "clock": 1.0}] * 2)
        assert "with crnn" in text
        assert "How it was chosen" not in text

    @pytest.mark.slow
    def test_a_real_search_repeats_its_report(self, tmp_path: Path) -> None:
        draw = np.random.default_rng(0)
        x = draw.normal(size=120)
        labels = ["yes" if value > 0 else "no" for value in x + draw.normal(size=120)]
        rows = Rows({"x": x, "kind": ["a" if value > 0 else "b" for value in draw.normal(size=120)]}, labels)
        data = Data(TASK, rows, Rows({"x": x[:0], "kind": []}, []))
        params = Params(scenario="demo", task=TASK, trials=4, learners=("lightgbm", "logistic"))
        found = []
        for name in ("one", "two"):
            search = solve(Setting(data, params, tmp_path / name, time.monotonic()))
            (tmp_path / f"{name}-report").mkdir()
            write_report(tmp_path / f"{name}-report", search, params, data)
            found.append((tmp_path / f"{name}-report" / "report.json").read_bytes())
        assert found[0] == found[1]
        report = json.loads(found[0])
        assert report["pipelines"]["tried"] == 4
        size = next(entry for entry in report["limits"] if entry["name"] == "size")
        assert 0 < size["used"] <= size["limit"]


class TestPage:
    def test_it_stands_alone_and_escapes(self) -> None:
        settled = usual()
        text = search_page(solved(settled, [settled[3], settled[1]], notes=("watch <out> & about",)))
        assert stands_alone(text)
        assert "<b>odd" not in text
        assert "&lt;b&gt;odd" in text
        assert "watch &lt;out&gt; &amp; about" in text
        assert text.count("<svg") >= 6

    def test_a_search_of_one_job(self) -> None:
        only = [entry("lightgbm", 1, 0.8, rate=0.1)]
        text = search_page(solved(only, only, score=0.8))
        assert stands_alone(text)
        assert "with lightgbm" in text
        assert "What mattered" not in text
        assert "Nothing came from earlier searches" in text

    def test_what_was_taken_over_is_said(self) -> None:
        settled = usual()
        text = search_page(solved(settled, [settled[1], settled[3]], inherited=[True]), champion=0.86)
        assert "taken over unchanged" in text
        assert "over the serving model" in text
        assert "Nothing came from earlier searches" not in text

    def test_a_failed_pipeline_is_shown_with_its_reason(self) -> None:
        settled = usual()
        assert "&lt;script&gt;singular" in search_page(solved(settled, [settled[3]]))

    def test_any_number_of_learners_gets_a_colour_of_its_own(self) -> None:
        found = colours([f"learner{i}" for i in range(30)])
        assert len(set(found.values())) == 30
        assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in found.values())


def trials(values: Sequence[float], **options: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {"features": {}, "params": {name: given[i] for name, given in options.items() if given[i] != "absent"}, "value": value}
        for i, value in enumerate(values)
    ]


class TestImportance:
    draw = np.random.default_rng(0)

    def test_the_option_that_decides_comes_first(self) -> None:
        decides, idle = self.draw.uniform(size=60).tolist(), self.draw.uniform(size=60).tolist()
        method, shares = importance(trials([1 - abs(v - 0.3) for v in decides], idle=idle, decides=decides), maximize=True)
        assert method == "ped-anova"
        assert next(iter(shares)) == "params.decides"
        assert math.fsum(shares.values()) == pytest.approx(1)
        assert shares["params.decides"] > 0.7

    def test_less_may_be_better_and_an_option_may_be_absent(self) -> None:
        rate = self.draw.uniform(size=40).tolist()
        depth = ["absent" if i % 4 else i for i in range(40)]
        method, shares = importance(trials(rate, rate=rate, depth=depth), maximize=False)
        assert method == "ped-anova"
        assert list(shares) == ["params.rate", "params.depth"]

    def test_few_pipelines_are_ranked_and_fewer_tell_nothing(self) -> None:
        values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
        method, shares = importance(trials(values, rate=values), maximize=True)
        assert method == "rank correlation"
        assert shares == {"params.rate": pytest.approx(1)}
        assert importance(trials(values[:3], rate=values[:3]), maximize=True) == ("", {})
        assert importance([], maximize=True) == ("", {})

    def test_options_of_every_kind_are_placed(self) -> None:
        found = varied(
            trials([0.0] * 3, same=[1, 1, 1], wide=[0.01, 0.1, 1.0], flag=[True, False, True], deep=[{"a": 1}, {"a": 2}, {"a": 2}],
                   drop=[[], ["x"], ["x", "y"]], name=["b", "a", "absent"])
        )  # fmt: skip
        assert {option.name: option.places() for option in found} == {
            "params.wide": [0.0, pytest.approx(0.5), 1.0],
            "params.flag": [1.0, 0.0, 1.0],
            "params.deep.a": [0.0, 1.0, 1.0],
            "params.drop": [0.0, 0.5, 1.0],
            "params.name": [1.0, 0.0, None],
        }


def test_columns_that_say_nothing_or_too_much_are_told() -> None:
    kinds = {"one": "number", "none": "number", "big": "number", "twin": "number", "word": "category", "echo": "category"}
    task = Tabular.model_validate({"problem": "regression", "features": kinds})
    columns: dict[str, Any] = {
        "one": [1.0, 1.0, 1.0], "none": [None] * 3, "big": [1.0, math.inf, 2.0], "twin": [1.0, math.inf, 2.0],
        "word": ["a", "b", None], "echo": ["a", "b", None],
    }  # fmt: skip
    assert [text.partition(";")[0] for text in concerns(task, Rows(columns, [1.0, 2.0, 3.0]))] == [
        "features without a value: none",
        "features with one value in every row: one",
        "features that repeat another one: twin = big, echo = word",
        "features with infinite values, which count as missing: big, twin",
    ]
    assert concerns(TASK, DATA.train) == []
    leak = Rows({"x": np.arange(100.0), "kind": ["a"] * 50 + ["b"] * 50}, ["no"] * 50 + ["yes"] * 50)
    assert [text for text in concerns(TASK, leak) if "alone tells the target" in text] == [
        "feature 'x' alone tells the target: is it known before the answer is?",
        "feature 'kind' alone tells the target: is it known before the answer is?",
    ]


@dataclass
class Slow:
    """Takes a moment; better with every pipeline."""

    seconds: float = 0.02

    def evaluate(self, configuration: Configuration, rung: int, until: float) -> Result:
        time.sleep(self.seconds)
        return Result(float(configuration.params["learning_rate"]), {})


def a_search(trials: int, seconds: float = 0.02) -> Search:
    known = [completed("lightgbm", {}, {"learning_rate": 0.01 + i / 1000}, "portfolio") for i in range(trials)]
    costs = Costs([1], prior={"lightgbm": 0.0})
    return Search(Slow(seconds), Space(("lightgbm",)), Ladder(1), known, lambda board, learners: None, costs, Budget(trials, 60.0))


class TestProgress:
    def test_a_board_in_one_line(self) -> None:
        board = Board(tuple(usual()), ((0, Job(Configuration("catboost", {}, {}, "tpe"), 0), "w"),), True)
        status = status_of(board, 12.4)
        assert (status.best, status.learner, status.rung) == (0.88, "<b>odd</b>", 1)
        assert status.line("auc", 2, None) == "best auc 0.88 (<b>odd</b>) · 18 pipelines, 1 failed · 1 running · 12 s left"
        assert "rung 2 of 3" in status.line("auc", 3, 20)
        assert "18 of 20 pipelines" in status.line("auc", 3, 20)
        assert status_of(Board((), (), False), 1.0).line("rmse", 2, None) == "nothing judged yet · 0 pipelines · 0 running · 1 s left"

    def test_it_disturbs_nothing_and_leaves_a_line_in_the_log(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        def open_() -> Any:
            return open_study(tmp_path / "study.journal", maximize=True)

        search, began = a_search(8), time.monotonic()
        with caplog.at_level(logging.INFO, "components.automl.genesis.progress"):
            with watching(open_, search.budget, began=began, metric="auc", rungs=1, console=Console(file=io.StringIO())):
                run_workers(open_, search, Workplace(tmp_path), began, 2)
        said = [record.getMessage() for record in caplog.records if record.name.endswith("progress")]
        assert re.fullmatch(r"best auc 0\.017 \(lightgbm\) · 8 of 8 pipelines · \d+ jobs done", said[-1])
        board = read_board(open_())
        assert (board.started, board.running) == (8, ())
        assert "genesis-progress" not in {thread.name for thread in threading.enumerate()}

    def test_a_terminal_gets_a_live_display_that_goes_away(self, tmp_path: Path) -> None:
        def open_() -> Any:
            return open_study(tmp_path / "study.journal", maximize=True)

        search, began = a_search(8, 0.1), time.monotonic()
        screen = io.StringIO()
        with watching(
            open_, search.budget, began=began, metric="auc", rungs=1, console=Console(file=screen, force_terminal=True, width=120)
        ):
            run_workers(open_, search, Workplace(tmp_path), began, 1)
        assert "of 8 pipelines" in screen.getvalue()
        assert screen.getvalue().endswith("\x1b[2K")

    def test_an_error_within_ends_it(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), watching(
            lambda: open_study(tmp_path / "s", maximize=True), Budget(1, 1.0), began=time.monotonic(), metric="auc", rungs=1
        ):  # fmt: skip
            raise KeyboardInterrupt
        assert "genesis-progress" not in {thread.name for thread in threading.enumerate()}

    def test_a_fork_waits_until_a_look_is_over(self, tmp_path: Path) -> None:
        from components.automl.genesis import progress

        with progress._looking:
            forked = threading.Event()

            def fork() -> None:
                if (pid := os.fork()) == 0:
                    os._exit(0 if progress._looking.acquire(timeout=1) else 1)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
                forked.set()

            thread = threading.Thread(target=fork)
            thread.start()
            assert not forked.wait(0.1)
        assert forked.wait(5)
        thread.join()

    @pytest.mark.parametrize(
        ("lines", "says"),
        [
            (["I components.train.run: fitting"], "fitting"),
            (["I components.automl.genesis.progress: best 1", "I components.automl.genesis.worker: a job"], "best 1"),
            (['{"at": "now", "level": "info", "from": "components.x", "message": "as JSON"}'], "as JSON"),
            (["Traceback (most recent call last):", "nothing of ours"], ""),
            ([], ""),
        ],
    )
    def test_the_engine_shows_what_a_running_step_said_last(self, tmp_path: Path, lines: list[str], says: str) -> None:
        (tmp_path / "automl.log").write_text("".join(f"{line}\n" for line in ["x" * 40_000, *lines]))
        assert last_said(tmp_path / "automl.log") == says
        assert last_said(tmp_path / "missing.log") == ""
        assert last_said(None) == ""


class TestAtlasReport:
    def shown(self, folder: Path) -> str:
        console = Console(file=io.StringIO(), width=120)
        show_search(console, folder, "demo")
        return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]

    def test_it_shows_the_ensemble_the_rivals_and_the_cost(self, tmp_path: Path) -> None:
        settled = usual()
        search = solved(settled, [settled[1], settled[3]], inherited=[True], notes=("3 [bold] members were taken over",))
        write_report(tmp_path, search, PARAMS, DATA, champion=0.92)
        said = self.shown(tmp_path)
        assert "auc 0.91 with 2 pipelines" in said
        assert "the serving model, unchanged" in said
        assert "-0.01" in said
        assert "17 pipelines tried (1 failed) on 4 rows, 4.8 s of CPU in 1.5 s" in said
        assert "- 3 [bold] members were taken over" in said

    def test_what_was_observed_may_be_gone(self, tmp_path: Path) -> None:
        settled = usual()
        write_report(tmp_path, solved(settled, [settled[3]]), PARAMS, DATA)
        (tmp_path / JOBS_FILE).unlink()
        assert "17 pipelines tried (1 failed) on 4 rows\n" in self.shown(tmp_path)

    def test_a_report_of_an_older_version_says_what_to_do(self, tmp_path: Path) -> None:
        (tmp_path / "report.json").write_text(json.dumps({"trials": [], "best": 0}))
        assert "atlas run demo" in self.shown(tmp_path)
