"""Dropout whose masks do not depend on how a batch is dealt out to ranks.

Layers of your own that draw do the same if they derive from `Seeded`: a Learner tells them the key of each sample and that of the
batch, and `kept_of` makes a mask of either.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.randomness import mix64_tensor, name_key, signed
from dist_ai.errors import ConfigError, DataError

__all__ = ["Seeded", "SeededDropout", "kept_of", "seed_dropout", "seeded_layers"]


class Seeded(nn.Module):
    """A layer whose draws are decided by the keys that a Learner tells it before each training batch.

    Attributes:
        name: which layer this is; a Learner sets it to the layer's name in the model.
        sample_keys: one for each sample of this rank's share, int64; None outside a Learner's training.
        batch_key: of the global batch, the same on every rank, int64 scalar: for what is drawn once for all samples.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name
        # Tensors and not attributes of numbers: a compiled model reads them anew at each call.
        self.sample_keys: torch.Tensor | None = None
        self.batch_key: torch.Tensor | None = None

    @property
    def name(self) -> str:
        """Which layer this is."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = name
        self._key = signed(name_key(name))  # here, because a compiled `forward` cannot hash a string

    def own(self, keys: torch.Tensor) -> torch.Tensor:
        """Returns these keys as this layer draws with them, different from every other layer's."""
        return mix64_tensor(keys ^ self._key)


def kept_of(keys: torch.Tensor, what: torch.Tensor, p: float) -> torch.Tensor:
    """Returns which of `what` each key keeps: bool, true with probability 1 - p, in the shape that both broadcast to.

    Args:
        keys: int64, such as those of the samples, of a layer.
        what: int64 numbers of what is kept or dropped: a place, a token.
        p: share that is dropped.

    >>> kept_of(torch.tensor([[1], [2]]), torch.arange(1000), 0.2).float().mean(1).round(decimals=1)
    tensor([0.8000, 0.8000])
    """
    bits = mix64_tensor(keys ^ mix64_tensor(what + 1))
    return (bits >> 1 & 0x3FFF_FFFF) >= int(p * 2**30)


class SeededDropout(Seeded):
    """Dropout whose mask for a sample depends on (seed, epoch, sample, layer) only.

    So one process and many drop the same activations, and a resumed run drops what the undisturbed one did. Used
    outside a Learner, which tells it the samples of each batch, it is ordinary dropout.

    Args:
        p: share of the activations that are dropped; the others are scaled by 1/(1-p).
        name: which layer this is; a Learner sets it to the layer's name in the model.
        whole_samples: drop all of a sample's activations or none: stochastic depth (Huang et al., arXiv:1603.09382), for
            the branch of a residual block.

    Attributes:
        columns: (which, of how many) equal parts of the last dimension the input is, where ranks compute a layer together;
            None for all of it.

    Input: (batch, ...) of the batch's samples, any float dtype. Costs two integer hashes per activation: as long as a
    few element-wise operations.

    Raises:
        ConfigError: `p` is not a share below 1.
        DataError: in a fit, the input's first dimension is not the batch.
    """

    def __init__(self, p: float = 0.5, name: str = "", *, whole_samples: bool = False) -> None:
        super().__init__(name)
        if not 0 <= p < 1:
            raise ConfigError(f"SeededDropout(p={p}): expected the share that is dropped, at least 0 and less than 1")
        self.p = p
        self.whole_samples = whole_samples
        self.columns: tuple[int, int] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `x` with some activations dropped in training, `x` otherwise."""
        if not self.training or self.p == 0:
            return x
        if self.sample_keys is None:
            return (
                x * F.dropout(x.new_ones(len(x), *[1] * (x.dim() - 1)), self.p)
                if self.whole_samples
                else F.dropout(x, self.p)
            )
        if len(self.sample_keys) != len(x):
            raise DataError(
                f"SeededDropout {self.name!r} got {len(x)} rows for {len(self.sample_keys)} samples: its input's first "
                "dimension must be the batch; use nn.Dropout where it is not"
            )
        keys = self.own(self.sample_keys).view(-1, *[1] * (x.dim() - 1))
        shape = (1,) * (x.dim() - 1) if self.whole_samples else x.shape[1:]
        if self.columns is None or self.whole_samples:
            features = torch.arange(math.prod(shape), device=x.device).view(shape)
        else:
            part, parts = self.columns
            features = torch.arange(math.prod(shape) * parts, device=x.device).view(*shape[:-1], parts, shape[-1])
            features = features[..., part, :]
        return x * kept_of(keys, features, self.p) / (1 - self.p)

    def extra_repr(self) -> str:
        """Returns the share that is dropped."""
        return f"p={self.p}" + ", whole_samples=True" * self.whole_samples


def seeded_layers(model: nn.Module) -> list[Seeded]:
    """Returns the seeded layers of `model`, each told its name there."""
    layers = []
    for name, module in model.named_modules():
        if isinstance(module, Seeded):
            module.name = name
            layers.append(module)
    return layers


def seed_dropout(layers: list[Seeded], keys: torch.Tensor | None, batch_key: torch.Tensor | None = None) -> None:
    """Tells the layers the keys of the samples of the coming batch (int64, one each) and its own; None makes them ordinary."""
    for layer in layers:
        layer.sample_keys, layer.batch_key = keys, batch_key
