"""The Learner: what users call, and the loop beneath it."""

from dist_ai.learner.learner import Learner, load_learner
from dist_ai.learner.lr_finder import LRFinding
from dist_ai.learner.summary import ModelSummary

__all__ = ["LRFinding", "Learner", "ModelSummary", "load_learner"]
