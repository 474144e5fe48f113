"""The Learner: what users call, and the loop beneath it; and what a trained model gets wrong."""

from typing import TYPE_CHECKING

from dist_ai.core.names import missing_name
from dist_ai.learner.application import LearnerOptions, first_weights, with_defaults
from dist_ai.learner.interpretation import (
    ClassificationInterpretation,
    Interpretation,
    RegressionInterpretation,
    SegmentationInterpretation,
)
from dist_ai.learner.learner import Learner
from dist_ai.learner.loaded import load_learner, register_learner
from dist_ai.learner.lr_finder import LRFinding
from dist_ai.learner.summary import ModelSummary

__all__ = [
    "ClassificationInterpretation",
    "Interpretation",
    "LRFinding",
    "Learner",
    "LearnerOptions",
    "ModelSummary",
    "RegressionInterpretation",
    "SegmentationInterpretation",
    "first_weights",
    "load_learner",
    "register_learner",
    "with_defaults",
]

if not TYPE_CHECKING:  # for a type checker any name would be there
    __getattr__ = missing_name(__name__)
