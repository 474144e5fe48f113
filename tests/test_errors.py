"""The exception tree: drawn in its docstring, and caught by what a caller would expect to catch."""

from __future__ import annotations

import pickle
import re

import pytest

from dist_ai import errors
from dist_ai.errors import DistAIError, WorkerError, did_you_mean


def drawn_tree() -> dict[str, tuple[str, str | None]]:
    """Returns each drawn class with its drawn base and, in brackets behind it, the built-in it also is."""
    assert errors.__doc__ is not None
    drawing = errors.__doc__.split("```")[1].strip().splitlines()
    path: list[str] = []
    tree: dict[str, tuple[str, str | None]] = {}
    for line in drawing:
        match = re.fullmatch(r"([│ ├└─]*)(\w+)(?: \((\w+)\))?(?:  .*)?", line)
        assert match, line
        depth = len(match[1]) // 4
        path = [*path[:depth], match[2]]
        tree[match[2]] = (path[depth - 1] if depth else "Exception", match[3])
    return tree


def test_the_drawing_is_the_tree():
    classes = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    drawn = drawn_tree()
    assert drawn.keys() == classes
    for name, (base, builtin) in drawn.items():
        bases = [each.__name__ for each in getattr(errors, name).__bases__]
        assert bases == [base, *([builtin] if builtin else [])], name


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_an_error_comes_out_of_another_process_as_it_was(name: str):
    error = getattr(errors, name)("what, and how to fix it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert isinstance(again, DistAIError)
    assert str(again) == "what, and how to fix it"


def test_a_worker_error_keeps_its_facts():
    error = WorkerError("rank 1 failed", rank=1, exit_code=-9, worker_traceback="Traceback")
    again = pickle.loads(pickle.dumps(error))
    assert (again.rank, again.exit_code, again.worker_traceback) == (1, -9, "Traceback")
    assert (WorkerError("x").rank, WorkerError("x").exit_code) == (None, 1)


def test_the_nearest_choice_is_suggested_and_a_far_one_is_not():
    assert did_you_mean("before_bacth", ["after_batch", "before_batch"]) == "; did you mean 'before_batch'?"
    assert did_you_mean("xyz", ["before_batch"]) == ""
    assert did_you_mean("since", ["income", "age"]) == ""  # half of its letters
    assert did_you_mean("27", ["2", "7"]) == ""
    assert did_you_mean("tian", ["valid", "train"]) == "; did you mean 'train'?"
    assert did_you_mean("valid_percent", ["valid_idx", "valid_pct"]) == "; did you mean 'valid_pct'?"
    assert did_you_mean("a", []) == ""
    assert did_you_mean("resnet81", (name for name in ["resnet18"])) == "; did you mean 'resnet18'?"
