"""MiniRocket: features of 84 fixed convolutions at many dilations, on which a linear layer is enough."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.randomness import Draw
from dist_ai.errors import ConfigError, DataError
from dist_ai.timeseries.models.model import architectures, require_counts

__all__ = ["MiniRocket"]

_WIDTH = 9
_MOST_DILATIONS = 32


@architectures.register("MiniRocket")
class MiniRocket(nn.Module):
    """MiniRocket (Dempster, Schmidt and Webb, https://arxiv.org/abs/2012.08791), and a normalisation for the layer that follows.

    Args:
        channels, length: of the series; shorter ones, padded, will do.
        num_features: about how many; rounded down to a multiple of 84.
        seed: of the draws that are left: which channels a kernel sees, and which series its biases are from.

    The 84 kernels have nine weights, three of them 2 and six -1. A feature is the share of the steps at which a kernel's
    convolution, of one dilation, is above a bias; biases are quantiles of what training series give, learned by `fit` and kept
    as buffers. The features are not trained; a linear layer on them is, with weight decay where the paper solves a ridge
    regression.

    Raises:
        ConfigError: series of less than nine steps, or too few features.
    """

    kernels: torch.Tensor
    sees: torch.Tensor
    biases: torch.Tensor
    fitted: torch.Tensor

    def __init__(self, channels: int, length: int, num_features: int = 9996, seed: int = 0) -> None:
        super().__init__()
        require_counts(num_features=num_features)
        if length < _WIDTH or num_features < 84:
            raise ConfigError(
                f"MiniRocket of series of {length} steps with {num_features} features; expected at least {_WIDTH} steps and "
                "84 features"
            )
        self.seed = seed
        self.dilations, self.counts = _dilations(length, num_features // 84)
        self.num_features = 84 * sum(self.counts)
        kernels = torch.full((84, _WIDTH), -1.0)
        for row, places in zip(kernels, itertools.combinations(range(_WIDTH), 3), strict=True):
            row[list(places)] = 2.0
        self.register_buffer("kernels", kernels, persistent=False)
        self.register_buffer("sees", _channels_seen(channels, len(self.dilations), seed))
        self.register_buffer("biases", torch.zeros(self.num_features))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self._was_fitted = False
        self.norm = nn.BatchNorm1d(self.num_features)

    @torch.no_grad()
    def fit(self, series: torch.Tensor) -> None:
        """Learns the biases from training series (n, channels, length); padding (NaN) is left out.

        The same series give the same biases.
        """
        mask = ~series.isnan().any(1, keepdim=True)
        series = torch.where(mask, series, 0).to(self.biases.dtype)
        shares = np.arange(1, self.num_features // 84 + 1) * ((math.sqrt(5) + 1) / 2) % 1
        begin, found = 0, []
        for number, count in enumerate(self.counts):
            draw = Draw(seed=self.seed, epoch=0, samples=number)
            chosen = torch.as_tensor(draw.integers(0, len(series), size=(84,)))
            responses = self._convolved(series[chosen], number)[torch.arange(84), torch.arange(84)]
            within = self._counts_steps(mask[chosen], number)[torch.arange(84), torch.arange(84)]
            quantiles = torch.as_tensor(shares[begin : begin + count], dtype=series.dtype, device=series.device)
            found += [torch.quantile(row[where], quantiles) for row, where in zip(responses, within, strict=True)]
            begin += count
        self.biases.copy_(torch.cat(found))
        self.fitted.fill_(True)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Returns (batch, features)."""
        return self.norm(self.features(x, mask))

    @torch.no_grad()
    def features(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the features as they are, each a share of 0 to 1: (batch, features).

        Raises:
            DataError: the biases are not learned yet.
        """
        if not torch.compiler.is_compiling() and not self._is_fitted():
            raise DataError("MiniRocket has no biases yet; call fit with training series, as ts_learner does")
        there = mask if mask is not None else torch.ones_like(x[:, :1], dtype=torch.bool)
        begin, found = 0, []
        for number, count in enumerate(self.counts):
            biases = self.biases[84 * begin : 84 * (begin + count)].view(84, count)
            responses = self._convolved(x, number)
            within = self._counts_steps(there, number)
            steps = within.sum(-1).clamp(min=1)
            shares = [((responses > bias[:, None]) & within).sum(-1) / steps for bias in biases.T]
            found.append(torch.stack(shares, -1).flatten(1))
            begin += count
        return torch.cat(found, 1).to(x.dtype)

    def _is_fitted(self) -> bool:
        # To read a flag is to wait for the device, so it is read until it is set, and then no more.
        self._was_fitted = self._was_fitted or bool(self.fitted)
        return self._was_fitted

    def _convolved(self, x: torch.Tensor, number: int) -> torch.Tensor:
        """Returns the convolutions of one dilation, summed over the channels that each kernel sees: (batch, 84, length)."""
        dilation, channels = self.dilations[number], x.shape[1]
        weight = self.kernels.to(x.dtype).repeat(channels, 1)[:, None]
        each = F.conv1d(x, weight, padding="same", dilation=dilation, groups=channels)
        return (each.view(len(x), channels, 84, -1) * self.sees[number].to(x.dtype).T[:, :, None]).sum(1)

    def _counts_steps(self, there: torch.Tensor, number: int) -> torch.Tensor:
        """Returns at which steps each kernel is looked at, (batch, 84, length): every other one only where it lies within."""
        reach = self.dilations[number] * (_WIDTH // 2)
        steps = torch.arange(there.shape[-1], device=there.device)
        end = there.sum(-1, keepdim=True)  # series begin at the first step
        within = there & (steps >= reach) & (steps < end - reach)
        # A padded series may be too short for the dilation: then all of it is looked at.
        within = torch.where(within.any(-1, keepdim=True), within, there)
        whole = (torch.arange(84, device=there.device) + number) % 2 == 0
        return torch.where(whole[:, None], there, within)


def _dilations(length: int, per_kernel: int) -> tuple[list[int], list[int]]:
    """Returns the dilations, 1 to as many as fit, and how many features of a kernel each has."""
    num = min(per_kernel, _MOST_DILATIONS)
    longest = math.log2((length - 1) / (_WIDTH - 1))
    found, counts = np.unique(np.logspace(0, longest, num, base=2).astype(np.int64), return_counts=True)
    features = (counts * (per_kernel / num)).astype(np.int64)
    for i in range(per_kernel - int(features.sum())):
        features[i % len(features)] += 1
    return found.tolist(), features.tolist()


def _channels_seen(channels: int, dilations: int, seed: int) -> torch.Tensor:
    """Returns which channels each kernel sees at each dilation, (dilations, 84, channels): some, fewer likelier than many."""
    if channels == 1:
        return torch.ones(dilations, 84, 1, dtype=torch.bool)
    draw = Draw(seed=seed, epoch=1, samples=np.arange(dilations * 84))
    most = math.log2(min(channels, _WIDTH) + 1)
    num = np.floor(2 ** draw.uniform(0, most)).astype(np.int64).clip(1, channels)
    rank = draw.permutation(channels)
    return torch.from_numpy(rank < num[:, None]).view(dilations, 84, channels)
