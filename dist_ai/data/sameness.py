"""Whether ranks have the same data, told from what is at hand: no file is opened for it, and no transform runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from dist_ai.core.nested import is_container, parts
from dist_ai.data.table import in_memory

__all__ = ["facts_of_loader"]


def facts_of_loader(loader: Any, name: str) -> dict[str, Any]:
    """Returns what a loader must have in common with that of the same name on other ranks, as plain data by name.

    Of the data itself that is its first, its middle and its last sample, where they are held in memory: paths by their last two
    parts, for machines may keep the same files in other places; arrays and tensors by a digest. A data set of your own is not
    asked, for what it returns may cost much, or be drawn at random.

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
    facts[f"the {name} order"] = (
        type(order).__name__ if order is not None else f"shuffle={getattr(loader, 'shuffle', False)}"
    )
    facts[f"the last {name} batch"] = f"drop_last={getattr(loader, 'drop_last', False)}"
    for place, sample in _some(getattr(loader, "dataset", None)):
        facts[f"{name} sample {place}"] = _in_short(sample)
    return facts


def _some(dataset: Any) -> Iterator[tuple[int, Any]]:
    """Yields a few samples with their places; none of what would have to be read."""
    at_hand = dataset.__getitem__ if in_memory(dataset) else getattr(dataset, "at_hand", None)
    if at_hand is not None and len(dataset):
        yield from ((place, at_hand(place)) for place in sorted({0, len(dataset) // 2, len(dataset) - 1}))


def _in_short(sample: Any) -> str:
    """Returns what tells a sample from others, at most a line long."""
    if isinstance(sample, PurePath):
        return "/".join(sample.parts[-2:])
    if isinstance(sample, torch.Tensor):
        plain = sample.detach().cpu().as_subclass(torch.Tensor)
        if plain.dim() == 0:
            return repr(plain.item())
        content = plain.reshape(-1).contiguous().view(torch.uint8)  # 16-bit floats are none of numpy's
        return f"{str(plain.dtype).removeprefix('torch.')} {tuple(plain.shape)} {_digest(content.numpy().tobytes())}"
    if isinstance(sample, np.ndarray) and sample.dtype != object:
        return f"{sample.dtype} {sample.shape} {_digest(sample.tobytes())}"
    if isinstance(sample, bytes):
        return f"{len(sample)} bytes {_digest(sample)}"
    if is_container(sample):
        return f"({', '.join(map(_in_short, parts(sample)))})"
    if isinstance(sample, str):
        return sample if len(sample) <= 60 else f"{sample[:40]}… {_digest(sample.encode())}"
    if sample is None or isinstance(sample, bool | int | float | np.generic):
        return repr(sample)
    return type(sample).__name__


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]
