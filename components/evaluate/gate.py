"""The gate: one small function a rule. Each takes what was measured and says passed or not, with its numbers, in words.

A figure is rounded before it is compared, so what the page shows is what was decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from components.evaluate.bootstrap import FEW_GROUPS, Interval
from components.evaluate.spec import Gate

__all__ = ["RULES", "Facts", "Slice", "Verdict", "judge", "rounded"]

DIGITS = 6


@dataclass(frozen=True)
class Slice:
    """One slice of the judged rows.

    Attributes:
        column: What is sliced by.
        value: The slice's value, or range of values.
        rows: Rows in it.
        groups: Groups in it.
        challenger: Its metric there.
        champion: The champion's; None when there is no champion.
        gain: Challenger against champion; positive is better.
    """

    column: str
    value: str
    rows: int
    groups: int
    challenger: float
    champion: float | None
    gain: Interval | None

    @property
    def name(self) -> str:
        """Such as `grade = C`."""
        return f"{self.column} = {self.value}"


@dataclass(frozen=True)
class Facts:
    """What was measured, as the rules need it.

    Attributes:
        metric: The task's deciding figure.
        lower_is_better: Its direction.
        rows: Judged rows.
        groups: Groups among them.
        score: The challenger's figure there.
        gain: Challenger against champion there, positive is better; None when no champion serves.
        guards: The gain of each metric that `gate.guards` names; empty when no champion serves.
        mistakes: The champion's mistakes on the case holdout.
        fixed: Share of them that the challenger gets right; None when there are none, or no champion.
        closed: Closed cases that were evaluated.
        lost: Those among them that the challenger gets wrong.
        slices: Every slice.
        p99_ms: Latency of one item at batch 1.
        size_bytes: The model's files.
    """

    metric: str
    lower_is_better: bool
    rows: int
    groups: int
    score: Interval
    gain: Interval | None
    guards: Mapping[str, Interval]
    mistakes: int
    fixed: Interval | None
    closed: int
    lost: tuple[str, ...]
    slices: tuple[Slice, ...]
    p99_ms: float
    size_bytes: int


@dataclass(frozen=True)
class Verdict:
    """What one rule says.

    Attributes:
        name: The rule.
        passed: Whether the challenger may pass.
        value: What was measured; None when the rule had nothing to judge.
        limit: What the gate asks for; None when it asks nothing.
        low: Lower confidence bound of `value`; None when it has none.
        high: Upper confidence bound.
        detail: The verdict in words; when refused, with what to do.
    """

    name: str
    passed: bool
    value: float | None
    limit: float | None
    low: float | None
    high: float | None
    detail: str

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def rounded(value: float) -> float | None:
    """Round to what is shown and compared; undefined becomes None, and -0.0 becomes 0.0."""
    return round(value, DIGITS) + 0.0 if math.isfinite(value) else None


def judge(gate: Gate, facts: Facts) -> list[Verdict]:
    """Return every rule's verdict; the challenger is accepted when all passed."""
    return [rule(gate, facts) for rule in RULES]


def measurable(gate: Gate, facts: Facts) -> Verdict:
    """The judged rows must be able to carry a verdict: enough rows, and a defined metric."""
    enough = facts.rows >= gate.min_rows
    defined = facts.score.known and (facts.gain is None or facts.gain.known)
    if not enough:
        detail = (
            f"only {_count(facts.rows, 'row')} can be judged in the test split, at least {gate.min_rows} are needed"
            " -> add base annotations, or raise label_merge.splits.test"
        )
    elif not defined:
        detail = (
            f"{facts.metric} can't be measured on the {facts.rows} judged test rows: too few of one class"
            " -> add annotations of the rare class, or raise label_merge.splits.test"
        )
    else:
        detail = f"{facts.rows} judged test rows in {_count(facts.groups, 'group')} carry the verdict"
        if facts.groups < FEW_GROUPS:
            detail += "; too few groups to resample by: intervals take rows for independent, so they are too narrow"
    return Verdict("measurable", enough and defined, float(facts.rows), float(gate.min_rows), None, None, detail)


def floor(gate: Gate, facts: Facts) -> Verdict:
    """The metric must be at least `gate.floor`, whatever serves now."""
    value, low, high = _three(facts.score)
    said = f"{facts.metric} is {_show(value)}"
    if gate.floor is None or value is None:
        detail = f"{said}; no floor is set" if gate.floor is None else f"{facts.metric} is undefined: see rule 'measurable'"
        return Verdict("floor", True, value, gate.floor, low, high, detail)
    passed = value <= gate.floor if facts.lower_is_better else value >= gate.floor
    asked = f"at {'most' if facts.lower_is_better else 'least'} {gate.floor:g} is asked"
    do = "" if passed else " -> add annotations, give automl a larger budget, or change evaluate.gate.floor"
    return Verdict("floor", passed, value, gate.floor, low, high, f"{said}; {asked}{do}")


def loss(gate: Gate, facts: Facts) -> Verdict:
    """Against the champion, the gain's lower bound must not lie below the budget."""
    if facts.gain is None or not facts.gain.known:
        why = f"{facts.metric} is undefined: see rule 'measurable'" if facts.gain else "no model serves yet: there is nothing to lose"
        return Verdict("loss", True, None, gate.max_loss, None, None, why)
    value, low, high = _three(facts.gain)
    passed = low is not None and low >= -gate.max_loss
    detail = f"{facts.metric} changes by {_signed(value)}, by {_signed(low)} at worst; a loss of {gate.max_loss:g} is allowed"
    if not passed and value is not None and value >= 0:
        detail += " -> it is not worse, but the test split is too small to show it: add base annotations, or raise evaluate.gate.max_loss"
    elif not passed:
        detail += " -> the champion stays; give automl a larger budget, or look at the lost rows in the report"
    return Verdict("loss", passed, value, gate.max_loss, low, high, detail)


def guards(gate: Gate, facts: Facts) -> Verdict:
    """Other metrics may not be lost for the sake of the deciding one: of each, the gain's lower bound must not lie below its budget."""
    known = {name: gain for name, gain in facts.guards.items() if gain.known}
    if not known:
        why = "no other metric is guarded" if not gate.guards else "no model serves yet" if facts.gain is None else "nothing is measurable"
        return Verdict("guards", True, None, None, None, None, f"{why}: there is nothing to compare")
    worst = min(known, key=lambda name: (known[name].low + gate.guards[name], name))
    value, low, high = _three(known[worst])
    limit = gate.guards[worst]
    passed = low is not None and low >= -limit
    detail = f"{worst} gains {_signed(value)}, {_signed(low)} at worst; a loss of {limit:g} is allowed"
    if not passed:
        detail += f" -> look at {worst} in the report: do the cases distort the data? or raise evaluate.gate.guards.{worst}"
    return Verdict("guards", passed, value, limit, low, high, detail)


def cases_fixed(gate: Gate, facts: Facts) -> Verdict:
    """Of the champion's mistakes on cases that never train, a share must be right now."""
    if facts.fixed is None or facts.mistakes == 0:
        why = "no mistake of the champion is among the case holdout" if facts.gain else "no model serves yet: there is nothing to fix"
        return Verdict("cases_fixed", True, None, gate.min_cases_fixed, None, None, why)
    value, low, high = _three(facts.fixed)
    passed = value is not None and value >= gate.min_cases_fixed
    detail = f"{_percent(value)} of the champion's {_count(facts.mistakes, 'mistake')} on unseen cases are right now"
    detail += f"; {_percent(gate.min_cases_fixed)} are asked"
    do = "" if passed else " -> label more cases of this kind, or give automl a larger budget"
    return Verdict("cases_fixed", passed, value, gate.min_cases_fixed, low, high, detail + do)


def closed_lost(gate: Gate, facts: Facts) -> Verdict:
    """Closed cases must stay right."""
    if not facts.closed:
        return Verdict("closed_lost", True, None, gate.max_closed_lost, None, None, "no case is closed yet")
    value = rounded(len(facts.lost) / facts.closed)
    passed = value is not None and value <= gate.max_closed_lost
    detail = f"{len(facts.lost)} of {_count(facts.closed, 'closed case')} are wrong again; {_percent(gate.max_closed_lost)} may be"
    if not passed:
        named = ", ".join(case[:12] for case in facts.lost[:3]) + (", …" if len(facts.lost) > 3 else "")
        detail += f" -> look at {named} (all are in blessing.json, cases.lost): correct the label, or raise evaluate.gate.max_closed_lost"
    return Verdict("closed_lost", passed, value, gate.max_closed_lost, None, None, detail)


def slices(gate: Gate, facts: Facts) -> Verdict:
    """No slice may be shown to lose more than the budget."""
    judged = [s for s in facts.slices if s.gain is not None and s.gain.known and s.rows >= gate.min_rows]
    if not judged:
        why = "no model serves yet" if facts.gain is None else f"no slice has {gate.min_rows} rows"
        return Verdict("slices", True, None, gate.max_slice_loss, None, None, f"{why}: no slice is judged")
    worst = min(judged, key=lambda s: s.gain.high if s.gain else 0.0)
    value, low, high = _three(worst.gain or Interval(math.nan, math.nan, math.nan))
    passed = high is not None and high >= -gate.max_slice_loss
    if passed:
        detail = f"none of {_count(len(judged), 'slice')} is shown to lose more than {gate.max_slice_loss:g}"
        detail += f"; the nearest is {worst.name} ({_signed(value)})"
    else:
        detail = (
            f"on {worst.name} ({worst.rows} rows) {facts.metric} changes by {_signed(value)}, by {_signed(high)} at best; a loss of"
            f" {gate.max_slice_loss:g} is allowed -> add annotations of this slice, or raise evaluate.gate.max_slice_loss"
        )
    return Verdict("slices", passed, value, gate.max_slice_loss, low, high, detail)


def latency(gate: Gate, facts: Facts) -> Verdict:
    """One item must be answered in time. The number is measured anew each time, so it stays out of the digest."""
    passed = facts.p99_ms <= gate.max_latency_ms
    detail = f"p99 of one item is {'within' if passed else 'over'} {gate.max_latency_ms:g} ms (numbers: observed/latency.json)"
    do = "" if passed else " -> choose lighter learners (automl.learners), or raise evaluate.gate.max_latency_ms"
    return Verdict("latency", passed, None, gate.max_latency_ms, None, None, detail + do)


def size(gate: Gate, facts: Facts) -> Verdict:
    """The model's files must be small enough."""
    value = rounded(facts.size_bytes / 2**20)
    passed = value is not None and value <= gate.max_size_mb
    detail = f"the model's files have {facts.size_bytes / 2**20:.2f} MB; at most {gate.max_size_mb:g} MB are allowed"
    do = "" if passed else " -> choose lighter learners (automl.learners), or raise evaluate.gate.max_size_mb"
    return Verdict("size", passed, value, gate.max_size_mb, None, None, detail + do)


RULES: tuple[Callable[[Gate, Facts], Verdict], ...] = (measurable, floor, loss, guards, cases_fixed, closed_lost, slices, latency, size)


def _three(interval: Interval) -> tuple[float | None, float | None, float | None]:
    return rounded(interval.value), rounded(interval.low), rounded(interval.high)


def _show(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def _signed(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.4g}"


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:.3g} %"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
