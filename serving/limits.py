"""Limits: how much of a body is read, how many requests a second, who may write."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from serving.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["TokenBucket", "check_token", "read_body"]

_DRAIN_BYTES = 256 << 20
_DRAIN_S = 2.0


class TokenBucket:
    """At most `per_s` a second in the long run, and two seconds' worth at once.

    Args:
        per_s: Requests a second.
        clock: Seconds, monotonic.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._clock = clock
        self._most = max(1.0, 2 * per_s)
        self._tokens = self._most
        self._at = clock()

    def take(self) -> None:
        """Take one token.

        Raises:
            Problem: 429, there is none left.
        """
        now = self._clock()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1:
            wait_s = (1 - self._tokens) / self._per_s
            raise Problem(
                429,
                f"more than {self._per_s:g} requests a second",
                do="slow down, and send several items in one request",
                retry_after_s=wait_s,
            )
        self._tokens -= 1


async def read_body(request: Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes; a larger one is never held.

    The rest of a body that is too large is read and thrown away, within bounds: a client that is still sending when the
    connection closes would see a broken pipe instead of the 413.

    Raises:
        Problem: 413, the body is larger.
    """
    declared = request.headers.get("content-length", "")
    too_large = declared.isdigit() and int(declared) > limit
    if too_large and request.headers.get("expect", "").lower() == "100-continue":
        raise _too_large(limit)
    parts: list[bytes] = []
    held = seen = 0
    until = time.monotonic() + _DRAIN_S
    async for chunk in request.stream():
        seen += len(chunk)
        if too_large or held + len(chunk) > limit:
            too_large = True
            parts.clear()
            if seen > _DRAIN_BYTES or time.monotonic() > until:
                break
            continue
        parts.append(chunk)
        held += len(chunk)
    if too_large:
        raise _too_large(limit)
    return b"".join(parts)


def check_token(request: Request, token: str | None, variable: str) -> None:
    """Let only a caller through who shows the token; compared in constant time.

    Raises:
        Problem: 503, the server has no token; 401, the caller shows none or another.
    """
    if token is None:
        raise Problem(
            503, f"this server takes no feedback: {variable} is not set", do=f"set {variable} to at least 16 characters and start it again"
        )
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise Problem(
            401, "the bearer token is missing or wrong", do=f"send the header 'Authorization: Bearer …' with the value of {variable}"
        )


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body has more than {limit} bytes", do="send fewer or smaller items in one request", close=True)
