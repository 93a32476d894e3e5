"""What the serve image runs: the server of ATLAS_SCENARIO, on every interface of the container. It waits for a first champion."""

from __future__ import annotations

import os
import sys

from components.core.errors import AtlasError
from components.core.settings import Settings
from pipelines import scenario
from serving.launch import command, environment


def main() -> int:
    """Become the server; return the exit code of a refusal."""
    settings = Settings.from_env()
    try:
        chosen = scenario.find(os.environ.get("ATLAS_SCENARIO", ""), settings)
        env = environment(chosen.serving_json(), settings)
    except AtlasError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    (settings.home / "bentoml").mkdir(parents=True, exist_ok=True)
    line = [*command(3000), "--host", "0.0.0.0"]
    os.execve(line[0], line, env)


if __name__ == "__main__":
    sys.exit(main())
