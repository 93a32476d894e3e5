"""The trigger, against a real ledger: it says each state once, and outlives the ledger."""

from __future__ import annotations

import asyncio
import os
import tempfile
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from components.core.items import item_from_json
from components.core.ledger import Ledger, NewCase, Work
from components.core.params import Tabular
from components.core.settings import Settings

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # airflow's own
    from pipelines.airflow_trigger import PATIENCE_S, REPEATS, BadCaseTrigger, Memory, Watch

if TYPE_CHECKING:
    from airflow.triggers.base import TriggerEvent

TASK = Tabular(problem="binary", classes=("no", "yes"), features={"x": "number"})
SCENARIO = """
name: {name}
task: {{kind: tabular, problem: binary, classes: ["no", "yes"], features: {{x: number}}}}
ingest: {{source: {{reader: table, options: {{path: /nowhere.parquet, label: y}}}}}}
validate: {{suite: {{name: probe, expectations: []}}}}
"""
NOTHING = {"ocr", "credit"}
"""Shipped scenarios are watched too; no test gives them work."""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    folder = tmp_path / "scenarios"
    folder.mkdir()
    for name in ("probe", "other"):
        (folder / f"{name}.yaml").write_text(SCENARIO.format(name=name))
    made = Settings.from_env({"ATLAS_HOME": str(tmp_path / "atlas"), "ATLAS_SCENARIOS": str(folder)})
    for key, value in made.env().items():
        monkeypatch.setenv(key, value)
    return made


def case(number: int) -> NewCase:
    return NewCase(item_from_json(TASK, {"features": {"x": number}}), "feedback", label="yes")


async def next_event(events: AsyncIterator[TriggerEvent], within_s: float = 5.0) -> Any:
    return (await asyncio.wait_for(anext(events), within_s)).payload


async def silence(events: AsyncIterator[TriggerEvent], for_s: float = 0.6) -> None:
    """Check that nothing comes. The generator is left waiting: cancelling it would end it."""
    waiting = asyncio.ensure_future(anext(events))
    done, _ = await asyncio.wait({waiting}, timeout=for_s)
    assert not done
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_it_can_be_made_again_in_another_process() -> None:
    name, kwargs = BadCaseTrigger(poll_s=0.1).serialize()
    assert name == "pipelines.airflow_trigger.BadCaseTrigger"
    assert BadCaseTrigger(**kwargs).serialize() == (name, kwargs)


def test_a_bad_case_is_said_within_a_poll(settings: Settings) -> None:
    async def go() -> None:
        with Ledger.open(settings.ledger) as ledger:
            events = BadCaseTrigger(poll_s=0.05).run()
            first = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0.2)
            assert not first.done()
            ledger.add_case("probe", case(1))
            assert (await asyncio.wait_for(first, 5)).payload == {"scenarios": ["probe"]}
            ledger.add_case("other", case(1))
            ledger.add_case("probe", case(2))
            said = await next_event(events)
            if said["scenarios"] != ["other", "probe"]:  # the look fell between the two
                said["scenarios"] += (await next_event(events))["scenarios"]
            assert sorted(said["scenarios"]) == ["other", "probe"]
            await silence(events)

    asyncio.run(go())


def test_it_outlives_the_ledger(settings: Settings) -> None:
    async def go() -> None:
        events = BadCaseTrigger(poll_s=0.05).run()
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.3)  # there is no ledger yet
        file = settings.home / "ledger.db"
        with Ledger.open(settings.ledger) as ledger:
            ledger.add_case("probe", case(1))
        assert (await asyncio.wait_for(first, 10)).payload == {"scenarios": ["probe"]}
        for path in settings.home.glob("ledger.db*"):
            path.unlink()
        second = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.3)
        assert not file.exists()  # looking does not bring a lost ledger back empty
        with Ledger.open(settings.ledger) as ledger:
            ledger.add_cases("probe", [case(n) for n in range(3)])
        assert (await asyncio.wait_for(second, 10)).payload == {"scenarios": ["probe"]}
        await events.aclose()  # type: ignore[attr-defined]

    asyncio.run(go())


def test_a_scenario_that_a_run_holds_is_left_alone_until_it_is_free(settings: Settings) -> None:
    with Ledger.open(settings.ledger) as ledger:
        watch = Watch(settings)
        ledger.add_case("probe", case(1))
        ledger.acquire("probe", "r1")
        assert watch.look() == []
        ledger.release("probe", "r1")
        assert watch.look() == ["probe"]
        assert watch.look() == []
        watch.close()


def test_fewer_cases_than_wanted_are_no_work_once_a_model_serves(settings: Settings) -> None:
    path = settings.scenarios / "probe.yaml" if settings.scenarios else Path()
    path.write_text(SCENARIO.format(name="probe") + "orchestration: {retries: 1}\n")
    with Ledger.open(settings.ledger) as ledger:
        watch = Watch(settings)
        ledger.add_case("probe", case(1))
        assert watch.look() == ["probe"]  # nothing serves yet
        watch.close()


def test_a_broken_scenario_file_does_not_blind_it(settings: Settings) -> None:
    (settings.home.parent / "scenarios" / "broken.yaml").write_text("name: [")
    with Ledger.open(settings.ledger) as ledger:
        watch = Watch(settings)
        ledger.add_case("probe", case(1))
        ledger.add_case("broken", case(1))
        assert watch.look() == ["probe"]
        watch.close()


def test_a_scenario_that_appears_later_is_watched(settings: Settings) -> None:
    with Ledger.open(settings.ledger) as ledger:
        watch = Watch(settings)
        ledger.add_case("late", case(1))
        assert watch.look() == []
        (settings.home.parent / "scenarios" / "late.yaml").write_text(SCENARIO.format(name="late"))
        assert watch.look() == ["late"]
        watch.close()


def test_a_hint_that_nobody_took_is_repeated_a_few_times() -> None:
    memory, work = Memory(), Work(claimable=2, unfinished=False, holder=None, latest=7)
    said = [second for second in range(600) if memory.is_news("probe", work, float(second))]
    assert said == [0, PATIENCE_S, 3 * PATIENCE_S]
    assert len(said) == 1 + REPEATS


def test_a_hint_that_was_taken_is_not_repeated() -> None:
    memory, work = Memory(), Work(claimable=2, unfinished=False, holder=None, latest=7)
    assert memory.is_news("probe", work, 0.0)
    memory.taken("probe")
    assert not any(memory.is_news("probe", work, float(second)) for second in range(600))
    assert memory.is_news("probe", Work(claimable=3, unfinished=False, holder=None, latest=8), 601.0)
