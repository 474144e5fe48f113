"""How much memory training takes, before it begins and without the devices."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from dist_ai.distributed.environment import World
from dist_ai.distributed.sharded import local_part
from dist_ai.distributed.strategies.blocks import find_blocks, recompute_in_backward
from dist_ai.distributed.strategies.ddp import DDP
from dist_ai.distributed.strategies.fsdp import FSDP
from dist_ai.distributed.strategies.tensor_plan import Plan, divide, plan_of
from dist_ai.errors import ConfigError

__all__ = [
    "Memory",
    "activation_bytes",
    "device_memory",
    "estimate",
    "in_words",
    "part_of_one",
    "state_bytes",
    "unit_of",
]


def unit_of(size: float) -> tuple[str, int]:
    """Returns the unit in which a number of bytes is told, and the bytes in it.

    >>> unit_of(3 * 2**30), unit_of(50 * 2**20), unit_of(800)
    (('GiB', 1073741824), ('MiB', 1048576), ('KiB', 1024))
    """
    units = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
    return next((unit for unit in units.items() if size >= unit[1] / 10), ("KiB", 2**10))


def in_words(size: float) -> str:
    """Returns a number of bytes for a message.

    >>> in_words(3 * 2**30), in_words(50 * 2**20)
    ('3.0 GiB', '50.0 MiB')
    """
    name, unit = unit_of(size)
    return f"{size / unit:.1f} {name}"


@dataclass(frozen=True)
class Memory:
    """Bytes that one rank needs in training, by what they are for.

    Attributes:
        parameters: parameters and buffers.
        gradients: of the parameters that learn.
        optimizer: what the optimizer keeps for each of them.
        gathered: whole parameters and gradients of the blocks at work, where ranks hold parts.
        activations: what forward keeps for backward, and the values in passing, when they are most.
    """

    parameters: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.gathered + self.activations


def state_bytes(model: nn.Module, *, averages: int = 2) -> int:
    """Returns the bytes of all that a rank keeps from step to step, if it holds the whole model.

    Args:
        model: a model, also on the meta device.
        averages: tensors of a parameter's size that the optimizer keeps for each: Adam 2, SGD with momentum 1.

    Counted are parameters and buffers, and for those that learn a gradient and the optimizer's averages.

    >>> state_bytes(nn.Linear(10, 10, bias=False))
    1600
    """
    return _bytes(model.parameters()) + _bytes(model.buffers()) + (1 + averages) * _learning(model)


def estimate(model: nn.Module, config: DDP | FSDP, *, world_size: int, activations: int, averages: int = 2) -> Memory:
    """Returns what each of `world_size` ranks needs.

    Args:
        model: a model, also on the meta device.
        config: the strategy.
        world_size: number of ranks.
        activations: bytes that a rank's share of a batch takes; see `activation_bytes`.
        averages: see `state_bytes`.

    Of blocks three are counted as gathered: the one at work, the next one, which travels meanwhile, and one's gradients;
    and what is outside of blocks. Not counted is what a device's runtime takes for itself, about 0.5 GiB on a GPU.

    Raises:
        ConfigError: the config's mesh does not fit the world.
    """
    parameters, buffers, gradients = _bytes(model.parameters()), _bytes(model.buffers()), _learning(model)
    if isinstance(config, DDP):
        return Memory(parameters + buffers, gradients, averages * gradients, 0, activations)
    shards = config.mesh.over(world_size).data_parallel_shard
    assert isinstance(shards, int)
    if shards == 1:
        return Memory(parameters + buffers, gradients, averages * gradients, 0, activations)
    blocks = find_blocks(model, config.blocks, min_parameters=config.min_block_parameters)
    sizes = [_bytes(block.parameters()) for block in blocks]
    if config.reshard_after_forward is False:
        gathered = parameters + max(sizes, default=parameters)
    else:
        inside = {id(p) for block in blocks for p in block.parameters()}
        rest = _bytes([p for p in model.parameters() if id(p) not in inside])
        gathered = rest + 3 * max(sizes) if sizes else 2 * rest
    if config.compute_dtype is not None:
        gathered //= 2
    kept = 0 if config.cpu_offload else 1  # on the device
    return Memory(
        parameters=kept * parameters // shards + buffers,
        gradients=kept * gradients // shards,
        optimizer=kept * averages * gradients // shards,
        gathered=gathered,
        activations=activations,
    )


@contextmanager
def part_of_one(model: nn.Module, size: int, plan: Plan | None = None) -> Iterator[nn.Module]:
    """Lends the part of `model` that one of `size` ranks has under tensor parallelism; see `TensorParallel`.

    Args:
        model: a model, also on the meta device; it is divided in place.
        size: number of ranks; of one rank the part is the whole.
        plan: how; by default as the model states.

    The ranks are pretended: this process is the first of them, and what it exchanges with the others goes nowhere.

    Raises:
        ConfigError: it cannot be divided so.
    """
    if size == 1:
        yield model
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    styles = plan_of(model, plan, size=size)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        divide(model, styles, init_device_mesh("cpu", (size,)))
        yield model
    finally:
        dist.destroy_process_group()


def activation_bytes(
    model: nn.Module,
    shapes: Sequence[tuple[int, ...]],
    *,
    dtype: torch.dtype = torch.float32,
    compute_dtype: torch.dtype | None = None,
    config: DDP | FSDP | None = None,
) -> int:
    """Returns the bytes that a forward and backward take beside parameters and gradients, at the moment they are most.

    Nothing is computed and no such memory is taken: the shapes of all tensors are followed through the model.

    Args:
        model: a model on the meta device; activation checkpointing, if `config` has it, is put into it.
        shapes: of its inputs, the batch first.
        dtype: of its inputs.
        compute_dtype: what autocast computes in.
        config: the strategy.

    Raises:
        ConfigError: the model does not take such inputs.
    """
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorMode,
    )
    from torch.distributed._tools.mem_tracker import MemTracker
    from torch.utils._pytree import tree_leaves

    if config is not None and config.activation_checkpointing:
        recompute_in_backward(model, config.blocks)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cpu").train()
        tracker = MemTracker()
        tracker.track_external(model)
        inputs = [torch.zeros(shape, dtype=dtype) for shape in shapes]
        with tracker:
            try:
                autocast = torch.autocast(
                    "cpu", dtype=compute_dtype or torch.bfloat16, enabled=compute_dtype is not None
                )
                with _without_log("torch._subclasses.fake_tensor"), autocast:  # a page for what is one line below
                    outputs = tree_leaves(model(*inputs))
            except (DataDependentOutputException, DynamicOutputShapeException) as error:
                raise ConfigError(
                    f"{type(model).__name__} looks at the numbers that it computes, of which a plan has none: it follows shapes "
                    f"alone ({error.func}{_line_of(error)}). Plan it without what .item(), float(), `if` or a mask ask there"
                ) from error
            except (RuntimeError, TypeError, ValueError, AssertionError) as error:
                given = " and ".join(f"{dtype} {shape}" for shape in shapes)
                raise ConfigError(
                    f"this {type(model).__name__} does not take inputs of {given}: {str(error).splitlines()[0]}{_line_of(error)}"
                ) from error
            # Gradients are counted by themselves, and would move the moment of the peak. After the tracker's own hooks.
            for p in model.parameters():
                if p.requires_grad:
                    p.register_post_accumulate_grad_hook(_drop_gradient)
            floats = [out.float().sum() for out in outputs if isinstance(out, torch.Tensor) and out.requires_grad]
            if not floats:
                raise ConfigError(f"nothing that {type(model).__name__} returns comes of parameters that learn")
            torch.stack(floats).sum().backward()
        [at_peak] = tracker.get_tracker_snapshot("peak").values()
    kinds = {getattr(kind, "name", str(kind)): size for kind, size in at_peak.items()}
    return kinds["ACT"] + kinds["TEMP"]


def device_memory(world: World) -> int:
    """Returns the bytes of memory of this rank's device; on a CPU its share of the machine's."""
    if world.device.type == "cuda":
        return torch.cuda.get_device_properties(world.device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // world.local_world_size


@contextmanager
def _without_log(name: str) -> Iterator[None]:
    log = logging.getLogger(name)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _line_of(error: BaseException) -> str:
    """Returns the line of the model's own code that led to an error of torch's; "" if there is none."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).is_relative_to(_TORCH) and Path(frame.filename) != Path(__file__)
    ]
    return f"; {own[-1].filename}, line {own[-1].lineno}: {own[-1].line}" if own else ""


_TORCH = Path(torch.__file__).parent


def _drop_gradient(p: torch.Tensor) -> None:
    p.grad = None


def _learning(model: nn.Module) -> int:
    return _bytes([p for p in model.parameters() if p.requires_grad])


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(part.numel() * part.element_size() for part in map(local_part, tensors))
