"""The Learner: what users call, and the loop beneath it; and what a trained model gets wrong."""

from dist_ai.learner.interpretation import (
    ClassificationInterpretation,
    Interpretation,
    RegressionInterpretation,
    SegmentationInterpretation,
)
from dist_ai.learner.learner import Learner
from dist_ai.learner.loaded import load_learner, register_learner
from dist_ai.learner.lr_finder import LRFinding
from dist_ai.learner.options import LearnerOptions, check_options
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
    "check_options",
    "load_learner",
    "register_learner",
]
