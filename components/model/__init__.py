"""The code-free model format, shared by train, evaluate and serving: save a model, load it, predict with it."""

from __future__ import annotations

from components.model.answer import Answer
from components.model.format import Member, ModelSpec, read_spec, save
from components.model.predictor import Predictor, load

__all__ = ["Answer", "Member", "ModelSpec", "Predictor", "load", "read_spec", "save"]
