"""Items: what a model predicts on, and what a bad case is about, as canonical bytes with a content hash."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.core.artifacts import canonical
from components.core.errors import DataError
from components.core.params import Tabular, TextLine, is_finite

__all__ = ["MAX_PAYLOAD_BYTES", "Item", "item_from_bytes", "item_from_json"]

MAX_PAYLOAD_BYTES = 1 << 20
_IMAGE_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class Item:
    """One thing to predict on.

    Attributes:
        payload: Canonical bytes: the encoded image, or canonical JSON of the features.
        media_type: `image/png`, `image/jpeg` or `application/json`.
        content: sha256 (hex) of the payload; the item's identity.
        group: Items that must never be on both sides of a split share a group (a writer, a customer, a receipt).
    """

    payload: bytes
    media_type: str
    content: str
    group: str

    def row(self) -> dict[str, Any]:
        """Return the payload as columns: `{"image": bytes}` or the features."""
        if self.media_type == "application/json":
            features: dict[str, Any] = json.loads(self.payload)
            return features
        return {"image": self.payload}


def item_from_bytes(payload: bytes, media_type: str, group: str | None = None) -> Item:
    """Make an item from canonical bytes that were checked before."""
    content = hashlib.sha256(payload).hexdigest()
    return Item(payload, media_type, content, group or content)


def item_from_json(task: TextLine | Tabular, given: Any) -> Item:
    """Read an item as a client sends it.

    Args:
        task: The scenario's task.
        given: `{"image": BASE64, "group"?: str}` for text lines, `{"features": {…}, "group"?: str}` for tables.

    Raises:
        DataError: The item is malformed, too large, or has unknown or wrongly typed features.
    """
    key = "image" if isinstance(task, TextLine) else "features"
    if not isinstance(given, Mapping) or key not in given or set(given) - {key, "group"}:
        raise DataError(f"an item has the keys '{key}' and, if need be, 'group'", do=f"send {{'{key}': …}}")
    group = given.get("group")
    if group is not None and (not isinstance(group, str) or not 0 < len(group) <= 200):
        raise DataError("'group' is not a text of 1 to 200 characters", do="send a short text, or leave it out")
    if isinstance(task, TextLine):
        return _image(given["image"], group)
    return _features(task, given["features"], group)


def _image(given: Any, group: str | None) -> Item:
    try:
        payload = base64.b64decode(given, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise DataError("'image' is not base64", do="send a PNG or JPEG file, base64-encoded") from None
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise DataError(f"the image has {len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} are allowed", do="send a smaller image")
    for magic, media_type in _IMAGE_MAGIC.items():
        if payload.startswith(magic):
            return item_from_bytes(payload, media_type, group)
    raise DataError("'image' is neither PNG nor JPEG", do="send a PNG or JPEG file, base64-encoded")


def _features(task: Tabular, given: Any, group: str | None) -> Item:
    if not isinstance(given, Mapping):
        raise DataError("'features' is not an object", do="send {name: value, …}")
    if unknown := sorted(set(given) - set(task.features)):
        raise DataError(f"unknown features: {', '.join(map(str, unknown))}", do=f"the model's features are: {', '.join(task.features)}")
    if missing := [name for name in task.features if name not in given]:
        raise DataError(f"missing features: {', '.join(missing)}", do="send each; null stands for a missing value")
    row = {name: _value(name, kind, given[name]) for name, kind in task.features.items()}
    payload = canonical(row)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise DataError(f"the row has {len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} are allowed", do="send a smaller row")
    return item_from_bytes(payload, "application/json", group)


def _value(name: str, kind: str, value: Any) -> float | str | None:
    if value is None:
        return None
    if kind == "number":
        if isinstance(value, bool) or not isinstance(value, int | float) or not is_finite(value):
            raise DataError(f"feature '{name}' is {value!r}, a finite number is expected", do="send a number or null")
        return float(value)
    if not isinstance(value, str):
        raise DataError(f"feature '{name}' is {value!r}, a text is expected", do="send a text or null")
    return value
