"""The manifest for KubeRay says what KubeRay, Serve and we understand."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from antiphon import ConfigError
from antiphon.config import EngineConfig
from antiphon.engine.arguments import EngineArguments
from antiphon.scale import ScaleSettings, ServerSettings

MANIFEST = Path(__file__).parents[2] / "examples" / "kuberay" / "rayservice.yaml"
PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
SCHEMA = json.loads(Path(__file__).with_name("rayservice.schema.json").read_text())
GPU = "nvidia.com/gpu"


@pytest.fixture
def manifest() -> Any:
    return yaml.safe_load(MANIFEST.read_text())


def serve_config(manifest: Any) -> Any:
    return yaml.safe_load(manifest["spec"]["serveConfigV2"])


def test_it_is_valid(manifest: Any) -> None:
    jsonschema_rs.Draft202012Validator(SCHEMA).validate(manifest)


Cluster = dict[str, Any]
WRONG: dict[str, Callable[[Cluster], Any]] = {
    "a misspelt field": lambda c: c["workerGroupSpecs"][0].update(minReplica=1),
    "no template": lambda c: c["headGroupSpec"].pop("template"),
    "a number that is text": lambda c: c["workerGroupSpecs"][0].update(maxReplicas="4"),
    "a parameter that is no text": lambda c: c["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    "no quantity": lambda c: _container(c)["resources"]["limits"].update(memory="64 GB"),
    "a variable without a name": lambda c: _container(c)["env"].append({"value": "1"}),
    "a mount without a path": lambda c: _container(c)["volumeMounts"].append({"name": "models"}),
}


def _container(cluster: Cluster) -> Any:
    return cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_what_would_be_wrong_is_found(manifest: Any, change: Callable[[Cluster], Any]) -> None:
    wrong = copy.deepcopy(manifest)
    change(wrong["spec"]["rayClusterConfig"])
    assert not jsonschema_rs.Draft202012Validator(SCHEMA).is_valid(wrong)


@pytest.fixture(params=["manifest", "documentation"])
def config(request: pytest.FixtureRequest, manifest: Any) -> Any:
    """What Serve is given."""
    if request.param == "manifest":
        return serve_config(manifest)
    (shown,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return yaml.safe_load(shown)


def test_what_it_asks_of_us_exists(config: Any) -> None:
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))
    args = application["args"]
    ScaleSettings(**args["scale"])
    ServerSettings(**args["server"])
    settings = {name: value for name, value in args["engine"].items() if name in EngineConfig.__annotations__}
    EngineConfig(**settings)
    assert args["engine"].keys() <= EngineArguments.__annotations__.keys()


def test_every_replica_finds_a_pod_that_is_large_enough(manifest: Any) -> None:
    scale = serve_config(manifest)["applications"][0]["args"]["scale"]
    (workers,) = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    requests = container["resources"]["requests"]
    assert int(requests[GPU]) == scale["num_gpus"]
    assert int(requests["cpu"]) >= scale["num_cpus"]
    assert workers["maxReplicas"] == scale["max_replicas"]
    server = serve_config(manifest)["applications"][0]["args"]["server"]
    assert workers["template"]["spec"]["terminationGracePeriodSeconds"] > server["drain_timeout_s"]


def test_it_is_served_by_the_ray_that_we_ask_for(manifest: Any) -> None:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (wanted,) = [r for r in project["project"]["optional-dependencies"]["ray"] if r.startswith("ray")]
    version = manifest["spec"]["rayClusterConfig"]["rayVersion"]
    lowest, below = (
        tuple(map(int, limit.strip("<>=").split(".")))
        for limit in wanted.removeprefix("ray[serve]").split(",")
    )
    assert lowest <= tuple(map(int, version.split(".")[:2])) < below


def test_nothing_is_reported_and_no_key_is_written_down(manifest: Any) -> None:
    cluster = manifest["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        env = {each["name"]: each for each in container["env"]}
        assert env["RAY_USAGE_STATS_ENABLED"]["value"] == "0"
        assert env["RAY_AUTH_MODE"]["value"] == "token"
        for name in ("RAY_AUTH_TOKEN", "ANTIPHON_API_KEY"):
            assert "value" not in env[name]
            assert env[name]["valueFrom"]["secretKeyRef"]["name"] == "antiphon"


def test_serve_understands_its_part(config: Any) -> None:
    schema = pytest.importorskip("ray.serve.schema")
    parsed = schema.ServeDeploySchema.model_validate(config)
    assert parsed.applications[0].import_path == "antiphon.scale:application"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modell": "x"}, "args: expected model, scale, server and engine, got 'modell'"),
        ({"scale": 2}, "args: scale: expected fields and their values, got 2"),
        ({"scale": {"replicas": 2}}, "args: .*replicas"),
        ({"server": {"prot": 1}}, "args: .*prot"),
        ({"scale": {"num_replicas": 0}}, "num_replicas: expected at least 1"),
    ],
)
def test_wrong_arguments_of_an_application_are_named(arguments: dict[str, Any], message: str) -> None:
    from antiphon.scale import application

    with pytest.raises(ConfigError, match=message):
        application(arguments)
