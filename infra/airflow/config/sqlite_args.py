"""What Airflow passes to SQLite; `standalone.sh` names it. Seconds that a connection waits for another's lock."""

from __future__ import annotations

__all__ = ["CONNECT"]

CONNECT = {"timeout": 60}
