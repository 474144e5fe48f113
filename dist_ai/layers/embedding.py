"""Embeddings of categories, and outputs that stay within a range."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral

import torch
from torch import nn

from dist_ai.errors import ConfigError

__all__ = ["EmbeddingTables", "embedding", "embedding_pairs", "embedding_size"]


def embedding(num_categories: int, size: int, *, std: float = 0.01, sparse: bool = False) -> nn.Embedding:
    """Returns an embedding whose numbers are drawn from a normal distribution cut off at two deviations.

    Args:
        num_categories: rows of the table.
        size: numbers for each category.
        std: the deviation.
        sparse: give a gradient of only the rows that a batch has. `torch.optim.SGD` and `SparseAdam` take such.
    """
    table = nn.Embedding(num_categories, size, sparse=sparse)
    nn.init.trunc_normal_(table.weight, std=std, a=-2 * std, b=2 * std)
    return table


def embedding_size(num_categories: int) -> int:
    """Returns how many numbers stand for a category by fastai's rule: 1.6 n^0.56, at most 600.

    >>> embedding_size(10), embedding_size(10_000_000)
    (6, 600)
    """
    return min(600, round(1.6 * num_categories**0.56))


def embedding_pairs(sizes: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Returns (categories, numbers) of each categorical column.

    Raises:
        ConfigError: one is no such pair, or has no category or no number.

    >>> embedding_pairs([[3, 2], (5, 4)])
    [(3, 2), (5, 4)]
    """
    expected = "expected (categories, numbers) of each column, such as [(3, 2), (5, 4)]; get_emb_sz makes them"
    if not isinstance(sizes, Iterable) or isinstance(sizes, str | Mapping):
        raise ConfigError(f"sizes of embeddings {sizes!r:.100}: {expected}")
    pairs = []
    for place, pair in enumerate(sizes):
        listed = list(pair) if hasattr(pair, "__len__") and not isinstance(pair, str) else []
        if len(listed) != 2 or not all(isinstance(n, Integral) and not isinstance(n, bool) for n in listed):
            raise ConfigError(f"column {place} of the sizes of embeddings has {pair!r:.60}: {expected}")
        num_categories, size = map(int, listed)
        if num_categories < 1 or size < 1:
            raise ConfigError(
                f"column {place} has {num_categories} categories of {size} numbers each; both need to be at least 1"
            )
        pairs.append((num_categories, size))
    return pairs


class EmbeddingTables(nn.Module):
    """An embedding for each categorical column, side by side.

    Args:
        sizes: (categories, numbers) of each column.
        std: deviation of the numbers that they begin with.
        sparse: see `embedding`.

    Input: codes, int64 (batch, columns). Output: float (batch, sum of the numbers).

    Raises:
        ConfigError: a column has no category or no number, or `sizes` are no pairs.

    >>> EmbeddingTables([(3, 2), (5, 4)])(torch.zeros(7, 2, dtype=torch.int64)).shape
    torch.Size([7, 6])
    """

    def __init__(self, sizes: Sequence[Sequence[int]], *, std: float = 0.01, sparse: bool = False) -> None:
        super().__init__()
        pairs = embedding_pairs(sizes)
        self.tables = nn.ModuleList(embedding(n, size, std=std, sparse=sparse) for n, size in pairs)
        self.size = sum(size for _, size in pairs)

    def forward(self, cats: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings of a batch of rows."""
        if not self.tables:
            return cats.new_empty(len(cats), 0, dtype=torch.get_default_dtype())
        return torch.cat([table(cats[:, i]) for i, table in enumerate(self.tables)], 1)
