"""The systems that `atlas bench automl` compares: their scripts, and environments of their own below ATLAS_HOME."""

from __future__ import annotations

import ast
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components.core.errors import ConfigError, TryAgain
from components.core.step import code_version

__all__ = ["OURS", "SYSTEMS", "System", "environment", "interpreter", "version"]

logger = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "benchmarks" / "automl"
OURS = "ours"
_READY = ".ready"
_TOLD = {"SSL_CERT_FILE": "PIP_CERT", "UV_FIND_LINKS": "PIP_FIND_LINKS"}
"""uv reads its own variables: it is handed what pip was told about certificates and local wheels."""


@dataclass(frozen=True)
class System:
    """One of those who are compared.

    Attributes:
        name: `ours`, or the rival's.
        script: Below tests/benchmarks/automl; what it must do is in protocol.py there.
        pins: Its environment's requirements, beside the script; None: it runs in ATLAS's own.
        budgeted: Whether a budget changes what it does; if not, it runs once for all budgets.
        warm: Whether it can use what it learned yesterday.
        scripts: The folder of script, pins and protocol.py.
    """

    name: str
    script: str
    pins: str | None = None
    budgeted: bool = True
    warm: bool = True
    scripts: Path = SCRIPTS


SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        System(OURS, "ours.py"),
        System("flaml", "run_flaml.py", "flaml.txt"),
        System("autogluon", "run_autogluon.py", "autogluon.txt"),
        System("lightgbm", "run_lightgbm.py", budgeted=False, warm=False),
    )
}


def version(system: System) -> str:
    """Return 12 hexadecimal digits that change with whatever decides a system's figures: script, protocol, pins; ours: all steps.

    Comments and layout of a script do not count.

    Raises:
        ConfigError: The scripts are not there: this is no checkout.
    """
    if not system.scripts.is_dir():
        raise ConfigError(f"there is no {system.scripts}", do="run `atlas bench automl` from a checkout of the repository")
    digest = hashlib.sha256()
    for script in ("protocol.py", system.script):
        digest.update(ast.dump(ast.parse((system.scripts / script).read_text())).encode())
    if system.pins:
        digest.update((system.scripts / system.pins).read_bytes())
    if system.name == OURS:
        digest.update(code_version().encode())
    return digest.hexdigest()[:12]


def environment(system: System) -> dict[str, str]:
    """Return the environment variables of a system's process: this one's, without what could lead it to our packages.

    Bytecode may be written: imports are on the clock, compiling the same sources again for every run need not be.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")}
    return kept | {"PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"} | ({"PYTHONPATH": str(ROOT)} if system.name == OURS else {})


def interpreter(system: System, folder: Path) -> Path:
    """Return the Python that runs a system; its environment is made in `folder` when it is not there yet.

    Raises:
        ConfigError: There is no uv.
        TryAgain: The environment could not be installed.
    """
    if system.pins is None:
        return Path(sys.executable)
    pins = system.scripts / system.pins
    home = folder / f"{system.name}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"
    python = home / "bin" / "python"
    if not (home / _READY).is_file():
        logger.info("installing %s into %s", system.name, home)
        shutil.rmtree(home, ignore_errors=True)
        _uv("venv", "--quiet", "--python", sys.executable, str(home))
        _uv("pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), "--requirements", str(pins))
        (home / _READY).touch()
    return python


def _uv(*words: str) -> None:
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if uv is None:
        raise ConfigError("there is no uv to install the rivals with", do="pip install uv")
    told = {name: os.environ[pip] for name, pip in _TOLD.items() if name not in os.environ and pip in os.environ}
    done = subprocess.run([uv, *words], env=os.environ | told, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TryAgain(f"uv {words[0]} failed: {done.stderr.strip()[-2000:]}", do="check the network, then run the same command again")
