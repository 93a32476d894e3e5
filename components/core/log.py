"""Logging: one line an event on stderr; standard output stays free for results."""

from __future__ import annotations

import json
import logging
import sys
import time

__all__ = ["setup"]


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "from": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def setup(*, as_json: bool = False, verbose: bool = False) -> None:
    """Send log records to stderr, as text for people or as JSON lines for machines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if as_json else logging.Formatter("%(levelname).1s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("components", "pipelines", "serving"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)
