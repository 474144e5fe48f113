"""Hidden layers one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from torch import nn

from dist_ai.errors import ConfigError, did_you_mean
from dist_ai.layers.dropout import SeededDropout

__all__ = ["hidden_layers", "require_sizes"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "selu": nn.SELU,
    "mish": nn.Mish,
}


def require_sizes(name: str, sizes: Sequence[int]) -> None:
    """Raises `ConfigError` for sizes of layers that are none.

    >>> require_sizes("layers", [50, 0])
    Traceback (most recent call last):
    dist_ai.errors.ConfigError: layers=[50, 0]: expected sizes, whole numbers of at least 1
    """
    if not isinstance(sizes, list | tuple) or any(not isinstance(size, Integral) or size < 1 for size in sizes):
        raise ConfigError(f"{name}={sizes!r}: expected sizes, whole numbers of at least 1")


def hidden_layers(
    n_in: int,
    layers: Sequence[int],
    *,
    ps: float | Sequence[float] = 0.0,
    use_bn: bool = True,
    act: str = "relu",
    lin_first: bool = True,
) -> list[nn.Module]:
    """Returns the modules of hidden layers, (batch, n_in) to (batch, last of `layers`).

    Args:
        n_in: inputs.
        layers: their sizes.
        ps: dropout after each: one share for all, or one each.
        use_bn: with BatchNorm.
        act: name of the activation: relu, gelu, silu, selu or mish.
        lin_first: a layer is linear, activation, BatchNorm, dropout; otherwise BatchNorm, dropout, linear, activation.

    Raises:
        ConfigError: a size that is none, `ps` of another length than `layers`, or an unknown activation.

    >>> hidden_layers(3, [5], use_bn=False)
    [Linear(in_features=3, out_features=5, bias=True), ReLU()]
    """
    require_sizes("layers", layers)
    shares = [ps] * len(layers) if isinstance(ps, int | float) else list(ps)
    if len(shares) != len(layers):
        raise ConfigError(
            f"ps={list(shares)} for layers={list(layers)}: expected one share, or one for each hidden layer"
        )
    if act not in _ACTIVATIONS:
        raise ConfigError(f"act={act!r}: expected {', '.join(_ACTIVATIONS)}{did_you_mean(act, _ACTIVATIONS)}")
    made: list[nn.Module] = []
    for before, after, share in zip([n_in, *layers], layers, shares, strict=False):
        # BatchNorm that follows subtracts the mean: a bias before it would change nothing.
        linear = [nn.Linear(before, after, bias=not (use_bn and lin_first)), _ACTIVATIONS[act]()]
        others: list[nn.Module] = [nn.BatchNorm1d(after if lin_first else before)] if use_bn else []
        others += [SeededDropout(share)] if share else []
        made += [*linear, *others] if lin_first else [*others, *linear]
    return made
