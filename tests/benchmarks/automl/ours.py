"""Genesis, under the protocol of the rivals: search, assemble, write the model's folder; then answer with the model as it was written.

    python ours.py FOLDER --budget 20 --cores 2 [--home FOLDER] [--history FOLDER] [--champion FOLDER] …

`--yesterday FOLDER` stands for `--history FOLDER/history --champion FOLDER/model`, which is what `--keep` writes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from protocol import Job, finish, read_job

from components.automl.genesis.board import Board
from components.automl.genesis.configuration import PastStudy
from components.automl.genesis.ensemble import Limits
from components.automl.genesis.evaluators.table import TableEvaluator
from components.automl.genesis.finish import assemble
from components.automl.genesis.history import read_study, write_study
from components.automl.genesis.inheritance import Inherited, inherit
from components.automl.genesis.solve import Champion, Setting, Solved, solve, study_of, usual_validation
from components.automl.spec import Params
from components.core.errors import IntegrityError
from components.core.params import Tabular, Task
from components.model import Predictor, load, save
from components.model.predictor import column_values
from components.train.data import Data, Rows
from components.train.features import folds_of
from components.train.fitting import Fitted, predictor_of
from components.train.reproducible import reproducible

MOMENTS = 24
"""Points of a trajectory, at most: the first ones, then ever fewer."""


def main() -> None:
    """Search, write, answer; off the clock: retrace how the best model grew."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, help="default: one a core")
    parser.add_argument("--trials", type=int, help="end after so many pipelines instead of after the budget")
    parser.add_argument("--home", type=Path, help="where the search works; default: in FOLDER")
    parser.add_argument("--history", type=Path, help="folder of earlier studies")
    parser.add_argument("--champion", type=Path, help="folder of yesterday's model")
    job, given = read_job(parser)
    home = given.home or job.folder / "home"
    before = given.history or (job.yesterday and job.yesterday / "history")
    model = given.champion or (job.yesterday and job.yesterday / "model")
    champion = Champion(model, f"Model/{'0' * 64}") if model and model.is_dir() else None
    data = read(job)
    params = params_of(job, data, given.workers or job.cores).model_copy(update={"trials": given.trials})
    history = recall(before) if before else []
    with reproducible():
        solved = solve(Setting(data, params, home, _process_start(), history, champion))
    folder = job.folder / "model"
    _write_model(solved, data, folder)
    predictor = load(folder)
    if job.keep:
        study = job.keep / "history" / "0"
        study.mkdir(parents=True)
        write_study(study, study_of(solved, params, len(data.train)))
        (job.keep / "model").mkdir()
        for file in folder.iterdir():
            (job.keep / "model" / file.name).write_bytes(file.read_bytes())
    evaluator = TableEvaluator(data, params.validation or usual_validation(data), seed=params.seed, folder=home / "fits")
    facts = {"fits": _fits(solved, evaluator), "members": len(solved.recipe.members), "validation": solved.recipe.score}
    facts["jobs"] = [
        {"job": f"{entry.job.configuration.identity}/{entry.job.rung}", "began": entry.clock - entry.wall, "ended": entry.clock}
        | {"cpu_s": entry.seconds}
        for entry in solved.board.settled
    ]
    finish(
        job,
        lambda rows: answers(predictor, rows, threads=job.cores),
        model=folder,
        best=[m.learner for m in solved.recipe.members],
        **facts,
    )
    _trajectory(job, solved, params, evaluator, data, champion)


def _process_start() -> float:
    """Return when this process was started, on the monotonic clock: the interpreter's own start and the imports count."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def read(job: Job) -> Data:
    """Return all rows as rows to learn from; their key is their number in the whole table, equal today and yesterday."""
    task = {name: value for name, value in job.task.items() if name in Tabular.model_fields}
    tabular = Tabular.model_validate(task)
    table = pq.read_table(job.folder / "train.parquet")
    labels = table.column(job.target).to_pylist()
    keys = [str(number) for number in pq.read_table(job.folder / "keys.parquet").column("row").to_pylist()]
    columns = _columns(tabular, table)
    none: dict[str, Any] = {name: values[:0] for name, values in columns.items()}
    rows = Rows(columns, labels if tabular.problem == "regression" else [str(label) for label in labels], {"base": len(labels)}, keys)
    return Data(tabular, rows, Rows(none, [], {}, []))


def _columns(task: Tabular, table: pa.Table) -> dict[str, Any]:
    for number, name in enumerate(table.column_names):
        if task.features.get(name) == "number":
            table = table.set_column(number, name, table.column(name).cast(pa.float64()))
    return {name: column_values(table, name) for name in task.features}


def params_of(job: Job, data: Data, workers: int) -> Params:
    """Return the scenario's section: the budget and the seed, nothing else is configured.

    Like the rivals, it is not told that `task["time"]` orders the rows; see run_flaml.py.
    """
    given = {"scenario": "bench", "task": data.task.model_dump(), "budget_s": job.budget_s, "workers": workers, "seed": job.seed}
    return Params.model_validate(given)


def _write_model(solved: Solved, data: Data, folder: Path) -> None:
    """What the steps automl and train do between them, without their artifacts."""
    folder.mkdir()
    members = [(entry.member, entry.weights) for entry in solved.fitted]
    save(folder, task=data.task, members=members, recipe=solved.recipe.model_dump(mode="json"), card="# bench\n")


def answers(predictor: Predictor, rows: pd.DataFrame, *, threads: int = 1) -> Any:
    """Return (N, K) probabilities, or (N, 1) values."""
    columns = {name: rows[name].to_numpy() for name in _table_task(predictor.task).features}
    return predictor.probabilities(columns, threads=threads)


def _table_task(task: Task) -> Tabular:
    if not isinstance(task, Tabular):
        raise TypeError("the benchmark has tables only")
    return task


def recall(folder: Path) -> list[PastStudy]:
    """Read the studies that lie in a folder, one a sub-folder."""
    return [read_study(path) for path in sorted(folder.iterdir())]


def _fits(solved: Solved, evaluator: TableEvaluator) -> int:
    """Return how many fold models were fitted to the end: a higher rung uses what the lower ones fitted, samples excepted."""
    whole: dict[str, int] = {}
    samples = 0
    for entry in solved.board.settled:
        rung, identity = evaluator.rungs[entry.job.rung], entry.job.configuration.identity
        if entry.value is None:
            continue
        if rung.limit is not None:
            samples += rung.folds
        else:
            whole[identity] = max(whole.get(identity, 0), rung.folds)
    return sum(whole.values()) + samples


def _trajectory(job: Job, solved: Solved, params: Params, evaluator: TableEvaluator, data: Data, champion: Champion | None) -> None:
    """For moments of the search, assemble the model that it would have ended with there, and let it answer the test rows."""
    validation = params.validation or usual_validation(data)
    old: list[Inherited] = []
    if champion and params.transfer:
        old = inherit(champion.folder, data, validation, folds_of(data, data.pooled(), validation), champion.ref)
    test = job.table("test")
    (job.folder / "trajectory").mkdir()
    found = []
    for number, (at, board) in enumerate(_moments(solved.board, len(evaluator.rungs) - 1, bool(old))):
        try:
            recipe, fitted, _ = assemble(
                board,
                evaluator,
                old,
                Limits(params.max_size_mb, params.max_us_per_row),
                members=params.members,
                validation=validation,
                seed=params.seed,
            )
        except IntegrityError:
            continue  # nothing was judged by then
        name = f"trajectory/{number}.parquet"
        _write_answers(data, fitted, test, job.folder / name)
        found.append({"at": _process_start() + at, "validation": recipe.score, "answers": name})
    (job.folder / "trajectory.json").write_text(json.dumps(found))


def _moments(board: Board, top: int, inherited: bool) -> Sequence[tuple[float, Board]]:
    """Return (seconds of the search, what had settled by then): when the first job settled, then whenever one was fully judged."""
    settled = sorted(board.settled, key=lambda entry: entry.clock)
    ends = [n for n, entry in enumerate(settled) if entry.job.rung == top and entry.value is not None]
    if inherited and settled and 0 not in ends:
        ends.insert(0, 0)
    chosen = sorted({int(n) for n in np.geomspace(1, max(len(ends), 1), MOMENTS)}) if ends else []
    return [(settled[ends[n - 1]].clock, replace(board, settled=tuple(settled[: ends[n - 1] + 1]))) for n in chosen]


def _write_answers(data: Data, fitted: Sequence[Fitted], test: pd.DataFrame, path: Path) -> None:
    task = _table_task(data.task)
    said = np.asarray(answers(predictor_of(task, fitted), test)).reshape(len(test), -1)
    pq.write_table(pa.table({name: said[:, k].astype(np.float64) for k, name in enumerate(task.classes or ("value",))}), path)


if __name__ == "__main__":
    main()
