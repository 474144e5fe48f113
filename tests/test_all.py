"""`from dist_ai.vision.all import *`: what a notebook begins with."""

from __future__ import annotations

import importlib

import pytest

ROOMS = ["callbacks", "core", "data", "export", "layers", "learner", "losses", "metrics", "optimizer"]


@pytest.mark.parametrize("app", ["vision", "text", "tabular", "timeseries", "collab"])
def test_one_line_has_all_names_of_an_application_and_below_and_no_name_means_two_things(app: str) -> None:
    names: dict[str, object] = {}
    exec(f"from dist_ai.{app}.all import *", names)
    for room in (*ROOMS, app):
        module = importlib.import_module(f"dist_ai.{room}")
        for name in module.__all__:
            assert names[name] is getattr(module, name), f"{name} of {room} is hidden by another"
