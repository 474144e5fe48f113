"""Pooling layers."""

from __future__ import annotations

import torch

from dist_ai.layers import ConcatPool2d


def test_concat_pool_gives_each_channels_maximum_and_then_its_mean() -> None:
    x = torch.arange(24.0).view(2, 3, 2, 2)
    assert ConcatPool2d()(x).tolist() == [[3, 7, 11, 1.5, 5.5, 9.5], [15, 19, 23, 13.5, 17.5, 21.5]]


def test_concat_pool_passes_gradients_to_both() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2).requires_grad_()
    ConcatPool2d()(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0.25, 0.25, 0.25, 1.25]
