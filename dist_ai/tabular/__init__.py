"""Tabular: loaders of tables, procs that prepare their columns, models and learners."""

from typing import TYPE_CHECKING

from dist_ai.core.names import missing_name
from dist_ai.data import Categorify, ReadRows, TabularFrame, TabularPandas, TabularProc
from dist_ai.tabular.data import RowOptions, TabularDataLoaders, TabularOptions
from dist_ai.tabular.dates import add_datepart, add_elapsed_times, cont_cat_split, make_date
from dist_ai.tabular.importance import Importance, feature_importance
from dist_ai.tabular.learner import tabular_learner
from dist_ai.tabular.models import FTTransformer, TabularModel, TabularResNet, get_emb_sz
from dist_ai.tabular.procs import DateParts, FillMissing, Normalize, RareCategories, TargetEncode

__all__ = [
    "Categorify",
    "DateParts",
    "FTTransformer",
    "FillMissing",
    "Importance",
    "Normalize",
    "RareCategories",
    "ReadRows",
    "RowOptions",
    "TabularDataLoaders",
    "TabularFrame",
    "TabularModel",
    "TabularOptions",
    "TabularPandas",
    "TabularProc",
    "TabularResNet",
    "TargetEncode",
    "add_datepart",
    "add_elapsed_times",
    "cont_cat_split",
    "feature_importance",
    "get_emb_sz",
    "make_date",
    "tabular_learner",
]

if not TYPE_CHECKING:  # for a type checker any name would be there
    __getattr__ = missing_name(__name__)
