"""Models of tables: embeddings with hidden layers, a residual network, and a transformer over the columns.

Each takes a batch as a `TabularRow`: codes int64 (batch, categorical columns), numbers float (batch, continuous columns).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.types import TabularRow
from dist_ai.data.tabular import TabularPandas
from dist_ai.errors import ConfigError, did_you_mean
from dist_ai.export import register_builder
from dist_ai.layers import (
    EmbeddingTables,
    SeededDropout,
    SigmoidRange,
    embedding_pairs,
    embedding_size,
    hidden_layers,
    linear_layer,
)
from dist_ai.layers.activation import bounds_of
from dist_ai.layers.mlp import require_sizes

__all__ = ["FTTransformer", "TabularModel", "TabularResNet", "get_emb_sz"]

EmbSizes = Sequence[Sequence[int]]


def get_emb_sz(
    classes: Mapping[str, Sequence[object]] | TabularPandas, sz_dict: Mapping[str, int] | None = None
) -> list[tuple[int, int]]:
    """Returns (categories, numbers) of each categorical column, by `embedding_size` where `sz_dict` does not say.

    Args:
        classes: the categories of each column; or what has them as `classes`.
        sz_dict: numbers for some columns.

    Raises:
        ConfigError: `sz_dict` is no dict, names a column that there is not, or has what is no size.

    >>> get_emb_sz({"day": ["#na#", "Mo", "Tu"], "kind": ["#na#", "a"]}, {"kind": 5})
    [(3, 3), (2, 5)]
    """
    if isinstance(classes, TabularPandas):
        classes = classes.classes
    if not isinstance(sz_dict, Mapping | None):
        raise ConfigError(
            f"emb_szs={sz_dict!r:.100}: expected numbers by column, such as {{{next(iter(classes), 'job')!r}: 3}}"
        )
    sz_dict = dict(sz_dict or {})
    require_sizes("emb_szs", list(sz_dict.values()))
    for name in sz_dict:
        if name not in classes:
            raise ConfigError(f"emb_szs names {name!r}, which is no categorical column{did_you_mean(name, classes)}")
    return [(len(found), sz_dict.get(name, embedding_size(len(found)))) for name, found in classes.items()]


class TabularModel(nn.Module):
    """fastai's model of tables: embeddings and numbers through hidden layers.

    Args:
        emb_szs: (categories, numbers) of each categorical column.
        n_cont: continuous columns.
        out_sz: outputs.
        layers: sizes of the hidden layers.
        ps: dropout after each hidden layer: one share for all, or one each.
        embed_p: dropout of the embeddings.
        y_range: (low, high) that the outputs stay within.
        use_bn: BatchNorm in hidden layers.
        bn_final: and, with `use_bn`, of the outputs; without `lin_first`, of what they are made of.
        bn_cont: and of the numbers.
        act: name of the activation: relu, gelu, silu, selu or mish.
        lin_first: a hidden layer is linear, activation, BatchNorm, dropout; otherwise BatchNorm, dropout, linear, activation.

    Raises:
        ConfigError: nothing to predict from, a size or a `y_range` that is none, `ps` of another length than `layers`, or an
            unknown activation.
    """

    def __init__(
        self,
        emb_szs: EmbSizes,
        n_cont: int,
        out_sz: int,
        layers: Sequence[int] = (200, 100),
        *,
        ps: float | Sequence[float] = 0.0,
        embed_p: float = 0.0,
        y_range: Sequence[float] | None = None,
        use_bn: bool = True,
        bn_final: bool = False,
        bn_cont: bool = True,
        act: str = "relu",
        lin_first: bool = True,
    ) -> None:
        super().__init__()
        _require(out_sz=out_sz)
        self.embeds = EmbeddingTables(emb_szs)
        size = _inputs(self.embeds.size, n_cont)
        self.emb_drop = SeededDropout(embed_p)
        self.bn_cont = nn.BatchNorm1d(n_cont) if bn_cont and n_cont else nn.Identity()
        blocks = hidden_layers(size, layers, ps=ps, use_bn=use_bn, act=act, lin_first=lin_first)
        last = layers[-1] if layers else size
        blocks += linear_layer(last, out_sz, use_bn=use_bn and bn_final, lin_first=lin_first)
        self.layers = nn.Sequential(*blocks, *_within(y_range))

    def forward(self, row: TabularRow) -> torch.Tensor:
        """Returns the outputs, (batch, out_sz)."""
        cats, conts = row
        return self.layers(torch.cat([self.emb_drop(self.embeds(cats)), self.bn_cont(conts)], 1))


class TabularResNet(nn.Module):
    """A residual network of tables (Gorishniy et al., arXiv:2106.11959).

    Args:
        emb_szs, n_cont, out_sz, y_range: see `TabularModel`.
        d_main: width of the main path.
        d_hidden: width inside a block.
        n_blocks: blocks.
        p_hidden: dropout inside a block; `p_residual`: after it.

    Raises:
        ConfigError: nothing to predict from, or a size or a `y_range` that is none.
    """

    def __init__(
        self,
        emb_szs: EmbSizes,
        n_cont: int,
        out_sz: int,
        *,
        d_main: int = 128,
        d_hidden: int = 256,
        n_blocks: int = 3,
        p_hidden: float = 0.2,
        p_residual: float = 0.0,
        y_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        _require(out_sz=out_sz, d_main=d_main, d_hidden=d_hidden, n_blocks=n_blocks)
        self.embeds = EmbeddingTables(emb_szs)
        self.first = nn.Linear(_inputs(self.embeds.size, n_cont), d_main)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm1d(d_main),
                nn.Linear(d_main, d_hidden),
                nn.ReLU(),
                SeededDropout(p_hidden),
                nn.Linear(d_hidden, d_main),
                SeededDropout(p_residual),
            )
            for _ in range(n_blocks)
        )
        self.head = nn.Sequential(nn.BatchNorm1d(d_main), nn.ReLU(), nn.Linear(d_main, out_sz), *_within(y_range))

    def forward(self, row: TabularRow) -> torch.Tensor:
        """Returns the outputs, (batch, out_sz)."""
        cats, conts = row
        x = self.first(torch.cat([self.embeds(cats), conts], 1))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class FTTransformer(nn.Module):
    """A transformer whose tokens are the columns (Gorishniy et al., arXiv:2106.11959).

    Args:
        emb_szs: (categories, ignored) of each categorical column: all tokens have `d_token` numbers.
        n_cont, out_sz, y_range: see `TabularModel`.
        d_token: numbers of a token; a multiple of `n_heads`.
        n_blocks: blocks of attention and a gated hidden layer, each behind a LayerNorm.
        n_heads: attention heads.
        d_hidden: width of the hidden layer, as a multiple of `d_token`.
        p_hidden: dropout of the hidden layer; `p_residual`: after each part of a block.

    Unlike the paper's, the attention itself has no dropout, whose draws would depend on the number of ranks.

    Raises:
        ConfigError: nothing to predict from, a size or a `y_range` that is none, or `d_token` is no multiple of `n_heads`.
    """

    def __init__(
        self,
        emb_szs: EmbSizes,
        n_cont: int,
        out_sz: int,
        *,
        d_token: int = 64,
        n_blocks: int = 3,
        n_heads: int = 8,
        d_hidden: float = 4 / 3,
        p_hidden: float = 0.1,
        p_residual: float = 0.0,
        y_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        _require(out_sz=out_sz, d_token=d_token, n_blocks=n_blocks, n_heads=n_heads, d_hidden=round(d_hidden * d_token))
        if d_token % n_heads:
            raise ConfigError(f"d_token={d_token} is no multiple of n_heads={n_heads}; heads share a token's numbers")
        pairs = embedding_pairs(emb_szs)
        _inputs(len(pairs), n_cont)
        bound = d_token**-0.5
        self.embeds = nn.ModuleList(nn.Embedding(n, d_token) for n, _ in pairs)
        for table in self.embeds:
            nn.init.uniform_(table.weight, -bound, bound)  # type: ignore[arg-type]  # a list of modules is one of tables here
        self.weight = nn.Parameter(torch.empty(n_cont, d_token).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_cont + len(pairs), d_token).uniform_(-bound, bound))
        self.cls = nn.Parameter(torch.empty(d_token).uniform_(-bound, bound))
        self.blocks = nn.ModuleList(
            _Block(d_token, n_heads, round(d_hidden * d_token), p_hidden, p_residual, first=i == 0)
            for i in range(n_blocks)
        )
        self.head = nn.Sequential(nn.LayerNorm(d_token), nn.ReLU(), nn.Linear(d_token, out_sz), *_within(y_range))

    def forward(self, row: TabularRow) -> torch.Tensor:
        """Returns the outputs, (batch, out_sz)."""
        cats, conts = row
        tokens = [conts[:, :, None] * self.weight]
        tokens += [table(cats[:, i])[:, None] for i, table in enumerate(self.embeds)]
        columns = torch.cat(tokens, 1) + self.bias
        x = torch.cat(
            [columns, self.cls.to(columns.dtype).expand(len(conts), 1, -1)], 1
        )  # (batch, columns + 1, d_token)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, -1])


class _Block(nn.Module):
    """Attention over the columns and a hidden layer gated by half of its units, each added to what comes in."""

    def __init__(self, size: int, heads: int, hidden: int, p_hidden: float, p_residual: float, *, first: bool) -> None:
        super().__init__()
        self.heads = heads
        # Before the first attention there is nothing to normalise: the tokens are columns as they were read.
        self.norm_attention = nn.Identity() if first else nn.LayerNorm(size)
        self.qkv, self.merge = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.norm_hidden = nn.LayerNorm(size)
        self.expand, self.contract = nn.Linear(size, 2 * hidden), nn.Linear(hidden, size)
        self.drop_hidden, self.drop_attention, self.drop = (
            SeededDropout(p) for p in (p_hidden, p_residual, p_residual)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, size = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, tokens, 3, self.heads, size // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, size of a head)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, tokens, size)
        x = x + self.drop_attention(self.merge(seen))
        values, gates = self.expand(self.norm_hidden(x)).chunk(2, -1)
        return x + self.drop(self.contract(self.drop_hidden(values * F.relu(gates))))


register_builder("tabular_model")(TabularModel)
register_builder("tabular_resnet")(TabularResNet)
register_builder("ft_transformer")(FTTransformer)


def _require(**sizes: int) -> None:
    for name, size in sizes.items():
        require_sizes(name, [size])


def _within(y_range: Sequence[float] | None) -> list[nn.Module]:
    bounds = bounds_of(y_range)
    return [] if bounds is None else [SigmoidRange(*bounds)]


def _inputs(size: int, n_cont: int) -> int:
    if n_cont < 0:
        raise ConfigError(f"n_cont={n_cont}: expected how many continuous columns there are")
    if size + n_cont == 0:
        raise ConfigError("no categorical and no continuous columns: the model has nothing to predict from")
    return size + n_cont
