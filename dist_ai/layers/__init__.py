"""Building blocks of models."""

from dist_ai.layers.dropout import Seeded, SeededDropout, kept_of
from dist_ai.layers.hooks import Hook, Hooks, hook_outputs, output_sizes
from dist_ai.layers.pooling import ConcatPool2d

__all__ = ["ConcatPool2d", "Hook", "Hooks", "Seeded", "SeededDropout", "hook_outputs", "kept_of", "output_sizes"]
