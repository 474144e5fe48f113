"""The examples in the docstrings of the top rooms run and give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

ROOMS = ("dist_ai.checkpoint", "dist_ai.export", "dist_ai.vision", "dist_ai.cli")
MODULES = [
    name
    for room in ROOMS
    for name in (
        room,
        *(each.name for each in pkgutil.iter_modules(importlib.import_module(room).__path__, f"{room}.")),
    )
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_say(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name), verbose=False).failed == 0


def test_there_are_examples() -> None:
    attempted = [doctest.testmod(importlib.import_module(name), verbose=False).attempted for name in MODULES]
    assert sum(attempted) >= 1
