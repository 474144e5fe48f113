"""Tensor parallel training gives one process's numbers: losses, metrics, predictions, exports; alone, with DDP and with FSDP."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from toy import Stop, StopAt

from dist_ai.callbacks import Callback, GradientAccumulation, GradientClip, ParameterStats
from dist_ai.callbacks.event import CancelBatch
from dist_ai.core.transform import Pipeline
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.data.recipe import SampleRecipe
from dist_ai.distributed import Mesh, join
from dist_ai.distributed.sharded import is_sharded
from dist_ai.distributed.strategies import DDP, FSDP, TensorParallel
from dist_ai.export import ModelSpec, register_builder
from dist_ai.layers import SeededDropout
from dist_ai.learner import Learner
from dist_ai.metrics import accuracy
from dist_ai.optimizer import SGD, Adam
from dist_ai.text.models import text_classifier, text_language_model

VOCAB, LENGTH, NUM_TRAIN, NUM_VALID, BS = 31, 6, 30, 11, 8  # the last of 4 batches has 6 samples
CONFIG = {"emb_sz": 16, "n_heads": 2, "n_layers": 2}


class Mlp(nn.Module):
    """Drops inside what is divided; a LayerNorm may be divided by tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.first, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), SeededDropout(0.3), nn.Linear(32, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.mlp(self.norm(self.first(self.embedding(ids)))).mean(1))


@register_builder("tensor_parallel_model")
def build(kind: str) -> nn.Module:
    torch.manual_seed(3)
    if kind == "gpt":
        return text_language_model("gpt", VOCAB, drop_mult=2, config=CONFIG)
    if kind == "classifier":
        return text_classifier("transformer", VOCAB, 4, config=CONFIG)
    if kind == "llama":
        from transformers import LlamaConfig

        from dist_ai.text.huggingface import hf_model

        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": VOCAB}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        return hf_model(config=LlamaConfig(**sizes, **heads).to_dict(), task="lm", pad_token=1)
    model = Mlp()
    if kind == "tokens":  # whose draws are of whole features
        model.mlp[2] = nn.Identity()
    return model


def plan(kind: str) -> Any:
    """Returns the plan of a model that states none."""
    if kind in ("gpt", "classifier", "llama"):
        return None
    if kind == "mlp":
        return {
            "mlp.0": "colwise",
            "mlp.2": "sharded_dropout",
            "mlp.3": "rowwise",
            "embedding": "colwise_gather_output",
        }
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel

    # Between the first layer and the small network each rank has a part of the tokens.

    return {
        "first": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1), use_local_output=False),
        "norm": SequenceParallel(),
        "mlp.0": ColwiseParallel(input_layouts=Shard(1)),
        "mlp.3": "rowwise",
    }


class CancelOnOne(Callback):
    """Cancels one batch of training and one of validation, on the last rank only."""

    def before_batch(self) -> None:
        state, world = self.state, self.learn.collectives.world
        if state.step == (2 if state.training else 1) and state.fitting and world.rank == world.world_size - 1:
            raise CancelBatch


SHARED: dict[str, Any] = {"min_block_parameters": 50}
WITH: dict[str, Any] = {
    "ddp": DDP(),
    "recompute": DDP(activation_checkpointing=True),
    "fsdp": FSDP(**SHARED),
    "hsdp": FSDP(mesh=Mesh(data_parallel_replicate=2), **SHARED),
}
Case = tuple[str, str, str, int]  # the model, the data parallelism, the optimizer, how many batches a step takes


def loaders(kind: str) -> DataLoaders:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(2, VOCAB, (NUM_TRAIN + NUM_VALID, LENGTH), generator=generator)
    if kind == "classifier":
        x[::3, 4:] = 1  # padding
    y = (x * 3 + 1) % VOCAB if kind in ("gpt", "llama") else x[:, 0] % 4
    return DataLoaders(
        DataLoader(TensorData(x[:NUM_TRAIN], y[:NUM_TRAIN]), BS, shuffle=True, seed=5),
        DataLoader(TensorData(x[NUM_TRAIN:], y[NUM_TRAIN:]), 4),
        recipe=SampleRecipe(inputs=[Pipeline()]),
    )


def loss(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(pred.flatten(0, -2), target.flatten())


def learner(kind: str, strategy: Any, opt: str = "sgd", cbs: Any = (), run_dir: str | None = None) -> Learner:
    return Learner(
        loaders(kind),
        build(kind),
        loss,
        opt_func={"sgd": SGD, "adam": Adam}[opt],
        metrics=None if kind in ("gpt", "llama") else accuracy,
        strategy=strategy,
        cbs=cbs,
        run_dir=run_dir,
        checkpoint_every_s=None,
        checkpoint_every_steps=2,
        progress=False,
        spec=ModelSpec("tensor_parallel_model", {"kind": kind}),
    )


def train(kind: str, data_parallel: str, opt: str, batches: int) -> dict[str, Any]:
    """Trains for 2 epochs; returns all numbers that must not depend on the ranks or the strategy."""
    clip, stats = GradientClip(0.5), ParameterStats(every=3)
    cbs: list[Callback] = [GradientAccumulation(batches=batches), clip, stats]
    if (
        kind != "classifier"
    ):  # whose BatchNorm, on the ranks that do not cancel, has seen the batch before it is cancelled
        cbs.append(CancelOnOne())
    strategy = TensorParallel(plan(kind), size=2, data_parallel=WITH[data_parallel])
    learn = learner(kind, strategy, opt, cbs)
    assert any(map(is_sharded, learn.model.parameters())) == (join().world.world_size > 1)
    before = learn.validate()
    learn.fit_one_cycle(2, {"sgd": 0.5, "adam": 0.01}[opt])
    predictions, targets = learn.get_preds()
    folder = join().broadcast_json(tempfile.mkdtemp())
    learn.export(Path(folder) / "export")
    exported = load_file(Path(folder) / "export" / "model.safetensors")
    names = ["train_loss", "valid_loss", *(["accuracy"] if "accuracy" in learn.recorder.epochs[0] else [])]
    assert clip.norm is not None
    return {
        "before": before,
        "losses": learn.recorder.losses,
        "epochs": [[row[name] for name in names] for row in learn.recorder.epochs],
        "norms": [[each.weight, each.gradient] for each in stats.stats],
        "last norm": float(clip.norm),
        "predictions": predictions.double().numpy(),
        "targets": targets.numpy(),
        "one": learn.predict(learn.dls.valid.dataset[0][0])[2].double().numpy(),  # type: ignore[union-attr,index]  # a TensorData
        "export": {name: (str(tensor.dtype), tensor.double().numpy()) for name, tensor in exported.items()},
    }


def train_all(cases: list[Case]) -> dict[Case, Any]:
    return {case: train(*case) for case in cases}


def assert_same(got: dict[str, Any], expected: dict[str, Any], rtol: float, case: str) -> None:
    assert list(got["export"]) == list(expected["export"])
    for name, (dtype, value) in expected["export"].items():
        assert got["export"][name][0] == dtype
        assert got["export"][name][1].shape == value.shape
        close(got["export"][name][1], value, rtol, f"{case}: exported {name}")
    for name in sorted(expected.keys() - {"export"}):
        close(got[name], expected[name], rtol, f"{case}: {name}")


def close(got: Any, expected: Any, rtol: float, what: str) -> None:
    torch.testing.assert_close(
        torch.as_tensor(got), torch.as_tensor(expected), rtol=rtol, atol=rtol, msg=lambda text: f"{what}: {text}"
    )


ALONE: list[Case] = [("gpt", "ddp", "sgd", 1), ("mlp", "ddp", "sgd", 1), ("tokens", "ddp", "sgd", 1)]
ALONE += [("classifier", "recompute", "adam", 1)]
GROUPS: list[Case] = [("gpt", "ddp", "sgd", 3), ("gpt", "fsdp", "sgd", 1), ("classifier", "hsdp", "adam", 1)]
GROUPS += [("mlp", "fsdp", "sgd", 3), ("tokens", "ddp", "sgd", 1), ("llama", "ddp", "sgd", 1)]
TOLERANCE = {"sgd": 1e-5, "adam": 1e-4}


def check(spawn: Any, world_size: int, cases: list[Case]) -> None:
    [alone] = spawn(1, train_all, cases=cases)
    for rank in spawn(world_size, train_all, cases=cases):
        for case, got in rank.items():
            assert_same(got, alone[case], TOLERANCE[case[2]], str(case))


def test_two_ranks_that_compute_each_layer_together_train_as_one_process_does(spawn: Any) -> None:
    check(spawn, 2, ALONE)


@pytest.mark.slow
def test_two_groups_of_two_ranks_train_as_one_process_does(spawn: Any) -> None:
    check(spawn, 4, GROUPS)


def run(folder: str | None, strategy: Any = "ddp", *, stop: bool = False) -> list[float]:
    """Returns the loss of every step of 2 epochs; of an interrupted fit, what there was."""
    learn = learner("gpt", strategy, "adam", [StopAt(5)] if stop else [], folder)
    try:
        learn.fit_one_cycle(2, 0.01)
    except Stop:
        assert stop
    return learn.recorder.losses


def cross_over(folder: str) -> list[list[float]]:
    """Interrupts runs of the two strategies, and goes on with these and that of one process by the other."""
    tensor, root = TensorParallel(size=2), Path(folder)
    run(f"{folder}/tensor", tensor, stop=True)
    run(f"{folder}/data", stop=True)
    if join().world.is_main:
        shutil.copytree(root / "tensor", root / "tensor for one")
        shutil.copytree(root / "tensor", root / "tensor for data")
    join().barrier()
    goes_on: Iterator[tuple[str, Any]] = iter(
        [("tensor", tensor), ("tensor for data", "ddp"), ("data", tensor), ("one for tensor", tensor)]
    )
    return [run(f"{folder}/{name}", strategy) for name, strategy in goes_on]


def test_a_checkpoint_goes_on_with_or_without_tensor_parallelism(spawn: Any, tmp_path: Path) -> None:
    undisturbed = run(None)
    assert len(undisturbed) == 8
    assert len(run(str(tmp_path / "one"), stop=True)) < 8
    shutil.copytree(tmp_path / "one", tmp_path / "one for tensor")  # this process is still at work in the other
    for losses in spawn(2, cross_over, folder=str(tmp_path))[0]:
        close(losses, undisturbed, 1e-5, "losses")
    close(run(str(tmp_path / "tensor for one")), undisturbed, 1e-5, "losses on one process")
