"""Whether ranks have the same data, told from what is at hand: no file is opened for it, and no transform runs."""

from __future__ import annotations

import hashlib
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from dist_ai.core.nested import is_container, parts
from dist_ai.data.table import in_memory

__all__ = ["facts_of_loader"]


def facts_of_loader(loader: Any, name: str) -> dict[str, Any]:
    """Returns what a loader must have in common with that of the same name on other ranks, as plain data by name.

    Of the data itself that is its first, its middle and its last sample, where they are held in memory: of paths the name of the
    file, for machines may keep the same files in other places. A data set of your own is not asked, for what it returns may
    cost much, or be drawn at random.

    Args:
        loader: any of ours.
        name: what to call it, such as "training".
    """
    facts: dict[str, Any] = {
        f"the number of {name} samples": loader.num_samples,
        f"the {name} batch size": loader.bs,
        f"the {name} seed": loader.seed,
    }
    order = getattr(loader, "order", None)
    shuffle = f"shuffle={getattr(loader, 'shuffle', False)}"
    facts[f"the {name} order"] = shuffle if order is None else type(order).__name__
    facts[f"the last {name} batch"] = f"drop_last={getattr(loader, 'drop_last', False)}"
    dataset: Any = getattr(loader, "dataset", None)
    at_hand = dataset.__getitem__ if in_memory(dataset) else getattr(dataset, "at_hand", None)
    if at_hand is not None and len(dataset):
        for place in sorted({0, len(dataset) // 2, len(dataset) - 1}):
            facts[f"{name} sample {place}"] = _in_short(at_hand(place))
    return facts


def _in_short(sample: Any) -> str:
    """Returns what tells a sample from others, at most a line long, and is the same wherever it was read or computed."""
    if isinstance(sample, PurePath):
        return sample.name
    if isinstance(sample, np.ndarray) and sample.dtype.kind in "biuf" and sample.dtype.itemsize <= 8:
        sample = torch.as_tensor(np.ascontiguousarray(sample))
    if isinstance(sample, torch.Tensor):
        return f"{str(sample.dtype).removeprefix('torch.')} {tuple(sample.shape)}{_content(sample)}"
    if isinstance(sample, bytes):
        return f"{len(sample)} bytes {_digest(sample)}"
    if is_container(sample):
        return f"({', '.join(map(_in_short, parts(sample)))})"
    if isinstance(sample, str):
        if "/" in sample and (sample.startswith("/") or not any(map(str.isspace, sample))):
            return PurePath(sample).name
        return sample if len(sample) <= 60 else f"{sample[:40]}… {_digest(sample.encode())}"
    if isinstance(sample, float | np.floating):
        return f"{sample:.4g}"
    if sample is None or isinstance(sample, bool | int | np.generic):
        return str(sample)
    return type(sample).__name__


def _content(tensor: torch.Tensor) -> str:
    """Returns what tells a tensor's values from others', though another machine may have computed them in another last digit.

    Of whole numbers that is a digest; of others, and of pixels, which decoders round as they like, mean and deviation. Of a
    large tensor the first values count.
    """
    try:
        values = tensor.detach().as_subclass(torch.Tensor).reshape(-1)[:_MOST].cpu()
        if values.is_floating_point() or values.dtype == torch.uint8:
            if not len(values):
                return ""
            deviation, mean = (each.item() for each in torch.std_mean(values.double(), correction=0))
            if abs(mean) < 1e-3 * deviation:  # what is left of a mean of 0 is rounding
                mean = 0.0
            return f" of mean {mean:.3g}, deviation {deviation:.3g}" if tensor.dim() else f" {mean:.3g}"
        return f" {values.item()}" if not tensor.dim() else f" {_digest(values.numpy().tobytes())}"
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, nested, on no device: there are no values at hand
        return ""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


_MOST = 65_536
"""Values of a sample that are looked at."""
