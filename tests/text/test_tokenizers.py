"""Tokenizers: made of texts, of words, of files; the same in every process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from dist_ai.core.transform import Transform
from dist_ai.core.types import TensorLMText, TensorText
from dist_ai.errors import ArtifactError, ConfigError, DataError
from dist_ai.text import SPECIALS, Tokenize
from dist_ai.text.tokenizers import encoder_of, train_tokenizer, word_tokenizer

WORDS = (
    "the",
    "film",
    "was",
    "a",
    "great",
    "success",
    "but",
    "nobody",
    "knows",
    "why",
    "it",
    "works",
    "so",
    "well",
    "in",
)


def many_texts(num: int = 300) -> list[str]:
    chance = random.Random(0)
    return [" ".join(chance.choices(WORDS, k=9)).capitalize() + "." for _ in range(num)]


@pytest.mark.parametrize("kind", ["word", "bpe", "unigram"])
def test_every_kind_has_the_special_tokens_first_and_gives_the_text_back(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIST_AI_CACHE", str(tmp_path))
    tokenize = Tokenize(kind, max_vocab=400, min_freq=1)
    tokenize.setup(many_texts())
    assert tokenize.vocab[: len(SPECIALS)] == list(SPECIALS)
    assert len(set(tokenize.vocab)) == tokenize.num_outputs <= 400
    assert (tokenize.pad_id, tokenize.unknown_id) == (1, 0)
    text = "The film was a GREAT success."
    ids = tokenize(text)
    assert type(ids) is TensorText
    assert ids.dtype == torch.int64
    assert tokenize.tokens(ids)[:2] == ["xxbos", "xxmaj"]
    assert tokenize.decode(ids) == text
    padded = torch.nn.functional.pad(ids, (0, 3), value=1)
    assert tokenize.decode(padded) == text


@pytest.mark.parametrize("kind", ["word", "bpe", "unigram"])
def test_a_tokenizer_is_the_same_in_every_process(kind: str, tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_tokenizers import many_texts\n"
        "from dist_ai.text.tokenizers import shared_tokenizer; import hashlib\n"
        f"print(hashlib.sha256(shared_tokenizer(many_texts(), {kind!r}, max_vocab=300, min_freq=1).encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": str(seed), "DIST_AI_CACHE": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(found) == 1


def test_a_tokenizer_travels_as_plain_data() -> None:
    tokenize = Tokenize(min_freq=1, backwards=True, max_length=5, is_lm=True)
    tokenize.setup(many_texts())
    again = Transform.from_plain(json.loads(json.dumps(tokenize.to_plain())))
    assert again == tokenize
    ids = again("The film was a great success")
    assert type(ids) is TensorLMText
    assert len(ids) == 5
    assert again.tokens(ids)[-1] == "xxbos"
    assert again.decode(ids) == "The film was"


def test_rare_words_are_unknown() -> None:
    tokenize = Tokenize(min_freq=2)
    tokenize.setup(["good good once", "good"])
    assert tokenize.decode(tokenize("once good")) == "xxunk good"


def test_words_of_another_data_set_keep_their_ids() -> None:
    first = Tokenize(min_freq=1)
    first.setup(many_texts())
    again = Tokenize.from_words(first.vocab)
    assert again.vocab == first.vocab
    np.testing.assert_array_equal(again("The film works!"), first("The film works!"))


def test_many_texts_are_tokenized_as_one_is() -> None:
    tokenize = Tokenize(min_freq=1)
    texts = many_texts(700)
    tokenize.setup(texts)
    for ids, text in zip(tokenize.encode_all(texts), texts, strict=True):
        assert ids.tolist() == tokenize(text).tolist()


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """Returns the file of a tokenizer like BERT's."""
    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "##s"])}
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    made.enable_padding(length=50)
    made.enable_truncation(3)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_pretrained_tokenizer_runs_without_rules_padding_or_truncation(pretrained: Path) -> None:
    for source in (pretrained, pretrained.parent):
        tokenize = Tokenize.from_pretrained(source)
        assert tokenize("good films Good").tolist() == [2, 4, 6, 7, 1, 3]
        assert (tokenize.pad_id, tokenize.unknown_id) == (0, 1)
    assert tokenize.decode(tokenize("good film")) == "good film"


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no tokenizer at .*nowhere\.json: No such file or directory; expected"):
        Tokenize.from_pretrained(tmp_path / "nowhere.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"is no tokenizer\.json that `tokenizers` reads"):
        Tokenize.from_pretrained(tmp_path)


def test_a_tokenizer_may_be_given_as_its_library_has_it() -> None:
    made = Tokenizer.from_str(train_tokenizer(many_texts(), "bpe"))

    class Fast:  # as transformers'
        backend_tokenizer = made

    texts = ["the film was great", "nobody knows why"]
    expected = [ids.tolist() for ids in Tokenize(tokenizer=made.to_str()).encode_all(texts)]
    for given in (made, Fast()):
        tokenize = Tokenize(tokenizer=given)  # type: ignore[arg-type]  # its field holds the JSON that is made of it
        assert isinstance(tokenize.tokenizer, str)
        assert [ids.tolist() for ids in tokenize.encode_all(texts)] == expected
    with pytest.raises(
        ConfigError, match=r"tokenizer=<method 'split' of 'str' objects>: expected one of the library `tokeni"
    ):
        Tokenize(tokenizer=str.split)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(
        ConfigError, match=r"rules has <method 'lower' .*>: rules are given by name, .*register a function with"
    ):
        Tokenize(rules=[str.lower])  # type: ignore[list-item]  # wrong on purpose


def test_arguments_that_cannot_work_are_named() -> None:
    with pytest.raises(ConfigError, match="kind='words': expected 'word', 'bpe' or 'unigram', or a tokenizer's file"):
        train_tokenizer(["a"], "words")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_vocab=9: 9 are special tokens; expected more"):
        train_tokenizer(["a"], max_vocab=9)
    with pytest.raises(DataError, match="no token comes 3 times in the training texts, so there is no vocabulary"):
        train_tokenizer(["a b", "a c"])
    with pytest.raises(ConfigError, match="the vocabulary has 'a' twice"):
        word_tokenizer(["a", "b", "a"])
    with pytest.raises(ConfigError, match="the vocabulary of 1 words has no xxunk and no xxpad; give that of another"):
        word_tokenizer(["a"])
    with pytest.raises(ConfigError, match="max_length=0: expected at least 1 token"):
        Tokenize(max_length=0)
    with pytest.raises(DataError, match="the tokenizer is not made yet: set the transform up"):
        Tokenize()("a text")
    with pytest.raises(DataError, match="training item 1: the text is missing"):
        Tokenize().setup(["a", None])


def test_a_text_without_a_token_is_named(pretrained: Path) -> None:
    made = Tokenizer.from_file(str(pretrained))
    made.post_processor = None
    tokenize = Tokenize(tokenizer=made.to_str())
    with pytest.raises(DataError, match="no token comes of the text"):
        list(tokenize.encode_all([" \u2028 "]))


def test_a_tokenizer_without_padding_is_named() -> None:
    made = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    with pytest.raises(ConfigError, match="the tokenizer has no token for padding; add one to its special tokens"):
        Tokenize(tokenizer=made.to_str()).pad_id  # noqa: B018


PIECES = [
    *SPECIALS,
    "don't",
    "can’t",
    "n't",
    "'ll",
    "film's",
    "u.s.a.",
    "_.b.",
    "1,000.5",
    "..",
    "....",
    "_",
    "²",
    "é",
    "ß",
    "Ωx",
    "да",
    "हिन्दी",
    "e\u0301",
]
PIECES += [*"n't’ .,!5xN\n\u2014", "xxmajor", "axxbos", "xxrep'll"]


def test_words_parted_in_python_are_those_of_the_rust_engine() -> None:
    chance = random.Random(0)
    texts = ["".join(chance.choices(PIECES, k=chance.randint(1, 12))) for _ in range(4000)]
    letters = [chr(i) for i in range(1, 0x3000)]
    texts += [f"a{x}a 1{x}2 {x}{x} n{x}t x'{x} {x}'s 1.{x} {x}n't xxmaj{x}" for x in letters]
    assert {text.isascii() for text in texts} == {True, False}
    found = sorted({token for text in texts for token, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)})
    state = word_tokenizer(list(dict.fromkeys([*PIECES, *letters, *found])))
    engine = Tokenizer.from_str(state)
    for text, ids in zip(texts, encoder_of(state)(texts), strict=True):
        assert list(ids) == engine.encode(text).ids, repr(text)


def test_a_tokenizer_of_words_that_are_parted_otherwise_is_left_to_its_engine() -> None:
    made = Tokenizer(models.WordLevel({"xxunk": 0, "don't": 1, "go": 2}, unk_token="xxunk"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert list(encoder_of(made.to_str())(["don't go away"])) == [[1, 2, 0]]


def test_a_word_that_begins_like_a_special_token_is_a_word() -> None:
    [ids] = Tokenize.from_words([*SPECIALS, "xxmajor"], rules=()).encode_all(["xxmajor xxmaj"])
    assert ids.tolist() == [len(SPECIALS), SPECIALS.index("xxmaj")]
