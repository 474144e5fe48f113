"""Precision: in which type a model computes. Parameters, gradients, losses and optimizer state stay float32.

| name | forward | besides |
|---|---|---|
| ``fp32`` | float32, as torch is set up | |
| ``tf32`` | float32 whose matrix products and convolutions may round to TF32 on a GPU | torch's switches, set back afterwards |
| ``bf16`` | bfloat16 where torch's autocast finds it safe | |
| ``fp16`` | float16 likewise | the loss is scaled, lest small gradients vanish; a step whose gradients overflow is left out |
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import nn

from dist_ai.core.nested import map_tensors
from dist_ai.errors import ConfigError, did_you_mean

__all__ = ["PRECISIONS", "Precision", "PrecisionName", "precision_of"]

PrecisionName: TypeAlias = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = ("fp32", "tf32", "bf16", "fp16")

# What Lightning and torch call them; Accelerate's "no" too.
_ELSEWHERE: dict[object, str] = {
    **dict.fromkeys((32, "32", "32-true", "float32", torch.float32, "no"), "fp32"),
    **dict.fromkeys(("bf16-mixed", "bfloat16", torch.bfloat16), "bf16"),
    **dict.fromkeys((16, "16", "16-mixed", "float16", "half", torch.float16), "fp16"),
}


class Precision(Protocol):
    """How a model computes; the loop calls it around forward, backward and step."""

    name: str
    may_overflow: bool
    """Whether `unscale` may return False."""

    def active(self) -> contextlib.AbstractContextManager[None]:
        """Returns the context of a whole fit or validation."""
        ...

    def forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        """Returns what `module` makes of `inputs`; floating-point tensors in it are not narrower than float32."""
        ...

    def backward(self, loss: torch.Tensor) -> None:
        """Back-propagates `loss`."""
        ...

    def unscale(self, params: Iterable[torch.Tensor]) -> bool:
        """Gives the gradients their own size; False if one of them overflowed, which is so on all ranks alike."""
        ...

    def update(self) -> None:
        """Ends a step, whether it was left out or not."""
        ...

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint must hold, as plain data."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        ...


class _Full:
    """float32 throughout."""

    may_overflow = False

    def __init__(self, name: str) -> None:
        self.name = name

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        if self.name != "tf32":
            yield
            return
        cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
        switches: tuple[Any, ...] = (cuda.matmul, cudnn.conv)  # type: ignore[attr-defined]  # not in its stubs
        before = [switch.fp32_precision for switch in switches]
        for switch in switches:
            switch.fp32_precision = "tf32"
        try:
            yield
        finally:
            for switch, was in zip(switches, before, strict=True):
                switch.fp32_precision = was

    def forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        return module(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def unscale(self, params: Iterable[torch.Tensor]) -> bool:
        return True

    def update(self) -> None: ...

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None: ...


class _BFloat16:
    """The forward pass in bfloat16, which has float32's range: nothing need be scaled."""

    name = "bf16"
    may_overflow = False
    dtype = torch.bfloat16

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        yield

    def forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        return _forward(module, inputs, self.device, self.dtype)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def unscale(self, params: Iterable[torch.Tensor]) -> bool:
        return True

    def update(self) -> None: ...

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None: ...


class _Float16:
    """The forward pass in float16, with torch's dynamic loss scaling. Reads one flag from the device a step.

    A rank's loss is that of its share times the number of ranks, since their gradients are averaged. On their way back through
    float16 gradients have one process's size all the same: the number of ranks is taken out before, and put back in float32.
    """

    name = "fp16"
    may_overflow = True
    dtype = torch.float16

    def __init__(self, device: torch.device, world_size: int = 1) -> None:
        self.device = device
        self.world_size = world_size
        self.scaler = torch.amp.GradScaler(device.type)
        self._checked = False

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        yield

    def forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        return _forward(module, inputs, self.device, self.dtype)

    def backward(self, loss: torch.Tensor) -> None:
        self.scaler.scale(loss if self.world_size == 1 else loss / self.world_size).backward()

    def unscale(self, params: Iterable[torch.Tensor]) -> bool:
        flag = _Flag([p for p in params if p.grad is not None])
        grads = [p.grad for p in flag.param_groups[0]["params"] if p.grad is not None]
        if self.world_size > 1 and grads:
            torch._foreach_mul_(grads, self.world_size)
        self._checked = bool(flag.param_groups[0]["params"])
        if self._checked:  # the scaler refuses to look at no gradients
            self.scaler.unscale_(flag)  # type: ignore[arg-type]  # has what the scaler asks for
            self.scaler.step(flag)  # type: ignore[arg-type]  # has what the scaler asks for
        return flag.stepped or not self._checked

    def update(self) -> None:
        if self._checked:
            self.scaler.update()
            self._checked = False

    def state(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.scaler.load_state_dict(dict(state))


class _Flag:
    """Stands in for the optimizer before torch's scaler: it notes whether the scaler would step it."""

    def __init__(self, params: list[torch.Tensor]) -> None:
        self.param_groups = [{"params": params}]
        self.stepped = False

    def step(self) -> None:
        self.stepped = True


def precision_of(name: str, device: torch.device, world_size: int = 1) -> Precision:
    """Returns the precision of that name on a device, for training on so many ranks.

    Raises:
        ConfigError: there is none of that name, or the device cannot compute in it.

    >>> layer = nn.Linear(2, 2)
    >>> precision_of("bf16", torch.device("cpu")).forward(layer, (torch.ones(1, 2),)).dtype
    torch.float32
    """
    if name not in PRECISIONS:
        hint = f"; here it is {_ELSEWHERE[name]!r}" if name in _ELSEWHERE else did_you_mean(str(name), PRECISIONS)
        raise ConfigError(f"precision={name!r}{hint}; expected {', '.join(PRECISIONS)}")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f"precision='bf16': {torch.cuda.get_device_name(device)} has none; use 'fp16'")
    return _BFloat16(device) if name == "bf16" else _Float16(device, world_size) if name == "fp16" else _Full(name)


def _forward(module: nn.Module, inputs: tuple[Any, ...], device: torch.device, dtype: torch.dtype) -> Any:
    # The context ends with the forward pass, whatever happens in it; losses and metrics see float32.
    with torch.autocast(device.type, dtype=dtype):
        output = module(*inputs)
    return map_tensors(_widened, output)


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
