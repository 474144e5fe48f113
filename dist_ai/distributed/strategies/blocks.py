"""The blocks of a model: the parts that are sharded, or computed again in backward, as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

from torch import nn

from dist_ai.errors import ConfigError, did_you_mean

__all__ = ["Blocks", "find_blocks", "num_parameters", "recompute_in_backward"]

Blocks: TypeAlias = Literal["auto"] | Sequence[str | type[nn.Module]]

# Their forward reads the parameters of the modules inside without calling these.
_INDIVISIBLE = (nn.MultiheadAttention, nn.RNNBase)
_WITHOUT_FORWARD = (nn.ModuleList, nn.ModuleDict)


def find_blocks(model: nn.Module, blocks: Blocks = "auto", *, min_parameters: int = 1_000_000) -> list[nn.Module]:
    """Returns the blocks of `model`, outer before inner, in the model's order; the model itself is not among them.

    Args:
        model: a model.
        blocks: classes, their names, or names of modules in the model. ``"auto"`` finds them: from the top, the first
            modules of a class of which the model has several (a ResNet's residual blocks, a transformer's layers), and
            large layers beside them (an embedding, a head).
        min_parameters: for ``"auto"``, how many parameters a block has at least. What is smaller is left to the rest.

    Modules that share parameters with others outside of them are never blocks: shared ones must stay together.

    Raises:
        ConfigError: nothing in the model is of a class or a name in `blocks`.

    >>> find_blocks(nn.Sequential(nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 9)), min_parameters=50)
    [Linear(in_features=9, out_features=9, bias=True), Linear(in_features=9, out_features=9, bias=True)]
    """
    found = list(_automatic(model, min_parameters)) if blocks == "auto" else _named(model, blocks)
    shared = _shared_with_outside(model, found)
    return [block for block in found if id(block) not in shared]


def num_parameters(module: nn.Module) -> int:
    """Returns the number of parameters of `module`, shared ones counted once."""
    return sum(p.numel() for p in module.parameters())


def recompute_in_backward(model: nn.Module, blocks: Blocks = "auto") -> None:
    """Keeps of each block's forward only its input, and computes the rest again in backward (Chen et al., arXiv:1604.06174).

    Costs one more forward; saves the memory of all activations inside blocks but one's. A block that does so already
    is left alone. ``"auto"`` takes blocks of any size, but no single layers, which keep nothing but their input anyway.
    """
    # Hooks, and no wrapper around each block, which would change the parameters' names.
    from torch.distributed._composable import checkpoint

    for block in find_blocks(model, blocks, min_parameters=1):
        if checkpoint.state(block) is None and not (blocks == "auto" and _is_layer(block)):
            checkpoint(block)


def _automatic(model: nn.Module, min_parameters: int) -> Iterator[nn.Module]:
    large = [module for module in model.modules() if num_parameters(module) >= min_parameters]
    repeated = {kind for kind, count in Counter(type(module) for module in large).items() if count > 1}
    sizable = {id(module) for module in large}

    def is_block(parent: nn.Module, child: nn.Module) -> bool:
        if isinstance(child, nn.Sequential):  # a block where it stands in a row of its like, and is no stage of blocks
            inside = any(type(each) in repeated and not _is_layer(each) for each in child if id(each) in sizable)
            return isinstance(parent, (nn.Sequential, nn.ModuleList)) and type(child) in repeated and not inside
        return _is_layer(child) or (type(child) in repeated and not isinstance(child, _WITHOUT_FORWARD))

    def visit(parent: nn.Module) -> Iterator[nn.Module]:
        for child in parent.children():
            if id(child) not in sizable:
                continue
            if is_block(parent, child):
                yield child
            elif any(id(each) in sizable for each in child.children()):
                yield from visit(child)
            elif not isinstance(child, _WITHOUT_FORWARD):
                yield child

    return visit(model)


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, _INDIVISIBLE) or not any(True for _ in module.children())


def _named(model: nn.Module, blocks: Sequence[str | type[nn.Module]]) -> list[nn.Module]:
    modules = {name: module for name, module in model.named_modules() if name}
    kinds = {kind.__name__ for module in modules.values() for kind in type(module).__mro__}
    for wanted in blocks:
        if isinstance(wanted, str):
            known, label = wanted in modules or wanted in kinds, repr(wanted)
        else:
            known, label = any(isinstance(module, wanted) for module in modules.values()), wanted.__name__
        if not known:
            names = sorted({type(module).__name__ for module in modules.values()} | set(modules))
            raise ConfigError(
                f"blocks: {label} is neither a class nor the name of a module in this {type(model).__name__}"
                f"{did_you_mean(label.strip(chr(39)), names)}; give classes, their names, or names of modules"
            )

    def is_block(name: str, module: nn.Module) -> bool:
        return any(
            wanted == name or wanted in {kind.__name__ for kind in type(module).__mro__}
            if isinstance(wanted, str)
            else isinstance(module, wanted)
            for wanted in blocks
        )

    return [module for name, module in modules.items() if is_block(name, module)]


def _shared_with_outside(model: nn.Module, blocks: Sequence[nn.Module]) -> set[int]:
    """Returns the ids of the blocks with a parameter that another module, outside the block, holds too."""
    holders: dict[int, set[int]] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            holders.setdefault(id(p), set()).add(id(module))
    shared = set()
    for block in blocks:
        inside = {id(module) for module in block.modules()}
        if any(holders[id(p)] - inside for p in block.parameters()):
            shared.add(id(block))
    return shared
