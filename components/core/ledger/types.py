"""What the ledger takes and gives: plain frozen data. Times are aware and in UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from components.core.items import Item

__all__ = [
    "LEASE_TTL_S",
    "STATES",
    "Blessing",
    "Case",
    "CaseEvent",
    "DatasetVersion",
    "Deployment",
    "Label",
    "Lease",
    "ModelVersion",
    "NewCase",
    "Prediction",
    "Receipt",
    "Run",
    "State",
    "Study",
    "Work",
]

LEASE_TTL_S = 300

State = Literal["open", "labelled", "merged", "verified", "closed", "reopened", "held", "quarantined"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True)
class Label:
    """What somebody said the answer is.

    Attributes:
        value: The label; a number in regression.
        source: Who or what said so.
        reviewed: Whether a person vouches for it.
        key: Idempotency key: a case takes each key once.
    """

    value: str | float
    source: str
    reviewed: bool
    key: str
    created_at: datetime


@dataclass(frozen=True)
class NewCase:
    """A bad case as it is delivered, however often.

    Attributes:
        item: What the model got wrong, or was unsure of.
        source: `feedback`, `capture`, `import`, …
        label: The right answer, where it is known.
        key: Idempotency key of the label. Without one, the same label from the same source counts once.
        prediction_id: The logged prediction that this is about.
        confidence: How sure the model was.
    """

    item: Item
    source: str
    label: str | float | None = None
    reviewed: bool = False
    key: str | None = None
    prediction_id: str | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Receipt:
    """The answer to a delivery: which case it is, whether it is new, and its state now."""

    case_id: str
    created: bool
    state: State


@dataclass(frozen=True)
class Case:
    """One item of one scenario that the model got wrong.

    Attributes:
        id: `sha256(scenario:content)[:32]`.
        labels: Oldest first.
        reason: Why it is held or quarantined.
        dataset: Reference of the dataset version that introduced it: exactly one, for good.
    """

    id: str
    scenario: str
    content: str
    group: str
    media_type: str
    payload: bytes
    state: State
    source: str
    prediction_id: str | None
    labels: tuple[Label, ...]
    reason: str | None
    created_at: datetime
    dataset: str | None
    confidence: float | None = None


@dataclass(frozen=True)
class CaseEvent:
    """One change of a case's state; `before` is None at its birth. The table behind it only ever grows."""

    case_id: str
    before: State | None
    after: State
    why: str
    run_id: str | None
    created_at: datetime


@dataclass(frozen=True)
class Lease:
    """The right of one run to work on a scenario. `token` grows with every new holder: the fencing token."""

    scenario: str
    run_id: str
    token: int
    expires_at: datetime


@dataclass(frozen=True)
class Work:
    """What there is to do for a scenario.

    Attributes:
        claimable: Labelled cases that no living run has claimed.
        unfinished: Merged cases wait in a dataset version that no blessing followed, and fewer than 3 runs (besides the holder) tried.
        holder: The run that holds a live lease.
        latest: Number of the scenario's newest case event: it grows whenever a case changes (0: there are none).
    """

    claimable: int
    unfinished: bool
    holder: str | None
    latest: int


@dataclass(frozen=True)
class DatasetVersion:
    """A link of the scenario's chain of datasets.

    Attributes:
        seq: 1, 2, 3, …
        parent: Reference of the version before it.
        cases: Ids, sorted, of the cases that it introduced.
    """

    scenario: str
    seq: int
    ref: str
    parent: str | None
    run_id: str
    cases: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True)
class ModelVersion:
    """A trained model. `dataset` is the reference of the dataset it was trained on."""

    scenario: str
    ref: str
    dataset: str | None
    run_id: str
    created_at: datetime
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Blessing:
    """The gate's verdict on `model` against `baseline`, the model that served then (None: nothing did)."""

    scenario: str
    ref: str
    model: str
    baseline: str | None
    accepted: bool
    evaluation_set: str
    run_id: str
    created_at: datetime


@dataclass(frozen=True)
class Deployment:
    """A link of the serving history; the newest is the champion.

    Attributes:
        seq: 1, 2, 3, …: no gaps, no branches.
        dataset: Reference of the dataset the model was trained on.
        run_id: The run that deployed it; None for a rollback.
        previous: `seq` of the deployment it replaced.
    """

    scenario: str
    seq: int
    model: str
    dataset: str | None
    blessing: str | None
    run_id: str | None
    kind: Literal["deploy", "rollback"]
    previous: int | None
    created_at: datetime


@dataclass(frozen=True)
class Prediction:
    """A logged answer; `answer` is plain JSON data, `model` the reference of the model that gave it."""

    id: str
    scenario: str
    model: str
    content: str
    group: str
    media_type: str
    payload: bytes
    answer: Any = field(hash=False)
    confidence: float
    created_at: datetime


@dataclass(frozen=True)
class Run:
    """One turn of the loop. `detail` is plain JSON data."""

    run_id: str
    scenario: str
    engine: str
    trigger: str
    state: str
    started_at: datetime
    finished_at: datetime | None
    detail: Any = field(hash=False)


@dataclass(frozen=True)
class Study:
    """A finished search: what later searches learn from.

    Attributes:
        ref: Reference of the report that holds it.
        dataset: Reference of the dataset that was searched on, where it is known.
        run_id: The run that made it first.
        problem: `binary`, `multiclass`, `regression` or `text_line`.
        rows: Rows that were searched on.
        meta: Meta-features: name -> finite number.
        trials: Plain JSON data, costs included.
    """

    scenario: str
    ref: str
    dataset: str | None
    run_id: str
    problem: str
    metric: str
    rows: int
    created_at: datetime
    meta: dict[str, float] = field(default_factory=dict, hash=False)
    trials: list[dict[str, Any]] = field(default_factory=list, hash=False)
