"""Losses that know what the model's output means: its activation and its decoding; exact on any number of ranks."""

from typing import TYPE_CHECKING

from dist_ai.core.names import missing_name
from dist_ai.losses.classes import CrossEntropyLoss, FocalLoss
from dist_ai.losses.composite import CompositeLoss, loss_metrics
from dist_ai.losses.dice import DiceLoss, FocalDiceLoss
from dist_ai.losses.labels import BCEWithLogitsLoss, BinaryFocalLoss
from dist_ai.losses.loss import (
    activation,
    decodes,
    default_loss,
    loss_from_plain,
    loss_to_plain,
    losses,
    sample_losses,
)
from dist_ai.losses.numbers import HuberLoss, L1Loss, MSELoss
from dist_ai.losses.weighted import WeightedLoss, as_weighted, loss_weights, weighted_mean

__all__ = [
    "BCEWithLogitsLoss",
    "BinaryFocalLoss",
    "CompositeLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalDiceLoss",
    "FocalLoss",
    "HuberLoss",
    "L1Loss",
    "MSELoss",
    "WeightedLoss",
    "activation",
    "as_weighted",
    "decodes",
    "default_loss",
    "loss_from_plain",
    "loss_metrics",
    "loss_to_plain",
    "loss_weights",
    "losses",
    "sample_losses",
    "weighted_mean",
]

if not TYPE_CHECKING:  # for a type checker any name would be there
    __getattr__ = missing_name(__name__)
