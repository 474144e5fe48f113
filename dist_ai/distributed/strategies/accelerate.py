"""The one file that knows Accelerate: it prepares a model for data-parallel training.

Accelerate's optimizer and loader wrappers cost 25 to 70 % of a small step and are not used; preparing a model costs
nothing per step. It decides from the environment whether it is distributed, silently, and on CPU ranks only with
``cpu=True``; so it is told of our world there, as torchrun would, and what it found is checked. A rank's device is told too:
Accelerate takes the GPU of the rank's number, and a task of srun may see its own alone, as the first.
"""

from __future__ import annotations

import contextlib
import warnings

import torch.distributed as dist
from torch import nn

from dist_ai.distributed.environment import World, told_to_libraries
from dist_ai.errors import WorldError

__all__ = ["prepare_data_parallel"]


def prepare_data_parallel(
    model: nn.Module,
    world: World,
    *,
    find_unused_parameters: bool = False,
    static_graph: bool = False,
    gradient_as_bucket_view: bool = True,
    bucket_cap_mb: int = 25,
) -> nn.Module:
    """Returns `model`, which is on its device, in a `DistributedDataParallel` over all ranks.

    The options are those of torch's `DistributedDataParallel`.

    Raises:
        WorldError: Accelerate sees other processes than we do.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    options = DistributedDataParallelKwargs(
        broadcast_buffers=False,  # a broadcast per forward; `sync_buffers` does it once, where buffers are used
        gradient_as_bucket_view=gradient_as_bucket_view,
        find_unused_parameters=find_unused_parameters,
        static_graph=static_graph,
        bucket_cap_mb=bucket_cap_mb,
    )
    device = {"ACCELERATE_TORCH_DEVICE": str(world.device), "ACCELERATE_BYPASS_DEVICE_MAP": "true"}
    # Where the ranks have not met, Accelerate would try to meet them by itself.
    told = told_to_libraries(world, **device) if dist.is_initialized() else contextlib.nullcontext()
    with told, warnings.catch_warnings():
        # torch 2.14 renames broadcast_buffers, which Accelerate (1.15) still passes on; goes when Accelerate follows.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        accelerator = Accelerator(cpu=world.device.type == "cpu", mixed_precision="no", kwargs_handlers=[options])
        prepared = accelerator.prepare_model(model, device_placement=False)
    if (accelerator.process_index, accelerator.num_processes) != (world.rank, world.world_size):
        raise WorldError(
            f"Accelerate sees rank {accelerator.process_index} of {accelerator.num_processes}, and this is {world}; "
            "start the processes with `dist-ai launch`, torchrun or Ray Train, which set RANK and WORLD_SIZE"
        )
    return prepared
