"""The memory that is foretold is the memory that training takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dist_ai.distributed import Mesh, join
from dist_ai.distributed.strategies import DDP, FSDP, TensorParallel, for_world
from dist_ai.distributed.strategies.memory import Memory, activation_bytes, estimate, part_of_one

WIDTH, SAMPLES = 32, 16
SMALL = FSDP(min_block_parameters=100)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    block = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)) for _ in range(4)]
    return nn.Sequential(nn.Linear(8, WIDTH), nn.BatchNorm1d(WIDTH), *block, nn.Linear(WIDTH, 2))


def held(config: DDP | FSDP | TensorParallel) -> tuple[int, int, int]:
    """Returns the bytes that this rank holds after a step: parameters and buffers, gradients, Adam's averages."""
    strategy = for_world(join(), config)
    model = make_model()
    strategy.prepare(model, torch.device("cpu"))
    opt = torch.optim.Adam(model.parameters())
    strategy.wrap(model).train()(torch.randn(SAMPLES, 8)).sum().backward()
    opt.step()
    strategy.unwrap()

    def size(tensors: Any) -> int:
        local = [getattr(each, "to_local", lambda each=each: each)() for each in tensors]
        return sum(each.numel() * each.element_size() for each in local)

    averages = [state[name] for state in opt.state.values() for name in ("exp_avg", "exp_avg_sq")]
    grads = [p.grad for p in model.parameters()]
    return size([*model.parameters(), *model.buffers()]), size(grads), size(averages)


@pytest.mark.world_size(2)
@pytest.mark.parametrize("config", [DDP(), SMALL], ids=["ddp", "fsdp"])
def test_what_a_rank_holds_from_step_to_step_is_what_was_foretold(config: DDP | FSDP) -> None:
    foretold = estimate(make_model(), config, world_size=2, activations=0)
    parameters, gradients, averages = held(config)
    # Where rows cannot be halved, one rank has one more.
    assert parameters == pytest.approx(foretold.parameters, rel=0.02)
    assert gradients == pytest.approx(foretold.gradients, rel=0.02)
    assert averages == pytest.approx(foretold.optimizer, rel=0.02)


PLAN = {"*.0": "colwise", "*.2": "rowwise"}


@pytest.mark.world_size(2)
def test_what_one_of_two_that_compute_together_holds_is_what_was_foretold() -> None:
    with part_of_one(make_model(), 2, PLAN) as part:
        foretold = estimate(part, DDP(), world_size=1, activations=0)
    parameters, gradients, averages = held(TensorParallel(PLAN, size=2))
    assert parameters < estimate(make_model(), DDP(), world_size=1, activations=0).parameters * 0.6
    assert (parameters, gradients, averages) == (foretold.parameters, foretold.gradients, foretold.optimizer)


def saved_for_backward(model: nn.Module) -> int:
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage  # kept, so that no other tensor gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.randn(SAMPLES, 8)).sum()
    return sum(storage.nbytes() for storage in saved.values())


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return make_model()


def test_activations_are_those_that_forward_keeps_and_a_few_in_passing() -> None:
    kept = saved_for_backward(make_model())
    foretold = activation_bytes(on_meta(), [(SAMPLES, 8)])
    assert kept <= foretold <= 1.5 * kept
    assert activation_bytes(on_meta(), [(4 * SAMPLES, 8)]) == pytest.approx(4 * foretold, rel=0.1)
    large = [(16 * SAMPLES, 8)]
    assert activation_bytes(on_meta(), large, compute_dtype=torch.bfloat16) < 0.7 * activation_bytes(on_meta(), large)


def test_one_of_four_that_compute_together_keeps_what_is_between_the_blocks_and_a_quarter_of_what_is_inside() -> None:
    whole = activation_bytes(on_meta(), [(SAMPLES, 8)])
    with part_of_one(on_meta(), 4, PLAN) as part:
        quarter = activation_bytes(part, [(SAMPLES, 8)])
    inside = 4 * 2 * SAMPLES * WIDTH * 4  # of four blocks, what GELU takes and gives, in float32
    assert 0.7 * 0.75 * inside < whole - quarter <= 0.75 * inside  # less a few in passing, which are exchanged
    with part_of_one(model := on_meta(), 1) as all_of_it:
        assert all_of_it is model


def test_activation_checkpointing_keeps_less() -> None:
    again = activation_bytes(
        on_meta(), [(SAMPLES, 8)], config=DDP(activation_checkpointing=True, blocks=["Sequential"])
    )
    assert again < 0.7 * activation_bytes(on_meta(), [(SAMPLES, 8)])


def test_gathered_are_three_blocks_and_the_rest() -> None:
    def parts(*modules: nn.Module) -> int:
        return sum(4 * p.numel() for module in modules for p in module.parameters())

    model = make_model()
    rest = parts(model[1], model[6])  # of 64 and 66 parameters; all else are blocks
    assert estimate(model, SMALL, world_size=4, activations=7).gathered == rest + 3 * parts(model[2])
    kept = FSDP(min_block_parameters=100, reshard_after_forward=False)
    assert estimate(model, kept, world_size=4, activations=7).gathered == parts(model) + parts(model[2])


def test_copies_of_the_model_share_less_and_offloaded_parts_are_not_on_the_device() -> None:
    all_of_it = estimate(make_model(), DDP(), world_size=4, activations=0)
    over_two = estimate(make_model(), FSDP(mesh=Mesh(data_parallel_replicate=2)), world_size=4, activations=0)
    assert over_two.gradients == all_of_it.gradients // 2
    assert (
        estimate(
            make_model(), FSDP(mesh=Mesh(data_parallel_shard=1, data_parallel_replicate=4)), world_size=4, activations=0
        )
        == all_of_it
    )
    offloaded = estimate(make_model(), FSDP(cpu_offload=True), world_size=4, activations=0)
    buffers = 4 * 2 * WIDTH + 8
    assert (offloaded.parameters, offloaded.gradients, offloaded.optimizer) == (buffers, 0, 0)
    assert Memory(1, 2, 3, 4, 5).total == 15
