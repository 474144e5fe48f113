"""Losses: their values, activations, decodings, and their way into an export and back."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.types import TensorCategory, TensorMultiCategory, TensorRegression
from dist_ai.errors import ArtifactError, ConfigError, DataError
from dist_ai.losses import (
    BCEWithLogitsLoss,
    BinaryFocalLoss,
    CompositeLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalDiceLoss,
    FocalLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    WeightedLoss,
    activation,
    as_weighted,
    decodes,
    default_loss,
    loss_from_plain,
    loss_metrics,
    loss_to_plain,
    losses,
    sample_losses,
    weighted_mean,
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


@pytest.mark.parametrize("given", ["indices", "probabilities"])
@pytest.mark.parametrize("kind", [CrossEntropyLoss, FocalLoss])
@pytest.mark.parametrize(
    "options", [{}, {"weight": [1.0, 2.0] * 35}, {"ignore_index": 3}], ids=["", "weight", "ignore_index"]
)
def test_how_the_classes_lie_in_memory_changes_no_number(kind: Any, options: dict[str, Any], given: str) -> None:
    if given == "probabilities" and (kind is FocalLoss or "ignore_index" in options):
        return  # there are no such targets
    side_by_side = torch.randn(2, 3, 4, 70, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.arange(24).view(2, 3, 4) * 2 + 3
    if given == "probabilities":
        target = side_by_side.flip(0).softmax(-1).movedim(-1, 1)
    apart = side_by_side.movedim(-1, 1).contiguous()
    loss = kind(**options)
    torch.testing.assert_close(loss(side_by_side.movedim(-1, 1), target), loss(apart, target))
    torch.testing.assert_close(loss.per_sample(side_by_side.movedim(-1, 1), target), loss.per_sample(apart, target))


def test_targets_of_another_shape_are_not_taken_for_the_predictions_in_another_order() -> None:
    with pytest.raises((ValueError, RuntimeError), match="size mismatch"):
        CrossEntropyLoss(-1)(torch.zeros(2, 3, 4, 70), torch.zeros(2, 4, 3, dtype=torch.int64))


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


@pytest.mark.parametrize("loss", [MSELoss(), L1Loss(), HuberLoss(), BCEWithLogitsLoss(), BinaryFocalLoss()])
def test_a_prediction_that_does_not_fit_its_target_is_explained(loss: nn.Module) -> None:
    message = r"a prediction of shape \(4, 2\) for a target of shape \(4,\); expected as many numbers: give the model"
    with pytest.raises(DataError, match=message):
        loss(torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(DataError, match="expected as many numbers"):
        loss(torch.zeros(4, 2), torch.zeros(8))


def test_several_labels_and_numbers_have_default_losses() -> None:
    assert type(default_loss(TensorMultiCategory([1.0, 0.0]))) is BCEWithLogitsLoss
    assert type(default_loss(TensorRegression([1.0]))) is MSELoss


# ------------------------------------------------------------------------ weights, and what is ignored

TARGET = torch.tensor([0, 4, 2, 2, 1, 3])
WEIGHT = [0.5, 1.0, 2.0, 0.0, 3.0]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("ignore_index", [None, 2, -100])
def test_weights_and_ignored_targets_are_torchs(
    logits: Any, label_smoothing: float, weight: Any, ignore_index: Any
) -> None:
    target = TARGET.where(TARGET != 1, -100) if ignore_index == -100 else TARGET
    given = None if weight is None else torch.tensor(weight).double()
    torchs = {} if ignore_index is None else {"ignore_index": ignore_index}
    expected = F.cross_entropy(logits, target, given, label_smoothing=label_smoothing, **torchs)
    loss = CrossEntropyLoss(weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing)
    torch.testing.assert_close(loss(logits, target), expected, rtol=1e-14, atol=0)
    if (weights := loss.weights(target)) is not None:
        assert isinstance(loss, WeightedLoss)
        torch.testing.assert_close(weighted_mean(loss.totals(logits, target), weights), expected, rtol=1e-14, atol=0)
    torchs_own = as_weighted(nn.CrossEntropyLoss(given, label_smoothing=label_smoothing, **torchs))
    assert torchs_own is not None
    torch.testing.assert_close(
        weighted_mean(torchs_own.totals(logits, target), torchs_own.weights(target)), expected, rtol=1e-14, atol=0
    )


def test_a_batch_in_which_nothing_counts_costs_nothing_and_teaches_nothing(logits: torch.Tensor) -> None:
    for loss in (CrossEntropyLoss(ignore_index=1), FocalLoss(ignore_index=1), CrossEntropyLoss(weight=[1, 0, 1, 1, 1])):
        pred = logits.clone().requires_grad_()
        value = loss(pred, torch.ones(6, dtype=torch.int64))
        value.backward()
        assert value == 0
        assert torch.equal(pred.grad, torch.zeros_like(pred))


def test_targets_may_be_probabilities_of_the_classes(logits: torch.Tensor) -> None:
    target = logits.roll(1, 0).softmax(1)
    loss = CrossEntropyLoss(weight=WEIGHT)
    torch.testing.assert_close(loss(logits, target), F.cross_entropy(logits, target, torch.tensor(WEIGHT).double()))
    torch.testing.assert_close(CrossEntropyLoss(-1)(logits[None], target[None]), F.cross_entropy(logits, target))
    assert loss.weights(target) is None  # torch divides by their number
    assert as_weighted(nn.CrossEntropyLoss()).weights(target) is None


def test_a_target_that_is_none_of_the_classes_is_named(logits: torch.Tensor) -> None:
    with pytest.raises(DataError) as refused:
        CrossEntropyLoss()(logits, torch.tensor([0, 1, -100, 2, 3, 4]))
    assert str(refused.value) == (
        "the target -100 is none of the prediction's 5 classes, 0 to 4: give the model as many outputs as there are classes "
        "(n_out); if it marks what does not count, give ignore_index=-100"
    )
    with pytest.raises(DataError, match=r"the target 7 is none of .* \(n_out\)$"):
        FocalLoss(ignore_index=-100)(logits, torch.tensor([0, 1, -100, 2, 7, 4]))


def test_weights_that_are_none_are_refused() -> None:
    for weight in ([[1.0, 2.0]], [-1.0, 1.0], 3.0):
        with pytest.raises(ConfigError, match="expected one number for each class, 0 or more"):
            CrossEntropyLoss(weight=weight)


def test_torchs_own_losses_say_what_they_weigh() -> None:
    for loss in (
        F.cross_entropy,
        F.nll_loss,
        nn.CrossEntropyLoss(),
        nn.NLLLoss(),
        partial(F.cross_entropy, weight=None),
    ):
        weighted = as_weighted(loss)
        assert weighted is not None
        assert weighted.weights(torch.tensor([1, -100, 2])).tolist() == [2.0]
    log_probabilities = torch.randn(6, 5).log_softmax(1)
    totals = as_weighted(nn.NLLLoss(torch.tensor(WEIGHT))).totals(log_probabilities, TARGET)
    expected = F.nll_loss(log_probabilities, TARGET, torch.tensor(WEIGHT), reduction="sum")
    assert totals.tolist() == [expected.item()]
    for loss in (F.mse_loss, nn.MSELoss(), nn.BCEWithLogitsLoss(), lambda pred, target: pred.sum(), MSELoss()):
        assert as_weighted(loss) is None


# ------------------------------------------------------------------------ the losses


def test_the_focal_loss_is_its_formula(logits: torch.Tensor) -> None:
    p = logits.softmax(1)[range(6), TARGET]
    for gamma in (0.0, 0.5, 2.0):
        each = (1 - p) ** gamma * -p.log()
        torch.testing.assert_close(FocalLoss(gamma=gamma)(logits, TARGET), each.mean(), rtol=1e-13, atol=0)
        weight = torch.tensor(WEIGHT).double()[TARGET]
        torch.testing.assert_close(
            FocalLoss(gamma=gamma, weight=WEIGHT)(logits, TARGET),
            (each * weight).sum() / weight.sum(),
            rtol=1e-13,
            atol=0,
        )


def test_a_focal_loss_of_what_is_certain_has_a_finite_gradient() -> None:
    for loss, target in (
        (FocalLoss(gamma=0.5), torch.tensor([0])),
        (BinaryFocalLoss(gamma=0.5), torch.tensor([[1, 0]])),
    ):
        pred = torch.tensor([[200.0, -200.0]], requires_grad=True)
        loss(pred, target).backward()
        assert pred.grad.isfinite().all()


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_the_binary_focal_loss_is_torchvisions(logits: torch.Tensor, alpha: float | None) -> None:
    from torchvision.ops import sigmoid_focal_loss

    target = (logits > 0.3).roll(1, 0)
    expected = sigmoid_focal_loss(
        logits, target.double(), alpha=-1 if alpha is None else alpha, gamma=1.5, reduction="mean"
    )
    torch.testing.assert_close(BinaryFocalLoss(gamma=1.5, alpha=alpha)(logits, target), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("pos_weight", [3.0, [1.0, 2.0, 3.0, 4.0, 5.0]])
def test_what_is_there_may_count_more(logits: torch.Tensor, pos_weight: Any) -> None:
    target = (logits > 0.3).roll(1, 0)
    loss = BCEWithLogitsLoss(pos_weight=pos_weight)
    expected = F.binary_cross_entropy_with_logits(
        logits, target.double(), pos_weight=torch.as_tensor(pos_weight, dtype=torch.float64)
    )
    torch.testing.assert_close(loss(logits, target), expected, rtol=1e-14, atol=0)


def test_the_losses_of_numbers_are_torchs(logits: torch.Tensor) -> None:
    target = logits.roll(1, 0)
    torch.testing.assert_close(L1Loss()(logits, target), F.l1_loss(logits, target))
    torch.testing.assert_close(HuberLoss(0.3)(logits, target), F.huber_loss(logits, target, delta=0.3))
    for loss in (L1Loss(), HuberLoss()):
        assert type(decodes(loss, logits)) is TensorRegression


def test_the_dice_loss_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (3, 5, 6), generator=generator)
    target[1] = 0  # classes that are nowhere
    p = pred.softmax(1)
    for square in (False, True):
        each = []
        for i in range(3):
            for c in range(4):
                guess, truth = p[i, c], (target[i] == c).double()
                below = (guess.square() if square else guess).sum() + truth.sum()
                each.append(1 - (2 * (guess * truth).sum() + 1e-6) / (below + 1e-6))
        loss = DiceLoss(square_in_union=square)
        torch.testing.assert_close(loss(pred, target), torch.stack(each).mean(), rtol=1e-13, atol=0)
        torch.testing.assert_close(
            DiceLoss(-1, square_in_union=square)(pred.movedim(1, -1), target), loss(pred, target)
        )
    left_out = target.clone()
    left_out[:, 2:] = 255
    torch.testing.assert_close(DiceLoss(ignore_index=255)(pred, left_out), DiceLoss()(pred[:, :, :2], target[:, :2]))


def make_composite() -> CompositeLoss:
    return CompositeLoss(
        {"ce": CrossEntropyLoss(weight=WEIGHT), "focal": (0.5, FocalLoss()), "plain": (2.0, nn.NLLLoss())}
    )


def test_a_composite_loss_is_the_sum_of_its_parts(logits: torch.Tensor) -> None:
    loss = make_composite()
    expected = CrossEntropyLoss(weight=WEIGHT)(logits, TARGET) + 0.5 * FocalLoss()(logits, TARGET)
    expected = expected + 2 * F.nll_loss(logits, TARGET)
    torch.testing.assert_close(loss(logits, TARGET), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(
        weighted_mean(loss.totals(logits, TARGET), loss.weights(TARGET)), expected, rtol=1e-14, atol=0
    )
    assert loss.names == ["ce", "focal", "plain"]
    assert torch.equal(activation(loss, logits), logits.softmax(1))
    assert type(decodes(loss, logits)) is TensorCategory
    assert [metric.name for metric in loss_metrics(loss)] == ["ce", "focal", "plain"]
    assert loss_metrics(FocalLoss()) == []
    with pytest.raises(ConfigError, match=r"CompositeLoss\(\{\}\): give at least one loss"):
        CompositeLoss({})


def test_class_weights_move_with_the_loss_that_they_are_a_part_of() -> None:
    moved = FocalDiceLoss().to("meta")
    assert moved.part("focal").weight is None
    assert make_composite().to("meta").part("ce").weight.device.type == "meta"


ALL = {
    "CrossEntropyLoss": lambda: CrossEntropyLoss(axis=1, label_smoothing=0.1, weight=WEIGHT, ignore_index=2),
    "FocalLoss": lambda: FocalLoss(axis=1, gamma=1.5, weight=WEIGHT, ignore_index=2),
    "BCEWithLogitsLoss": lambda: BCEWithLogitsLoss(0.3, pos_weight=WEIGHT),
    "BinaryFocalLoss": lambda: BinaryFocalLoss(gamma=1.5, alpha=0.3, thresh=0.4),
    "MSELoss": MSELoss,
    "L1Loss": L1Loss,
    "HuberLoss": lambda: HuberLoss(0.3),
    "DiceLoss": lambda: DiceLoss(1, smooth=0.1, square_in_union=True, ignore_index=2),
    "CompositeLoss": lambda: FocalDiceLoss(gamma=1.5, dice=0.3, ignore_index=2),
}


def a_target_for(loss: Any, logits: torch.Tensor) -> torch.Tensor:
    of_numbers = isinstance(loss, BCEWithLogitsLoss | BinaryFocalLoss | MSELoss | L1Loss | HuberLoss)
    return (logits > 0.3).roll(1, 0).double() if of_numbers else TARGET


def test_every_registered_loss_is_among_those_tested_here() -> None:
    of_this_room = {name for name in losses if losses.find(name).__module__.startswith("dist_ai.losses")}
    assert of_this_room == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_every_loss_is_the_same_after_an_export(logits: torch.Tensor, name: str) -> None:
    loss = ALL[name]()
    again = loss_from_plain(json.loads(json.dumps(loss_to_plain(loss))))
    target = a_target_for(loss, logits)
    assert type(again) is type(loss)
    assert torch.equal(again(logits, target), loss(logits, target))
    torch.testing.assert_close(activation(again, logits), activation(loss, logits))
    assert torch.equal(decodes(again, logits), decodes(loss, logits))


@pytest.mark.parametrize("name", ALL)
def test_the_loss_of_each_sample_is_that_of_a_batch_of_one(logits: torch.Tensor, name: str) -> None:
    loss = ALL[name]()
    target = a_target_for(loss, logits)
    each = sample_losses(loss, logits, target)
    one_by_one = [loss(logits[i : i + 1], target[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(each, torch.stack(one_by_one), rtol=1e-12, atol=1e-15)
    assert sample_losses(loss, logits[:0], target[:0]).shape == (0,)
    assert sample_losses(lambda *args: loss(*args), logits, target).tolist() == torch.stack(one_by_one).tolist()


@pytest.mark.parametrize("name", ALL)
def test_every_loss_has_the_right_gradient_in_its_predictions_own_precision(logits: torch.Tensor, name: str) -> None:
    loss = ALL[name]()
    target = a_target_for(loss, logits)
    assert torch.autograd.gradcheck(lambda pred: loss(pred, target), logits.clone().requires_grad_())
    for dtype in (torch.float32, torch.bfloat16):
        assert loss(logits.to(dtype), target).dtype == dtype


def test_a_composite_loss_with_a_part_that_a_file_cannot_hold_is_left_out_of_an_export() -> None:
    assert loss_to_plain(make_composite()) is None
