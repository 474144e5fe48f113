"""The example that users meet first: it is short, runs, and reaches its target."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from series import archive_set

EXAMPLE = Path(__file__).parents[2] / "examples" / "timeseries.py"


def test_the_example_is_short_and_tells_winter_from_summer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 30
    archive_set(tmp_path, "ItalyPowerDemand_TRAIN.ts", "ItalyPowerDemand_TEST.ts")
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("example_of_series", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert example.main(str(tmp_path)) >= 0.94
    assert (tmp_path / "model" / "model.json").exists()
