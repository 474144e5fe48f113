"""The Learner: what users call, and the loop beneath it."""

from dist_ai.learner.learner import Learner, load_learner

__all__ = ["Learner", "load_learner"]
