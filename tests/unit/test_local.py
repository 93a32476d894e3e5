"""The graph's checks, and the local engine on steps that end early."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.contract import STEPS
from components.core.errors import ConfigError, ContractError, NothingToDo
from components.core.ledger import Ledger
from components.core.settings import Settings
from components.core.step import load_spec
from pipelines import scenario
from pipelines.graph import Edge, Graph, Node
from pipelines.local import StepReport, run_local
from pipelines.loop import build

SCENARIO = """
name: shop
task: {{kind: tabular, problem: regression, features: {{size: number}}}}
ingest: {{source: {{reader: table, options: {{path: {path}, label: price}}}}}}
validate: {{suite: {{name: shop, expectations: []}}}}
"""


def shop(folder: Path) -> Graph:
    (folder / "shop.yaml").write_text(SCENARIO.format(path=folder / "shop.parquet"))
    return build(scenario.load(folder / "shop.yaml"))


class TestGraph:
    def test_every_step_of_the_loop_is_wired(self, tmp_path: Path) -> None:
        graph = shop(tmp_path)
        assert [node.name for node in graph.nodes] == list(STEPS)
        assert "deploy" not in [node.name for node in build(scenario.load(tmp_path / "shop.yaml"), deploy=False).nodes]

    @pytest.mark.parametrize(
        ("inputs", "says"),
        [
            ({}, "open inputs: dataset, snapshot"),
            ({"dataset": Edge("ingest", "datasett"), "snapshot": Edge("ingest", "snapshot")}, "did you mean 'dataset'"),
            ({"dataset": Edge("ingest", "snapshot"), "snapshot": Edge("ingest", "snapshot")}, "takes a Dataset"),
            ({"dataset": Edge("train", "model"), "snapshot": Edge("ingest", "snapshot")}, "does not run before"),
        ],
    )
    def test_a_wrong_wire_is_refused(self, inputs: dict[str, Edge], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            Graph("x", (Node(load_spec("ingest"), {}, {}), Node(load_spec("validate"), {}, inputs)))


class TestRunLocal:
    def test_a_step_that_refuses_ends_the_run_with_its_own_words(self, tmp_path: Path, settings: Settings, ledger: Ledger) -> None:
        reports: list[StepReport] = []
        with pytest.raises(ContractError, match=r"ingest: .*shop\.parquet") as caught:
            run_local(shop(tmp_path), run_id="r", settings=settings, on_step=reports.append)
        assert caught.value.do
        assert [(report.step, report.state) for report in reports] == [("ingest", "started")]
        [run] = ledger.runs("shop")
        assert (run.state, run.engine) == ("failed", "local")
        assert ledger.lease("shop") is None

    @pytest.mark.slow
    def test_finished_steps_are_reused_when_the_same_run_goes_on(self, tmp_path: Path, settings: Settings) -> None:
        pq.write_table(pa.table({"size": [1.0, 2.0], "price": [1.0, 2.0]}), tmp_path / "shop.parquet")
        graph = Graph("shop", shop(tmp_path).nodes[:1])
        first = run_local(graph, run_id="r", settings=settings)
        reports: list[StepReport] = []
        assert run_local(graph, run_id="r", settings=settings, on_step=reports.append) == first
        assert [report.state for report in reports] == ["reused"]

    def test_a_scenario_that_another_run_holds_has_nothing_to_do(self, tmp_path: Path, settings: Settings, ledger: Ledger) -> None:
        ledger.acquire("shop", "somebody")
        with pytest.raises(NothingToDo, match="somebody"):
            run_local(shop(tmp_path), run_id="r", settings=settings)
        assert ledger.lease("shop") is not None
