"""Items as clients send them, with every way they can be wrong turned into one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from components.core.errors import DataError
from components.core.items import item_from_json
from serving.problems import Problem

if TYPE_CHECKING:
    from components.core.items import Item
    from components.core.params import Tabular, TextLine

__all__ = ["read_item", "read_items", "read_json"]


def read_json(body: bytes) -> Any:
    """Parse a body.

    Raises:
        Problem: 400, it is not JSON.
    """
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, f"the body is not JSON: {error}", do="send a JSON object") from None


def read_item(task: TextLine | Tabular, given: Any) -> Item:
    """Read one item.

    Raises:
        DataError: It is malformed.
    """
    try:
        item = item_from_json(task, given)
        item.group.encode()
    except (OverflowError, RecursionError, ValueError) as error:  # a number beyond float, half a character
        raise DataError(f"the item can't be read: {error}", do="send finite numbers and plain text") from None
    if "\0" in item.group:
        raise DataError("'group' holds a NUL character", do="send plain text")
    return item


def read_items(task: TextLine | Tabular, given: Any, most: int) -> tuple[list[Item], bool]:
    """Read one item, or a batch: `{"items": [ITEM, …]}`.

    Returns:
        The items, and whether they came as a batch.

    Raises:
        DataError: An item is malformed, the batch is empty or too long.
    """
    if not isinstance(given, dict) or "items" not in given:
        return [read_item(task, given)], False
    batch = given["items"]
    if set(given) != {"items"} or not isinstance(batch, list):
        raise DataError("a batch is {'items': [ITEM, …]} and nothing else", do="send a list of items")
    if not 0 < len(batch) <= most:
        raise DataError(f"the batch has {len(batch)} items, 1 to {most} are allowed", do="send several smaller requests")
    items = []
    for index, one in enumerate(batch):
        try:
            items.append(read_item(task, one))
        except DataError as error:
            raise DataError(f"items[{index}]: {error.message}", do=error.do) from None
    return items, True
