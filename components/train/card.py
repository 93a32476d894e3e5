"""The model card (Mitchell et al., arXiv 1810.03993), in Markdown: what it is for, what it learned from, how well, where it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping

from components.core.params import Task, TextLine
from components.train.data import Data, Rows
from components.train.recipe import Recipe

__all__ = ["card"]


def card(scenario: str, data: Data, recipe: Recipe, figures: Mapping[str, float | None], *, seed: int, weights_bytes: int) -> str:
    """Write the card; equal arguments give equal text.

    Args:
        scenario: Its name.
        data: What was learned from.
        recipe: What was trained.
        figures: Metrics on the validation split; None where undefined.
        seed: Of the training.
        weights_bytes: Size of the weights.
    """
    lines = [
        f"# Model card: {scenario}",
        "",
        f"{_purpose(data.task)} Learner `{recipe.learner}`, seed {seed}, {weights_bytes} bytes of weights. Loading it runs no code.",
        "",
        "## Data",
        "",
        "| split | rows | of these |",
        "|---|---:|---|",
        _row("train", data.train),
        _row("validation", data.validation),
        "",
        "Rows of the splits test and holdout were not read. Validation rows chose the recipe and the moment to stop.",
        "",
        "## Figures on validation",
        "",
        "| figure | value |",
        "|---|---:|",
        *[f"| {name} | {'undefined' if value is None else f'{value:.6f}'} |" for name, value in sorted(figures.items())],
        "",
        "They were used to choose, so they flatter. The blessing that `evaluate` writes has the figures on rows never used before.",
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
