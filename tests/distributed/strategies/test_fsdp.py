"""Fully sharded training beyond its numbers: what each rank holds, and what happens when things go wrong."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import pytest
import torch
from torch import nn
from toy import make_learner, make_model

from dist_ai.callbacks import Callback, CancelBatch, CancelStep
from dist_ai.data import EpochPlan
from dist_ai.distributed import join
from dist_ai.distributed.sharded import gather
from dist_ai.distributed.strategies import DDP, FSDP, for_world
from dist_ai.distributed.strategies.sync_batch_norm import SyncBatchNorm
from dist_ai.errors import ConfigError
from dist_ai.losses import CrossEntropyLoss

SMALL = FSDP(min_block_parameters=10)
CPU = torch.device("cpu")


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in gather(model.state_dict()).values()])


@pytest.mark.world_size(2)
def test_each_rank_holds_its_part_of_parameters_and_optimizer_state_under_the_same_names() -> None:
    model = make_model(batch_norm=True)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    learn = make_learner(model=model, strategy=SMALL, opt_func=torch.optim.AdamW)
    assert learn.model is model
    learn.fit(1)
    for name, p in model.named_parameters():
        assert p.shape == shapes[name]  # of the whole
        assert p.to_local().numel() <= (p.numel() + p.shape[-1]) // 2 + 1  # type: ignore[operator]
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes
    assert {name: value.shape for name, value in gather(model.state_dict()).items()} == shapes
    average = learn.opt.state()[0]["exp_avg.0.weight"]
    assert average.to_local().shape == model[0].weight.to_local().shape  # type: ignore[operator]
    assert isinstance(model[1], SyncBatchNorm)
    assert isinstance(model[1], nn.modules.batchnorm._BatchNorm)


@pytest.mark.world_size(2)
def test_all_ranks_begin_with_rank_0s_model_and_a_second_learner_takes_it_as_it_is() -> None:
    torch.manual_seed(join().world.rank)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    learn = make_learner(model=model, strategy=SMALL)
    torch.manual_seed(0)
    expected = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    assert torch.equal(weights(model), torch.cat([p.flatten() for p in expected.state_dict().values()]))
    learn.fit(1)
    before = weights(model)
    again = make_learner(model=model, strategy=SMALL)
    assert torch.equal(weights(model), before)
    again.fit(1)
    assert not torch.equal(weights(model), before)


class _Stack(nn.Module):
    """Two layers, with a place to fail in forward and one in backward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.fail = ""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        if self.fail == "forward":
            raise ArithmeticError("in forward")
        if self.fail == "backward":
            hidden.register_hook(_raise)
        return self.last(hidden)


def _raise(grad: torch.Tensor) -> torch.Tensor:
    raise ArithmeticError("in backward")


@pytest.mark.world_size(2)
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_after_an_error_the_model_trains_on_as_one_that_is_not_sharded_does(where: str) -> None:
    if where == "backward" and not hasattr(torch.distributed.fsdp.FSDPModule, "reset_iter_state"):
        return  # this torch cannot; docs/known-limits.md says so
    ends = []
    for strategy in (SMALL, DDP()):
        learn = make_learner(model=_Stack().double(), strategy=strategy)
        learn.fit(1)
        learn.model.fail = where
        with pytest.raises(ArithmeticError, match=where):
            learn.fit(1)
        learn.model.fail = ""
        learn.fit(1)
        ends.append(weights(learn.model))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


class _OneCancels(Callback):
    """One rank cancels a batch before its forward, and a step, in training; and a batch in validation."""

    def before_batch(self) -> None:
        state = self.learn.state
        if join().world.rank == 1 and state.step == (0 if state.training else 1):
            raise CancelBatch

    def before_step(self) -> None:
        if join().world.rank == 0 and self.learn.state.step == 1:
            raise CancelStep


@pytest.mark.world_size(2)
def test_a_cancel_on_one_rank_holds_on_all_and_nobody_waits_for_parameters() -> None:
    ends = []
    for strategy in (SMALL, DDP()):
        learn = make_learner(strategy=strategy, cbs=[_OneCancels()])
        learn.fit(2)
        ends.append(torch.cat([weights(learn.model), torch.tensor(learn.validate()).double()]))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


def _halves(model: nn.Module) -> list[list[nn.Parameter]]:
    return [list(model[0].parameters()), list(model[2].parameters())]


@pytest.mark.world_size(2)
def test_frozen_layers_stay_as_they_are_and_learn_once_unfrozen() -> None:
    ends = []
    for strategy in (SMALL, DDP()):
        learn = make_learner(strategy=strategy, splitter=_halves)
        learn.freeze()
        first = gather(learn.model.state_dict())["0.weight"].clone()
        learn.fit(1)
        assert torch.equal(gather(learn.model.state_dict())["0.weight"], first)
        learn.unfreeze()
        learn.fit(1, slice(0.01, 0.1))
        assert not torch.equal(gather(learn.model.state_dict())["0.weight"], first)
        ends.append(weights(learn.model))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


def gradients(config: DDP | FSDP) -> dict[str, Any]:
    """Returns the gradients of two batches, of 4 and 3 samples, that are exchanged with the second."""
    ranks = join()
    strategy = for_world(ranks, config)
    model = make_model(batch_norm=True)
    strategy.prepare(model, CPU)
    module = strategy.wrap(model).train()
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    world = ranks.world
    plan = EpochPlan(num_samples=7, batch_size=4, world_size=world.world_size, rank=world.rank, shuffle=False)
    for share in plan:
        strategy.begin_batch(num_local=share.num_local, exchange=share.step == 1)
        loss = module(x[torch.from_numpy(share.indices)]).exp().sum(1).mean()
        (loss * strategy.weight(num_local=share.num_local, num_global=7)).backward()
    strategy.unwrap()
    grads = gather({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    return {name: grad.numpy() for name, grad in grads.items()}


def both_gradients() -> list[dict[str, Any]]:
    return [gradients(DDP()), gradients(SMALL)]


def test_accumulated_gradients_are_those_of_all_the_steps_samples(spawn: Any) -> None:
    [[alone, _]] = spawn(1, both_gradients)
    for kinds in spawn(2, both_gradients):
        for grads in kinds:
            assert grads.keys() == alone.keys()
            for name, grad in alone.items():
                assert grads[name] == pytest.approx(grad, rel=1e-10, abs=1e-12), name


@pytest.mark.world_size(2)
def test_blocks_compute_in_bf16_while_the_ranks_keep_float32() -> None:
    seen: set[torch.dtype] = set()
    model = make_model(torch.float32)
    model[0].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    from toy import make_dls

    config = FSDP(min_block_parameters=10, compute_dtype="bf16")
    learn = make_learner(model=model, dls=make_dls(dtype=torch.float32), strategy=config)
    learn.fit(1)
    exact = make_learner(model=make_model(torch.float32), dls=make_dls(dtype=torch.float32))
    exact.fit(1)
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(weights(model), weights(exact.model), rtol=0.02, atol=0.02)


def saved_and_found(folder: str) -> list[list[float]]:
    """Returns, for each strategy, losses of lr_find and of a fit that goes on from what another strategy saved."""
    numbers = []
    for strategy, other in ((SMALL, DDP()), (DDP(), SMALL)):
        learn = make_learner(strategy=strategy, opt_func=torch.optim.Adam, lr=0.01)
        before = weights(learn.model)
        found = learn.lr_find(num_it=6)
        assert torch.equal(weights(learn.model), before)
        learn.fit(1)
        path = learn.save(f"{folder}/{type(strategy).__name__}")
        loaded = make_learner(strategy=other, opt_func=torch.optim.Adam, lr=0.01).load(path)
        assert torch.equal(weights(loaded.model), weights(learn.model))
        loaded.fit(1)
        numbers.append([*[float(each) for each in found.losses], *loaded.recorder.losses])
    return numbers


@pytest.mark.world_size(2)
def test_a_search_for_the_rate_leaves_no_trace_and_what_one_strategy_saved_another_goes_on_with() -> None:
    folder = join().broadcast_json(tempfile.mkdtemp())
    one, other = saved_and_found(folder)
    assert one == pytest.approx(other, rel=1e-10)
    join().barrier()
    if join().world.is_main:
        shutil.rmtree(folder)


class _Ranked(nn.Module):
    """A model that each rank builds its own way."""

    def __init__(self, rank: int, kind: str) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        if kind == "shape":
            self.head = nn.Linear(6, 3 + rank)
        elif kind == "name" and rank:
            self.tail = nn.Linear(6, 3)
        else:
            self.head = nn.Linear(6, 3)
        if kind == "dtype" and rank:
            self.body.double()
        if kind == "more" and rank:
            self.register_buffer("anchors", torch.zeros(2))


@pytest.mark.world_size(3)
@pytest.mark.parametrize("config", [DDP(), FSDP()], ids=["ddp", "fsdp"])
def test_ranks_that_built_different_models_are_told_the_first_difference(config: DDP | FSDP) -> None:
    ranks = join()
    differences = {
        "shape": '"float32 (4, 6)" there and "float32 (3, 6)" on rank 0',
        "name": 'parameter head.weight is missing there, and is "float32 (3, 6)" on rank 0',
        "dtype": 'parameter body.weight is "float64 (6, 4)" there and "float32 (6, 4)" on rank 0',
        "more": 'buffer anchors is "float32 (2,)" there, and missing on rank 0',
    }
    for kind, difference in differences.items():
        with pytest.raises(ConfigError) as refused:
            for_world(ranks, config).prepare(_Ranked(ranks.world.rank, kind), CPU)
        text = str(refused.value)
        assert text.startswith("rank 1 and rank 0 disagree on the model: "), text
        assert difference in text
        assert text.endswith(
            "; build it from the same arguments on every rank (not from the rank, the time or files that differ)"
        )


@pytest.mark.world_size(2)
def test_classes_weigh_as_much_as_where_every_rank_holds_the_model() -> None:
    ends = []
    for strategy in (SMALL, DDP()):
        loss = CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2], dtype=torch.float64))
        learn = make_learner(strategy=strategy, loss_func=loss)
        learn.fit(1)
        ends.append(torch.cat([weights(learn.model), torch.tensor(learn.recorder.losses).double()]))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)
