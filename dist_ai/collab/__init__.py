"""Collaborative filtering: loaders of ratings, models of who likes what, and recommendations."""

from dist_ai.collab.data import CollabDataLoaders, CollabOptions
from dist_ai.collab.learner import CollabLearner, collab_learner
from dist_ai.collab.models import EmbeddingDotBias, EmbeddingNN
from dist_ai.collab.negatives import SampleNegatives
from dist_ai.collab.recommender import Recommender

__all__ = [
    "CollabDataLoaders",
    "CollabLearner",
    "CollabOptions",
    "EmbeddingDotBias",
    "EmbeddingNN",
    "Recommender",
    "SampleNegatives",
    "collab_learner",
]
