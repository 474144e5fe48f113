"""Plans of tensor parallelism, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dist_ai.callbacks import ActivationStats, AutoMicrobatch, Callback, CancelBatch
from dist_ai.checkpoint.chunks import deal_out
from dist_ai.core.transform import Pipeline
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.data.recipe import SampleRecipe
from dist_ai.distributed import join
from dist_ai.distributed.collectives import across_groups
from dist_ai.distributed.strategies import DDP, FSDP, Single, TensorParallel, for_world
from dist_ai.distributed.strategies.tensor_parallel import TensorParallelStrategy
from dist_ai.distributed.strategies.tensor_plan import divide, plan_of, stated_plan
from dist_ai.errors import CollectiveError, ConfigError
from dist_ai.layers import SeededDropout
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss
from dist_ai.text.models import text_language_model


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n_heads = 4
        self.qkv, self.mlp = nn.Linear(12, 36), nn.Sequential(nn.Linear(12, 24), SeededDropout(0.5), nn.Linear(24, 12))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 12, padding_idx=1)
        self.layers = nn.ModuleList([Block(), Block()])


def refused(text: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    with pytest.raises(ConfigError) as error:
        call(*args, **kwargs)
    assert str(error.value) == text


def test_a_model_put_together_of_others_has_the_plans_of_all() -> None:
    model = text_language_model("gpt", 20, config={"emb_sz": 16, "n_heads": 2, "n_layers": 1})
    assert stated_plan(model) == {
        "decoder": "rowwise_split_input",
        "encoder.embedding": "colwise_gather_output",
        "encoder.layers.0.qkv": "colwise",
        "encoder.layers.0.projection": "rowwise",
        "encoder.layers.0.mlp.0": "colwise",
        "encoder.layers.0.mlp.2": "rowwise",
    }


def test_a_layer_that_shares_its_weights_with_a_whole_one_stays_whole() -> None:
    # An AWD-LSTM has no plan; its embedding is the decoder's.
    tied = {"emb_sz": 8, "n_hid": 8, "n_layers": 1}
    assert stated_plan(text_language_model("awd_lstm", 20, config=tied)) == {}
    assert stated_plan(text_language_model("awd_lstm", 20, config={**tied, "tie_weights": False})) == {
        "decoder": "rowwise_split_input"
    }


def test_plans_of_transformers_are_read() -> None:
    model = Model()
    model._tp_plan = {"layers.*.mlp.0": "colwise", "layers.*.mlp.2": "rowwise_rep", "embedding": "embedding_rowwise"}  # type: ignore[assignment]  # torch takes attributes for tensors
    kinds = {name: type(style).__name__ for name, style in plan_of(nn.Sequential(model), None, size=2).items()}
    assert kinds == {
        "0.layers.0.mlp.0": "ColwiseParallel",
        "0.layers.1.mlp.0": "ColwiseParallel",
        "0.layers.0.mlp.2": "RowwiseParallel",
        "0.layers.1.mlp.2": "RowwiseParallel",
        "0.embedding": "ColwiseParallel",
    }


def test_a_model_without_a_plan_is_refused() -> None:
    refused(
        "TensorParallel(size=2): Model states no plan, and may divide layers.*.qkv (2 of 36 x 12), "
        "layers.*.mlp.0 (2 of 24 x 12), "
        "layers.*.mlp.2 (2 of 12 x 24), embedding (1 of 10 x 12); give one, as TensorParallel(plan, size=2) or "
        "model.tensor_parallel_plan = plan, such as plan = {'layers.*.mlp.0': 'colwise', 'layers.*.mlp.2': 'rowwise'}",
        plan_of,
        Model(),
        None,
        size=2,
    )


def test_a_name_that_matches_nothing_is_refused_with_one_that_is_near() -> None:
    refused(
        "TensorParallel: the plan's 'layer.*.mlp.0' matches no module of this Model; did you mean 'layers.*.mlp.0'?; names are "
        "those of model.named_modules(), and * stands for one part between dots",
        plan_of,
        Model(),
        {"layer.*.mlp.0": "colwise"},
        size=2,
    )


def test_a_style_that_does_not_exist_is_refused() -> None:
    refused(
        "TensorParallel: the plan has 'layers.0.qkv': 'columnwise'; did you mean 'colwise'?; expected one of colwise, "
        "colwise_gather_output, rowwise, rowwise_split_input, sharded_dropout, or a style of torch.distributed.tensor.parallel",
        plan_of,
        Model(),
        {"layers.0.qkv": "columnwise"},
        size=2,
    )


def test_what_ranks_cannot_divide_evenly_is_refused() -> None:
    refused(
        "TensorParallel(size=5): 'layers.0.mlp.2' has 24 inputs, which 5 ranks cannot divide evenly; set size to a divisor of 24",
        plan_of,
        Model(),
        {"layers.*.mlp.2": "rowwise"},
        size=5,
    )
    refused(
        "TensorParallel(size=3): Block layers.0 has n_heads=4, and each rank computes whole heads; set size to a divisor of 4",
        plan_of,
        Model(),
        {"layers.*.qkv": "colwise"},
        size=3,
    )


def test_what_no_style_can_divide_is_refused() -> None:
    refused(
        "TensorParallel: 'layers.0.mlp' is a Sequential, and ColwiseParallel divides Linear and Embedding; name the layers "
        "inside it, or leave it whole",
        plan_of,
        Model(),
        {"layers.*.mlp": "colwise"},
        size=2,
    )
    refused(
        "TensorParallel: 'layers.0.mlp.0' is a Linear; sharded_dropout is for SeededDropout",
        plan_of,
        Model(),
        {"layers.*.mlp.0": "sharded_dropout"},
        size=2,
    )
    refused(
        "TensorParallel: 'embedding' has padding_idx=1, which torch does not keep in embeddings that are divided by rows; give "
        "it 'colwise_gather_output'",
        plan_of,
        Model(),
        {"embedding": "rowwise"},
        size=2,
    )


def test_options_that_do_not_go_together_are_refused() -> None:
    refused("TensorParallel(size=0): expected a number of ranks, 1 or more", TensorParallel, size=0)
    refused(
        "TensorParallel(data_parallel='ddp'): expected DDP(...) or FSDP(...)",
        TensorParallel,
        size=2,
        data_parallel="ddp",
    )
    refused(
        "TensorParallel(data_parallel=DDP(gradient_compression=..., communication_hook=...)): those act in torch's DDP, which "
        "takes no divided parameters; leave them out, or give data_parallel=FSDP(reduce_dtype='bf16')",
        TensorParallel,
        size=2,
        data_parallel=DDP(gradient_compression="bf16"),
    )


def test_groups_that_do_not_divide_the_world_are_refused() -> None:
    refused(
        "TensorParallel(size=2) needs a multiple of 2 processes but WORLD_SIZE is 3; set size to a divisor of 3, or start 4 "
        "processes",
        TensorParallel(size=2).num_groups,
        3,
    )


def test_in_a_world_of_one_nothing_is_divided() -> None:
    assert isinstance(for_world(join(), TensorParallel(size=2)), Single)


class CancelsOnRank1(Callback):
    def before_batch(self) -> None:
        if self.learn.collectives.world.rank == 1 and self.state.step == 1:
            raise CancelBatch


def make_learner(strategy: Any, cbs: Any = (), model: nn.Module | None = None, **options: Any) -> Learner:
    torch.manual_seed(0)
    if model is None:
        model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), SeededDropout(0.5), nn.Linear(8, 2))
    x = torch.randn(8, 4)
    dls = DataLoaders(DataLoader(TensorData(x, x[:, 0].long().abs() % 2), 4), recipe=SampleRecipe(inputs=[Pipeline()]))
    return Learner(dls, model, CrossEntropyLoss(), strategy=strategy, cbs=cbs, run_dir=None, progress=False, **options)


@pytest.mark.world_size(2)
def test_on_two_ranks() -> None:
    """One start of two processes for what needs them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor

    ranks = join()
    rank = ranks.world.rank
    plan = {"0": "colwise", "3": "rowwise"}

    # The ranks of a group read the same samples.
    learn = make_learner(TensorParallel(plan, size=2))
    assert isinstance(learn.strategy, TensorParallelStrategy)
    assert (learn.dls.train.world.rank, learn.dls.train.world.world_size) == (0, 1)
    assert learn.dls.train.new().world.world_size == 1

    # Another Learner may share the loaders, and each has them deal out as it needs.
    whole_plan = TensorParallel({**plan, "2": "sharded_dropout"}, size=2)
    shared = make_learner(whole_plan)
    Learner(shared.dls, nn.Linear(4, 2), CrossEntropyLoss(), run_dir=None, progress=False).fit(1)
    assert shared.dls.train.world.world_size == 2
    shared.fit(1)
    assert shared.dls.train.world.world_size == 1

    # So a loader that was dealt out by itself would give each of them others.
    by_itself = DataLoader(TensorData(torch.zeros(8, 12), torch.zeros(8, dtype=torch.int64)), bs=4, world=ranks.world)
    refused(
        "a DataLoader deals its batches out to 2 rank(s) by itself, and with TensorParallel the 2 ranks are 1 group(s), each of "
        "which computes a batch together; give a DataLoader or an IterableLoader without world=, or another strategy",
        learn.validate,
        by_itself,
    )

    # What is measured of a layer is of all its features, of which each rank has a part.
    together, alone = ActivationStats(every=1), ActivationStats(every=1)
    make_learner(whole_plan, together).fit(1)
    make_learner("ddp", alone).fit(1)
    for ours, theirs in zip(together.stats, alone.stats, strict=True):
        assert ours[:2] == theirs[:2]
        assert ours[2:] == pytest.approx(theirs[2:], abs=1e-4)

    # A rank that cancels takes part in what the others exchange, in the type in which they compute.
    cancelled = make_learner(whole_plan, CancelsOnRank1(), precision="bf16")
    cancelled.fit(1)
    assert len(cancelled.recorder.losses) == 1

    # A dropout between them sees a part of the features, and must be told which.
    refused(
        "TensorParallel: '2' sees another part of the features on each rank, so it would drop others than one process does; add "
        "'2': 'sharded_dropout' to the plan",
        learn.fit,
        1,
    )
    make_learner(whole_plan).fit(1)

    refused(
        "AutoMicrobatch does not work with TensorParallel: the ranks of a group exchange within each layer, which one that ran "
        "out of memory cannot take up again; use GradientAccumulation or a smaller bs",
        make_learner(TensorParallel(plan, size=2), AutoMicrobatch()).fit,
        1,
    )

    # A model that is divided otherwise already is refused, whichever came first.
    divided, sharded = make_learner(TensorParallel(plan, size=2)).model, make_learner(FSDP()).model
    again = "make the model anew, or give this Learner the strategy of the one before"
    for strategy, name, model, axes in (
        ("ddp", "DDP", divided, "tensor=2"),
        ("ddp", "DDP", sharded, "shard=2"),
        (FSDP(), "FSDP", divided, "tensor=2"),
        (TensorParallel(plan, size=2), "TensorParallel", sharded, "shard=2"),
        (TensorParallel(plan, size=1), "TensorParallel", divided, "tensor=2"),
    ):
        refused(
            f"{name}: the model was divided among ranks ({axes}) for another strategy, which cannot be undone; {again}",
            lambda strategy=strategy, model=model: make_learner(strategy, model=model),
        )
    assert len(make_learner(TensorParallel(plan, size=2), model=divided).get_preds(ds_idx=0)[0]) == 8

    # What layers share is one parameter afterwards, or refused.
    mesh = init_device_mesh("cpu", (2,))
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    divide(model, plan_of(model, {"0": "colwise_gather_output", "1": "rowwise_split_input"}, size=2), mesh)
    assert model[1].weight is model[0].weight
    assert isinstance(model[0].weight, DTensor)
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    refused(
        "TensorParallel: these layers share a parameter and must hold the same part of it: 0 is whole, 1 has S(1); an embedding "
        "that is 'colwise_gather_output' goes with a decoder that is 'rowwise_split_input'",
        divide,
        model,
        plan_of(model, {"1": "rowwise_split_input"}, size=2),
        mesh,
    )

    # Groups of one: each is a mesh of its own, and together they write every element once.
    beside = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data", "tensor"))["tensor"]
    weight = DTensor.from_local(torch.zeros(5, 3), beside, run_check=False)
    [piece] = deal_out({"w": weight}, rank, 2, max_bytes=2**20)
    assert ranks.all_gather_rows(torch.tensor([[*piece.box.offsets, *piece.box.shape]])).tolist() == [
        [0, 0, 3, 3],
        [3, 0, 2, 3],
    ]

    # Exchanges among groups name ranks as the world does.
    others, group = across_groups(ranks, 1)
    assert group is not None
    assert others.all_reduce(torch.tensor([1.0])).tolist() == [2.0]
    assert others.broadcast(torch.tensor([rank]), src=1).tolist() == [1]
    if rank == 1:
        with pytest.raises(CollectiveError, match="rank 1: broadcast number 3 failed"):
            others.broadcast(torch.zeros(1), src=5)
