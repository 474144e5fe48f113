"""Looks inside a model while it runs: what its layers return, or the gradients that flow back through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from dist_ai.core.nested import map_tensors

__all__ = ["Hook", "Hooks", "hook_outputs", "output_sizes"]

Seen = Callable[[nn.Module, Any, Any], Any]


class Hook:
    """Calls a function each time a module has run, and keeps what it returned last.

    Args:
        module: the module.
        function: of (module, inputs, output); with `backward`, of (module, (), gradients of the outputs).
        backward: whether it looks at the backward pass.
        detach: whether it gets tensors without their graph.

    Attributes:
        stored: what `function` returned last; None before the first time.

    Use it as a context, or `remove` it.

    >>> with Hook(layer := nn.Linear(3, 2), lambda module, inputs, output: output.shape) as hook:
    ...     _ = layer(torch.ones(5, 3))
    >>> hook.stored
    torch.Size([5, 2])
    """

    def __init__(self, module: nn.Module, function: Seen, *, backward: bool = False, detach: bool = True) -> None:
        self.stored: Any = None
        self._function, self._detach = function, detach
        if backward:  # before the module's own backward: what comes after it warns where the inputs have no gradient
            self._handle = module.register_full_backward_pre_hook(lambda module, grads: self._look(module, (), grads))
        else:
            self._handle = module.register_forward_hook(self._look)

    def _look(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._detach:
            inputs, output = map_tensors(torch.Tensor.detach, (inputs, output))
        self.stored = self._function(module, inputs, output)

    def remove(self) -> None:
        """Stops looking."""
        self._handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()


class Hooks:
    """A `Hook` on each of several modules; see there for the arguments.

    Attributes:
        stored: what each has kept.
    """

    def __init__(
        self, modules: Iterable[nn.Module], function: Seen, *, backward: bool = False, detach: bool = True
    ) -> None:
        self._hooks = [Hook(module, function, backward=backward, detach=detach) for module in modules]

    @property
    def stored(self) -> list[Any]:
        """What each hook has kept."""
        return [hook.stored for hook in self._hooks]

    def remove(self) -> None:
        """Stops looking."""
        for hook in self._hooks:
            hook.remove()

    def __getitem__(self, number: int) -> Hook:
        return self._hooks[number]

    def __iter__(self) -> Iterator[Hook]:
        return iter(self._hooks)

    def __len__(self) -> int:
        return len(self._hooks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()


def hook_outputs(modules: Iterable[nn.Module], *, grad: bool = False, cpu: bool = False, detach: bool = True) -> Hooks:
    """Returns hooks that keep what each module returned last; fastai's `hook_outputs`.

    Args:
        modules: the modules, such as ``model`` itself, if it is a `Sequential`.
        grad: keep the gradients of the outputs instead, from the backward pass.
        cpu: keep them on the CPU; waits for the device.
        detach: keep them without their graph.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> with hook_outputs(model) as hooks:
    ...     _ = model(torch.ones(1, 4))
    >>> [tuple(output.shape) for output in hooks.stored]
    [(1, 3), (1, 3), (1, 2)]
    """

    def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
        kept = output[0] if grad and isinstance(output, tuple) and len(output) == 1 else output
        return map_tensors(torch.Tensor.cpu, kept) if cpu else kept

    return Hooks(modules, keep, backward=grad, detach=detach)


@torch.no_grad()
def output_sizes(model: nn.Module, *inputs: Any) -> dict[str, torch.Size]:
    """Returns the shape of what each child of `model` returns for `inputs`, by its name; fastai's `model_sizes`.

    The model is run once, in evaluation mode, and is left as it was. Children that return no tensor are left out.

    >>> output_sizes(nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)), torch.ones(1, 3, 8, 8))
    {'0': torch.Size([1, 8, 6, 6]), '1': torch.Size([1, 8, 3, 3])}
    """
    children = dict(model.named_children())
    modes = [(module, module.training) for module in model.modules()]
    try:
        with hook_outputs(children.values()) as hooks:
            model.eval()(*inputs)
    finally:
        for module, training in modes:
            module.training = training
    outputs = zip(children, hooks.stored, strict=True)
    return {name: output.shape for name, output in outputs if isinstance(output, torch.Tensor)}
