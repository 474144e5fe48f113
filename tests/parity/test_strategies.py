"""One process, data parallel and fully sharded training give the same numbers: losses, metrics, predictions, exports."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dist_ai.callbacks import GradientAccumulation
from dist_ai.core.transform import Pipeline
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.data.recipe import SampleRecipe
from dist_ai.distributed import Mesh, join
from dist_ai.distributed.strategies import DDP, FSDP
from dist_ai.export import ModelSpec, register_builder
from dist_ai.layers import SeededDropout
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss
from dist_ai.metrics import accuracy
from dist_ai.optimizer import SGD, Adam

NUM_TRAIN, NUM_VALID, LENGTH, WIDTH = 50, 31, 5, 16
BS = 16  # the last of 4 batches has 2 samples, so one of three ranks has none


class Network(nn.Module):
    """Sequences of features to 4 classes; what is between the first and the last layer is `kind`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inner = nn.Linear(8, WIDTH)
        make = {"plain": _plain, "batch_norm": _batch_norm, "transformer": _transformer, "lstm": _lstm}
        self.body = make[kind]()
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.inner(x)).mean(1))


def _plain() -> nn.Module:
    return nn.Sequential(*[nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), SeededDropout(0.2)) for _ in range(2)])


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(LENGTH, LENGTH, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(LENGTH)
        self.depth = SeededDropout(0.3, whole_samples=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.depth(self.norm(self.conv(x)).relu())


def _batch_norm() -> nn.Module:
    return nn.Sequential(_Residual(), _Residual())


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH), SeededDropout(0.2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


def _transformer() -> nn.Module:
    return nn.Sequential(_Layer(), _Layer(), nn.LayerNorm(WIDTH))


class _Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True)
        self.drop = SeededDropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.lstm(x)[0])


def _lstm() -> nn.Module:
    return _Lstm()


@register_builder("strategies_network")
def build(kind: str, dtype: str) -> nn.Module:
    torch.manual_seed(3)
    return Network(kind).to(getattr(torch, dtype))


Case: TypeAlias = tuple[str, str, str, int]
SHARED: dict[str, Any] = {"min_block_parameters": 50}
STRATEGIES: dict[str, Any] = {
    "ddp": "ddp",
    "ddp with options": DDP(static_graph=True, gradient_as_bucket_view=False, bucket_cap_mb=1),
    "fsdp": FSDP(**SHARED),
    "fsdp, one block": FSDP(),
    "fsdp, whole between": FSDP(reshard_after_forward=False, cpu_offload=True, **SHARED),
    "fsdp, activations again": FSDP(activation_checkpointing=True, **SHARED),
    "hsdp": FSDP(mesh=Mesh(data_parallel_replicate=2), **SHARED),
}


def train(kind: str, strategy: str, opt: str, batches: int, dtype: str = "float32") -> dict[str, Any]:
    """Trains for 2 epochs; returns all numbers that must not depend on the ranks or the strategy."""
    floating = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NUM_TRAIN + NUM_VALID, LENGTH, 8, generator=generator, dtype=torch.float64).to(floating)
    y = x.sum(1)[:, :4].argmax(1)
    dls = DataLoaders(
        DataLoader(TensorData(x[:NUM_TRAIN], y[:NUM_TRAIN]), BS, shuffle=True, seed=5),
        DataLoader(TensorData(x[NUM_TRAIN:], y[NUM_TRAIN:]), 16),
        recipe=SampleRecipe(inputs=[Pipeline()]),
    )
    learn = Learner(
        dls,
        build(kind, dtype),
        CrossEntropyLoss(),
        opt_func={"sgd": SGD, "adam": Adam}[opt],
        metrics=accuracy,
        strategy=STRATEGIES[strategy],
        cbs=[GradientAccumulation(batches=batches)],
        run_dir=None,
        progress=False,
        spec=ModelSpec("strategies_network", {"kind": kind, "dtype": dtype}),
    )
    before = learn.validate()
    learn.fit_one_cycle(2, {"sgd": 0.1, "adam": 0.01}[opt])
    predictions, targets = learn.get_preds()
    folder = join().broadcast_json(tempfile.mkdtemp())
    learn.export(Path(folder) / "export")
    exported = load_file(Path(folder) / "export" / "model.safetensors")
    return {
        "before": before,
        "losses": learn.recorder.losses,
        "epochs": [[row["train_loss"], row["valid_loss"], row["accuracy"]] for row in learn.recorder.epochs],
        "predictions": predictions.double().numpy(),
        "targets": targets.numpy(),
        "one": learn.predict(x[0])[2].double().numpy(),
        "export": {name: (str(tensor.dtype), tensor.double().numpy()) for name, tensor in exported.items()},
    }


def train_all(cases: list[Case], dtype: str = "float32") -> dict[Case, Any]:
    return {case: train(*case, dtype=dtype) for case in cases}


def assert_same(got: dict[str, Any], expected: dict[str, Any], rtol: float, case: str) -> None:
    assert list(got["export"]) == list(expected["export"])
    for name, (dtype, value) in expected["export"].items():
        assert got["export"][name][0] == dtype
        assert got["export"][name][1].shape == value.shape
        close(got["export"][name][1], value, rtol, f"{case}: exported {name}")
    for name in ("before", "losses", "epochs", "predictions", "targets", "one"):
        close(got[name], expected[name], rtol, f"{case}: {name}")


def close(got: Any, expected: Any, rtol: float, what: str) -> None:
    torch.testing.assert_close(
        torch.as_tensor(got), torch.as_tensor(expected), rtol=rtol, atol=rtol, msg=lambda text: f"{what}: {text}"
    )


# What is trained, how the ranks hold it, the optimizer, and how many batches a step takes.
KINDS = ("plain", "batch_norm", "transformer", "lstm")
CASES: list[Case] = [
    *[(kind, strategy, "sgd", 1) for kind in KINDS for strategy in ("ddp", "fsdp")],
    *[(kind, strategy, "adam", 1) for kind in ("plain", "transformer") for strategy in ("ddp", "fsdp")],
    ("batch_norm", "ddp with options", "sgd", 1),
    ("lstm", "fsdp, one block", "sgd", 1),
    ("transformer", "fsdp, whole between", "sgd", 1),
    ("batch_norm", "fsdp, activations again", "sgd", 1),
    ("transformer", "fsdp, activations again", "sgd", 1),
    ("transformer", "ddp", "sgd", 3),
    ("batch_norm", "fsdp", "sgd", 3),
    ("lstm", "fsdp", "adam", 3),
]
HYBRID: list[Case] = [("batch_norm", "hsdp", "sgd", 1), ("lstm", "hsdp", "sgd", 3)]


def alone_of(case: Case) -> Case:
    """Returns what one process trains, for which the strategy does not matter."""
    kind, _, opt, batches = case
    return kind, "ddp", opt, batches


ALONE = sorted({alone_of(case) for case in [*CASES, *HYBRID]})
TOLERANCE = {"sgd": 1e-5, "adam": 1e-4}


def assert_all_same(ranks: list[dict[Case, Any]], alone: dict[Case, Any], tolerance: dict[str, float]) -> None:
    for rank in ranks:
        for case, got in rank.items():
            assert_same(got, alone[alone_of(case)], tolerance[case[2]], str(case))


@pytest.mark.parametrize("world_size", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_ddp_and_fsdp_train_as_one_process_does(spawn: Any, world_size: int) -> None:
    [alone] = spawn(1, train_all, cases=ALONE)
    cases = CASES + (HYBRID if world_size == 4 else [])
    assert_all_same(spawn(world_size, train_all, cases=cases), alone, TOLERANCE)


@pytest.mark.slow
def test_in_float64_they_agree_to_the_last_digits(spawn: Any) -> None:
    [alone] = spawn(1, train_all, cases=ALONE, dtype="float64")
    assert_all_same(spawn(3, train_all, cases=CASES, dtype="float64"), alone, dict.fromkeys(TOLERANCE, 1e-9))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="ranks cannot share a GPU: this needs two")
def test_on_gpus_ddp_and_fsdp_train_as_one_process_does(spawn: Any) -> None:
    [alone] = spawn(1, train_all, cases=ALONE)
    # Convolutions are in TF32 there, by default.
    assert_all_same(spawn(2, train_all, cases=CASES), alone, dict.fromkeys(TOLERANCE, 1e-3))
