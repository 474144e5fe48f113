"""Strategies: how a model is spread over the ranks, and put back."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn

from dist_ai.data import EpochPlan
from dist_ai.distributed import join
from dist_ai.distributed.environment import RANK_VARIABLES, World
from dist_ai.distributed.strategies import DDP, Single, for_world
from dist_ai.distributed.strategies.accelerate import prepare_data_parallel
from dist_ai.distributed.strategies.sync_batch_norm import SyncBatchNorm
from dist_ai.errors import ConfigError, WorldError

CHANNELS = 3
NUM_SAMPLES = 10
BATCH_SIZE = 4  # batches of 4, 4 and 2: three ranks get 2, 1 and 1 samples, and then 1, 1 and none

NORMS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(CHANNELS), ()),
    "1d of sequences": (lambda: nn.BatchNorm1d(CHANNELS), (5,)),
    "2d": (lambda: nn.BatchNorm2d(CHANNELS), (4, 2)),
    "3d": (lambda: nn.BatchNorm3d(CHANNELS), (2, 3, 2)),
    "cumulative average": (lambda: nn.BatchNorm1d(CHANNELS, momentum=None), ()),
    "other constants": (lambda: nn.BatchNorm2d(CHANNELS, eps=0.1, momentum=0.3), (2, 2)),
    "no weight and bias": (lambda: nn.BatchNorm1d(CHANNELS, affine=False), (5,)),
    "no statistics": (lambda: nn.BatchNorm1d(CHANNELS, track_running_stats=False), (5,)),
    "nothing of its own": (lambda: nn.BatchNorm1d(CHANNELS, affine=False, track_running_stats=False), ()),
}


def make_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    make, shape = NORMS[name]
    norm = make()
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    features = CHANNELS * int(torch.tensor(shape).prod())
    return nn.Sequential(norm, nn.Flatten(), nn.Linear(features, 2)).double()


def make_inputs(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(NUM_SAMPLES, CHANNELS, *NORMS[name][1], generator=generator, dtype=torch.float64) * 3 + 2


def train_batch_norm(name: str) -> dict[str, Any]:
    """Trains a step a batch; returns all numbers by name, each sample's by the sample."""
    ranks = join()
    world = ranks.world
    strategy = for_world(ranks)
    model, inputs = make_model(name), make_inputs(name)
    module = strategy.wrap(model).train()
    plan = EpochPlan(num_samples=NUM_SAMPLES, batch_size=BATCH_SIZE, world_size=world.world_size, rank=world.rank)
    outputs: dict[int, Any] = {}
    input_grads: dict[int, Any] = {}
    numbers: dict[str, Any] = {}
    for share in plan:
        x = inputs[torch.from_numpy(share.indices)].requires_grad_()
        strategy.begin_batch(num_local=share.num_local)
        out = module(x)
        loss = (out.exp().sum(1) + out.prod(1)).mean()
        (loss * strategy.weight(num_local=share.num_local, num_global=share.num_global)).backward()
        assert x.grad is not None
        for i, row in enumerate(share.indices[: share.num_local].tolist()):
            outputs[row] = out[i].detach().numpy()
            input_grads[row] = (x.grad[i] / world.world_size).numpy()  # DDP's averaging does not reach the input
        if share.num_local == 0:
            assert not x.grad.any()  # nothing in the global batch's loss depends on what runs along
        for parameter, p in model.named_parameters():
            assert p.grad is not None
            numbers[f"step {share.step}: gradient of {parameter}"] = p.grad.numpy().copy()
            p.data -= 0.05 * p.grad
            p.grad = None
        for buffer, value in model.named_buffers():
            numbers[f"step {share.step}: {buffer}"] = value.numpy().copy()
    model.eval()
    strategy.begin_batch(num_local=NUM_SAMPLES * (world.rank == 0))
    with torch.no_grad():
        numbers["evaluated"] = model(inputs).numpy()
    strategy.unwrap()
    return {"numbers": numbers, "outputs": outputs, "input_grads": input_grads}


def train_all() -> dict[str, Any]:
    return {name: train_batch_norm(name) for name in NORMS}


@pytest.mark.parametrize("world_size", [2, 3])
def test_batch_norm_over_ranks_is_batch_norm_of_one_process(spawn: Any, world_size: int) -> None:
    alone = train_all()
    ranks = spawn(world_size, train_all)
    for name, expected in alone.items():
        for rank in ranks:
            assert rank[name]["numbers"].keys() == expected["numbers"].keys()
            for what, value in expected["numbers"].items():
                close(rank[name]["numbers"][what], value, f"{name}: {what}")
        for kind in ("outputs", "input_grads"):
            merged = {row: value for rank in ranks for row, value in rank[name][kind].items()}
            assert sorted(merged) == list(range(NUM_SAMPLES))
            for row, value in expected[kind].items():
                close(merged[row], value, f"{name}: {kind} of sample {row}")


def close(got: Any, expected: Any, what: str) -> None:
    torch.testing.assert_close(
        torch.as_tensor(got), torch.as_tensor(expected), rtol=1e-11, atol=1e-11, msg=lambda text: f"{what}: {text}"
    )


def test_the_oracle_is_torchs_own_batch_norm() -> None:
    assert all(isinstance(make_model(name)[0], nn.modules.batchnorm._BatchNorm) for name in NORMS)
    model = make_model("2d")
    assert for_world(join()).wrap(model) is model
    assert not any(isinstance(module, SyncBatchNorm) for module in model.modules())


class _Block(nn.Module):
    """A model with a nested, a shared and a nameless place for its norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.second = nn.ModuleDict({"norm": nn.BatchNorm1d(3), "again": self.first[1]})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second["again"](self.second["norm"](self.first(x)))


@pytest.mark.world_size(2)
def test_a_wrapped_model_keeps_its_names_and_parameters_and_gets_its_layers_back() -> None:
    strategy = for_world(join())
    model = _Block()
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    names, buffers = list(model.state_dict()), {n: b.data_ptr() for n, b in model.named_buffers()}

    def unchanged() -> None:
        assert list(model.state_dict()) == names
        assert {n: b.data_ptr() for n, b in model.named_buffers()} == buffers
        assert all(p is parameters[name] for name, p in model.named_parameters())

    for _ in range(2):  # each fit wraps and unwraps anew
        module = strategy.wrap(model)
        assert sum(isinstance(each, SyncBatchNorm) for each in model.modules()) == 3
        unchanged()
        strategy.begin_batch(num_local=2)
        module.train()(torch.randn(2, 4)).sum().backward()
        model.eval()
        strategy.unwrap()
        unchanged()
        assert dict(model.named_modules()) == modules
        assert not any(each.training for each in model.modules())
    strategy.unwrap()  # without a wrap it does nothing
    assert dict(model.named_modules()) == modules


@pytest.mark.world_size(2)
def test_without_sync_bn_layers_stay_as_they_are() -> None:
    model = _Block()
    for_world(join(), sync_bn=False).wrap(model)
    assert not any(isinstance(module, SyncBatchNorm) for module in model.modules())


class _NormAndActivation(nn.BatchNorm1d):
    """A BatchNorm that does more than normalise, as timm's do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


@pytest.mark.world_size(2)
def test_a_batch_norm_with_a_forward_of_its_own_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 4), _NormAndActivation(4), nn.BatchNorm1d(4))
    for_world(join()).wrap(model)
    assert [type(layer) for layer in model] == [nn.Linear, _NormAndActivation, SyncBatchNorm]


class _Idle(nn.Module):
    """A model of which a part does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


@pytest.mark.world_size(2)
def test_a_parameter_without_a_part_in_the_loss_is_named_after_the_first_backward() -> None:
    model, strategy = _Idle(), for_world(join())
    strategy.wrap(model)(torch.ones(2, 4)).sum().backward()
    with pytest.raises(ConfigError) as refused:
        strategy.check_gradients(model)
    assert str(refused.value) == (
        "2 parameter(s) have no part in the loss, so several workers would wait for their gradients: idle.weight, "
        "idle.bias; freeze them with requires_grad_(False), or give Learner(strategy=DDP(find_unused_parameters=True)), "
        "which costs one small exchange a step"
    )


@pytest.mark.world_size(2)
def test_parameters_without_a_part_in_the_loss_can_be_expected() -> None:
    model, strategy = _Idle(), for_world(join(), DDP(find_unused_parameters=True))
    module = strategy.wrap(model)
    for _ in range(2):
        module(torch.ones(2, 4)).sum().backward()
        strategy.check_gradients(model)
        assert model.used.weight.grad is not None
        assert model.idle.weight.grad is None


@pytest.mark.world_size(2)
def test_a_prepared_model_is_rank_0s_before_it_is_used() -> None:
    ranks = join()
    torch.manual_seed(ranks.world.rank)  # as in a program that forgets to seed
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    for_world(ranks).prepare(model, torch.device("cpu"))
    torch.manual_seed(0)
    assert torch.equal(model[0].weight, nn.Linear(4, 3).weight)


@pytest.mark.world_size(2)
def test_a_batch_norm_keeps_the_type_of_half_precision_activations() -> None:
    ranks = join()
    strategy = for_world(ranks)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    strategy.wrap(model)
    strategy.begin_batch(num_local=8 * ranks.world.is_main)  # so that rank 0's rows are the whole batch
    alone = nn.BatchNorm1d(4)
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float32).bfloat16()
    for training in (True, False):
        expected = alone.train(training)(x)
        got = model[1].train(training)(x)
        assert got.dtype == expected.dtype == torch.bfloat16
        torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)


@pytest.mark.world_size(3)
@pytest.mark.parametrize("frozen", ["nothing", "a layer", "everything"])
def test_after_wrapping_all_ranks_hold_rank_0s_parameters_and_buffers(frozen: str) -> None:
    ranks = join()
    torch.manual_seed(ranks.world.rank)  # as in a program that forgets to seed
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model.register_buffer("anchors", torch.randn(2, 2))
    if frozen != "nothing":
        (model if frozen == "everything" else model[0]).requires_grad_(False)
    strategy = for_world(ranks)
    module = strategy.wrap(model)
    mine = torch.cat([value.flatten().double() for value in model.state_dict().values()])
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    first.register_buffer("anchors", torch.randn(2, 2))
    assert torch.equal(mine, torch.cat([value.flatten().double() for value in first.state_dict().values()]))
    assert module(torch.ones(2, 4)).shape == (2, 2)


@pytest.mark.world_size(2)
def test_sync_buffers_gives_all_ranks_rank_0s_whatever_their_type() -> None:
    ranks = join()
    rank = ranks.world.rank
    model = nn.Module()
    kinds = {
        "floats": torch.full((2, 3), float(rank)),
        "transposed": torch.arange(6.0).view(2, 3).T + rank,
        "halves": torch.full((2,), float(rank), dtype=torch.bfloat16),
        "count": torch.tensor(7 + rank),
        "flags": torch.tensor([rank == 0, rank == 1]),
        "empty": torch.empty(0),
    }
    for name, value in kinds.items():
        model.register_buffer(name, value, persistent=name != "flags")
    kept = dict(model.named_buffers())
    for_world(ranks).sync_buffers(model)
    assert all(model.get_buffer(name) is buffer for name, buffer in kept.items())  # in place
    assert model.get_buffer("floats").eq(0).all()
    assert torch.equal(model.get_buffer("transposed"), torch.arange(6.0).view(2, 3).T)
    assert model.get_buffer("halves").eq(0).all()
    assert model.get_buffer("count") == 7
    assert model.get_buffer("flags").tolist() == [True, False]


@pytest.mark.world_size(3)
def test_the_weights_of_uneven_shares_make_ddps_average_the_mean_over_all_samples() -> None:
    ranks = join()
    strategy = for_world(ranks)
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = w

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.w

    module = strategy.wrap(Model())
    x = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    for num_global, expected in ((4, 15 / 4), (2, 3 / 2), (1, 1.0)):
        share = EpochPlan(num_samples=num_global, batch_size=4, world_size=3, rank=ranks.world.rank).share(0)
        weight = strategy.weight(num_local=share.num_local, num_global=num_global)
        (module(x[torch.from_numpy(share.indices)]).mean() * weight).backward()
        assert w.grad is not None
        assert w.grad.item() == pytest.approx(expected, rel=1e-15)
        w.grad = None


@pytest.mark.world_size(3)
def test_a_total_is_the_sum_over_ranks_and_leaves_what_was_given_alone() -> None:
    ranks = join()
    given = torch.tensor([1.0, float(ranks.world.rank)], dtype=torch.float64, requires_grad=True)
    total = for_world(ranks).begin_total(given)()
    assert total.tolist() == [3.0, 3.0]
    assert total.dtype == torch.float64
    assert not total.requires_grad
    assert given.tolist() == [1.0, ranks.world.rank]


def test_in_a_world_of_one_the_model_is_left_alone() -> None:
    model = _Block()
    modules = dict(model.named_modules())
    strategy = for_world(join())
    assert isinstance(strategy, Single)
    assert strategy.wrap(model) is model
    strategy.begin_batch(num_local=3)
    strategy.sync_buffers(model)
    strategy.unwrap()
    assert dict(model.named_modules()) == modules
    assert strategy.weight(num_local=3, num_global=3) == 1.0
    assert strategy.begin_total(torch.tensor([2.0]))().tolist() == [2.0]


def prepare_in_another_world() -> str:
    for name in RANK_VARIABLES:  # whoever started this process told it of its peers, but not in the environment
        os.environ.pop(name, None)
    with pytest.raises(WorldError) as refused:
        prepare_data_parallel(nn.Linear(1, 1), World(rank=1, world_size=2))
    return str(refused.value)


def test_a_world_that_accelerate_does_not_see_is_an_error_and_never_silently_alone(spawn: Any) -> None:
    assert spawn(1, prepare_in_another_world) == [
        "Accelerate sees rank 0 of 1, and this is rank 1 of 2 on cpu (single process); "
        "start the processes with `dist-ai launch`, torchrun or Ray Train, which set RANK and WORLD_SIZE"
    ]


def _compressed_and_hooked() -> dict[str, Any]:
    """Returns the gradients of a step, with DDP as it is, with each compression, and with a hook that counts buckets."""
    ranks = join()
    buckets: list[int] = []

    def hook(state: list[int], bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        state.append(bucket.buffer().numel())
        return allreduce_hook(None, bucket)

    grads = {}
    for name, config in {
        "exact": DDP(),
        "bf16": DDP(gradient_compression="bf16"),
        "fp16": DDP(gradient_compression="fp16"),
        "hook": DDP(communication_hook=hook, hook_state=buckets),
    }.items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        strategy = for_world(ranks, config)
        strategy.prepare(model, torch.device("cpu"))
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(ranks.world.rank))
        strategy.wrap(model)(x).square().mean().backward()
        strategy.unwrap()
        grads[name] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).numpy()
    return {"buckets": buckets, **grads}


def test_gradients_can_be_compressed_or_exchanged_by_a_hook_of_ones_own(spawn: Any) -> None:
    first, second = spawn(2, _compressed_and_hooked)
    assert first["buckets"] == second["buckets"] == [58]  # parameters, in one bucket
    assert (first["hook"] == first["exact"]).all()
    for kind, tol in (("bf16", 2**-7), ("fp16", 2**-9)):
        assert (first[kind] == second[kind]).all()
        assert first[kind] == pytest.approx(first["exact"], rel=tol, abs=tol / 10)
        assert (first[kind] != first["exact"]).any()
