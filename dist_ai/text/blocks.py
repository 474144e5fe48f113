"""The block of a text, for `DataBlock`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from dist_ai.core.transform import Transform
from dist_ai.data import ColReader, Pad, TransformBlock
from dist_ai.data.datasets import Subset
from dist_ai.errors import ConfigError
from dist_ai.text.corpus import LMStreams, TokenizedPart
from dist_ai.text.rules import PAD, SPECIALS
from dist_ai.text.transforms import JoinFields, ReadText, Tokenize

__all__ = ["TextBlock", "tokenizer_for"]

Vocab = Sequence[str] | Tokenize | None


class TextBlock(TransformBlock):
    """The block of a text: what a getter gives, a file, or the columns of a row; for a classifier or a language model.

    Args:
        vocab: the words in the order of their ids, such as ``dls.vocab`` of a language model; or its `Tokenize`. By default the
            training texts make it.
        is_lm: for a language model: windows of the texts, whose targets are the tokens that follow. Then it is the only block.
        seq_len: tokens in a window.
        backwards: the tokens come from the last to the first.
        tok_tfm: a `Tokenize` instead of the default rules and words: ``Tokenize("bpe")``, ``Tokenize.from_pretrained(file)``.
        min_freq, max_vocab: of the vocabulary; see `Tokenize`.
        max_length: longer texts are cut.
        encoding: of files.
        cache: a folder that keeps the tokens in Arrow files, for corpora larger than memory; see `tokenized`.

    Raises:
        ConfigError: two of `vocab` and `tok_tfm`.

    ```python
    block = DataBlock((TextBlock.from_df("text"), CategoryBlock), get_y=ColReader("label"))
    ```
    """

    def __init__(
        self,
        vocab: Vocab = None,
        *,
        is_lm: bool = False,
        seq_len: int = 72,
        backwards: bool = False,
        tok_tfm: Tokenize | None = None,
        min_freq: int = 3,
        max_vocab: int = 60_000,
        max_length: int | None = None,
        encoding: str = "utf-8",
        cache: str | Path | None = None,
        getters: Sequence[Transform] = (),
    ) -> None:
        tokenize = tokenizer_for(
            vocab,
            tok_tfm,
            is_lm=is_lm,
            backwards=backwards,
            min_freq=min_freq,
            max_vocab=max_vocab,
            max_length=max_length,
        )
        loads = partial(_streams, seq_len=seq_len, cache=cache) if is_lm else partial(_part, cache=cache)
        super().__init__(
            type_tfms=[*getters, ReadText(encoding), JoinFields(), tokenize],
            item_tfms=[],
            batch_tfms=[],
            # Of a tokenizer that is to be made, the special tokens have the first ids.
            collate=Pad(tokenize.pad_id if tokenize.tokenizer else SPECIALS.index(PAD)),
            dataset=loads,
        )

    @classmethod
    def from_df(cls, text_cols: str | int | Sequence[str | int], vocab: Vocab = None, **options: Any) -> Self:
        """Returns the block of a column of a table, or of several, each behind a mark.

        Args:
            text_cols: the column or columns.
            vocab, options: see the class.
        """
        return cls(vocab, getters=[ColReader(text_cols)], **options)

    @classmethod
    def from_folder(cls, path: str | Path | None = None, vocab: Vocab = None, **options: Any) -> Self:
        """Returns the block of text files.

        Args:
            path: not needed: the items say where the files are. Here because fastai's has it.
            vocab, options: see the class.
        """
        return cls(vocab, **options)


def tokenizer_for(vocab: Vocab, tok_tfm: Tokenize | None, **options: Any) -> Tokenize:
    """Returns the tokenizer that arguments ask for: one that is given, of given words, or one to be made.

    Raises:
        ConfigError: both `vocab` and `tok_tfm`, or one that is no `Tokenize`.
    """
    if vocab is not None and tok_tfm is not None:
        raise ConfigError("vocab beside tok_tfm: a Tokenize has its vocabulary; give one of them")
    if tok_tfm is not None and not isinstance(tok_tfm, Tokenize):
        raise ConfigError(f"tok_tfm={tok_tfm!r:.60}: expected a Tokenize, such as Tokenize('bpe')")
    given = vocab if isinstance(vocab, Tokenize) else tok_tfm
    if given is not None:
        changes = {"is_lm": options["is_lm"], "backwards": options["backwards"] or given.backwards}
        if options["max_length"] is not None:
            changes["max_length"] = options["max_length"]
        return dataclasses.replace(given, **changes)
    if vocab is not None:
        assert not isinstance(vocab, Tokenize)
        return Tokenize.from_words(vocab, **options)
    return Tokenize(**options)


def _streams(part: Subset, place: int, bs: int, *, seq_len: int, cache: str | Path | None) -> LMStreams:
    return LMStreams(part, place, bs=bs, seq_len=seq_len, cache=cache)


def _part(part: Subset, place: int, bs: int, *, cache: str | Path | None) -> TokenizedPart:
    return TokenizedPart(part, place, cache=cache)
