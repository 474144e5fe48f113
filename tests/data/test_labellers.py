"""Labellers: from an item to its label."""

from __future__ import annotations

from pathlib import Path

from dist_ai.data import parent_label


def test_the_label_is_the_folder_that_a_file_lies_in():
    assert parent_label(Path("data/train/cat/1.jpg")) == "cat"
    assert parent_label("data/train/T-shirt & top/1.jpg") == "T-shirt & top"
    assert parent_label("1.jpg") == ""
