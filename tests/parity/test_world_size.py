"""The same numbers on any number of processes: losses, metrics, predictions and weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.layers import SeededDropout
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss
from dist_ai.metrics import accuracy
from dist_ai.optimizer import SGD, Adam

NUM_TRAIN = 104  # with bs=16 the last batch has 8 samples; with bs=17 it has 2, so one of three ranks has none


def make_model(kind: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(3)
    layers: dict[str, list[nn.Module]] = {
        "plain": [nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4)],
        "dropout": [nn.Linear(8, 32), nn.ReLU(), SeededDropout(0.4), nn.Linear(32, 4)],
        "batch_norm": [
            nn.Unflatten(1, (2, 2, 2)),
            nn.Conv2d(2, 6, 2),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6, 4),
        ],
    }
    return nn.Sequential(*layers[kind]).to(dtype)


def train(
    kind: str = "plain", opt: str = "sgd", bs: int = 16, num_valid: int = 1001, dtype: str = "float32"
) -> dict[str, Any]:
    """Trains for 3 epochs; returns all numbers that must not depend on the number of processes."""
    floating = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NUM_TRAIN + num_valid, 8, generator=generator).to(floating)
    y = x[:, :4].argmax(1)
    dls = DataLoaders(
        DataLoader(TensorData(x[:NUM_TRAIN], y[:NUM_TRAIN]), bs, shuffle=True, seed=5),
        DataLoader(TensorData(x[NUM_TRAIN:], y[NUM_TRAIN:]), 64),
    )
    learn = Learner(
        dls,
        make_model(kind, floating),
        CrossEntropyLoss(),
        opt_func={"sgd": SGD, "adam": Adam}[opt],
        metrics=accuracy,
        run_dir=None,
        progress=False,
    )
    learn.fit_one_cycle(3, {"sgd": 0.1, "adam": 0.01}[opt])
    predictions, targets = learn.get_preds()
    weights = torch.cat([value.ravel().double() for value in learn.model.state_dict().values()])
    return {
        "losses": learn.recorder.losses,
        "epochs": [[row["train_loss"], row["valid_loss"], row["accuracy"]] for row in learn.recorder.epochs],
        "weights": weights.numpy(),
        "predictions": predictions.double().numpy(),
        "targets": targets.numpy(),
    }


def assert_same(got: dict[str, Any], expected: dict[str, Any], rtol: float) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(
            torch.as_tensor(got[name]),
            torch.as_tensor(value),
            rtol=rtol,
            atol=rtol,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("bs", [16, 17])
@pytest.mark.parametrize(
    ("kind", "opt", "rtol"),
    [("plain", "sgd", 1e-5), ("plain", "adam", 1e-4), ("dropout", "sgd", 1e-5), ("batch_norm", "sgd", 1e-5)],
)
def test_two_and_three_processes_train_as_one_does(spawn: Any, kind: str, opt: str, rtol: float, bs: int) -> None:
    [alone] = spawn(1, train, kind=kind, opt=opt, bs=bs, num_valid=101)
    for world_size in (2, 3):
        for rank in spawn(world_size, train, kind=kind, opt=opt, bs=bs, num_valid=101):
            assert_same(rank, alone, rtol)


@pytest.mark.parametrize("kind", ["plain", "dropout", "batch_norm"])
def test_in_float64_the_numbers_agree_to_the_last_digits(spawn: Any, kind: str) -> None:
    [alone] = spawn(1, train, kind=kind, opt="adam", bs=17, num_valid=101, dtype="float64")
    for rank in spawn(3, train, kind=kind, opt="adam", bs=17, num_valid=101, dtype="float64"):
        assert_same(rank, alone, 1e-9)


def validate(num_valid: int = 1001) -> tuple[list[float], list[int], list[float]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_valid, 8, generator=generator)
    y = x[:, :4].argmax(1)
    data = DataLoader(TensorData(x, y), 64)
    learn = Learner(
        DataLoaders(data, data),
        make_model("plain", torch.float32),
        CrossEntropyLoss(),
        metrics=accuracy,
        run_dir=None,
        progress=False,
    )
    values = learn.validate()
    predictions, targets, decoded, losses = learn.get_preds(with_decoded=True, with_loss=True)
    assert torch.equal(targets, y)  # all of them, once each, in the order of the data
    assert torch.equal(decoded, predictions.argmax(1))
    torch.testing.assert_close(losses.mean().item(), values[0])
    return values, decoded.tolist(), predictions[:, 0].tolist()


def test_validation_of_1001_samples_is_identical_on_1_to_4_processes(spawn: Any) -> None:
    [(alone, decoded, _)] = spawn(1, validate)
    for world_size in (2, 3, 4):
        for values, theirs, _ in spawn(world_size, validate):
            assert values[1] == alone[1]  # accuracy is a count: equal to the last bit
            assert values[0] == pytest.approx(alone[0], rel=1e-7)
            assert theirs == decoded
