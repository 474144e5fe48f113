"""Tokenizers of Hugging Face's `tokenizers` (Rust), made on the spot: words, byte-pair encoding or unigram; or one that is there.

All are values: the text of a ``tokenizer.json``. The same texts make the same words and byte pairs in every process. Unigram's
probabilities differ a little from process to process, so rank 0 makes it for all, once for a machine: `shared_tokenizer`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from dist_ai.data.cache import alone, cache_folder
from dist_ai.distributed import join
from dist_ai.distributed.collectives import on_main
from dist_ai.errors import ArtifactError, ConfigError, DataError
from dist_ai.text.rules import PAD, SPECIALS, UNK

__all__ = [
    "Kind",
    "as_json",
    "encoder_of",
    "engine_of",
    "pretrained_tokenizer",
    "shared_tokenizer",
    "special_ids",
    "train_tokenizer",
    "word_tokenizer",
]

Kind: TypeAlias = Literal["word", "bpe", "unigram"]

_SPECIAL = re.compile(rf"\b(?:{'|'.join(SPECIALS)})\b")
# As spaCy's English parts words: "don't" is "do n't", "film's" is "film 's", "u.s.a." is one; punctuation stands alone.
_WORDS = (
    r"(?:[^\W\d_]\.){2,}|\d+(?:[.,]\d+)+|\w+(?=n['’]t\b)|n['’]t\b|['’](?:s|re|ve|d|m|ll)(?:\b|(?=n['’]t\b))"
    r"|\w+|\.{2,}|[^\w\s]"
)


def train_tokenizer(texts: Iterable[str], kind: Kind = "word", *, max_vocab: int = 60_000, min_freq: int = 3) -> str:
    """Returns the tokenizer, as JSON, that these texts make; the special tokens of the rules are its first ones.

    Args:
        texts: prepared by the rules, if any are.
        kind: ``"word"``, ``"bpe"`` (byte-pair encoding of bytes: every text has tokens) or ``"unigram"``.
        max_vocab: tokens at most, special ones included; the rarest are left out.
        min_freq: a word (or a pair of pieces) is a token if it comes so often.

    Raises:
        ConfigError: an argument that cannot work.
        DataError: the texts hold no word.
    """
    if kind not in ("word", "bpe", "unigram"):
        raise ConfigError(f"kind={kind!r}: expected 'word', 'bpe' or 'unigram', or a tokenizer's file")
    specials = [
        AddedToken(token, single_word=kind == "word", lstrip=kind != "word", special=True) for token in SPECIALS
    ]
    if max_vocab <= len(specials):
        raise ConfigError(f"max_vocab={max_vocab}: {len(specials)} are special tokens; expected more")
    tokenizer = _empty(kind)
    options: dict[str, Any] = {"vocab_size": max_vocab, "special_tokens": specials, "show_progress": False}
    trainer: trainers.Trainer
    if kind == "word":
        trainer = trainers.WordLevelTrainer(min_frequency=min_freq, **options)
    elif kind == "bpe":
        alphabet = pre_tokenizers.ByteLevel.alphabet() if max_vocab > 256 + len(specials) else []
        trainer = trainers.BpeTrainer(min_frequency=min_freq, initial_alphabet=sorted(alphabet), **options)
    else:
        trainer = trainers.UnigramTrainer(unk_token=UNK, **options)
    # Special tokens have their ids already: the trainers would count them as words, and give them others.
    tokenizer.train_from_iterator((_SPECIAL.sub(" ", text) for text in texts), trainer)
    if tokenizer.get_vocab_size() == len(specials):
        raise DataError(
            f"no token comes {min_freq} times in the training texts, so there is no vocabulary; lower min_freq or give more texts"
        )
    return tokenizer.to_str()


def shared_tokenizer(texts: Iterable[str], kind: Kind = "word", *, max_vocab: int = 60_000, min_freq: int = 3) -> str:
    """Returns what `train_tokenizer` makes, the same on all ranks and in a run that goes on. Collective for ``"unigram"``.

    Of that, rank 0's machine keeps what texts have made in the cache folder; where that is emptied, a run that goes on needs the
    tokenizer itself: ``tok_tfm=Tokenize(tokenizer=...)``.

    Args:
        texts, kind, max_vocab, min_freq: see `train_tokenizer`; gone through twice.
    """
    if kind != "unigram":
        return train_tokenizer(texts, kind, max_vocab=max_vocab, min_freq=min_freq)

    def make() -> str:
        digest = hashlib.blake2b(f"{kind} {max_vocab} {min_freq}".encode(), digest_size=16)
        for text in texts:
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
        file = cache_folder() / "tokenizers" / f"{digest.hexdigest()}.json"
        with alone(file, "making a tokenizer", timeout_s=3600):
            if not file.exists():
                made = train_tokenizer(texts, kind, max_vocab=max_vocab, min_freq=min_freq)
                partial = file.with_suffix(".partial")
                partial.write_text(made, encoding="utf-8")
                partial.replace(file)
            return file.read_text(encoding="utf-8")

    return str(on_main(join(), make, what="making a tokenizer"))


def word_tokenizer(vocab: Sequence[str]) -> str:
    """Returns the tokenizer, as JSON, of these words, in the order of their ids.

    Raises:
        ConfigError: one comes twice, or there is no ``xxunk`` or ``xxpad``.
    """
    words = list(vocab)
    if len(set(words)) != len(words):
        twice = next(word for i, word in enumerate(words) if word in words[:i])
        raise ConfigError(f"the vocabulary has {twice!r} twice")
    if lacking := [token for token in (UNK, PAD) if token not in words]:
        raise ConfigError(
            f"the vocabulary of {len(words)} words has no {' and no '.join(lacking)}; give that of another text data set "
            "(text_vocab=dls.vocab), or put the special tokens first: [*SPECIALS, ...]"
        )
    tokenizer = _empty("word", {word: i for i, word in enumerate(words)})
    tokenizer.add_special_tokens(
        [AddedToken(token, single_word=True, special=True) for token in SPECIALS if token in words]
    )
    return tokenizer.to_str()


def as_json(tokenizer: Any) -> str:
    """Returns a tokenizer as JSON: one of the library `tokenizers`, a fast one of `transformers`, or what is JSON already.

    Raises:
        ConfigError: it is none of these.
    """
    engine = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if isinstance(engine, Tokenizer):
        return engine.to_str()
    if not isinstance(engine, str):
        raise ConfigError(
            f"tokenizer={tokenizer!r:.80}: expected one of the library `tokenizers`, a fast one of `transformers`, or a "
            "tokenizer.json's text; what a function of Python splits by can be a rule (dist_ai.text.text_rules)"
        )
    return engine


def pretrained_tokenizer(source: str | Path) -> str:
    """Returns a tokenizer, as JSON, from a ``tokenizer.json``, or from a folder with one.

    Raises:
        ArtifactError: there is none, or it cannot be read.
    """
    file = Path(source)
    file = file / "tokenizer.json" if file.is_dir() else file
    try:
        text = file.read_text(encoding="utf-8")
        Tokenizer.from_str(text)
    except OSError as error:
        raise ArtifactError(f"no tokenizer at {file}: {error.strerror}; expected a tokenizer.json") from error
    except Exception as error:  # what the library raises has no class of its own
        raise ArtifactError(f"{file} is no tokenizer.json that `tokenizers` reads: {error}") from error
    return text


def special_ids(state: str) -> tuple[int, int | None]:
    """Returns the ids of padding and of what is unknown (None where everything is known) of a tokenizer.

    Raises:
        ConfigError: it has no token for padding.
    """
    engine = engine_of(state)
    padding = (engine.padding or {}).get("pad_token")
    named = [padding, PAD, "[PAD]", "<pad>", "<|padding|>", "<|endoftext|>", "</s>", "<|end_of_text|>"]
    pad = next((i for name in named if name and (i := engine.token_to_id(name)) is not None), None)
    if pad is None:
        raise ConfigError("the tokenizer has no token for padding; add one to its special tokens, such as '[PAD]'")
    unknown = getattr(engine.model, "unk_token", None) or next(
        (name for name in (UNK, "[UNK]", "<unk>") if engine.token_to_id(name) is not None), None
    )
    return pad, None if unknown is None else engine.token_to_id(unknown)


@lru_cache(maxsize=8)
def engine_of(state: str) -> Tokenizer:
    """Returns the tokenizer of this JSON, without padding and truncation; one for all who ask in this process."""
    engine = Tokenizer.from_str(state)
    description = json.loads(state)
    if description.get("padding") or description.get("truncation"):
        padding = description.get("padding")
        engine.no_truncation()
        engine.no_padding()
        if padding and engine.token_to_id(padding["pad_token"]) is None:
            engine.add_special_tokens([padding["pad_token"]])
    return engine


@lru_cache(maxsize=8)
def encoder_of(state: str) -> Callable[[list[str]], Iterable[Sequence[int]]]:
    """Returns what makes the ids of many texts with the tokenizer of this JSON.

    Our words are parted in Python and looked up in a dict, which takes half the processor time of the Rust engine: that also
    writes down where each token lies. The ids are the same; texts with letters on which the two disagree go to the engine.
    """
    engine = engine_of(state)
    if not _parts_our_words(json.loads(state)):
        return lambda texts: [each.ids for each in engine.encode_batch_fast(texts)]
    vocab = engine.get_vocab()
    id_of = _Ids(vocab, vocab[UNK]).__getitem__

    def encode(texts: list[str]) -> Iterable[Sequence[int]]:
        for text in texts:
            if _DISPUTED.search(text) is None:
                yield list(map(id_of, _words(text)))
            else:
                yield engine.encode(text).ids

    return encode


class _Ids(dict[str, int]):
    """The ids of words, and of one that is not among them that of the unknown."""

    def __init__(self, ids: dict[str, int], unknown: int) -> None:
        super().__init__(ids)
        self.unknown = unknown

    def __missing__(self, word: str) -> int:
        return self.unknown


def _parts_our_words(description: dict[str, Any]) -> bool:
    """Returns whether a tokenizer is one of those that `_words` stands in for."""
    splits = description["pre_tokenizer"] or {}
    return (
        description["model"]["type"] == "WordLevel"
        and UNK in description["model"]["vocab"]
        and splits.get("pattern") == {"Regex": _WORDS}
        and splits["behavior"] == "Removed"
        and splits["invert"]
        and description["normalizer"] is None
        and description["post_processor"] is None
        and all(each["single_word"] and not (each["lstrip"] or each["rstrip"]) for each in description["added_tokens"])
    )


# What is a letter is disputed of combining marks, of raised numbers and fractions, and of scripts that write with marks; what
# is a space, of four control characters.
_DISPUTED = re.compile(
    r"[^\u0000-\u001b\u0020-\u00b1\u00b4-\u00b8\u00ba\u00bb\u00bf-\u02ff\u0370-\u0482\u048a-\u0590\u1e00-\u200a\u2010-\u203e]"
)
# `_WORDS` without its \w+(?=n't), which goes back through every word: n't is parted from its word before. Initials are looked
# for only where there are any.
_REST = r"n['’]t\b|[^\W\d]\w*+|['’](?:s|re|ve|d|m|ll)\b|\d+(?:[.,]\d+)+|\w+|\.{2,}|[^\w\s]"
_PARTED = re.compile(_REST)
_PARTED_INITIALS = re.compile(rf"(?:[^\W\d_]\.){{2,}}|{_REST}")
_INITIALS = re.compile(r"\.\w\.")
_NOT = re.compile(r"(n(?<=\wn)['’]t)\b")


def _words(text: str) -> list[str]:
    """Returns what `_WORDS` finds."""
    parted = _PARTED if _INITIALS.search(text) is None else _PARTED_INITIALS
    return parted.findall(" ".join(_NOT.split(text)) if "n't" in text or "n’t" in text else text)


def _empty(kind: Kind, vocab: dict[str, int] | None = None) -> Tokenizer:
    if kind == "word":
        made = Tokenizer(models.WordLevel(vocab or {}, unk_token=UNK))
        made.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    elif kind == "bpe":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        made.decoder = decoders.Metaspace(prepend_scheme="never")
    return made
