"""Exports: a consolidated, pickle-free directory, and the `Predictor` that loads it without a Learner."""

from typing import TYPE_CHECKING

from dist_ai.core.names import missing_name
from dist_ai.export.artifact import Artifact, ModelSpec, load_export, register_builder, save_export
from dist_ai.export.predictor import Prediction, Predictor

__all__ = ["Artifact", "ModelSpec", "Prediction", "Predictor", "load_export", "register_builder", "save_export"]

if not TYPE_CHECKING:  # for a type checker any name would be there
    __getattr__ = missing_name(__name__)
