"""Every metric beside its oracle, and inputs that are hard on it: the same tables on one process and on several."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import sklearn.metrics as skm
import torch
from scipy import stats
from torch.nn import functional as F

from dist_ai.data import EpochPlan
from dist_ai.distributed import join
from dist_ai.metrics import (
    APScoreBinary,
    APScoreMulti,
    BalancedAccuracy,
    BrierScore,
    BrierScoreMulti,
    CohenKappa,
    Dice,
    DiceMulti,
    ExplainedVariance,
    F1Score,
    F1ScoreMulti,
    FBeta,
    FBetaMulti,
    HammingLoss,
    HammingLossMulti,
    Jaccard,
    JaccardCoeff,
    JaccardCoeffMulti,
    JaccardMulti,
    MatthewsCorrCoef,
    MatthewsCorrCoefMulti,
    PearsonCorrCoef,
    Perplexity,
    Precision,
    PrecisionMulti,
    R2Score,
    Recall,
    RecallMulti,
    RocAuc,
    RocAucBinary,
    RocAucMulti,
    SpearmanCorrCoef,
    accuracy,
    accuracy_multi,
    as_metrics,
    error_rate,
    exp_rmspe,
    foreground_acc,
    from_sklearn,
    mae,
    mse,
    msle,
    reduce_metrics,
    rmse,
    top_k_accuracy,
)

NUM = 37
Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Case:
    """A metric, what it should be of all samples at once, and the kind of data it is of."""

    make: Callable[[], Any]
    oracle: Callable[[np.ndarray, np.ndarray], float]  # (prediction, target)
    kind: str


# ------------------------------------------------------------------------ data


def _logits(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).mul(4).round() / 4  # with ties


def _classes(high: int, *shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def data() -> dict[str, dict[str, Pair]]:
    """Returns predictions and targets by kind and by what is special about them."""
    return {
        kind: {
            "random": (_logits(NUM, num), _classes(num, NUM)),
            "a class is absent": (_logits(NUM, num), _classes(num - 1, NUM)),
            "only one class": (_logits(NUM, num), torch.ones(NUM, dtype=torch.int64)),
            "all wrong": (F.one_hot(_classes(num, NUM), num).double(), (_classes(num, NUM) + 1) % num),
            "all right": (F.one_hot(_classes(num, NUM), num).double() * 3, _classes(num, NUM)),
            "a class is never predicted": (
                _logits(NUM, num) - 99 * F.one_hot(torch.tensor(num - 1), num),
                _classes(num, NUM),
            ),
            "one prediction": (torch.zeros(NUM, num, dtype=torch.float64), _classes(num, NUM)),
        }
        for kind, num in (("binary", 2), ("classes", 4))
    } | {
        "labels": {
            "random": (_logits(NUM, 4), _classes(2, NUM, 4)),
            "a label is absent": (_logits(NUM, 4), _classes(2, NUM, 4) * torch.tensor([1, 1, 1, 0])),
            "all wrong": ((_classes(2, NUM, 4) * 2 - 1).double(), 1 - _classes(2, NUM, 4)),
            "nothing predicted": (_logits(NUM, 4) - 99, _classes(2, NUM, 4)),
            "everything is there": (_logits(NUM, 4), torch.ones(NUM, 4, dtype=torch.int64)),
        },
        "numbers": {
            "random": (_logits(NUM), _logits(NUM, seed=1)),
            "a column": (_logits(NUM, 1), _logits(NUM, seed=1)),
            "far from zero": (_logits(NUM) + 1e6, _logits(NUM, seed=1) + 1e6),
            "constant target": (_logits(NUM), torch.full((NUM,), 3.0, dtype=torch.float64)),
            "constant prediction": (torch.full((NUM,), 3.0, dtype=torch.float64), _logits(NUM)),
            "constant and right": (torch.full((NUM,), 3.0, dtype=torch.float64),) * 2,
        },
        "columns": {"random": (_logits(NUM, 3), _logits(NUM, 3, seed=1) + torch.tensor([0.0, 10.0, 1e3]))},
        "positive": {"random": (_logits(NUM).exp(), _logits(NUM, seed=1).exp())},
        "binary pixels": {
            "random": (_logits(NUM, 2, 3, 4), _classes(2, NUM, 3, 4)),
            "no foreground": (_logits(NUM, 2, 3, 4), _classes(1, NUM, 3, 4)),
        },
        "pixels": {
            "random": (_logits(NUM, 4, 3, 4), _classes(4, NUM, 3, 4)),
            "a class is absent": (_logits(NUM, 4, 3, 4), _classes(3, NUM, 3, 4)),
        },
        "tokens": {"random": (_logits(NUM, 5, 7), _classes(7, NUM, 5))},
    }


# ------------------------------------------------------------------------ oracles


def softmax(pred: np.ndarray) -> np.ndarray:
    return torch.from_numpy(pred).softmax(1).numpy()


def sigmoid(pred: np.ndarray) -> np.ndarray:
    return torch.from_numpy(pred).sigmoid().numpy()


def of_classes(function: Callable[..., Any], **options: Any) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda pred, target: function(target.ravel(), pred.argmax(1).ravel(), **options)


def of_labels(function: Callable[..., Any], **options: Any) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda pred, target: function(target, sigmoid(pred) > 0.5, **options)


def of_numbers(function: Callable[..., Any]) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda pred, target: function(target.reshape(NUM, -1), pred.reshape(NUM, -1))


def of_second(function: Callable[..., Any]) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda pred, target: function(target, pred[:, 1] - pred[:, 0])


def auc_of_columns(scores: np.ndarray, truth: np.ndarray, average: str) -> float:
    mixed = [i for i in range(truth.shape[1]) if 0 < truth[:, i].sum() < len(truth)]  # the others have no area
    if not mixed:
        return float("nan")
    return skm.roc_auc_score(truth[:, mixed], scores[:, mixed], average=average)


def one_against_the_rest(average: str) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda pred, target: auc_of_columns(softmax(pred), np.eye(pred.shape[1])[target], average)


def each_against_each(average: str) -> Callable[[np.ndarray, np.ndarray], float]:
    def oracle(pred: np.ndarray, target: np.ndarray) -> float:
        there = np.unique(target)
        if len(there) < 2:
            return float("nan")
        scores = softmax(pred)
        if len(there) < pred.shape[1]:  # scikit-learn refuses: its formula, from areas of two classes
            areas, weights = [], []
            for i, a in enumerate(there):
                for b in there[i + 1 :]:
                    among = np.isin(target, [a, b])
                    both = [skm.roc_auc_score(target[among] == c, scores[among, c]) for c in (a, b)]
                    areas.append(np.mean(both))
                    weights.append(among.sum() if average == "weighted" else 1)
            return float(np.average(areas, weights=weights))
        if len(there) == 2:
            return skm.roc_auc_score(target, scores[:, 1])
        return skm.roc_auc_score(target, scores, multi_class="ovo", average=average)

    return oracle


def brier(pred: np.ndarray, target: np.ndarray) -> float:
    labels = list(range(pred.shape[1]))
    scores = softmax(pred)
    if len(labels) == 2:
        return skm.brier_score_loss(target, scores[:, 1], labels=labels)
    return skm.brier_score_loss(target, scores, labels=labels)


def matthews_of_labels(pred: np.ndarray, target: np.ndarray) -> float:
    guess = sigmoid(pred) > 0.5
    return float(np.mean([skm.matthews_corrcoef(target[:, i], guess[:, i]) for i in range(target.shape[1])]))


def correlation(function: Callable[..., Any]) -> Callable[[np.ndarray, np.ndarray], float]:
    def oracle(pred: np.ndarray, target: np.ndarray) -> float:
        columns = zip(pred.reshape(NUM, -1).T, target.reshape(NUM, -1).T, strict=True)
        return float(np.mean([function(p, t).statistic for p, t in columns]))

    return oracle


def top_2(pred: np.ndarray, target: np.ndarray) -> float:
    best = torch.from_numpy(pred).topk(2).indices.numpy()
    return float(np.mean([t in row for t, row in zip(target, best, strict=True)]))


def foreground(pred: np.ndarray, target: np.ndarray) -> float:
    kept = target != 0
    return float((pred.argmax(1) == target)[kept].mean())


CASES: dict[str, Case] = {
    "accuracy": Case(lambda: accuracy, of_classes(skm.accuracy_score), "classes"),
    "error_rate": Case(lambda: error_rate, of_classes(skm.zero_one_loss), "classes"),
    "top_k_accuracy": Case(lambda: partial(top_k_accuracy, k=2), top_2, "classes"),
    "HammingLoss": Case(HammingLoss, of_classes(skm.hamming_loss), "classes"),
    "MatthewsCorrCoef": Case(MatthewsCorrCoef, of_classes(skm.matthews_corrcoef), "classes"),
    "MatthewsCorrCoef of 2": Case(MatthewsCorrCoef, of_classes(skm.matthews_corrcoef), "binary"),
    "CohenKappa": Case(CohenKappa, of_classes(skm.cohen_kappa_score), "classes"),
    "CohenKappa linear": Case(
        lambda: CohenKappa(weights="linear"),
        of_classes(skm.cohen_kappa_score, weights="linear", labels=range(4)),
        "classes",
    ),
    "CohenKappa quadratic": Case(
        lambda: CohenKappa(weights="quadratic"),
        of_classes(skm.cohen_kappa_score, weights="quadratic", labels=range(4)),
        "classes",
    ),
    "BalancedAccuracy": Case(BalancedAccuracy, of_classes(skm.balanced_accuracy_score), "classes"),
    "BalancedAccuracy adjusted": Case(
        lambda: BalancedAccuracy(adjusted=True), of_classes(skm.balanced_accuracy_score, adjusted=True), "classes"
    ),
    "BrierScore of 2": Case(BrierScore, brier, "binary"),
    "BrierScore": Case(BrierScore, brier, "classes"),
    "RocAucBinary": Case(RocAucBinary, of_second(skm.roc_auc_score), "binary"),
    "APScoreBinary": Case(APScoreBinary, of_second(skm.average_precision_score), "binary"),
    "RocAuc of 2": Case(RocAuc, one_against_the_rest("macro"), "binary"),
    "RocAuc": Case(RocAuc, one_against_the_rest("macro"), "classes"),
    "RocAuc weighted": Case(lambda: RocAuc(average="weighted"), one_against_the_rest("weighted"), "classes"),
    "RocAuc ovo": Case(lambda: RocAuc(multi_class="ovo"), each_against_each("macro"), "classes"),
    "RocAuc ovo weighted": Case(
        lambda: RocAuc(multi_class="ovo", average="weighted"), each_against_each("weighted"), "classes"
    ),
    "accuracy_multi": Case(
        lambda: accuracy_multi, lambda pred, target: float(((sigmoid(pred) > 0.5) == target).mean()), "labels"
    ),
    "HammingLossMulti": Case(HammingLossMulti, of_labels(skm.hamming_loss), "labels"),
    "MatthewsCorrCoefMulti": Case(MatthewsCorrCoefMulti, matthews_of_labels, "labels"),
    "MatthewsCorrCoefMulti micro": Case(
        lambda: MatthewsCorrCoefMulti(average="micro"),
        lambda pred, target: skm.matthews_corrcoef(target.ravel(), (sigmoid(pred) > 0.5).ravel()),
        "labels",
    ),
    "BrierScoreMulti": Case(
        BrierScoreMulti, lambda pred, target: float(((sigmoid(pred) - target) ** 2).mean()), "labels"
    ),
    "mse": Case(lambda: mse, of_numbers(skm.mean_squared_error), "numbers"),
    "rmse": Case(lambda: rmse, of_numbers(skm.root_mean_squared_error), "numbers"),
    "mae": Case(lambda: mae, of_numbers(skm.mean_absolute_error), "numbers"),
    "msle": Case(lambda: msle, of_numbers(skm.mean_squared_log_error), "positive"),
    "exp_rmspe": Case(
        lambda: exp_rmspe,
        lambda pred, target: float(np.sqrt(np.mean(((np.exp(target) - np.exp(pred)) / np.exp(target)) ** 2))),
        "positive",
    ),
    "R2Score": Case(R2Score, of_numbers(skm.r2_score), "numbers"),
    "R2Score of columns": Case(R2Score, of_numbers(skm.r2_score), "columns"),
    "ExplainedVariance": Case(ExplainedVariance, of_numbers(skm.explained_variance_score), "numbers"),
    "ExplainedVariance of columns": Case(ExplainedVariance, of_numbers(skm.explained_variance_score), "columns"),
    "PearsonCorrCoef": Case(PearsonCorrCoef, correlation(stats.pearsonr), "numbers"),
    "PearsonCorrCoef of columns": Case(PearsonCorrCoef, correlation(stats.pearsonr), "columns"),
    "SpearmanCorrCoef": Case(SpearmanCorrCoef, correlation(stats.spearmanr), "numbers"),
    "SpearmanCorrCoef of columns": Case(SpearmanCorrCoef, correlation(stats.spearmanr), "columns"),
    "foreground_acc": Case(lambda: foreground_acc, foreground, "pixels"),
    "Dice": Case(Dice, of_classes(skm.f1_score, zero_division=0), "binary pixels"),
    "JaccardCoeff": Case(JaccardCoeff, of_classes(skm.jaccard_score, zero_division=0), "binary pixels"),
    "DiceMulti": Case(DiceMulti, of_classes(skm.f1_score, average="macro", zero_division=0), "pixels"),
    "JaccardCoeffMulti": Case(
        JaccardCoeffMulti, of_classes(skm.jaccard_score, average="macro", zero_division=0), "pixels"
    ),
    "Perplexity": Case(
        Perplexity,
        lambda pred, target: float(np.exp(skm.log_loss(target.ravel(), softmax(pred.reshape(-1, 7)), labels=range(7)))),
        "tokens",
    ),
    "from_sklearn classes": Case(
        lambda: from_sklearn(skm.accuracy_score, takes="classes"), of_classes(skm.accuracy_score), "classes"
    ),
    "from_sklearn labels": Case(
        lambda: from_sklearn(partial(skm.f1_score, average="micro", zero_division=0), takes="labels"),
        of_labels(skm.f1_score, average="micro", zero_division=0),
        "labels",
    ),
    "from_sklearn probabilities": Case(
        lambda: from_sklearn(partial(skm.log_loss, labels=range(4)), takes="probabilities"),
        lambda pred, target: skm.log_loss(target, softmax(pred), labels=range(4)),
        "classes",
    ),
    "from_sklearn probability": Case(
        lambda: from_sklearn(skm.brier_score_loss, takes="probabilities", name="brier"), brier, "binary"
    ),
    "from_sklearn label_probabilities": Case(
        lambda: from_sklearn(skm.root_mean_squared_error, takes="label_probabilities"),
        lambda pred, target: skm.root_mean_squared_error(target, sigmoid(pred)),
        "labels",
    ),
    "from_sklearn numbers": Case(
        lambda: from_sklearn(skm.max_error, takes="numbers"),
        lambda pred, target: skm.max_error(target.ravel(), pred.ravel()),
        "numbers",
    ),
}
SCORES = {
    "Precision": (Precision, PrecisionMulti, skm.precision_score, {}),
    "Recall": (Recall, RecallMulti, skm.recall_score, {}),
    "F1Score": (F1Score, F1ScoreMulti, skm.f1_score, {}),
    "FBeta": (partial(FBeta, 0.5), partial(FBetaMulti, 0.5), partial(skm.fbeta_score, beta=0.5), {}),
    "Jaccard": (Jaccard, JaccardMulti, skm.jaccard_score, {}),
}
for _name, (_single, _multi, _oracle, _) in SCORES.items():
    CASES[_name] = Case(_single, of_classes(_oracle, zero_division=0), "binary")
    CASES[f"{_name} of class 0"] = Case(
        partial(_single, pos_label=0), of_classes(_oracle, pos_label=0, zero_division=0), "binary"
    )
    for _average in ("macro", "micro", "weighted"):
        CASES[f"{_name} {_average}"] = Case(
            partial(_single, average=_average), of_classes(_oracle, average=_average, zero_division=0), "classes"
        )
    CASES[f"{_name} of classes 0 and 3"] = Case(
        partial(_single, average="macro", labels=[0, 3]),
        of_classes(_oracle, average="macro", labels=[0, 3], zero_division=0),
        "classes",
    )
    for _average in ("macro", "micro", "weighted", "samples"):
        CASES[f"{_name}Multi {_average}"] = Case(
            partial(_multi, average=_average), of_labels(_oracle, average=_average, zero_division=0), "labels"
        )
for _average in ("macro", "micro", "weighted"):
    CASES[f"RocAucMulti {_average}"] = Case(
        partial(RocAucMulti, average=_average),
        lambda pred, target, average=_average: (
            skm.roc_auc_score(target.ravel(), pred.ravel())
            if average == "micro"
            else auc_of_columns(pred, target, average)
        ),
        "labels",
    )
    CASES[f"APScoreMulti {_average}"] = Case(
        partial(APScoreMulti, average=_average),
        lambda pred, target, average=_average: skm.average_precision_score(target, pred, average=average),
        "labels",
    )


# ------------------------------------------------------------------------ values


def expected(name: str, pred: torch.Tensor, target: torch.Tensor) -> float:
    """Returns what the oracle says; it is warned of what cannot be defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(CASES[name].oracle(pred.numpy(), target.numpy()))


def values(names: list[str] | None = None, bs: int = 8) -> dict[str, float]:
    """Returns every metric of every input, dealt to the ranks as a loader deals them."""
    ranks, inputs, found = join(), data(), {}
    for name in names or CASES:
        for what, (pred, target) in inputs[CASES[name].kind].items():
            [metric] = as_metrics(CASES[name].make())
            metric.reset()
            world = ranks.world
            for share in EpochPlan(num_samples=NUM, batch_size=bs, world_size=world.world_size, rank=world.rank):
                rows = torch.from_numpy(share.indices)
                metric.update(pred[rows], target[rows], share.num_local)
            [found[f"{name}: {what}"]] = reduce_metrics([metric], ranks)
    return found
