"""deploy: nothing without a matching blessing; pack, try the real server, compare and swap."""

from __future__ import annotations

from pydantic import Field

from components.core.contract import Port, Resources, Spec
from components.core.params import StepParams

__all__ = ["SPEC", "Params"]


class Params(StepParams):
    """The scenario's `deploy` section."""

    replay: int = Field(16, ge=1, description="sample requests sent to the real server before the swap")
    start_timeout_s: float = Field(90, gt=0, description="seconds the server may take to become ready")
    tolerance: float = Field(1e-4, ge=0, description="largest difference allowed between a replayed and an evaluated confidence")


SPEC = Spec(
    name="deploy",
    summary="Check the blessing, pack a Bento, replay requests on the real server, swap the pointer.",
    params=Params,
    inputs={
        "model": Port("Model", "the challenger"),
        "blessing": Port("Blessing", "the gate's verdict"),
        "dataset": Port("Dataset", "the dataset version; requests are replayed from its test split"),
        "snapshot": Port("Snapshot", "names the champion that the challenger was compared with"),
    },
    outputs={"deployment": Port("Deployment", "what serves now, and what it replaced")},
    resources=Resources(memory_mb=2048, image="serve"),
    memory_of="run",
)
