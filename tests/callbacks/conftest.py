"""Fixtures of this folder's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import toy


@pytest.fixture(autouse=True)
def run_directories_are_given_back() -> Iterator[None]:
    yield
    toy.give_back_run_directories()
