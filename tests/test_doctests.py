"""The examples in the docstrings run and give what they say."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import dist_ai

ROOT = Path(dist_ai.__file__).parent
FILES = [file for file in sorted(ROOT.rglob("*.py")) if ">>>" in file.read_text()]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def examples(file: Path) -> Iterator[doctest.DocTest]:
    """The examples of every docstring in a file: in its source, because doctest's own search misses what is decorated."""
    names = {**vars(importlib.import_module(module_name(file))), "torch": torch}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            line = node.body[0].lineno
            yield doctest.DocTestParser().get_doctest(
                text, dict(names), getattr(node, "name", "module"), str(file), line
            )


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_every_example_runs_and_gives_what_it_says(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Examples that write do so in an empty folder; the sample data is unpacked once for all of them.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIST_AI_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for example in examples(file):
        runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)
    assert runner.tries > 0


def test_there_are_examples_in_the_rooms_that_users_meet_first() -> None:
    rooms = {module_name(file).split(".")[1] for file in FILES}
    assert rooms >= {"core", "data", "distributed", "errors", "losses", "metrics", "optimizer", "vision"}
