"""Every cluster file is what the tool that reads it accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

FILES = sorted((Path(__file__).parents[1] / "cluster_configs").glob("*-ray.yaml"))


@pytest.mark.ray
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_ray_accepts_the_file(file: Path) -> None:
    import jsonschema
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = yaml.safe_load(file.read_text())
    jsonschema.validate(config, schema)
    assert len(config["provider"]["worker_ips"]) == config["max_workers"]
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate({**config, "max_worker": 2}, schema)
