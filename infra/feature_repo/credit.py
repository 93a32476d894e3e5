"""Feature views of the scenario `credit`. A file of this repository has a function `definitions(folder)`; ingest loads it by path.

`application` is what the borrower states, `bureau` what the credit bureau reports. Both lie as Parquet below
`ATLAS_HOME/features/credit`, with the columns `loan_id`, `event_timestamp` and the features.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureView, Field, FileSource
from feast.types import Float64, Int64, PrimitiveFeastType, String
from feast.value_type import ValueType

APPLICATION: dict[str, PrimitiveFeastType] = {
    "funded_amnt": Int64,
    "term": String,
    "int_rate": Float64,
    "sub_grade": String,
    "addr_state": String,
    "verification_status": String,
    "annual_inc": Float64,
    "emp_length": String,
}
BUREAU: dict[str, PrimitiveFeastType] = {
    "delinq_2yrs": Int64,
    "inq_last_6mths": Int64,
    "revol_util": Float64,
    "acc_now_delinq": Int64,
    "open_il_6m": Int64,
    "open_il_12m": Int64,
    "open_il_24m": Int64,
    "total_bal_il": Int64,
    "all_util": Int64,
    "inq_fi": Int64,
    "inq_last_12m": Int64,
    "delinq_amnt": Int64,
    "num_il_tl": Int64,
    "total_il_high_credit_limit": Int64,
}


def definitions(folder: Path) -> list[Entity | FeatureView]:
    """Return the entities, and the views over the Parquet files in `folder`."""
    loan = Entity(name="loan", join_keys=["loan_id"], value_type=ValueType.INT64)
    return [loan, _view("application", APPLICATION, loan, folder), _view("bureau", BUREAU, loan, folder)]


def _view(name: str, features: dict[str, PrimitiveFeastType], loan: Entity, folder: Path) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[loan],
        ttl=timedelta(0),  # features do not expire
        schema=[Field(name="loan_id", dtype=Int64), *[Field(name=feature, dtype=kind) for feature, kind in features.items()]],
        source=FileSource(name=name, path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp"),
    )
