"""What a user may give as a metric, and what is refused; metrics with states, rows, texts."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import pytest
import sklearn.metrics as skm
import torch
import torchmetrics
from torch.nn import functional as F
from toy import make_learner

from dist_ai.data import EpochPlan
from dist_ai.distributed import join
from dist_ai.errors import ConfigError, DataError
from dist_ai.losses import CrossEntropyLoss
from dist_ai.metrics import (
    AccumMetric,
    AvgMetric,
    BalancedAccuracy,
    CorpusBLEUMetric,
    Dice,
    F1Score,
    F1ScoreMulti,
    GatheredMetric,
    JaccardMulti,
    LossMetric,
    MatthewsCorrCoefMulti,
    Mean,
    MeanOf,
    Metric,
    Perplexity,
    Precision,
    R2Score,
    RocAuc,
    RocAucBinary,
    RocAucMulti,
    TorchMetric,
    accuracy,
    as_metrics,
    from_sklearn,
    reduce_metrics,
    rmse,
)

NUM = 37


def make_data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(NUM, 4, generator=generator), torch.randint(4, (NUM,), generator=generator)


def value_of(metric: Any, pred: torch.Tensor, target: torch.Tensor, bs: int = 8) -> float:
    """Returns the metric over this rank's parts of all batches, and over all ranks."""
    ranks = join()
    [metric] = as_metrics(metric)
    metric.reset()
    for share in EpochPlan(
        num_samples=len(pred), batch_size=bs, world_size=ranks.world.world_size, rank=ranks.world.rank
    ):
        rows = torch.from_numpy(share.indices)
        metric.update(pred[rows], target[rows], share.num_local)
    return reduce_metrics([metric], ranks)[0]


# ------------------------------------------------------------------------ torchmetrics

TORCHMETRICS = {
    "sums": partial(torchmetrics.classification.MulticlassF1Score, num_classes=4, average="macro"),
    "all rows": partial(torchmetrics.classification.MulticlassAUROC, num_classes=4),
    "a mean": partial(torchmetrics.classification.MulticlassHingeLoss, num_classes=4),
    "own reduction": partial(torchmetrics.classification.MulticlassMatthewsCorrCoef, num_classes=4),
}


def spearman() -> torchmetrics.Metric:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `SpearmanCorrcoef` will save all targets")
        return torchmetrics.SpearmanCorrCoef()


def torchmetrics_values(bs: int = 8) -> dict[str, float]:
    pred, target = make_data()
    # Probabilities: torchmetrics decides by the values of each batch whether they are logits, so for one sample otherwise.
    found = {name: value_of(make(), pred.softmax(1), target, bs) for name, make in TORCHMETRICS.items()}
    numbers = (pred[:, 0], pred[:, 1])
    found["moments"] = value_of(torchmetrics.PearsonCorrCoef(), *numbers, bs=bs)
    found["rows of numbers"] = value_of(spearman(), *numbers, bs=bs)
    return found


def test_metrics_of_torchmetrics_are_used_as_they_are() -> None:
    pred, target = make_data()
    found = torchmetrics_values()
    for name, make in TORCHMETRICS.items():
        assert found[name] == pytest.approx(make()(pred.softmax(1), target).item(), rel=1e-6), name
    mine = torchmetrics.classification.MulticlassF1Score(num_classes=4)
    [metric] = as_metrics(mine)
    assert isinstance(metric, TorchMetric)
    assert metric.name == "MulticlassF1Score"
    metric.update(pred, target, NUM)
    assert not mine.update_called  # the Learner's is a copy


@pytest.mark.parametrize(
    ("world_size", "bs"), [(2, 8), pytest.param(3, 34, marks=pytest.mark.slow)]
)  # 34: one of three ranks has a sample in the last batch
def test_metrics_of_torchmetrics_reduce_over_ranks_as_they_declare(spawn: Any, world_size: int, bs: int) -> None:
    alone = torchmetrics_values()
    for rank in spawn(world_size, torchmetrics_values, bs=bs):
        assert rank == pytest.approx(alone, rel=1e-5)


def torchmetrics_of_one_sample() -> list[float]:
    pred, target = torch.tensor([[0.1, 2.0, 0.3, 0.4]]), torch.tensor([1])
    accuracy = torchmetrics.classification.MulticlassAccuracy(num_classes=4, average="micro")
    return [value_of(accuracy, pred, target), value_of(spearman(), pred[0], pred[0], bs=4)]


@pytest.mark.slow
def test_ranks_without_any_sample_take_part_in_the_states_of_torchmetrics(spawn: Any) -> None:
    # Of five ranks four have no sample of the first; the last has none of the second, whose states are rows.
    assert spawn(5, torchmetrics_of_one_sample) == [pytest.approx([1.0, 1.0])] * 5


def test_a_torchmetrics_metric_without_one_number_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"MulticlassRecall gives Tensor and not one number; choose one, such as average"
    ):
        value_of(torchmetrics.classification.MulticlassRecall(num_classes=4, average=None), *make_data())


def nothing_counted() -> list[float]:
    ranks, (pred, target) = join(), make_data()
    metrics = as_metrics(
        [F1Score(average="macro"), RocAuc(), R2Score(), F1ScoreMulti(), rmse, torchmetrics.CosineSimilarity()]
    )
    for metric in metrics:
        metric.update(pred if metric.name not in ("r2_score", "rmse") else pred[:, 0], target, 0)
    return reduce_metrics(metrics, ranks)


def test_metrics_by_name_have_columns_of_those_names() -> None:
    given = {"f1": F1Score(), "f1_macro": F1Score(average="macro"), "right": accuracy, "mine": lambda p, t: p.mean()}
    assert [metric.name for metric in as_metrics(given)] == [*given]
    assert accuracy.name == "accuracy"  # which others have too
    mine = F1Score()
    assert [metric.name for metric in as_metrics({"a": mine, "b": mine})] == ["a", "b"]
    assert mine.name == "f1_score"
    learn = make_learner(metrics={"f1": F1Score(average="micro"), "f1_macro": F1Score(average="macro")})
    learn.fit(1, 0.1)
    assert learn.recorder.names[3:5] == ["f1", "f1_macro"]
    f1, f1_macro = learn.recorder.final[1:]
    assert 0 < f1 != f1_macro


def test_nothing_counted_is_nan_for_every_kind(spawn: Any) -> None:
    assert all(math.isnan(value) for value in nothing_counted())
    for rank in spawn(2, nothing_counted):
        assert all(math.isnan(value) for value in rank)
    never_updated = as_metrics([F1Score(), RocAuc(), R2Score(), F1ScoreMulti(), rmse, CorpusBLEUMetric()])
    assert all(math.isnan(value) for value in reduce_metrics(never_updated, join()))


# ------------------------------------------------------------------------ scikit-learn


def test_a_bare_function_of_scikit_learn_is_refused_with_the_way_to_give_it() -> None:
    for function in (skm.f1_score, partial(skm.f1_score, average="macro")):
        with pytest.raises(ConfigError) as refused:
            as_metrics(function)
        assert str(refused.value) == (
            "f1_score is scikit-learn's: it takes the targets first and means all samples at once; give "
            "from_sklearn(f1_score, takes=...)"
        )
    with pytest.raises(ConfigError, match="takes='class': expected one of 'classes', 'labels', 'probabilities'"):
        from_sklearn(skm.f1_score, takes="class")  # type: ignore[arg-type]


# ------------------------------------------------------------------------ what is refused


def test_a_metric_that_was_not_made_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"F1Score makes a metric; did you mean F1Score\(\)\?"):
        as_metrics(F1Score)
    with pytest.raises(ConfigError, match=r"AccumMetric is a class; did you mean AccumMetric\(\)\?"):
        as_metrics([AccumMetric])


def test_options_that_cannot_be_are_refused_when_the_metric_is_made() -> None:
    for make, message in (
        (lambda: F1Score(average="samples"), "f1_score: average='samples'; expected 'binary', 'macro', 'micro'"),
        (lambda: JaccardMulti(average="binary"), "jaccard_score: average='binary'; expected 'macro', 'micro'"),
        (lambda: MatthewsCorrCoefMulti(average="weighted"), "average='weighted'; expected 'macro' or 'micro'"),
        (lambda: RocAuc(multi_class="all"), "multi_class='all'"),
        (lambda: RocAucMulti(average="samples"), "average='samples'; expected 'macro', 'micro' or 'weighted'"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


def test_a_metric_of_two_classes_refuses_four_at_the_first_batch() -> None:
    pred, target = make_data()
    for metric in (Precision(), Dice(axis=-1)):
        with pytest.raises(DataError, match=r"of 2 classes, and the prediction has 4; give an average over classes"):
            metric.update(pred, target, NUM)
    with pytest.raises(DataError, match=r"roc_auc_score of 2 classes, and the prediction has 4; use RocAuc"):
        RocAucBinary().update(pred, target, NUM)


# ------------------------------------------------------------------------ the rest


def test_what_counts_may_be_weighed() -> None:
    kept = MeanOf(lambda pred, target: (pred == target, target != 0), "kept")
    assert value_of(kept, torch.tensor([1.0, 2, 3, 0]), torch.tensor([1.0, 2, 2, 0]), bs=3) == pytest.approx(2 / 3)
    assert kept(torch.tensor([1.0, 2, 3, 0]), torch.tensor([1.0, 2, 2, 0])).item() == pytest.approx(2 / 3)


def test_a_root_is_taken_of_the_whole_and_not_of_each_batch() -> None:
    pred, target = torch.tensor([1.0, 2, 3, 9]), torch.zeros(4)
    assert value_of(rmse, pred, target, bs=3) == pytest.approx(math.sqrt((1 + 4 + 9 + 81) / 4))
    assert rmse(pred, target).item() == pytest.approx(math.sqrt((1 + 4 + 9 + 81) / 4))


def test_pixels_and_tokens_may_be_ignored() -> None:
    pred = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0))
    target = torch.randint(3, (5, 7), generator=torch.Generator().manual_seed(1))
    marked = target.clone()
    marked[:, 4:] = -100
    expected = math.exp(F.cross_entropy(pred[:, :4].reshape(-1, 3), target[:, :4].reshape(-1)).item())
    assert value_of(Perplexity(ignore_index=-100), pred, marked, bs=2) == pytest.approx(expected, rel=1e-6)
    two, of_two = pred[..., :2], target.clamp(max=1)
    marked = of_two.clone()
    marked[:, 4:] = 255
    left = value_of(Dice(axis=-1, ignore_index=255), two, marked, bs=2)
    assert left == pytest.approx(value_of(Dice(axis=-1), two[:, :4], of_two[:, :4], bs=2), rel=1e-12)


def bleu(bs: int = 2) -> float:
    texts = [
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7]),
        ([1, 1, 1, 2, 0, 0], [1, 1, 2, 2, 3, 0]),
        ([4, 5, 6, 7, 0, 0],) * 2,
    ]
    pred = torch.stack([F.one_hot(torch.tensor(guess), 8).float() for guess, _ in texts])
    return value_of(CorpusBLEUMetric(pad_idx=0), pred, torch.tensor([truth for _, truth in texts]), bs)


def test_bleu_of_a_corpus_is_its_formula_on_any_number_of_ranks(spawn: Any) -> None:
    # By hand: 1-grams 5 of 6, 3 of 4, 4 of 4; 2-grams 4 of 5, 2 of 3, 3 of 3; 3-grams 3 of 4, 1 of 2, 2 of 2; and
    # 4-grams 2 of 3, 0 of 1, 1 of 1. Lengths 14 against 15.
    logs = math.log(12 / 14) + math.log(9 / 11) + math.log(6 / 8) + math.log(3 / 5)
    expected = math.exp(1 - 15 / 14) * math.exp(logs / 4)
    assert bleu() == pytest.approx(expected, rel=1e-12)
    assert spawn(2, bleu) == [bleu()] * 2
    short = torch.eye(8)[torch.tensor([[1, 2]])]
    assert value_of(CorpusBLEUMetric(), short, torch.tensor([[1, 2]])) == 0.0  # no four tokens in a row


def test_an_attribute_of_the_loss_is_a_metric() -> None:
    class Regularised(CrossEntropyLoss):
        def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            self.size = pred.square().mean()
            return super().forward(pred, target) + self.size

    loss = Regularised()
    learn = make_learner(loss_func=loss, metrics=[LossMetric(loss, "size"), F.cross_entropy])
    total, size, own = learn.validate()
    assert total == pytest.approx(size + own, rel=1e-12)


def test_metrics_of_every_kind_stand_side_by_side_in_a_learner(spawn: Any) -> None:
    alone = validate_with_every_kind()
    assert list(alone) == [
        "valid_loss",
        "accuracy",
        "balanced_accuracy_score",
        "roc_auc_score",
        "MulticlassAccuracy",
        "f1_score",
    ]
    assert all(value >= 0 for value in alone.values())
    for rank in spawn(3, validate_with_every_kind):
        assert rank == pytest.approx(alone, rel=1e-6)


def validate_with_every_kind() -> dict[str, float]:
    learn = make_learner(
        metrics=[
            accuracy,
            BalancedAccuracy(),
            RocAuc(),
            torchmetrics.classification.MulticlassAccuracy(num_classes=3),
            from_sklearn(partial(skm.f1_score, average="macro"), takes="classes"),
        ]
    )
    learn.fit(1)
    names = ["valid_loss", *(metric.name for metric in learn.recorder.metrics)]
    return dict(zip(names, learn.validate(), strict=True))


def test_metrics_are_of_one_of_two_kinds() -> None:
    assert isinstance(F1Score(), Metric)
    assert not isinstance(F1Score(), GatheredMetric)
    assert isinstance(RocAuc(), GatheredMetric)
    assert AvgMetric is Mean
