"""Weights and optimizers are saved and loaded, assigned, and used with data of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset
from toy import NUM_CLASSES, NUM_TRAIN, NUM_VALID, make_data, make_dls, make_learner, make_model, weights_of

from dist_ai.core import Transform
from dist_ai.core.randomness import Draw
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.errors import ArtifactError, ConfigError
from dist_ai.optimizer import SGD, Adam, Optimizer, ParamGroup
from dist_ai.optimizer.steps import sgd_step

# ------------------------------------------------------------------------------------------------ save and load


@pytest.mark.parametrize("opt_func", [Adam, torch.optim.AdamW], ids=["ours", "torch's"])
def test_what_is_loaded_trains_on_as_what_was_saved(tmp_path: Path, opt_func: Any) -> None:
    learn, other = make_learner(opt_func=opt_func), make_learner(opt_func=opt_func)
    learn.fit(2)
    assert learn.save(tmp_path / "two") == tmp_path / "two"
    other.fit(1)  # has a state of its own, of which nothing may stay
    other._fits.num_epochs = learn._fits.num_epochs
    assert other.load(tmp_path / "two") is other
    for each in (learn, other):
        each.fit(1)
    assert torch.equal(weights_of(learn.model), weights_of(other.model))


def test_a_bare_name_is_in_the_run_directory_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_learner().save("stage-1") == Path("models/stage-1")
    assert make_learner(run_dir=tmp_path / "run").save("stage-1") == tmp_path / "run" / "models" / "stage-1"
    names = sorted(path.name for path in (tmp_path / "models" / "stage-1").iterdir())
    assert [name.partition(".")[0] for name in names] == ["manifest", "rank-00000-of-00001"]
    make_learner().load("stage-1")


def test_weights_go_without_their_optimizer(tmp_path: Path) -> None:
    learn = make_learner(opt_func=Adam)
    learn.fit(1)
    learn.save(tmp_path / "weights", with_opt=False)
    other = make_learner(opt_func=SGD)  # another would not take Adam's state
    other.load(tmp_path / "weights")
    assert torch.equal(weights_of(learn.model), weights_of(other.model))
    learn.save(tmp_path / "both")
    with pytest.raises(ArtifactError, match="the saved optimizer is of another kind"):
        other.load(tmp_path / "both")
    other.load(tmp_path / "both", with_opt=False)


def test_what_is_missing_or_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no checkpoint at"):
        make_learner().load(tmp_path / "nothing")
    make_learner(model=make_model(batch_norm=True)).save(tmp_path / "other")
    with pytest.raises(ArtifactError):
        make_learner().load(tmp_path / "other")


def save_and_load(folder: str) -> list[float]:
    learn = make_learner(opt_func=Adam)
    learn.fit(1)
    learn.save(f"{folder}/{learn.collectives.world.world_size}")
    return weights_of(make_learner().load(f"{folder}/1", with_opt=False).model).tolist()


def test_the_files_of_two_ranks_are_those_of_one(spawn: Any, tmp_path: Path) -> None:
    [alone] = spawn(1, save_and_load, folder=str(tmp_path))
    assert spawn(2, save_and_load, folder=str(tmp_path)) == [alone, alone]
    learn = make_learner().load(tmp_path / "2", with_opt=False)
    assert weights_of(learn.model).tolist() == pytest.approx(alone, rel=1e-11)


# ------------------------------------------------------------------------------------------------ the optimizer


def test_an_optimizer_of_torchs_is_assigned_and_keeps_its_rate() -> None:
    learn, plainly = make_learner(lr=0.5), make_learner(lr=0.1)
    learn.opt = torch.optim.SGD(learn.model.parameters(), lr=0.1)
    for each in (learn, plainly):
        each.fit(2)
    assert learn.recorder.lrs == [0.1] * 6
    assert torch.equal(weights_of(learn.model), weights_of(plainly.model))


def test_an_assigned_optimizer_keeps_its_groups_and_goes_through_freezing() -> None:
    learn = make_learner(splitter=lambda model: [list(model[0].parameters()), list(model[2].parameters())])
    body, head = learn.model[0].parameters(), learn.model[2].parameters()
    given = torch.optim.SGD(
        [{"params": body, "lr": 0.01, "weight_decay": 0.5}, {"params": head, "lr": 0.2}], momentum=0.9
    )
    learn.opt = given
    assert learn.opt.get_hyper("lr") == [0.01, 0.2]
    assert learn.opt.get_hyper("wd") == [0.5, 0]
    learn.fit(1)
    first = learn.model[0].weight.detach().clone()
    learn.freeze()
    learn.fit(1)
    assert torch.equal(learn.model[0].weight, first)
    assert learn.opt.torch is given  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"reset_opt=True: the optimizer was assigned to learn\.opt"):
        learn.fit(1, reset_opt=True)


def test_one_of_our_own_is_assigned_too_and_one_of_other_parameters_is_refused() -> None:
    learn = make_learner()
    mine = Optimizer([ParamGroup(dict(learn.model.named_parameters()))], [sgd_step], lr=0.1)
    learn.opt = mine
    learn.fit(1)
    assert learn.opt is mine
    with pytest.raises(ConfigError) as refused:
        learn.opt = torch.optim.SGD(make_model().parameters(), lr=0.1)
    assert str(refused.value) == (
        "the optimizer has 4 parameter(s) that are not the model's; make it of learn.model.parameters()"
    )


def test_an_assigned_optimizer_is_in_checkpoints(tmp_path: Path) -> None:
    learn = make_learner(run_dir=tmp_path)
    learn.opt = torch.optim.AdamW(learn.model.parameters(), lr=0.01)
    learn.fit(1)
    learn.fit(1)
    again = make_learner(run_dir=tmp_path)
    again.opt = torch.optim.AdamW(again.model.parameters(), lr=0.01)
    again.fit(1)
    again.fit(1)
    assert torch.equal(weights_of(again.model), weights_of(learn.model))
    assert again.opt.state()[0]["exp_avg.0.weight"].equal(learn.opt.state()[0]["exp_avg.0.weight"])


# ------------------------------------------------------------------------------------------------ other data


def test_a_loader_of_torchs_is_validated_and_predicted() -> None:
    x, y = make_data()
    learn = make_learner()
    torchs = TorchDataLoader(TensorDataset(x[NUM_TRAIN:], y[NUM_TRAIN:]), batch_size=4)
    assert learn.validate(torchs) == pytest.approx(learn.validate(), rel=1e-12)
    assert torch.equal(learn.get_preds(torchs)[0], learn.get_preds()[0])


def test_a_learner_without_validation_data_trains(tmp_path: Path) -> None:
    learn = make_learner(dls=DataLoaders(make_dls().train), run_dir=tmp_path)
    learn.fit_one_cycle(2)
    plainly = make_learner()
    plainly.fit_one_cycle(2)
    assert learn.recorder.losses == plainly.recorder.losses
    assert len(learn.recorder.epochs) == 2
    message = "there is no validation data; give DataLoaders(train, valid), or a loader to this method"
    for method in (learn.validate, learn.get_preds, learn.tta):
        with pytest.raises(ConfigError) as refused:
            method()
        assert str(refused.value) == message
    assert len(learn.validate(make_dls().valid)) == 1
    assert make_learner(dls=[TorchDataLoader(TensorDataset(*make_data()), batch_size=4)]).dls.valid is None


class Several(nn.Module):
    """Returns several outputs, in a structure."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.kind = nn.Linear(4, NUM_CLASSES).double(), kind

    def forward(self, x: torch.Tensor) -> Any:
        y = self.layer(x)
        outputs = {"classes": y, "more": {"sum": y.sum(1), "twice": 2 * y}}
        return outputs if self.kind == "dict" else (y, [y.sum(1), 2 * y])


class FirstLoss(nn.Module):
    def forward(self, pred: Any, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(pred["classes"] if isinstance(pred, dict) else pred[0], target)


def several(kind: str) -> tuple[list[Any], list[int], list[float]]:
    learn = make_learner(model=Several(kind), loss_func=FirstLoss())
    pred, target, losses = learn.get_preds(with_loss=True)
    parts = (pred["classes"], *pred["more"].values()) if kind == "dict" else (pred[0], *pred[1])
    return [part.tolist() for part in parts], target.tolist(), losses.tolist()


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_several_outputs_are_predicted_in_their_structure_on_any_number_of_ranks(spawn: Any, kind: str) -> None:
    x, y = make_data()
    classes = Several(kind).layer(x[NUM_TRAIN:]).detach()
    for world_size in (1, 3):
        for pred, target, losses in spawn(world_size, several, kind=kind):
            for got, expected in zip(pred, (classes, classes.sum(1), 2 * classes), strict=True):
                torch.testing.assert_close(torch.tensor(got, dtype=torch.float64), expected)
            assert target == y[NUM_TRAIN:].tolist()
            assert losses == pytest.approx(
                nn.functional.cross_entropy(classes, y[NUM_TRAIN:], reduction="none").tolist()
            )


# ------------------------------------------------------------------------------------------------ test-time augmentation


class NoiseOfTta(Transform):
    """Adds to each sample of a training batch a number drawn for it."""

    split_idx: ClassVar[int | None] = 0

    def encodes(self, x: torch.Tensor, draw: Draw | None) -> torch.Tensor:
        if draw is None or not x.is_floating_point():
            return x
        noise = np.asarray(draw.uniform())
        noises.append(noise)
        return x + torch.from_numpy(noise)[:, None]


noises: list[Any] = []


def tta(use_max: bool = False, n: int = 3) -> torch.Tensor:
    x, y = make_data()
    dls = DataLoaders(
        DataLoader(TensorData(x[:NUM_TRAIN], y[:NUM_TRAIN]), 8, shuffle=True),
        DataLoader(TensorData(x[NUM_TRAIN:], y[NUM_TRAIN:]), 4, batch_tfms=[NoiseOfTta()], seed=3),
    )
    learn = make_learner(dls=dls)
    predictions, targets = learn.tta(n=n, use_max=use_max)
    assert torch.equal(targets, y[NUM_TRAIN:])
    return predictions


def tta_as_list() -> list[Any]:
    return tta().tolist()


def test_predictions_are_averaged_over_augmented_versions() -> None:
    noises.clear()
    got = tta()
    x, _ = make_data()
    model, x = make_model(), x[NUM_TRAIN:]
    passes = torch.from_numpy(np.concatenate(noises)).view(3, NUM_VALID, 1)  # other draws in each of them
    assert len(set(passes.flatten().tolist())) == 3 * NUM_VALID
    augmented = torch.stack([model(x + noise).softmax(1) for noise in passes]).mean(0)
    itself = model(x).softmax(1)
    torch.testing.assert_close(got, 0.75 * augmented + 0.25 * itself)
    torch.testing.assert_close(tta(use_max=True), torch.maximum(augmented, itself))


def test_augmented_predictions_do_not_depend_on_the_number_of_ranks(spawn: Any) -> None:
    alone = tta()
    for rank in spawn(3, tta_as_list):
        torch.testing.assert_close(torch.tensor(rank, dtype=torch.float64), alone, rtol=1e-12, atol=1e-12)
    with pytest.raises(ConfigError, match=r"tta\(n=0\): expected 1 or more"):
        tta(n=0)
