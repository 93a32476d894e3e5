"""Artifacts: folders of files named by what is in them.

An artifact is content-addressed. Its digest covers its kind, the sha256 of its files, its metadata and the digests of
its parents, so equal digests mean equal content *and* equal lineage. Files under `observed/` (timings, rendered pages,
logs) are kept and checked, but stay outside the digest: no clock, path or host name may enter one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from components.core.errors import DataError, IntegrityError

__all__ = ["KINDS", "MANIFEST", "OBSERVED", "Artifact", "Kind", "canonical", "describe", "digest_of", "file_sha256", "parse_ref"]

Kind = Literal["Snapshot", "Dataset", "Report", "Recipe", "Model", "Blessing", "Deployment"]
KINDS: tuple[str, ...] = get_args(Kind)
MANIFEST = "manifest.json"
OBSERVED = "observed"


def canonical(value: Any) -> bytes:
    """Serialise plain JSON data to one byte string: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """Return the sha256 (hex) of `canonical(value)`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A reference to stored content; this, and never data, travels between tasks.

    Attributes:
        kind: One of `KINDS`.
        sha256: The digest of the manifest's lasting part.
        metadata: Small JSON facts about the content; part of the digest.
        parents: References of the artifacts it was made from; part of the digest.
        files: File name -> sha256, of the lasting files.
        observed: File name -> sha256, of the files outside the digest.
    """

    kind: Kind
    sha256: str
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    parents: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict, hash=False)
    observed: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def ref(self) -> str:
        """`Kind/sha256`: the same on every machine, whatever store holds it."""
        return f"{self.kind}/{self.sha256}"

    def manifest(self) -> dict[str, Any]:
        """Return the JSON object that is written, last, as `manifest.json`."""
        return {
            "kind": self.kind,
            "sha256": self.sha256,
            "metadata": dict(self.metadata),
            "parents": list(self.parents),
            "files": dict(self.files),
            "observed": dict(self.observed),
        }

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Artifact:
        """Read a manifest and check that its digest is its own.

        Raises:
            IntegrityError: The manifest is incomplete or was altered.
        """
        try:
            artifact = cls(
                kind=manifest["kind"],
                sha256=manifest["sha256"],
                metadata=manifest["metadata"],
                parents=tuple(manifest["parents"]),
                files=manifest["files"],
                observed=manifest["observed"],
            )
        except (KeyError, TypeError) as error:
            raise IntegrityError(f"a manifest lacks {error}", do="delete the folder and run the step again") from error
        if artifact.sha256 != _digest(artifact.kind, artifact.files, artifact.metadata, artifact.parents):
            raise IntegrityError(
                f"the manifest of {artifact.ref} does not hash to its own digest",
                do="restore the artifact from a backup, or run the step again",
            )
        return artifact


def describe(folder: Path, kind: Kind, metadata: Mapping[str, Any], parents: tuple[str, ...]) -> Artifact:
    """Hash what lies in `folder` into an `Artifact`; nothing is written."""
    files: dict[str, str] = {}
    observed: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise DataError(f"an artifact can't hold the symbolic link {path.name}", do="copy the file into the artifact")
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            (observed if name.startswith(f"{OBSERVED}/") else files)[name] = file_sha256(path)
    metadata = json.loads(canonical(dict(metadata)))
    parents = tuple(sorted(set(parents)))
    return Artifact(kind, _digest(kind, files, metadata, parents), metadata, parents, files, observed)


def parse_ref(ref: str) -> tuple[Kind, str]:
    """Split `Kind/sha256`.

    Raises:
        DataError: The text is not an artifact reference.
    """
    kind, _, sha256 = ref.partition("/")
    if kind not in KINDS or len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise DataError(f"'{ref}' is not an artifact reference", do=f"give KIND/SHA256 with KIND one of {', '.join(KINDS)}")
    return kind, sha256  # type: ignore[return-value]


def _digest(kind: str, files: Mapping[str, str], metadata: Mapping[str, Any], parents: tuple[str, ...]) -> str:
    return digest_of({"kind": kind, "files": dict(files), "metadata": dict(metadata), "parents": list(parents)})
