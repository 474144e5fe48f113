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
        ("so good", "xxbos so good"),
        ("so goood", "xxbos so g xxrep 3 o d"),
        ("well... no....", "xxbos well... no xxrep 4 ."),
        ("so gooood", "xxbos so g xxrep 4 o d"),
        ("wow!!!!!", "xxbos wow xxrep 5 !"),
        ("100000 people", "xxbos 100000 people"),
        ("and/or", "xxbos and / or"),
        ("a  b\u00a0c", "xxbos xxmaj a b c".replace("xxmaj a", "a")),
        ("x &amp; y<br />z #39;s", "xxbos x & y\nz 's"),
        ("&quot;a&quot; &#39;b quot;", 'xxbos "a" \'b "'),
        ("É là", "xxbos xxmaj é là"),
        ("xxmaj said", "xxbos xxmaj said"),
        ("I DON'T, I'M SURE", "xxbos xxmaj i xxup don't, xxup i'm xxup sure"),
        ("CAN’T WE'LL I'D'VE", "xxbos xxup can’t xxup we'll xxup i'd've"),
        ("Don'T We'Re We'RE", "xxbos xxmaj don't xxmaj we're xxmaj we're"),
        ("IT'S NASA's JOHN’S", "xxbos xxup it xxup 's xxup nasa's xxup john xxup ’s"),
        ("O'Brien 'Tis", "xxbos xxmaj o'xxmaj brien 'xxmaj tis"),
        ("U2 B2B H2O 3D 2nd", "xxbos xxup u2 xxup b2b xxup h2o xxup 3d 2nd"),
        ("ÉTÉ МИР ΑΒΓ", "xxbos xxup été xxup мир xxup αβγ"),
        ("Łódź Šar Ёлка", "xxbos xxmaj łódź xxmaj šar xxmaj ёлка"),
        ("the U.S.A. at 5 P.M.", "xxbos the xxup u.s.a. at 5 xxup p.m."),
    ],
)
def test_the_default_rules(text: str, wanted: str) -> None:
    assert prepared(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "A GOOD film!!!! Very very very good.",
        "It isn't (quite) what you'd expect, is it?",
        'He said "no" twice; then: 3.5 times...',
        "NASA NASA NASA launched",
        "I'm in the U",
        "I DON'T LIKE IT, I'M SURE, YOU'LL SEE",
        "IT’S NASA's, and JOHN'S; CAN’T be",
        "U2, B2B, H2O in 3D",
        "ÉTÉ МИР ΑΒΓ Łódź Šar Ёлка",
        "J.R.R. Tolkien in the U.S.A. at 5 P.M.",
    ],
)
def test_what_the_rules_did_is_undone(text: str) -> None:
    from dist_ai.text import Tokenize

    tokenize = Tokenize(min_freq=1)
    tokenize.setup([text])
    assert tokenize.decode(tokenize(text)) == text


def test_contractions_in_capitals_and_initials_are_the_tokens_of_small_ones() -> None:
    from dist_ai.text import Tokenize

    tokenize = Tokenize(min_freq=1)
    tokenize.setup(["I'M IN THE U.S.A., DON'T"])
    tokens = tokenize.tokens(tokenize("I'M IN THE U.S.A., DON'T"))
    assert tokens == [
        "xxbos",
        "xxup",
        "i",
        "'m",
        "xxup",
        "in",
        "xxup",
        "the",
        "xxup",
        "u.s.a.",
        ",",
        "xxup",
        "do",
        "n't",
    ]


def test_the_s_of_a_word_in_capitals_is_kept_by_byte_pairs_too() -> None:
    from dist_ai.text import Tokenize

    tokenize = Tokenize("bpe", min_freq=1, max_vocab=400)
    text = "NASA's isn't JOHN'S, DON'T"
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
