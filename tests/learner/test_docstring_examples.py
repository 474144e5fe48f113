"""The examples in the docstrings of the training layer run and give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

ROOMS = (
    "dist_ai.distributed.strategies",
    "dist_ai.distributed.coordination",
    "dist_ai.optimizer",
    "dist_ai.losses",
    "dist_ai.metrics",
    "dist_ai.layers",
    "dist_ai.callbacks",
    "dist_ai.learner",
)


def modules() -> list[str]:
    found = []
    for room in ROOMS:
        package = importlib.import_module(room)
        inside = pkgutil.iter_modules(package.__path__, room + ".") if hasattr(package, "__path__") else ()
        found += [room, *(module.name for module in inside)]
    return found


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_give_what_they_say(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), verbose=False)
    assert failed == 0


def test_the_rooms_have_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [
        example
        for name in modules()
        for test in finder.find(importlib.import_module(name))
        for example in test.examples
    ]
    assert len(examples) >= 15
