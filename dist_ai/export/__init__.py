"""Exports: a consolidated, pickle-free directory, and the `Predictor` that loads it without a Learner."""

from dist_ai.export.artifact import Artifact, ModelSpec, load_export, register_builder, save_export
from dist_ai.export.predictor import Prediction, Predictor

__all__ = ["Artifact", "ModelSpec", "Prediction", "Predictor", "load_export", "register_builder", "save_export"]
