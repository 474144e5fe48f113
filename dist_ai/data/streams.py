"""Token streams for language models: documents end to end, read as `bs` texts in parallel, window after window.

Row j of each batch goes on where row j of the batch before ended, so a recurrent model carries its state from batch to
batch; and each rank keeps its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dist_ai.core.randomness import mix64_int, name_key
from dist_ai.data.plan import Dealt, Indices, Order, Permutation, epoch_key
from dist_ai.errors import ConfigError, DataError

__all__ = ["TokenStreams"]


class TokenStreams:
    """Windows of a text for a language model: a sample is (tokens, the tokens that follow each), int64.

    The documents, in a new order each epoch where they are shuffled, are put end to end and cut into `bs` streams of equal
    length; the fewer than `bs` tokens that are left over wait for another order. Batch k holds the k-th window of every
    stream; the windows of the last batch may be shorter. Shuffle with `DataLoader(streams, bs=streams.bs, shuffle=True)`.

    Args:
        tokens: all documents, one after the other, (n,) integers; an array on disk (`np.memmap`, or what has `ndim`, `dtype`,
            `shape` and slices as an array has) is read where needed.
        lengths: of the documents, in tokens; by default all is one document. Holds 16 bytes a document.
        bs: streams, over all ranks: the loader's `bs`.
        seq_len: tokens in a window.

    Raises:
        ConfigError: the lengths do not add up, or `bs` or `seq_len` is not at least 1.
        DataError: there is no window: fewer than `bs` + 1 tokens.

    >>> streams = TokenStreams(torch.arange(13), bs=2, seq_len=4)
    >>> x, y = streams.fetch(torch.tensor([0, 1]))
    >>> x.tolist(), y[0].tolist()
    ([[0, 1, 2, 3], [6, 7, 8, 9]], [1, 2, 3, 4])
    >>> streams[2]
    (tensor([4, 5]), tensor([5, 6]))
    """

    def __init__(
        self,
        tokens: Any,
        lengths: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        *,
        bs: int = 64,
        seq_len: int = 72,
    ) -> None:
        given = tokens.numpy() if isinstance(tokens, torch.Tensor) else tokens
        # What has slices and a dtype stays what it is: it may be larger than memory.
        self.tokens: Any = given if hasattr(given, "dtype") else np.asarray(given)
        if self.tokens.ndim != 1 or self.tokens.dtype.kind not in "iu":
            raise ConfigError(
                f"tokens of shape {self.tokens.shape} and dtype {self.tokens.dtype}: expected (n,) integers; "
                "put the documents end to end and give their lengths"
            )
        for name, number in (("bs", bs), ("seq_len", seq_len)):
            if number < 1:
                raise ConfigError(f"{name}={number}: expected at least 1")
        self.lengths = np.asarray([len(self.tokens)] if lengths is None else lengths, dtype=np.int64)
        if (self.lengths < 0).any() or self.lengths.sum() != len(self.tokens):
            raise ConfigError(
                f"{len(self.lengths)} lengths that add up to {self.lengths.sum()} for {len(self.tokens)} tokens: "
                "expected 0 or more each, and as many tokens together"
            )
        self.bs, self.seq_len = bs, seq_len
        self._stream_length = (len(self.tokens) - 1) // bs
        if self._stream_length < 1:
            raise DataError(
                f"{len(self.tokens)} tokens make no {bs} streams: at least {bs + 1} are needed; use a smaller bs"
            )
        self._documents = _Documents(self.lengths, None)

    def __len__(self) -> int:
        """Number of windows in an epoch."""
        return -(-self._stream_length // self.seq_len) * self.bs

    @property
    def num_alike(self) -> int:
        """How many windows, from the first on, have one length, so that any of them make a batch."""
        return max(self._stream_length // self.seq_len, 1) * self.bs

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns a window; those from len() on are of the shuffled epochs."""
        if index < 0:
            raise IndexError(f"window {index}: expected 0 or more")
        x, y = self.fetch(torch.tensor([index]))
        return x[0], y[0]

    def fetch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the windows of one batch, two int64 tensors (windows, tokens).

        Raises:
            DataError: windows of different lengths.
        """
        passes, windows = np.divmod(indices.numpy(), len(self))
        numbers, streams = np.divmod(windows, self.bs)
        begins = numbers * self.seq_len
        sizes = np.minimum(self.seq_len, self._stream_length - begins)
        if len(set(sizes.tolist())) > 1:
            raise DataError(
                f"windows of {sorted(set(sizes.tolist()))} tokens in one batch: the last of a stream is shorter, so windows are "
                f"loaded in their own order; use DataLoader(streams, bs={self.bs}) with shuffle=True or False"
            )
        read = np.empty((len(windows), int(sizes[0]) + 1), dtype=np.int64)
        for row, number, begin in zip(
            read, passes.tolist(), (streams * self._stream_length + begins).tolist(), strict=True
        ):
            self._in_pass(number).read(self.tokens, begin, row)
        result = torch.from_numpy(read)
        return result[:, :-1], result[:, 1:]

    def loading_order(self, shuffle: bool) -> Order:
        """Returns the order of the windows: their own, in shuffled documents if wanted."""
        return _StreamOrder(self, shuffle)

    def _in_pass(self, number: int) -> _Documents:
        """Returns the order of the documents: 0 is their own, the others are random keys."""
        key = number or None
        if self._documents.key != key:  # one is kept: an epoch has one
            self._documents = _Documents(self.lengths, key)
        return self._documents


class _Documents:
    """The documents in one order: where each begins, end to end, and where it stands in the tokens."""

    def __init__(self, lengths: npt.NDArray[np.int64], key: int | None) -> None:
        self.key = key
        begins = np.cumsum(lengths) - lengths
        if key is not None:
            order = Permutation(len(lengths), key=mix64_int(key + _DOCUMENTS))(np.arange(len(lengths)))
            lengths, begins = lengths[order], begins[order]
        self.ends, self.shift = np.cumsum(lengths), begins - (np.cumsum(lengths) - lengths)

    def read(self, tokens: Any, begin: int, out: npt.NDArray[np.int64]) -> None:
        """Fills `out` with the tokens from the `begin`-th on."""
        filled = 0
        document = int(np.searchsorted(self.ends, begin, side="right"))
        while filled < len(out):
            at, end = begin + filled, int(self.ends[document])
            size = min(end - at, len(out) - filled)
            place = at + int(self.shift[document])
            out[filled : filled + size] = tokens[place : place + size]
            filled, document = filled + size, document + 1


class _StreamOrder:
    """Windows in their own order. The number of a shuffled one tells the order of the documents it lies in."""

    repeats = False
    dealt: Dealt = "cards"  # rank r has rows r, r + W, ... of every batch: its streams stay its own

    def __init__(self, streams: TokenStreams, shuffle: bool) -> None:
        self.bs, self.num_windows, self.shuffle = streams.bs, len(streams), shuffle

    def __len__(self) -> int:
        return self.num_windows

    def of_epoch(self, epoch: int, *, seed: int, batch_size: int) -> Callable[[Indices], Indices]:
        """Returns the order of an epoch; see `Order`."""
        if batch_size != self.bs:
            raise ConfigError(f"bs={batch_size} for {self.bs} streams; give the loader and TokenStreams the same bs")
        # The key goes into the sample's number, because that is all a loader worker is told: 1..2**k, with room for the windows.
        limit = (1 << 62) // self.num_windows - 1
        number = 1 + epoch_key(seed, epoch) % limit if self.shuffle else 0
        return lambda positions: positions + number * self.num_windows


_DOCUMENTS = name_key("documents of token streams")
