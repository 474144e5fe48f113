"""Tensor parallel: groups of ranks compute each layer together, on the same samples, each with its part of the weights.

Built on torch's `torch.distributed.tensor.parallel`; works on GPUs (NCCL) and on CPUs (gloo) alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from dist_ai.distributed.collectives import Collectives, across_groups
from dist_ai.distributed.mesh import TENSOR_AXIS, Mesh
from dist_ai.distributed.sharded import is_sharded, mesh_axes
from dist_ai.distributed.strategies.ddp import DDP, DDPStrategy
from dist_ai.distributed.strategies.fsdp import FSDP, FSDPStrategy
from dist_ai.distributed.strategies.same_model import divided_otherwise, require_dense, require_same_model, take_rank_0s
from dist_ai.distributed.strategies.single import Single
from dist_ai.distributed.strategies.strategy import Strategy
from dist_ai.distributed.strategies.tensor_plan import Plan, divide, plan_of
from dist_ai.errors import ConfigError

__all__ = ["TensorParallel", "TensorParallelStrategy"]


@dataclass(frozen=True)
class TensorParallel:
    """Tensor parallel: groups of `size` neighbouring ranks compute each layer together (Shoeybi et al., arXiv:1909.08053).

    The ranks of a group read the same samples. Batches are dealt out to the groups, which hold the model as
    `data_parallel` says. Costs two exchanges of activations a block in forward and two in backward, so a group should be
    within one machine.

    Args:
        plan: from names of modules to styles (see `STYLES`), or torch's own; ``*`` stands for one part of a name between dots. By
            default what the model states as ``tensor_parallel_plan``, or as `transformers` does.
        size: ranks in a group.
        data_parallel: how the groups hold the model between them: `DDP(...)`, each its own copy, or `FSDP(...)`, where each rank
            holds a part of its part.

    What lies between a ``"colwise"`` and a ``"rowwise"`` layer sees this rank's columns only, so attention must find the number
    of its heads from the width, and a `SeededDropout` there is a ``"sharded_dropout"``. In a world of one nothing is divided.

    Raises:
        ConfigError: options that do not go together.

    ```python
    plan = {"layers.*.mlp.0": "colwise", "layers.*.mlp.2": "rowwise"}
    learn = Learner(dls, model, strategy=TensorParallel(plan, size=2, data_parallel=FSDP()))
    ```
    """

    plan: Plan | None = None
    size: int = field(kw_only=True)
    data_parallel: DDP | FSDP = field(default_factory=DDP, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ConfigError(f"TensorParallel(size={self.size!r}): expected a number of ranks, 1 or more")
        of_groups = self.data_parallel
        if not isinstance(of_groups, DDP | FSDP):
            raise ConfigError(f"TensorParallel(data_parallel={of_groups!r}): expected DDP(...) or FSDP(...)")
        if isinstance(of_groups, DDP) and (of_groups.gradient_compression or of_groups.communication_hook):
            raise ConfigError(
                "TensorParallel(data_parallel=DDP(gradient_compression=..., communication_hook=...)): those act in torch's DDP, "
                "which takes no divided parameters; leave them out, or give data_parallel=FSDP(reduce_dtype='bf16')"
            )

    def num_groups(self, world_size: int) -> int:
        """Returns how many groups there are, in a world of that size.

        Raises:
            ConfigError: the groups do not divide it.

        >>> TensorParallel(size=2).num_groups(8)
        4
        """
        if world_size % self.size:
            more = -(-world_size // self.size) * self.size
            raise ConfigError(
                f"TensorParallel(size={self.size}) needs a multiple of {self.size} processes but WORLD_SIZE is {world_size}; set "
                f"size to a divisor of {world_size}, or start {more} processes"
            )
        return world_size // self.size


class TensorParallelStrategy:
    """torch's tensor parallelism by a plan, with data parallelism among the groups.

    Args:
        collectives: the ranks, more than one.
        config: the options.
        sync_bn: BatchNorm layers normalise over the global batch.
        why: why this strategy was chosen.

    Raises:
        ConfigError: the groups do not fit the world.
    """

    forward_is_collective = forward_waits = True

    def __init__(
        self, collectives: Collectives, config: TensorParallel, *, sync_bn: bool = True, why: str = ""
    ) -> None:
        self.collectives, self.config, self.why = collectives, config, why
        num_groups = config.num_groups(collectives.world.world_size)
        of_groups = config.data_parallel
        self.data_collectives, group = across_groups(collectives, config.size)
        mesh = of_groups.mesh if isinstance(of_groups, FSDP) else Mesh()
        full = mesh.build(collectives.world, tensor_parallel=config.size)
        self._tensor_mesh = full[TENSOR_AXIS]
        self._axes = {TENSOR_AXIS: config.size}  # along which the model is divided
        self._data: Strategy
        if num_groups == 1:
            self._data = Single(
                self.data_collectives, recompute=of_groups.blocks if of_groups.activation_checkpointing else None
            )
        elif isinstance(of_groups, FSDP):
            axes = tuple(axis for axis in full.mesh_dim_names or () if axis != TENSOR_AXIS)
            self._axes |= {axis: full[axis].size() for axis in axes}
            self._data = FSDPStrategy(
                self.data_collectives, of_groups, sync_bn=sync_bn, group=group, device_mesh=full[axes]
            )
        else:
            self._data = DDPStrategy(
                self.data_collectives, of_groups, sync_bn=sync_bn, group=group, after_backward=True
            )
        self._watches: list[_SameInGroup] = []

    def prepare(self, model: nn.Module, device: torch.device) -> None:
        """Divides the model in place; see `Strategy`.

        Raises:
            ConfigError: it cannot be divided by the plan, was divided for another strategy, or has an embedding with
                ``sparse=True`` to divide.
        """
        if axes := mesh_axes(model):
            if axes != self._axes:
                raise divided_otherwise("TensorParallel", axes)
            return
        styles = plan_of(model, self.config.plan, size=self.config.size)
        require_dense("TensorParallel", {name: model.get_submodule(name) for name in styles})
        require_same_model(self.collectives, model)
        take_rank_0s(self.collectives, model)
        divide(model, styles, self._tensor_mesh)
        self._data.prepare(model, device)

    def wrap(self, model: nn.Module, *, can_fail: bool = False) -> nn.Module:
        """Returns what the data parallelism among the groups does; see `Strategy`."""
        if can_fail:
            raise ConfigError(
                "AutoMicrobatch does not work with TensorParallel: the ranks of a group exchange within each layer, which one "
                "that ran out of memory cannot take up again; use GradientAccumulation or a smaller bs"
            )
        self._draw_alike()
        self._watches = [
            _SameInGroup(module, name, self._tensor_mesh.get_group())
            for name, module in model.named_modules()
            if getattr(module, "columns", ...) is None
        ]
        return self._data.wrap(model)

    def unwrap(self) -> None:
        """See `Strategy`."""
        for watch in self._watches:
            watch.end()
        self._watches = []
        self._data.unwrap()

    def begin_batch(self, *, num_local: int, exchange: bool = True) -> None:
        """See `Strategy`."""
        self._data.begin_batch(num_local=num_local, exchange=exchange)

    def begin_over(self) -> bool:
        """Is never called: `wrap` refuses models that can fail."""
        return False

    @torch.no_grad()
    def exchange_gradients(self, model: nn.Module) -> None:
        """Adds up what the ranks of a group have of the same gradient, and averages over the groups; see `Strategy`."""
        for p in model.parameters():
            grad: Any = p.grad
            # Such as that of a LayerNorm between sequences that were divided: each rank has the part of its tokens.
            if is_sharded(grad) and is_sharded(p) and grad.placements != p.placements:
                p.grad = grad.redistribute(placements=p.placements)
        self._data.exchange_gradients(model)

    def drop_gradients(self) -> None:
        """See `Strategy`."""
        self._data.drop_gradients()

    def check_gradients(self, model: nn.Module) -> None:
        """See `Strategy`."""
        self._data.check_gradients(model)

    def weight(self, *, num_local: int, num_global: int) -> float:
        """Returns the share's part of the batch, times the number of groups that the averaging divides by."""
        return self._data.weight(num_local=num_local, num_global=num_global)

    def begin_total(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begins to add up over the groups; see `Strategy`."""
        return self._data.begin_total(tensor)

    def sync_buffers(self, model: nn.Module) -> None:
        """Gives all groups the first one's buffers; see `Strategy`."""
        self._data.sync_buffers(model)

    def _draw_alike(self) -> None:
        """Gives the ranks of a group one state of torch's generator: what they hold alike they must also drop alike."""
        world, size = self.collectives.world, self.config.size
        generators: list[tuple[torch.Tensor, Callable[[torch.Tensor], None]]]
        generators = [(torch.get_rng_state(), torch.set_rng_state)]
        if world.device.type == "cuda":
            generators.append((torch.cuda.get_rng_state(world.device), torch.cuda.set_rng_state))
        for state, set_state in generators:
            rows = self.collectives.all_gather_rows(state[None], what="random state")
            set_state(rows[world.rank // size * size].clone())  # torch 2.14 crashes on a view


class _SameInGroup:
    """Looks once, in the first training batch, whether a layer that draws by feature sees the same on all ranks of a group.

    Where it does not, it sees a part of the features on each rank, and must be told which.

    Raises:
        ConfigError: in the forward pass: it does not.
    """

    def __init__(self, module: nn.Module, name: str, group: dist.ProcessGroup) -> None:
        self._name, self._group = name, group
        self._hook = module.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if not module.training:
            return
        self.end()
        total = inputs[0].detach().double().sum()
        extremes = torch.stack([total, -total])
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=self._group)
        largest, negated = extremes.tolist()
        if largest != -negated and largest == largest:
            raise ConfigError(
                f"TensorParallel: {self._name!r} sees another part of the features on each rank, so it would drop others than "
                f"one process does; add {self._name!r}: 'sharded_dropout' to the plan"
            )

    def end(self) -> None:
        """Stops looking."""
        self._hook.remove()
