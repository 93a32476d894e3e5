"""Great Expectations as the contract people read: its own verdict on the same suite, and Data Docs.

It takes 6 seconds to import, so only validate's run reaches this module.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.core.errors import ConfigError
from components.validate.rules import Rule

__all__ = ["Verdict", "judge"]


@dataclass(frozen=True)
class Verdict:
    """What Great Expectations says of one rule. `broken` is the number of rows, where it counts them."""

    rule: str
    passed: bool
    broken: int | None
    observed: Any


def judge(parts: Mapping[str, tuple[pa.Table, Sequence[Rule]]], work: Path, site: Path | None) -> list[Verdict]:
    """Run rules over tables.

    Args:
        parts: Name of the validation -> the table and its rules.
        work: A private folder, removed with the step.
        site: Where to write Data Docs; None writes none.

    Raises:
        ConfigError: A check is broken. Great Expectations reports that like bad data (`success` is False): it is told apart by the
            exception it recorded.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Great Expectations warns of its own deprecated calls
        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        results = _validate({name: part for name, part in parts.items() if part[1]}, work, site)
        if site is not None:
            _keep(work / "gx" / "uncommitted" / "data_docs" / "local_site", site)
    return list(results)


def _validate(parts: Mapping[str, tuple[pa.Table, Sequence[Rule]]], work: Path, site: Path | None) -> Iterable[Verdict]:
    import great_expectations as gx
    from great_expectations.checkpoint import UpdateDataDocsAction
    from great_expectations.data_context.types.base import ProgressBarsConfig

    # an ephemeral context would leave a folder in the system's temporary folder
    context = gx.get_context(mode="file", project_root_dir=str(work))
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("rows")
    verdicts: list[Verdict] = []
    for name, (table, rules) in parts.items():
        # not added one by one: adding replaces an earlier expectation of the same type and column
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=[rule.expectation() for rule in rules]))
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        actions = [UpdateDataDocsAction(name="docs", site_names=["local_site"])] if site is not None else []
        checkpoint = context.checkpoints.add(
            gx.Checkpoint(name=name, validation_definitions=[definition], actions=actions, result_format="BASIC")
        )
        outcome = checkpoint.run(batch_parameters={"dataframe": table.to_pandas()})
        for result in next(iter(outcome.run_results.values())).results:
            verdicts.append(_verdict(result))
    return verdicts


def _verdict(result: Any) -> Verdict:
    name = str(result.expectation_config.meta["rule"])
    info = result.exception_info or {}
    nested = [info] if "raised_exception" in info else list(info.values())
    for entry in nested:
        if isinstance(entry, Mapping) and entry.get("raised_exception"):
            message = str(entry.get("exception_message", "")).strip().splitlines()
            raise ConfigError(
                f"rule '{name}' can't be checked: {message[0] if message else 'no reason given'}",
                do="correct the rule: the data were not judged",
            )
    found = result.result or {}
    return Verdict(name, bool(result.success), found.get("unexpected_count"), found.get("observed_value"))


def _keep(built: Path, site: Path) -> None:
    """Move the built site, less its animations and fonts: 4 MB that explain Great Expectations, not the data."""
    if built.is_dir():
        for folder in ("static/images", "static/fonts"):
            shutil.rmtree(built / folder, ignore_errors=True)
        shutil.move(built, site)
