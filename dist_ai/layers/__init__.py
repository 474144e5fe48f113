"""Building blocks of models."""

from typing import TYPE_CHECKING

from dist_ai.core.names import missing_name
from dist_ai.layers.activation import SigmoidRange
from dist_ai.layers.convolution import PixelShuffleICNR, ResBlock, SelfAttention, conv_layer
from dist_ai.layers.dropout import Seeded, SeededDropout, kept_of
from dist_ai.layers.embedding import EmbeddingTables, embedding, embedding_pairs, embedding_size
from dist_ai.layers.hooks import Hook, Hooks, hook_outputs, output_sizes
from dist_ai.layers.mlp import hidden_layers, linear_layer
from dist_ai.layers.pooling import ConcatPool2d

__all__ = [
    "ConcatPool2d",
    "EmbeddingTables",
    "Hook",
    "Hooks",
    "PixelShuffleICNR",
    "ResBlock",
    "Seeded",
    "SeededDropout",
    "SelfAttention",
    "SigmoidRange",
    "conv_layer",
    "embedding",
    "embedding_pairs",
    "embedding_size",
    "hidden_layers",
    "hook_outputs",
    "kept_of",
    "linear_layer",
    "output_sizes",
]

if not TYPE_CHECKING:  # for a type checker any name would be there
    __getattr__ = missing_name(__name__)
