"""What a model is: its layers, shapes, parameters and costs, measured on one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dist_ai.core.nested import tensors_in
from dist_ai.core.types import plain
from dist_ai.distributed.strategies import Precision
from dist_ai.learner.fits import Fits
from dist_ai.learner.parts import LearnerParts

__all__ = ["LayerSummary", "ModelSummary", "summarize", "summary_of"]


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a model.

    Attributes:
        name: where it is in the model.
        kind: its class.
        shape: of what it returned for the batch; () if that is no tensor, or if it was not called.
        num_params: its own parameters.
        learns: whether they learn: ``"yes"``, ``"no"`` or ``"some"``; "" if it has none.
        flops: floating-point operations of a forward pass for the batch, of matrix products and convolutions.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    num_params: int
    learns: str
    flops: int


@dataclass(frozen=True)
class ModelSummary:
    """A model's layers and what it costs; printed, it is a table.

    Attributes:
        layers: in the order of their first call.
        batch_size: samples of the batch that it was measured on: this rank's share.
        num_params, num_trainable: parameters, and those that learn.
        flops: of a forward pass for one sample; a training step takes about three times that.
        param_bytes: of the parameters and buffers.
        gradient_bytes: of the gradients in training.
        state_bytes: of the optimizer's state so far.
        activation_bytes: of what the layers return for the batch: about what training keeps for the backward pass.
        notes: what the model is trained with.
    """

    layers: list[LayerSummary]
    batch_size: int
    num_params: int
    num_trainable: int
    flops: int
    param_bytes: int
    gradient_bytes: int
    state_bytes: int
    activation_bytes: int
    notes: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        head = ("layer", "kind", "output", "parameters", "learns", "MFLOPs")
        rows = [
            (
                layer.name,
                layer.kind,
                " x ".join(map(str, layer.shape)),
                f"{layer.num_params:,}" if layer.num_params else "",
                layer.learns,
                f"{layer.flops / 1e6:,.2f}" if layer.flops else "",
            )
            for layer in self.layers
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = [_line(row, widths) for row in [head, *rows]]
        lines.insert(1, "-" * len(max(lines, key=len)))
        megabytes = {
            "parameters": self.param_bytes,
            "gradients": self.gradient_bytes,
            "optimizer state": self.state_bytes,
            f"activations of {self.batch_size}": self.activation_bytes,
        }
        frozen = self.num_params - self.num_trainable
        lines += [
            "",
            f"parameters  {self.num_params:,}, of which {self.num_trainable:,} learn and {frozen:,} are frozen",
            f"FLOPs       {self.flops / 1e6:,.2f} million a sample, forward",
            "memory      " + ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in megabytes.items()),
            *(f"{name:<10}  {value}" for name, value in self.notes.items()),
        ]
        return "\n".join(lines)

    __repr__ = __str__  # in a notebook it is the last line of a cell


def summarize(
    model: nn.Module,
    inputs: tuple[Any, ...],
    precision: Precision,
    *,
    state_bytes: int = 0,
    notes: dict[str, str] | None = None,
) -> ModelSummary:
    """Returns the summary of a model that is run on a batch of inputs, without training it."""
    parts = {name: module for name, module in model.named_modules() if _stands_alone(module)}
    shapes, activation_bytes, counter = _seen_in_forward(parts, lambda: precision.forward(model, inputs))
    flops = counter.get_flop_counts()
    root = type(model).__name__
    order = [*shapes, *(name for name in parts if name not in shapes)]
    layers = [
        LayerSummary(
            name=name or root,
            kind=type(parts[name]).__name__,
            shape=shapes.get(name, ()),
            num_params=sum(p.numel() for p in parts[name].parameters(recurse=False)),
            learns=_learns(parts[name]),
            flops=sum(flops.get(f"{root}.{name}" if name else root, {}).values()),
        )
        for name in order
    ]
    params, buffers = list(model.parameters()), list(model.buffers())
    trainable = [p for p in params if p.requires_grad]
    found = tensors_in(inputs)
    batch_size = len(found[0]) if found and found[0].dim() else 1
    return ModelSummary(
        layers=layers,
        batch_size=batch_size,
        num_params=sum(p.numel() for p in params),
        num_trainable=sum(p.numel() for p in trainable),
        flops=counter.get_total_flops() // batch_size,
        param_bytes=_bytes([*params, *buffers]),
        gradient_bytes=_bytes(trainable),
        state_bytes=state_bytes,
        activation_bytes=activation_bytes,
        notes=notes or {},
    )


def summary_of(learn: LearnerParts, fits: Fits) -> ModelSummary:
    """Returns the summary of a Learner's model and of what trains it; see `Learner.summary`."""
    opt = learn.own_optimizer.now
    notes = {
        "loss": getattr(learn.loss_func, "__name__", type(learn.loss_func).__name__),
        "optimizer": opt.kind if opt is not None else "none yet",
        "precision": learn.precision.name,
        "callbacks": ", ".join(type(each).__name__ for each in learn.callbacks),
    }
    state_bytes = _bytes(list(opt.state()[0].values()) if opt is not None else [])
    inputs = plain(learn.dls.one_batch()[: learn.dls.n_inp])
    with fits.set_aside():
        modes = [(module, module.training) for module in learn.model.modules()]
        learn.model.eval()
        try:
            return summarize(learn.model, inputs, learn.precision, state_bytes=state_bytes, notes=notes)
        finally:
            for module, training in modes:
                module.training = training


def _seen_in_forward(
    parts: dict[str, nn.Module], forward: Callable[[], Any]
) -> tuple[dict[str, tuple[int, ...]], int, FlopCounterMode]:
    """Returns what a forward pass shows: output shapes of parts by name, the bytes of all their outputs, and the FLOPs."""
    shapes: dict[str, tuple[int, ...]] = {}
    sizes: list[int] = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tensors = tensors_in(output)
            sizes.append(_bytes(tensors))
            shapes.setdefault(name, tuple(tensors[0].shape) if len(tensors) == 1 else ())

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in parts.items()]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            forward()
    finally:
        for each in hooks:
            each.remove()
    return shapes, sum(sizes), counter


def _stands_alone(module: nn.Module) -> bool:
    """Returns whether a module is a row of its own: it has no parts, or parameters beside them."""
    return not any(True for _ in module.children()) or any(True for _ in module.parameters(recurse=False))


def _learns(module: nn.Module) -> str:
    learning = {p.requires_grad for p in module.parameters(recurse=False)}
    return "some" if len(learning) == 2 else "".join("yes" if each else "no" for each in learning)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    # Words to the left, numbers to the right.
    aligned = (f"{c:<{w}}" if i < 3 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
    return "  ".join(aligned).rstrip()


def _bytes(tensors: list[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
