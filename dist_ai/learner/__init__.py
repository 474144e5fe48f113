"""The Learner: what users call, and the loop beneath it."""

from dist_ai.learner.learner import Learner, load_learner
from dist_ai.learner.lr_finder import LRFinding

__all__ = ["LRFinding", "Learner", "load_learner"]
