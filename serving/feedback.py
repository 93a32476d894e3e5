"""Feedback: the truth about a prediction, or about an item nobody asked about. It is in the ledger before it is acknowledged."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from components.core.artifacts import digest_of
from components.core.errors import DataError
from components.core.items import item_from_bytes
from components.core.ledger import NewCase
from serving.items import read_item
from serving.problems import Problem

if TYPE_CHECKING:
    from components.core.items import Item
    from components.core.ledger import Ledger, Prediction
    from components.core.params import Tabular, TextLine
    from serving.door import LedgerDoor
    from serving.metrics import Metrics
    from serving.payloads import PayloadLog

__all__ = ["Feedback", "Outcome", "case_id"]

_SOURCE = "feedback"
_CLOSE = 1e-6


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prediction_id: str | None = Field(None, min_length=1, max_length=64)
    item: Any = None
    label: Any
    reviewed: StrictBool = False
    id: str | None = Field(None, min_length=1, max_length=200, pattern=r"^[^\x00]+$")


@dataclass(frozen=True)
class Outcome:
    """What became of a feedback.

    Attributes:
        outcome: `case`: the label is on a bad case; `confirmed`: the model was right, and there is no case to tell.
        case_id: The case.
        state: Its state now.
        created: Whether this feedback made it.
    """

    outcome: str
    case_id: str | None = None
    state: str | None = None
    created: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the body of the acknowledgement."""
        return asdict(self)


class Feedback:
    """Turns what a caller says into labelled cases.

    Args:
        scenario: Whose cases.
        task: Checks labels and items.
        door: The ledger.
        payloads: Knows the predictions that are not in the ledger yet.
        metrics: Told of outcomes.
    """

    def __init__(self, scenario: str, task: TextLine | Tabular, door: LedgerDoor, payloads: PayloadLog, metrics: Metrics) -> None:
        self._scenario = scenario
        self._task = task
        self._door = door
        self._payloads = payloads
        self._metrics = metrics

    def take(self, body: Any) -> Outcome:
        """Make one feedback durable; taking it again changes nothing.

        Args:
            body: `{"prediction_id" | "item", "label", "reviewed"?, "id"?}`.

        Raises:
            DataError: The body, the item or the label is wrong.
            Problem: 404, the prediction is unknown; 409, `id` was used for another label.
            TryAgain: The ledger is away; nothing was acknowledged.
        """
        given = _checked(body)
        try:
            label = self._task.check_label(given.label)
        except (OverflowError, ValueError) as error:
            raise DataError(f"label {str(given.label)[:40]!r} can't be read: {error}", do="correct the label") from None
        if given.prediction_id is None:
            item = read_item(self._task, given.item)
            outcome = self._door.run(lambda ledger: self._keep(ledger, item, label, given, None))
        else:
            prediction = self._prediction(given.prediction_id)
            item = item_from_bytes(prediction.payload, prediction.media_type, prediction.group)
            outcome = self._door.run(lambda ledger: self._about(ledger, prediction, item, label, given))
        self._metrics.feedback.labels(outcome.outcome).inc()
        if outcome.created:
            self._metrics.cases.labels(_SOURCE).inc()
        return outcome

    def _prediction(self, prediction_id: str) -> Prediction:
        # First the queue, then the ledger: a prediction leaves the queue only after it got there.
        waiting = self._payloads.find(prediction_id)
        if waiting is not None:
            self._door.run(lambda ledger: ledger.log_predictions([waiting]))  # the case must never outlive what it is about
            return waiting
        try:
            found = self._door.run(lambda ledger: ledger.prediction(prediction_id))
        except DataError:
            found = None
        if found is None or found.scenario != self._scenario:
            raise Problem(
                404,
                f"prediction '{prediction_id}' is unknown",
                do="send the item itself: {'item': …, 'label': …}; old predictions are dropped",
            )
        return found

    def _about(self, ledger: Ledger, prediction: Prediction, item: Item, label: str | float, given: _Given) -> Outcome:
        if not _same(prediction.answer["label"], label):
            return self._keep(ledger, item, label, given, prediction)
        if not _known(ledger, case_id(self._scenario, item.content)):
            return Outcome("confirmed")
        # A captured case gets its label; but this prediction is no evidence of a mistake, so it must reopen nothing.
        return self._keep(ledger, item, label, given, None)

    def _keep(self, ledger: Ledger, item: Item, label: str | float, given: _Given, prediction: Prediction | None) -> Outcome:
        key = given.id or digest_of([given.prediction_id or item.content, label, *(["reviewed"] if given.reviewed else [])])[:32]
        receipt = ledger.add_case(
            self._scenario,
            NewCase(
                item=item,
                source=_SOURCE,
                label=label,
                reviewed=given.reviewed,
                key=key,
                prediction_id=prediction.id if prediction else None,
                confidence=prediction.confidence if prediction else None,
            ),
        )
        if not receipt.created:
            _refuse_reuse(ledger, receipt.case_id, key, label)
        return Outcome("case", receipt.case_id, receipt.state, receipt.created)


def case_id(scenario: str, content: str) -> str:
    """Return the id of the case of this content."""
    return hashlib.sha256(f"{scenario}:{content}".encode()).hexdigest()[:32]


def _checked(body: Any) -> _Given:
    try:
        given = _Given.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise DataError(
            f"{where}: {first['msg']}", do="send {'prediction_id' or 'item', 'label'} and, if need be, 'reviewed' and 'id'"
        ) from None
    if (given.prediction_id is None) == (given.item is None):
        raise DataError("feedback names either 'prediction_id' or 'item'", do="send exactly one of them")
    return given


def _same(answer: Any, label: str | float) -> bool:
    if isinstance(label, str):
        return bool(answer == label)
    return isinstance(answer, int | float) and math.isclose(answer, label, rel_tol=_CLOSE, abs_tol=_CLOSE)


def _known(ledger: Ledger, wanted: str) -> bool:
    try:
        return ledger.case(wanted) is not None
    except DataError:
        return False


def _refuse_reuse(ledger: Ledger, case: str, key: str, label: str | float) -> None:
    for known in ledger.case(case).labels:
        if known.key == key and known.value != label:
            raise Problem(
                409, f"id '{key}' was used for label {known.value!r} of this case", do="send another label under another id, or none"
            )
