"""Hidden layers one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from torch import nn

from dist_ai.errors import ConfigError, did_you_mean
from dist_ai.layers.dropout import SeededDropout

__all__ = ["hidden_layers", "linear_layer", "require_sizes"]

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


def linear_layer(
    n_in: int, n_out: int, *, p: float = 0.0, use_bn: bool = True, act: str | None = None, lin_first: bool = True
) -> list[nn.Module]:
    """Returns the modules of a linear layer and what goes with it, (batch, n_in) to (batch, n_out).

    Args:
        n_in, n_out: inputs and outputs.
        p: share that dropout leaves out.
        use_bn: with BatchNorm; then the linear map has no bias, as fastai's, for BatchNorm has one.
        act: name of the activation: relu, gelu, silu, selu or mish; None for none.
        lin_first: linear, activation, BatchNorm, dropout; otherwise BatchNorm, dropout, linear, activation.

    Raises:
        ConfigError: an unknown activation.

    >>> linear_layer(3, 5, act="relu", use_bn=False)
    [Linear(in_features=3, out_features=5, bias=True), ReLU()]
    """
    if act is not None and act not in _ACTIVATIONS:
        raise ConfigError(f"act={act!r}: expected {', '.join(_ACTIVATIONS)}{did_you_mean(str(act), _ACTIVATIONS)}")
    linear = [nn.Linear(n_in, n_out, bias=not use_bn), *([_ACTIVATIONS[act]()] if act is not None else [])]
    others: list[nn.Module] = [nn.BatchNorm1d(n_out if lin_first else n_in)] if use_bn else []
    others += [SeededDropout(p)] if p else []
    return [*linear, *others] if lin_first else [*others, *linear]


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
        use_bn, act, lin_first: of each; see `linear_layer`.

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
    made: list[nn.Module] = []
    for before, after, share in zip([n_in, *layers], layers, shares, strict=False):
        made += linear_layer(before, after, p=share, use_bn=use_bn, act=act, lin_first=lin_first)
    return made
