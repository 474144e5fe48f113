"""Collaborative filtering: loaders of ratings, models of who likes what, and recommendations."""

from typing import TYPE_CHECKING

from dist_ai.collab.data import ChoiceOptions, CollabDataLoaders, CollabOptions
from dist_ai.collab.learner import CollabLearner, collab_learner
from dist_ai.collab.models import EmbeddingDotBias, EmbeddingNN
from dist_ai.collab.negatives import SampleNegatives
from dist_ai.collab.recommender import Recommender
from dist_ai.core.names import missing_name

__all__ = [
    "ChoiceOptions",
    "CollabDataLoaders",
    "CollabLearner",
    "CollabOptions",
    "EmbeddingDotBias",
    "EmbeddingNN",
    "Recommender",
    "SampleNegatives",
    "collab_learner",
]

if not TYPE_CHECKING:  # for a type checker any name would be there
    __getattr__ = missing_name(__name__)
