"""Models of who likes what: a dot product with biases, and hidden layers over embeddings.

Each takes a batch as a `TabularRow` whose codes are (user, item), int64 (batch, 2); 0 is a user or an item that training did not
see. With further items behind them, (batch, 1 + items), it scores each of these for the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from dist_ai.core.types import TabularRow
from dist_ai.distributed.sharded import whole
from dist_ai.export import register_builder
from dist_ai.layers import SigmoidRange, embedding, hidden_layers

__all__ = ["EmbeddingDotBias", "EmbeddingNN"]

# Each rank has some of every row's numbers, and of a batch's rows only: a table may be larger than one device.
_DIVIDED = {"u_weight": "colwise_gather_output", "i_weight": "colwise_gather_output"}


class EmbeddingDotBias(nn.Module):
    """A user's factors times an item's, and a bias of each.

    Args:
        n_factors: numbers for each user and item.
        n_users, n_items: how many there are, with the unknown one.
        y_range: (low, high) that the ratings stay within.
        sparse: give gradients of only the rows that a batch has; see `dist_ai.layers.embedding`.

    In evaluation an unknown user or item has the mean factors and the mean bias of the known ones.
    `TensorParallel` divides the factors among ranks.
    """

    tensor_parallel_plan: ClassVar[dict[str, str]] = _DIVIDED

    def __init__(
        self,
        n_factors: int,
        n_users: int,
        n_items: int,
        *,
        y_range: Sequence[float] | None = None,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.u_weight, self.i_weight = (embedding(n, n_factors, sparse=sparse) for n in (n_users, n_items))
        self.u_bias, self.i_bias = (embedding(n, 1, sparse=sparse) for n in (n_users, n_items))
        self.range = nn.Identity() if y_range is None else SigmoidRange(*y_range)

    def forward(self, row: TabularRow) -> torch.Tensor:
        """Returns the ratings, (batch,) or (batch, items)."""
        users, items = row.cats[:, 0], row.cats[:, 1:]
        factors = _looked_up(self.u_weight, users)[:, None] * _looked_up(self.i_weight, items)
        biases = _looked_up(self.u_bias, users) + _looked_up(self.i_bias, items).squeeze(-1)
        return _one_or_several(self.range(factors.sum(-1) + biases))


class EmbeddingNN(nn.Module):
    """Embeddings of the user and the item through hidden layers.

    Args:
        emb_szs: (users, numbers) and (items, numbers), with the unknown one.
        layers: sizes of the hidden layers.
        ps, use_bn, act: see `dist_ai.layers.hidden_layers`.
        y_range: (low, high) that the ratings stay within.

    In evaluation an unknown user or item has the mean embedding of the known ones. `TensorParallel` divides the embeddings
    among ranks.
    """

    tensor_parallel_plan: ClassVar[dict[str, str]] = _DIVIDED

    def __init__(
        self,
        emb_szs: Sequence[Sequence[int]],
        layers: Sequence[int] = (50,),
        *,
        ps: float | Sequence[float] = 0.0,
        use_bn: bool = True,
        act: str = "relu",
        y_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.u_weight, self.i_weight = (embedding(n, size) for n, size in emb_szs)
        size = sum(size for _, size in emb_szs)
        hidden = hidden_layers(size, layers, ps=ps, use_bn=use_bn, act=act)
        self.layers = nn.Sequential(*hidden, nn.Linear(layers[-1] if layers else size, 1))
        self.range = nn.Identity() if y_range is None else SigmoidRange(*y_range)

    def forward(self, row: TabularRow) -> torch.Tensor:
        """Returns the ratings, (batch,) or (batch, items)."""
        users, items = row.cats[:, 0], row.cats[:, 1:]
        batch, several = items.shape
        user = _looked_up(self.u_weight, users)[:, None].expand(batch, several, -1)
        pairs = torch.cat([user, _looked_up(self.i_weight, items)], -1)  # (batch, items, numbers)
        # The batch stays in front: dropout draws by sample, and BatchNorm counts a user's items as so many rows.
        if several == 1:
            return self.range(self.layers(pairs[:, 0]))[:, 0]
        return self.range(torch.stack([self.layers(pairs[:, i])[:, 0] for i in range(several)], 1))


register_builder("embedding_dot_bias")(EmbeddingDotBias)
register_builder("embedding_nn")(EmbeddingNN)


def _looked_up(table: nn.Embedding, codes: torch.Tensor) -> torch.Tensor:
    """Returns the embeddings of codes; outside training that of the unknown one is the mean of the known ones'."""
    found = table(codes)
    if table.training or len(table.weight) < 2:
        return found
    unknown = (codes == 0)[..., None]
    # Reading the whole table costs as much as a large batch, so it is not done where nobody is unknown.
    return torch.where(unknown, _mean_of_known(table), found) if unknown.any() else found


def _mean_of_known(table: nn.Embedding) -> torch.Tensor:
    # All less the first, which a table that is divided among ranks is asked for in its own way.
    first = table(torch.zeros(1, dtype=torch.long, device=table.weight.device))[0]
    return (whole(table.weight.sum(0)) - first) / (len(table.weight) - 1)


def _one_or_several(ratings: torch.Tensor) -> torch.Tensor:
    return ratings[:, 0] if ratings.shape[1] == 1 else ratings
