"""Rules before the tokenizer, and what undoes them."""

from __future__ import annotations

import pytest

from dist_ai.errors import ArtifactError, DataError
from dist_ai.text.rules import as_text, in_fields, prepared, restored, text_rules


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Hello", "xxbos xxmaj hello"),
        ("NASA is GREAT", "xxbos xxup nasa is xxup great"),
        ("no no no", "xxbos xxwrep 3 no"),
        ("no no", "xxbos no no"),
        ("so goood", "xxbos so goood"),
        ("so gooood", "xxbos so g xxrep 4 o d"),
        ("wow!!!!!", "xxbos wow xxrep 5 !"),
        ("100000 people", "xxbos 100000 people"),
        ("and/or", "xxbos and / or"),
        ("a  b\u00a0c", "xxbos xxmaj a b c".replace("xxmaj a", "a")),
        ("x &amp; y<br />z #39;s", "xxbos x & y\nz 's"),
        ("É là", "xxbos xxmaj é là"),
        ("xxmaj said", "xxbos xxmaj said"),
    ],
)
def test_fastais_rules(text: str, wanted: str) -> None:
    assert prepared(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "A GOOD film!!!! Very very very good.",
        "It isn't (quite) what you'd expect, is it?",
        'He said "no" twice; then: 3.5 times...',
        "NASA NASA NASA launched",
        "I'm in the U",
    ],
)
def test_what_the_rules_did_is_undone(text: str) -> None:
    from dist_ai.text import Tokenize

    tokenize = Tokenize(min_freq=1)
    tokenize.setup([text])
    assert tokenize.decode(tokenize(text)) == text


def test_a_mark_of_repetition_without_a_count_or_with_a_huge_one_is_taken_as_it_can_be() -> None:
    assert restored(["xxrep", "word", "xxwrep"]) == "word"
    assert len(restored(["xxrep", "999999999", "a"])) == 1000


def test_fields_are_marked() -> None:
    assert in_fields(["a", "b"]) == "xxfld 1 a xxfld 2 b"


def test_a_rule_of_ones_own_has_a_name() -> None:
    text_rules.add("test_no_vowels", lambda text: text.replace("a", ""))
    assert prepared("banana", ["test_no_vowels", "add_bos", "add_eos"]) == "xxbos bnn xxeos"
    with pytest.raises(ArtifactError, match="text rule 'test_no_vowel' is not known in this program; did you mean"):
        prepared("x", ["test_no_vowel"])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "the text is missing; expected a string"),
        (float("nan"), "the text is missing"),
        (3, r"the text is a int \(3\); expected a string: fill it, convert it, or leave such rows out"),
        ("  ", "the text is empty; fill it, or leave such rows out"),
    ],
)
def test_what_is_no_text_is_named(value: object, says: str) -> None:
    with pytest.raises(DataError, match=says):
        as_text(value)
