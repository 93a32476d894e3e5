"""Packing: one Bento a model, named by its content, that serves without this installation's store.

A Bento holds `serving/`, the kernel, the model format, and the model itself in a store of its own (`store/`), so
`bentoml export` of its tag is all that another machine needs. Its files are listed with their sha256: that list, not the Bento's
own manifest with its clock, is what the Deployment artifact vouches for.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from components.core.artifacts import Artifact, digest_of, file_sha256
from components.core.errors import TryAgain
from components.core.store import LocalStore

__all__ = ["Bento", "bento_environment", "pack"]

logger = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parents[2]
_CODE = ("components/__init__.py", "components/core", "components/model", "serving")
_PACKAGES = (
    "alembic", "fsspec", "httpx", "lightgbm", "numpy", "onnxruntime", "pillow", "prometheus-client", "psycopg", "pyarrow", "pydantic",
    "pyyaml", "sqlalchemy", "starlette",
)  # fmt: skip
_BUILD_S = 300


@dataclass(frozen=True)
class Bento:
    """A packed model.

    Attributes:
        tag: `atlas-SCENARIO:VERSION`; the version is made of the model's digest and the files' digest.
        files: Name inside the Bento's source -> sha256.
        source: The folder of its source.
    """

    tag: str
    files: Mapping[str, str]
    source: Path

    @property
    def sha256(self) -> str:
        """The digest of the list of files."""
        return digest_of(dict(self.files))


def bento_environment(home: Path) -> dict[str, str]:
    """Return the variables for every call of BentoML: its own folder below `home`, and no reports to its makers."""
    return {"BENTOML_HOME": str(home / "bentoml"), "BENTOML_DO_NOT_TRACK": "True", "PYTHONUNBUFFERED": "1"}


def pack(model: Artifact, folder: Path, scenario: str, task: Mapping[str, Any], *, home: Path) -> Bento:
    """Build the Bento, or find the one that an earlier, perhaps killed, run has built.

    Args:
        model: The model's artifact.
        folder: Its files.
        scenario: The scenario's name.
        task: The scenario's task, as plain JSON data.
        home: The installation's home.

    Raises:
        TryAgain: BentoML could not build it.
    """
    with tempfile.TemporaryDirectory(prefix="atlas-bento-") as stage:  # not below home: BentoML refuses a hidden folder such as .atlas
        return _pack(Path(stage), model, folder, {"name": scenario, "task": dict(task)}, home)


def _pack(stage: Path, model: Artifact, folder: Path, scenario: Mapping[str, Any], home: Path) -> Bento:
    _stage(stage, model, folder, scenario)
    files = _files(stage)
    name, number = f"atlas-{scenario['name'].replace('_', '-')}", f"{model.sha256[:16]}-{digest_of(files)[:8]}"
    target = home / "bentoml" / "bentos" / name / number
    bento = Bento(f"{name}:{number}", files, target / "src")
    if target.exists() and _holds(bento.source, files):
        logger.info("the Bento %s is packed already", bento.tag)
        return bento
    shutil.rmtree(target, ignore_errors=True)  # what a killed build left
    (stage / "bentofile.yaml").write_text(yaml.safe_dump(_bentofile(name)))
    _build(stage, number, home)
    if not _holds(bento.source, files):
        raise TryAgain(f"BentoML built {bento.tag}, but not all of its files are there", do="see whether the disk is full, then run again")
    return bento


def _stage(stage: Path, model: Artifact, folder: Path, scenario: Mapping[str, Any]) -> None:
    for name in _CODE:
        source, target = _ROOT / name, stage / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copyfile(source, target)
    # Without what was observed: timings and logs are not needed to serve.
    lasting = Artifact(model.kind, model.sha256, model.metadata, model.parents, model.files)
    LocalStore(stage / "store").put(folder, lasting)
    (stage / "scenario.json").write_text(json.dumps(scenario, sort_keys=True))


def _files(stage: Path) -> dict[str, str]:
    return {path.relative_to(stage).as_posix(): file_sha256(path) for path in sorted(stage.rglob("*")) if path.is_file()}


def _holds(source: Path, files: Mapping[str, str]) -> bool:
    return all((source / name).is_file() and file_sha256(source / name) == sha256 for name, sha256 in files.items())


def _bentofile(name: str) -> dict[str, Any]:
    python = {"packages": sorted(filter(None, map(_pinned, _PACKAGES))), "lock_packages": False, "pack_git_packages": False}
    include = [*(f"{code}/**" if not code.endswith(".py") else code for code in _CODE), "store/**", "scenario.json"]
    return {"service": "serving.service:Atlas", "name": name, "include": include, "python": python}


def _pinned(package: str) -> str | None:
    try:
        return f"{package}=={version(package)}"
    except PackageNotFoundError:  # a model of another runtime does not need it
        return None


def _build(stage: Path, number: str, home: Path) -> None:
    (home / "bentoml").mkdir(parents=True, exist_ok=True)
    env = {**os.environ, **bento_environment(home)}
    env.pop("PYTHONPATH", None)  # the staged code, not this tree, is what gets packed and imported
    line = [sys.executable, "-m", "bentoml", "build", ".", "--version", number, "-o", "tag"]
    try:
        built = subprocess.run(line, cwd=stage, env=env, capture_output=True, text=True, timeout=_BUILD_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise TryAgain(f"BentoML did not build in {_BUILD_S} s", do="run again when the machine is less busy") from error
    if built.returncode:
        last = "\n".join((built.stderr or built.stdout).strip().splitlines()[-8:])
        raise TryAgain(f"BentoML could not build: {last}", do="mend what it names, then run again")
