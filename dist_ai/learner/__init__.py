"""The Learner: what users call, and the loop beneath it; and what a trained model gets wrong."""

from dist_ai.learner.interpretation import (
    ClassificationInterpretation,
    Interpretation,
    RegressionInterpretation,
    SegmentationInterpretation,
)
from dist_ai.learner.learner import Learner, load_learner

__all__ = [
    "ClassificationInterpretation",
    "Interpretation",
    "Learner",
    "RegressionInterpretation",
    "SegmentationInterpretation",
    "load_learner",
]
