"""Errors as a client sees them: a status, one sentence that says what is wrong, one that says what to do."""

from __future__ import annotations

import math

from pydantic_core import to_json
from starlette.responses import Response

from components.core.errors import AtlasError, DataError, Refused

__all__ = ["Problem", "answer", "from_error"]


class Problem(Exception):
    """An answer that is not the one the caller hoped for.

    Args:
        status: HTTP status.
        message: What was given and what is allowed.
        do: What the caller can do next.
        retry_after_s: Seconds after which the same request may succeed.
        close: Whether the connection must end with the answer.
    """

    def __init__(self, status: int, message: str, *, do: str, retry_after_s: float | None = None, close: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.do = do
        self.headers: dict[str, str] = {}
        if retry_after_s is not None:
            self.headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"
        if close:
            self.headers["connection"] = "close"

    def response(self) -> Response:
        """Return `{"error", "do"}`."""
        return answer({"error": self.message, "do": self.do}, self.status, self.headers)


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response; a number that JSON does not have becomes null."""
    return Response(to_json(body, inf_nan_mode="null"), status, headers, media_type="application/json")


def from_error(error: AtlasError) -> Problem:
    """Translate one of ATLAS's own errors."""
    if isinstance(error, DataError):
        return Problem(422, error.message, do=error.do or "correct the request")
    if isinstance(error, Refused):
        return Problem(409, error.message, do=error.do or "look at what changed")
    return Problem(503, error.message, do=error.do or "try again", retry_after_s=2)  # the ledger's or the model's fault, not the caller's
