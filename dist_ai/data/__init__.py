"""The data layer: sources, splitters, labellers, the epoch plan, data sets and loaders."""

from dist_ai.data.collate import collate
from dist_ai.data.datasets import Datasets, Subset, TensorData
from dist_ai.data.labellers import parent_label
from dist_ai.data.loader import DataLoader
from dist_ai.data.loaders import DataLoaders
from dist_ai.data.plan import EpochPlan, Share
from dist_ai.data.samples import sample_data
from dist_ai.data.sources import get_files, get_image_files
from dist_ai.data.splitters import GrandparentSplitter, RandomSplitter
from dist_ai.data.transforms import Categorize

__all__ = [
    "Categorize",
    "DataLoader",
    "DataLoaders",
    "Datasets",
    "EpochPlan",
    "GrandparentSplitter",
    "RandomSplitter",
    "Share",
    "Subset",
    "TensorData",
    "collate",
    "get_files",
    "get_image_files",
    "parent_label",
    "sample_data",
]
