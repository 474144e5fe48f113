"""Which strategy a world gets, and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dist_ai.distributed import Mesh, World, join
from dist_ai.distributed.strategies import DDP, FSDP, Choice, Single, choose, for_world
from dist_ai.distributed.strategies.choice import choose_for
from dist_ai.distributed.strategies.ddp import DDPStrategy
from dist_ai.distributed.strategies.fsdp import FSDPStrategy
from dist_ai.distributed.strategies.memory import device_memory, state_bytes
from dist_ai.errors import ConfigError

GIB = 2**30


def test_a_model_that_leaves_room_for_activations_is_held_by_every_rank() -> None:
    assert choose_for(9 * GIB, memory=16 * GIB, world_size=8) == Choice(
        DDP(),
        "parameters, gradients and optimizer state take 9.0 GiB of the 16.0 GiB on each device, so each holds them all",
    )


def test_a_larger_one_is_shared() -> None:
    assert choose_for(100 * GIB, memory=16 * GIB, world_size=8) == Choice(
        FSDP(),
        "parameters, gradients and optimizer state take 100.0 GiB, more than 60% of the 16.0 GiB on each device, so 8 ranks "
        "hold 12.5 GiB each",
    )


def test_what_is_given_is_taken() -> None:
    ranks, model = join(), nn.Linear(2, 2)
    config = FSDP(cpu_offload=True)
    assert choose(config, model, ranks) == Choice(config, "it was asked for")
    assert choose("ddp", model, ranks).config == DDP()
    assert choose("fsdp", model, ranks).config == FSDP()
    assert choose("auto", model, ranks).config == DDP()


def test_a_strategy_that_does_not_exist_is_refused() -> None:
    given: Any = "fdsp"
    with pytest.raises(ConfigError) as refused:
        choose(given, nn.Linear(2, 2), join())
    assert str(refused.value) == (
        "strategy='fdsp'; did you mean 'fsdp'?; expected 'auto', 'ddp', 'fsdp', DDP(...), FSDP(...) or TensorParallel(...)"
    )


def test_the_state_of_training_is_counted() -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.BatchNorm1d(10))  # 130 float32 parameters, 20 statistics, 1 int64
    assert state_bytes(model) == 4 * (130 * 4 + 20) + 8
    assert state_bytes(model, averages=0) == 4 * (130 * 2 + 20) + 8
    model[0].requires_grad_(False)
    assert state_bytes(model) == 4 * (130 + 20 * 3 + 20) + 8


def test_a_cpus_memory_is_shared_by_the_ranks_of_a_machine() -> None:
    alone = device_memory(World(device=torch.device("cpu")))
    assert device_memory(World(rank=0, world_size=4, local_world_size=4)) == alone // 4


@pytest.mark.world_size(2)
def test_several_ranks_get_what_the_config_says() -> None:
    ranks = join()
    assert isinstance(for_world(ranks), DDPStrategy)
    assert isinstance(for_world(ranks, FSDP(), why="it is large"), FSDPStrategy)
    assert for_world(ranks, FSDP(), why="it is large").why == "it is large"
    with pytest.raises(ConfigError, match=r"^mesh \(1, 3\) needs 3 processes but WORLD_SIZE is 2; set"):
        for_world(ranks, FSDP(mesh=Mesh(data_parallel_shard=3)))
    assert choose("auto", nn.Linear(2, 2), ranks).config == DDP()


def test_one_rank_is_single_whatever_the_config_says() -> None:
    strategy = for_world(join(), FSDP(), why="it is large")
    assert isinstance(strategy, Single)
    assert strategy.why == "one process holds the whole model"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DDP(gradient_compression="int8"),  # type: ignore[arg-type]
            "DDP(gradient_compression='int8'): expected 'bf16', 'fp16' or None",
        ),
        (
            lambda: DDP(gradient_compression="bf16", communication_hook=lambda state, bucket: bucket),
            "DDP(gradient_compression=..., communication_hook=...): there is one hook; compress inside yours, or give one "
            "of the two",
        ),
        (lambda: DDP(bucket_cap_mb=0), "DDP(bucket_cap_mb=0): expected megabytes, 1 or more"),
        (
            lambda: DDP(static_graph=True, find_unused_parameters=True),
            "DDP(static_graph=True, find_unused_parameters=True): a static graph already allows for parameters that never "
            "take part; give find_unused_parameters=True alone if they change from step to step",
        ),
        (
            lambda: FSDP(compute_dtype="fp8"),  # type: ignore[arg-type]
            "FSDP(compute_dtype='fp8'): expected one of None, bf16, fp16",
        ),
        (
            lambda: FSDP(reduce_dtype=None),  # type: ignore[arg-type]
            "FSDP(reduce_dtype=None): expected one of fp32, bf16, fp16",
        ),
    ],
)
def test_options_that_cannot_work_are_refused_when_they_are_given(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make()
    assert str(refused.value) == message
