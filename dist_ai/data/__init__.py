"""The data layer: sources, splitters, labellers, the epoch plan, data sets and loaders."""

from typing import TYPE_CHECKING

from dist_ai.core.names import missing_name
from dist_ai.data.archive import ArchiveLimits, extract
from dist_ai.data.block import (
    CategoryBlock,
    DataBlock,
    MultiCategoryBlock,
    RegressionBlock,
    TransformBlock,
)
from dist_ai.data.collate import Pad, Padded, collate
from dist_ai.data.datasets import Datasets, Subset, TensorData, TfmdLists
from dist_ai.data.downloads import download, untar_data
from dist_ai.data.folds import KFoldSplitter
from dist_ai.data.frames import TabularFrame, as_frame
from dist_ai.data.getters import AttrGetter, ColReader, Getter, ItemGetter
from dist_ai.data.iterables import IterableLoader
from dist_ai.data.labellers import RegexLabeller, parent_label
from dist_ai.data.loader import DataLoader
from dist_ai.data.loaders import DataLoaders, LoaderOptions
from dist_ai.data.orders import (
    GroupOrder,
    LengthOrder,
    PartialEpochs,
    RearrangedOrder,
    ShuffledOrder,
    WeightedOrder,
    balanced_weights,
)
from dist_ai.data.parquet import ParquetData
from dist_ai.data.plan import EpochPlan, Order, Share
from dist_ai.data.prepared import prepared
from dist_ai.data.procs import Categorify, TabularProc
from dist_ai.data.rows import ReadRows, RowData
from dist_ai.data.samples import sample_data
from dist_ai.data.sources import FileGetter, ImageGetter, get_files, get_image_files, get_text_files
from dist_ai.data.splitters import (
    ColSplitter,
    EndSplitter,
    FileSplitter,
    FuncSplitter,
    GrandparentSplitter,
    GroupSplitter,
    IndexSplitter,
    MaskSplitter,
    RandomSplitter,
    RandomSubsetSplitter,
    TrainTestSplitter,
)
from dist_ai.data.statistics import DatasetStats, class_counts, dataset_stats, plot_class_balance
from dist_ai.data.streams import TokenStreams
from dist_ai.data.table import Row, Table, as_items
from dist_ai.data.tabular import TabularPandas
from dist_ai.data.transforms import (
    Categorize,
    EncodedMultiCategorize,
    MultiCategorize,
    OneHotEncode,
    RegressionSetup,
)

__all__ = [
    "ArchiveLimits",
    "AttrGetter",
    "Categorify",
    "Categorize",
    "CategoryBlock",
    "ColReader",
    "ColSplitter",
    "DataBlock",
    "DataLoader",
    "DataLoaders",
    "DatasetStats",
    "Datasets",
    "EncodedMultiCategorize",
    "EndSplitter",
    "EpochPlan",
    "FileGetter",
    "FileSplitter",
    "FuncSplitter",
    "Getter",
    "GrandparentSplitter",
    "GroupOrder",
    "GroupSplitter",
    "ImageGetter",
    "IndexSplitter",
    "ItemGetter",
    "IterableLoader",
    "KFoldSplitter",
    "LengthOrder",
    "LoaderOptions",
    "MaskSplitter",
    "MultiCategorize",
    "MultiCategoryBlock",
    "OneHotEncode",
    "Order",
    "Pad",
    "Padded",
    "ParquetData",
    "PartialEpochs",
    "RandomSplitter",
    "RandomSubsetSplitter",
    "ReadRows",
    "RearrangedOrder",
    "RegexLabeller",
    "RegressionBlock",
    "RegressionSetup",
    "Row",
    "RowData",
    "Share",
    "ShuffledOrder",
    "Subset",
    "Table",
    "TabularFrame",
    "TabularPandas",
    "TabularProc",
    "TensorData",
    "TfmdLists",
    "TokenStreams",
    "TrainTestSplitter",
    "TransformBlock",
    "WeightedOrder",
    "as_frame",
    "as_items",
    "balanced_weights",
    "class_counts",
    "collate",
    "dataset_stats",
    "download",
    "extract",
    "get_files",
    "get_image_files",
    "get_text_files",
    "parent_label",
    "plot_class_balance",
    "prepared",
    "sample_data",
    "untar_data",
]

if not TYPE_CHECKING:  # for a type checker any name would be there
    __getattr__ = missing_name(__name__)
