"""Rules: a Great Expectations suite, read as SQL.

The same JSON drives both. Great Expectations gives the verdict for people (Data Docs); SQL finds the failing rows of any volume
in one pass of DuckDB. `tests/unit/test_validate_parity.py` holds the two to the same verdict, rule type by rule type.

A row-level rule is about one row: the rows that break it go to quarantine. A table-level rule is about all of them: breaking it
stops the run. `meta.level` says which (`row` or `table`; the type decides where it is left out), `meta.rule` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.core.errors import ConfigError, nearest

__all__ = ["Rule", "read_suite"]

Kwargs = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """One expectation.

    Attributes:
        name: What quarantine and messages call it.
        level: `row` or `table`.
        type: Great Expectations' name of it.
        kwargs: Its arguments.
        broken: SQL: true for a row that breaks it (row types only).
        observed: SQL over the table: the value that is judged (table level only).
        allowed: What the value, or a row, must satisfy, for people.
        judge: Whether an observed value is allowed (table level only).
    """

    name: str
    level: Literal["row", "table"]
    type: str
    kwargs: Kwargs
    broken: str | None
    observed: str | None
    allowed: str
    judge: Callable[[Any], bool] | None

    @property
    def columns(self) -> list[str]:
        """The columns it reads."""
        return [self.kwargs[key] for key in ("column", "column_A", "column_B") if key in self.kwargs]

    def expectation(self) -> dict[str, Any]:
        """Return it as Great Expectations reads it."""
        return {"type": self.type, "kwargs": dict(self.kwargs), "meta": {"rule": self.name, "level": self.level}}


def read_suite(suite: Mapping[str, Any]) -> list[Rule]:
    """Read a suite.

    Raises:
        ConfigError: An expectation is malformed or of an unknown type, an argument is unknown, or two rules share a name.
    """
    expectations = suite.get("expectations")
    if not isinstance(expectations, list):
        raise ConfigError("the suite has no list 'expectations'", do="draft one: atlas profile SCENARIO")
    rules = [_rule(number, given) for number, given in enumerate(expectations)]
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"the suite has two rules named '{twice[0]}'", do="give one of them another meta.rule")
    return rules


def _rule(number: int, given: Any) -> Rule:
    where = f"expectation {number + 1} of the suite"
    if not isinstance(given, Mapping) or not isinstance(given.get("type"), str):
        raise ConfigError(f"{where} has no 'type'", do="give {type, kwargs, meta}")
    kind, kwargs, meta = given["type"], dict(given.get("kwargs") or {}), dict(given.get("meta") or {})
    if kind not in _ROW and kind not in _TABLE:
        raise ConfigError(f"{where}: type '{kind}' is not supported", do=nearest(kind, [*_ROW, *_TABLE]))
    level = meta.get("level", "row" if kind in _ROW else "table")
    if level not in ("row", "table") or (level == "row" and kind not in _ROW):
        raise ConfigError(
            f"{where}: '{kind}' can't have the level '{level}'", do="use 'table'" if kind in _TABLE else "use 'row' or 'table'"
        )
    known = (_ROW.get(kind) or _TABLE[kind])[0]
    mostly = kwargs.get("mostly")
    allowed = {*known, "mostly"} if kind in _ROW else known
    if unknown := sorted(set(kwargs) - set(allowed)):
        raise ConfigError(f"{where}: '{kind}' has no argument '{unknown[0]}'", do=nearest(unknown[0], allowed))
    for key in known:
        if key.startswith("column") and not isinstance(kwargs.get(key), str):
            raise ConfigError(f"{where}: '{kind}' needs '{key}'", do="name a column")
    if level == "row" and mostly is not None:
        raise ConfigError(f"{where}: 'mostly' is about the table, the level is 'row'", do="set meta.level to 'table', or drop 'mostly'")
    name = str(meta.get("rule") or " ".join([kind.removeprefix("expect_"), *[str(v) for k, v in kwargs.items() if k.startswith("column")]]))
    return _compile(name, level, kind, kwargs)


def _compile(name: str, level: Literal["row", "table"], kind: str, kwargs: Kwargs) -> Rule:
    try:
        if kind in _TABLE:
            observed, allowed, judge = _TABLE[kind][1](kwargs)
            return Rule(name, "table", kind, kwargs, None, observed, allowed, judge)
        broken, counted, allowed = _ROW[kind][1](kwargs)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"rule '{name}' of the suite: wrong arguments for '{kind}': {error}", do="see the expectation's documentation"
        ) from error
    if level == "row":
        return Rule(name, "row", kind, kwargs, broken, None, allowed, None)
    mostly = float(kwargs.get("mostly", 1.0))
    # a query of its own: a rule may look at other rows, which an aggregate can't
    flags = f"SELECT ({broken}) AS bad, ({counted}) AS counts FROM rows"
    share = f"SELECT 1 - coalesce(sum(bad::INT) / nullif(sum(counts::INT), 0), 0) FROM ({flags})"
    return Rule(
        name, "table", kind, kwargs, broken, share, f"share of rows at least {mostly:g}: {allowed}", lambda value: value >= mostly - 1e-12
    )


# -- row types: kwargs -> (SQL true for a broken row, SQL true for a row that counts, words). Like Great Expectations, a missing
# -- value breaks only the rule that values are not missing.


def _not_null(kwargs: Kwargs) -> tuple[str, str, str]:
    return f"{_name(kwargs['column'])} IS NULL", "true", "a value"


def _null(kwargs: Kwargs) -> tuple[str, str, str]:
    return f"{_name(kwargs['column'])} IS NOT NULL", "true", "no value"


def _on(kwargs: Kwargs, good: str, words: str) -> tuple[str, str, str]:
    there = f"{_name(kwargs['column'])} IS NOT NULL"
    return f"{there} AND NOT ({good})", there, words


def _between(kwargs: Kwargs) -> tuple[str, str, str]:
    return _on(kwargs, _range_sql(_name(kwargs["column"]), kwargs), _range_words(kwargs))


def _lengths(kwargs: Kwargs) -> tuple[str, str, str]:
    return _on(kwargs, _range_sql(f"length({_name(kwargs['column'])})", kwargs), f"length {_range_words(kwargs)}")


def _in_set(kwargs: Kwargs) -> tuple[str, str, str]:
    return _on(kwargs, f"{_name(kwargs['column'])} IN ({_values(kwargs['value_set'])})", f"one of {list(kwargs['value_set'])}")


def _not_in_set(kwargs: Kwargs) -> tuple[str, str, str]:
    return _on(kwargs, f"{_name(kwargs['column'])} NOT IN ({_values(kwargs['value_set'])})", f"none of {list(kwargs['value_set'])}")


def _regex(kwargs: Kwargs) -> tuple[str, str, str]:
    return _on(kwargs, f"regexp_matches({_name(kwargs['column'])}, {_value(kwargs['regex'])})", f"matches {kwargs['regex']}")


def _not_regex(kwargs: Kwargs) -> tuple[str, str, str]:
    return _on(kwargs, f"NOT regexp_matches({_name(kwargs['column'])}, {_value(kwargs['regex'])})", f"does not match {kwargs['regex']}")


def _unique(kwargs: Kwargs) -> tuple[str, str, str]:
    column = _name(kwargs["column"])
    return _on(kwargs, f"count(*) OVER (PARTITION BY {column}) = 1", "a value of its own")


def _pair(kwargs: Kwargs) -> tuple[str, str, str]:
    a, b = _name(kwargs["column_A"]), _name(kwargs["column_B"])
    sign = ">=" if kwargs.get("or_equal") else ">"
    there = f"NOT ({a} IS NULL AND {b} IS NULL)"
    return f"{there} AND NOT coalesce({a} {sign} {b}, false)", there, f"{kwargs['column_A']} {sign} {kwargs['column_B']}"


_RANGE = ("min_value", "max_value", "strict_min", "strict_max")
_ROW: dict[str, tuple[tuple[str, ...], Callable[[Kwargs], tuple[str, str, str]]]] = {
    "expect_column_values_to_not_be_null": (("column",), _not_null),
    "expect_column_values_to_be_null": (("column",), _null),
    "expect_column_values_to_be_between": (("column", *_RANGE), _between),
    "expect_column_values_to_be_in_set": (("column", "value_set"), _in_set),
    "expect_column_values_to_not_be_in_set": (("column", "value_set"), _not_in_set),
    "expect_column_values_to_match_regex": (("column", "regex"), _regex),
    "expect_column_values_to_not_match_regex": (("column", "regex"), _not_regex),
    "expect_column_value_lengths_to_be_between": (("column", *_RANGE), _lengths),
    "expect_column_values_to_be_unique": (("column",), _unique),
    "expect_column_pair_values_a_to_be_greater_than_b": (("column_A", "column_B", "or_equal"), _pair),
}


# -- table types: kwargs -> (SQL of the observed value, words, judge)

Compiled = tuple[str, str, Callable[[Any], bool]]


def _row_count(kwargs: Kwargs) -> Compiled:
    return "count(*)", _range_words(kwargs), _in_range(kwargs)


def _exists(kwargs: Kwargs) -> Compiled:
    return f"{_value(kwargs['column'])} IN (SELECT column_name FROM (DESCRIBE rows))", "the column exists", bool


def _aggregate(function: str) -> Callable[[Kwargs], Compiled]:
    return lambda kwargs: (function.format(_name(kwargs["column"])), _range_words(kwargs), _in_range(kwargs))


def _distinct_in_set(kwargs: Kwargs) -> Compiled:
    return _distinct(kwargs), f"only values of {list(kwargs['value_set'])}", lambda found: set(found or ()) <= set(kwargs["value_set"])


def _distinct_contain_set(kwargs: Kwargs) -> Compiled:
    return _distinct(kwargs), f"every value of {list(kwargs['value_set'])}", lambda found: set(found or ()) >= set(kwargs["value_set"])


def _distinct(kwargs: Kwargs) -> str:
    column = _name(kwargs["column"])
    return f"list_sort(array_agg(DISTINCT {column}) FILTER ({column} IS NOT NULL))"


_TABLE: dict[str, tuple[tuple[str, ...], Callable[[Kwargs], Compiled]]] = {
    "expect_table_row_count_to_be_between": (_RANGE, _row_count),
    "expect_column_to_exist": (("column",), _exists),
    "expect_column_mean_to_be_between": (("column", *_RANGE), _aggregate("avg({})")),
    "expect_column_median_to_be_between": (("column", *_RANGE), _aggregate("median({})")),
    "expect_column_min_to_be_between": (("column", *_RANGE), _aggregate("min({})")),
    "expect_column_max_to_be_between": (("column", *_RANGE), _aggregate("max({})")),
    "expect_column_sum_to_be_between": (("column", *_RANGE), _aggregate("sum({})")),
    "expect_column_stdev_to_be_between": (("column", *_RANGE), _aggregate("stddev_samp({})")),
    "expect_column_unique_value_count_to_be_between": (("column", *_RANGE), _aggregate("count(DISTINCT {})")),
    "expect_column_proportion_of_unique_values_to_be_between": (
        ("column", *_RANGE),
        _aggregate("count(DISTINCT {0}) / nullif(count({0}), 0)"),
    ),
    "expect_column_proportion_of_non_null_values_to_be_between": (("column", *_RANGE), _aggregate("count({}) / count(*)")),
    "expect_column_distinct_values_to_be_in_set": (("column", "value_set"), _distinct_in_set),
    "expect_column_distinct_values_to_contain_set": (("column", "value_set"), _distinct_contain_set),
}


def _range_sql(value: str, kwargs: Kwargs) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if low is None and high is None:
        raise ValueError("min_value or max_value is needed")
    parts = [] if low is None else [f"{value} {'>' if kwargs.get('strict_min') else '>='} {_value(low)}"]
    parts += [] if high is None else [f"{value} {'<' if kwargs.get('strict_max') else '<='} {_value(high)}"]
    return " AND ".join(parts)


def _range_words(kwargs: Kwargs) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    parts = [] if low is None else [f"{'more than' if kwargs.get('strict_min') else 'at least'} {low}"]
    parts += [] if high is None else [f"{'less than' if kwargs.get('strict_max') else 'at most'} {high}"]
    return " and ".join(parts)


def _in_range(kwargs: Kwargs) -> Callable[[Any], bool]:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if low is None and high is None:
        raise ValueError("min_value or max_value is needed")

    def judge(value: Any) -> bool:
        if value is None:
            return False
        above = low is None or (value > low if kwargs.get("strict_min") else value >= low)
        return above and (high is None or (value < high if kwargs.get("strict_max") else value <= high))

    return judge


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _values(values: Sequence[Any]) -> str:
    if isinstance(values, str) or not values:
        raise ValueError("value_set is a list of at least one value")
    return ", ".join(_value(value) for value in values)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    raise TypeError(f"{value!r} is neither a number nor a text")
