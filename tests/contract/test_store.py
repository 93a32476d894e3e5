"""The artifact store's contract: one suite, inherited for a local folder and for a real S3 server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from components.core.artifacts import Artifact, describe
from components.core.errors import ConfigError, DataError, IntegrityError, TryAgain
from components.core.settings import Settings
from components.core.store import ArtifactStore, FsspecStore, LocalStore, open_store

ROOT = Path(__file__).parents[2]
ABSENT = "Model/" + "0" * 64
PUT = "import sys, pathlib as p; from components.core import artifacts as a, settings, store; "
PUT += "f = p.Path(sys.argv[1]); store.open_store(settings.Settings.from_env()).put(f, a.describe(f, 'Model', {}, ()))"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "sub").mkdir(parents=True)
    (made / "observed").mkdir()
    (made / "model.json").write_text('{"a": 1}')
    (made / "sub" / "weights.bin").write_bytes(bytes(range(256)))
    (made / "observed" / "latency.json").write_text("[1.5]")
    return made


@pytest.fixture
def artifact(folder: Path) -> Artifact:
    return describe(folder, "Model", {"learner": "svm"}, (ABSENT,))


class StoreContract:
    """Subclasses give `settings_of` (home -> settings of one installation; all share what is stored) and `unreachable`."""

    @pytest.fixture
    def store(self, tmp_path: Path, settings_of: Callable[[Path], Settings]) -> ArtifactStore:
        return open_store(settings_of(tmp_path / "home"))

    @pytest.fixture
    def elsewhere(self, tmp_path: Path, settings_of: Callable[[Path], Settings]) -> ArtifactStore:
        """The same store, as another machine sees it."""
        return open_store(settings_of(tmp_path / "other"))

    def files(self, store: ArtifactStore, ref: str) -> dict[str, Any]:
        """Name -> (driver, path) of what is stored for an artifact."""
        driver, base = fsspec.core.url_to_fs(store.uri(ref))
        driver.invalidate_cache()
        return {path[len(base) + 1 :]: (driver, path) for path in driver.find(base)}

    def test_what_is_put_can_be_fetched(self, store: ArtifactStore, elsewhere: ArtifactStore, folder: Path, artifact: Artifact) -> None:
        store.put(folder, artifact)
        for reader in (store, elsewhere):
            assert reader.get(artifact.ref) == artifact
            fetched = reader.fetch(artifact.ref)
            assert {path.relative_to(fetched).as_posix() for path in fetched.rglob("*") if path.is_file()} == {
                "manifest.json",
                *artifact.files,
                *artifact.observed,
            }
            assert (fetched / "sub" / "weights.bin").read_bytes() == bytes(range(256))
        assert store.uri(artifact.ref) == elsewhere.uri(artifact.ref)
        assert store.uri(artifact.ref).endswith(f"/artifacts/{artifact.ref}")

    def test_putting_again_changes_nothing(self, store: ArtifactStore, folder: Path, artifact: Artifact) -> None:
        store.put(folder, artifact)
        before = {
            name: (driver.info(path)["size"], driver.modified(path)) for name, (driver, path) in self.files(store, artifact.ref).items()
        }
        (folder / "observed" / "latency.json").write_text("[2.5]")  # another run of the same step observes something else
        again = describe(folder, "Model", {"learner": "svm"}, (ABSENT,))
        assert again.ref == artifact.ref
        store.put(folder, again)
        after = {
            name: (driver.info(path)["size"], driver.modified(path)) for name, (driver, path) in self.files(store, artifact.ref).items()
        }
        assert after == before
        assert (store.fetch(artifact.ref) / "observed" / "latency.json").read_text() == "[1.5]"

    def test_an_artifact_without_files(self, store: ArtifactStore, elsewhere: ArtifactStore, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        empty = describe(tmp_path / "empty", "Report", {}, ())
        store.put(tmp_path / "empty", empty)
        assert elsewhere.fetch(empty.ref).is_dir()

    @pytest.mark.parametrize("name", ["model.json", "sub/weights.bin", "observed/latency.json"])
    @pytest.mark.parametrize("harm", ["altered", "missing"])
    def test_a_harmed_file_is_found(
        self, store: ArtifactStore, elsewhere: ArtifactStore, folder: Path, artifact: Artifact, name: str, harm: str
    ) -> None:
        store.put(folder, artifact)
        driver, path = self.files(store, artifact.ref)[name]
        if harm == "altered":
            driver.pipe_file(path, b"something else")
        else:
            driver.rm_file(path)
        with pytest.raises(IntegrityError, match=f"{name} of {artifact.ref} is missing or altered"):
            elsewhere.fetch(artifact.ref)

    @pytest.mark.parametrize("harm", ["metadata", "parents", "files", "of another", "no JSON", "no text", "incomplete", "outside"])
    def test_an_altered_manifest_is_found(
        self, store: ArtifactStore, elsewhere: ArtifactStore, folder: Path, artifact: Artifact, harm: str
    ) -> None:
        store.put(folder, artifact)
        driver, path = self.files(store, artifact.ref)["manifest.json"]
        manifest = json.loads(driver.cat_file(path))
        other = describe(folder, "Model", {"learner": "mlp"}, ()).manifest()
        harmed = {
            "metadata": {**manifest, "metadata": {"learner": "better than it is"}},
            "parents": {**manifest, "parents": []},
            "files": {**manifest, "files": {}},
            "of another": other,
            "incomplete": {"kind": "Model"},
            "outside": {**manifest, "observed": {"../../../../escaped": "0" * 64}},
        }
        spoilt = {"no JSON": b"{", "no text": b"\xff\xfe\x00"}
        driver.pipe_file(path, spoilt[harm] if harm in spoilt else json.dumps(harmed[harm]).encode())
        with pytest.raises(IntegrityError):
            elsewhere.get(artifact.ref)
        with pytest.raises(IntegrityError):
            elsewhere.fetch(artifact.ref)

    def test_a_missing_artifact_is_a_clear_error(self, store: ArtifactStore) -> None:
        for ask in (store.get, store.fetch):
            with pytest.raises(DataError, match=f"has no artifact {ABSENT}"):
                ask(ABSENT)
            with pytest.raises(DataError, match="is not an artifact reference"):
                ask("Model/../../etc")

    def test_steps_are_remembered_while_their_outputs_exist(
        self, store: ArtifactStore, elsewhere: ArtifactStore, folder: Path, artifact: Artifact
    ) -> None:
        key = "ab" + "0" * 62
        assert store.recorded(key) is None
        store.put(folder, artifact)
        for _ in range(2):
            store.record(key, {"model": artifact.ref})
            assert elsewhere.recorded(key) == {"model": artifact.ref}
        driver, path = self.files(store, artifact.ref)["manifest.json"]
        driver.rm_file(path)
        assert elsewhere.recorded(key) is None

    @pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]"])
    def test_a_damaged_step_record_counts_as_none(self, store: ArtifactStore, text: bytes) -> None:
        key = "cd" + "0" * 62
        store.record(key, {"model": ABSENT})
        driver, base = fsspec.core.url_to_fs(store.uri(ABSENT).partition("/artifacts/")[0])
        driver.pipe_file(f"{base}/steps/cd/{key}.json", text)
        assert store.recorded(key) is None

    def test_writers_of_one_artifact_do_not_disturb_each_other(
        self, tmp_path: Path, settings_of: Callable[[Path], Settings], folder: Path
    ) -> None:
        def put(number: int) -> str:
            mine = tmp_path / f"made{number}"
            shutil.copytree(folder, mine)
            (mine / "observed" / "latency.json").write_text(f"[{number}]")  # same digest, other observations
            made = describe(mine, "Model", {}, ())
            open_store(settings_of(tmp_path / f"home{number}")).put(mine, made)
            return made.ref

        with ThreadPoolExecutor(8) as pool:
            (ref,) = set(pool.map(put, range(8)))
        reader = open_store(settings_of(tmp_path / "reader"))
        assert json.loads((reader.fetch(ref) / "observed" / "latency.json").read_text())[0] in range(8)

    def test_a_put_killed_half_way_is_invisible(self, tmp_path: Path, settings_of: Callable[[Path], Settings]) -> None:
        made = tmp_path / "many"
        made.mkdir()
        for number in range(self.many):
            (made / f"{number:04}.txt").write_text(str(number))
        artifact = describe(made, "Model", {}, ())
        settings = settings_of(tmp_path / "home")
        driver, root = fsspec.core.url_to_fs(settings.store)
        child = subprocess.Popen([sys.executable, "-c", PUT, str(made)], env={**os.environ, **settings.env(), "PYTHONPATH": str(ROOT)})
        give_up = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < give_up:
            driver.invalidate_cache()
            if driver.find(root):
                break
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, "the put ended before it was killed: raise `many`"
        store = open_store(settings)
        assert not [path for path in driver.find(root) if path.endswith("manifest.json")]
        with pytest.raises(DataError, match="has no artifact"):
            store.fetch(artifact.ref)
        store.put(made, artifact)
        assert len(list(open_store(settings_of(tmp_path / "other")).fetch(artifact.ref).iterdir())) == self.many + 1

    many = 2000

    def test_an_unreachable_store_is_tried_again_later(self, unreachable: ArtifactStore, folder: Path, artifact: Artifact) -> None:
        for call in (
            lambda: unreachable.put(folder, artifact),
            lambda: unreachable.get(artifact.ref),
            lambda: unreachable.fetch(artifact.ref),
            lambda: unreachable.record("ab", {}),
            lambda: unreachable.recorded("ab"),
        ):
            with pytest.raises(TryAgain, match="can't be used"):
                call()


class TestLocalStore(StoreContract):
    @pytest.fixture
    def settings_of(self, tmp_path: Path) -> Callable[[Path], Settings]:
        return lambda home: Settings.from_env({"ATLAS_HOME": str(home), "ATLAS_STORE": str(tmp_path / "store")})

    @pytest.fixture
    def unreachable(self, tmp_path: Path) -> ArtifactStore:
        (tmp_path / "file").write_text("not a folder")
        return LocalStore(tmp_path / "file" / "store")

    def test_a_full_disk_is_tried_again_later_and_leaves_nothing(self, small_disk: Path, folder: Path) -> None:
        (folder / "large.bin").write_bytes(os.urandom(2 << 20))
        artifact = describe(folder, "Model", {}, ())
        store = LocalStore(small_disk / "store")
        with pytest.raises(TryAgain, match="No space left"):
            store.put(folder, artifact)
        assert not [path for path in small_disk.rglob("*") if path.is_file()]
        full = (small_disk / "ballast").open("wb")
        with full, pytest.raises(OSError, match="No space left"):
            full.write(b"0" * (2 << 20))
        with pytest.raises(TryAgain, match="No space left"):
            store.record("ab" + "0" * 62, {"model": ABSENT})
        assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["ballast"]


class TestS3(StoreContract):
    many = 60

    @pytest.fixture
    def settings_of(self, s3: str) -> Callable[[Path], Settings]:
        return lambda home: Settings.from_env({"ATLAS_HOME": str(home), "ATLAS_STORE": s3})

    @pytest.fixture
    def unreachable(self, s3: str, tmp_path: Path) -> Iterator[ArtifactStore]:
        quick = {"retries": {"max_attempts": 1}, "connect_timeout": 1}
        store = FsspecStore(s3, tmp_path / "cache", endpoint_url="http://127.0.0.1:9", config_kwargs=quick)
        store.fs.retries = 1
        return store

    def test_a_full_disk_is_tried_again_later(self, s3: str, small_disk: Path, folder: Path) -> None:
        (folder / "large.bin").write_bytes(os.urandom(2 << 20))
        artifact = describe(folder, "Model", {}, ())
        store = FsspecStore(s3, small_disk / "cache")
        store.put(folder, artifact)
        with pytest.raises(TryAgain, match="No space left"):
            store.fetch(artifact.ref)
        assert not [path for path in small_disk.rglob("*") if path.is_file()]

    def test_a_bucket_that_is_not_there(self, s3: str, tmp_path: Path, folder: Path, artifact: Artifact) -> None:
        store = FsspecStore("s3://nobody-made-this/x", tmp_path / "cache")
        with pytest.raises(TryAgain, match="bucket does not exist"):
            store.put(folder, artifact)


def test_an_unknown_scheme_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ATLAS_STORE is 'nowhere://x'"):
        open_store(Settings.from_env({"ATLAS_HOME": str(tmp_path), "ATLAS_STORE": "nowhere://x"}))
