"""Where this installation keeps things: environment variables, read once, at the door."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """The installation's places.

    Attributes:
        home: `ATLAS_HOME`: everything local lies below it (default: `.atlas` in the working directory).
        ledger: `ATLAS_LEDGER`: SQLAlchemy URL (default: SQLite in `home`).
        store: `ATLAS_STORE`: a folder or an fsspec URL such as `s3://bucket/prefix` (default: `home/store`).
        data: `ATLAS_DATA`: optional folder with larger real data sets.
        scenarios: `ATLAS_SCENARIOS`: an extra folder of scenario files, looked at first.
    """

    home: Path
    ledger: str
    store: str
    data: Path | None
    scenarios: Path | None

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read the environment; nothing is created."""
        env = os.environ if env is None else env
        home = Path(env.get("ATLAS_HOME") or ".atlas").absolute()
        return cls(
            home=home,
            ledger=env.get("ATLAS_LEDGER") or f"sqlite:///{home / 'ledger.db'}",
            store=env.get("ATLAS_STORE") or str(home / "store"),
            data=Path(env["ATLAS_DATA"]) if env.get("ATLAS_DATA") else _shared_data(),
            scenarios=Path(env["ATLAS_SCENARIOS"]).absolute() if env.get("ATLAS_SCENARIOS") else None,
        )

    def env(self) -> dict[str, str]:
        """Return the variables that give a child process the same settings."""
        found = {"ATLAS_HOME": str(self.home), "ATLAS_LEDGER": self.ledger, "ATLAS_STORE": self.store}
        if self.data:
            found["ATLAS_DATA"] = str(self.data)
        if self.scenarios:
            found["ATLAS_SCENARIOS"] = str(self.scenarios)
        return found


def _shared_data() -> Path | None:
    beside = Path(__file__).parents[3] / "shared" / "data"
    return beside if beside.is_dir() else None
