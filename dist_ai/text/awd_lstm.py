"""AWD-LSTM: an LSTM with every kind of dropout (Merity et al., arXiv:1708.02182), and no random number that a rank draws alone.

All masks are decided by (seed, epoch, sample or batch, layer): the same on any number of ranks and in a resumed run.
Outside a Learner the layers draw from torch's generator.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from dist_ai.core.randomness import mix64_tensor
from dist_ai.errors import ConfigError
from dist_ai.layers import Seeded, kept_of

__all__ = ["AWD_LSTM", "EmbeddingDropout", "LSTMLayer", "RNNDropout"]

State = dict[str, torch.Tensor]


class RNNDropout(Seeded):
    """Drops features of a sequence, the same at every step of it.

    Args:
        p: share of the features.

    Input: (batch, time, features).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = _share(p, "RNNDropout")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `x` with features dropped in training."""
        if not self.training or self.p == 0:
            return x
        if self.sample_keys is None:
            return x * F.dropout(x.new_ones(len(x), 1, x.shape[2]), self.p)
        features = torch.arange(x.shape[2], device=x.device)
        kept = kept_of(self.own(self.sample_keys)[:, None], features, self.p)
        return x * (kept[:, None] / (1 - self.p)).to(x.dtype)

    def extra_repr(self) -> str:
        """Returns the share that is dropped."""
        return f"p={self.p}"


class EmbeddingDropout(Seeded):
    """An embedding in which whole words are dropped: in a sample a dropped word is zero wherever it stands (arXiv:1512.05287).

    Args:
        vocab_sz, emb_sz: words, and numbers for each.
        p: share of the words.
        pad_token: the word that is always zero.

    Input: (batch, time) ids; output: (batch, time, emb_sz).
    """

    def __init__(self, vocab_sz: int, emb_sz: int, p: float, pad_token: int) -> None:
        super().__init__()
        self.p = _share(p, "EmbeddingDropout")
        self.pad_token = pad_token
        self.weight = nn.Parameter(torch.empty(vocab_sz, emb_sz).uniform_(-0.1, 0.1))
        with torch.no_grad():
            self.weight[pad_token].zero_()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings."""
        embedded = F.embedding(ids, self.weight, self.pad_token)
        if not self.training or self.p == 0:
            return embedded
        if self.sample_keys is None:
            kept = (torch.rand(len(self.weight), device=ids.device) >= self.p)[ids]
        else:
            kept = kept_of(self.own(self.sample_keys)[:, None], ids, self.p)
        return embedded * (kept[..., None] / (1 - self.p)).to(embedded.dtype)

    def extra_repr(self) -> str:
        """Returns the sizes and the share that is dropped."""
        return f"{len(self.weight)}, {self.weight.shape[1]}, p={self.p}"


class LSTMLayer(Seeded):
    """One layer of an LSTM whose recurrent weights are dropped, the same ones for all samples of a batch and all its steps.

    Args:
        n_in, n_out: features of the input and the output.
        weight_p: share of the recurrent weights that is dropped.

    Input: (batch, time, n_in) and a state of (hidden, cell), each (batch, n_out), or None for zeros.
    """

    def __init__(self, n_in: int, n_out: int, weight_p: float) -> None:
        super().__init__()
        self.weight_p = _share(weight_p, "LSTMLayer")
        self.n_out = n_out
        bound = n_out**-0.5
        self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh = (
            nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
            for shape in ((4 * n_out, n_in), (4 * n_out, n_out), (4 * n_out,), (4 * n_out,))
        )

    def forward(
        self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Returns the outputs, (batch, time, n_out), and the state after the last step."""
        if state is None:
            zeros = x.new_zeros(len(x), self.n_out)
            state = zeros, zeros
        weights = [self.weight_ih, self._dropped(self.weight_hh), self.bias_ih, self.bias_hh]
        # An LSTM wants one type. That of autocast, but on a CPU, which has no LSTM of 16 bits that can be trained.
        dtype = weights[0].dtype if x.device.type == "cpu" else x.dtype
        x, *before = (each.to(dtype) for each in (x, *state))
        with torch.autocast(x.device.type, enabled=x.device.type != "cpu" and torch.is_autocast_enabled(x.device.type)):
            # One layer at a time and not nn.LSTM, whose list of weights knows nothing of a strategy's that swaps them.
            out, hidden, cell = torch.lstm(
                x,
                [each[None].contiguous() for each in before],
                [weight.to(dtype) for weight in weights],
                True,
                1,
                0.0,
                self.training,
                False,
                True,
            )
        return out, (hidden[0], cell[0])

    def _dropped(self, weight: torch.Tensor) -> torch.Tensor:
        if not self.training or self.weight_p == 0:
            return weight
        if self.batch_key is None:
            return F.dropout(weight, self.weight_p)
        return weight * (_kept_cells(self.own(self.batch_key), weight, self.weight_p) / (1 - self.weight_p)).to(
            weight.dtype
        )

    def extra_repr(self) -> str:
        """Returns the sizes and the share that is dropped."""
        return f"{self.weight_ih.shape[1]}, {self.n_out}, weight_p={self.weight_p}"


def _kept_cells(key: torch.Tensor, weight: torch.Tensor, p: float) -> torch.Tensor:
    """Returns which cells of a matrix a key keeps: one hash of 32 bits a cell, for there are millions of them."""
    rows, columns = (torch.arange(size, device=weight.device) for size in weight.shape)
    of_row = _bits(key, rows)
    of_column = _bits(key, -2 - columns)
    x = of_row[:, None] ^ of_column[None]
    for shift, mask, factor in ((16, 0xFFFF, 0x7FEB352D), (15, 0x1FFFF, 0x046CA68B)):
        x ^= (x >> shift) & mask
        x *= factor
    x ^= (x >> 16) & 0xFFFF
    return (x & 0x7FFF_FFFF) >= int(p * 2**31)


def _bits(key: torch.Tensor, what: torch.Tensor) -> torch.Tensor:
    """Returns 32 random bits (int32) for each number."""
    return (mix64_tensor(key ^ mix64_tensor(what + 1)) >> 32).to(torch.int32)


class AWD_LSTM(nn.Module):
    """An embedding and layers of LSTM, with dropout everywhere.

    Args:
        vocab_sz: words.
        emb_sz: numbers for a word, and features of the last layer.
        n_hid: features of the other layers.
        n_layers: layers.
        pad_token: id of padding.
        input_p, hidden_p, embed_p, weight_p: dropout of the embeddings' features, between the layers, of whole words, and of the
            recurrent weights.

    Input: (batch, time) ids.
    """

    def __init__(
        self,
        vocab_sz: int,
        *,
        emb_sz: int = 400,
        n_hid: int = 1152,
        n_layers: int = 3,
        pad_token: int = 1,
        input_p: float = 0.6,
        hidden_p: float = 0.2,
        embed_p: float = 0.1,
        weight_p: float = 0.5,
    ) -> None:
        super().__init__()
        if min(vocab_sz, emb_sz, n_hid, n_layers) < 1:
            raise ConfigError(
                f"AWD_LSTM(vocab_sz={vocab_sz}, emb_sz={emb_sz}, n_hid={n_hid}, n_layers={n_layers}): expected at least 1 of each"
            )
        self.out_features = emb_sz
        self.embedding = EmbeddingDropout(vocab_sz, emb_sz, embed_p, pad_token)
        self.input_dropout = RNNDropout(input_p)
        sizes = [emb_sz, *[n_hid] * (n_layers - 1), emb_sz]
        self.layers = nn.ModuleList(LSTMLayer(sizes[i], sizes[i + 1], weight_p) for i in range(n_layers))
        self.dropouts = nn.ModuleList(RNNDropout(hidden_p) for _ in range(n_layers - 1))

    def forward(self, ids: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        """Returns the outputs of the last layer, (batch, time, emb_sz), and the state, tensors (batch, features).

        A state of another number of rows than the batch has begins anew.
        """
        x = self.input_dropout(self.embedding(ids))
        after: State = {}
        for i, layer in enumerate(self.layers):
            before = None
            if state and len(state[f"hidden {i}"]) == len(ids):
                before = state[f"hidden {i}"].to(x.device), state[f"cell {i}"].to(x.device)
            x, (after[f"hidden {i}"], after[f"cell {i}"]) = layer(x, before)
            if i < len(self.dropouts):
                x = self.dropouts[i](x)
        return x, after

    def groups(self) -> list[list[nn.Module]]:
        """Returns the modules that are frozen together, the first ones first."""
        return [[self.embedding], *([layer] for layer in self.layers)]


def _share(p: float, where: str) -> float:
    if not 0 <= p < 1:
        raise ConfigError(f"{where}(p={p}): expected the share that is dropped, at least 0 and less than 1")
    return p
