"""Artifact stores: a local folder, or anything fsspec reaches (`s3://`, `gs://`, …).

Layout, the same in both: `artifacts/KIND/SHA256/{files…, manifest.json}` and `steps/KEY.json`. An artifact exists once its
manifest does, and the manifest comes last, so a killed writer leaves nothing that a reader could take for whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from components.core.artifacts import MANIFEST, Artifact, file_sha256, parse_ref
from components.core.errors import AtlasError, ConfigError, DataError, IntegrityError, TryAgain

if TYPE_CHECKING:
    from components.core.settings import Settings

__all__ = ["ArtifactStore", "FsspecStore", "LocalStore", "open_store"]


class ArtifactStore(Protocol):
    """Where artifacts and step records live. Every implementation passes `tests/contract/test_store.py`."""

    def put(self, folder: Path, artifact: Artifact) -> None:
        """Keep the files of `folder` as `artifact`. Putting the same artifact again changes nothing."""

    def get(self, ref: str) -> Artifact:
        """Return the artifact's manifest, checked. Raises DataError when there is none."""

    def fetch(self, ref: str) -> Path:
        """Return a local folder with the artifact's files, each checked against its sha256."""

    def record(self, key: str, outputs: Mapping[str, str]) -> None:
        """Remember, atomically, that the step with this key made these outputs (port -> reference)."""

    def recorded(self, key: str) -> dict[str, str] | None:
        """Return what `record` remembered, if every artifact named is still there."""

    def uri(self, ref: str) -> str:
        """Return where the artifact's files are, for people and for Kubeflow."""


def open_store(settings: Settings) -> ArtifactStore:
    """Open the store that the settings name.

    Raises:
        ConfigError: The URL's scheme is unknown, or its driver is not installed.
    """
    if "://" not in settings.store:
        return LocalStore(Path(settings.store))
    return FsspecStore(settings.store, cache=settings.home / "cache")


class LocalStore:
    """A folder on one machine, or on a volume that all of them mount."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def put(self, folder: Path, artifact: Artifact) -> None:
        target = self._folder(artifact.ref)
        if (target / MANIFEST).exists():
            return
        aside = self.root / "tmp" / uuid.uuid4().hex
        try:
            aside.mkdir(parents=True)
            for name in [*artifact.files, *artifact.observed]:
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, aside / name)
            _write_synced(aside / MANIFEST, json.dumps(artifact.manifest(), indent=1, sort_keys=True).encode())
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and not (target / MANIFEST).exists():
                shutil.rmtree(target)
            try:
                aside.rename(target)
            except OSError:
                if not (target / MANIFEST).exists():  # else another process put the same content first
                    raise
        except OSError as error:
            raise _unavailable(self.root, error) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def get(self, ref: str) -> Artifact:
        try:
            text = (self._folder(ref) / MANIFEST).read_bytes()
        except FileNotFoundError:
            raise _missing(ref, str(self.root)) from None
        except OSError as error:
            raise _unavailable(self.root, error) from error
        return _parse(ref, text)

    def fetch(self, ref: str) -> Path:
        folder = self._folder(ref)
        _verify(folder, self.get(ref))
        return folder

    def record(self, key: str, outputs: Mapping[str, str]) -> None:
        path = self._step(key)
        aside = path.with_suffix(f".{uuid.uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_synced(aside, json.dumps(dict(outputs), sort_keys=True).encode())
            aside.replace(path)
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            raise _unavailable(self.root, error) from error

    def recorded(self, key: str) -> dict[str, str] | None:
        try:
            outputs = _outputs(self._step(key).read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unavailable(self.root, error) from error
        return outputs if outputs is not None and all((self._folder(ref) / MANIFEST).exists() for ref in outputs.values()) else None

    def uri(self, ref: str) -> str:
        return str(self._folder(ref))

    def _folder(self, ref: str) -> Path:
        kind, sha256 = parse_ref(ref)
        return self.root / "artifacts" / kind / sha256

    def _step(self, key: str) -> Path:
        return self.root / "steps" / key[:2] / f"{key}.json"


class FsspecStore:
    """An object store. Object stores have no rename: content addressing makes repeated uploads harmless, the manifest is last.

    Args:
        url: Such as `s3://bucket/prefix`. Credentials come from the driver's own environment variables.
        cache: Local folder that `fetch` downloads into.
    """

    def __init__(self, url: str, cache: Path, **options: Any) -> None:
        import fsspec

        try:
            self.fs, self.root = fsspec.core.url_to_fs(url, **options)
        except (ValueError, ImportError) as error:
            raise ConfigError(
                f"ATLAS_STORE is '{url}': {error}", do="use a folder, or a scheme whose fsspec driver is installed"
            ) from error
        self.protocol = url.partition("://")[0]
        self.cache = LocalStore(cache)

    def put(self, folder: Path, artifact: Artifact) -> None:
        base = self._base(artifact.ref)
        with self._driver():
            if self.fs.exists(f"{base}/{MANIFEST}"):
                return
            for name in artifact.files:
                self.fs.put_file(str(folder / name), f"{base}/{name}")
            # Two writers of one artifact differ in what they observed: the first file stays, and either manifest describes it.
            observed = {name: self._put_first(folder / name, f"{base}/{name}") for name in artifact.observed}
            manifest = {**artifact.manifest(), "observed": observed}
            self.fs.pipe_file(f"{base}/{MANIFEST}", json.dumps(manifest, indent=1, sort_keys=True).encode())

    def get(self, ref: str) -> Artifact:
        with self._driver():
            try:
                return _parse(ref, self.fs.cat_file(f"{self._base(ref)}/{MANIFEST}"))
            except FileNotFoundError:
                raise _missing(ref, self.root) from None

    def fetch(self, ref: str) -> Path:
        try:
            return self.cache.fetch(ref)
        except DataError:
            artifact = self.get(ref)
        aside = self.cache.root / "tmp" / uuid.uuid4().hex
        try:
            with self._driver():
                for name in [*artifact.files, *artifact.observed]:
                    (aside / name).parent.mkdir(parents=True, exist_ok=True)
                    with suppress(FileNotFoundError):  # `_verify` says which one
                        self.fs.get_file(f"{self._base(ref)}/{name}", str(aside / name))
                aside.mkdir(parents=True, exist_ok=True)
                _verify(aside, artifact, self.uri(ref))
                self.cache.put(aside, artifact)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return self.cache.fetch(ref)

    def record(self, key: str, outputs: Mapping[str, str]) -> None:
        with self._driver():
            self.fs.pipe_file(self._step(key), json.dumps(dict(outputs), sort_keys=True).encode())

    def recorded(self, key: str) -> dict[str, str] | None:
        with self._driver():
            try:
                outputs = _outputs(self.fs.cat_file(self._step(key)))
            except FileNotFoundError:
                return None
            return (
                outputs
                if outputs is not None and all(self.fs.exists(f"{self._base(ref)}/{MANIFEST}") for ref in outputs.values())
                else None
            )

    def uri(self, ref: str) -> str:
        return f"{self.protocol}://{self._base(ref)}"

    def _put_first(self, path: Path, target: str) -> str:
        """Upload a file unless there is one, and return the sha256 of the one that is there."""
        try:
            self.fs.put_file(str(path), target, mode="create")
        except FileExistsError:
            return hashlib.sha256(self.fs.cat_file(target)).hexdigest()
        return file_sha256(path)

    @contextmanager
    def _driver(self) -> Iterator[None]:
        try:
            yield
        except AtlasError:
            raise
        except Exception as error:  # drivers have their own: botocore's connection errors are no OSError
            raise _unavailable(self.root, error) from error

    def _base(self, ref: str) -> str:
        kind, sha256 = parse_ref(ref)
        return f"{self.root}/artifacts/{kind}/{sha256}"

    def _step(self, key: str) -> str:
        return f"{self.root}/steps/{key[:2]}/{key}.json"


def _parse(ref: str, text: bytes) -> Artifact:
    try:
        artifact = Artifact.from_manifest(json.loads(text))
    except ValueError as error:
        raise IntegrityError(f"the manifest of {ref} is not JSON", do="delete the folder and run the step again") from error
    if artifact.ref != ref:
        raise IntegrityError(f"{ref} holds the manifest of {artifact.ref}", do="delete the folder and run the step again")
    for name in [*artifact.files, *artifact.observed]:
        if name.startswith("/") or ".." in name.split("/"):  # a store that others can write to must not reach outside
            raise IntegrityError(f"the manifest of {ref} names the file '{name}'", do="find out who wrote it")
    return artifact


def _outputs(text: bytes) -> dict[str, str] | None:
    """Read a step record; a damaged one counts as none, so that the step runs again."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _verify(folder: Path, artifact: Artifact, place: str | None = None) -> None:
    for name, sha256 in {**artifact.files, **artifact.observed}.items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != sha256:
            raise IntegrityError(
                f"file {name} of {artifact.ref} is missing or altered", do=f"delete {place or folder} and run the step again"
            )


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _missing(ref: str, root: str) -> DataError:
    return DataError(f"the store {root} has no artifact {ref}", do="check ATLAS_STORE, or run the step that makes it")


def _unavailable(root: object, error: Exception) -> TryAgain:
    return TryAgain(
        f"the store {root} can't be used: {error}", do="free some space or bring the store back, then run again: finished steps are kept"
    )
