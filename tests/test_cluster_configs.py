"""Every cluster file is what the tool that reads it accepts: by Ray's own schema, and by KubeRay's documented fields."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from dist_ai.cli.main import main

FOLDER = Path(__file__).parents[1] / "cluster_configs"
FOR_RAY = sorted(FOLDER.glob("*-ray.yaml"))
FOR_KUBERAY = sorted(FOLDER.glob("kuberay-*.yaml"))


def test_there_is_a_file_for_every_kind_of_cluster() -> None:
    kinds = ("aws-ray", "azure-ray", "gcp-ray", "kuberay-cluster", "kuberay-job", "onprem-ray", "single-ray")
    assert sorted(path.stem for path in FOLDER.iterdir()) == list(kinds)


@pytest.mark.ray
@pytest.mark.parametrize("file", FOR_RAY, ids=lambda file: file.name)
def test_ray_accepts_the_file(file: Path) -> None:
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = yaml.safe_load(file.read_text())
    jsonschema.validate(config, schema)
    if config["provider"]["type"] == "local":
        assert len(config["provider"]["worker_ips"]) == config["max_workers"]
    else:
        assert config["head_node_type"] in config["available_node_types"]
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate({**config, "max_worker": 2}, schema)


def closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """A schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


# The fields that we use, as KubeRay's reference of ray.io/v1 has them (docs/reference/api.md there); its own definitions are
# part of the operator and not installed here.
TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
POD = closed({"spec": {"type": "object", "required": ["containers"]}}, {"metadata": {"type": "object"}})
PARAMETERS = {"type": "object", "additionalProperties": TEXT}
GROUP = {"rayStartParams": PARAMETERS, "template": POD}
CLUSTER = closed(
    {
        "headGroupSpec": closed(GROUP),
        "workerGroupSpecs": {
            "type": "array",
            "items": closed(
                {**GROUP, "groupName": TEXT, "replicas": NUMBER, "minReplicas": NUMBER, "maxReplicas": NUMBER}
            ),
        },
    },
    {"rayVersion": TEXT, "enableInTreeAutoscaling": FLAG},
)
MODES = {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]}
JOB = closed(
    {"entrypoint": TEXT, "rayClusterSpec": CLUSTER},
    {
        "submissionMode": MODES,
        "backoffLimit": NUMBER,
        "shutdownAfterJobFinishes": FLAG,
        "ttlSecondsAfterFinished": NUMBER,
        "runtimeEnvYAML": TEXT,
    },
)


@pytest.mark.parametrize("file", FOR_KUBERAY, ids=lambda file: file.name)
def test_kuberay_knows_the_fields(file: Path) -> None:
    config = yaml.safe_load(file.read_text())
    kind = {"kuberay-cluster": "RayCluster", "kuberay-job": "RayJob"}[file.stem]
    metadata = closed({"name": TEXT})
    spec = {"RayCluster": CLUSTER, "RayJob": JOB}[kind]
    schema = closed({"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": metadata, "spec": spec})
    jsonschema.validate(config, schema)
    cluster = config["spec"].get("rayClusterSpec", config["spec"])
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        for container in group["template"]["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["limits"].keys() == container["resources"]["requests"].keys()
    group = {**cluster["workerGroupSpecs"][0], "minReplica": 1}
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate({**cluster, "workerGroupSpecs": [group]}, CLUSTER)


@pytest.mark.parametrize("file", sorted(FOLDER.iterdir()), ids=lambda file: file.name)
def test_the_commands_in_a_file_are_ones_that_dist_ai_takes(
    file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"dist-ai launch train\.py ([^\n'`]*)", file.read_text())
    assert commands
    for options in commands:
        with pytest.raises(SystemExit):
            main(["launch", "train.py", *options.split()])
        assert "script 'train.py' does not exist" in capsys.readouterr().err  # all else is as it must be
