"""Metrics as statistics that reduce over batches and ranks, so that no mean of means is ever taken.

A metric is one of those here, a plain function `(pred, target) -> mean over the batch`, a metric of torchmetrics as it
is, a function of scikit-learn's by `from_sklearn`, or anything that is a `Metric` or a `GatheredMetric`. Predictions are the
model's raw output.
"""

from typing import TYPE_CHECKING

from dist_ai.core.names import missing_name
from dist_ai.metrics.counts import ConfusionMatrix, LabelCounts
from dist_ai.metrics.mean import AvgMetric, LossMetric, Mean, MeanOf
from dist_ai.metrics.metric import GatheredMetric, Metric, lower_is_better
from dist_ai.metrics.multi_label import (
    APScoreMulti,
    BrierScoreMulti,
    F1ScoreMulti,
    FBetaMulti,
    HammingLossMulti,
    JaccardMulti,
    MatthewsCorrCoefMulti,
    PrecisionMulti,
    RecallMulti,
    RocAucMulti,
    accuracy_multi,
)
from dist_ai.metrics.ranking import MRR, NDCGAtK, RecallAtK
from dist_ai.metrics.reduce import as_metrics, reduce_metrics
from dist_ai.metrics.regression import (
    ExplainedVariance,
    Moments,
    PearsonCorrCoef,
    R2Score,
    SpearmanCorrCoef,
    exp_rmspe,
    mae,
    mse,
    msle,
    rmse,
)
from dist_ai.metrics.rows import AccumMetric, from_sklearn
from dist_ai.metrics.segmentation import Dice, DiceMulti, JaccardCoeff, JaccardCoeffMulti, foreground_acc
from dist_ai.metrics.single_label import (
    APScoreBinary,
    BalancedAccuracy,
    BrierScore,
    CohenKappa,
    F1Score,
    FBeta,
    HammingLoss,
    Jaccard,
    MatthewsCorrCoef,
    Precision,
    Recall,
    RocAuc,
    RocAucBinary,
    accuracy,
    error_rate,
    top_k_accuracy,
)
from dist_ai.metrics.text import CorpusBLEUMetric, Perplexity, RougeMetric, SacreBLEUMetric
from dist_ai.metrics.torchmetrics import TorchMetric

__all__ = [
    "MRR",
    "APScoreBinary",
    "APScoreMulti",
    "AccumMetric",
    "AvgMetric",
    "BalancedAccuracy",
    "BrierScore",
    "BrierScoreMulti",
    "CohenKappa",
    "ConfusionMatrix",
    "CorpusBLEUMetric",
    "Dice",
    "DiceMulti",
    "ExplainedVariance",
    "F1Score",
    "F1ScoreMulti",
    "FBeta",
    "FBetaMulti",
    "GatheredMetric",
    "HammingLoss",
    "HammingLossMulti",
    "Jaccard",
    "JaccardCoeff",
    "JaccardCoeffMulti",
    "JaccardMulti",
    "LabelCounts",
    "LossMetric",
    "MatthewsCorrCoef",
    "MatthewsCorrCoefMulti",
    "Mean",
    "MeanOf",
    "Metric",
    "Moments",
    "NDCGAtK",
    "PearsonCorrCoef",
    "Perplexity",
    "Precision",
    "PrecisionMulti",
    "R2Score",
    "Recall",
    "RecallAtK",
    "RecallMulti",
    "RocAuc",
    "RocAucBinary",
    "RocAucMulti",
    "RougeMetric",
    "SacreBLEUMetric",
    "SpearmanCorrCoef",
    "TorchMetric",
    "accuracy",
    "accuracy_multi",
    "as_metrics",
    "error_rate",
    "exp_rmspe",
    "foreground_acc",
    "from_sklearn",
    "lower_is_better",
    "mae",
    "mse",
    "msle",
    "reduce_metrics",
    "rmse",
    "top_k_accuracy",
]

if not TYPE_CHECKING:  # for a type checker any name would be there
    __getattr__ = missing_name(__name__)
