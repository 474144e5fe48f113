"""Transforms of texts: read, joined, tokenized; and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from dist_ai.core.transform import ItemTransform, Transform
from dist_ai.core.types import TensorLMText, TensorText, plain
from dist_ai.data.table import missing, other_encoding, require_encoding
from dist_ai.errors import ConfigError, DataError
from dist_ai.text.rules import BOS, DEFAULT_RULES, EOS, SPECIALS, as_text, in_fields, prepared, restored
from dist_ai.text.tokenizers import (
    Kind,
    as_json,
    encoder_of,
    engine_of,
    pretrained_tokenizer,
    shared_tokenizer,
    special_ids,
    word_tokenizer,
)

__all__ = ["JoinFields", "ReadText", "Tokenize"]


@dataclass
class ReadText(Transform):
    """A file's text. Text passes through, so a model that was trained on files predicts from text too.

    Args:
        encoding: of the files.

    Raises:
        ConfigError: there is no such encoding.
        DataError: a file has another encoding.
    """

    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        require_encoding(self.encoding)

    def encodes(self, x: Path) -> Any:
        """Returns the text."""
        try:
            return x.read_text(encoding=self.encoding)
        except UnicodeDecodeError as error:
            wrong = f"byte {error.start} is {error.object[error.start]:#04x}"
            raise DataError(other_encoding(x, self.encoding, wrong, error.object)) from error


@dataclass
class JoinFields(ItemTransform):
    """One text of the values of several columns, of which some may be empty or missing.

    Args:
        mark: put a mark and its number before each, also where it is empty; see `dist_ai.text.rules.in_fields`.

    Raises:
        DataError: all are empty, or one is no text.

    >>> JoinFields()(["a title", "a body"]), JoinFields()([None, "a body"])
    ('xxfld 1 a title xxfld 2 a body', 'xxfld 1 xxfld 2 a body')
    """

    mark: bool = True

    def encodes(self, x: list | tuple) -> Any:
        """Returns the text."""
        texts = [
            "" if missing(value) or (isinstance(value, str) and not value.strip()) else as_text(value) for value in x
        ]
        if not any(texts):
            raise DataError(f"the text is empty in all of its {len(texts)} fields; fill one, or leave such rows out")
        return in_fields(texts) if self.mark else " ".join(filter(None, texts))


@dataclass
class Tokenize(Transform):
    """Text to token ids, `TensorText`, and back to text.

    The vocabulary that texts make has the special tokens first, then words by how often they come and, of those that come equally
    often, by the alphabet. fastai's has those by which comes first, and is filled up with ``xxfake`` to a multiple of 8.

    Args:
        kind: of the tokenizer that the training texts make: ``"word"``, ``"bpe"`` or ``"unigram"``; see `train_tokenizer`.
        rules: what prepares a text, by name; see `dist_ai.text.rules`. By default `DEFAULT_RULES`, in the spirit of fastai's, and
            none before a tokenizer that is given.
        max_vocab, min_freq: of the vocabulary; see `train_tokenizer`.
        max_length: longer texts are cut behind so many tokens.
        backwards: the tokens come from the last to the first.
        is_lm: for a language model, whose texts are `TensorLMText`.
        tokenizer: one that is there already, as JSON; or of `tokenizers`, or a fast one of `transformers`, of which the JSON is
            taken. By default the training texts make it.

    >>> tokenize = Tokenize(min_freq=1)
    >>> tokenize.setup(["A good film.", "A bad film!"])
    >>> tokenize("A good film."), tokenize.tokens(tokenize("A film"))
    (TensorText([ 2,  8,  9, 14, 10, 12]), ['xxbos', 'xxmaj', 'a', 'film'])
    >>> tokenize.decode(tokenize("A good film."))
    'A good film.'
    """

    reads_text: ClassVar[bool] = True

    kind: Kind = "word"
    rules: Sequence[str] | None = None
    max_vocab: int = 60_000
    min_freq: int = 3
    max_length: int | None = None
    backwards: bool = False
    is_lm: bool = False
    tokenizer: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise ConfigError(f"max_length={self.max_length}: expected at least 1 token")
        self.tokenizer = as_json(self.tokenizer)
        if self.rules is None:
            self.rules = () if self.tokenizer else DEFAULT_RULES
        self.rules = list(self.rules)
        for rule in self.rules:
            if not isinstance(rule, str):
                raise ConfigError(
                    f"rules has {rule!r:.80}: rules are given by name, so that an export can name them; register a function with "
                    "@dist_ai.text.text_rules.register('my_rule') and give 'my_rule'"
                )

    @classmethod
    def from_words(cls, vocab: Sequence[str], **options: Any) -> Tokenize:
        """Returns the transform whose vocabulary is these words, in the order of their ids."""
        return cls(tokenizer=word_tokenizer(vocab), rules=options.pop("rules", DEFAULT_RULES), **options)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Tokenize:
        """Returns the transform of a ``tokenizer.json``, or of a folder with one; no rules run before it."""
        return cls(tokenizer=pretrained_tokenizer(source), **options)

    def setups(self, items: Sequence) -> None:
        """Makes the tokenizer of the training texts, unless it is there."""
        if not self.tokenizer:
            self.tokenizer = shared_tokenizer(
                _Prepared(items, self.rules or ()), self.kind, max_vocab=self.max_vocab, min_freq=self.min_freq
            )

    def encodes(self, x: object) -> Any:
        """Returns the token ids, int64 (length,)."""
        if isinstance(x, TensorText):
            return x
        [ids] = self.encode_all([as_text(x)])
        return self.typed(ids)

    def decodes(self, x: TensorText) -> Any:
        """Returns the text, without padding; capitals and repetitions as before the rules."""
        return self.text(plain(x).flatten().tolist())

    def typed(self, ids: npt.ArrayLike) -> TensorText:
        """Returns ids as the tensor that this transform makes."""
        tensor = torch.from_numpy(np.asarray(ids, dtype=np.int64))
        return TensorLMText(tensor) if self.is_lm else TensorText(tensor)

    def encode_all(self, texts: Iterable[str]) -> Iterator[npt.NDArray[np.int32]]:
        """Yields the token ids of texts, int32 each.

        Raises:
            DataError: a text has no token.
        """
        encode = encoder_of(self._state)
        for some in _in_chunks(texts, _AT_ONCE):
            ready = [prepared(text, self.rules or ()) for text in some]
            for text, found in zip(some, encode(ready), strict=True):
                ids = np.array(found, dtype=np.int32)[: self.max_length]
                if not len(ids):
                    raise DataError(f"no token comes of the text {text!r:.50}; fill it, or leave such rows out")
                yield ids[::-1] if self.backwards else ids

    def text(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids, without padding."""
        ids = [i for i in ids if i != self.pad_id]
        ids = ids[::-1] if self.backwards else ids
        if not self.rules:
            return self._engine.decode(ids, skip_special_tokens=True)
        return restored(self._spelt(ids).split())

    def tokens(self, ids: Any) -> list[str]:
        """Returns the tokens of ids, as the model sees them."""
        return [self._engine.id_to_token(int(i)) or "" for i in ids]

    @property
    def vocab(self) -> list[str]:
        """The tokens, in the order of their ids."""
        return self.tokens(range(self.num_outputs)) if self.tokenizer else []

    @property
    def num_outputs(self) -> int:
        """How many tokens there are; 0 before set-up."""
        return self._engine.get_vocab_size() if self.tokenizer else 0

    @property
    def pad_id(self) -> int:
        """The id of padding."""
        return special_ids(self.tokenizer)[0]

    @property
    def unknown_id(self) -> int | None:
        """The id of what is not in the vocabulary; None where everything is."""
        return special_ids(self.tokenizer)[1]

    @property
    def end_id(self) -> int | None:
        """The id of the mark that the rules put where a model comes to the end of a text: ``xxeos``, or ``xxbos`` backwards.

        None where they put none there.
        """
        words = prepared("a", self.rules or ()).split() or [""]
        mark = words[0] if self.backwards else words[-1]
        return self.id_of(mark) if mark in (BOS, EOS) else None

    def id_of(self, token: str) -> int | None:
        """Returns the id of a token; None if the vocabulary does not have it."""
        found: int | None = self._engine.token_to_id(token)
        return found

    @property
    def _engine(self) -> Any:
        return engine_of(self._state)

    @property
    def _state(self) -> str:
        if not self.tokenizer:
            raise DataError(
                "the tokenizer is not made yet: set the transform up on the training texts, or give tokenizer="
            )
        return self.tokenizer

    def _spelt(self, ids: Sequence[int]) -> str:
        """Returns the tokens as one text, special tokens as words of their own."""
        engine = self._engine
        if type(engine.model).__name__ == "WordLevel":
            return " ".join(self.tokens(ids))
        parts: list[str] = []
        run: list[int] = []
        for i in [*ids, None]:
            token = None if i is None else engine.id_to_token(i)
            if i is not None and token not in SPECIALS:
                run.append(i)
                continue
            parts += [engine.decode(run, skip_special_tokens=False)] if run else []
            parts += [f" {token} "] if token else []
            run = []
        return "".join(parts)


@dataclass
class _Prepared(Iterable[str]):
    """The training texts after the rules; where one is none, the error says which."""

    items: Sequence[Any]
    rules: Sequence[str]

    def __iter__(self) -> Iterator[str]:
        for i in range(len(self.items)):
            try:
                text = as_text(self.items[i])
            except DataError as error:
                raise DataError(f"training item {i}: {error}") from error
            yield prepared(text, self.rules)


def _in_chunks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    some: list[str] = []
    for text in texts:
        some.append(text)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


_AT_ONCE = 512  # texts
