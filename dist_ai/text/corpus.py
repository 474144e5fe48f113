"""Tokenized texts: all of a data set, in memory or in an Arrow file that is mapped and not read.

A corpus larger than memory is tokenized once, in parts that come one after the other, and kept in a folder: the next
program finds it there if the texts and the tokenizer are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import torch

from dist_ai.core.sealed import sync
from dist_ai.core.types import TensorLMText
from dist_ai.data import LengthOrder, TokenStreams
from dist_ai.data.cache import alone, partial_folder, put_in_place
from dist_ai.data.datasets import Subset
from dist_ai.data.plan import Order
from dist_ai.data.processes import in_processes
from dist_ai.data.workers import num_cores
from dist_ai.errors import DataError
from dist_ai.text.rules import as_text, text_rules, told_of
from dist_ai.text.transforms import Tokenize

__all__ = ["ArrowTokens", "LMStreams", "TokenizedPart", "tokenized"]


class ArrowTokens:
    """The tokens of many texts, end to end, in an Arrow file that is mapped into memory.

    Args:
        file: written by `tokenized`.

    A slice is an array that lies in the file; one that begins in one record batch and ends in another is copied.

    Attributes:
        lengths: of the texts, int64.
    """

    ndim = 1

    def __init__(self, file: str | Path) -> None:
        self.file = str(file)
        reader = pyarrow.ipc.open_file(pyarrow.memory_map(self.file))
        batches = [reader.get_batch(i).column(0) for i in range(reader.num_record_batches)]
        # A text's tokens lie behind those of the text before it; a list's values are a view of the file.
        self._parts = [np.asarray(batch.flatten()) for batch in batches]
        self.lengths = np.concatenate([np.diff(np.asarray(batch.offsets)).astype(np.int64) for batch in batches])
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.dtype = self._parts[0].dtype

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int]:
        """(tokens,)."""
        return (len(self),)

    def __getitem__(self, where: slice) -> npt.NDArray[np.integer[Any]]:
        begin, end, _ = where.indices(len(self))
        number = int(np.searchsorted(self._ends, begin, side="right"))
        pieces = []
        while begin < end:
            first = int(self._ends[number]) - len(self._parts[number])
            piece = self._parts[number][begin - first : end - first]
            pieces.append(piece)
            begin, number = begin + len(piece), number + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [self._parts[0][:0]])

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrowTokens, (self.file,)  # another process maps the file itself


Tokens = ArrowTokens | npt.NDArray[np.integer[Any]]


def tokenized(
    tokenize: Tokenize, texts: Iterable[str], *, cache: str | Path | None = None, num_workers: int | None = None
) -> tuple[Tokens, npt.NDArray[np.int64]]:
    """Returns the tokens of texts, end to end, and how many each has.

    Args:
        tokenize: how.
        texts: gone through once, or with a `cache` twice.
        cache: a folder that keeps them in an Arrow file, which is mapped and not read; the processes of a machine share it.
        num_workers: processes that tokenize; by default one, or with a `cache` and more than 32 MB of texts all cores.

    Raises:
        DataError: a text has no token; there is no text.
    """
    if cache is None:
        found = list(tokenize.encode_all(texts))
        if not found:
            raise DataError("no texts; there is nothing to learn from")
        return np.concatenate(found), np.array([len(ids) for ids in found], dtype=np.int64)
    key, num_bytes = _fingerprint(tokenize, texts)
    folder = Path(cache) / key
    if (tokens := _kept(folder)) is None:
        if num_workers is None:
            num_workers = num_cores() if num_bytes > _MANY_BYTES else 1
        with alone(folder, f"tokenizing into {cache}", timeout_s=600) as alive:
            if (tokens := _kept(folder)) is None:
                with partial_folder(folder, leftovers_after_s=0) as made:
                    _write(made / _FILE, _parts(tokenize, texts, num_workers), tokenize.num_outputs, alive)
                    put_in_place(made, folder, [_FILE])
                sync(folder)
                sync(folder.parent)
                tokens = ArrowTokens(folder / _FILE)
    return tokens, tokens.lengths


def _kept(folder: Path) -> ArrowTokens | None:
    """Returns the tokens that a folder holds; None where there are none, or not all: an Arrow file's end tells where all lies."""
    try:
        return ArrowTokens(folder / _FILE)
    except (OSError, pyarrow.ArrowException):
        return None


_FILE = "tokens.arrow"
_MANY_BYTES = 32 * 2**20
_PART_BYTES = 2**20


def _fingerprint(tokenize: Tokenize, texts: Iterable[str]) -> tuple[str, int]:
    """Returns a name for these texts with this tokenizer, and how long they are."""
    digest, num_bytes = hashlib.blake2b(repr(tokenize).encode(), digest_size=16), 0
    digest.update(tokenize.tokenizer.encode())
    for name in tokenize.rules or ():
        digest.update(told_of(text_rules.find(name)).encode("utf-8", "surrogatepass"))
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
        num_bytes += len(data)
    return digest.hexdigest(), num_bytes


def _parts(
    tokenize: Tokenize, texts: Iterable[str], num_workers: int
) -> Iterator[tuple[npt.NDArray[np.int32], list[int]]]:
    """Yields the tokens of some texts and their lengths, in order."""
    some = _by_size(texts)
    if num_workers <= 1:
        yield from map(partial(_encoded, tokenize, {}), some)
        return
    # Those that a program adds go with it: the processes do not read the program.
    rules = {name: text_rules.find(name) for name in tokenize.rules or ()}
    yield from in_processes(partial(_encoded, tokenize, rules), some, num_processes=num_workers)


def _encoded(
    tokenize: Tokenize, rules: Mapping[str, Callable[[str], str]], texts: list[str]
) -> tuple[npt.NDArray[np.int32], list[int]]:
    """Returns the tokens of texts, and their lengths.

    Args:
        tokenize: how.
        rules: what this process is to know by name.
        texts: the texts.
    """
    for name, rule in rules.items():
        if name not in text_rules:
            text_rules.add(name, rule)
    found = list(tokenize.encode_all(texts))
    return np.concatenate(found), [len(ids) for ids in found]


def _by_size(texts: Iterable[str]) -> Iterator[list[str]]:
    some: list[str] = []
    size = 0
    for text in texts:
        some.append(text)
        size += len(text)
        if size >= _PART_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _write(
    file: Path, parts: Iterable[tuple[npt.NDArray[np.int32], list[int]]], vocab: int, alive: Callable[[], None]
) -> None:
    kind = pyarrow.uint16() if vocab <= 2**16 else pyarrow.uint32()
    schema = pyarrow.schema([("tokens", pyarrow.large_list(kind))])
    num = 0
    with pyarrow.ipc.new_file(str(file), schema) as writer:
        for ids, lengths in parts:
            offsets = pyarrow.array(np.concatenate([[0], np.cumsum(lengths)]), pyarrow.int64())
            values = pyarrow.array(ids.astype(kind.to_pandas_dtype()), kind)
            column = pyarrow.LargeListArray.from_arrays(offsets, values)
            writer.write_batch(pyarrow.record_batch([column], schema=schema))
            num += len(lengths)
            alive()
    if not num:
        raise DataError("no texts; there is nothing to learn from")
    sync(file)  # the rename that follows must not overtake the content in a power cut


# ------------------------------------------------------------------------------------ what loaders read


class TokenizedPart(Subset):
    """A part of the items whose texts are tokenized all at once; batches hold texts of similar length.

    Args:
        part: the items.
        place: which element of a sample is the text.
        cache: see `tokenized`.

    A text that cannot be tokenized is an error when the loaders are made, not in the middle of an epoch.
    """

    def __init__(self, part: Subset, place: int = 0, *, cache: str | Path | None = None) -> None:
        super().__init__(part.source, part.indices, part.pipelines, part.split_idx)
        self.place = place
        self.tokenize = tokenize_of(part, place)
        self.tokens, self.lengths = tokenized(self.tokenize, Texts(part, place), cache=cache)
        self._ends = np.cumsum(self.lengths)

    def loading_order(self, shuffle: bool) -> Order:
        """Returns batches of similar length; without `shuffle` all texts, the longest first."""
        return LengthOrder(self.lengths, shuffle=shuffle)

    def _sample(self, index: Any) -> tuple[Any, ...]:
        if index < 0:
            index += len(self)
        end = int(self._ends[index])
        ids = self.tokens[end - int(self.lengths[index]) : end]
        item = self.item(index)
        return tuple(
            self.tokenize.typed(ids) if place == self.place else pipeline(item, split_idx=self.split_idx)
            for place, pipeline in enumerate(self.pipelines)
        )


class LMStreams:
    """The windows of a language model's texts: (tokens, the tokens that follow each), `TensorLMText`; see `TokenStreams`.

    Args:
        part: the items.
        place: which element of a sample is the text.
        bs: streams, over all ranks.
        seq_len: tokens in a window.
        cache: see `tokenized`.
    """

    def __init__(
        self, part: Subset, place: int = 0, *, bs: int, seq_len: int = 72, cache: str | Path | None = None
    ) -> None:
        self.split_idx = part.split_idx
        self.tokenize = tokenize_of(part, place)
        tokens, lengths = tokenized(self.tokenize, Texts(part, place), cache=cache)
        self.streams = TokenStreams(tokens, lengths, bs=bs, seq_len=seq_len)

    def __len__(self) -> int:
        return len(self.streams)

    @property
    def num_alike(self) -> int:
        """How many windows, from the first on, have one length; see `TokenStreams`."""
        return self.streams.num_alike

    def __getitem__(self, index: int) -> tuple[TensorLMText, TensorLMText]:
        x, y = self.streams[index]
        return TensorLMText(x), TensorLMText(y)

    def fetch(self, indices: torch.Tensor) -> tuple[TensorLMText, TensorLMText]:
        """Returns the windows of one batch."""
        x, y = self.streams.fetch(indices)
        return TensorLMText(x), TensorLMText(y)

    def loading_order(self, shuffle: bool) -> Order:
        """Returns the order of the windows; see `TokenStreams`."""
        return self.streams.loading_order(shuffle)


@dataclass
class Texts(Iterable[str]):
    """The texts of a part of the items, read one by one; may be gone through again."""

    part: Subset
    place: int

    def __iter__(self) -> Iterator[str]:
        pipeline = self.part.pipelines[self.place]
        tfms = [tfm for tfm in pipeline.tfms if not isinstance(tfm, Tokenize)]
        for i in range(len(self.part)):
            yield self._text(tfms, i)

    def _text(self, tfms: Sequence[Any], i: int) -> str:
        try:
            text = self.part.item(i)
            for tfm in tfms:
                text = tfm(text)
            return as_text(text)
        except DataError as error:
            name = "training" if self.part.split_idx == 0 else "validation"
            raise DataError(f"{name} item {i} ({self.part.item(i)!r:.100}): {error}") from error


def tokenize_of(part: Subset, place: int) -> Tokenize:
    """Returns the tokenizer of a part's element."""
    tfms: Sequence[Any] = part.pipelines[place].tfms
    return next(tfm for tfm in tfms if isinstance(tfm, Tokenize))
