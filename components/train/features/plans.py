"""Learning a plan: what every feature is, and which columns come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from components.core.errors import ConfigError, DataError, nearest
from components.core.params import Tabular
from components.model.plan import Columns, Plan, Reader, Single
from components.train.features import coded, numeric
from components.train.features.coded import Draft
from components.train.features.kinds import Kind, infer
from components.train.features.options import Features

__all__ = ["drafts", "learn_plan"]


def learn_plan(task: Tabular, features: Features, columns: Columns) -> Plan:
    """Learn the columns that need no labels; `prepare` learns the others too.

    Raises:
        ConfigError: `features.drop` or `features.pairs` names an unknown feature, or `drop` all of them.
        DataError: No feature tells rows apart.
    """
    found, dropped = drafts(task, features, Reader(columns))
    return Plan(columns=tuple(part.column if isinstance(part, Draft) else part for part in found), dropped=dropped)


def drafts(task: Tabular, features: Features, reader: Reader) -> tuple[list[Single | Draft], dict[str, str]]:
    """Return the columns, and why features are left out.

    Raises:
        ConfigError: See `learn_plan`.
        DataError: See `learn_plan`.
    """
    _check_names(task, features)
    kinds, dropped = infer(task, features, reader)
    if not kinds:
        reasons = "; ".join(f"{name}: {why}" for name, why in dropped.items() if name not in features.drop)
        raise DataError(f"no feature tells rows apart ({reasons})", do="give features that vary, or set features.clean to none")
    found: list[Single | Draft] = []
    for name, kind in kinds.items():
        found += _columns(name, kind, reader, features)
    for pair in features.pairs:
        found += _pair(pair, kinds, reader, features)
    return found, dropped


def _check_names(task: Tabular, features: Features) -> None:
    for option, names in (("drop", features.drop), ("pairs", [name for pair in features.pairs for name in pair])):
        for name in names:
            if name not in task.features:
                raise ConfigError(f"features.{option} names '{name}'", do=nearest(name, task.features))
    if set(task.features) <= set(features.drop):
        raise ConfigError("features.drop leaves no feature", do="keep at least one")


def _columns(name: str, kind: Kind, reader: Reader, features: Features) -> Sequence[Single | Draft]:
    if kind.role == "category":
        return [coded.category(name, reader, features)]
    if kind.role == "date":
        return numeric.moments(name, kind, reader, features)
    number = numeric.number(name, kind, reader, features)
    found: list[Single | Draft] = [number]
    for extra in (coded.whole(number, reader, features), coded.binned(number, reader, features) if features.bins > 1 else None):
        if extra is not None:
            found.append(extra)
    return found


def _pair(pair: tuple[str, str], kinds: Mapping[str, Kind], reader: Reader, features: Features) -> Sequence[Single | Draft]:
    """Return the column of a pair; none if one of its features is left out, or a date."""
    if any(name not in kinds or kinds[name].role == "date" for name in pair):
        return []
    left, right = pair
    if all(kinds[name].role == "number" and not kinds[name].text for name in pair):
        return [numeric.pair(left, right, features.operation, reader, features)]
    halves = [_half(name, kinds[name], reader, features) for name in pair]
    return [coded.joined(halves[0], halves[1], reader, features)] if halves[0] and halves[1] else []


def _half(name: str, kind: Kind, reader: Reader, features: Features) -> Draft | None:
    """Return one side of a category of pairs: only values with a code of their own, for pairs are many."""
    if kind.role == "category":
        return coded.category(name, reader, features.model_copy(update={"category": "code", "beside": "none"}))
    return coded.number_as_bins(name, kind, reader, features)
