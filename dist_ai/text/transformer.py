"""A small transformer of our own: a GPT where it is causal, an encoder otherwise.

Attention is torch's `scaled_dot_product_attention`, which picks FlashAttention where it can. Positions are rotations of queries
and keys (RoPE, arXiv:2104.09864), so there is no longest text and a cache of keys needs no second look at them.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.errors import ConfigError
from dist_ai.layers import SeededDropout

__all__ = ["Transformer", "TransformerBlock"]

State = dict[str, torch.Tensor]


class TransformerBlock(nn.Module):
    """Attention and a small network, each added to its input, which is normalised before (arXiv:2002.04745).

    Args:
        size: features; a multiple of `n_heads`.
        n_heads: heads.
        p: dropout of what is added.
        causal: whether a token sees only those before it.
    """

    # The features of a head stay together (see `forward`), so a rank that has a part of the outputs has whole heads.
    tensor_parallel_plan: ClassVar[dict[str, str]] = {
        "qkv": "colwise",
        "projection": "rowwise",
        "mlp.0": "colwise",
        "mlp.2": "rowwise",
    }

    def __init__(self, size: int, n_heads: int, p: float, *, causal: bool) -> None:
        super().__init__()
        self.n_heads, self.head_size, self.causal = n_heads, size // n_heads, causal
        self.norm_attention, self.norm_mlp = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.projection = nn.Linear(size, size)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))
        self.dropouts = nn.ModuleList(SeededDropout(p) for _ in range(2))

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None, cache: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Returns the features, (batch, time, size), and the keys and values so far, (batch, heads, time, size / heads).

        Args:
            x: the features of these tokens.
            mask: which tokens count, bool (batch, time); None for all.
            cache: keys and values of the tokens before.
        """
        batch, time, _ = x.shape
        q, k, v = self.qkv(self.norm_attention(x)).view(batch, time, -1, 3, self.head_size).permute(3, 0, 2, 1, 4)
        past = 0 if cache is None else cache[0].shape[2]
        q, k = _rotated(q, past), _rotated(k, past)
        if cache is not None:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        seen = None if mask is None else mask[:, None, None, :]
        if self.causal and (past or mask is not None):
            order = torch.ones(time, past + time, dtype=torch.bool, device=x.device).tril(past)
            seen = order if seen is None else seen & order
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=self.causal and seen is None)
        x = x + self.dropouts[0](self.projection(attended.transpose(1, 2).flatten(2)))
        return x + self.dropouts[1](self.mlp(self.norm_mlp(x))), (k, v)


class Transformer(nn.Module):
    """An embedding and blocks of attention.

    Args:
        vocab_sz: tokens.
        emb_sz: features.
        n_heads, n_layers: heads of a block, and blocks.
        p: dropout.
        causal: whether a token sees only those before it, as a language model must.
        pad_token: id of padding.

    Input: (batch, time) ids.
    """

    # By columns and not by rows, of which torch forgets which is the padding's.
    tensor_parallel_plan: ClassVar[dict[str, str]] = {"embedding": "colwise_gather_output"}

    def __init__(
        self,
        vocab_sz: int,
        *,
        emb_sz: int = 256,
        n_heads: int = 4,
        n_layers: int = 4,
        p: float = 0.1,
        causal: bool = True,
        pad_token: int = 1,
    ) -> None:
        super().__init__()
        if emb_sz % (2 * n_heads):
            raise ConfigError(f"emb_sz={emb_sz} for n_heads={n_heads}: expected a multiple of {2 * n_heads}")
        self.out_features, self.causal = emb_sz, causal
        self.embedding = nn.Embedding(vocab_sz, emb_sz, pad_token)
        self.dropout = SeededDropout(p)
        self.layers = nn.ModuleList(TransformerBlock(emb_sz, n_heads, p, causal=causal) for _ in range(n_layers))
        self.norm = nn.LayerNorm(emb_sz)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:  # those whose output is added are smaller the more are added up, as GPT-2's
                added = name.endswith(("projection.weight", "mlp.2.weight"))
                nn.init.normal_(weight, std=0.02 / (2 * n_layers) ** (0.5 * added))

    def forward(
        self, ids: torch.Tensor, state: State | None = None, *, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """Returns the features, (batch, time, emb_sz), and the keys and values so far if a state is given: {} at the begin."""
        x = self.dropout(self.embedding(ids))
        after: State = {}
        for i, layer in enumerate(self.layers):
            cache = (state[f"keys {i}"], state[f"values {i}"]) if state else None
            x, (keys, values) = layer(x, mask, cache)
            if state is not None:
                after[f"keys {i}"], after[f"values {i}"] = keys, values
        return self.norm(x), after

    def groups(self) -> list[list[nn.Module]]:
        """Returns the modules that are frozen together, the first ones first."""
        *first, last = self.layers
        return [[self.embedding], *([layer] for layer in first), [last, self.norm]]


def _rotated(x: torch.Tensor, past: int) -> torch.Tensor:
    """Returns queries or keys (batch, heads, time, features) turned by angles that grow with their place."""
    half = x.shape[-1] // 2
    speeds = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    places = torch.arange(past, past + x.shape[2], device=x.device, dtype=torch.float32)
    angles = places[:, None] * speeds
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
