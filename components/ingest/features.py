"""Point-in-time features from Feast: for each base row, what was known at its time, and nothing later.

The definitions are a Feast repository of its own (`infra/feature_repo`), loaded by path. Feast takes 6 seconds to import, so
this module is reached only when a scenario asks for features. The offline store is DuckDB: Feast's default (dask) silently drops
rows whose features are all later than the row.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.core.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from components.ingest.spec import Features

__all__ = ["REPOSITORY", "join"]

REPOSITORY = Path(__file__).parents[2] / "infra" / "feature_repo"


def join(base: pa.Table, features: Features, folder: Path, work: Path, everything: Callable[[], pa.Table]) -> pa.Table:
    """Add features to the base rows, each as of the row's time.

    Args:
        base: The reader's rows, with the entity's and the time's column.
        features: Which features.
        folder: Where the feature views' Parquet files lie. One that is missing is made from `everything`.
        work: A private folder for Feast's registry; a registry that outlived a killed run could be torn.
        everything: Gives the source's whole table, with the entity, the time and the features.

    Returns:
        `base` without columns named like a feature, then the features, in the rows' order.

    Raises:
        ConfigError: There is no such view or feature.
        DataError: A column is missing, or Feast lost rows.
    """
    os.environ["FEAST_USAGE"] = "False"  # its telemetry
    for name in (features.entity, features.time):
        if name not in base.column_names:
            raise DataError(f"the source has no column '{name}', which ingest.features names", do=nearest(name, base.column_names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast and Ibis warn of their own deprecated calls
        _import_feast()
        warnings.simplefilter("ignore")  # Feast sets filters of its own when imported
        views, entities = _definitions(folder, features)
        _materialise(views, features, everything)
        rows = _historical(base, features, [*entities, *views.values()], work)
        _close_default_backend()
    wanted = [name for names in features.views.values() for name in names]
    kept = base.drop_columns([name for name in wanted if name in base.column_names])
    for name in wanted:
        kept = kept.append_column(name, rows[name])
    return kept


def _import_feast() -> None:
    """Import Feast, and undo what it does to the process: it switches Prometheus to files and tells every child to do likewise."""
    before = dict(os.environ)
    for module in ("prometheus_client", "feast"):  # in this order, so that metrics of this process stay in memory
        importlib.import_module(module)
    for name in ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR"):
        if name not in before:
            os.environ.pop(name, None)


def _definitions(folder: Path, features: Features) -> tuple[dict[str, Any], list[Any]]:
    """Load the repository's definitions and return the views asked for, checked, and their entities."""
    from feast import FeatureView

    found: dict[str, Any] = {}
    for path in sorted(REPOSITORY.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"atlas_features_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"the feature definitions {path.name} can't be loaded", do="see CONTRIBUTING on feature views")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found |= {thing.name: thing for thing in module.definitions(folder)}
    views = {name: thing for name, thing in found.items() if isinstance(thing, FeatureView)}
    for name, wanted in features.views.items():
        if name not in views:
            raise ConfigError(f"ingest.features: there is no feature view '{name}'", do=nearest(name, views))
        known = [feature.name for feature in views[name].features]
        for feature in wanted:
            if feature not in known:
                raise ConfigError(f"ingest.features: view '{name}' has no feature '{feature}'", do=nearest(feature, known))
    chosen = {name: views[name] for name in features.views}
    return chosen, [thing for name, thing in found.items() if any(name in view.entities for view in chosen.values())]


def _materialise(views: dict[str, Any], features: Features, everything: Callable[[], pa.Table]) -> None:
    """Write each view's missing Parquet file from the source's own columns."""
    missing = {name: Path(view.batch_source.path) for name, view in views.items() if not Path(view.batch_source.path).is_file()}
    if not missing:
        return
    table = everything()
    for name, path in missing.items():
        columns = [features.entity, features.time, *[feature.name for feature in views[name].features]]
        for column in columns:
            if column not in table.column_names:
                raise DataError(f"view '{name}' can't be made: the source has no column '{column}'", do=nearest(column, table.column_names))
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{uuid.uuid4().hex}")
        pq.write_table(table.select(columns), aside)
        aside.replace(path)


def _historical(base: pa.Table, features: Features, definitions: list[Any], work: Path) -> pa.Table:
    from feast import FeatureStore, RepoConfig

    work.mkdir(parents=True, exist_ok=True)
    config = RepoConfig(
        project="atlas",
        provider="local",
        registry=str(work / "registry.db"),
        offline_store={"type": "duckdb"},
        online_store={"type": "sqlite", "path": str(work / "online.db")},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply(definitions)
    asked = [f"{view}:{name}" for view, names in features.views.items() for name in names]
    frame = base.select([features.entity, features.time]).append_column("_row", pa.array(range(base.num_rows))).to_pandas()
    rows = store.get_historical_features(entity_df=frame, features=asked).to_arrow().sort_by("_row")
    if rows["_row"].to_pylist() != list(range(base.num_rows)):
        raise DataError(
            f"Feast returned {rows.num_rows} rows for {base.num_rows}", do="look for double rows of one entity and time in the views' files"
        )
    return rows


def _close_default_backend() -> None:
    """Close the connection that Feast leaves open in Ibis: at exit, DuckDB would report it as leaked on 60 lines."""
    import ibis

    backend = ibis.options.default_backend
    if backend is not None:
        backend.disconnect()
        ibis.options.default_backend = None
