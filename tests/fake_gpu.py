"""A GPU that is none: tensors that say they lie on `cuda:0`, on any machine, and a note of each time the host would wait for it.

torch's `FakeTensorMode` gives tensors a shape, a dtype and a device, and no numbers. What mixes devices is an error as on a GPU.
`FakeGPU` goes on where a number is asked for, which is where the host would wait, and takes down where that was:

```python
with FakeGPU() as gpu:
    if torch.ones(4, device="cuda").sum() > 1: ...
assert gpu.waits == ["elsewhere: reads a number"]
```

It knows nothing of kernels, memory, several GPUs, nor what streams wait for, and its backward only gives each parameter a
gradient. `tests/learner/test_on_gpu.py` is for a real one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

import dist_ai
from dist_ai.core.nested import map_tensors, tensors_in

__all__ = ["FakeGPU", "with_numbers"]

aten: Any = torch.ops.aten
_HOUSE = f"{Path(dist_ai.__file__).parent}/"


class FakeGPU(TorchDispatchMode):
    """Notes what would make the host wait for the device, and what is copied to it.

    Attributes:
        waits: each wait, as "file:function: what", the innermost place in dist_ai that it comes from.
        copies: likewise each copy to the device that nobody waits for.

    Raises:
        RuntimeError: devices are mixed, or a shape depends on numbers that are on the device, for which one waits too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.copies: list[str] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> FakeGPU:
        self._stack.enter_context(_as_if_there_were_one())
        self._stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))  # such as data sets made before
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _WITHOUT_FAKE:
            devices = {str(each.device) for each in tree_leaves(args) if isinstance(each, torch.Tensor)}
            assert len(devices) < 2, f"{func} of tensors on {devices}"
            return _WITHOUT_FAKE[func](*args)
        if func is aten._local_scalar_dense.default:
            return self._number(args[0])
        if func is aten._to_copy.default:
            self._copy(args[0].device, kwargs.get("device") or args[0].device, kwargs.get("non_blocking", False))
        elif func is aten.copy_.default:
            self._copy(args[1].device, args[0].device, args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        elif func in _INDEXING:
            for index in args[1]:
                if index is not None:  # torch brings it to the device of what it is an index of
                    self._copy(index.device, args[0].device, False)
        return func(*args, **kwargs)

    def _number(self, tensor: torch.Tensor) -> Any:
        """Returns a number that a tensor may have; its own, if it is known on the host."""
        if (known := getattr(tensor, "constant", tensor)) is not None:
            with _disable_current_modes():
                return known.item()
        if tensor.device.type == "cuda":
            self.waits.append(_where("reads a number"))
        return True if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else 1

    def _copy(self, source: torch.device, target: torch.device, non_blocking: bool) -> None:
        if (source.type, target.type) == ("cuda", "cpu"):
            # torch does not wait when it is told not to, and then there is not yet what one reads.
            self.waits.append(_where("copies to the host" + " and reads too early" * non_blocking))
        elif (source.type, target.type) == ("cpu", "cuda"):
            note = self.copies if non_blocking else self.waits
            note.append(_where("copies to the device"))


_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
# What torch has no fake of: it would ask a real GPU.
_WITHOUT_FAKE: dict[Any, Callable[..., Any]] = {
    aten._fused_sgd_.default: lambda *_: None,
    aten._thnn_fused_gru_cell.default: lambda gates, _, hidden, *__: (
        torch.empty_like(hidden),
        hidden.new_empty(len(hidden), 5 * hidden.shape[1]),
    ),
}


def _where(what: str) -> str:
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_HOUSE):
            return f"{frame.f_code.co_filename[len(_HOUSE) :]}:{frame.f_code.co_qualname}: {what}"
        frame = frame.f_back
    return f"elsewhere: {what}"


@contextlib.contextmanager
def _as_if_there_were_one() -> Iterator[None]:
    """Has those who ask torch about GPUs hear of one, and replaces what fake tensors or their gradients do not go through."""
    numpy, stream = torch.Tensor.numpy, SimpleNamespace(wait_stream=lambda _: None)

    def as_array(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(tensor, FakeTensor):
            return np.ones(tensor.shape, str(tensor.dtype).removeprefix("torch."))
        return numpy(tensor, *args, **kwargs)

    with (
        patch.object(nn.Module, "_apply", _moved),
        patch.object(torch.Tensor, "as_subclass", _of_type),
        patch.object(torch.Tensor, "backward", _with_gradients),
        patch.object(torch.Tensor, "numpy", as_array),
        patch.object(torch.Tensor, "record_stream", lambda *_: None),
        patch.object(torch.cuda, "Stream", lambda _: stream),
        patch.object(torch.cuda, "current_stream", lambda _: stream),
        patch.object(torch.cuda, "stream", lambda _: contextlib.nullcontext()),
        patch.object(torch.cuda, "is_bf16_supported", lambda **_: True),
        patch.object(torch.cuda, "get_device_name", lambda _: "NVIDIA H100"),
        patch.object(torch.cuda, "max_memory_allocated", lambda _: 2**20),
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        torch.backends.cudnn.flags(enabled=False),  # an LSTM asks the driver for it
    ):
        yield


def _moved(self: nn.Module, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
    """Applies a function to a module's tensors; torch's own swaps the contents of fake ones, which it then refuses."""
    for module in self.children() if recurse else ():
        _moved(module, function)
    with torch.no_grad():
        for name, given in self._parameters.items():
            if given is not None and (new := function(given)) is not given:
                self._parameters[name] = nn.Parameter(new, given.requires_grad)
        for name, buffer in self._buffers.items():
            self._buffers[name] = None if buffer is None else function(buffer)
    return self


def _of_type(self: torch.Tensor, cls: type[torch.Tensor]) -> torch.Tensor:
    """Returns a tensor as one of a type; torch's own cannot, of a fake one."""
    with torch._C.DisableTorchFunctionSubclass():
        typed = aten.alias.default(self)
    if not isinstance(typed, FakeTensor):
        return _as_subclass(self, cls)
    if cls is not torch.Tensor:
        _devices[typed] = typed.__dict__.pop("_fake_device")
        typed.__class__ = _fake_type(cls)
    return typed


_as_subclass = torch.Tensor.as_subclass


def with_numbers(load: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `load` as it is on the host, where transforms look at numbers; what it returns has none, for the device."""

    def loaded(*args: Any) -> Any:
        with _disable_current_modes():
            real = load(*args)
            plain = map_tensors(lambda tensor: _as_subclass(tensor, torch.Tensor), real)
        fakes = iter([aten.alias.default(tensor) for tensor in tensors_in(plain)])
        return map_tensors(lambda tensor: _like(tensor, next(fakes)), real)

    return loaded


def _like(tensor: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    typed = _of_type(fake, type(tensor))
    typed.__dict__.update(tensor.__dict__)
    return typed


@cache
def _fake_type(cls: type[torch.Tensor]) -> type[torch.Tensor]:
    # Not an attribute of the tensor as elsewhere: what gives its type to another hands its attributes on.
    return type(cls.__name__, (cls, FakeTensor), {"_fake_device": property(lambda tensor: _devices[tensor])})


_devices: Any = WeakTensorKeyDictionary()


def _with_gradients(self: torch.Tensor, *args: Any, **kwargs: Any) -> None:
    """Gives all parameters that a tensor was made of a gradient; torch's engine would ask a driver for its streams."""
    waiting: list[Any] = [self.grad_fn]
    seen: set[Any] = {None}
    while waiting:
        if (node := waiting.pop()) in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad + 0
        waiting += [each for each, _ in node.next_functions]
