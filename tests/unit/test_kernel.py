"""The kernel: artifacts and their digests, step keys, the one entry, and what its half may not import."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.core.artifacts import Artifact, describe, parse_ref
from components.core.contract import STEPS
from components.core.errors import (
    AtlasError,
    ConfigError,
    ContractError,
    DataError,
    IntegrityError,
    NothingToDo,
    Refused,
    TryAgain,
    nearest,
)
from components.core.items import item_from_json
from components.core.params import Tabular, TextLine
from components.core.settings import Settings
from components.core.step import execute, load_spec, parse_params, step_key

HEAVY = ("torch", "optuna", "bentoml", "great_expectations", "feast", "lightgbm", "deepspeed", "airflow", "kfp")
PARAMS: dict[str, Any] = {
    "scenario": "shop",
    "task": {"kind": "tabular", "problem": "regression", "features": {"size": "number"}},
    "source": {"reader": "table", "options": {"path": "/nonexistent.parquet", "label": "price"}},
}


class TestArtifacts:
    def folder(self, tmp_path: Path, name: str = "a", **files: str) -> Path:
        folder = tmp_path / name
        for file, text in files.items():
            path = folder / file.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder

    def test_digest_covers_files_metadata_kind_and_parents(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, data="x")
        parent = "Dataset/" + "0" * 64
        same = describe(folder, "Report", {"rows": 1}, (parent,))
        assert same == describe(folder, "Report", {"rows": 1}, (parent, parent))
        others = [
            describe(folder, "Report", {"rows": 2}, (parent,)),
            describe(folder, "Dataset", {"rows": 1}, (parent,)),
            describe(folder, "Report", {"rows": 1}, ()),
            describe(self.folder(tmp_path, "b", data="y"), "Report", {"rows": 1}, (parent,)),
        ]
        assert same.sha256 not in {other.sha256 for other in others}

    def test_what_was_observed_is_kept_but_not_digested(self, tmp_path: Path) -> None:
        fast = describe(self.folder(tmp_path, "a", data="x", observed__ms="1"), "Report", {}, ())
        slow = describe(self.folder(tmp_path, "b", data="x", observed__ms="2"), "Report", {}, ())
        assert fast.sha256 == slow.sha256
        assert fast.observed != slow.observed
        assert set(fast.observed) == {"observed/ms"}

    def test_a_manifest_that_was_altered_is_refused(self, tmp_path: Path) -> None:
        manifest = describe(self.folder(tmp_path, data="x"), "Blessing", {"accepted": False}, ()).manifest()
        assert Artifact.from_manifest(manifest).metadata == {"accepted": False}
        with pytest.raises(IntegrityError, match="own digest"):
            Artifact.from_manifest(manifest | {"metadata": {"accepted": True}})

    def test_symbolic_links_are_refused(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, data="x")
        (folder / "link").symlink_to("/etc/hostname")
        with pytest.raises(DataError, match="symbolic link"):
            describe(folder, "Report", {}, ())

    @pytest.mark.parametrize("ref", ["", "Model", "Model/abc", "Sculpture/" + "0" * 64, "Model/" + "g" * 64, "Model/../" + "0" * 61])
    def test_a_reference_is_a_kind_and_a_digest(self, ref: str) -> None:
        with pytest.raises(DataError, match="not an artifact reference"):
            parse_ref(ref)


class TestItems:
    TASK = Tabular(problem="binary", classes=("no", "yes"), features={"a": "number", "b": "category"})

    @given(st.none() | st.floats(allow_nan=False, allow_infinity=False), st.none() | st.text(max_size=50))
    def test_equal_features_are_one_item_in_any_order(self, a: float | None, b: str | None) -> None:
        item = item_from_json(self.TASK, {"features": {"a": a, "b": b}})
        assert item == item_from_json(self.TASK, {"features": {"b": b, "a": a}})
        assert item.row() == {"a": a, "b": b}

    @pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), True, "7", [1]])
    def test_a_number_is_a_finite_number(self, value: Any) -> None:
        with pytest.raises(DataError, match="feature 'a'"):
            item_from_json(self.TASK, {"features": {"a": value, "b": None}})

    @pytest.mark.parametrize(("image", "says"), [("%%%", "base64"), ("aGVsbG8=", "PNG nor JPEG"), (None, "base64"), (7, "base64")])
    def test_an_image_is_a_base64_png_or_jpeg(self, image: Any, says: str) -> None:
        with pytest.raises(DataError, match=says):
            item_from_json(TextLine(), {"image": image})


class TestSteps:
    @pytest.mark.parametrize("step", STEPS)
    def test_help_prints_ports_and_params(self, step: str, capsys: pytest.CaptureFixture[str]) -> None:
        from components.__main__ import main

        with pytest.raises(SystemExit) as ended:
            main([step, "--help"])
        assert ended.value.code == 0
        said, spec = capsys.readouterr().out, load_spec(step)
        for name in [*spec.inputs, *spec.outputs, *spec.params.model_fields]:
            assert name in said

    def test_the_key_depends_on_params_inputs_and_where_it_says_so_on_the_run(self) -> None:
        ingest, merge = load_spec("ingest"), load_spec("label_merge")
        params = parse_params(ingest, PARAMS)
        assert step_key(ingest, params, {}, "r1") != step_key(ingest, params, {}, "r2")
        merged = parse_params(merge, {key: PARAMS[key] for key in ("scenario", "task")})
        assert step_key(merge, merged, {"dataset": "d"}, "r1") == step_key(merge, merged, {"dataset": "d"}, "r2")
        assert step_key(merge, merged, {"dataset": "d"}, "r1") != step_key(merge, merged, {"dataset": "e"}, "r1")

    def test_the_order_of_keys_changes_nothing(self) -> None:
        features = {"b": "number", "a": "category"}
        one, other = (PARAMS | {"task": PARAMS["task"] | {"features": f}} for f in (features, dict(reversed(features.items()))))
        parsed = [parse_params(load_spec("ingest"), params) for params in (one, other)]
        assert [list(params.task.features) for params in parsed] == [["a", "b"], ["a", "b"]]

    def test_unknown_step_param_and_port_get_the_nearest(self, settings: Settings) -> None:
        with pytest.raises(ConfigError, match="did you mean 'ingest'"):
            execute("ingset", PARAMS, {}, run_id="r", settings=settings)
        with pytest.raises(ConfigError, match="at_leest"):
            execute("ingest", PARAMS | {"at_leest": 1}, {}, run_id="r", settings=settings)
        with pytest.raises(DataError, match="no input for: dataset"):
            execute("automl", {key: PARAMS[key] for key in ("scenario", "task")}, {}, run_id="r", settings=settings)

    def test_a_failing_step_leaves_no_half_output(self, settings: Settings) -> None:
        with pytest.raises(ConfigError, match="nonexistent"):
            execute("ingest", PARAMS, {}, run_id="r", settings=settings)
        assert not list((settings.home / "work").iterdir())
        assert not (settings.home / "store").exists()


@pytest.mark.parametrize(
    ("error", "code"), [(ContractError, 64), (ConfigError, 64), (DataError, 64), (Refused, 64), (TryAgain, 75), (NothingToDo, 99)]
)
def test_exit_codes(error: type[AtlasError], code: int) -> None:
    assert error.exit_code == code
    assert str(error("given", do="do this")) == "given -> do this"


def test_nearest_names_what_is_close_or_everything() -> None:
    assert nearest("ocrr", ["ocr", "credit"]) == "did you mean 'ocr'?"
    assert nearest("zzz", ["ocr", "credit"]) == "use one of: credit, ocr"


def test_the_light_half_never_loads_the_heavy_libraries() -> None:
    """In a process of its own, because import-linter misses re-exports and what tests have loaded."""
    code = f"""
import sys
from pipelines import cli, local, loop, scenario
from components.core import ledger, step, store
from components.core.settings import Settings
import serving.spec
for each in scenario.shipped():
    loop.build(each)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["components", "pipelines", "serving"])
def test_no_other_installed_distribution_owns_our_names(name: str) -> None:
    owners = importlib.metadata.packages_distributions().get(name, [])
    assert set(owners) <= {"atlas-loop"}
