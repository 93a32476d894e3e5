"""The model card (Mitchell et al., arXiv 1810.03993), in Markdown: what it is for, what it learned from, how well, where it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.core.params import Task, TextLine
from components.train.data import Data, Rows
from components.train.fitting import Fitted
from components.train.learners import learner
from components.train.recipe import Pipeline, Recipe

__all__ = ["Figures", "card"]


@dataclass(frozen=True)
class Figures:
    """Metrics on rows that the models which answered them did not learn from.

    Attributes:
        values: None where undefined.
        rows: How many.
        assembled: Whether the members were fitted by the search, on these rows.
    """

    values: Mapping[str, float | None]
    rows: int
    assembled: bool


def card(scenario: str, data: Data, recipe: Recipe, figures: Figures, fitted: Sequence[Fitted], *, seed: int) -> str:
    """Write the card; equal arguments give equal text.

    Args:
        scenario: Its name.
        data: What was learned from.
        recipe: What was trained.
        figures: See `Figures`.
        fitted: The members, as the recipe has them.
        seed: Of the training.
    """
    size = sum(len(entry.weights) for entry in fitted)
    maker = "The search fitted its members" if figures.assembled else "It was fitted from the recipe"
    lines = [
        f"# Model card: {scenario}",
        "",
        f"{_purpose(data.task)} {len(fitted)} member{'s' * (len(fitted) > 1)}, seed {seed}, {size} bytes of weights. {maker}. "
        "Loading it runs no code.",
        "",
        "## Data",
        "",
        "| split | rows | of these |",
        "|---|---:|---|",
        _row("train", data.train),
        _row("validation", data.validation),
        "",
        f"Rows of the splits test and holdout were not read. {_judged(recipe)}",
        "",
        f"## Figures {'on validation' if recipe.validation.kind == 'holdout' else 'out of fold'}",
        "",
        "| figure | value |",
        "|---|---:|",
        *[f"| {name} | {'undefined' if value is None else f'{value:.6f}'} |" for name, value in sorted(figures.values.items())],
        "",
        *_about_figures(recipe, figures),
        "",
        "## Members",
        "",
        "| weight | learner | folds | bytes | set apart from its defaults |",
        "|---:|---|---:|---:|---|",
        *[_member(pipeline, entry) for pipeline, entry in zip(recipe.members, fitted, strict=True)],
        "",
        "The answer is the weighted mean of the members'; a member's is the mean of its folds' models (of trees: of their raw sums).",
        "",
        "## Recipe",
        "",
        "```json",
        json.dumps(recipe.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False),
        "```",
        "",
        "## Intended use and limits",
        "",
        *[f"- {limit}" for limit in _limits(data.task)],
        "",
    ]
    return "\n".join(lines)


def _judged(recipe: Recipe) -> str:
    folds, kind = recipe.validation.folds, recipe.validation.kind
    if kind == "holdout":
        return "Validation rows chose the recipe and the moment to stop."
    if kind == "time":
        return (
            f"Train and validation rows are cut by `{recipe.validation.time}` into {folds + 1} blocks; each but the first judges a model "
            "that learned from the blocks before it."
        )
    return f"Train and validation rows are {folds} folds, by the hash of a row's key; each judges a model that learned from the others."


def _about_figures(recipe: Recipe, figures: Figures) -> list[str]:
    found = []
    if recipe.validation.kind == "holdout":
        found.append("They were used to choose, so they flatter.")
    else:
        found.append(
            f"Each of the {figures.rows} judged rows was answered by the models of its own fold, which did not learn from it. Validation "
            "rows are among them: what the whole model says about these is no judgement, because other folds' models learned from them. "
            "The folds also chose the recipe and the moment to stop, so the figures flatter a little."
        )
    if recipe.score is not None:
        where = "on validation" if recipe.validation.kind == "holdout" else "out of fold, the mean of the folds"
        found.append(f"The search reported {recipe.metric} {recipe.score:.6f} ({where}).")
    found.append("The blessing that `evaluate` writes has the figures on rows never used before.")
    return [" ".join(found)]


def _member(pipeline: Pipeline, entry: Fitted) -> str:
    usual = learner(pipeline.learner)
    found = []
    for given, defaults in ((pipeline.features, usual.features()), (pipeline.params, usual.params())):
        known = defaults.model_dump(mode="json")
        found += [f"{name} {_short(value)}" for name, value in sorted(given.items()) if known.get(name) != value]
    origin = f" (kept from {pipeline.inherited[:14]}…)" if pipeline.inherited else ""
    weight, folds = f"{pipeline.weight:.3f}", len(entry.member.folds)
    return f"| {weight} | {pipeline.learner}{origin} | {folds} | {len(entry.weights)} | {', '.join(found) or 'nothing'} |"


def _short(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|")


def _row(name: str, rows: Rows) -> str:
    return f"| {name} | {len(rows)} | {', '.join(f'{count} {source}' for source, count in rows.sources.items())} |"


def _purpose(task: Task) -> str:
    if isinstance(task, TextLine):
        return f"Reads one line of text of the alphabet `{task.alphabet}` from a PNG or JPEG image."
    if task.problem == "regression":
        return f"Predicts a number from {len(task.features)} features."
    return f"Predicts one of {len(task.classes)} classes ({', '.join(task.classes)}) from {len(task.features)} features."


def _limits(task: Task) -> list[str]:
    general = "Use it for inputs like those it learned from; the loop collects its mistakes and replaces it when it is no longer right."
    if isinstance(task, TextLine):
        return [
            general,
            f"It reads a single line, no page, and no character outside its alphabet; labels had at most {task.max_length} characters.",
            "The confidence is the network's own probability of the whole text; it is not calibrated on writers it never saw.",
        ]
    return [
        general,
        "A category that was rare or unseen in training counts as 'other'; numbers far outside the training range are clipped.",
        "Correlations in the data are not causes; fairness was looked at only on the slices that `evaluate` reports.",
    ]
