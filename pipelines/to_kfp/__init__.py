"""Kubeflow Pipelines: the loop's graph as a compiled pipeline, and KFP's local runners. The only importer of kfp."""

from __future__ import annotations

from pipelines.to_kfp.local import run_local
from pipelines.to_kfp.pipeline import compile_pipeline

__all__ = ["compile_pipeline", "run_local"]
