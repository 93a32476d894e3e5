"""Starting the server: the command, its environment, and `python -m serving.launch`, which becomes the server.

    python -m serving.launch --scenario-json @scenario.json --port 3000 [--model Model/SHA256]

ATLAS_HOME, ATLAS_LEDGER, ATLAS_STORE and ATLAS_TOKEN are read from the environment. The process is replaced by BentoML, so the
pid is the server's; SIGTERM ends it after the requests in flight.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.core.errors import AtlasError
from components.core.settings import Settings
from serving.config import MODEL, SCENARIO, Config

__all__ = ["command", "environment", "main"]

_ROOT = Path(__file__).resolve().parent.parent
_SERVICE = "serving.service:Atlas"
_LONGEST = 100_000  # bytes; Linux takes 128 KiB in one variable


def command(port: int) -> list[str]:
    """Return the command that serves on a loopback port; it needs `environment`."""
    where = ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(_ROOT)]
    return [sys.executable, "-m", "bentoml", "serve", _SERVICE, *where, "--timeout-keep-alive", "75", "--quiet"]


def environment(
    scenario: Mapping[str, Any] | str, settings: Settings, *, model: str | None = None, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the whole environment of the server's process, and make the folder that BentoML wants.

    Args:
        scenario: The scenario as plain JSON data (`name`, `task`, `serving`; other keys are ignored), its text, or `@FILE`.
        settings: The installation's places.
        model: Serve this model only, and write nothing.
        base: What else to pass on; by default this process's environment.

    Raises:
        ConfigError: See `Config.from_env`.
    """
    env = {**(os.environ if base is None else base), **settings.env()}
    env[SCENARIO] = _text(scenario, settings)
    env.pop(MODEL, None)
    if model:
        env[MODEL] = model
    Config.from_env(env)  # a wrong setting must fail here, where somebody reads it
    env["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, [env.get("PYTHONPATH")])])
    bentos = settings.home / "bentoml"
    bentos.mkdir(parents=True, exist_ok=True)
    env["BENTOML_HOME"] = str(bentos)
    env |= {"BENTOML_DO_NOT_TRACK": "True", "ORT_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # one row at a time gains nothing from more
        env.setdefault(threads, "1")
    return env


def main(argv: Sequence[str] | None = None) -> int:
    """Become the server.

    Returns:
        The exit code of a refusal; on success this process is BentoML and nothing returns.
    """
    parser = argparse.ArgumentParser(prog="python -m serving.launch", description="Serve a scenario's champion on loopback.")
    parser.add_argument("--scenario-json", required=True, metavar="JSON|@FILE", help="the scenario: name, task, serving section")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", metavar="Model/SHA256", help="serve this model only, and write nothing")
    given = parser.parse_args(argv)
    try:
        env = environment(given.scenario_json, Settings.from_env(), model=given.model)
    except AtlasError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    line = command(given.port)
    os.execve(line[0], line, env)


def _text(scenario: Mapping[str, Any] | str, settings: Settings) -> str:
    if isinstance(scenario, str):
        return f"@{Path(scenario[1:]).absolute()}" if scenario.startswith("@") else scenario
    text = json.dumps({key: scenario[key] for key in ("name", "task", "serving") if key in scenario})
    if len(text) < _LONGEST:
        return text
    path = settings.home / "serving" / f"{scenario['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return f"@{path}"


if __name__ == "__main__":
    sys.exit(main())
