"""Labellers: from a file to its label."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from dist_ai.data import RegexLabeller, parent_label
from dist_ai.errors import BadSampleError, ConfigError


@pytest.mark.parametrize("item", ["data/train/cat/1.jpg", Path("data/train/cat/1.jpg"), "cat/1.jpg"])
def test_the_parent_folder_is_the_label(item: str | Path):
    assert parent_label(item) == "cat"


def test_the_group_of_a_pattern_is_the_label():
    pets = RegexLabeller(r"/([^/]+)_\d+.jpg$")
    assert pets("images/great_pyrenees_173.jpg") == "great_pyrenees"
    assert pets(Path("images/Abyssinian_1.jpg")) == "Abyssinian"
    assert RegexLabeller(r"(\w+)/", match=True)("cat/dog/1.jpg") == "cat"
    assert pickle.loads(pickle.dumps(pets)) == pets


def test_a_file_that_does_not_fit_is_named_with_the_pattern():
    message = r"'images/notes.txt' does not fit the pattern '/([^/]+)_\\d+.jpg$', so it has no label"
    with pytest.raises(BadSampleError, match=re.escape(message)):
        RegexLabeller(r"/([^/]+)_\d+.jpg$")("images/notes.txt")
    with pytest.raises(BadSampleError, match="does not fit"):
        RegexLabeller(r"(dog)", match=True)("cat/dog/1.jpg")


def test_a_pattern_that_cannot_give_a_label_is_refused():
    with pytest.raises(ConfigError, match="has no group: put the part that is the label in parentheses"):
        RegexLabeller(r"\w+_\d+")
    with pytest.raises(ConfigError, match="is no regular expression: missing"):
        RegexLabeller("(cat")
