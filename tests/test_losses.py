"""Losses: their values, activations, decodings, and their way into an export and back."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.types import TensorCategory, TensorMultiCategory, TensorRegression
from dist_ai.errors import ArtifactError, DataError
from dist_ai.losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    MSELoss,
    activation,
    decodes,
    default_loss,
    loss_from_plain,
    loss_to_plain,
    losses,
)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(logits: torch.Tensor, label_smoothing: float) -> None:
    target = torch.tensor([0, 4, 2, 2, 1, 3])
    got = CrossEntropyLoss(label_smoothing=label_smoothing)(logits, target)
    assert torch.equal(got, F.cross_entropy(logits, target, label_smoothing=label_smoothing))
    assert got.shape == ()


def test_cross_entropy_is_its_formula(logits: torch.Tensor) -> None:
    target = torch.tensor([0, 4, 2, 2, 1, 3])
    by_hand = -sum(
        float(row[t] - torch.log(torch.exp(row).sum())) for row, t in zip(logits, target.tolist(), strict=True)
    )
    assert CrossEntropyLoss()(logits, target).item() == pytest.approx(by_hand / 6, rel=1e-14)


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_the_classes_may_stand_on_any_axis(axis: int) -> None:
    classes_second = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    target = torch.arange(24).view(2, 3, 4) % 5
    pred = classes_second.movedim(1, axis)
    loss = CrossEntropyLoss(axis)
    torch.testing.assert_close(loss(pred, target), F.cross_entropy(classes_second, target))
    assert torch.equal(decodes(loss, pred), classes_second.argmax(1))
    torch.testing.assert_close(activation(loss, pred).movedim(axis, 1), classes_second.softmax(1))


def test_the_activation_is_the_classes_probabilities_and_decoding_gives_categories(logits: torch.Tensor) -> None:
    loss = CrossEntropyLoss()
    probabilities = activation(loss, logits)
    assert probabilities.sum(1).tolist() == pytest.approx([1.0] * 6)
    assert torch.equal(probabilities, logits.softmax(1))
    decoded = decodes(loss, logits)
    assert type(decoded) is TensorCategory
    assert torch.equal(decoded, TensorCategory(logits.argmax(1)))


def test_a_loss_without_activation_and_decoding_leaves_predictions_as_they_are(logits: torch.Tensor) -> None:
    assert activation(F.mse_loss, logits) is logits
    assert decodes(nn.MSELoss(), logits) is logits


def test_a_loss_is_the_same_after_a_round_trip_through_json(logits: torch.Tensor) -> None:
    loss = CrossEntropyLoss(axis=-1, label_smoothing=0.25)
    plain = json.loads(json.dumps(loss_to_plain(loss)))
    assert plain == {"loss": "CrossEntropyLoss", "axis": -1, "label_smoothing": 0.25}
    again = loss_from_plain(plain)
    target = torch.tensor([0, 4, 2, 2, 1, 3])
    assert torch.equal(again(logits, target), loss(logits, target))
    assert plain["loss"] == "CrossEntropyLoss"  # reading leaves what was read alone


def test_a_loss_that_is_not_registered_is_left_out_of_an_export() -> None:
    assert loss_to_plain(nn.MSELoss()) is None
    assert loss_to_plain(F.cross_entropy) is None
    assert loss_from_plain(None) is None


def test_an_unknown_loss_in_an_export_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ArtifactError) as refused:
        loss_from_plain({"loss": "CrossEntropyLos"})
    assert str(refused.value) == (
        "loss 'CrossEntropyLos' is not known in this program; did you mean 'CrossEntropyLoss'?; "
        "register its class with dist_ai.losses.losses.register(name) before loading"
    )


def test_the_default_loss_is_chosen_by_the_type_of_the_target() -> None:
    assert isinstance(default_loss(TensorCategory([1, 2])), CrossEntropyLoss)
    assert default_loss.find(torch.Tensor) is None  # a plain tensor does not say what it means
    assert losses.find("CrossEntropyLoss") is CrossEntropyLoss


def test_each_class_by_itself_is_torchs_binary_cross_entropy_whatever_the_dtype_of_the_target(logits) -> None:
    target = (logits > 0.3).roll(1, 0)
    expected = F.binary_cross_entropy_with_logits(logits, target.double())
    for dtype in (torch.bool, torch.int64, torch.float32):
        assert torch.equal(BCEWithLogitsLoss()(logits, target.to(dtype)), expected)
    assert torch.equal(activation(BCEWithLogitsLoss(), logits), logits.sigmoid())


def test_the_threshold_says_which_classes_are_there(logits: torch.Tensor) -> None:
    for thresh in (0.2, 0.5):
        found = decodes(BCEWithLogitsLoss(thresh), logits)
        assert type(found) is TensorMultiCategory
        assert torch.equal(found.bool().as_subclass(torch.Tensor), logits.sigmoid() > thresh)
    assert loss_from_plain(json.loads(json.dumps(loss_to_plain(BCEWithLogitsLoss(0.2))))).thresh == 0.2


def test_the_squared_error_of_a_column_and_a_row_is_that_of_their_numbers_and_not_of_a_table() -> None:
    pred, target = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 2.0, 1.0])
    assert MSELoss()(pred, target) == 3.0
    assert torch.equal(decodes(MSELoss(), pred), pred)
    assert type(decodes(MSELoss(), pred)) is TensorRegression
    assert type(loss_from_plain(loss_to_plain(MSELoss()))) is MSELoss


@pytest.mark.parametrize("loss", [MSELoss(), BCEWithLogitsLoss()])
def test_a_prediction_that_does_not_fit_its_target_is_explained(loss: nn.Module) -> None:
    message = r"a prediction of shape \(4, 2\) for a target of shape \(4,\); expected as many numbers: give the model"
    with pytest.raises(DataError, match=message):
        loss(torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(DataError, match="expected as many numbers"):
        loss(torch.zeros(4, 2), torch.zeros(8))


def test_several_labels_and_numbers_have_default_losses() -> None:
    assert type(default_loss(TensorMultiCategory([1.0, 0.0]))) is BCEWithLogitsLoss
    assert type(default_loss(TensorRegression([1.0]))) is MSELoss
