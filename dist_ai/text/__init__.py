"""Text: tokenizers, loaders, language models and classifiers, and their learners."""

from typing import TYPE_CHECKING

import dist_ai.text.show  # noqa: F401  # registers the loss of language models
from dist_ai.core.names import missing_name
from dist_ai.text.awd_lstm import AWD_LSTM
from dist_ai.text.blocks import TextBlock
from dist_ai.text.data import ColumnOptions, TextDataLoaders, TextOptions
from dist_ai.text.huggingface import hf_learner
from dist_ai.text.learner import (
    LMLearner,
    TextLearner,
    language_model_learner,
    load_text_learner,
    text_classifier_learner,
)
from dist_ai.text.models import architectures
from dist_ai.text.rules import DEFAULT_RULES, SPECIALS, text_rules
from dist_ai.text.transformer import Transformer
from dist_ai.text.transforms import JoinFields, ReadText, Tokenize

__all__ = [
    "AWD_LSTM",
    "DEFAULT_RULES",
    "SPECIALS",
    "ColumnOptions",
    "JoinFields",
    "LMLearner",
    "ReadText",
    "TextBlock",
    "TextDataLoaders",
    "TextLearner",
    "TextOptions",
    "Tokenize",
    "Transformer",
    "architectures",
    "hf_learner",
    "language_model_learner",
    "load_text_learner",
    "text_classifier_learner",
    "text_rules",
]

if not TYPE_CHECKING:  # for a type checker any name would be there
    __getattr__ = missing_name(__name__)
