"""Benchmarks that are scripts: rows as they come, what a failed script said, and rows that are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.core.errors import ConfigError, TryAgain
from pipelines import bench as benches
from pipelines.bench import scale
from pipelines.bench.script import printed, script

ROWS = """
import json, sys
print("warming up")
for n in range(2):
    print(json.dumps({"case": " ".join(sys.argv[1:]), "ours": n / 3}))
print("said aside", file=sys.stderr)
"""
FAILS = (
    ROWS
    + """
from components.core.errors import TryAgain
raise TryAgain("there is no ground truth truth_x.json", do="run `python truth.py --space x`")
"""
)


def written(folder: Path, text: str) -> Path:
    path = folder / "compare.py"
    path.write_text(text)
    return path


def test_rows_are_the_lines_of_json(tmp_path: Path) -> None:
    rows = printed(written(tmp_path, ROWS), ["--cases", "search"], tmp_path / "log")
    assert list(rows) == [{"case": "--cases search", "ours": n / 3} for n in range(2)]
    assert (tmp_path / "log").read_text() == "said aside\n"


def test_a_failed_script_says_what_to_do_after_its_rows(tmp_path: Path) -> None:
    rows = printed(written(tmp_path, FAILS), [], tmp_path / "log")
    assert [row["ours"] for row in (next(rows), next(rows))] == [0, 1 / 3]
    with pytest.raises(TryAgain, match=r"no ground truth truth_x\.json -> run `python truth\.py --space x`") as failed:
        next(rows)
    assert failed.value.do == f"see {tmp_path / 'log'}"


def test_rows_of_scale_are_kept_when_its_script_has_ended(tmp_path: Path) -> None:
    kept = tmp_path / "head.jsonl"
    with pytest.raises(TryAgain):
        list(scale._measured("head", written(tmp_path, FAILS), kept, quick=True))
    assert not kept.exists()
    found = list(scale._measured("head", written(tmp_path, ROWS), kept, quick=True))
    assert [json.loads(line) for line in kept.read_text().splitlines()] == found
    assert found[0]["case"] == "--quick"


@pytest.mark.parametrize(("name", "given", "meant"), [("scale", "graf", "graph"), ("nas", "rankings", "ranking")])
def test_unknown_cases_are_refused_with_the_nearest(name: str, given: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        next(benches.run(name, quick=True, cases=(given,)))


def test_scripts_are_there_in_a_checkout_only() -> None:
    assert script("nas", "compare").is_file()
    assert all(script("scale", name).is_file() for name in scale.CASES)
    with pytest.raises(ConfigError, match="from a checkout"):
        script("nothing", "compare")
