"""What a model gets wrong: by sample, by class, by pixel, by number; the same on every rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as skm
import torch
from matplotlib.figure import Figure
from pictures import image_folder, small_learner, small_loaders
from torch import nn
from toy import NUM_TRAIN, make_data, make_learner

from dist_ai.core.types import TensorMultiCategory
from dist_ai.core.vision_types import TensorMask
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.errors import ConfigError, DataError
from dist_ai.learner import (
    ClassificationInterpretation,
    Interpretation,
    Learner,
    RegressionInterpretation,
    SegmentationInterpretation,
)
from dist_ai.losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss

# ------------------------------------------------------------------------ one class a sample


def classes_of_toy() -> tuple[list[Any], list[Any], list[int]]:
    interp = ClassificationInterpretation.from_learner(make_learner())
    losses, samples = interp.top_losses(4)
    return interp.confusion_matrix().tolist(), losses.tolist(), samples


def test_the_confusion_matrix_and_the_largest_losses_are_those_of_all_samples_on_any_number_of_ranks(
    spawn: Any,
) -> None:
    learn = make_learner()
    x, y = (each[NUM_TRAIN:] for each in make_data())
    pred = learn.model(x)
    counts, losses, samples = classes_of_toy()
    assert counts == skm.confusion_matrix(y, pred.argmax(1), labels=range(3)).tolist()
    each = nn.functional.cross_entropy(pred, y, reduction="none")
    assert samples == each.argsort(descending=True)[:4].tolist()
    assert losses == pytest.approx(each[samples].tolist(), rel=1e-12)
    for rank in spawn(3, classes_of_toy):
        assert rank == (counts, pytest.approx(losses, rel=1e-12), samples)


def made_of(counts: list[Any], vocab: list[str]) -> ClassificationInterpretation:
    return ClassificationInterpretation(None, vocab, np.array(counts))


def test_what_is_confused_most_comes_first() -> None:
    interp = made_of([[5, 2, 0], [0, 3, 7], [1, 0, 0]], ["cat", "dog", "emu"])
    assert interp.most_confused() == [("dog", "emu", 7), ("cat", "dog", 2), ("emu", "cat", 1)]
    assert interp.most_confused(min_val=2) == [("dog", "emu", 7), ("cat", "dog", 2)]
    assert interp.most_confused()[0].actual == "dog"


def test_the_report_is_scikit_learns(capsys: pytest.CaptureFixture[str]) -> None:
    counts = [[5, 2, 0], [0, 3, 7], [1, 0, 0]]
    truth = [i for i in range(3) for j in range(3) for _ in range(counts[i][j])]
    guess = [j for i in range(3) for j in range(3) for _ in range(counts[i][j])]
    names = ["cat", "dog", "emu"]
    interp = made_of(counts, names)
    expected = skm.classification_report(truth, guess, target_names=names, output_dict=True, zero_division=0)
    table = interp.classification_report()
    for row in [*names, "macro avg", "weighted avg"]:
        assert table.loc[row].to_dict() == pytest.approx(expected[row]), row
    interp.print_classification_report()
    assert "macro avg" in capsys.readouterr().out


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_confusion_matrix_is_drawn_in_counts_or_shares() -> None:
    interp = made_of([[3, 1], [0, 0]], ["cat", "dog"])
    assert texts(interp.plot_confusion_matrix()) == ["3", "1", "0", "0"]
    assert tuple(interp.plot_confusion_matrix(figsize=(12, 10)).get_size_inches()) == (12, 10)
    figure = interp.plot_confusion_matrix(normalize=True)
    assert texts(figure) == ["0.75", "0.25", "0.00", "0.00"]
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "actual")


def test_scores_by_class_are_drawn_the_worst_on_top() -> None:
    figure = made_of([[3, 1], [2, 2]], ["cat", "dog"]).plot_per_class("recall")
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]  # bottom to top
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.5]
    with pytest.raises(ConfigError, match="score='f2' is no column of the report: 'precision', 'recall', 'f1-score'"):
        made_of([[1, 0], [0, 1]], ["a", "b"]).plot_per_class("f2")


# ------------------------------------------------------------------------ several labels a sample


def labels_learner() -> Learner:
    x, _ = make_data()
    data = TensorData(x, TensorMultiCategory((x[:, :3] > 0.2).double()))
    loaders = DataLoaders(DataLoader(data, 8), DataLoader(data, 5))
    return make_learner(dls=loaders, loss_func=BCEWithLogitsLoss(0.6))


def labels() -> tuple[list[Any], list[float]]:
    interp = ClassificationInterpretation.from_learner(labels_learner())
    return interp.confusion_matrix().tolist(), interp.classification_report()["f1-score"].tolist()


def test_each_of_several_labels_has_a_matrix_of_its_own(spawn: Any) -> None:
    learn, (x, _) = labels_learner(), make_data()
    guess, truth = (learn.model(x).sigmoid() > 0.6).numpy(), (x[:, :3] > 0.2).numpy()
    counts, scores = labels()
    assert counts == skm.multilabel_confusion_matrix(truth, guess).tolist()
    each = skm.f1_score(truth, guess, average=None, zero_division=0).tolist()
    assert scores[:3] == pytest.approx(each)
    assert spawn(2, labels) == [(counts, pytest.approx(scores))] * 2
    interp = ClassificationInterpretation.from_learner(learn)
    assert interp.multi_label
    figure = interp.plot_confusion_matrix()
    assert [axes.get_title() for axes in figure.axes] == ["0", "1", "2"]
    assert [int(text) for text in texts(figure)] == np.array(counts).ravel().tolist()
    with pytest.raises(ConfigError, match="none is mistaken for another; classification_report says how each fares"):
        interp.most_confused()


# ------------------------------------------------------------------------ pixels


def pixels() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(7, 2, 4, 4, generator=generator, dtype=torch.float64)
    masks = (images[:, 0] > 0.3).long() + (images[:, 1] > 0.9)
    masks[:, 0] = 255
    data = TensorData(images, TensorMask(masks, codes=["sky", "road", "car"]))
    torch.manual_seed(0)
    learn = make_learner(
        dls=DataLoaders(DataLoader(data, 3), DataLoader(data, 3)),
        model=nn.Conv2d(2, 3, 3, padding=1).double(),
        loss_func=CrossEntropyLoss(ignore_index=255),
    )
    interp = SegmentationInterpretation.from_learner(learn)
    guess = learn.model(images).argmax(1)
    kept = masks != 255
    table = interp.per_class()
    return {
        "counts": interp.confusion_matrix().tolist(),
        "by hand": skm.confusion_matrix(masks[kept], guess[kept]).tolist(),
        "iou": table["iou"].tolist(),
        "iou by hand": skm.jaccard_score(masks[kept], guess[kept], average=None).tolist(),
        "classes": table.index.tolist(),
        "top": interp.top_losses(2)[1],
        "most": [tuple(each) for each in interp.most_confused()],
        "drawn": len(texts(interp.plot_confusion_matrix())) + len(interp.plot_per_class("dice").axes[0].patches),
    }


def test_pixels_that_count_are_counted_by_class_on_any_number_of_ranks(spawn: Any) -> None:
    found = pixels()
    assert found["counts"] == found["by hand"]
    assert found["iou"][:3] == pytest.approx(found["iou by hand"])
    assert found["classes"] == ["sky", "road", "car", "macro avg", "weighted avg"]
    assert found["most"][0][2] == max(n for i, row in enumerate(found["counts"]) for j, n in enumerate(row) if i != j)
    assert found["drawn"] == 9 + 3
    for rank in spawn(2, pixels):
        assert rank == found


# ------------------------------------------------------------------------ numbers


def numbers() -> dict[str, Any]:
    x, _ = make_data()
    data = TensorData(x, x[:, :3] * 2 + 1)
    interp = RegressionInterpretation.from_learner(
        make_learner(dls=DataLoaders(DataLoader(data, 8), DataLoader(data, 5)), loss_func=L1Loss())
    )
    assert interp.predictions.shape == interp.targets.shape == (len(x), 3)
    return {
        "report": interp.report().to_dict(),
        "top": interp.top_losses(3)[1],
        "plots": len(interp.plot_errors().axes),
    }


def test_errors_of_numbers_are_reported_for_each_of_them(spawn: Any) -> None:
    found = numbers()
    x, _ = make_data()
    learn = make_learner()
    pred, target = learn.model(x).detach(), x[:, :3] * 2 + 1
    for i in range(3):
        assert found["report"]["r2_score"][i] == pytest.approx(skm.r2_score(target[:, i], pred[:, i]))
        assert found["report"]["mae"][i] == pytest.approx(skm.mean_absolute_error(target[:, i], pred[:, i]))
    assert found["top"] == (pred - target).abs().mean(1).argsort(descending=True)[:3].tolist()
    assert found["plots"] == 6
    for rank in spawn(2, numbers):
        for name, column in found["report"].items():
            assert rank["report"][name] == pytest.approx(column, rel=1e-10)
        assert rank["top"] == found["top"]


# ------------------------------------------------------------------------ the samples themselves


def test_the_images_with_the_largest_losses_are_named_and_drawn(tmp_path: Path) -> None:
    folder = image_folder(tmp_path)
    learn = small_learner(small_loaders(folder))
    interp = ClassificationInterpretation.from_learner(learn)
    losses, samples = interp.top_losses()
    assert losses.tolist() == sorted(losses.tolist(), reverse=True)
    assert sorted(samples) == list(range(16))
    table = interp.top_losses_table(3)
    preds, targets = learn.get_preds()
    for row in table.itertuples():
        label, _, probabilities = learn.predict(row.item)
        assert row.prediction == label
        assert row.loss == pytest.approx(-probabilities[targets[row.sample]].log().item(), rel=1e-4)
        assert Path(row.item).parent.name == row.target
    assert tuple(interp.plot_top_losses(4, figsize=(15, 11)).get_size_inches()) == (15, 11)
    figure = interp.plot_top_losses(4)
    assert len(figure.axes) == 4
    assert figure.get_suptitle() == "loss " + ", ".join(f"{loss:.2f}" for loss in losses[:4].tolist())
    smallest, _ = interp.top_losses(2, largest=False)
    assert smallest.tolist() == losses[-2:].flip(0).tolist()
    assert len(preds) == 16
    assert not learn.model.training


def test_samples_without_a_picture_are_a_table() -> None:
    interp = Interpretation.from_learner(make_learner())
    table = interp.top_losses_table(2)
    assert table["target"].tolist() == [str(make_data()[1][NUM_TRAIN + i].item()) for i in table["sample"]]
    assert isinstance(interp.plot_top_losses(2), Figure)
    with pytest.raises(ConfigError, match="no samples to look at"):
        interp.show_results([])


def test_what_cannot_be_interpreted_is_refused() -> None:
    x, y = make_data()
    learn = make_learner()
    with pytest.raises(ConfigError, match="keeps the order of the data, and this loader shuffles it"):
        Interpretation.from_learner(learn, DataLoader(TensorData(x, y), shuffle=True))
    with pytest.raises(DataError, match="no targets to hold predictions against"):
        Interpretation.from_learner(learn, DataLoader(TensorData(x)))
    with pytest.raises(DataError, match="the predictions are no classes: function does not decode them to any"):
        ClassificationInterpretation.from_learner(make_learner(loss_func=nn.functional.cross_entropy))
    with pytest.raises(ConfigError, match=r"made of counts alone; make it with from_learner\(learn\) to see samples"):
        made_of([[1, 0], [0, 1]], ["a", "b"]).plot_top_losses()
    assert len(learn.callbacks) == len(make_learner().callbacks)  # nothing stays attached


def test_inputs_and_predictions_are_not_kept() -> None:
    interp = ClassificationInterpretation.from_learner(make_learner())
    kept = [value for part in (interp, interp.samples) for value in vars(part).values()]
    sizes = [value.numel() for value in kept if isinstance(value, torch.Tensor)]
    assert sizes == [11, 11]  # a loss and a number for each sample
