"""The files that start clusters are valid, and agree with pyproject.toml, with the code and with one another."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from ndsm.cli import TrainOptions, parse_with_preset
from pipelines.resources import SIMULATOR, TRAINER

ROOT = Path(__file__).parents[2]


def validated(config):
    """The cluster file with Ray's defaults filled in; raises if Ray would refuse it.

    Ray has no public check, so its private one is used here and nowhere else. It asks no cloud: instance
    types and image names are not checked.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    return prepared


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def test_ray_accepts_the_cluster_file(cluster):
    prepared = validated(cluster)
    assert set(prepared["available_node_types"]) == {"head", "simulator", "trainer"}


def test_ray_refuses_a_misspelt_key(cluster):
    cluster["available_node_types"]["simulator"]["max_worker"] = 3
    with pytest.raises(Exception, match="max_worker"):
        validated(cluster)


def test_head_offers_no_cpu_and_simulators_are_spot(cluster):
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    assert types["simulator"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in types["trainer"]["node_config"]


def test_image_and_setup_have_one_ray_that_the_project_accepts(cluster):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = next(r for r in map(Requirement, project["dependencies"]) if r.name == "ray")
    image = re.search(r"ray:([\d.]+)-py", cluster["docker"]["image"])
    installed = re.search(r'"(ray\[.*?)"', " ".join(cluster["setup_commands"]))
    assert image is not None
    assert installed is not None
    pinned = Requirement(installed.group(1))
    assert pinned.extras == required.extras
    assert str(pinned.specifier) == f"=={image.group(1)}"
    assert required.specifier.contains(image.group(1))


@pytest.fixture
def on_premise():
    return yaml.safe_load((ROOT / "deploy" / "cluster-on-premise.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def rayjob():
    return yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text(encoding="utf-8"))


def test_ray_accepts_the_cluster_file_for_own_machines(on_premise):
    machines = len(on_premise["provider"]["worker_ips"])
    (kind,) = validated(on_premise)["available_node_types"].values()
    assert (kind["min_workers"], kind["max_workers"]) == (machines, machines)


def test_the_ray_job_has_the_fields_that_kuberay_knows(rayjob):
    schema = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(rayjob)] == []
    rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    assert [error.message for error in validator.iter_errors(rayjob)] != []


def test_all_files_offer_the_resources_that_the_code_asks_for(cluster, on_premise, rayjob):
    def offered(text):
        return set(re.findall(r'\\?"(\w+)\\?": ?[\d$]', text))

    aws = [set(kind["resources"]) for kind in cluster["available_node_types"].values()]
    groups = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    kubernetes = {group["groupName"]: offered(group["rayStartParams"]["resources"]) for group in groups}
    assert aws == [{"CPU"}, {SIMULATOR}, {TRAINER}]
    assert kubernetes == {"simulator": {SIMULATOR}, "trainer": {TRAINER}}
    assert offered(" ".join(on_premise["worker_start_ray_commands"])) == {SIMULATOR, TRAINER}


def test_the_command_of_the_ray_job_parses_and_fits_its_groups(rayjob):
    words = shlex.split(rayjob["spec"]["entrypoint"])
    assert words[:2] == ["ndsm", "train"]
    options = parse_with_preset("train", TrainOptions, words[2:])
    groups = {g["groupName"]: g for g in rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    assert options.config.train.worker_range == (1, groups["trainer"]["maxReplicas"])
    mounted = groups["trainer"]["template"]["spec"]["containers"][0]["volumeMounts"][0]["mountPath"]
    assert str(options.out) == mounted
    assert options.config.train.simulators <= 8


def test_all_files_have_the_same_ray(cluster, on_premise, rayjob):
    image = re.search(r"ray:([\d.]+)-py", cluster["docker"]["image"])
    assert image is not None
    texts = [
        (ROOT / "deploy" / name).read_text(encoding="utf-8")
        for name in ("Dockerfile", "cluster-on-premise.yaml")
    ]
    texts.append((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    found = {version for text in texts for version in re.findall(r"(?:tune\]==|ray/ray:)([\d.]+\d)", text)}
    assert found | {rayjob["spec"]["rayClusterSpec"]["rayVersion"]} == {image.group(1)}


def test_no_cluster_starts_without_a_token(cluster, on_premise, rayjob):
    for config in (cluster, on_premise):
        assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert rayjob["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
